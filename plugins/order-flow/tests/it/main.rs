//! Order flow against its definition, from all quotes there ever were, and what it says of odd ones.

#[path = "../../../breakout/tests/it/gates.rs"]
#[expect(unreachable_pub, reason = "a test binary has no outside")]
mod gates;
#[path = "../../../breakout/tests/it/market.rs"]
#[expect(unreachable_pub, dead_code, reason = "a test binary has no outside, and needs a part of it")]
mod market;
#[path = "../../../breakout/tests/it/rank.rs"]
mod rank;

use market::{Dice, SECOND};
use order_flow::OrderFlow;
use proptest::prelude::*;
use tickhound_sdk::{
    Direction, flag,
    harness::{Harness, Row, tick},
};

const PIECE: u64 = SECOND;
const RANK_MIN: f64 = 0.9;
const REARM: f64 = 0.5;
const COOLDOWN: u64 = 20 * SECOND;

fn harness() -> Harness<OrderFlow> {
    Harness::new().param("rank_min", RANK_MIN).param("cooldown_s", 20.0)
}

#[derive(Clone, Copy, Debug)]
struct Quote {
    time: u64,
    bid: f64,
    ask: f64,
    bids: f64,
    asks: f64,
    session_start: bool,
}

impl Quote {
    fn row(&self) -> Row {
        let flags = if self.session_start { flag::SESSION_START } else { 0 };
        tick("X", 0.0, 100.0)
            .at_nanos(self.time)
            .with("bid", self.bid)
            .with("ask", self.ask)
            .with("bid_quantity", self.bids)
            .with("ask_quantity", self.asks)
            .with("flags", f64::from(flags))
    }
}

fn rows(quotes: &[Quote]) -> impl Iterator<Item = Row> {
    quotes.iter().map(Quote::row)
}

/// Quotes that wander, lean to a side at times, are absent or crossed at times; with pauses and new sessions.
fn quotes(seed: u64, count: usize) -> Vec<Quote> {
    let mut dice = Dice::new(seed);
    let (mut time, mut bid, mut lean) = (1_763_955_900 * SECOND, 2000i32, 0.0);
    let mut quotes = Vec::new();
    for index in 0..count {
        if dice.roll() < 0.01 {
            lean = (dice.roll() - 0.5) * 0.8;
        }
        let mut session_start = index == 0;
        time += match dice.roll() {
            r if r < 0.002 => 4 * SECOND + (dice.roll() * 20.0 * SECOND as f64) as u64,
            r if r < 0.0025 => {
                session_start = true;
                18 * 3600 * SECOND
            }
            _ => (dice.roll() * 0.6 * SECOND as f64) as u64,
        };
        bid += [-1, 0, 0, 1][((dice.roll() * 4.0 + lean) as usize).min(3)];
        let (bid, mut ask) = (f64::from(bid) * 0.05, f64::from(bid + 1 + (dice.roll() * 3.0) as i32) * 0.05);
        let mut bids = (dice.roll() * 100.0 * (1.0 + lean)).floor();
        match dice.roll() {
            r if r < 0.01 => ask = bid - 0.05,
            r if r < 0.02 => bids = f64::NAN,
            _ => {}
        }
        quotes.push(Quote { time, bid, ask, bids, asks: (dice.roll() * 100.0 * (1.0 - lean)).floor(), session_start });
    }
    quotes
}

/// A sum that is judged.
#[derive(Debug)]
struct Judged {
    time: u64,
    sum: f64,
    rank: f64,
    late: bool,
    /// A session has begun since the one before.
    anew: bool,
    count: usize,
}

