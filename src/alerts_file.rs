//! The JSON lines file: a copy of the alerts stream with one line for each alert.
//!
//! Commits do not write the file. It *follows the stream*, in a thread and on a connection of its own. So a full disk,
//! or a pipe that nobody reads, holds up nothing: the stream is the queue.
//!
//! What holds:
//! - Each alert of the stream is in the file once, in the order of the stream, over kills, pauses and restarts of hosts
//!   and servers, and over writes that fail. Alerts that were trimmed before they were read are counted and logged.
//! - The file consists of whole lines: the rest of a failed write is cut off before the next one.
//! - One process writes a file. It holds a lock on it, which the system releases with the process; another process
//!   with the same file waits, and continues behind the last line.

mod follower;
mod health;
mod lines_file;

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
    follower::{Begin, Follower, FollowerResult, FollowerStop},
    health::FileHealth,
    lines_file::LinesFile,
};

pub(crate) use self::follower::Completion;
use tickhound_core::config::{AlertsConfig, StreamConfig, is_unset};
use tickhound_engine::{conditions::Conditions, plugin::Reload};
use tickhound_redis::AlertsReader;

/// The longest wait at the start until a new file knows where it begins, so that it misses no alert.
const READY_MAX: Duration = Duration::from_secs(1);

/// The longest wait at the end until the file has everything that was committed.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// The alerts file of a host.
#[derive(Clone)]
pub(crate) struct AlertsFile {
    redis: Arc<StreamConfig>,
    /// Key of the stream of alerts.
    stream: Arc<str>,
    conditions: Conditions,
    current: Arc<Mutex<Option<FollowedFile>>>,
}

struct FollowedFile {
    path: PathBuf,
    stop: watch::Sender<FollowerStop>,
    result: mpsc::Receiver<FollowerResult>,
}

/// Connects the thread of a new file with the caller that started it.
struct Handover {
    /// Gets the result of the previous file, if there is one.
    previous: mpsc::Sender<Option<mpsc::Receiver<FollowerResult>>>,
    /// Closed once it is known where the new file begins.
    is_ready: mpsc::Receiver<()>,
}

impl AlertsFile {
    /// Follows the alerts stream into the file that `alerts` names, if it names one. A missing folder is created.
    ///
    /// # Errors
    /// The file can't be written, or the system gives no thread.
    pub(crate) fn start(redis: &StreamConfig, alerts: &AlertsConfig, conditions: &Conditions) -> Result<Self> {
        let alerts_file = Self {
            redis: Arc::new(redis.clone()),
            stream: alerts.stream.as_str().into(),
            conditions: conditions.clone(),
            current: Arc::default(),
        };
        if let Some(ready) = alerts_file.change(&alerts.jsonl)? {
            let _ = ready.recv_timeout(READY_MAX);
        }
        Ok(alerts_file)
    }

    /// The path of the file; empty if there is none.
    pub(crate) fn path(&self) -> PathBuf {
        self.current().as_ref().map(|file| file.path.clone()).unwrap_or_default()
    }

    /// Applies changes of the configuration, for ever.
    pub(crate) async fn follow(self, mut reloads: watch::Receiver<Reload>) {
        while reloads.changed().await.is_ok() {
            let path = reloads.borrow_and_update().generation.alerts.jsonl.clone();
            if let Err(error) = self.change_in_thread(path).await {
                warn!(
                    event = "jsonl_change_rejected",
                    error = format!("{error:#}"),
                    "rejected the change of alerts.jsonl; keeping the previous alerts file"
                );
            }
        }
    }

    /// Changes the file in a thread of its own: opening a file on a network disk may take long, and neither ticks nor
    /// the end of the host wait for it.
    async fn change_in_thread(&self, path: PathBuf) -> Result<()> {
        let (change, changed) = oneshot::channel();
        let alerts_file = self.clone();
        thread::Builder::new()
            .name("jsonl-open".into())
            .spawn(move || change.send(alerts_file.change(&path).map(drop)))
            .context("failed to start a thread that opens alerts.jsonl")?;
        changed.await.context("the thread that opens alerts.jsonl has panicked")?
    }

