//! VWAP against its definition, from all trades of the session, and what it says of odd markets.

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use market::{Raw, SECOND, walk};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row},
};
use vwap::Vwap;

const HYSTERESIS: f64 = 0.25;
const FAR: f64 = 1.5;
const TURN: f64 = 0.5;
const OPENING: usize = 20;
const HALF_LIFE: f64 = 200.0;

/// Parameters with which a short walk has many excursions.
fn harness() -> Harness<Vwap> {
    Harness::new().param("opening_ticks", OPENING as i64).param("half_life", HALF_LIFE).param("far", FAR)
}

/// A walk that is drawn back, as a market that has found its price.
fn drawn_back(seed: u64, count: usize, volume: bool) -> Vec<Raw> {
    let mut ticks = walk(seed, count, volume);
    let mut offset = 0.0;
    for n in 1..ticks.len() {
        offset += (ticks[n - 1].price - 1000.0) * 0.02;
        ticks[n].price = ((ticks[n].price - offset).max(10.0) * 20.0).round() / 20.0;
    }
    ticks
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

/// A trade: time, and how far from its session's average, in deviations; `None` where nothing is judged.
fn distances(ticks: &[Raw]) -> Vec<Vec<(u64, Option<f64>)>> {
    let alpha = 1.0 - 0.5f64.powf(1.0 / HALF_LIFE);
    let mut square = 0.0f64;
    let sessions = ticks.chunk_by(|_, tick| !tick.session_start);
    let mut of_session = |session: &[Raw]| {
        let trades: Vec<&Raw> = session.iter().filter(|tick| tick.quantity > 0.0).collect();
        let of_trade = |n: usize| {
            let until = &trades[..=n];
            let turnover: f64 = until.iter().map(|tick| tick.price * tick.quantity).sum();
            let average = turnover / until.iter().map(|tick| tick.quantity).sum::<f64>();
            let distance = trades[n].price / average - 1.0;
            let deviation = square.sqrt();
            square = square * (1.0 - alpha) + distance * distance * alpha;
            (trades[n].time, (deviation > 0.0 && n >= OPENING).then(|| distance / deviation))
        };
        (0..trades.len()).map(of_trade).collect()
    };
    sessions.map(&mut of_session).collect()
}

/// Time, direction, whether it is a cross, peak of the excursion and its rank.
type Event = (u64, Direction, bool, f64, f64);

/// All events, and whether rounding decides one of them.
fn expected(ticks: &[Raw]) -> (Vec<Event>, bool) {
    let (mut events, mut peaks, mut close) = (Vec::new(), Vec::new(), false);
    for session in distances(ticks) {
        let judged: Vec<(u64, f64)> = session.into_iter().filter_map(|(time, z)| Some((time, z?))).collect();
        // An excursion goes from the first trade beyond the hysteresis to the first one beyond it on the other side.
        let mut begin = judged.iter().position(|(_, z)| z.abs() >= HYSTERESIS);
        while let Some(from) = begin {
            let sign = judged[from].1.signum();
            let end = judged[from..].iter().position(|(_, z)| -z * sign >= HYSTERESIS).map(|n| from + n);
            let inside = &judged[from..end.unwrap_or(judged.len())];
            let mut peak = 0.0f64;
            let mut turned = false;
            for (time, z) in inside {
                peak = peak.max(z * sign);
                close |= [z.abs() - HYSTERESIS, peak - FAR, peak - z * sign - TURN].iter().any(|it| it.abs() < 1e-9);
                if !turned && peak >= FAR && peak - z * sign >= TURN {
                    turned = true;
                    let direction = if sign > 0.0 { Direction::Down } else { Direction::Up };
                    events.push((*time, direction, false, peak, rank_of(&peaks, peak)));
                }
            }
            if let Some(end) = end {
                let direction = if sign > 0.0 { Direction::Down } else { Direction::Up };
                events.push((judged[end].0, direction, true, peak, rank_of(&peaks, peak)));
                peaks.push(peak);
            }
            begin = end;
        }
    }
    events.retain(|event| !event.4.is_nan());
    (events, close)
}

/// NaN while there are too few.
fn rank_of(peaks: &[f64], peak: f64) -> f64 {
    if peaks.len() < 10 { f64::NAN } else { rank::rank(peaks, peak, 100.0) }
}

fn told(found: &Found) -> (u64, Direction, bool) {
    (found.time, found.detection.direction, found.detection.evidence("cross") == Some(1.0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let ticks = drawn_back(seed, 5000, true);
        let (expected, close) = expected(&ticks);
        prop_assume!(!close);
        let found = harness().build().feed(rows(&ticks));
        let wanted: Vec<_> = expected.iter().map(|(time, direction, cross, ..)| (*time, *direction, *cross)).collect();
        prop_assert_eq!(found.iter().map(told).collect::<Vec<_>>(), wanted);
        for (found, (.., peak, rank)) in found.iter().zip(expected) {
            prop_assert!((found.detection.evidence("peak").unwrap() - peak).abs() < 1e-6 * peak.max(1.0));
            prop_assert!((found.detection.confidence - rank).abs() < 0.12, "{found:?}, {rank}");
        }
    }

    #[test]
    fn the_modes_are_the_parts_of_both(seed in 0u64..1000) {
        let ticks = drawn_back(seed, 4000, true);
        let of = |mode: &str| harness().param("mode", mode).check(rows(&ticks));
        let (both, cross, reversion) = (of("both"), of("cross"), of("reversion"));
        let part = |cross: bool| both.iter().filter(|found| told(found).2 == cross).cloned().collect::<Vec<_>>();
        prop_assert_eq!(cross, part(true));
        prop_assert_eq!(reversion, part(false));
    }
}

#[test]
fn a_lively_market_crosses_and_turns_and_a_state_stays_small() {
    let (mut crosses, mut turns) = (0, 0);
    for seed in 0..5 {
        let ticks = drawn_back(seed, 8000, true);
        let mut running = harness().build();
        for found in running.feed(rows(&ticks)) {
            *(if told(&found).2 { &mut crosses } else { &mut turns }) += 1;
        }
        assert!(running.state_size("X").unwrap() < 4096);
    }
    assert!(crosses >= 50 && turns >= 50, "{crosses} crosses, {turns} turns");
}

#[test]
fn without_volume_there_is_no_average() {
    assert!(Harness::<Vwap>::new().check(rows(&walk(1, 5000, false))).is_empty());
}

#[test]
fn a_price_that_stands_still_is_never_far() {
    let mut ticks = walk(1, 5000, true);
    ticks.iter_mut().for_each(|tick| tick.price = 100.0);
    assert!(Harness::<Vwap>::new().check(rows(&ticks)).is_empty());
}

#[test]
fn the_young_average_of_a_session_is_left_alone() {
    let ticks = drawn_back(2, 8000, true);
    let opened = |time: u64| ticks.iter().rev().find(|tick| tick.time <= time && tick.session_start).unwrap().time;
    let found = Harness::<Vwap>::new().check(rows(&ticks));
    assert!(!found.is_empty());
    for found in found {
        let since = ticks.iter().filter(|tick| tick.time >= opened(found.time) && tick.time <= found.time);
        assert!(since.filter(|tick| tick.quantity > 0.0).count() > 100);
        assert!(found.time - opened(found.time) > SECOND);
    }
}

#[test]
fn a_turn_within_the_hysteresis_is_refused() {
    let refused = Harness::<Vwap>::new().param("far", 1.0).param("hysteresis", 1.0).try_build();
    assert_eq!(refused.err().unwrap(), "far (1) must be beyond the hysteresis (1)");
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    for mode in ["cross", "reversion", "both"] {
        let agree = |seed| {
            let rows: Vec<Row> = rows(&drawn_back(seed, 5000, true)).collect();
            gates::agree_with_detections(|| harness().param("mode", mode), &rows)
        };
        let found: usize = (0..5).map(agree).sum();
        assert!(found >= 10, "{mode}: {found}");
    }
}
