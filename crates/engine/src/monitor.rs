//! What a run is doing, in more detail than its counters: filled by the engine, read by status reports and metrics.
//!
//! What holds: nothing here is touched for each tick. Atomics are touched once for a batch or a step. The engine takes
//! one lock once for a commit, and nobody holds that lock for long.

mod history;
mod latency;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use self::{
    history::{DetectorLoad, Load, Quantiles, Samples},
    latency::{BOUNDS_US, Buckets},
};
use self::{
    history::{History, Reading},
    latency::Recent,
};
use crate::{
    plugin::{DetectorSpec, Generation},
    shard::{Answer, TaskOutcome},
};
use tickhound_core::{
    event::EntryId,
    normalize::{CalendarCounts, NormalizeCounts},
    receipt::Receipt,
    stream::{Commit, LeftOut, Totals},
    wall::now_ms,
};

/// The phase of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Loading plugins.
    #[default]
    Starting,
    /// Trying to reach the server.
    Connecting,
    /// Waiting for the lease, which another host holds.
    Standby,
    /// Restoring the checkpoint; the host holds the lease.
    Restoring,
    /// Reading, detecting and committing.
    Processing,
}

/// The role of a host in its partition, which follows from its phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has no connection, or has just started.
    Connecting,
    /// Another host holds the lease.
    Standby,
    /// It holds the lease.
    Owner,
}

/// The load of one worker.
#[derive(Debug, Default)]
pub struct ShardLoad {
    /// Ticks handed to it and not processed yet.
    pub queued: AtomicU64,
    /// Ticks processed.
    pub ticks: AtomicU64,
    /// Time spent on tasks in nanoseconds.
    pub busy_ns: AtomicU64,
}

/// What the symbols of one calendar had.
#[derive(Debug, Default)]
pub(crate) struct CalendarLoad {
    /// Symbols that a worker was introduced to, each counted once for each start of its worker.
    pub(crate) symbols: AtomicU64,
    /// Ticks.
    pub(crate) ticks: AtomicU64,
    /// Ticks from outside of every session.
    pub(crate) off_session: AtomicU64,
}

/// Counters of the flow at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowCounts {
    /// Ticks handed to workers.
    pub submitted: u64,
    /// Ticks committed.
    pub completed: u64,
    /// Alerts committed.
    pub alerts: u64,
}

/// The state of one run.
#[derive(Debug)]
pub struct Monitor {
    /// When the run began, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    phase: AtomicU8,
    /// Arrival of the oldest entry in flight, in milliseconds since the Unix epoch; 0 if nothing is in flight.
    oldest_ms: AtomicU64,
    /// When this host or the owner before committed the last tick, in milliseconds since the Unix epoch; 0 if none did.
    last_tick_ms: AtomicU64,
    /// Entries committed.
    pub entries: AtomicU64,
    /// Entries among them that were dead-lettered, each counted once.
    pub dead_entries: AtomicU64,
    /// Times that the host acquired the lease.
    pub acquired: AtomicU64,
    /// Times that the host was fenced: another host had acquired the lease.
    pub fenced: AtomicU64,
    /// Times that the connection was lost or the server failed.
    pub disconnects: AtomicU64,
    /// Saved states that were damaged and dropped.
    pub damaged_states: AtomicU64,
    /// Entries that were dead-lettered because they can't be decoded.
    pub undecodable: AtomicU64,
    /// Ticks that were dead-lettered because a detector failed on them.
    pub faulted: AtomicU64,
    /// Ticks whose time was raised to that of the tick before.
    pub out_of_order: AtomicU64,
    /// Ticks whose volume was repaired.
    pub volume: AtomicU64,
    /// Ticks whose time was estimated from their arrival.
    pub time_estimated: AtomicU64,
    /// Ticks from a pre-open.
    pub pre_open: AtomicU64,
    /// Ticks from outside of every session.
    pub off_session: AtomicU64,
    /// Ticks skipped before any price of their symbol was known.
    pub unpriced: AtomicU64,
    /// Ticks skipped before any time could be estimated.
    pub untimed: AtomicU64,
    /// Generations activated.
    pub swaps: AtomicU64,
    /// Changes rejected.
    pub rejections: AtomicU64,
    /// Time from the arrival of each entry to its commit.
    pub entry_latency: Buckets,
    /// Time from the arrival of an entry to the commit of its alert, once for each alert.
    pub alert_latency: Buckets,
    /// Duration of each step, which commits and reads in one round trip.
    pub steps: Buckets,
    shards: OnceLock<Box<[ShardLoad]>>,
    /// By the number of the calendar; not set if all symbols have the same one.
    calendars: OnceLock<Box<[CalendarLoad]>>,
    ledger: Mutex<Ledger>,
    history: Mutex<History>,
}

