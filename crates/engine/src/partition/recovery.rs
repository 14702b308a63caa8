//! Recovers the state of the last commit: restores the saved states, and replays the entries after them.
//!
//! Chunks of the saved state are of different ages. The stream is replayed from the oldest boundary on, and each chunk is
//! restored when its boundary is reached; until then the ticks of its symbols are skipped. Alerts of replayed entries were
//! published when they were first processed, and are dropped.
//!
//! What holds: a state never sees an entry twice. So states without a known boundary are dropped, and their detectors are
//! incomplete until they have warmed up.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    Retention,
    generations::Generations,
    pipeline::{Pipeline, Replaying, Restoring, SavedBases},
};
use crate::{
    ingest::has_group,
    plugin::{DetectorSpec, GROUP_MARK},
    shard::{Answer, SavedSymbol},
    stats::Stats,
};
use tickhound_core::{
    checkpoint::{Boundary, CHUNKS, LastVisit, Packer, SavedStates, SharedBases, chunk_of, is_forgotten},
    decode::check_symbol,
    event::EntryId,
    stream::{Acquisition, Stream, StreamError, Totals},
};

/// Entries that are replayed at once: enough that the round trips hardly count, few enough to bound the memory.
const PAGE: usize = 2000;

/// Tasks that may wait in a shard while the next page is read.
const AHEAD: usize = 4;

/// How often the progress of a long recovery is logged.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// How a recovery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResumeOutcome {
    /// The partition can be processed.
    Ready,
    /// The host is to stop.
    Stopped,
}

/// What a recovery works on.
pub(super) struct Recovery<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) stats: &'a Stats,
    pub(super) pipeline: &'a mut Pipeline,
    pub(super) generations: &'a mut Generations,
    pub(super) retention: &'a mut Retention,
    pub(super) totals: &'a mut Totals,
    pub(super) acquired: &'a Acquisition,
    pub(super) stop: watch::Receiver<bool>,
}

/// How the saved states are restored.
struct Plan {
    /// Where the replay begins.
    start: Boundary,
    /// The newest entry of the boundary of each chunk; that of the start if it is damaged.
    newest: Vec<EntryId>,
    /// What to restore at each boundary.
    stops: BTreeMap<EntryId, Stop>,
    /// Symbols whose saved states have expired.
    forgotten: Vec<String>,
    /// Symbols that an earlier release accepted.
    unusable: Vec<String>,
    /// Symbols whose boundary is not known.
    misplaced: Vec<String>,
    /// The number of chunks whose boundary is damaged.
    damaged: usize,
}

/// What is restored at a boundary.
#[derive(Default)]
struct Stop {
    /// The names and packed states of symbols and groups.
    owners: Vec<(String, Vec<u8>)>,
    /// What they depend on, packed, with the chunks that were visited then.
    bases: Vec<(Range<u16>, Vec<u8>)>,
}

/// A stop whose owners have their numbers.
#[derive(Default)]
struct DividedStop {
    names: Vec<String>,
    shares: Vec<Vec<SavedSymbol>>,
    bases: Vec<Vec<u8>>,
    /// Whether what a group depends on is not saved, though the group is; or the contexts of a symbol, though the symbol is.
    lacks_bases: bool,
}

/// The progress of a replay.
struct Replay {
    started: Instant,
    reported: Instant,
    expected: u64,
    replayed: u64,
    /// Answers of shards that have not come yet.
    waiting: usize,
    /// Entries that are not replayed: pending ones are processed later, poison ones never.
    left_out: BTreeSet<EntryId>,
    /// Symbols whose states were dropped because they can't be read.
    dropped: Vec<String>,
}

impl Replay {
    fn new(expected: u64, left_out: BTreeSet<EntryId>) -> Self {
        let now = Instant::now();
        Self { started: now, reported: now, expected, replayed: 0, waiting: 0, left_out, dropped: Vec::new() }
    }
}

