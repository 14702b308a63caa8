//! One detector at work in one shard.
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
    params::Value,
    registry::DetectorSpec,
};
use tickhound_core::event::{Batch, CLOCK};

/// A running detector.
pub struct Instance {
    store: Store<Guest>,
    guest: Detector,
    limits: Limits,
    /// Position in [`Batch::columns`] of each column that it asked for.
    columns: Arc<[Option<usize>]>,
    /// A column of NaN for what is asked for, optional and not there.
    absent: Vec<f64>,
    /// By symbol id, whether it was introduced.
    introduced: Vec<bool>,
    /// Event time that must pass before its first detection, seconds.
    pub warm_up_seconds: f64,
}

impl Instance {
    /// Starts a detector with its parameters.
    ///
    /// # Errors
    /// A fault, or its own sentence on why it refuses the parameters.
    pub fn new(spec: &DetectorSpec) -> Result<Self, Fault> {
        let DetectorSpec { plugin, params, columns, limits, .. } = spec;
        let (columns, limits) = (columns.clone(), *limits);
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
            Ok((_, Err(refusal))) => Err(Fault::Contract(format!("refused its parameters: {refusal}"))),
            Err(error) => Err(describe_fault(&error, &mut store, limits, Fault::Start)),
        }
    }

    /// What its memory takes, bytes; it never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Whether it was told of a symbol.
    pub fn knows(&self, symbol: u32) -> bool {
        self.introduced.get(symbol as usize) == Some(&true)
    }

    /// Names symbols before their first tick.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
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

    /// Works off one batch; detections come in the order of their rows and are within the contract.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
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

    /// What it remembers of those of `symbols` that it has seen: id and its own encoding.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
    pub fn save(&mut self, symbols: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
        self.begin(symbols.len());
        match self.guest.call_save(&mut self.store, symbols) {
            Ok(states) => {
                let wrong = states.iter().find(|saved| !symbols.contains(&saved.symbol));
                match wrong {
                    Some(saved) => Err(Fault::Contract(format!("saved symbol {}, unasked", saved.symbol))),
                    None => Ok(states.into_iter().map(|SymbolStateResult { symbol, state }| (symbol, state)).collect()),
                }
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Goes on with symbols, introduced before, where [`Instance::save`] left them. The inner error
    /// is the detector's own sentence on why it can't; then nothing has changed.
    ///
    /// # Errors
    /// A fault; the instance must be dropped.
    pub fn restore(&mut self, state_version: u32, states: &[(u32, &[u8])]) -> Result<Result<(), String>, Fault> {
        let states: Vec<SymbolStateParam<'_>> =
            states.iter().map(|(symbol, state)| SymbolStateParam { symbol: *symbol, state }).collect();
        self.begin(states.len());
        let answer = self.guest.call_restore(&mut self.store, state_version, &states);
        answer.map_err(|error| self.fault(&error))
    }

    /// Right before a call about so many rows or symbols.
    fn begin(&mut self, items: usize) {
        Guest::begin(&mut self.store, self.limits.deadline(items));
    }

    fn fault(&mut self, error: &wasmtime::Error) -> Fault {
        describe_fault(error, &mut self.store, self.limits, Fault::Deadline)
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

/// Refuses what the contract does not allow, so that nothing behind has to look again.
fn check(detections: Vec<Detection>, batch: &Batch, introduced: &[bool]) -> Result<Vec<Detection>, Fault> {
    let wrong = |what: String| Err(Fault::Contract(what));
    let mut last_row = 0;
    for found in &detections {
        let Some(&symbol) = batch.symbol.get(found.row as usize) else {
            return wrong(format!("a detection at row {} of a batch of {}", found.row, batch.len()));
        };
        if found.row < last_row {
            return wrong(format!("a detection at row {} after one at row {last_row}", found.row));
        }
        last_row = found.row;
        let about_it =
            if symbol == CLOCK { introduced.get(found.symbol as usize) == Some(&true) } else { found.symbol == symbol };
        if !about_it {
            return wrong(format!(
                "a detection at row {} about symbol {}, which is not the row's",
                found.row, found.symbol
            ));
        }
        if !(0.0..=1.0).contains(&found.confidence) {
            return wrong(format!("confidence {} is not in 0..=1", found.confidence));
        }
        if let Some((name, value)) = found.evidence.iter().find(|(_, value)| !value.is_finite()) {
            return wrong(format!("evidence {name} is {value}"));
        }
    }
    Ok(detections)
}
