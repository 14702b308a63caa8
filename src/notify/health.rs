//! What a channel is told of the host's own trouble; pure.
//!
//! What holds:
//! - A condition is told once when it begins, and once when it ends, over restarts and take-overs: what was told is in the
//!   channel's state.
//! - A condition of an earlier process counts as lasting until this process has had time to find it again. So a restart tells
//!   neither its end nor its beginning.
//! - A channel is not told of its own failure.

use std::time::{Duration, Instant};

use tickhound_core::condition::{Condition, ConditionCode};
use tickhound_redis::notification_position::ReportedCondition;

/// After a host has begun to send for this long, a condition that was told by an earlier one and is not found again has
/// ended. The slowest conditions are judged by the ticks of some minutes.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(300);

/// What a channel knows of the host's conditions.
pub(super) struct HealthWatch {
    /// The name of the channel.
    channel: String,
    current: Vec<Condition>,
    /// Conditions that have ended in this process, and when, ms since the Unix epoch. Removed once the end is told.
    ended: Vec<(Condition, u64)>,
    /// Since when this host sends.
    sending_since: Option<Instant>,
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HealthNews {
    /// Something is wrong.
    Began(Condition),
    /// Something that was told is no longer wrong.
    Ended {
        /// What was told.
        reported: ReportedCondition,
        /// When it ended, ms since the Unix epoch; `None` if nobody saw it end.
        ended_ms: Option<u64>,
    },
    /// Something was wrong and is so no longer: it could not be told meanwhile.
    Passed {
        /// What was wrong.
        condition: Condition,
        /// When it ended, ms since the Unix epoch.
        ended_ms: u64,
    },
}

impl HealthNews {
    /// The condition that it is about.
    fn identity(&self) -> (ConditionCode, &str) {
        match self {
            Self::Began(condition) | Self::Passed { condition, .. } => (condition.code, &condition.subject),
            Self::Ended { reported, .. } => (reported.code, &reported.subject),
        }
    }
}

impl HealthWatch {
    pub(super) fn new(channel: &str) -> Self {
        Self { channel: channel.to_owned(), current: Vec::new(), ended: Vec::new(), sending_since: None }
    }

    /// Takes the conditions that hold now.
    pub(super) fn observe(&mut self, mut current: Vec<Condition>, now_ms: u64) {
        current.retain(|condition| !condition.is(ConditionCode::ChannelFailing, &self.channel));
        let before = std::mem::replace(&mut self.current, current);
        for condition in before {
            // One that ended and began again between two looks has another beginning.
            let lasts = self.current.iter().any(|now| is_same(now, &condition) && now.began_ms == condition.began_ms);
            if !lasts {
                self.ended.retain(|(ended, _)| !is_same(ended, &condition));
                self.ended.push((condition, now_ms));
            }
        }
    }

    /// Notes that another host sends. What passes here meanwhile is not told: it is the trouble of a host without work.
    pub(super) fn stand_by(&mut self) {
        self.sending_since = None;
        self.ended.clear();
    }

    /// What is to be told, given what was.
    pub(super) fn news(&mut self, reported: &[ReportedCondition], now: Instant) -> Vec<HealthNews> {
        let since = *self.sending_since.get_or_insert(now);
        let is_settled = now.duration_since(since) >= SETTLED_AFTER;
        let mut news = Vec::new();
        for condition in &self.current {
            if !reported.iter().any(|reported| reported.is(condition.code, &condition.subject)) {
                news.push(HealthNews::Began(condition.clone()));
            }
        }
        for reported in reported {
            let ended = self.ended.iter().find(|(ended, _)| reported.is(ended.code, &ended.subject));
            let lasts = self.current.iter().any(|now| reported.is(now.code, &now.subject));
            if !lasts && (ended.is_some() || is_settled) {
                news.push(HealthNews::Ended {
                    reported: reported.clone(),
                    ended_ms: ended.map(|(_, ended_ms)| *ended_ms),
                });
            }
        }
        for (condition, ended_ms) in &self.ended {
            let lasts = self.current.iter().any(|now| is_same(now, condition));
            if !lasts && !reported.iter().any(|reported| reported.is(condition.code, &condition.subject)) {
                news.push(HealthNews::Passed { condition: condition.clone(), ended_ms: *ended_ms });
            }
        }
        news
    }

