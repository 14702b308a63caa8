//! A configured detector and the state of each of its symbols.
//!
//! The WebAssembly build and the native harness use the same code. Nothing here
//! differs between two runs: symbols are visited in the order of their ids.

use crate::{
    Clock, Detector, Tick,
    contract::{Batch, Detection, Manifest, Readiness, Symbol, SymbolState, Value},
    params,
};

/// The id that marks a clock row: event time has reached a whole second.
pub(crate) const CLOCK: u32 = u32::MAX;

/// The implementation of the contract's functions.
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
    /// Returns an instance without a configuration and symbols.
    #[expect(clippy::new_without_default, reason = "made in a constant, where `default` can't be called")]
    pub const fn new() -> Self {
        Self { detector: None, slots: Vec::new() }
    }

    pub(crate) fn describe() -> Manifest {
        Manifest {
            state_version: D::STATE_VERSION,
            state_outlives_params: D::STATE_OUTLIVES_PARAMS,
            wants_clock: D::WANTS_CLOCK,
            ..D::manifest().0
        }
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

/// Calls `on_clock` for every symbol that has a state.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts ticks and seconds of each symbol, and tells each.
    struct Count;

    impl Detector for Count {
        type Params = ();
        type State = (u32, u32);
        const STATE_VERSION: u32 = 3;
        const WANTS_CLOCK: bool = true;

        fn manifest() -> crate::Manifest {
            crate::Manifest::new("count", "1.0.0", "Counts.")
        }

        fn new((): ()) -> Result<Self, String> {
            Ok(Self)
        }

        fn on_tick(&self, state: &mut (u32, u32), tick: &Tick<'_>) -> Option<crate::Detection> {
            state.0 += 1;
            Some(crate::Detection::up(tick.price / 1000.0).with(tick.symbol(), f64::from(state.0)))
        }

        fn on_clock(&self, state: &mut (u32, u32), clock: &Clock<'_>) -> Option<crate::Detection> {
            state.1 += 1;
            Some(crate::Detection::neutral(0.0).with(clock.symbol(), clock.seconds()))
        }
    }

    /// Ids 2 (A), 5 (B) and 7 (C), of which A and B have had a tick.
    fn instance() -> Instance<Count> {
        let mut instance = Instance::new();
        instance.configure(&[]).unwrap();
        for (id, name) in [(7, "C"), (2, "A"), (5, "B")] {
            instance.introduce(vec![Symbol { id, name: name.into() }]);
        }
        instance.detect(&batch(&[(5, 1), (2, 2)]));
        instance
    }

    fn batch(rows: &[(u32, u64)]) -> Batch {
        Batch {
            symbols: rows.iter().map(|row| row.0).collect(),
            times: rows.iter().map(|row| row.1).collect(),
            prices: rows.iter().map(|row| if row.0 == CLOCK { f64::NAN } else { 100.0 }).collect(),
            columns: Vec::new(),
        }
    }

    fn told(detections: Vec<Detection>) -> Vec<(u32, u32, String, f64)> {
        let one = |mut detection: Detection| {
            let (name, value) = detection.evidence.remove(0);
            (detection.row, detection.symbol, name, value)
        };
        detections.into_iter().map(one).collect()
    }

    #[test]
    fn rows_reach_their_symbol_and_seconds_every_symbol_that_had_a_tick() {
        let detections = instance().detect(&batch(&[(2, 3), (CLOCK, 5_000_000_000), (7, 5_000_000_001)]));
        let expected = [(0, 2, "A", 2.0), (1, 2, "A", 5.0), (1, 5, "B", 5.0), (2, 7, "C", 1.0)];
        assert_eq!(told(detections), expected.map(|(row, symbol, name, value)| (row, symbol, name.to_owned(), value)));
    }

    #[test]
    fn saved_states_restore_under_other_ids_and_unseen_symbols_have_none() {
        let instance = instance();
        let mut saved = instance.save(&[2, 3, 7, 5, 900]);
        assert_eq!(saved.iter().map(|state| state.symbol).collect::<Vec<_>>(), [2, 5]);

        let mut other = Instance::<Count>::new();
        other.configure(&[]).unwrap();
        other.introduce(vec![Symbol { id: 0, name: "B".into() }]);
        saved.remove(0);
        saved[0].symbol = 0;
        assert_eq!(other.restore(3, &saved), Ok(()));
        assert_eq!(told(other.detect(&batch(&[(0, 9)]))), [(0, 0, "B".to_owned(), 2.0)]);
    }

    #[test]
    fn a_refused_restore_changes_nothing() {
        let mut instance = instance();
        let before = instance.save(&[2, 5, 7]);
        let good = SymbolState { symbol: 2, state: vec![9, 9] };
        let bad = |symbol: u32, state: &[u8]| SymbolState { symbol, state: state.to_vec() };
        for (version, second, told) in [
            (2, bad(5, &[1, 1]), "saved under state version 2, this detector reads 3"),
            (3, bad(4, &[1, 1]), "symbol 4 was not introduced"),
            (3, bad(5, &[1]), "the state of B can't be read: Hit the end of buffer, expected more data"),
            (3, bad(5, &[1, 1, 1]), "the state of B can't be read: it goes on after its end"),
        ] {
            assert_eq!(instance.restore(version, &[good.clone(), second]).unwrap_err(), told);
            assert_eq!(instance.save(&[2, 5, 7]), before);
        }
        assert_eq!(instance.restore(3, &[good]), Ok(()));
        assert_eq!(instance.save(&[2])[0].state, [9, 9]);
    }
}
