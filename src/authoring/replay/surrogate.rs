//! Surrogate ticks: the recorded ticks with their moves in random order. Alerts that a detector raises on them are due
//! to chance.
//!
//! Within half an hour, the moves of each symbol from tick to tick are shuffled, each together with its quantity; times
//! stay. So prices, volumes, the size of moves and the activity over the day stay the same at that resolution, and each
//! half hour begins and ends where it did. What is lost is the order of moves. (These are random shuffle surrogates,
//! after Theiler et al. 1992, in blocks so that a lively morning does not leak into a quiet noon.)

use anyhow::Result;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;

use tickhound_core::{
    config::{
        InputConfig,
        input::{Layout, Quotes, TokensConfig, VolumeKind},
    },
    decode::{Decoder, RawTick},
    event::{Entries, EntryId, column},
};
use tickhound_recorded::record::Record;

/// The event time within which moves are shuffled, ns.
const BLOCK: i64 = 30 * 60 * 1_000_000_000;

/// A source of recorded ticks.
pub(crate) trait RecordSource {
    /// Reads the next tick into `record`; returns false at the end.
    fn next(&mut self, record: &mut Record) -> Result<bool>;
}

/// Ticks whose moves are shuffled.
pub(crate) struct Shuffled<S> {
    inner: S,
    decoder: Decoder,
    quotes: Quotes,
    volume: VolumeKind,
    rng: ChaCha8Rng,
    /// A record that was read from the inner source, but belongs to the next block.
    ahead: Option<Record>,
    block: Vec<RawTick>,
    next: usize,
    /// The last recorded values of each symbol.
    last: FxHashMap<String, LastValues>,
}

#[derive(Clone, Copy)]
struct LastValues {
    anchor: f64,
    cum_volume: f64,
    volume: f64,
}

impl Default for LastValues {
    fn default() -> Self {
        Self { anchor: f64::NAN, cum_volume: f64::NAN, volume: f64::NAN }
    }
}

/// The difference between two consecutive ticks of a symbol.
#[derive(Clone, Copy)]
struct Move {
    anchor: f64,
    quantity: f64,
    cum_volume: f64,
    volume: f64,
    /// The quotes, relative to the anchor.
    bid: f64,
    ask: f64,
}

/// The ticks of a symbol in a block, as recorded.
struct Recording {
    rows: Vec<Row>,
    moves: Vec<Move>,
    /// The values after the last row.
    last: LastValues,
    /// The lowest anchor.
    lowest: f64,
    /// Whether the column `volume` is a running count.
    is_cumulative: bool,
}

/// A tick of a symbol in a block.
struct Row {
    /// The index of the tick in the block.
    index: usize,
    /// The recorded anchor, or the last one before if the tick has none.
    anchor: f64,
    /// Whether the tick is the end of a move. The first tick of a symbol is not, nor is a tick without an anchor.
    ends_move: bool,
}

/// Returns the configuration that shuffled ticks are decoded with: they have our field names, not the producer's.
pub(crate) fn input(config: &InputConfig) -> InputConfig {
    InputConfig {
        layout: Layout::Flat,
        preset: "generic".into(),
        price_scale: 1.0,
        map: Default::default(),
        extra: config.extra.keys().map(|name| (name.clone(), vec![name.clone()])).collect(),
        tokens: TokensConfig::default(),
        ..config.clone()
    }
}

impl<S: RecordSource> Shuffled<S> {
    /// Shuffles the ticks of `inner`; `config` and `decoder` are those of the recording.
    pub(crate) fn new(inner: S, config: &InputConfig, decoder: Decoder, seed: u64) -> Self {
        Self {
            inner,
            decoder,
            quotes: config.quotes,
            volume: config.volume,
            rng: ChaCha8Rng::seed_from_u64(seed),
            ahead: None,
            block: Vec::new(),
            next: 0,
            last: FxHashMap::default(),
        }
    }

    pub(super) fn inner(&self) -> &S {
        &self.inner
    }

