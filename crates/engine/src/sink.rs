//! What happens to alerts once they are committed: their lines in the log.
//!
//! The log is for people, for whom an alert that comes long after its tick is no news: of stale ones
//! it only tells how many there were.
//!
//! The alerts stream is not a sink: it is written by the commit itself. The JSON lines file and the
//! notifications follow that stream (`jsonl`, `notify`); the engine does not know them.

use std::time::{Duration, Instant};

use tracing::info;

use tickhound_core::{config::AlertsConfig, event::Alert};

/// How often at most the log tells how many alerts it left out.
const TELL_LATE_EVERY: Duration = Duration::from_secs(1);

/// The sinks that are switched on.
#[derive(Debug, Default)]
pub struct Sinks {
    log: bool,
    /// Leaves stale alerts out of the log.
    late: Option<Late>,
}

/// Stale alerts that the log has not told of yet.
#[derive(Debug)]
struct Late {
    alerts: u64,
    told: Option<Instant>,
    /// Where they are instead.
    places: String,
}

impl Sinks {
    /// What `config` switches on.
    pub fn new(config: &AlertsConfig) -> Self {
        let file = Some(&config.jsonl).filter(|file| !file.as_os_str().is_empty());
        let places = match file {
            Some(file) => format!("{} and {}", config.stream, file.display()),
            None => config.stream.clone(),
        };
        let late = (config.log && !config.log_stale).then_some(Late { alerts: 0, told: None, places });
        Self { log: config.log, late }
    }

    /// Tells of alerts that have just been committed.
    pub fn publish(&mut self, alerts: &[Alert]) {
        if self.log {
            for alert in alerts {
                match &mut self.late {
                    Some(late) if alert.stale => late.alerts += 1,
                    _ => info!(target: "alert", event = "alert_committed", "{}", alert.to_log_line()),
                }
            }
        }
        self.tell_late();
    }

    /// Says how many alerts the log has left out, unless it said so a moment ago.
    pub fn tell_late(&mut self) {
        if let Some(late) = &mut self.late
            && late.told.is_none_or(|told| told.elapsed() >= TELL_LATE_EVERY)
        {
            late.tell();
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.late.iter_mut().for_each(Late::tell);
    }
}

impl Late {
    fn tell(&mut self) {
        let Self { alerts, places, .. } = self;
        if *alerts > 0 {
            info!(
                target: "alert",
                event = "late_alerts_omitted",
                "{alerts} late alerts are in {places} only (alerts.log_stale)"
            );
            (self.alerts, self.told) = (0, Some(Instant::now()));
        }
    }
}
