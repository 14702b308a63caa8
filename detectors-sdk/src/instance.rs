//! A configured detector and its states, each of a symbol or a group.
//!
//! The WebAssembly build and the native harness use the same code. Nothing here
//! differs between two runs: states are visited in the order of their ids.

use std::cell::RefCell;

use crate::{
    Clock, Detection, Detector,
    contract::{Gate, Group, Judgment, Manifest, Readiness, SavedState, Symbol, Value},
    packed::{Batch, CLOCK, pack_detection},
    params,
    row::{Named, Source, named, unknown},
    shape::{RowKind, Shape},
};

/// The implementation of the contract's functions.
pub struct Instance<D: Detector> {
    configured: Option<Configured<D>>,
    owners: Owners<D::State>,
}

struct Configured<D> {
    detector: D,
    shape: Shape,
}

/// The symbols and groups that were introduced, and the states of those that own one.
struct Owners<S> {
    /// By id; `None` for an id that belongs to another shard.
    names: Vec<Option<Named>>,
    /// By id.
    states: Vec<Slot<S>>,
    /// The newest id of each symbol, in the order of their names, for detections of groups, which name symbols.
    symbols: Vec<u32>,
}

/// Where the state of an id is.
enum Slot<S> {
    /// The id was not introduced.
    Unknown,
    /// It has had no row.
    Empty,
    State(S),
}

/// Symbols by name.
#[derive(Clone, Copy)]
struct Symbols<'a> {
    names: &'a [Option<Named>],
    /// In the order of names.
    ids: &'a [u32],
}

/// What a call has found so far.
struct Outcome {
    /// The detections, packed.
    detections: Vec<u8>,
    judgments: Vec<Judgment>,
}

impl<D: Detector> Instance<D> {
    /// Returns an instance without a configuration and symbols.
    #[expect(clippy::new_without_default, reason = "made in a constant, where `default` can't be called")]
    pub const fn new() -> Self {
        let owners = Owners { names: Vec::new(), states: Vec::new(), symbols: Vec::new() };
        Self { configured: None, owners }
    }

    pub(crate) fn describe() -> Manifest {
        Manifest {
            state_version: D::STATE_VERSION,
            state_outlives_params: D::STATE_OUTLIVES_PARAMS,
            wants_clock: D::WANTS_CLOCK,
            ..D::manifest().described()
        }
    }

    pub(crate) fn configure(&mut self, values: &[(String, Value)]) -> Result<Readiness, String> {
        let shape = Shape::new(&Self::describe(), values)?;
        let detector = D::new(params::from_values(values)?)?;
        let warm_up_seconds = detector.warm_up().as_secs_f64();
        self.configured = Some(Configured { detector, shape });
        Ok(Readiness { warm_up_seconds })
    }

    pub(crate) fn introduce(&mut self, symbols: Vec<Symbol>, groups: Vec<Group>) {
        for Symbol { id, name, texts } in symbols {
            self.owners.add(id, Named { name, texts });
            if self.configured.as_ref().is_some_and(|configured| configured.shape.has_groups()) {
                self.owners.add_symbol(id);
            }
        }
        for Group { id, name } in groups {
            self.owners.add(id, Named { name, texts: Vec::new() });
        }
    }

    /// Processes rows, and returns the detections, packed.
    pub(crate) fn detect(&mut self, rows: u32, values: &[u8]) -> Vec<u8> {
        self.process((rows, values), None).detections
    }

    /// Processes rows like [`detect`](Self::detect), and returns what was looked at.
    pub(crate) fn probe(&mut self, rows: u32, values: &[u8]) -> Vec<Judgment> {
        self.process((rows, values), Some(&RefCell::default())).judgments
    }

