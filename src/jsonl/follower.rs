//! Follows the alerts stream into a file, from the lock to the last line.
//!
//! Where to go on is told by the file itself: its last ids are looked for in the stream. So nothing is kept beside
//! the file that could disagree with it, and a file that was put back from a backup is completed as well.

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
    Ended, Finished, Stop,
    file::{LinesFile, Locked, known_ids},
};
use tickhound_core::{config::StreamConfig, event::EntryId};
use tickhound_redis::{AlertsReader, ReadTo, RecentIds, StoredAlert};

/// How often it is looked whether the process that writes the file has ended.
const LOCK_EVERY: Duration = Duration::from_millis(200);

/// First and longest wait between two attempts to write, or to reach the server.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A write that takes longer is worth a word; an end does not wait longer for one.
const SLOW_WRITE: Duration = Duration::from_secs(2);

/// Where a file begins that has no alert yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// With what is published from now on.
    Now,
    /// Where the file before it ends.
    After(ReadTo),
}

pub(super) struct Follower {
    path: PathBuf,
    /// Its writes may block, so they are made by another thread.
    file: Arc<Mutex<LinesFile>>,
    reader: AlertsReader,
    known: RecentIds,
    stop: watch::Receiver<Stop>,
    /// Dropped once it is known where the file begins: behind its own alerts, or where the stream is by now. Also when
    /// another process writes it.
    ready: Option<mpsc::Sender<()>>,
    through: Option<ReadTo>,
    start: Start,
    /// What the file does.
    writing: Attempts,
    /// What the server does.
    asking: Attempts,
    /// Whether the attempt under way is the last one.
    last: bool,
}

/// What an earlier process has left to do.
enum Start {
    /// It is being done; so many alerts were added.
    CatchingUp { added: u64, place: Place },
    /// It is done.
    Over,
}

/// Where in the stream a file was found to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind an alert that both have.
    Known,
    /// The stream no longer has any of the file's last alerts.
    Lost,
}

/// Why there is no going on.
enum Interrupted {
    /// The end was asked for.
    Ended(Finished),
    /// The server can't be asked.
    Unreachable(anyhow::Error),
}

impl From<anyhow::Error> for Interrupted {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// Attempts that failed, in a row.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    fn pause(&mut self) -> Duration {
        self.0 += 1;
        RETRY_MIN.saturating_mul(1 << self.0.min(10)).min(RETRY_MAX)
    }
}

impl Follower {
    /// Prepares to follow `stream`, without connecting; see the fields for `ready`.
    pub(super) fn new(
        redis: &StreamConfig,
        stream: &str,
        file: LinesFile,
        stop: watch::Receiver<Stop>,
        ready: mpsc::Sender<()>,
    ) -> Result<Self> {
        Ok(Self {
            path: file.path().to_path_buf(),
            file: Arc::new(Mutex::new(file)),
            reader: AlertsReader::new(redis, stream)?,
            known: known_ids(),
            stop,
            ready: Some(ready),
            through: None,
            start: Start::Over,
            writing: Attempts::default(),
            asking: Attempts::default(),
            last: false,
        })
    }

    /// Follows until it is told to stop.
    pub(super) async fn run(mut self, begin: Begin) -> Ended {
        let finished = self.follow(begin).await;
        Ended { finished, through: self.through }
    }

    async fn follow(&mut self, begin: Begin) -> Finished {
        let since_ms = match self.open().await {
            Ok(since_ms) => since_ms,
            Err(finished) => return finished,
        };
        let mut placed = false;
        loop {
            let turned = if placed { self.turn().await } else { self.find_place(since_ms, begin).await };
            match turned {
                Ok(()) => {
                    self.asking = Attempts::default();
                    self.ready = None;
                    placed = true;
                }
                Err(Interrupted::Ended(finished)) => return finished,
                Err(Interrupted::Unreachable(error)) => {
                    if let Err(finished) = self.unreachable(&error).await {
                        return finished;
                    }
                }
            }
        }
    }

