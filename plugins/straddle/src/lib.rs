//! Straddle: the premium of the straddle at the money crosses its session's average.
//!
//! The straddle at the money is the call and the put of the nearest expiry whose strike is nearest to the spot, among the
//! strikes of which both have traded in this session. Its premium is the sum of their last prices. As the spot moves,
//! another strike is at the money, and the premium is that one's from then on: a "rolling" straddle, as Indian option desks
//! chart it. Its volume-weighted average price is the sum of premium times quantity over the sum of quantities, over the
//! session's trades of the two options that are then at the money (Berkowitz, Logue and Noser 1988, for the premium instead of
//! a price). Sellers of straddles enter when the premium falls below this average, and leave when it rises above it (the
//! "combined premium VWAP" of these desks); a cross says that what options cost has turned.
//!
//! The distance of the premium from its average is in standard deviations: z is the distance over the root mean square of past
//! distances (exponentially weighted, half as much after `half_life` trades; a distance counts as eight of them at most, or one
//! bad price would spoil many sessions). An excursion is the path of the premium from
//! one side's `hysteresis` to the other's. A cross is a trade at which z reaches the `hysteresis` on the other side. The
//! direction is that of the premium. Nothing fires in the first `opening_ticks` trades of a session, or after a nearer expiry
//! has appeared. Trades don't count while a leg has had no tick for `stale_s`, or the nearest strike is further than
//! `off_max_pct` from the spot.
//!
//! The confidence is the rank of the ended excursion's peak, its largest |z|, among those of the group's past excursions: a
//! cross from far away is rare. It is not a probability that the premium goes on.
//!
//! A group is that of one underlying. Its spot is the column `spot`, if `[context]` defines one, and else the last price of the
//! underlying's own symbol. Strike, right and expiry come from the reference data, or from the symbol's name where that has
//! none. They are read at the first tick of an option in a session. Of two symbols for one contract, the first counts.

#![forbid(unsafe_code)]

mod contract;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    ByMember, Column, Detection, Detector, Direction, Gates, Manifest, Param, Scope, Tick, detector, flag,
    rank::RankSketch,
};

pub use contract::{Contract, Reference, Right, Strike, Terms};

const SECOND: u64 = 1_000_000_000;

/// The length of a session where no calendar says when it opens: a day of UTC.
const DAY: u64 = 86_400 * SECOND;

/// Sessions open further apart than this.
const APART: u64 = 3600 * SECOND;

/// The number of excursions after which ranks are meaningful.
const RANK_WARM_UP: u32 = 10;

/// The number of distances after which it is known which one is too large to be taken as it is, and how many usual ones that
/// is.
const CLIP_FROM: u32 = 100;
const CLIP: f64 = 8.0;

/// The least mean square of distances that differ from 0: rounding errors are below it.
const SQUARE_MIN: f64 = 1e-20;

/// The positions of the manifest's columns.
const QUANTITY: usize = 0;
const FLAGS: usize = 1;
const SINCE_OPEN: usize = 2;
const SPOT: usize = 3;
const STRIKE: usize = 4;
const DAYS_TO_EXPIRY: usize = 5;

/// The position of the manifest's text.
const OPTION_TYPE: usize = 0;

/// The parameters; see the manifest for units and ranges.
#[derive(Clone, Debug, Deserialize)]
pub struct Params {
    hysteresis: f64,
    opening_ticks: u32,
    stale_s: f64,
    off_max_pct: f64,
    half_life: f64,
    excursions: f64,
}

/// The state of a group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// When the session opened; 0 before the first.
    session: u64,
    members: ByMember<Instrument>,
    /// The last price of the underlying's own symbol in this session.
    own: Option<f64>,
    chain: Chain,
    /// The sums of premium times quantity and of quantity, and the number of trades, in this session.
    turnover: f64,
    quantity: f64,
    trades: u32,
    /// The mean square of the distance relative to the average, which hardly differs between sessions.
    square: f64,
    /// The number of distances in all sessions.
    distances: u32,
    /// The side of the excursion: 1 above, -1 below, 0 before the first of a session.
    side: i8,
    /// The largest |z| of the excursion.
    peak: f64,
    peaks: RankSketch,
    ended: u32,
}

