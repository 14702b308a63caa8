//! Breakout against a recomputation from raw ticks that shares no code with it.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod market;

use breakout::Breakout;
use market::{Raw, SECOND, walk};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row},
};

const WINDOW: u64 = 300 * SECOND;
const BAR: u64 = 5 * SECOND;

/// A closed bar: session, number since the Unix epoch, high, low, close, volume.
#[derive(Clone, Copy, Debug)]
struct Bar {
    session: usize,
    number: u64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
}

/// What the definition says of the tick at `index`, from all ticks up to it.
struct Oracle {
    high: f64,
    low: f64,
    atr: f64,
    closed: usize,
    session_age: u64,
    /// Present volume, its average; NaN average without volume.
    volume: f64,
    average: f64,
    moves: Vec<f64>,
    volumes: Vec<f64>,
}

fn oracle(ticks: &[Raw], index: usize) -> Oracle {
    let now = ticks[index];
    let begin = (0..=index).rev().find(|i| ticks[*i].session_start).unwrap();
    let grain = WINDOW.div_ceil(512);
    let inside = |tick: &&Raw| now.time / grain - tick.time / grain < 512;
    let prices = || ticks[begin..index].iter().filter(inside).map(|tick| tick.price);

    // Bars by session and stretch of time; the one that a session ends in is never closed.
    let mut session = 0;
    let keyed = ticks[..=index].iter().map(|tick| {
        session += usize::from(tick.session_start);
        (session, tick.time / BAR, *tick)
    });
    let keyed: Vec<(usize, u64, Raw)> = keyed.collect();
    let groups: Vec<&[(usize, u64, Raw)]> = keyed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
    let volume_of = |group: &[(usize, u64, Raw)]| {
        group.iter().map(|(_, _, tick)| tick.quantity).filter(|quantity| !quantity.is_nan()).sum::<f64>()
    };
    let mut bars = Vec::new();
    for pair in groups.windows(2) {
        let (group, next) = (pair[0], pair[1]);
        if group[0].0 == next[0].0 {
            let prices = || group.iter().map(|(_, _, tick)| tick.price);
            bars.push(Bar {
                session: group[0].0,
                number: group[0].1,
                high: prices().reduce(f64::max).unwrap(),
                low: prices().reduce(f64::min).unwrap(),
                close: group.last().unwrap().2.price,
                volume: volume_of(group),
            });
        }
    }
    let mut ranges = Vec::new();
    let mut moves = Vec::new();
    for pair in bars.windows(2).filter(|pair| pair[0].session == pair[1].session) {
        let (last, bar) = (pair[0], pair[1]);
        ranges.push((bar.high - bar.low).max((bar.high - last.close).abs()).max((bar.low - last.close).abs()));
        moves.push((bar.close - last.close).abs());
    }
    let mut atr = f64::NAN;
    for (count, range) in ranges.iter().enumerate() {
        match count {
            0..13 => {}
            13 => atr = ranges[..14].iter().sum::<f64>() / 14.0,
            _ => atr += (range - atr) / 14.0,
        }
    }
    let step = ticks[begin..=index].windows(2).map(|pair| (pair[1].price - pair[0].price).abs());
    let all_steps = ticks[..=index].windows(2).filter(|pair| !pair[1].session_start);
    let all_steps = all_steps.map(|pair| (pair[1].price - pair[0].price).abs());
    let least = step.chain(all_steps).filter(|step| *step > 0.0).fold(f64::INFINITY, f64::min);
    let bar_volumes: Vec<f64> = bars.iter().map(|bar| bar.volume).collect();
    let mut average = f64::NAN;
    for (count, volume) in bar_volumes.iter().enumerate() {
        match count {
            0..120 => average = bar_volumes[..=count].iter().sum::<f64>() / (count + 1) as f64,
            _ => average += (volume - average) * 2.0 / 121.0,
        }
    }
    let current = groups.last().unwrap();
    let elapsed = (now.time - current[0].1 * BAR).clamp(SECOND, BAR);
    let scaled = volume_of(current) * BAR as f64 / elapsed as f64;
    let this_session = current[0].0;
    let fresh = |bar: &&Bar| bar.session == this_session && current[0].1 - bar.number <= 5;
    let last = bars.last().filter(fresh).map_or(0.0, |bar| bar.volume);
    Oracle {
        high: prices().reduce(f64::max).unwrap_or(f64::NAN),
        low: prices().reduce(f64::min).unwrap_or(f64::NAN),
        atr: atr.max(if least.is_finite() { least } else { 0.0 }),
        closed: bars.len(),
        session_age: now.time - ticks[begin].time,
        volume: scaled.max(last),
        average,
        moves: moves.into_iter().filter(|size| *size > 0.0).collect(),
        volumes: bar_volumes.into_iter().filter(|volume| *volume > 0.0).collect(),
    }
}

