//! Opens the files that a host owns: its log and its pid file.
//!
//! What holds: a file is opened in the folder that was checked, and a link in its place is not followed. So another user of
//! this machine can neither make a host write into a file of the host's user, nor make it trust a pid file.
//!
//! A folder may be reached by a link: who may replace that link could also replace the folder.

use std::{
    fs::{DirBuilder, File, FileType, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open, openat},
    io::Errno,
    process::geteuid,
};

/// The permission of all users to write.
const OTHERS_WRITE: u32 = 0o002;
/// In such a folder only the owner of a file may rename or delete it.
const STICKY: u32 = 0o1000;
/// What a new file may be, less what the umask takes away.
const NEW_FILE: u32 = 0o666;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnFileUse {
    /// To append to it; it is created if it does not exist.
    Append,
    /// To read and replace its content; it is created if it does not exist.
    Replace,
    /// To read it.
    Read,
}

/// Opens a file of the host without following a link.
///
/// # Errors
/// A sentence that says what is wrong with the folder or the file, and what to do; or the error of the system.
pub(crate) fn open_own(path: &Path, used: OwnFileUse) -> io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let opened = open(folder, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let opened = File::from(opened);
    let trust = check_folder(folder, &opened.metadata()?, used)?;
    let flags = match used {
        OwnFileUse::Append => OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE,
        OwnFileUse::Replace => OFlags::RDWR | OFlags::CREATE,
        OwnFileUse::Read => OFlags::RDONLY,
    };
    // Without NONBLOCK, a named pipe would block until it has a reader.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat(&opened, name, flags, Mode::from_raw_mode(NEW_FILE)) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => {
            return Err(io::Error::other(
                "it is a link, which is not followed; name the file itself, or remove the link",
            ));
        }
        Err(Errno::NXIO) => return Err(io::Error::other(NOT_A_FILE)),
        Err(error) => return Err(error.into()),
    };
    check_file(&file.metadata()?, trust)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

const NOT_A_FILE: &str = "it is not a file; remove it, or name another one";

/// Creates the folder of a file of the host, if it is missing. Whatever the umask is, others can't write to it.
///
/// # Errors
/// The error of the system.
pub(crate) fn create_folder_of(path: &Path) -> io::Result<()> {
    const NEW_FOLDER: u32 = 0o755;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(NEW_FOLDER).create(folder))
}

/// Who may have put files into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderTrust {
    /// This user, the superuser, or whom they have let in.
    Ours,
    /// Anyone, but nobody can replace the file of another user.
    Shared,
}

fn check_folder(folder: &Path, metadata: &Metadata, used: OwnFileUse) -> io::Result<FolderTrust> {
    let (mode, owner) = (metadata.mode(), metadata.uid());
    let folder = folder.display();
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        let text = format!("any user of this machine may replace files in {folder}; run chmod o-w {folder}");
        return Err(io::Error::other(text));
    }
    // The superuser may stop the host of any user.
    let is_read_by_superuser = used == OwnFileUse::Read && geteuid().is_root();
    if !is_trusted(owner) && !is_read_by_superuser {
        let text = format!(
            "{folder} belongs to another user ({owner}), who could put a link there; chown it to the user of the host, or \
             name a file in another folder"
        );
        return Err(io::Error::other(text));
    }
    Ok(if mode & OTHERS_WRITE == 0 { FolderTrust::Ours } else { FolderTrust::Shared })
}

fn check_file(metadata: &Metadata, trust: FolderTrust) -> io::Result<()> {
    if !is_file_or_device(metadata.file_type()) {
        return Err(io::Error::other(NOT_A_FILE));
    }
    let owner = metadata.uid();
    if trust == FolderTrust::Shared && (!is_trusted(owner) || metadata.nlink() != 1) {
        let text =
            "another user may have put it there; remove it, or name a file in a folder that others can't write to";
        return Err(io::Error::other(text));
    }
    Ok(())
}

fn is_file_or_device(kind: FileType) -> bool {
    kind.is_file() || kind.is_char_device()
}

/// Whether files of this user are safe to use: the superuser could do anything anyway.
pub(crate) fn is_trusted(owner: u32) -> bool {
    owner == geteuid().as_raw() || owner == 0
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    const ALL: [OwnFileUse; 3] = [OwnFileUse::Append, OwnFileUse::Replace, OwnFileUse::Read];

    fn error(path: &Path, used: OwnFileUse) -> String {
        open_own(path, used).unwrap_err().to_string()
    }

    /// A link in `logs/` made the host append its log to any file of its user.
    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("it.log"));
        fs::write(&target, "precious").unwrap();
        for target in [&target, &dir.path().join("missing")] {
            symlink(target, &link).unwrap();
            for used in ALL {
                assert!(error(&link, used).contains("it is a link"));
            }
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(target).unwrap(), "precious");
        assert!(!dir.path().join("missing").exists());
    }

    #[test]
    fn a_folder_that_anyone_may_write_to_is_rejected_unless_it_is_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let set = |mode: u32| fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        set(0o777);
        assert!(error(&path, OwnFileUse::Append).contains("chmod o-w"));
        set(0o1777);
        drop(open_own(&path, OwnFileUse::Append).unwrap());
        // A second name, as another user may give a file in such a folder.
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(error(&path, OwnFileUse::Append).contains("another user"));
        set(0o775);
        open_own(&path, OwnFileUse::Append).unwrap();
    }

    #[test]
    fn a_pipe_is_not_opened_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(status.success());
        for used in ALL {
            assert!(error(&path, used).contains("it is not a file"), "{used:?}");
        }
        open_own(Path::new("/dev/null"), OwnFileUse::Append).unwrap();
    }
}
