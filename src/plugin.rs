//! Plugins: from a `.wasm` file to detections, under limits.
//!
//! `runtime` compiles a file and refuses what is no detector, `params` checks
//! the configuration against the manifest, `registry` makes the set in force,
//! `instance` is one detector at work in one shard, `guest` the store and the
//! limits that it runs in, `fault` what can go wrong there.
//!
//! Invariants: a detector can call nothing (its world has no imports), one
//! instance has one owner, and an instance that trapped is never called again.

mod fault;
mod guest;
mod health;
pub mod instance;
pub mod params;
pub mod registry;
pub mod reload;
pub mod runtime;

pub use self::{
    fault::Fault,
    guest::Limits,
    health::Health,
    instance::Instance,
    registry::{DetectorSpec, Generation},
    reload::{Refusal, Reload},
    runtime::{Plugin, Runtime},
};

#[expect(missing_docs, reason = "generated from the WIT, which documents it")]
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "detectors-sdk/wit",
        world: "detector",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
