//! The same ticks with their moves in another order: what a detector finds in them, it finds in noise.
//!
//! Within half an hour the moves of each symbol from tick to tick change places, each together with its quantity;
//! times stay. So prices, volumes, the size of moves, and the course of the day are the same to that grain, and half
//! hours begin and end where they did. Gone is what followed what. (Random shuffle surrogates, after Theiler et al.
//! 1992, in blocks so that a lively morning does not leak into a quiet noon.)

use anyhow::Result;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;

use super::source::Source;
use tickhound_core::{
    config::{
        InputConfig,
        input::{Layout, Quotes, TokensConfig, VolumeKind},
    },
    decode::{Decoder, RawTick},
    event::{Entries, EntryId, column},
};
use tickhound_recorded::record::Record;

/// Event time within which moves change places, ns.
const BLOCK: i64 = 30 * 60 * 1_000_000_000;

/// How shuffled ticks are to be read: under our own names, whatever the producer's were.
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

/// Ticks whose moves have changed places.
pub(crate) struct Shuffled {
    inner: Source,
    decoder: Decoder,
    quotes: Quotes,
    volume: VolumeKind,
    rng: ChaCha8Rng,
    /// Of the inner source: read, but of the next block.
    ahead: Option<Record>,
    block: Vec<RawTick>,
    next: usize,
    /// What each symbol last was, as recorded.
    last: FxHashMap<String, Last>,
}

#[derive(Clone, Copy)]
struct Last {
    anchor: f64,
    cum_volume: f64,
    volume: f64,
}

impl Default for Last {
    fn default() -> Self {
        Self { anchor: f64::NAN, cum_volume: f64::NAN, volume: f64::NAN }
    }
}

/// From one tick of a symbol to the next.
#[derive(Clone, Copy)]
struct Move {
    anchor: f64,
    quantity: f64,
    cum_volume: f64,
    volume: f64,
    /// Quotes, seen from the anchor.
    bid: f64,
    ask: f64,
}

impl Shuffled {
    /// `config` and `decoder` are those of the recording.
    pub(crate) fn new(inner: Source, config: &InputConfig, decoder: Decoder, seed: u64) -> Self {
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

    pub(super) fn inner(&self) -> &Source {
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
            // What is no tick was counted when the real ones were worked.
            let _ = self.decoder.decode(entry, &mut |tick| {
                let time = tick.time.or(u64::try_from(time).ok());
                self.block.push(RawTick { time, ..tick.clone() });
            });
        }
    }

    fn shuffle(&mut self) {
        let mut rows: Vec<(&str, Vec<usize>)> = Vec::new();
        let mut places: FxHashMap<&str, usize> = FxHashMap::default();
        for (row, tick) in self.block.iter().enumerate() {
            let place = *places.entry(&tick.symbol).or_insert_with(|| {
                rows.push((&tick.symbol, Vec::new()));
                rows.len() - 1
            });
            rows[place].1.push(row);
        }
        let rows: Vec<(String, Vec<usize>)> = rows.into_iter().map(|(name, rows)| (name.to_owned(), rows)).collect();
        for (symbol, rows) in rows {
            self.shuffle_symbol(symbol, &rows);
        }
    }