    /// Becomes the one who writes the file, and learns what it has; since when its alerts count.
    async fn open(&mut self) -> Result<u64, Finished> {
        self.lock().await?;
        loop {
            let settled = lock(&self.file).settle();
            match settled {
                Ok(tail) => {
                    self.known = tail.known;
                    if !self.known.is_empty() {
                        // It goes on behind them, whenever that is.
                        self.ready = None;
                    }
                    return Ok(tail.since_ms);
                }
                Err(error) => self.unwritable(&error).await?,
            }
        }
    }

    async fn lock(&mut self) -> Result<(), Finished> {
        let mut told = false;
        loop {
            let locked = lock(&self.file).lock();
            let file = self.path.display();
            match locked {
                Locked::Ours => return Ok(()),
                Locked::Impossible(error) => {
                    warn!(
                        event = "jsonl_not_locked",
                        %file,
                        %error,
                        "can't lock the alerts file; make sure that no other host writes it"
                    );
                    return Ok(());
                }
                Locked::Gone(error) => {
                    self.unwritable(&error).await?;
                    continue;
                }
                Locked::Held if !told => {
                    told = true;
                    info!(
                        event = "jsonl_held",
                        %file,
                        "another process writes the alerts file; this one continues the file when that one ends. If \
                         the other is a host of another group, give each host a file of its own (alerts.jsonl)."
                    );
                    // Nobody waits for a standby.
                    self.ready = None;
                }
                Locked::Held => {}
            }
            self.pause(LOCK_EVERY, Finished::Elsewhere).await?;
        }
    }

    /// Finds out where to go on.
    async fn find_place(&mut self, since_ms: u64, begin: Begin) -> Result<(), Interrupted> {
        let known = &self.known;
        match begin {
            _ if !known.is_empty() => {
                let found = self.reader.go_on_after_newest(|alert| known.contains(alert.field("id"))).await?;
                let place = if found { Place::Known } else { Place::Lost };
                self.start = Start::CatchingUp { added: 0, place };
                if place == Place::Lost {
                    self.reader.go_on_from_start();
                    return Ok(());
                }
            }
            Begin::After(read_to) => self.reader.go_on_at(read_to),
            // An empty file: by its time, so that nothing is left out after a kill before the first line; but where
            // clocks differ not behind what there is.
            Begin::Now => {
                let since = EntryId { millis: since_ms.saturating_sub(1), seq: u64::MAX };
                if !self.reader.go_on_after_newest(|alert| alert.at <= since).await? {
                    let end = self.reader.end().await?;
                    self.reader.go_on_after(since.min(end));
                }
            }
        }
        self.through = Some(self.reader.read_to());
        Ok(())
    }

    /// Writes what is new, and waits for more.
    async fn turn(&mut self) -> Result<(), Interrupted> {
        let stopping = *self.stop.borrow() == Stop::Finish;
        let news = self.reader.read().await?;
        self.tell_missed(news.missed);
        self.write(&news.alerts).await.map_err(Interrupted::Ended)?;
        self.through = Some(self.reader.read_to());
        if !news.at_end {
            return Ok(());
        }
        self.tell_start();
        if stopping {
            return Err(Interrupted::Ended(Finished::Complete));
        }
        tokio::select! {
            // A wait that is given up takes its connection along, which is all that it costs.
            waited = self.reader.wait() => waited.map_err(Interrupted::Unreachable),
            _ = self.stop.wait_for(|stop| *stop != Stop::No) => Ok(()),
        }
    }