fn judge(quotes: &[Quote]) -> Vec<Judged> {
    let (mut judged, mut sizes): (Vec<Judged>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut begin = 0;
    let mut anew = true;
    // Contributions of this session: piece and amount.
    let mut parts: Vec<(u64, f64)> = Vec::new();
    let whole = |quote: &Quote| [quote.bid, quote.ask, quote.bids, quote.asks].iter().all(|value| value.is_finite());
    let mut newest: Option<u64> = None;
    for (index, quote) in quotes.iter().enumerate() {
        if quote.session_start {
            (begin, newest, anew) = (index, None, true);
            parts.clear();
        }
        if !whole(quote) || quote.bid > quote.ask {
            continue;
        }
        let piece = quote.time / PIECE;
        if let Some(ended) = newest.filter(|newest| *newest < piece) {
            let sum: f64 = parts.iter().filter(|(of, _)| of + 10 > ended).map(|(_, part)| part).sum();
            let rank = rank::rank(&sizes, sum.abs(), 3600.0);
            sizes.push(sum.abs());
            judged.push(Judged { time: quote.time, sum, rank, late: piece - ended > 5, anew, count: sizes.len() });
            anew = false;
        }
        newest = Some(piece);
        // The whole quote before it, unless a crossed one came in between.
        let before = quotes[begin..index].iter().rev().find(|before| whole(before)).filter(|it| it.bid <= it.ask);
        if let Some(before) = before {
            let bought = if quote.bid > before.bid {
                quote.bids
            } else if quote.bid < before.bid {
                -before.bids
            } else {
                quote.bids - before.bids
            };
            let sold = if quote.ask < before.ask {
                quote.asks
            } else if quote.ask > before.ask {
                -before.asks
            } else {
                quote.asks - before.asks
            };
            parts.push((piece, bought - sold));
        }
    }
    judged
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// None is missed and none is made up. Where a rank is too close to tell, the detector decides.
    #[test]
    fn it_fires_where_the_definition_says_and_nowhere_else(seed in any::<u64>()) {
        let quotes = quotes(seed, 6000);
        let found = harness().build().feed(rows(&quotes));
        let mut left = found.iter().peekable();
        // Of each direction, when it fired last and what the sum has to fall below.
        let mut arms = [(None::<u64>, 0.0f64); 2];
        for it in judge(&quotes) {
            if it.anew {
                arms.iter_mut().for_each(|(_, below)| *below = 0.0);
            }
            for ((_, below), sum) in arms.iter_mut().zip([it.sum, -it.sum]) {
                if sum < *below {
                    *below = 0.0;
                }
            }
            let fired = left.next_if(|found| found.time == it.time);
            let (last, below) = &mut arms[usize::from(it.sum <= 0.0)];
            let rests = *below > 0.0 || last.is_some_and(|last| it.time - last < COOLDOWN);
            let can = it.sum != 0.0 && it.count > 120 && !it.late && !rests;
            let close = can && (rank::at_edge(it.sum.abs()) || (it.rank - RANK_MIN).abs() < 0.01);
            if !close {
                prop_assert_eq!(fired.is_some(), can && it.rank >= RANK_MIN, "{:?}", it);
            }
            if let Some(found) = fired {
                (*last, *below) = (Some(it.time), it.sum.abs() * REARM);
                prop_assert_eq!(found.detection.direction, if it.sum > 0.0 { Direction::Up } else { Direction::Down });
                prop_assert!((found.detection.evidence("imbalance").unwrap() - it.sum).abs() < 1e-6);
            }
        }
        prop_assert!(left.next().is_none(), "fired where no piece ended");
    }

    #[test]
    fn a_restart_changes_nothing_and_a_state_stays_small(seed in 0u64..1000) {
        let quotes = quotes(seed, 4000);
        let _ = harness().check(rows(&quotes));
        let mut running = harness().build();
        running.feed(rows(&quotes));
        prop_assert!(running.state_size("X").unwrap() < 4096);
    }
}

/// A quiet book, then one in which the bids grow by `growth` with each quote.
fn leaning(growth: f64) -> Vec<Quote> {
    let quote = |n: u64| Quote {
        time: 1_763_955_900 * SECOND + n * SECOND / 2,
        bid: 100.0,
        ask: 100.05,
        bids: 50.0 + (n * 7 % 5) as f64 + growth * n.saturating_sub(599) as f64,
        asks: 50.0 + (n * 3 % 5) as f64,
        session_start: n == 0,
    };
    (0..640).map(quote).collect()
}

#[test]
fn a_bid_that_grows_and_grows_is_told_once() {
    let found = Harness::<OrderFlow>::new().check(rows(&leaning(20.0)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].detection.direction, Direction::Up);
    assert!(found[0].detection.confidence > 0.99 && found[0].detection.evidence("imbalance").unwrap() > 20.0);
}

#[test]
fn a_feed_without_quotes_says_nothing() {
    let rows = (0..5000).map(|n| tick("X", 1000.0 + f64::from(n), 100.0));
    assert!(Harness::<OrderFlow>::new().check(rows).is_empty());
}

#[test]
fn a_crossed_book_is_not_an_imbalance() {
    let mut quotes = leaning(0.0);
    quotes[620].bid = 120.0;
    quotes[620].bids = 1e9;
    assert!(Harness::<OrderFlow>::new().check(rows(&quotes)).is_empty());
}

#[test]
fn what_is_found_passed_all_gates_and_what_passed_all_gates_is_found() {
    let agree = |seed| {
        let rows: Vec<Row> = rows(&quotes(seed, 5000)).collect();
        gates::agree_with_detections(harness, &rows)
    };
    let found: usize = (0..5).map(agree).sum();
    assert!(found >= 10, "{found}");
}
