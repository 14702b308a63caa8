//! The trait that authors implement, with its arguments and results.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Manifest, contract};

/// A detector: a function of parameters and ticks that returns detections.
///
/// The same ticks must give the same detections, live or replayed. So a detector keeps everything that it needs to know
/// about a symbol in [`State`](Self::State), and uses nothing that differs between two runs, such as the order of a
/// `HashMap`.
///
/// ```
/// use tickhound_sdk::{Detection, Detector, Manifest, Tick, harness::{Harness, tick}};
///
/// /// Reports each new high.
/// struct High;
///
/// impl Detector for High {
///     type Params = ();
///     type State = Option<f64>; // the highest price so far
///
///     fn manifest() -> Manifest {
///         Manifest::new("high", "1.0.0", "Reports each new high of a symbol.")
///     }
///
///     fn new((): ()) -> Result<Self, String> {
///         Ok(Self)
///     }
///
///     fn on_tick(&self, high: &mut Option<f64>, tick: &Tick<'_>) -> Option<Detection> {
///         let before = high.replace(high.map_or(tick.price, |high| high.max(tick.price)))?;
///         (tick.price > before).then(|| Detection::up(0.5).with("before", before))
///     }
/// }
///
/// let found = Harness::<High>::new().check([tick("A", 0.0, 10.0), tick("A", 1.0, 11.0), tick("A", 2.0, 9.0)]);
/// assert_eq!(found.len(), 1);
/// ```
pub trait Detector: Sized + 'static {
    /// The parameters: a struct with a field for each [`Param`](crate::Param) of the manifest, or `()` if there are none.
    type Params: DeserializeOwned;

    /// Everything that the detector knows about one symbol. It is `Default` at the symbol's first tick. The SDK holds one
    /// state for each symbol, and saves and restores it across restarts.
    type State: Default + Serialize + DeserializeOwned + 'static;

    /// The version of [`State`](Self::State). Increase it when older states can't be read any more, because a field was
    /// added, removed, moved or has another meaning. The host then warms up the detector again.
    const STATE_VERSION: u32 = 1;

    /// Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped.
    const STATE_OUTLIVES_PARAMS: bool = false;

    /// Whether [`on_clock`](Self::on_clock) is called.
    const WANTS_CLOCK: bool = false;

    /// Returns the detector's name, columns and parameters. Each call must return the same.
    fn manifest() -> Manifest;

    /// Returns a detector with these parameters. Each is within its limits. Conditions between several parameters are
    /// checked here.
    ///
    /// # Errors
    /// Returns a sentence for the author of the configuration.
    fn new(params: Self::Params) -> Result<Self, String>;

    /// Returns the event time that must pass for a symbol before its first detection.
    fn warm_up(&self) -> Duration {
        Duration::ZERO
    }

    /// Processes the next tick of a symbol, and may change the symbol's state.
    fn on_tick(&self, state: &mut Self::State, tick: &Tick<'_>) -> Option<Detection>;

    /// Called for each symbol that has a state when event time reaches a whole second, if
    /// [`WANTS_CLOCK`](Self::WANTS_CLOCK) is true. Seconds in which no symbol has a tick are skipped.
    fn on_clock(&self, state: &mut Self::State, clock: &Clock<'_>) -> Option<Detection> {
        let _ = (state, clock);
        None
    }
}

/// One market update of one symbol.
///
/// ```
/// use tickhound_sdk::Tick;
///
/// const BID: usize = 0; // the position of the column `bid` in the manifest
///
/// fn distance_to_bid(tick: &Tick<'_>) -> Option<f64> {
///     let distance = tick.price - tick.column(BID);
///     distance.is_finite().then_some(distance)
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// The event time, ns since the Unix epoch, UTC. It never decreases within one symbol.
    pub time: u64,
    /// The last traded price in quote currency, finite and greater than 0.
    pub price: f64,
    pub(crate) symbol: &'a str,
    pub(crate) columns: &'a [Vec<f64>],
    pub(crate) row: usize,
}

impl<'a> Tick<'a> {
    /// Returns the name of the symbol, such as `NIFTY25NOV25750PE`.
    #[must_use]
    pub fn symbol(&self) -> &'a str {
        self.symbol
    }

    /// Returns the value of a column, given its position in the manifest. An absent value is NaN.
    ///
    /// # Panics
    /// Panics if the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn column(&self, position: usize) -> f64 {
        self.columns[position][self.row]
    }

    /// Returns the value of the column `flags`, given its position in the manifest. It is a set of the bits in [`flag`].
    ///
    /// # Panics
    /// Panics if the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn flags(&self, position: usize) -> u32 {
        // The contract guarantees a whole number of at least 0. NaN would give 0.
        self.column(position) as u32
    }

    /// Returns whether the tick is from the session, and not from its pre-open or from outside of it, given the position of
    /// the column `flags` in the manifest.
    ///
    /// # Panics
    /// Panics if the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn is_in_session(&self, position: usize) -> bool {
        self.flags(position) & flag::OUTSIDE == 0
    }

    /// Returns when the tick's session opened, or opens if this is a tick of its pre-open, in ns since the Unix epoch, given
    /// the position of the column `since_open` in the manifest. `None` if the host does not know it.
    ///
    /// # Panics
    /// Panics if the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn session_open(&self, position: usize) -> Option<u64> {
        after(self.time, -self.column(position))
    }

    /// Returns when the tick's session closes, in ns since the Unix epoch, given the position of the column `to_close` in the
    /// manifest. `None` if the host does not know it.
    ///
    /// # Panics
    /// Panics if the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn session_close(&self, position: usize) -> Option<u64> {
        after(self.time, self.column(position))
    }

    /// Returns the event time in seconds since the Unix epoch, exact to a microsecond.
    #[inline]
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }
}

