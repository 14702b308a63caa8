//! The faults of real feeds, and how the normalizer treats them.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    config::built_in,
    event::{Batch, CLOCK, TickRow},
    pattern::SymbolPattern,
    session::SymbolCalendar,
};

const SECOND: u64 = 1_000_000_000;
/// 2025-11-24 10:00 in Kolkata.
const START: u64 = 1_763_958_600 * SECOND;

impl Normalizer {
    /// Normalizes every row of a batch, and removes those without a price.
    fn apply(&mut self, batch: &mut Batch) -> NormalizeCounts {
        let mut normalized = Batch::new(batch.columns.len());
        for row in 0..batch.len() {
            let (entry, symbol, time, price) = (batch.entry[row], batch.symbol[row], batch.time[row], batch.price[row]);
            if symbol == CLOCK {
                normalized.push_clock(entry, time);
                continue;
            }
            let mut columns: Vec<f64> = batch.columns.iter().map(|column| column[row]).collect();
            let mut row = NormalizedRow { symbol, time, price, columns: &mut columns };
            self.normalize(&mut row);
            let NormalizedRow { time, price, .. } = row;
            if !price.is_nan() {
                normalized.push(TickRow { entry, symbol, time, price, columns: &columns });
            }
        }
        *batch = normalized;
        self.take_counts()
    }

    fn save(&self, symbol: u32) -> Option<Vec<u8>> {
        self.state(symbol).map(NormalizerState::to_bytes)
    }
}

struct Feed {
    normalizer: Normalizer,
    batch: Batch,
}

impl Feed {
    fn new(config: &InputConfig) -> Self {
        Self {
            normalizer: Normalizer::new(config, &Sessions::default()).unwrap(),
            batch: Batch::new(column::NAMES.len()),
        }
    }

    /// A row at `START + seconds`; the values as (column, value).
    fn row(&mut self, seconds: u64, price: f64, values: &[(usize, f64)]) -> &mut Self {
        let mut columns = vec![f64::NAN; column::NAMES.len()];
        columns[column::FLAGS] = 0.0;
        for (position, value) in values {
            columns[*position] = *value;
        }
        let time = START + seconds * SECOND;
        self.batch.push(TickRow { entry: 0, symbol: 0, time, price, columns: &columns });
        self
    }

    fn apply(&mut self) -> NormalizeCounts {
        self.normalizer.apply(&mut self.batch)
    }

    fn column(&self, position: usize) -> Vec<String> {
        self.batch.columns[position].iter().map(ToString::to_string).collect()
    }

    fn flags(&self) -> Vec<u32> {
        self.batch.columns[column::FLAGS].iter().map(|flags| *flags as u32).collect()
    }
}

fn cumulative(volumes: &[(u64, f64)]) -> Feed {
    let mut feed = Feed::new(&InputConfig::default());
    for (seconds, volume) in volumes {
        feed.row(*seconds, 10.0, &[(column::CUM_VOLUME, *volume), (column::QUANTITY, 1.0)]);
    }
    feed.apply();
    feed
}

/// A feed of one calendar was hidden by that of another, since only the sum of both was counted.
#[test]
fn each_calendar_has_counts_of_its_own() {
    let by_symbol = vec![SymbolCalendar {
        patterns: SymbolPattern::list(&["*USDT".into()]),
        calendar: Arc::new(built_in("crypto")),
    }];
    let sessions = Sessions::new(Some(Arc::new(built_in("nse"))), by_symbol);
    let mut feed = Feed::new(&InputConfig::default());
    feed.normalizer = Normalizer::new(&InputConfig::default(), &sessions).unwrap();
    feed.normalizer.introduce(0, "NIFTY");
    feed.normalizer.introduce(1, "BTCUSDT");
    let known = CalendarCounts { symbols: 1, ..CalendarCounts::default() };
    assert_eq!(feed.normalizer.take_calendar_counts(), [known, known]);
    // The NSE closes between these times; crypto does not.
    let evening = 6 * 3600;
    for (symbol, seconds) in [(0, 0), (0, evening), (1, evening)] {
        feed.row(seconds, 10.0, &[]);
        *feed.batch.symbol.last_mut().unwrap() = symbol;
    }
    assert_eq!(feed.apply().off_session, 1);
    let counts = |ticks, off_session| CalendarCounts { symbols: 0, ticks, off_session };
    assert_eq!(feed.normalizer.take_calendar_counts(), [counts(2, 1), counts(1, 0)]);
    assert_eq!(feed.normalizer.take_calendar_counts(), [counts(0, 0), counts(0, 0)], "they were taken");
    let mut single = Feed::new(&InputConfig::default());
    single.normalizer.introduce(0, "NIFTY");
    single.row(0, 10.0, &[]).apply();
    assert_eq!(single.normalizer.take_calendar_counts(), [], "one calendar has all rows");
}

