//! What a run is doing, in more detail than its counters: filled by the engine, read by onlookers.
//!
//! What holds: nothing here is touched for a tick. Atomics are touched once for a batch or a step, the
//! one lock that the engine takes is taken once for a commit and is never held for long.

mod history;
mod latency;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{self, Relaxed},
        },
    },
    time::Duration,
};

use self::{history::History, latency::Recent};
pub use self::{
    history::{DetectorLoad, Load, Quantiles, Samples},
    latency::{BOUNDS_US, Buckets},
};
use crate::{
    plugin::{DetectorSpec, Generation},
    shard::Worked,
    stats::Stats,
};
use tickhound_core::{
    normalize::NormalizeCounts,
    receipt::Receipt,
    stream::{Commit, Totals},
    wall::{now_ms, since_epoch},
};

/// What a host is to its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It has no connection, or has just begun.
    Connecting,
    /// Another host works the partition.
    Standby,
    /// It works the partition.
    Owner,
}

/// Of one worker.
#[derive(Debug, Default)]
pub struct ShardLoad {
    /// Ticks handed to it and not worked yet.
    pub queued: AtomicU64,
    /// Ticks worked.
    pub ticks: AtomicU64,
    /// Time that it was at work, ns.
    pub busy_ns: AtomicU64,
}

/// Of one run; see the module.
#[derive(Debug)]
pub struct Monitor {
    /// When the run began, ms since the Unix epoch.
    pub started_at_ms: u64,
    role: AtomicU8,
    /// Arrival of the oldest entry in flight, ms since the Unix epoch; 0 = none is.
    oldest_ms: AtomicU64,
    /// Times that the partition became ours.
    pub acquired: AtomicU64,
    /// Times that another host took over while we worked.
    pub fenced: AtomicU64,
    /// Times that the connection was lost, or the server could not go on.
    pub disconnects: AtomicU64,
    /// Saved states that were damaged, and dropped.
    pub damaged_states: AtomicU64,
    /// Entries set aside because they are no tick.
    pub undecodable: AtomicU64,
    /// Ticks set aside because a detector failed on them.
    pub faulted: AtomicU64,
    /// Ticks whose time was raised to that of the tick before.
    pub out_of_order: AtomicU64,
    /// Ticks whose volume was not believed.
    pub volume: AtomicU64,
    /// Ticks whose time was told from their arrival.
    pub time_estimated: AtomicU64,
    /// Ticks left out before any price of their symbol was known.
    pub unpriced: AtomicU64,
    /// Ticks left out before any time could be told.
    pub untimed: AtomicU64,
    /// Generations taken up.
    pub swaps: AtomicU64,
    /// Changes refused.
    pub refusals: AtomicU64,
    /// From the arrival of an entry to its commit, every entry.
    pub entry_latency: Buckets,
    /// The same, for entries that caused an alert: once for each alert.
    pub alert_latency: Buckets,
    /// One step: commit and read in one round trip.
    pub steps: Buckets,
    shards: OnceLock<Box<[ShardLoad]>>,
    ledger: Mutex<Ledger>,
    history: Mutex<History>,
}

/// What one lock keeps together.
#[derive(Debug, Default)]
struct Ledger {
    recent: Recent,
    totals: Totals,
    alerts_by: BTreeMap<String, u64>,
    receipt: Option<Arc<Receipt>>,
    generation: Option<Arc<Generation>>,
    refused_at_ms: u64,
    detectors: BTreeMap<String, Counted>,
}

/// A detector's counts over all its versions in this run.
#[derive(Debug)]
struct Counted {
    spec: Arc<DetectorSpec>,
    /// Of the versions before.
    before: DetectorCounts,
}

/// What a detector has done in this run, all its versions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectorCounts {
    /// Rows it was given, those of the clock too.
    pub ticks: u64,
    /// Time spent in it, all workers together, ns.
    pub spent_ns: u64,
    /// Calls that did not end well.
    pub faults: u64,
    /// Ticks that it was not given, being in quarantine.
    pub skipped: u64,
    /// Alerts committed.
    pub alerts: u64,
}

/// One detector in force.
#[derive(Clone, Debug)]
pub struct DetectorView {
    /// The detector.
    pub spec: Arc<DetectorSpec>,
    /// What it has done.
    pub counts: DetectorCounts,
}

impl Default for Monitor {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            started_at_ms: now_ms(),
            role: AtomicU8::new(Role::Connecting as u8),
            oldest_ms: zero(),
            acquired: zero(),
            fenced: zero(),
            disconnects: zero(),
            damaged_states: zero(),
            undecodable: zero(),
            faulted: zero(),
            out_of_order: zero(),
            volume: zero(),
            time_estimated: zero(),
            unpriced: zero(),
            untimed: zero(),
            swaps: zero(),
            refusals: zero(),
            entry_latency: Buckets::default(),
            alert_latency: Buckets::default(),
            steps: Buckets::default(),
            shards: OnceLock::new(),
            ledger: Mutex::default(),
            history: Mutex::default(),
        }
    }
}

/// What the engine tells.
impl Monitor {
    /// The engine's loop has come round; `oldest_ms` as in the field.
    pub fn turned(&self, oldest_ms: Option<u64>) {
        self.oldest_ms.store(oldest_ms.unwrap_or(0), Relaxed);
    }

    /// The host is this from now on.
    pub fn is_now(&self, role: Role) {
        let before = self.role.swap(role as u8, Ordering::Relaxed);
        if role == Role::Owner && before != role as u8 {
            self.acquired.fetch_add(1, Relaxed);
        }
    }

