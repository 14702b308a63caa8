//! Lead and lag: the index has moved by far more than usual, and some of its members have not followed yet.
//!
//! Every `step_s` seconds, the move of each symbol of a group is the logarithm of its price over that of `move_s` seconds ago in
//! the same session. The index is the member named by `index`, or else the one that has the group's name. Its usual move is the
//! root mean square of its moves (exponentially weighted, half as much after `usual_half_life` steps), so z is its move in usual
//! ones of about the last hour. Beta and correlation of a member come from its moves and those of the index at the same
//! steps, about 0, by exponentially weighted sums (half as much after `beta_half_life` steps). No sum takes a move as larger than
//! eight usual ones, or one bad price would spoil it for weeks. A member lags if
//!
//! 1. it has a usual beta: its beta is at least `beta_min` and its correlation at least `correlation_min`,
//! 2. it has moved by at most `lag_share` of beta times the index's move, in the index's direction.
//!
//! It fires when |z| is at least `k` and at least `laggards_min` members lag: once for the move of the index, about the index,
//! with the laggards as `members`, at most 20, those furthest behind first. The next one in this direction comes only after z
//! has been below half of `k`. Nothing fires in the first `opening_s` seconds of a session.
//!
//! That prices of shares follow the market's with a delay is known since Lo and MacKinlay (1990). On 50 real days of NSE, a
//! share that lagged a large one-minute move of the Nifty caught up by 0.08 of its usual five-minute move on average, in 1.2
//! hundredths of a percent: it is real, and less than it costs to trade. The direction is that of the index.
//!
//! The confidence is the rank of |z| among those of recent steps. It is not a probability that the laggards catch up.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    ByMember, Column, Detection, Detector, Direction, Feed, Manifest, Param, Scope, Snapshot, detector,
    rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// The length of a session where no calendar says when it opens: a day of UTC.
const DAY: u64 = 86_400 * SECOND;

/// Sessions open further apart than this.
const APART: u64 = 3600 * SECOND;

/// The number of moves after which usual move, beta and ranks are meaningful.
const WARM_UP_MOVES: u32 = 240;

/// The number of moves after which it is known which one is too large to be taken as it is, and how many usual ones that is.
const CLIP_FROM: u32 = 30;
const CLIP: f64 = 8.0;

/// The most steps in a move: the state of a member stays below 4 KiB.
const STEPS_MAX: u32 = 120;

/// A member without a row for so long is forgotten: shares leave an index.
const FORGOTTEN: u64 = 10 * DAY;

/// The most laggards that a detection names.
const NAMED_MAX: usize = 20;

/// The least mean square of moves that differ from 0: rounding errors are below it, and every price step above.
const SQUARE_MIN: f64 = 1e-20;

/// The positions of the manifest's columns.
const FLAGS: usize = 0;
const SINCE_OPEN: usize = 1;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    index: String,
    step_s: u32,
    move_s: u32,
    k: f64,
    beta_min: f64,
    correlation_min: f64,
    lag_share: f64,
    laggards_min: u32,
    opening_s: f64,
    usual_half_life: f64,
    beta_half_life: f64,
    half_life: f64,
}

/// The state of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// When the session opened; 0 before the first.
    session: u64,
    members: ByMember<Follower>,
    /// The mean square of the index's moves, and their number.
    square: f64,
    moves: u32,
    /// The values of |z| so far, and their number.
    sizes: RankSketch,
    ranked: u32,
    /// The direction in which it has fired without z coming back since: 1, -1, or 0.
    spent: i8,
}

/// A member, the index included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Follower {
    /// The last times and prices of this session, oldest first.
    path: VecDeque<(u64, f64)>,
    /// The time of its last row.
    seen: u64,
    /// Its move at that time, if it has a price of `move_s` ago.
    change: Option<f64>,
    /// The sums of weights, of squares of the index's moves, of its own, and of products of both.
    weight: f64,
    index: f64,
    own: f64,
    products: f64,
    moves: u32,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct LeadLag {
    params: Params,
    length: u64,
    /// The weight of the newest move of the index.
    alpha: f64,
    /// What remains of a member's sums after one more step.
    decay: f64,
}

