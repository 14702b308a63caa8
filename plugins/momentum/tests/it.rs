//! Momentum against a recomputation from raw ticks that shares no code with it.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

#[path = "../../breakout/tests/it/market.rs"]
mod market;

use market::{Raw, SECOND, walk};
use momentum::Momentum;
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row},
};

const BAR: u64 = 5 * SECOND;
const N: usize = 12;

/// A closed bar that counts: whether it begins the look-back anew, and its close.
struct Bar {
    anew: bool,
    close: f64,
}

/// The bars that are closed by the ticks up to `index`; what lies before a long pause does not count.
fn bars(ticks: &[Raw], index: usize) -> Vec<Bar> {
    let mut session = 0;
    let keyed: Vec<(usize, u64, f64)> = ticks[..=index]
        .iter()
        .map(|tick| {
            session += usize::from(tick.session_start);
            (session, tick.time / BAR, tick.price)
        })
        .collect();
    let groups: Vec<&[(usize, u64, f64)]> = keyed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
    let (mut bars, mut anew) = (Vec::new(), true);
    for pair in groups.windows(2) {
        let ((session, start, _), (next_session, next_start, _)) = (pair[0][0], pair[1][0]);
        if session != next_session || next_start - start > N as u64 {
            anew = true;
            continue;
        }
        bars.push(Bar { anew, close: pair[0].last().unwrap().2 });
        anew = false;
    }
    bars
}

fn ema(closes: &[f64], length: usize) -> f64 {
    let mut average = closes[..length].iter().sum::<f64>() / length as f64;
    for close in &closes[length..] {
        average += (close - average) * 2.0 / (length as f64 + 1.0);
    }
    average
}

fn rank(values: &[f64], asked: f64) -> f64 {
    let bin = |value: f64| (8.0 * value.log2()).floor();
    let (mut below, mut total) = (0.0, 0.0);
    for (age, value) in values.iter().filter(|value| **value > 0.0).rev().enumerate() {
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
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1e-3)
}

fn confirm(ticks: &[Raw], found: &Found) -> Result<(), TestCaseError> {
    let index = ticks.iter().position(|tick| tick.time == found.time).unwrap();
    let bars = bars(ticks, index);
    let (mut sizes, mut ratios, mut square) = (Vec::new(), Vec::new(), 0.0);
    for end in 0..bars.len() {
        let Some(begin) = end.checked_sub(N) else { continue };
        if bars[begin + 1..=end].iter().any(|bar| bar.anew) {
            continue;
        }
        let size = (bars[end].close / bars[begin].close).ln();
        let way: f64 = bars[begin..=end].windows(2).map(|pair| (pair[1].close / pair[0].close).ln().abs()).sum();
        sizes.push(size);
        ratios.push(if way > 0.0 { size.abs() / way } else { 0.0 });
    }
    let (size, ratio) = (sizes.pop().unwrap(), ratios.pop().unwrap());
    sizes.iter().for_each(|size| square += (size * size - square) * 2.0 / 241.0);
    let closes: Vec<f64> = bars.iter().map(|bar| bar.close).collect();
    let (fast, slow) = (ema(&closes, 12), ema(&closes, 26));
    let detection = &found.detection;
    let told = |name: &str| detection.evidence(name).unwrap_or(f64::NAN);
    let sign = if detection.direction == Direction::Up { 1.0 } else { -1.0 };
    prop_assert!(
        close(told("move_pct"), size.exp_m1() * 100.0, 1e-6),
        "{} is {}",
        told("move_pct"),
        size.exp_m1() * 100.0
    );
    prop_assert!(close(told("efficiency"), ratio, 1e-6), "{} is {ratio}", told("efficiency"));
    prop_assert!(close(told("z"), size / square.sqrt(), 1e-6), "{} is {}", told("z"), size / square.sqrt());
    prop_assert!(close(told("ema_fast"), fast, 1e-9) && close(told("ema_slow"), slow, 1e-9));
    prop_assert!(sign * size > 0.0 && sign * (fast - slow) > 0.0 && ratio >= 0.4);
    prop_assert!(bars.len() > 120);
    let sizes: Vec<f64> = sizes.iter().map(|size| size.abs()).collect();
    // A value at the edge of a bin may fall to either side by rounding.
    let edge = |value: f64| {
        let exact = 8.0 * value.log2();
        (exact - exact.round()).abs() < 1e-6
    };
    if !edge(size.abs()) && !sizes.iter().any(|size| edge(*size)) {
        prop_assert!(close(told("move_rank"), rank(&sizes, size.abs()), 3e-3));
    }
    prop_assert!(told("move_rank") >= 0.8);
    prop_assert!((0.0..=1.0).contains(&detection.confidence));
    Ok(())
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn each_momentum_is_one_by_definition(seed in any::<u64>()) {
        let ticks = walk(seed, 8000, true);
        let found = Harness::<Momentum>::new().build().feed(rows(&ticks));
        for found in &found {
            confirm(&ticks, found)?;
        }
        for direction in [Direction::Up, Direction::Down] {
            let times: Vec<u64> =
                found.iter().filter(|f| f.detection.direction == direction).map(|f| f.time).collect();
            prop_assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 60 * SECOND));
        }
    }

    #[test]
    fn confidence_rises_with_the_size_of_a_move_as_straight(seed in 0u64..1000, size in 1u32..40, more in 0u32..40) {
        // A straight line of 13 closes is as straight at any slope.
        let ticks = walk(seed, 4000, true);
        let last = ticks[ticks.len() - 1];
        let confidence = |size: u32| {
            let line = (1..=14u32).map(|n| Raw {
                time: (last.time / BAR + 1 + u64::from(n)) * BAR,
                price: last.price * (1.0 + f64::from(size) * 1e-4).powi(n as i32),
                quantity: 1.0,
                session_start: false,
            });
            let mut harness = Harness::<Momentum>::new().param("rank_min", 0.0).param("cooldown_s", 0.0).build();
            harness.feed(rows(&ticks));
            let found = harness.feed(line.collect::<Vec<_>>().iter().map(Raw::row));
            found.last().filter(|f| f.detection.evidence("efficiency").unwrap() > 0.999_999).map(|f| f.detection.confidence)
        };
        if let (Some(less), Some(more)) = (confidence(size), confidence(size + more)) {
            prop_assert!(more >= less - 1e-9, "{more} after {less}");
        }
    }
}

