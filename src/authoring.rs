//! For the authors of detectors: the kit, and replay.

pub(crate) mod kit;
pub(crate) mod replay;
