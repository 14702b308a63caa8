//! Conditions: what is wrong with a host or its feed while it goes on working, for `status`, metrics and notifications.
//!
//! What holds: a code and a subject identify a condition. Its text and its count may change while it lasts.

use serde::{Deserialize, Serialize};

/// What is wrong, the gravest first: the order of the variants is the order in which conditions are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionCode {
    /// A share of the entries is dead-lettered.
    DeadLetters,
    /// No tick arrives although a session is open.
    SilentFeed,
    /// A share of the ticks has its time raised to that of the tick before.
    TimesRaised,
    /// A share of the ticks is outside of every session.
    OffSession,
    /// Entries arrive faster than they are processed.
    LagGrowing,
    /// A notification channel does not deliver.
    ChannelFailing,
    /// The file of alerts can't be written.
    AlertsFileFailing,
    /// The log can't be written.
    LogFailing,
    /// The recorder of the stream does not record.
    RecordingFailing,
    /// A share of the ticks has its volume repaired.
    VolumeRepaired,
    /// A condition of a newer release.
    #[default]
    #[serde(other)]
    Other,
}

impl ConditionCode {
    /// Every code that this release reports, the gravest first.
    pub const ALL: [Self; 10] = [
        Self::DeadLetters,
        Self::SilentFeed,
        Self::TimesRaised,
        Self::OffSession,
        Self::LagGrowing,
        Self::ChannelFailing,
        Self::AlertsFileFailing,
        Self::LogFailing,
        Self::RecordingFailing,
        Self::VolumeRepaired,
    ];

    /// The name in JSON, metrics and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeadLetters => "dead_letters",
            Self::SilentFeed => "silent_feed",
            Self::TimesRaised => "times_raised",
            Self::OffSession => "off_session",
            Self::LagGrowing => "lag_growing",
            Self::ChannelFailing => "channel_failing",
            Self::AlertsFileFailing => "alerts_file_failing",
            Self::LogFailing => "log_failing",
            Self::RecordingFailing => "recording_failing",
            Self::VolumeRepaired => "volume_repaired",
            Self::Other => "other",
        }
    }

    /// A sentence that says that the condition has ended.
    pub fn end(self) -> &'static str {
        match self {
            Self::DeadLetters => "nearly all entries are decoded again",
            Self::SilentFeed => "the feed is no longer silent",
            Self::TimesRaised => "the times of nearly all ticks are in order again",
            Self::OffSession => "ticks are within sessions again",
            Self::LagGrowing => "the lag no longer grows",
            Self::ChannelFailing => "the notification channel is no longer failing",
            Self::AlertsFileFailing => "the alerts file is no longer failing",
            Self::LogFailing => "the log can be written again",
            Self::RecordingFailing => "the recorder records, or was stopped",
            Self::VolumeRepaired => "the volumes of nearly all ticks are plausible again",
            Self::Other => "the condition has ended",
        }
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// What is wrong.
    pub code: ConditionCode,
    /// The channel or the file that it is about; empty if there is only one of its kind.
    pub subject: String,
    /// What is wrong and what to do, in a sentence.
    pub text: String,
    /// When it began, ms since the Unix epoch.
    pub began_ms: u64,
    /// How many entries, ticks, attempts or lines it has affected; 0 if nothing is counted.
    pub count: u64,
}

impl Condition {
    /// Whether this is the condition with that code and subject.
    pub fn is(&self, code: ConditionCode, subject: &str) -> bool {
        self.code == code && self.subject == subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_codes_are_those_in_json() {
        for code in ConditionCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
        assert!(ConditionCode::ALL.is_sorted());
    }

    /// An observer of an older release reads the receipt of a newer host.
    #[test]
    fn an_unknown_code_is_a_condition_nevertheless() {
        let read: Condition = serde_json::from_str(r#"{"code":"of_tomorrow","text":"it rains","more":1}"#).unwrap();
        assert_eq!((read.code, read.text.as_str()), (ConditionCode::Other, "it rains"));
    }
}