/// A member of the group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Instrument {
    /// The session in which the contract was read.
    session: u64,
    contract: Option<Contract>,
    /// The last price, also of an earlier session.
    price: f64,
}

/// The options of the nearest expiry that have traded in this session.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Chain {
    /// Later than any before the session's first option.
    expiry: Option<u32>,
    /// In the order of strikes.
    pairs: Vec<(Strike, Pair)>,
}

/// The call and the put of one strike.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Pair {
    call: Option<Leg>,
    put: Option<Leg>,
}

/// The last price of an option, and the time of its last tick.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Leg {
    price: f64,
    time: u64,
}

/// The straddle at the money.
#[derive(Clone, Copy, Debug)]
struct Straddle {
    strike: Strike,
    call: Leg,
    put: Leg,
    spot: f64,
}

/// The detector with its parameters.
#[derive(Debug)]
pub struct StraddleVwap {
    params: Params,
    /// The weight of the newest distance.
    alpha: f64,
}

impl Detector for StraddleVwap {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        let text = "the premium of the straddle at the money crosses its session's average";
        Manifest::new("straddle", env!("CARGO_PKG_VERSION"), text)
            .scope(Scope::Group)
            .column(Column::required("quantity"))
            .column(Column::required("flags"))
            .column(Column::optional("since_open"))
            .column(Column::optional("spot"))
            .column(Column::optional("strike"))
            .column(Column::optional("days_to_expiry"))
            .text(Column::optional("option_type"))
            .param(number("hysteresis", 0.25, [0.0, 5.0], "sd", "how far beyond the average a cross is one"))
            .param(
                Param::integer("opening_ticks", 200)
                    .range(1.0, 1e6)
                    .unit("trades")
                    .doc("trades at the money in a session before anything fires"),
            )
            .param(number(
                "stale_s",
                60.0,
                [1.0, 3600.0],
                "s",
                "nothing fires while a leg has had no tick for this long",
            ))
            .param(number(
                "off_max_pct",
                2.0,
                [0.01, 50.0],
                "%",
                "most distance of the strike at the money from the spot",
            ))
            .param(number("half_life", 5000.0, [10.0, 1e7], "trades", "after which a distance counts half"))
            .param(number("excursions", 100.0, [5.0, 1e6], "excursions", "after which a peak counts half in ranks"))
    }

    fn new(params: Params) -> Result<Self, String> {
        let alpha = 1.0 - libm::exp2(-1.0 / params.half_life);
        Ok(Self { params, alpha })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        if !tick.is_in_session(FLAGS) {
            return None;
        }
        let session = tick.session_open(SINCE_OPEN).unwrap_or(tick.time / DAY * DAY);
        if session > state.session + APART {
            state.begin(session);
        }
        match state.contract(tick)? {
            Contract::Underlying => {
                state.own = Some(tick.price);
                None
            }
            Contract::Other => None,
            Contract::Option(terms) => {
                if !state.quote(terms, Leg { price: tick.price, time: tick.time }) {
                    return None;
                }
                let spot = Some(tick.column(SPOT)).filter(|spot| *spot > 0.0).or(state.own)?;
                let straddle = state.chain.at_money(spot)?;
                // Only a trade of one of its options is one of the straddle.
                let traded = terms.strike == straddle.strike && tick.column(QUANTITY) > 0.0;
                traded.then(|| self.trade(state, tick, straddle))?
            }
        }
    }
}

