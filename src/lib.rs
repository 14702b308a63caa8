//! The `tickhound` program: its commands, and all parts of a host except the engine.
//!
//! The engine and its data are in separate crates: `tickhound_core` (data, saved forms, rules), `tickhound_recorded`
//! (files of ticks), `tickhound_engine` (plugins, shards, the engine) and `tickhound_redis` (everything that talks to
//! Redis). ARCHITECTURE.md describes the path of a tick, and what must always hold.
//!
//! Modules: `cli` (one file for each command), `observe` (health, doctor, the HTTP server), `alerts_file` (the JSON
//! lines file), `notify` (notification channels), `service` (pid file, log, supervisor), `output` (what is printed),
//! `clock` (the times that people see), `record` (the stream in daily files), `history` (these files before the stream),
//! `replace` (files that are replaced in one step) and `authoring` (the kit for authors of detectors, and replay). Only
//! `cli` is public: `main` parses the arguments and runs the command.

// First: its macros are for all the others.
#[macro_use]
mod output;

mod alerts_file;
mod authoring;
pub mod cli;
mod clock;
mod history;
mod notify;
mod observe;
mod record;
mod replace;
mod service;
mod why;
