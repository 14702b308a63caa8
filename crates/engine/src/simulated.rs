//! A partition without Redis: a simulated market that is read at a given speed.
//!
//! It has one owner and stores nothing. `tickhound demo` runs the real engine on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tickhound_core::stream::{
    AcquireOutcome, Acquisition, Commit, Delivery, History, ReadFrom, ReadRequest, Stream, StreamError, Totals,
};
use tickhound_core::{
    event::{Alert, Entries, EntryId},
    simulate::{Layout, Renderer, SimConfig, Simulator, Tick},
    wall::now_ms,
};

/// The commits of a run: totals, and alerts by detector.
#[derive(Debug, Default)]
pub struct CommitSummary {
    /// The totals of the run.
    pub totals: Totals,
    /// The number of alerts of each detector.
    pub by_detector: BTreeMap<String, u64>,
    /// The alert with the highest confidence of each detector.
    pub clearest: BTreeMap<String, Alert>,
    /// The event time that the commits cover.
    pub covered: Duration,
}

/// A simulated market.
pub struct SimulatedStream {
    simulator: Simulator,
    renderer: Renderer,
    next: Tick,
    first_time: u64,
    /// Event time passes this many times as fast as real time.
    speed: f64,
    started: Option<Instant>,
    last: EntryId,
    /// The entries of the step that was begun.
    read: Entries,
    committed: Arc<Mutex<CommitSummary>>,
}

impl SimulatedStream {
    /// Creates a market that begins with the first read. Commits are counted in the returned value.
    pub fn new(config: &SimConfig, speed: f64) -> (Self, Arc<Mutex<CommitSummary>>) {
        let mut simulator = Simulator::new(config);
        let next = simulator.next().expect("the market never ends");
        let committed = Arc::<Mutex<CommitSummary>>::default();
        let stream = Self {
            simulator,
            renderer: Renderer::new(Layout::Json),
            first_time: next.time,
            next,
            speed,
            started: None,
            last: EntryId::ZERO,
            read: Entries::default(),
            committed: committed.clone(),
        };
        (stream, committed)
    }

    /// The event time that has passed since the first read.
    fn elapsed(&mut self) -> Duration {
        self.started.get_or_insert_with(Instant::now).elapsed().mul_f64(self.speed)
    }

    fn due(&self) -> Duration {
        Duration::from_nanos(self.next.time - self.first_time)
    }
}

/// The empty history of a simulated market.
pub struct NoHistory;

impl History for NoHistory {
    async fn read(&mut self, _: EntryId, _: EntryId, _: usize) -> Result<Entries, StreamError> {
        Ok(Entries::default())
    }
}

impl Stream for SimulatedStream {
    type History = NoHistory;

    fn reader(&self) -> NoHistory {
        NoHistory
    }

    async fn acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        Ok(AcquireOutcome::Owned(Box::new(Acquisition { epoch: 1, ..Acquisition::default() })))
    }

    async fn begin(&mut self, commit: &Commit, read: ReadRequest) -> Result<(), StreamError> {
        let elapsed = self.elapsed();
        let mut entries = Entries::default();
        if read.from == ReadFrom::New {
            let now = now_ms();
            while entries.len() < read.count && self.due() <= elapsed {
                let seq = if self.last.millis == now { self.last.seq + 1 } else { 0 };
                self.last = EntryId { millis: now, seq };
                entries.push_entry(self.last);
                let instrument = &self.simulator.instruments()[self.next.instrument as usize];
                self.renderer.render(instrument, &self.next, |name, value| entries.push_field(name, value));
                self.next = self.simulator.next().expect("the market never ends");
            }
        }
        if !commit.done.is_empty() {
            let covered = self.due();
            let mut committed = self.committed.lock().expect("nobody panics while holding it");
            committed.totals = commit.totals;
            committed.covered = covered;
            for alert in &commit.alerts {
                *committed.by_detector.entry(alert.detector.clone()).or_default() += 1;
                let clearest = committed.clearest.entry(alert.detector.clone()).or_insert_with(|| alert.clone());
                if alert.confidence > clearest.confidence {
                    *clearest = alert.clone();
                }
            }
        }
        self.read = entries;
        Ok(())
    }

    async fn finish(&mut self) -> Result<Delivery, StreamError> {
        Ok(Delivery { entries: std::mem::take(&mut self.read), ..Delivery::default() })
    }

    async fn wait(&mut self, _last: EntryId) -> Result<(), StreamError> {
        let ahead = self.due().saturating_sub(self.elapsed());
        tokio::time::sleep(ahead.div_f64(self.speed).max(Duration::from_millis(1))).await;
        Ok(())
    }
}
