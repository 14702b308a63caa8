//! Logs committed alerts.
//!
//! The log is for people, to whom an alert long after its tick is not news: stale alerts are only counted there.
//!
//! The alerts stream is not a sink, since the commit itself writes it. The JSON lines file and the notifications follow
//! that stream (`jsonl`, `notify`); the engine does not know them.

use std::time::{Duration, Instant};

use tracing::info;

use tickhound_core::{config::AlertsConfig, event::Alert};

/// The shortest time between two lines about omitted alerts.
const REPORT_LATE_EVERY: Duration = Duration::from_secs(1);

/// The sinks of committed alerts that are enabled.
#[derive(Debug, Default)]
pub struct Sinks {
    log: bool,
    /// Stale alerts; `None` if the log has them too.
    late: Option<Late>,
}

/// Stale alerts that the log has omitted and not reported yet.
#[derive(Debug)]
struct Late {
    alerts: u64,
    reported: Option<Instant>,
    /// Where these alerts are instead.
    elsewhere: String,
}

impl Sinks {
    /// Creates the sinks that `config` enables.
    pub fn new(config: &AlertsConfig) -> Self {
        let file = Some(&config.jsonl).filter(|file| !file.as_os_str().is_empty());
        let elsewhere = match file {
            Some(file) => format!("{} and {}", config.stream, file.display()),
            None => config.stream.clone(),
        };
        let late = (config.log && !config.log_stale).then_some(Late { alerts: 0, reported: None, elsewhere });
        Self { log: config.log, late }
    }

    /// Publishes alerts that have just been committed.
    pub fn publish(&mut self, alerts: &[Alert]) {
        if self.log {
            for alert in alerts {
                match &mut self.late {
                    Some(late) if alert.stale => late.alerts += 1,
                    _ => info!(target: "alert", event = "alert_committed", "{}", alert.to_log_line()),
                }
            }
        }
        self.report_late();
    }

    /// Logs how many alerts were omitted, unless that was logged a moment ago.
    pub fn report_late(&mut self) {
        if let Some(late) = &mut self.late
            && late.reported.is_none_or(|reported| reported.elapsed() >= REPORT_LATE_EVERY)
        {
            late.report();
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.late.iter_mut().for_each(Late::report);
    }
}

impl Late {
    fn report(&mut self) {
        let Self { alerts, elsewhere, .. } = self;
        if *alerts > 0 {
            info!(
                target: "alert",
                event = "late_alerts_omitted",
                "{alerts} late alerts are in {elsewhere} only (alerts.log_stale)"
            );
            (self.alerts, self.reported) = (0, Some(Instant::now()));
        }
    }
}
