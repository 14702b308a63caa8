//! Runs a detector natively, for `cargo test`: ticks, bars or snapshots in, detections out.
//!
//! The harness runs the same code as a WebAssembly module, and does what the host does around it: it checks the manifest and
//! the parameters, introduces symbols and groups, adds clock rows, and leaves out ticks that don't meet the manifest's
//! conditions. It panics wherever the host would reject the detector.
//!
//! ```
//! # use tickhound_sdk::{Detection, Detector, Manifest, Tick};
//! # struct Rise;
//! # impl Detector for Rise {
//! #     type Params = ();
//! #     type State = Option<f64>;
//! #     fn manifest() -> Manifest { Manifest::new("rise", "1.0.0", "Reports each rise of the price.") }
//! #     fn new((): ()) -> Result<Self, String> { Ok(Self) }
//! #     fn on_tick(&self, last: &mut Option<f64>, tick: &Tick<'_>) -> Option<Detection> {
//! #         let before = last.replace(tick.price)?;
//! #         (tick.price > before).then(|| Detection::up(0.5))
//! #     }
//! # }
//! use tickhound_sdk::harness::{Harness, tick};
//!
//! let found = Harness::<Rise>::new().check([tick("NIFTY", 0.0, 100.0), tick("NIFTY", 0.5, 101.0)]);
//! assert_eq!(found.len(), 1);
//! assert_eq!(found[0].symbol, "NIFTY");
//! ```

pub(crate) mod detections;
mod row;

use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

pub use self::row::{Row, bar, group_tick, snapshot, tick};

use self::detections::{RawDetection, unpack};
use crate::{
    Detection, Detector, Value,
    contract::{self, Group, Scope, Symbol},
    instance::Instance,
    packed::{CLOCK, LAST_OF_SNAPSHOT},
    shape::{RowKind, Shape},
};

/// The number of reloads in [`Harness::check`]: enough for each phase of a detector, and few enough for a day of ticks.
const RELOADS: usize = 100;

/// The maximum number of feeds, as in the host.
const FEEDS_MAX: usize = 4;

/// The maximum length of a feed's bars or steps, as in the host: a day.
const FEED_SECONDS_MAX: u32 = 86_400;

/// The number of nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// A detection with its symbol and time.
///
/// ```
/// use tickhound_sdk::harness::Found;
///
/// fn symbols(found: &[Found]) -> Vec<&str> {
///     found.iter().map(|found| found.symbol.as_str()).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What the detection is about: a symbol, or the group.
    pub symbol: String,
    /// The group whose state the detection comes from; empty if the state belongs to a symbol.
    pub group: String,
    /// The event time of the row, ns since the Unix epoch.
    pub time: u64,
    /// The detection that the detector returned.
    pub detection: Detection,
}

/// A detector's parameters, from which [`Harness::build`] makes the detector.
///
/// ```
/// # use tickhound_sdk::{Detection, Detector, Manifest, Param, Tick};
/// # #[derive(serde::Deserialize)]
/// # struct Above { price: f64 }
/// # impl Detector for Above {
/// #     type Params = Self;
/// #     type State = ();
/// #     fn manifest() -> Manifest {
/// #         Manifest::new("above", "1.0.0", "Reports prices above a limit.").param(Param::number("price", 100.0))
/// #     }
/// #     fn new(params: Self) -> Result<Self, String> { Ok(params) }
/// #     fn on_tick(&self, (): &mut (), tick: &Tick<'_>) -> Option<Detection> {
/// #         (tick.price > self.price).then(|| Detection::up(0.5))
/// #     }
/// # }
/// use tickhound_sdk::harness::{Harness, tick};
///
/// let found = Harness::<Above>::new().param("price", 101.5).check([tick("A", 0.0, 101.0), tick("A", 1.0, 102.0)]);
/// assert_eq!(found.len(), 1);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Harness<D> {
    params: Vec<(String, contract::Value)>,
    detector: PhantomData<fn() -> D>,
}

