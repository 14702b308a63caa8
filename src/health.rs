//! Is it well? A verdict with one sentence, from what the server knows of a partition.
//!
//! The verdict comes from work and progress: entries that wait, and how long
//! ago the last commit was. `idle`, `pending` and `lag` as Redis reports them
//! are told, but not judged by: a quiet market makes every one of them look bad.

use serde::Serialize;

use crate::{
    config::Config,
    receipt::Receipt,
    stream::redis::{Survey, survey},
};

/// With work waiting and no commit for this long, something is stuck.
const STUCK_AFTER_MS: u64 = 10_000;

/// Work may wait this long without anyone needing to know.
const BEHIND_AFTER_MS: u64 = 2_000;

/// A consumer that is not ours, holds nothing and did nothing for this long is a left-over.
const STALE_AFTER_MS: u64 = 300_000;

/// Entries that another consumer holds for this long will not be worked by it.
const HELD_AFTER_MS: u64 = 60_000;

/// How a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All work is done, or is being done in time.
    Healthy,
    /// Work goes on, but somebody should look.
    Degraded,
    /// There is work, and nobody does it.
    Stuck,
    /// The server can't be asked.
    Unreachable,
}

/// The verdict with its reason, and what it was judged by.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In a word.
    pub verdict: Verdict,
    /// In a sentence.
    pub reason: String,
    /// Key of the stream.
    pub stream: String,
    /// Its consumer group.
    pub group: String,
    /// What the server knows; `None` if it can't be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survey: Option<Survey>,
    /// Every consumer of the group.
    pub consumers: Vec<ConsumerReport>,
}

/// A consumer of the group.
#[derive(Debug, Serialize)]
pub struct ConsumerReport {
    /// Its name.
    pub name: String,
    /// Entries delivered to it and not acknowledged.
    pub pending: u64,
    /// Since it last asked for entries, ms.
    pub idle_ms: u64,
    /// `active`, `idle` (nothing to do), `stale` (a left-over), or `stuck`.
    pub verdict: &'static str,
}

impl Report {
    /// Asks the server.
    pub async fn ask(config: &Config) -> Self {
        match survey(&config.stream, &config.alerts).await {
            Ok(survey) => Self::judge(config, survey),
            Err(error) => Self {
                verdict: Verdict::Unreachable,
                reason: format!("redis at {}: {error}", config.stream.address()),
                stream: config.stream.key.clone(),
                group: config.stream.group.clone(),
                survey: None,
                consumers: Vec::new(),
            },
        }
    }

    fn judge(config: &Config, survey: Survey) -> Self {
        let consumers = judge_consumers(&survey, &config.stream.consumer);
        let (mut verdict, mut reason) = judge(&survey, &consumers, &config.stream.consumer);
        // What a host of the past said is of no interest any more.
        let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
        if let (Verdict::Healthy, Some(worse)) = (verdict, receipt.and_then(judge_detectors)) {
            (verdict, reason) = (Verdict::Degraded, worse);
        }
        let (stream, group) = (config.stream.key.clone(), config.stream.group.clone());
        Self { verdict, reason, stream, group, survey: Some(survey), consumers }
    }
}

fn judge_consumers(survey: &Survey, ours: &str) -> Vec<ConsumerReport> {
    let verdict = |name: &str, pending: u64, idle_ms: u64| {
        if name == ours {
            match survey.waiting_ms {
                Some(waited) if waited > STUCK_AFTER_MS => "stuck",
                Some(_) if survey.owner.is_none() => "stale",
                None if survey.owner.is_none() => "idle",
                _ => "active",
            }
        } else if pending > 0 && idle_ms > HELD_AFTER_MS {
            "stuck"
        } else if idle_ms > STALE_AFTER_MS {
            "stale"
        } else {
            "active"
        }
    };
    let consumers = survey.consumers.iter();
    consumers
        .map(|(name, pending, idle_ms)| ConsumerReport {
            name: name.clone(),
            pending: *pending,
            idle_ms: *idle_ms,
            verdict: verdict(name, *pending, *idle_ms),
        })
        .collect()
}

fn judge(survey: &Survey, consumers: &[ConsumerReport], ours: &str) -> (Verdict, String) {
    let foreign: Vec<&ConsumerReport> = consumers.iter().filter(|c| c.name != ours && c.pending > 0).collect();
    match (survey.waiting_ms, &survey.owner) {
        _ if !survey.group_exists => {
            (Verdict::Degraded, "the group does not exist yet; `tickhound run` creates it".into())
        }
        (Some(waited), None) if waited > STUCK_AFTER_MS => {
            (Verdict::Stuck, format!("no host is running, and work has waited for {}", seconds(waited)))
        }
        (Some(waited), Some(_)) if waited > STUCK_AFTER_MS => {
            (Verdict::Stuck, format!("nothing was committed for {} though there is work", seconds(waited)))
        }
        _ if !foreign.is_empty() => {
            let names: Vec<&str> = foreign.iter().map(|c| c.name.as_str()).collect();
            let pending: u64 = foreign.iter().map(|c| c.pending).sum();
            (Verdict::Degraded, format!("{pending} entries are pending under other consumers: {}", names.join(", ")))
        }
        (Some(waited), None) => {
            (Verdict::Degraded, format!("no host is running, and work has waited for {}", seconds(waited)))
        }
        (None, None) => (Verdict::Healthy, "everything that was added is worked; no host is running".into()),
        (Some(waited), Some(_)) if waited > BEHIND_AFTER_MS => {
            (Verdict::Degraded, format!("behind: the oldest waiting entry is {} old, work goes on", seconds(waited)))
        }
        (Some(_), Some(_)) => (Verdict::Healthy, "working".into()),
        (None, Some(_)) => (Verdict::Healthy, "everything that was added is worked".into()),
    }
}

/// What the host says of its detectors, if that is worse.
fn judge_detectors(receipt: &Receipt) -> Option<String> {
    let refusal = receipt.refusal.as_ref().filter(|refusal| refusal.standing);
    if let Some(refusal) = refusal {
        return Some(format!("the last change was refused, what was before goes on: {}", refusal.reason));
    }
    let quarantined = receipt.detectors.iter().find(|detector| detector.quarantined_until_ms.is_some())?;
    let fault = quarantined.last_fault.as_deref().unwrap_or("it failed too often");
    Some(format!("detector {} is in quarantine: {fault}", quarantined.name))
}

/// A span of time as people read it.
pub fn seconds(ms: u64) -> String {
    format!("{:.1}s", ms as f64 / 1000.0)
}
