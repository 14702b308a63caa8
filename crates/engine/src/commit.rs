//! Turns the answers of the shards into commits, with one order of alerts whatever the number of workers.
//!
//! Alerts are ordered by entry, then by detector name. Within one entry and detector, alerts of clock rows come before
//! those of ticks, and then the symbol decides. The ordinal in an alert's id counts in this order.

use std::{ops::Range, sync::Arc, time::Duration};

use crate::{
    ingest::{Evicted, Ingest, Place, Routed},
    plugin::{DetectorSpec, GROUP_MARK, Generation, params},
    shard::{Answer, FaultReport, Processing, ResolvedDetection, SavedOwners, StateOrigin, TaskOutcome},
};
use tickhound_core::{
    checkpoint::{BasesField, Visit},
    config::AlertsConfig,
    event::{Alert, AlertOrigin, Clock, DeadLetter, DetectorFault, Entries, EntryId},
    publish::raw_json,
    stream::{Commit, LeftOut, LimitOrigin, OverLimit},
    venue,
};

/// A read, a visit, a swap or an eviction on its way through the shards to its commit.
pub struct Flight {
    number: u64,
    frontier: Frontier,
    /// Shards that have not answered yet.
    waiting: usize,
    took: Duration,
    payload: Payload,
}

/// What a flight is.
pub enum Payload {
    /// Entries that were read.
    Read(Box<ReadFlight>),
    /// A visit: states of these chunks are saved. It ends its commit, since states are as of the end of a commit.
    Visit(VisitFlight),
    /// A change of the generation, with where the state of each of its detectors comes from.
    Swap(Vec<StateOrigin>),
    /// Symbols that are forgotten. Their saved states are deleted with the visit behind it.
    Eviction(Evicted),
}

/// Entries on their way to their commit.
pub struct ReadFlight {
    entries: Entries,
    ticks: usize,
    origin: Origin,
    out_of_order: bool,
    undecodable: Vec<(u32, String)>,
    lost: Vec<EntryId>,
    /// Entries that must never be processed again.
    poison: Vec<EntryId>,
    found: Vec<ResolvedDetection>,
    left_out: Vec<(u16, LeftOut)>,
    faulted: Vec<FaultReport>,
}

/// Saved states on their way to their commit.
pub struct VisitFlight {
    chunks: Range<u16>,
    saved: Vec<(Arc<str>, Arc<[u8]>)>,
    /// Symbols with the venue that they come from.
    venues: Vec<(Arc<str>, Arc<str>)>,
    /// What the visited owners depend on, packed.
    bases: Option<Vec<u8>>,
    /// Fields with bases that no chunk refers to any more.
    obsolete: Vec<BasesField>,
}

/// How often entries were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The entries were delivered for the first time.
    New,
    /// The entries were delivered before, to a host that ended or lost an answer.
    Recovered,
}

/// How far the stream has been routed to the shards, and under which generation.
#[derive(Clone, Debug)]
pub struct Frontier {
    /// The generation that is active from here on.
    pub generation: Arc<Generation>,
    /// The newest entry.
    pub newest: EntryId,
    /// The number of entries ever added up to that one, if it is known.
    pub index: Option<u64>,
    /// The event time there.
    pub clock: Clock,
}

impl Flight {
    /// A read that has been routed up to `frontier`.
    pub fn read(number: u64, entries: Entries, origin: Origin, routed: &mut Routed, frontier: Frontier) -> Self {
        let read = ReadFlight {
            entries,
            ticks: routed.ticks,
            origin,
            out_of_order: false,
            undecodable: std::mem::take(&mut routed.undecodable),
            lost: std::mem::take(&mut routed.lost),
            poison: Vec::new(),
            found: Vec::new(),
            left_out: Vec::new(),
            faulted: Vec::new(),
        };
        let waiting = routed.jobs.iter().flatten().count();
        Self::new(number, frontier, waiting, Payload::Read(Box::new(read)))
    }

    /// An entry that becomes a dead letter for `reason` without being shown to a shard.
    pub(crate) fn dead_letter(number: u64, entries: Entries, reason: String, frontier: Frontier) -> Self {
        let poison = entries.first().into_iter().collect();
        let mut routed = Routed { undecodable: vec![(0, reason)], ..Routed::default() };
        let mut flight = Self::read(number, entries, Origin::Recovered, &mut routed, frontier);
        if let Payload::Read(read) = &mut flight.payload {
            read.poison = poison;
        }
        flight
    }

