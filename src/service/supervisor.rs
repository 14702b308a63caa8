//! Reports to the supervisor of a host: systemd, or the `run --background` that started it.
//!
//! Both get the messages of `sd_notify(3)`.
//!
//! What holds: `WATCHDOG=1` is sent only if the engine's loop has made a turn since the last time. So an engine that is
//! stuck is detected even if the rest of the process runs.

use std::{
    env,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use sd_notify::NotifyState;
use tokio::sync::watch;
use tracing::debug;

use tickhound_core::text::printable;
use tickhound_engine::{monitor::Phase, stats::Stats};

/// How often to check whether there is anything to report.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// How often the counters are reported while nothing else changes.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The status of a process that exits because of an error begins with this.
pub(crate) const FAILED: &str = "failed: ";

/// The process that supervises this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervisor {
    /// There is none.
    Nobody,
    /// systemd, or a program with the same protocol.
    Systemd,
    /// The process that started this one in the background, and reads its stdout until the host runs.
    Starter,
}

impl Supervisor {
    /// The supervisor of this process.
    pub(crate) fn detect(in_background: bool) -> Self {
        match env::var_os("NOTIFY_SOCKET") {
            _ if in_background => {
                // A starter that is suspended must not block this process.
                let out = io::stdout();
                let _ = fcntl_getfl(&out).and_then(|flags| fcntl_setfl(&out, flags | OFlags::NONBLOCK));
                Self::Starter
            }
            Some(_) => Self::Systemd,
            None => Self::Nobody,
        }
    }

    /// Reports that the process works.
    pub(crate) fn notify_ready(self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that the process is stopping.
    pub(crate) fn notify_stopping(self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// Reports the error that ends the process.
    pub(crate) fn notify_failure(self, error: &anyhow::Error) {
        self.notify(&[NotifyState::Status(&printable(&format!("{FAILED}{error:#}")))]);
    }

    /// Sends the messages; returns whether they were received.
    fn notify(self, states: &[NotifyState<'_>]) -> bool {
        let sent = match self {
            Self::Nobody => Ok(()),
            Self::Systemd => sd_notify::notify(states),
            Self::Starter => {
                let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes()).and_then(|()| out.flush())
            }
        };
        if let Err(error) = sent {
            debug!(event = "status_not_received", %error, "nobody received the status of the host");
            return false;
        }
        true
    }

    /// Reports the phases and the counters of the host, until the task is aborted or the starter has gone.
    pub(crate) async fn report(self, stats: Arc<Stats>, mut stop: watch::Receiver<bool>) {
        let watchdog = sd_notify::watchdog_enabled().filter(|_| self == Self::Systemd);
        let every = watchdog.map_or(POLL_EVERY, |limit| (limit / 4).clamp(Duration::from_millis(10), POLL_EVERY));
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut ready, mut stopping, mut turns) = (false, false, 0);
        let mut reported: Option<(Phase, Instant)> = None;
        loop {
            tokio::select! {
                // Both are cancel-safe.
                _ = timer.tick() => {}
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.notify_stopping();
                    reported = None;
                }
            }
            let phase = stats.phase();
            if !ready && matches!(phase, Phase::Standby | Phase::Restoring | Phase::Processing) {
                ready = true;
                self.notify(&[NotifyState::Ready]);
            }
            let now = stats.pulse.turns();
            if watchdog.is_some() && now != turns {
                turns = now;
                self.notify(&[NotifyState::Watchdog]);
            }
            if reported.is_none_or(|(before, at)| before != phase || at.elapsed() >= STATUS_EVERY) {
                reported = Some((phase, Instant::now()));
                let received = self.notify(&[NotifyState::Status(&status(&stats, stopping))]);
                if !received && self == Self::Starter {
                    return;
                }
            }
        }
    }
}

/// The status of the host in one line.
fn status(stats: &Stats, stopping: bool) -> String {
    match stats.phase() {
        _ if stopping => "stopping: finishing the entries in flight".into(),
        Phase::Starting => "loading plugins".into(),
        Phase::Connecting => "waiting for redis".into(),
        Phase::Standby => "standby: another host owns this stream".into(),
        Phase::Restoring => "restoring the state of the last commit".into(),
        Phase::Processing => format!("{}, {}", stats.workers(), stats.results()),
    }
}
