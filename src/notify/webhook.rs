//! One request to a receiver, and what its answer means.
//!
//! What holds: a request ends in time, whatever the receiver does; redirects are not followed, since the secret is
//! for one host; no more of an answer is read than is used.

use std::{fs, io, io::Read, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use ureq::{
    Agent, Timeout,
    http::{HeaderMap, StatusCode},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    message::{Notification, NotificationKind, Style, shown},
    pacing,
    secret::{Secrets, address},
};
use tickhound_core::config::{NotifyConfig, NotifyKind};
use tickhound_redis::notification_position::Omissions;

/// The longest time to resolve a name and to connect, within the time that a message may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 4096;

/// Characters of an answer that are quoted.
const ANSWER_QUOTED: usize = 200;

/// A longer alert, bytes of JSON, is only counted. No detector's is as long: another program has written it, and a few
/// of them would fill the memory of a receiver.
const ALERT_MAX: usize = 16 * 1024;

/// Discord's flag for a message that shows no previews of links.
const DISCORD_SUPPRESS_EMBEDS: u32 = 1 << 2;

/// Version of the JSON that a webhook gets; docs/notify.md describes it.
const FORMAT_VERSION: u32 = 1;

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

/// What is sent; it is the same at each attempt.
pub(super) struct Request {
    /// Lets a receiver drop repeats.
    pub(super) key: String,
    pub(super) body: Vec<u8>,
}

/// The HTTP client of a channel.
///
/// # Errors
/// When its certificate authority can't be read.
pub(super) fn agent(config: &NotifyConfig) -> Result<Agent> {
    let roots = if config.tls_ca.as_os_str().is_empty() { native_roots() } else { configured_roots(config)? };
    let longest = Duration::from_millis(config.timeout_ms);
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(longest))
        .timeout_resolve(Some(CONNECT_MAX.min(longest)))
        .timeout_connect(Some(CONNECT_MAX.min(longest)))
        // A connection that was left open may be closed by now; then it is unknown whether a message arrived.
        .max_idle_connections(0)
        .user_agent(concat!("tickhound/", env!("CARGO_PKG_VERSION")))
        .tls_config(TlsConfig::builder().root_certs(roots).build());
    Ok(agent.build().into())
}

/// The authorities that this machine trusts; a bare container has none, and gets a built-in list.
fn native_roots() -> RootCerts {
    let certificates = rustls_native_certs::load_native_certs().certs;
    let certificates: Vec<_> = certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    if certificates.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(certificates)) }
}

