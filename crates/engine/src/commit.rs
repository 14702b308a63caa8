//! From what the shards made of a read to one commit, in one order whatever the worker count.
//!
//! Order of alerts: by entry; at one entry by detector name; at one entry and
//! detector, those of the clock before those of the tick, then by symbol. The
//! ordinal in an alert's id counts in this order.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    ingest::{Ingest, Routed},
    plugin::{Generation, params},
    shard::{Came, Faulted, Found, Worked},
};
use tickhound_core::{
    checkpoint::Visit,
    event::{Alert, Clock, DeadLetter, DetectorFault, Entries, EntryId},
    publish::raw_json,
    stream::Commit,
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
    saved: Vec<(Arc<str>, Arc<[u8]>)>,
    /// Whether it is a change of the generation: no entries either.
    swap: bool,
    /// Where the state of each detector of the new generation comes from.
    pub came: Vec<Came>,
    /// What the slowest shard needed for a visit or a swap.
    pub took: Duration,
    /// In force for its entries.
    pub generation: Arc<Generation>,
    /// Shards that have not answered yet.
    waiting: usize,
    undecodable: Vec<(u32, String)>,
    lost: Vec<EntryId>,
    /// Entries that must never be worked again.
    poison: Vec<EntryId>,
    found: Vec<Found>,
    held_back: u64,
    faulted: Vec<Faulted>,
}

/// How far the stream has been worked, and by what.
#[derive(Clone, Debug)]
pub struct Place {
    /// In force from here on.
    pub generation: Arc<Generation>,
    /// The newest entry.
    pub newest: EntryId,
    /// Entries ever added up to there, if known.
    pub index: Option<u64>,
    /// Event time there.
    pub clock: Clock,
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
            swap: false,
            came: Vec::new(),
            took: Duration::ZERO,
            generation: place.generation,
            waiting: routed.jobs.iter().flatten().count(),
            undecodable: std::mem::take(&mut routed.undecodable),
            lost: std::mem::take(&mut routed.lost),
            poison: Vec::new(),
            found: Vec::new(),
            held_back: 0,
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

    /// A change to the generation of `place` in `shards` shards.
    pub fn swap(read: u64, shards: usize, place: Place) -> Self {
        let flight = Self::new(read, Entries::default(), false, &mut Routed::default(), place);
        Self { swap: true, waiting: shards, ..flight }
    }

    /// Whether it is a change of the generation.
    pub fn is_swap(&self) -> bool {
        self.swap
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

    /// Bytes of the entries of the read.
    pub fn bytes(&self) -> usize {
        self.entries.bytes()
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
        self.held_back += worked.held_back;
        self.faulted.append(&mut worked.faulted);
        self.saved.append(&mut worked.saved);
        self.took = self.took.max(worked.took);
        // What is worst in any shard goes for all.
        self.came.resize(self.came.len().max(worked.came.len()), Came::Kept);
        self.came.iter_mut().zip(worked.came).for_each(|(all, one)| *all = one.max(*all));
    }

    /// Adds everything that the read caused to `commit`.
    pub fn settle(mut self, ingest: &Ingest, now_ms: u64, commit: &mut Commit) {
        let first_letter = commit.dead_letters.len();
        self.write_letters(commit);
        self.found.sort_by(|a, b| {
            let name = |found: &Found| ingest.symbol_name(found.symbol);
            (a.entry, a.detector, !a.on_clock, name(a)).cmp(&(b.entry, b.detector, !b.on_clock, name(b)))
        });
        let mut touched: Vec<EntryId> = commit.dead_letters[first_letter..].iter().map(|letter| letter.entry).collect();
        touched.append(&mut self.lost);
        let (mut ordinal, mut last) = (0, None);
        let found = std::mem::take(&mut self.found);
        commit.totals.held_back += self.held_back;
        for found in found {
            let spec = &self.generation.detectors[usize::from(found.detector)];
            if !commit.rates.may_alert(&spec.name, found.time, spec.settings.max_alerts_per_minute) {
                commit.totals.held_back += 1;
                continue;
            }
            let shadow_of = spec.settings.shadow_of.clone();
            let place = (found.entry, found.detector);
            ordinal = if last == Some(place) { ordinal + 1 } else { 0 };
            last = Some(place);
            let alert = self.alert(found, ordinal, ingest, now_ms);
            if shadow_of.is_empty() {
                commit.totals.alerts += 1;
                touched.push(alert.entry);
                commit.alerts.push(alert);
            } else {
                commit.totals.shadow_alerts += 1;
                commit.shadow_alerts.push((shadow_of, alert));
            }
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

    fn write_letters(&self, commit: &mut Commit) {
        let undecodable = self.undecodable.iter().map(|(index, reason)| (*index, reason.clone(), None));
        let faulted = self.faulted.iter().filter_map(|Faulted { detector, entry, fault, quarantined }| {
            let spec = &self.generation.detectors[usize::from(*detector)];
            let what_now = match quarantined {
                true => "that was one fault too many (plugins.faults): it is given no ticks for a while",
                false => "it went on with the next tick",
            };
            let manifest = &spec.plugin.manifest;
            let reason = format!("{fault}; {} {} did not see this tick; {what_now}", manifest.name, manifest.version);
            let blamed = DetectorFault {
                detector: spec.name.clone(),
                plugin: manifest.name.clone(),
                version: manifest.version.clone(),
                sha256: spec.plugin.sha256.clone(),
                params: params::to_json(&spec.params).to_string(),
            };
            Some(((*entry)?, reason, Some(blamed)))
        });
        let letters = commit.dead_letters.len();
        for (index, reason, blamed) in undecodable.chain(faulted) {
            let Some(entry) = self.entries.get(index as usize) else { continue };
            commit.dead_letters.push(DeadLetter { reason, entry: entry.id, blamed, raw: raw_json(&entry) });
        }
        commit.totals.lost += self.lost.len() as u64;
        commit.totals.dead += (commit.dead_letters.len() - letters) as u64;
    }

    fn alert(&self, found: Found, ordinal: u32, ingest: &Ingest, now_ms: u64) -> Alert {
        let stale_after_ms = self.generation.alerts.stale_after_ms;
        let spec = &self.generation.detectors[found.detector as usize];
        let entry = self.entries.get(found.entry as usize).map_or(EntryId::ZERO, |entry| entry.id);
        let lag_ms = now_ms.saturating_sub(entry.millis);
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
            stale: stale_after_ms > 0 && lag_ms > stale_after_ms,
        }
    }
}
