//! The health of a partition: a verdict with a sentence, from what the server knows.
//!
//! The verdict comes from waiting entries and progress: how many wait, and how long ago the last commit was; and from what
//! the owner reports of its feed, its channels and its files. `idle`, `pending` and `lag` as Redis reports them are part of
//! the report, but not of the verdict: none of them is a problem in a quiet market.
//!
//! What holds: the verdict is the same wherever it is asked for, because the owner writes its conditions to Redis, and
//! everybody reads them there.

use std::time::Instant;

use serde::Serialize;

use tickhound_core::{
    condition::{Condition, ConditionCode},
    config::Config,
    receipt::Receipt,
    wall::now_ms,
};
use tickhound_redis::{ConsumerStatus, Survey, Surveyor};

/// A partition is stuck when entries wait and nothing was committed for this long.
const STUCK_AFTER_MS: u64 = 10_000;

/// Entries may wait this long before the verdict mentions it.
const BEHIND_AFTER_MS: u64 = 2_000;

/// A consumer of another program that has no pending entries and was idle for this long is a leftover.
const STALE_AFTER_MS: u64 = 300_000;

/// Another program will not process an entry that has been pending under its consumer for this long.
const HELD_AFTER_MS: u64 = 60_000;

/// The codes of reasons that are used more than once.
const STUCK: &str = "stuck";
const NO_HOST: &str = "no_host";

/// How a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Every entry is processed, or is being processed in time.
    Healthy,
    /// Entries are processed, but an operator should check it.
    Degraded,
    /// Entries wait, and no host processes them.
    Stuck,
    /// The server does not answer.
    Unreachable,
}

/// A verdict, its reason, and the data that it is based on.
#[derive(Debug, Serialize)]
pub(crate) struct HealthReport {
    /// The verdict, in a word.
    pub verdict: Verdict,
    /// The gravest reason for the verdict, in a sentence.
    pub reason: String,
    /// Everything that is wrong, the gravest first; empty if the verdict is healthy.
    pub reasons: Vec<Reason>,
    /// The key of the stream.
    pub stream: String,
    /// The name of the consumer group.
    pub group: String,
    /// What the server knows; `None` if it does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survey: Option<Survey>,
    /// Every consumer of the group.
    pub consumers: Vec<ConsumerReport>,
    /// The entries read and completed; `None` if the server does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<EntryCounts>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// A name for programs, which stays the same.
    pub code: &'static str,
    /// The detector, channel or file that it is about, if there may be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What is wrong and what to do, in a sentence.
    pub text: String,
    /// Since when it has been so, ms since the Unix epoch; `None` if that is not known.
    pub since_ms: Option<u64>,
}

impl Reason {
    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, subject: None, text: text.into(), since_ms: None }
    }

    fn since(self, since_ms: u64) -> Self {
        Self { since_ms: Some(since_ms), ..self }
    }

    fn of(condition: &Condition) -> Self {
        let Condition { code, subject, text, began_ms, .. } = condition;
        let subject = Some(subject.clone()).filter(|subject| !subject.is_empty());
        Self { subject, ..Self::new(code.name(), text) }.since(*began_ms)
    }
}

/// Entries over the life of the group, under the names that the counters of workers have in the log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct EntryCounts {
    /// Entries read and handed to workers.
    pub submitted: u64,
    /// Entries processed and committed.
    pub completed: u64,
    /// The difference: entries that our consumer has read and not acknowledged.
    pub backlog: u64,
}

/// The state of one consumer of the group.
#[derive(Debug, Serialize)]
pub(crate) struct ConsumerReport {
    /// The name of the consumer.
    pub name: String,
    /// Entries delivered to the consumer and not acknowledged.
    pub pending: u64,
    /// The time since the consumer last read, ms.
    pub idle_ms: u64,
    /// `active`, `idle` (there are no entries to process), `stale` (a leftover), or `stuck`.
    pub verdict: &'static str,
}