fn configured_roots(config: &NotifyConfig) -> Result<RootCerts> {
    let file = &config.tls_ca;
    let pem = fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    ensure!(!certificates.is_empty(), "{} contains no PEM certificate", file.display());
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// The body of `message` in the form that the receiver expects.
pub(super) fn body(config: &NotifyConfig, message: &Notification, key: &str, style: &Style<'_>) -> Vec<u8> {
    let text = message.text(style);
    let body = match config.kind {
        NotifyKind::Webhook => return generic(config, message, key, &text).into_bytes(),
        NotifyKind::Slack => json!({
            "text": text, "mrkdwn": false, "parse": "none", "link_names": false, "unfurl_links": false,
            "unfurl_media": false,
        }),
        NotifyKind::Discord => json!({
            "content": text, "allowed_mentions": { "parse": [] }, "flags": DISCORD_SUPPRESS_EMBEDS,
        }),
        NotifyKind::Telegram => json!({
            "chat_id": config.chat, "text": text, "parse_mode": "HTML", "link_preview_options": { "is_disabled": true },
        }),
    };
    body.to_string().into_bytes()
}

fn generic(config: &NotifyConfig, message: &Notification, key: &str, text: &str) -> String {
    let Notification { shown, fresh, unreported, stream, kind } = message;
    let kind = match kind {
        NotificationKind::Alerts => "alerts",
        NotificationKind::Test => "test",
    };
    let Omissions { older, newest_older_ms, in_doubt, doubt_after, doubt_to, refused, missed } = unreported;
    let alerts: Vec<String> = shown
        .iter()
        .map(|alert| alert.to_json())
        // Another client may have added entries to the stream.
        .filter(|line| line.len() <= ALERT_MAX && serde_json::from_str::<IgnoredAny>(line).is_ok())
        .collect();
    let rest = json!({
        "version": FORMAT_VERSION, "kind": kind, "sink": config.name, "key": key,
        "stream": stream, "text": text, "count": fresh, "more": fresh - alerts.len() as u64,
        "older": { "count": older, "newest_ms": (*older > 0).then_some(newest_older_ms) },
        "in_doubt": { "count": in_doubt, "after": doubt_after, "to": doubt_to },
        "refused": refused, "missed": missed,
    });
    // Alerts are JSON already, byte for byte as in the JSON lines file.
    let rest = rest.to_string();
    format!("{{\"alerts\":[{}],{}", alerts.join(","), &rest[1..])
}

/// Makes one attempt.
pub(super) fn attempt(agent: &Agent, secrets: &Secrets, request: &Request) -> AttemptOutcome {
    let mut post = agent.post(&secrets.url).header("Content-Type", "application/json");
    post = post.header("Idempotency-Key", &request.key);
    if let Some(token) = &secrets.bearer {
        post = post.header("Authorization", format!("Bearer {token}"));
    }
    let outcome = match post.send(&request.body[..]) {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let mut answer = Vec::new();
            // The status is known; it does not matter if the body is cut off.
            if !parts.status.is_success() {
                let _ = body.into_reader().take(ANSWER_MAX).read_to_end(&mut answer);
            }
            // Before it is shortened: half a secret would not be recognised.
            let answer = secrets.scrub(&String::from_utf8_lossy(&answer));
            judge(parts.status, &parts.headers, &answer, Timestamp::now())
        }
        Err(error) => failed(&error),
    };
    let scrub = |reason: String| secrets.scrub(&reason);
    match outcome {
        AttemptOutcome::Delivered => AttemptOutcome::Delivered,
        AttemptOutcome::Later(reason, after) => AttemptOutcome::Later(scrub(reason), after),
        AttemptOutcome::Unknown(reason) => AttemptOutcome::Unknown(scrub(reason)),
        AttemptOutcome::Rejected(reason) => AttemptOutcome::Rejected(scrub(reason)),
        AttemptOutcome::Closed(reason) => AttemptOutcome::Closed(scrub(reason)),
    }
}

fn judge(status: StatusCode, headers: &HeaderMap, answer: &str, now: Timestamp) -> AttemptOutcome {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let reason = match excerpt(answer) {
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
            pacing::asked(header("retry-after"), answer, now),
        ),
        425 | 503 => AttemptOutcome::Later(reason, pacing::asked(header("retry-after"), answer, now)),
        // A gateway may have passed the message on; a server may have failed after processing it.
        408 | 500.. => AttemptOutcome::Unknown(reason),
        401 | 403 | 404 | 405 | 407 | 410 => {
            AttemptOutcome::Closed(format!("{reason}; check that the URL and the token are right and still valid"))
        }
        _ => AttemptOutcome::Rejected(reason),
    }
}

/// The beginning of an answer, in one line.
fn excerpt(answer: &str) -> String {
    let json: Option<Value> = serde_json::from_str(answer).ok();
    let reason = json.as_ref().and_then(|json| json.get("description").or_else(|| json.get("message"))?.as_str());
    let short: String = reason.unwrap_or(answer).chars().map(shown).take(ANSWER_QUOTED).collect();
    short.trim().to_owned()
}

