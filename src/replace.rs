//! Replaces a file in one step, without following a link that another user of the folder has made.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    path::Path,
};

/// Writes a file beside `file` under a name that nothing has, and renames it. It gets these `permissions`, if any are given.
///
/// # Errors
/// Fails when the folder can't be written to. The file is then as it was.
pub(crate) fn replace(file: &Path, contents: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    let temporary = file.with_added_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let write = || {
        let mut new = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        new.write_all(contents)?;
        if let Some(permissions) = permissions {
            new.set_permissions(permissions)?;
        }
        new.sync_all()?;
        fs::rename(&temporary, file)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
