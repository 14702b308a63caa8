//! Breadth: suddenly most members of a group are above, or below, their session's average price.
//!
//! Every `step_s` seconds, the breadth of a group is the share of its members whose price is above their volume-weighted average
//! price of the session (the sum of price times quantity over the sum of quantities, up to the end of the last bar). A member
//! exactly at its average counts half; one that has not been traded in this session does not count. A thrust up is a step at
//! which the breadth is at least `high`, and was at most `low` at one of the `steps` steps before: the market has turned from
//! weak to strong as a whole, and fast. A thrust down is its mirror image: from at least 1 - `low` to at most 1 - `high`. This
//! is the breadth thrust of Zweig (1986) with his limits, 0.40 and 0.615 within ten steps, for the share above VWAP and minutes
//! instead of the share of advancing issues, averaged over ten days, and days.
//!
//! After a thrust, the breadth before it no longer counts, so a second one needs a turn of its own. Nothing fires in the first
//! `opening_steps` steps of a session, when averages are not stable yet, and these steps are no beginning of a thrust either.
//! Groups with fewer than `members_min` members that count never fire.
//!
//! The confidence is the rank of the swing, the distance of the breadth from its lowest (or highest) of the `steps` before,
//! among those of the group's recent steps. It is not a probability that the market goes on.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Bar, ByMember, Column, Detection, Detector, Direction, Feed, Gates, Manifest, Param, Scope, Snapshot, detector,
    rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// The length of a session where no calendar says when it opens: a day of UTC.
const DAY: u64 = 86_400 * SECOND;

/// Sessions open further apart than this.
const APART: u64 = 3600 * SECOND;

/// The number of steps after which ranks are meaningful.
const RANK_WARM_UP: u32 = 60;

/// The positions of the manifest's columns.
const FLAGS: usize = 0;
const SINCE_OPEN: usize = 1;
const QUANTITY: usize = 2;
const VWAP: usize = 3;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    step_s: u32,
    low: f64,
    high: f64,
    steps: u32,
    members_min: u32,
    opening_steps: u32,
    half_life: f64,
}

/// The state of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// When the session opened; 0 before the first.
    session: u64,
    averages: ByMember<Average>,
    /// The members that count, and those above their average, in the step of which some rows have come.
    count: u32,
    above: f64,
    /// The number of steps in this session.
    steps: u32,
    /// The last breadths of this session, since the last thrust, oldest first.
    path: VecDeque<f64>,
    swings: RankSketch,
    ranked: u32,
}

/// The sums of price times quantity and of quantity of a member in this session.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Average {
    turnover: f64,
    quantity: f64,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Breadth {
    params: Params,
}

