//! Runs a detector natively, for `cargo test`: ticks in, detections out.
//!
//! It runs the code that runs inside the WebAssembly module, and plays the
//! host's part around it: checks the manifest and the parameters, names symbols,
//! adds clock rows. Whatever the host would refuse is a panic here.
//!
//! ```
//! # use tickhound_sdk::{Detection, Detector, Manifest, Tick};
//! # struct Rise;
//! # impl Detector for Rise {
//! #     type Params = ();
//! #     type State = Option<f64>;
//! #     fn manifest() -> Manifest { Manifest::new("rise", "1.0.0", "Tells when the price rises.") }
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

/// How often [`Harness::check`] reloads: often enough to hit each phase, and no burden for a day of ticks.
const RELOADS: usize = 100;

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// A symbol's tick to feed, `seconds` after the Unix epoch; [`Row::with`] adds columns.
pub fn tick(symbol: &str, seconds: f64, price: f64) -> Row {
    Row { symbol: symbol.into(), time: (seconds * 1e9).round() as u64, price, columns: Vec::new() }
}

/// A tick to feed; made by [`tick`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Row {
    symbol: String,
    time: u64,
    price: f64,
    columns: Vec<(String, f64)>,
}

impl Row {
    /// Gives a column its value; unless given, `flags` is 0 and any other is NaN. Columns
    /// that the detector doesn't ask for do no harm.
    pub fn with(mut self, column: &str, value: f64) -> Self {
        self.columns.push((column.into(), value));
        self
    }

    /// Event time in ns since the Unix epoch, where seconds are too coarse.
    pub fn at_nanos(mut self, time: u64) -> Self {
        self.time = time;
        self
    }

    fn column(&self, name: &str) -> f64 {
        let absent = if name == "flags" { 0.0 } else { f64::NAN };
        self.columns.iter().rfind(|(n, _)| n == name).map_or(absent, |(_, value)| *value)
    }
}

/// A detection, and what it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The symbol.
    pub symbol: String,
    /// Event time of the tick or clock row that raised it, ns since the Unix epoch.
    pub time: u64,
    /// What the detector returned.
    pub detection: Detection,
}

/// A detector about to be made: give it the parameters that differ from their defaults.
#[derive(Clone, Debug)]
#[must_use]
pub struct Harness<D> {
    params: Vec<(String, contract::Value)>,
    detector: PhantomData<fn() -> D>,
}

impl<D: Detector> Harness<D> {
    /// Every parameter at its default.
    ///
    /// # Panics
    /// When the manifest contradicts itself.
    #[expect(clippy::new_without_default, reason = "a harness is made on purpose")]
    pub fn new() -> Self {
        let manifest = D::manifest();
        manifest.check();
        let params = manifest.0.params.into_iter().map(|param| (param.name, param.default)).collect();
        Self { params, detector: PhantomData }
    }

    /// Sets a parameter as `config.toml` would.
    ///
    /// # Panics
    /// When the manifest has no such parameter, or it is of another type or out of its limits.
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        let value = D::manifest().accept(name, value.into());
        if let Some((_, current)) = self.params.iter_mut().find(|(n, _)| n == name) {
            *current = value;
        }
        self
    }

    /// The detector, ready for ticks.
    ///
    /// # Panics
    /// When the detector refuses its parameters, or its `Params` doesn't fit the manifest.
    #[must_use]
    pub fn build(self) -> Running<D> {
        self.try_build().unwrap_or_else(|error| panic!("the detector refused its parameters: {error}"))
    }

    /// As [`build`](Self::build), to test what the detector refuses.
    ///
    /// # Errors
    /// What [`Detector::new`] returned, or what in `Params` doesn't fit the manifest.
    pub fn try_build(self) -> Result<Running<D>, String> {
        let mut instance = Instance::new();
        let warm_up_seconds = instance.configure(&self.params)?.warm_up_seconds;
        let warm_up = Duration::from_secs_f64(warm_up_seconds);
        Ok(Running { params: self.params, instance, warm_up, symbols: Vec::new(), times: Vec::new(), reached: None })
    }

    /// Feeds all ticks and returns what was detected: once in one batch, once tick
    /// by tick with reloads in between.
    ///
    /// # Panics
    /// When the two differ: then the detector remembers something outside its
    /// state, or its state doesn't survive being saved and restored.
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

/// A detector at work.
pub struct Running<D: Detector> {
    params: Vec<(String, contract::Value)>,
    instance: Instance<D>,
    warm_up: Duration,
    /// Names by id.
    symbols: Vec<String>,
    /// Time of the last tick, ns, by id.
    times: Vec<u64>,
    /// The whole second that event time has reached.
    reached: Option<u64>,
}

impl<D: Detector> Running<D> {
    /// Feeds ticks as one batch and returns what was detected, in order.
    ///
    /// # Panics
    /// When a tick is not as the contract has it (its price is not > 0, its time falls
    /// within the symbol), or a detection is not (confidence outside 0..=1, evidence not finite).
    pub fn feed(&mut self, ticks: impl IntoIterator<Item = Row>) -> Vec<Found> {
        let batch = self.batch(ticks);
        let detections = self.instance.detect(&batch);
        detections.into_iter().map(|detection| self.found(detection, &batch)).collect()
    }

    /// What [`Detector::warm_up`] said.
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        self.warm_up
    }

    /// Size of a symbol's saved state in bytes; `None` before its first tick.
    #[must_use]
    pub fn state_size(&self, symbol: &str) -> Option<usize> {
        let id = self.symbols.iter().position(|name| name == symbol)?;
        self.instance.save(&[id as u32]).first().map(|saved| saved.state.len())
    }

    /// Saves all states, makes the detector anew and restores them, as a restart does.
    ///
    /// # Panics
    /// When a state can't be restored, or is not the same when saved again.
    pub fn reload(&mut self) {
        let ids: Vec<u32> = (0..self.symbols.len() as u32).collect();
        let saved = self.instance.save(&ids);
        let mut fresh = Instance::new();
        fresh.configure(&self.params).expect("the same parameters were accepted before");
        fresh.introduce(ids.iter().map(|&id| Symbol { id, name: self.symbols[id as usize].clone() }).collect());
        if let Err(error) = fresh.restore(D::STATE_VERSION, &saved) {
            panic!("what was saved can't be restored: {error}");
        }
        assert!(fresh.save(&ids) == saved, "a state changed by being saved and restored");
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

    /// The symbol's id; introduces it when it is new.
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
