//! Decodes entries to ticks, interns their symbols, resolves their times, normalizes them and routes them to shards.
//!
//! What holds: rows of one symbol go to one shard, in stream order, and each tick is normalized once, whoever sees it. Event
//! time and the positions of clock rows depend on the entries alone, not on batches, shards or the wall clock. So do the
//! symbols that are known: the longest silent ones make room for new ones between two entries, by the arrival of their last
//! ticks, which is saved with their states.

mod contexts;
mod plan;
mod set_back;
mod symbols;
mod wide;

use std::{ops::Range, sync::Arc};

use rustc_hash::FxHashSet;

pub use self::{
    plan::IngestPlan,
    symbols::{Evicted, EvictionCause},
    wide::ViewRows,
};
use self::{
    plan::ViewPlan,
    symbols::{Name, RejectedTick, Route, Symbols},
    wide::{Outlet, RowPlace, Wide},
};
pub(crate) use self::{symbols::Place, wide::has_group};
use crate::plugin::GROUP_MARK;
use tickhound_core::{
    checkpoint::SharedBases,
    decode::{DecodeError, Decoder, Outcome, RawTick},
    event::{Batch, Clock, Entries, Entry, EntryId, TickRow, TicksBehind, column, flag},
    normalize::{CalendarCounts, NormalizeCounts, NormalizedRow, Normalizer, NormalizerState},
    session,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// After this many ticks without a time, a feed is taken to have none. In mixed feeds, such as trades with a time and
/// quotes without, the first time comes within a few ticks.
const UNSTAMPED_MAX: u64 = 1000;

/// The most that ticks without a time count in a feed that is taken to have none.
const UNSTAMPED_FULL: u64 = 2 * UNSTAMPED_MAX;

/// In a feed that is taken to have no times, a tick with a time takes back as many without one. So a hundred of them, and
/// more than one in eleven, are needed until the times of the other ticks are estimated from theirs: a few stray ticks can't
/// move the clock of a feed.
const STAMPED_WEIGHT: u64 = 10;

/// The most ticks in one entry: twice as many as the largest options universe has symbols. Rows take more memory than the
/// document that they come from, and detectors get the ticks of an entry in one call.
const TICKS_PER_ENTRY_MAX: usize = 1 << 18;

/// The part of one read that belongs to a shard.
#[derive(Debug)]
pub struct Job {
    /// The number of the read.
    pub read: u64,
    /// Symbols and groups of this shard that it sees for the first time.
    pub symbols: Vec<(u32, Arc<str>)>,
    /// Symbols that it sees for the first time as members of its groups.
    pub members: Vec<(u32, Arc<str>)>,
    /// The ticks of its symbols, normalized.
    pub batch: Batch,
    /// The rows of the other views that detectors have.
    pub views: Vec<ViewRows>,
}

impl Job {
    /// The number of all rows.
    pub fn rows(&self) -> usize {
        self.batch.len() + self.views.iter().map(|view| view.batch.len()).sum::<usize>()
    }
}

/// What is saved of a symbol, or of a group, beside the states of its detectors, as of a visit to its chunk.
#[derive(Clone, Debug)]
pub struct OwnerBase {
    /// The number of the symbol or group.
    pub id: u32,
    /// When its last tick arrived, in milliseconds of its entry's id.
    pub arrived_ms: u64,
    /// The state of its normalizer; `None` for a group.
    pub normalizer: Option<NormalizerState>,
    /// Its bars, last values and computed columns; empty if there are none.
    pub series: Vec<u8>,
}

/// What a visit saves of symbols and groups beside the states of their detectors.
#[derive(Debug)]
pub struct VisitBases {
    /// What has changed since the visit before, for each shard.
    pub by_shard: Vec<Vec<OwnerBase>>,
    /// What the visited owners depend on; `None` if they depend on nothing.
    pub shared: Option<SharedBases>,
}

/// What a live ingest takes over from that of a warm-up, for one shard.
#[derive(Debug, Default)]
pub struct TakenOver {
    /// Symbols that only the warm-up has seen.
    pub symbols: Vec<(u32, Arc<str>)>,
    /// The members of groups that the warm-up has seen, as far as the shard does not know them.
    pub members: Vec<(u32, Arc<str>)>,
    /// The last price of each symbol that was normalized by the warm-up alone.
    pub prices: Vec<(u32, f64)>,
}

/// One read after decoding and routing.
#[derive(Debug, Default)]
pub struct Routed {
    /// The part of each shard; `None` if it has none.
    pub jobs: Vec<Option<Job>>,
    /// Entries that can't be decoded, by index, with the reason.
    pub undecodable: Vec<(u32, String)>,
    /// Entries whose body was trimmed away.
    pub lost: Vec<EntryId>,
    /// Ticks that were normalized. Those without a price are in no job.
    pub ticks: usize,
    /// What was repaired in them.
    pub repaired: NormalizeCounts,
    /// What the symbols of each calendar had; empty if all symbols have the same one.
    pub calendars: Vec<CalendarCounts>,
    /// Ticks that were skipped because they have no time and none can be estimated yet.
    pub untimed: u64,
    /// The number of entries that were routed, if symbols must be evicted after these; the others are not routed.
    pub full_after: Option<usize>,
}

/// Turns entries into jobs for shards.
pub struct Ingest {
    decoder: Decoder,
    shards: usize,
    columns: usize,
    symbols: Symbols,
    normalizer: Normalizer,
    /// The columns of the tick that is being routed.
    row: Vec<f64>,
    /// What detectors want beside ticks of symbols; `None` if nothing.
    wide: Option<Box<Wide>>,
    /// The ticks of an entry, if it must be known whether all of it can be read before one of them is routed.
    ticks: EntryTicks,
    /// The most symbols that are known after an entry.
    symbols_max: usize,
    clock: Clock,
    /// When the newest entry arrived, in milliseconds of its id: the times of older ones say nothing about the clock.
    newest_ms: u64,
}

impl Ingest {
    /// Creates a router to `shards` shards. `clock` is the event time as of the last commit.
    pub fn new(decoder: Decoder, normalizer: Normalizer, shards: usize, clock: Clock) -> Self {
        let columns = decoder.column_names().len();
        Self {
            decoder,
            shards,
            columns,
            symbols: Symbols::default(),
            normalizer,
            row: Vec::new(),
            wide: None,
            ticks: EntryTicks::default(),
            symbols_max: usize::MAX,
            clock,
            newest_ms: 0,
        }
    }

    /// Limits the number of symbols.
    pub fn with_symbols_max(self, symbols_max: usize) -> Self {
        Self { symbols_max, ..self }
    }

    /// Creates another one that decodes and routes the same way, and knows no symbol yet. It accepts the same venues.
    pub fn beside(&self, clock: Clock) -> Self {
        let mut symbols = Symbols::default();
        symbols.learn_venues(self.symbols.venues());
        let (decoder, normalizer) = (self.decoder.clone(), self.normalizer.beside());
        let ticks = EntryTicks::default();
        Self { decoder, symbols, normalizer, row: Vec::new(), wide: None, ticks, clock, newest_ms: 0, ..*self }
    }

    /// Continues with what another generation wants beside ticks of symbols, from the next entry on; `None`: nothing.
    pub fn set_plan(&mut self, plan: Option<Arc<IngestPlan>>) {
        let wide = self.wide.take();
        let is_same = match (&wide, &plan) {
            (Some(wide), Some(plan)) => Arc::ptr_eq(&wide.plan, plan),
            (None, None) => true,
            _ => false,
        };
        self.wide = plan.map(|plan| {
            Box::new(match wide {
                Some(wide) if is_same => return wide,
                Some(wide) => wide.with(plan),
                None => Wide::new(plan, self.shards),
            })
        });
        if !is_same {
            // Their series are others now, even of those that have had no tick since they were saved.
            self.symbols.note_all_changed();
        }
        if let Some(wide) = &mut self.wide {
            wide.resolve_all(&mut self.symbols);
        }
    }

    /// Says whether rows have the columns with times of the session, from the next entry on.
    pub fn set_session_columns(&mut self, wanted: bool) {
        self.normalizer.set_session_columns(wanted);
    }

    /// Learns the venues that symbols came from before they are restored.
    pub(crate) fn learn_venues(&mut self, venues: Vec<(String, String)>) {
        self.symbols.learn_venues(venues.into_iter().map(|(symbol, venue)| (symbol.into(), venue.into())));
    }

    /// Takes the venues that are not saved yet, of symbols in these chunks of the saved state.
    pub(crate) fn take_unsaved_venues(&mut self, chunks: &Range<u16>) -> Vec<(Arc<str>, Arc<str>)> {
        self.symbols.take_unsaved_venues(chunks)
    }

    /// Has the venues of all symbols saved again.
    pub(crate) fn save_venues_anew(&mut self) {
        self.symbols.save_venues_anew();
    }

    /// Forgets every symbol and continues from `clock`, since the shards have been restarted. The newest entry that was
    /// processed arrived at `newest_ms`.
    pub fn reset(&mut self, clock: Clock, newest_ms: u64) {
        self.symbols.forget_all();
        self.normalizer.forget_all();
        self.wide = self.wide.take().map(|wide| Box::new(Wide::new(wide.plan, self.shards)));
        (self.clock, self.newest_ms) = (clock, newest_ms);
    }

    /// Notes that the ids of entries count from below again.
    pub(crate) fn forget_newest(&mut self) {
        self.newest_ms = 0;
    }

    /// Interns a symbol or group whose saved state is restored later, by [`Ingest::restored`]. Until then its ticks are skipped.
    /// Its last tick arrived at `arrived_ms`. Returns its number and its shard.
    pub(crate) fn await_state(&mut self, name: &str, arrived_ms: u64) -> (u32, usize) {
        let is_group = name.starts_with(GROUP_MARK);
        let (Route { id, shard }, _) = if is_group {
            self.symbols.meet_group(name, self.shards)
        } else {
            self.symbols.meet(name, arrived_ms, self.shards)
        };
        self.symbols.awaited[id as usize] = true;
        if is_group {
            self.symbols.note_arrival(id, arrived_ms);
        } else if let Some(wide) = &mut self.wide {
            wide.await_state(id);
        }
        (id, shard)
    }

    /// The groups of symbols whose states are awaited that have no saved state themselves.
    pub(crate) fn groups_without_states(&mut self) -> Vec<String> {
        let Some(wide) = &mut self.wide else { return Vec::new() };
        wide.resolve_all(&mut self.symbols);
        let groups = self.symbols.known().into_iter().filter(|(_, name)| name.starts_with(GROUP_MARK));
        let begin = groups.filter(|(route, _)| !self.symbols.awaited[route.id as usize]);
        begin.map(|(_, name)| name.to_string()).collect()
    }

    /// Continues what the owners of these names depend on from their `bases`, `None` if no tick had been processed then, unless an earlier boundary had it. Their own states
    /// follow.
    pub(crate) fn restore_bases(&mut self, names: &[&str], bases: Option<&SharedBases>) {
        if let Some(wide) = &mut self.wide {
            wide.restore_bases(names, bases, &mut self.symbols, &mut self.normalizer);
        }
    }

    /// Stops skipping the ticks of this symbol or group, and continues with its saved state, which is `None` if that can't be read,
    /// and with its saved series.
    pub(crate) fn restored(&mut self, id: u32, state: Option<NormalizerState>, series: &[u8]) {
        let Self { symbols, normalizer, wide, .. } = self;
        symbols.awaited[id as usize] = false;
        let name = symbols.names()[id as usize].clone();
        if symbols.is_group(id) {
            symbols.shown[id as usize] = true;
            if let Some(wide) = wide {
                wide.note_group(&name, symbols.shard_of(id));
            }
            return;
        }
        // It may have been normalized from an earlier boundary on, for a group or as the source of a context. What is saved is
        // equal then, unless it began there without its base: the base is damaged, or groups were added while no host ran.
        if wide.as_ref().is_none_or(|wide| wide.is_awaited(id)) {
            normalizer.introduce(id, &name);
        }
        if let Some(state) = state {
            symbols.note_latest(id, state.time());
            normalizer.restore(id, state);
        }
        if let Some(wide) = wide {
            wide.begin(id, series);
            wide.resolve(id, symbols);
        }
    }

    /// The known members of these groups that the shard of the groups does not know yet. A state may name any of them before its
    /// next row.
    pub(crate) fn unknown_members(&mut self, groups: &FxHashSet<u32>, shard: usize) -> Vec<(u32, Arc<str>)> {
        let Self { symbols, wide, .. } = self;
        wide.as_mut().map(|wide| wide.unknown_members(groups, shard, symbols)).unwrap_or_default()
    }

    /// Takes what the symbols of each calendar had; empty if all symbols have the same one.
    pub(crate) fn take_calendar_counts(&mut self) -> Vec<CalendarCounts> {
        self.normalizer.take_calendar_counts()
    }

    /// What a visit to these chunks of the saved state saves of symbols and groups.
    pub fn visit(&mut self, chunks: &Range<u16>) -> VisitBases {
        let Self { symbols, normalizer, shards, wide, .. } = self;
        let shared = wide.as_ref().and_then(|wide| wide.shared_bases(chunks, symbols, normalizer));
        let mut by_shard: Vec<Vec<OwnerBase>> = (0..*shards).map(|_| Vec::new()).collect();
        for chunk in chunks.clone() {
            for (id, shard) in symbols.in_chunk(chunk).filter(|(id, _)| symbols.has_changed(*id)) {
                let normalizer = normalizer.state(id).cloned();
                if normalizer.is_none() && !symbols.is_group(id) {
                    continue;
                }
                let series = wide.as_ref().map(|wide| wide.save(id)).unwrap_or_default();
                by_shard[shard].push(OwnerBase { id, arrived_ms: symbols.arrived_ms(id), normalizer, series });
            }
            symbols.visited(chunk);
        }
        VisitBases { by_shard, shared }
    }

    /// Takes over what only the ingest of a warm-up knows: symbols that `may_meet` accepts, groups, and the normalizer state of
    /// symbols that have none here, since their saved states were damaged; venues; and bars and computed columns that `before`,
    /// the plan until now, did not have. `read` is the number of the change. Returns what each shard must know of it.
    pub(crate) fn take_over(
        &mut self,
        warm: &mut Self,
        before: Option<&IngestPlan>,
        read: u64,
        may_meet: impl Fn(&str) -> bool,
    ) -> Vec<TakenOver> {
        let mut taken: Vec<TakenOver> = (0..self.shards).map(|_| TakenOver::default()).collect();
        let (mut ids, mut groups) = (Vec::new(), vec![FxHashSet::default(); self.shards]);
        for (Route { id: its, .. }, name) in warm.symbols.known() {
            let arrived_ms = warm.symbols.arrived_ms(its);
            let is_group = name.starts_with(GROUP_MARK);
            let Route { id, shard } = match self.symbols.route_of(&name) {
                Some(route) if !is_group || self.symbols.shown[route.id as usize] => route,
                None if !is_group && !may_meet(&name) => continue,
                _ => {
                    let route = self.meet(&name, arrived_ms);
                    taken[route.shard].symbols.push((route.id, name));
                    route
                }
            };
            if is_group {
                groups[shard].insert(id);
                continue;
            }
            ids.push((id, its));
            self.symbols.take_over_venue(id, &warm.symbols, its, Place { read, entry: 0 });
            let Some(state) = warm.normalizer.state(its).filter(|_| self.normalizer.state(id).is_none()) else {
                continue;
            };
            self.symbols.note_row(id, arrived_ms);
            self.symbols.note_latest(id, state.time());
            self.normalizer.restore(id, state.clone());
            taken[shard].prices.push((id, state.price()));
        }
        if let Some((wide, warm)) = self.wide.as_mut().zip(warm.wide.as_mut()) {
            wide.resolve_all(&mut self.symbols);
            wide.take_over(warm, before, &ids);
            ids.iter().for_each(|(id, _)| self.symbols.note_changed(*id));
        }
        for (shard, taken) in taken.iter_mut().enumerate() {
            taken.members = self.unknown_members(&groups[shard], shard);
        }
        taken
    }

    /// Interns a symbol or group that a warm-up has seen.
    fn meet(&mut self, name: &str, arrived_ms: u64) -> Route {
        if name.starts_with(GROUP_MARK) {
            let (route, _) = self.symbols.meet_group(name, self.shards);
            self.symbols.shown[route.id as usize] = true;
            self.symbols.note_row(route.id, arrived_ms);
            return route;
        }
        let (route, _) = self.symbols.meet(name, arrived_ms, self.shards);
        self.normalizer.introduce(route.id, name);
        route
    }

    /// Forgets the longest silent symbols, if there are too many; or all of them, if the feed's clock went back, and sets the
    /// clock back. The shards must forget them at the same position.
    pub fn evict(&mut self) -> Option<Evicted> {
        let evicted = if set_back::is_set_back(&self.clock) {
            let (from, to) = (self.clock.time, self.clock.behind.time);
            (self.clock.time, self.clock.behind) = (to, TicksBehind::default());
            self.symbols.evict_all(EvictionCause::ClockSetBack { from, to })
        } else {
            self.symbols.evict(self.symbols_max)?
        };
        evicted.ids.iter().for_each(|id| self.normalizer.forget(*id));
        if let Some(wide) = &mut self.wide {
            wide.forget(&evicted.ids);
            if matches!(evicted.cause, EvictionCause::ClockSetBack { .. }) {
                wide.forget_contexts();
            }
        }
        Some(evicted)
    }

    /// Whether there are fewer symbols than an eviction leaves, so that none can have been evicted.
    pub(crate) fn has_evicted_none(&self) -> bool {
        self.symbols.has_evicted_none(self.symbols_max)
    }

    /// Gives the numbers of evicted symbols to new ones. Nothing may be in flight any more that has the old ones.
    pub fn reuse(&mut self, evicted: &[u32]) {
        self.symbols.reuse(evicted);
    }

    /// The number of symbols in each chunk of the saved state.
    pub fn chunk_sizes(&self) -> &[u32] {
        self.symbols.chunk_sizes()
    }

    /// Continues from another event time.
    pub(crate) fn reset_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The event time as of the last routed entry.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The number of symbols that are known.
    pub fn symbol_count(&self) -> usize {
        self.symbols.len()
    }

    /// The name of each symbol by its number.
    pub fn symbol_names(&self) -> &[Arc<str>] {
        self.symbols.names()
    }

    /// The venue of a symbol as of an entry; `None` if no tick had named it by then.
    pub(crate) fn venue_at(&self, symbol: u32, place: Place) -> Option<&str> {
        self.symbols.venue_at(symbol, place)
    }

    /// Decodes and routes a whole read, however many symbols there are then.
    pub fn route(&mut self, read: u64, entries: &Entries) -> Routed {
        self.route_within(read, entries, None)
    }

    /// Decodes and routes a read up to the entry after which there are too many symbols, or the clock is known to have gone
    /// back. [`Ingest::evict`] must follow then, before the other entries.
    pub fn route_until_full(&mut self, read: u64, entries: &Entries) -> Routed {
        self.route_within(read, entries, Some(self.symbols_max))
    }

    fn route_within(&mut self, read: u64, entries: &Entries, symbols_max: Option<usize>) -> Routed {
        let mut routed = Routed { jobs: (0..self.shards).map(|_| None).collect(), ..Routed::default() };
        let session = if self.normalizer.has_session_columns() { session::COLUMNS.len() } else { 0 };
        self.row.resize(self.wide.as_ref().map_or(self.columns + session, |wide| wide.width()), f64::NAN);
        match &entries.decoded {
            Some(_) => self.route_decoded(read, entries, symbols_max, &mut routed),
            None => self.route_undecoded(read, entries, symbols_max, &mut routed),
        }
        routed.repaired = self.normalizer.take_counts();
        routed.calendars = self.normalizer.take_calendar_counts();
        routed
    }

    fn route_undecoded(&mut self, read: u64, entries: &Entries, symbols_max: Option<usize>, routed: &mut Routed) {
        let rows = self.room(entries.len());
        let ahead_max_ms = self.decoder.ahead_max_ms();
        let Self { decoder, symbols, normalizer, row, wide, ticks: held, clock, newest_ms, .. } = self;
        for (index, entry) in entries.iter().enumerate() {
            let at = index as u32;
            if entry.fields().len() == 0 {
                routed.lost.push(entry.id);
                continue;
            }
            let place = RowPlace { read, entry: at, arrived_ms: entry.id.millis, rows };
            let mut router = Router {
                place,
                ahead_max_ms,
                symbols,
                normalizer,
                row,
                wide: wide.as_deref_mut(),
                is_taken_back: false,
                clock,
                newest_ms: *newest_ms,
                routed,
            };
            let reason = if router.wide.is_some() {
                router.held_entry(entry, decoder, held)
            } else {
                router.entry(entry, decoder)
            };
            match reason {
                Ok(reason) => {
                    symbols.end_entry(entry.id.millis);
                    normalizer.keep();
                    routed.undecodable.extend(reason.map(|reason| (at, reason)));
                }
                Err(reason) => {
                    routed.ticks -= normalizer.take_back();
                    let new = symbols.undo_entry();
                    new.iter().for_each(|id| normalizer.take_back_symbol(*id));
                    routed.take_back(at, &new);
                    routed.undecodable.push((at, reason));
                }
            }
            *newest_ms = entry.id.millis.max(*newest_ms);
            if must_evict(symbols, clock, symbols_max) {
                routed.full_after = Some(index + 1);
                return;
            }
        }
    }

    /// The capacity for rows of a shard that gets its share of so many ticks, clock rows included.
    fn room(&self, ticks: usize) -> usize {
        ticks / self.shards + ticks / self.shards / 4 + 2
    }

    fn route_decoded(&mut self, read: u64, entries: &Entries, symbols_max: Option<usize>, routed: &mut Routed) {
        let Some(decoded) = &entries.decoded else { return };
        let rows = self.room(decoded.entry.len());
        let ahead_max_ms = self.decoder.ahead_max_ms();
        let Self { columns, symbols, normalizer, row, wide, clock, newest_ms, .. } = self;
        routed.undecodable.clone_from(&decoded.rejected);
        symbols.learn(&decoded.names, &decoded.venues);
        let ticks = decoded.entry.iter().zip(&decoded.symbol).zip(&decoded.time).zip(&decoded.price);
        let ticks = ticks.zip(decoded.columns.chunks_exact(*columns));
        let place = RowPlace { read, entry: 0, arrived_ms: 0, rows };
        let (wide, newest) = (wide.as_deref_mut(), *newest_ms);
        let is_taken_back = false;
        let mut router = Router {
            place,
            ahead_max_ms,
            symbols,
            normalizer,
            row,
            wide,
            is_taken_back,
            clock,
            newest_ms: newest,
            routed,
        };
        for (at, ((((entry, symbol), time), price), values)) in ticks.enumerate() {
            let id = entries.id(*entry as usize).unwrap_or_default();
            let symbol = Name::Number(*symbol);
            let tick = RoutedTick { symbol, venue: "", time: *time, price: *price, values };
            (router.place.entry, router.place.arrived_ms) = (*entry, id.millis);
            if let Err(rejected) = router.tick(id, &tick, Normalizer::normalize) {
                router.routed.undecodable.push((*entry, rejected.to_string()));
            }
            router.symbols.end_entry(id.millis);
            if decoded.entry.get(at + 1) == Some(entry) {
                continue;
            }
            *newest_ms = id.millis.max(*newest_ms);
            router.newest_ms = *newest_ms;
            if must_evict(router.symbols, router.clock, symbols_max) {
                routed.full_after = Some(*entry as usize + 1);
                routed.undecodable.retain(|(at, _)| at <= entry);
                return;
            }
        }
    }
}

impl Routed {
    /// Takes back the ticks of an entry, the last one that was routed, and its `new` symbols.
    fn take_back(&mut self, entry: u32, new: &[u32]) {
        // An entry may have hundreds of thousands of them.
        let new: FxHashSet<u32> = new.iter().copied().collect();
        for job in self.jobs.iter_mut().flatten() {
            job.batch.take_back(entry);
            // Those of the last entry are at the end, with groups among them.
            if job.views.is_empty() {
                while job.symbols.pop_if(|(id, _)| new.contains(id)).is_some() {}
            } else {
                job.symbols.retain(|(id, _)| !new.contains(id));
            }
        }
    }
}

/// Whether symbols must be evicted before the next entry; never without a limit.
fn must_evict(symbols: &Symbols, clock: &Clock, symbols_max: Option<usize>) -> bool {
    symbols_max.is_some_and(|max| symbols.len() > max || set_back::is_set_back(clock))
}

/// The reason of the dead letter of an entry with so many ticks.
fn too_many(ticks: usize) -> String {
    format!("too many ticks: {ticks} in one entry, at most {TICKS_PER_ENTRY_MAX} are allowed; publish several entries")
}

/// A tick on its way to its shard.
struct RoutedTick<'a> {
    symbol: Name<'a>,
    /// The venue that it comes from, if the symbol is a text; empty if that is not known.
    venue: &'a str,
    time: Option<u64>,
    price: f64,
    values: &'a [f64],
}

