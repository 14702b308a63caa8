//! Logs committed alerts.
//!
//! The log is for people, to whom an alert long after its tick is not news: stale alerts are only counted there.
//!
//! The alerts stream is not a sink, since the commit itself writes it. The JSON lines file and the notifications follow
//! that stream; the engine does not know them.

use std::time::{Duration, Instant};

use tracing::info;

use tickhound_core::{
    config::{AlertsConfig, is_unset},
    event::Alert,
};

/// The shortest time between two lines about omitted alerts.
const REPORT_STALE_EVERY: Duration = Duration::from_secs(1);

/// The sinks of committed alerts that are enabled.
#[derive(Debug, Default)]
pub struct Sinks {
    log: AlertLog,
}

/// Which alerts the log has.
#[derive(Debug, Default)]
enum AlertLog {
    #[default]
    Nothing,
    Everything,
    /// Stale alerts are only counted.
    Fresh(StaleAlerts),
}

/// Stale alerts that the log has omitted and not reported yet.
#[derive(Debug)]
struct StaleAlerts {
    count: u64,
    reported: Option<Instant>,
    /// Where these alerts are instead.
    elsewhere: String,
}

impl Sinks {
    /// Creates the sinks that `config` enables.
    pub fn new(config: &AlertsConfig) -> Self {
        let log = if !config.log {
            AlertLog::Nothing
        } else if config.log_stale {
            AlertLog::Everything
        } else {
            AlertLog::Fresh(StaleAlerts::new(config))
        };
        Self { log }
    }

    /// Publishes alerts that have just been committed.
    pub fn publish(&mut self, alerts: &[Alert]) {
        for alert in alerts {
            match &mut self.log {
                AlertLog::Nothing => break,
                AlertLog::Fresh(stale) if alert.stale => stale.count += 1,
                AlertLog::Everything | AlertLog::Fresh(_) => {
                    info!(target: "alert", event = "alert_committed", "{}", alert.to_log_line());
                }
            }
        }
        self.report_stale();
    }

    /// Logs how many alerts were omitted, unless that was logged a moment ago.
    pub(crate) fn report_stale(&mut self) {
        if let AlertLog::Fresh(stale) = &mut self.log
            && stale.reported.is_none_or(|reported| reported.elapsed() >= REPORT_STALE_EVERY)
        {
            stale.report();
        }
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        if let AlertLog::Fresh(stale) = &mut self.log {
            stale.report();
        }
    }
}

impl StaleAlerts {
    fn new(config: &AlertsConfig) -> Self {
        let elsewhere = if is_unset(&config.jsonl) {
            config.stream.clone()
        } else {
            format!("{} and {}", config.stream, config.jsonl.display())
        };
        Self { count: 0, reported: None, elsewhere }
    }

    fn report(&mut self) {
        let Self { count, elsewhere, .. } = self;
        if *count > 0 {
            info!(
                target: "alert",
                event = "late_alerts_omitted",
                "{count} late alerts are in {elsewhere} only (alerts.log_stale)"
            );
            (self.count, self.reported) = (0, Some(Instant::now()));
        }
    }
}