impl<S: Stream> Recovery<'_, S> {
    /// Gives the shards the state of the last commit.
    pub(super) async fn run(mut self) -> Result<ResumeOutcome, StreamError> {
        let acquired = self.acquired;
        // The ids of a stream that began anew count from below.
        let newest = acquired.newest.filter(|_| !acquired.began_anew);
        self.pipeline.ingest.reset(acquired.clock, newest.map_or(0, |newest| newest.millis));
        let mut saved = self.stats.waiting(self.stream.saved()).await?;
        self.stats.monitor.note_last_tick(saved.last_tick_ms);
        let venues = std::mem::take(&mut saved.venues);
        self.pipeline.bases = saved_bases(&saved);
        let Some(last) = acquired.newest else {
            // Nothing was ever committed, or nobody knows of it any more: every chunk begins here, and what is saved goes.
            self.retention.poison = saved.poison;
            self.retention.forgotten = saved.symbols.into_iter().map(|(name, _)| name).collect();
            self.pipeline.visit_all().await;
            return Ok(ResumeOutcome::Ready);
        };
        self.pipeline.ingest.learn_venues(venues);
        let processed = acquired.totals.entries - acquired.totals.lost;
        let end = Boundary { newest: last, processed, clock: acquired.clock, at_ms: 0 };
        if acquired.began_anew {
            self.restore_without_history(saved, end).await;
            return Ok(ResumeOutcome::Ready);
        }
        self.restore_and_replay(saved, end).await
    }

    /// Restores each chunk at its boundary, and replays the stream up to the last commit, `end`.
    async fn restore_and_replay(&mut self, saved: SavedStates, end: Boundary) -> Result<ResumeOutcome, StreamError> {
        let (acquired, last) = (self.acquired, end.newest);
        // Entries that are pending for anyone are processed later.
        let mut left_out = self.stats.waiting(self.stream.pending(EntryId::ZERO, last)).await?;
        let (poison, symbols) = (saved.poison.clone(), saved.symbols.len());
        let saved = self.without_unused_groups(saved);
        let Plan { start, newest, stops, forgotten, unusable, misplaced, damaged } = plan(saved, end);
        // A warm-up reads from before every boundary: poison entries that the stream still holds must stay known.
        let gone = |id: &EntryId| *id <= start.newest && acquired.oldest.is_none_or(|oldest| *id < oldest);
        self.retention.passed = poison.iter().copied().filter(gone).collect();
        left_out.extend(&poison);
        self.retention.poison = poison;
        self.retention.forgotten.extend(forgotten);
        self.forget_unusable(unusable);

        // All symbols are divided before the first entry is replayed, so that their ticks are skipped until their stop.
        let mut stops: BTreeMap<EntryId, DividedStop> =
            stops.into_iter().map(|(at, stop)| (at, self.divide(stop, last))).collect();
        // A group without a saved state has its first row behind the boundary of its chunk. From there on it needs its members.
        for group in self.pipeline.ingest.groups_without_states() {
            let at = newest[usize::from(chunk_of(&group))].min(last);
            stops.entry(at).or_default().names.push(group);
        }
        stops.entry(start.newest.min(last)).or_default();
        stops.entry(last).or_default();
        self.pipeline.ingest.reset_clock(start.clock);
        let mut replay = Replay::new(end.processed.saturating_sub(start.processed), left_out);
        let mut cursor = start.newest;
        for (at, DividedStop { names, shares, bases, lacks_bases }) in stops {
            if self.replay(cursor, at, &mut replay).await? == ResumeOutcome::Stopped {
                return Ok(ResumeOutcome::Stopped);
            }
            cursor = cursor.max(at);
            if lacks_bases {
                self.report_damaged_bases("their fields are gone");
            }
            // Before the first entry of a stream, nothing had a tick.
            let bases = (at > EntryId::ZERO).then(|| self.unpack_bases(&bases));
            self.restore_bases(&names, bases.as_ref());
            self.restore(shares, &mut replay).await;
        }
        self.take_answers(0, &mut replay).await;
        self.pipeline.ingest.reset_clock(acquired.clock);
        self.report_gap(&replay, start.newest, last);
        report_restored(symbols, &replay);
        let is_damaged = damaged > 0 || !replay.dropped.is_empty();
        self.drop_misplaced(misplaced, damaged);
        self.forget_damaged(replay.dropped);
        if self.report_changed_detectors(replay.replayed) || is_damaged {
            // All states are saved again: by the present detectors, and without those that were dropped.
            self.pipeline.visit_all().await;
        }
        Ok(ResumeOutcome::Ready)
    }

    /// Restores the states of a stream that was deleted. They are taken as they are, and saved again as of the beginning
    /// of the present stream. `end` is the last commit.
    async fn restore_without_history(&mut self, saved: SavedStates, end: Boundary) {
        self.retention.passed.clone_from(&saved.poison);
        self.retention.poison = Vec::new();
        let saved = self.without_unused_groups(saved);
        let Plan { start, stops, forgotten, unusable, misplaced, damaged, .. } = plan(saved, end);
        self.retention.forgotten.extend(forgotten);
        self.forget_unusable(unusable);
        let mut all = Stop::default();
        for mut stop in stops.into_values() {
            all.owners.append(&mut stop.owners);
            all.bases.append(&mut stop.bases);
        }
        let DividedStop { names, shares, bases, lacks_bases } = self.divide(all, end.newest);
        if lacks_bases {
            self.report_damaged_bases("their fields are gone");
        }
        let bases = self.unpack_bases(&bases);
        self.restore_bases(&names, Some(&bases));
        let mut replay = Replay::new(0, BTreeSet::new());
        self.restore(shares, &mut replay).await;
        self.take_answers(0, &mut replay).await;
        self.drop_misplaced(misplaced, damaged);
        self.forget_damaged(replay.dropped);
        let gap = end.processed.saturating_sub(start.processed);
        self.totals.state_gap += gap;
        if gap > 0 {
            error!(
                event = "state_gap",
                entries = gap,
                "the stream was deleted before the detectors' state after its last entries was saved; continuing \
                 without these entries"
            );
        }
        self.pipeline.visit_all().await;
    }

    /// Leaves out groups that no detector has any more, such as those of a family that was removed: they have no states, and
    /// what their members were is not saved. They are deleted with the next visit. Those of detectors that are yet to warm up
    /// stay: their cool-downs go on.
    fn without_unused_groups(&mut self, mut saved: SavedStates) -> SavedStates {
        let detectors = self.generations.wanted_detectors();
        let is_unused = |(name, _): &mut (String, Vec<u8>)| {
            name.starts_with(GROUP_MARK) && !detectors.iter().any(|spec| has_group(spec.view(), name))
        };
        let unused = saved.symbols.extract_if(.., is_unused).map(|(name, _)| name);
        self.retention.forgotten = unused.collect();
        saved
    }

    /// Interns the owners of a stop. `last` is the last entry that was processed.
    fn divide(&mut self, stop: Stop, last: EntryId) -> DividedStop {
        let names = stop.owners.iter().map(|(name, _)| name.clone()).collect();
        // A group is never saved without the bases of its members, nor a symbol without its contexts while a detector reads them.
        let had_contexts = self.had_contexts();
        let market = self.pipeline.generation().market.clone();
        let has_context =
            |name: &str| (0..market.contexts().len()).any(|number| market.context_source(number, name).is_some());
        let needs_bases = |name: &str| name.starts_with(GROUP_MARK) || (had_contexts && has_context(name));
        let has_bases = |name: &str| stop.bases.iter().any(|(chunks, _)| chunks.contains(&chunk_of(name)));
        let lacks_bases = stop.owners.iter().any(|(name, _)| !has_bases(name) && needs_bases(name));
        let shares = self.pipeline.divide(stop.owners, last.millis);
        DividedStop { names, shares, bases: stop.bases.into_iter().map(|(_, packed)| packed).collect(), lacks_bases }
    }

    /// Whether a detector that reads contexts was in force at the last commit, with the contexts that there are now. Contexts that
    /// are new, or differ, were not saved.
    fn had_contexts(&self) -> bool {
        let generation = self.pipeline.generation();
        generation
            .detectors
            .iter()
            .filter(|spec| spec.reads_context(&generation.columns))
            .any(|spec| self.acquired.made_by.get(&spec.name).is_some_and(|made_by| *made_by == spec.fingerprint()))
    }

    /// Unpacks what owners depend on. What can't be read is reported.
    fn unpack_bases(&mut self, packed: &[Vec<u8>]) -> SharedBases {
        let mut bases = SharedBases::default();
        for packed in packed {
            match Packer::new().map_err(anyhow::Error::from).and_then(|mut packer| packer.unpack_bases(packed)) {
                Ok(one) => bases.extend(one),
                Err(error) => self.report_damaged_bases(&format!("{error:#}")),
            }
        }
        bases
    }

    /// Continues what these owners depend on; `None`: no tick had been processed then.
    fn restore_bases(&mut self, names: &[String], bases: Option<&SharedBases>) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.pipeline.restore_bases(&names, bases);
    }

    /// Reports that what detectors of groups and contexts depend on is lost, at one boundary or at all of them.
    fn report_damaged_bases(&mut self, error: &str) {
        error!(
            event = "bases_damaged",
            %error,
            "what groups and contexts depend on can't be read; detectors of groups and contexts are incomplete \
             (plugins.rewarm_s says whether they warm up again)"
        );
        let generation = self.pipeline.generation().clone();
        let depends = |spec: &&Arc<DetectorSpec>| !spec.view().is_of_ticks() || spec.reads_context(&generation.columns);
        for spec in generation.detectors.iter().filter(depends) {
            self.generations.lacks_state(&spec.name, 0);
        }
    }

    /// Has the shards restore their shares of the saved states.
    async fn restore(&mut self, shares: Vec<Vec<SavedSymbol>>, replay: &mut Replay) {
        let Restoring { answers, mut damaged } = self.pipeline.restore(shares).await;
        replay.waiting += answers;
        replay.dropped.append(&mut damaged);
        self.stats.monitor.note_calendars_with_symbols(&self.pipeline.ingest.take_calendar_counts());
    }

    /// Replays the entries after one id and up to another.
    async fn replay(
        &mut self,
        after: EntryId,
        through: EntryId,
        replay: &mut Replay,
    ) -> Result<ResumeOutcome, StreamError> {
        let mut cursor = after;
        while cursor < through {
            if *self.stop.borrow() {
                return Ok(ResumeOutcome::Stopped);
            }
            self.stats.turn(None);
            let page = self.pipeline.intake.page(PAGE);
            let mut entries = self.stats.waiting(self.stream.history(cursor, through, page)).await?;
            self.pipeline.intake.note(&entries);
            let Some(last) = entries.last() else { break };
            cursor = last;
            entries.retain(|id| !replay.left_out.contains(&id));
            replay.replayed += entries.len() as u64;
            let Replaying { answers, calendars } = self.pipeline.replay(&entries).await;
            replay.waiting += answers;
            self.stats.monitor.note_calendars_with_symbols(&calendars);
            self.take_answers(AHEAD * self.pipeline.workers.shards().len(), replay).await;
            if replay.reported.elapsed() > REPORT_EVERY {
                replay.reported = Instant::now();
                info!(
                    event = "replay_progressed",
                    entries = replay.replayed,
                    of = replay.expected,
                    "replaying the entries after the saved state"
                );
            }
        }
        Ok(ResumeOutcome::Ready)
    }

    /// Takes answers until at most `left` have not come yet. Alerts in them are published already; what matters is which
    /// states are missing.
    async fn take_answers(&mut self, left: usize, replay: &mut Replay) {
        // Every call of a guest has a deadline, so this wait ends; the first calls may take long.
        while replay.waiting > left
            && let Some(Answer { incidents, .. }) = self.stats.waiting(self.pipeline.workers.answer()).await
        {
            replay.waiting -= 1;
            self.generations.note_missing_states(0, &incidents.cold, self.pipeline.generation());
        }
    }

    /// Counts and logs entries that detectors had processed and can't see again.
    fn report_gap(&mut self, replay: &Replay, after: EntryId, through: EntryId) {
        let gap = replay.expected.saturating_sub(replay.replayed);
        self.totals.state_gap += gap;
        if gap > 0 {
            error!(
                event = "state_gap",
                entries = gap,
                %after,
                %through,
                "entries that detectors had processed were trimmed before the detectors' state was saved; continuing \
                 without them. Keep more entries in the stream."
            );
        }
    }

    /// Drops states whose boundary is damaged. Nobody knows which entries they have seen, so a replay might show them
    /// some twice.
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
        for spec in &self.pipeline.generation().detectors {
            self.generations.lacks_state(&spec.name, 0);
        }
    }

    /// Deletes what is saved of these symbols with the next visit.
    fn forget_damaged(&mut self, symbols: Vec<String>) {
        self.stats.monitor.damaged_states.fetch_add(symbols.len() as u64, Relaxed);
        self.pipeline.note_damaged(&symbols);
        self.retention.forgotten.extend(symbols);
    }

    /// Deletes what is saved of symbols that have become unusable with the next visit.
    fn forget_unusable(&mut self, symbols: Vec<String>) {
        let Some(example) = symbols.first() else { return };
        warn!(
            event = "unusable_symbols_forgotten",
            symbols = symbols.len(),
            %example,
            "symbols with hidden characters or very long names are not accepted any more; dropped their saved states. Their \
             ticks become dead letters."
        );
        self.retention.forgotten.extend(symbols);
    }

    /// Logs which detectors have changed since their states were made, if they have replayed entries. Returns whether
    /// there are any.
    fn report_changed_detectors(&self, entries: u64) -> bool {
        let has_changed = |spec: &&Arc<DetectorSpec>| {
            self.acquired.made_by.get(&spec.name).is_some_and(|made_by| *made_by != spec.fingerprint())
        };
        let detectors = self.pipeline.generation().detectors.iter();
        let changed: Vec<&str> = detectors.filter(has_changed).map(|spec| spec.name.as_str()).collect();
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
}

