//! When to try again, and what to say of it.

use std::time::Duration;

use tracing::{info, warn};

use tickhound_core::stream::StreamError;

/// First and longest wait between two attempts to reach the server.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Back-off between attempts, and a log line only when something changes.
#[derive(Debug, Default)]
pub struct Retry {
    attempts: u32,
    told: Option<String>,
}

impl Retry {
    /// Takes note of a failure.
    pub fn after(&mut self, error: &StreamError) {
        self.attempts += 1;
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            warn!(event = "redis_unavailable", error = %text, "Redis is unavailable; retrying until it can be used");
            self.told = Some(text);
        }
    }

    /// Takes note of a success.
    pub fn reached(&mut self) {
        if self.told.take().is_some() {
            info!(event = "redis_reconnected", attempts = self.attempts, "reconnected to Redis");
        }
        self.attempts = 0;
    }

    /// How long to wait now. Full jitter: hosts that lost one server at once do not come back at once.
    pub fn pause(&self) -> Duration {
        let longest = RETRY_MIN.saturating_mul(1 << self.attempts.min(10)).min(RETRY_MAX);
        RETRY_MIN + longest.mul_f64(rand::random::<f64>())
    }
}
