//! Replaces a file in one step, without following a link that another user of the folder has made.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
};

/// The mode of a new file until it has that of its model: nobody else may read what is written before.
const OWN_FILE: u32 = 0o600;

/// Writes a file beside `file` under a name that nothing has, and renames it. It gets these `permissions`, if any are given.
///
/// # Errors
/// Fails when the folder can't be written to. The file is then as it was.
pub(crate) fn replace(file: &Path, contents: &[u8], permissions: Option<Permissions>) -> io::Result<()> {
    write_and_rename(file, &mut OpenOptions::new(), |new| {
        new.write_all(contents)?;
        permissions.map_or(Ok(()), |permissions| new.set_permissions(permissions))
    })
}

/// Like [`replace`], but the new file has the permissions, the owner and the group of the file `model`.
///
/// # Errors
/// Also fails when this user may not give a file to that owner or group.
pub(crate) fn replace_same_owner(file: &Path, contents: &[u8], model: &Path) -> io::Result<()> {
    let model = fs::metadata(model)?;
    write_and_rename(file, OpenOptions::new().mode(OWN_FILE), |new| {
        let own = new.metadata()?;
        if (own.uid(), own.gid()) != (model.uid(), model.gid()) {
            fchown(&*new, Some(model.uid()), Some(model.gid()))?;
        }
        new.set_permissions(model.permissions())?;
        new.write_all(contents)
    })
}

fn write_and_rename(
    file: &Path,
    options: &mut OpenOptions,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = file.with_added_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let written = (|| {
        let mut new = options.write(true).create_new(true).open(&temporary)?;
        write(&mut new)?;
        new.sync_all()?;
        fs::rename(&temporary, file)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