/// What changes with commits and receipts, under one lock.
#[derive(Debug, Default)]
struct Ledger {
    recent: Recent,
    totals: Totals,
    /// The reason of the newest dead letter.
    dead_reason: String,
    alerts_by: BTreeMap<String, u64>,
    left_out: BTreeMap<String, LeftOut>,
    receipt: Option<Arc<Receipt>>,
    generation: Option<Arc<Generation>>,
    rejected_at_ms: u64,
    detectors: BTreeMap<String, Counted>,
}

/// A detector's counts over all its versions in this run.
#[derive(Debug)]
struct Counted {
    spec: Arc<DetectorSpec>,
    /// The counts of the versions before.
    before: DetectorCounts,
}

/// The counts of a detector in this run, all its versions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectorCounts {
    /// Rows that it received, clock rows included.
    pub ticks: u64,
    /// Time spent in it by all workers in nanoseconds.
    pub spent_ns: u64,
    /// Calls that failed.
    pub faults: u64,
    /// Ticks that it missed in quarantine.
    pub skipped: u64,
    /// Alerts committed.
    pub alerts: u64,
    /// Detections that did not become alerts.
    pub left_out: LeftOut,
}

/// An active detector.
#[derive(Clone, Debug)]
pub struct DetectorView {
    /// The detector.
    pub spec: Arc<DetectorSpec>,
    /// Its counts.
    pub counts: DetectorCounts,
}

impl Default for Monitor {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            started_at_ms: now_ms(),
            phase: AtomicU8::new(Phase::Starting as u8),
            oldest_ms: zero(),
            last_tick_ms: zero(),
            entries: zero(),
            dead_entries: zero(),
            acquired: zero(),
            fenced: zero(),
            disconnects: zero(),
            damaged_states: zero(),
            undecodable: zero(),
            faulted: zero(),
            out_of_order: zero(),
            volume: zero(),
            time_estimated: zero(),
            pre_open: zero(),
            off_session: zero(),
            unpriced: zero(),
            untimed: zero(),
            swaps: zero(),
            rejections: zero(),
            entry_latency: Buckets::default(),
            alert_latency: Buckets::default(),
            steps: Buckets::default(),
            shards: OnceLock::new(),
            calendars: OnceLock::new(),
            ledger: Mutex::default(),
            history: Mutex::default(),
        }
    }
}

/// The engine's side.
impl Monitor {
    /// Notes when the oldest entry in flight arrived.
    pub(crate) fn set_oldest(&self, oldest_ms: Option<u64>) {
        self.oldest_ms.store(oldest_ms.unwrap_or(0), Relaxed);
    }

    /// Notes when another host committed the last tick, if that is known and later than what this host knows.
    pub(crate) fn note_last_tick(&self, last_ms: Option<u64>) {
        self.last_tick_ms.fetch_max(last_ms.unwrap_or(0), Relaxed);
    }

