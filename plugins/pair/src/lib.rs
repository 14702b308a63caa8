//! Pair: the prices of two symbols have drifted apart.
//!
//! A group has two symbols. At each bar that both have, their ratio is the logarithm of the first one's close over the
//! second one's, first and second by name. Its z-score is its distance from the mean of the `length` ratios before it, in their
//! standard deviations. This is the distance of Gatev, Goetzmann and Rouwenhorst (2006) and the band of Bollinger, taken of the
//! ratio, so that it needs neither a hedge ratio nor a test of cointegration. The pair has drifted apart when |z| reaches
//! `entry_z`. The direction is up if the first symbol is dear relative to the second. It fires once, and again on that side only
//! after z has come back to `exit_z`. Nothing fires in the first `opening_bars` bars of a session.
//!
//! A bar that only one of them has changes nothing: prices of different times are not compared. Ratios of earlier sessions
//! count, since a ratio, unlike a price, has no reason to change overnight. A group with other than two symbols never fires.
//! When the pair becomes another one, as when futures roll, it begins anew.
//!
//! The confidence is the rank of |z| among those of the pair's recent bars. It is not a probability that the ratio comes back:
//! two prices may stay apart for good.

#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Bar, ByMember, Column, Detection, Detector, Direction, Feed, Manifest, Param, Scope, detector, rank::RankSketch,
};

const SECOND: u64 = 1_000_000_000;

/// The length of a session where no calendar says when it opens: a day of UTC.
const DAY: u64 = 86_400 * SECOND;

/// Sessions open further apart than this.
const APART: u64 = 3600 * SECOND;

/// The number of symbols in a pair.
const TWO: usize = 2;

/// The number of values of |z| after which ranks are meaningful.
const RANK_WARM_UP: u32 = 60;

/// The largest `length`: the state of a symbol stays below 4 KiB.
const LENGTH_MAX: f64 = 800.0;

/// The least standard deviation of ratios that differ: a billionth of a percent, far below any price step.
const DEVIATION_MIN: f64 = 1e-11;

/// The position of the manifest's column.
const SINCE_OPEN: usize = 0;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    bar_s: u32,
    length: u32,
    entry_z: f64,
    exit_z: f64,
    opening_bars: u32,
    half_life: f64,
}

/// The state of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// When the session opened; 0 before the first.
    session: u64,
    /// The members that have had a bar in this session.
    members: ByMember<Close>,
    /// The number of ratios in this session.
    bars: u32,
    /// The names that the ratios below are of.
    pair: Vec<String>,
    /// The last ratios, oldest first.
    ratios: VecDeque<f64>,
    /// The side on which it has fired without coming back since: 1, -1, or 0.
    spent: i8,
    sizes: RankSketch,
    ranked: u32,
}

/// The last bar of a member.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Close {
    end: u64,
    price: f64,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct Pair {
    params: Params,
}

impl Detector for Pair {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "the prices of two symbols have drifted apart";
        Manifest::new("pair", env!("CARGO_PKG_VERSION"), text)
            .scope(Scope::Group)
            .feed(Feed::bars_param("bar_s"))
            .column(Column::optional("since_open"))
            .param(Param::integer("bar_s", 60).range(1.0, 86_400.0).unit("s").doc("length of the bars"))
            .param(bars("length", 240, 20.0, LENGTH_MAX, "bars of the mean and the standard deviation"))
            .param(number("entry_z", 3.0, [0.5, 20.0], "sd", "how far the ratio drifts from its mean"))
            .param(number("exit_z", 0.5, [0.0, 20.0], "sd", "how near it comes back before the next"))
            .param(bars("opening_bars", 5, 0.0, 10_000.0, "bars of a session before anything fires"))
            .param(number("half_life", 2000.0, [10.0, 1e6], "bars", "after which a bar counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.exit_z >= params.entry_z {
            return Err(format!("exit_z ({}) must be nearer than entry_z ({})", params.exit_z, params.entry_z));
        }
        Ok(Self { params })
    }

    fn warm_up(&self) -> Duration {
        let bars = u64::from(self.params.length) + u64::from(RANK_WARM_UP);
        Duration::from_secs(bars * u64::from(self.params.bar_s))
    }