    pub(super) fn next(&mut self, record: &mut Record) -> Result<bool> {
        if self.next >= self.block.len() {
            self.read_block()?;
            self.shuffle();
        }
        let Some(tick) = self.block.get(self.next) else { return Ok(false) };
        self.next += 1;
        write(tick, &self.decoder, record);
        Ok(true)
    }

    fn read_block(&mut self) -> Result<()> {
        self.block.clear();
        self.next = 0;
        let mut start = None;
        loop {
            let mut record = Record::default();
            match self.ahead.take() {
                Some(ahead) => record = ahead,
                None if !self.inner.next(&mut record)? => return Ok(()),
                None => {}
            }
            let time = record.time.unwrap_or(0);
            if start.is_some_and(|start| time - start >= BLOCK) && !self.block.is_empty() {
                self.ahead = Some(record);
                return Ok(());
            }
            start = start.or(Some(time).filter(|time| *time > 0));
            let mut entries = Entries::default();
            let millis = u64::try_from(time / 1_000_000).unwrap_or(0);
            entries.push_entry(record.id.unwrap_or(EntryId { millis, seq: 0 }));
            record.fields().for_each(|(name, value)| entries.push_field(name, value));
            let Some(entry) = entries.get(0) else { continue };
            // Entries that are not ticks were counted in the replay of the recorded ticks.
            let _ = self.decoder.decode(entry, &mut |tick| {
                let time = tick.time.or(u64::try_from(time).ok());
                self.block.push(RawTick { time, ..tick.clone() });
            });
        }
    }

    fn shuffle(&mut self) {
        // Symbols are shuffled in the order of their first ticks, so that a seed always gives the same ticks.
        let mut symbols: Vec<(String, Vec<usize>)> = Vec::new();
        let mut positions: FxHashMap<&str, usize> = FxHashMap::default();
        for (index, tick) in self.block.iter().enumerate() {
            let position = *positions.entry(&tick.symbol).or_insert_with(|| {
                symbols.push((tick.symbol.clone(), Vec::new()));
                symbols.len() - 1
            });
            symbols[position].1.push(index);
        }
        for (symbol, rows) in symbols {
            self.shuffle_symbol(symbol, &rows);
        }
    }

    fn shuffle_symbol(&mut self, symbol: String, rows: &[usize]) {
        let start = self.last.get(&symbol).copied().unwrap_or_default();
        let mut recording = self.record(rows, start);
        self.last.insert(symbol, recording.last);
        recording.moves.shuffle(&mut self.rng);
        self.write_moves(&recording, start);
    }

    /// Splits the ticks of a symbol into moves.
    fn record(&self, rows: &[usize], start: LastValues) -> Recording {
        let is_cumulative = self.is_cumulative(rows);
        let mut recording =
            Recording { rows: Vec::new(), moves: Vec::new(), last: start, lowest: f64::INFINITY, is_cumulative };
        for index in rows {
            let tick = &self.block[*index];
            let anchor = self.anchor(tick);
            let last = &mut recording.last;
            let ends_move = !anchor.is_nan() && !last.anchor.is_nan();
            if ends_move {
                recording.moves.push(Move::between(last, tick, anchor, is_cumulative));
            }
            if !anchor.is_nan() {
                last.advance(tick, anchor);
                recording.lowest = recording.lowest.min(anchor);
            }
            recording.rows.push(Row { index: *index, anchor: last.anchor, ends_move });
        }
        recording
    }

    /// Writes the moves into the block, in their present order.
    fn write_moves(&mut self, recording: &Recording, start: LastValues) {
        let has_running_counts = recording.has_running_counts();
        let (mut values, mut moves) = (start, recording.moves.iter());
        for row in &recording.rows {
            let tick = &mut self.block[row.index];
            if !row.ends_move {
                values.write_unmoved(tick, row.anchor);
                continue;
            }
            let Some(one) = moves.next() else { continue };
            values.anchor += one.anchor;
            // If many falls come before the rises, the anchor may fall below zero for a while.
            let anchor = if values.anchor > 0.0 { values.anchor } else { recording.lowest };
            one.write(tick, anchor);
            if has_running_counts {
                values.write_counts(one, tick, recording.is_cumulative);
            }
        }
    }

