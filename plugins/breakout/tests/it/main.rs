//! Breakout against its definition, and what it says of markets that are odd.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod gates;
mod market;
mod oracle;
mod quotes;

use breakout::Breakout;
use market::{Raw, SECOND, walk};
use oracle::{WINDOW, confirm, expected};
use proptest::prelude::*;
use quotes::{quote, with_carried_quotes};
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Judged, Row},
};

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_breakout_is_one_by_definition(seed in any::<u64>(), volume in any::<bool>()) {
        let ticks = walk(seed, 6000, volume);
        let found = Harness::<Breakout>::new().build().feed(rows(&ticks));
        for found in &found {
            confirm(&ticks, found)?;
        }
        // One direction rests for a minute after it fired.
        for direction in [Direction::Up, Direction::Down] {
            let times: Vec<u64> =
                found.iter().filter(|f| f.detection.direction == direction).map(|f| f.time).collect();
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 60 * SECOND));
        }
    }

    #[test]
    fn confidence_rises_with_the_distance_and_with_the_volume(
        seed in 0u64..1000, distance in 1u32..200, more in 0u32..200, volume in 500u32..5000, added in 0u32..5000,
    ) {
        let ticks = walk(seed, 1500, true);
        let last = ticks[ticks.len() - 1];
        let recent = || ticks.iter().filter(|tick| last.time - tick.time < WINDOW);
        let top = recent().map(|tick| tick.price).reduce(f64::max).unwrap();
        let confidence = |distance: u32, volume: u32| {
            let jump = Raw {
                time: last.time + SECOND, price: top + f64::from(distance) * 0.05, quantity: volume.into(), session_start: false,
            };
            let mut harness = Harness::<Breakout>::new().param("cooldown_s", 0.0).param("rearm_atr", 0.0).build();
            harness.feed(rows(&ticks));
            harness.feed([jump.row()]).first().map(|found| found.detection.confidence)
        };
        if let Some(base) = confidence(distance, volume) {
            prop_assert!((0.0..=1.0).contains(&base));
            prop_assert!(confidence(distance + more, volume).unwrap() >= base);
            prop_assert!(confidence(distance, volume + added).unwrap() >= base);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn no_breakout_is_missed(seed in any::<u64>(), volume in any::<bool>()) {
        let ticks = walk(seed, 2000, volume);
        let found = Harness::<Breakout>::new().build().feed(rows(&ticks));
        let found: Vec<_> = found.iter().map(|found| (found.time, found.detection.direction)).collect();
        prop_assert_eq!(found, expected(&ticks));
    }
}

#[test]
fn a_lively_market_breaks_out_and_a_restart_in_between_changes_nothing() {
    let mut fired = 0;
    for seed in 0..5 {
        fired += Harness::<Breakout>::new().check(rows(&walk(seed, 8000, true))).len();
    }
    assert!(fired >= 10, "{fired} in about 8 hours of a lively market");
}

/// A detection leaves out conditions that can't change it; an explanation shows all of them.
#[test]
fn what_is_found_passed_all_gates_and_each_row_in_a_channel_shows_them() {
    let ticks = walk(1, 8000, true);
    let found: Vec<u64> = Harness::<Breakout>::new().check(rows(&ticks)).iter().map(|found| found.time).collect();
    let judged = Harness::<Breakout>::new().build().probe(rows(&ticks));
    let names = |judged: &Judged| judged.gates.iter().map(|gate| gate.name.clone()).collect::<Vec<_>>();
    let all = ["channel_filled_s", "bars", "pause_s", "armed_s", "beyond_channel", "volume_ratio"];
    let is_filled = |judged: &&Judged| judged.gates[0].holds;
    assert!(judged.iter().filter(is_filled).all(|judged| names(judged).len() >= 5 && names(judged)[..5] == all[..5]));
    assert!(judged.iter().filter(|judged| !is_filled(judged)).all(|judged| names(judged) == all[..2]));
    let passed = judged.iter().filter(|judged| names(judged) == all && judged.gates.iter().all(|gate| gate.holds));
    assert!(!found.is_empty());
    assert_eq!(found, passed.map(|judged| judged.time).collect::<Vec<_>>());
}

#[test]
fn every_mode_survives_a_restart_and_finds_something() {
    for (name, value) in [("mode", "opening-range".into()), ("squeeze_only", tickhound_sdk::Value::from(true))] {
        let mut fired = 0;
        for seed in 0..12 {
            fired += Harness::<Breakout>::new().param(name, value.clone()).check(rows(&walk(seed, 8000, true))).len();
        }
        assert!(fired > 0, "{name}");
    }
}

/// Calm ticks a second apart for `seconds`, of price 100 and 100.05 in turn.
fn calm(from: u64, seconds: u64) -> Vec<Raw> {
    let tick = |n: u64| Raw {
        time: from + n * SECOND,
        price: if n % 7 < 3 { 100.0 } else { 100.05 },
        quantity: 10.0,
        session_start: n == 0,
    };
    (0..seconds).map(tick).collect()
}

fn feed(ticks: &[Raw]) -> Vec<Found> {
    Harness::<Breakout>::new().check(rows(ticks))
}

const START: u64 = 1_763_958_600 * SECOND;

fn jump(ticks: &[Raw], after: u64, price: f64, quantity: f64) -> Raw {
    Raw { time: ticks[ticks.len() - 1].time + after, price, quantity, session_start: false }
}

#[test]
fn a_jump_with_volume_fires_once_with_high_confidence() {
    let mut ticks = calm(START, 900);
    for n in 0..50 {
        let next = jump(&ticks, SECOND / 1000, 1000.0 + f64::from(n) * 0.05, 500.0);
        ticks.push(next);
    }
    let found = feed(&ticks);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].detection.direction, Direction::Up);
    assert!(found[0].detection.confidence > 0.95);
    assert_eq!(found[0].detection.evidence("level"), Some(100.05));
}

