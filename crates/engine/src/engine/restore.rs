//! Back to what was known at the last commit: saved states, and the entries since then once more.
//!
//! Chunks of the saved state are of different ages. The stream is re-read from the oldest on, and
//! each chunk restored when its place is reached; until then the ticks of its symbols are left out.
//! What the detectors find meanwhile was published by whoever found it first.
//!
//! What holds: a state is never fed an entry that it knows. So states without a place in the stream are dropped, and
//! whoever lacks one warms up again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::Engine;
use crate::{
    plugin::DetectorSpec,
    shard::{SavedSymbol, Task, Worked},
};
use tickhound_core::{
    checkpoint::{Boundary, CHUNKS, LastVisit, SavedStates, chunk_of, is_forgotten},
    event::{Entries, EntryId},
    stream::{Acquisition, Stream, StreamError},
};

/// Entries re-read in one go; so large that the server's answer is no wait, so small that it is no burden.
const PAGE: usize = 2000;

/// Tasks that may wait in a shard while the next page is fetched.
const AHEAD: usize = 4;

/// Long recoveries tell how far they are.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How the saved state is put together again.
struct Plan {
    /// Where re-reading begins.
    start: Boundary,
    /// Symbols to restore at each boundary.
    stops: BTreeMap<EntryId, Vec<(String, Vec<u8>)>>,
    /// Symbols that are not worth keeping.
    forgotten: Vec<String>,
    /// Symbols whose states have no place in the stream.
    misplaced: Vec<String>,
    /// Chunks whose boundary is damaged.
    damaged: usize,
}

/// A recovery under way.
struct Progress {
    started: Instant,
    told: Instant,
    expected: u64,
    replayed: u64,
    /// Answers of shards that are still to come.
    waiting: usize,
    /// Entries that are not to be worked now: pending ones will be later, poison never.
    left_out: BTreeSet<EntryId>,
    /// Symbols whose states were dropped because they could not be read.
    dropped: Vec<String>,
}

impl Progress {
    fn new(expected: u64, left_out: BTreeSet<EntryId>) -> Self {
        let now = Instant::now();
        Self { started: now, told: now, expected, replayed: 0, waiting: 0, left_out, dropped: Vec::new() }
    }
}

impl<S: Stream> Engine<S> {
    /// Makes the shards know what they knew at the last commit. `false`: told to stop meanwhile.
    pub(super) async fn restore(
        &mut self,
        acquired: &Acquisition,
        stop: &watch::Receiver<bool>,
    ) -> Result<bool, StreamError> {
        self.ingest.reset(acquired.clock);
        let saved = self.stats.waiting(self.stream.saved()).await?;
        let Some(last) = acquired.newest else {
            // Nothing was ever worked, or nobody knows of it any more: every chunk begins here, without what is saved.
            self.poison = saved.poison;
            self.forgotten = saved.symbols.into_iter().map(|(name, _)| name).collect();
            self.visit(0..CHUNKS).await;
            return Ok(true);
        };
        let worked = acquired.totals.entries - acquired.totals.lost;
        let end = Boundary { newest: last, worked, clock: acquired.clock, at_ms: 0 };
        if acquired.began_anew {
            self.restore_without_history(saved, end).await;
            return Ok(true);
        }
        let mut left_out = self.stats.waiting(self.stream.pending(EntryId::ZERO, last)).await?;
        let (poison, symbols) = (saved.poison.clone(), saved.symbols.len());
        let Plan { start, stops, forgotten, misplaced, damaged } = plan(saved, end);
        // A warm-up reads on from before every boundary: what the stream still holds must not be forgotten.
        let gone = |id: &EntryId| *id <= start.newest && acquired.oldest.is_none_or(|oldest| *id < oldest);
        self.passed = poison.iter().copied().filter(gone).collect();
        left_out.extend(&poison);
        self.poison = poison;
        self.forgotten = forgotten;

        let mut stops: Vec<(EntryId, Vec<Vec<SavedSymbol>>)> =
            stops.into_iter().map(|(at, symbols)| (at, self.deal_out(symbols, last.millis))).collect();
        stops.push((last, Vec::new()));
        self.ingest.reset_clock(start.clock);
        let mut progress = Progress::new(worked.saturating_sub(start.worked), left_out);
        let mut cursor = start.newest;
        for (at, shares) in stops {
            if !self.replay(cursor, at, stop, &mut progress).await? {
                return Ok(false);
            }
            cursor = cursor.max(at);
            self.restore_shares(shares, &mut progress).await;
        }
        self.settle_replayed(0, &mut progress).await;
        self.ingest.reset_clock(acquired.clock);
        let gap = progress.expected.saturating_sub(progress.replayed);
        if self.count_gap(gap) {
            error!(
                event = "state_gap",
                entries = gap,
                after = %start.newest,
                through = %last,
                "entries that detectors had processed were trimmed before the detectors' state was saved; continuing \
                 without them. Keep more entries in the stream."
            );
        }
        tell_restored(symbols, &progress);
        let is_damaged = damaged > 0 || !progress.dropped.is_empty();
        self.drop_misplaced(misplaced, damaged);
        self.forget_damaged(progress.dropped);
        if self.tell_reread_by_others(acquired, progress.replayed) || is_damaged {
            // From here on every chunk is of the present detectors, and what was dropped is gone.
            self.visit(0..CHUNKS).await;
        }
        Ok(true)
    }