/// A whole second that event time has reached.
///
/// ```
/// use tickhound_sdk::{Clock, Detection};
///
/// const MINUTE: u64 = 60_000_000_000;
///
/// fn on_clock(last_tick: &mut u64, clock: &Clock<'_>) -> Option<Detection> {
///     (clock.time >= *last_tick + MINUTE).then(|| Detection::neutral(1.0))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    /// The second, in ns since the Unix epoch, UTC.
    pub time: u64,
    pub(crate) symbol: &'a str,
}

impl<'a> Clock<'a> {
    /// Returns the name of the symbol whose state is passed along.
    #[must_use]
    pub fn symbol(&self) -> &'a str {
        self.symbol
    }

    /// Returns the second, in seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }
}

/// The bits of the column `flags`.
///
/// ```
/// use tickhound_sdk::{Tick, flag};
///
/// const FLAGS: usize = 0; // the position of the column `flags` in the manifest
///
/// fn is_trade(tick: &Tick<'_>) -> bool {
///     tick.flags(FLAGS) & flag::QUOTE_ONLY == 0
/// }
/// ```
pub mod flag {
    /// The producer's time was missing or absurd, and was estimated from the arrival.
    pub const TIME_ESTIMATED: u32 = 1;
    /// The producer's time was before the symbol's previous tick, and was set to the time of that tick.
    pub const OUT_OF_ORDER: u32 = 2;
    /// The cumulative volume decreased without a new session, and was repaired.
    pub const VOLUME_REPAIRED: u32 = 4;
    /// The tick is not a trade: only quotes or open interest changed. The price is the last one.
    pub const QUOTE_ONLY: u32 = 8;
    /// The tick is the first one of the symbol in a new session.
    pub const SESSION_START: u32 = 16;
    /// The tick is from the pre-open of a session, in which orders are collected.
    pub const PRE_OPEN: u32 = 32;
    /// The tick is from outside of the session and its pre-open: at night, at a weekend, on a holiday.
    pub const OFF_SESSION: u32 = 64;
    /// [`PRE_OPEN`] and [`OFF_SESSION`]: a tick with one of them is not from a session that is open.
    pub const OUTSIDE: u32 = 96;
}

/// The direction in which the price moves, or is expected to move.
///
/// ```
/// use tickhound_sdk::{Detection, Direction};
///
/// assert_eq!(Detection::down(0.9).direction, Direction::Down);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upwards.
    Up,
    /// Downwards.
    Down,
    /// The detection has no direction.
    None,
}

/// A detected event.
///
/// ```
/// use tickhound_sdk::Detection;
///
/// let detection = Detection::up(0.95).with("move_pct", 1.2);
/// assert_eq!(detection.evidence("move_pct"), Some(1.2));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Detection {
    /// How rare the event is, in 0..=1. The detector's documentation defines the scale.
    pub confidence: f64,
    /// The direction: up, down or none.
    pub direction: Direction,
    /// Named finite numbers with which a person can check the detection.
    pub evidence: Vec<(String, f64)>,
}

impl Detection {
    /// Returns an upward detection. `confidence` must be in 0..=1, or the host rejects the detection.
    pub fn up(confidence: f64) -> Self {
        Self::new(Direction::Up, confidence)
    }

    /// Returns a downward detection.
    pub fn down(confidence: f64) -> Self {
        Self::new(Direction::Down, confidence)
    }

    /// Returns a detection without a direction.
    pub fn neutral(confidence: f64) -> Self {
        Self::new(Direction::None, confidence)
    }

    /// Returns a detection with a computed direction.
    pub fn new(direction: Direction, confidence: f64) -> Self {
        Self { confidence, direction, evidence: Vec::new() }
    }

    /// Adds a number with which a person can check the detection. A number that isn't finite, such as the value of an
    /// absent column, is left out.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        if value.is_finite() {
            self.evidence.push((name.into(), value));
        }
        self
    }

    /// Returns the evidence of this name.
    #[must_use]
    pub fn evidence(&self, name: &str) -> Option<f64> {
        self.evidence.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }

    pub(crate) fn at(self, row: u32, symbol: u32) -> contract::Detection {
        let direction = match self.direction {
            Direction::Up => contract::Direction::Up,
            Direction::Down => contract::Direction::Down,
            Direction::None => contract::Direction::None,
        };
        contract::Detection { row, symbol, confidence: self.confidence, direction, evidence: self.evidence }
    }
}

/// Returns the time `seconds` after `time`, in ns. Seconds of a session are exact to a ns.
fn after(time: u64, seconds: f64) -> Option<u64> {
    let nanos = seconds * 1e9;
    let nanos = if nanos < 0.0 { nanos - 0.5 } else { nanos + 0.5 };
    if nanos.is_nan() { None } else { time.checked_add_signed(nanos as i64) }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