/// A tick whose symbol and time are known.
struct FoundTick {
    /// The number of the symbol.
    id: u32,
    shard: usize,
    /// Whether it is the symbol's first tick.
    is_new: bool,
    /// Whether the symbol's own state is as of a later entry.
    is_awaited: bool,
    time: u64,
    /// Whether the time is estimated.
    estimated: bool,
}

/// The ticks of an entry that is decoded before it is routed; kept for their memory.
#[derive(Default)]
struct EntryTicks {
    ticks: Vec<RawTick>,
    /// The number of ticks, of which at most [`TICKS_PER_ENTRY_MAX`] are kept.
    count: usize,
}

impl EntryTicks {
    fn push(&mut self, tick: &RawTick) {
        self.count += 1;
        match self.ticks.get_mut(self.count - 1) {
            Some(kept) => kept.clone_from(tick),
            None if self.count <= TICKS_PER_ENTRY_MAX => self.ticks.push(tick.clone()),
            None => {}
        }
    }

    fn of_entry(&self) -> &[RawTick] {
        &self.ticks[..self.count.min(self.ticks.len())]
    }
}

/// Puts ticks into the jobs of their shards.
struct Router<'a> {
    /// Where the entry is.
    place: RowPlace,
    ahead_max_ms: u64,
    symbols: &'a mut Symbols,
    normalizer: &'a mut Normalizer,
    /// Room for the columns of a tick, as wide as a row.
    row: &'a mut [f64],
    /// What detectors want beside ticks of symbols.
    wide: Option<&'a mut Wide>,
    /// Whether the entry is known to be taken back, so that views don't get its ticks.
    is_taken_back: bool,
    clock: &'a mut Clock,
    /// When the newest entry before this one arrived.
    newest_ms: u64,
    routed: &'a mut Routed,
}

