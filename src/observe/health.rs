//! Is it well? A verdict with one sentence, from what the server knows of a partition.
//!
//! The verdict comes from work and progress: entries that wait, and how long
//! ago the last commit was. `idle`, `pending` and `lag` as Redis reports them
//! are told, but not judged by: a quiet market makes every one of them look bad.

use std::time::Instant;

use serde::Serialize;

use tickhound_core::{config::Config, receipt::Receipt};
use tickhound_redis::{Survey, Surveyor};

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
pub(crate) enum Verdict {
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
pub(crate) struct Report {
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
    /// What has been read, and what of it is done; `None` if the server can't be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
}

/// Entries over the life of the group, by the names that worker counters have in the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Work {
    /// Read, and given to workers.
    pub submitted: u64,
    /// Worked and committed.
    pub completed: u64,
    /// Between the two: what our consumer has read and not acknowledged.
    pub backlog: u64,
}

/// A consumer of the group.
#[derive(Debug, Serialize)]
pub(crate) struct ConsumerReport {
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
    pub(crate) async fn ask(config: &Config) -> Self {
        Watch::new(config).look().await.0
    }

    fn unreachable(config: &Config, error: &anyhow::Error) -> Self {
        Self {
            verdict: Verdict::Unreachable,
            reason: format!("redis at {}: {error}", config.stream.address()),
            stream: config.stream.key.clone(),
            group: config.stream.group.clone(),
            survey: None,
            consumers: Vec::new(),
            work: None,
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
        let work = Some(Work::of(&survey, &config.stream.consumer));
        Self { verdict, reason, stream, group, survey: Some(survey), consumers, work }
    }
}

/// How fast it went between two looks.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pace {
    /// Time between the two.
    pub seconds: f64,
    /// Entries worked and committed.
    pub entries_per_s: f64,
    /// Entries that came in; `None` if the server does not tell.
    pub added_per_s: Option<f64>,
    /// Alerts published.
    pub alerts_per_s: f64,
}

/// Looks again and again: over one connection for as long as it holds, and with the pace in between.
pub(crate) struct Watch {
    config: Config,
    surveyor: Option<Surveyor>,
    /// When the last look that found something was, and what had been worked, added and raised by then.
    before: Option<(Instant, u64, Option<u64>, u64)>,
}

impl Watch {
    /// Prepares, without connecting.
    pub(crate) fn new(config: &Config) -> Self {
        Self { config: config.clone(), surveyor: None, before: None }
    }

    /// Looks now; the pace is known from the second look on.
    pub(crate) async fn look(&mut self) -> (Report, Option<Pace>) {
        let surveyor = match &mut self.surveyor {
            Some(surveyor) => surveyor,
            none => match Surveyor::new(&self.config.stream, &self.config.alerts) {
                Ok(surveyor) => none.insert(surveyor),
                Err(error) => return (Report::unreachable(&self.config, &error), None),
            },
        };
        let report = match surveyor.look().await {
            Ok(survey) => Report::judge(&self.config, survey),
            Err(error) => Report::unreachable(&self.config, &error),
        };
        let Some(survey) = &report.survey else { return (report, None) };
        let now = (Instant::now(), survey.totals.entries, survey.added, survey.totals.alerts);
        let pace = self.before.replace(now).and_then(|before| Pace::between(before, now));
        (report, pace)
    }
}

impl Pace {
    /// `None` if there were more before: the server has gone back, or the group was made anew.
    fn between(before: (Instant, u64, Option<u64>, u64), now: (Instant, u64, Option<u64>, u64)) -> Option<Self> {
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
        Some(Self {
            seconds,
            entries_per_s: rate(before.1, now.1)?,
            added_per_s: before.2.zip(now.2).and_then(|(before, now)| rate(before, now)),
            alerts_per_s: rate(before.3, now.3)?,
        })
    }
}