    /// Continues in the file `path`, or in none if it is empty. If that fails, the previous file stays. The receiver is
    /// closed once it is known where the new file begins.
    fn change(&self, path: &Path) -> Result<Option<mpsc::Receiver<()>>> {
        if self.path() == path {
            return Ok(None);
        }
        // Opened without the lock, which the end of the host takes: opening may block.
        let next = if is_unset(path) { None } else { Some(self.follow_into(path)?) };
        let (next, handover) = next.unzip();
        let previous = std::mem::replace(&mut *self.current(), next);
        let previous = previous.map(|FollowedFile { stop, result, .. }| {
            stop.send_replace(FollowerStop::Finish);
            result
        });
        Ok(handover.map(|Handover { previous: receiver, is_ready }| {
            // The thread of the new file waits for it.
            let _ = receiver.send(previous);
            is_ready
        }))
    }

    /// Opens the file, and starts the thread that follows the stream into it. The thread first waits for the handover.
    fn follow_into(&self, path: &Path) -> Result<(FollowedFile, Handover)> {
        let file = LinesFile::open(path)?;
        let (stop, stopped) = watch::channel(FollowerStop::No);
        let (result_sender, result) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let (previous, previous_receiver) = mpsc::channel::<Option<mpsc::Receiver<FollowerResult>>>();
        let health = FileHealth::new(&self.conditions, path);
        let reader = AlertsReader::new(&self.redis, &self.stream)?;
        let follower = Follower::new(reader, file, health, stopped, ready);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime of alerts.jsonl")?;
        let follow = move || {
            let Ok(previous) = previous_receiver.recv() else { return };
            // A new file begins where the previous one ends.
            let through =
                previous.and_then(|result| result.recv_timeout(FINISH_MAX).ok()).and_then(|result| result.through);
            let begin = through.map_or(Begin::Now, Begin::After);
            let _ = result_sender.send(runtime.block_on(follower.run(begin)));
            // Does not wait for a write that is blocked.
            runtime.shutdown_background();
        };
        thread::Builder::new()
            .name("jsonl".into())
            .spawn(follow)
            .context("failed to start the thread of alerts.jsonl")?;
        Ok((FollowedFile { path: path.to_path_buf(), stop, result }, Handover { previous, is_ready }))
    }

    fn current(&self) -> MutexGuard<'_, Option<FollowedFile>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a bounded time until everything that was committed is in the file; logs if it is not.
    pub(crate) fn finish(&self) -> Completion {
        let current = self.current().take();
        let Some(FollowedFile { path, stop, result }) = current else { return Completion::Complete };
        stop.send_replace(FollowerStop::Finish);
        let completion = match result.recv_timeout(FINISH_MAX) {
            Ok(result) => result.completion,
            Err(_) => {
                let reason = format!("it was not completed within {} s", FINISH_MAX.as_secs());
                Completion::Incomplete { file: path.clone(), reason }
            }
        };
        if completion == Completion::Elsewhere {
            let file = path.display();
            info!(
                event = "jsonl_left_to_another",
                %file,
                "another process writes the alerts file, including the alerts that were committed last"
            );
        }
        if let Completion::Incomplete { file, reason } = &completion {
            warn!(
                event = "jsonl_incomplete",
                file = %file.display(),
                %reason,
                "alerts may be missing from the alerts file; the next start adds them from the alerts stream"
            );
        }
        completion
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_opened_leaves_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        // Nobody listens there.
        let redis = StreamConfig { url: "redis://127.0.0.1:1".into(), ..StreamConfig::default() };
        let alerts_file = AlertsFile::start(
            &redis,
            &AlertsConfig { jsonl: first.clone(), ..AlertsConfig::default() },
            &Conditions::default(),
        )
        .unwrap();
        assert!(alerts_file.change(&first.join("below a file")).is_err());
        assert_eq!(alerts_file.path(), first);
        alerts_file.change(&second).unwrap();
        assert_eq!(alerts_file.path(), second);
        let completion = alerts_file.finish();
        assert!(matches!(&completion, Completion::Incomplete { file, .. } if *file == second), "{completion:?}");
    }
}
