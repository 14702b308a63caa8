//! What is known of the market beside a symbol's own ticks, and what is computed from them once for all detectors.
//!
//! What holds: everything here depends on configuration and on the ticks before, in stream order; it does no I/O.

pub mod bars;
pub mod computed;
pub mod order;
pub mod series;
pub mod snapshots;
pub mod tick;