impl HealthReport {
    /// Asks the server once.
    pub(crate) async fn observe(config: &Config) -> Self {
        HealthObserver::new(config).observe().await.0
    }

    /// Reports that the server does not answer, for this reason.
    pub(crate) fn unreachable(config: &Config, reason: String) -> Self {
        Self {
            verdict: Verdict::Unreachable,
            reasons: vec![Reason::new("unreachable", &reason)],
            reason,
            stream: config.stream.key.clone(),
            group: config.stream.group.clone(),
            survey: None,
            consumers: Vec::new(),
            work: None,
        }
    }

    fn judge(config: &Config, survey: Survey) -> Self {
        let consumers = judge_consumers(&survey, &config.stream.consumer);
        let reasons = judge(&survey, &consumers, &config.stream.consumer);
        let (verdict, reason) = match reasons.first() {
            Some(gravest) if gravest.code == STUCK => (Verdict::Stuck, gravest.text.clone()),
            Some(gravest) => (Verdict::Degraded, gravest.text.clone()),
            None if survey.waiting_ms.is_some() => (Verdict::Healthy, "processing entries".into()),
            None => (Verdict::Healthy, "every entry is processed".into()),
        };
        let (stream, group) = (config.stream.key.clone(), config.stream.group.clone());
        let work = Some(EntryCounts::of(&survey, &config.stream.consumer));
        Self { verdict, reason, reasons, stream, group, survey: Some(survey), consumers, work }
    }
}

/// The throughput between two observations.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Throughput {
    /// The time between the two observations.
    pub seconds: f64,
    /// Entries processed and committed in a second.
    pub entries_per_s: f64,
    /// Entries added to the stream in a second; `None` if the server does not count them.
    pub added_per_s: Option<f64>,
    /// Alerts published in a second.
    pub alerts_per_s: f64,
}

/// Observes a partition again and again, over one connection for as long as it holds, and measures the throughput.
pub(crate) struct HealthObserver {
    config: Config,
    surveyor: Option<Surveyor>,
    /// The counts of the last observation that reached the server.
    last: Option<Counts>,
}

/// What the server had counted at a moment.
#[derive(Clone, Copy)]
struct Counts {
    at: Instant,
    /// Entries processed.
    entries: u64,
    /// Entries added to the stream; `None` if the server does not count them.
    added: Option<u64>,
    alerts: u64,
}

impl HealthObserver {
    /// Prepares to observe, without connecting.
    pub(crate) fn new(config: &Config) -> Self {
        Self { config: config.clone(), surveyor: None, last: None }
    }

    /// Observes the partition now; the throughput is known from the second observation on.
    pub(crate) async fn observe(&mut self) -> (HealthReport, Option<Throughput>) {
        let address = self.config.stream.address();
        let unreachable =
            |error: anyhow::Error| HealthReport::unreachable(&self.config, format!("redis at {address}: {error}"));
        let surveyor = match &mut self.surveyor {
            Some(surveyor) => surveyor,
            none => match Surveyor::new(&self.config.stream, &self.config.alerts) {
                Ok(surveyor) => none.insert(surveyor),
                Err(error) => return (unreachable(error), None),
            },
        };
        let survey = match surveyor.survey().await {
            Ok(survey) => survey,
            Err(error) => return (unreachable(error), None),
        };
        let counts = Counts {
            at: Instant::now(),
            entries: survey.totals.entries,
            added: survey.added,
            alerts: survey.totals.alerts,
        };
        let pace = self.last.replace(counts).and_then(|last| Throughput::between(last, counts));
        (HealthReport::judge(&self.config, survey), pace)
    }
}

impl Throughput {
    /// Computes the throughput. It is `None` if a count has fallen: the server has lost data, or the group was created
    /// again.
    fn between(before: Counts, after: Counts) -> Option<Self> {
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let rate = |before: u64, after: u64| Some(after.checked_sub(before)? as f64 / seconds);
        Some(Self {
            seconds,
            entries_per_s: rate(before.entries, after.entries)?,
            added_per_s: before.added.zip(after.added).and_then(|(before, after)| rate(before, after)),
            alerts_per_s: rate(before.alerts, after.alerts)?,
        })
    }
}

