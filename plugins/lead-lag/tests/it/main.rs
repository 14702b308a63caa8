//! Leads and lags against their definition, from all snapshots, and what is said of odd groups.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../../../breakout/tests/it/market.rs"]
#[expect(dead_code, unreachable_pub, reason = "only its dice are needed")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use lead_lag::LeadLag;
use market::{Dice, SECOND};
use proptest::prelude::*;
use tickhound_sdk::{
    Direction, flag,
    harness::{Found, Harness, Row, snapshot},
};

const K: f64 = 2.5;
const STEP: u64 = 5 * SECOND;
const MOVE: u64 = 60 * SECOND;
const BETA_MIN: f64 = 0.5;
const CORRELATION_MIN: f64 = 0.3;
const SHARE: f64 = 0.25;
const OPENING: u64 = 300 * SECOND;
const USUAL_HALF_LIFE: f64 = 200.0;
const BETA_HALF_LIFE: f64 = 500.0;
const HALF_LIFE: f64 = 1000.0;
/// The index is not the first by name.
const NAMES: [&str; 6] = ["AXISBANK", "HDFCBANK", "Nifty", "RELIANCE", "SBIN", "TCS"];
const INDEX: usize = 2;

/// Parameters with which a short walk has moves of the index.
fn harness() -> Harness<LeadLag> {
    Harness::new()
        .param("k", K)
        .param("usual_half_life", USUAL_HALF_LIFE)
        .param("beta_half_life", BETA_HALF_LIFE)
        .param("half_life", HALF_LIFE)
}

/// One step, as plain numbers for an oracle to recompute from. A member without a price has had no tick in the session.
#[derive(Clone, Debug)]
struct Step {
    time: u64,
    opened: u64,
    prices: [Option<f64>; 6],
}

impl Step {
    fn rows(&self, group: &str) -> Vec<Row> {
        let since = (self.time - self.opened) as f64 / SECOND as f64;
        let row = |(name, price): (&&str, &Option<f64>)| {
            Some(snapshot(name, 0.0, (*price)?).at_nanos(self.time).in_group(group).with("since_open", since))
        };
        let mut rows: Vec<Row> = NAMES.iter().zip(&self.prices).filter_map(row).collect();
        let last = rows.pop().unwrap();
        rows.push(last.last());
        rows
    }
}

fn rows(steps: &[Step]) -> impl Iterator<Item = Row> {
    steps.iter().flat_map(|step| step.rows("NIFTY"))
}

/// Members with betas from 0 to 1.5 that follow the index at once, or up to a minute later, or not at all.
fn walk(seed: u64, count: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed);
    let mut opened = 1_763_958_600 * SECOND;
    let (mut time, mut drift, mut market) = (opened, 0.0, vec![0.0f64]);
    let mut own = [0.0f64; 6];
    let mut begins = 0;
    let mut steps = Vec::new();
    for _ in 0..count {
        time += match dice.roll() {
            r if r < 0.005 => 10 * STEP,
            r if r < 0.006 => 40 * STEP,
            _ => STEP,
        };
        if dice.roll() < 0.001 {
            opened += 24 * 3600 * SECOND;
            time = opened + STEP;
            begins = steps.len();
        }
        drift = if dice.roll() < 0.015 { (dice.roll() - 0.5) * 0.006 } else { drift * 0.5 };
        let last = market[market.len() - 1];
        market.push(last * 0.999 + drift + (dice.roll() - 0.5) * 0.0002);
        let lag = [0, 3, 0, 5, 0, 6].map(|lag: usize| market[market.len().saturating_sub(lag + 1)]);
        let betas = [1.0, 1.5, 1.0, 0.8, 0.0, 1.2];
        let mut prices = [None; 6];
        for n in 0..6 {
            own[n] = own[n] * 0.99 + if n == INDEX { 0.0 } else { (dice.roll() - 0.5) * 0.0003 };
            let price = (1000.0 * f64::exp(betas[n] * lag[n] + own[n]) * 20.0).round() / 20.0;
            // Some have their first tick later than others.
            prices[n] = (steps.len() >= begins + n * 3 % 7).then_some(price);
        }
        steps.push(Step { time, opened, prices });
    }
    steps
}

