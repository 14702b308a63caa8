//! Implements the functions that a WebAssembly build exports with an [`Instance`].

use crate::{
    __private::bindings::Guest,
    Detector,
    contract::{Batch, Detection, Manifest, Readiness, Symbol, SymbolState, Value},
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

    fn introduce(symbols: Vec<Symbol>) {
        P::with(|instance| instance.introduce(symbols));
    }

    fn detect(ticks: Batch) -> Vec<Detection> {
        P::with(|instance| instance.detect(&ticks))
    }

    fn save(symbols: Vec<u32>) -> Vec<SymbolState> {
        P::with(|instance| instance.save(&symbols))
    }

    fn restore(state_version: u32, states: Vec<SymbolState>) -> Result<(), String> {
        P::with(|instance| instance.restore(state_version, &states))
    }
}