impl EntryCounts {
    fn of(survey: &Survey, ours: &str) -> Self {
        let completed = survey.totals.entries.saturating_sub(survey.totals.lost);
        let consumer = survey.consumers.iter().find(|consumer| consumer.name == ours);
        let backlog = consumer.map_or(0, |consumer| consumer.pending);
        Self { submitted: completed + backlog, completed, backlog }
    }
}

/// A span of time as people read it.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{:.1}s", ms as f64 / 1000.0)
}

fn judge_consumers(survey: &Survey, ours: &str) -> Vec<ConsumerReport> {
    let verdict = |consumer: &ConsumerStatus| {
        if consumer.name == ours {
            match survey.waiting_ms {
                Some(waited) if waited > STUCK_AFTER_MS => "stuck",
                Some(_) if survey.owner.is_none() => "stale",
                None if survey.owner.is_none() => "idle",
                _ => "active",
            }
        } else if consumer.pending > 0 && consumer.idle_ms > HELD_AFTER_MS {
            "stuck"
        } else if consumer.idle_ms > STALE_AFTER_MS {
            "stale"
        } else {
            "active"
        }
    };
    let report = |consumer: &ConsumerStatus| ConsumerReport {
        name: consumer.name.clone(),
        pending: consumer.pending,
        idle_ms: consumer.idle_ms,
        verdict: verdict(consumer),
    };
    survey.consumers.iter().map(report).collect()
}

/// Everything that is wrong, the gravest first.
fn judge(survey: &Survey, consumers: &[ConsumerReport], ours: &str) -> Vec<Reason> {
    if !survey.group_exists {
        return vec![Reason::new("no_group", "the group does not exist yet; `tickhound run` creates it")];
    }
    let mut reasons = judge_progress(survey, consumers, ours);
    // A receipt without an owner is from a host that has ended.
    let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
    let conditions = receipt.map_or(&[][..], |receipt| &receipt.conditions);
    // If ticks are missing or wrong, nothing else matters.
    let (of_feed, others): (Vec<&Condition>, Vec<&Condition>) =
        conditions.iter().partition(|condition| condition.code <= ConditionCode::OffSession);
    reasons.extend(of_feed.into_iter().map(Reason::of));
    reasons.extend(judge_lag(survey));
    reasons.extend(receipt.map(judge_detectors).unwrap_or_default());
    reasons.extend(others.into_iter().map(Reason::of));
    reasons
}

/// Whether entries are processed, and by whom.
fn judge_progress(survey: &Survey, consumers: &[ConsumerReport], ours: &str) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let has_owner = survey.owner.is_some();
    let waited = survey.waiting_ms;
    let is_stuck = is_stuck(survey);
    if let Some(waited) = waited.filter(|_| is_stuck) {
        reasons.push(Reason::new(STUCK, stuck(seconds(waited), has_owner)).since(now_ms().saturating_sub(waited)));
    }
    let foreign: Vec<&ConsumerReport> = consumers.iter().filter(|c| c.name != ours && c.pending > 0).collect();
    if !foreign.is_empty() {
        let names: Vec<&str> = foreign.iter().map(|consumer| consumer.name.as_str()).collect();
        let pending: u64 = foreign.iter().map(|consumer| consumer.pending).sum();
        let text = format!("{pending} entries are pending under other consumers: {}", names.join(", "));
        reasons.push(Reason::new("pending_elsewhere", text));
    }
    if let Some(waited) = waited.filter(|_| !has_owner && !is_stuck) {
        reasons.push(Reason::new(NO_HOST, stuck(seconds(waited), has_owner)));
    }
    if survey.began_anew {
        reasons.push(Reason::new(
            "stream_began_anew",
            "the stream was deleted and started again; the host processes it from its beginning, at the latest after a restart",
        ));
    }
    if !has_owner && waited.is_none() {
        // No entry is lost by it yet, but an operator who checks in the morning must know it before the market opens.
        reasons.push(Reason::new(NO_HOST, "no host is running; every entry is processed"));
    }
    if let Some(entry) = survey.left_behind.as_ref().filter(|_| has_owner) {
        let text = format!(
            "entries from {entry} on are pending under {ours} although later ones are processed; the host is recovering \
             them. If this persists, another client reads under the same consumer name"
        );
        reasons.push(Reason::new("left_behind", text));
    }
    reasons
}