/// Time, z, and the laggards.
type Event = (u64, f64, f64, Vec<&'static str>);

/// The move of a member at a step.
fn change(steps: &[Step], n: usize, member: usize) -> Option<f64> {
    let now = &steps[n];
    let session = || steps[..n].iter().rev().take_while(|step| step.opened == now.opened);
    let before = session().find(|step| step.time + MOVE <= now.time && step.prices[member].is_some());
    let before = before.filter(|step| step.time + 2 * MOVE > now.time)?;
    Some((now.prices[member]? / before.prices[member]?).ln())
}

/// Beta and correlation from the moves of the index and a member so far.
fn beta(moves: &[(f64, f64)]) -> Option<(f64, f64)> {
    let sum = |of: &dyn Fn(&(f64, f64)) -> f64| -> f64 {
        let weighted = moves.iter().rev().enumerate();
        weighted.map(|(age, pair)| 0.5f64.powf(age as f64 / BETA_HALF_LIFE) * of(pair)).sum()
    };
    let (index, own, both) = (sum(&|m| m.0 * m.0), sum(&|m| m.1 * m.1), sum(&|m| m.0 * m.1));
    (moves.len() >= 240).then(|| (both / index, both / (index * own).sqrt()))
}

/// Eight usual moves of the index and of a member, which is the most that a move counts as.
fn limits(moves: &[(f64, f64)]) -> (f64, f64) {
    let weights: Vec<f64> = (0..moves.len()).map(|age| 0.5f64.powf(age as f64 / BETA_HALF_LIFE)).collect();
    let usual = |of: &dyn Fn(&(f64, f64)) -> f64| {
        let squares: f64 = moves.iter().rev().zip(&weights).map(|(pair, weight)| weight * of(pair).powi(2)).sum();
        if moves.len() < 30 { f64::INFINITY } else { 8.0 * (squares / weights.iter().sum::<f64>()).sqrt() }
    };
    (usual(&|pair| pair.0), usual(&|pair| pair.1))
}

/// All detections, and whether rounding decides one of them.
fn expected(steps: &[Step]) -> (Vec<Event>, bool) {
    let (mut events, mut is_close, mut sizes) = (Vec::new(), false, Vec::<f64>::new());
    let mut moves: [Vec<(f64, f64)>; 6] = Default::default();
    let (mut square, mut spent, mut opened, mut count) = (0.0f64, 0.0, 0, 0);
    let alpha = 1.0 - 0.5f64.powf(1.0 / USUAL_HALF_LIFE);
    for (n, step) in steps.iter().enumerate() {
        if step.opened != opened {
            (spent, opened) = (0.0, step.opened);
        }
        let Some(market) = change(steps, n, INDEX) else { continue };
        let z = if count >= 240 { market / square.sqrt() } else { 0.0 };
        count += 1;
        let limit = if count <= 30 { f64::INFINITY } else { 8.0 * square.sqrt() };
        square += (market.clamp(-limit, limit).powi(2) - square) * alpha.max(1.0 / f64::from(count));
        is_close |= (z.abs() - K).abs() < 1e-9 || (z.abs() - K / 2.0).abs() < 1e-9;
        if z * spent < K / 2.0 {
            spent = 0.0;
        }
        let followers = (0..6).filter(|member| *member != INDEX);
        let changes: Vec<(usize, f64)> =
            followers.filter_map(|member| Some((member, change(steps, n, member)?))).collect();
        if z.abs() >= K && z.signum() != spent && step.time - step.opened >= OPENING && sizes.len() >= 240 {
            let mut laggards = Vec::new();
            for (member, own) in &changes {
                let Some((beta, correlation)) = beta(&moves[*member]) else { continue };
                let share = own / (beta * market);
                let to_limits = [beta - BETA_MIN, correlation - CORRELATION_MIN, share - SHARE];
                is_close |= to_limits.iter().any(|distance| distance.abs() < 1e-9);
                if beta >= BETA_MIN && correlation >= CORRELATION_MIN && share <= SHARE {
                    laggards.push(((beta * market - own).abs(), NAMES[*member]));
                }
            }
            laggards.sort_by(|a, b| b.0.total_cmp(&a.0));
            if !laggards.is_empty() {
                spent = z.signum();
                let names = laggards.iter().map(|laggard| laggard.1).collect();
                events.push((step.time, z, rank::rank(&sizes, z.abs(), HALF_LIFE), names));
            }
        }
        for (member, own) in changes {
            let (most_market, most_own) = limits(&moves[member]);
            moves[member].push((market.clamp(-most_market, most_market), own.clamp(-most_own, most_own)));
        }
        sizes.extend((count > 240).then_some(z.abs()));
    }
    (events, is_close)
}

fn agrees(found: &Found, (time, z, rank, laggards): Event) -> Result<(), TestCaseError> {
    let direction = if z > 0.0 { Direction::Up } else { Direction::Down };
    prop_assert_eq!((found.time, found.detection.direction), (time, direction));
    prop_assert_eq!((&*found.symbol, &*found.group), ("Nifty", "NIFTY"));
    prop_assert_eq!(&found.detection.members, &laggards);
    prop_assert_eq!(found.detection.evidence("laggards"), Some(laggards.len() as f64));
    prop_assert!((found.detection.evidence("units").unwrap() - z).abs() < 1e-6);
    prop_assert!((found.detection.confidence - rank).abs() < 0.05, "{found:?}, {rank}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let steps = walk(seed, 2500);
        let (expected, is_close) = expected(&steps);
        prop_assume!(!is_close);
        let found = harness().build().feed(rows(&steps));
        prop_assert_eq!(found.len(), expected.len());
        for (found, event) in found.iter().zip(expected) {
            agrees(found, event)?;
        }
    }
}

#[test]
fn a_lively_index_leads_and_a_restart_in_between_changes_nothing() {
    let fired: usize = (0..5).map(|seed| harness().check(rows(&walk(seed, 2500))).len()).sum();
    assert!(fired >= 50, "{fired}");
}

/// Rows may be split among calls and restarts at any place, also in the middle of a step.
#[test]
fn a_restart_within_a_step_changes_nothing() {
    let rows: Vec<Row> = rows(&walk(1, 1500)).collect();
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
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let steps = walk(3, 2500);
    let found: Vec<u64> = harness().build().feed(rows(&steps)).iter().map(|found| found.time).collect();
    let judged = harness().build().probe(rows(&steps));
    let holds =
        |gates: &[tickhound_sdk::harness::Gate], name: &str| gates.iter().any(|gate| gate.name == name && gate.holds);
    let passes = |gates: &[_]| {
        ["index_units", "came_back", "since_open_s", "ranked_steps", "laggards"].iter().all(|name| holds(gates, name))
    };
    let passed: Vec<_> = judged.iter().filter(|judged| passes(&judged.gates)).collect();
    assert!(!found.is_empty());
    assert_eq!(found, passed.iter().map(|judged| judged.time).collect::<Vec<_>>());
    // The gates of a member tell why it lags, or does not.
    let of_member = |name: &str| passed.iter().any(|judged| holds(&judged.gates, &format!("{name}.share")));
    assert!(of_member("TCS"));
}

#[test]
fn a_member_without_a_usual_beta_never_lags() {
    let found: Vec<Found> = (0..5).flat_map(|seed| harness().build().feed(rows(&walk(seed, 2500)))).collect();
    assert!(
        found.iter().all(|found| !found.detection.members.iter().any(|member| member == "SBIN" || member == "Nifty"))
    );
}

#[test]
fn an_index_by_another_name_is_that_of_the_parameter() {
    let steps = walk(2, 2500);
    let of = |index: &str, group: &str| {
        let running = harness().param("index", index).build().feed(steps.iter().flat_map(|step| step.rows(group)));
        running.into_iter().map(|found| (found.time, found.detection)).collect::<Vec<_>>()
    };
    let expected = of("", "NIFTY");
    assert!(!expected.is_empty());
    assert_eq!(of("NIFTY", "fifty"), expected);
    assert!(of("", "fifty").is_empty(), "no member has the group's name");
    assert!(of("SENSEX", "NIFTY").is_empty(), "no member has this name");
}

#[test]
fn rows_from_outside_of_the_session_change_nothing() {
    let steps = walk(2, 2500);
    let found = harness().build().feed(rows(&steps));
    let outside = |step: &Step| {
        let since = (step.time - step.opened) as f64 / SECOND as f64;
        let row = snapshot("TCS", 0.0, 1.0).at_nanos(step.time).in_group("NIFTY").with("since_open", since);
        row.with("flags", f64::from(flag::OFF_SESSION))
    };
    let mixed = steps.iter().flat_map(|step| [outside(step)].into_iter().chain(step.rows("NIFTY")));
    assert!(!found.is_empty());
    assert_eq!(harness().build().feed(mixed), found);
}

#[test]
fn a_bad_price_is_forgotten_in_time() {
    let mut steps = walk(2, 6000);
    for bad in [1000, 1500] {
        steps[bad].prices[INDEX] = steps[bad].prices[INDEX].map(|price| price * 10.0);
        steps[bad].prices[5] = Some(1e308);
    }
    let found = harness().check(rows(&steps));
    let later = found.iter().filter(|found| found.time > steps[3000].time);
    assert!(later.clone().count() > 3, "{}", found.len());
    assert!(later.flat_map(|found| &found.detection.members).any(|member| member == "TCS"));
}

#[test]
fn a_state_stays_small() {
    let mut running = Harness::<LeadLag>::new().param("move_s", 600).build();
    running.feed(rows(&walk(1, 3000)));
    let size = running.state_size("NIFTY").unwrap();
    assert!(size < 4096 * NAMES.len(), "{size} bytes of {} members", NAMES.len());
}

#[test]
fn a_move_of_too_many_steps_is_rejected() {
    for (seconds, is_rejected) in [(4, true), (5, false), (604, false), (605, true)] {
        let rejected = Harness::<LeadLag>::new().param("move_s", seconds).try_build().err();
        let sentence = format!("a move (move_s {seconds}) must have 1 to 120 steps (step_s 5)");
        assert_eq!(rejected, is_rejected.then_some(sentence));
    }
}
