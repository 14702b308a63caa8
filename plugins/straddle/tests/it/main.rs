//! Straddles against their definition, from all ticks of the chain, and what is said of odd chains.

#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod chain;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(dead_code, reason = "only its dice are needed")]
mod market;
mod oracle;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use chain::{Raw, Source, What, chain};
use market::SECOND;
use oracle::{EXCURSIONS, Event, HALF_LIFE, OPENING, STALE, expected};
use proptest::prelude::*;
use straddle::StraddleVwap;
use tickhound_sdk::{
    Direction, flag,
    harness::{Found, Harness, Row, group_tick},
};

/// Parameters with which a short walk has many excursions.
fn harness() -> Harness<StraddleVwap> {
    Harness::new()
        .param("opening_ticks", OPENING as i64)
        .param("half_life", HALF_LIFE)
        .param("excursions", EXCURSIONS)
        .param("stale_s", STALE)
}

fn rows(ticks: &[Raw]) -> impl Iterator<Item = Row> {
    ticks.iter().map(Raw::row)
}

fn agrees(found: &Found, event: &Event) -> Result<(), TestCaseError> {
    let evidence = |name: &str| found.detection.evidence(name).unwrap_or(f64::NAN);
    prop_assert_eq!((found.time, found.detection.direction), (event.time, event.direction));
    prop_assert_eq!((&*found.symbol, &*found.group), ("NIFTY", "NIFTY"));
    prop_assert_eq!(evidence("strike"), event.strike);
    prop_assert_eq!(&found.detection.members, &event.legs);
    for (name, value) in [("premium", event.premium), ("vwap", event.average), ("z", event.z), ("peak", event.peak)] {
        prop_assert!((evidence(name) - value).abs() < 1e-6 * value.abs().max(1.0), "{name}: {found:?}, {event:?}");
    }
    prop_assert!((found.detection.confidence - event.rank).abs() < 0.12, "{found:?}, {event:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>(), by_name in any::<bool>()) {
        let ticks = chain(seed, 6000, if by_name { Source::Names } else { Source::Reference });
        let (expected, is_close) = expected(&ticks);
        prop_assume!(!is_close);
        let found = harness().build().feed(rows(&ticks));
        prop_assert_eq!(found.len(), expected.len());
        for (found, event) in found.iter().zip(&expected) {
            agrees(found, event)?;
        }
    }
}

#[test]
fn a_lively_chain_crosses_and_a_restart_in_between_changes_nothing() {
    let mut fired = 0;
    for seed in 0..4 {
        for source in [Source::Names, Source::Reference] {
            fired += harness().check(rows(&chain(seed, 6000, source))).len();
        }
    }
    assert!(fired >= 40, "{fired} in about a dozen sessions");
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let ticks = chain(3, 6000, Source::Names);
    let found: Vec<u64> = harness().build().feed(rows(&ticks)).iter().map(|found| found.time).collect();
    let judged = harness().build().probe(rows(&ticks));
    let is_whole = |gates: &[tickhound_sdk::harness::Gate]| gates.len() == 5 && gates.iter().all(|gate| gate.holds);
    let passed: Vec<u64> = judged.iter().filter(|judged| is_whole(&judged.gates)).map(|judged| judged.time).collect();
    assert!(!found.is_empty());
    assert_eq!(found, passed);
}

#[test]
fn a_state_stays_small_and_forgets_expired_options() {
    let mut running = harness().build();
    let mut sizes = Vec::new();
    for week in 0..8u64 {
        let opened = (1_763_958_600 + week * 7 * 86_400) * SECOND;
        for n in 0..200u64 {
            // Other strikes each week stand for other expiries.
            let symbol = format!("NIFTY25N{:02}{}CE", week + 10, 20_000 + n * 50);
            let row = group_tick("NIFTY", &symbol, 0.0, 100.0).at_nanos(opened + n * SECOND).with("quantity", 75.0);
            running.feed([row.with("since_open", n as f64)]);
        }
        sizes.push(running.state_size("NIFTY").unwrap());
    }
    assert!(sizes.iter().all(|size| *size < 200 * 2 * 128), "{sizes:?}");
    assert_eq!(sizes[2], sizes[7], "{sizes:?}");
}

/// Ticks of a chain of one strike, a second apart, in which the premium is `premium(n)`.
fn one_strike(count: u64, premium: impl Fn(u64) -> f64) -> Vec<Raw> {
    let opened = 1_763_958_600 * SECOND;
    let tick = |n: u64| {
        let what = match n % 3 {
            0 => What::Spot,
            r => What::Option { is_call: r == 1, strike: 25_000.0, is_far: false },
        };
        let price = if what == What::Spot { 25_010.0 } else { premium(n) / 2.0 };
        let quantity = if what == What::Spot { f64::NAN } else { 75.0 };
        let time = opened + n * SECOND;
        Raw { time, what, price, quantity, flags: 0, opened, spot: 25_010.0, source: Source::Names }
    };
    (0..count).map(tick).collect()
}

