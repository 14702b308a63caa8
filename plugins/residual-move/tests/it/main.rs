//! Residual moves against their definition, from all bars, and what is said of odd markets.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/market.rs"]
#[expect(dead_code, unreachable_pub, reason = "only its dice are needed")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use std::collections::BTreeMap;

use market::{Dice, SECOND};
use proptest::prelude::*;
use residual_move::ResidualMove;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row, bar},
};

const BARS: u64 = 5;
const K: f64 = 3.0;
const LEAST: f64 = 0.1;
const BETA_HALF_LIFE: f64 = 300.0;
const SLOT: u64 = 15 * MINUTE;
const COOLDOWN: u64 = 600 * SECOND;
const HALF_LIFE: f64 = 500.0;
const MINUTE: u64 = 60 * SECOND;

/// Parameters with which a short walk has residual moves.
fn harness() -> Harness<ResidualMove> {
    Harness::new()
        .param("k", K)
        .param("least_pct", LEAST)
        .param("beta_half_life", BETA_HALF_LIFE)
        .param("cooldown_s", 600.0)
        .param("half_life", HALF_LIFE)
}

/// A bar, as plain numbers for an oracle to recompute from.
#[derive(Clone, Copy, Debug)]
struct Raw {
    /// Its end.
    time: u64,
    price: f64,
    index: f64,
    opened: u64,
}

impl Raw {
    fn row(&self) -> Row {
        let row = bar("SBIN", 0.0, [self.price; 4]).at_nanos(self.time).with("index", self.index);
        row.with("since_open", (self.time - self.opened) as f64 / SECOND as f64)
    }
}

fn rows(bars: &[Raw]) -> impl Iterator<Item = Row> {
    bars.iter().map(Raw::row)
}

/// A symbol with a beta of 1.2 and moves of its own, hectic in the first quarter of an hour, with missing bars and
/// session rolls.
fn walk(seed: u64, minutes: usize) -> Vec<Raw> {
    let mut dice = Dice::new(seed);
    let mut opened = 1_763_958_600 * SECOND;
    let (mut time, mut index, mut own, mut burst) = (opened, 0.0, 0.0, 0.0);
    let mut bars = Vec::new();
    for n in 0..minutes {
        time += match dice.roll() {
            r if r < 0.01 => 2 * MINUTE,
            r if r < 0.012 => 20 * MINUTE,
            _ => MINUTE,
        };
        if n % 120 == 119 {
            opened += 24 * 3600 * SECOND;
            time = opened + MINUTE;
        }
        let hectic = if time - opened < SLOT { 3.0 } else { 1.0 };
        burst = if dice.roll() < 0.01 { (dice.roll() - 0.5) * 0.004 } else { burst * 0.7 };
        let step = (dice.roll() + dice.roll() - 1.0) * 0.001 * hectic;
        index += step;
        own += 1.2 * step + (dice.roll() + dice.roll() - 1.0) * 0.0008 * hectic + burst;
        own *= 0.999;
        let price = |base: f64, log: f64| (base * f64::exp(log) * 20.0).round() / 20.0;
        bars.push(Raw { time, price: price(800.0, own), index: price(25_000.0, index), opened });
    }
    bars
}

/// Time, residual, usual residual, beta, and rank.
type Event = (u64, f64, f64, f64, f64);

