//! The secrets of a channel: where they are read from, and how they stay hidden.
//!
//! What holds: only the scheme and the host of a URL get into messages, logs and errors, and nothing of a token. A URL
//! of Slack, Discord or Telegram is a password in itself.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use ureq::http::Uri;

use tickhound_core::config::{NotifyConfig, NotifyKind, is_unset};

/// The address of Telegram's API.
const TELEGRAM: &str = "https://api.telegram.org";

/// Shorter parts of a secret are not removed from texts: any text may contain them.
const PART_MIN: usize = 5;

/// The URL that messages go to, and the token for it.
pub(super) struct Secrets {
    /// The whole URL.
    pub(super) url: String,
    /// A bearer token. Telegram's is in the URL.
    pub(super) bearer: Option<String>,
    /// Scheme and host of the URL.
    pub(super) address: String,
}

impl Secrets {
    /// Reads the secrets anew: a file may have been replaced.
    pub(super) fn read(config: &NotifyConfig) -> Result<Self> {
        let NotifyConfig { url, url_env, url_file, token_env, token_file, kind, .. } = config;
        let plain = if url.is_empty() && *kind == NotifyKind::Telegram { TELEGRAM } else { url };
        let url = read_source(url_env, url_file).unwrap_or_else(|| Ok(plain.to_owned()))?;
        let token = read_source(token_env, token_file).transpose()?;
        let address = address(&url).context("the URL is not valid; expected https://host/…")?;
        Ok(match (kind, token) {
            (NotifyKind::Telegram, token) => {
                let url = format!("{}/bot{}/sendMessage", url.trim_end_matches('/'), token.unwrap_or_default());
                ensure!(url.parse::<Uri>().is_ok(), "the token is not valid; expected 123456:ABC…");
                Self { url, bearer: None, address }
            }
            (_, bearer) => {
                let usable = bearer.iter().all(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
                ensure!(usable, "the token is not valid; expected one line without spaces");
                Self { url, bearer, address }
            }
        })
    }

    /// Removes the secrets from `text`, which a receiver or a library may have put there.
    pub(super) fn scrub(&self, text: &str) -> String {
        let after_host = self.url.splitn(4, '/').nth(3).unwrap_or_default();
        let parts = after_host.split(['/', '?', '&', '=']).chain([after_host, self.url.as_str()]);
        let mut parts: Vec<&str> = parts.chain(self.bearer.as_deref()).filter(|part| part.len() >= PART_MIN).collect();
        // The longest first, so that no part of it remains.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.iter().fold(text.to_owned(), |text, part| text.replace(part, "…"))
    }
}

/// The content of a variable or file; `None` if neither is configured.
pub(super) fn read_source(env: &str, file: &Path) -> Option<Result<String>> {
    let not_empty = |text: Result<String>, source: &str| {
        let text = text?.trim().to_owned();
        ensure!(!text.is_empty(), "{source} is empty");
        Ok(text)
    };
    if !env.is_empty() {
        let text = std::env::var(env).map_err(|_| anyhow!("the environment variable {env} is not set"));
        return Some(not_empty(text, &format!("the environment variable {env}")));
    }
    if is_unset(file) {
        return None;
    }
    let text = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()));
    Some(not_empty(text, &file.display().to_string()))
}

/// The scheme and the host of a URL; `None` if it can't be used.
pub(super) fn address(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let port = uri.port().map_or_else(String::new, |port| format!(":{port}"));
    Some(format!("{scheme}://{host}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_and_host_are_shown() {
        let cases = [
            ("https://hooks.slack.com/services/T0/B0/XXXX", Some("https://hooks.slack.com")),
            ("http://127.0.0.1:8080/x?key=1", Some("http://127.0.0.1:8080")),
            ("https://user:password@host/x", Some("https://host")),
            ("http://[::1]:99", Some("http://[::1]:99")),
            ("hooks.slack.com/services", None),
            ("ftp://host/x", None),
            ("https://", None),
            ("/path", None),
            ("https://host/a b", None),
            ("", None),
        ];
        for (url, expected) in cases {
            assert_eq!(address(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn secrets_that_a_receiver_repeats_are_removed() {
        let secrets = Secrets {
            url: "https://hooks.slack.com/services/T012345/B67890/abcDEF?key=verysecret".into(),
            bearer: Some("token-token".into()),
            address: String::new(),
        };
        let answer = "no such hook: https://hooks.slack.com/services/T012345/B67890/abcDEF?key=verysecret, or \
                    /services/T012345/B67890/abcDEF, or abcDEF, or verysecret; token-token";
        let scrubbed = secrets.scrub(answer);
        for secret in ["T012345", "B67890", "abcDEF", "verysecret", "token-token"] {
            assert!(!scrubbed.contains(secret), "{scrubbed}");
        }
        assert!(scrubbed.starts_with("no such hook: "), "{scrubbed}");
    }
}