impl Router<'_> {
    /// Decodes and routes an entry. Returns a reason if some of its ticks are rejected.
    ///
    /// # Errors
    /// Returns the reason why the ticks must be taken back.
    fn entry(&mut self, entry: Entry<'_>, decoder: &mut Decoder) -> Result<Option<String>, String> {
        let (mut ticks, mut rejected) = (0, None);
        let outcome = decoder.decode(entry, &mut |tick| {
            ticks += 1;
            if ticks <= TICKS_PER_ENTRY_MAX
                && let Err(reason) = self.raw_tick(entry.id, tick)
            {
                rejected = Some(reason);
            }
        });
        judge(outcome, ticks, rejected)
    }

    /// Like [`Self::entry`], for an entry whose ticks may end bars: they can't be taken back, so it must be known before whether
    /// they are.
    fn held_entry(
        &mut self,
        entry: Entry<'_>,
        decoder: &mut Decoder,
        held: &mut EntryTicks,
    ) -> Result<Option<String>, String> {
        held.count = 0;
        let outcome = decoder.decode(entry, &mut |tick| held.push(tick));
        self.is_taken_back = outcome.is_err() || held.count > TICKS_PER_ENTRY_MAX;
        let mut rejected = None;
        for tick in held.of_entry() {
            if let Err(reason) = self.raw_tick(entry.id, tick) {
                rejected = Some(reason);
            }
        }
        judge(outcome, held.count, rejected)
    }

    #[inline]
    fn raw_tick(&mut self, id: EntryId, tick: &RawTick) -> Result<(), RejectedTick> {
        let symbol = Name::Text(&tick.symbol);
        let (time, price, values) = (tick.time, tick.price, &tick.columns);
        let tick = RoutedTick { symbol, venue: &tick.venue, time, price, values };
        // The entry may turn out to be damaged behind this tick.
        self.tick(id, &tick, Normalizer::normalize_revocably)
    }

    /// Routes a tick. One that is rejected has no effect, not even on the clock.
    #[inline]
    fn tick(
        &mut self,
        id: EntryId,
        tick: &RoutedTick<'_>,
        normalize: impl Fn(&mut Normalizer, &mut NormalizedRow<'_>),
    ) -> Result<(), RejectedTick> {
        let known = self.symbols.find(tick.symbol)?;
        let new_venue = self.symbols.new_venue(tick.symbol, known, tick.venue)?;
        let Some((time, estimated)) = resolve_time(self.clock, id, tick.time, self.ahead_max_ms) else {
            self.routed.untimed += 1;
            return Ok(());
        };
        if tick.time.is_some() && id.millis >= self.newest_ms {
            if set_back::is_far_behind(time, self.clock.time) {
                set_back::note(self.clock, time, known.map_or(0, |known| self.symbols.latest(known.id)));
            } else if self.clock.behind.count > 0 {
                self.clock.behind = TicksBehind::default();
            }
        }
        if time / NANOS_PER_SECOND > self.clock.time / NANOS_PER_SECOND {
            self.reach(time / NANOS_PER_SECOND * NANOS_PER_SECOND);
        }
        let Self { place, symbols, wide, clock, routed, .. } = self;
        clock.time = clock.time.max(time);
        let Route { id, shard } = known.unwrap_or_else(|| symbols.add(tick.symbol, routed.jobs.len()));
        symbols.touch(id, time);
        if let Some(venue) = new_venue {
            symbols.set_venue(id, venue, Place { read: place.read, entry: place.entry });
        }
        let is_awaited = symbols.awaited[id as usize];
        if !is_awaited || wide.as_ref().is_some_and(|wide| !wide.is_awaited(id)) {
            let found = FoundTick { id, shard, is_new: known.is_none(), is_awaited, time, estimated };
            self.add(&found, tick, normalize);
        }
        Ok(())
    }

    /// Normalizes a tick and adds its rows.
    #[inline]
    fn add(
        &mut self,
        found: &FoundTick,
        tick: &RoutedTick<'_>,
        normalize: impl Fn(&mut Normalizer, &mut NormalizedRow<'_>),
    ) {
        let Self { place, symbols, normalizer, row, wide, is_taken_back, clock, routed, .. } = self;
        let RowPlace { read, entry, rows, .. } = *place;
        let Routed { jobs, ticks, .. } = &mut **routed;
        let FoundTick { id, shard, is_new, is_awaited, time, estimated } = *found;
        let mut views: &[ViewPlan] = &[];
        let plan = wide.as_ref().map(|wide| wide.plan.clone());
        if let Some(plan) = &plan {
            views = &plan.views;
        }
        if is_new {
            let name = &symbols.names()[id as usize];
            normalizer.introduce(id, name);
            open(&mut jobs[shard], read, row.len(), rows, views).symbols.push((id, name.clone()));
        }
        *ticks += 1;
        row[..tick.values.len()].copy_from_slice(tick.values);
        if estimated {
            row[column::FLAGS] = f64::from(row[column::FLAGS] as u32 | flag::TIME_ESTIMATED);
        }
        // Columns that are not of the input or the session follow those.
        let own = tick.values.len() + if normalizer.has_session_columns() { session::COLUMNS.len() } else { 0 };
        let mut normalized = NormalizedRow { symbol: id, time, price: tick.price, columns: &mut row[..own] };
        normalize(normalizer, &mut normalized);
        let NormalizedRow { time, price, .. } = normalized;
        let mut wide = wide.as_deref_mut().filter(|_| !*is_taken_back);
        if let Some(wide) = &mut wide {
            wide.resolve(id, symbols);
        }
        if price.is_nan() {
            return;
        }
        if let Some(wide) = &mut wide {
            let session = normalizer.span(normalizer.calendar_of(id), time).number;
            wide.fill(id, price, session, row);
        }
        let made = TickRow { entry, symbol: id, time, price, columns: row };
        if !is_awaited {
            open(&mut jobs[shard], read, row.len(), rows, views).batch.push(made);
        }
        if let Some(wide) = wide {
            wide.tick(&made, clock.time, normalizer, Outlet { place: *place, symbols, jobs });
        }
    }

    /// Notes that event time reaches a whole second. Every shard gets a clock row before the first tick of a second of event time,
    /// whichever shard that tick goes to.
    fn reach(&mut self, second: u64) {
        let Self { place, symbols, normalizer, row, wide, clock, routed, .. } = self;
        let (place, jobs) = (*place, &mut routed.jobs);
        let plan = wide.as_ref().map(|wide| wide.plan.clone());
        if let Some(wide) = wide {
            wide.reach(clock.time, second, normalizer, Outlet { place, symbols, jobs });
        }
        let views = plan.as_ref().map_or(&[][..], |plan| &plan.views);
        for slot in jobs.iter_mut() {
            open(slot, place.read, row.len(), place.rows, views).batch.push_clock(place.entry, second);
        }
    }
}

/// Whether the ticks of an entry stay, and the reason of its dead letter if it has one.
fn judge(
    outcome: Result<Outcome, DecodeError>,
    ticks: usize,
    rejected: Option<RejectedTick>,
) -> Result<Option<String>, String> {
    match (outcome, rejected) {
        (Ok(_), _) if ticks > TICKS_PER_ENTRY_MAX => Err(too_many(ticks)),
        // The valid ticks of a list are processed; the dead letter holds the whole list.
        (Ok(Outcome::Partly(_, error)), _) => Ok(Some(error.to_string())),
        (Ok(_), rejected) => Ok(rejected.map(|rejected| rejected.to_string())),
        // A truncated document may have given ticks before the error: they are taken back.
        (Err(error), _) => Err(error.to_string()),
    }
}

fn open<'a>(slot: &'a mut Option<Job>, read: u64, columns: usize, rows: usize, views: &[ViewPlan]) -> &'a mut Job {
    slot.get_or_insert_with(|| Job {
        read,
        symbols: Vec::new(),
        members: Vec::new(),
        batch: Batch::with_capacity(columns, rows),
        views: views.iter().map(|view| ViewRows::new(view, columns)).collect(),
    })
}

