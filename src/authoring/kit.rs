//! For authors of detectors: a project to begin with, its build, what a file is, whether its cases hold, what it costs.
//!
//! What is built, tested and measured here is loaded by the code that loads it live, and its ticks come through the
//! decoder and the normaliser of a live host.

pub(crate) mod anatomy;
pub(crate) mod case;
pub(crate) mod cost;
pub(crate) mod project;
mod rows;
pub(crate) mod template;