    /// Whether the column `volume` of these rows is a running count.
    fn is_cumulative(&self, rows: &[usize]) -> bool {
        match self.volume {
            VolumeKind::Cumulative => true,
            VolumeKind::PerTick => false,
            // Volumes that rise throughout are a running count: the volume of single ticks falls at times.
            VolumeKind::Auto => {
                let volumes = rows.iter().map(|row| self.block[*row].columns[column::VOLUME]);
                volumes.filter(|volume| !volume.is_nan()).is_sorted()
            }
        }
    }

    /// Returns the value that moves: the price, or where there are only quotes, the middle of them.
    fn anchor(&self, tick: &RawTick) -> f64 {
        match self.quotes {
            Quotes::Mid if tick.price.is_nan() => f64::midpoint(tick.columns[column::BID], tick.columns[column::ASK]),
            _ => tick.price,
        }
    }
}

impl Recording {
    /// Whether all running counts rise. If one starts again within the block, the counts stay as they are recorded.
    fn has_running_counts(&self) -> bool {
        self.moves.iter().all(|one| !(one.cum_volume < 0.0 || (self.is_cumulative && one.volume < 0.0)))
    }
}

impl LastValues {
    /// Takes over the values of a tick.
    fn advance(&mut self, tick: &RawTick, anchor: f64) {
        self.anchor = anchor;
        for (last, column) in [(&mut self.cum_volume, column::CUM_VOLUME), (&mut self.volume, column::VOLUME)] {
            if !tick.columns[column].is_nan() {
                *last = tick.columns[column];
            }
        }
    }

    /// Writes a tick that is not the end of a move: its quotes follow the anchor.
    fn write_unmoved(&mut self, tick: &mut RawTick, recorded: f64) {
        if recorded.is_nan() {
            return;
        }
        if self.anchor.is_nan() {
            // This is the first tick of the symbol.
            *self = Self {
                anchor: recorded,
                cum_volume: tick.columns[column::CUM_VOLUME],
                volume: tick.columns[column::VOLUME],
            };
        }
        for column in [column::BID, column::ASK] {
            tick.columns[column] += self.anchor - recorded;
        }
    }

    /// Writes the running counts after a move.
    fn write_counts(&mut self, one: &Move, tick: &mut RawTick, is_cumulative: bool) {
        self.cum_volume = add(self.cum_volume, one.cum_volume, tick.columns[column::CUM_VOLUME]);
        tick.columns[column::CUM_VOLUME] = self.cum_volume;
        if is_cumulative {
            self.volume = add(self.volume, one.volume, tick.columns[column::VOLUME]);
            tick.columns[column::VOLUME] = self.volume;
        } else {
            tick.columns[column::VOLUME] = one.volume;
        }
    }
}

impl Move {
    fn between(last: &LastValues, tick: &RawTick, anchor: f64, is_cumulative: bool) -> Self {
        let columns = &tick.columns;
        let volume = columns[column::VOLUME];
        Self {
            anchor: anchor - last.anchor,
            quantity: columns[column::QUANTITY],
            cum_volume: columns[column::CUM_VOLUME] - last.cum_volume,
            volume: if is_cumulative { volume - last.volume } else { volume },
            bid: columns[column::BID] - anchor,
            ask: columns[column::ASK] - anchor,
        }
    }

    /// Writes everything but running counts.
    fn write(&self, tick: &mut RawTick, anchor: f64) {
        if !tick.price.is_nan() {
            tick.price = round(anchor);
        }
        tick.columns[column::QUANTITY] = self.quantity;
        tick.columns[column::BID] = round(anchor + self.bid);
        tick.columns[column::ASK] = round(anchor + self.ask);
    }
}

/// Adds to a running count, or returns the recorded one if there is no count yet.
fn add(count: f64, step: f64, recorded: f64) -> f64 {
    let sum = count + step;
    if sum.is_nan() { recorded } else { sum }
}

/// Rounds a price: sums of many steps differ from the recorded prices in their last digits.
fn round(price: f64) -> f64 {
    (price * 1e8).round() / 1e8
}

