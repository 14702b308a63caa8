//! Reads files that strangers may have put there.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Result, anyhow, ensure};

/// Reads a whole file that has at most `bytes_max` bytes. Neither a pipe nor a device makes this wait.
///
/// # Errors
/// Names the file and the problem.
pub fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let describe = |error: io::Error| anyhow!("can't read {}: {error}", path.display());
    let mut options = OpenOptions::new();
    // Opening a pipe waits for its writer otherwise.
    options.read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path).map_err(describe)?;
    let before = file.metadata().map_err(describe)?;
    ensure!(before.is_file(), "{} is not a file", path.display());
    ensure!(
        before.len() <= bytes_max,
        "{} has {} bytes; {bytes_max} are allowed{}",
        path.display(),
        before.len(),
        if bytes_max >= 1 << 20 { " (plugins.file_max_mib)" } else { "" }
    );
    let bytes = read_at_most(&file, before.len()).map_err(describe)?;
    let after = file.metadata().map_err(describe)?;
    let is_unchanged = before.len() == after.len() && before.modified().ok() == after.modified().ok();
    ensure!(is_unchanged && bytes.len() as u64 == after.len(), "{} changed while it was being read", path.display());
    Ok(bytes)
}

/// Reads a byte more than `length` at most, which shows that a file has grown.
fn read_at_most(file: &File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
