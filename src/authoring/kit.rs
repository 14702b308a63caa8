//! Tools for authors of detectors: templates, builds, the inspection of files, cases, and benchmarks.
//!
//! What holds: a plugin is loaded here by the same code as in a live host, and its ticks pass through the same decoder
//! and normalizer.

pub(crate) mod anatomy;
pub(crate) mod case;
pub(crate) mod cost;
pub(crate) mod project;
mod rows;
pub(crate) mod sdk;
pub(crate) mod template;