fn write(tick: &RawTick, decoder: &Decoder, record: &mut Record) {
    record.clear();
    record.put(b"symbol", tick.symbol.as_bytes());
    if let Some(time) = tick.time {
        record.time = i64::try_from(time).ok();
        record.put(b"time", time.to_string().as_bytes());
    }
    let numbers = decoder.column_names().iter().map(String::as_str).zip(tick.columns.iter().copied());
    for (name, value) in [("price", tick.price)].into_iter().chain(numbers) {
        if !value.is_nan() && name != column::NAMES[column::FLAGS] {
            record.put(name.as_bytes(), value.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::authoring::replay::Source;
    use tickhound_core::simulate::SimConfig;

    const COUNT: u64 = 20_000;

    fn ticks(source: &mut dyn FnMut(&mut Record) -> bool, input: &InputConfig) -> Vec<RawTick> {
        let mut decoder = Decoder::new(input, Path::new(".")).unwrap();
        let (mut record, mut ticks) = (Record::default(), Vec::new());
        while source(&mut record) {
            let mut entries = Entries::default();
            entries.push_entry(EntryId { millis: 4_000_000_000_000, seq: 0 });
            record.fields().for_each(|(name, value)| entries.push_field(name, value));
            let _ = decoder.decode(entries.get(0).unwrap(), &mut |tick| ticks.push(tick.clone()));
        }
        ticks
    }

    fn real() -> Source {
        Source::simulated(&SimConfig { symbols: 8, ..SimConfig::default() }, COUNT)
    }

    fn shuffled(seed: u64) -> Vec<RawTick> {
        let config = InputConfig::default();
        let decoder = Decoder::new(&config, Path::new(".")).unwrap();
        let mut shuffled = Shuffled::new(real(), &config, decoder, seed);
        ticks(&mut |record| shuffled.next(record).unwrap(), &input(&config))
    }

    #[test]
    fn the_moves_of_a_symbol_are_the_same_in_another_order() {
        let mut source = real();
        let real = ticks(&mut |record| source.next(record).unwrap(), &InputConfig::default());
        let other = shuffled(1);
        assert_eq!(real.len(), other.len());
        let symbols: std::collections::BTreeSet<&str> = real.iter().map(|tick| tick.symbol.as_str()).collect();
        let of = |ticks: &[RawTick], symbol: &str| -> Vec<f64> {
            let prices = ticks.iter().filter(|tick| tick.symbol == symbol && !tick.price.is_nan());
            prices.map(|tick| tick.price).collect()
        };
        let mut moved = 0;
        for symbol in symbols {
            let (before, after) = (of(&real, symbol), of(&other, symbol));
            assert_eq!(before.first(), after.first());
            assert!((before.last().unwrap() - after.last().unwrap()).abs() < 1e-6, "{symbol} ends where it did");
            let steps = |prices: &[f64]| {
                let mut steps: Vec<i64> =
                    prices.windows(2).map(|pair| ((pair[1] - pair[0]) * 1e4).round() as i64).collect();
                let unsorted = steps.clone();
                steps.sort_unstable();
                (steps, unsorted)
            };
            let ((sorted, order), (other_sorted, other_order)) = (steps(&before), steps(&after));
            assert_eq!(sorted, other_sorted, "{symbol}");
            moved += usize::from(order != other_order);
        }
        assert!(moved > 0);
        let times = |ticks: &[RawTick]| ticks.iter().map(|tick| (tick.symbol.clone(), tick.time)).collect::<Vec<_>>();
        assert_eq!(times(&real), times(&other));
    }

    #[test]
    fn counts_never_fall_and_a_seed_decides_the_order() {
        let ticks = shuffled(7);
        assert_eq!(format!("{ticks:?}"), format!("{:?}", shuffled(7)));
        assert_ne!(format!("{ticks:?}"), format!("{:?}", shuffled(8)));
        let mut last: FxHashMap<&str, f64> = FxHashMap::default();
        for tick in &ticks {
            let volume = tick.columns[column::CUM_VOLUME];
            if !volume.is_nan() {
                let before = last.insert(&tick.symbol, volume).unwrap_or(0.0);
                assert!(volume >= before, "{}: {before} then {volume}", tick.symbol);
            }
        }
        assert!(!last.is_empty());
    }
}