    fn tell_missed(&self, missed: u64) {
        let file = self.path.display();
        match self.start {
            _ if missed == 0 => {}
            Start::CatchingUp { place: Place::Lost, .. } => error!(
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

    /// Says what an earlier process had left to do, once that is done.
    fn tell_start(&mut self) {
        if let Start::CatchingUp { added: alerts @ 1.., .. } = self.start {
            let file = self.path.display();
            info!(
                event = "jsonl_caught_up",
                alerts,
                %file,
                "added alerts that an earlier run had committed but not written"
            );
        }
        self.start = Start::Over;
    }

    /// Adds a line for each alert that the file does not have.
    async fn write(&mut self, alerts: &[StoredAlert]) -> Result<(), Finished> {
        let fresh: Vec<&StoredAlert> = alerts.iter().filter(|alert| !self.known.contains(alert.field("id"))).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let lines: String = fresh.iter().map(|alert| alert.to_json() + "\n").collect();
        let lines: Arc<[u8]> = lines.into_bytes().into();
        while let Err(error) = self.append(&lines).await? {
            self.unwritable(&error).await?;
        }
        if std::mem::take(&mut self.writing).0 > 0 {
            info!(
                event = "jsonl_written_again",
                file = %self.path.display(),
                "the alerts file can be written again; no alert is missing from it"
            );
        }
        fresh.iter().for_each(|alert| _ = self.known.insert(alert.field("id")));
        if let Start::CatchingUp { added, .. } = &mut self.start {
            *added += fresh.len() as u64;
        }
        Ok(())
    }

    /// How a write has ended; an end is not kept waiting by one that is blocked.
    async fn append(&mut self, lines: &Arc<[u8]>) -> Result<io::Result<()>, Finished> {
        let (file, lines) = (self.file.clone(), lines.clone());
        let mut writing = tokio::task::spawn_blocking(move || lock(&file).append(&lines));
        let mut blocked = false;
        let given_up = self.incomplete("a write is blocked".into());
        loop {
            let ending = *self.stop.borrow() == Stop::Finish;
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
                () = sleep(SLOW_WRITE), if ending => {
                    return Err(given_up);
                }
                () = sleep(SLOW_WRITE), if !ending && !blocked => {
                    blocked = true;
                    warn!(
                        event = "jsonl_blocked",
                        file = %self.path.display(),
                        "a write to the alerts file is blocked: is it a pipe that nobody reads, or a network disk? \
                         Everything else continues, and the file is completed from the alerts stream."
                    );
                }
                _ = self.stop.wait_for(|stop| *stop != Stop::No), if !ending => {}
            }
        }
    }

    /// Says once that the file can't be written, and waits for the next attempt.
    async fn unwritable(&mut self, error: &io::Error) -> Result<(), Finished> {
        if self.writing.0 == 0 {
            warn!(
                event = "jsonl_not_written",
                file = %self.path.display(),
                %error,
                "can't write the alerts file; retrying. The alerts stream has the missing alerts."
            );
        }
        let pause = self.writing.pause();
        self.pause(pause, self.incomplete(error.to_string())).await
    }

    /// Says once that the server can't be asked, and waits for the next attempt.
    async fn unreachable(&mut self, error: &anyhow::Error) -> Result<(), Finished> {
        if self.asking.0 == 0 {
            let file = self.path.display();
            warn!(
                event = "jsonl_without_redis",
                %file,
                error = format!("{error:#}"),
                "can't read the alerts stream for the alerts file; retrying"
            );
        }
        let pause = self.asking.pause();
        self.pause(pause, self.incomplete(format!("{error:#}"))).await
    }

    fn incomplete(&self, reason: String) -> Finished {
        Finished::Incomplete { file: self.path.clone(), reason }
    }

    /// Waits for the next attempt; once the end is asked for, there is one more.
    async fn pause(&mut self, pause: Duration, finished: Finished) -> Result<(), Finished> {
        if self.last {
            return Err(finished);
        }
        tokio::select! {
            // Both are cancel-safe.
            () = sleep(pause) => {}
            _ = self.stop.wait_for(|stop| *stop != Stop::No) => self.last = true,
        }
        Ok(())
    }
}

fn lock(file: &Mutex<LinesFile>) -> MutexGuard<'_, LinesFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}