    // Not once for each caller: the author's code would be in the file twice.
    #[inline(never)]
    fn process(&mut self, rows: (u32, &[u8]), gates: Option<&RefCell<Vec<Gate>>>) -> Outcome {
        let Some(Configured { detector, shape }) = &self.configured else {
            panic!("the host called `detect` before `configure`")
        };
        let Owners { names, states, symbols } = &mut self.owners;
        let symbols = Symbols { names, ids: symbols };
        let batch = Batch::new(shape, names, rows, gates);
        let mut outcome = Outcome { detections: Vec::new(), judgments: Vec::new() };
        for (row, id, time, price) in batch.rows() {
            if id == CLOCK {
                if D::WANTS_CLOCK {
                    strike(detector, &batch, (row as u32, time), (states, symbols), &mut outcome);
                }
                continue;
            }
            let owner = batch.owner(row, id);
            let state = match states.get_mut(owner as usize) {
                Some(Slot::State(state)) => state,
                slot => begin(slot, owner),
            };
            let source = Source { batch: &batch, row, id, owner };
            let detection = match batch.kind(row) {
                RowKind::Tick => detector.on_tick(state, &source.tick(time, price)),
                RowKind::Bar(length) => detector.on_bar(state, &source.bar(time, price, length)),
                RowKind::Snapshot(length) => detector.on_snapshot(state, &source.snapshot(time, price, length)),
            };
            if detection.is_some() || gates.is_some() {
                outcome.add(&batch, (row as u32, owner), detection, symbols);
            }
        }
        outcome
    }

    pub(crate) fn save(&self, owners: &[u32]) -> Vec<SavedState> {
        let saved = owners.iter().filter_map(|&owner| {
            let Slot::State(state) = self.owners.states.get(owner as usize)? else { return None };
            let state = postcard::to_allocvec(state).unwrap_or_else(|error| panic!("can't save a state: {error}"));
            Some(SavedState { owner, state })
        });
        saved.collect()
    }

    pub(crate) fn restore(&mut self, state_version: u32, states: &[SavedState]) -> Result<(), String> {
        if state_version != D::STATE_VERSION {
            return Err(format!("saved under state version {state_version}, this detector reads {}", D::STATE_VERSION));
        }
        let mut decoded = Vec::with_capacity(states.len());
        for SavedState { owner, state } in states {
            let Some(Some(named)) = self.owners.names.get(*owner as usize) else {
                return Err(format!("symbol {owner} was not introduced"));
            };
            let unreadable = |why: &str| format!("the state of {} can't be read: {why}", named.name);
            let (state, rest) =
                postcard::take_from_bytes::<D::State>(state).map_err(|error| unreadable(&error.to_string()))?;
            if !rest.is_empty() {
                return Err(unreadable("it goes on after its end"));
            }
            decoded.push((*owner as usize, state));
        }
        for (index, state) in decoded {
            self.owners.states[index] = Slot::State(state);
        }
        Ok(())
    }
}

impl<S> Owners<S> {
    fn add(&mut self, id: u32, named: Named) {
        let index = id as usize;
        if index >= self.names.len() {
            self.names.resize_with(index + 1, || None);
            self.states.resize_with(index + 1, || Slot::Unknown);
        }
        self.names[index] = Some(named);
        self.states[index] = Slot::Empty;
    }

    /// Makes a symbol that was added known by its name.
    fn add_symbol(&mut self, id: u32) {
        let symbols = Symbols { names: &self.names, ids: &self.symbols };
        match symbols.search(&named(&self.names, id).name) {
            Ok(at) => self.symbols[at] = id,
            Err(at) => self.symbols.insert(at, id),
        }
    }
}

impl Symbols<'_> {
    /// Returns the position of a name among the ids, or where it belongs.
    fn search(&self, name: &str) -> Result<usize, usize> {
        self.ids.binary_search_by(|&id| named(self.names, id).name.as_str().cmp(name))
    }
}

impl Outcome {
    // Out of line, since few rows have something to add.
    #[cold]
    fn add(&mut self, batch: &Batch<'_>, (row, owner): (u32, u32), detection: Option<Detection>, symbols: Symbols<'_>) {
        if let Some(detection) = detection {
            assert!(
                batch.shape.has_groups() || detection.about.is_none() && detection.members.is_empty(),
                "only a detection of a group is about a member, or has members"
            );
            let id_of = |name: &str| match symbols.search(name) {
                Ok(at) => symbols.ids[at],
                Err(_) => panic!("a detection names the symbol `{name}`, which the host has not introduced"),
            };
            pack_detection(&detection, row, owner, id_of, &mut self.detections);
        }
        let gates = batch.take_gates();
        if !gates.is_empty() {
            self.judgments.push(Judgment { row, owner, gates });
        }
    }
}

