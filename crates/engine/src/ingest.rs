//! Decodes entries to ticks, interns their symbols, resolves their times and routes them to shards.
//!
//! What holds: rows of one symbol go to one shard, in stream order. Event time and the positions of clock rows depend on
//! the entries alone, not on batches, shards or the wall clock.

use std::{hash::BuildHasher, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap};

use tickhound_core::{
    checkpoint::{CHUNKS, chunk_of},
    decode::{Decoder, Outcome},
    event::{Batch, Clock, DecodedTicks, Entries, EntryId, TickRow, column, flag},
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// After this many ticks without a time, a feed is taken to have none. In mixed feeds, such as trades with a time and
/// quotes without, the first time comes within a few ticks.
const UNSTAMPED_MAX: u64 = 1000;

/// The part of one read that belongs to a shard.
#[derive(Debug)]
pub struct Job {
    /// The number of the read.
    pub read: u64,
    /// When the newest entry of the read arrived, in milliseconds of its id.
    pub arrived_ms: u64,
    /// Symbols that this shard sees for the first time.
    pub symbols: Vec<(u32, Arc<str>)>,
    /// The rows.
    pub batch: Batch,
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
    /// Ticks in all jobs.
    pub ticks: usize,
    /// Ticks that were skipped because they have no time and none can be estimated yet.
    pub untimed: u64,
}

/// Turns entries into jobs for shards.
pub struct Ingest {
    decoder: Decoder,
    shards: usize,
    columns: usize,
    symbols: Symbols,
    clock: Clock,
}

/// The number of a symbol in this run, and its shard.
#[derive(Clone, Copy)]
struct Route {
    id: u32,
    shard: usize,
}

/// A symbol by the number that it has in ticks that come decoded.
struct NumberedSymbol {
    name: Arc<str>,
    /// `None` before its first tick.
    route: Option<Route>,
}

struct Symbols {
    routes: FxHashMap<Arc<str>, Route>,
    /// The name of each symbol, by id.
    names: Vec<Arc<str>>,
    numbered: Vec<Option<NumberedSymbol>>,
    /// By id, whether the symbol's ticks are skipped: its saved state is as of a later entry, and not restored yet.
    awaited: Vec<bool>,
    /// The number of symbols in each chunk of the saved state.
    chunk_sizes: Vec<u32>,
}

impl Default for Symbols {
    fn default() -> Self {
        let chunk_sizes = vec![0; usize::from(CHUNKS)];
        Self { routes: FxHashMap::default(), names: Vec::new(), numbered: Vec::new(), awaited: Vec::new(), chunk_sizes }
    }
}

impl Ingest {
    /// Creates a router to `shards` shards. `clock` is the event time as of the last commit.
    pub fn new(decoder: Decoder, shards: usize, clock: Clock) -> Self {
        let columns = decoder.column_names().len();
        Self { decoder, shards, columns, symbols: Symbols::default(), clock }
    }

    /// Creates another one that decodes and routes the same way, and knows no symbol yet.
    pub fn beside(&self, clock: Clock) -> Self {
        Self { decoder: self.decoder.clone(), symbols: Symbols::default(), clock, ..*self }
    }

    /// Forgets every symbol and continues from `clock`, since the shards have been restarted.
    pub fn reset(&mut self, clock: Clock) {
        let mut numbered = std::mem::take(&mut self.symbols.numbered);
        numbered.iter_mut().flatten().for_each(|symbol| symbol.route = None);
        self.symbols = Symbols { numbered, ..Symbols::default() };
        self.clock = clock;
    }

    /// Interns a symbol whose saved state is restored later, by [`Ingest::restored`]. Until then its ticks are skipped.
    /// Returns its number and its shard.
    pub(crate) fn await_state(&mut self, symbol: &str) -> (u32, usize) {
        let (Route { id, shard }, _) = self.symbols.intern(symbol, self.shards);
        self.symbols.awaited[id as usize] = true;
        (id, shard)
    }

    /// Interns a symbol before its first tick. Returns its number if it is new.
    pub fn meet(&mut self, symbol: &str) -> Option<u32> {
        let (Route { id, .. }, new) = self.symbols.intern(symbol, self.shards);
        new.then_some(id)
    }

    /// Stops skipping the ticks of this symbol, whose state has been restored.
    pub fn restored(&mut self, symbol: u32) {
        self.symbols.awaited[symbol as usize] = false;
    }

    /// The number of symbols in each chunk of the saved state.
    pub fn chunk_sizes(&self) -> &[u32] {
        &self.symbols.chunk_sizes
    }

    /// Continues from another event time.
    pub(crate) fn reset_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The event time as of the last routed entry.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The name of each symbol by its number.
    pub fn symbol_names(&self) -> &[Arc<str>] {
        &self.symbols.names
    }

    /// Decodes and routes one read.
    pub fn route(&mut self, read: u64, entries: &Entries) -> Routed {
        let mut routed = Routed { jobs: (0..self.shards).map(|_| None).collect(), ..Routed::default() };
        match &entries.decoded {
            Some(decoded) => self.route_decoded(read, entries, decoded, &mut routed),
            None => self.route_undecoded(read, entries, &mut routed),
        }
        let arrived_ms = entries.last().unwrap_or_default().millis;
        routed.jobs.iter_mut().flatten().for_each(|job| job.arrived_ms = arrived_ms);
        routed
    }

    fn route_undecoded(&mut self, read: u64, entries: &Entries, routed: &mut Routed) {
        let rows = self.room(entries.len());
        let Self { decoder, columns, symbols, clock, .. } = self;
        for (index, entry) in entries.iter().enumerate() {
            let index = index as u32;
            if entry.fields().len() == 0 {
                routed.lost.push(entry.id);
                continue;
            }
            let mut router = Router { read, columns: *columns, rows, symbols, clock, routed };
            let outcome = decoder.decode(entry, &mut |tick| {
                let symbol = Name::Text(&tick.symbol);
                let (time, price, values) = (tick.time, tick.price, &tick.columns);
                router.tick(index, entry.id, &RoutedTick { symbol, time, price, values });
            });
            match outcome {
                Ok(Outcome::Ticks(_) | Outcome::Skipped) => {}
                // The valid ticks of a list are processed; the dead letter holds the whole list.
                Ok(Outcome::Partly(_, error)) => routed.undecodable.push((index, error.to_string())),
                Err(error) => {
                    // A truncated document may have given ticks before the error: they are taken back.
                    routed.ticks -=
                        routed.jobs.iter_mut().flatten().map(|job| job.batch.take_back(index)).sum::<usize>();
                    routed.undecodable.push((index, error.to_string()));
                }
            }
        }
    }

    /// The capacity for rows of a shard that gets its share of so many ticks, clock rows included.
    fn room(&self, ticks: usize) -> usize {
        ticks / self.shards + ticks / self.shards / 4 + 2
    }

    fn route_decoded(&mut self, read: u64, entries: &Entries, decoded: &DecodedTicks, routed: &mut Routed) {
        let rows = self.room(decoded.entry.len());
        let Self { columns, symbols, clock, .. } = self;
        routed.undecodable.clone_from(&decoded.rejected);
        symbols.learn(&decoded.names);
        let mut router = Router { read, columns: *columns, rows, symbols, clock, routed };
        let ticks = decoded.entry.iter().zip(&decoded.symbol).zip(&decoded.time).zip(&decoded.price);
        for ((((entry, symbol), time), price), columns) in ticks.zip(decoded.columns.chunks_exact(*columns)) {
            let id = entries.id(*entry as usize).unwrap_or_default();
            let symbol = Name::Number(*symbol);
            router.tick(*entry, id, &RoutedTick { symbol, time: *time, price: *price, values: columns });
        }
    }
}

/// How a tick names its symbol.
#[derive(Clone, Copy)]
enum Name<'a> {
    Text(&'a str),
    /// An index into [`DecodedTicks::names`].
    Number(u32),
}

/// A tick on its way to its shard.
struct RoutedTick<'a> {
    symbol: Name<'a>,
    time: Option<u64>,
    price: f64,
    values: &'a [f64],
}

