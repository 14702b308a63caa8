//! `[[notify]]`: people and programs that are told of alerts, one table each.
//!
//! Where secrets are, but not whether they are there: that is looked at where sinks are used, so that
//! `status` works in a shell that does not have them.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, nearest};

/// What the template of a line may name.
pub const PLACEHOLDERS: [&str; 13] = [
    "arrow",
    "symbol",
    "price",
    "detector",
    "DETECTOR",
    "confidence",
    "direction",
    "time",
    "id",
    "plugin",
    "version",
    "lag_ms",
    "evidence",
];

/// Longest template of a line.
const TEXT_MAX: usize = 500;

/// One sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Its position in the alerts stream is kept under this name.
    pub name: String,
    /// What the receiver understands.
    pub kind: NotifyKind,
    /// Whether it is told anything.
    pub enabled: bool,
    /// Where messages go. One that is a secret is better off in one of the next two.
    pub url: String,
    /// Environment variable that holds the URL.
    pub url_env: String,
    /// File that holds the URL, relative to the project root.
    pub url_file: PathBuf,
    /// Environment variable that holds the bot's token (Telegram), or a bearer token (webhook).
    pub token_env: String,
    /// File that holds it.
    pub token_file: PathBuf,
    /// Telegram: id of the chat, or `@name` of the channel.
    pub chat: String,
    /// PEM file of the authority that signs the receiver's certificate; empty = those this machine trusts.
    pub tls_ca: PathBuf,
    /// The line of an alert, with placeholders; empty = the usual one.
    pub text: String,
    /// Names of detectors; `*` stands for any text, `?` for one character. So with symbols.
    pub detectors: Vec<String>,
    /// Symbols.
    pub symbols: Vec<String>,
    /// `up`, `down`, `none`.
    pub directions: Vec<String>,
    /// Alerts below are left out; 0..=1.
    pub min_confidence: f64,
    /// Tells of alerts of shadows, and of these only.
    pub shadows: bool,
    /// Older alerts, and stale ones, are only counted, seconds.
    pub max_age_s: u64,
    /// What comes within this time of the first alert goes into the same message, ms.
    pub group_ms: u64,
    /// Most alerts that a message shows, those with the highest confidence; the others are counted.
    pub max_per_message: usize,
    /// Most messages in any minute; what comes meanwhile goes into the next one.
    pub per_minute: usize,
    /// Longest time that sending a message may take, ms.
    pub timeout_ms: u64,
    /// What to do about a message that was under way when the host died.
    pub on_doubt: OnDoubt,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        let any = || vec!["*".to_owned()];
        Self {
            name: String::new(),
            kind: NotifyKind::Webhook,
            enabled: true,
            url: String::new(),
            url_env: String::new(),
            url_file: PathBuf::new(),
            token_env: String::new(),
            token_file: PathBuf::new(),
            chat: String::new(),
            tls_ca: PathBuf::new(),
            text: String::new(),
            detectors: any(),
            symbols: any(),
            directions: ["up", "down", "none"].map(str::to_owned).to_vec(),
            min_confidence: 0.0,
            shadows: false,
            max_age_s: 300,
            // Long enough for the burst of one move, short enough to still be news.
            group_ms: 2000,
            // What a person reads at a glance.
            max_per_message: 10,
            // What Telegram allows a bot in a group; Slack and Discord allow more.
            per_minute: 20,
            timeout_ms: 10_000,
            on_doubt: OnDoubt::Skip,
        }
    }
}

/// What the receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyKind {
    /// JSON as docs/notify.md has it.
    Webhook,
    /// A Slack incoming webhook, or what takes the same.
    Slack,
    /// A Discord webhook.
    Discord,
    /// A Telegram bot.
    Telegram,
}

/// What to do about a message of which nobody knows whether it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDoubt {
    /// Not sent again; the next message says how many alerts are concerned, and which.
    Skip,
    /// Sent again, perhaps for the second time.
    Repeat,
}

