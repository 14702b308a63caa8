//! An instance of a detector, which belongs to one shard.
//!
//! Invariant: after a [`Fault`] the instance is dropped, never called again.

use std::sync::Arc;

use wasmtime::Store;

use super::{
    answer::{StateSizes, check_states},
    call::Call,
    detection::{Detection, DetectionCheck, Judgment, check_judgments},
    exports::{self, Exports, NewGroup, NewSymbol, TickLists},
    facts::SymbolFacts,
    fault::{Fault, describe_fault},
    guest::{Guest, Limits},
    introduced::Introduced,
    packed::{ColumnValues, Parts, RowPacker, unpack},
    params::Params,
    probe_log::{ProbeLog, ProbeWriter},
    runtime::Plugin,
    texts::{MESSAGE_BYTES_MAX, shortened},
    view::GROUP_MARK,
    wiring::{ColumnSource, Constants, Wiring},
};
use tickhound_core::event::{Batch, CLOCK};

/// An instance of a detector: a guest with its parameters, its symbols and their states.
pub struct Instance {
    store: Store<Guest>,
    exports: Exports,
    limits: Limits,
    wiring: Arc<Wiring>,
    facts: SymbolFacts,
    constants: Constants,
    /// A column of NaN, for columns that a batch lacks. Contract 0.1 only.
    absent: Vec<f64>,
    /// The rows of a call. Contract 0.2 only.
    packer: RowPacker,
    introduced: Introduced,
    state_sizes: StateSizes,
    /// Where it writes what it looks at, if it is not an instance of a host.
    probe_writer: Option<Box<ProbeWriter>>,
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
        wiring: Arc<Wiring>,
        facts: SymbolFacts,
        limits: Limits,
    ) -> Result<Self, Fault> {
        let mut store = plugin.store(limits);
        let started = plugin.exports().instantiate(&mut store).and_then(|exports| {
            Guest::expect(&mut store, Call::Configure);
            let answer = exports.configure(&mut store, params)?;
            Ok((exports, answer))
        });
        match started {
            Ok((exports, Ok(warm_up_seconds))) => Ok(Self {
                store,
                exports,
                limits,
                constants: Constants::new(wiring.constants.len()),
                wiring,
                facts,
                absent: Vec::new(),
                packer: RowPacker::default(),
                introduced: Introduced::default(),
                state_sizes: StateSizes::default(),
                probe_writer: None,
                warm_up_seconds: checked_warm_up(warm_up_seconds)?,
            }),
            Ok((_, Err(rejection))) => {
                let rejection = shortened(&rejection, MESSAGE_BYTES_MAX);
                Err(Fault::Contract(format!("rejected its parameters: {rejection}")))
            }
            Err(error) => Err(describe_fault(&error, &mut store, limits, Fault::Start)),
        }
    }

    /// Has it write what it looks at to a log. From then on it detects nothing.
    pub(super) fn with_probe_log(self, log: Arc<ProbeLog>) -> Self {
        Self { probe_writer: Some(Box::new(ProbeWriter::new(log))), ..self }
    }

    /// Returns the size of its linear memories, bytes. It never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// Returns whether a symbol or group was introduced.
    pub fn knows(&self, id: u32) -> bool {
        self.introduced.contains(id)
    }

    /// Introduces symbols, and groups by the names under which they are interned, which must come before their first row.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn introduce(&mut self, names: &[(u32, &str)]) -> Result<(), Fault> {
        let (mut symbols, mut groups) = (Vec::new(), Vec::new());
        for (id, name) in names {
            if let Some(interned) = name.strip_prefix(GROUP_MARK) {
                let name = interned.split_once('/').map_or(interned, |(_, name)| name);
                self.introduced.add_group(*id);
                if let Some(writer) = &mut self.probe_writer {
                    writer.introduce(*id, name);
                }
                groups.push(NewGroup { id: *id, name });
            } else {
                self.introduced.add_symbol(*id);
                if let Some(writer) = &mut self.probe_writer {
                    writer.introduce(*id, name);
                }
                if self.constants.columns > 0 {
                    self.constants.set(*id, &self.facts.constants(&self.wiring, name));
                }
                symbols.push(NewSymbol { id: *id, name, texts: self.facts.texts(&self.wiring, name) });
            }
        }
        self.begin(Call::Introduce, names.len());
        let answer = self.exports.introduce(&mut self.store, &symbols, &groups);
        answer.map_err(|error| self.fault(&error))
    }

    /// Keeps those of `rows` that reach the detector, by its own conditions.
    pub fn keep_waking(&self, batch: &Batch, rows: &mut Vec<u32>) {
        rows.retain(|row| self.wiring.wakes(batch, *row as usize, &self.constants));
    }

    /// Processes one batch. The detections are in the order of their rows and meet the contract.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn detect(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        if self.probe_writer.is_some() {
            return self.write_probed(batch);
        }
        let clock_rows = batch.symbol.iter().filter(|symbol| **symbol == CLOCK).count();
        let call = Call::Detect { rows: batch.len(), clock_rows, owners: self.introduced.count() };
        self.begin(call, batch.len());
        match &self.exports {
            Exports::V0_1(_) => self.detect_lists(batch),
            Exports::V0_2 { .. } => self.detect_packed(batch),
        }
    }

    /// Processes one batch like [`Self::detect`], and returns what the detector has looked at; `None` if the plugin can't tell.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn probe(&mut self, batch: &Batch) -> Result<Option<Vec<Judgment>>, Fault> {
        let Exports::V0_2 { instance, probe: Some(probe), .. } = &self.exports else { return Ok(None) };
        let (instance, probe) = (*instance, *probe);
        let clock_rows = batch.symbol.iter().filter(|symbol| **symbol == CLOCK).count();
        self.begin(Call::Probe { rows: batch.len(), clock_rows, owners: self.introduced.count() }, batch.len());
        let Self { store, wiring, constants, packer, introduced, .. } = self;
        let packed = pack(packer, wiring, constants, batch);
        match exports::probe((&instance, &probe), store, batch.len() as u32, packed) {
            Ok(judgments) => check_judgments(judgments, batch, introduced).map(Some).map_err(Fault::Contract),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Processes one batch, and writes what the detector has looked at instead of returning detections.
    fn write_probed(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        let judgments = self.probe(batch)?.unwrap_or_default();
        let Self { probe_writer: Some(writer), wiring, constants, .. } = self else { return Ok(Vec::new()) };
        let value = |row: usize, source: &ColumnSource| match source {
            ColumnSource::Batch(_) => column(*source, batch).map_or(f64::NAN, |values| values[row]),
            ColumnSource::Constant(column) => constants.get(batch.symbol[row], *column),
            ColumnSource::Absent => f64::NAN,
        };
        writer.write(batch, judgments, |row| wiring.columns.iter().map(|source| value(row, source)).collect());
        Ok(Vec::new())
    }

    /// Saves the states of `owners`: the id and the plugin's own encoding of each that has one.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn save(&mut self, owners: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
        self.begin(Call::Save(owners.len()), owners.len());
        let answer = self.exports.save(&mut self.store, owners);
        let states = check_states(answer.map_err(|error| self.fault(&error))?, owners, self.limits)?;
        owners.iter().for_each(|owner| self.state_sizes.note(*owner, 0));
        states.iter().for_each(|(owner, state)| self.state_sizes.note(*owner, state.len()));
        self.state_sizes.check(self.limits)?;
        Ok(states)
    }

    /// Restores states that [`Instance::save`] returned. Their symbols and groups must have been introduced. The inner error is
    /// the plugin's own reason for rejecting the states, after which nothing has changed.
    ///
    /// # Errors
    /// Returns a fault, after which the instance must be dropped.
    pub fn restore(&mut self, state_version: u32, states: &[(u32, &[u8])]) -> Result<Result<(), String>, Fault> {
        self.begin(Call::Restore, states.len());
        let answer = self.exports.restore(&mut self.store, state_version, states);
        let answer = answer.map_err(|error| self.fault(&error))?;
        if answer.is_ok() {
            states.iter().for_each(|(owner, state)| self.state_sizes.note(*owner, state.len()));
        }
        Ok(answer.map_err(|rejection| shortened(&rejection, MESSAGE_BYTES_MAX).into_owned()))
    }

    /// Processes a batch by contract 0.1.
    fn detect_lists(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        let Self { store, exports, wiring, absent, introduced, .. } = self;
        let Exports::V0_1(guest) = exports else { return Ok(Vec::new()) };
        // The rows of an older batch lack the times of the session if no detector had asked for them.
        if wiring.columns.iter().any(|source| column(*source, batch).is_none()) {
            absent.resize(batch.len(), f64::NAN);
        }
        let columns: Vec<&[f64]> = wiring
            .columns
            .iter()
            .map(|source| column(*source, batch).unwrap_or_else(|| &absent[..batch.len()]))
            .collect();
        let ticks = TickLists { symbols: &batch.symbol, times: &batch.time, prices: &batch.price, columns: &columns };
        match exports::detect_lists(guest, store, ticks) {
            Ok(detections) => {
                let mut check = DetectionCheck::new(batch, introduced, false);
                detections.iter().try_for_each(|detection| check.accept(detection)).map_err(Fault::Contract)?;
                Ok(detections)
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Processes a batch by contract 0.2.
    fn detect_packed(&mut self, batch: &Batch) -> Result<Vec<Detection>, Fault> {
        let Self { store, exports, wiring, constants, packer, introduced, .. } = self;
        let Exports::V0_2 { detector, .. } = exports else { return Ok(Vec::new()) };
        let packed = pack(packer, wiring, constants, batch);
        match detector.call_detect(store, batch.len() as u32, packed) {
            Ok(packed) => {
                let mut check = DetectionCheck::new(batch, introduced, wiring.view.has_groups());
                unpack(&packed, |detection| check.accept(detection)).map_err(Fault::Contract)
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// Sets the limits of the call that follows, for `items` rows, symbols or states.
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

/// Returns a column of a batch; `None` if the batch lacks it.
fn column(source: ColumnSource, batch: &Batch) -> Option<&[f64]> {
    let ColumnSource::Batch(position) = source else { return None };
    batch.columns.get(position).map(Vec::as_slice).filter(|values| values.len() == batch.len())
}

fn pack<'a>(packer: &'a mut RowPacker, wiring: &Wiring, constants: &Constants, batch: &Batch) -> &'a [u8] {
    let parts = Parts { groups: wiring.view.has_groups(), feeds: wiring.view.has_feeds() };
    let columns = wiring.columns.iter().map(|source| match source {
        ColumnSource::Constant(column) => {
            ColumnValues::Symbols { values: &constants.values, columns: constants.columns, column: *column }
        }
        source => column(*source, batch).map_or(ColumnValues::Absent, ColumnValues::Rows),
    });
    packer.pack(batch, columns, parts)
}

/// Checks the time that a guest wants to warm up.
fn checked_warm_up(seconds: f64) -> Result<f64, Fault> {
    if seconds.is_finite() && seconds >= 0.0 {
        Ok(seconds)
    } else {
        Err(Fault::Contract(format!("a warm-up of {seconds} seconds")))
    }
}