/// Puts ticks into the jobs of their shards.
struct Router<'a> {
    read: u64,
    columns: usize,
    /// The likely number of rows of a job.
    rows: usize,
    symbols: &'a mut Symbols,
    clock: &'a mut Clock,
    routed: &'a mut Routed,
}

impl Router<'_> {
    fn tick(&mut self, entry: u32, id: EntryId, tick: &RoutedTick<'_>) {
        let Self { read, columns, rows, symbols, clock, routed } = self;
        let Routed { jobs, ticks, untimed, .. } = &mut **routed;
        let Some((time, estimated)) = resolve_time(clock, id, tick.time) else {
            *untimed += 1;
            return;
        };
        // Every shard gets a clock row before the first tick of a second of event time, whichever shard that tick goes to.
        if time / NANOS_PER_SECOND > clock.time / NANOS_PER_SECOND {
            let second = time / NANOS_PER_SECOND * NANOS_PER_SECOND;
            for slot in jobs.iter_mut() {
                open(slot, *read, *columns, *rows).batch.push_clock(entry, second);
            }
        }
        clock.time = clock.time.max(time);
        let (Route { id, shard }, new) = match tick.symbol {
            Name::Text(name) => symbols.intern(name, jobs.len()),
            Name::Number(number) => symbols.intern_numbered(number, jobs.len()),
        };
        if symbols.awaited[id as usize] {
            return;
        }
        let job = open(&mut jobs[shard], *read, *columns, *rows);
        if new {
            job.symbols.push((id, symbols.names[id as usize].clone()));
        }
        job.batch.push(TickRow { entry, symbol: id, time, price: tick.price, columns: tick.values });
        if estimated {
            let flags = job.batch.columns[column::FLAGS].last_mut().expect("the row was just added");
            *flags = f64::from(*flags as u32 | flag::TIME_ESTIMATED);
        }
        *ticks += 1;
    }
}