#[test]
fn no_volume_no_breakout_where_there_is_volume_otherwise() {
    let mut ticks = calm(START, 900);
    let next = jump(&ticks, SECOND, 101.0, 0.0);
    ticks.push(next);
    assert_eq!(feed(&ticks).len(), 0);
}

#[test]
fn nothing_is_detected_before_the_warm_up_or_after_a_pause_or_on_a_constant_price() {
    let mut early = calm(START, 200);
    early.push(jump(&early, SECOND, 110.0, 500.0));
    assert_eq!(feed(&early).len(), 0, "before the warm-up");

    let mut late = calm(START, 900);
    late.push(jump(&late, 26 * SECOND, 110.0, 5000.0));
    assert_eq!(feed(&late).len(), 0, "after a pause");

    let mut long = calm(START, 900);
    long.push(jump(&long, 3 * 3600 * SECOND, 110.0, 5000.0));
    assert_eq!(feed(&long).len(), 0, "after three hours");

    let mut constant = calm(START, 2000);
    constant.iter_mut().for_each(|tick| tick.price = 100.0);
    assert_eq!(feed(&constant).len(), 0, "constant");
}

#[test]
fn a_new_session_begins_with_no_channel() {
    let mut ticks = calm(START, 900);
    ticks
        .extend(calm(START + 24 * 3600 * SECOND, 250).into_iter().map(|tick| Raw { price: tick.price + 10.0, ..tick }));
    assert_eq!(feed(&ticks).len(), 0, "an overnight gap is no breakout");
    ticks.extend(calm(START + 24 * 3600 * SECOND + 250 * SECOND, 200).into_iter().map(|tick| Raw {
        price: tick.price + 10.0,
        session_start: false,
        ..tick
    }));
    ticks.push(jump(&ticks, SECOND, 111.0, 500.0));
    assert_eq!(feed(&ticks).len(), 1);
}

/// After a restart without state the first tick is one within the session, and not flagged as its start.
#[test]
fn a_channel_that_begins_within_a_session_fills_first() {
    let unflagged = |seconds| {
        let mut ticks = calm(START, seconds);
        ticks[0].session_start = false;
        ticks.push(jump(&ticks, SECOND, 110.0, 500.0));
        ticks
    };
    let found = |seconds| Harness::<Breakout>::new().param("window_s", 3600.0).check(rows(&unflagged(seconds))).len();
    assert_eq!(found(1700), 0, "half the window has not passed");
    assert_eq!(found(1900), 1);
}

#[test]
fn an_opening_range_is_that_of_the_session_or_none() {
    let found = |flagged: bool| {
        let mut ticks = calm(START, 1000);
        ticks[0].session_start = flagged;
        ticks.push(jump(&ticks, SECOND, 110.0, 500.0));
        Harness::<Breakout>::new().param("mode", "opening-range").check(rows(&ticks)).len()
    };
    assert_eq!(found(true), 1);
    assert_eq!(found(false), 0, "the session's begin was not seen");
}

/// Ranks and the average range outlive a session, so the second one need not wait for them.
#[test]
fn the_second_session_waits_for_its_channel_only() {
    let mut ticks = calm(START, 900);
    ticks.extend(calm(START + 24 * 3600 * SECOND, 200));
    ticks.push(jump(&ticks, SECOND, 110.0, 500.0));
    assert_eq!(feed(&ticks).len(), 1);
}

#[test]
fn volume_of_before_a_pause_confirms_nothing() {
    let mut ticks = calm(START, 900);
    // A busy bar, a pause of three hours, and in the first bar after it a rise that nobody trades.
    (1..6).for_each(|_| ticks.push(jump(&ticks, SECOND, 100.0, 500.0)));
    ticks.push(jump(&ticks, (3 * 3600 + 1) * SECOND, 100.0, 0.0));
    ticks.push(jump(&ticks, SECOND, 110.0, 0.0));
    assert_eq!(feed(&ticks).len(), 0);
}

