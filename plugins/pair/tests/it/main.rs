//! Pairs against their definition, from all bars, and what is said of odd pairs.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/market.rs"]
#[expect(dead_code, unreachable_pub, reason = "only its dice are needed")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use market::{Dice, SECOND};
use pair::Pair;
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row, bar},
};

const LENGTH: usize = 30;
const ENTRY: f64 = 2.0;
const EXIT: f64 = 0.5;
const OPENING: usize = 3;
const HALF_LIFE: f64 = 500.0;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 3600 * SECOND;
const NAMES: [&str; 2] = ["HDFCBANK", "ICICIBANK"];

/// Parameters with which a short walk drifts apart often.
fn harness() -> Harness<Pair> {
    Harness::new()
        .param("length", LENGTH as i64)
        .param("entry_z", ENTRY)
        .param("exit_z", EXIT)
        .param("opening_bars", OPENING as i64)
        .param("half_life", HALF_LIFE)
}

/// A bar, as plain numbers for an oracle to recompute from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Raw {
    /// Its end.
    time: u64,
    symbol: usize,
    price: f64,
    opened: u64,
}

impl Raw {
    fn row(&self) -> Row {
        let row = bar(NAMES[self.symbol], 0.0, [self.price; 4]).at_nanos(self.time).in_group("pair");
        row.with("since_open", (self.time - self.opened) as f64 / SECOND as f64)
    }
}

fn rows(bars: &[Raw]) -> impl Iterator<Item = Row> {
    bars.iter().map(Raw::row)
}

/// Two prices that are drawn to each other, with missing bars and session rolls; bars of one minute in either order.
fn walk(seed: u64, minutes: usize) -> Vec<Raw> {
    let mut dice = Dice::new(seed);
    let mut opened = 1_763_958_600 * SECOND;
    let (mut time, mut market, mut apart) = (opened, 0.0, 0.0f64);
    let mut bars = Vec::new();
    for _ in 0..minutes {
        time += MINUTE;
        if dice.roll() < 0.004 {
            opened += (time - opened).div_ceil(DAY) * DAY;
            time = opened + MINUTE;
        }
        market += (dice.roll() - 0.5) * 0.002;
        apart = apart * 0.97 + (dice.roll() + dice.roll() - 1.0) * 0.002;
        let price = |base: f64, log: f64| (base * f64::exp(log) * 20.0).round() / 20.0;
        let both = [price(950.0, market + apart / 2.0), price(1350.0, market - apart / 2.0)];
        let mut order = [0, 1];
        if dice.roll() < 0.3 {
            order.reverse();
        }
        let is_there = [dice.roll() < 0.97, dice.roll() < 0.97];
        let there = order.into_iter().filter(|symbol| is_there[*symbol]);
        bars.extend(there.map(|symbol| Raw { time, symbol, price: both[symbol], opened }));
    }
    bars
}

/// Time, z and its rank.
type Event = (u64, f64, f64);

/// All detections, and whether rounding decides one of them.
fn expected(bars: &[Raw]) -> (Vec<Event>, bool) {
    // The minutes that both have a bar of: end, ratio, number in the session.
    let mut ratios: Vec<(u64, f64, usize)> = Vec::new();
    let mut opened = 0;
    for both in bars.chunk_by(|a, b| a.time == b.time).filter(|bars| bars.len() == 2) {
        let of = |symbol: usize| both.iter().find(|bar| bar.symbol == symbol).unwrap().price;
        let number = ratios.last().filter(|_| opened == both[0].opened).map_or(1, |last| last.2 + 1);
        opened = both[0].opened;
        ratios.push((both[0].time, (of(0) / of(1)).ln(), number));
    }
    let (mut events, mut scores, mut is_close, mut spent) = (Vec::new(), Vec::<f64>::new(), false, 0.0f64);
    for n in LENGTH..ratios.len() {
        let past = || ratios[n - LENGTH..n].iter().map(|(_, ratio, _)| *ratio);
        let mean = past().sum::<f64>() / LENGTH as f64;
        let variance = past().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / (LENGTH as f64 - 1.0);
        let (time, ratio, number) = ratios[n];
        let z = (ratio - mean) / variance.sqrt();
        is_close |= (z.abs() - ENTRY).abs() < 1e-9 || (z.abs() - EXIT).abs() < 1e-9;
        if z * spent <= EXIT {
            spent = 0.0;
        }
        if z.abs() >= ENTRY && z.signum() != spent && scores.len() >= 60 && number > OPENING {
            spent = z.signum();
            events.push((time, z, rank::rank(&scores, z.abs(), HALF_LIFE)));
        }
        scores.push(z.abs());
    }
    (events, is_close)
}