impl Work {
    fn of(survey: &Survey, ours: &str) -> Self {
        let completed = survey.totals.entries.saturating_sub(survey.totals.lost);
        let backlog = survey.consumers.iter().find(|(name, ..)| name == ours).map_or(0, |(_, pending, _)| *pending);
        Self { submitted: completed + backlog, completed, backlog }
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
        _ if survey.began_anew => (
            Verdict::Degraded,
            "the stream was deleted and begins anew; the host takes it up from its beginning, or at its next start"
                .into(),
        ),
        (_, Some(_)) if survey.left_behind.is_some() => {
            let entry = survey.left_behind.as_deref().unwrap_or_default();
            let cure = "they are being recovered; if this stays, another client reads under this name";
            (Verdict::Degraded, format!("entries from {entry} on are pending under {ours} behind later ones: {cure}"))
        }
        // Nothing is lost by it yet; but whoever asks in the morning must hear of it before the market opens.
        (None, None) => (Verdict::Degraded, "no host is running; everything that was added is worked".into()),
        (Some(_), Some(_)) if survey.behind_ms.is_some_and(|behind| behind > BEHIND_AFTER_MS) => {
            let behind = seconds(survey.behind_ms.unwrap_or(0));
            (Verdict::Degraded, format!("behind: the oldest waiting entry is {behind} old, work goes on"))
        }
        // Ids that are no times tell no age; then a host that commits nothing tells it.
        (Some(waited), Some(_)) if waited > BEHIND_AFTER_MS => {
            (Verdict::Degraded, format!("there is work, and nothing was committed for {}", seconds(waited)))
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
pub(crate) fn seconds(ms: u64) -> String {
    format!("{:.1}s", ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(survey: Survey) -> (Verdict, String) {
        let config = Config::default();
        let report = Report::judge(&config, Survey { group_exists: true, ..survey });
        (report.verdict, report.reason)
    }

    fn host() -> Option<String> {
        Some("process 7 on here".into())
    }

    #[test]
    fn who_is_late_is_behind_however_often_it_commits() {
        let late =
            |behind_ms| Survey { owner: host(), waiting_ms: Some(3), behind_ms: Some(behind_ms), ..Survey::default() };
        assert_eq!(judged(late(100)), (Verdict::Healthy, "working".into()));
        let (verdict, reason) = judged(late(1_800_000));
        assert_eq!(verdict, Verdict::Degraded);
        assert_eq!(reason, "behind: the oldest waiting entry is 1800.0s old, work goes on");
    }

    #[test]
    fn without_a_host_nothing_is_well() {
        assert_eq!(judged(Survey::default()).0, Verdict::Degraded);
        let waiting = |ms| Survey { waiting_ms: Some(ms), ..Survey::default() };
        assert_eq!(judged(waiting(5000)).0, Verdict::Degraded);
        assert_eq!(judged(waiting(STUCK_AFTER_MS + 1)).0, Verdict::Stuck);
    }

    #[test]
    fn what_nobody_reads_is_not_healthy() {
        let anew = Survey { owner: host(), began_anew: true, ..Survey::default() };
        let (verdict, reason) = judged(anew);
        assert_eq!(verdict, Verdict::Degraded);
        assert!(reason.contains("begins anew"), "{reason}");
        // Later ones are committed all the time, so nothing waits.
        let behind =
            Survey { owner: host(), left_behind: Some("7-1".into()), waiting_ms: Some(3), ..Survey::default() };
        let (verdict, reason) = judged(behind);
        assert_eq!(verdict, Verdict::Degraded);
        assert!(reason.contains("entries from 7-1 on are pending under tickhound"), "{reason}");
        // Ids that are no times tell no age.
        let idle =
            Survey { owner: host(), waiting_ms: Some(BEHIND_AFTER_MS + 1), behind_ms: Some(0), ..Survey::default() };
        assert_eq!(judged(idle).0, Verdict::Degraded);
    }

    #[test]
    fn what_others_hold_makes_nobody_stuck() {
        let consumers = vec![("scanner".to_owned(), 50, 10_000)];
        let (verdict, reason) =
            judged(Survey { owner: host(), consumers, behind_ms: Some(3_600_000), ..Survey::default() });
        assert_eq!(verdict, Verdict::Degraded);
        assert_eq!(reason, "50 entries are pending under other consumers: scanner");
    }
}
