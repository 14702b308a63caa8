//! The engine: it reads a partition, calls every detector on every tick, and commits their alerts.
//!
//! What holds: the engine knows nothing of Redis. It reads and commits through a `tickhound_core::stream::Stream`.

pub mod archive;
pub mod commit;
pub mod conditions;
pub mod feed;
pub mod ingest;
pub mod monitor;
pub mod pace;
pub mod partition;
pub mod plugin;
mod retry;
pub mod shard;
pub mod simulated;
pub mod sink;
pub mod stats;
