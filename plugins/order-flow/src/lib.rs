//! Order flow: the best quotes lean to one side.
//!
//! Order-flow imbalance as Cont, Kukanov and Stoikov (2014, "The Price Impact of
//! Order Book Events") define it: from one best quote to the next
//!
//! ```text
//! e = 1[b >= b'] B - 1[b <= b'] B' - 1[a <= a'] A + 1[a >= a'] A'
//! ```
//!
//! with bid b, ask a and their quantities B, A. A ' marks those of the previous quote.
//! A bid that rises or grows adds, and one that falls or shrinks subtracts. For asks it
//! is the reverse. Over short times prices move with the sum, nearly linearly.
//!
//! Contributions are added up in pieces of a tenth of `window_s`. Whenever a piece
//! in which there was a quote has ended, the sum over the last ten pieces of time is
//! judged. It fires when
//!
//! 1. its size ranks at `rank_min` or above among this symbol's recent ones,
//! 2. the direction is armed: it fires once, and again only after the sum has
//!    fallen below `rearm` of what it was then, and not within `cooldown_s`,
//! 3. the piece was ended by a quote within 5 pieces of its beginning.
//!
//! The direction is the sign of the sum: up if buyers press. The confidence is the
//! rank, not a probability that the price follows.
//!
//! A tick without both quotes and both quantities is ignored. So is a crossed quote
//! (bid above ask), and the next quote then has none to be compared with. The same
//! holds for the first quote of a session. A pause longer than the window empties
//! the window.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{Column, Detection, Detector, Direction, Manifest, Param, Tick, detector, flag, rank::RankSketch};

const SECOND: u64 = 1_000_000_000;

/// The number of pieces in the window.
const PIECES: u64 = 10;

/// The number of sums after which ranks are meaningful.
const RANK_WARM_UP: u32 = 120;

/// A piece does not fire if the quote that ends it comes more than this many pieces after its start.
const LATE_PIECES: u64 = 5;

/// The positions of the manifest's columns.
const BID: usize = 0;
const ASK: usize = 1;
const BID_QUANTITY: usize = 2;
const ASK_QUANTITY: usize = 3;
const FLAGS: usize = 4;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    window_s: f64,
    rank_min: f64,
    rearm: f64,
    cooldown_s: f64,
    half_life: f64,
}

/// The state of a symbol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    quote: Option<Quote>,
    /// The sums of the last pieces. The index is the piece's number modulo their count.
    pieces: [f64; PIECES as usize],
    /// The number of the newest piece; 0 before the first.
    newest: u64,
    sizes: RankSketch,
    judged: u32,
    up: Arm,
    down: Arm,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Quote {
    bid: f64,
    ask: f64,
    bid_quantity: f64,
    ask_quantity: f64,
}

/// The state that decides whether a direction may fire.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Arm {
    fired: Option<u64>,
    /// The sum must fall below this before the direction fires again; 0 if it is armed.
    below: f64,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct OrderFlow {
    params: Params,
    piece: u64,
    cooldown: u64,
}

impl Detector for OrderFlow {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "the best quotes lean to one side";
        Manifest::new("order-flow", env!("CARGO_PKG_VERSION"), text)
            .column(Column::required("bid"))
            .column(Column::required("ask"))
            .column(Column::required("bid_quantity"))
            .column(Column::required("ask_quantity"))
            .column(Column::required("flags"))
            .param(number("window_s", 10.0, [0.1, 3600.0], "s", "time over which contributions are added up"))
            .param(number("rank_min", 0.99, [0.0, 1.0], "", "least rank of the sum's size among recent ones"))
            .param(number("rearm", 0.5, [0.0, 1.0], "", "share of its size below which the sum falls before the next"))
            .param(number("cooldown_s", 60.0, [0.0, 86400.0], "s", "least time between two in one direction"))
            .param(number("half_life", 3600.0, [10.0, 1e6], "sums", "after which a sum counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let ns = |seconds: f64| (seconds * SECOND as f64) as u64;
        Ok(Self { piece: ns(params.window_s) / PIECES, cooldown: ns(params.cooldown_s), params })
    }

    fn warm_up(&self) -> Duration {
        Duration::from_nanos((PIECES + u64::from(RANK_WARM_UP)) * self.piece)
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        if tick.flags(FLAGS) & flag::SESSION_START != 0 {
            state.begin();
        }
        let quote = Quote {
            bid: tick.column(BID),
            ask: tick.column(ASK),
            bid_quantity: tick.column(BID_QUANTITY),
            ask_quantity: tick.column(ASK_QUANTITY),
        };
        if !quote.is_whole() {
            return None;
        }
        if quote.bid > quote.ask {
            state.quote = None;
            return None;
        }
        let number = tick.time / self.piece;
        let found = self.turn(state, number, tick);
        if let Some(before) = state.quote.replace(quote) {
            state.pieces[(number % PIECES) as usize] += quote.contribution(&before);
        }
        found
    }
}

impl OrderFlow {
    /// Advances to a piece, and judges the piece that has ended.
    fn turn(&self, state: &mut State, number: u64, tick: &Tick<'_>) -> Option<Detection> {
        let passed = number.saturating_sub(state.newest);
        if state.newest == 0 || passed == 0 {
            state.newest = number;
            return None;
        }
        let found = self.judge(state, tick, passed);
        for piece in (state.newest + 1..=number).take(PIECES as usize) {
            state.pieces[(piece % PIECES) as usize] = 0.0;
        }
        state.newest = number;
        found
    }

