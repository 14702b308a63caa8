//! What the answer of a receiver means; pure.
//!
//! What holds: whatever a receiver answers, the reason is one short line without control characters, and has nothing of
//! a secret.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use ureq::http::{HeaderMap, StatusCode};

use super::{
    pacing,
    sanitize::sanitize,
    secret::{Secrets, address},
};

/// Characters of an answer that are quoted.
const ANSWER_QUOTED: usize = 200;

/// The outcome of an attempt.
#[derive(Debug, PartialEq)]
pub(super) enum AttemptOutcome {
    /// The message arrived.
    Delivered,
    /// It did not arrive, and may later; not before this time has passed, if the receiver asks for it.
    Later(String, Option<Duration>),
    /// It is unknown whether it arrived.
    Unknown(String),
    /// The receiver does not accept this message.
    Rejected(String),
    /// The receiver accepts no message at all: a person must fix something.
    Closed(String),
}

impl AttemptOutcome {
    /// The same outcome; its reason has nothing of the secrets.
    pub(super) fn scrubbed(self, secrets: &Secrets) -> Self {
        match self {
            Self::Delivered => Self::Delivered,
            Self::Later(reason, after) => Self::Later(secrets.scrub(&reason), after),
            Self::Unknown(reason) => Self::Unknown(secrets.scrub(&reason)),
            Self::Rejected(reason) => Self::Rejected(secrets.scrub(&reason)),
            Self::Closed(reason) => Self::Closed(secrets.scrub(&reason)),
        }
    }
}

/// What an answer means, by its status, its headers and the beginning of its body.
pub(super) fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    answer: &[u8],
    secrets: &Secrets,
    now: Timestamp,
) -> AttemptOutcome {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let answer = String::from_utf8_lossy(answer);
    let reason = match excerpt(&answer, secrets) {
        answer if answer.is_empty() => format!("it answers {status}"),
        answer => format!("it answers {status}: {answer}"),
    };
    match status.as_u16() {
        200..=299 => AttemptOutcome::Delivered,
        300..=399 => {
            let to = header("location").and_then(address);
            let to = to.map_or_else(String::new, |to| format!(" to {to}"));
            AttemptOutcome::Closed(format!("it answers {status}, a redirect{to}: configure the new URL"))
        }
        429 => AttemptOutcome::Later(
            "it answers 429 Too Many Requests: lower per_minute".into(),
            pacing::asked(header("retry-after"), &answer, now),
        ),
        425 | 503 => AttemptOutcome::Later(reason, pacing::asked(header("retry-after"), &answer, now)),
        // A gateway may have passed the message on; a server may have failed after processing it.
        408 | 500.. => AttemptOutcome::Unknown(reason),
        401 | 403 | 404 | 405 | 407 | 410 => {
            AttemptOutcome::Closed(format!("{reason}; check that the URL and the token are right and still valid"))
        }
        _ => AttemptOutcome::Rejected(reason),
    }
}

/// The beginning of an answer, in one line.
fn excerpt(answer: &str, secrets: &Secrets) -> String {
    let json: Option<Value> = serde_json::from_str(answer).ok();
    let reason = json.as_ref().and_then(|json| json.get("description").or_else(|| json.get("message"))?.as_str());
    // Before it is shortened, since half a secret would not be recognised; and after JSON is parsed, whose escapes hide one.
    let scrubbed = secrets.scrub(reason.unwrap_or(answer));
    let short: String = sanitize(&scrubbed).take(ANSWER_QUOTED).collect();
    short.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(url: &str) -> Secrets {
        Secrets { url: url.into(), bearer: None, address: String::new() }
    }

    #[test]
    fn an_answer_means_one_of_five_things() {
        let secrets = secrets("https://hooks.example/services/T0/B0/XXXX");
        let judge = |status: u16, headers: &[(&'static str, &'static str)], answer: &str| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let status = StatusCode::from_u16(status).unwrap();
            judge(status, &headers.collect(), answer.as_bytes(), &secrets, Timestamp::UNIX_EPOCH)
        };
        for status in [200, 201, 202, 204] {
            assert_eq!(judge(status, &[], ""), AttemptOutcome::Delivered);
        }
        let limited = judge(429, &[("retry-after", "3")], "{}");
        assert!(matches!(&limited, AttemptOutcome::Later(_, Some(after)) if after.as_secs() == 3), "{limited:?}");
        for status in [503, 425] {
            assert!(matches!(judge(status, &[], ""), AttemptOutcome::Later(_, None)), "{status}");
        }
        for status in [500, 502, 504, 408] {
            assert!(matches!(judge(status, &[], ""), AttemptOutcome::Unknown(_)), "{status}");
        }
        let busy = judge(503, &[("retry-after", "9")], "");
        assert!(matches!(&busy, AttemptOutcome::Later(_, Some(after)) if after.as_secs() == 9), "{busy:?}");
        for status in [401, 403, 404, 410] {
            assert!(matches!(judge(status, &[], "gone"), AttemptOutcome::Closed(_)), "{status}");
        }
        let moved = judge(302, &[("location", "https://elsewhere.example/services/secret")], "");
        assert!(
            matches!(&moved, AttemptOutcome::Closed(reason) if reason.contains(" to https://elsewhere.example:") && !reason.contains("secret")),
            "{moved:?}"
        );
        let rejected = judge(400, &[], "{\"ok\":false,\"description\":\"Bad Request:\\nchat not found\"}");
        assert_eq!(
            rejected,
            AttemptOutcome::Rejected("it answers 400 Bad Request: Bad Request: chat not found".into())
        );
        let long = judge(400, &[], &"x".repeat(10_000));
        assert!(matches!(&long, AttemptOutcome::Rejected(reason) if reason.len() < 300), "{long:?}");
    }

    /// The secret was removed from the JSON text, where an escape hid it, and then from the excerpt, which ended in the
    /// middle of it: its first half was in the log.
    #[test]
    fn a_secret_that_json_escapes_hide_is_removed_before_the_answer_is_shortened() {
        let secrets = secrets("https://hooks.example/services/T0/B0/abcdefghijklmnop");
        let description = format!("{}\\u0061bcdefghijklmnop", "x".repeat(ANSWER_QUOTED - 9));
        let answer = format!("{{\"description\":\"{description}\"}}");
        let headers = HeaderMap::new();
        let outcome = judge(StatusCode::BAD_REQUEST, &headers, answer.as_bytes(), &secrets, Timestamp::UNIX_EPOCH);
        assert!(matches!(&outcome, AttemptOutcome::Rejected(reason) if reason.ends_with("xx…")), "{outcome:?}");
    }
}