/// The residual of each bar that has one: time, part of the session, session, residual, beta.
fn residuals(bars: &[Raw]) -> Vec<(u64, u64, u64, f64, f64)> {
    let (mut moves, mut residuals) = (Vec::<(f64, f64)>::new(), Vec::new());
    for (n, now) in bars.iter().enumerate() {
        let length = BARS * MINUTE;
        let before = bars[..n].iter().rev().find(|bar| bar.time + length <= now.time);
        let Some(before) = before.filter(|bar| bar.opened == now.opened && bar.time + 2 * length > now.time) else {
            continue;
        };
        let (own, market) = ((now.price / before.price).ln(), (now.index / before.index).ln());
        if moves.len() >= 120 {
            let weight = |age: usize| 0.5f64.powf(age as f64 / BETA_HALF_LIFE);
            let sum = |of: &dyn Fn(&(f64, f64)) -> f64| -> f64 {
                moves.iter().rev().enumerate().map(|(age, pair)| weight(age) * of(pair)).sum()
            };
            let beta = sum(&|(own, market)| own * market) / sum(&|(_, market)| market * market);
            let part = (now.time - MINUTE / 2 - now.opened) / SLOT;
            residuals.push((now.time, part, now.opened, own - beta * market, beta));
        }
        // A move counts as eight usual ones at most.
        let limit = |of: &dyn Fn(&(f64, f64)) -> f64| {
            let weights: Vec<f64> = (0..moves.len()).map(|age| 0.5f64.powf(age as f64 / BETA_HALF_LIFE)).collect();
            let squares = moves.iter().rev().zip(&weights).map(|(pair, weight)| weight * of(pair) * of(pair));
            let usual = (squares.sum::<f64>() / weights.iter().sum::<f64>()).sqrt();
            if moves.len() < 30 { f64::INFINITY } else { 8.0 * usual }
        };
        let (most_own, most_market) = (limit(&|pair| pair.0), limit(&|pair| pair.1));
        moves.push((own.clamp(-most_own, most_own), market.clamp(-most_market, most_market)));
    }
    residuals
}

/// All detections, and whether rounding decides one of them.
fn expected(bars: &[Raw]) -> (Vec<Event>, bool) {
    let residuals = residuals(bars);
    // As they count in mean squares.
    let mut learnt: Vec<f64> = Vec::new();
    let (mut events, mut units, mut is_close, mut fired) = (Vec::new(), Vec::<f64>::new(), false, [0u64; 2]);
    for (n, &(time, part, session, size, beta)) in residuals.iter().enumerate() {
        let mut sessions: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for ((.., past_session, _, _), past) in
            residuals[..n].iter().zip(&learnt).filter(|(past, _)| past.1 == part && past.2 != session)
        {
            sessions.entry(*past_session).or_default().push(past * past);
        }
        let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let mut profile = 0.0;
        for (number, squares) in sessions.values().enumerate() {
            profile += (mean(squares) - profile) * (1.0 / (number + 1) as f64).max(0.1);
        }
        let mut pooled = 0.0;
        for (number, past) in learnt.iter().enumerate() {
            pooled += (past * past - pooled) * (1.0 / (number + 1) as f64).max(5e-4);
        }
        let weight = sessions.len() as f64;
        let usual = ((profile * weight + pooled * 3.0) / (weight + 3.0)).sqrt();
        let limit = if n < 30 { f64::INFINITY } else { 8.0 * usual };
        learnt.push(size.clamp(-limit, limit));
        if n == 0 {
            continue;
        }
        let of_usual = size.abs() / usual;
        let side = usize::from(size < 0.0);
        is_close |= (of_usual - K).abs() < 1e-9 || (size.abs() * 100.0 - LEAST).abs() < 1e-9;
        let is_worth_it = size.abs() * 100.0 >= LEAST;
        if of_usual >= K && is_worth_it && time - fired[side] >= COOLDOWN && n >= 120 {
            fired[side] = time;
            events.push((time, size, usual, beta, rank::rank(&units, of_usual, HALF_LIFE)));
        }
        units.push(of_usual);
    }
    (events, is_close)
}

