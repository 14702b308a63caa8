//! Warms up detectors without a state: shows them what the stream holds, in the background and without alerts.
//!
//! They run in shards of their own, which give way to the others, up to where the stream has been processed. Then they
//! become active between two batches. If there is an archive of what was before the stream, it is shown first, each entry
//! once: the stream is shown from behind the last entry of the archive.

mod archived;

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{debug, info};

use self::archived::ArchivedPages;
use super::intake::Intake;
use crate::{
    archive::Archive,
    ingest::{Evicted, Ingest, IngestPlan},
    plugin::Generation,
    shard::{Answer, Priority, ShardHandle, ShardSetup, Task, WarmDetector},
    stats::Stats,
};
use tickhound_core::{
    config::Config,
    event::{Entries, EntryId},
    stream::{History, StreamError},
};

/// Entries that are read at once.
const PAGE: usize = 1000;

/// Pages that may wait in the shards.
const AHEAD: usize = 2;

/// How long to wait for new entries after all that was processed is shown.
const PAUSE: Duration = Duration::from_millis(20);

/// The pause between two attempts to reach the server.
const RETRY: Duration = Duration::from_millis(500);

/// How often the progress of a long warm-up is logged.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A running warm-up.
pub(super) struct WarmUp {
    names: Vec<String>,
    /// How far the stream has been processed; nothing after that is shown.
    through: watch::Sender<EntryId>,
    /// Whether that was nearly reached.
    close: watch::Receiver<bool>,
    /// Ends the warm-up.
    finish: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<WarmUpResult>>,
}

/// What a warm-up reads.
pub(super) struct WarmUpSetup<H> {
    /// A reader of the stream.
    pub(super) history: H,
    /// An ingest stage of its own.
    pub(super) ingest: Ingest,
    /// Entries that are processed later, or never.
    pub(super) left_out: BTreeSet<EntryId>,
    /// How far the stream has been processed.
    pub(super) newest: EntryId,
    /// What was before the stream, if anybody knows.
    pub(super) archive: Option<Arc<dyn Archive>>,
}

/// What a warm-up has made.
pub(super) struct Warmed {
    /// The detectors of each shard.
    pub(super) detectors: Vec<Vec<WarmDetector>>,
    /// The ingest stage that they were shown the stream by.
    pub(super) ingest: Box<Ingest>,
    /// The number of sessions of the archive that they were shown.
    pub(super) sessions: u32,
}

/// How a warm-up ended.
pub(super) enum WarmUpEnd {
    /// The detectors have warmed up.
    Finished(Warmed),
    /// Neither an archive nor the stream holds entries to warm up on.
    NoEntries,
    /// The server failed at the end, so that everything has to be shown once more.
    Interrupted(Error),
    /// A detector exceeded its fault budget.
    OutOfBudget {
        /// The name of the detector.
        detector: String,
        /// What went wrong.
        reason: String,
    },
    /// The warm-up can't be made.
    Failed(Error),
}

/// A detector exceeded its fault budget during its warm-up.
#[derive(Debug)]
struct OutOfBudget {
    /// The index of the detector in the generation of the warm-up.
    detector: u16,
    fault: String,
}

impl fmt::Display for OutOfBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it exceeded its fault budget on earlier entries: {}", self.fault)
    }
}

impl std::error::Error for OutOfBudget {}

/// What the detectors of a warm-up were shown.
struct WarmUpResult {
    entries: usize,
    warmed: Warmed,
}

/// The task of a warm-up.
struct WarmUpTask<H> {
    history: H,
    ingest: Ingest,
    shards: Vec<ShardHandle>,
    answers: mpsc::Receiver<Answer>,
    /// Answers that have not come yet.
    waiting: usize,
    /// The number of the last page.
    read: u64,
    cursor: EntryId,
    /// The number of entries that were shown.
    shown: usize,
    intake: Intake,
    left_out: BTreeSet<EntryId>,
    through: watch::Receiver<EntryId>,
    archive: Option<Arc<dyn Archive>>,
    /// The number of sessions of the archive that were shown.
    sessions: u32,
    config: Config,
}

/// What a read of the stream does when the server can't be reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    Retry,
    Fail,
}

/// Whether a page reaches the entry through which pages are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PageEnd {
    Reached,
    MoreFollows,
}

