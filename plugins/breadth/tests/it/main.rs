//! Thrusts against their definition, from all bars and snapshots, and what is said of odd groups.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/market.rs"]
#[expect(dead_code, unreachable_pub, reason = "only its dice are needed")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use breadth::Breadth;
use market::{Dice, SECOND};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction,
    harness::{Found, Harness, Row, bar, snapshot},
};

const LOW: f64 = 0.3;
const HIGH: f64 = 0.7;
const STEPS: usize = 10;
const OPENING: usize = 5;
const HALF_LIFE: f64 = 1000.0;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 3600 * SECOND;
const MEMBERS: usize = 12;

/// Parameters with which a short walk has thrusts.
fn harness() -> Harness<Breadth> {
    Harness::new()
        .param("low", LOW)
        .param("high", HIGH)
        .param("opening_steps", OPENING as i64)
        .param("half_life", HALF_LIFE)
}

/// One step, as plain numbers for an oracle to recompute from. `None` where a member has no bar.
#[derive(Clone, Debug)]
struct Step {
    time: u64,
    opened: u64,
    /// The price, and the VWAP and quantity of the bar.
    members: Vec<(f64, Option<(f64, f64)>)>,
}

impl Step {
    fn rows(&self) -> Vec<Row> {
        let since = (self.time - self.opened) as f64 / SECOND as f64;
        let place = |row: Row| row.at_nanos(self.time).in_group("fifty").with("since_open", since);
        let name = |n: usize| format!("M{n:02}");
        let bars = self.members.iter().enumerate().filter_map(|(n, (price, bar_of))| {
            let (vwap, quantity) = (*bar_of)?;
            let row = place(bar(&name(n), 0.0, [*price; 4])).with("quantity", quantity);
            Some(if quantity > 0.0 { row.with("vwap", vwap) } else { row })
        });
        let mut rows: Vec<Row> = bars.collect();
        let snapshots = self.members.iter().enumerate();
        rows.extend(snapshots.map(|(n, (price, _))| place(snapshot(&name(n), 0.0, *price))));
        let last = rows.pop().unwrap();
        rows.push(last.last());
        rows
    }
}

fn rows(steps: &[Step]) -> impl Iterator<Item = Row> {
    steps.iter().flat_map(Step::rows)
}

/// A market whose members move together, with missing bars, bars without volume, and session rolls.
fn walk(seed: u64, minutes: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut opened = 1_763_958_600 * SECOND;
    let mut time = opened;
    let mut prices: Vec<f64> = (0..MEMBERS).map(|n| 100.0 + 10.0 * n as f64).collect();
    let mut drift = 0.0;
    let mut steps = Vec::new();
    for _ in 0..minutes {
        time += MINUTE;
        if dice.roll() < 0.005 {
            opened += (time - opened).div_ceil(DAY) * DAY;
            time = opened + MINUTE;
        }
        if dice.roll() < 0.1 {
            drift = (dice.roll() - 0.5) * 0.006;
        }
        let members = prices.iter_mut().enumerate().map(|(n, price)| {
            let base = 100.0 + 10.0 * n as f64;
            let before = *price;
            *price *= 1.0 + drift + (dice.roll() - 0.5) * 0.002 + (base / *price - 1.0) * 0.05;
            *price = (*price * 20.0).round() / 20.0;
            let quantity = (dice.roll() * 1000.0 - 50.0).floor().max(0.0);
            (*price, (dice.roll() < 0.9).then_some(((before + *price) / 2.0, quantity)))
        });
        steps.push(Step { time, opened, members: members.collect() });
    }
    steps
}

/// Time, direction, breadth, where it came from, and the rank of the swing.
type Event = (u64, Direction, f64, f64, f64);

/// All thrusts.
fn expected(steps: &[Step]) -> Vec<Event> {
    let (mut events, mut swings) = (Vec::new(), Vec::<f64>::new());
    for session in steps.chunk_by(|a, b| a.opened == b.opened) {
        let mut path = Vec::new();
        let mut number = 0;
        for n in 0..session.len() {
            let sides = (0..MEMBERS).filter_map(|member| {
                let bars = || session[..=n].iter().filter_map(|step| step.members[member].1).filter(|bar| bar.1 > 0.0);
                let quantity: f64 = bars().map(|bar| bar.1).sum();
                let distance = session[n].members[member].0 - bars().map(|bar| bar.0 * bar.1).sum::<f64>() / quantity;
                (quantity > 0.0).then_some(if distance == 0.0 { 0.5 } else { distance.signum().max(0.0) })
            });
            let sides: Vec<f64> = sides.collect();
            if sides.len() < 10 {
                continue;
            }
            number += 1;
            if number <= OPENING {
                continue;
            }
            let breadth = sides.iter().sum::<f64>() / sides.len() as f64;
            let past: &[f64] = &path[path.len().saturating_sub(STEPS)..];
            let least = past.iter().copied().fold(breadth, f64::min);
            let most = past.iter().copied().fold(breadth, f64::max);
            let swing = (breadth - least).max(most - breadth);
            path.push(breadth);
            let rank = rank::rank(&swings, swing, HALF_LIFE);
            swings.push(swing);
            let thrust = match () {
                () if breadth >= HIGH && least <= LOW => Some((Direction::Up, least)),
                () if breadth <= 1.0 - HIGH && most >= 1.0 - LOW => Some((Direction::Down, most)),
                () => None,
            };
            if let Some((direction, from)) = thrust.filter(|_| swings.len() > 60) {
                events.push((session[n].time, direction, breadth, from, rank));
                path = vec![breadth];
            }
        }
    }
    events
}

