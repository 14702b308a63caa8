//! Plugins: from a `.wasm` file to detections, under limits.
//!
//! `watch` notices that something has changed, `loader` makes a generation of what
//! is there: `folder` reads a file, `runtime` compiles it and refuses what is no
//! detector, `code` keeps what it compiled, `params` checks the configuration against the manifest, `trial` calls
//! it for the first time, `registry` holds the result, and `reload` hands it over.
//! `instance` is one detector at work in one shard, `guest` the store and the limits
//! that it runs in, `deadline` how long a call may take, `fault` what can go wrong there, `health` how often it did.
//!
//! Invariants: a detector can call nothing (its world has no imports), one
//! instance has one owner, and an instance that trapped is never called again.

pub mod code;
mod deadline;
mod fault;
pub mod folder;
mod guest;
mod health;
pub mod instance;
pub mod loader;
pub mod params;
pub mod registry;
pub mod reload;
pub mod runtime;
mod trial;
pub mod watch;

pub use self::{
    deadline::OutOfTime,
    fault::Fault,
    guest::Limits,
    health::Health,
    instance::Instance,
    loader::Loader,
    registry::{DetectorSpec, Flow, Generation},
    reload::Reload,
    runtime::{Plugin, Runtime},
};

#[expect(missing_docs, reason = "generated from the WIT, which documents it")]
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "../../detectors-sdk/wit",
        world: "detector",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
