//! Implements the functions that a WebAssembly build exports with an [`Instance`].

use crate::{
    __private::bindings::Guest,
    Detector,
    contract::{Group, Judgment, Manifest, Readiness, SavedState, Symbol, Value},
    instance::Instance,
};

/// The owner of a module's one instance; [`detector!`](crate::detector) implements it.
pub trait Plugin {
    /// The author's detector.
    type Detector: Detector;

    /// Calls `call` with the instance.
    fn with<R>(call: impl FnOnce(&mut Instance<Self::Detector>) -> R) -> R;
}

impl<P: Plugin> Guest for P {
    fn describe() -> Manifest {
        #[cfg(target_family = "wasm")]
        crate::panic::install();
        Instance::<P::Detector>::describe()
    }

    fn configure(params: Vec<(String, Value)>) -> Result<Readiness, String> {
        #[cfg(target_family = "wasm")]
        crate::panic::install();
        P::with(|instance| instance.configure(&params))
    }

    fn introduce(symbols: Vec<Symbol>, groups: Vec<Group>) {
        P::with(|instance| instance.introduce(symbols, groups));
    }

    fn detect(rows: u32, values: Vec<u8>) -> Vec<u8> {
        P::with(|instance| instance.detect(rows, &values))
    }

    fn save(owners: Vec<u32>) -> Vec<SavedState> {
        P::with(|instance| instance.save(&owners))
    }

    fn restore(state_version: u32, states: Vec<SavedState>) -> Result<(), String> {
        P::with(|instance| instance.restore(state_version, &states))
    }

    fn probe(rows: u32, values: Vec<u8>) -> Vec<Judgment> {
        P::with(|instance| instance.probe(rows, &values))
    }
}
