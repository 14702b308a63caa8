//! Word to whoever supervises a host: systemd, or the `run --background` that started it.
//!
//! Both are told in the words of `sd_notify(3)`. `WATCHDOG=1` is sent only if the engine's loop has come
//! round since the last time, so an engine that is stuck is found out however well the rest does.

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

use tickhound_engine::stats::{Phase, Stats};

/// How often it is looked whether there is anything to tell.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the counters are told while nothing else happens.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How the status of a process begins that ends because it can't go on.
pub(crate) const FAILED: &str = "failed: ";

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supervisor {
    /// Nobody.
    Nobody,
    /// systemd, or what speaks like it.
    Systemd,
    /// The process that started this one in the background, at the other end of stdout. It goes when it has
    /// heard enough.
    Starter,
}

impl Supervisor {
    /// Of this process.
    pub(crate) fn of(in_background: bool) -> Self {
        match env::var_os("NOTIFY_SOCKET") {
            _ if in_background => {
                // A starter that is stopped must not hold up whoever tells it something.
                let out = io::stdout();
                let _ = fcntl_getfl(&out).and_then(|flags| fcntl_setfl(&out, flags | OFlags::NONBLOCK));
                Self::Starter
            }
            Some(_) => Self::Systemd,
            None => Self::Nobody,
        }
    }

    /// Says that the process is about to end in order.
    pub(crate) fn tell_stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Says why the process is about to end.
    pub(crate) fn tell_failure(self, error: &anyhow::Error) {
        self.tell(&[NotifyState::Status(&format!("{FAILED}{error:#}").replace('\n', " "))]);
    }

    /// Whether anybody has heard.
    fn tell(self, states: &[NotifyState<'_>]) -> bool {
        let told = match self {
            Self::Nobody => Ok(()),
            Self::Systemd => sd_notify::notify(states),
            Self::Starter => {
                let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes()).and_then(|()| out.flush())
            }
        };
        if let Err(error) = told {
            debug!(event = "status_not_received", %error, "nobody received the status of the host");
            return false;
        }
        true
    }

    /// Tells what happens, until the task is aborted or nobody wants to know.
    pub(crate) async fn attend(self, stats: Arc<Stats>, mut stop: watch::Receiver<bool>) {
        let watchdog = sd_notify::watchdog_enabled().filter(|_| self == Self::Systemd);
        let every = watchdog.map_or(LOOK_EVERY, |limit| (limit / 4).clamp(Duration::from_millis(10), LOOK_EVERY));
        let mut timer = tokio::time::interval(every);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut ready, mut stopping, mut turns) = (false, false, 0);
        let mut told: Option<(Phase, Instant)> = None;
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.tell_stopping();
                    told = None;
                }
            }
            let phase = stats.phase();
            if !ready && matches!(phase, Phase::StandingBy | Phase::Restoring | Phase::Working) {
                ready = true;
                self.tell(&[NotifyState::Ready]);
            }
            let now = stats.pulse.turns();
            if watchdog.is_some() && now != turns {
                turns = now;
                self.tell(&[NotifyState::Watchdog]);
            }
            if told.is_none_or(|(before, at)| before != phase || at.elapsed() >= TELL_EVERY) {
                told = Some((phase, Instant::now()));
                let heard = self.tell(&[NotifyState::Status(&status(&stats, stopping))]);
                if !heard && self == Self::Starter {
                    return;
                }
            }
        }
    }
}

/// In a line.
fn status(stats: &Stats, stopping: bool) -> String {
    match stats.phase() {
        _ if stopping => "stopping: finishing what was read".into(),
        Phase::Starting => "loading plugins".into(),
        Phase::Reaching => "waiting for redis".into(),
        Phase::StandingBy => "standing by: another host works this stream".into(),
        Phase::Restoring => "restoring what was known at the last commit".into(),
        Phase::Working => format!("{}, {}", stats.workers(), stats.results()),
    }
}
