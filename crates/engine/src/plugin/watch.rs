//! Reloads plugins, configuration and reference data when their files change while the host runs.
//!
//! Folders are watched, not files, so that a replaced file is still noticed. The system's events make a reload fast.
//! A scan of sizes and times every second makes it certain: it notices a changed link target, a file on a network mount,
//! a replaced folder, and events that the system dropped because there were too many. (notify's own polling compares whole
//! seconds and only forwards: it misses an older file that is moved back.)
//!
//! A file that was closed after writing, or moved into its place, is loaded immediately. A file that is still being
//! written is loaded once its writes stop. A valid change takes effect immediately. A rejection is reported only after a
//! quiet period, since a copy may still be in progress.

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

use super::{
    folder::plugin_name,
    loader::{Loader, next_of},
    reload::Reload,
    signature,
};
use tickhound_core::{config::Watch, receipt::RejectedChange, wall::now_ms};

/// Time between two scans of sizes and times.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// A change that can't be loaded is rejected after this long without another change: a copy that was in progress has
/// ended by then.
const QUIET_PERIOD: Duration = Duration::from_millis(200);

/// A file that was never closed is loaded as it is after this long without a write. The same holds where the system
/// reports no events, since writes are then only noticed every second.
const UNCLOSED_QUIET_PERIOD: Duration = Duration::from_secs(2);

/// Signals queued for the watcher's thread. Beyond that the system's own queue holds the events.
const SIGNALS_MAX: usize = 1024;

/// Time between two attempts to put a signal into a full queue.
const RETRY_SEND_EVERY: Duration = Duration::from_millis(5);

/// A handle that can request an immediate scan. Its default has no watcher, and requests nothing.
#[derive(Clone, Debug, Default)]
pub struct WatcherHandle(Option<mpsc::SyncSender<WatchSignal>>);

impl WatcherHandle {
    /// Waits until each change made before this call is loaded, rejected, or known to be still in progress.
    pub async fn scan_now(&self) {
        let Some(signals) = &self.0 else { return };
        let (scanned, is_scanned) = oneshot::channel();
        let mut signal = WatchSignal::Scan(scanned);
        while let Err(TrySendError::Full(unsent)) = signals.try_send(signal) {
            signal = unsent;
            sleep(RETRY_SEND_EVERY).await;
        }
        // An error means that the watcher has ended.
        let _ = is_scanned.await;
    }
}

/// Starts a thread that reloads plugins and configuration on each change until every receiver is dropped.
///
/// # Errors
/// Fails when the system can't start a thread.
pub fn watch(loader: Loader, how: Watch) -> Result<(watch::Receiver<Reload>, WatcherHandle)> {
    let reload = Reload { generation: loader.newest().clone(), rejection: None, needs_restart: Vec::new() };
    let (reloads, receiver) = watch::channel(reload);
    let mut handle = WatcherHandle::default();
    if how != Watch::Off {
        let watcher = FileWatcher::start(loader, reloads, how);
        handle = WatcherHandle(Some(watcher.sender.clone()));
        thread::Builder::new()
            .name("loader".into())
            .spawn(move || watcher.run())
            .context("failed to start the thread that loads plugins")?;
    }
    Ok((receiver, handle))
}

/// Checks whether the system can report changes in `dir`, as [`watch()`] asks it to.
///
/// # Errors
/// Fails with the system's reason, such as an exhausted limit of inotify.
pub fn can_watch(dir: &Path) -> Result<()> {
    notify::recommended_watcher(|_| {})?.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(())
}

/// A reason to scan the files.
#[derive(Debug)]
enum WatchSignal {
    /// The system reported a change, or failed to.
    Event(notify::Result<Event>),
    /// A handle requested a scan; the sender reports its end.
    Scan(oneshot::Sender<()>),
}

/// How far a write has come, according to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteProgress {
    /// The event does not concern the content.
    Irrelevant,
    /// The file is being written.
    Ongoing,
    /// The file is complete, as far as the event shows.
    Complete,
}

/// What to do with a change that can't be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// Try again after a quiet period: the file may be half written.
    Tentative,
    /// Reject the change: nothing was written during a quiet period.
    Final,
}

/// What differs after a file or folder was changed or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    content: ContentStamp,
}

/// Size and time of the last write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ContentStamp {
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

