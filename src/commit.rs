//! From what the shards made of a read to one commit, in one order whatever the worker count.
//!
//! Order of alerts: by entry; at one entry by detector name; at one entry and
//! detector, those of the clock before those of the tick, then by symbol. The
//! ordinal in an alert's id counts in this order.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    checkpoint::Visit,
    event::{Alert, Blamed, DeadLetter, Entries, EntryId},
    ingest::{Ingest, Routed},
    plugin::{Generation, params},
    publish::raw_json,
    shard::{Faulted, Found, Worked},
    stream::{Clock, Commit},
};

/// A read on its way from the stream to its commit; or a visit, which has no entries.
pub struct Flight {
    read: u64,
    entries: Entries,
    /// Ticks that went to shards.
    pub ticks: usize,
    recovered: bool,
    clock: Clock,
    newest: EntryId,
    index: Option<u64>,
    /// Committed together with the visit behind it, which knows of these entries: they are older than
    /// some before them, and a recovery that re-reads the stream would meet them in another order.
    pub out_of_order: bool,
    /// The chunks of the saved state that are visited.
    visit: Option<Range<u16>>,
    saved: Vec<(Arc<str>, Vec<u8>)>,
    /// What the slowest shard needed for that.
    pub saving: Duration,
    /// Shards that have not answered yet.
    waiting: usize,
    undecodable: Vec<(u32, String)>,
    lost: Vec<EntryId>,
    /// Entries that must never be worked again.
    poison: Vec<EntryId>,
    found: Vec<Found>,
    faulted: Vec<Faulted>,
}

/// How far the stream has been worked.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The newest entry.
    pub newest: EntryId,
    /// Entries ever added up to there, if known.
    pub index: Option<u64>,
    /// Event time there.
    pub clock: Clock,
}

/// By what an alert is late.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When it is committed, ms since the Unix epoch.
    pub now_ms: u64,
    /// An alert that comes later than this after its entry is stale, ms; 0 = none is.
    pub stale_after_ms: u64,
}

impl Flight {
    /// Takes note of a read that has been routed, and of the place that the stream has been worked up to.
    pub fn new(read: u64, entries: Entries, recovered: bool, routed: &mut Routed, place: Place) -> Self {
        Self {
            read,
            entries,
            ticks: routed.ticks,
            recovered,
            clock: place.clock,
            newest: place.newest,
            index: place.index,
            out_of_order: false,
            visit: None,
            saved: Vec::new(),
            saving: Duration::ZERO,
            waiting: routed.jobs.iter().flatten().count(),
            undecodable: std::mem::take(&mut routed.undecodable),
            lost: std::mem::take(&mut routed.lost),
            poison: Vec::new(),
            found: Vec::new(),
            faulted: Vec::new(),
        }
    }

    /// An entry that no shard is to see.
    pub fn set_aside(read: u64, entries: Entries, reason: String, place: Place) -> Self {
        let poison = entries.first().into_iter().collect();
        let mut routed = Routed { undecodable: vec![(0, reason)], ..Routed::default() };
        Self { poison, ..Self::new(read, entries, true, &mut routed, place) }
    }

    /// A visit to `chunks` by `shards` shards.
    pub fn visit(read: u64, chunks: Range<u16>, shards: usize, place: Place) -> Self {
        let flight = Self::new(read, Entries::default(), false, &mut Routed::default(), place);
        Self { visit: Some(chunks), waiting: shards, ..flight }
    }

    /// Whether its entries were read before, by a life that ended.
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Whether it ends its commit: states are as of the end of a commit.
    pub fn is_visit(&self) -> bool {
        self.visit.is_some()
    }

    /// Symbols whose states it brings.
    pub fn saved_symbols(&self) -> usize {
        self.saved.len()
    }