fn agrees(found: &Found, (time, z, rank): Event) -> Result<(), TestCaseError> {
    let direction = if z > 0.0 { Direction::Up } else { Direction::Down };
    prop_assert_eq!((found.time, found.detection.direction), (time, direction));
    prop_assert!((found.detection.evidence("z").unwrap() - z).abs() < 1e-6);
    prop_assert!((found.detection.confidence - rank).abs() < 0.05, "{found:?}, {rank}");
    prop_assert_eq!((&*found.symbol, &found.detection.members[..]), ("pair", &NAMES.map(String::from)[..]));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let bars = walk(seed, 2000);
        let (expected, is_close) = expected(&bars);
        prop_assume!(!is_close);
        let found = harness().build().feed(rows(&bars));
        prop_assert_eq!(found.len(), expected.len());
        for (found, event) in found.iter().zip(expected) {
            agrees(found, event)?;
        }
    }
}

#[test]
fn a_lively_pair_drifts_apart_and_a_restart_in_between_changes_nothing() {
    let fired: usize = (0..5).map(|seed| harness().check(rows(&walk(seed, 2000))).len()).sum();
    assert!(fired >= 50, "{fired}");
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let bars = walk(3, 2000);
    let found: Vec<u64> = harness().build().feed(rows(&bars)).iter().map(|found| found.time).collect();
    let judged = harness().build().probe(rows(&bars));
    let is_whole = |gates: &[tickhound_sdk::harness::Gate]| gates.len() == 5 && gates.iter().all(|gate| gate.holds);
    let passed: Vec<u64> = judged.iter().filter(|judged| is_whole(&judged.gates)).map(|judged| judged.time).collect();
    assert!(!found.is_empty());
    assert_eq!(found, passed);
}

#[test]
fn bars_of_one_symbol_alone_and_a_third_symbol_never_fire() {
    let bars = walk(1, 2000);
    let alone: Vec<Raw> = bars.iter().filter(|bar| bar.symbol == 0).copied().collect();
    assert!(harness().check(rows(&alone)).is_empty());
    let third = bars.iter().flat_map(|raw| {
        let third = bar("SBIN", 0.0, [800.0; 4]).at_nanos(raw.time).in_group("pair");
        [raw.row(), third.with("since_open", (raw.time - raw.opened) as f64 / SECOND as f64)]
    });
    assert!(harness().check(third).is_empty());
}

#[test]
fn prices_that_stand_still_never_drift_apart() {
    let mut bars = walk(1, 2000);
    bars.iter_mut().for_each(|bar| bar.price = [950.05, 1350.7][bar.symbol]);
    assert!(harness().check(rows(&bars)).is_empty());
}

/// A pair of futures has other names after their expiry: ratios of the old ones say nothing about the new ones.
#[test]
fn another_pair_begins_anew() {
    let bars = walk(2, 600);
    let opened = bars.last().unwrap().opened + 2 * DAY;
    let rolled = walk(7, 600).into_iter().map(|raw| {
        let time = raw.time - raw.opened;
        let row = bar(["A25DECFUT", "B25DECFUT"][raw.symbol], 0.0, [raw.price * 3.0; 4]).in_group("pair");
        (raw.opened, row.at_nanos(opened + time).with("since_open", time as f64 / SECOND as f64))
    });
    // Only the first session, so that time never falls.
    let first = walk(7, 600)[0].opened;
    let rolled: Vec<Row> = rolled.filter(|(opened, _)| *opened == first).map(|(_, row)| row).collect();
    let (before, both) = (rows(&bars).collect::<Vec<_>>(), rows(&bars).chain(rolled.iter().cloned()));
    let found = harness().check(both);
    let alone = harness().check(before);
    let fresh = harness().check(rolled.clone());
    assert!(!alone.is_empty());
    assert_eq!(found[..alone.len()], alone[..]);
    assert_eq!(found[alone.len()..], fresh[..]);
}

#[test]
fn a_state_stays_small() {
    let mut running = Harness::<Pair>::new().param("length", 800).build();
    running.feed(rows(&walk(1, 5000)));
    let size = running.state_size("pair").unwrap();
    assert!(size < 2 * 4096, "{size} bytes of two symbols");
}

#[test]
fn an_exit_beyond_the_entry_is_rejected() {
    let rejected = Harness::<Pair>::new().param("entry_z", 2.0).param("exit_z", 2.0).try_build();
    assert_eq!(rejected.err().unwrap(), "exit_z (2) must be nearer than entry_z (2)");
}