/// The time of a tick, and whether it is estimated. Without a time of its own, a tick gets its arrival less the delay of
/// the latest tick that had one: in a feed of old ticks an arrival time would be years ahead of its neighbors. Before the
/// first tick with a time there is nothing to estimate from, until so many ticks have come without one that the feed is
/// taken to have none; then the arrival is the time. A tick of such a feed that has a time after all, as anyone may add one,
/// gets that time, and the others are still timed by their arrival unless many ticks have one.
///
/// A time that is more than `ahead_max_ms` ahead of its arrival is lowered to that. The clock of all detectors moves with
/// the latest time, and never back, so a single tick could stop it until the feed has caught up, and a symbol's own later
/// ticks would all get the time of that tick. What several symbols agree on is not believed either: whoever adds one entry
/// can add two. So the arrival alone decides, which needs no memory, and is the same in a replay and with one symbol.
///
/// An id may be any number, so an estimate may be out of the range of nanoseconds. Such a tick is skipped like one without
/// a time: a dead letter would blame the tick, which is valid, and after an id near the end of all ids no entry can
/// follow.
fn resolve_time(clock: &mut Clock, id: EntryId, stamped: Option<u64>, ahead_max_ms: u64) -> Option<(u64, bool)> {
    if let Some(stamped) = stamped {
        let latest = id.millis.saturating_add(ahead_max_ms).saturating_mul(NANOS_PER_MILLI);
        let time = stamped.min(latest);
        // A time in nanoseconds is far from the end of an i64 in milliseconds, so this difference can't overflow.
        let arrived_ms = i64::try_from(id.millis).unwrap_or(i64::MAX);
        if has_no_times(clock) {
            clock.unstamped = clock.unstamped.min(UNSTAMPED_FULL) - STAMPED_WEIGHT;
        }
        if !has_no_times(clock) {
            clock.delay_ms = Some(arrived_ms - (time / NANOS_PER_MILLI) as i64);
        }
        return Some((time, time < stamped));
    }
    if has_no_times(clock) {
        clock.unstamped = UNSTAMPED_FULL.min(clock.unstamped.saturating_add(1));
    } else if clock.delay_ms.is_none() {
        clock.unstamped = clock.unstamped.saturating_add(1);
        if clock.unstamped > UNSTAMPED_MAX {
            (clock.delay_ms, clock.unstamped) = (Some(0), UNSTAMPED_FULL);
        }
    }
    let time_ms = id.millis.saturating_add_signed(clock.delay_ms?.saturating_neg());
    Some((time_ms.checked_mul(NANOS_PER_MILLI)?, true))
}

