//! An instance of a detector, which belongs to one shard.
//!
//! Invariant: after a [`Fault`] the instance is dropped, never called again.

use std::sync::Arc;

use wasmtime::Store;

use super::{
    answer::{Introduced, StateSizes, check_detections, check_states},
    bindings::{
        Detector,
        tickhound::detector::types::{Batch as TicksParam, Detection, Symbol, SymbolStateParam, ValueParam},
    },
    call::Call,
    fault::{Fault, describe_fault},
    guest::{Guest, Limits},
    params::{Params, Value},
    runtime::Plugin,
    texts::{MESSAGE_BYTES_MAX, shortened},
};
use tickhound_core::event::{Batch, CLOCK};

/// The first character of the name under which a group is interned, which no symbol has. The name of its family and `/` follow,
/// and then its own name; of the group of all symbols, its own name alone.
pub const GROUP_MARK: char = '\0';

/// An instance of a detector: a guest with its parameters, its symbols and their states.
pub struct Instance {
    store: Store<Guest>,
    guest: Detector,
    limits: Limits,
    /// The position in [`Batch::columns`] of each column that the plugin asks for.
    columns: Arc<[Option<usize>]>,
    /// A column of NaN, for optional columns that the input lacks.
    absent: Vec<f64>,
    introduced: Introduced,
    state_sizes: StateSizes,
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
            Guest::expect(&mut store, Call::Configure);
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
                introduced: Introduced::default(),
                state_sizes: StateSizes::default(),
                warm_up_seconds: checked_warm_up(readiness.warm_up_seconds)?,
            }),
            Ok((_, Err(rejection))) => {
                let rejection = shortened(&rejection, MESSAGE_BYTES_MAX);
                Err(Fault::Contract(format!("rejected its parameters: {rejection}")))
            }
            Err(error) => Err(describe_fault(&error, &mut store, limits, Fault::Start)),
        }
    }

    /// Returns the size of its linear memories, bytes. It never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Returns whether a symbol was introduced.
    pub fn knows(&self, symbol: u32) -> bool {
        self.introduced.contains(symbol)
    }

    /// Introduces symbols, which must come before their first tick.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn introduce(&mut self, symbols: &[(u32, &str)]) -> Result<(), Fault> {
        symbols.iter().for_each(|(id, _)| self.introduced.add(*id));
        let symbols: Vec<Symbol<'_>> = symbols.iter().map(|(id, name)| Symbol { id: *id, name }).collect();
        self.begin(Call::Introduce, symbols.len());
        let answer = self.guest.call_introduce(&mut self.store, &symbols);
        answer.map_err(|error| self.fault(&error))
    }

    /// Processes one batch. The detections are in the order of their rows and meet the contract.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn detect(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        // The rows of an older batch lack the times of the session if no detector had asked for them.
        if self.columns.iter().any(|position| position.is_none_or(|position| position >= batch.columns.len())) {
            self.absent.resize(batch.len(), f64::NAN);
        }
        let columns: Vec<&[f64]> = self
            .columns
            .iter()
            .map(|position| match position.and_then(|position| batch.columns.get(position)) {
                Some(column) => column.as_slice(),
                None => &self.absent[..batch.len()],
            })
            .collect();
        let ticks_param =
            TicksParam { symbols: &batch.symbol, times: &batch.time, prices: &batch.price, columns: &columns };
        let clock_rows = batch.symbol.iter().filter(|symbol| **symbol == CLOCK).count();
        let call = Call::Detect { rows: batch.len(), clock_rows, symbols: self.introduced.count() };
        Guest::begin(&mut self.store, call, self.limits.deadline(batch.len()));
        match self.guest.call_detect(&mut self.store, ticks_param) {
            Ok(detections) => check_detections(detections, batch, &self.introduced),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Saves the states of `symbols`: the id and the plugin's own encoding of each that has one.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn save(&mut self, symbols: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
        self.begin(Call::Save(symbols.len()), symbols.len());
        let answer = self.guest.call_save(&mut self.store, symbols);
        let states = check_states(answer.map_err(|error| self.fault(&error))?, symbols, self.limits)?;
        symbols.iter().for_each(|symbol| self.state_sizes.note(*symbol, 0));
        states.iter().for_each(|(symbol, state)| self.state_sizes.note(*symbol, state.len()));
        self.state_sizes.check(self.limits)?;
        Ok(states)
    }

    /// Restores states that [`Instance::save`] returned. Their symbols must have been introduced. The inner error is the
    /// plugin's own reason for rejecting the states, after which nothing has changed.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn restore(&mut self, state_version: u32, states: &[(u32, &[u8])]) -> Result<Result<(), String>, Fault> {
        let params: Vec<SymbolStateParam<'_>> =
            states.iter().map(|(symbol, state)| SymbolStateParam { symbol: *symbol, state }).collect();
        self.begin(Call::Restore, states.len());
        let answer = self.guest.call_restore(&mut self.store, state_version, &params);
        let answer = answer.map_err(|error| self.fault(&error))?;
        if answer.is_ok() {
            states.iter().for_each(|(symbol, state)| self.state_sizes.note(*symbol, state.len()));
        }
        Ok(answer.map_err(|rejection| shortened(&rejection, MESSAGE_BYTES_MAX).into_owned()))
    }

    /// Sets the limits of the call that follows, for `items` rows or symbols.
    fn begin(&mut self, call: Call, items: usize) {
        Guest::begin(&mut self.store, call, self.limits.deadline(items));
    }

    fn fault(&mut self, error: &wasmtime::Error) -> Fault {
        match describe_fault(error, &mut self.store, self.limits, Fault::Deadline) {
            Fault::Memory { limit_mib, .. } => Fault::Memory { limit_mib, symbols: self.introduced.count() },
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

/// Checks the time that a guest wants to warm up.
fn checked_warm_up(seconds: f64) -> Result<f64, Fault> {
    if seconds.is_finite() && seconds >= 0.0 {
        Ok(seconds)
    } else {
        Err(Fault::Contract(format!("a warm-up of {seconds} seconds")))
    }
}