impl Detector for Breadth {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "suddenly most members of a group are above, or below, their session's average price";
        Manifest::new("breadth", env!("CARGO_PKG_VERSION"), text)
            .scope(Scope::Group)
            .feed(Feed::bars_param("step_s"))
            .feed(Feed::snapshots_param("step_s"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .column(Column::required("quantity"))
            .column(Column::required("vwap"))
            .param(Param::integer("step_s", 60).range(1.0, 3600.0).unit("s").doc("time between two steps"))
            .param(number("low", 0.4, [0.0, 1.0], "", "breadth from which a thrust up begins"))
            .param(number("high", 0.615, [0.0, 1.0], "", "breadth that it reaches"))
            .param(count("steps", 10, [1.0, 120.0], "steps", "within which it does"))
            .param(count("members_min", 10, [2.0, 10_000.0], "", "least members that count"))
            .param(count("opening_steps", 15, [0.0, 10_000.0], "steps", "steps of a session before anything fires"))
            .param(number("half_life", 4000.0, [10.0, 1e6], "steps", "after which a step counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.low >= params.high {
            return Err(format!("low ({}) must be below high ({})", params.low, params.high));
        }
        Ok(Self { params })
    }

    fn warm_up(&self) -> Duration {
        let steps = self.params.opening_steps.max(RANK_WARM_UP);
        Duration::from_secs(u64::from(steps) * u64::from(self.params.step_s))
    }

    fn on_bar(&self, state: &mut State, bar: &Bar<'_>) -> Option<Detection> {
        // A bar that ends at midnight is of the day before.
        let session = bar.session_open(SINCE_OPEN).unwrap_or(bar.time.saturating_sub(1) / DAY * DAY);
        let (quantity, vwap) = (bar.column(QUANTITY), bar.column(VWAP));
        // The last bar of a session may come with the first tick of the next one.
        let is_current = state.begin_if_new(session);
        if is_current && quantity > 0.0 && quantity.is_finite() && vwap.is_finite() {
            let average = state.averages.entry(bar.symbol_id());
            average.turnover += vwap * quantity;
            average.quantity += quantity;
        }
        None
    }

    fn on_snapshot(&self, state: &mut State, row: &Snapshot<'_>) -> Option<Detection> {
        let session = row.session_open(SINCE_OPEN).unwrap_or(row.time.saturating_sub(1) / DAY * DAY);
        if state.begin_if_new(session) && row.is_in_session(FLAGS) {
            state.count(row);
        }
        if !row.is_last() {
            return None;
        }
        let (count, above) = (std::mem::take(&mut state.count), std::mem::take(&mut state.above));
        let gates = row.gates();
        if !gates.at_least("members", f64::from(count), f64::from(self.params.members_min)) {
            return None;
        }
        self.step(state, gates, above / f64::from(count)).map(|found| found.with("members", f64::from(count)))
    }
}

impl Breadth {
    /// Processes the breadth of a step.
    fn step(&self, state: &mut State, gates: Gates<'_>, breadth: f64) -> Option<Detection> {
        let Params { low, high, steps, opening_steps, half_life, .. } = self.params;
        state.steps = state.steps.saturating_add(1);
        if !gates.above("steps", f64::from(state.steps), f64::from(opening_steps)) {
            return None;
        }
        let (least, most) =
            state.path.iter().fold((breadth, breadth), |(least, most), past| (least.min(*past), most.max(*past)));
        state.path.push_back(breadth);
        while state.path.len() > steps as usize {
            state.path.pop_front();
        }
        let swing = (breadth - least).max(most - breadth);
        let rank = state.swings.rank(swing);
        // Added only now, since a value is compared with those before it.
        state.swings.push(swing, half_life);
        state.ranked = state.ranked.saturating_add(1);

        let is_up = gates.at_most("from_low", least, low) & gates.at_least("high", breadth, high);
        let is_down = gates.at_least("from_high", most, 1.0 - low) & gates.at_most("low", breadth, 1.0 - high);
        let is_ranked = gates.above("ranked_steps", f64::from(state.ranked), f64::from(RANK_WARM_UP));
        if !((is_up || is_down) && is_ranked) {
            return None;
        }
        state.path.drain(..state.path.len() - 1);
        let (direction, from) = if is_up { (Direction::Up, least) } else { (Direction::Down, most) };
        Some(Detection::new(direction, rank?).with("breadth", breadth).with("from", from))
    }
}

impl State {
    /// Begins a session if this is a later one. Returns false if it is an earlier one.
    fn begin_if_new(&mut self, session: u64) -> bool {
        if session > self.session + APART {
            let Self { swings, ranked, .. } = std::mem::take(self);
            *self = Self { session, swings, ranked, ..Self::default() };
        }
        session + APART > self.session
    }

    /// Counts a member, if it has been traded in this session.
    fn count(&mut self, row: &Snapshot<'_>) {
        let Some(average) = self.averages.get(row.symbol_id()).filter(|average| average.quantity > 0.0) else { return };
        let average = average.turnover / average.quantity;
        self.count += 1;
        self.above += match () {
            () if row.price > average => 1.0,
            () if row.price < average => 0.0,
            // At its average.
            () => 0.5,
        };
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

fn count(name: &str, default: i64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::integer(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(Breadth);