fn open(slot: &mut Option<Job>, read: u64, columns: usize, rows: usize) -> &mut Job {
    let batch = || Batch::with_capacity(columns, rows);
    slot.get_or_insert_with(|| Job { read, arrived_ms: 0, symbols: Vec::new(), batch: batch() })
}

/// The time of a tick, and whether it is estimated. Without a time of its own, a tick gets its arrival less the delay of
/// the latest tick that had one: in a feed of old ticks an arrival time would be years ahead of its neighbors. Before the
/// first tick with a time there is nothing to estimate from, until so many ticks have come without one that the feed is
/// taken to have none; then the arrival is the time.
///
/// An id may be any number, so an estimate may be out of the range of nanoseconds. Such a tick is skipped like one without
/// a time: a dead letter would blame the tick, which is valid, and after an id near the end of all ids no entry can
/// follow.
fn resolve_time(clock: &mut Clock, id: EntryId, stamped: Option<u64>) -> Option<(u64, bool)> {
    if let Some(time) = stamped {
        // A time in nanoseconds is far from the end of an i64 in milliseconds, so this difference can't overflow.
        let arrived_ms = i64::try_from(id.millis).unwrap_or(i64::MAX);
        clock.delay_ms = Some(arrived_ms - (time / NANOS_PER_MILLI) as i64);
        return Some((time, false));
    }
    if clock.delay_ms.is_none() {
        clock.unstamped = clock.unstamped.saturating_add(1);
        if clock.unstamped > UNSTAMPED_MAX {
            clock.delay_ms = Some(0);
        }
    }
    let time_ms = id.millis.saturating_add_signed(clock.delay_ms?.saturating_neg());
    Some((time_ms.checked_mul(NANOS_PER_MILLI)?, true))
}