    /// Judges the sum. `passed` is the number of pieces from the start of the newest one to the present one.
    fn judge(&self, state: &mut State, tick: &Tick<'_>, passed: u64) -> Option<Detection> {
        let Params { rank_min, rearm, half_life, .. } = self.params;
        let sum: f64 = state.pieces.iter().sum();
        let rank = state.sizes.rank(sum.abs());
        // Added only now, since a value is compared with those before it.
        state.sizes.push(sum.abs(), half_life);
        state.judged = state.judged.saturating_add(1);
        if sum < state.up.below {
            state.up.below = 0.0;
        }
        if -sum < state.down.below {
            state.down.below = 0.0;
        }
        // Each direction has its own cool-down. A sum of 0 counts as downwards here, and
        // is rejected below.
        let (direction, arm) =
            if sum > 0.0 { (Direction::Up, &mut state.up) } else { (Direction::Down, &mut state.down) };
        let since_fired = arm.fired.map(|fired| tick.time - fired);
        let has_rested = since_fired.is_none_or(|since| since >= self.cooldown);
        let (pause, late) = (self.piece.saturating_mul(passed), self.piece * LATE_PIECES);
        let gates = tick.gates();
        let is_warm = gates.above("sums", f64::from(state.judged), f64::from(RANK_WARM_UP));
        let is_fresh = gates.holds("pause_s", seconds(pause), seconds(late), passed <= LATE_PIECES);
        let leans = gates.above("abs_sum", sum.abs(), 0.0);
        let is_rare = gates.at_least("rank", rank.unwrap_or(f64::NAN), rank_min);
        let fell_back = gates.holds("fell_back", sum.abs(), arm.below, arm.below <= 0.0);
        let has_rested =
            gates.holds("armed_s", since_fired.map_or(f64::INFINITY, seconds), seconds(self.cooldown), has_rested);
        if !(is_warm && is_fresh && leans && is_rare && fell_back && has_rested) {
            return None;
        }
        let rank = rank?;
        *arm = Arm { fired: Some(tick.time), below: sum.abs() * rearm };
        let quote = state.quote;
        let middle = quote.map_or(f64::NAN, |quote| f64::midpoint(quote.bid, quote.ask));
        Some(Detection::new(direction, rank).with("imbalance", sum).with("middle", middle))
    }
}

impl Quote {
    fn is_whole(&self) -> bool {
        [self.bid, self.ask, self.bid_quantity, self.ask_quantity].iter().all(|value| value.is_finite())
    }

    fn contribution(&self, before: &Self) -> f64 {
        let mut sum = 0.0;
        if self.bid >= before.bid {
            sum += self.bid_quantity;
        }
        if self.bid <= before.bid {
            sum -= before.bid_quantity;
        }
        if self.ask <= before.ask {
            sum -= self.ask_quantity;
        }
        if self.ask >= before.ask {
            sum += before.ask_quantity;
        }
        sum
    }
}

impl State {
    fn begin(&mut self) {
        self.quote = None;
        self.pieces = [0.0; PIECES as usize];
        self.newest = 0;
        (self.up.below, self.down.below) = (0.0, 0.0);
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(OrderFlow);