impl Detector for LeadLag {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "the index has moved by far more than usual, and some of its members have not followed yet";
        let laggards = count("laggards_min", 1, [1.0, 10_000.0], "", "least members that lag");
        Manifest::new("lead-lag", env!("CARGO_PKG_VERSION"), text)
            .scope(Scope::Group)
            .feed(Feed::snapshots_param("step_s"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .param(Param::text("index", "").doc("symbol of the index; empty: the one that has the group's name"))
            .param(count("step_s", 5, [1.0, 3600.0], "s", "time between two steps"))
            .param(count("move_s", 60, [1.0, 86_400.0], "s", "time of a move"))
            .param(number("k", 4.0, [0.5, 100.0], "usual", "least move of the index, in usual ones"))
            .param(number("beta_min", 0.5, [0.0, 10.0], "", "least beta of a laggard"))
            .param(number("correlation_min", 0.3, [0.0, 1.0], "", "least correlation of a laggard with the index"))
            .param(number(
                "lag_share",
                0.25,
                [-10.0, 1.0],
                "",
                "most share of the expected move that a laggard has made",
            ))
            .param(laggards)
            .param(number("opening_s", 300.0, [0.0, 86_400.0], "s", "time of a session before anything fires"))
            .param(number(
                "usual_half_life",
                720.0,
                [10.0, 1e6],
                "steps",
                "after which a move counts half in the usual one",
            ))
            .param(number("beta_half_life", 10_000.0, [60.0, 1e7], "steps", "after which a move counts half in beta"))
            .param(number("half_life", 20_000.0, [10.0, 1e7], "steps", "after which a step counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let Params { step_s, move_s, usual_half_life, beta_half_life, .. } = params;
        if move_s < step_s || move_s / step_s > STEPS_MAX {
            return Err(format!("a move (move_s {move_s}) must have 1 to {STEPS_MAX} steps (step_s {step_s})"));
        }
        Ok(Self {
            length: u64::from(move_s) * SECOND,
            alpha: 1.0 - libm::exp2(-1.0 / usual_half_life),
            decay: libm::exp2(-1.0 / beta_half_life),
            params,
        })
    }

    fn warm_up(&self) -> Duration {
        // As many moves for the usual one and beta, then as many for ranks.
        let moves = u64::from(2 * WARM_UP_MOVES) * u64::from(self.params.step_s);
        Duration::from_secs(moves + u64::from(self.params.move_s))
    }

    fn on_snapshot(&self, state: &mut State, row: &Snapshot<'_>) -> Option<Detection> {
        let session = row.session_open(SINCE_OPEN).unwrap_or(row.time.saturating_sub(1) / DAY * DAY);
        if session > state.session + APART {
            state.begin(session, row.time);
        }
        if row.is_in_session(FLAGS) {
            state.members.entry(row.symbol_id()).push(self.length, row);
        }
        if row.is_last() { self.step(state, row) } else { None }
    }
}

impl LeadLag {
    /// Processes a step, of which all rows have come.
    fn step(&self, state: &mut State, row: &Snapshot<'_>) -> Option<Detection> {
        let Params { k, laggards_min, opening_s, half_life, .. } = self.params;
        let name = if self.params.index.is_empty() { row.group() } else { &self.params.index };
        let (index, market) = state.change_of(name, row.time)?;
        let usual = state.usual(market, self.alpha);
        let z = usual.map_or(0.0, |usual| market / usual);
        let rank = state.sizes.rank(z.abs());
        if usual.is_some() {
            // Added only now, since a value is compared with those before it.
            state.sizes.push(z.abs(), half_life);
            state.ranked = state.ranked.saturating_add(1);
        }
        if z * f64::from(state.spent) < k / 2.0 {
            state.spent = 0;
        }
        let side = if z > 0.0 { 1 } else { -1 };
        let gates = row.gates();
        let since_open = row.time.saturating_sub(state.session) as f64 / SECOND as f64;
        let has_moved = gates.at_least("index_units", z.abs(), k);
        let is_new = gates.holds("came_back", z * f64::from(side), k / 2.0, side != state.spent);
        let is_open = gates.at_least("since_open_s", since_open, opening_s);
        let is_ranked = gates.above("ranked_steps", f64::from(state.ranked), f64::from(WARM_UP_MOVES));
        let is_due = has_moved && is_new && is_open && is_ranked;
        let laggards = if is_due { self.laggards(state, row, &index, market) } else { Vec::new() };
        state.fit(self.decay, &index, row.time, market);
        if !is_due || !gates.at_least("laggards", laggards.len() as f64, f64::from(laggards_min)) {
            return None;
        }
        state.spent = side;
        let direction = if side > 0 { Direction::Up } else { Direction::Down };
        let behind = laggards.iter().map(|laggard| laggard.behind).sum::<f64>() / laggards.len() as f64;
        let found = Detection::new(direction, rank?).about(&index).with("units", z).with("index_pct", market * 100.0);
        let found = found.with("usual_pct", usual? * 100.0).with("laggards", laggards.len() as f64);
        let found = found.with("behind_pct", behind * 100.0 * f64::from(side));
        Some(found.members(laggards.into_iter().take(NAMED_MAX).map(|laggard| laggard.name)))
    }

    /// Returns the members that lag, those furthest behind first.
    fn laggards(&self, state: &State, row: &Snapshot<'_>, index: &str, market: f64) -> Vec<Laggard> {
        let Params { beta_min, correlation_min, lag_share, .. } = self.params;
        let mut laggards = Vec::new();
        for (name, follower) in state.members.iter().filter(|(name, _)| *name != index) {
            let (Some(own), Some((beta, correlation))) = (follower.change_at(row.time), follower.beta()) else {
                continue;
            };
            let share = own / (beta * market);
            let gates = row.gates();
            let gate = |condition: &str| [name, condition].concat();
            let is_usual = gates.at_least(&gate(".beta"), beta, beta_min)
                & gates.at_least(&gate(".correlation"), correlation, correlation_min);
            if gates.at_most(&gate(".share"), share, lag_share) && is_usual {
                laggards.push(Laggard { name: name.to_owned(), behind: (beta * market - own).abs() });
            }
        }
        laggards.sort_by(|a, b| b.behind.total_cmp(&a.behind));
        laggards
    }
}

/// A member that lags, and by how much.
#[derive(Debug)]
struct Laggard {
    name: String,
    behind: f64,
}

impl State {
    fn begin(&mut self, session: u64, time: u64) {
        self.session = session;
        self.spent = 0;
        self.members.retain(|_, follower| follower.seen + FORGOTTEN > time);
        self.members.update(|_, follower| {
            follower.path.clear();
            follower.change = None;
        });
    }

    /// Returns the usual move of the index, once there are enough, and adds a move to them.
    fn usual(&mut self, market: f64, alpha: f64) -> Option<f64> {
        let usual = (self.moves >= WARM_UP_MOVES && self.square > SQUARE_MIN).then(|| self.square.sqrt());
        let market = if self.moves < CLIP_FROM { market } else { clip(market, self.square) };
        self.moves = self.moves.saturating_add(1);
        self.square += (market * market - self.square) * alpha.max(1.0 / f64::from(self.moves));
        usual
    }

    /// Returns the name of the member, as its rows have it, and its move at this time.
    fn change_of(&self, name: &str, time: u64) -> Option<(String, f64)> {
        let (name, follower) = self.members.iter().find(|(member, _)| member.eq_ignore_ascii_case(name))?;
        Some((name.to_owned(), follower.change_at(time)?))
    }

    /// Adds the moves at this time to the sums of each member.
    fn fit(&mut self, decay: f64, index: &str, time: u64, market: f64) {
        self.members.update(|name, follower| {
            if let Some(own) = follower.change_at(time)
                && name != index
            {
                follower.fit(decay, own, market);
            }
        });
    }
}

impl Follower {
    /// Adds a row. The move begins at the last row at least `length` before, if that is not twice as old.
    fn push(&mut self, length: u64, row: &Snapshot<'_>) {
        while self.path.get(1).is_some_and(|(time, _)| time + length <= row.time) {
            self.path.pop_front();
        }
        let is_begin = |(time, _): &&(u64, f64)| time + length <= row.time && time + 2 * length > row.time;
        let change = |(_, price): &(u64, f64)| libm::log(row.price) - libm::log(*price);
        self.change = self.path.front().filter(is_begin).map(change);
        self.path.push_back((row.time, row.price));
        self.seen = row.time;
    }

    fn fit(&mut self, decay: f64, own: f64, market: f64) {
        let (mut own, mut market) = (own, market);
        if self.moves >= CLIP_FROM {
            own = clip(own, self.own / self.weight);
            market = clip(market, self.index / self.weight);
        }
        self.weight = self.weight * decay + 1.0;
        self.index = self.index * decay + market * market;
        self.own = self.own * decay + own * own;
        self.products = self.products * decay + market * own;
        self.moves = self.moves.saturating_add(1);
    }

    fn change_at(&self, time: u64) -> Option<f64> {
        self.change.filter(|_| self.seen == time)
    }

    /// Returns its beta and its correlation with the index, once it has enough moves.
    fn beta(&self) -> Option<(f64, f64)> {
        let is_known = self.moves >= WARM_UP_MOVES && self.index > SQUARE_MIN && self.own > SQUARE_MIN;
        is_known.then(|| (self.products / self.index, self.products / (self.index * self.own).sqrt()))
    }
}

/// Limits a move to so many usual ones, given their mean square. After prices that stood still, any move is taken as it is.
fn clip(size: f64, square: f64) -> f64 {
    let limit = if square > SQUARE_MIN { CLIP * square.sqrt() } else { f64::MAX };
    // Unlike `clamp`, this brings no code that prints numbers.
    size.max(-limit).min(limit)
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

fn count(name: &str, default: i64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::integer(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(LeadLag);