#[test]
fn quantity_is_what_the_cumulative_volume_grew_by() {
    let feed = cumulative(&[(0, 100.0), (1, 130.0), (2, 130.0), (3, 150.0)]);
    assert_eq!(feed.column(column::QUANTITY), ["1", "30", "0", "20"]);
}

#[test]
fn a_fall_of_volume_is_not_a_new_session() {
    let feed = cumulative(&[(0, 100.0), (1, 150.0), (2, 140.0), (3, 145.0), (4, 160.0)]);
    assert_eq!(feed.column(column::QUANTITY), ["1", "50", "0", "0", "10"]);
    assert_eq!(feed.column(column::CUM_VOLUME), ["100", "150", "150", "150", "160"]);
    let repaired = flag::VOLUME_REPAIRED;
    assert_eq!(feed.flags(), [flag::SESSION_START, 0, repaired, repaired, 0]);
}

#[test]
fn volume_begins_again_with_a_day_or_after_a_long_pause_from_low() {
    let day = 24 * 3600;
    let feed = cumulative(&[(0, 1000.0), (day, 5000.0), (day + 1, 5010.0), (day + 7201, 100.0), (day + 7202, 120.0)]);
    assert_eq!(feed.column(column::QUANTITY), ["1", "1", "10", "NaN", "20"]);
    assert_eq!(feed.flags()[1], flag::SESSION_START);
}

#[test]
fn a_symbol_whose_only_time_is_zero_is_saved() {
    let mut feed = Feed::new(&InputConfig::default());
    assert_eq!(feed.normalizer.save(0), None);
    let columns = [f64::NAN; column::NAMES.len()];
    feed.batch.push(TickRow { entry: 0, symbol: 0, time: 0, price: 10.0, columns: &columns });
    feed.apply();
    assert!(feed.normalizer.save(0).is_some());
}

#[test]
fn time_never_falls() {
    let mut feed = Feed::new(&InputConfig::default());
    feed.row(5, 1.0, &[]).row(3, 2.0, &[]).row(6, 3.0, &[]);
    assert_eq!(feed.apply().out_of_order, 1);
    assert_eq!(feed.batch.time, [5, 5, 6].map(|seconds| START + seconds * SECOND));
    assert_eq!(feed.flags(), [flag::SESSION_START, flag::OUT_OF_ORDER, 0]);
}

#[test]
fn a_quote_carries_the_last_price_and_none_is_invented() {
    let quote = [(column::BID, 9.0), (column::ASK, 11.0)];
    let mut feed = Feed::new(&InputConfig::default());
    feed.row(0, f64::NAN, &quote).row(1, 10.5, &[]).row(2, f64::NAN, &quote);
    assert_eq!(feed.apply().unpriced, 1);
    assert_eq!(feed.batch.price, [10.5, 10.5]);
    assert_eq!(feed.flags(), [flag::SESSION_START, flag::QUOTE_ONLY]);

    let mut feed = Feed::new(&InputConfig { quotes: Quotes::Mid, ..InputConfig::default() });
    feed.row(0, f64::NAN, &quote[..1]).row(1, f64::NAN, &quote[1..]).row(2, f64::NAN, &[(column::OI, 5.0)]);
    assert_eq!(feed.apply().unpriced, 1, "one side has no middle");
    assert_eq!(feed.batch.price, [10.0, 10.0]);
    assert_eq!(feed.column(column::BID), ["NaN", "NaN"], "only what the tick itself published");
}

