//! The back-off between attempts to reach the server, and what is logged about it.

use std::time::Duration;

use tracing::{info, warn};

use tickhound_core::stream::StreamError;

/// The first wait between two attempts to reach the server.
const RETRY_MIN: Duration = Duration::from_millis(50);

/// The longest wait between two attempts: a server that is back is noticed soon, and one that is away is not flooded.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A back-off that logs only what changes.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    attempts: u32,
    /// The last error in the log, until the server is reached.
    logged: Option<String>,
}

impl Retry {
    /// Notes a failure.
    pub(crate) fn after(&mut self, error: &StreamError) {
        self.attempts += 1;
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            warn!(event = "redis_unavailable", error = %text, "Redis is unavailable; retrying until it can be used");
            self.logged = Some(text);
        }
    }

    /// Notes that the server was reached.
    pub(crate) fn reached(&mut self) {
        if self.logged.take().is_some() {
            info!(event = "redis_reconnected", attempts = self.attempts, "reconnected to Redis");
        }
        self.attempts = 0;
    }

    /// How long to wait now. Full jitter keeps hosts that lost their server together from returning together.
    pub(crate) fn pause(&self) -> Duration {
        let longest = RETRY_MIN.saturating_mul(1 << self.attempts.min(10)).min(RETRY_MAX);
        RETRY_MIN + longest.mul_f64(rand::random::<f64>())
    }
}
