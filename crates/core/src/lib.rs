//! The data that flows through Tickhound, the forms it is stored in, and the rules that need no server.
//!
//! What holds: nothing here starts a thread, needs an async runtime, or does any I/O except on files. `stream` has the
//! trait of a partition, whose methods return futures; other crates implement and await them. Only `wall` and `pulse`
//! read a clock.

pub mod checkpoint;
pub mod condition;
pub mod config;
pub mod decode;
pub mod event;
pub mod market;
mod nearest;
pub mod normalize;
pub mod pattern;
pub mod position;
pub mod publish;
pub mod pulse;
pub mod rate;
pub mod receipt;
pub mod session;
pub mod simulate;
pub mod stream;
mod symbol;
pub mod text;
pub mod venue;
pub mod wall;
