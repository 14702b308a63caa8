//! Follows the alerts stream into a file, from the lock to the last line.
//!
//! What holds: the file itself says where to continue, since its last ids are searched in the stream. So there is no
//! second record that could contradict the file, and a file that was restored from a backup is completed as well.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use anyhow::Result;
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{
    health::FileHealth,
    lines_file::{LinesFile, Lock, known_ids},
};
use tickhound_core::event::EntryId;
use tickhound_redis::{AlertsReader, ReadPosition, RecentIds, StoredAlert};

/// How often to check whether the process that writes the file has ended.
const LOCK_EVERY: Duration = Duration::from_millis(200);

/// The shortest and the longest wait between two attempts to write, or to reach the server.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A write that takes longer is logged; the end of the host does not wait longer for it.
const SLOW_WRITE: Duration = Duration::from_secs(2);

/// Where a file without any alert begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// With the alerts that are published from now on.
    Now,
    /// Where the previous file ends.
    After(ReadPosition),
}

/// How a follower is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowerStop {
    /// It is to continue.
    No,
    /// It is to end once the file has everything that the stream has now.
    Finish,
}

/// Whether a file has everything when its follower ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// It has everything that was committed, or no file is configured.
    Complete,
    /// Another process writes the file.
    Elsewhere,
    /// Alerts may be missing from this file. The next start adds them.
    Incomplete {
        /// The file that was written last, which a change of the configuration may have named.
        file: PathBuf,
        /// Why it is not complete.
        reason: String,
    },
}

/// How a follower has ended.
#[derive(Debug)]
pub(super) struct FollowerResult {
    pub(super) completion: Completion,
    /// The position up to which the file has the stream; `None` if it is unknown.
    pub(super) through: Option<ReadPosition>,
}

pub(super) struct Follower {
    path: PathBuf,
    /// Writes may block, so another thread makes them.
    file: Arc<Mutex<LinesFile>>,
    reader: AlertsReader,
    known: RecentIds,
    stop: watch::Receiver<FollowerStop>,
    /// Dropped once it is known where the file begins: behind its own alerts, or at the current end of the stream. Also
    /// dropped when another process writes the file.
    ready: Option<mpsc::Sender<()>>,
    through: Option<ReadPosition>,
    catch_up: CatchUp,
    write_failures: Failures,
    redis_failures: Failures,
    health: FileHealth,
    /// Whether the current attempt is the last one.
    last: bool,
}

/// The alerts that an earlier process committed but did not write.
enum CatchUp {
    /// They are being written; `added` of them are in the file.
    Active { added: u64, file_end: FileEnd },
    /// All are written.
    Done,
}

/// Where in the stream a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileEnd {
    /// Behind an alert that both have.
    Known,
    /// The stream no longer has any of the file's last alerts.
    Lost,
}

/// Why following the stream was interrupted.
enum Interruption {
    /// The follower has ended.
    End(Completion),
    /// The server can't be asked.
    Unreachable(anyhow::Error),
}

impl From<anyhow::Error> for Interruption {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// The number of failures in a row.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    /// Counts another failure; returns how long to wait before the next attempt.
    fn next_pause(&mut self) -> Duration {
        self.0 += 1;
        RETRY_MIN.saturating_mul(1 << self.0.min(10)).min(RETRY_MAX)
    }
}

impl Follower {
    /// Prepares to follow the stream of `reader` without connecting. `ready` is dropped once it is known where the file
    /// begins.
    pub(super) fn new(
        reader: AlertsReader,
        file: LinesFile,
        health: FileHealth,
        stop: watch::Receiver<FollowerStop>,
        ready: mpsc::Sender<()>,
    ) -> Self {
        Self {
            path: file.path().to_path_buf(),
            file: Arc::new(Mutex::new(file)),
            reader,
            known: known_ids(),
            stop,
            ready: Some(ready),
            through: None,
            catch_up: CatchUp::Done,
            write_failures: Failures::default(),
            redis_failures: Failures::default(),
            health,
            last: false,
        }
    }

    /// Follows the stream until it is stopped.
    pub(super) async fn run(mut self, begin: Begin) -> FollowerResult {
        let completion = self.follow(begin).await;
        FollowerResult { completion, through: self.through }
    }

    async fn follow(&mut self, begin: Begin) -> Completion {
        let since_ms = match self.open().await {
            Ok(since_ms) => since_ms,
            Err(completion) => return completion,
        };
        let mut positioned = false;
        loop {
            let turn = if positioned { self.turn().await } else { self.find_position(since_ms, begin).await };
            match turn {
                Ok(()) => {
                    self.redis_failures = Failures::default();
                    self.ready = None;
                    positioned = true;
                }
                Err(Interruption::End(completion)) => return completion,
                Err(Interruption::Unreachable(error)) => {
                    if let Err(completion) = self.unreachable(&error).await {
                        return completion;
                    }
                }
            }
        }
    }

