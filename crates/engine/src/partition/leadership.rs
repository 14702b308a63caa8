//! Acquires the lease, waits for it as a standby, and paces the attempts to reach the server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::sync::watch;
use tracing::info;

use crate::{monitor::Phase, retry::Retry, stats::Stats};
use tickhound_core::stream::{AcquireOutcome, Acquisition, Stream, StreamError};

/// How long a host that is stopped tries to commit what it has read.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The lease of a host, and whether the host is to stop.
pub(super) struct Leadership {
    stop: watch::Receiver<bool>,
    retry: Retry,
    stats: Arc<Stats>,
    /// The first failure after the stop.
    failing_since: Option<Instant>,
}

impl Leadership {
    pub(super) fn new(stop: watch::Receiver<bool>, stats: Arc<Stats>) -> Self {
        Self { stop, retry: Retry::default(), stats, failing_since: None }
    }

    /// Acquires the lease, however long that takes; `None` if the host is stopped meanwhile. `was_owner` says whether it
    /// has had the lease before, `oldest_ms` when the oldest entry in flight arrived.
    ///
    /// # Errors
    /// Fails if the server can't be used as it is configured. After the host has been owner it keeps trying instead:
    /// what is in flight is only known here.
    pub(super) async fn acquire(
        &mut self,
        stream: &mut impl Stream,
        was_owner: bool,
        oldest_ms: Option<u64>,
    ) -> Result<Option<Acquisition>> {
        let mut owner = None;
        self.stats.enter(Phase::Connecting);
        loop {
            self.stats.turn(oldest_ms);
            let pause = match stream.acquire().await {
                Ok(AcquireOutcome::Owned(acquired)) => {
                    info!(event = "lease_acquired", epoch = acquired.epoch, "acquired the lease; reading");
                    self.stats.enter(Phase::Restoring);
                    return Ok(Some(*acquired));
                }
                Ok(AcquireOutcome::Held { by, retry_in }) => {
                    self.retry.reached();
                    self.stats.enter(Phase::Standby);
                    if owner.as_ref() != Some(&by) {
                        info!(event = "standby_started", owner = %by, "another host holds the lease; standing by");
                        owner = Some(by);
                    }
                    retry_in
                }
                Err(StreamError::Misconfigured(what)) if !was_owner => bail!(what),
                Err(error) => {
                    self.stats.enter(Phase::Connecting);
                    self.retry.after(&error);
                    self.retry.pause()
                }
            };
            tokio::select! {
                // Both are cancel-safe.
                () = self.stats.waiting(tokio::time::sleep(pause)) => {}
                _ = self.stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }

    /// Notes a failed step and waits for the next attempt.
    ///
    /// # Errors
    /// Fails if the host is to stop and has failed for too long since.
    pub(super) async fn failed(&mut self, error: &StreamError) -> Result<()> {
        self.stats.enter(Phase::Connecting);
        self.retry.after(error);
        if self.is_stopping() && self.failing_since.get_or_insert_with(Instant::now).elapsed() >= STOP_TIMEOUT {
            bail!(
                "stopped, but what was read could not be committed ({error}); it is processed again at the next start"
            );
        }
        self.pause().await;
        Ok(())
    }

    /// Notes a step that succeeded.
    pub(super) fn reached(&mut self) {
        self.retry.reached();
    }

    /// Whether the host is to stop.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns when the host is to stop; cancel-safe.
    pub(super) async fn stopped(&mut self) {
        // An error means that the sender is gone. The callers check `is_stopping` themselves.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }

    /// A receiver of the order to stop.
    pub(super) fn stop(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Waits for the next attempt, or until the host is to stop.
    async fn pause(&mut self) {
        let pause = self.stats.waiting(tokio::time::sleep(self.retry.pause()));
        if *self.stop.borrow() {
            // The last attempts of a host that stops are paced like all others.
            pause.await;
            return;
        }
        tokio::select! {
            // Both are cancel-safe.
            () = pause => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}