/// Begins the state of an id that was introduced.
#[cold]
fn begin<S: Default>(slot: Option<&mut Slot<S>>, owner: u32) -> &mut S {
    let Some(slot @ Slot::Empty) = slot else { unknown(owner) };
    *slot = Slot::State(S::default());
    let Slot::State(state) = slot else { unknown(owner) };
    state
}

/// Calls `on_clock` for every state.
fn strike<D: Detector>(
    detector: &D,
    batch: &Batch<'_>,
    (row, time): (u32, u64),
    (states, symbols): (&mut [Slot<D::State>], Symbols<'_>),
    outcome: &mut Outcome,
) {
    for (owner, (name, slot)) in batch.names.iter().zip(states).enumerate() {
        let (Some(Named { name, .. }), Slot::State(state)) = (name, slot) else { continue };
        let detection = detector.on_clock(state, &Clock { time, batch, owner: name });
        if detection.is_some() || batch.gates.is_some() {
            outcome.add(batch, (row, owner as u32), detection, symbols);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Tick,
        harness::detections::{RawDetection, unpack},
    };

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
            instance.introduce(vec![symbol(id, name)], Vec::new());
        }
        detect(&mut instance, &[(5, 1), (2, 2)]);
        instance
    }

    /// Packs rows of an id and a time.
    fn packed(rows: &[(u32, u64)]) -> Vec<u8> {
        let price = |row: &(u32, u64)| if row.0 == CLOCK { f64::NAN } else { 100.0 };
        let times = rows.iter().flat_map(|row| row.1.to_le_bytes());
        let prices = rows.iter().flat_map(|row| price(row).to_le_bytes());
        let symbols = rows.iter().flat_map(|row| row.0.to_le_bytes());
        times.chain(prices).chain(symbols).collect()
    }

    fn detect(instance: &mut Instance<Count>, rows: &[(u32, u64)]) -> Vec<(u32, u32, String, f64)> {
        let one = |mut raw: RawDetection| {
            assert_eq!(raw.about, raw.owner);
            let (name, value) = raw.detection.evidence.remove(0);
            (raw.row, raw.owner, name, value)
        };
        unpack(&instance.detect(rows.len() as u32, &packed(rows))).into_iter().map(one).collect()
    }

    fn symbol(id: u32, name: &str) -> Symbol {
        Symbol { id, name: name.into(), texts: Vec::new() }
    }

    #[test]
    fn rows_reach_their_symbol_and_seconds_every_symbol_that_had_a_tick() {
        let detections = detect(&mut instance(), &[(2, 3), (CLOCK, 5_000_000_000), (7, 5_000_000_001)]);
        let expected = [(0, 2, "A", 2.0), (1, 2, "A", 5.0), (1, 5, "B", 5.0), (2, 7, "C", 1.0)];
        assert_eq!(detections, expected.map(|(row, symbol, name, value)| (row, symbol, name.to_owned(), value)));
    }

    #[test]
    fn saved_states_restore_under_other_ids_and_unseen_symbols_have_none() {
        let instance = instance();
        let mut saved = instance.save(&[2, 3, 7, 5, 900]);
        assert_eq!(saved.iter().map(|state| state.owner).collect::<Vec<_>>(), [2, 5]);

        let mut other = Instance::<Count>::new();
        other.configure(&[]).unwrap();
        other.introduce(vec![symbol(0, "B")], Vec::new());
        saved.remove(0);
        saved[0].owner = 0;
        assert_eq!(other.restore(3, &saved), Ok(()));
        assert_eq!(detect(&mut other, &[(0, 9)]), [(0, 0, "B".to_owned(), 2.0)]);
    }

    #[test]
    fn a_refused_restore_changes_nothing() {
        let mut instance = instance();
        let before = instance.save(&[2, 5, 7]);
        let good = SavedState { owner: 2, state: vec![9, 9] };
        let bad = |owner: u32, state: &[u8]| SavedState { owner, state: state.to_vec() };
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
