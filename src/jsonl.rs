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
mod known;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tracing::{info, warn};

use self::{
    file::LinesFile,
    follower::{Begin, Follower},
};
use crate::{
    config::{AlertsConfig, StreamConfig},
    event::EntryId,
    plugin::Reload,
};

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
pub enum Finished {
    /// Everything that was committed, or no file is configured.
    Complete,
    /// Another process writes the file.
    Elsewhere,
    /// Alerts may be missing, for this reason. The next start adds them.
    Incomplete(String),
}

/// How a follower has ended.
#[derive(Debug)]
struct Ended {
    finished: Finished,
    /// The last alert that is in the file, by its id in the stream; `None` if that is not known.
    through: Option<EntryId>,
}

/// The JSON lines file of a host.
#[derive(Clone)]
pub struct JsonLines {
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

impl JsonLines {
    /// Follows the alerts into the file that `alerts` names, if it names one; its folder is made if missing.
    ///
    /// # Errors
    /// The file can't be written, or the system gives no thread.
    pub fn start(redis: &StreamConfig, alerts: &AlertsConfig) -> Result<Self> {
        let lines =
            Self { redis: Arc::new(redis.clone()), stream: alerts.stream.as_str().into(), running: Arc::default() };
        if let Some(ready) = lines.change(&alerts.jsonl)? {
            let _ = ready.recv_timeout(READY_MAX);
        }
        Ok(lines)
    }

    /// Takes up changes of the configuration, for ever.
    pub async fn follow(self, mut reloads: watch::Receiver<Reload>) {
        while reloads.changed().await.is_ok() {
            let path = reloads.borrow_and_update().generation.alerts.jsonl.clone();
            if let Err(error) = self.change(&path) {
                warn!(
                    event = "jsonl_change_rejected",
                    error = format!("{error:#}"),
                    "rejected the change of alerts.jsonl; keeping the previous alerts file"
                );
            }
        }
    }

    /// Goes on in the file `path`; in none if it is empty. What is returned is closed once it is known where the
    /// file begins.
    fn change(&self, path: &Path) -> Result<Option<mpsc::Receiver<()>>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().map_or(Path::new(""), |running| running.path.as_path()) == path {
            return Ok(None);
        }
        let wanted = !path.as_os_str().is_empty();
        let file = wanted.then(|| LinesFile::open(path)).transpose()?;
        let before = running.take().map(|Running { stop, ended, .. }| {
            stop.send_replace(Stop::Finish);
            ended
        });
        let Some(file) = file else { return Ok(None) };
        let (stop, stopped) = watch::channel(Stop::No);
        let (ends, ended) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let follower = Follower::new(&self.redis, &self.stream, file, stopped, ready)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("failed to start the runtime of alerts.jsonl")?;
        let work = move || {
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
        *running = Some(Running { path: path.to_path_buf(), stop, ended });
        Ok(Some(is_ready))
    }

    /// Waits until everything that was committed is in the file, for a bounded time; says so if it is not.
    pub fn finish(&self) -> Finished {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { path, stop, ended }) = running else { return Finished::Complete };
        stop.send_replace(Stop::Finish);
        let finished = match ended.recv_timeout(FINISH_MAX) {
            Ok(ended) => ended.finished,
            Err(_) => Finished::Incomplete(format!("it was not done within {} s", FINISH_MAX.as_secs())),
        };
        if finished == Finished::Elsewhere {
            let file = path.display();
            info!(
                event = "jsonl_left_to_another",
                %file,
                "another process writes the alerts file, including the alerts that were committed last"
            );
        }
        if let Finished::Incomplete(reason) = &finished {
            warn!(
                event = "jsonl_incomplete",
                file = %path.display(),
                %reason,
                "alerts may be missing from the alerts file; the next start adds them from the alerts stream"
            );
        }
        finished
    }
}