    /// Counts entries that detectors knew and can't be shown again. Whether there are any.
    fn count_gap(&mut self, entries: u64) -> bool {
        self.totals.state_gap += entries;
        entries > 0
    }

    /// States whose boundary is damaged are as of nobody knows when: to feed them the stream would have them see twice
    /// what they know.
    fn drop_misplaced(&mut self, misplaced: Vec<String>, chunks: usize) {
        if chunks == 0 {
            return;
        }
        error!(
            event = "boundary_damaged",
            chunks,
            symbols = misplaced.len(),
            "the boundary of saved states is damaged, so their position in the stream is unknown; dropped the states, \
             and all detectors are incomplete (plugins.rewarm_s says whether they warm up again)"
        );
        self.forget_damaged(misplaced);
        let generation = self.generation.clone();
        generation.detectors.iter().for_each(|spec| self.lacks(&spec.name, 0));
    }

    /// What is saved of these symbols goes with the next visit.
    fn forget_damaged(&mut self, symbols: Vec<String>) {
        self.stats.monitor.damaged_states.fetch_add(symbols.len() as u64, Relaxed);
        self.forgotten.extend(symbols);
    }

    /// Tells which detectors have re-read what they had processed as something else. Whether there are any.
    fn tell_reread_by_others(&self, acquired: &Acquisition, entries: u64) -> bool {
        let differs = |spec: &&Arc<DetectorSpec>| {
            acquired.made_by.get(&spec.name).is_some_and(|made_by| *made_by != spec.fingerprint())
        };
        let changed: Vec<&str> =
            self.generation.detectors.iter().filter(differs).map(|spec| spec.name.as_str()).collect();
        if !changed.is_empty() && entries > 0 {
            warn!(
                event = "replayed_by_changed_detector",
                detectors = changed.join(", "),
                entries,
                "a detector was changed while no host was running, and replayed entries that were processed before the \
                 change; its state may differ from that of an undisturbed run. Change a detector while a host runs, or \
                 stop the host with `tickhound stop` first."
            );
        }
        !changed.is_empty()
    }