struct FileWatcher {
    loader: Loader,
    reloads: watch::Sender<Reload>,
    signals: mpsc::Receiver<WatchSignal>,
    sender: mpsc::SyncSender<WatchSignal>,
    /// `None` if the system can't report changes.
    native: Option<RecommendedWatcher>,
    stamps: BTreeMap<PathBuf, Stamp>,
    stamped_at: Instant,
    /// Whether everything was reloaded since the watch began. The first scan can't notice a change made between the first
    /// load and the first stamps.
    reloaded_once: bool,
    /// When to load a change that was not complete. That attempt is final.
    retry_at: Option<Instant>,
    /// When the last write to an unclosed file was reported of which a half may be valid, and mean something else.
    half_written_at: Option<Instant>,
    /// The last reported rejection, so that it is reported once.
    reported_rejection: Option<String>,
    /// The plugins reported as unused.
    reported_unused: Vec<String>,
}

impl FileWatcher {
    fn start(loader: Loader, reloads: watch::Sender<Reload>, how: Watch) -> Self {
        let (sender, signals) = mpsc::sync_channel(SIGNALS_MAX);
        let mut watcher = Self {
            loader,
            reloads,
            signals,
            sender,
            native: None,
            stamps: BTreeMap::new(),
            stamped_at: Instant::now(),
            reloaded_once: false,
            retry_at: None,
            half_written_at: None,
            reported_rejection: None,
            reported_unused: Vec::new(),
        };
        if how == Watch::Auto {
            match watcher.watch_natively() {
                Ok(native) => watcher.native = Some(native),
                Err(error) => warn!(
                    event = "file_watch_unavailable",
                    %error,
                    "the system can't report changed files (too many watches? see fs.inotify.max_user_instances and \
                     max_user_watches); checking every second instead"
                ),
            }
        }
        watcher.stamps = watcher.take_stamps();
        // A next version without a shadow is more likely an oversight than any other file that nothing uses.
        let next: Vec<PathBuf> = watcher.stamps.keys().cloned().collect();
        let is_next = |path: &PathBuf| plugin_name(path).is_some_and(|name| next_of(name).is_some());
        watcher.report_unused(&next.into_iter().filter(is_next).collect::<Vec<_>>());
        info!(
            event = "file_watch_started",
            how = if watcher.native.is_some() { "auto" } else { "poll" },
            "watching for changes"
        );
        watcher
    }