/// Whether a host is late; one that is stuck, or does not run, has a graver reason.
fn judge_lag(survey: &Survey) -> Option<Reason> {
    let waited = survey.waiting_ms.filter(|_| survey.owner.is_some() && !is_stuck(survey))?;
    if let Some(behind) = survey.behind_ms.filter(|behind| *behind > BEHIND_AFTER_MS) {
        let behind = seconds(behind);
        let text = format!("lagging: the oldest waiting entry is {behind} old; the host is processing entries");
        return Some(Reason::new("lagging", text));
    }
    // The age of an entry is unknown if its id is not a time. Then the time without a commit counts.
    let text = || format!("entries are waiting, and nothing was committed for {}", seconds(waited));
    (waited > BEHIND_AFTER_MS).then(|| Reason::new("no_commit", text()))
}

fn is_stuck(survey: &Survey) -> bool {
    survey.waiting_ms.is_some_and(|waited| waited > STUCK_AFTER_MS)
}

fn stuck(waited: String, has_owner: bool) -> String {
    if has_owner {
        format!("nothing was committed for {waited} although entries are waiting")
    } else {
        format!("no host is running, and entries have waited for {waited}")
    }
}

/// What is wrong with the detectors, as the host has reported it.
fn judge_detectors(receipt: &Receipt) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(rejection) = receipt.rejection.as_ref().filter(|rejection| rejection.is_current) {
        let text = format!("the last change was rejected, and the previous state stays in force: {}", rejection.reason);
        reasons.push(Reason::new("change_rejected", text).since(rejection.at_ms));
    }
    for detector in receipt.detectors.iter().filter(|detector| detector.quarantined_until_ms.is_some()) {
        let fault = detector.last_fault.as_deref().unwrap_or("it failed too often");
        let reason = Reason::new("quarantine", format!("detector {} is in quarantine: {fault}", detector.name));
        reasons.push(Reason { subject: Some(detector.name.clone()), ..reason });
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(survey: Survey) -> (Verdict, String) {
        let config = Config::default();
        let report = HealthReport::judge(&config, Survey { group_exists: true, ..survey });
        (report.verdict, report.reason)
    }

    fn host() -> Option<String> {
        Some("process 7 on here".into())
    }

    #[test]
    fn a_late_host_is_lagging_however_often_it_commits() {
        let late =
            |behind_ms| Survey { owner: host(), waiting_ms: Some(3), behind_ms: Some(behind_ms), ..Survey::default() };
        assert_eq!(judged(late(100)), (Verdict::Healthy, "processing entries".into()));
        let (verdict, reason) = judged(late(1_800_000));
        assert_eq!(verdict, Verdict::Degraded);
        assert_eq!(reason, "lagging: the oldest waiting entry is 1800.0s old; the host is processing entries");
    }

    #[test]
    fn a_partition_without_a_host_is_never_healthy() {
        assert_eq!(judged(Survey::default()).0, Verdict::Degraded);
        let waiting = |ms| Survey { waiting_ms: Some(ms), ..Survey::default() };
        assert_eq!(judged(waiting(5000)).0, Verdict::Degraded);
        assert_eq!(judged(waiting(STUCK_AFTER_MS + 1)).0, Verdict::Stuck);
    }

    #[test]
    fn entries_that_nobody_reads_are_not_healthy() {
        let restarted = Survey { owner: host(), began_anew: true, ..Survey::default() };
        let (verdict, reason) = judged(restarted);
        assert_eq!(verdict, Verdict::Degraded);
        assert!(reason.contains("started again"), "{reason}");
        // Later entries are committed all the time, so nothing seems to wait.
        let behind =
            Survey { owner: host(), left_behind: Some("7-1".into()), waiting_ms: Some(3), ..Survey::default() };
        let (verdict, reason) = judged(behind);
        assert_eq!(verdict, Verdict::Degraded);
        assert!(reason.contains("entries from 7-1 on are pending under tickhound"), "{reason}");
        // The age of an entry is unknown if its id is not a time.
        let idle =
            Survey { owner: host(), waiting_ms: Some(BEHIND_AFTER_MS + 1), behind_ms: Some(0), ..Survey::default() };
        assert_eq!(judged(idle).0, Verdict::Degraded);
    }

    #[test]
    fn entries_that_other_consumers_hold_do_not_make_a_host_stuck() {
        let consumers = vec![ConsumerStatus { name: "scanner".into(), pending: 50, idle_ms: 10_000 }];
        let (verdict, reason) =
            judged(Survey { owner: host(), consumers, behind_ms: Some(3_600_000), ..Survey::default() });
        assert_eq!(verdict, Verdict::Degraded);
        assert_eq!(reason, "50 entries are pending under other consumers: scanner");
    }

    #[test]
    fn consumers_stay_arrays_in_json() {
        let consumer = ConsumerStatus { name: "scanner".into(), pending: 5, idle_ms: 60_000 };
        let survey = Survey { consumers: vec![consumer], ..Survey::default() };
        let json = serde_json::to_value(&survey).unwrap();
        assert_eq!(json["consumers"].to_string(), r#"[["scanner",5,60000]]"#);
    }

    fn holding(code: ConditionCode, subject: &str) -> Condition {
        Condition { code, subject: subject.into(), text: format!("{} holds", code.name()), began_ms: 7, count: 1 }
    }

    /// `status` said that a feed of garbage is healthy, since every entry of it was processed.
    #[test]
    fn conditions_of_the_owner_are_reasons_and_those_of_the_feed_come_first() {
        let conditions = vec![holding(ConditionCode::SilentFeed, ""), holding(ConditionCode::ChannelFailing, "desk")];
        let detector = tickhound_core::receipt::DetectorReceipt {
            name: "jump".into(),
            quarantined_until_ms: Some(1),
            ..Default::default()
        };
        let receipt = Some(Receipt { conditions, detectors: vec![detector], ..Receipt::default() });
        let survey = |owner| Survey {
            group_exists: true,
            owner,
            waiting_ms: Some(3),
            behind_ms: Some(9_000),
            receipt: receipt.clone(),
            ..Survey::default()
        };
        let report = HealthReport::judge(&Config::default(), survey(host()));
        assert_eq!((report.verdict, report.reason.as_str()), (Verdict::Degraded, "silent_feed holds"));
        let codes: Vec<&str> = report.reasons.iter().map(|reason| reason.code).collect();
        assert_eq!(codes, ["silent_feed", "lagging", "quarantine", "channel_failing"]);
        assert_eq!((report.reasons[3].subject.as_deref(), report.reasons[3].since_ms), (Some("desk"), Some(7)));
        // A host that has ended has none any more.
        let codes = HealthReport::judge(&Config::default(), survey(None)).reasons;
        assert_eq!(codes.iter().map(|reason| reason.code).collect::<Vec<_>>(), [NO_HOST]);
    }

    #[test]
    fn a_stuck_host_is_stuck_whatever_else_is_wrong() {
        let receipt = Some(Receipt { conditions: vec![holding(ConditionCode::DeadLetters, "")], ..Receipt::default() });
        let (verdict, reason) =
            judged(Survey { owner: host(), waiting_ms: Some(STUCK_AFTER_MS + 1), receipt, ..Survey::default() });
        assert_eq!(verdict, Verdict::Stuck);
        assert!(reason.starts_with("nothing was committed for"), "{reason}");
    }
}