impl WarmUp {
    /// Starts to warm up the detectors of `generation`, called `names`.
    pub(super) fn start<H: History>(
        names: Vec<String>,
        generation: Arc<Generation>,
        setup: WarmUpSetup<H>,
        config: &Config,
    ) -> Self {
        let WarmUpSetup { history, mut ingest, left_out, newest, archive } = setup;
        let archive = archive.filter(|_| config.plugins.rewarm_sessions > 0);
        ingest.set_session_columns(generation.detectors.iter().any(|spec| spec.wants_session()));
        ingest.set_plan(IngestPlan::of(&generation).map(Arc::new));
        let (through, processed_through) = watch::channel(newest);
        let (closing, close) = watch::channel(false);
        let (finish, finishing) = oneshot::channel();
        // The window ends at the newest entry and not at this host's clock: the market may have been closed for days, and
        // the clock may be wrong. If ids only count, all of them are in the window, and the whole stream is shown.
        let window_ms = config.plugins.rewarm_s.saturating_mul(1000);
        let cursor = EntryId { millis: newest.millis.saturating_sub(window_ms), seq: 0 };
        let shards = background_shards(&generation, config);
        let config = config.clone();
        let task = tokio::spawn(async move {
            let (shards, answers) = shards?;
            let task = WarmUpTask {
                history,
                ingest,
                shards,
                answers,
                waiting: 0,
                read: 0,
                cursor,
                shown: 0,
                intake: Intake::default(),
                left_out,
                through: processed_through,
                archive,
                sessions: 0,
                config,
            };
            task.run(&closing, finishing).await
        });
        Self { names, through, close, finish: Some(finish), task }
    }

    /// The names of the detectors.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the rest is a matter of moments, or the warm-up has failed.
    pub(super) fn is_close(&self) -> bool {
        *self.close.borrow() || self.task.is_finished()
    }

    /// Returns when [`WarmUp::is_close`] may have changed; cancel-safe.
    pub(super) async fn changed(&mut self) {
        // An error means that the task has ended.
        let _ = self.close.changed().await;
    }

    /// Notes that the stream has been processed up to `newest`.
    pub(super) fn note(&self, newest: EntryId) {
        self.through.send_replace(newest);
    }

    /// Shows the rest, up to `newest`, and ends. Reading waits for that; it takes milliseconds.
    pub(super) async fn finish(mut self, newest: EntryId, stats: &Stats) -> WarmUpEnd {
        self.note(newest);
        if let Some(finish) = self.finish.take() {
            // A task that has ended does not wait for this.
            let _ = finish.send(());
        }
        match stats.waiting(&mut self.task).await.map_err(Error::from).and_then(|shown| shown) {
            Ok(WarmUpResult { entries: 0, .. }) => WarmUpEnd::NoEntries,
            Ok(WarmUpResult { warmed, .. }) => WarmUpEnd::Finished(warmed),
            Err(error) if error.is::<StreamError>() => WarmUpEnd::Interrupted(error),
            Err(error) => match error.downcast::<OutOfBudget>() {
                Ok(failed) => WarmUpEnd::OutOfBudget {
                    // The generation of a warm-up has its detectors only, in this order.
                    detector: self.names[usize::from(failed.detector)].clone(),
                    reason: failed.to_string(),
                },
                Err(error) => WarmUpEnd::Failed(error),
            },
        }
    }
}

impl Drop for WarmUp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<H: History> WarmUpTask<H> {
    async fn run(
        mut self,
        closing: &watch::Sender<bool>,
        mut finishing: oneshot::Receiver<()>,
    ) -> Result<WarmUpResult> {
        let started = Instant::now();
        if let Some(archive) = self.archive.take() {
            self.show_archive(archive).await?;
        }
        self.show_until_finishing(closing, &mut finishing).await?;
        // What was processed meanwhile, up to the position at which the detectors become active.
        let through = *self.through.borrow_and_update();
        while self.cursor < through {
            // The partition waits for this, and must not wait for a server that may be away for long.
            if self.show_page(through, OnFailure::Fail).await? == PageEnd::Reached {
                break;
            }
        }
        self.take_answers(0).await?;
        let mut detectors = Vec::new();
        for shard in self.shards {
            let (leave, left) = oneshot::channel();
            shard.submit(Task::Leave(leave)).await;
            detectors.push(left.await.context("a worker has ended early")?);
        }
        let took_ms = started.elapsed().as_millis() as u64;
        let Self { shown: entries, sessions, ingest, .. } = self;
        info!(event = "warm_up_finished", entries, sessions, took_ms, "warmed up on earlier entries");
        Ok(WarmUpResult { entries, warmed: Warmed { detectors, ingest: Box::new(ingest), sessions } })
    }

    /// Shows what the archive has, up to what was processed. What the stream has from before the archive is shown first, and
    /// what it has behind it follows: so each entry is shown once.
    async fn show_archive(&mut self, archive: Arc<dyn Archive>) -> Result<()> {
        let newest = *self.through.borrow();
        let (oldest, _) = self.read_page((EntryId::ZERO, newest), 1, OnFailure::Retry).await?;
        let stream_from = oldest.first().unwrap_or(EntryId { millis: u64::MAX, seq: u64::MAX });
        let mut pages = ArchivedPages::start(archive, newest, stream_from, &self.config)?;
        let (mut reported, mut is_first) = (Instant::now(), true);
        while let Some(mut page) = pages.next().await {
            let through = *self.through.borrow();
            if is_first && let Some(first) = page.first().map(|first| first.before().min(through)) {
                while self.show_page(first, OnFailure::Retry).await? == PageEnd::MoreFollows {}
            }
            is_first = false;
            let Some(last) = page.last() else { break };
            page.retain(|id| id <= through);
            self.cursor = page.last().unwrap_or(self.cursor);
            page.retain(|id| !self.left_out.contains(&id));
            self.shown += page.len();
            pages.note_shown(&page);
            self.show(page).await?;
            if last >= through {
                break;
            }
            if reported.elapsed() > REPORT_EVERY {
                reported = Instant::now();
                info!(event = "warm_up_progressed", entries = self.shown, at = %self.cursor, "warming up on recorded entries");
            }
        }
        self.sessions = pages.sessions();
        Ok(())
    }