    fn on_bar(&self, state: &mut State, bar: &Bar<'_>) -> Option<Detection> {
        // A bar that ends at midnight is of the day before.
        let session = bar.session_open(SINCE_OPEN).unwrap_or(bar.time.saturating_sub(1) / DAY * DAY);
        if session > state.session + APART {
            state.begin(session);
        }
        *state.members.entry(bar.symbol_id()) = Close { end: bar.time, price: bar.price };
        let gates = bar.gates();
        let count = state.members.len() as f64;
        if !gates.holds("symbols", count, TWO as f64, state.members.len() == TWO) {
            return None;
        }
        let ends_alike = state.members.values().all(|close| close.end == bar.time);
        // The other one's bar is still to come, or there is none.
        if !ends_alike {
            return None;
        }
        let ratio = state.ratio();
        let z = state.score(self.params.length, ratio);
        state.push(self.params.length, ratio);
        self.judge(state, bar, z?).map(|found| found.with("ratio", libm::exp(ratio)))
    }
}

impl Pair {
    fn judge(&self, state: &mut State, bar: &Bar<'_>, Score { z, mean, deviation }: Score) -> Option<Detection> {
        let Params { entry_z, exit_z, opening_bars, half_life, .. } = self.params;
        let gates = bar.gates();
        if z * f64::from(state.spent) <= exit_z {
            state.spent = 0;
        }
        let side = if z > 0.0 { 1 } else { -1 };
        let rank = state.sizes.rank(z.abs());
        // Added only now, since a value is compared with those before it.
        state.sizes.push(z.abs(), half_life);
        state.ranked = state.ranked.saturating_add(1);
        let is_apart = gates.at_least("abs_z", z.abs(), entry_z);
        let came_back = gates.holds("came_back", z * f64::from(side), exit_z, side != state.spent);
        let is_ranked = gates.above("ranked_bars", f64::from(state.ranked), f64::from(RANK_WARM_UP));
        let is_open = gates.above("bars", f64::from(state.bars), f64::from(opening_bars));
        if !(is_apart && came_back && is_ranked && is_open) {
            return None;
        }
        state.spent = side;
        let direction = if side > 0 { Direction::Up } else { Direction::Down };
        let found = Detection::new(direction, rank?).members(&state.pair).with("z", z);
        Some(found.with("mean_ratio", libm::exp(mean)).with("sd_pct", deviation * 100.0))
    }
}

/// Where a ratio is among those before it.
#[derive(Clone, Copy, Debug)]
struct Score {
    z: f64,
    mean: f64,
    deviation: f64,
}

impl State {
    fn begin(&mut self, session: u64) {
        self.session = session;
        self.members.clear();
        self.bars = 0;
    }

    /// Returns the logarithm of the ratio of the two closes. If they are not of the pair so far, a new one begins.
    fn ratio(&mut self) -> f64 {
        if !self.members.iter().map(|(name, _)| name).eq(self.pair.iter()) {
            self.pair = self.members.iter().map(|(name, _)| name.to_owned()).collect();
            self.ratios.clear();
            self.spent = 0;
            (self.sizes, self.ranked) = (RankSketch::default(), 0);
        }
        self.members.values().map(|close| libm::log(close.price)).reduce(|first, second| first - second).unwrap_or(0.0)
    }

    /// Returns the score of a ratio among the last `length` ones, if there are as many and they differ.
    fn score(&self, length: u32, ratio: f64) -> Option<Score> {
        if self.ratios.len() < length as usize {
            return None;
        }
        let count = f64::from(length);
        let mean = self.ratios.iter().sum::<f64>() / count;
        let squares: f64 = self.ratios.iter().map(|past| (past - mean) * (past - mean)).sum();
        let deviation = (squares / (count - 1.0)).sqrt();
        // Prices that stand still leave a deviation of rounding errors.
        (deviation > DEVIATION_MIN).then(|| Score { z: (ratio - mean) / deviation, mean, deviation })
    }

    fn push(&mut self, length: u32, ratio: f64) {
        self.ratios.push_back(ratio);
        while self.ratios.len() > length as usize {
            self.ratios.pop_front();
        }
        self.bars = self.bars.saturating_add(1);
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

fn bars(name: &str, default: i64, least: f64, most: f64, doc: &str) -> Param {
    Param::integer(name, default).range(least, most).unit("bars").doc(doc)
}

detector!(Pair);
