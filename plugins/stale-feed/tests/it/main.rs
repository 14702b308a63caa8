//! Stale feeds against their definition, and what is said of markets that close, break and stand still.

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(unreachable_pub, dead_code, reason = "a test binary has no outside, and needs a part of it")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use market::{Dice, SECOND};
use proptest::prelude::*;
use stale_feed::StaleFeed;
use tickhound_sdk::{
    Direction, flag,
    harness::{Found, Harness, Row, tick},
};

const OPEN: u64 = 1_763_955_900 * SECOND;
const SILENT: u64 = 5 * SECOND;
const RANK_MIN: f64 = 0.99;

fn harness() -> Harness<StaleFeed> {
    Harness::new().param("silent_s", 5.0).param("rank_min", RANK_MIN)
}

/// One tick: symbol, time, price.
#[derive(Clone, Copy, Debug)]
struct Raw(&'static str, u64, f64);

fn rows(ticks: &[Raw]) -> Vec<Row> {
    let mut known: Vec<&str> = Vec::new();
    let mut row = |Raw(symbol, time, price): &Raw| {
        let first = !known.contains(symbol);
        if first {
            known.push(symbol);
        }
        let flags = if first { flag::SESSION_START } else { 0 };
        tick(symbol, 0.0, *price).at_nanos(*time).with("quantity", 1.0).with("flags", f64::from(flags))
    };
    ticks.iter().map(&mut row).collect()
}

/// Two symbols that tick at random, fall silent at times, now and then both of them.
fn market(seed: u64, count: usize) -> Vec<Raw> {
    let mut dice = Dice::new(seed);
    let mut next = [OPEN, OPEN + SECOND / 3];
    let mut ticks = Vec::new();
    for _ in 0..count {
        let which = usize::from(next[1] < next[0]);
        let time = next[which];
        ticks.push(Raw(["A", "B"][which], time, 100.0 + (dice.roll() * 10.0).floor()));
        next[which] += match dice.roll() {
            r if r < 0.004 => (dice.roll() * 30.0 * SECOND as f64) as u64,
            r if r < 0.005 => {
                // Nobody ticks for a while.
                let pause = (dice.roll() * 3600.0 * SECOND as f64) as u64;
                next[1 - which] = next[1 - which].max(time) + pause;
                pause
            }
            _ => (dice.roll() * SECOND as f64) as u64 + 1,
        };
    }
    ticks
}

/// Time and symbol of every silence that is told; and whether rounding decides one.
fn expected(ticks: &[Raw]) -> (Vec<(u64, &'static str)>, bool) {
    let second = |time: u64| time / SECOND * SECOND;
    // Seconds that event time reaches, each with the position of the tick that brings it there.
    let mut clocks: Vec<(usize, u64)> = Vec::new();
    let mut reached = second(ticks[0].1);
    for (position, tick) in ticks.iter().enumerate() {
        if second(tick.1) > reached {
            reached = second(tick.1);
            clocks.push((position, reached));
        }
    }
    let (mut told, mut close) = (Vec::new(), false);
    for symbol in ["A", "B"] {
        let own: Vec<(usize, u64)> =
            ticks.iter().enumerate().filter(|(_, tick)| tick.0 == symbol).map(|(n, tick)| (n, tick.1)).collect();
        let mut gaps: Vec<f64> = Vec::new();
        for (index, (position, time)) in own.iter().enumerate() {
            let until = own.get(index + 1).map_or(usize::MAX, |(next, _)| *next);
            let inside = clocks.iter().filter(|(at, _)| *at > *position && *at <= until).map(|(_, second)| *second);
            let (mut clock, mut leapt, mut fired) = (*time, 0, false);
            for now in inside {
                leapt += (now - clock.min(now)).saturating_sub(SECOND);
                clock = now;
                let silence = (now - time).saturating_sub(leapt);
                if fired || silence < SILENT || gaps.len() < 200 {
                    continue;
                }
                let rank = rank::rank(&gaps, silence as f64, 5000.0);
                close |= (rank - RANK_MIN).abs() < 1e-3;
                fired = rank >= RANK_MIN;
                if fired {
                    told.push((now, symbol));
                }
            }
            if let Some((_, next)) = own.get(index + 1) {
                let gap = (next - time).saturating_sub(leapt);
                if gap > 0 {
                    gaps.push(gap as f64);
                }
            }
        }
    }
    told.sort_unstable();
    (told, close)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_tells_each_silence_once_and_no_other(seed in any::<u64>()) {
        let ticks = market(seed, 4000);
        let (expected, close) = expected(&ticks);
        prop_assume!(!close);
        let harness = harness().param("stuck_s", 0.0);
        let mut found: Vec<_> = harness.build().feed(rows(&ticks)).into_iter().map(|it| (it.time, it.symbol)).collect();
        found.sort_unstable();
        let expected: Vec<_> = expected.into_iter().map(|(time, symbol)| (time, symbol.to_owned())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_restart_changes_nothing_and_a_state_stays_small(seed in 0u64..1000) {
        let ticks = market(seed, 3000);
        let found = harness().check(rows(&ticks));
        prop_assert!(found.iter().all(|found| found.detection.direction == Direction::None));
        let mut running = harness().build();
        running.feed(rows(&ticks));
        prop_assert!(running.state_size("A").unwrap() < 4096);
    }
}

/// Ticks of both, four a second for five minutes; then what `after` says.
fn after_five_minutes(after: impl IntoIterator<Item = Raw>) -> Vec<Found> {
    let tick = |n: u64| Raw(["A", "B"][n as usize % 2], OPEN + n * SECOND / 4, 100.0 + (n % 5) as f64);
    let ticks: Vec<Raw> = (0..1200).map(tick).chain(after).collect();
    Harness::<StaleFeed>::new().check(rows(&ticks))
}

const FIVE_MINUTES: u64 = 300 * SECOND;

#[test]
fn one_that_falls_silent_is_told_once_and_again_when_it_is_silent_for_longer_than_that() {
    let b = |n: u64| Raw("B", OPEN + FIVE_MINUTES + n * SECOND / 4, 100.0 + (n % 5) as f64);
    let a = |seconds: u64| Raw("A", OPEN + FIVE_MINUTES + seconds * SECOND, 100.0);
    let mut ticks: Vec<Raw> = (0..400).map(b).chain([a(50)]).collect();
    ticks.sort_by_key(|tick| tick.1);
    let found = after_five_minutes(ticks);
    let told: Vec<_> = found.iter().map(|it| (it.symbol.as_str(), (it.time - OPEN - FIVE_MINUTES) / SECOND)).collect();
    // It ticks at 50; by then a silence of 50 seconds is among its recent gaps.
    assert_eq!(told, [("A", 10), ("A", 99)], "{found:?}");
    assert!(found[0].detection.confidence > 0.999);
}

#[test]
fn a_feed_that_breaks_as_a_whole_blames_no_symbol() {
    let back =
        |n: u64| Raw(["A", "B"][n as usize % 2], OPEN + 2 * FIVE_MINUTES + n * SECOND / 4, 100.0 + (n % 5) as f64);
    assert!(after_five_minutes((0..100).map(back)).is_empty());
    let next_day =
        |n: u64| Raw(["A", "B"][n as usize % 2], OPEN + 86_400 * SECOND + n * SECOND / 4, 100.0 + (n % 5) as f64);
    assert!(after_five_minutes((0..100).map(next_day)).is_empty());
}

/// Ten minutes in which the price moves, then 100 seconds in which it is stuck.
fn stuck(quantity: f64) -> Vec<Found> {
    let row = |n: u64| {
        let (price, quantity) = if n < 6000 { (100.0 + (n % 3) as f64, 10.0) } else { (100.0, quantity) };
        let flags = if n == 0 { flag::SESSION_START } else { 0 };
        let row = tick("A", 0.0, price).at_nanos(OPEN + n * SECOND / 4);
        row.with("quantity", quantity).with("flags", f64::from(flags))
    };
    Harness::<StaleFeed>::new().check((0..6400).map(row))
}

#[test]
fn a_price_that_is_stuck_while_much_is_traded_is_told() {
    let found = stuck(30.0);
    assert_eq!(found.len(), 1, "{found:?}");
    let told = &found[0].detection;
    assert!((told.evidence("stuck_s").unwrap() - 60.0).abs() < 1.0);
    assert!(told.evidence("traded").unwrap() > 2.0 * told.evidence("usual").unwrap());
    assert!(told.confidence > 0.5 && told.confidence < 0.75, "{}", told.confidence);
}

#[test]
fn a_price_that_is_stuck_because_nothing_is_traded_is_not() {
    assert!(stuck(0.0).is_empty());
    assert!(stuck(10.0).is_empty());
    assert!(stuck(f64::NAN).is_empty());
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    // Prices that change seldom, so that some are stuck.
    let slow = |n: usize, raw: &Raw| Raw(raw.0, raw.1, (100 + n / 400) as f64);
    let agree = |seed| {
        let ticks: Vec<Raw> = market(seed, 3000).iter().enumerate().map(|(n, raw)| slow(n, raw)).collect();
        let harness = || harness().param("stuck_s", 20.0).param("stuck_k", 0.5);
        gates::agree_with_detections(harness, &rows(&ticks))
    };
    let found: usize = (0..5).map(agree).sum();
    assert!(found >= 10, "{found}");
}
