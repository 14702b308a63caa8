//! An alert that is to be explained, and what becomes of it in a replay.

use std::fmt;

use anyhow::{Context, Result};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    judged::Judged,
    scratch::{Basis, Probed},
    shown::number,
};
use crate::clock::to_the_millisecond;
use tickhound_core::{event::Alert, publish::log_line, text::printable};
use tickhound_engine::plugin::DetectorSpec;
use tickhound_redis::StoredAlert;

/// The relative difference below which two numbers count as the same: stored ones may have been rounded by their consumers.
const TOLERANCE: f64 = 1e-9;

/// An alert that was raised, by a host or in a replay.
#[derive(Clone, Debug)]
pub(crate) struct RaisedAlert {
    pub(crate) id: String,
    detector: String,
    /// What it is about.
    pub(crate) symbol: String,
    /// The group whose state it comes from; empty if that is the symbol's.
    group: String,
    /// The event time, ns since the Unix epoch.
    pub(crate) time: u64,
    direction: String,
    confidence: f64,
    evidence: Vec<(String, f64)>,
    /// The first digits of the SHA-256 of the plugin's file, and of the hash of the parameters; empty if they are not known.
    code: String,
    params: String,
    /// All of it, for programs.
    document: Value,
}

/// What a replay says about an alert.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reproduction {
    /// It raises the same alert.
    Same,
    /// It raises the alert with other numbers: each with its name, as it was raised, and in the replay.
    Other(Vec<(String, f64, f64)>),
    /// It raises no such alert.
    None,
    /// From saved states no alerts are known; all gates held.
    AllHeld,
    /// From saved states no alerts are known; not all gates held.
    NotAllHeld,
}

impl RaisedAlert {
    /// An alert of the alerts stream.
    ///
    /// # Errors
    /// When it has no time.
    pub(crate) fn stored(alert: &StoredAlert) -> Result<Self> {
        let document: Value = serde_json::from_str(&alert.to_json()).context("the alert can't be read")?;
        let evidence = document.get("evidence").and_then(Value::as_object).into_iter().flatten();
        Ok(Self {
            id: alert.field("id").to_owned(),
            detector: alert.field("detector").to_owned(),
            symbol: alert.field("symbol").to_owned(),
            group: alert.field("group").to_owned(),
            time: alert.number("time").context("the alert has no time")?,
            direction: alert.field("direction").to_owned(),
            confidence: alert.confidence(),
            evidence: evidence.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect(),
            code: alert.field("sha256").to_owned(),
            params: alert.field("params_hash").to_owned(),
            document,
        })
    }

    /// An alert of a replay.
    pub(crate) fn replayed(alert: &Alert) -> Self {
        Self {
            id: alert.id.clone(),
            detector: alert.detector.clone(),
            symbol: alert.symbol.clone(),
            group: alert.group.clone(),
            time: alert.time,
            direction: alert.direction.as_str().to_owned(),
            confidence: alert.confidence,
            evidence: alert.evidence.clone(),
            code: String::new(),
            params: String::new(),
            document: json!({
                "id": alert.id,
                "detector": alert.detector,
                "symbol": alert.symbol,
                "time": alert.time,
                "confidence": alert.confidence,
                "direction": alert.direction,
            }),
        }
    }

    /// Whether the alert may come from a state: a member is looked at in each of its groups.
    pub(crate) fn is_of(&self, judged: &Judged<'_>) -> bool {
        self.group.is_empty() || self.group == judged.state.owner
    }

    /// What the replay says about the alert; `judged` is what the detector looked at then.
    pub(crate) fn reproduction(&self, probed: &Probed, judged: Option<&Judged<'_>>) -> Reproduction {
        if probed.basis == Basis::Saved {
            let held = judged.is_some_and(Judged::all_held);
            return if held { Reproduction::AllHeld } else { Reproduction::NotAllHeld };
        }
        let same = |alert: &&Alert| {
            alert.time == self.time
                && alert.symbol == self.symbol
                && alert.group == self.group
                && alert.direction.as_str() == self.direction
        };
        let Some(alert) = probed.alerts.iter().find(same) else { return Reproduction::None };
        let pairs = self.evidence.iter().map(|(name, value)| {
            let other = alert.evidence.iter().find(|(known, _)| known == name);
            (name.clone(), *value, other.map_or(f64::NAN, |(_, other)| *other))
        });
        let confidence = ("confidence".to_owned(), self.confidence, alert.confidence);
        let differs = |(_, one, other): &(String, f64, f64)| {
            (one - other).abs() > TOLERANCE * one.abs().max(other.abs()) || one.is_nan() != other.is_nan()
        };
        let differing: Vec<(String, f64, f64)> = std::iter::once(confidence).chain(pairs).filter(differs).collect();
        if differing.is_empty() { Reproduction::Same } else { Reproduction::Other(differing) }
    }

    /// A sentence if the alert was raised by other code or parameters than those that are replayed.
    pub(crate) fn code_note(&self, spec: &DetectorSpec) -> Option<String> {
        let differs = |raised: &str, now: &str| !raised.is_empty() && !now.starts_with(raised);
        let what = match (differs(&self.code, &spec.plugin.sha256), differs(&self.params, spec.params_hash())) {
            (false, false) => return None,
            (true, false) => "another version of the plugin",
            (false, true) => "other parameters",
            (true, true) => "another version of the plugin, with other parameters",
        };
        Some(format!("it was raised by {what} than the configuration has now: the replay may differ"))
    }

    /// The alert as the log has it, with its numbers.
    pub(crate) fn to_text(&self, zone: &TimeZone) -> String {
        let time = Timestamp::from_nanosecond(i128::from(self.time)).map(|at| to_the_millisecond(at, zone));
        let line = log_line(&self.detector, &self.symbol, self.confidence);
        let mut text = format!("{}  {}", time.unwrap_or_default(), printable(&line));
        if self.direction != "none" {
            text.push_str(&format!(", {}", printable(&self.direction)));
        }
        for (name, value) in &self.evidence {
            text.push_str(&format!("\n  {} {}", printable(name), number(*value)));
        }
        text
    }

    /// The alert for programs.
    pub(crate) fn to_json(&self) -> &Value {
        &self.document
    }
}

impl Reproduction {
    /// The name for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other(_) => "other_numbers",
            Self::None => "none",
            Self::AllHeld => "all_held",
            Self::NotAllHeld => "not_all_held",
        }
    }
}

impl fmt::Display for Reproduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => write!(f, "the replay raises the same alert"),
            Self::Other(numbers) => {
                write!(f, "the replay raises the alert with other numbers:")?;
                for (at, (name, raised, replayed)) in numbers.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    let (raised, replayed) = (number(*raised), number(*replayed));
                    write!(f, "{comma} {} {replayed} instead of {raised}", printable(name))?;
                }
                Ok(())
            }
            Self::None => write!(f, "the replay does not raise this alert"),
            Self::AllHeld => write!(f, "in the replay all gates held, too"),
            Self::NotAllHeld => write!(f, "in the replay not all gates held"),
        }
    }
}
