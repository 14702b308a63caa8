//! Where a sink's secrets are, and that they are never seen.
//!
//! What holds: of a URL or token nothing goes into a message, a log or an error but scheme and host. A URL of
//! Slack, Discord or Telegram is a password in itself.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use ureq::http::Uri;

use tickhound_core::config::{LoadedConfig, NotifyConfig, NotifyKind};

/// Where Telegram is.
const TELEGRAM: &str = "https://api.telegram.org";

/// A part of a secret that is shorter than this may be a word that any text has.
const TELLING: usize = 5;

/// Where messages go, and what opens the door there.
pub(super) struct Secrets {
    /// The whole URL.
    pub(super) url: String,
    /// A bearer token. Telegram's is in the URL.
    pub(super) bearer: Option<String>,
    /// Scheme and host of the URL.
    pub(super) address: String,
}

/// What was found of a sink, for people.
pub(crate) struct Finding {
    /// The sink.
    pub name: String,
    /// In a line: kind, address, where the secrets are.
    pub what: String,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

impl Secrets {
    /// Reads them anew: a file may have been replaced.
    pub(super) fn of(config: &NotifyConfig) -> Result<Self> {
        let NotifyConfig { url, url_env, url_file, token_env, token_file, kind, .. } = config;
        let plain = if url.is_empty() && *kind == NotifyKind::Telegram { TELEGRAM } else { url };
        let url = read(url_env, url_file).unwrap_or_else(|| Ok(plain.to_owned()))?;
        let token = read(token_env, token_file).transpose()?;
        let address = address(&url).context("it holds no URL that can be used; expected https://host/…")?;
        Ok(match (kind, token) {
            (NotifyKind::Telegram, token) => {
                let url = format!("{}/bot{}/sendMessage", url.trim_end_matches('/'), token.unwrap_or_default());
                ensure!(url.parse::<Uri>().is_ok(), "it holds no token that can be used; expected 123456:ABC…");
                Self { url, bearer: None, address }
            }
            (_, bearer) => {
                let usable = bearer.iter().all(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
                ensure!(usable, "it holds no token that can be used; expected one line without spaces");
                Self { url, bearer, address }
            }
        })
    }

    /// `text` without them, though a receiver or a library may have put them into it.
    pub(super) fn scrub(&self, text: &str) -> String {
        let after_host = self.url.splitn(4, '/').nth(3).unwrap_or_default();
        let parts = after_host.split(['/', '?', '&', '=']).chain([after_host, self.url.as_str()]);
        let mut parts: Vec<&str> = parts.chain(self.bearer.as_deref()).filter(|part| part.len() >= TELLING).collect();
        // The longest first, so that no rest of it stays.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.iter().fold(text.to_owned(), |text, part| text.replace(part, "…"))
    }
}

/// Whether every sink that is switched on has what it needs.
///
/// # Errors
/// The first thing that is wrong, with its place in the configuration.
pub(crate) fn check(loaded: &LoadedConfig) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (index, sink) in loaded.config.notify.iter().enumerate().filter(|(_, sink)| sink.enabled) {
        let at = |key| loaded.source.at(&["notify", &index.to_string(), key]);
        let sources = [
            ("url", "url_env", &sink.url_env, "url_file", &sink.url_file),
            ("token", "token_env", &sink.token_env, "token_file", &sink.token_file),
        ];
        let (mut places, mut warnings) = (Vec::new(), Vec::new());
        let mut last = "url";
        for (what, env_key, env, file_key, file) in sources {
            let key = if env.is_empty() { file_key } else { env_key };
            if let Some(read) = read(env, file) {
                read.map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at(key), sink.name))?;
                last = key;
                places.push(match env.is_empty() {
                    false => format!("{what} from {env}"),
                    true => format!("{what} from {}", file.display()),
                });
            }
            if readable_by_all(file) {
                warnings.push(format!(
                    "{} is a secret that every user of this machine can read: chmod o= it",
                    file.display()
                ));
            }
        }
        let secrets = Secrets::of(sink).map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at(last), sink.name))?;
        super::webhook::agent(sink).map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at("tls_ca"), sink.name))?;
        if matches!(sink.kind, NotifyKind::Slack | NotifyKind::Discord) && !sink.url.is_empty() {
            warnings.push("its URL is a secret: url_env or url_file keep it out of the configuration".into());
        }
        let local = ["http://127.", "http://localhost", "http://[::1]"];
        if secrets.address.starts_with("http://") && !local.iter().any(|start| secrets.address.starts_with(start)) {
            warnings.push(format!("{} is not encrypted: anyone on the way can read the secret", secrets.address));
        }
        let places = if places.is_empty() { String::new() } else { format!(" ({})", places.join(", ")) };
        let kind = format!("{:?}", sink.kind).to_lowercase();
        let what = format!("{kind} at {}{places}", secrets.address);
        findings.push(Finding { name: sink.name.clone(), what, warnings });
    }
    Ok(findings)
}

/// What is in a variable or file; `None` if neither is named.
fn read(env: &str, file: &Path) -> Option<Result<String>> {
    let named = |text: Result<String>, place: &str| {
        let text = text?.trim().to_owned();
        ensure!(!text.is_empty(), "{place} is empty");
        Ok(text)
    };
    if !env.is_empty() {
        let found = std::env::var(env);
        let found = found.map_err(|_| anyhow!("the environment variable {env} is not set"));
        return Some(named(found, &format!("the environment variable {env}")));
    }
    if file.as_os_str().is_empty() {
        return None;
    }
    let found = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()));
    Some(named(found, &file.display().to_string()))
}

fn readable_by_all(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// Scheme and host of a URL; `None` if it is none that can be used.
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
    fn only_scheme_and_host_are_told() {
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
    fn what_a_receiver_says_of_the_secret_is_taken_out() {
        let secrets = Secrets {
            url: "https://hooks.slack.com/services/T012345/B67890/abcDEF?key=verysecret".into(),
            bearer: Some("token-token".into()),
            address: String::new(),
        };
        let said = "no such hook: https://hooks.slack.com/services/T012345/B67890/abcDEF?key=verysecret, or \
                    /services/T012345/B67890/abcDEF, or abcDEF, or verysecret; token-token";
        let scrubbed = secrets.scrub(said);
        for secret in ["T012345", "B67890", "abcDEF", "verysecret", "token-token"] {
            assert!(!scrubbed.contains(secret), "{scrubbed}");
        }
        assert!(scrubbed.starts_with("no such hook: "), "{scrubbed}");
    }
}
