//! The trait that authors implement, with its arguments and results.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Manifest,
    row::{Bar, Clock, Snapshot, Tick},
};

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

    /// Everything that the detector knows about one symbol, or about one group if that is its [`scope`](Manifest::scope). It
    /// is `Default` at the first row. The SDK holds one state for each symbol or group, and saves and restores it across
    /// restarts. [`ByMember`](crate::ByMember) is a map of a group's members.
    type State: Default + Serialize + DeserializeOwned + 'static;

    /// The version of [`State`](Self::State). Increase it when older states can't be read any more, because a field was
    /// added, removed, moved or has another meaning. The host then warms up the detector again.
    const STATE_VERSION: u32 = 1;

    /// Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped.
    const STATE_OUTLIVES_PARAMS: bool = false;

    /// Whether [`on_clock`](Self::on_clock) is called.
    const WANTS_CLOCK: bool = false;

    /// Returns the detector's name, scope, feeds, columns and parameters. Each call must return the same.
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

    /// Processes the next tick, and may change the state of its symbol or group. Called for [`Feed::Ticks`](crate::Feed::Ticks),
    /// which is the feed of a manifest that names none.
    fn on_tick(&self, state: &mut Self::State, tick: &Tick<'_>) -> Option<Detection> {
        let _ = (state, tick);
        None
    }

    /// Processes the next bar, and may change the state of its symbol or group. Called for
    /// [`Feed::bars`](crate::Feed::bars).
    fn on_bar(&self, state: &mut Self::State, bar: &Bar<'_>) -> Option<Detection> {
        let _ = (state, bar);
        None
    }

    /// Processes the next row of a snapshot, and may change the state of its symbol or group. Called for
    /// [`Feed::snapshots`](crate::Feed::snapshots).
    fn on_snapshot(&self, state: &mut Self::State, row: &Snapshot<'_>) -> Option<Detection> {
        let _ = (state, row);
        None
    }

    /// Called for each symbol or group that has a state when event time reaches a whole second, if
    /// [`WANTS_CLOCK`](Self::WANTS_CLOCK) is true. Seconds in which no symbol has a tick are skipped.
    fn on_clock(&self, state: &mut Self::State, clock: &Clock<'_>) -> Option<Detection> {
        let _ = (state, clock);
        None
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
    /// The name of the member that the detection is about; `None` if it is about the symbol or group whose state it comes from.
    pub about: Option<String>,
    /// The names of the symbols that make up the event of a group, if they matter.
    pub members: Vec<String>,
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
        Self { confidence, direction, evidence: Vec::new(), about: None, members: Vec::new() }
    }

    /// Adds a number with which a person can check the detection. A number that isn't finite, such as the value of an
    /// absent column, is left out.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        if value.is_finite() {
            self.evidence.push((name.into(), value));
        }
        self
    }

    /// Makes the detection one about a member of the group, and not about the group. Takes the [`Member`](crate::Member) of a
    /// row, or a name that a row of this state had.
    pub fn about(mut self, member: impl AsRef<str>) -> Self {
        self.about = Some(member.as_ref().into());
        self
    }

    /// Adds symbols that make up the event, such as the two legs of a pair.
    pub fn members<M: AsRef<str>>(mut self, members: impl IntoIterator<Item = M>) -> Self {
        self.members.extend(members.into_iter().map(|member| member.as_ref().to_owned()));
        self
    }

    /// Returns the evidence of this name.
    #[must_use]
    pub fn evidence(&self, name: &str) -> Option<f64> {
        self.evidence.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }
}
