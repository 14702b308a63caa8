//! When the next message may be sent: a limit a minute, and longer waits after failures; pure.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;

const MINUTE_MS: u64 = 60_000;

/// The shortest and the longest wait before an attempt is repeated.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The first and the longest pause of a channel that is rejected: a person must fix something first.
const PAUSE_MIN: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// After this many rejected messages in a row the cause is not in the messages.
const REJECTIONS_MAX: u32 = 3;

/// So many failures in a row that may pass by themselves are a hiccup of the receiver; more are trouble.
const HICCUP_MAX: u32 = 2;

/// A receiver that asks for a longer wait than this is tried again anyway.
const ASKED_MAX: Duration = PAUSE_MAX;

/// The waits of one channel after failures.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    not_before: Option<Instant>,
    /// Each of these counts in a row.
    failures: u32,
    rejections: u32,
    pauses: u32,
}

/// A channel that fails again within this time of a delivery is not mended by the next delivery.
const CALM: Duration = Duration::from_secs(60);

/// Whether a channel that was failing may count as mended: with its first delivery, but if it fails again soon, only after
/// a while without a failure. A receiver that takes every other message would otherwise be failing and mended in turns.
#[derive(Debug, Default)]
pub(super) enum Relapse {
    /// It has not failed.
    #[default]
    None,
    /// It is failing; the first delivery ends that.
    First,
    /// It delivered at this time.
    Mended(Instant),
    /// It has failed again soon after a delivery, at this time for the last time.
    Again(Instant),
}

impl Relapse {
    /// The channel is failing.
    pub(super) fn failed(&mut self, now: Instant) {
        *self = match self {
            Self::Mended(at) if now.duration_since(*at) < CALM => Self::Again(now),
            Self::Again(_) => Self::Again(now),
            Self::None | Self::First | Self::Mended(_) => Self::First,
        };
    }

    /// The channel is not failing. Returns whether its condition may end.
    pub(super) fn allows_end(&mut self, now: Instant) -> bool {
        match self {
            Self::First => *self = Self::Mended(now),
            Self::Again(at) if now.duration_since(*at) < CALM => return false,
            Self::Again(_) => *self = Self::None,
            Self::None | Self::Mended(_) => {}
        }
        true
    }
}

impl Backoff {
    /// Time left to wait; `None` if a message may be sent.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.not_before.and_then(remaining)
    }

    /// Whether nothing worse has happened than a few failures that may pass by themselves.
    pub(super) fn is_hiccup(&self) -> bool {
        (1..=HICCUP_MAX).contains(&self.failures) && self.rejections + self.pauses == 0
    }

    /// An attempt failed and may succeed soon; `asked` is what the receiver asks for.
    pub(super) fn retry(&mut self, asked: Option<Duration>) {
        self.failures += 1;
        self.wait(retry(self.failures, asked, rand::random()));
    }

    /// The receiver rejected a message; after several in a row the channel pauses.
    pub(super) fn reject(&mut self) {
        self.rejections += 1;
        if self.rejections >= REJECTIONS_MAX {
            self.pause();
        }
    }

    /// The receiver accepts no message until a person has fixed something.
    pub(super) fn pause(&mut self) {
        self.pauses += 1;
        self.wait(pause(self.pauses));
    }

    /// A message arrived.
    pub(super) fn reset(&mut self) {
        (self.failures, self.rejections, self.pauses) = (0, 0, 0);
    }

    fn wait(&mut self, wait: Duration) {
        self.not_before = Some(Instant::now() + wait);
    }
}

/// Time left until then; `None` if it has passed.
pub(super) fn remaining(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// How long to wait until another message is allowed; `sent_ms` are the times of earlier ones, oldest first.
pub(super) fn wait_for_turn(sent_ms: &[u64], per_minute: usize, now_ms: u64) -> Duration {
    // Times in the future were written before the clock was set back.
    let within = sent_ms.iter().filter(|sent| **sent <= now_ms && now_ms - **sent < MINUTE_MS);
    let within: Vec<u64> = within.copied().collect();
    match within.len().checked_sub(per_minute) {
        Some(first) => Duration::from_millis(within[first] + MINUTE_MS - now_ms),
        None => Duration::ZERO,
    }
}

/// Records a message, and drops the times that no longer count.
pub(super) fn note_sent(sent_ms: &mut Vec<u64>, now_ms: u64) {
    sent_ms.retain(|sent| *sent <= now_ms && now_ms - *sent < MINUTE_MS);
    sent_ms.push(now_ms);
}

/// The wait after `failures` in a row, with full jitter, so that channels that lost one receiver do not all
/// return at once; `random` is in 0..1.
pub(super) fn retry(failures: u32, asked: Option<Duration>, random: f64) -> Duration {
    let longest = RETRY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_MAX);
    let own = RETRY_MIN / 4 + longest.mul_f64(random);
    asked.map_or(own, |asked| asked.min(ASKED_MAX).max(RETRY_MIN / 4))
}

