//! The pipeline from entries that were read to flights that are ready for their commit.
//!
//! What holds: flights are in stream order, with visits, swaps and evictions at their positions among the reads, and they
//! are taken out in that order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use anyhow::anyhow;
use tracing::{error, warn};

use super::{intake::Intake, warm_up::Warmed, workers::Workers};
use crate::{
    commit::{Flight, Frontier, Origin, VisitFlight},
    ingest::{Evicted, EvictionCause, Ingest, IngestPlan, Routed, VisitBases},
    pace::Pace,
    plugin::{GROUP_MARK, Generation},
    shard::{SavedSymbol, Task, UnpackedSymbol},
    stats::Stats,
};
use tickhound_core::{
    checkpoint::{BasesField, CHUNKS, Packer, SharedBases, arrived_ms},
    config::Config,
    decode::Decoder,
    event::{Clock, Entries, EntryId},
    normalize::{CalendarCounts, Normalizer},
    position::Position,
    stream::Commit,
};

/// Everything between read and commit.
pub(super) struct Pipeline {
    pub(super) ingest: Ingest,
    pub(super) workers: Workers,
    pub(super) position: Position,
    pub(super) intake: Intake,
    pub(super) pace: Pace,
    /// The generation that is active from the next batch on.
    generation: Arc<Generation>,
    /// What it wants of ingest beside ticks of symbols.
    plan: Option<Arc<IngestPlan>>,
    /// Entries of the last read: they are decoded and routed while the server works on the next step.
    fresh: Entries,
    flights: VecDeque<Flight>,
    /// The number of entries in `flights` and in a commit whose outcome is unknown.
    entries: usize,
    /// The number of the last read, visit, swap or eviction; replayed reads count too.
    number: u64,
    /// Symbols whose saved states were damaged. A warm-up may bring these back before they have a tick, even if others were
    /// evicted.
    damaged: BTreeSet<String>,
    pub(super) bases: SavedBases,
    stats: Arc<Stats>,
}

/// What is saved of bases.
#[derive(Default)]
pub(super) struct SavedBases {
    /// The fields that are saved.
    fields: Vec<BasesField>,
    /// The newest entry of each chunk's boundary, by chunk; of those that were visited by this host.
    newest: BTreeMap<u16, EntryId>,
}

impl SavedBases {
    /// Bases as they were saved, with the newest entry of the boundary of each chunk.
    pub(super) fn new(fields: Vec<BasesField>, newest: BTreeMap<u16, EntryId>) -> Self {
        Self { fields, newest }
    }

    /// Notes a visit. Returns the fields that no chunk refers to any more, and those that this one replaces: after a swap or an
    /// eviction at the same entry, what was saved before it may be otherwise.
    fn visited(&mut self, field: &BasesField, has_bases: bool) -> Vec<BasesField> {
        self.newest.extend(field.chunks.clone().map(|chunk| (chunk, field.newest)));
        let newest = &self.newest;
        let is_replaced = |of: &BasesField| {
            of.newest == field.newest && field.chunks.start <= of.chunks.start && of.chunks.end <= field.chunks.end
        };
        let is_unused = |of: &BasesField| of.chunks.clone().all(|chunk| newest.get(&chunk) != Some(&of.newest));
        let is_obsolete = |of: &mut BasesField| of != field && (is_replaced(of) || is_unused(of));
        let obsolete = self.fields.extract_if(.., is_obsolete).collect();
        if has_bases && !self.fields.contains(field) {
            self.fields.push(field.clone());
        }
        obsolete
    }
}

/// Entries that the workers were given to replay.
pub(super) struct Replaying {
    /// How many answers to expect.
    pub(super) answers: usize,
    /// What the symbols of each calendar had; empty if all symbols have the same one.
    pub(super) calendars: Vec<CalendarCounts>,
}

/// States that the workers were given to restore.
#[derive(Default)]
pub(super) struct Restoring {
    /// How many answers to expect.
    pub(super) answers: usize,
    /// Symbols whose states can't be read.
    pub(super) damaged: Vec<String>,
}

