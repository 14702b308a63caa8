//! What receivers of notifications answer, read by the program's own files, without its client and TLS.

#[path = "../../src/notify/answer.rs"]
mod answer;
#[path = "../../src/notify/pacing.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod pacing;
#[path = "../../src/notify/sanitize.rs"]
mod sanitize;
#[path = "../../src/notify/secret.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod secret;

use std::time::Duration;

use jiff::Timestamp;
use ureq::http::{HeaderMap, HeaderValue, StatusCode};

use self::{answer::AttemptOutcome, secret::Secrets};
use crate::SEPARATOR;

/// The secret parts of the channel's URL and its token. No answer has them by chance.
const SECRETS: [&str; 3] = ["T0SECRET", "keepThisPart", "bearer-of-all"];

/// The longest reason, bytes: a quoted answer of 200 characters, and the words around it.
const REASON_MAX: usize = 1500;

/// The longest wait that a receiver may ask for.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Checks that any answer means one thing, in one short line without a secret, and delays a message for an hour at most.
pub fn answer(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_first_chunk() else { return };
    let Ok(status) = StatusCode::from_u16(u16::from_be_bytes(*status)) else { return };
    let mut parts = rest.splitn(3, |byte| *byte == SEPARATOR);
    let mut headers = HeaderMap::new();
    for name in ["retry-after", "location"] {
        if let Some(value) = parts.next().and_then(|value| HeaderValue::from_bytes(value).ok()) {
            headers.insert(name, value);
        }
    }
    let body = parts.next().unwrap_or_default();
    let secrets = Secrets {
        url: format!("https://hooks.example/services/{}?key={}", SECRETS[0], SECRETS[1]),
        bearer: Some(SECRETS[2].to_owned()),
        address: "https://hooks.example".into(),
    };
    let outcome = answer::judge(status, &headers, body, &secrets, Timestamp::UNIX_EPOCH).scrubbed(&secrets);
    let (reason, asked) = match outcome {
        AttemptOutcome::Delivered => return assert!(status.is_success()),
        AttemptOutcome::Later(reason, asked) => (reason, asked),
        AttemptOutcome::Unknown(reason) | AttemptOutcome::Rejected(reason) | AttemptOutcome::Closed(reason) => {
            (reason, None)
        }
    };
    assert!(!status.is_success(), "a success is delivered, not {reason}");
    assert!(!reason.chars().any(char::is_control), "{reason:?}");
    assert!(SECRETS.iter().all(|secret| !reason.contains(secret)), "{reason}");
    assert!(reason.len() <= REASON_MAX, "{} bytes", reason.len());
    for failures in [1, u32::MAX] {
        assert!(pacing::retry(failures, asked, 1.0) <= WAIT_MAX, "{asked:?}");
    }
}