/// Swings around 300, and ends with a fall far below.
fn swings_then_falls(n: u64) -> f64 {
    if n < 3000 { 300.0 + if (n / 60).is_multiple_of(2) { 3.0 } else { -3.0 } } else { 240.0 }
}

#[test]
fn a_premium_that_falls_below_its_average_is_down_with_both_legs() {
    let found = harness().check(rows(&one_strike(3010, swings_then_falls)));
    let last = found.last().unwrap();
    assert_eq!(last.detection.direction, Direction::Down);
    assert_eq!(last.detection.members, ["NIFTY25N1125000CE", "NIFTY25N1125000PE"]);
    assert_eq!((&*last.symbol, last.detection.about.as_deref()), ("NIFTY", None));
}

#[test]
fn without_a_spot_or_far_from_all_strikes_nothing_is_at_the_money() {
    let ticks = one_strike(3010, swings_then_falls);
    let without: Vec<Raw> = ticks.iter().filter(|tick| tick.what != What::Spot).cloned().collect();
    assert!(harness().check(rows(&without)).is_empty(), "without a spot");
    let mut far = ticks;
    for tick in far.iter_mut().filter(|tick| tick.what == What::Spot) {
        tick.price = 27_000.0;
    }
    assert!(harness().check(rows(&far)).is_empty(), "8 % off");
}

#[test]
fn a_chain_of_calls_alone_or_without_volume_never_fires() {
    let is_put = |tick: &Raw| matches!(tick.what, What::Option { is_call: false, .. });
    let calls: Vec<Raw> = chain(1, 6000, Source::Names).into_iter().filter(|tick| !is_put(tick)).collect();
    assert!(harness().check(rows(&calls)).is_empty());
    let mut silent = chain(1, 6000, Source::Names);
    silent.iter_mut().for_each(|tick| tick.quantity = f64::NAN);
    assert!(harness().check(rows(&silent)).is_empty());
}

#[test]
fn ticks_from_outside_of_the_session_change_nothing() {
    let ticks = chain(5, 6000, Source::Names);
    let found = harness().check(rows(&ticks));
    let mut mixed = Vec::new();
    for tick in &ticks {
        mixed.push(tick.clone());
        // At ten times the price, before the tick that follows.
        mixed.push(Raw { price: tick.price * 10.0, quantity: 1e6, flags: flag::OFF_SESSION, ..tick.clone() });
    }
    assert!(!found.is_empty());
    assert_eq!(harness().check(rows(&mixed)), found);
}

#[test]
fn absurd_prices_and_quantities_spoil_their_session_at_most() {
    let mut ticks = one_strike(3010, swings_then_falls);
    let (opened, day) = (ticks[0].opened, 86_400 * SECOND);
    let later = ticks.clone().into_iter().map(|tick| Raw { time: tick.time + day, opened: opened + day, ..tick });
    let later: Vec<Raw> = later.collect();
    for tick in ticks[2000..2040].iter_mut().filter(|tick| tick.what != What::Spot) {
        (tick.price, tick.quantity) = (1e308, f64::MAX);
    }
    let found = harness().check(rows(&[ticks, later].concat()));
    assert!(found.iter().any(|found| found.time > opened + day), "{found:?}");
}

/// The second instrument of one contract, as the same option at another exchange, would mix two prices.
#[test]
fn of_two_symbols_for_one_contract_the_first_counts() {
    let ticks = one_strike(3010, swings_then_falls);
    let found = harness().check(rows(&ticks));
    let twice = ticks.iter().flat_map(|tick| {
        let other = group_tick("NIFTY", &format!("BFO:{}", tick.symbol()), 0.0, tick.price * 3.0).at_nanos(tick.time);
        let other = other.with("quantity", 75.0).with("since_open", (tick.time - tick.opened) as f64 / SECOND as f64);
        [tick.row()].into_iter().chain((tick.what != What::Spot).then_some(other))
    });
    assert!(!found.is_empty());
    assert_eq!(harness().check(twice), found);
}

/// At the open, a far option may trade before the near ones.
#[test]
fn a_nearer_expiry_begins_the_average_anew() {
    let mut ticks = one_strike(3010, swings_then_falls);
    for tick in &mut ticks[..3000] {
        if let What::Option { is_far, .. } = &mut tick.what {
            *is_far = true;
        }
    }
    let last = ticks[3000].time;
    let found = harness().check(rows(&ticks));
    assert!(!found.is_empty() && found.iter().all(|found| found.time < last), "{found:?}");
}