    /// Enters another phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let before = Phase::from_byte(self.phase.swap(phase as u8, Relaxed));
        if phase.role() == Role::Owner && before.role() != Role::Owner {
            self.acquired.fetch_add(1, Relaxed);
        }
    }

    /// Notes that the workers have been started, with empty queues.
    pub(crate) fn started(&self, workers: usize) {
        let shards = self.shards.get_or_init(|| (0..workers).map(|_| ShardLoad::default()).collect());
        shards.iter().for_each(|shard| shard.queued.store(0, Relaxed));
    }

    /// Notes ticks that were handed to a worker.
    pub(crate) fn queued(&self, shard: usize, ticks: usize) {
        if let Some(load) = self.shards().get(shard) {
            load.queued.fetch_add(ticks as u64, Relaxed);
        }
    }

    /// Notes the answer of a worker.
    pub(crate) fn answered(&self, answer: &Answer) {
        let ticks = if let TaskOutcome::Processed(processing) = &answer.outcome { processing.rows as u64 } else { 0 };
        if let Some(load) = self.shards().get(answer.shard) {
            // Only the engine's task changes it, so no update is lost between load and store.
            load.queued.store(load.queued.load(Relaxed).saturating_sub(ticks), Relaxed);
            load.ticks.fetch_add(ticks, Relaxed);
            load.busy_ns.fetch_add(answer.took.as_nanos() as u64, Relaxed);
        }
    }

    /// Counts what was repaired in ticks, and what the symbols of each calendar had.
    pub(crate) fn normalized(&self, repaired: &NormalizeCounts, calendars: &[CalendarCounts]) {
        self.repaired(repaired);
        self.note_calendars_with_symbols(calendars);
        for (load, counts) in self.calendars().iter().zip(calendars) {
            load.ticks.fetch_add(counts.ticks, Relaxed);
            load.off_session.fetch_add(counts.off_session, Relaxed);
        }
    }

    /// Notes which calendars have symbols. What a replay shows again is not counted.
    pub(crate) fn note_calendars_with_symbols(&self, calendars: &[CalendarCounts]) {
        if calendars.is_empty() {
            return;
        }
        let loads = self.calendars.get_or_init(|| calendars.iter().map(|_| CalendarLoad::default()).collect());
        for (load, counts) in loads.iter().zip(calendars).filter(|(_, counts)| counts.symbols > 0) {
            load.symbols.fetch_add(counts.symbols, Relaxed);
        }
    }

    fn repaired(&self, counts: &NormalizeCounts) {
        let NormalizeCounts { unpriced, out_of_order, volume_repaired, time_estimated, pre_open, off_session } =
            *counts;
        let counts = [
            (&self.unpriced, unpriced),
            (&self.out_of_order, out_of_order),
            (&self.volume, volume_repaired),
            (&self.time_estimated, time_estimated),
            (&self.pre_open, pre_open),
            (&self.off_session, off_session),
        ];
        for (counter, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Relaxed);
        }
    }

    /// Notes how long a step took.
    pub(crate) fn stepped(&self, took: Duration) {
        self.steps.add(took.as_micros() as u64, 1);
    }

    /// Notes a commit that is known to have happened; `now` counts from the Unix epoch.
    pub(crate) fn committed(&self, commit: &Commit, now: Duration) {
        let now_us = now.as_micros() as u64;
        let age_us = |millis: u64| now_us.saturating_sub(millis.saturating_mul(1000));
        let undecodable = commit.dead_letters.iter().filter(|letter| letter.blamed.is_none()).count();
        self.undecodable.fetch_add(undecodable as u64, Relaxed);
        self.faulted.fetch_add((commit.dead_letters.len() - undecodable) as u64, Relaxed);
        self.entries.fetch_add(commit.done.len() as u64, Relaxed);
        if commit.ticks > 0 {
            self.last_tick_ms.store(now.as_millis() as u64, Relaxed);
        }
        let mut ledger = self.ledger();
        if let Some(newest) = commit.dead_letters.last() {
            // The letters of one entry are next to each other.
            let dead = commit.dead_letters.chunk_by(|a, b| a.entry == b.entry).count();
            self.dead_entries.fetch_add(dead as u64, Relaxed);
            ledger.dead_reason.clone_from(&newest.reason);
        }
        // Entries of one millisecond have one latency, so they are counted with one addition.
        for run in commit.done.chunk_by(|a, b| a.millis == b.millis) {
            let age_us = age_us(run[0].millis);
            self.entry_latency.add(age_us, run.len() as u64);
            ledger.recent.add(age_us, run.len() as u64);
        }
        let shadows = commit.shadow_alerts.iter().map(|(_, alert)| alert);
        for alert in commit.alerts.iter().chain(shadows) {
            match ledger.alerts_by.get_mut(&alert.detector) {
                Some(count) => *count += 1,
                None => drop(ledger.alerts_by.insert(alert.detector.clone(), 1)),
            }
        }
        for (detector, left_out) in &commit.left_out {
            match ledger.left_out.get_mut(detector) {
                Some(sum) => sum.add(left_out),
                None => drop(ledger.left_out.insert(detector.clone(), *left_out)),
            }
        }
        for alert in &commit.alerts {
            self.alert_latency.add(age_us(alert.entry.millis), 1);
        }
        ledger.totals = commit.totals;
    }

    /// Notes a receipt of this generation.
    pub(crate) fn receipt_written(&self, receipt: Receipt, generation: &Arc<Generation>) {
        let mut ledger = self.ledger();
        let rejected_at_ms = receipt.rejection.as_ref().map_or(0, |rejected| rejected.at_ms);
        if rejected_at_ms > ledger.rejected_at_ms {
            ledger.rejected_at_ms = rejected_at_ms;
            self.rejections.fetch_add(1, Relaxed);
        }
        for spec in &generation.detectors {
            let counted = ledger
                .detectors
                .entry(spec.name.clone())
                .or_insert_with(|| Counted { spec: spec.clone(), before: DetectorCounts::default() });
            // Another version has counters of its own: those of the version before are added up.
            if !Arc::ptr_eq(&counted.spec, spec) {
                counted.before = counted.counts();
                counted.spec = spec.clone();
            }
        }
        ledger.generation = Some(generation.clone());
        ledger.receipt = Some(Arc::new(receipt));
    }
}

/// The observers' side.
impl Monitor {
    /// The phase of the host.
    pub fn phase(&self) -> Phase {
        Phase::from_byte(self.phase.load(Relaxed))
    }

    /// The role of the host.
    pub fn role(&self) -> Role {
        self.phase().role()
    }

