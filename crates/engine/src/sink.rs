//! Logs committed alerts.
//!
//! The log is for people, to whom an alert long after its tick is not news: stale alerts are only counted there.
//!
//! The alerts stream is not a sink, since the commit itself writes it. The JSON lines file and the notifications follow
//! that stream; the engine does not know them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use tickhound_core::{
    config::{AlertsConfig, is_unset},
    event::Alert,
    stream::{LimitOrigin, OverLimit},
};

/// The shortest time between two lines about omitted alerts.
const REPORT_STALE_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two reports of detectors that are over the limit, since such a detector may be over it all
/// day.
const REPORT_OVER_LIMIT_EVERY: Duration = Duration::from_secs(60);

/// The sinks of committed alerts that are enabled.
#[derive(Debug, Default)]
pub struct Sinks {
    log: AlertLog,
    /// Whether the lines of alerts have details.
    details: bool,
    over_limit: HeldBack,
}

/// Alerts that were held back by a limit per minute and are not reported yet.
#[derive(Debug, Default)]
struct HeldBack {
    /// These alerts by detector.
    counts: BTreeMap<String, OverLimit>,
    reported: Option<Instant>,
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
        Self { log, details: config.log_details, over_limit: HeldBack::default() }
    }

    /// Publishes alerts that have just been committed. `over_limit` are those that a limit per minute held back, by
    /// detector.
    pub fn publish(&mut self, alerts: &[Alert], over_limit: &BTreeMap<String, OverLimit>) {
        for alert in alerts {
            match &mut self.log {
                AlertLog::Nothing => break,
                AlertLog::Fresh(stale) if alert.stale => stale.count += 1,
                AlertLog::Everything | AlertLog::Fresh(_) => {
                    let line = if self.details { alert.to_detailed_log_line() } else { alert.to_log_line() };
                    info!(target: "alert", event = "alert_committed", "{line}");
                }
            }
        }
        self.over_limit.add(over_limit);
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
        self.over_limit.report();
        if let AlertLog::Fresh(stale) = &mut self.log {
            stale.report();
        }
    }
}

impl HeldBack {
    fn add(&mut self, over_limit: &BTreeMap<String, OverLimit>) {
        for (detector, over) in over_limit {
            let before = self.counts.get(detector).map_or(0, |before| before.count);
            self.counts.insert(detector.clone(), OverLimit { count: before + over.count, ..*over });
        }
        if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_OVER_LIMIT_EVERY) {
            self.report();
        }
    }

    fn report(&mut self) {
        for (detector, OverLimit { count, most, origin }) in std::mem::take(&mut self.counts) {
            match origin {
                LimitOrigin::Alerts => warn!(
                    event = "alerts_over_limit",
                    detector,
                    count,
                    "a detector raises more than {most} alerts in a minute of market time (alerts.maxlen / \
                     alerts.keep_minutes); {count} further ones were held back, so that they don't push other alerts out of \
                     the stream. Set the detector's max_alerts_per_minute to allow more, or min_confidence to raise fewer."
                ),
                LimitOrigin::Detector => info!(
                    event = "alerts_held_back",
                    detector,
                    count,
                    "{count} alerts were held back: the detector may raise {most} in a minute of market time \
                     (max_alerts_per_minute). `tickhound status` counts them."
                ),
            }
            self.reported = Some(Instant::now());
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
