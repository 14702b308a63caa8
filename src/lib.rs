//! Tickhound: detects patterns in live market ticks.
//!
//! ```text
//! stream -> ingest -> [queue per shard] -> shard -> [queue] -> commit -> stream -> sinks
//!           decode                         normalize
//!           route                          detectors (wasm)
//! ```
//!
//! What holds:
//! 1. Ticks of one symbol reach one shard in stream order, and each detector sees them in that order.
//! 2. An entry is acknowledged in the same atomic step that publishes every alert it caused.
//! 3. A detector is a function of its parameters, its state and its ticks; it can call nothing.
//! 4. An instance of a detector has one owner, and is never called again after it trapped.
//! 5. At most `backlog` entries are between read and commit; every queue has an end.
//! 6. Alerts are in entry order, then in the order of detector names, whatever the worker count.
//! 7. What is remembered is saved in such a step too; from there any host gets to the last commit.
//! 8. Stages meet in the data types; only `engine` knows both ends.
//!
//! Modules in reading order: `event` (the data), `stream` (where it comes from and goes to),
//! `decode` and `normalize` (entries to ticks), `ingest` (ticks to shards), `plugin` and `shard`
//! (ticks to detections), `commit` and `publish` (detections to alerts), `checkpoint` (what is
//! remembered), `position` (what an acquisition means), `sink`, and `engine`, which joins them. Beside
//! these `jsonl` (alerts in a file) and `notify` (people are told of them), `recorded` (ticks in files),
//! `replay` (the engine on them), and `service` (what a host in the background needs).

mod authoring;
pub mod cli;
mod jsonl;
mod notify;
mod observe;
mod service;