    /// Continues in a new file if another program has removed or renamed the one that is open.
    async fn reopen_if_gone(&mut self) -> Result<(), Completion> {
        loop {
            let reopened = lock(&self.file).reopen_if_gone();
            match reopened {
                Ok(false) => return Ok(()),
                Ok(true) => break,
                Err(error) => self.unwritable(&error).await?,
            }
        }
        warn!(
            event = "jsonl_reopened",
            file = %self.path.display(),
            "the alerts file was removed or renamed; continuing in a new one with the next alert"
        );
        let known = std::mem::replace(&mut self.known, known_ids());
        self.open().await?;
        self.log_written_again();
        // A file that was put there may have alerts; an empty one goes on where the one before ended.
        if self.known.is_empty() {
            self.known = known;
        }
        Ok(())
    }

    /// Locks the file and reads its end. Returns since when published alerts belong into it, ms since the Unix epoch.
    async fn open(&mut self) -> Result<u64, Completion> {
        self.lock().await?;
        loop {
            let tail = lock(&self.file).recover();
            match tail {
                Ok(tail) => {
                    self.health.works();
                    self.known = tail.known;
                    if !self.known.is_empty() {
                        // It continues behind them, however long that takes.
                        self.ready = None;
                    }
                    return Ok(tail.since_ms);
                }
                Err(error) => self.unwritable(&error).await?,
            }
        }
    }

    async fn lock(&mut self) -> Result<(), Completion> {
        let mut logged = false;
        loop {
            let result = lock(&self.file).lock();
            let file = self.path.display();
            match result {
                Lock::Ours => return Ok(()),
                Lock::Impossible(error) => {
                    warn!(
                        event = "jsonl_not_locked",
                        %file,
                        %error,
                        "can't lock the alerts file; make sure that no other host writes it"
                    );
                    return Ok(());
                }
                Lock::Gone(error) => {
                    self.unwritable(&error).await?;
                    continue;
                }
                Lock::Held if !logged => {
                    logged = true;
                    info!(
                        event = "jsonl_held",
                        %file,
                        "another process writes the alerts file; this one continues the file when that one ends. If \
                         the other is a host of another group, give each host a file of its own (alerts.jsonl)."
                    );
                    // The start of a host does not wait for a standby.
                    self.ready = None;
                }
                Lock::Held => {}
            }
            self.pause(LOCK_EVERY, Completion::Elsewhere).await?;
        }
    }

    /// Finds the position in the stream to continue from.
    async fn find_position(&mut self, since_ms: u64, begin: Begin) -> Result<(), Interruption> {
        let known = &self.known;
        match begin {
            _ if !known.is_empty() => {
                let found = self.reader.continue_after_newest(|alert| known.contains(alert.field("id"))).await?;
                let file_end = if found { FileEnd::Known } else { FileEnd::Lost };
                self.catch_up = CatchUp::Active { added: 0, file_end };
                if file_end == FileEnd::Lost {
                    self.reader.continue_from_start();
                    return Ok(());
                }
            }
            Begin::After(position) => self.reader.continue_at(position),
            // An empty file begins at the time of its creation, so that nothing is missing after a kill before the
            // first line; but, where clocks differ, not behind the end of the stream.
            Begin::Now => {
                let since = EntryId { millis: since_ms.saturating_sub(1), seq: u64::MAX };
                if !self.reader.continue_after_newest(|alert| alert.at <= since).await? {
                    let end = self.reader.end().await?;
                    self.reader.continue_after(since.min(end));
                }
            }
        }
        self.through = Some(self.reader.position());
        Ok(())
    }

    /// Writes new alerts, and waits for more.
    async fn turn(&mut self) -> Result<(), Interruption> {
        let stopping = *self.stop.borrow() == FollowerStop::Finish;
        let news = self.reader.read().await?;
        self.log_missed(news.missed);
        self.reopen_if_gone().await.map_err(Interruption::End)?;
        self.write(&news.alerts).await.map_err(Interruption::End)?;
        self.through = Some(self.reader.position());
        if !news.at_end {
            return Ok(());
        }
        self.log_catch_up();
        if stopping {
            return Err(Interruption::End(Completion::Complete));
        }
        tokio::select! {
            // Cancelling this wait costs the connection and nothing else.
            result = self.reader.wait() => result.map_err(Interruption::Unreachable),
            _ = self.stop.wait_for(|stop| *stop != FollowerStop::No) => Ok(()),
        }
    }

    fn log_missed(&self, missed: u64) {
        let file = self.path.display();
        match self.catch_up {
            _ if missed == 0 => {}
            CatchUp::Active { file_end: FileEnd::Lost, .. } => error!(
                event = "jsonl_alerts_lost",
                %file,
                at_most = missed,
                "alerts may be missing from the alerts file: the stream no longer holds the file's last alerts, and \
                 this many alerts were removed from it in total. Keep more alerts (alerts.maxlen)."
            ),
            _ => error!(
                event = "jsonl_alerts_lost",
                %file,
                alerts = missed,
                "alerts are missing from the alerts file: they were trimmed from the stream before they were written. \
                 Keep more alerts (alerts.maxlen)."
            ),
        }
    }

