//! Gap against its definition, computed anew from all sessions, and what it says of odd ones.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(unreachable_pub, dead_code, reason = "a test binary has no outside, and needs a part of it")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use gap::Gap;
use market::{Dice, SECOND};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction, flag,
    harness::{Found, Harness, Row, tick},
};

const DAY: u64 = 86_400 * SECOND;
const OPEN: u64 = 1_763_955_900 * SECOND;

/// Prices of one session.
type Session = Vec<f64>;

fn sessions(seed: u64, count: usize) -> Vec<Session> {
    let mut dice = Dice::new(seed);
    let mut price = 1000.0f64;
    let mut session = || {
        // Now and then a large one, now and then none.
        let size = [0.0, 1.0, 1.0, 1.0, 6.0][(dice.roll() * 5.0) as usize];
        price *= 1.0 + (dice.roll() - 0.5) * 0.02 * size;
        let ticks = 1 + (dice.roll() * 30.0) as usize;
        let mut step = || {
            price *= 1.0 + (dice.roll() - 0.5) * 0.004;
            price
        };
        (0..ticks).map(|_| step()).collect()
    };
    (0..count).map(|_| session()).collect()
}

fn rows(sessions: &[Session]) -> Vec<Row> {
    let of_day = |(day, prices): (usize, &Session)| {
        let row = |(n, price): (usize, &f64)| {
            let flags = if n == 0 { flag::SESSION_START } else { 0 };
            let time = OPEN + day as u64 * DAY + n as u64 * SECOND;
            tick("X", 0.0, *price).at_nanos(time).with("flags", f64::from(flags))
        };
        prices.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    sessions.iter().enumerate().flat_map(of_day).collect()
}

/// Day, direction and confidence of every gap that counts; `None` where rounding decides.
fn expected(sessions: &[Session]) -> Vec<Option<(usize, Direction, f64)>> {
    let gap = |day: usize| (sessions[day][0] / sessions[day - 1].last().unwrap()).ln();
    let mut expected = Vec::new();
    for day in 1..sessions.len() {
        let past: Vec<f64> = (1..day).map(gap).collect();
        let (scale, least) =
            if past.len() < 5 { (range(&sessions[..day]), 0.75) } else { (mean_square(&past).sqrt(), 2.0) };
        let z = gap(day) / scale;
        if (z.abs() - least).abs() < 1e-9 {
            expected.push(None);
            continue;
        }
        if z.abs() < least || scale == 0.0 {
            continue;
        }
        let confidence = if past.len() < 5 {
            2.0 * rank::share_below(z.abs()) - 1.0
        } else {
            rank::rank(&past.iter().map(|gap| gap.abs()).collect::<Vec<_>>(), gap(day).abs(), 60.0)
        };
        expected.push(Some((day, if z > 0.0 { Direction::Up } else { Direction::Down }, confidence)));
    }
    expected
}

/// Wilder's average of the sessions' ranges.
fn range(sessions: &[Session]) -> f64 {
    let ranges = sessions.iter().map(|prices| {
        let top = prices.iter().copied().fold(f64::MIN, f64::max);
        (top / prices.iter().copied().fold(f64::MAX, f64::min)).ln()
    });
    ranges.enumerate().fold(0.0, |mean, (n, range)| mean + (range - mean) / ((n + 1) as f64).min(14.0))
}

/// A plain mean at first, exponentially weighted once that gives the newest more weight.
fn mean_square(gaps: &[f64]) -> f64 {
    let alpha = 1.0 - 0.5f64.powf(1.0 / 60.0);
    gaps.iter().enumerate().fold(0.0, |mean, (n, gap)| mean + (gap * gap - mean) * alpha.max(1.0 / (n + 1) as f64))
}

fn day_of(found: &Found) -> usize {
    ((found.time - OPEN) / DAY) as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>(), count in 2usize..120) {
        let sessions = sessions(seed, count);
        let expected = expected(&sessions);
        prop_assume!(expected.iter().all(Option::is_some));
        let found = Harness::<Gap>::new().build().feed(rows(&sessions));
        prop_assert_eq!(found.len(), expected.len());
        for (found, (day, direction, confidence)) in found.iter().zip(expected.into_iter().flatten()) {
            prop_assert_eq!((day_of(found), found.detection.direction), (day, direction));
            prop_assert!((found.detection.confidence - confidence).abs() < 0.06, "{found:?}, {confidence}");
        }
    }

    #[test]
    fn a_restart_changes_nothing_and_a_state_stays_small(seed in any::<u64>()) {
        let sessions = sessions(seed, 60);
        let _ = Harness::<Gap>::new().check(rows(&sessions));
        let mut running = Harness::<Gap>::new().build();
        running.feed(rows(&sessions));
        prop_assert!(running.state_size("X").unwrap() < 4096);
    }
}

/// Quiet days, then one that opens at `open`.
fn after_quiet_days(days: usize, open: Vec<Row>) -> Vec<Found> {
    let mut quiet = vec![vec![100.0, 100.5, 99.5, 100.0]; days];
    quiet.iter_mut().enumerate().for_each(|(day, prices)| prices[0] += 0.1 * (day % 3) as f64);
    let mut rows = rows(&quiet);
    rows.extend(open);
    Harness::<Gap>::new().check(rows)
}

fn opening(days: usize, prices: &[(f64, u32)]) -> Vec<Row> {
    let row = |(n, (price, flags)): (usize, &(f64, u32))| {
        let flags = if n == 0 { flags | flag::SESSION_START } else { *flags };
        tick("X", 0.0, *price).at_nanos(OPEN + days as u64 * DAY + n as u64 * SECOND).with("flags", f64::from(flags))
    };
    prices.iter().enumerate().map(row).collect()
}

#[test]
fn a_gap_fires_once_at_the_first_trade() {
    let found = after_quiet_days(20, opening(20, &[(103.0, 0), (104.0, 0), (110.0, 0)]));
    assert_eq!(found.len(), 1, "{found:?}");
    let told = &found[0].detection;
    assert_eq!((told.direction, told.confidence), (Direction::Up, 1.0));
    assert!((told.evidence("gap_pct").unwrap() - 3.0).abs() < 1e-9);
    assert!(told.evidence("gap_sd").unwrap() > 10.0);
}

#[test]
fn a_quote_with_the_old_price_is_not_the_opening() {
    let quotes = [(100.0, flag::QUOTE_ONLY), (100.0, flag::QUOTE_ONLY), (97.0, 0)];
    let found = after_quiet_days(20, opening(20, &quotes));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].detection.direction, Direction::Down);
    assert_eq!(found[0].time, OPEN + 20 * DAY + 2 * SECOND);
}

#[test]
fn the_first_days_go_by_the_range_of_a_session() {
    assert!(after_quiet_days(1, opening(1, &[(100.5, 0)])).is_empty());
    let found = after_quiet_days(1, opening(1, &[(103.0, 0)]));
    assert!(found[0].detection.evidence("gap_ranges").unwrap() > 0.75, "{found:?}");
    assert!(found[0].detection.confidence > 0.9);
}

#[test]
fn a_price_that_never_moved_has_no_scale() {
    let still = vec![vec![100.0]; 10];
    let mut rows = rows(&still);
    rows.extend(opening(10, &[(150.0, 0)]));
    assert!(Harness::<Gap>::new().check(rows).is_empty());
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let agree = |seed| {
        let rows: Vec<Row> = rows(&sessions(seed, 120));
        gates::agree_with_detections(Harness::<Gap>::new, &rows)
    };
    let found: usize = (0..5).map(agree).sum();
    assert!(found >= 10, "{found}");
}
