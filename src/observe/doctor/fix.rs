//! What `--fix` does: the few things that are harmless or can be undone, whichever other programs are running.
//!
//! Folders are created, but never removed, and their permissions never change. The one exception is the folder of
//! compiled plugins, which any host can create again. A group is created where a host would create it. A consumer is
//! removed in the same step that checks that nothing is pending under its name, and its program can create it again.
//! Settings of the whole server (`CONFIG SET`), changes to entries (acknowledge, claim, trim), and the user's
//! configuration are only reported, and left to the user.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use tickhound_core::config::{LoadedConfig, Start};
use tickhound_engine::plugin::code::COMPILED_FOLDER as COMPILED;
use tickhound_redis::{RedisStream, remove_if_empty};

/// A change that `--fix` makes without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Create this folder.
    Folder(PathBuf),
    /// Delete the contents of this folder of compiled plugins, and let no other user write to it.
    PrivateCache(PathBuf),
    /// Delete these compiled plugins.
    StaleFiles(Vec<PathBuf>),
    /// Create the group.
    Group,
    /// Remove this consumer from the group.
    Consumer(String),
}

impl Remedy {
    /// Says what it would do, as the end of a sentence that begins with the command.
    pub(super) fn description(&self) -> String {
        match self {
            Self::Folder(dir) => format!("creates the folder {}", dir.display()),
            Self::PrivateCache(dir) => format!("deletes the contents of {} and sets its mode to 700", dir.display()),
            Self::StaleFiles(files) => format!("deletes these {} files", files.len()),
            Self::Group => "creates the group there".to_owned(),
            Self::Consumer(name) => format!("removes the consumer {name} if no entries are pending under it"),
        }
    }

    /// Makes the change, and says what was done.
    pub(super) async fn apply(&self, loaded: &LoadedConfig) -> Result<String> {
        let config = &loaded.config;
        match self {
            Self::Folder(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
                Ok(format!("created the folder {}", dir.display()))
            }
            Self::PrivateCache(dir) => {
                clear(dir)?;
                Ok(format!("deleted the contents of {} and set its mode to 700", dir.display()))
            }
            Self::StaleFiles(files) => {
                let removed = files.iter().filter(|file| fs::remove_file(file).is_ok()).count();
                Ok(format!("deleted {removed} files"))
            }
            Self::Group => {
                let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?;
                let begins = match stream.create_group().await? {
                    None => return Ok("another program has created the group in the meantime".to_owned()),
                    Some(Start::Earliest) => "with the oldest entry".to_owned(),
                    Some(Start::Latest) => "with the next entry".to_owned(),
                    Some(Start::After(id)) => format!("after entry {id}"),
                };
                Ok(format!("created the group {}, which begins {begins}", config.stream.group))
            }
            Self::Consumer(name) => {
                let removed = remove_if_empty(&config.stream, name).await?;
                ensure!(removed, "the consumer {name} is active again or has pending entries, so it was not removed");
                Ok(format!("removed the consumer {name} from the group"))
            }
        }
    }
}

/// Closes the folder, then deletes the compiled plugins in it. In the other order, another user could add a file
/// between the two steps.
fn clear(dir: &Path) -> Result<()> {
    let failed = || format!("can't change {}", dir.display());
    fs::set_permissions(dir, Permissions::from_mode(0o700)).with_context(failed)?;
    match fs::remove_dir_all(dir.join(COMPILED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(failed),
        _ => Ok(()),
    }
}

/// Whether a folder holds nothing but compiled plugins, so that it can be cleared: `plugins.cache` may name a folder
/// that is used for other things too.
pub(super) fn holds_only_compiled(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let real = dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    real && entries.flatten().all(|entry| entry.file_name() == COMPILED)
}
