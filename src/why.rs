//! Why a detector has found something, or nothing: it is replayed alone, and says what it has looked at on the way.
//!
//! What holds: nothing here changes anything on the server, and no running host is asked or slowed down. What is shown is what
//! the detector itself looked at, by the code that detects; nothing is computed a second time.

pub(crate) mod judged;
pub(crate) mod raised;
pub(crate) mod scratch;
pub(crate) mod shown;
