//! The author's side: the trait, what it is given and what it gives back.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Manifest, contract};

/// A detector: parameters in, ticks in, detections out.
///
/// It must be a function of its parameters, its state and the ticks it is given:
/// the same ticks give the same detections, live or replayed. So it keeps all it
/// remembers in [`State`](Self::State) and uses nothing that differs between two
/// runs, such as the order of a `HashMap`.
pub trait Detector: Sized + 'static {
    /// The parameters: a struct with a field for each [`Param`](crate::Param) of the manifest; `()` for none.
    type Params: DeserializeOwned;

    /// All that is remembered of one symbol, from `Default` at its first tick on. The
    /// SDK keeps one for each symbol, and saves and restores it across restarts.
    type State: Default + Serialize + DeserializeOwned + 'static;

    /// Raise it whenever states saved before can't be read any more: a field was
    /// added, removed, moved or has another meaning. The host then warms up afresh.
    const STATE_VERSION: u32 = 1;

    /// Whether a saved state stays meaningful when only parameters change.
    const STATE_OUTLIVES_PARAMS: bool = false;

    /// Whether [`on_clock`](Self::on_clock) is called.
    const WANTS_CLOCK: bool = false;

    /// What the detector is, reads and takes. The same at every call.
    fn manifest() -> Manifest;

    /// A detector with these parameters, each within its limits; what spans several is checked here.
    ///
    /// # Errors
    /// A sentence for the person who wrote the configuration.
    fn new(params: Self::Params) -> Result<Self, String>;

    /// Event time that must pass for a symbol before its first detection.
    fn warm_up(&self) -> Duration {
        Duration::ZERO
    }

    /// Takes the next tick of a symbol, whose state it may change.
    fn on_tick(&self, state: &mut Self::State, tick: &Tick<'_>) -> Option<Detection>;

    /// Called for each symbol that has a state whenever event time has reached a
    /// whole second, if [`WANTS_CLOCK`](Self::WANTS_CLOCK) says so. Seconds in
    /// which no symbol has a tick are passed over.
    fn on_clock(&self, state: &mut Self::State, clock: &Clock<'_>) -> Option<Detection> {
        let _ = (state, clock);
        None
    }
}

/// One market update of one symbol.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// Event time, ns since the Unix epoch, UTC. Never falls within one symbol.
    pub time: u64,
    /// Last traded price in quote currency; finite and > 0.
    pub price: f64,
    pub(crate) symbol: &'a str,
    pub(crate) columns: &'a [Vec<f64>],
    pub(crate) row: usize,
}

impl<'a> Tick<'a> {
    /// The symbol's name, e.g. `NIFTY25NOV25750PE`.
    #[must_use]
    pub fn symbol(&self) -> &'a str {
        self.symbol
    }

    /// The value of a column, by its position in the manifest; NaN where absent.
    ///
    /// # Panics
    /// When the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn column(&self, position: usize) -> f64 {
        self.columns[position][self.row]
    }

    /// The value of the column `flags`, by its position in the manifest: a set of the bits in [`flag`].
    ///
    /// # Panics
    /// When the manifest has no such position.
    #[inline]
    #[must_use]
    #[track_caller]
    pub fn flags(&self, position: usize) -> u32 {
        // A whole number from 0 by contract; NaN would give 0.
        self.column(position) as u32
    }

    /// Event time in seconds since the Unix epoch, exact to a microsecond.
    #[inline]
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }
}

/// Event time has reached a whole second.
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    /// That second, in ns since the Unix epoch, UTC.
    pub time: u64,
    pub(crate) symbol: &'a str,
}

impl<'a> Clock<'a> {
    /// Name of the symbol whose state is at hand.
    #[must_use]
    pub fn symbol(&self) -> &'a str {
        self.symbol
    }

    /// That second, in seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }
}

/// Bits of the column `flags`; see [`Tick::flags`].
pub mod flag {
    /// The producer's time was missing or absurd; estimated from the arrival.
    pub const TIME_ESTIMATED: u32 = 1;
    /// The producer's time was before the symbol's previous tick; raised to that.
    pub const OUT_OF_ORDER: u32 = 2;
    /// Cumulative volume fell without a new session; the fall was not believed.
    pub const VOLUME_REPAIRED: u32 = 4;
    /// No trade: only quotes or open interest changed; the price is the last one.
    pub const QUOTE_ONLY: u32 = 8;
    /// First tick of the symbol in a new session day.
    pub const SESSION_START: u32 = 16;
}

/// Which way the price is seen or expected to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Upwards.
    Up,
    /// Downwards.
    Down,
    /// Not a matter of direction.
    None,
}

/// Something was detected.
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
    /// How rare this is, finite and in 0..=1; the detector's documentation defines it.
    pub confidence: f64,
    /// Up, down or none.
    pub direction: Direction,
    /// Named numbers that let a person check the detection; finite.
    pub evidence: Vec<(String, f64)>,
}

impl Detection {
    /// A detection that points upwards. `confidence` is finite and in 0..=1; the host refuses others.
    pub fn up(confidence: f64) -> Self {
        Self::new(Direction::Up, confidence)
    }

    /// A detection that points downwards.
    pub fn down(confidence: f64) -> Self {
        Self::new(Direction::Down, confidence)
    }

    /// A detection without a direction.
    pub fn neutral(confidence: f64) -> Self {
        Self::new(Direction::None, confidence)
    }

    /// A detection of a direction found by calculation.
    pub fn new(direction: Direction, confidence: f64) -> Self {
        Self { confidence, direction, evidence: Vec::new() }
    }

    /// Adds a number that lets a person check the detection. One that isn't finite,
    /// such as the value of an absent column, is left out.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        if value.is_finite() {
            self.evidence.push((name.into(), value));
        }
        self
    }

    /// The evidence of that name.
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

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