    /// Number of the read.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Ids of the entries of the read.
    pub fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.entries.iter().map(|entry| entry.id)
    }

    /// Number of entries of the read.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Whether every shard has answered.
    pub fn is_ready(&self) -> bool {
        self.waiting == 0
    }

    /// Takes a shard's answer.
    pub fn accept(&mut self, mut worked: Worked) {
        debug_assert!(self.waiting > 0, "a shard answers each job once");
        self.waiting -= 1;
        self.found.append(&mut worked.found);
        self.faulted.append(&mut worked.faulted);
        self.saved.append(&mut worked.saved);
        self.saving = self.saving.max(worked.saving);
    }

    /// Adds everything that the read caused to `commit`.
    pub fn settle(mut self, generation: &Generation, ingest: &Ingest, timing: Timing, commit: &mut Commit) {
        let first_letter = commit.dead_letters.len();
        self.write_letters(generation, commit);
        self.found.sort_by(|a, b| {
            let name = |found: &Found| ingest.symbol_name(found.symbol);
            (a.entry, a.detector, !a.on_clock, name(a)).cmp(&(b.entry, b.detector, !b.on_clock, name(b)))
        });
        let mut touched: Vec<EntryId> = commit.dead_letters[first_letter..].iter().map(|letter| letter.entry).collect();
        touched.append(&mut self.lost);
        let (mut ordinal, mut last) = (0, None);
        let found = std::mem::take(&mut self.found);
        commit.totals.alerts += found.len() as u64;
        for found in found {
            let place = (found.entry, found.detector);
            ordinal = if last == Some(place) { ordinal + 1 } else { 0 };
            last = Some(place);
            let alert = self.alert(found, ordinal, generation, ingest, timing);
            touched.push(alert.entry);
            commit.alerts.push(alert);
        }
        touched.sort_unstable();
        touched.dedup();
        commit.totals.entries += self.entries.len() as u64;
        commit.totals.quiet += (self.entries.len() - touched.len()) as u64;
        commit.done.extend(self.entries.iter().map(|entry| entry.id));
        commit.clock = self.clock;
        (commit.newest, commit.index) = (self.newest, self.index);
        commit.poison.append(&mut self.poison);
        commit.visit = self.visit.map(|chunks| Visit { chunks, symbols: self.saved, ..Visit::default() });
    }

    fn write_letters(&self, generation: &Generation, commit: &mut Commit) {
        commit.totals.lost += self.lost.len() as u64;
        commit.totals.dead += (self.undecodable.len() + self.faulted.len()) as u64;
        let undecodable = self.undecodable.iter().map(|(index, reason)| (*index, reason.clone(), None));
        let faulted = self.faulted.iter().map(|faulted| {
            let spec = &generation.detectors[faulted.detector as usize];
            let reason = format!(
                "{}; {} {} did not see this and the next ticks of its batch, {} in all; it was started anew",
                faulted.fault, spec.plugin.manifest.name, spec.plugin.manifest.version, faulted.rows
            );
            let blamed = Blamed {
                detector: spec.name.clone(),
                plugin: spec.plugin.manifest.name.clone(),
                version: spec.plugin.manifest.version.clone(),
                sha256: spec.plugin.sha256.clone(),
                params: params::to_json(&spec.params).to_string(),
            };
            (faulted.entry, reason, Some(blamed))
        });
        for (index, reason, blamed) in undecodable.chain(faulted) {
            let Some(entry) = self.entries.get(index as usize) else { continue };
            commit.dead_letters.push(DeadLetter { reason, entry: entry.id, blamed, raw: raw_json(&entry) });
        }
    }

    fn alert(&self, found: Found, ordinal: u32, generation: &Generation, ingest: &Ingest, timing: Timing) -> Alert {
        let spec = &generation.detectors[found.detector as usize];
        let entry = self.entries.get(found.entry as usize).map_or(EntryId::ZERO, |entry| entry.id);
        let lag_ms = timing.now_ms.saturating_sub(entry.millis);
        Alert {
            id: format!("{entry}/{}/{ordinal}", spec.name),
            detector: spec.name.clone(),
            plugin: spec.plugin.manifest.name.clone(),
            version: spec.plugin.manifest.version.clone(),
            symbol: ingest.symbol_name(found.symbol).to_owned(),
            time: found.time,
            price: found.price,
            confidence: found.confidence,
            direction: found.direction,
            evidence: found.evidence,
            entry,
            lag_ms,
            recovered: self.recovered,
            stale: timing.stale_after_ms > 0 && lag_ms > timing.stale_after_ms,
        }
    }
}