    /// The stream that the states are of is gone: they are taken as they are, and saved again as of the beginning of
    /// the one that there is now. `end` is the last commit.
    async fn restore_without_history(&mut self, saved: SavedStates, end: Boundary) {
        self.passed.clone_from(&saved.poison);
        self.poison = Vec::new();
        let Plan { start, stops, forgotten, misplaced, damaged } = plan(saved, end);
        self.forgotten = forgotten;
        let shares = self.deal_out(stops.into_values().flatten().collect(), end.newest.millis);
        let mut progress = Progress::new(0, BTreeSet::new());
        self.restore_shares(shares, &mut progress).await;
        self.settle_replayed(0, &mut progress).await;
        self.drop_misplaced(misplaced, damaged);
        self.forget_damaged(progress.dropped);
        let gap = end.worked.saturating_sub(start.worked);
        if self.count_gap(gap) {
            error!(
                event = "state_gap",
                entries = gap,
                "the stream was deleted before the detectors' state after its last entries was saved; continuing \
                 without these entries"
            );
        }
        self.visit(0..CHUNKS).await;
    }

    async fn restore_shares(&mut self, shares: Vec<Vec<SavedSymbol>>, progress: &mut Progress) {
        for (shard, share) in self.shards.iter().zip(shares) {
            share.iter().for_each(|symbol| self.ingest.restored(symbol.id));
            shard.submit(Task::Restore(share)).await;
            progress.waiting += 1;
        }
    }

    /// Makes the symbols known, and divides them by shard; the newest entry processed arrived at `newest_ms`.
    fn deal_out(&mut self, symbols: Vec<(String, Vec<u8>)>, newest_ms: u64) -> Vec<Vec<SavedSymbol>> {
        let mut shares: Vec<Vec<SavedSymbol>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (name, packed) in symbols {
            let (id, shard) = self.ingest.await_state(&name);
            shares[shard].push(SavedSymbol { id, name: Arc::from(name), packed, newest_ms });
        }
        shares
    }

    /// Works the entries after one id and up to another without a word. `false`: told to stop meanwhile.
    async fn replay(
        &mut self,
        after: EntryId,
        through: EntryId,
        stop: &watch::Receiver<bool>,
        progress: &mut Progress,
    ) -> Result<bool, StreamError> {
        let mut cursor = after;
        while cursor < through {
            if *stop.borrow() {
                return Ok(false);
            }
            self.stats.monitor.turned(None);
            self.stats.turn();
            let mut entries = self.stream.history(cursor, through, self.intake.page(PAGE)).await?;
            self.intake.note(&entries);
            let Some(last) = entries.last() else { break };
            cursor = last;
            entries.retain(|id| !progress.left_out.contains(&id));
            progress.replayed += entries.len() as u64;
            self.rework(&entries, progress).await;
            self.settle_replayed(AHEAD * self.shards.len(), progress).await;
            if progress.told.elapsed() > TELL_EVERY {
                progress.told = Instant::now();
                info!(
                    event = "replay_progressed",
                    entries = progress.replayed,
                    of = progress.expected,
                    "replaying the entries after the saved state"
                );
            }
        }
        Ok(true)
    }

    async fn rework(&mut self, entries: &Entries, progress: &mut Progress) {
        self.reads += 1;
        let routed = self.ingest.route(self.reads, entries);
        for (shard, job) in self.shards.iter().zip(routed.jobs) {
            if let Some(job) = job {
                shard.submit(Task::Rework(job)).await;
                progress.waiting += 1;
            }
        }
    }

    /// Waits until at most `left` answers are to come. What they say is known already, but for what is missing.
    async fn settle_replayed(&mut self, left: usize, progress: &mut Progress) {
        // Every call of a guest has a deadline, also the first ones, which may take long.
        while progress.waiting > left
            && let Some(Worked { damaged, cold, .. }) = self.stats.waiting(self.outcomes.recv()).await
        {
            progress.waiting -= 1;
            progress.dropped.extend(damaged.iter().map(ToString::to_string));
            let generation = self.generation.clone();
            self.note_lacks(0, &cold, &generation);
        }
    }
}

