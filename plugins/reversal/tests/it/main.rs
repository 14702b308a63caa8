//! Reversal against its definition, recomputed from raw ticks, and what it says of odd markets.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

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
use reversal::Reversal;
use tickhound_sdk::{
    Direction,
    harness::{Harness, Row},
};

const BAR: u64 = 5 * SECOND;
const TREND: usize = 2;
const RANGE_ATR: f64 = 1.0;
const ATR_LEN: usize = 14;

fn harness() -> Harness<Reversal> {
    Harness::new().param("bar_s", 5.0).param("trend_bars", TREND as i64)
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

#[derive(Clone, Copy, Debug)]
struct Candle {
    number: u64,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    quantity: f64,
}

/// A stretch without a new session or a long pause: its bars, each with the time of the tick that ended it and the bars
/// until then; the last one of a session is never ended.
type Stretch = Vec<(Candle, Option<(u64, u64)>)>;

fn stretches(ticks: &[Raw]) -> Vec<Stretch> {
    let mut session = 0;
    let keyed: Vec<(usize, u64, Raw)> = ticks
        .iter()
        .map(|tick| {
            session += usize::from(tick.session_start);
            (session, tick.time / BAR, *tick)
        })
        .collect();
    let groups: Vec<&[(usize, u64, Raw)]> = keyed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
    let mut stretches: Vec<Stretch> = vec![Vec::new()];
    for (index, group) in groups.iter().enumerate() {
        let prices = || group.iter().map(|(_, _, tick)| tick.price);
        let candle = Candle {
            number: group[0].1,
            open: group[0].2.price,
            high: prices().fold(f64::MIN, f64::max),
            low: prices().fold(f64::MAX, f64::min),
            close: group.last().unwrap().2.price,
            quantity: group.iter().map(|(_, _, tick)| tick.quantity).filter(|q| !q.is_nan()).sum(),
        };
        let next = groups.get(index + 1).filter(|next| next[0].0 == group[0].0);
        let ended = next.map(|next| (next[0].2.time, next[0].1 - candle.number));
        stretches.last_mut().unwrap().push((candle, ended));
        if ended.is_none_or(|(_, pause)| pause > TREND as u64) {
            stretches.push(Vec::new());
        }
    }
    stretches
}

/// Time, direction and confidence of each; `None` for the confidence where it is too close to tell.
fn expected(ticks: &[Raw]) -> Vec<(u64, Direction, Option<f64>)> {
    let (mut expected, mut bodies, mut quantities) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ranges, mut closed): (Vec<f64>, usize) = (Vec::new(), 0);
    for stretch in stretches(ticks) {
        for (index, (bar, ended)) in stretch.iter().enumerate() {
            let Some((time, pause)) = *ended else { continue };
            let atr = wilder(&ranges).filter(|atr| *atr > 0.0);
            let body = atr.map(|atr| (bar.close - bar.open).abs() / atr);
            if let (Some(atr), Some(body), Some(direction)) = (atr, body, engulfing(&stretch[..=index]))
                && closed >= 61
                && pause <= 5
                && (bar.high - bar.low) / atr >= RANGE_ATR
            {
                let body_rank = rank::rank(&bodies, body, 500.0);
                let quantity_rank = rank::rank(&quantities, bar.quantity, 500.0);
                let sure = !rank::at_edge(body) && bar.quantity > 0.0 && !rank::at_edge(bar.quantity);
                expected.push((time, direction, sure.then(|| both(body_rank, quantity_rank))));
            }
            closed += 1;
            bodies.push(body.unwrap_or(0.0));
            quantities.push(bar.quantity);
            if let Some((before, _)) = index.checked_sub(1).map(|before| stretch[before]) {
                ranges.push(bar.high.max(before.close) - bar.low.min(before.close));
            }
        }
    }
    expected
}