    fn run(mut self) {
        while !self.reloads.is_closed() {
            let next_scan = self.stamped_at + SCAN_EVERY;
            let due = self.retry_at.map_or(next_scan, |at| at.min(next_scan));
            match self.signals.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(WatchSignal::Event(Ok(event))) => self.handle_event(&event),
                Ok(WatchSignal::Event(Err(error))) => {
                    warn!(
                        event = "file_changes_missed",
                        %error,
                        "changed files may have been missed; checking all of them"
                    );
                    self.load(Attempt::Tentative);
                }
                Ok(WatchSignal::Scan(scanned)) => {
                    let changed = self.scan();
                    // A file that was incomplete may be complete now.
                    if changed.is_some() || self.retry_at.is_some() || !self.reloaded_once {
                        self.load(Attempt::Tentative);
                    }
                    self.report_unused(&changed.unwrap_or_default());
                    // The requester may have been dropped meanwhile.
                    let _ = scanned.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.scan_or_load_if_due(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn handle_event(&mut self, event: &Event) {
        if !event.paths.iter().any(|path| self.matters(path)) {
            return;
        }
        let half = event.paths.iter().any(|path| self.half_may_be_valid(path));
        match write_progress(event.kind) {
            WriteProgress::Irrelevant => {}
            WriteProgress::Ongoing => {
                self.half_written_at = half.then(Instant::now).or(self.half_written_at);
                self.retry_at = Some(Instant::now() + UNCLOSED_QUIET_PERIOD);
            }
            WriteProgress::Complete => {
                self.half_written_at.take_if(|_| half);
                // A rejection is reported for each change, even if the reason is the same as before.
                self.reported_rejection = None;
                // The stamps come before the load, so that a change during the load differs from them.
                self.stamps = self.take_stamps();
                self.load(Attempt::Tentative);
                self.report_unused(&event.paths);
            }
        }
    }

    fn scan_or_load_if_due(&mut self) {
        let now = Instant::now();
        if self.stamped_at + SCAN_EVERY <= now {
            let changed = self.scan();
            if changed.is_some() || !self.reloaded_once {
                // With events, a load that is already scheduled waits for the end of a write. Without events, only a load
                // shows whether the write has ended.
                if self.retry_at.is_none() || self.native.is_none() {
                    self.load(Attempt::Tentative);
                    self.report_unused(&changed.unwrap_or_default());
                }
                return;
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.load(Attempt::Final);
        }
    }

    /// Takes new stamps and returns the new and changed files, or `None` if nothing differs. Deleted files differ, but
    /// are not returned. Called before a load, so that a change during the load differs from the stamps.
    fn scan(&mut self) -> Option<Vec<PathBuf>> {
        let stamps = self.take_stamps();
        self.stamped_at = Instant::now();
        if stamps == self.stamps {
            return None;
        }
        let is_moved = self.folders().iter().any(|folder| stamps.get(folder) != self.stamps.get(folder));
        if is_moved && self.native.is_some() {
            // If that fails, the scans continue.
            self.native = self.watch_natively().ok();
        }
        let changed = stamps.keys().filter(|path| stamps.get(*path) != self.stamps.get(*path));
        let changed: Vec<PathBuf> = changed.cloned().collect();
        // Without events, nothing tells that a file was closed.
        if self.native.is_none() && changed.iter().any(|path| self.is_reference(path)) {
            self.half_written_at = Some(Instant::now());
        }
        self.stamps = stamps;
        Some(changed)
    }

    fn load(&mut self, attempt: Attempt) {
        let half_written_until = self.half_written_at.map(|at| at + UNCLOSED_QUIET_PERIOD);
        if let Some(until) = half_written_until.filter(|until| *until > Instant::now()) {
            self.retry_at = Some(until);
            return;
        }
        (self.retry_at, self.half_written_at, self.reloaded_once) = (None, None, true);
        match (self.loader.reload(), attempt) {
            (Ok(is_newer), _) => self.accept(is_newer),
            (Err(_), Attempt::Tentative) => {
                let quiet_period = if self.native.is_some() { QUIET_PERIOD } else { UNCLOSED_QUIET_PERIOD };
                self.retry_at = Some(Instant::now() + quiet_period);
            }
            (Err(error), Attempt::Final) => self.reject(format!("{error:#}")),
        }
    }

    fn accept(&mut self, is_newer: bool) {
        if is_newer {
            info!(
                event = "change_accepted",
                generation = self.loader.newest().number,
                "accepted a change; it takes effect with the next batch"
            );
        }
        self.reported_rejection = None;
        let rejection = self.reloads.borrow().rejection.clone();
        if rejection.as_ref().is_some_and(|rejection| rejection.is_current) {
            info!(event = "rejection_resolved", "the rejected change is corrected or withdrawn");
        }
        self.publish(rejection.map(|rejection| RejectedChange { is_current: false, ..rejection }));
    }

    fn reject(&mut self, reason: String) {
        if self.reported_rejection.as_ref() == Some(&reason) {
            return;
        }
        warn!(
            event = "change_rejected",
            generation = self.loader.newest().number,
            "rejected a change; keeping the active generation: {reason}"
        );
        self.reported_rejection = Some(reason.clone());
        self.publish(Some(RejectedChange { at_ms: now_ms(), reason, is_current: true }));
    }

    /// Hands over the newest generation, and wakes the receivers only if something differs.
    fn publish(&self, rejection: Option<RejectedChange>) {
        let next = Reload {
            generation: self.loader.newest().clone(),
            rejection,
            needs_restart: self.loader.needs_restart().to_vec(),
        };
        self.reloads.send_if_modified(|published| {
            let is_same = Arc::ptr_eq(&published.generation, &next.generation)
                && published.rejection == next.rejection
                && published.needs_restart == next.needs_restart;
            *published = next;
            !is_same
        });
    }

    fn report_unused(&mut self, paths: &[PathBuf]) {
        for name in paths.iter().filter_map(|path| plugin_name(path)) {
            let exists = self.loader.plugins_dir().join(format!("{name}.wasm")).exists();
            if exists && !self.loader.uses(name) && !self.reported_unused.iter().any(|reported| reported == name) {
                let cure = match (next_of(name), self.loader.allows_next()) {
                    (Some(_), false) => "plugins.allow_next = true makes it a shadow".to_owned(),
                    (Some(live), true) => {
                        format!("no enabled detector has the plugin {live}, or each pins it with `sha256`")
                    }
                    (None, _) => format!("add [detectors.{name}] with plugin = \"{name}\" to the configuration"),
                };
                info!(event = "plugin_unused", "no detector uses plugins/{name}.wasm: {cure}");
                self.reported_unused.push(name.to_owned());
            }
        }
    }

    fn watch_natively(&self) -> notify::Result<RecommendedWatcher> {
        let sender = self.sender.clone();
        let mut native = notify::recommended_watcher(move |event| {
            // A full queue blocks here, which fills the system's own bounded queue.
            let _ = sender.send(WatchSignal::Event(event));
        })?;
        for folder in self.folders() {
            native.watch(&folder, RecursiveMode::NonRecursive)?;
        }
        Ok(native)
    }

    /// The stamps of the folders, the configuration, the reference data, and every plugin.
    fn take_stamps(&self) -> BTreeMap<PathBuf, Stamp> {
        let plugins = fs::read_dir(self.loader.plugins_dir()).into_iter().flatten().flatten();
        let plugins = plugins.map(|entry| entry.path()).filter(|path| is_of_plugin(path));
        let others = self.loader.reference_files().iter().cloned().chain([self.loader.config_file().to_path_buf()]);
        let files = plugins.chain(others);
        let files = files.filter_map(|path| Some((stamp(&path)?, path)));
        // Size and time of a folder change with each file in it, whether or not that file matters.
        let folders = self.folders().into_iter().filter_map(|path| Some((stamp(&path)?, path)));
        let folders = folders.map(|(stamp, path)| (Stamp { content: ContentStamp::default(), ..stamp }, path));
        files.chain(folders).map(|(stamp, path)| (path, stamp)).collect()
    }

    /// The folders of all files, each once.
    fn folders(&self) -> Vec<PathBuf> {
        let of = |file: &Path| match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
            _ => PathBuf::from("."),
        };
        // A rejected configuration may name a folder that does not exist yet.
        let of_reference = self.loader.reference_files().iter().map(|file| of(file)).filter(|folder| folder.is_dir());
        let mut folders: Vec<PathBuf> =
            of_reference.chain([of(self.loader.config_file()), self.loader.plugins_dir()]).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    fn matters(&self, path: &Path) -> bool {
        // Kubernetes exchanges the link `..data`, and with it every file.
        is_of_plugin(path) || self.half_may_be_valid(path) || path.file_name() == Some(OsStr::new("..data"))
    }

    /// Whether half of the file may be valid, and mean something else. Half of a plugin is not valid.
    fn half_may_be_valid(&self, path: &Path) -> bool {
        path.file_name() == self.loader.config_file().file_name() || self.is_reference(path)
    }

    fn is_reference(&self, path: &Path) -> bool {
        self.loader.reference_files().iter().any(|file| file.file_name() == path.file_name())
    }
}

/// Returns whether a file is a plugin or the signature of one.
fn is_of_plugin(path: &Path) -> bool {
    let signed = path.to_str().and_then(|path| path.strip_suffix(signature::SUFFIX));
    plugin_name(signed.map_or(path, Path::new)).is_some()
}

fn write_progress(kind: EventKind) -> WriteProgress {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => WriteProgress::Complete,
        // The host itself reads the files.
        EventKind::Access(_) => WriteProgress::Irrelevant,
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => WriteProgress::Complete,
        _ => WriteProgress::Ongoing,
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let content =
        ContentStamp { bytes: metadata.len(), modified_s: metadata.mtime(), modified_ns: metadata.mtime_nsec() };
    Some(Stamp { device: metadata.dev(), inode: metadata.ino(), content })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While a thousand events waited, a requested scan was silently left out: a new owner began with the plugins that
    /// were loaded before.
    #[test]
    fn a_requested_scan_waits_for_room_among_the_events() {
        let (sender, signals) = mpsc::sync_channel(1);
        sender.send(WatchSignal::Event(Ok(Event::new(EventKind::Any)))).unwrap();
        let (begin, begun) = mpsc::channel::<()>();
        let watcher = thread::spawn(move || {
            begun.recv().unwrap();
            assert!(matches!(signals.recv().unwrap(), WatchSignal::Event(_)));
            let WatchSignal::Scan(scanned) = signals.recv().unwrap() else { panic!("not a scan") };
            scanned.send(()).unwrap();
        });
        let handle = WatcherHandle(Some(sender));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // The request is polled first, when the queue is still full.
        runtime.block_on(async { tokio::join!(handle.scan_now(), async { begin.send(()).unwrap() }) });
        watcher.join().unwrap();
    }
}