/// The pause of a channel that was rejected `times` times in a row.
fn pause(times: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << times.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

/// The wait that a receiver asks for: `Retry-After`, in seconds or as a date; or what Discord and Telegram write into
/// the body, which may be more exact.
pub(super) fn asked(header: Option<&str>, body: &str, now: Timestamp) -> Option<Duration> {
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).ok();
    let header = header.map(str::trim).and_then(|text| match text.parse::<f64>() {
        Ok(number) => seconds(number),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Some(Duration::from_millis(u64::try_from(date.as_millisecond() - now.as_millisecond()).unwrap_or(0)))
        }
    });
    let body: Option<Value> = serde_json::from_str(body).ok();
    let body = body.as_ref().and_then(|body| {
        let asked = body.get("retry_after").or_else(|| body.get("parameters")?.get("retry_after"));
        seconds(asked?.as_f64()?)
    });
    header.max(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_has_more_messages_than_allowed() {
        let (mut sent, mut all, mut now) = (Vec::new(), Vec::new(), 1_000_000);
        for step in 0..200 {
            let wait = wait_for_turn(&sent, 3, now);
            assert!(wait <= Duration::from_secs(60));
            now += wait.as_millis() as u64;
            assert_eq!(wait_for_turn(&sent, 3, now), Duration::ZERO, "the wait is long enough");
            note_sent(&mut sent, now);
            all.push(now);
            now += step * 37 % 9000;
        }
        assert!(all.windows(4).all(|four| four[3] - four[0] >= 60_000));
        assert!(all.windows(4).any(|four| four[3] - four[0] == 60_000), "no slower than necessary");
        assert!(sent.len() <= 4);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_no_message() {
        assert_eq!(wait_for_turn(&[9_000_000, 9_000_001], 1, 5), Duration::ZERO);
    }

    /// A receiver took every other message: failing and mended in turns was six messages within eleven seconds.
    #[test]
    fn a_channel_that_fails_again_soon_is_mended_by_a_calm_minute_only() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut relapse = Relapse::default();
        assert!(relapse.allows_end(at(0)));
        relapse.failed(at(1));
        assert!(relapse.allows_end(at(2)), "the first delivery mends it");
        for second in [3, 5, 7] {
            relapse.failed(at(second));
            assert!(!relapse.allows_end(at(second + 1)));
        }
        assert!(!relapse.allows_end(at(66)));
        assert!(relapse.allows_end(at(67)));
        relapse.failed(at(68));
        assert!(relapse.allows_end(at(69)));
        relapse.failed(at(200));
        assert!(relapse.allows_end(at(201)), "long after");
    }

    #[test]
    fn waits_grow_to_a_limit_and_follow_the_receiver() {
        let longest: Vec<u64> = (1..9).map(|failures| retry(failures, None, 1.0).as_secs()).collect();
        assert_eq!(longest, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry(9, None, 0.0), Duration::from_millis(250));
        assert_eq!(retry(1, Some(Duration::from_secs(7)), 1.0), Duration::from_secs(7));
        assert_eq!(retry(1, Some(Duration::ZERO), 1.0), Duration::from_millis(250));
        assert_eq!(retry(1, Some(Duration::from_secs(1 << 40)), 1.0), Duration::from_secs(3600));
        let pauses: Vec<u64> = (1..9).map(|times| pause(times).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn the_wait_that_a_receiver_asks_for_is_read_in_each_form() {
        let now: Timestamp = "2026-11-25T09:30:00Z".parse().unwrap();
        let cases = [
            (Some("3"), "", Some(3_000)),
            (Some(" 1.5 "), "slow down", Some(1_500)),
            (Some("Wed, 25 Nov 2026 09:30:40 GMT"), "", Some(40_000)),
            (Some("Wed, 25 Nov 2026 09:29:00 GMT"), "", Some(0)),
            (Some("soon"), "", None),
            (Some("-5"), "", None),
            (Some("NaN"), "", None),
            (Some("inf"), "", None),
            (None, r#"{"message":"rate limited","retry_after":0.65,"global":false}"#, Some(650)),
            (None, r#"{"ok":false,"error_code":429,"parameters":{"retry_after":35}}"#, Some(35_000)),
            (Some("1"), r#"{"retry_after":1.337}"#, Some(1_337)),
            (None, r#"{"retry_after":"soon"}"#, None),
            (None, "", None),
        ];
        for (header, body, expected) in cases {
            let wait = asked(header, body, now).map(|wait| wait.as_millis());
            assert_eq!(wait, expected, "{header:?} {body}");
        }
    }
}
