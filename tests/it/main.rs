//! The whole thing, as its users run it: the built binary, a real Redis, real plugins, real kills.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![expect(unreachable_pub, reason = "a test binary has no outside")]

mod cli;
mod dead;
mod flow;
mod late;
mod plugins;
mod recovery;
mod support;
