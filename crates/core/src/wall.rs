//! The wall clock, for times that are stored, shown or compared with a server. Durations are measured by `Instant`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the Unix epoch, by this machine's clock.
pub fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The milliseconds since the Unix epoch, by this machine's clock.
pub fn now_ms() -> u64 {
    since_epoch().as_millis() as u64
}