/// Share of the values below, each half as heavy after 720 more; equal to within an eighth of an octave counts half.
fn rank(values: &[f64], asked: f64) -> f64 {
    let bin = |value: f64| (8.0 * value.log2()).floor();
    let (mut below, mut total) = (0.0, 0.0);
    for (age, value) in values.iter().rev().enumerate() {
        let weight = 0.5f64.powf(age as f64 / 720.0);
        total += weight;
        below += weight
            * if bin(*value) < bin(asked) {
                1.0
            } else if bin(*value) == bin(asked) {
                0.5
            } else {
                0.0
            };
    }
    below / total
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1.0)
}

/// Checks one detection; says what is wrong.
fn confirm(ticks: &[Raw], found: &Found) -> Result<(), TestCaseError> {
    let index = ticks.iter().rposition(|tick| tick.time == found.time).unwrap();
    // Ticks may share a nanosecond only by their price being another one's: take the one that fits.
    let (now, o) = (ticks[index], oracle(ticks, index));
    let detection = &found.detection;
    let told = |name: &str| detection.evidence(name).unwrap_or(f64::NAN);
    let (sign, level) = if detection.direction == Direction::Up { (1.0, o.high) } else { (-1.0, o.low) };
    let excess = sign * (now.price - level);
    prop_assert!(close(told("level"), level, 1e-12), "level {} is {level}", told("level"));
    prop_assert!(close(told("excess"), excess, 1e-12), "excess {} is {excess}", told("excess"));
    prop_assert!(close(told("atr"), o.atr, 1e-9), "atr {} is {}", told("atr"), o.atr);
    prop_assert!(excess > 0.25 * o.atr);
    prop_assert!(o.closed >= 60 && o.session_age >= WINDOW / 2);
    prop_assert!(now.time - ticks[index - 1].time <= 5 * BAR, "the level was stale");
    let move_rank = rank(&o.moves, excess);
    prop_assert!(close(told("move_rank"), move_rank, 2e-3), "rank {} is {move_rank}", told("move_rank"));
    if o.average > 0.0 {
        prop_assert!(close(told("volume_ratio"), o.volume / o.average, 1e-9));
        prop_assert!(o.volume / o.average >= 1.5);
        let volume_rank = rank(&o.volumes, o.volume);
        prop_assert!(close(told("volume_rank"), volume_rank, 2e-3), "{} is {volume_rank}", told("volume_rank"));
    }
    prop_assert!((0.0..=1.0).contains(&detection.confidence));
    Ok(())
}

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

#[test]
fn a_lively_market_breaks_out_and_a_restart_in_between_changes_nothing() {
    let mut fired = 0;
    for seed in 0..5 {
        fired += Harness::<Breakout>::new().check(rows(&walk(seed, 8000, true))).len();
    }
    assert!(fired >= 10, "{fired} in about 8 hours of a lively market");
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

/// The worst case for the channel: highs that fall and lows that rise, so that no grain outdoes another.
#[test]
fn a_narrowing_market_takes_bounded_memory() {
    let tick = |n: u32| {
        let swing = if n % 2 == 0 { 1.0 } else { -1.0 } * 100.0 * (1.0 - f64::from(n) / 4000.0);
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