    fn shuffle_symbol(&mut self, symbol: String, rows: &[usize]) {
        let start = self.last.get(&symbol).copied().unwrap_or_default();
        let cumulative = match self.volume {
            VolumeKind::Cumulative => true,
            VolumeKind::PerTick => false,
            // Rising throughout: nobody trades ever more.
            VolumeKind::Auto => {
                let volumes = rows.iter().map(|row| self.block[*row].columns[column::VOLUME]);
                volumes.filter(|volume| !volume.is_nan()).is_sorted()
            }
        };
        // Rows whose anchor moves, and the anchor as recorded of every row.
        let (mut moves, mut moving, mut anchors) = (Vec::new(), Vec::new(), Vec::new());
        let mut last = start;
        for row in rows {
            let tick = &self.block[*row];
            let columns = &tick.columns;
            let anchor = self.anchor(tick);
            if !anchor.is_nan() {
                if !last.anchor.is_nan() {
                    moves.push(Move {
                        anchor: anchor - last.anchor,
                        quantity: columns[column::QUANTITY],
                        cum_volume: columns[column::CUM_VOLUME] - last.cum_volume,
                        volume: match cumulative {
                            true => columns[column::VOLUME] - last.volume,
                            false => columns[column::VOLUME],
                        },
                        bid: columns[column::BID] - anchor,
                        ask: columns[column::ASK] - anchor,
                    });
                    moving.push(*row);
                }
                last.anchor = anchor;
                for (kept, column) in [(&mut last.cum_volume, column::CUM_VOLUME), (&mut last.volume, column::VOLUME)] {
                    if !columns[column].is_nan() {
                        *kept = columns[column];
                    }
                }
            }
            anchors.push(last.anchor);
        }
        self.last.insert(symbol, last);
        // A count that begins anew within the block stays as it is.
        let counts = moves.iter().all(|one| !(one.cum_volume < 0.0 || (cumulative && one.volume < 0.0)));
        moves.shuffle(&mut self.rng);
        let lowest = rows.iter().map(|row| self.anchor(&self.block[*row])).fold(f64::INFINITY, f64::min);
        let (mut shuffled, mut moves) = (start, moves.into_iter());
        for (row, recorded) in rows.iter().zip(anchors) {
            let is_moving = moving.binary_search(row).is_ok();
            let tick = &mut self.block[*row];
            if !is_moving {
                if recorded.is_nan() {
                    continue;
                }
                if shuffled.anchor.is_nan() {
                    // The first of all.
                    shuffled = Last { anchor: recorded, ..read(tick) };
                }
                // Quotes alone move along.
                for column in [column::BID, column::ASK] {
                    tick.columns[column] += shuffled.anchor - recorded;
                }
                continue;
            }
            let Some(one) = moves.next() else { continue };
            shuffled.anchor += one.anchor;
            // All falls before all rises may lead below nothing; later moves lead out again.
            let anchor = if shuffled.anchor > 0.0 { shuffled.anchor } else { lowest };
            if !tick.price.is_nan() {
                tick.price = round(anchor);
            }
            tick.columns[column::QUANTITY] = one.quantity;
            tick.columns[column::BID] = round(anchor + one.bid);
            tick.columns[column::ASK] = round(anchor + one.ask);
            if counts {
                shuffled.cum_volume = add(shuffled.cum_volume, one.cum_volume, tick.columns[column::CUM_VOLUME]);
                tick.columns[column::CUM_VOLUME] = shuffled.cum_volume;
                if cumulative {
                    shuffled.volume = add(shuffled.volume, one.volume, tick.columns[column::VOLUME]);
                    tick.columns[column::VOLUME] = shuffled.volume;
                } else {
                    tick.columns[column::VOLUME] = one.volume;
                }
            }
        }
    }

    /// What moves: the price, or where there are only quotes, their middle.
    fn anchor(&self, tick: &RawTick) -> f64 {
        match self.quotes {
            Quotes::Mid if tick.price.is_nan() => f64::midpoint(tick.columns[column::BID], tick.columns[column::ASK]),
            _ => tick.price,
        }
    }
}

fn read(tick: &RawTick) -> Last {
    Last { anchor: tick.price, cum_volume: tick.columns[column::CUM_VOLUME], volume: tick.columns[column::VOLUME] }
}

/// A running count, or where none is running the one recorded here.
fn add(count: f64, step: f64, recorded: f64) -> f64 {
    let sum = count + step;
    if sum.is_nan() { recorded } else { sum }
}

/// Sums of many steps leave the grid of prices by some last digits.
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
                let as_they_came = steps.clone();
                steps.sort_unstable();
                (steps, as_they_came)
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
    fn counts_never_fall_and_a_seed_tells_the_order() {
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
