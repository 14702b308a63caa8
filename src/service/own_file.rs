//! Opens the files that a host owns: its log and its pid file.
//!
//! What holds: a file is opened in the folder that was checked, and a link in its place is not followed. Where other users
//! may have put the file there, its owner and its number of names count. So another user of this machine can neither make a
//! host write into a file of the host's user, nor make it trust a pid file.
//!
//! A folder may be reached by a link: who may replace that link could also replace the folder. The folder may belong to
//! another user, as a mounted one does in a container, and others may write to it: that alone harms nothing.

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
    let trust = FolderTrust::of(&opened.metadata()?);
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
    check_file(&file.metadata()?, trust, used)?;
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

/// Whether a folder is such that any user of this machine may replace files of others in it.
pub(crate) fn lets_all_replace_files(mode: u32) -> bool {
    mode & OTHERS_WRITE != 0 && mode & STICKY == 0
}

/// Who may have put files into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FolderTrust {
    /// This user, the superuser, or whom they have let in.
    Ours,
    /// Others as well. The folder has this owner.
    Shared { owner: u32 },
}

impl FolderTrust {
    fn of(folder: &Metadata) -> Self {
        let owner = folder.uid();
        if is_trusted(owner) && folder.mode() & OTHERS_WRITE == 0 { Self::Ours } else { Self::Shared { owner } }
    }

    /// Whether a file of this owner may be used as `used` says.
    fn accepts(self, file_owner: u32, used: OwnFileUse) -> bool {
        match self {
            Self::Ours => true,
            Self::Shared { owner } => {
                // To append to a file of the folder's owner harms nobody else. What a pid file says is acted upon, and
                // only the superuser may stop the host of another user.
                let is_safe = used == OwnFileUse::Append || geteuid().is_root();
                is_trusted(file_owner) || (is_safe && file_owner == owner)
            }
        }
    }
}

fn check_file(metadata: &Metadata, trust: FolderTrust, used: OwnFileUse) -> io::Result<()> {
    if !is_file_or_device(metadata.file_type()) {
        return Err(io::Error::other(NOT_A_FILE));
    }
    // A second name may be one that another user has given to a file of this user.
    let has_one_name = trust == FolderTrust::Ours || metadata.nlink() == 1;
    if !trust.accepts(metadata.uid(), used) || !has_one_name {
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

    /// Hosts with a log in such a folder did not start any more: a mounted one of another user in a container, one that a
    /// deployment's group writes to, one that Kubernetes opens to all.
    #[test]
    fn in_a_shared_folder_the_file_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        let set = |mode: u32| fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        for mode in [0o777, 0o1777] {
            set(mode);
            drop(open_own(&path, OwnFileUse::Append).unwrap());
            // A second name, as another user may give a file in such a folder.
            let other = dir.path().join("other");
            fs::hard_link(&path, &other).unwrap();
            assert!(error(&path, OwnFileUse::Append).contains("another user"), "{mode:o}");
            fs::remove_file(other).unwrap();
        }
        for mode in [0o775, 0o2775] {
            set(mode);
            fs::hard_link(&path, dir.path().join(format!("{mode:o}"))).unwrap();
            open_own(&path, OwnFileUse::Append).unwrap();
        }
    }

    #[test]
    fn in_the_folder_of_another_user_only_files_that_harm_nobody_are_used() {
        const DEPLOYER: u32 = 4711;
        const STRANGER: u32 = 4712;
        let trust = FolderTrust::Shared { owner: DEPLOYER };
        for used in ALL {
            assert!(trust.accepts(geteuid().as_raw(), used) && trust.accepts(0, used), "{used:?}");
            assert!(!trust.accepts(STRANGER, used), "{used:?}");
            let may_stop_hosts_of_others = geteuid().is_root();
            assert_eq!(
                trust.accepts(DEPLOYER, used),
                used == OwnFileUse::Append || may_stop_hosts_of_others,
                "{used:?}"
            );
        }
    }

    /// Only the superuser can give files away.
    #[test]
    fn a_folder_of_another_user_is_used_and_a_file_of_a_third_one_is_not() {
        const DEPLOYER: u32 = 4711;
        const STRANGER: u32 = 4712;
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it.log");
        std::os::unix::fs::chown(dir.path(), Some(DEPLOYER), None).unwrap();
        for owner in [0, DEPLOYER] {
            drop(open_own(&path, OwnFileUse::Append).unwrap());
            std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
            for used in ALL {
                open_own(&path, used).unwrap();
            }
        }
        std::os::unix::fs::chown(&path, Some(STRANGER), None).unwrap();
        for used in ALL {
            assert!(error(&path, used).contains("another user may have put it there"), "{used:?}");
        }
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