fn agrees(found: &Found, (time, size, usual, beta, rank): Event) -> Result<(), TestCaseError> {
    let direction = if size > 0.0 { Direction::Up } else { Direction::Down };
    prop_assert_eq!((found.time, found.detection.direction, &*found.symbol), (time, direction, "SBIN"));
    for (name, value) in [("residual_pct", size * 100.0), ("usual_pct", usual * 100.0), ("beta", beta)] {
        prop_assert!((found.detection.evidence(name).unwrap() - value).abs() < 1e-6, "{name}: {found:?}, {value}");
    }
    prop_assert!((found.detection.confidence - rank).abs() < 0.05, "{found:?}, {rank}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let bars = walk(seed, 1500);
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
fn a_lively_symbol_moves_on_its_own_and_a_restart_in_between_changes_nothing() {
    let fired: usize = (0..5).map(|seed| harness().check(rows(&walk(seed, 1500))).len()).sum();
    assert!(fired >= 25, "{fired}");
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let bars = walk(3, 1500);
    let found: Vec<u64> = harness().build().feed(rows(&bars)).iter().map(|found| found.time).collect();
    let judged = harness().build().probe(rows(&bars));
    let is_whole = |gates: &[tickhound_sdk::harness::Gate]| gates.len() == 4 && gates.iter().all(|gate| gate.holds);
    let passed: Vec<u64> = judged.iter().filter(|judged| is_whole(&judged.gates)).map(|judged| judged.time).collect();
    assert!(!found.is_empty());
    assert_eq!(found, passed);
}

#[test]
fn the_index_itself_and_a_price_that_stands_still_have_no_residual() {
    let mut bars = walk(1, 1500);
    bars.iter_mut().for_each(|bar| bar.price = bar.index);
    assert!(harness().check(rows(&bars)).is_empty(), "the index itself");
    bars.iter_mut().for_each(|bar| bar.price = 800.0);
    assert!(harness().check(rows(&bars)).is_empty(), "a price that stands still");
}

#[test]
fn without_an_index_or_while_it_stands_still_nothing_is_explained() {
    for index in [f64::NAN, 25_000.0] {
        let mut bars = walk(1, 1500);
        bars.iter_mut().for_each(|bar| bar.index = index);
        assert!(harness().check(rows(&bars)).is_empty(), "{index}");
    }
}

/// A market move that the symbol follows by its beta is not news, however large it is.
#[test]
fn a_move_that_the_index_explains_is_not_one_of_the_symbols_own() {
    let crash = |own: f64| {
        let mut bars = walk(4, 800);
        let last = *bars.last().unwrap();
        let first = harness().build().feed(rows(&bars)).len();
        bars.push(Raw { time: last.time + MINUTE, price: last.price * (1.0 + own), index: last.index * 0.98, ..last });
        harness().check(rows(&bars)).len() - first
    };
    assert_eq!(crash(-0.024), 0, "by beta");
    assert_eq!(crash(0.0), 1, "it stands still while the index falls");
}

/// Before its first trade of the day a symbol may have the same price for hours.
#[test]
fn prices_that_stood_still_at_first_are_learnt_from_later() {
    let mut bars = walk(1, 3000);
    bars[..300].iter_mut().for_each(|bar| (bar.price, bar.index) = (800.0, 25_000.0));
    let found = harness().check(rows(&bars));
    assert!(found.iter().filter(|found| found.time > bars[1500].time).count() > 0, "{}", found.len());
}

#[test]
fn an_absurd_price_is_forgotten_in_time() {
    let mut bars = walk(1, 6000);
    (bars[200].price, bars[201].price) = (1e308, 1e-308);
    (bars[300].index, bars[301].index) = (1e-308, 1e308);
    let found = harness().check(rows(&bars));
    let last = found.iter().filter(|found| found.time > bars[4000].time).count();
    assert!(last > 0, "{}", found.len());
}

#[test]
fn a_state_stays_small() {
    let mut running = Harness::<ResidualMove>::new().param("move_bars", 60).build();
    running.feed(rows(&walk(1, 8000)));
    let size = running.state_size("SBIN").unwrap();
    assert!(size < 4096, "{size} bytes");
}

#[test]
fn a_part_of_a_session_shorter_than_a_bar_is_rejected() {
    let rejected = Harness::<ResidualMove>::new().param("slot_min", 1.0).param("bar_s", 90).try_build();
    assert_eq!(rejected.err().unwrap(), "a part of a session (slot_min 1) must hold a bar (bar_s 90)");
}
