//! What authors of detectors use: the kit, and replay.

pub(crate) mod kit;
pub(crate) mod replay;