/// The fields with bases, and the boundaries that refer to them.
fn saved_bases(saved: &SavedStates) -> SavedBases {
    let newest = (0u16..).zip(&saved.visits).filter_map(|(chunk, visit)| match visit {
        LastVisit::At(boundary) => Some((chunk, boundary.newest)),
        LastVisit::Never | LastVisit::Damaged => None,
    });
    SavedBases::new(saved.bases.iter().map(|(field, _)| field.clone()).collect(), newest.collect())
}

/// Plans the recovery of saved states; `end` is the last commit.
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
    let bases = saved.bases;
    let start = boundaries.iter().flatten().copied().min_by_key(|boundary| boundary.newest).unwrap_or(end);
    let damaged = boundaries.iter().filter(|boundary| boundary.is_none()).count();
    let newest = boundaries.iter().map(|boundary| boundary.unwrap_or(start).newest).collect();
    let mut plan = Plan {
        start,
        newest,
        stops: BTreeMap::new(),
        forgotten: Vec::new(),
        unusable: Vec::new(),
        misplaced: Vec::new(),
        damaged,
    };
    for (name, packed) in saved.symbols {
        let Some(boundary) = boundaries[usize::from(chunk_of(&name))] else {
            plan.misplaced.push(name);
            continue;
        };
        if !name.starts_with(GROUP_MARK) && check_symbol(&name).is_err() {
            plan.unusable.push(name);
        } else if is_forgotten(&packed, end.newest.millis) {
            plan.forgotten.push(name);
        } else {
            plan.stops.entry(boundary.newest.min(end.newest)).or_default().owners.push((name, packed));
        }
    }
    for (field, packed) in bases {
        let at = field.newest.min(end.newest);
        // It counts also if no state is as of there: a group may have none yet, and its members need what they were.
        if field.newest >= start.newest {
            plan.stops.entry(at).or_default().bases.push((field.chunks, packed));
        }
    }
    plan
}

