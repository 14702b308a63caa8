//! The replays of detectors for requests: one at a time, with answers that are shared for a moment.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long an answer is good for: what is near changes from second to second, and several people may look on.
const SHARED_FOR: Duration = Duration::from_secs(5);

/// Allows one replay at a time, and has the last answer.
pub(super) struct NearReplays {
    permit: Arc<Semaphore>,
    recent: Arc<Mutex<Option<RecentNear>>>,
}

/// A replay that has begun. No other begins before it is dropped.
pub(super) struct NearReplay {
    _permit: OwnedSemaphorePermit,
    recent: Arc<Mutex<Option<RecentNear>>>,
}

/// An answer of a moment ago.
struct RecentNear {
    at: Instant,
    detector: String,
    answer: Value,
}

impl Default for NearReplays {
    fn default() -> Self {
        Self { permit: Arc::new(Semaphore::new(1)), recent: Arc::default() }
    }
}

impl NearReplays {
    /// The answer of a moment ago for the same detector.
    pub(super) fn recent(&self, detector: &str) -> Option<Value> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = recent.as_ref().filter(|recent| recent.detector == detector && recent.at.elapsed() < SHARED_FOR);
        fresh.map(|recent| recent.answer.clone())
    }

    /// Begins a replay; `None` while there is one.
    pub(super) fn begin(&self) -> Option<NearReplay> {
        let permit = self.permit.clone().try_acquire_owned().ok()?;
        Some(NearReplay { _permit: permit, recent: self.recent.clone() })
    }
}

impl NearReplay {
    /// Ends the replay of a detector, with its answer if there is one.
    pub(super) fn end(self, detector: String, answer: Option<&Value>) {
        if let Some(answer) = answer {
            let answer = RecentNear { at: Instant::now(), detector, answer: answer.clone() };
            *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        }
    }
}
