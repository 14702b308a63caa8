//! Momentum hears trades: a quote that only carries the last price is none.

#![expect(unreachable_pub, reason = "a test binary has no outside")]

#[path = "../../breakout/tests/it/market.rs"]
mod market;
#[path = "../../breakout/tests/it/quotes.rs"]
mod quotes;

use market::{Raw, SECOND, walk};
use momentum::Momentum;
use quotes::{quote, with_carried_quotes};
use tickhound_sdk::harness::Harness;

#[test]
fn quotes_that_carry_the_last_price_change_nothing() {
    let mut fired = 0;
    for seed in 0..6 {
        let ticks = walk(seed, 8000, true);
        let found = Harness::<Momentum>::new().check(ticks.iter().map(Raw::row));
        assert_eq!(Harness::<Momentum>::new().check(with_carried_quotes(&ticks)), found);
        fired += found.len();
    }
    assert!(fired > 0);
}

/// As of a currency, which has quotes alone: the host takes the middle of bid and ask.
#[test]
fn quotes_that_move_are_prices() {
    let rows = (0..180u32).map(|n| {
        let climb = f64::from(n.saturating_sub(150)) * 0.1;
        let price = 100.0 + f64::from(n % 2) * 0.05 + climb;
        quote((1_763_958_600 + u64::from(n) * 5) * SECOND, price, n == 0)
    });
    assert_eq!(Harness::<Momentum>::new().check(rows).len(), 1);
}