impl<D: Detector> Harness<D> {
    /// Returns a harness with the defaults of all parameters.
    ///
    /// # Panics
    /// Panics if the manifest contradicts itself.
    #[expect(clippy::new_without_default, reason = "a harness is made on purpose")]
    pub fn new() -> Self {
        let manifest = D::manifest();
        manifest.check();
        let params = manifest.0.params.into_iter().map(|param| (param.name, param.default)).collect();
        Self { params, detector: PhantomData }
    }

    /// Sets a parameter like `config.toml` does.
    ///
    /// # Panics
    /// Panics if the manifest has no such parameter, or the value has another type or is outside its limits.
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = D::manifest().accept(name, value.into());
        if let Some((_, current)) = self.params.iter_mut().find(|(n, _)| n == name) {
            *current = value;
        }
        self
    }

    /// Makes the detector.
    ///
    /// # Panics
    /// Panics if the detector rejects its parameters, or its `Params` doesn't match the manifest.
    #[must_use]
    pub fn build(self) -> Running<D> {
        self.try_build().unwrap_or_else(|error| panic!("the detector rejected its parameters: {error}"))
    }

    /// Makes the detector, to test which parameters it rejects.
    ///
    /// # Errors
    /// Returns the error of [`Detector::new`], or how `Params` doesn't match the manifest.
    pub fn try_build(self) -> Result<Running<D>, String> {
        let manifest = Instance::<D>::describe();
        let shape = Shape::new(&manifest, &self.params)?;
        check_feeds(&shape.feeds);
        let mut instance = Instance::new();
        let warm_up_seconds = instance.configure(&self.params)?.warm_up_seconds;
        let warm_up = Duration::from_secs_f64(warm_up_seconds);
        let (names, times) = (Vec::new(), BTreeMap::new());
        Ok(Running { params: self.params, manifest, shape, instance, warm_up, names, times, reached: None })
    }

    /// Feeds all ticks twice, once in one batch and once tick by tick with reloads in between, and returns the detections.
    ///
    /// # Panics
    /// Panics if the detections differ. In that case the detector keeps something outside its state, or its state is not
    /// restored as it was saved.
    #[must_use]
    pub fn check(self, ticks: impl IntoIterator<Item = Row>) -> Vec<Found> {
        let ticks: Vec<Row> = ticks.into_iter().collect();
        let mut cut = Self { params: self.params.clone(), detector: PhantomData }.build();
        let found = self.build().feed(ticks.iter().cloned());

        let between_reloads = ticks.len().div_ceil(RELOADS).max(1);
        let mut found_cut = Vec::new();
        for (n, tick) in ticks.into_iter().enumerate() {
            if n % between_reloads == 0 {
                cut.reload();
            }
            found_cut.extend(cut.feed([tick]));
        }
        assert!(found == found_cut, "one batch gives\n{found:#?}\ntick by tick with reloads gives\n{found_cut:#?}");
        found
    }
}

/// A detector that is ready for ticks.
///
/// ```
/// # use tickhound_sdk::{Detection, Detector, Manifest, Tick};
/// # struct Rise;
/// # impl Detector for Rise {
/// #     type Params = ();
/// #     type State = Option<f64>;
/// #     fn manifest() -> Manifest { Manifest::new("rise", "1.0.0", "Reports each rise of the price.") }
/// #     fn new((): ()) -> Result<Self, String> { Ok(Self) }
/// #     fn on_tick(&self, last: &mut Option<f64>, tick: &Tick<'_>) -> Option<Detection> {
/// #         let before = last.replace(tick.price)?;
/// #         (tick.price > before).then(|| Detection::up(0.5))
/// #     }
/// # }
/// use tickhound_sdk::harness::{Harness, tick};
///
/// let mut rise = Harness::<Rise>::new().build();
/// assert!(rise.feed([tick("A", 0.0, 100.0)]).is_empty());
/// rise.reload(); // as at a restart
/// assert_eq!(rise.feed([tick("A", 1.0, 101.0)]).len(), 1);
/// ```
pub struct Running<D: Detector> {
    params: Vec<(String, contract::Value)>,
    manifest: contract::Manifest,
    shape: Shape,
    instance: Instance<D>,
    warm_up: Duration,
    /// What was introduced, by id.
    names: Vec<Introduced>,
    /// The time of the last row, ns, by symbol and feed.
    times: BTreeMap<(u32, u8), u64>,
    /// The whole second that event time has reached.
    reached: Option<u64>,
}