/// Whether the feed is taken to have no times. One whose checkpoint has a delay got a time after all, with a release that
/// believed the first one.
fn has_no_times(clock: &Clock) -> bool {
    clock.unstamped > UNSTAMPED_MAX && clock.delay_ms == Some(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plugin::{BatchColumns, Feed, View};
    use tickhound_core::{
        config::InputConfig,
        event::{CLOCK, DecodedTicks},
        market::Market,
        session::Sessions,
    };

    /// 2025-11-24 10:15:30 in Kolkata, ms.
    const THEN: u64 = 1_763_959_530_000;
    /// A year later, when it is replayed.
    const NOW: u64 = THEN + 365 * 86_400_000;

    fn ingest(shards: usize) -> Ingest {
        ingest_by(&InputConfig::default(), shards)
    }

    fn ingest_by(config: &InputConfig, shards: usize) -> Ingest {
        let normalizer = Normalizer::new(config, &Sessions::default()).unwrap();
        Ingest::new(Decoder::new(config, Path::new(".")).unwrap(), normalizer, shards, Clock::default())
    }

    fn entries(ticks: &[(u64, &str)]) -> Entries {
        let mut entries = Entries::default();
        for (seq, (arrival, fields)) in ticks.iter().enumerate() {
            entries.push_entry(EntryId { millis: *arrival, seq: seq as u64 });
            for field in fields.split(' ').filter(|field| !field.is_empty()) {
                let (name, value) = field.split_once('=').unwrap();
                entries.push_field(name.as_bytes(), value.as_bytes());
            }
        }
        entries
    }

    /// Whether the time of each row is estimated.
    fn estimated(batch: &Batch) -> Vec<bool> {
        batch.columns[column::FLAGS].iter().map(|flags| *flags as u32 & flag::TIME_ESTIMATED != 0).collect()
    }

    #[test]
    fn a_missing_time_is_estimated_from_the_delay_of_its_neighbors() {
        let stamped = format!("symbol=A ltp=1 timestamp={THEN}");
        let read = entries(&[
            (NOW, "symbol=A ltp=1"),
            (NOW + 5, &stamped),
            (NOW + 7, "symbol=A ltp=1"),
            (NOW + 8, "symbol=B ltp=1 timestamp=0"),
        ]);
        let mut ingest = ingest(1);
        let routed = ingest.route(1, &read);
        let batch = &routed.jobs[0].as_ref().unwrap().batch;
        assert_eq!(routed.untimed, 1, "nothing to estimate the first one from");
        assert_eq!(batch.symbol, [CLOCK, 0, 0, 1]);
        assert_eq!(batch.time[1..], [THEN, THEN + 2, THEN + 3].map(|ms| ms * NANOS_PER_MILLI));
        assert_eq!(estimated(batch)[1..], [false, true, true]);
    }

    /// Fifty detectors of bars were called each second, though few seconds end a bar, and none of them used the clock.
    #[test]
    fn clock_rows_go_to_those_views_that_have_a_detector_which_uses_them() {
        let view = |seconds| View { feeds: vec![Feed::Bars(seconds)], ..View::default() };
        let mut ingest = ingest(1);
        let market = Arc::new(Market::default());
        let layout = Arc::new(BatchColumns::new(ingest.decoder.column_names(), &market, None));
        let detectors = [(view(1), false), (view(2), true), (view(2), false)];
        ingest.set_plan(Some(Arc::new(IngestPlan::new(market, layout, detectors))));
        let ticks = [0, 1000, 4000].map(|after| (NOW + after, format!("symbol=A ltp=1 timestamp={}", THEN + after)));
        let read: Vec<(u64, &str)> = ticks.iter().map(|(at, text)| (*at, text.as_str())).collect();
        let routed = ingest.route(1, &entries(&read));
        let job = routed.jobs[0].as_ref().unwrap();
        let rows: Vec<_> = job.views.iter().map(|view| (view.view.feeds[0], view.batch.symbol.clone())).collect();
        assert_eq!(rows, [(Feed::Bars(1), vec![0, 0]), (Feed::Bars(2), vec![CLOCK, CLOCK, 0, CLOCK])]);
    }

    #[test]
    fn a_feed_without_times_is_timed_by_arrival() {
        let mut ingest = ingest(1);
        let read = entries(&vec![(NOW, "symbol=A ltp=1"); 1001]);
        let routed = ingest.route(1, &read);
        assert_eq!((routed.untimed, routed.ticks), (1000, 1));
        assert_eq!(routed.jobs[0].as_ref().unwrap().batch.time[1], NOW * NANOS_PER_MILLI);
    }

    /// A single tick stamped in the year 2000 set the delay of a feed without times to 25 years: all later ticks were
    /// estimated in 2000, and no detector saw time pass again.
    #[test]
    fn a_stray_time_in_a_feed_without_times_moves_no_other_tick() {
        const LONG_AGO: u64 = 946_684_800_000;
        let mut ingest = ingest(1);
        let bare = |ticks: u64| (0..ticks).map(|ms| (NOW + ms, "symbol=A ltp=1")).collect::<Vec<_>>();
        ingest.route(1, &entries(&bare(3000)));
        let stray = format!("symbol=B ltp=1 timestamp={LONG_AGO}");
        for round in 0..200 {
            let from = NOW + 3000 + round * 100;
            let mut read = vec![(from, stray.as_str())];
            read.extend(bare(20).into_iter().map(|(at, tick)| (at - NOW + from, tick)));
            let routed = ingest.route(1, &entries(&read));
            let batch = &routed.jobs[0].as_ref().unwrap().batch;
            let ticks: Vec<(u32, u64)> = batch.symbol.iter().copied().zip(batch.time.iter().copied()).collect();
            let of_feed = ticks.iter().filter(|(symbol, _)| *symbol == 0).map(|(_, time)| time / NANOS_PER_MILLI);
            assert_eq!(of_feed.collect::<Vec<_>>(), (from..from + 20).collect::<Vec<_>>(), "round {round}");
            let of_stray = ticks.iter().filter(|(symbol, _)| *symbol == 1).map(|(_, time)| time / NANOS_PER_MILLI);
            assert_eq!(of_stray.collect::<Vec<_>>(), [LONG_AGO]);
        }
    }

    /// The times of 200 ticks of two symbols, one a second.
    fn seconds_from(start: u64) -> Vec<String> {
        let tick = |n: u64| format!("symbol={} ltp=1 timestamp={}", ["A", "B"][n as usize % 2], start + n * 1000);
        (0..200).map(tick).collect()
    }

    /// Routes ticks that arrive one after the other, in reads of `count`, and returns after how many a set-back was found.
    fn set_back_after(ingest: &mut Ingest, ticks: &[String], arrival: u64, count: usize) -> Option<usize> {
        let arrivals = ticks.iter().enumerate().map(|(n, tick)| (arrival + n as u64, tick.as_str()));
        let ticks: Vec<(u64, &str)> = arrivals.collect();
        for (at, read) in ticks.chunks(count).enumerate() {
            if let Some(after) = ingest.route_until_full(1, &entries(read)).full_after {
                return Some(at * count + after);
            }
        }
        None
    }

    #[test]
    fn a_clock_that_goes_back_and_stays_back_is_believed_after_a_hundred_ticks() {
        for count in [1, 7, 100, 1000] {
            let mut ingest = ingest(2);
            assert_eq!(set_back_after(&mut ingest, &seconds_from(THEN), NOW, count), None);
            let morning = THEN - 3_600_000;
            assert_eq!(set_back_after(&mut ingest, &seconds_from(morning), NOW + 1000, count), Some(100));
            let Evicted { cause, names, .. } = ingest.evict().unwrap();
            assert_eq!(names.len(), 2);
            let [from, to] = [THEN + 199_000, morning + 99_000].map(|ms| ms * NANOS_PER_MILLI);
            assert_eq!(cause, EvictionCause::ClockSetBack { from, to });
            assert_eq!(ingest.clock().time, to);
            assert!(ingest.evict().is_none(), "once");
            // What comes then is behind nothing.
            assert_eq!(set_back_after(&mut ingest, &seconds_from(morning + 100_000), NOW + 2000, count), None);
        }
    }

    #[test]
    fn ticks_that_are_late_for_another_reason_are_not_a_clock_that_went_back() {
        let start = || {
            let mut ingest = ingest(2);
            set_back_after(&mut ingest, &seconds_from(THEN), NOW, 10);
            ingest
        };
        let hour_ago = THEN - 3_600_000;
        // Entries that arrived long ago, and are processed late.
        assert_eq!(set_back_after(&mut start(), &seconds_from(hour_ago), NOW - 1000, 10), None);
        // Symbols that were never ahead: last trades of options that are rarely traded.
        let rare: Vec<String> =
            seconds_from(hour_ago).iter().map(|tick| tick.replace("symbol=", "symbol=RARE")).collect();
        assert_eq!(set_back_after(&mut start(), &rare, NOW + 1000, 10), None);
        // One producer of two is late.
        let late = seconds_from(hour_ago);
        let fresh = seconds_from(THEN + 200_000);
        let both: Vec<String> =
            late.chunks(90).zip(&fresh).flat_map(|(late, fresh)| late.iter().chain([fresh])).cloned().collect();
        assert_eq!(set_back_after(&mut start(), &both, NOW + 1000, 10), None);
        // A producer that is some minutes late, or one that sends a moment again and again.
        assert_eq!(set_back_after(&mut start(), &seconds_from(THEN - 100_000), NOW + 1000, 10), None);
        let moment = vec![late[0].clone(); 1000];
        assert_eq!(set_back_after(&mut start(), &moment, NOW + 1000, 10), None);
    }

    #[test]
    fn a_feed_that_had_no_times_is_timed_by_them_once_it_has_them() {
        let mut ingest = ingest(1);
        ingest.route(1, &entries(&vec![(NOW, "symbol=A ltp=1"); 3000]));
        let stamped = format!("symbol=A ltp=1 timestamp={THEN}");
        ingest.route(1, &entries(&vec![(NOW, stamped.as_str()); 101]));
        let routed = ingest.route(1, &entries(&[(NOW + 5, "symbol=B ltp=1")]));
        assert_eq!(routed.jobs[0].as_ref().unwrap().batch.time.last(), Some(&((THEN + 5) * NANOS_PER_MILLI)));
    }

    /// An id may be any pair of numbers. Its conversion to nanoseconds overflowed: ticks got times of long ago, and a build
    /// with overflow checks panicked.
    #[test]
    fn a_tick_whose_arrival_is_out_of_range_is_skipped_and_counted() {
        let stamped = format!("symbol=A ltp=1 timestamp={THEN}");
        for (before, hostile) in [(NOW, u64::MAX), (NOW, i64::MAX as u64 + 1), (5, u64::MAX), (0, 1 << 62)] {
            let mut ingest = ingest(1);
            let routed = ingest.route(1, &entries(&[(before, &stamped), (hostile, "symbol=A ltp=1")]));
            let times = routed.jobs[0].as_ref().map_or(0, |job| job.batch.time.len() - 1);
            // A time after the arrival is not believed.
            assert_eq!(
                (times, routed.untimed),
                (usize::from(before == NOW), 1 + u64::from(before != NOW)),
                "{hostile}"
            );
        }
        // A tick with a time of its own is not affected, and the next one is estimated from it.
        let mut ingest = ingest(1);
        let routed = ingest.route(1, &entries(&[(u64::MAX, &stamped), (u64::MAX, "symbol=A ltp=1")]));
        assert_eq!((routed.ticks, routed.untimed), (1, 1));
        assert_eq!(ingest.symbols.arrived_ms(0), u64::MAX);
    }

    #[test]
    fn a_damaged_clock_never_overflows() {
        for (delay_ms, unstamped) in [(Some(i64::MIN), 0), (Some(i64::MAX), 0), (None, u64::MAX)] {
            for millis in [0, NOW, u64::MAX] {
                let mut clock = Clock { time: u64::MAX, delay_ms, unstamped, ..Clock::default() };
                for stamped in [None, Some(0), Some(u64::MAX)] {
                    let _ = resolve_time(&mut clock, EntryId { millis, seq: 0 }, stamped, 2000);
                }
            }
        }
    }

    #[test]
    fn clock_rows_come_where_event_time_reaches_a_second_whatever_the_batches() {
        let texts: Vec<String> = [0, 400, 900, 1100, 1050, 3000]
            .iter()
            .enumerate()
            .map(|(n, ms)| format!("symbol=S{} ltp=1 timestamp={}", n % 3, THEN + ms))
            .collect();
        let ticks: Vec<(u64, &str)> = texts.iter().map(|text| (NOW, text.as_str())).collect();
        let rows = |pieces: usize| {
            let mut ingest = ingest(2);
            let mut rows = [Vec::new(), Vec::new()];
            for piece in ticks.chunks(pieces) {
                for (shard, job) in ingest.route(1, &entries(piece)).jobs.into_iter().enumerate() {
                    let Some(job) = job else { continue };
                    rows[shard].extend(job.batch.symbol.iter().copied().zip(job.batch.time.iter().copied()));
                }
            }
            rows
        };
        let whole = rows(6);
        for shard in &whole {
            let clocks: Vec<u64> =
                shard.iter().filter(|(symbol, _)| *symbol == CLOCK).map(|(_, time)| time / NANOS_PER_MILLI).collect();
            assert_eq!(clocks, [THEN, THEN + 1000, THEN + 3000]);
        }
        assert_eq!(rows(1), whole);
        assert_eq!(rows(4), whole);
    }

    #[test]
    fn a_truncated_document_gives_no_tick() {
        let mut ingest = ingest(1);
        let text = format!("data=[{{\"symbol\":\"A\",\"ltp\":1,\"timestamp\":{THEN}}},{{\"symbol\":");
        let good = format!("symbol=B ltp=2 timestamp={}", THEN + 1);
        let routed = ingest.route(1, &entries(&[(NOW, &text), (NOW, &good), (NOW, "")]));
        assert_eq!(routed.undecodable.len(), 1);
        assert_eq!((routed.ticks, routed.lost.len()), (1, 1));
        let batch = &routed.jobs[0].as_ref().unwrap().batch;
        assert_eq!(batch.symbol, [CLOCK, 0], "the symbol of the tick that was taken back is forgotten");
    }

    /// Its ticks had been normalized before the error was seen. They must not raise the time of later ticks, count as volume,
    /// or begin a session.
    #[test]
    fn a_truncated_document_leaves_the_normalizer_as_it_was() {
        let tick = |symbol: &str, ms: u64, volume: u64| {
            format!(
                "{{\"symbol\":\"{symbol}\",\"ltp\":{volume},\"volume_traded\":{volume},\"timestamp\":{}}}",
                THEN + ms
            )
        };
        let whole = |symbol, ms, volume| format!("data={}", tick(symbol, ms, volume));
        let cut = format!("data=[{},{},{},{{\"symbol\":", tick("A", 900, 70), tick("A", 950, 90), tick("B", 950, 90));
        let before = [whole("A", 0, 10), whole("A", 100, 20)];
        let after = [whole("A", 200, 25), whole("B", 300, 30), whole("A", 400, 26)];
        let route = |texts: &[&[String]]| {
            let mut ingest = ingest(1);
            let texts = texts.concat();
            let texts: Vec<(u64, &str)> = texts.iter().map(|text| (NOW, text.as_str())).collect();
            let routed = ingest.route(1, &entries(&texts));
            let states: Vec<Option<NormalizerState>> = (0..2).map(|id| ingest.normalizer.state(id).cloned()).collect();
            let mut batch = routed.jobs.into_iter().flatten().next().unwrap().batch;
            batch.entry.clear();
            (routed.repaired, routed.ticks, states, format!("{batch:?}"))
        };
        assert_eq!(route(&[&before, &[cut], &after]), route(&[&before, &after]));
    }

    /// Detectors can't see a tick without a price. Its symbol is known nevertheless, and what it published is saved.
    #[test]
    fn a_tick_without_a_price_is_saved_and_not_shown() {
        let mut ingest = ingest(1);
        let quote = format!("symbol=A bid=9 ask=11 timestamp={THEN}");
        let routed = ingest.route(1, &entries(&[(NOW, &quote)]));
        let job = routed.jobs[0].as_ref().unwrap();
        assert_eq!((routed.ticks, routed.repaired.unpriced), (1, 1));
        assert_eq!((job.symbols.len(), &job.batch.symbol), (1, &vec![CLOCK]));
        let mut saved = || ingest.visit(&(0..256)).by_shard.remove(0);
        let [base] = &saved()[..] else { panic!("one symbol is saved") };
        assert!(base.arrived_ms == NOW && base.normalizer.as_ref().unwrap().price().is_nan());
        let price = format!("symbol=A ltp=10 timestamp={THEN}");
        assert!(ingest.route(2, &entries(&[(NOW, &quote)])).jobs[0].is_none(), "there is nothing to show");
        ingest.route(3, &entries(&[(NOW + 1, &price)]));
        let mut saved = || ingest.visit(&(0..256)).by_shard.remove(0);
        assert_eq!(saved()[0].normalizer.as_ref().unwrap().price(), 10.0);
        assert!(saved().is_empty(), "it was just saved");
    }

    #[test]
    fn a_list_with_something_else_in_it_gives_its_ticks_and_a_reason() {
        let mut ingest = ingest(1);
        let text = format!("data=[{{\"symbol\":\"A\",\"ltp\":1,\"timestamp\":{THEN}}},{{\"ltp\":5}}]");
        let routed = ingest.route(1, &entries(&[(NOW, &text)]));
        assert_eq!((routed.ticks, routed.undecodable.len()), (1, 1));
        assert!(routed.undecodable[0].1.starts_with("no symbol"), "{}", routed.undecodable[0].1);
    }

    /// A symbol of 70 MB was kept in memory, and copied to every detector; one with ESC or a line break wrote what it liked
    /// to logs and terminals.
    #[test]
    fn an_unusable_symbol_is_rejected_and_has_no_effect_in_any_layout() {
        let long = "X".repeat(200_000);
        for (symbol, reason) in [
            (long.as_str(), "longer than 128 bytes"),
            ("A\u{1b}]0;B", "U+001B"),
            ("A\nB", "U+000A"),
            ("A\u{202e}B", "U+202E"),
            ("A\u{200b}B", "U+200B"),
        ] {
            let json = serde_json::json!({ "symbol": symbol, "ltp": 1, "timestamp": NOW });
            let listed = serde_json::json!([{ "symbol": "GOOD", "ltp": 1, "timestamp": NOW }, &json]);
            let by_symbol = serde_json::json!([{ "symbol": symbol, "ltp": 1, "timestamp": NOW }]);
            let msgpack = [&[0x82, 0xa6][..], b"symbol", &msgpack_text(symbol), &[0xa3], b"ltp", &[1]].concat();
            let (stamp, json) = (NOW.to_string(), json.to_string());
            let flat: &[(&str, &[u8])] =
                &[("symbol", symbol.as_bytes()), ("ltp", b"1"), ("timestamp", stamp.as_bytes())];
            for fields in [
                flat,
                &[("data", json.as_bytes())],
                &[("data", &msgpack)],
                &[("data", by_symbol.to_string().as_bytes())],
            ] {
                let mut ingest = ingest(2);
                let mut read = Entries::default();
                read.push_entry(EntryId { millis: NOW, seq: 0 });
                fields.iter().for_each(|(name, value)| read.push_field(name.as_bytes(), value));
                let routed = ingest.route(1, &read);
                assert_eq!((routed.ticks, routed.undecodable.len(), routed.untimed), (0, 1, 0), "{reason}");
                assert!(routed.undecodable[0].1.contains(reason), "{}", routed.undecodable[0].1);
                assert!(routed.jobs.iter().all(Option::is_none), "not even a clock row");
                assert_eq!((ingest.clock(), ingest.symbols.len()), (Clock::default(), 0));
            }
            // The valid ticks of a list are processed.
            let mut ingest = ingest(1);
            let mut read = Entries::default();
            read.push_entry(EntryId { millis: NOW, seq: 0 });
            read.push_field(b"data", listed.to_string().as_bytes());
            let routed = ingest.route(1, &read);
            assert_eq!((routed.ticks, routed.undecodable.len()), (1, 1));
        }
    }

    fn msgpack_text(text: &str) -> Vec<u8> {
        [&[0xdb][..], &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    /// A symbol of a recording comes decoded, with a number in place of its name.
    #[test]
    fn an_unusable_symbol_of_a_recording_is_rejected_too() {
        let mut ingest = ingest(1);
        let mut read = Entries::default();
        let mut decoded =
            DecodedTicks { names: vec![(0, "A".into()), (1, "A\u{2028}".into())], ..DecodedTicks::default() };
        let columns = vec![f64::NAN; ingest.columns];
        for (entry, symbol) in [(0, 0), (1, 1), (2, 0), (3, 1)] {
            read.push_entry(EntryId { millis: NOW + u64::from(entry), seq: 0 });
            let time = Some((NOW + u64::from(entry)) * NANOS_PER_MILLI);
            decoded.push(TickRow { entry, symbol, time, price: 1.0, columns: &columns });
        }
        read.decoded = Some(Box::new(decoded));
        let routed = ingest.route(1, &read);
        assert_eq!(routed.ticks, 2);
        let refused: Vec<u32> = routed.undecodable.iter().map(|(entry, _)| *entry).collect();
        assert_eq!(refused, [1, 3]);
        assert_eq!(ingest.symbols.len(), 1);
    }

    /// One tick stamped 299 s ahead moved the clock there, and no detector saw time pass until the feed had caught up. The
    /// later ticks of its symbol all got that time.
    #[test]
    fn a_time_far_ahead_of_its_arrival_moves_the_clock_as_far_as_the_arrival_allows() {
        let tick = |second: u64| format!("symbol=A ltp=1 timestamp={}", NOW + second * 1000);
        // The time of a symbol never falls, so a tick behind the one with the lowered time is another symbol's.
        let other = tick(1).replace("symbol=A", "symbol=C");
        let texts = [tick(0), tick(299), other, tick(3), tick(4), "symbol=B ltp=1".to_owned()];
        let arrivals = [0, 0, 1, 3, 4, 5].map(|second| NOW + second * 1000);
        let read: Vec<(u64, &str)> = arrivals.into_iter().zip(texts.iter().map(String::as_str)).collect();
        let mut ingest = ingest(1);
        let routed = ingest.route(1, &entries(&read));
        let batch = &routed.jobs[0].as_ref().unwrap().batch;
        let rows: Vec<(bool, u64)> = batch
            .symbol
            .iter()
            .zip(&batch.time)
            .map(|(symbol, time)| (*symbol == CLOCK, (time / NANOS_PER_MILLI - NOW) / 1000))
            .collect();
        let (clock, tick) = (true, false);
        let expected = [(clock, 0), (tick, 0), (clock, 2), (tick, 2), (tick, 1), (clock, 3), (tick, 3), (clock, 4)];
        assert_eq!(rows[..8], expected);
        assert_eq!(rows[8..], [(tick, 4), (clock, 5), (tick, 5)], "no estimate is made from the time that was lowered");
        assert_eq!(estimated(batch)[3..5], [true, false]);
    }

    #[test]
    fn an_entry_with_too_many_ticks_is_rejected_whole_and_leaves_no_symbol() {
        let tick = r#"{"symbol":"A","ltp":1}"#;
        let list = |ticks: usize| format!("data=[{}]", vec![tick; ticks].join(","));
        let mut ingest = ingest(1);
        let routed = ingest.route(1, &entries(&[(NOW, &list(TICKS_PER_ENTRY_MAX + 1))]));
        assert!(routed.undecodable[0].1.starts_with("too many ticks: 262145 in one entry"), "{:?}", routed.undecodable);
        assert_eq!((routed.ticks, ingest.symbols.len()), (0, 0));
        let stamped = format!("symbol=B ltp=1 timestamp={NOW}");
        let routed = ingest.route(1, &entries(&[(NOW, &stamped), (NOW, &list(TICKS_PER_ENTRY_MAX))]));
        assert_eq!((routed.ticks, routed.undecodable.len()), (TICKS_PER_ENTRY_MAX + 1, 0));
    }

    /// Each new symbol was looked for in the list of all of them, which took minutes.
    #[test]
    fn an_entry_with_too_many_new_symbols_is_taken_back_and_the_symbols_around_it_stay() {
        let (a, b) = (format!("symbol=A ltp=1 timestamp={NOW}"), format!("symbol=B ltp=1 timestamp={NOW}"));
        let ticks: Vec<String> =
            (0..=TICKS_PER_ENTRY_MAX).map(|n| format!(r#"{{"symbol":"S{n}","ltp":1,"timestamp":{NOW}}}"#)).collect();
        let list = format!("data=[{}]", ticks.join(","));
        let mut ingest = ingest(2);
        let routed = ingest.route(1, &entries(&[(NOW, &a), (NOW, &list), (NOW, &b)]));
        assert_eq!((routed.ticks, routed.undecodable.len(), ingest.symbols.len()), (2, 1, 2));
        let new = routed.jobs.iter().flatten().flat_map(|job| &job.symbols).map(|(_, name)| &**name);
        assert_eq!(new.collect::<std::collections::BTreeSet<_>>(), ["A", "B"].into());
    }

    /// The known symbols after each entry, with reads of so many entries.
    fn known_after(read: &[(u64, String)], pieces: usize) -> Vec<String> {
        let mut ingest = ingest(3).with_symbols_max(16);
        let mut known = Vec::new();
        for piece in read.chunks(pieces) {
            let texts: Vec<(u64, &str)> = piece.iter().map(|(at, text)| (*at, text.as_str())).collect();
            let mut rest = entries(&texts);
            while !rest.is_empty() {
                let routed = ingest.route_until_full(1, &rest);
                for job in routed.jobs.iter().flatten() {
                    assert!(job.batch.entry.iter().all(|entry| (*entry as usize) < rest.len()));
                }
                rest = rest.split_off(routed.full_after.unwrap_or(rest.len()));
                if let Some(evicted) = ingest.evict() {
                    let mut names: Vec<&str> = evicted.names.iter().map(|name| &**name).collect();
                    names.sort_unstable();
                    known.push(names.join(" "));
                    ingest.reuse(&evicted.ids);
                }
            }
        }
        assert!(ingest.symbols.names().len() <= 20, "numbers are reused");
        known
    }

    #[test]
    fn the_longest_silent_symbols_are_evicted_whatever_the_batches() {
        let mut read = Vec::new();
        for n in 0..400_u64 {
            let symbol = if n % 3 == 0 { format!("BUSY{}", n % 4) } else { format!("S{}", n / 2) };
            let at = NOW + n / 5;
            read.push((at, format!("symbol={symbol} ltp=1 timestamp={at}")));
            // Its first tick is taken back, and so is its symbol.
            let of_list = format!("{{\"symbol\":\"T{n}\",\"ltp\":1,\"timestamp\":{at}}}");
            read.push((at, format!("data=[{of_list},{{\"symbol\":")));
        }
        let whole = known_after(&read, read.len());
        assert!(
            whole.len() > 20 && !whole.iter().any(|names| names.contains("BUSY") || names.contains('T')),
            "{whole:?}"
        );
        for pieces in [1, 7, 100] {
            assert_eq!(known_after(&read, pieces), whole);
        }
    }

    fn ingest_with(venue: &str) -> Ingest {
        let config: InputConfig = toml::from_str(&format!("venue = \"{venue}\"")).unwrap();
        ingest_by(&config, 1)
    }

    /// Symbols of the rows of one read, and the reasons of its dead letters.
    fn routed_symbols(ingest: &mut Ingest, read: &Entries) -> (Vec<String>, Vec<String>) {
        let routed = ingest.route(1, read);
        let rows = routed.jobs[0].as_ref().map_or(Vec::new(), |job| job.batch.symbol.clone());
        let names = rows.into_iter().filter(|id| *id != CLOCK).map(|id| ingest.symbol_names()[id as usize].to_string());
        (names.collect(), routed.undecodable.into_iter().map(|(_, reason)| reason).collect())
    }

    /// `NSE:RELIANCE` and `BSE:RELIANCE` became one symbol, with the prices of both.
    #[test]
    fn two_venues_of_a_name_are_two_symbols_or_one_of_them_is_rejected() {
        let stamp = |symbol: &str| format!("symbol={symbol} ltp=1 timestamp={NOW}");
        let texts = ["RELIANCE", "NSE:RELIANCE", "BSE:RELIANCE", "NSE:RELIANCE", "RELIANCE", "BSE:TCS"].map(stamp);
        let read = entries(&texts.iter().map(|text| (NOW, text.as_str())).collect::<Vec<_>>());
        let (kept, letters) = routed_symbols(&mut ingest_with("keep"), &read);
        assert_eq!(kept, ["RELIANCE", "NSE:RELIANCE", "BSE:RELIANCE", "NSE:RELIANCE", "RELIANCE", "BSE:TCS"]);
        assert_eq!(letters, [""; 0]);
        let (stripped, letters) = routed_symbols(&mut ingest_with("strip"), &read);
        assert_eq!(
            (stripped, letters.len()),
            ([["RELIANCE"; 5].as_slice(), &["TCS"]].concat().iter().map(ToString::to_string).collect(), 0)
        );
        let mut ingest = ingest_with("refuse-mixed");
        let (rows, letters) = routed_symbols(&mut ingest, &read);
        assert_eq!(rows, ["RELIANCE", "RELIANCE", "RELIANCE", "RELIANCE", "TCS"]);
        assert_eq!(letters.len(), 1);
        assert!(
            letters[0].starts_with("second venue: RELIANCE comes from NSE, and this tick from BSE."),
            "{letters:?}"
        );
        // Whether it is saved, and known to a warm-up.
        let saved: Vec<(String, String)> = ingest
            .take_unsaved_venues(&(0..256))
            .iter()
            .map(|(name, venue)| (name.to_string(), venue.to_string()))
            .collect();
        assert_eq!(saved, [("RELIANCE".to_owned(), "NSE".to_owned()), ("TCS".to_owned(), "BSE".to_owned())]);
        assert_eq!(ingest.take_unsaved_venues(&(0..256)).len(), 0);
        let other = stamp("BSE:RELIANCE");
        let other = entries(&[(NOW, &other)]);
        assert_eq!(routed_symbols(&mut ingest.beside(Clock::default()), &other).1.len(), 1);
        let mut restarted = ingest_with("refuse-mixed");
        restarted.learn_venues(saved);
        assert_eq!(routed_symbols(&mut restarted, &other).1.len(), 1);
        restarted.reset(Clock::default(), 0);
        assert_eq!(routed_symbols(&mut restarted, &other).1.len(), 0, "nothing is known after a reset");
    }

    /// After a warm-up on files, ticks from another venue were taken for those of the symbol, and alerts named no venue until a
    /// tick did.
    #[test]
    fn a_warm_up_hands_over_the_venues_of_its_symbols() {
        let stamp = |symbol: &str| format!("symbol={symbol} ltp=1 timestamp={NOW}");
        let read = |texts: &[String]| entries(&texts.iter().map(|text| (NOW, text.as_str())).collect::<Vec<_>>());
        let mut live = ingest_with("refuse-mixed");
        routed_symbols(&mut live, &read(&["A", "BSE:B"].map(stamp)));
        assert_eq!(live.take_unsaved_venues(&(0..256)).len(), 1);
        let mut warm = ingest_with("refuse-mixed");
        routed_symbols(&mut warm, &read(&["NSE:NEW", "NSE:A", "NSE:B", "NSE:EVICTED"].map(stamp)));
        let symbols = live.take_over(&mut warm, None, 2, |name| name != "EVICTED");
        assert_eq!(symbols[0].symbols.len(), 1);
        let saved = live.take_unsaved_venues(&(0..256));
        let mut saved: Vec<(&str, &str)> = saved.iter().map(|(name, venue)| (&**name, &**venue)).collect();
        saved.sort_unstable();
        assert_eq!(saved, [("A", "NSE"), ("NEW", "NSE")], "what is known here stays");
        let (_, letters) =
            routed_symbols(&mut live, &read(&["BSE:NEW", "BSE:A", "NSE:B", "BSE:EVICTED", "NSE:A"].map(stamp)));
        assert_eq!(letters.len(), 3, "{letters:?}");
        // Alerts before the change have none, whenever they are written.
        let at = |read| Place { read, entry: 9 };
        assert_eq!([1, 2, 3].map(|read| live.venue_at(0, at(read))), [None, Some("NSE"), Some("NSE")]);
    }

    #[test]
    fn an_entry_that_is_taken_back_gives_no_venue() {
        let mut ingest = ingest_with("refuse-mixed");
        let known = format!("symbol=A ltp=1 timestamp={NOW}");
        let of_list = |symbol: &str| format!("{{\"symbol\":\"{symbol}\",\"ltp\":1,\"timestamp\":{NOW}}}");
        let cut = format!("data=[{},{},{{\"symbol\":", of_list("BSE:A"), of_list("BSE:B"));
        let (a, b) = (format!("symbol=NSE:A ltp=1 timestamp={NOW}"), format!("symbol=NSE:B ltp=1 timestamp={NOW}"));
        let (rows, letters) =
            routed_symbols(&mut ingest, &entries(&[(NOW, &known), (NOW, &cut), (NOW, &a), (NOW, &b)]));
        assert_eq!((rows.len(), letters.len()), (3, 1), "{letters:?}");
        assert_eq!(ingest.take_unsaved_venues(&(0..256)).len(), 2);
    }

    /// Alerts had no venue. Later entries are routed before the alerts of an entry are written.
    #[test]
    fn the_venue_of_a_symbol_is_known_from_the_entry_on_that_names_it() {
        let mut ingest = ingest_with("refuse-mixed").with_symbols_max(8);
        let at = |read, entry| Place { read, entry };
        let texts = ["A", "NSE:A", "A"].map(|symbol| format!("symbol={symbol} ltp=1 timestamp={NOW}"));
        let entry = |n: usize| (NOW, texts[n].as_str());
        ingest.route(1, &entries(&[entry(0), entry(1)]));
        ingest.route(2, &entries(&[entry(2)]));
        let places = [at(1, 0), at(1, 1), at(2, 0), at(3, 0)];
        assert_eq!(places.map(|place| ingest.venue_at(0, place)), [None, Some("NSE"), Some("NSE"), Some("NSE")]);
        assert_eq!(ingest.venue_at(7, at(9, 0)), None);
        // Alerts about an evicted symbol may still be on their way. Its venue is not saved any more.
        let others: Vec<String> = (1..9).map(|n| format!("symbol=BSE:S{n} ltp=1 timestamp={NOW}")).collect();
        let others: Vec<(u64, &str)> = (1..).zip(&others).map(|(n, text)| (NOW + n, text.as_str())).collect();
        ingest.route_until_full(4, &entries(&others));
        let evicted = ingest.evict().unwrap();
        assert!(evicted.ids.contains(&0));
        assert_eq!([at(1, 0), at(2, 0)].map(|place| ingest.venue_at(0, place)), [None, Some("NSE")]);
        ingest.save_venues_anew();
        assert!(ingest.take_unsaved_venues(&(0..256)).iter().all(|(name, venue)| **name != *"A" && **venue == *"BSE"));
        ingest.reuse(&evicted.ids);
        let news: Vec<(u64, &str)> = vec![(NOW + 20, "symbol=N1 ltp=1"), (NOW + 20, "symbol=N2 ltp=1")];
        ingest.route(5, &entries(&news));
        assert_eq!(ingest.venue_at(0, at(5, 1)), None, "the number is another symbol's");
    }

    #[test]
    fn an_evicted_symbol_may_come_back_from_another_venue() {
        let mut ingest = ingest_with("refuse-mixed").with_symbols_max(8);
        let texts: Vec<String> = (0..9).map(|n| format!("symbol=NSE:S{n} ltp=1 timestamp={NOW}")).collect();
        let read: Vec<(u64, &str)> = (0..).zip(&texts).map(|(n, text)| (NOW + n, text.as_str())).collect();
        ingest.route_until_full(1, &entries(&read));
        let evicted = ingest.evict().unwrap();
        assert!(evicted.names.iter().any(|name| &**name == "S0"));
        assert_eq!(ingest.take_unsaved_venues(&(0..256)).len(), 7);
        ingest.reuse(&evicted.ids);
        let back = format!("symbol=BSE:S0 ltp=1 timestamp={NOW}");
        let (rows, letters) = routed_symbols(&mut ingest, &entries(&[(NOW + 9, &back)]));
        assert_eq!((rows, letters.len()), (vec!["S0".to_owned()], 0));
    }

    #[test]
    fn a_recording_is_routed_like_a_stream() {
        let mut ingest = ingest_with("refuse-mixed");
        let mut read = Entries::default();
        let names = ["A", "A", "A"].iter().enumerate().map(|(number, name)| (number as u32, (*name).into())).collect();
        let venues = vec![(1, "NSE".into()), (2, "BSE".into())];
        let mut decoded = DecodedTicks { names, venues, ..DecodedTicks::default() };
        let columns = vec![f64::NAN; ingest.columns];
        for (entry, symbol) in [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)] {
            read.push_entry(EntryId { millis: NOW + u64::from(entry), seq: 0 });
            let time = Some((NOW + u64::from(entry)) * NANOS_PER_MILLI);
            decoded.push(TickRow { entry, symbol, time, price: 1.0, columns: &columns });
        }
        read.decoded = Some(Box::new(decoded));
        let routed = ingest.route(1, &read);
        let refused: Vec<u32> = routed.undecodable.iter().map(|(entry, _)| *entry).collect();
        assert_eq!((routed.ticks, refused), (4, vec![2]));
    }
}
