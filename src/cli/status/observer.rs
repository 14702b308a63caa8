//! Observes a partition, and formats and prints what was observed.

use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::tz::TimeZone;

use super::report::{Observation, write_report};
use crate::{
    cli::{text, unmatched},
    observe::health::HealthObserver,
    output::{self, Lines},
};
use tickhound_core::config::Config;
use tickhound_redis::{AlertsReader, RedisStream};

/// How many of the newest alerts are shown.
const ALERTS_SHOWN: usize = 5;

/// How often the names of all symbols are read. There may be many of them, and patterns rarely change.
const SYMBOLS_EVERY: Duration = Duration::from_secs(60);

/// The number of entries after which a pattern that has matched nothing is likely wrong: before that, its symbols may not
/// have traded yet.
const ENTRIES_MIN: u64 = 1000;

/// Observes the partition over connections that stay open.
pub(super) struct Observer {
    health: HealthObserver,
    alerts: AlertsReader,
    config: Config,
    /// The patterns that matched nothing when the symbols were last read, and when that was.
    unmatched: Option<(Instant, Vec<String>)>,
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
            config: config.clone(),
            unmatched: None,
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
        let has_seen_enough = report.survey.as_ref().is_some_and(|survey| survey.totals.entries >= ENTRIES_MIN);
        let warnings = if has_seen_enough { self.unmatched().await } else { Vec::new() };
        Observation { report, pace, warnings, alerts }
    }

    /// Returns the patterns of channels and calendars that match nothing.
    async fn unmatched(&mut self) -> Vec<String> {
        let Config { notify, session, .. } = &self.config;
        if session.by_symbol.is_empty() && !notify.iter().any(|channel| channel.enabled) {
            // There are no such patterns, so the symbols need not be read.
            return Vec::new();
        }
        let due = self.unmatched.as_ref().is_none_or(|(at, _)| at.elapsed() >= SYMBOLS_EVERY);
        if due {
            // The report is worth printing even if the symbols can't be read, as by a user who may not read them.
            let Config { stream, alerts, dead_letters, .. } = &self.config;
            let symbols = match RedisStream::new(stream, alerts, dead_letters) {
                Ok(stream) => stream.known_symbols().await.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            let found = [unmatched::of_channels, unmatched::of_calendars].map(|of| of(&self.config, &symbols));
            self.unmatched = Some((Instant::now(), found.concat()));
        }
        self.unmatched.as_ref().map(|(_, found)| found.clone()).unwrap_or_default()
    }

    /// Prints the observation as a line of JSON, if that is wanted; else returns it as text.
    pub(super) fn report(&self, observation: &Observation) -> Result<Option<Lines>> {
        if self.json {
            output::print_json(&serde_json::to_string(observation)?);
            return Ok(None);
        }
        let mut text = Lines::default();
        write_report(&mut text, observation, &self.zone)?;
        Ok(Some(text))
    }
}
