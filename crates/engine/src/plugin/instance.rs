//! An instance of a detector, which belongs to one shard.
//!
//! Invariant: after a [`Fault`] the instance is dropped, never called again.

use std::sync::Arc;

use wasmtime::Store;

use super::{
    bindings::{
        Detector,
        tickhound::detector::types::{
            Batch as TicksParam, Detection, Symbol, SymbolStateParam, SymbolStateResult, ValueParam,
        },
    },
    fault::{Fault, describe_fault},
    guest::{Guest, Limits},
    params::{Params, Value},
    runtime::Plugin,
};
use tickhound_core::event::{Batch, CLOCK};

/// An instance of a detector: a guest with its parameters, its symbols and their states.
pub struct Instance {
    store: Store<Guest>,
    guest: Detector,
    limits: Limits,
    /// The position in [`Batch::columns`] of each column that the plugin asks for.
    columns: Arc<[Option<usize>]>,
    /// A column of NaN, for optional columns that the input lacks.
    absent: Vec<f64>,
    /// Whether a symbol was introduced, by symbol id.
    introduced: Vec<bool>,
    /// The event time that must pass before the first detection, seconds.
    pub warm_up_seconds: f64,
}

impl Instance {
    /// Starts an instance with its parameters.
    ///
    /// # Errors
    /// Returns a fault, also if the plugin rejects the parameters.
    pub(super) fn start(
        plugin: &Plugin,
        params: &Params,
        columns: Arc<[Option<usize>]>,
        limits: Limits,
    ) -> Result<Self, Fault> {
        let mut store = plugin.store(limits);
        let values: Vec<(&str, ValueParam<'_>)> =
            params.iter().map(|(name, value)| (name.as_str(), params_value(value))).collect();
        let started = plugin.pre().instantiate(&mut store).and_then(|guest| {
            let answer = guest.call_configure(&mut store, &values)?;
            Ok((guest, answer))
        });
        match started {
            Ok((guest, Ok(readiness))) => Ok(Self {
                store,
                guest,
                limits,
                columns,
                absent: Vec::new(),
                introduced: Vec::new(),
                warm_up_seconds: readiness.warm_up_seconds,
            }),
            Ok((_, Err(rejection))) => Err(Fault::Contract(format!("rejected its parameters: {rejection}"))),
            Err(error) => Err(describe_fault(&error, &mut store, limits, Fault::Start)),
        }
    }

    /// Returns the size of its linear memories, bytes. It never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Returns whether a symbol was introduced.
    pub fn knows(&self, symbol: u32) -> bool {
        self.introduced.get(symbol as usize) == Some(&true)
    }

    /// Introduces symbols, which must come before their first tick.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn introduce(&mut self, symbols: &[(u32, &str)]) -> Result<(), Fault> {
        for (id, _) in symbols {
            let id = *id as usize;
            self.introduced.resize(self.introduced.len().max(id + 1), false);
            self.introduced[id] = true;
        }
        let symbols: Vec<Symbol<'_>> = symbols.iter().map(|(id, name)| Symbol { id: *id, name }).collect();
        self.begin(symbols.len());
        let answer = self.guest.call_introduce(&mut self.store, &symbols);
        answer.map_err(|error| self.fault(&error))
    }

    /// Processes one batch. The detections are in the order of their rows and meet the contract.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn detect(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        if self.columns.contains(&None) {
            self.absent.resize(batch.len(), f64::NAN);
        }
        let columns: Vec<&[f64]> = self
            .columns
            .iter()
            .map(|position| match position {
                Some(position) => batch.columns[*position].as_slice(),
                None => &self.absent[..batch.len()],
            })
            .collect();
        let ticks_param =
            TicksParam { symbols: &batch.symbol, times: &batch.time, prices: &batch.price, columns: &columns };
        Guest::begin(&mut self.store, self.limits.deadline(batch.len()));
        match self.guest.call_detect(&mut self.store, ticks_param) {
            Ok(detections) => check(detections, batch, &self.introduced),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Saves the states of `symbols`: the id and the plugin's own encoding of each that has one.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn save(&mut self, symbols: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
        self.begin(symbols.len());
        match self.guest.call_save(&mut self.store, symbols) {
            Ok(states) => {
                let unasked = states.iter().find(|saved| !symbols.contains(&saved.symbol));
                match unasked {
                    Some(saved) => Err(Fault::Contract(format!("saved symbol {} without being asked", saved.symbol))),
                    None => Ok(states.into_iter().map(|SymbolStateResult { symbol, state }| (symbol, state)).collect()),
                }
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Restores states that [`Instance::save`] returned. Their symbols must have been introduced. The inner error is the
    /// plugin's own reason for rejecting the states, after which nothing has changed.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn restore(&mut self, state_version: u32, states: &[(u32, &[u8])]) -> Result<Result<(), String>, Fault> {
        let states: Vec<SymbolStateParam<'_>> =
            states.iter().map(|(symbol, state)| SymbolStateParam { symbol: *symbol, state }).collect();
        self.begin(states.len());
        let answer = self.guest.call_restore(&mut self.store, state_version, &states);
        answer.map_err(|error| self.fault(&error))
    }

    /// Sets the deadline of the call that follows, for `items` rows or symbols.
    fn begin(&mut self, items: usize) {
        Guest::begin(&mut self.store, self.limits.deadline(items));
    }

    fn fault(&mut self, error: &wasmtime::Error) -> Fault {
        match describe_fault(error, &mut self.store, self.limits, Fault::Deadline) {
            Fault::Memory { limit_mib, .. } => {
                Fault::Memory { limit_mib, symbols: self.introduced.iter().filter(|introduced| **introduced).count() }
            }
            fault => fault,
        }
    }
}

fn params_value(value: &Value) -> ValueParam<'_> {
    match value {
        Value::Flag(v) => ValueParam::Flag(*v),
        Value::Integer(v) => ValueParam::Integer(*v),
        Value::Number(v) => ValueParam::Number(*v),
        Value::Text(v) => ValueParam::Text(v),
    }
}

/// Checks detections against the contract, so that no later stage has to.
fn check(detections: Vec<Detection>, batch: &Batch, introduced: &[bool]) -> Result<Vec<Detection>, Fault> {
    let broken = |what: String| Err(Fault::Contract(what));
    let mut last_row = 0;
    for detection in &detections {
        let Some(&symbol) = batch.symbol.get(detection.row as usize) else {
            return broken(format!("a detection at row {} of a batch of {}", detection.row, batch.len()));
        };
        if detection.row < last_row {
            return broken(format!("a detection at row {} after one at row {last_row}", detection.row));
        }
        last_row = detection.row;
        // On a clock row a detector may report any symbol that it knows.
        let is_about_its_symbol = if symbol == CLOCK {
            introduced.get(detection.symbol as usize) == Some(&true)
        } else {
            detection.symbol == symbol
        };
        if !is_about_its_symbol {
            return broken(format!(
                "a detection at row {} about symbol {}, which is not the row's",
                detection.row, detection.symbol
            ));
        }
        if !(0.0..=1.0).contains(&detection.confidence) {
            return broken(format!("confidence {} is not in 0..=1", detection.confidence));
        }
        if let Some((name, value)) = detection.evidence.iter().find(|(_, value)| !value.is_finite()) {
            return broken(format!("evidence {name} is {value}"));
        }
    }
    Ok(detections)
}