impl Symbols {
    /// Learns the names of numbers.
    fn learn(&mut self, names: &[(u32, Arc<str>)]) {
        for (number, name) in names {
            let at = *number as usize;
            if at >= self.numbered.len() {
                self.numbered.resize_with(at + 1, || None);
            }
            self.numbered[at] = Some(NumberedSymbol { name: name.clone(), route: None });
        }
    }

    /// Interns a symbol by the number of a name that was learned, like [`Self::intern`].
    fn intern_numbered(&mut self, number: u32, shards: usize) -> (Route, bool) {
        let symbol = self.numbered[number as usize].as_ref().expect("a name comes no later than its number");
        if let Some(route) = symbol.route {
            return (route, false);
        }
        let name = symbol.name.clone();
        let (route, new) = self.intern(&name, shards);
        self.numbered[number as usize] = Some(NumberedSymbol { name, route: Some(route) });
        (route, new)
    }

    /// Returns the route of a symbol, and whether the symbol is new.
    fn intern(&mut self, name: &str, shards: usize) -> (Route, bool) {
        if let Some(route) = self.routes.get(name) {
            return (*route, false);
        }
        let shard = (FxBuildHasher.hash_one(name) >> 32) as usize % shards;
        let id = u32::try_from(self.names.len()).expect("fewer symbols than ids");
        let route = Route { id, shard };
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.awaited.push(false);
        self.chunk_sizes[usize::from(chunk_of(&name))] += 1;
        self.routes.insert(name, route);
        (route, true)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use tickhound_core::{config::InputConfig, event::CLOCK};

    /// 2025-11-24 10:15:30 in Kolkata, ms.
    const THEN: u64 = 1_763_959_530_000;
    /// A year later, when it is replayed.
    const NOW: u64 = THEN + 365 * 86_400_000;

    fn ingest(shards: usize) -> Ingest {
        let config = InputConfig::default();
        Ingest::new(Decoder::new(&config, Path::new(".")).unwrap(), shards, Clock::default())
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
        let estimated = f64::from(flag::TIME_ESTIMATED);
        assert_eq!(batch.columns[column::FLAGS][1..], [0.0, estimated, estimated]);
    }

    #[test]
    fn a_feed_without_times_is_timed_by_arrival() {
        let mut ingest = ingest(1);
        let read = entries(&vec![(NOW, "symbol=A ltp=1"); 1001]);
        let routed = ingest.route(1, &read);
        assert_eq!((routed.untimed, routed.ticks), (1000, 1));
        assert_eq!(routed.jobs[0].as_ref().unwrap().batch.time[1], NOW * NANOS_PER_MILLI);
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
        assert_eq!(routed.jobs[0].as_ref().unwrap().arrived_ms, u64::MAX);
    }

    #[test]
    fn a_damaged_clock_never_overflows() {
        for (delay_ms, unstamped) in [(Some(i64::MIN), 0), (Some(i64::MAX), 0), (None, u64::MAX)] {
            for millis in [0, NOW, u64::MAX] {
                let mut clock = Clock { time: u64::MAX, delay_ms, unstamped };
                for stamped in [None, Some(0), Some(u64::MAX)] {
                    let _ = resolve_time(&mut clock, EntryId { millis, seq: 0 }, stamped);
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
        assert_eq!(batch.symbol, [CLOCK, 1]);
    }

    #[test]
    fn a_list_with_something_else_in_it_gives_its_ticks_and_a_reason() {
        let mut ingest = ingest(1);
        let text = format!("data=[{{\"symbol\":\"A\",\"ltp\":1,\"timestamp\":{THEN}}},{{\"ltp\":5}}]");
        let routed = ingest.route(1, &entries(&[(NOW, &text)]));
        assert_eq!((routed.ticks, routed.undecodable.len()), (1, 1));
        assert!(routed.undecodable[0].1.starts_with("no symbol"), "{}", routed.undecodable[0].1);
    }
}
