//! Shows detectors that have no state what the stream holds, without a word, beside the work.
//!
//! They run in shards of their own, which give way to the others, up to where the stream has been
//! worked; then they take their places between two batches.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{debug, info, warn};

use super::{Engine, intake::Intake};
use crate::{
    ingest::Ingest,
    plugin::Generation,
    shard::{ShardHandle, Task, Warmed, Worked},
};
use tickhound_core::{
    event::{Clock, EntryId},
    normalize::Normalizer,
    stream::{History, Stream, StreamError},
};

/// Entries read in one go.
const PAGE: usize = 1000;

/// Pages that may wait in the shards.
const AHEAD: usize = 2;

/// How long to wait for news when all is shown that was worked.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two attempts to reach the server.
const RETRY: Duration = Duration::from_millis(500);

/// After the server has refused to tell what is pending.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Long warm-ups tell how far they are.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Detectors that are being warmed up, and what comes into force with them.
pub(super) struct Warming {
    target: Arc<Generation>,
    names: Vec<String>,
    /// How far the stream has been worked; nothing beyond it is shown.
    through: watch::Sender<EntryId>,
    /// Whether that point was nearly reached.
    close: watch::Receiver<bool>,
    finish: oneshot::Sender<()>,
    task: JoinHandle<Result<Shown>>,
}

/// What came of a warm-up.
struct Shown {
    /// Entries that the detectors were shown.
    entries: usize,
    /// The detectors of each shard.
    warmed: Vec<Vec<Warmed>>,
}

struct Warmer<H> {
    history: H,
    ingest: Ingest,
    shards: Vec<ShardHandle>,
    outcomes: mpsc::Receiver<Worked>,
    waiting: usize,
    read: u64,
    cursor: EntryId,
    /// Entries that the detectors were shown.
    shown: usize,
    intake: Intake,
    /// Entries that are worked later, or never.
    left_out: BTreeSet<EntryId>,
    through: watch::Receiver<EntryId>,
}