    /// Notes that these were told.
    pub(super) fn mark_reported(&mut self, news: &[HealthNews]) {
        for reported in news {
            let (code, subject) = reported.identity();
            if !matches!(reported, HealthNews::Began(_)) {
                self.ended.retain(|(ended, _)| !ended.is(code, subject));
            }
        }
    }
}

/// What was told, after these are told too.
pub(super) fn reported_after(reported: &[ReportedCondition], news: &[HealthNews]) -> Vec<ReportedCondition> {
    let mut reported = reported.to_vec();
    for news in news {
        match news {
            HealthNews::Began(Condition { code, subject, began_ms, .. }) => {
                reported.push(ReportedCondition { code: *code, subject: subject.clone(), began_ms: *began_ms });
            }
            HealthNews::Ended { reported: ended, .. } => reported.retain(|reported| reported != ended),
            HealthNews::Passed { .. } => {}
        }
    }
    reported
}

fn is_same(one: &Condition, other: &Condition) -> bool {
    one.is(other.code, &other.subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(code: ConditionCode, subject: &str, began_ms: u64) -> Condition {
        Condition { code, subject: subject.into(), text: "it is wrong".into(), began_ms, count: 1 }
    }

    /// A channel, and what it was told.
    struct WatchedHost {
        watch: HealthWatch,
        reported: Vec<ReportedCondition>,
        now: Instant,
        now_ms: u64,
    }

    impl WatchedHost {
        fn new(reported: Vec<ReportedCondition>) -> Self {
            Self { watch: HealthWatch::new("desk"), reported, now: Instant::now(), now_ms: 1_000_000 }
        }

        fn wait(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
            self.now_ms += seconds * 1000;
        }

        fn observe(&mut self, current: &[Condition]) {
            self.watch.observe(current.to_vec(), self.now_ms);
        }

        /// What a message tells now.
        fn tell(&mut self) -> Vec<String> {
            let news = self.watch.news(&self.reported, self.now);
            self.watch.mark_reported(&news);
            self.reported = reported_after(&self.reported, &news);
            let text = |news: &HealthNews| {
                let what = match news {
                    HealthNews::Began(_) => "began",
                    HealthNews::Ended { .. } => "ended",
                    HealthNews::Passed { .. } => "passed",
                };
                format!("{what} {}", news.identity().0.name())
            };
            news.iter().map(text).collect()
        }
    }

    #[test]
    fn a_condition_is_told_once_when_it_begins_and_once_when_it_ends() {
        let mut desk = WatchedHost::new(Vec::new());
        let silent = condition(ConditionCode::SilentFeed, "", 900);
        assert!(desk.tell().is_empty());
        desk.observe(std::slice::from_ref(&silent));
        assert_eq!(desk.tell(), ["began silent_feed"]);
        desk.observe(&[Condition { count: 9, text: "still".into(), ..silent }]);
        assert!(desk.tell().is_empty());
        desk.observe(&[]);
        assert_eq!(desk.tell(), ["ended silent_feed"]);
        assert!(desk.tell().is_empty());
    }

    #[test]
    fn a_restart_while_a_condition_lasts_tells_nothing() {
        let mut before = WatchedHost::new(Vec::new());
        before.observe(&[condition(ConditionCode::SilentFeed, "", 900), condition(ConditionCode::LagGrowing, "", 900)]);
        assert_eq!(before.tell().len(), 2);
        let mut after = WatchedHost::new(before.reported);
        after.observe(&[]);
        assert!(after.tell().is_empty(), "nothing is known yet");
        after.wait(60);
        after.observe(&[condition(ConditionCode::SilentFeed, "", 1_050_000)]);
        assert!(after.tell().is_empty(), "it was told before the restart");
        after.wait(SETTLED_AFTER.as_secs());
        assert_eq!(after.tell(), ["ended lag_growing"], "the other one was not found again");
        after.observe(&[]);
        assert_eq!(after.tell(), ["ended silent_feed"]);
    }

    /// A standby has no news, however long it waits: its time begins when it takes over.
    #[test]
    fn a_host_that_takes_over_is_given_time_too() {
        let mut reported = WatchedHost::new(Vec::new());
        reported.observe(&[condition(ConditionCode::DeadLetters, "", 900)]);
        assert_eq!(reported.tell(), ["began dead_letters"]);
        let mut other = WatchedHost::new(reported.reported);
        assert!(other.tell().is_empty());
        other.wait(SETTLED_AFTER.as_secs() - 1);
        other.observe(&[condition(ConditionCode::LogFailing, "", 900)]);
        other.observe(&[]);
        other.watch.stand_by();
        other.wait(2);
        assert!(other.tell().is_empty());
        other.wait(SETTLED_AFTER.as_secs());
        assert_eq!(other.tell(), ["ended dead_letters"]);
    }

    #[test]
    fn what_passed_while_nothing_could_be_sent_is_told_once() {
        let mut desk = WatchedHost::new(Vec::new());
        desk.observe(&[condition(ConditionCode::LagGrowing, "", 900)]);
        desk.observe(&[]);
        desk.observe(&[condition(ConditionCode::LagGrowing, "", 990)]);
        desk.observe(&[]);
        assert_eq!(desk.tell(), ["passed lag_growing"]);
        assert!(desk.tell().is_empty());
        desk.observe(&[condition(ConditionCode::LagGrowing, "", 1000)]);
        assert_eq!(desk.tell(), ["began lag_growing"]);
    }

    #[test]
    fn a_channel_is_not_told_of_its_own_failure() {
        let mut desk = WatchedHost::new(Vec::new());
        let failing = |channel| condition(ConditionCode::ChannelFailing, channel, 900);
        desk.observe(&[failing("desk"), failing("phone")]);
        assert_eq!(desk.tell(), ["began channel_failing"]);
        assert_eq!(desk.reported[0].subject, "phone");
    }
}