impl Pipeline {
    pub(super) fn new(
        config: &Config,
        decoder: Decoder,
        normalizer: Normalizer,
        generation: Arc<Generation>,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            ingest: Ingest::new(decoder, normalizer, config.engine.worker_count(), Clock::default())
                .with_symbols_max(config.engine.symbols_max),
            workers: Workers::new(config),
            position: Position::default(),
            intake: Intake::default(),
            pace: Pace::new(Duration::from_millis(config.engine.checkpoint_every_ms)),
            generation,
            plan: None,
            fresh: Entries::default(),
            flights: VecDeque::new(),
            entries: 0,
            number: 0,
            damaged: BTreeSet::new(),
            bases: SavedBases::default(),
            stats,
        }
    }

    /// Routes entries to the workers. After an entry with which there are too many symbols, or the feed's clock is known to
    /// have gone back, symbols are evicted before the next entry, whatever read that is in.
    pub(super) async fn submit(&mut self, mut entries: Entries, origin: Origin) {
        loop {
            self.number += 1;
            let routed = self.ingest.route_until_full(self.number, &entries);
            let rest = routed.full_after.map(|at| entries.split_off(at));
            self.submit_routed(entries, origin, routed).await;
            let Some(rest) = rest else { return };
            self.evict().await;
            if rest.is_empty() {
                return;
            }
            entries = rest;
        }
    }

    /// Evicts the longest silent symbols, if there are too many, or all of them, if the feed's clock went back.
    pub(super) async fn evict(&mut self) {
        let Some(evicted) = self.ingest.evict() else { return };
        report_evicted(&evicted);
        for name in &evicted.names {
            self.damaged.remove(&**name);
        }
        self.number += 1;
        let ids = evicted.ids.clone();
        self.flights.push_back(Flight::eviction(self.number, evicted, self.workers.shards().len(), self.frontier()));
        for shard in self.workers.shards() {
            shard.submit(Task::Evict { read: self.number, symbols: ids.clone() }).await;
        }
        // All states are saved right behind the eviction, and committed with it, so that no recovery replays across it.
        self.visit_all().await;
    }

    /// Notes that an eviction, and everything before it, needs the names of the evicted symbols no more.
    pub(super) fn evicted(&mut self, evicted: &Evicted) {
        // An observer knows symbols by their numbers, for the whole of a run.
        if self.workers.tape.is_none() {
            self.ingest.reuse(&evicted.ids);
        }
    }

    async fn submit_routed(&mut self, entries: Entries, origin: Origin, mut routed: Routed) {
        report_trimmed(&routed.lost);
        self.stats.untimed(routed.untimed);
        self.stats.normalized(&routed.repaired, &routed.calendars);
        let out_of_order = self.position.begin_processing(&entries);
        let flight = Flight::read(self.number, entries, origin, &mut routed, self.frontier());
        self.launch(flight, out_of_order);
        for (number, (shard, job)) in self.workers.shards().iter().zip(routed.jobs).enumerate() {
            if let Some(job) = job {
                self.stats.monitor.queued(number, job.rows());
                shard.submit(Task::Process(job)).await;
            }
        }
        if out_of_order {
            self.visit_all().await;
        }
    }

    /// Turns an entry into a dead letter without showing it to a worker.
    pub(super) async fn dead_letter(&mut self, entries: Entries, reason: String) {
        self.number += 1;
        let out_of_order = self.position.begin_processing(&entries);
        self.launch(Flight::dead_letter(self.number, entries, reason, self.frontier()), out_of_order);
        if out_of_order {
            self.visit_all().await;
        }
    }

    /// Has the states of these chunks saved as of all that was routed so far.
    pub(super) async fn visit(&mut self, chunks: Range<u16>) {
        self.number += 1;
        self.pace.started(&chunks);
        let venues = self.ingest.take_unsaved_venues(&chunks);
        let VisitBases { by_shard, shared } = self.ingest.visit(&chunks);
        let frontier = self.frontier();
        let field = BasesField { newest: frontier.newest, chunks: chunks.clone() };
        let mut shared = shared.map(Box::new);
        let obsolete = self.bases.visited(&field, shared.is_some());
        let shards = self.workers.shards();
        let visit = VisitFlight::new(chunks.clone(), venues, obsolete);
        self.flights.push_back(Flight::visit(self.number, visit, shards.len(), frontier));
        for (number, (shard, bases)) in shards.iter().zip(by_shard).enumerate() {
            // One worker packs what all depend on; which one changes, since that takes a while.
            let is_packer = number == usize::from(chunks.start) % shards.len();
            let shared = if is_packer { shared.take() } else { None };
            shard.submit(Task::Save { read: self.number, chunks: chunks.clone(), bases, shared }).await;
        }
    }

    /// Has all states saved as of all that was routed so far.
    pub(super) async fn visit_all(&mut self) {
        self.visit(0..CHUNKS).await;
    }

    /// Activates a generation between two batches: at the same position of the stream in every shard, with the detectors
    /// that were `warmed` up.
    pub(super) async fn swap(&mut self, generation: Arc<Generation>, warmed: Option<Warmed>) {
        let before = self.plan.clone();
        self.set_generation(generation);
        self.number += 1;
        let Self { workers, ingest, generation, number, damaged, .. } = self;
        let none_evicted = ingest.has_evicted_none();
        let mut taken_over = Vec::new();
        let mut detectors = Vec::new();
        if let Some(mut warmed) = warmed {
            // The warm-up has also seen symbols that were evicted here. They must not come back: they would take the room of
            // others, and what the other detectors see would depend on the warm-up.
            if ingest.clock() == Clock::default() {
                // Nothing was processed yet: event time goes on from the last entry that the detectors were shown.
                ingest.reset_clock(warmed.ingest.clock());
            }
            let may_meet = |name: &str| none_evicted || damaged.contains(name);
            taken_over = ingest.take_over(&mut warmed.ingest, before.as_deref(), *number, may_meet);
            detectors = warmed.detectors;
        }
        let (mut taken_over, mut detectors) = (taken_over.into_iter(), detectors.into_iter());
        let tasks: Vec<Task> = (0..workers.shards().len())
            .map(|_| {
                let taken_over = taken_over.next().unwrap_or_default();
                let warmed = detectors.next().unwrap_or_default();
                Task::Swap { read: *number, generation: generation.clone(), taken_over, warmed }
            })
            .collect();
        self.flights.push_back(Flight::swap(self.number, tasks.len(), self.frontier()));
        for (shard, task) in self.workers.shards().iter().zip(tasks) {
            shard.submit(task).await;
        }
        // All states are saved right behind the change, and committed with it: what was processed before it is never
        // replayed by what came with it.
        self.visit_all().await;
        self.evict().await;
    }

    /// Has the workers process entries that were committed before.
    pub(super) async fn replay(&mut self, entries: &Entries) -> Replaying {
        self.number += 1;
        let routed = self.ingest.route(self.number, entries);
        let mut answers = 0;
        for (shard, job) in self.workers.shards().iter().zip(routed.jobs) {
            if let Some(job) = job {
                shard.submit(Task::Replay(job)).await;
                answers += 1;
            }
        }
        Replaying { answers, calendars: routed.calendars }
    }

    /// Notes symbols whose saved states were dropped because they are damaged.
    pub(super) fn note_damaged(&mut self, symbols: &[String]) {
        self.damaged.extend(symbols.iter().cloned());
    }

    /// Interns symbols with saved states and divides them by shard. Their ticks are skipped until they are restored. The
    /// newest entry that was processed arrived at `newest_ms`.
    pub(super) fn divide(&mut self, symbols: Vec<(String, Vec<u8>)>, newest_ms: u64) -> Vec<Vec<SavedSymbol>> {
        let mut shares: Vec<Vec<SavedSymbol>> = self.workers.shards().iter().map(|_| Vec::new()).collect();
        for (name, packed) in symbols {
            let (id, shard) = self.ingest.await_state(&name, arrived_ms(&packed).unwrap_or(newest_ms));
            shares[shard].push(SavedSymbol { id, name: Arc::from(name), packed, newest_ms });
        }
        shares
    }

    /// Continues what the owners of these names depend on, as of their boundary.
    pub(super) fn restore_bases(&mut self, names: &[&str], bases: Option<&SharedBases>) {
        self.ingest.restore_bases(names, bases);
    }

    /// Has each worker restore its share, and continues the normalizers of its symbols.
    pub(super) async fn restore(&mut self, shares: Vec<Vec<SavedSymbol>>) -> Restoring {
        // On threads of their own: to unpack states takes most of the time, and the workers may still replay.
        let unpacking: Vec<_> =
            shares.into_iter().map(|share| tokio::task::spawn_blocking(move || unpack(share))).collect();
        let mut restoring = Restoring::default();
        for (number, (shard, unpacked)) in self.workers.shards().iter().zip(unpacking).enumerate() {
            let symbols = self.stats.waiting(unpacked).await.expect("unpacking does not panic, and nobody aborts it");
            for UnpackedSymbol { saved, state } in &symbols {
                match state {
                    Ok(state) => self.ingest.restored(saved.id, state.normalizer.clone(), &state.series),
                    Err(_) => {
                        self.ingest.restored(saved.id, None, &[]);
                        restoring.damaged.push(saved.name.to_string());
                    }
                }
            }
            let groups = symbols.iter().filter(|UnpackedSymbol { saved, .. }| saved.name.starts_with(GROUP_MARK));
            let groups = groups.map(|UnpackedSymbol { saved, .. }| saved.id).collect();
            let members = self.ingest.unknown_members(&groups, number);
            shard.submit(Task::Restore { symbols, members }).await;
            restoring.answers += 1;
        }
        restoring
    }

    /// Has every state saved again with the next visits, since the server has lost what was saved.
    pub(super) async fn save_anew(&mut self) {
        self.pace.restart();
        self.ingest.save_venues_anew();
        for shard in self.workers.shards() {
            shard.submit(Task::SaveAnew).await;
        }
        self.visit_all().await;
    }

    /// Restarts the workers without any state, with this generation, and drops what is in flight.
    pub(super) fn restart(&mut self, generation: Arc<Generation>) -> anyhow::Result<()> {
        self.flights.clear();
        self.damaged.clear();
        self.entries = 0;
        self.pace.restart();
        self.set_generation(generation);
        self.workers.restart(&self.generation)?;
        self.stats.monitor.started(self.workers.shards().len());
        Ok(())
    }

    /// The flight of this number; `None` if it was dropped.
    pub(super) fn flight_mut(&mut self, number: u64) -> Option<&mut Flight> {
        self.flights.iter_mut().find(|flight| flight.number() == number)
    }

    /// Takes out the first flight if it can be committed: commits are in stream order.
    pub(super) fn pop_ready(&mut self) -> Option<Flight> {
        let is_ready = |at: usize| self.flights.get(at).is_some_and(Flight::is_ready);
        if !is_ready(0) || (self.flights[0].needs_visit() && !is_ready(1)) {
            return None;
        }
        self.flights.pop_front()
    }

    /// How long the slowest shard took for the first flight.
    pub(super) fn first_took(&self) -> Duration {
        self.flights.front().map_or(Duration::ZERO, Flight::took)
    }

    /// Notes a commit that is known to have happened.
    pub(super) fn committed(&mut self, commit: &Commit) {
        self.position.confirm(commit);
        self.entries -= commit.done.len();
    }

    /// Keeps entries that were read until the server works on the next step.
    pub(super) fn set_fresh(&mut self, entries: Entries) {
        self.fresh = entries;
    }

    /// Takes the entries of the last read.
    pub(super) fn take_fresh(&mut self) -> Entries {
        std::mem::take(&mut self.fresh)
    }

    /// Whether entries were read and not routed yet.
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Whether flights wait for workers or for their commit.
    pub(super) fn has_flights(&self) -> bool {
        !self.flights.is_empty()
    }

    /// Whether nothing is between read and commit.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.fresh.is_empty()
    }

    /// Whether workers have not answered yet for all of this read.
    pub(super) fn is_with_workers(&self, number: u64) -> bool {
        self.flights.iter().any(|flight| flight.number() == number && !flight.is_ready())
    }

    /// Whether entries that were delivered before are in flight.
    pub(super) fn has_recovered(&self) -> bool {
        self.flights.iter().any(Flight::is_recovered)
    }

    /// The generation that is active from the next batch on.
    pub(super) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The number that the next read gets.
    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    /// The number of entries that were routed and are not committed.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// The number of entries by which the backlog is below its limit.
    pub(super) fn free(&self) -> usize {
        self.generation.flow.backlog.saturating_sub(self.entries + self.fresh.len())
    }

    /// The size of the entries between read and commit in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.fresh.bytes() + self.flights.iter().map(Flight::bytes).sum::<usize>()
    }

    /// The ids of the routed entries that are not committed, those of a commit whose outcome is unknown included.
    pub(super) fn ids(&self) -> BTreeSet<EntryId> {
        let open = self.position.unknown_entries().iter().copied();
        self.flights.iter().flat_map(Flight::ids).chain(open).collect()
    }

    /// When the oldest entry in flight arrived, in milliseconds since the Unix epoch.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        self.flights.iter().find_map(|flight| flight.ids().next()).map(|id| id.millis)
    }

    fn set_generation(&mut self, generation: Arc<Generation>) {
        self.ingest.set_session_columns(generation.detectors.iter().any(|spec| spec.wants_session()));
        self.plan = IngestPlan::of(&generation).map(Arc::new);
        self.ingest.set_plan(self.plan.clone());
        self.generation = generation;
    }

    fn frontier(&self) -> Frontier {
        Frontier {
            generation: self.generation.clone(),
            newest: self.position.newest(),
            index: self.position.index(),
            clock: self.ingest.clock(),
        }
    }

    fn launch(&mut self, mut flight: Flight, out_of_order: bool) {
        if out_of_order {
            flight.mark_out_of_order();
        }
        self.stats.submitted(flight.ticks());
        self.entries += flight.entries();
        self.pace.processed(flight.entries());
        self.flights.push_back(flight);
    }
}