/// A symbol or a group.
#[derive(Clone, Debug, PartialEq)]
enum Introduced {
    Symbol { name: String, texts: Vec<Option<String>> },
    Group(String),
}

/// Rows by column, as `detect` gets them.
#[derive(Default)]
struct Columns {
    times: Vec<u64>,
    prices: Vec<f64>,
    columns: Vec<Vec<f64>>,
    symbols: Vec<u32>,
    groups: Vec<u32>,
    feeds: Vec<u8>,
}

impl<D: Detector> Running<D> {
    /// Feeds rows as one batch, and returns the detections in order.
    ///
    /// # Panics
    /// Panics if a row breaks the contract (the price is not greater than 0, the time decreases within the symbol, the manifest
    /// has no such feed), or a detection does (the confidence is outside 0..=1, or evidence is not finite).
    pub fn feed(&mut self, rows: impl IntoIterator<Item = Row>) -> Vec<Found> {
        let batch = self.batch(rows);
        let packed = self.instance.detect(batch.times.len() as u32, &batch.pack(&self.shape));
        unpack(&packed).into_iter().map(|detection| self.found(detection, &batch)).collect()
    }

    /// Feeds rows as [`feed`](Self::feed) does, and returns the gates that the detector has looked at: the time of the row, the
    /// symbol or group of the state, and the gates.
    ///
    /// # Panics
    /// Panics like [`feed`](Self::feed), if a row breaks the contract.
    pub fn probe(&mut self, rows: impl IntoIterator<Item = Row>) -> Vec<Judged> {
        let batch = self.batch(rows);
        let judgments = self.instance.probe(batch.times.len() as u32, &batch.pack(&self.shape));
        let judged = judgments.into_iter().map(|judgment| Judged {
            owner: self.names[judgment.owner as usize].name().to_owned(),
            time: batch.times[judgment.row as usize],
            gates: judgment.gates.into_iter().map(Gate::from).collect(),
        });
        judged.collect()
    }