fn agrees(found: &Found, (time, direction, breadth, from, rank): Event) -> Result<(), TestCaseError> {
    let evidence = |name: &str| found.detection.evidence(name).unwrap();
    prop_assert_eq!((found.time, found.detection.direction, &*found.symbol), (time, direction, "fifty"));
    prop_assert!((evidence("breadth") - breadth).abs() < 1e-12 && (evidence("from") - from).abs() < 1e-12);
    prop_assert!((found.detection.confidence - rank).abs() < 0.12, "{found:?}, {rank}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let steps = walk(seed, 1500);
        let found = harness().build().feed(rows(&steps));
        let expected = expected(&steps);
        prop_assert_eq!(found.len(), expected.len());
        for (found, event) in found.iter().zip(expected) {
            agrees(found, event)?;
        }
    }
}

#[test]
fn a_lively_market_thrusts_both_ways_and_a_restart_in_between_changes_nothing() {
    let found: Vec<Found> = (0..4).flat_map(|seed| harness().check(rows(&walk(seed, 1500)))).collect();
    for direction in [Direction::Up, Direction::Down] {
        let fired = found.iter().filter(|found| found.detection.direction == direction).count();
        assert!(fired >= 10, "{fired} {direction:?}");
    }
}

/// Rows may be split among calls and restarts at any place, also in the middle of a step.
#[test]
fn a_restart_within_a_step_changes_nothing() {
    let rows: Vec<Row> = rows(&walk(1, 400)).collect();
    let whole = harness().build().feed(rows.iter().cloned());
    let mut running = harness().build();
    let mut cut = Vec::new();
    for rows in rows.chunks(7) {
        cut.extend(running.feed(rows.iter().cloned()));
        running.reload();
    }
    assert!(!whole.is_empty());
    assert_eq!(cut, whole);
}

#[test]
fn what_is_found_passed_the_gates_of_one_direction() {
    let steps = walk(3, 1500);
    let found: Vec<u64> = harness().build().feed(rows(&steps)).iter().map(|found| found.time).collect();
    let judged = harness().build().probe(rows(&steps));
    let passes = |judged: &tickhound_sdk::harness::Judged| {
        let holds = |name: &str| judged.gates.iter().any(|gate| gate.name == name && gate.holds);
        let is_thrust = (holds("from_low") && holds("high")) || (holds("from_high") && holds("low"));
        is_thrust && holds("members") && holds("steps") && holds("ranked_steps")
    };
    let passed: Vec<u64> = judged.iter().filter(|judged| passes(judged)).map(|judged| judged.time).collect();
    assert!(!found.is_empty());
    assert_eq!(found, passed);
}

#[test]
fn small_groups_and_groups_without_volume_never_fire() {
    let mut steps = walk(1, 1500);
    steps.iter_mut().for_each(|step| step.members.truncate(9));
    assert!(harness().check(rows(&steps)).is_empty(), "nine members");
    let mut steps = walk(1, 1500);
    steps.iter_mut().flat_map(|step| &mut step.members).for_each(|member| member.1 = Some((f64::NAN, 0.0)));
    assert!(harness().check(rows(&steps)).is_empty(), "no volume");
}

/// The host ends the last bar of a session with the first tick of the next one at the latest.
#[test]
fn a_bar_of_yesterday_does_not_count_today() {
    let steps = walk(5, 1500);
    let found = harness().build().feed(rows(&steps));
    let mut late = Vec::new();
    for pair in steps.windows(2) {
        let is_roll = pair[0].opened != pair[1].opened;
        let of_pair = pair[1].rows();
        if is_roll {
            // A bar of the old session, at three times the price, behind the first row of the new one.
            let row = bar("M00", 0.0, [300.0; 4]).at_nanos(pair[1].time).in_group("fifty").with("quantity", 1e9);
            let since = (pair[1].time - pair[0].opened) as f64 / SECOND as f64;
            late.push(of_pair[0].clone());
            late.push(row.with("vwap", 300.0).with("since_open", since));
            late.extend(of_pair.into_iter().skip(1));
        } else {
            late.extend(of_pair);
        }
    }
    let with_late = harness().build().feed(steps[0].rows().into_iter().chain(late));
    assert!(!found.is_empty());
    assert_eq!(with_late, found);
}

#[test]
fn a_state_stays_small() {
    let mut running = Harness::<Breadth>::new().param("steps", 120).build();
    running.feed(rows(&walk(1, 3000)));
    let size = running.state_size("fifty").unwrap();
    assert!(size < 4096, "{size} bytes of {MEMBERS} members");
}

#[test]
fn limits_in_the_wrong_order_are_rejected() {
    let rejected = Harness::<Breadth>::new().param("low", 0.8).try_build();
    assert_eq!(rejected.err().unwrap(), "low (0.8) must be below high (0.615)");
}
