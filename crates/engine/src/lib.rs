//! The engine: it reads a partition, calls every detector on every tick, and commits what they find.
//!
//! What holds: the engine knows nothing of Redis. What it reads and commits through is a `tickhound_core::stream::Stream`.

pub mod commit;
pub mod engine;
pub mod ingest;
pub mod monitor;
pub mod pace;
pub mod plugin;
pub mod retry;
pub mod shard;
pub mod simulated;
pub mod sink;
pub mod stats;