    /// Returns the result of [`Detector::warm_up`].
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.warm_up
    }

    /// Returns the size of the saved state of a symbol, or of a group if states belong to groups, in bytes. `None` before its
    /// first row.
    #[must_use]
    pub fn state_size(&self, owner: &str) -> Option<usize> {
        let is_owner = |named: &&Introduced| named.name() == owner && named.is_group() == self.shape.has_groups();
        let id = self.names.iter().position(|named| is_owner(&named))?;
        self.instance.save(&[id as u32]).first().map(|saved| saved.state.len())
    }

    /// Saves all states, makes the detector again, and restores the states, like a restart does.
    ///
    /// # Panics
    /// Panics if a state can't be restored, or differs when it is saved again.
    pub fn reload(&mut self) {
        let ids: Vec<u32> = (0..self.names.len() as u32).collect();
        let saved = self.instance.save(&ids);
        let mut fresh = Instance::new();
        fresh.configure(&self.params).expect("the same parameters were accepted before");
        for (id, named) in (0..).zip(&self.names) {
            introduce(&mut fresh, id, named);
        }
        if let Err(error) = fresh.restore(D::STATE_VERSION, &saved) {
            panic!("the saved states can't be restored: {error}");
        }
        assert!(fresh.save(&ids) == saved, "a state differs after it was saved and restored");
        self.instance = fresh;
    }

    fn batch(&mut self, rows: impl IntoIterator<Item = Row>) -> Columns {
        let mut batch = Columns { columns: vec![Vec::new(); self.shape.columns], ..Columns::default() };
        for row in rows {
            assert!(row.price.is_finite() && row.price > 0.0, "a price is finite and > 0, not {}", row.price);
            let feed = row.feed(&self.shape.feeds);
            let (id, group) = (self.symbol(&row), self.group(&row));
            let last = self.times.entry((id, feed)).or_default();
            assert!(*last <= row.time, "time never falls within {}", row.symbol);
            *last = row.time;

            let second = row.time / NANOS * NANOS;
            if self.reached.is_some_and(|reached| reached < second) {
                batch.push_clock(second);
            }
            self.reached = self.reached.max(Some(second));

            let names = self.manifest.columns.iter().map(|column| &column.name);
            let names = names.chain(self.manifest.computed.iter().map(|computed| &computed.name));
            let values: Vec<f64> = names.map(|name| row.column(name)).collect();
            if row.is_tick() && !self.wakes(row.price, &values) {
                continue;
            }
            let is_last = row.is_last() || row.is_snapshot() && !self.shape.has_groups();
            batch.times.push(row.time);
            batch.prices.push(row.price);
            batch.symbols.push(id);
            batch.groups.push(group);
            batch.feeds.push(if is_last { feed | LAST_OF_SNAPSHOT } else { feed });
            for (column, value) in batch.columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        batch
    }

    /// Returns whether a tick with these columns reaches the detector.
    fn wakes(&self, price: f64, values: &[f64]) -> bool {
        let value = |name: &str| {
            let names = self.manifest.columns.iter().map(|column| &column.name);
            let mut names = names.chain(self.manifest.computed.iter().map(|computed| &computed.name));
            let position = names.position(|column| column == name);
            values[position.unwrap_or_else(|| panic!("a wake names the column `{name}`, which the manifest lacks"))]
        };
        let holds = |wake: &contract::Wake| match wake {
            contract::Wake::Above(column) => price > value(column) || value(column).is_nan(),
            contract::Wake::Below(column) => price < value(column) || value(column).is_nan(),
        };
        self.manifest.wakes.is_empty() || self.manifest.wakes.iter().any(holds)
    }

    /// Returns the id of a row's symbol, and introduces the symbol if it is new.
    fn symbol(&mut self, row: &Row) -> u32 {
        let is_it = |named: &Introduced| !named.is_group() && named.name() == row.symbol;
        match self.names.iter().position(is_it) {
            Some(id) => id as u32,
            None => {
                let texts = self.manifest.texts.iter().map(|text| row.text(&text.name)).collect();
                self.introduce(Introduced::Symbol { name: row.symbol.clone(), texts })
            }
        }
    }

    /// Returns the id of a row's group, and introduces the group if it is new. 0 if there are no groups.
    fn group(&mut self, row: &Row) -> u32 {
        let group = match (self.shape.scope, row.group.as_deref()) {
            (Scope::Symbol, None) => return 0,
            (Scope::Symbol, Some(group)) => {
                panic!("a row is of group {group}, but the scope of the detector is a symbol")
            }
            (Scope::Group, Some(group)) => group,
            (Scope::Group, None) => panic!("a row has no group: make it with `group_tick`, or use `in_group`"),
            (Scope::Market, _) => "market",
        };
        let named = Introduced::Group(group.to_owned());
        match self.names.iter().position(|known| *known == named) {
            Some(id) => id as u32,
            None => self.introduce(named),
        }
    }

    fn introduce(&mut self, named: Introduced) -> u32 {
        let id = self.names.len() as u32;
        introduce(&mut self.instance, id, &named);
        self.names.push(named);
        id
    }

    fn found(&self, raw: RawDetection, batch: &Columns) -> Found {
        let RawDetection { row, owner, about, members, mut detection } = raw;
        let confidence = detection.confidence;
        assert!((0.0..=1.0).contains(&confidence), "a confidence is in 0..=1, not {confidence}");
        for (name, value) in &detection.evidence {
            assert!(value.is_finite(), "the evidence `{name}` is finite, not {value}");
        }
        let name = |id: u32| self.names[id as usize].name().to_owned();
        detection.about = (about != owner).then(|| name(about));
        detection.members = members.into_iter().map(name).collect();
        let group = if self.shape.has_groups() { name(owner) } else { String::new() };
        Found { symbol: name(about), group, time: batch.times[row as usize], detection }
    }
}