    /// A visit of `shards` shards.
    pub(crate) fn visit(number: u64, visit: VisitFlight, shards: usize, frontier: Frontier) -> Self {
        Self::new(number, frontier, shards, Payload::Visit(visit))
    }

    /// A change of `shards` shards to the generation of `frontier`.
    pub fn swap(number: u64, shards: usize, frontier: Frontier) -> Self {
        Self::new(number, frontier, shards, Payload::Swap(Vec::new()))
    }

    /// An eviction in `shards` shards.
    pub fn eviction(number: u64, evicted: Evicted, shards: usize, frontier: Frontier) -> Self {
        Self::new(number, frontier, shards, Payload::Eviction(evicted))
    }

    /// Marks a read as older than entries that were processed before it.
    ///
    /// It is committed together with the visit behind it, whose states know of its entries: a recovery that replays the
    /// stream would meet them in another order.
    pub(crate) fn mark_out_of_order(&mut self) {
        if let Payload::Read(read) = &mut self.payload {
            read.out_of_order = true;
        }
    }

    /// Takes the answer of a shard.
    pub fn accept(&mut self, answer: Answer) {
        debug_assert!(self.waiting > 0, "a shard answers each job once");
        self.waiting -= 1;
        self.took = self.took.max(answer.took);
        match (&mut self.payload, answer.outcome) {
            (Payload::Read(read), TaskOutcome::Processed(processing)) => {
                read.accept(processing, answer.incidents.faulted);
            }
            (Payload::Visit(visit), TaskOutcome::Saved(SavedOwners { mut states, shared })) => {
                visit.saved.append(&mut states);
                visit.bases = visit.bases.take().or(shared);
            }
            (Payload::Swap(origins), TaskOutcome::Swapped(of_shard)) => {
                // The worst of all shards counts.
                origins.resize(origins.len().max(of_shard.len()), StateOrigin::Unchanged);
                origins.iter_mut().zip(of_shard).for_each(|(all, one)| *all = one.max(*all));
            }
            (Payload::Eviction(_), TaskOutcome::Evicted) => {}
            _ => debug_assert!(false, "an answer is of the kind of its task"),
        }
    }

    /// Adds a read or a visit to `commit`. `ingest` has routed it, and has the name and the venue of each symbol.
    pub fn add_to(self, ingest: &Ingest, now_ms: u64, commit: &mut Commit) {
        let Self { frontier, payload, number, .. } = self;
        match payload {
            Payload::Read(read) => {
                commit.layout = frontier.generation.layout.clone();
                read.add_to(&Context { generation: &frontier.generation, ingest, number, now_ms }, commit);
            }
            Payload::Visit(VisitFlight { chunks, saved, venues, bases, obsolete }) => {
                let field = BasesField { newest: frontier.newest, chunks: chunks.clone() };
                let bases = bases.map(|packed| (field, packed));
                commit.visit = Some(Visit { chunks, symbols: saved, venues, bases, obsolete, ..Visit::default() });
            }
            // They are not written down: the states of the visit behind them are.
            Payload::Swap(_) | Payload::Eviction(_) => return,
        }
        commit.clock = frontier.clock;
        (commit.newest, commit.index) = (frontier.newest, frontier.index);
    }

    /// What the flight is.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The number of the flight; reads, visits, swaps and evictions are counted together.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The longest time that a shard took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// The generation that is active for its entries.
    pub fn generation(&self) -> &Arc<Generation> {
        &self.frontier.generation
    }

    /// Whether every shard has answered.
    pub fn is_ready(&self) -> bool {
        self.waiting == 0
    }

    /// Whether the flight is committed together with the visit behind it.
    pub(crate) fn needs_visit(&self) -> bool {
        match &self.payload {
            Payload::Read(read) => read.out_of_order,
            Payload::Visit(_) => false,
            Payload::Swap(_) | Payload::Eviction(_) => true,
        }
    }

    /// Whether its entries were delivered before.
    pub(crate) fn is_recovered(&self) -> bool {
        matches!(&self.payload, Payload::Read(read) if read.origin == Origin::Recovered)
    }

