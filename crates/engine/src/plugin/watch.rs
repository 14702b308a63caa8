//! Notices what changes in the plugins folder and the configuration while the host runs.
//!
//! Folders are watched, not files, so that a file which is replaced is still seen. The system's events
//! make it quick; a look at sizes and times every second makes it certain: it sees what links lead to,
//! what a network mount does not tell, a folder that was replaced, and what was lost when too many
//! events came at once. (notify's own polling goes by whole seconds and only forwards: it misses an
//! older file that is moved back.)
//!
//! A file that was closed after writing, or moved into its place, is looked at at once; one that is
//! still being written when it comes to rest. What can be used is offered at once; a refusal is only
//! told when nothing has changed for a while, since a copy may still be under way.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};
use tracing::{info, warn};

use super::{Reload, folder::plugin_name, loader::Loader};
use tickhound_core::{config::Watch, receipt::RejectedChange, wall::now_ms};

/// Between two looks at sizes and times.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Nothing has changed for so long: whoever was writing is done.
const SETTLED: Duration = Duration::from_millis(200);

/// So long without a write: a file that was never closed is looked at as it is. Also where no events
/// tell, since writes are then only seen every second.
const UNCLOSED: Duration = Duration::from_secs(2);

/// Events that wait; beyond that the system's own queue holds them.
const EVENTS_MAX: usize = 1024;

/// Where so many wait, it is tried so often whether there is room for another.
const ROOM_EVERY: Duration = Duration::from_millis(5);

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

/// What differs when a file was changed or replaced: device, inode, size, time of writing.
type Stamp = (u64, u64, u64, i64, i64);

/// What wakes the watcher.
enum Notice {
    /// The system tells of a change.
    Changed(notify::Result<Event>),
    /// Somebody wants to be sure that nothing was missed; told when that was looked at.
    Look(oneshot::Sender<()>),
}

/// Has everything looked at now. Without a watcher there is nothing to look at.
#[derive(Clone, Debug, Default)]
pub struct Looker(Option<mpsc::SyncSender<Notice>>);

impl Looker {
    /// Returns when what was in the files at the time of the call is offered, or rejected, or still being written.
    pub async fn look(&self) {
        let Some(notices) = &self.0 else { return };
        let (looked, is_looked) = oneshot::channel();
        let mut notice = Notice::Look(looked);
        while let Err(TrySendError::Full(unsent)) = notices.try_send(notice) {
            notice = unsent;
            sleep(ROOM_EVERY).await;
        }
        // An error means that the watcher has ended.
        let _ = is_looked.await;
    }
}

/// Loads again whenever something changes, until whoever listens is gone.
///
/// # Errors
/// When the system gives no thread.
pub fn watch(loader: Loader, how: Watch) -> Result<(watch::Receiver<Reload>, Looker)> {
    let reload = Reload { generation: loader.newest().clone(), refusal: None, needs_restart: Vec::new() };
    let (offers, receiver) = watch::channel(reload);
    let mut looker = Looker::default();
    if how != Watch::Off {
        let watcher = Watching::start(loader, offers, how);
        looker = Looker(Some(watcher.sender.clone()));
        thread::Builder::new()
            .name("loader".into())
            .spawn(move || watcher.run())
            .context("failed to start the thread that loads plugins")?;
    }
    Ok((receiver, looker))
}

struct Watching {
    loader: Loader,
    offers: watch::Sender<Reload>,
    notices: mpsc::Receiver<Notice>,
    sender: mpsc::SyncSender<Notice>,
    /// `None` where the system does not tell.
    native: Option<RecommendedWatcher>,
    stamps: BTreeMap<PathBuf, Stamp>,
    stamped: Instant,
    /// Whether everything was loaded again since the watch began: what was changed between the first load and the first
    /// stamps differs from neither.
    loaded_again: bool,
    /// When to look again, and whether a refusal is final then.
    look_at: Option<(Instant, bool)>,
    /// The configuration is being written since then: half of it may well be valid, and mean something else.
    half_written: Option<Instant>,
    /// What was last refused, so that it is told once.
    refused: Option<String>,
    /// Plugins that no detector uses, and of which that was told.
    unused: Vec<String>,
}

