//! What `--fix` does: the few things that are harmless, or can be undone, whoever else is at work.
//!
//! Folders are made, never removed or changed in their rights, but for the one of compiled plugins, which any host
//! makes anew. A group is made where a host would make it. A consumer's name is removed in the same step that finds
//! nothing pending under it, and comes back by itself if its program lives. What is server-wide (`CONFIG SET`), what
//! touches entries (acknowledge, claim, trim), and the user's configuration are told, and left to the user.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use tickhound_core::config::{LoadedConfig, Start};
use tickhound_engine::plugin::code::FOLDER as COMPILED;
use tickhound_redis::{RedisStream, remove_if_empty};

/// Something that can be done without asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Make it.
    Folder(PathBuf),
    /// Throw away what lies in the folder of compiled plugins, and let nobody else write there.
    PrivateCache(PathBuf),
    /// Remove these compiled plugins.
    Stale(Vec<PathBuf>),
    /// Make the group.
    Group,
    /// Remove this name from it.
    Consumer(String),
}

impl Remedy {
    /// What it would do.
    pub(super) fn says(&self) -> String {
        match self {
            Self::Folder(dir) => format!("makes the folder {}", dir.display()),
            Self::PrivateCache(dir) => format!("removes what is in {} and gives it mode 700", dir.display()),
            Self::Stale(files) => format!("removes these {} files", files.len()),
            Self::Group => "makes it there".to_owned(),
            Self::Consumer(name) => format!("removes the name {name}, if still nothing is pending under it"),
        }
    }

    /// Does it; says what was done.
    pub(super) async fn apply(&self, loaded: &LoadedConfig) -> Result<String> {
        let config = &loaded.config;
        match self {
            Self::Folder(dir) => {
                fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
                Ok(format!("made the folder {}", dir.display()))
            }
            Self::PrivateCache(dir) => {
                clear(dir)?;
                Ok(format!("removed what was in {} and gave it mode 700", dir.display()))
            }
            Self::Stale(files) => {
                let removed = files.iter().filter(|file| fs::remove_file(file).is_ok()).count();
                Ok(format!("removed {removed} files"))
            }
            Self::Group => {
                let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?;
                let begins = match stream.make_group().await? {
                    None => return Ok("somebody has made the group meanwhile".to_owned()),
                    Some(Start::Earliest) => "with the oldest entry".to_owned(),
                    Some(Start::Latest) => "with what comes from now on".to_owned(),
                    Some(Start::After(id)) => format!("after {id}"),
                };
                Ok(format!("made the group {}, which begins {begins}", config.stream.group))
            }
            Self::Consumer(name) => match remove_if_empty(&config.stream, name).await? {
                true => Ok(format!("removed the name {name} from the group")),
                false => bail!("{name} has been at work, or holds entries, meanwhile"),
            },
        }
    }
}

/// Closes the folder first: what is put there between the two steps would stay. Only what a host keeps there goes.
fn clear(dir: &Path) -> Result<()> {
    let failed = || format!("can't change {}", dir.display());
    fs::set_permissions(dir, Permissions::from_mode(0o700)).with_context(failed)?;
    match fs::remove_dir_all(dir.join(COMPILED)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(failed),
        _ => Ok(()),
    }
}

/// Whether a folder holds compiled plugins and nothing else, so that it can be cleared: somebody may have named
/// one that is used for other things too.
pub(super) fn holds_only_compiled(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let real = dir.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    real && entries.flatten().all(|entry| entry.file_name() == COMPILED)
}