impl Warming {
    /// Whether it is so far that the rest is a matter of moments; or has failed.
    pub(super) fn is_close(&self) -> bool {
        *self.close.borrow() || self.task.is_finished()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// Returns when [`Warming::is_close`] may have changed.
    pub(super) async fn changed(&mut self) {
        // An error means that the task has ended.
        let _ = self.close.changed().await;
    }

    /// The stream has been worked up to here.
    pub(super) fn note(&self, newest: EntryId) {
        self.through.send_replace(newest);
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S: Stream> Engine<S> {
    /// Begins to warm up what the target has that is cold; it comes into force when they are ready.
    ///
    /// # Errors
    /// When the server does not tell what is pending; nothing has begun then.
    pub(super) async fn warm(&mut self) -> Result<(), StreamError> {
        // Pending and not in our hands: worked later.
        let pending = self.stats.waiting(self.stream.pending(EntryId::ZERO, self.position.newest())).await;
        // A server that does not tell may do everything else: the flow goes on meanwhile.
        let mut left_out = pending.inspect_err(|_| self.warm_at = Instant::now() + ASK_AGAIN)?;
        for id in self.ids_in_flight() {
            left_out.remove(&id);
        }
        left_out.extend(&self.poison);
        let (target, detectors) = (self.target.clone(), std::mem::take(&mut self.cold));
        let names: Vec<String> = detectors.iter().map(|spec| spec.name.clone()).collect();
        info!(
            event = "warm_up_started",
            detectors = names.join(", "),
            "warming up detectors on the entries in the stream before they become active"
        );
        let (through, worked_through) = watch::channel(self.position.newest());
        let (closing, close) = watch::channel(false);
        let (finish, finishing) = oneshot::channel();
        let history = self.stream.reader();
        let ingest = self.ingest.beside(Clock::default());
        // Back from the newest entry and not from this host's clock: the market may have been closed for days, the
        // clock may be wrong. Ids that only count are all within the window; then the whole stream is shown.
        let window_ms = self.config.plugins.rewarm_s.saturating_mul(1000);
        let millis = self.position.newest().millis.saturating_sub(window_ms);
        let generation = Arc::new(target.with(detectors));
        let shards = self.background_shards(&generation);
        let task = tokio::spawn(async move {
            let (shards, outcomes) = shards?;
            let cursor = EntryId { millis, seq: 0 };
            let through = worked_through;
            let (intake, waiting, read, shown) = (Intake::default(), 0, 0, 0);
            let warmer =
                Warmer { history, ingest, shards, outcomes, waiting, read, cursor, shown, intake, left_out, through };
            warmer.run(closing, finishing).await
        });
        self.warming = Some(Warming { target, names, through, close, finish, task });
        self.standing.changed();
        Ok(())
    }

    fn background_shards(&self, generation: &Arc<Generation>) -> Result<(Vec<ShardHandle>, mpsc::Receiver<Worked>)> {
        let workers = self.config.engine.worker_count();
        let (outbox, outcomes) = mpsc::channel((AHEAD + 2) * workers);
        let shards = (0..workers).map(|number| {
            let normalizer = Normalizer::new(&self.config.input)?;
            ShardHandle::start(number, generation.clone(), normalizer, AHEAD + 2, outbox.clone(), true, None)
        });
        Ok((shards.collect::<Result<_>>()?, outcomes))
    }

    /// Returns when a warm-up may be close to its end, or may begin.
    pub(super) async fn wait_for_warming(&mut self) {
        match &mut self.warming {
            Some(warming) => warming.changed().await,
            None => tokio::time::sleep_until(self.warm_at.into()).await,
        }
    }

    /// Puts those that are nearly ready in their places. Reading waits for that; it is a matter of
    /// milliseconds.
    pub(super) async fn finish_warming(&mut self) {
        let Some(mut warming) = self.warming.take() else { return };
        warming.note(self.position.newest());
        let (never, _) = oneshot::channel();
        let _ = std::mem::replace(&mut warming.finish, never).send(());
        let done = self.stats.waiting(&mut warming.task).await.map_err(anyhow::Error::from).and_then(|warmed| warmed);
        match done {
            Ok(Shown { entries: 0, .. }) => {
                warn!(
                    event = "warm_up_empty",
                    detectors = warming.names.join(", "),
                    "the stream holds no entries to warm up on; the detectors start cold"
                );
                self.swap(warming.target.clone(), Vec::new()).await;
            }
            Ok(Shown { warmed, .. }) => self.swap(warming.target.clone(), warmed).await,
            // The server was away at the end: they are shown everything once more.
            Err(error) if error.is::<StreamError>() => {
                warn!(event = "warm_up_interrupted", %error, "the warm-up was interrupted; starting it again");
                let detectors = warming.target.detectors.iter();
                self.cold = detectors.filter(|spec| warming.names.contains(&spec.name)).cloned().collect();
                self.warm_at = Instant::now() + ASK_AGAIN;
            }
            Err(error) => {
                self.target = self.generation.clone();
                self.refuse_warmed(&warming.names, &format!("{error:#}"));
            }
        }
    }
}

impl<H: History> Warmer<H> {
    async fn run(mut self, closing: watch::Sender<bool>, mut finishing: oneshot::Receiver<()>) -> Result<Shown> {
        let (started, mut told) = (Instant::now(), Instant::now());
        loop {
            let through = *self.through.borrow_and_update();
            let asked = self.intake.page(PAGE);
            let entries = self.show_page(through, true).await?;
            if entries < asked {
                closing.send_replace(true);
                let asked = tokio::select! {
                    _ = &mut finishing => true,
                    () = tokio::time::sleep(PAUSE) => false,
                };
                if asked {
                    break;
                }
            }
            if told.elapsed() > TELL_EVERY {
                told = Instant::now();
                info!(
                    event = "warm_up_progressed",
                    entries = self.shown,
                    at = %self.cursor,
                    "warming up on the entries in the stream"
                );
            }
        }
        // What was worked meanwhile, up to the place where they take over.
        let through = *self.through.borrow_and_update();
        while self.cursor < through {
            // The engine waits for this, and must not wait for a server that may be away for long.
            if self.show_page(through, false).await? == 0 {
                break;
            }
        }
        self.settle(0).await?;
        let mut warmed = Vec::new();
        for shard in self.shards {
            let (leave, left) = oneshot::channel();
            shard.submit(Task::Leave(leave)).await;
            warmed.push(left.await.context("a worker has ended early")?);
        }
        let took_ms = started.elapsed().as_millis() as u64;
        info!(event = "warm_up_finished", entries = self.shown, took_ms, "warmed up on the entries in the stream");
        Ok(Shown { entries: self.shown, warmed })
    }

    /// Shows the next page; how many entries it had. Who is patient tries until the server answers.
    async fn show_page(&mut self, through: EntryId, patient: bool) -> Result<usize> {
        if self.cursor >= through {
            return Ok(0);
        }
        let mut page = loop {
            match self.history.read(self.cursor, through, self.intake.page(PAGE)).await {
                Ok(page) => break page,
                Err(error) if !patient => return Err(error.into()),
                Err(error) => {
                    debug!(
                        event = "warm_up_read_failed",
                        %error,
                        "failed to read the stream for the warm-up; retrying"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.intake.note(&page);
        let entries = page.len();
        let Some(last) = page.last() else { return Ok(0) };
        self.cursor = last;
        page.retain(|id| !self.left_out.contains(&id));
        self.shown += page.len();
        self.read += 1;
        for (shard, job) in self.shards.iter().zip(self.ingest.route(self.read, &page).jobs) {
            if let Some(job) = job {
                shard.submit(Task::Work(job)).await;
                self.waiting += 1;
            }
        }
        self.settle(AHEAD * self.shards.len()).await?;
        Ok(entries)
    }

    async fn settle(&mut self, left: usize) -> Result<()> {
        while self.waiting > left {
            let worked = self.outcomes.recv().await.context("a worker has ended early")?;
            self.waiting -= 1;
            if let Some(faulted) = worked.faulted.iter().find(|faulted| faulted.quarantined) {
                bail!("it failed too often on what the stream holds: {}", faulted.fault);
            }
        }
        Ok(())
    }
}