    /// Shows what was processed, page by page, until the partition finishes the warm-up.
    async fn show_until_finishing(
        &mut self,
        closing: &watch::Sender<bool>,
        finishing: &mut oneshot::Receiver<()>,
    ) -> Result<()> {
        let mut reported = Instant::now();
        loop {
            let through = *self.through.borrow_and_update();
            if self.show_page(through, OnFailure::Retry).await? == PageEnd::Reached {
                closing.send_replace(true);
                tokio::select! {
                    // Both are cancel-safe.
                    _ = &mut *finishing => return Ok(()),
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            if reported.elapsed() > REPORT_EVERY {
                reported = Instant::now();
                info!(
                    event = "warm_up_progressed",
                    entries = self.shown,
                    at = %self.cursor,
                    "warming up on the entries in the stream"
                );
            }
        }
    }

    /// Shows the next page, and returns whether it reaches `through`.
    async fn show_page(&mut self, through: EntryId, on_failure: OnFailure) -> Result<PageEnd> {
        if self.cursor >= through {
            return Ok(PageEnd::Reached);
        }
        let (mut page, asked) = self.read_page((self.cursor, through), PAGE, on_failure).await?;
        let end = if page.len() < asked { PageEnd::Reached } else { PageEnd::MoreFollows };
        let Some(last) = page.last() else { return Ok(end) };
        self.cursor = last;
        page.retain(|id| !self.left_out.contains(&id));
        self.shown += page.len();
        self.show(page).await?;
        Ok(end)
    }

    /// Reads entries of the stream after one id and up to another. Returns them, and how many were asked for: at most `most`.
    async fn read_page(
        &mut self,
        (after, through): (EntryId, EntryId),
        most: usize,
        on_failure: OnFailure,
    ) -> Result<(Entries, usize)> {
        let (page, asked) = loop {
            let asked = self.intake.page(most);
            match self.history.read(after, through, asked).await {
                Ok(page) => break (page, asked),
                // The server is well, so a smaller page can be read at once.
                Err(StreamError::TooLarge(_)) => self.intake.begin_small(),
                Err(error) if on_failure == OnFailure::Fail => return Err(error.into()),
                Err(error) => {
                    self.intake.begin_small();
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
        self.intake.lift_page_limit();
        Ok((page, asked))
    }

    /// Shows entries, and evicts symbols between them as the live shards do.
    async fn show(&mut self, mut entries: Entries) -> Result<()> {
        loop {
            self.read += 1;
            let routed = self.ingest.route_until_full(self.read, &entries);
            for (shard, job) in self.shards.iter().zip(routed.jobs) {
                if let Some(job) = job {
                    shard.submit(Task::Process(job)).await;
                    self.waiting += 1;
                }
            }
            self.take_answers(AHEAD * self.shards.len()).await?;
            let Some(at) = routed.full_after else { return Ok(()) };
            // The journals of these shards know symbols by their numbers, for as long as the shards run.
            if let Some(Evicted { ids, .. }) = self.ingest.evict() {
                for shard in &self.shards {
                    shard.submit(Task::Evict { read: self.read, symbols: ids.clone() }).await;
                    self.waiting += 1;
                }
            }
            entries = entries.split_off(at);
            self.take_answers(AHEAD * self.shards.len()).await?;
        }
    }

    /// Takes answers until at most `left` have not come yet.
    async fn take_answers(&mut self, left: usize) -> Result<()> {
        while self.waiting > left {
            let answer = self.answers.recv().await.context("a worker has ended early")?;
            self.waiting -= 1;
            if let Some(faulted) = answer.incidents.faulted.iter().find(|faulted| faulted.quarantined) {
                return Err(OutOfBudget { detector: faulted.detector, fault: faulted.fault.to_string() }.into());
            }
        }
        Ok(())
    }
}

/// Starts shards for a warm-up, and the channel on which they answer.
fn background_shards(
    generation: &Arc<Generation>,
    config: &Config,
) -> Result<(Vec<ShardHandle>, mpsc::Receiver<Answer>)> {
    let workers = config.engine.worker_count();
    let (outbox, answers) = mpsc::channel((AHEAD + 2) * workers);
    let shards = (0..workers).map(|number| {
        let setup = ShardSetup {
            number,
            generation: generation.clone(),
            queue: AHEAD + 2,
            priority: Priority::Background,
            tape: None,
        };
        ShardHandle::start(setup, outbox.clone())
    });
    Ok((shards.collect::<Result<_>>()?, answers))
}