    /// The ids of its entries.
    pub fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        self.read_entries().into_iter().flat_map(|entries| entries.iter().map(|entry| entry.id))
    }

    /// The number of its entries.
    pub fn entries(&self) -> usize {
        self.read_entries().map_or(0, Entries::len)
    }

    /// The number of its ticks that went to shards.
    pub fn ticks(&self) -> usize {
        if let Payload::Read(read) = &self.payload { read.ticks } else { 0 }
    }

    /// The size of its entries in bytes.
    pub fn bytes(&self) -> usize {
        self.read_entries().map_or(0, Entries::bytes)
    }

    fn new(number: u64, frontier: Frontier, waiting: usize, payload: Payload) -> Self {
        Self { number, frontier, waiting, took: Duration::ZERO, payload }
    }

    fn read_entries(&self) -> Option<&Entries> {
        if let Payload::Read(read) = &self.payload { Some(&read.entries) } else { None }
    }
}

impl VisitFlight {
    /// A visit to `chunks`, with the venues that are saved with their states, and the fields with bases that no chunk refers to
    /// then.
    pub(crate) fn new(chunks: Range<u16>, venues: Vec<(Arc<str>, Arc<str>)>, obsolete: Vec<BasesField>) -> Self {
        Self { chunks, saved: Vec::new(), venues, bases: None, obsolete }
    }

    /// The number of symbols whose states were saved.
    pub fn symbols(&self) -> usize {
        self.saved.len()
    }
}

impl ReadFlight {
    fn accept(&mut self, mut processing: Processing, mut faulted: Vec<FaultReport>) {
        self.found.append(&mut processing.found);
        self.left_out.append(&mut processing.left_out);
        self.faulted.append(&mut faulted);
    }