#[test]
fn a_market_with_trends_has_momentum_and_a_restart_in_between_changes_nothing() {
    let mut fired = 0;
    for seed in 0..5 {
        fired += Harness::<Momentum>::new().check(rows(&walk(seed, 8000, true))).len();
    }
    assert!(fired >= 10, "{fired} in about 8 hours");
}

#[test]
fn the_guard_leaves_out_what_is_overdone() {
    let count = |guard: &str| -> usize {
        let run =
            |seed| Harness::<Momentum>::new().param("rsi_guard", guard).check(rows(&walk(seed, 8000, true))).len();
        (0..5).map(run).sum()
    };
    assert!(count("overdone") < count("off"));
}

/// A tick at the middle of each bar; `price` by bar number.
fn line(count: u64, price: impl Fn(u64) -> f64) -> Vec<Raw> {
    let tick = |n| Raw {
        time: 1_763_958_600 * SECOND + n * BAR + BAR / 2,
        price: price(n),
        quantity: 1.0,
        session_start: n == 0,
    };
    (0..count).map(tick).collect()
}

/// Small steps to and fro, then a straight climb.
fn climb(n: u64) -> f64 {
    100.0 + if n % 2 == 0 { 0.0 } else { 0.05 } + n.saturating_sub(150) as f64 * 0.1
}

fn feed(ticks: &[Raw]) -> Vec<Found> {
    Harness::<Momentum>::new().check(rows(ticks))
}

#[test]
fn a_climb_out_of_noise_fires_once_and_surely() {
    let found = feed(&line(180, climb));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].detection.direction, Direction::Up);
    assert!(found[0].detection.confidence > 0.9, "{found:?}");
}

#[test]
fn nothing_moves_nothing_fires() {
    assert_eq!(feed(&line(400, |_| 100.0)).len(), 0);
    assert_eq!(feed(&line(115, |n| climb(n + 100))).len(), 0, "before the warm-up");
    assert_eq!(feed(&line(1, climb)).len(), 0);
}

#[test]
fn a_pause_or_a_new_session_is_no_move() {
    for (pause, session_start) in [(3 * 3600, false), (24 * 3600, true)] {
        let mut ticks = line(170, |n| climb(n.min(150)));
        let mut later = line(11, |n| 130.0 + climb(n));
        let shift = ticks[ticks.len() - 1].time + pause * SECOND - later[0].time;
        later.iter_mut().for_each(|tick| tick.time += shift);
        later[0].session_start = session_start;
        ticks.extend(later);
        assert_eq!(feed(&ticks).len(), 0, "{pause} s");
    }
}

#[test]
fn a_symbol_takes_little_memory() {
    let mut harness = Harness::<Momentum>::new().build();
    harness.feed(rows(&walk(7, 20_000, true)));
    let largest = harness.state_size("X").unwrap();
    assert!(largest < 4 * 1024, "{largest} bytes");
}

#[test]
fn parameters_that_contradict_each_other_are_refused() {
    let refused = Harness::<Momentum>::new().param("ema_fast", 30_i64).try_build();
    assert!(refused.is_err_and(|reason| reason.contains("must be below")));
}