/// What a detector has looked at in one row, for one state.
///
/// ```
/// use tickhound_sdk::harness::Judged;
///
/// fn missed(judged: &Judged) -> Vec<&str> {
///     judged.gates.iter().filter(|gate| !gate.holds).map(|gate| gate.name.as_str()).collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The symbol or group whose state was looked at.
    pub owner: String,
    /// The event time of the row, ns since the Unix epoch.
    pub time: u64,
    /// The gates, in the order in which they were compared.
    pub gates: Vec<Gate>,
}

/// A comparison of a value with a limit, made by [`Gates`](crate::Gates).
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// Its name.
    pub name: String,
    /// What was compared.
    pub value: f64,
    /// With what.
    pub limit: f64,
    /// Whether the condition held.
    pub holds: bool,
}

impl From<contract::Gate> for Gate {
    fn from(contract::Gate { name, value, limit, holds }: contract::Gate) -> Self {
        Self { name, value, limit, holds }
    }
}

impl Introduced {
    fn name(&self) -> &str {
        match self {
            Self::Symbol { name, .. } | Self::Group(name) => name,
        }
    }

    fn is_group(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

impl Columns {
    fn push_clock(&mut self, second: u64) {
        self.times.push(second);
        self.prices.push(f64::NAN);
        self.columns.iter_mut().for_each(|values| values.push(f64::NAN));
        self.symbols.push(CLOCK);
        self.groups.push(CLOCK);
        self.feeds.push(0);
    }

    fn pack(&self, shape: &Shape) -> Vec<u8> {
        let mut packed = Vec::new();
        packed.extend(self.times.iter().flat_map(|time| time.to_le_bytes()));
        let columns = self.columns.iter().flatten();
        packed.extend(self.prices.iter().chain(columns).flat_map(|value| value.to_le_bytes()));
        packed.extend(self.symbols.iter().flat_map(|id| id.to_le_bytes()));
        if shape.has_groups() {
            packed.extend(self.groups.iter().flat_map(|id| id.to_le_bytes()));
        }
        if shape.has_feeds() {
            packed.extend(&self.feeds);
        }
        packed
    }
}

fn introduce<D: Detector>(instance: &mut Instance<D>, id: u32, named: &Introduced) {
    match named.clone() {
        Introduced::Symbol { name, texts } => instance.introduce(vec![Symbol { id, name, texts }], Vec::new()),
        Introduced::Group(name) => instance.introduce(Vec::new(), vec![Group { id, name }]),
    }
}

/// Panics where the host rejects the feeds.
fn check_feeds(feeds: &[RowKind]) {
    assert!(feeds.len() <= FEEDS_MAX, "a detector has at most {FEEDS_MAX} feeds, not {}", feeds.len());
    for (position, feed) in feeds.iter().enumerate() {
        assert!(!feeds[..position].contains(feed), "the feed {feed:?} is in the manifest twice");
        if let RowKind::Bar(seconds) | RowKind::Snapshot(seconds) = feed {
            assert!((1..=FEED_SECONDS_MAX).contains(seconds), "a feed is of 1 to {FEED_SECONDS_MAX} s, not {seconds}");
        }
    }
}