/// Where trading never stops, a session may begin seconds after a breakout that has not come back.
#[test]
fn a_new_session_is_armed() {
    let mut ticks = calm(START, 900);
    ticks.push(jump(&ticks, SECOND, 110.0, 500.0));
    ticks.extend(calm(START + 905 * SECOND, 170).into_iter().map(|tick| Raw { price: tick.price + 10.0, ..tick }));
    ticks.push(jump(&ticks, SECOND, 120.0, 5000.0));
    let times: Vec<u64> = feed(&ticks).iter().map(|found| (found.time - START) / SECOND).collect();
    assert_eq!(times, [900, 1075]);
}

/// The worst case for the channel: highs that fall and lows that rise, so that no grain outdoes another.
#[test]
fn a_narrowing_market_takes_bounded_memory() {
    let tick = |n: u32| {
        let swing = if n.is_multiple_of(2) { 1.0 } else { -1.0 } * 100.0 * (1.0 - f64::from(n) / 4000.0);
        Raw {
            time: START + u64::from(n) * SECOND / 4,
            price: 1000.0 + swing,
            quantity: f64::from(n % 97),
            session_start: n == 0,
        }
    };
    let mut harness = Harness::<Breakout>::new().build();
    harness.feed(rows(&(0..3000).map(tick).collect::<Vec<_>>()));
    let size = harness.state_size("X").unwrap();
    assert!((10_000..16_000).contains(&size), "{size} bytes");
}

#[test]
fn a_channel_of_a_few_ticks_after_a_pause_is_no_range() {
    // 100 s is longer than a stale level, 200 s than half the channel, 400 s than all of it.
    for (pause, fires) in [(100, 1), (200, 0), (400, 0)] {
        let mut ticks = calm(START, 900);
        let back = jump(&ticks, pause * SECOND, 100.0, 10.0);
        ticks.push(back);
        let up = jump(&ticks, SECOND, 101.0, 500.0);
        ticks.push(up);
        assert_eq!(feed(&ticks).len(), fires, "{pause} s");
    }
    let mut ticks = calm(START, 900);
    ticks.extend(calm(START + 1300 * SECOND, 149).into_iter().map(|tick| Raw { session_start: false, ..tick }));
    assert_eq!(feed(&[&ticks[..], &[jump(&ticks, SECOND, 101.0, 500.0)]].concat()).len(), 0, "149 s of channel");
    assert_eq!(feed(&[&ticks[..], &[jump(&ticks, 2 * SECOND, 101.0, 500.0)]].concat()).len(), 1, "half of it");
}

#[test]
fn quotes_that_carry_the_last_price_change_nothing() {
    for (name, value) in [("mode", "rolling"), ("mode", "opening-range")] {
        let mut fired = 0;
        for seed in 0..6 {
            let ticks = walk(seed, 8000, true);
            let harness = || Harness::<Breakout>::new().param(name, value);
            let found = harness().check(rows(&ticks));
            assert_eq!(harness().check(with_carried_quotes(&ticks)), found, "{value}");
            fired += found.len();
        }
        assert!(fired > 0, "{value}");
    }
}

#[test]
fn quotes_alone_that_move_are_prices() {
    let mut ticks = calm(START, 900);
    ticks.push(jump(&ticks, SECOND, 101.0, f64::NAN));
    let rows = ticks.iter().map(|tick| quote(tick.time, tick.price, tick.session_start));
    assert_eq!(Harness::<Breakout>::new().check(rows).len(), 1);
}

#[test]
fn an_opening_range_is_left_once_and_again_only_from_inside() {
    let feed = |ticks: &[Raw]| Harness::<Breakout>::new().param("mode", "opening-range").check(rows(ticks));
    let mut ticks = calm(START, 1200);
    // An hour above the range.
    for n in 0..3600 {
        let next = jump(&ticks, SECOND, 101.0 + f64::from(n % 20) * 0.05, if n % 60 < 5 { 500.0 } else { 10.0 });
        ticks.push(next);
    }
    assert_eq!(feed(&ticks).len(), 1);
    for price in [99.0, 101.0] {
        for _ in 0..60 {
            let next = jump(&ticks, SECOND, price, 500.0);
            ticks.push(next);
        }
    }
    let directions: Vec<Direction> = feed(&ticks).iter().map(|found| found.detection.direction).collect();
    assert_eq!(directions, [Direction::Up, Direction::Down, Direction::Up]);
}

#[test]
fn a_symbol_takes_little_memory() {
    let mut harness = Harness::<Breakout>::new().build();
    harness.feed(rows(&walk(7, 20_000, true)));
    let largest = harness.state_size("X").unwrap();
    assert!(largest < 8 * 1024, "{largest} bytes");
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    let refused = Harness::<Breakout>::new().param("window_s", 10.0).param("bar_s", 60.0).try_build();
    assert!(refused.is_err_and(|reason| reason.contains("at least two bars")));
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    for mode in ["rolling", "opening-range"] {
        let agree = |seed| {
            let rows: Vec<Row> = rows(&walk(seed, 8000, true)).collect();
            gates::agree_with_detections(|| Harness::<Breakout>::new().param("mode", mode), &rows)
        };
        let found: usize = (0..5).map(agree).sum();
        assert!(found >= 5, "{mode}: {found}");
    }
}