impl StraddleVwap {
    /// Processes a trade of the straddle at the money.
    fn trade(&self, state: &mut State, tick: &Tick<'_>, straddle: Straddle) -> Option<Detection> {
        let Params { opening_ticks, stale_s, off_max_pct, .. } = self.params;
        let (gates, quantity, premium) = (tick.gates(), tick.column(QUANTITY), straddle.premium());
        let age = (tick.time - straddle.call.time.min(straddle.put.time)) as f64 / SECOND as f64;
        let is_fresh = gates.at_most("leg_age_s", age, stale_s);
        let is_near = gates.at_most("off_pct", straddle.off_pct(), off_max_pct);
        if !(is_fresh && is_near) {
            return None;
        }
        state.turnover += premium * quantity;
        state.quantity += quantity;
        state.trades = state.trades.saturating_add(1);
        let average = state.turnover / state.quantity;
        let distance = premium / average - 1.0;
        // Absurd prices and quantities overflow, and must not outlive the session.
        if !distance.is_finite() {
            return None;
        }
        let deviation = state.square.sqrt();
        // Added only now, since a value is compared with those before it.
        state.learn(distance, self.alpha);
        // At the first trade of all there is no deviation, and not yet a side.
        let z = if deviation > 0.0 { distance / deviation } else { 0.0 };
        if !gates.above("trades", f64::from(state.trades), f64::from(opening_ticks)) {
            return None;
        }
        let found = self.judge(state, gates, z)?;
        let terms = |right| Terms { right, strike: straddle.strike, expiry: state.chain.expiry.unwrap_or(0) };
        let legs = [Right::Call, Right::Put].into_iter().filter_map(|right| state.name(terms(right)));
        Some(
            found
                .members(legs)
                .with("premium", premium)
                .with("vwap", average)
                .with("strike", straddle.strike.price())
                .with("call", straddle.call.price)
                .with("put", straddle.put.price)
                .with("spot", straddle.spot)
                .with("sd_pct", deviation * 100.0),
        )
    }

    /// Follows the excursion, and returns the detection if it ends here.
    fn judge(&self, state: &mut State, gates: Gates<'_>, z: f64) -> Option<Detection> {
        let Params { hysteresis, excursions, .. } = self.params;
        let side = if z > 0.0 { 1 } else { -1 };
        if state.side == 0 {
            if z != 0.0 && z.abs() >= hysteresis {
                (state.side, state.peak) = (side, z.abs());
            }
            return None;
        }
        let crossed = gates.at_least("beyond_sd", -z * f64::from(state.side), hysteresis) && side != state.side;
        let is_ranked = gates.at_least("excursions", f64::from(state.ended), f64::from(RANK_WARM_UP));
        if !crossed {
            state.peak = state.peak.max(z * f64::from(state.side));
            return None;
        }
        let (peak, rank) = (state.peak, state.peaks.rank(state.peak));
        (state.side, state.peak) = (side, z.abs());
        state.peaks.push(peak, excursions);
        state.ended = state.ended.saturating_add(1);
        let direction = if side > 0 { Direction::Up } else { Direction::Down };
        let found = Detection::new(direction, rank?).with("z", z).with("peak", peak);
        is_ranked.then_some(found)
    }
}

impl State {
    fn begin(&mut self, session: u64) {
        // Options that have expired are forgotten, so that the state stays small.
        let ended = std::mem::replace(&mut self.session, session);
        self.members.retain(|_, instrument| instrument.session == ended);
        self.own = None;
        self.begin_chain(None);
    }

    /// Adds a distance to the mean square.
    fn learn(&mut self, distance: f64, alpha: f64) {
        let is_known = self.distances >= CLIP_FROM && self.square > SQUARE_MIN;
        let most = if is_known { CLIP * CLIP * self.square } else { f64::MAX };
        self.square += ((distance * distance).min(most) - self.square) * alpha;
        self.distances = self.distances.saturating_add(1);
    }

    /// Begins the chain and its average anew.
    fn begin_chain(&mut self, expiry: Option<u32>) {
        self.chain = Chain { expiry, pairs: Vec::new() };
        (self.turnover, self.quantity, self.trades) = (0.0, 0.0, 0);
        (self.side, self.peak) = (0, 0.0);
    }

