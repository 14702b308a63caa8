//! Notices what changes in the plugins folder and the configuration while the host runs.
//!
//! A file that was closed after writing, or moved into its place, is looked at at once; one that is
//! still being written when it comes to rest. What can be used is offered at once; a refusal is only
//! told when nothing has changed for a while, since a copy may still be under way.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use notify::{
    Event, EventKind, PollWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Refusal, Reload, folder::plugin_name, loader::Loader};
use crate::config::Watch;

/// Nothing has changed for so long: whoever was writing is done.
const SETTLED: Duration = Duration::from_millis(200);

/// So long without a write: a file that was never closed is looked at as it is.
const UNCLOSED: Duration = Duration::from_secs(2);

/// How often to look where nobody tells.
const POLL: Duration = Duration::from_secs(2);

/// A folder that has gone is looked for this often.
const LOOK_FOR_FOLDER: Duration = Duration::from_millis(500);

/// What an event says of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// Nothing that matters.
    Nothing,
    /// It is being written.
    Changing,
    /// It is as it is meant to be, for all we know.
    Done,
}

/// Loads again whenever something changes, until whoever listens is gone.
///
/// # Errors
/// When the system gives no thread.
pub fn watch(loader: Loader, how: Watch) -> Result<watch::Receiver<Reload>> {
    let reload = Reload { generation: loader.newest().clone(), refusal: None, needs_restart: Vec::new() };
    let (offers, receiver) = watch::channel(reload);
    let watcher = Watching::start(loader, offers, how);
    if how != Watch::Off {
        thread::Builder::new()
            .name("loader".into())
            .spawn(move || watcher.run())
            .context("failed to start the thread that loads plugins")?;
    }
    Ok(receiver)
}

struct Watching {
    loader: Loader,
    offers: watch::Sender<Reload>,
    events: mpsc::Receiver<notify::Result<Event>>,
    watcher: Option<Box<dyn Watcher + Send>>,
    /// Folders, and whether each is watched.
    folders: Vec<(PathBuf, bool)>,
    /// When to look again, and whether a refusal is final then.
    look_at: Option<(Instant, bool)>,
    /// What was last refused, so that it is told once.
    refused: Option<String>,
    /// Plugins that no detector uses, and of which that was told.
    unused: Vec<String>,
}

impl Watching {
    fn start(loader: Loader, offers: watch::Sender<Reload>, how: Watch) -> Self {
        let (sender, events) = mpsc::channel();
        let mut folders = vec![folder_of(loader.config_file()), loader.plugins_dir()];
        folders.dedup();
        let folders = folders.into_iter().map(|folder| (folder, false)).collect();
        let mut watching =
            Self { loader, offers, events, watcher: None, folders, look_at: None, refused: None, unused: Vec::new() };
        if how == Watch::Auto {
            let native = notify::recommended_watcher(sender.clone());
            let watched =
                native.map(|native| watching.watch_with(Box::new(native))).and_then(|()| watching.watch_all());
            if let Err(error) = watched {
                warn!(%error, "the system does not tell of changed files; looking every {} s instead", POLL.as_secs());
                watching.watcher = None;
            }
        }
        if how != Watch::Off && watching.watcher.is_none() {
            let poll = PollWatcher::new(sender, notify::Config::default().with_poll_interval(POLL));
            let watched = poll.map(|poll| watching.watch_with(Box::new(poll))).and_then(|()| watching.watch_all());
            if let Err(error) = watched {
                warn!(%error, "changed files are not noticed; restart to take them up");
            }
        }
        watching
    }

    fn watch_with(&mut self, watcher: Box<dyn Watcher + Send>) {
        self.watcher = Some(watcher);
        self.folders.iter_mut().for_each(|(_, watched)| *watched = false);
    }