impl Watching {
    fn start(loader: Loader, offers: watch::Sender<Reload>, how: Watch) -> Self {
        let (sender, notices) = mpsc::sync_channel(EVENTS_MAX);
        let mut watching = Self {
            loader,
            offers,
            notices,
            sender,
            native: None,
            stamps: BTreeMap::new(),
            stamped: Instant::now(),
            loaded_again: false,
            look_at: None,
            half_written: None,
            refused: None,
            unused: Vec::new(),
        };
        if how == Watch::Auto {
            match watching.watch_natively() {
                Ok(native) => watching.native = Some(native),
                Err(error) => warn!(
                    event = "file_watch_unavailable",
                    %error,
                    "the system can't report changed files (too many watches? see fs.inotify.max_user_instances and \
                     max_user_watches); checking every second instead"
                ),
            }
        }
        watching.stamps = watching.take_stamps();
        info!(
            event = "file_watch_started",
            how = if watching.native.is_some() { "auto" } else { "poll" },
            "watching for changes"
        );
        watching
    }

    fn folders(&self) -> [PathBuf; 2] {
        let folder = self.loader.config_file().parent().filter(|dir| !dir.as_os_str().is_empty());
        [folder.unwrap_or(Path::new(".")).to_path_buf(), self.loader.plugins_dir()]
    }

    fn watch_natively(&self) -> notify::Result<RecommendedWatcher> {
        let sender = self.sender.clone();
        let mut native = notify::recommended_watcher(move |event| {
            // Waiting here fills the system's queue, which has an end of its own.
            let _ = sender.send(Notice::Changed(event));
        })?;
        for folder in self.folders() {
            native.watch(&folder, RecursiveMode::NonRecursive)?;
        }
        Ok(native)
    }

    /// Of the folders, the configuration, and every plugin.
    fn take_stamps(&self) -> BTreeMap<PathBuf, Stamp> {
        let plugins = fs::read_dir(self.loader.plugins_dir()).into_iter().flatten().flatten();
        let plugins = plugins.map(|entry| entry.path()).filter(|path| plugin_name(path).is_some());
        let folders = self.folders();
        let files = plugins.chain([self.loader.config_file().to_path_buf()]);
        let files = files.filter_map(|path| Some((stamp(&path)?, path)));
        // Of a folder only which one it is: its size and time are those of all files in it.
        let folders = folders.into_iter().filter_map(|path| Some((stamp(&path)?, path)));
        let folders = folders.map(|((device, inode, ..), path)| ((device, inode, 0, 0, 0), path));
        files.chain(folders).map(|(stamp, path)| (path, stamp)).collect()
    }

