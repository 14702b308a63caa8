//! The JSON lines file: a copy of the alerts stream, a line for each alert.
//!
//! The file is not written by the commit, it *follows the stream*, in a thread and on a connection of its own.
//! So a disk that is full or a pipe that nobody reads holds up nothing: the stream is the queue.
//!
//! What holds:
//! - Each alert of the stream is in the file once, in the order of the stream, over kills, pauses and restarts
//!   of hosts and servers, and over writes that fail. What was trimmed before it was read is counted and said.
//! - The file consists of whole lines: what a failed write has left is cut off before the next one.
//! - One process writes a file. It holds a lock on it, which the system drops with the process; another process
//!   with the same file waits, and takes over where that one ended.

mod file;
mod follower;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use self::{
    file::LinesFile,
    follower::{Begin, Follower},
};
use tickhound_core::config::{AlertsConfig, StreamConfig};
use tickhound_engine::plugin::Reload;
use tickhound_redis::ReadTo;

/// A start waits so long until it is known where a new file begins, so that it misses no alert.
const READY_MAX: Duration = Duration::from_secs(1);

/// An end waits so long until the file has what was committed.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// How a follower is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Not yet.
    No,
    /// When the file has everything that the stream has now.
    Finish,
}

/// What a file has when its follower ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Everything that was committed, or no file is configured.
    Complete,
    /// Another process writes the file.
    Elsewhere,
    /// Alerts may be missing in this file, for this reason. The next start adds them.
    Incomplete {
        /// The file that was written last; a change of the configuration may have named it.
        file: PathBuf,
        /// What kept it from being completed.
        reason: String,
    },
}

/// How a follower has ended.
#[derive(Debug)]
struct Ended {
    finished: Finished,
    /// How far the file has the stream; `None` if that is not known.
    through: Option<ReadTo>,
}

/// The JSON lines file of a host.
#[derive(Clone)]
pub(crate) struct JsonLines {
    redis: Arc<StreamConfig>,
    /// Key of the stream of alerts.
    stream: Arc<str>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    path: PathBuf,
    stop: watch::Sender<Stop>,
    ended: mpsc::Receiver<Ended>,
}

/// What connects the thread of a new file with whoever has started it.
struct Handover {
    /// Where the file before ends, if there is one.
    before: mpsc::Sender<Option<mpsc::Receiver<Ended>>>,
    /// Closed once it is known where the new file begins.
    is_ready: mpsc::Receiver<()>,
}

impl JsonLines {
    /// Follows the alerts into the file that `alerts` names, if it names one; its folder is made if missing.
    ///
    /// # Errors
    /// The file can't be written, or the system gives no thread.
    pub(crate) fn start(redis: &StreamConfig, alerts: &AlertsConfig) -> Result<Self> {
        let lines =
            Self { redis: Arc::new(redis.clone()), stream: alerts.stream.as_str().into(), running: Arc::default() };
        if let Some(ready) = lines.change(&alerts.jsonl)? {
            let _ = ready.recv_timeout(READY_MAX);
        }
        Ok(lines)
    }

    /// The file that is written; empty if there is none.
    pub(crate) fn path(&self) -> PathBuf {
        self.running().as_ref().map(|running| running.path.clone()).unwrap_or_default()
    }

    /// Takes up changes of the configuration, for ever.
    pub(crate) async fn follow(self, mut reloads: watch::Receiver<Reload>) {
        while reloads.changed().await.is_ok() {
            let path = reloads.borrow_and_update().generation.alerts.jsonl.clone();
            if let Err(error) = self.change_apart(path).await {
                warn!(
                    event = "jsonl_change_rejected",
                    error = format!("{error:#}"),
                    "rejected the change of alerts.jsonl; keeping the previous alerts file"
                );
            }
        }
    }

    /// Changes the file in a thread of its own: on a network disk it may take long to open one, and neither ticks nor the
    /// end of the host wait for that.
    async fn change_apart(&self, path: PathBuf) -> Result<()> {
        let (change, changed) = oneshot::channel();
        let lines = self.clone();
        thread::Builder::new()
            .name("jsonl-open".into())
            .spawn(move || change.send(lines.change(&path).map(drop)))
            .context("failed to start a thread that opens alerts.jsonl")?;
        changed.await.context("the thread that opens alerts.jsonl has panicked")?
    }