/// `end` is the last commit.
fn plan(saved: SavedStates, end: Boundary) -> Plan {
    let mut has_states = vec![false; usize::from(CHUNKS)];
    saved.symbols.iter().for_each(|(name, _)| has_states[usize::from(chunk_of(name))] = true);
    let visits = saved.visits.into_iter().zip(has_states).map(|(visit, has_states)| match visit {
        // A chunk that was never visited had no symbol to save: it begins with the stream.
        LastVisit::Never if !has_states => Some(Boundary::default()),
        LastVisit::At(boundary) => Some(boundary),
        LastVisit::Never | LastVisit::Damaged => None,
    });
    let boundaries: Vec<Option<Boundary>> = visits.collect();
    let start = boundaries.iter().flatten().copied().min_by_key(|boundary| boundary.newest).unwrap_or(end);
    let damaged = boundaries.iter().filter(|boundary| boundary.is_none()).count();
    let mut plan = Plan { start, stops: BTreeMap::new(), forgotten: Vec::new(), misplaced: Vec::new(), damaged };
    for (name, packed) in saved.symbols {
        let Some(boundary) = boundaries[usize::from(chunk_of(&name))] else {
            plan.misplaced.push(name);
            continue;
        };
        if is_forgotten(&packed, end.newest.millis) {
            plan.forgotten.push(name);
        } else {
            plan.stops.entry(boundary.newest.min(end.newest)).or_default().push((name, packed));
        }
    }
    plan
}

fn tell_restored(symbols: usize, progress: &Progress) {
    let took_ms = progress.started.elapsed().as_millis() as u64;
    info!(
        event = "checkpoint_restored",
        symbols,
        entries = progress.replayed,
        took_ms,
        "restored the checkpoint and replayed the entries after it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Boundary {
        Boundary { newest: EntryId { millis, seq: 0 }, worked: millis, ..Boundary::default() }
    }

    /// `A` and `B` are of different chunks.
    fn saved(of_a: LastVisit, of_b: LastVisit, others: LastVisit) -> SavedStates {
        let mut visits = vec![others; usize::from(CHUNKS)];
        visits[usize::from(chunk_of("A"))] = of_a;
        visits[usize::from(chunk_of("B"))] = of_b;
        let symbols = ["A", "B"].map(|name| (name.to_owned(), vec![0xff; 13])).into();
        SavedStates { visits, symbols, poison: Vec::new() }
    }

    #[test]
    fn states_are_restored_where_their_boundary_is_and_reading_begins_at_the_oldest() {
        let plan = plan(saved(LastVisit::At(at(5)), LastVisit::At(at(7)), LastVisit::At(at(6))), at(9));
        assert_eq!((plan.start, plan.damaged), (at(5), 0));
        let stops: Vec<(u64, &str)> =
            plan.stops.iter().map(|(at, symbols)| (at.millis, symbols[0].0.as_str())).collect();
        assert_eq!(stops, [(5, "A"), (7, "B")]);
    }

    /// A boundary that could not be read meant "from the beginning": the states were fed the whole stream once more.
    #[test]
    fn a_damaged_boundary_drops_its_states_and_does_not_move_the_start() {
        for lost in [LastVisit::Damaged, LastVisit::Never] {
            let plan = plan(saved(lost, LastVisit::At(at(7)), LastVisit::At(at(6))), at(9));
            assert_eq!((plan.start, plan.damaged), (at(6), 1), "{lost:?}");
            assert_eq!((plan.misplaced, plan.stops.len()), (vec!["A".to_owned()], 1), "{lost:?}");
        }
    }

    #[test]
    fn with_every_boundary_damaged_nothing_is_read_again() {
        let plan = plan(saved(LastVisit::Damaged, LastVisit::Damaged, LastVisit::Damaged), at(9));
        assert_eq!((plan.start, plan.damaged, plan.misplaced.len()), (at(9), usize::from(CHUNKS), 2));
    }

    #[test]
    fn chunks_without_states_and_visits_begin_with_the_stream() {
        let plan = plan(saved(LastVisit::At(at(5)), LastVisit::At(at(7)), LastVisit::Never), at(9));
        assert_eq!((plan.start, plan.damaged), (Boundary::default(), 0));
    }
}