    fn watch_all(&mut self) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        for (folder, watched) in self.folders.iter_mut().filter(|(_, watched)| !watched) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            *watched = true;
        }
        Ok(())
    }

    fn run(mut self) {
        loop {
            let lost = self.folders.iter().any(|(_, watched)| !watched);
            let wait = match self.look_at {
                Some((at, _)) => at.saturating_duration_since(Instant::now()),
                None if lost => LOOK_FOR_FOLDER,
                // Only to find out whether anybody listens.
                None => Duration::from_secs(60),
            };
            match self.events.recv_timeout(wait) {
                Ok(Ok(event)) => self.take(&event),
                Ok(Err(error)) => {
                    warn!(%error, "changes of files may have been missed; looking at all of them");
                    self.look(false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if lost && self.watch_all().is_ok() {
                        self.look(false);
                    } else if let Some((_, last)) = self.look_at.filter(|(at, _)| *at <= Instant::now()) {
                        self.look(last);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.offers.is_closed() {
                return;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
            for (folder, watched) in &mut self.folders {
                *watched &= !event.paths.contains(folder);
            }
        }
        if !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        match says(event.kind) {
            Says::Nothing => {}
            Says::Changing => self.look_at = Some((Instant::now() + UNCLOSED, true)),
            Says::Done => {
                self.look(false);
                self.tell_unused(&event.paths);
            }
        }
    }

    fn matters(&self, path: &Path) -> bool {
        // Kubernetes exchanges the link `..data`, and with it every file.
        plugin_name(path).is_some()
            || path.file_name() == self.loader.config_file().file_name()
            || path.file_name() == Some(OsStr::new("..data"))
    }

    /// `last`: nothing has changed for so long that what is wrong now stays wrong.
    fn look(&mut self, last: bool) {
        self.look_at = None;
        let refusal = match self.loader.reload() {
            Ok(changed) => {
                if changed {
                    info!(
                        generation = self.loader.newest().number,
                        "something has changed; it is taken up with the next batch"
                    );
                }
                if self.refused.take().is_some() && !changed {
                    info!("what was refused is mended");
                }
                let before = self.offers.borrow().refusal.clone();
                before.map(|refusal| Refusal { standing: false, ..refusal })
            }
            Err(_) if !last => {
                self.look_at = Some((Instant::now() + SETTLED, true));
                return;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.refused.as_ref() == Some(&reason) {
                    return;
                }
                warn!(generation = self.loader.newest().number, "refused, what is in force goes on: {reason}");
                self.refused = Some(reason.clone());
                let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
                Some(Refusal { at_ms, reason, standing: true })
            }
        };
        let generation = self.loader.newest().clone();
        let needs_restart = self.loader.needs_restart().to_vec();
        self.offers.send_if_modified(|offer| {
            let next = Reload { generation, refusal, needs_restart };
            let same = Arc::ptr_eq(&offer.generation, &next.generation)
                && offer.refusal == next.refusal
                && offer.needs_restart == next.needs_restart;
            *offer = next;
            !same
        });
    }

    fn tell_unused(&mut self, paths: &[PathBuf]) {
        for name in paths.iter().filter_map(|path| plugin_name(path)) {
            let exists = self.loader.plugins_dir().join(format!("{name}.wasm")).exists();
            if exists && !self.loader.uses(name) && !self.unused.iter().any(|known| known == name) {
                info!(
                    "plugins/{name}.wasm is used by no detector: add [detectors.{name}] with plugin = \"{name}\" to the configuration"
                );
                self.unused.push(name.to_owned());
            }
        }
    }
}

fn says(kind: EventKind) -> Says {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Remove(_) => Says::Done,
        EventKind::Modify(ModifyKind::Name(_)) => Says::Done,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(notify::event::MetadataKind::AccessTime)) => {
            Says::Nothing
        }
        // A polled change was written at least one interval ago, or is looked at again.
        EventKind::Modify(ModifyKind::Metadata(notify::event::MetadataKind::WriteTime)) => Says::Done,
        _ => Says::Changing,
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
