//! Momentum against a recomputation from raw ticks that shares no code with it.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
mod market;
mod oracle;

use market::{Raw, SECOND, walk};
use momentum::Momentum;
use oracle::{BAR, Judged, N};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row},
};

/// The detection tells what the definition says of its bar.
fn confirm(it: &Judged, found: &Found) -> Result<(), TestCaseError> {
    let detection = &found.detection;
    let told = |name: &str| detection.evidence(name).unwrap_or(f64::NAN);
    for (name, value, tolerance) in [
        ("move_pct", it.size.exp_m1() * 100.0, 1e-9),
        ("efficiency", it.ratio, 1e-9),
        ("z", it.z, 1e-9),
        ("ema_fast", it.fast, 1e-9),
        ("ema_slow", it.slow, 1e-9),
        ("move_rank", it.size_rank, if it.edge { 1.0 } else { 6e-3 }),
        ("efficiency_rank", it.ratio_rank, if it.edge { 1.0 } else { 6e-3 }),
    ] {
        let far = (told(name) - value).abs();
        prop_assert!(far <= tolerance * value.abs().max(1.0), "{name} is told as {}, but is {value}", told(name));
    }
    prop_assert!((detection.confidence - oracle::confidence(found)).abs() < 1e-6, "{found:?}");
    Ok(())
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// None is missed and none is made up. Where two are too close to tell, the detector decides.
    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(
        seed in any::<u64>(),
        // The defaults, and others with which straightness and the cool-down decide more often.
        (er_min, rearm_z) in prop::sample::select(&[(0.4, 0.5), (0.8, 0.5), (0.4, 5.0)]),
    ) {
        let mut ticks = walk(seed, 8000, true);
        // Pauses longer than the look-back, and just within it.
        for (index, tick) in ticks.iter_mut().enumerate() {
            tick.time += (index as u64 / 1500 * 90 + index as u64 / 1100 * 56) * SECOND;
        }
        let harness = Harness::<Momentum>::new().param("er_min", er_min).param("rearm_z", rearm_z);
        let found = harness.build().feed(rows(&ticks));
        let mut left = found.iter().peekable();
        let mut arms = [(Direction::Up, 1.0, true, None), (Direction::Down, -1.0, true, None)];
        for it in oracle::judge(&ticks) {
            let fired = left.next_if(|found| found.time == it.time);
            for (direction, sign, armed, last) in &mut arms {
                *armed |= it.anew || *sign * it.z < rearm_z;
                let here = fired.filter(|found| found.detection.direction == *direction);
                if let Some(passes) = oracle::passes(&it, er_min, *direction, *armed, *last) {
                    prop_assert_eq!(passes, here.is_some(), "{:?}", it);
                }
                if let Some(found) = here {
                    confirm(&it, found)?;
                    (*armed, *last) = (false, Some(it.time));
                }
            }
        }
        prop_assert!(left.next().is_none(), "one was told of a bar that has no full look-back");
    }
}

/// The confidence of a move of `size` percent after a walk and a pause, so that its bar is the first
/// one judged since and meets the same ranks whatever the move. `zigzag` percent, to and fro.
fn confidence_after(walked: &[Raw], size: f64, zigzag: f64) -> Option<f64> {
    let last = walked[walked.len() - 1];
    let path = (0..=N + 1).map(|n| {
        let odd = if n % 2 == 1 { zigzag } else { 0.0 };
        Raw {
            time: (last.time / BAR + 30 + n as u64) * BAR,
            price: last.price * (0.01 * (size * n as f64 / N as f64 + odd)).exp(),
            quantity: 1.0,
            session_start: false,
        }
    });
    let path: Vec<Raw> = path.collect();
    let mut harness = Harness::<Momentum>::new().param("rank_min", 0.0).param("er_min", 0.0).build();
    harness.feed(rows(walked));
    let found = harness.feed(rows(&path));
    found.first().map(|found| {
        assert_eq!(found.time, path[N + 1].time);
        found.detection.confidence
    })
}

#[test]
fn confidence_rises_with_size_and_with_straightness() {
    let mut compared = 0;
    for seed in 0..20 {
        let walked = walk(seed, 3000, true);
        let by_size = [0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 4.0].map(|size| confidence_after(&walked, size, 0.0));
        let by_zigzag = [1.0, 0.5, 0.2, 0.1, 0.0].map(|zigzag| confidence_after(&walked, 1.0, zigzag));
        for confidences in [&by_size[..], &by_zigzag[..]] {
            let told: Vec<f64> = confidences.iter().flatten().copied().collect();
            assert!(told.is_sorted(), "seed {seed}: {told:?}");
            compared += usize::from(told.len() > 3 && told[0] < told[told.len() - 1]);
        }
    }
    assert!(compared > 20, "{compared}");
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
    100.0 + if n.is_multiple_of(2) { 0.0 } else { 0.05 } + n.saturating_sub(150) as f64 * 0.1
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

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    for guard in ["off", "overdone"] {
        let agree = |seed| {
            let rows: Vec<Row> = rows(&walk(seed, 8000, true)).collect();
            gates::agree_with_detections(|| Harness::<Momentum>::new().param("rsi_guard", guard), &rows)
        };
        let found: usize = (0..5).map(agree).sum();
        assert!(found >= 5, "{found}");
    }
}
