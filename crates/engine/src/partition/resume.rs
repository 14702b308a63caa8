//! Continues after an acquisition: with what is in flight, or from the checkpoint.

use tokio::sync::watch;
use tracing::{error, warn};

use super::{
    Account, Partition,
    recovery::{Recovery, ResumeOutcome},
    trial::Trial,
};
use tickhound_core::{
    position::Resume,
    stream::{Acquisition, Stream, StreamError},
};

/// Entries that are read at once to find those in flight that are not pending.
const PAGE: usize = 1000;

impl<S: Stream> Partition<S> {
    /// Continues with what is in flight, or recovers from the checkpoint.
    pub(super) async fn resume(
        &mut self,
        acquired: &Acquisition,
        stop: watch::Receiver<bool>,
    ) -> Result<ResumeOutcome, StreamError> {
        // First: whether the open commit has happened decides what is in flight.
        if let Some(commit) = self.pipeline.position.reconcile(acquired) {
            self.count_commit(&commit);
        }
        let forgotten = self.server_has_forgotten().await?;
        match self.pipeline.position.resume(acquired, forgotten) {
            Resume::Undisturbed => {
                let totals = &mut self.account.totals;
                // An adoption whose answer was lost has counted the trimmed entries that it found.
                totals.entries = totals.entries.max(acquired.totals.entries);
                totals.lost = totals.lost.max(acquired.totals.lost);
                // A standby that died meanwhile may have marked an entry.
                self.trial.resume(acquired.attempt);
                Ok(ResumeOutcome::Ready)
            }
            Resume::Emptied => {
                self.report_emptied(acquired);
                self.redelivery.repeated.clear();
                self.pipeline.save_anew().await;
                Ok(ResumeOutcome::Ready)
            }
            Resume::Afresh => self.recover(acquired, stop).await,
        }
    }

    /// Drops what is in flight, and recovers from the checkpoint.
    async fn recover(
        &mut self,
        acquired: &Acquisition,
        stop: watch::Receiver<bool>,
    ) -> Result<ResumeOutcome, StreamError> {
        if self.account.totals.commits > acquired.totals.commits {
            error!(
                event = "redis_rolled_back",
                commits = self.account.totals.commits - acquired.totals.commits,
                "Redis has come back with older data; continuing from there. Entries after that point are \
                 processed again, and their alerts are published again under the same ids."
            );
        }
        // Those that the server knows to be processed are still to be acknowledged.
        let processed = acquired.newest.filter(|_| !acquired.began_anew);
        self.redelivery.repeated.retain(|id| Some(*id) <= processed);
        self.account = Account { totals: acquired.totals, rates: acquired.rates.clone() };
        self.trial = Trial::begin(acquired.attempt, self.pipeline.generation().flow.backlog);
        self.stats.drop_backlog();
        let generation = self.generations.begin(acquired).await;
        self.pipeline.restart(generation).map_err(|error| StreamError::Misconfigured(format!("{error:#}")))?;
        let recovery = Recovery {
            stream: &mut self.stream,
            stats: &self.stats,
            pipeline: &mut self.pipeline,
            generations: &mut self.generations,
            retention: &mut self.retention,
            totals: &mut self.account.totals,
            acquired,
            stop,
        };
        let resumed = recovery.run().await?;
        if resumed == ResumeOutcome::Ready {
            self.pipeline.position.mark_restored();
            // A host that ended right after an entry with too many symbols, or with which the clock went back, may not have
            // evicted any.
            self.pipeline.evict().await;
        }
        Ok(resumed)
    }

    fn report_emptied(&mut self, acquired: &Acquisition) {
        if acquired.began_anew {
            self.pipeline.ingest.forget_newest();
            warn!(
                event = "stream_resumed_from_start",
                in_flight = self.pipeline.entries(),
                "the stream was created again; reading it from its start, with the current state of the detectors"
            );
        } else {
            error!(
                event = "redis_data_lost",
                commits = self.account.totals.commits,
                in_flight = self.pipeline.entries(),
                "Redis has lost all its data; continuing with the state of this host"
            );
        }
    }

    /// Whether the server has forgotten something that is in flight: an entry that is neither pending nor in the stream
    /// shows that the server has gone back to a moment before it was added. An entry in the stream that is not pending
    /// was acknowledged by another client.
    async fn server_has_forgotten(&mut self) -> Result<bool, StreamError> {
        let mut missing = self.pipeline.ids();
        let (Some(first), Some(last)) = (missing.first().copied(), missing.last().copied()) else { return Ok(false) };
        for id in self.stats.waiting(self.stream.pending(first, last)).await? {
            missing.remove(&id);
        }
        let mut cursor = first.before();
        while !missing.is_empty() {
            let count = self.pipeline.intake.page(PAGE);
            let page = self.stats.waiting(self.stream.history(cursor, last, count)).await?;
            self.pipeline.intake.note(&page);
            let Some(last) = page.last() else { break };
            for entry in page.iter() {
                missing.remove(&entry.id);
            }
            cursor = last;
        }
        Ok(!missing.is_empty())
    }
}