#[test]
fn a_bare_volume_shows_what_it_is() {
    let mut rising = Feed::new(&InputConfig::default());
    let mut jumping = Feed::new(&InputConfig::default());
    for tick in 0..60u32 {
        rising.row(tick.into(), 1.0, &[(column::VOLUME, f64::from(100 + tick * 3))]);
        jumping.row(tick.into(), 1.0, &[(column::VOLUME, f64::from(tick * 37 % 11))]);
    }
    rising.apply();
    jumping.apply();
    assert!(rising.column(column::QUANTITY)[..51].iter().all(|quantity| quantity == "NaN"));
    assert!(rising.column(column::QUANTITY)[51..].iter().all(|quantity| quantity == "3"));
    assert_eq!(jumping.column(column::QUANTITY)[55], (55 * 37 % 11).to_string());
    assert_eq!(jumping.column(column::CUM_VOLUME)[55], "NaN");
}

#[test]
fn a_bare_volume_that_never_changes_stays_unknown() {
    let mut feed = Feed::new(&InputConfig::default());
    (0..200).for_each(|tick| _ = feed.row(tick, 1.0, &[(column::VOLUME, 75.0)]));
    feed.apply();
    assert!(feed.column(column::QUANTITY).iter().all(|quantity| quantity == "NaN"));
}

#[test]
fn a_count_that_is_missing_or_zero_makes_no_quantity() {
    let (day, none) = (24 * 3600, f64::NAN);
    let feed = cumulative(&[(0, 0.0), (1, 100.0), (2, 0.0), (3, none), (4, 130.0), (day, none), (day + 1, 7.0)]);
    assert_eq!(feed.column(column::QUANTITY), ["1", "1", "NaN", "NaN", "30", "1", "1"]);
    assert_eq!(feed.column(column::CUM_VOLUME), ["NaN", "100", "NaN", "NaN", "130", "NaN", "7"]);
}

/// A damaged volume, or yesterday's published before the open, would otherwise suppress the volume for the whole day.
#[test]
fn a_volume_that_stays_below_is_accepted_in_the_end() {
    let counts: Vec<(u64, f64)> = (1..202u32).map(|tick| (tick.into(), f64::from(tick * 10))).collect();
    let feed = cumulative(&[&[(0, 9e9)], &counts[..]].concat());
    let quantities = feed.column(column::QUANTITY);
    assert_eq!(quantities[1..100], ["0"; 99]);
    assert_eq!(quantities[100], "NaN");
    assert_eq!(quantities[101..], ["10"; 101]);
}

#[test]
fn volume_without_a_price_is_a_trade() {
    let mut feed = Feed::new(&InputConfig::default());
    feed.row(0, 5.0, &[]).row(1, f64::NAN, &[(column::QUANTITY, 3.0)]).row(2, f64::NAN, &[(column::OI, 3.0)]);
    feed.apply();
    assert_eq!(feed.batch.price, [5.0; 3]);
    assert_eq!(feed.flags(), [flag::SESSION_START, 0, flag::QUOTE_ONLY]);
}

#[test]
fn bytes_that_are_not_a_state_are_rejected() {
    let mut feed = Feed::new(&InputConfig::default());
    feed.row(0, 5.0, &[]).apply();
    let saved = feed.normalizer.save(0).unwrap();
    assert!(NormalizerState::from_bytes(&saved[1..]).is_err());
    assert_eq!(NormalizerState::from_bytes(&saved).unwrap().to_bytes(), saved);
    assert_eq!(feed.normalizer.save(0), Some(saved));
    assert_eq!(feed.normalizer.save(1), None);
}

#[test]
fn an_index_has_no_volume() {
    let feed = cumulative(&[(0, 0.0), (1, 0.0)]);
    assert_eq!(feed.column(column::CUM_VOLUME), ["NaN", "NaN"]);
}

/// Rows of two symbols with every kind of dirt: seconds, symbol, price, columns.
fn rows() -> impl Strategy<Value = Vec<(u64, u32, f64, Vec<f64>)>> {
    let value = || prop_oneof![Just(f64::NAN), Just(0.0), 0.0..1e7f64];
    let price = prop_oneof![Just(f64::NAN), 0.05..5e4f64];
    let columns = prop::collection::vec(value(), column::NAMES.len()).prop_map(|mut columns| {
        columns[column::FLAGS] = 0.0;
        columns
    });
    prop::collection::vec((0u64..200_000, 0u32..2, price, columns), 0..150)
}