/// What an error means. Only an error before the request was sent is certain.
fn failed(error: &ureq::Error) -> AttemptOutcome {
    use ureq::Error;
    let later = |reason: &str| AttemptOutcome::Later(reason.to_owned(), None);
    match error {
        Error::HostNotFound => later("its host name can't be resolved"),
        Error::ConnectionFailed => later("it can't be reached"),
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => later("the connection timed out"),
        Error::Timeout(_) => AttemptOutcome::Unknown("no answer in time (timeout_ms)".into()),
        Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => later("the proxy rejected the connection"),
        Error::Rustls(cause) => later(&format!("TLS: {cause}")),
        Error::Io(cause) => match (cause.kind(), tls_cause(cause)) {
            (_, Some(cause)) => later(&format!("TLS: {cause}")),
            (io::ErrorKind::ConnectionRefused, _) => later("connection refused"),
            (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => {
                later("its network is unreachable")
            }
            _ => AttemptOutcome::Unknown("the connection was lost before an answer arrived".into()),
        },
        Error::Protocol(_) | Error::LargeResponseHeader(..) => {
            AttemptOutcome::Unknown("its answer is not valid HTTP".into())
        }
        // The text of these errors may contain the URL.
        Error::BadUri(_) | Error::Http(_) => AttemptOutcome::Closed("its URL can't be used".into()),
        other => AttemptOutcome::Unknown(other.to_string()),
    }
}

/// Why the TLS handshake failed, such as an unknown certificate.
fn tls_cause(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.source()?.downcast_ref())
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::notify::filter::tests::alert;

    #[test]
    fn an_answer_means_one_of_five_things() {
        let judge = |status: u16, headers: &[(&'static str, &'static str)], answer: &str| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            judge(StatusCode::from_u16(status).unwrap(), &headers.collect(), answer, Timestamp::UNIX_EPOCH)
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

    #[test]
    fn each_receiver_gets_its_own_form() {
        let zone = TimeZone::UTC;
        let mut message = Notification {
            shown: vec![alert(1000, "M&M", 0.9), alert(2000, "B", 0.8)],
            fresh: 5,
            unreported: Omissions {
                in_doubt: 2,
                doubt_after: "1-0".into(),
                doubt_to: "3-0".into(),
                ..Omissions::default()
            },
            stream: "alerts:intraday".into(),
            kind: NotificationKind::Alerts,
        };
        message.shown[1].fields.iter_mut().filter(|(name, _)| name == "price").for_each(|(_, price)| price.clear());
        let body = |kind: NotifyKind| -> Value {
            let config = NotifyConfig { name: "desk".into(), kind, chat: "-1".into(), ..NotifyConfig::default() };
            let style = Style { kind, template: "{symbol}", zone: &zone };
            serde_json::from_slice(&body(&config, &message, "the-key", &style)).unwrap()
        };
        let generic = body(NotifyKind::Webhook);
        assert_eq!(
            (&generic["version"], &generic["kind"], &generic["sink"], &generic["key"]),
            (&json!(1), &json!("alerts"), &json!("desk"), &json!("the-key"))
        );
        assert_eq!((&generic["count"], &generic["more"]), (&json!(5), &json!(3)));
        assert_eq!(generic["in_doubt"], json!({ "count": 2, "after": "1-0", "to": "3-0" }));
        assert_eq!(generic["alerts"][0]["id"], "1000-0/breakout/0");
        assert_eq!(generic["alerts"][0]["evidence"], json!({ "level": 100.0 }));
        assert_eq!(generic["alerts"][1]["price"], Value::Null);
        let slack = body(NotifyKind::Slack);
        assert!(slack["text"].as_str().unwrap().starts_with("5 alerts\nM&amp;M\nB\n… and 3"), "{slack}");
        let discord = body(NotifyKind::Discord);
        assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));
        assert!(discord["content"].as_str().unwrap().starts_with("**5 alerts**\nM&M\n"), "{discord}");
        let telegram = body(NotifyKind::Telegram);
        assert_eq!((&telegram["chat_id"], &telegram["parse_mode"]), (&json!("-1"), &json!("HTML")));
    }
}
