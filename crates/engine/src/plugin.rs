//! Plugins: from a `.wasm` file to detections, under limits.
//!
//! From a file to a generation: `watch` notices a change, and `loader` builds a generation. For that, `folder` reads the
//! files, `signature` checks who has signed them, `check_process` does everything that follows in a process of its own
//! first, `structure` checks the file's size and depth, `contract` finds the version of the contract, `runtime` compiles it
//! and rejects what is not a detector, `code` caches compiled plugins, `manifest` is what a plugin says about itself, `params`
//! checks the configuration against that, `resolve` finds out which rows and columns it gets (`view`, `columns`, `wiring`),
//! `spec` joins plugin and settings, and `trial` calls the detector for the first time, with `trial_rows`. `generation` is
//! the result, and `reload` publishes it.
//!
//! At run time: `instance` is a detector in one shard, `guest` its store and its limits, `exports` its functions in both
//! versions of the contract, `packed` the form of rows and detections in 0.2, `facts` what it learns about symbols, `call` how
//! much a call may return, `detection` and `answer` what must hold of it, `texts` how its texts are shown, `deadline` the time
//! limit of a call, `fault` the reason why a call failed, and `health` the count of faults. `probe_log` keeps what a detector
//! that is not a host's looks at.
//!
//! Invariants: a detector can call nothing (its world has no imports), one
//! instance has one owner, and an instance that trapped is never called again.

mod answer;
mod bindings;
mod call;
pub mod check_child;
pub mod check_process;
pub mod code;
mod columns;
mod contract;
mod deadline;
mod detection;
pub mod digest;
mod exports;
mod facts;
mod fault;
pub mod file;
pub mod folder;
mod generation;
mod guest;
mod health;
#[cfg(test)]
mod hostile_guest;
mod instance;
mod introduced;
pub mod loader;
pub mod manifest;
mod packed;
pub mod params;
mod probe_log;
mod reload;
mod resolve;
pub mod runtime;
pub mod signature;
mod spec;
pub mod structure;
mod texts;
mod trial;
mod trial_rows;
mod value;
mod view;
pub mod watch;
mod wiring;

pub(crate) use self::view::feed_of_row;
pub use self::{
    check_process::{Isolation, TrialResult},
    code::CacheLocation,
    columns::{BatchColumns, ColumnOrigin, DAYS_TO_EXPIRY},
    deadline::Overrun,
    detection::{Detection, Gate, Judgment},
    fault::Fault,
    generation::{Flow, Generation, PluginSource},
    guest::Limits,
    health::Health,
    instance::Instance,
    loader::Loader,
    probe_log::{ProbeLog, ProbeQuestion, ProbedRow, ProbedRows, ProbedState, WINDOW_ROWS_MAX},
    reload::Reload,
    runtime::{Plugin, Runtime},
    spec::DetectorSpec,
    view::{Feed, GROUP_MARK, LAST_OF_SNAPSHOT, Scope, View},
};