fn report_restored(symbols: usize, replay: &Replay) {
    let took_ms = replay.started.elapsed().as_millis() as u64;
    info!(
        event = "checkpoint_restored",
        symbols,
        entries = replay.replayed,
        took_ms,
        "restored the checkpoint and replayed the entries after it"
    );
}

#[cfg(test)]
mod tests {
    use tickhound_core::checkpoint::BasesField;

    use super::*;

    fn at(millis: u64) -> Boundary {
        Boundary { newest: EntryId { millis, seq: 0 }, processed: millis, ..Boundary::default() }
    }

    /// Saved states of `A` and `B`, which are in different chunks.
    fn saved(of_a: LastVisit, of_b: LastVisit, others: LastVisit) -> SavedStates {
        let mut visits = vec![others; usize::from(CHUNKS)];
        visits[usize::from(chunk_of("A"))] = of_a;
        visits[usize::from(chunk_of("B"))] = of_b;
        let symbols = ["A", "B"].map(|name| (name.to_owned(), vec![0xff; 13])).into();
        SavedStates { visits, symbols, ..SavedStates::default() }
    }

    #[test]
    fn states_are_restored_where_their_boundary_is_and_reading_begins_at_the_oldest() {
        let plan = plan(saved(LastVisit::At(at(5)), LastVisit::At(at(7)), LastVisit::At(at(6))), at(9));
        assert_eq!((plan.start, plan.damaged), (at(5), 0));
        let stops: Vec<(u64, &str)> =
            plan.stops.iter().map(|(at, stop)| (at.millis, stop.owners[0].0.as_str())).collect();
        assert_eq!(stops, [(5, "A"), (7, "B")]);
    }

