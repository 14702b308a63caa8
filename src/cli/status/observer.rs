//! Observes a partition, and formats and prints what was observed.

use anyhow::Result;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::report::write_report;
use crate::{
    cli::text,
    observe::health::{HealthObserver, HealthReport, Throughput},
    output::{self, Lines},
};
use tickhound_core::config::Config;
use tickhound_redis::{AlertsReader, StoredAlert};

/// How many of the newest alerts are shown.
const ALERTS_SHOWN: usize = 5;

/// The state of the partition at one moment.
#[derive(Serialize)]
pub(super) struct Observation {
    #[serde(flatten)]
    pub(super) report: HealthReport,
    /// The throughput since the previous observation; `None` for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pace: Option<Throughput>,
    /// The newest alerts, newest first.
    #[serde(skip)]
    pub(super) alerts: Vec<StoredAlert>,
}

/// Observes the partition over connections that stay open.
pub(super) struct Observer {
    health: HealthObserver,
    alerts: AlertsReader,
    pub(super) json: bool,
    zone: TimeZone,
}

impl Observer {
    /// Prepares without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub(super) fn new(config: &Config, json: bool) -> Result<Self> {
        Ok(Self {
            health: HealthObserver::new(config),
            alerts: AlertsReader::new(&config.stream, &config.alerts.stream)?,
            json,
            zone: text::zone(config),
        })
    }

    pub(super) async fn observe(&mut self) -> Observation {
        let (report, pace) = self.health.observe().await;
        let mut alerts = Vec::new();
        if report.survey.is_some() && !self.json {
            // The report is worth printing even if the newest alerts can't be read.
            alerts = self.alerts.newest(ALERTS_SHOWN, |_| true).await.unwrap_or_default();
        }
        Observation { report, pace, alerts }
    }

    /// Prints the observation as a line of JSON, if that is wanted; else returns it as text.
    pub(super) fn report(&self, observation: &Observation) -> Result<Option<Lines>> {
        if self.json {
            output::print_json(&serde_json::to_string(observation)?);
            return Ok(None);
        }
        let mut text = Lines::default();
        let Observation { report, pace, alerts } = observation;
        write_report(&mut text, report, pace.as_ref(), alerts, &self.zone)?;
        Ok(Some(text))
    }
}
