//! One request to a receiver.
//!
//! What holds: a request ends in time, whatever the receiver does; redirects are not followed, since the secret is
//! for one host; no more of an answer is read than is used.

use std::{collections::BTreeMap, fs, io, io::Read, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use ureq::{
    Agent, Timeout,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{
    answer::{self, AttemptOutcome},
    health::HealthNews,
    message::{Notification, NotificationKind, Style},
    secret::Secrets,
    shown::AlertGroup,
};
use tickhound_core::config::{NotifyConfig, NotifyKind, is_unset};
use tickhound_redis::notification_position::{Omissions, ReportedCondition};

/// The longest time to resolve a name and to connect, within the time that a message may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 4096;

/// A longer alert, bytes of JSON, is only counted. No detector's is as long: another program has written it, and a few
/// of them would fill the memory of a receiver.
const ALERT_MAX: usize = 16 * 1024;

/// Discord's flag for a message that shows no previews of links.
const DISCORD_SUPPRESS_EMBEDS: u32 = 1 << 2;

/// Version of the JSON that a webhook gets; docs/notify.md describes it.
const FORMAT_VERSION: u32 = 1;

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
    let roots = if is_unset(&config.tls_ca) { native_roots() } else { configured_roots(config)? };
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
        NotifyKind::Webhook => return generic(config, message, style, (key, &text)).into_bytes(),
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

fn generic(config: &NotifyConfig, message: &Notification, style: &Style<'_>, (key, text): (&str, &str)) -> String {
    let Notification { shown, fresh, unreported, stream, kind, .. } = message;
    let (kind, health) = match kind {
        NotificationKind::Alerts => ("alerts", Vec::new()),
        NotificationKind::Health(news) => ("health", news.iter().map(health).collect()),
        NotificationKind::Test => ("test", Vec::new()),
    };
    let Omissions { older, newest_older_ms, in_doubt, doubt_after, doubt_to, refused, missed } = unreported;
    let alerts: Vec<String> = shown
        .iter()
        .map(|alert| alert.to_json())
        // Another client may have added entries to the stream.
        .filter(|line| line.len() <= ALERT_MAX && serde_json::from_str::<IgnoredAny>(line).is_ok())
        .collect();
    let groups: Vec<Value> = if shown.is_grouped() { shown.groups().iter().map(group).collect() } else { Vec::new() };
    let links: BTreeMap<&str, String> =
        shown.iter().map(|alert| (alert.field("id"), style.link(alert))).filter(|(_, link)| !link.is_empty()).collect();
    let rest = json!({
        "version": FORMAT_VERSION, "kind": kind, "sink": config.name, "key": key,
        "stream": stream, "text": text, "count": fresh, "more": fresh - alerts.len() as u64,
        "older": { "count": older, "newest_ms": (*older > 0).then_some(newest_older_ms) },
        "in_doubt": { "count": in_doubt, "after": doubt_after, "to": doubt_to },
        "refused": refused, "missed": missed, "groups": groups, "links": links, "health": health,
    });
    // Alerts are JSON already, byte for byte as in the JSON lines file.
    let rest = rest.to_string();
    format!("{{\"alerts\":[{}],{}", alerts.join(","), &rest[1..])
}

/// The alerts of one underlying.
fn group(group: &AlertGroup<'_>) -> Value {
    let ids: Vec<&str> = group.alerts.iter().map(|alert| alert.field("id")).collect();
    json!({ "underlying": group.underlying, "count": group.count, "ids": ids })
}

/// A condition of the host that began, ended, or both.
fn health(news: &HealthNews) -> Value {
    match news {
        HealthNews::Began(condition) => json!({
            "event": "began", "code": condition.code, "subject": condition.subject, "text": condition.text,
            "began_ms": condition.began_ms, "ended_ms": null, "count": condition.count,
        }),
        HealthNews::Ended { reported: ReportedCondition { code, subject, began_ms }, ended_ms } => json!({
            "event": "ended", "code": code, "subject": subject, "text": code.end(), "began_ms": began_ms,
            "ended_ms": ended_ms, "count": null,
        }),
        HealthNews::Passed { condition, ended_ms } => json!({
            "event": "passed", "code": condition.code, "subject": condition.subject, "text": condition.text,
            "began_ms": condition.began_ms, "ended_ms": ended_ms, "count": condition.count,
        }),
    }
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
            answer::judge(parts.status, &parts.headers, &answer, secrets, Timestamp::now())
        }
        Err(error) => failed(&error),
    };
    outcome.scrubbed(secrets)
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
    use tickhound_core::config::ServerConfig;

    use super::*;
    use crate::notify::filter::tests::alert;

    #[test]
    fn each_receiver_gets_its_own_form() {
        let zone = TimeZone::UTC;
        let mut unpriced = alert(2000, "B", 0.8);
        unpriced.fields.iter_mut().filter(|(name, _)| name == "price").for_each(|(_, price)| price.clear());
        let server = ServerConfig { public_url: "https://scanner.example".into(), ..ServerConfig::default() };
        let message = Notification {
            shown: vec![alert(1000, "M&M", 0.9), unpriced].into(),
            fresh: 5,
            unreported: Omissions {
                in_doubt: 2,
                doubt_after: "1-0".into(),
                doubt_to: "3-0".into(),
                ..Omissions::default()
            },
            stream: "alerts:intraday".into(),
            group: "scanner_group".into(),
            kind: NotificationKind::Alerts,
        };
        let body = |kind: NotifyKind| -> Value {
            let config = NotifyConfig { name: "desk".into(), kind, chat: "-1".into(), ..NotifyConfig::default() };
            let style = Style { kind, template: "{symbol}", zone: &zone, server: &server };
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
        assert_eq!(generic["links"]["2000-0/breakout/0"], "https://scanner.example/#alert=2000-0/breakout/0");
        assert_eq!((&generic["groups"], &generic["health"]), (&json!([]), &json!([])));
        let slack = body(NotifyKind::Slack);
        assert!(slack["text"].as_str().unwrap().starts_with("5 alerts\nM&amp;M\nB\n… and 3"), "{slack}");
        let discord = body(NotifyKind::Discord);
        assert_eq!(discord["allowed_mentions"], json!({ "parse": [] }));
        assert!(discord["content"].as_str().unwrap().starts_with("**5 alerts**\nM&M\n"), "{discord}");
        let telegram = body(NotifyKind::Telegram);
        assert_eq!((&telegram["chat_id"], &telegram["parse_mode"]), (&json!("-1"), &json!("HTML")));
    }
}