    /// Adds everything that the read caused to `commit`.
    fn add_to(mut self, context: &Context<'_>, commit: &mut Commit) {
        let Context { generation, ingest, .. } = *context;
        let names = ingest.symbol_names();
        let first_letter = commit.dead_letters.len();
        self.write_letters(generation, commit);
        // Indexes of detectors in a generation are in the order of their names.
        self.found.sort_by(|a, b| {
            let name = |found: &ResolvedDetection| symbol_name(names, found.owner);
            (a.entry, a.detector, !a.on_clock, name(a)).cmp(&(b.entry, b.detector, !b.on_clock, name(b)))
        });
        let mut touched: Vec<EntryId> = commit.dead_letters[first_letter..].iter().map(|letter| letter.entry).collect();
        touched.append(&mut self.lost);
        let (mut ordinal, mut last) = (0, None);
        let found = std::mem::take(&mut self.found);
        for (detector, left_out) in std::mem::take(&mut self.left_out) {
            leave_out(&generation.detectors[usize::from(detector)].name, &left_out, commit);
        }
        for found in found {
            let spec = &generation.detectors[usize::from(found.detector)];
            if !may_alert(spec, found.time, &generation.alerts, commit) {
                leave_out(&spec.name, &LeftOut { per_minute: 1, ..LeftOut::default() }, commit);
                continue;
            }
            let shadow_of = spec.settings.shadow_of.clone();
            // Ordinals count within one entry and detector.
            let pair = (found.entry, found.detector);
            ordinal = if last == Some(pair) { ordinal + 1 } else { 0 };
            last = Some(pair);
            let alert = self.alert(found, ordinal, context);
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
        commit.ticks += self.ticks as u64;
        commit.totals.entries += self.entries.len() as u64;
        commit.totals.quiet += (self.entries.len() - touched.len()) as u64;
        commit.done.extend(self.entries.iter().map(|entry| entry.id));
        commit.poison.append(&mut self.poison);
    }

    fn write_letters(&self, generation: &Generation, commit: &mut Commit) {
        let undecodable = self.undecodable.iter().map(|(index, reason)| (*index, reason.clone(), None));
        // A fault without an entry is only logged: there is no tick to dead-letter.
        let faulted = self.faulted.iter().filter_map(|faulted| {
            let entry = faulted.entry?;
            let (reason, blamed) = blame(faulted, generation);
            Some((entry, reason, Some(blamed)))
        });
        let letters = commit.dead_letters.len();
        for (index, reason, blamed) in undecodable.chain(faulted) {
            let Some(entry) = self.entries.get(index as usize) else { continue };
            commit.dead_letters.push(DeadLetter { reason, entry: entry.id, blamed, raw: raw_json(&entry) });
        }
        commit.totals.lost += self.lost.len() as u64;
        commit.totals.dead += (commit.dead_letters.len() - letters) as u64;
    }

    fn alert(&self, found: ResolvedDetection, ordinal: u32, context: &Context<'_>) -> Alert {
        let Context { generation, ingest, number, now_ms } = *context;
        let stale_after_ms = generation.alerts.stale_after_ms;
        let spec = &generation.detectors[found.detector as usize];
        let entry = self.entries.get(found.entry as usize).map_or(EntryId::ZERO, |entry| entry.id);
        let lag_ms = now_ms.saturating_sub(entry.millis);
        let names = ingest.symbol_names();
        let symbol = shown_name(symbol_name(names, found.symbol));
        let group = symbol_name(names, found.owner).starts_with(GROUP_MARK);
        let group = if group { shown_name(symbol_name(names, found.owner)) } else { "" };
        let members = found.members.iter().map(|id| symbol_name(names, *id).to_owned()).collect();
        let venue = ingest.venue_at(found.symbol, Place { read: number, entry: found.entry });
        Alert {
            id: format!("{entry}/{}/{ordinal}", spec.name),
            detector: spec.name.clone(),
            plugin: spec.plugin.manifest.name.clone(),
            version: spec.plugin.manifest.version.clone(),
            origin: AlertOrigin {
                reference: generation.market.reference().code().to_owned(),
                ..spec.alert_origin(generation.number)
            },
            symbol: symbol.to_owned(),
            group: group.to_owned(),
            members,
            venue: venue.or(venue::split(symbol).0).unwrap_or_default().to_owned(),
            time: found.time,
            price: found.price,
            confidence: found.confidence,
            direction: found.direction,
            evidence: found.evidence,
            entry,
            lag_ms,
            recovered: self.origin == Origin::Recovered,
            stale: stale_after_ms > 0 && lag_ms > stale_after_ms,
        }
    }
}

/// Returns whether a detector may raise an alert now, and counts the alert. Its own limit goes before that of `[alerts]`.
fn may_alert(spec: &DetectorSpec, time: u64, alerts: &AlertsConfig, commit: &mut Commit) -> bool {
    let own = spec.settings.max_alerts_per_minute;
    let (most, origin) =
        if own > 0 { (own, LimitOrigin::Detector) } else { (alerts.max_per_minute(), LimitOrigin::Alerts) };
    let may_alert = commit.rates.may_alert(&spec.name, time, most);
    if !may_alert {
        let over = commit.over_limit.entry(spec.name.clone()).or_insert(OverLimit { count: 0, most, origin });
        *over = OverLimit { count: over.count + 1, most, origin };
    }
    may_alert
}

/// Counts detections that do not become alerts.
fn leave_out(detector: &str, left_out: &LeftOut, commit: &mut Commit) {
    commit.totals.below_min_confidence += left_out.min_confidence;
    commit.totals.held_back += left_out.held_back();
    match commit.left_out.get_mut(detector) {
        Some(sum) => sum.add(left_out),
        None => drop(commit.left_out.insert(detector.to_owned(), *left_out)),
    }
}

/// What alerts are made with.
struct Context<'a> {
    generation: &'a Generation,
    /// Has the name and the venue of each symbol by its number.
    ingest: &'a Ingest,
    /// The number of the read.
    number: u64,
    now_ms: u64,
}

/// The reason in a dead letter of a failed call, and the detector that failed.
fn blame(faulted: &FaultReport, generation: &Generation) -> (String, DetectorFault) {
    let FaultReport { detector, fault, quarantined, .. } = faulted;
    let spec = &generation.detectors[usize::from(*detector)];
    let what_now = if *quarantined {
        "the fault budget (plugins.faults) is exceeded: the detector is quarantined and receives no ticks for now"
    } else {
        "the detector continued with the next tick"
    };
    let manifest = &spec.plugin.manifest;
    let reason = format!("{fault}; {} {} did not process this tick; {what_now}", manifest.name, manifest.version);
    let blamed = DetectorFault {
        detector: spec.name.clone(),
        plugin: manifest.name.clone(),
        version: manifest.version.clone(),
        sha256: spec.plugin.sha256.clone(),
        params: params::to_json(&spec.params).to_string(),
    };
    (reason, blamed)
}

/// The name of a symbol or group as alerts have it.
fn shown_name(interned: &str) -> &str {
    let Some(name) = interned.strip_prefix(GROUP_MARK) else { return interned };
    name.split_once('/').map_or(name, |(_, name)| name)
}

fn symbol_name(names: &[Arc<str>], symbol: u32) -> &str {
    names.get(symbol as usize).map_or("", |name| name)
}