/// Of the last bar, by the bars of its stretch.
fn engulfing(bars: &[(Candle, Option<(u64, u64)>)]) -> Option<Direction> {
    let (bar, before) = (bars[bars.len() - 1].0, bars.get(bars.len().checked_sub(2)?)?.0);
    let closes: Vec<f64> = bars[..bars.len() - 1].iter().rev().take(TREND + 1).map(|(bar, _)| bar.close).collect();
    let falling = closes.len() > TREND && closes.windows(2).all(|pair| pair[0] < pair[1]);
    let rising = closes.len() > TREND && closes.windows(2).all(|pair| pair[0] > pair[1]);
    // As TA-Lib writes them.
    let up = bar.close >= bar.open
        && before.close < before.open
        && ((bar.close >= before.open && bar.open < before.close)
            || (bar.close > before.open && bar.open <= before.close));
    let down = bar.close < bar.open
        && before.close >= before.open
        && ((bar.open >= before.close && bar.close < before.open)
            || (bar.open > before.close && bar.close <= before.open));
    match (up && falling, down && rising) {
        (true, _) => Some(Direction::Up),
        (_, true) => Some(Direction::Down),
        _ => None,
    }
}

fn wilder(ranges: &[f64]) -> Option<f64> {
    let (seed, rest) = ranges.split_at_checked(ATR_LEN)?;
    let mean = seed.iter().sum::<f64>() / ATR_LEN as f64;
    Some(rest.iter().fold(mean, |average, range| average + (range - average) / ATR_LEN as f64))
}

fn both(body: f64, quantity: f64) -> f64 {
    let score = |rank: f64| {
        let (mut low, mut high) = (-5.0, 5.0);
        while high - low > 1e-9 {
            let middle = f64::midpoint(low, high);
            *(if rank::share_below(middle) < rank.clamp(1e-4, 1.0 - 1e-4) { &mut low } else { &mut high }) = middle;
        }
        low
    };
    rank::share_below((score(body) + 0.7 * score(quantity)) / f64::sqrt(1.0 + 0.49 + 0.7))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let ticks = walk(seed, 8000, true);
        let found = harness().build().feed(rows(&ticks));
        let expected = expected(&ticks);
        let told: Vec<_> = found.iter().map(|found| (found.time, found.detection.direction)).collect();
        let wanted: Vec<_> = expected.iter().map(|(time, direction, _)| (*time, *direction)).collect();
        prop_assert_eq!(told, wanted);
        for (found, (_, _, confidence)) in found.iter().zip(&expected) {
            let Some(confidence) = confidence else { continue };
            prop_assert!((found.detection.confidence - confidence).abs() < 0.02, "{found:?}, {confidence}");
        }
    }

    #[test]
    fn a_restart_changes_nothing_and_a_state_stays_small(seed in 0u64..1000, volume in any::<bool>()) {
        let ticks = walk(seed, 6000, volume);
        let _ = harness().check(rows(&ticks));
        let mut running = harness().build();
        running.feed(rows(&ticks));
        prop_assert!(running.state_size("X").unwrap() < 4096);
    }
}

#[test]
fn a_lively_market_has_some() {
    let count: usize = (0..5).map(|seed| harness().check(rows(&walk(seed, 8000, true))).len()).sum();
    assert!(count >= 10, "{count} in about 8 hours of a lively market");
}

#[test]
fn a_price_that_stands_still_says_nothing() {
    let mut ticks = walk(1, 3000, true);
    ticks.iter_mut().for_each(|tick| tick.price = 100.0);
    assert!(harness().check(rows(&ticks)).is_empty());
}

#[test]
fn without_volume_the_body_alone_decides() {
    let ticks = walk(3, 8000, false);
    let found = harness().check(rows(&ticks));
    assert!(!found.is_empty());
    for found in found {
        assert_eq!(found.detection.evidence("quantity_rank"), None);
        assert_eq!(found.detection.evidence("body_rank"), Some(found.detection.confidence));
    }
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let agree = |seed| {
        let rows: Vec<Row> = rows(&walk(seed, 8000, true)).collect();
        gates::agree_with_detections(harness, &rows)
    };
    let found: usize = (0..5).map(agree).sum();
    assert!(found >= 10, "{found}");
}