    /// Continues in the file `path`; in none if it is empty. If that fails, the file before is still followed. What is
    /// returned is closed once it is known where the file begins.
    fn change(&self, path: &Path) -> Result<Option<mpsc::Receiver<()>>> {
        if self.path() == path {
            return Ok(None);
        }
        // Without the lock, which the end of the host takes: to open a file may block.
        let next = if path.as_os_str().is_empty() { None } else { Some(self.follow_into(path)?) };
        let (next, handover) = next.map_or((None, None), |(running, handover)| (Some(running), Some(handover)));
        let before = std::mem::replace(&mut *self.running(), next);
        let before = before.map(|Running { stop, ended, .. }| {
            stop.send_replace(Stop::Finish);
            ended
        });
        Ok(handover.map(|Handover { before: to, is_ready }| {
            // The thread waits for it.
            let _ = to.send(before);
            is_ready
        }))
    }

    /// Opens the file, and starts the thread that follows the stream into it as soon as it is told of the file before.
    fn follow_into(&self, path: &Path) -> Result<(Running, Handover)> {
        let file = LinesFile::open(path)?;
        let (stop, stopped) = watch::channel(Stop::No);
        let (ends, ended) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let (before, told_before) = mpsc::channel::<Option<mpsc::Receiver<Ended>>>();
        let follower = Follower::new(&self.redis, &self.stream, file, stopped, ready)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime of alerts.jsonl")?;
        let work = move || {
            let Ok(before) = told_before.recv() else { return };
            // A new file goes on where the file before it ends.
            let through =
                before.and_then(|before| before.recv_timeout(FINISH_MAX).ok()).and_then(|ended| ended.through);
            let begin = through.map_or(Begin::Now, Begin::After);
            let _ = ends.send(runtime.block_on(follower.run(begin)));
            // A write that is blocked is not waited for.
            runtime.shutdown_background();
        };
        thread::Builder::new()
            .name("jsonl".into())
            .spawn(work)
            .context("failed to start the thread of alerts.jsonl")?;
        Ok((Running { path: path.to_path_buf(), stop, ended }, Handover { before, is_ready }))
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that was committed is in the file, for a bounded time; says so if it is not.
    pub(crate) fn finish(&self) -> Finished {
        let running = self.running().take();
        let Some(Running { path, stop, ended }) = running else { return Finished::Complete };
        stop.send_replace(Stop::Finish);
        let finished = match ended.recv_timeout(FINISH_MAX) {
            Ok(ended) => ended.finished,
            Err(_) => {
                let reason = format!("it was not done within {} s", FINISH_MAX.as_secs());
                Finished::Incomplete { file: path.clone(), reason }
            }
        };
        if finished == Finished::Elsewhere {
            let file = path.display();
            info!(
                event = "jsonl_left_to_another",
                %file,
                "another process writes the alerts file, including the alerts that were committed last"
            );
        }
        if let Finished::Incomplete { file, reason } = &finished {
            warn!(
                event = "jsonl_incomplete",
                file = %file.display(),
                %reason,
                "alerts may be missing from the alerts file; the next start adds them from the alerts stream"
            );
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_opened_leaves_the_one_before_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        // Nobody listens there.
        let redis = StreamConfig { url: "redis://127.0.0.1:1".into(), ..StreamConfig::default() };
        let lines =
            JsonLines::start(&redis, &AlertsConfig { jsonl: first.clone(), ..AlertsConfig::default() }).unwrap();
        assert!(lines.change(&first.join("below a file")).is_err());
        assert_eq!(lines.path(), first);
        lines.change(&second).unwrap();
        assert_eq!(lines.path(), second);
        let finished = lines.finish();
        assert!(matches!(&finished, Finished::Incomplete { file, .. } if *file == second), "{finished:?}");
    }
}