    /// The age of the oldest entry in flight in milliseconds; 0 if nothing is in flight.
    pub fn behind_ms(&self) -> u64 {
        match self.oldest_ms.load(Relaxed) {
            0 => 0,
            oldest => now_ms().saturating_sub(oldest),
        }
    }

    /// Whether entries are in flight.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.oldest_ms.load(Relaxed) > 0
    }

    /// The age of the oldest entry in flight in milliseconds; 0 if there is none, or if its id is not a time.
    pub(crate) fn lag_ms(&self) -> u64 {
        match self.oldest_ms.load(Relaxed) {
            EntryId::TIMES_FROM_MS.. => self.behind_ms(),
            _ => 0,
        }
    }

    /// When this host or the owner before committed the last tick, in milliseconds since the Unix epoch; `None` if none did.
    pub fn last_tick_ms(&self) -> Option<u64> {
        Some(self.last_tick_ms.load(Relaxed)).filter(|last| *last > 0)
    }

    /// The reason of the newest dead letter of this host; empty if there was none.
    pub fn dead_reason(&self) -> String {
        self.ledger().dead_reason.clone()
    }

    /// The load of each worker; empty before they are started.
    pub fn shards(&self) -> &[ShardLoad] {
        self.shards.get().map_or(&[], |shards| shards)
    }

    /// What the symbols of each calendar had, by the number of the calendar. Empty before the first answer of a worker, and if
    /// all symbols have the same calendar.
    pub(crate) fn calendars(&self) -> &[CalendarLoad] {
        self.calendars.get().map_or(&[], |calendars| calendars)
    }

    /// The totals of the group as of the last commit of this host.
    pub fn totals(&self) -> Totals {
        self.ledger().totals
    }

    /// The newest receipt of this host; `None` before it has owned the partition.
    pub fn receipt(&self) -> Option<Arc<Receipt>> {
        self.ledger().receipt.clone()
    }

    /// The alerts of a detector that were committed, and its detections that did not become alerts.
    pub fn outcomes(&self, detector: &str) -> (u64, LeftOut) {
        self.ledger().outcomes(detector)
    }

    /// The active detectors, in the order of their names.
    pub fn detectors(&self) -> Vec<DetectorView> {
        let ledger = self.ledger();
        let Some(generation) = &ledger.generation else { return Vec::new() };
        let view = |spec: &Arc<DetectorSpec>| {
            let counted = ledger.detectors.get(&spec.name);
            let counts = counted.map_or_else(DetectorCounts::default, Counted::counts);
            let (alerts, left_out) = ledger.outcomes(&spec.name);
            DetectorView { spec: spec.clone(), counts: DetectorCounts { alerts, left_out, ..counts } }
        };
        generation.detectors.iter().map(view).collect()
    }

    /// Takes the next sample.
    pub(crate) fn sample(&self, counts: FlowCounts, behind_ms: Option<u64>) {
        let recent = std::mem::take(&mut self.ledger().recent);
        let detectors = self.detectors();
        let shards = self.shards().iter().map(|shard| shard.busy_ns.load(Relaxed)).collect();
        let spent_ns = detectors.iter().map(|view| (view.spec.name.clone(), view.counts.spent_ns)).collect();
        self.history().push(Reading::new(counts, shards, spent_ns), behind_ms, recent);
    }

    /// The samples of the last minutes, oldest first.
    pub fn samples(&self) -> Samples {
        self.history().samples()
    }

    /// The rates and shares of the last seconds.
    pub fn load(&self) -> Load {
        self.history().load()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Phase {
    fn from_byte(byte: u8) -> Self {
        let phases = [Self::Starting, Self::Connecting, Self::Standby, Self::Restoring, Self::Processing];
        phases.into_iter().find(|phase| *phase as u8 == byte).unwrap_or_default()
    }

    fn role(self) -> Role {
        match self {
            Self::Starting | Self::Connecting => Role::Connecting,
            Self::Standby => Role::Standby,
            Self::Restoring | Self::Processing => Role::Owner,
        }
    }
}

impl Ledger {
    fn outcomes(&self, detector: &str) -> (u64, LeftOut) {
        (self.alerts_by.get(detector).copied().unwrap_or(0), self.left_out.get(detector).copied().unwrap_or_default())
    }
}

impl Counted {
    fn counts(&self) -> DetectorCounts {
        let (health, before) = (&self.spec.health, &self.before);
        DetectorCounts {
            ticks: before.ticks + health.ticks(),
            spent_ns: before.spent_ns + health.spent_ns(),
            faults: before.faults + health.fault_count().0,
            skipped: before.skipped + health.skipped_ticks(),
            alerts: 0,
            left_out: LeftOut::default(),
        }
    }
}
