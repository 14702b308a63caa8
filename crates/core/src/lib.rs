//! The data that flows through Tickhound, the forms it is stored in, and the rules that need neither a server nor a
//! clock.
//!
//! What holds: nothing here is asynchronous, starts a thread, or does any I/O except on files.

pub mod checkpoint;
pub mod config;
pub mod decode;
pub mod duration;
pub mod event;
pub mod normalize;
pub mod position;
pub mod publish;
pub mod pulse;
pub mod rate;
pub mod receipt;
pub mod simulate;
pub mod stream;
pub mod text;
pub mod wall;