/// Unpacks states. Without memory for that, none of them can be read.
fn unpack(share: Vec<SavedSymbol>) -> Vec<UnpackedSymbol> {
    if share.is_empty() {
        return Vec::new();
    }
    let mut packer = match Packer::new() {
        Ok(packer) => packer,
        Err(error) => {
            let unread =
                |saved| UnpackedSymbol { saved, state: Err(anyhow!("failed to start the decompressor: {error}")) };
            return share.into_iter().map(unread).collect();
        }
    };
    share.into_iter().map(|saved| saved.unpack(&mut packer)).collect()
}

fn report_evicted(evicted: &Evicted) {
    let symbols = evicted.names.len();
    match evicted.cause {
        EvictionCause::TooMany => warn!(
            event = "symbols_evicted",
            symbols,
            "there are more symbols than engine.symbols_max; forgot those without a tick for the longest time. They begin \
             as new symbols when they come back."
        ),
        EvictionCause::ClockSetBack { from, to } => warn!(
            event = "clock_set_back",
            symbols,
            back_s = (from - to) / 1_000_000_000,
            "the feed's clock went back and stays back; following it. All symbols begin as new ones. If no recorded day is \
             being replayed, check the clocks and time zones of the producers."
        ),
    }
}

/// Logs entries whose body was trimmed before they were processed.
pub(super) fn report_trimmed(lost: &[EntryId]) {
    if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
        error!(
            event = "pending_entries_trimmed",
            entries = lost.len(),
            %first,
            %last,
            "entries were trimmed from the stream before they were processed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A visit, then a swap at the same entry, then a kill: which of both fields a recovery went by was chance.
    #[test]
    fn a_visit_replaces_what_was_saved_at_the_same_entry() {
        let field = |millis, chunks| BasesField { newest: EntryId { millis, seq: 0 }, chunks };
        let mut bases = SavedBases::default();
        assert_eq!(bases.visited(&field(4, 0..CHUNKS), true), []);
        assert_eq!(bases.visited(&field(5, 0..8), true), []);
        assert_eq!(bases.visited(&field(5, 8..16), true), [], "another part of the chunks");
        let replaced = bases.visited(&field(5, 0..CHUNKS), true);
        assert_eq!(replaced, [field(4, 0..CHUNKS), field(5, 0..8), field(5, 8..16)]);
        assert_eq!(bases.visited(&field(5, 0..CHUNKS), true), []);
        assert_eq!(bases.fields, [field(5, 0..CHUNKS)]);
    }
}