    /// Logs how many alerts an earlier process had not written, once they are in the file.
    fn log_catch_up(&mut self) {
        if let CatchUp::Active { added: alerts @ 1.., .. } = self.catch_up {
            let file = self.path.display();
            info!(
                event = "jsonl_caught_up",
                alerts,
                %file,
                "added alerts that an earlier run had committed but not written"
            );
        }
        self.catch_up = CatchUp::Done;
    }

    /// Adds a line for each alert that the file does not have.
    async fn write(&mut self, alerts: &[StoredAlert]) -> Result<(), Completion> {
        let fresh: Vec<&StoredAlert> = alerts.iter().filter(|alert| !self.known.contains(alert.field("id"))).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let lines: String = fresh.iter().map(|alert| alert.to_json() + "\n").collect();
        let lines: Arc<[u8]> = lines.into_bytes().into();
        while let Err(error) = self.append(&lines).await? {
            self.unwritable(&error).await?;
        }
        self.health.works();
        self.log_written_again();
        fresh.iter().for_each(|alert| _ = self.known.insert(alert.field("id")));
        if let CatchUp::Active { added, .. } = &mut self.catch_up {
            *added += fresh.len() as u64;
        }
        Ok(())
    }

    /// Logs that the file can be written, if it could not.
    fn log_written_again(&mut self) {
        if std::mem::take(&mut self.write_failures).0 > 0 {
            info!(
                event = "jsonl_written_again",
                file = %self.path.display(),
                "the alerts file can be written again; no alert is missing from it"
            );
        }
    }

    /// The result of a write; `Err` if the write is blocked and the host ends.
    async fn append(&mut self, lines: &Arc<[u8]>) -> Result<io::Result<()>, Completion> {
        let (file, lines) = (self.file.clone(), lines.clone());
        let mut writing = tokio::task::spawn_blocking(move || lock(&file).append(&lines));
        let mut blocked = false;
        loop {
            let ending = *self.stop.borrow() == FollowerStop::Finish;
            tokio::select! {
                written = &mut writing => {
                    if blocked {
                        info!(
                            event = "jsonl_unblocked",
                            file = %self.path.display(),
                            "the alerts file accepts writes again"
                        );
                    }
                    return Ok(written.unwrap_or_else(|error| Err(io::Error::other(error))));
                }
                () = sleep(SLOW_WRITE), if ending => break,
                () = sleep(SLOW_WRITE), if !ending && !blocked => {
                    blocked = true;
                    self.health.failed("a write to it is blocked");
                    warn!(
                        event = "jsonl_blocked",
                        file = %self.path.display(),
                        "a write to the alerts file is blocked: is it a pipe that nobody reads, or a network disk? \
                         Everything else continues, and the file is completed from the alerts stream."
                    );
                }
                _ = self.stop.wait_for(|stop| *stop != FollowerStop::No), if !ending => {}
            }
        }
        Err(self.incomplete("a write is blocked".into()))
    }

    /// Logs once that the file can't be written, and waits for the next attempt.
    async fn unwritable(&mut self, error: &io::Error) -> Result<(), Completion> {
        if self.write_failures.0 == 0 {
            warn!(
                event = "jsonl_not_written",
                file = %self.path.display(),
                %error,
                "can't write the alerts file; retrying. The alerts stream has the missing alerts."
            );
        }
        self.health.failed(&error.to_string());
        let pause = self.write_failures.next_pause();
        self.pause(pause, self.incomplete(error.to_string())).await
    }

    /// Logs once that the server can't be asked, and waits for the next attempt.
    async fn unreachable(&mut self, error: &anyhow::Error) -> Result<(), Completion> {
        if self.redis_failures.0 == 0 {
            let file = self.path.display();
            warn!(
                event = "jsonl_without_redis",
                %file,
                error = format!("{error:#}"),
                "can't read the alerts stream for the alerts file; retrying"
            );
        }
        let pause = self.redis_failures.next_pause();
        self.pause(pause, self.incomplete(format!("{error:#}"))).await
    }

    fn incomplete(&self, reason: String) -> Completion {
        Completion::Incomplete { file: self.path.clone(), reason }
    }

    /// Waits for the next attempt. After a stop there is one more attempt; if it fails too, `Err(completion)`.
    async fn pause(&mut self, pause: Duration, completion: Completion) -> Result<(), Completion> {
        if self.last {
            return Err(completion);
        }
        tokio::select! {
            // Both are cancel-safe.
            () = sleep(pause) => {}
            _ = self.stop.wait_for(|stop| *stop != FollowerStop::No) => self.last = true,
        }
        Ok(())
    }
}

fn lock(file: &Mutex<LinesFile>) -> MutexGuard<'_, LinesFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