    /// Returns what the instrument of a tick is. `None` if the tick is only a quote that carries the last price.
    fn contract(&mut self, tick: &Tick<'_>) -> Option<Contract> {
        let session = self.session;
        let known = self.members.entry(tick.symbol_id());
        let before = std::mem::replace(&mut known.price, tick.price);
        if tick.flags(FLAGS) & flag::QUOTE_ONLY != 0 && before == tick.price {
            return None;
        }
        if let Some(contract) = known.contract.filter(|_| known.session == session) {
            return Some(contract);
        }
        let contract = self.read(tick);
        let known = self.members.entry(tick.symbol_id());
        (known.session, known.contract) = (session, Some(contract));
        Some(contract)
    }

    fn read(&self, tick: &Tick<'_>) -> Contract {
        let reference = Reference {
            option_type: tick.text(OPTION_TYPE),
            strike: tick.column(STRIKE),
            days_to_expiry: tick.column(DAYS_TO_EXPIRY),
        };
        match Contract::of(tick.symbol(), reference) {
            Contract::Option(terms) if self.name(terms).is_some_and(|name| name != tick.symbol()) => Contract::Other,
            contract => contract,
        }
    }

    /// Returns the member that is this contract in the present session.
    fn name(&self, terms: Terms) -> Option<&str> {
        let is_it = |it: &Instrument| it.session == self.session && it.contract == Some(Contract::Option(terms));
        self.members.iter().find(|(_, instrument)| is_it(instrument)).map(|(name, _)| name)
    }

    /// Takes the price of an option into the chain. Returns whether it is of the nearest expiry.
    fn quote(&mut self, terms: Terms, leg: Leg) -> bool {
        if self.chain.expiry.is_none_or(|expiry| terms.expiry < expiry) {
            self.begin_chain(Some(terms.expiry));
        }
        if self.chain.expiry != Some(terms.expiry) {
            return false;
        }
        let pair = self.chain.pair(terms.strike);
        match terms.right {
            Right::Call => pair.call = Some(leg),
            Right::Put => pair.put = Some(leg),
        }
        true
    }
}

impl Chain {
    /// Returns the pair of a strike, which is empty at first.
    fn pair(&mut self, strike: Strike) -> &mut Pair {
        let at = self.pairs.partition_point(|(other, _)| *other < strike);
        if self.pairs.get(at).is_none_or(|(other, _)| *other != strike) {
            self.pairs.insert(at, (strike, Pair::default()));
        }
        &mut self.pairs[at].1
    }

    /// Returns the straddle whose strike is nearest to the spot; of two that are as near, the lower one.
    fn at_money(&self, spot: f64) -> Option<Straddle> {
        let whole = |(strike, pair): &(Strike, Pair)| {
            Some(Straddle { strike: *strike, call: pair.call?, put: pair.put?, spot })
        };
        let middle = Strike::new(spot)?;
        let (below, above) = self.pairs.split_at(self.pairs.partition_point(|(strike, _)| *strike <= middle));
        let (below, above) = (below.iter().rev().find_map(whole), above.iter().find_map(whole));
        match (below, above) {
            (Some(below), Some(above)) if above.distance() < below.distance() => Some(above),
            (below, above) => below.or(above),
        }
    }
}

impl Straddle {
    fn premium(&self) -> f64 {
        self.call.price + self.put.price
    }

    fn distance(&self) -> f64 {
        (self.strike.price() - self.spot).abs()
    }

    fn off_pct(&self) -> f64 {
        self.distance() / self.spot * 100.0
    }
}

fn number(name: &str, default: f64, [least, most]: [f64; 2], unit: &str, doc: &str) -> Param {
    Param::number(name, default).range(least, most).unit(unit).doc(doc)
}

detector!(StraddleVwap);