    /// The workers have been started, with nothing to do.
    pub fn started(&self, workers: usize) {
        let shards = self.shards.get_or_init(|| (0..workers).map(|_| ShardLoad::default()).collect());
        shards.iter().for_each(|shard| shard.queued.store(0, Relaxed));
    }

    /// A worker was given so many ticks.
    pub fn queued(&self, shard: usize, ticks: usize) {
        if let Some(load) = self.shards().get(shard) {
            load.queued.fetch_add(ticks as u64, Relaxed);
        }
    }

    /// A worker has answered.
    pub fn worked(&self, worked: &Worked) {
        let NormalizeCounts { unpriced, out_of_order, volume_repaired, time_estimated } = worked.repaired;
        let counts = [
            (&self.unpriced, unpriced),
            (&self.out_of_order, out_of_order),
            (&self.volume, volume_repaired),
            (&self.time_estimated, time_estimated),
        ];
        for (counter, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Relaxed);
        }
        if let Some(load) = self.shards().get(worked.shard) {
            let ticks = worked.rows as u64;
            // Only the engine's task changes it.
            load.queued.store(load.queued.load(Relaxed).saturating_sub(ticks), Relaxed);
            load.ticks.fetch_add(ticks, Relaxed);
            load.busy_ns.fetch_add(worked.took.as_nanos() as u64, Relaxed);
        }
    }

    /// A step took so long.
    pub fn stepped(&self, took: Duration) {
        self.steps.add(took.as_micros() as u64, 1);
    }

    /// A commit is known to have happened.
    pub fn committed(&self, commit: &Commit) {
        let now_us = since_epoch().as_micros() as u64;
        let age_us = |millis: u64| now_us.saturating_sub(millis.saturating_mul(1000));
        let undecodable = commit.dead_letters.iter().filter(|letter| letter.blamed.is_none()).count();
        self.undecodable.fetch_add(undecodable as u64, Relaxed);
        self.faulted.fetch_add((commit.dead_letters.len() - undecodable) as u64, Relaxed);
        let mut ledger = self.ledger();
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
        for alert in &commit.alerts {
            self.alert_latency.add(age_us(alert.entry.millis), 1);
        }
        ledger.totals = commit.totals;
    }

    /// A receipt was written, of this generation.
    pub fn told(&self, receipt: Receipt, generation: &Arc<Generation>) {
        let mut ledger = self.ledger();
        let refused_at_ms = receipt.refusal.as_ref().map_or(0, |refusal| refusal.at_ms);
        if refused_at_ms > ledger.refused_at_ms {
            ledger.refused_at_ms = refused_at_ms;
            self.refusals.fetch_add(1, Relaxed);
        }
        for spec in &generation.detectors {
            let counted = ledger
                .detectors
                .entry(spec.name.clone())
                .or_insert_with(|| Counted { spec: spec.clone(), before: DetectorCounts::default() });
            if !Arc::ptr_eq(&counted.spec, spec) {
                counted.before = counted.counts();
                counted.spec = spec.clone();
            }
        }
        ledger.generation = Some(generation.clone());
        ledger.receipt = Some(Arc::new(receipt));
    }
}

/// What onlookers ask.
impl Monitor {
    /// What the host is now.
    pub fn role(&self) -> Role {
        match self.role.load(Relaxed) {
            role if role == Role::Owner as u8 => Role::Owner,
            role if role == Role::Standby as u8 => Role::Standby,
            _ => Role::Connecting,
        }
    }

    /// Age of the oldest entry in flight, ms; 0 if none is.
    pub fn behind_ms(&self) -> u64 {
        match self.oldest_ms.load(Relaxed) {
            0 => 0,
            oldest => now_ms().saturating_sub(oldest),
        }
    }

    /// Each worker; none before they are started.
    pub fn shards(&self) -> &[ShardLoad] {
        self.shards.get().map_or(&[], |shards| shards)
    }

    /// Totals of the group, as of the last commit of this host.
    pub fn totals(&self) -> Totals {
        self.ledger().totals
    }

    /// The newest receipt of this host; `None` before it has worked.
    pub fn receipt(&self) -> Option<Arc<Receipt>> {
        self.ledger().receipt.clone()
    }

    /// Each detector in force, in the order of their names.
    pub fn detectors(&self) -> Vec<DetectorView> {
        let ledger = self.ledger();
        let Some(generation) = &ledger.generation else { return Vec::new() };
        let view = |spec: &Arc<DetectorSpec>| {
            let counted = ledger.detectors.get(&spec.name);
            let counts = counted.map_or_else(DetectorCounts::default, Counted::counts);
            let alerts = ledger.alerts_by.get(&spec.name).copied().unwrap_or(0);
            DetectorView { spec: spec.clone(), counts: DetectorCounts { alerts, ..counts } }
        };
        generation.detectors.iter().map(view).collect()
    }

    /// Takes the next sample; called once a second.
    pub fn sample(&self, stats: &Stats, behind_ms: Option<u64>) {
        let recent = std::mem::take(&mut self.ledger().recent);
        let detectors = self.detectors();
        let shards = self.shards().iter().map(|shard| shard.busy_ns.load(Relaxed)).collect();
        self.history().push(stats, behind_ms, recent, shards, &detectors);
    }

    /// The samples of the last minutes, oldest first.
    pub fn samples(&self) -> Samples {
        self.history().samples()
    }

    /// Rates and shares of the last seconds.
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

impl Counted {
    fn counts(&self) -> DetectorCounts {
        let (health, before) = (&self.spec.health, &self.before);
        DetectorCounts {
            ticks: before.ticks + health.ticks(),
            spent_ns: before.spent_ns + health.spent_ns(),
            faults: before.faults + health.fault_count().0,
            skipped: before.skipped + health.skipped_ticks(),
            alerts: 0,
        }
    }
}
