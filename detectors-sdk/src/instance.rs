//! A configured detector and the state of each of its symbols.
//!
//! The same code serves the WebAssembly build and the native harness. Nothing
//! here differs between two runs: symbols are visited in the order of their ids.

use crate::{
    Clock, Detector, Tick,
    contract::{Batch, Detection, Manifest, Readiness, Symbol, SymbolState, Value},
    params,
};

/// Stands for no symbol: event time has reached a whole second.
pub(crate) const CLOCK: u32 = u32::MAX;

/// What stands behind the contract's functions.
pub struct Instance<D: Detector> {
    detector: Option<D>,
    /// By symbol id; `None` for an id that belongs to another shard.
    slots: Vec<Option<Slot<D::State>>>,
}

struct Slot<S> {
    name: String,
    /// `None` until the first tick.
    state: Option<S>,
}

impl<D: Detector> Instance<D> {
    /// Not configured, knows no symbol.
    #[expect(clippy::new_without_default, reason = "made in a constant, where `default` can't be called")]
    pub const fn new() -> Self {
        Self { detector: None, slots: Vec::new() }
    }

    pub(crate) fn describe() -> Manifest {
        Manifest { state_version: D::STATE_VERSION, state_outlives_params: D::STATE_OUTLIVES_PARAMS, ..D::manifest().0 }
    }

    pub(crate) fn configure(&mut self, values: &[(String, Value)]) -> Result<Readiness, String> {
        let detector = D::new(params::from_values(values)?)?;
        let warm_up_seconds = detector.warm_up().as_secs_f64();
        self.detector = Some(detector);
        Ok(Readiness { warm_up_seconds })
    }

    pub(crate) fn introduce(&mut self, symbols: Vec<Symbol>) {
        for Symbol { id, name } in symbols {
            let index = id as usize;
            if index >= self.slots.len() {
                self.slots.resize_with(index + 1, || None);
            }
            self.slots[index] = Some(Slot { name, state: None });
        }
    }

    pub(crate) fn detect(&mut self, ticks: &Batch) -> Vec<Detection> {
        let Some(detector) = &self.detector else { panic!("the host called `detect` before `configure`") };
        let mut detections = Vec::new();
        let rows = ticks.symbols.iter().zip(&ticks.times).zip(&ticks.prices);
        for (row, ((&symbol, &time), &price)) in rows.enumerate() {
            if symbol == CLOCK {
                if D::WANTS_CLOCK {
                    strike(detector, &mut self.slots, time, row as u32, &mut detections);
                }
                continue;
            }
            let Some(Some(slot)) = self.slots.get_mut(symbol as usize) else {
                panic!("the host sent a tick of symbol {symbol} before introducing it")
            };
            let tick = Tick { time, price, symbol: &slot.name, columns: &ticks.columns, row };
            if let Some(detection) = detector.on_tick(slot.state.get_or_insert_default(), &tick) {
                detections.push(detection.at(row as u32, symbol));
            }
        }
        detections
    }

    pub(crate) fn save(&self, symbols: &[u32]) -> Vec<SymbolState> {
        let saved = symbols.iter().filter_map(|&symbol| {
            let state = self.slots.get(symbol as usize)?.as_ref()?.state.as_ref()?;
            let state = postcard::to_allocvec(state).unwrap_or_else(|error| panic!("can't save a state: {error}"));
            Some(SymbolState { symbol, state })
        });
        saved.collect()
    }

    pub(crate) fn restore(&mut self, state_version: u32, states: &[SymbolState]) -> Result<(), String> {
        if state_version != D::STATE_VERSION {
            return Err(format!("saved under state version {state_version}, this detector reads {}", D::STATE_VERSION));
        }
        let mut decoded = Vec::with_capacity(states.len());
        for SymbolState { symbol, state } in states {
            let Some(Some(slot)) = self.slots.get(*symbol as usize) else {
                return Err(format!("symbol {symbol} was not introduced"));
            };
            let unreadable = |why: &str| format!("the state of {} can't be read: {why}", slot.name);
            let (state, rest) =
                postcard::take_from_bytes::<D::State>(state).map_err(|error| unreadable(&error.to_string()))?;
            if !rest.is_empty() {
                return Err(unreadable("it goes on after its end"));
            }
            decoded.push((*symbol as usize, state));
        }
        for (index, state) in decoded {
            if let Some(slot) = &mut self.slots[index] {
                slot.state = Some(state);
            }
        }
        Ok(())
    }
}

/// Tells every symbol that has a state that event time has reached a whole second.
fn strike<D: Detector>(
    detector: &D,
    slots: &mut [Option<Slot<D::State>>],
    time: u64,
    row: u32,
    detections: &mut Vec<Detection>,
) {
    for (symbol, slot) in slots.iter_mut().enumerate() {
        let Some(Slot { name, state: Some(state) }) = slot else { continue };
        if let Some(detection) = detector.on_clock(state, &Clock { time, symbol: name }) {
            detections.push(detection.at(row, symbol as u32));
        }
    }
}