pub(super) fn validate(sinks: &[NotifyConfig], source: &Source) -> Result<()> {
    for (index, sink) in sinks.iter().enumerate() {
        let NotifyConfig { name, kind, .. } = sink;
        let number = index.to_string();
        let at = |key| source.at(&["notify", &number, key]);
        ensure!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "{}: notify.name is `{name}`, expected letters, digits, - and _: its position is kept under it",
            at("name")
        );
        let first = sinks[..index].iter().all(|other| other.name != *name);
        ensure!(first, "{}: there is another [[notify]] with the name `{name}`", at("name"));
        let given = |text: &str| usize::from(!text.is_empty());
        let urls = given(&sink.url) + given(&sink.url_env) + usize::from(!sink.url_file.as_os_str().is_empty());
        let tokens = given(&sink.token_env) + usize::from(!sink.token_file.as_os_str().is_empty());
        let telegram = *kind == NotifyKind::Telegram;
        let one_url = urls == 1 || (telegram && urls == 0);
        ensure!(one_url, "{}: notify `{name}` has {urls} URLs, expected one of url, url_env, url_file", at("url"));
        let (place, few, many) = match kind {
            NotifyKind::Telegram => ("expected one of token_env, token_file", 1, 1),
            NotifyKind::Webhook => ("expected at most one of token_env, token_file", 0, 1),
            NotifyKind::Slack | NotifyKind::Discord => ("expected none: the secret is in the URL", 0, 0),
        };
        let token_key = if sink.token_env.is_empty() { "token_file" } else { "token_env" };
        ensure!((few..=many).contains(&tokens), "{}: notify `{name}` has {tokens} tokens, {place}", at(token_key));
        ensure!(
            telegram != sink.chat.is_empty(),
            "{}: notify.chat is `{}`, expected {}",
            at("chat"),
            sink.chat,
            if telegram { "the id of a chat, or @name of a channel" } else { "nothing: it is Telegram's" }
        );
        let confidence = sink.min_confidence;
        let at_key = at("min_confidence");
        ensure!((0.0..=1.0).contains(&confidence), "{at_key}: notify.min_confidence is {confidence}, expected 0 to 1");
        for (key, list) in
            [("detectors", &sink.detectors), ("symbols", &sink.symbols), ("directions", &sink.directions)]
        {
            ensure!(
                !list.is_empty(),
                "{}: notify.{key} is empty; to switch the sink off write enabled = false",
                at(key)
            );
        }
        let wrong = sink.directions.iter().find(|direction| !["up", "down", "none"].contains(&direction.as_str()));
        ensure!(
            wrong.is_none(),
            "{}: notify.directions has `{}`, expected up, down, none",
            at("directions"),
            wrong.map_or("", String::as_str)
        );
        let ranges = [
            ("max_age_s", sink.max_age_s, 1, 86_400),
            ("group_ms", sink.group_ms, 0, 600_000),
            ("max_per_message", sink.max_per_message as u64, 1, 500),
            ("per_minute", sink.per_minute as u64, 1, 120),
            ("timeout_ms", sink.timeout_ms, 100, 60_000),
        ];
        for (key, value, least, most) in ranges {
            let within = (least..=most).contains(&value);
            ensure!(within, "{}: notify.{key} is {value}, expected {least} to {most}", at(key));
        }
        let length = sink.text.chars().count();
        ensure!(length <= TEXT_MAX, "{}: notify.text has {length} characters, expected at most {TEXT_MAX}", at("text"));
        if let Some(wrong) = placeholders(&sink.text).find(|name| !PLACEHOLDERS.contains(name)) {
            let near = nearest(wrong, PLACEHOLDERS.into_iter());
            let near = near.map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
            anyhow::bail!(
                "{}: notify.text has {{{wrong}}}, expected {}{near}",
                at("text"),
                PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(" ")
            );
        }
    }
    Ok(())
}

/// The names of placeholders in a template.
fn placeholders(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn placeholders_are_what_is_in_braces() {
        assert_eq!(placeholders("{a} {b {c} } {").collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn the_shipped_configuration_shows_every_key_of_a_sink_at_its_default() {
        let shipped = include_str!("../../../../config/config.toml");
        let shown = shipped.lines().skip_while(|line| *line != "# [[notify]]").take_while(|line| line.starts_with('#'));
        let shown: Vec<&str> = shown.map(|line| line.trim_start_matches("# ")).collect();
        let sink =
            crate::config::parse_text(Path::new("config.toml"), &shown.join("\n")).unwrap().config.notify.remove(0);
        let (name, url) = ("desk".to_owned(), "http://127.0.0.1:8080/".to_owned());
        assert_eq!(sink, NotifyConfig { name, url, ..NotifyConfig::default() });
        for key in toml::Table::try_from(&sink).unwrap().keys() {
            assert!(shown.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
        }
    }
}
