//! Runs a detector natively, for `cargo test`: ticks in, detections out.
//!
//! The harness runs the same code as a WebAssembly module, and does what the host does around it: it checks the manifest and
//! the parameters, introduces symbols, and adds clock rows. It panics wherever the host would reject the detector.
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

use std::{marker::PhantomData, time::Duration};

use crate::{
    Detection, Detector, Direction, Value,
    contract::{self, Batch, Symbol},
    instance::{CLOCK, Instance},
};

/// The number of reloads in [`Harness::check`]: enough for each phase of a detector, and few enough for a day of ticks.
const RELOADS: usize = 100;

/// The number of nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// Returns a tick of a symbol, `seconds` after the Unix epoch. [`Row::with`] adds columns.
///
/// ```
/// use tickhound_sdk::harness::tick;
/// let row = tick("NIFTY", 1.5, 100.0).with("quantity", 75.0);
/// ```
pub fn tick(symbol: &str, seconds: f64, price: f64) -> Row {
    Row { symbol: symbol.into(), time: (seconds * 1e9).round() as u64, price, columns: Vec::new() }
}

/// A tick for the harness, made by [`tick`].
///
/// ```
/// use tickhound_sdk::harness::{Row, tick};
///
/// fn quote(bid: f64, ask: f64) -> Row {
///     tick("NIFTY", 0.0, 100.0).with("bid", bid).with("ask", ask).at_nanos(1_500_000_001)
/// }
///
/// let row = quote(99.95, 100.05);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Row {
    symbol: String,
    time: u64,
    price: f64,
    columns: Vec<(String, f64)>,
}

impl Row {
    /// Sets the value of a column. By default `flags` is 0, and every other column is NaN. Columns that the detector doesn't
    /// ask for are ignored.
    pub fn with(mut self, column: &str, value: f64) -> Self {
        self.columns.push((column.into(), value));
        self
    }

    /// Sets the event time in ns since the Unix epoch, if seconds are not precise enough.
    pub fn at_nanos(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    fn column(&self, name: &str) -> f64 {
        let absent = if name == "flags" { 0.0 } else { f64::NAN };
        self.columns.iter().rfind(|(n, _)| n == name).map_or(absent, |(_, value)| *value)
    }
}

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
    /// The symbol.
    pub symbol: String,
    /// The event time of the tick or clock row, ns since the Unix epoch.
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
        let mut instance = Instance::new();
        let warm_up_seconds = instance.configure(&self.params)?.warm_up_seconds;
        let warm_up = Duration::from_secs_f64(warm_up_seconds);
        Ok(Running { params: self.params, instance, warm_up, symbols: Vec::new(), times: Vec::new(), reached: None })
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
    instance: Instance<D>,
    warm_up: Duration,
    /// The names of symbols, by id.
    symbols: Vec<String>,
    /// The time of the last tick, ns, by id.
    times: Vec<u64>,
    /// The whole second that event time has reached.
    reached: Option<u64>,
}

impl<D: Detector> Running<D> {
    /// Feeds ticks as one batch, and returns the detections in order.
    ///
    /// # Panics
    /// Panics if a tick breaks the contract (the price is not greater than 0, or the time decreases within the symbol), or a
    /// detection does (the confidence is outside 0..=1, or evidence is not finite).
    pub fn feed(&mut self, ticks: impl IntoIterator<Item = Row>) -> Vec<Found> {
        let batch = self.batch(ticks);
        let detections = self.instance.detect(&batch);
        detections.into_iter().map(|detection| self.found(detection, &batch)).collect()
    }

    /// Returns the result of [`Detector::warm_up`].
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.warm_up
    }

    /// Returns the size of a symbol's saved state in bytes, or `None` before its first tick.
    #[must_use]
    pub fn state_size(&self, symbol: &str) -> Option<usize> {
        let id = self.symbols.iter().position(|name| name == symbol)?;
        self.instance.save(&[id as u32]).first().map(|saved| saved.state.len())
    }

    /// Saves all states, makes the detector again, and restores the states, like a restart does.
    ///
    /// # Panics
    /// Panics if a state can't be restored, or differs when it is saved again.
    pub fn reload(&mut self) {
        let ids: Vec<u32> = (0..self.symbols.len() as u32).collect();
        let saved = self.instance.save(&ids);
        let mut fresh = Instance::new();
        fresh.configure(&self.params).expect("the same parameters were accepted before");
        fresh.introduce(ids.iter().map(|&id| Symbol { id, name: self.symbols[id as usize].clone() }).collect());
        if let Err(error) = fresh.restore(D::STATE_VERSION, &saved) {
            panic!("the saved states can't be restored: {error}");
        }
        assert!(fresh.save(&ids) == saved, "a state differs after it was saved and restored");
        self.instance = fresh;
    }

    fn batch(&mut self, ticks: impl IntoIterator<Item = Row>) -> Batch {
        let columns = D::manifest().0.columns;
        let mut batch = Batch {
            symbols: Vec::new(),
            times: Vec::new(),
            prices: Vec::new(),
            columns: vec![Vec::new(); columns.len()],
        };
        for tick in ticks {
            let Row { time, price, .. } = tick;
            assert!(price.is_finite() && price > 0.0, "a price is finite and > 0, not {price}");
            let id = self.id(&tick.symbol);
            assert!(self.times[id as usize] <= time, "time never falls within {}", tick.symbol);
            self.times[id as usize] = time;

            let second = time / NANOS * NANOS;
            if self.reached.is_some_and(|reached| reached < second) {
                batch.symbols.push(CLOCK);
                batch.times.push(second);
                batch.prices.push(f64::NAN);
                batch.columns.iter_mut().for_each(|values| values.push(f64::NAN));
            }
            self.reached = self.reached.max(Some(second));

            batch.symbols.push(id);
            batch.times.push(time);
            batch.prices.push(price);
            for (values, column) in batch.columns.iter_mut().zip(&columns) {
                values.push(tick.column(&column.name));
            }
        }
        batch
    }

    /// Returns the id of a symbol, and introduces the symbol if it is new.
    fn id(&mut self, symbol: &str) -> u32 {
        if let Some(id) = self.symbols.iter().position(|name| name == symbol) {
            return id as u32;
        }
        let id = self.symbols.len() as u32;
        self.instance.introduce(vec![Symbol { id, name: symbol.into() }]);
        self.symbols.push(symbol.into());
        self.times.push(0);
        id
    }

    fn found(&self, detection: contract::Detection, batch: &Batch) -> Found {
        let contract::Detection { row, symbol, confidence, direction, evidence } = detection;
        assert!((0.0..=1.0).contains(&confidence), "a confidence is in 0..=1, not {confidence}");
        for (name, value) in &evidence {
            assert!(value.is_finite(), "the evidence `{name}` is finite, not {value}");
        }
        let direction = match direction {
            contract::Direction::Up => Direction::Up,
            contract::Direction::Down => Direction::Down,
            contract::Direction::None => Direction::None,
        };
        Found {
            symbol: self.symbols[symbol as usize].clone(),
            time: batch.times[row as usize],
            detection: Detection { confidence, direction, evidence },
        }
    }
}