fn batch(rows: &[(u64, u32, f64, Vec<f64>)]) -> Batch {
    let mut batch = Batch::new(column::NAMES.len());
    for (number, (seconds, symbol, price, columns)) in rows.iter().enumerate() {
        let time = START + seconds * SECOND;
        batch.push(TickRow { entry: number as u32, symbol: *symbol, time, price: *price, columns });
        batch.push_clock(number as u32, START + seconds * SECOND);
    }
    batch
}

proptest! {
    #[test]
    fn whatever_comes_in_what_comes_out_holds(rows in rows(), mid in any::<bool>()) {
        let quotes = if mid { Quotes::Mid } else { Quotes::Carry };
        let mut normalizer = Normalizer::new(&InputConfig { quotes, ..InputConfig::default() }, &Sessions::default()).unwrap();
        let mut batch = batch(&rows);
        let counts = normalizer.apply(&mut batch);
        prop_assert_eq!(batch.len() + counts.unpriced as usize, rows.len() * 2);
        let mut last = [0; 2];
        for row in 0..batch.len() {
            if batch.symbol[row] == CLOCK {
                prop_assert!(batch.price[row].is_nan() && batch.columns.iter().all(|column| column[row].is_nan()));
                continue;
            }
            let last = &mut last[batch.symbol[row] as usize];
            prop_assert!(batch.time[row] >= *last);
            *last = batch.time[row];
            prop_assert!(batch.price[row].is_finite() && batch.price[row] >= 0.0);
            let quantity = batch.columns[column::QUANTITY][row];
            prop_assert!(quantity.is_nan() || quantity >= 0.0);
            prop_assert!((0.0..32.0).contains(&batch.columns[column::FLAGS][row]));
        }
    }

    #[test]
    fn rows_that_are_taken_back_have_never_been(rows in rows(), from in 0usize..150, count in 0usize..150) {
        let normalizer = || Normalizer::new(&InputConfig::default(), &Sessions::default()).unwrap();
        let (mut undisturbed, mut disturbed) = (normalizer(), normalizer());
        let from = from.min(rows.len());
        let counts = undisturbed.apply(&mut batch(&rows));
        let first = disturbed.apply(&mut batch(&rows[..from]));
        let others: Vec<_> = rows.iter().rev().take(count).cloned().collect();
        for (seconds, symbol, price, mut columns) in others.iter().cloned() {
            let time = START + seconds * SECOND;
            disturbed.normalize_revocably(&mut NormalizedRow { symbol, time, price, columns: &mut columns });
        }
        prop_assert_eq!(disturbed.take_back(), others.len());
        prop_assert_eq!(disturbed.take_counts(), NormalizeCounts::default());
        let second = disturbed.apply(&mut batch(&rows[from..]));
        prop_assert_eq!(first.unpriced + second.unpriced, counts.unpriced);
        prop_assert_eq!(first.volume_repaired + second.volume_repaired, counts.volume_repaired);
        for symbol in 0..2 {
            prop_assert_eq!(disturbed.state(symbol), undisturbed.state(symbol));
        }
    }

    #[test]
    fn cutting_into_batches_and_restarting_between_changes_nothing(rows in rows(), cut in 0usize..150) {
        let config = InputConfig::default();
        let cut = cut.min(rows.len());
        let mut whole = batch(&rows);
        Normalizer::new(&config, &Sessions::default()).unwrap().apply(&mut whole);

        let (mut first, mut second) = (batch(&rows[..cut]), batch(&rows[cut..]));
        let mut before = Normalizer::new(&config, &Sessions::default()).unwrap();
        before.apply(&mut first);
        let mut after = Normalizer::new(&config, &Sessions::default()).unwrap();
        for symbol in 0..2 {
            if let Some(saved) = before.save(symbol) {
                after.restore(symbol, NormalizerState::from_bytes(&saved).unwrap());
            }
        }
        after.apply(&mut second);
        first.symbol.extend(second.symbol);
        first.time.extend(second.time);
        first.price.extend(second.price);
        first.columns.iter_mut().zip(second.columns).for_each(|(column, more)| column.extend(more));
        // Debug text, since NaN is not equal to itself.
        let shown = |batch: &Batch| format!("{:?} {:?} {:?} {:?}", batch.symbol, batch.time, batch.price, batch.columns);
        prop_assert_eq!(shown(&first), shown(&whole));
    }
}