    /// A boundary that could not be read meant "from the beginning": the states saw the whole stream once more.
    #[test]
    fn a_damaged_boundary_drops_its_states_and_does_not_move_the_start() {
        for lost in [LastVisit::Damaged, LastVisit::Never] {
            let plan = plan(saved(lost, LastVisit::At(at(7)), LastVisit::At(at(6))), at(9));
            assert_eq!((plan.start, plan.damaged), (at(6), 1), "{lost:?}");
            assert_eq!((plan.misplaced, plan.stops.len()), (vec!["A".to_owned()], 1), "{lost:?}");
        }
    }

    #[test]
    fn with_every_boundary_damaged_nothing_is_replayed() {
        let plan = plan(saved(LastVisit::Damaged, LastVisit::Damaged, LastVisit::Damaged), at(9));
        assert_eq!((plan.start, plan.damaged, plan.misplaced.len()), (at(9), usize::from(CHUNKS), 2));
    }

    /// A group that had no row yet has no state, so nothing else may be as of its boundary. Its members began anew there.
    #[test]
    fn what_owners_depend_on_is_kept_where_no_state_is() {
        let mut saved = saved(LastVisit::At(at(5)), LastVisit::At(at(8)), LastVisit::At(at(7)));
        let field = |millis| BasesField { newest: EntryId { millis, seq: 0 }, chunks: 0..1 };
        saved.bases = [4, 7].map(|millis| (field(millis), vec![millis as u8])).into();
        let plan = plan(saved, at(9));
        let bases = plan.stops.iter().map(|(at, stop)| (at.millis, stop.bases.clone()));
        assert_eq!(bases.collect::<Vec<_>>(), [(5, vec![]), (7, vec![(0..1, vec![7])]), (8, vec![])]);
    }

    #[test]
    fn chunks_without_states_and_visits_begin_with_the_stream() {
        let plan = plan(saved(LastVisit::At(at(5)), LastVisit::At(at(7)), LastVisit::Never), at(9));
        assert_eq!((plan.start, plan.damaged), (Boundary::default(), 0));
    }
}