    fn run(mut self) {
        while !self.offers.is_closed() {
            let due = self.look_at.map_or(self.stamped + LOOK_EVERY, |(at, _)| at.min(self.stamped + LOOK_EVERY));
            match self.notices.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(Notice::Changed(Ok(event))) => self.take(&event),
                Ok(Notice::Look(looked)) => {
                    let changed = self.note_changes();
                    // What was still being written may be whole by now.
                    if changed.is_some() || self.look_at.is_some() || !self.loaded_again {
                        self.look(false);
                    }
                    self.tell_unused(&changed.unwrap_or_default());
                    // Whoever asked may have ended.
                    let _ = looked.send(());
                }
                Ok(Notice::Changed(Err(error))) => {
                    warn!(
                        event = "file_changes_missed",
                        %error,
                        "changed files may have been missed; checking all of them"
                    );
                    self.look(false);
                }
                Err(RecvTimeoutError::Timeout) => self.look_if_due(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn look_if_due(&mut self) {
        let now = Instant::now();
        if self.stamped + LOOK_EVERY <= now {
            let changed = self.note_changes();
            if changed.is_some() || !self.loaded_again {
                // Where a file is known to be in the middle of being written, its end is waited for.
                if self.look_at.is_none() || self.native.is_none() {
                    self.look(false);
                    self.tell_unused(&changed.unwrap_or_default());
                }
                return;
            }
        }
        if let Some((_, last)) = self.look_at.filter(|(at, _)| *at <= now) {
            self.look(last);
        }
    }

    /// Takes the stamps again, before anything is loaded: what changes after that differs from them. If any is not what it
    /// was, tells which files are new or changed; a file that is gone is not among them.
    fn note_changes(&mut self) -> Option<Vec<PathBuf>> {
        let stamps = self.take_stamps();
        self.stamped = Instant::now();
        if stamps == self.stamps {
            return None;
        }
        let moved = self.folders().iter().any(|folder| stamps.get(folder) != self.stamps.get(folder));
        if moved && self.native.is_some() {
            // Where that fails, looking goes on every second.
            self.native = self.watch_natively().ok();
        }
        let changed = stamps.keys().filter(|path| stamps.get(*path) != self.stamps.get(*path));
        let changed = changed.cloned().collect();
        self.stamps = stamps;
        Some(changed)
    }

    fn take(&mut self, event: &Event) {
        if !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        let config = self.loader.config_file().file_name();
        let is_config = event.paths.iter().any(|path| path.file_name() == config);
        match says(event.kind) {
            Says::Nothing => {}
            Says::Changing => {
                self.half_written = is_config.then(Instant::now).or(self.half_written);
                self.look_at = Some((Instant::now() + UNCLOSED, true));
            }
            Says::Done => {
                self.half_written.take_if(|_| is_config);
                // Whatever is wrong now is told, though it may be what was wrong before.
                self.refused = None;
                // Before anything is loaded: what changes after that differs from them.
                self.stamps = self.take_stamps();
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
        if let Some(until) = self.half_written.map(|since| since + UNCLOSED).filter(|until| *until > Instant::now()) {
            self.look_at = Some((until, true));
            return;
        }
        (self.look_at, self.half_written, self.loaded_again) = (None, None, true);
        let refusal = match self.loader.reload() {
            Ok(changed) => {
                if changed {
                    info!(
                        event = "change_accepted",
                        generation = self.loader.newest().number,
                        "accepted a change; it takes effect with the next batch"
                    );
                }
                self.refused = None;
                let before = self.offers.borrow().refusal.clone();
                if before.as_ref().is_some_and(|refusal| refusal.standing) {
                    info!(event = "rejection_resolved", "the rejected change is corrected or withdrawn");
                }
                before.map(|refusal| RejectedChange { standing: false, ..refusal })
            }
            Err(_) if !last => {
                let settled = if self.native.is_some() { SETTLED } else { UNCLOSED };
                self.look_at = Some((Instant::now() + settled, true));
                return;
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.refused.as_ref() == Some(&reason) {
                    return;
                }
                warn!(
                    event = "change_rejected",
                    generation = self.loader.newest().number,
                    "rejected a change; keeping the active generation: {reason}"
                );
                self.refused = Some(reason.clone());
                let at_ms = now_ms();
                Some(RejectedChange { at_ms, reason, standing: true })
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
                    event = "plugin_unused",
                    "no detector uses plugins/{name}.wasm: add [detectors.{name}] with plugin = \"{name}\" to the \
                     configuration"
                );
                self.unused.push(name.to_owned());
            }
        }
    }
}

fn says(kind: EventKind) -> Says {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Says::Done,
        // Reading is no change, and we do it ourselves.
        EventKind::Access(_) => Says::Nothing,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => Says::Done,
        _ => Says::Changing,
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a thousand events waited, nothing was looked at, and nothing said so: a new owner began with what was loaded
    /// before.
    #[test]
    fn a_look_waits_for_room_among_the_events() {
        let (sender, notices) = mpsc::sync_channel(1);
        sender.send(Notice::Changed(Ok(Event::new(EventKind::Any)))).unwrap();
        let (begin, begun) = mpsc::channel::<()>();
        let watcher = thread::spawn(move || {
            begun.recv().unwrap();
            assert!(matches!(notices.recv().unwrap(), Notice::Changed(_)));
            let Notice::Look(looked) = notices.recv().unwrap() else { panic!("it is no look") };
            looked.send(()).unwrap();
        });
        let looker = Looker(Some(sender));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // The look is polled first, and finds no room.
        runtime.block_on(async { tokio::join!(looker.look(), async { begin.send(()).unwrap() }) });
        watcher.join().unwrap();
    }
}
