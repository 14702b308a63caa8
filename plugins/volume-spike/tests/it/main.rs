//! Volume spikes against their definition, recomputed from raw ticks, and what is said of odd markets.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use std::collections::BTreeMap;

use market::{Raw, SECOND, walk};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row},
};
use volume_spike::VolumeSpike;

const BAR: u64 = 5 * SECOND;
const SLOT: u64 = 5 * 60 * SECOND;
const K: f64 = 2.0;
const RANK_MIN: f64 = 0.9;
const COOLDOWN: u64 = 30 * SECOND;

/// Parameters with which a short walk has spikes, sessions and parts of sessions.
fn harness() -> Harness<VolumeSpike> {
    Harness::new()
        .param("bar_s", 5.0)
        .param("k", K)
        .param("rank_min", RANK_MIN)
        .param("slot_min", 5.0)
        .param("cooldown_s", 30.0)
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

/// A bar in which something was traded.
struct Judged {
    /// Of the tick that ended it.
    time: u64,
    ratio: f64,
    rank: f64,
    late: bool,
    change: f64,
    closed: usize,
}

/// Every bar that can be judged, from all that was before it.
fn judge(ticks: &[Raw]) -> Vec<Judged> {
    let (mut session, mut opened) = (0usize, 0);
    let mut groups: Vec<(usize, u64, u64, Vec<Raw>)> = Vec::new();
    for tick in ticks {
        if tick.session_start {
            (session, opened) = (session + 1, tick.time);
        }
        let bar = tick.time / BAR;
        match groups.last_mut() {
            Some((of, number, _, inside)) if (*of, *number) == (session, bar) => inside.push(*tick),
            _ => groups.push((session, bar, opened, vec![*tick])),
        }
    }
    let (mut judged, mut quantities, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // Of each part of a day, the quantities of each session's bars.
    let mut slots: BTreeMap<u64, BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    for pair in groups.windows(2) {
        let ((session, bar, opened, inside), (next_session, next_bar, ..)) = (&pair[0], &pair[1]);
        let quantity: f64 = inside.iter().map(|tick| tick.quantity).filter(|q| !q.is_nan()).sum();
        if session != next_session || quantity <= 0.0 {
            continue;
        }
        let slot = ((bar * BAR).saturating_sub(*opened) / SLOT).min(95);
        let past = slots.get(&slot).and_then(|sessions| {
            let means = sessions.range(..session).map(|(_, bars)| bars.iter().sum::<f64>() / bars.len() as f64);
            means.reduce(|usual, mean| usual + (mean - usual) * 0.3)
        });
        let usual = past.or_else(|| ema(&quantities, 60));
        quantities.push(quantity);
        slots.entry(slot).or_default().entry(*session).or_default().push(quantity);
        let Some(usual) = usual else { continue };
        let ratio = quantity / usual;
        judged.push(Judged {
            time: pair[1].3[0].time,
            ratio,
            rank: rank::rank(&ratios, ratio, 1000.0),
            late: next_bar - bar > 5,
            change: inside.last().unwrap().price - inside[0].price,
            closed: quantities.len(),
        });
        ratios.push(ratio);
    }
    judged
}

fn ema(values: &[f64], length: usize) -> Option<f64> {
    let (seed, rest) = values.split_at_checked(length)?;
    let mean = seed.iter().sum::<f64>() / length as f64;
    Some(rest.iter().fold(mean, |average, value| average + (value - average) * 2.0 / (length as f64 + 1.0)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// None is missed and none is made up. Where a bar is too close to tell, the detector decides.
    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let ticks = walk(seed, 8000, true);
        let found = harness().build().feed(rows(&ticks));
        let mut left = found.iter().peekable();
        let mut last: Option<u64> = None;
        for it in judge(&ticks) {
            let fired = left.next_if(|found| found.time == it.time);
            let rests = last.is_some_and(|last| it.time - last < COOLDOWN);
            let close = rank::at_edge(it.ratio) || (it.rank - RANK_MIN).abs() < 0.01 || (it.ratio - K).abs() < 1e-9;
            let fires = it.closed > 60 && it.ratio >= K && it.rank >= RANK_MIN && !it.late && !rests;
            if !close || rests || it.late {
                prop_assert_eq!(fired.is_some(), fires, "at {} ratio {} rank {}", it.time, it.ratio, it.rank);
            }
            if let Some(found) = fired {
                last = Some(found.time);
                let told = |name: &str| found.detection.evidence(name).unwrap();
                prop_assert!((told("ratio") - it.ratio).abs() < 1e-9 * it.ratio);
                prop_assert!((found.detection.confidence - it.rank).abs() < 0.01 || close);
                let direction = match it.change {
                    up if up > 0.0 => Direction::Up,
                    down if down < 0.0 => Direction::Down,
                    _ => Direction::None,
                };
                prop_assert_eq!(found.detection.direction, direction);
            }
        }
        prop_assert!(left.next().is_none(), "fired where no bar ended");
    }

    #[test]
    fn a_restart_changes_nothing_and_a_state_stays_small(seed in 0u64..1000) {
        let ticks = walk(seed, 6000, true);
        let _ = harness().check(rows(&ticks));
        let mut running = Harness::<VolumeSpike>::new().param("bar_s", 1.0).param("slot_min", 1.0).build();
        running.feed(rows(&ticks));
        prop_assert!(running.state_size("X").unwrap() < 4096);
    }
}

/// A minute a tick, `quantity` of each; sessions of 120 minutes that begin a day apart.
fn days(days: u64, quantity: impl Fn(u64, u64) -> f64) -> Vec<Raw> {
    let tick = |day: u64, minute: u64| Raw {
        time: (1_763_955_900 + day * 86_400 + minute * 60) * SECOND,
        price: 100.0 + 0.05 * (minute % 3) as f64,
        quantity: quantity(day, minute),
        session_start: minute == 0,
    };
    (0..days).flat_map(|day| (0..120).map(move |minute| tick(day, minute))).collect()
}

fn found(ticks: &[Raw]) -> Vec<Found> {
    Harness::<VolumeSpike>::new().check(rows(ticks))
}

/// The first half hour has ten times the volume of the rest.
fn usual(minute: u64) -> f64 {
    let noise = (minute * 7 % 5) as f64;
    if minute < 30 { 1000.0 + 20.0 * noise } else { 100.0 + 2.0 * noise }
}

#[test]
fn a_busy_open_is_no_news_on_the_second_day() {
    assert!(found(&days(3, |_, minute| usual(minute))).iter().all(|found| found.time < 1_764_042_300 * SECOND));
}

#[test]
fn what_is_much_for_the_afternoon_fires_though_the_morning_had_more() {
    let spike = |day, minute| if (day, minute) == (2, 90) { 600.0 } else { usual(minute) };
    let found = found(&days(3, spike));
    let told = found.last().unwrap();
    assert_eq!(told.time, (1_763_955_900 + 2 * 86_400 + 91 * 60) * SECOND, "{found:?}");
    assert_eq!(told.detection.evidence("by_time_of_day"), Some(1.0));
    assert!(told.detection.evidence("ratio").unwrap() > 5.0 && told.detection.confidence > 0.99);
}

#[test]
fn an_index_without_volume_says_nothing() {
    assert!(found(&days(3, |_, _| f64::NAN)).is_empty());
    assert!(found(&days(3, |_, _| 0.0)).is_empty());
}

#[test]
fn a_part_of_a_session_that_holds_no_bar_is_refused() {
    let refused = Harness::<VolumeSpike>::new().param("bar_s", 600.0).param("slot_min", 5.0).try_build();
    assert!(refused.err().unwrap().contains("must hold a bar"));
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
