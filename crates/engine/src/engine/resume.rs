//! Becoming the owner, and going on: with what is in hand, or with what is saved.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::{Result, bail};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Engine, trial::Trial};
use crate::{
    monitor::Role,
    retry::Retry,
    shard::{ShardHandle, Task},
    stats::Phase,
};
use tickhound_core::{
    checkpoint::CHUNKS,
    config::BACKLOG_MAX,
    normalize::Normalizer,
    position::Resume,
    stream::{AcquireOutcome, Acquisition, Stream, StreamError},
};

/// A plugin that was never compiled here takes some tenths of a second, an interpreted language some seconds.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Entries looked at in one go, when some that are in flight are not pending.
const HELD_PAGE: usize = 1000;

impl<S: Stream> Engine<S> {
    /// Becomes the owner, however long it takes; `None` when told to stop.
    pub(super) async fn own(
        &mut self,
        stop: &mut watch::Receiver<bool>,
        retry: &mut Retry,
    ) -> Result<Option<Acquisition>> {
        let mut standing_by = None;
        self.stats.enter(Phase::Reaching);
        loop {
            self.stats.monitor.turned(self.oldest_in_flight());
            self.stats.turn();
            let pause = match self.stream.acquire().await {
                Ok(AcquireOutcome::Owned(acquired)) => {
                    info!(event = "lease_acquired", epoch = acquired.epoch, "acquired the lease; reading");
                    self.stats.monitor.is_now(Role::Owner);
                    self.stats.enter(Phase::Restoring);
                    return Ok(Some(*acquired));
                }
                Ok(AcquireOutcome::Held { by, retry_in }) => {
                    retry.reached();
                    self.stats.monitor.is_now(Role::Standby);
                    self.stats.enter(Phase::StandingBy);
                    if standing_by.as_ref() != Some(&by) {
                        info!(event = "standby_started", owner = %by, "another host holds the lease; standing by");
                        standing_by = Some(by);
                    }
                    retry_in
                }
                Err(StreamError::Misconfigured(what)) if self.position.epoch() == 0 => bail!(what),
                Err(error) => {
                    self.stats.enter(Phase::Reaching);
                    retry.after(&error);
                    retry.pause()
                }
            };
            tokio::select! {
                // Both are cancel-safe.
                () = self.stats.waiting(tokio::time::sleep(pause)) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }

    /// Goes on with what is in flight, or from what is saved. `Ok(false)`: told to stop meanwhile.
    pub(super) async fn resume(
        &mut self,
        acquired: &Acquisition,
        stop: &watch::Receiver<bool>,
    ) -> Result<Result<bool, StreamError>> {
        if let Some(commit) = self.position.settle(acquired) {
            self.committed(&commit);
        }
        let forgotten = match self.server_has_forgotten().await {
            Ok(forgotten) => forgotten,
            Err(error) => return Ok(Err(error)),
        };
        match self.position.resume(acquired, forgotten) {
            Resume::Undisturbed => {
                // An adoption whose answer was lost has counted what it found trimmed away.
                self.totals.entries = self.totals.entries.max(acquired.totals.entries);
                self.totals.lost = self.totals.lost.max(acquired.totals.lost);
                // A standby that died meanwhile may have marked one; the mark goes when all that is pending is processed.
                self.trial.attempt = acquired.attempt;
                Ok(Ok(true))
            }
            Resume::Emptied => {
                if acquired.began_anew {
                    warn!(
                        event = "stream_resumed_from_start",
                        in_flight = self.in_flight,
                        "the stream was created again; reading it from its start, with the current state of the \
                         detectors"
                    );
                } else {
                    error!(
                        event = "redis_data_lost",
                        commits = self.totals.commits,
                        in_flight = self.in_flight,
                        "Redis has lost all its data; continuing with the state of this host"
                    );
                }
                self.repeated.clear();
                self.pace.restart();
                for shard in &self.shards {
                    shard.submit(Task::SaveAnew).await;
                }
                self.visit(0..CHUNKS).await;
                Ok(Ok(true))
            }
            Resume::Afresh => {
                if self.totals.commits > acquired.totals.commits {
                    error!(
                        event = "redis_rolled_back",
                        commits = self.totals.commits - acquired.totals.commits,
                        "Redis has come back with older data; continuing from there. Entries after that point are \
                         processed again, and their alerts are published again under the same ids."
                    );
                }
                self.flights.clear();
                self.in_flight = 0;
                // Those that the server knows to be processed are still to be acknowledged.
                let processed = acquired.newest.filter(|_| !acquired.began_anew);
                self.repeated.retain(|id| Some(*id) <= processed);
                self.totals = acquired.totals;
                self.rates = acquired.rates.clone();
                self.trial = Trial::begin(acquired.attempt, self.generation.flow.backlog);
                self.pace.restart();
                self.stats.submitted.store(self.stats.completed.load(Relaxed), Relaxed);
                self.look_at_files().await;
                self.begin_generation(acquired);
                self.start_shards()?;
                let restored = self.restore(acquired, stop).await;
                if matches!(restored, Ok(true)) {
                    self.position.restored();
                }
                Ok(restored)
            }
        }
    }

    /// A change that the owner before has taken up may not have been noticed here yet: to begin with what was in force
    /// before it would take it back.
    async fn look_at_files(&self) {
        let looking = tokio::time::timeout(LOOK_MAX, self.looker.look());
        if self.stats.waiting(looking).await.is_err() {
            warn!(
                event = "reload_slow",
                "loading the changed files takes long; starting with the configuration and plugins that are loaded"
            );
        }
    }

    /// Whether something that is in flight is neither pending nor in the stream: the server has gone back to a moment
    /// before it was added. What is in the stream and not pending was acknowledged by somebody else.
    async fn server_has_forgotten(&mut self) -> Result<bool, StreamError> {
        let mut missing = self.ids_in_flight();
        let (Some(first), Some(last)) = (missing.first().copied(), missing.last().copied()) else { return Ok(false) };
        for id in self.stats.waiting(self.stream.pending(first, last)).await? {
            missing.remove(&id);
        }
        let mut cursor = first.before();
        while !missing.is_empty() {
            let page = self.stats.waiting(self.stream.history(cursor, last, self.intake.page(HELD_PAGE))).await?;
            self.intake.note(&page);
            let Some(last) = page.last() else { break };
            page.iter().for_each(|entry| {
                missing.remove(&entry.id);
            });
            cursor = last;
        }
        Ok(!missing.is_empty())
    }

    fn start_shards(&mut self) -> Result<()> {
        self.shards.drain(..).for_each(ShardHandle::join);
        while self.outcomes.try_recv().is_ok() {}
        for number in 0..self.config.engine.worker_count() {
            let normalizer = Normalizer::new(&self.config.input)?;
            let (generation, outbox) = (self.generation.clone(), self.outbox.clone());
            let queue = BACKLOG_MAX + 2;
            self.shards.push(ShardHandle::start(
                number,
                generation,
                normalizer,
                queue,
                outbox,
                false,
                self.tape.clone(),
            )?);
        }
        self.stats.monitor.started(self.shards.len());
        Ok(())
    }
}
