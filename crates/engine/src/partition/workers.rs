//! The workers of a partition: its shards and the channel on which they answer.
//!
//! What holds: the channel has room for every answer that can be waiting, so a worker never waits for the engine, and the
//! engine may wait for a worker.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{mpsc, oneshot};

use crate::{
    plugin::Generation,
    shard::{Answer, Priority, ShardHandle, ShardSetup, Tape, Task},
    stats::Stats,
};
use tickhound_core::config::{BACKLOG_MAX, Config};

/// Flights of which there are few at once, beside reads and the visits behind them: changes of the generation.
const SWAPS_MAX: usize = 16;

/// The shards of a partition.
pub(super) struct Workers {
    shards: Vec<ShardHandle>,
    count: usize,
    outbox: mpsc::Sender<Answer>,
    answers: mpsc::Receiver<Answer>,
    pub(super) tape: Option<Arc<dyn Tape>>,
}

impl Workers {
    /// Prepares the workers; no thread is started yet.
    pub(super) fn new(config: &Config) -> Self {
        let count = config.engine.worker_count();
        // Each read in flight holds at least one entry, may have a visit, an eviction and its visit behind it, and is at most
        // one task per shard.
        // The backlog may be changed while the host runs, and room that is not used costs nothing.
        let (outbox, answers) = mpsc::channel((4 * BACKLOG_MAX + SWAPS_MAX) * count);
        Self { shards: Vec::new(), count, outbox, answers, tape: None }
    }

    /// Replaces all shards by new ones without any state. What the old ones still answer is dropped.
    pub(super) fn restart(&mut self, generation: &Arc<Generation>) -> Result<()> {
        self.join();
        while self.answers.try_recv().is_ok() {}
        for number in 0..self.count {
            let setup = ShardSetup {
                number,
                generation: generation.clone(),
                queue: BACKLOG_MAX + 2,
                priority: Priority::Live,
                tape: self.tape.clone(),
            };
            self.shards.push(ShardHandle::start(setup, self.outbox.clone())?);
        }
        Ok(())
    }

    /// Lets every shard finish its tasks and end.
    pub(super) fn join(&mut self) {
        self.shards.drain(..).for_each(ShardHandle::join);
    }

    /// The shards in the order of their numbers.
    pub(super) fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// An answer that has come, if there is one.
    pub(super) fn try_answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    /// Waits for an answer; cancel-safe.
    pub(super) async fn answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }

    /// Starts every detector of every worker. What was restored before lies before this in their queues.
    pub(super) async fn start_detectors(&self, stats: &Stats) {
        let mut started = Vec::with_capacity(self.shards.len());
        for shard in &self.shards {
            let (to, answer) = oneshot::channel();
            shard.submit(Task::Start(to)).await;
            started.push(answer);
        }
        for answer in started {
            // A worker that does not answer has panicked, and aborts the process.
            let _ = stats.waiting(answer).await;
        }
    }
}
