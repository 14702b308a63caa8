//! `[[notify]]`: notification channels, which send alerts to people and programs, one table each.
//!
//! The configuration says where secrets are. Whether they exist is checked where channels run, so that `status` works in
//! a shell that does not have them.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Source, nearest,
    section::{Section, is_name, is_unset},
};
use crate::event::Direction;

/// The placeholders that the template of a line may contain.
pub const PLACEHOLDERS: [&str; 14] = [
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
    "link",
];

/// The maximum length of a template, characters.
const TEXT_MAX: usize = 500;

/// A notification channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// The name of the channel, under which its position in the alerts stream is stored.
    pub name: String,
    /// What the receiver understands.
    pub kind: NotifyKind,
    /// Whether messages are sent.
    pub enabled: bool,
    /// The URL that messages go to. A URL that is a secret belongs into one of the next two keys.
    pub url: String,
    /// The environment variable that holds the URL.
    pub url_env: String,
    /// The file that holds the URL, relative to the project root.
    pub url_file: PathBuf,
    /// The environment variable that holds the bot's token (Telegram), or a bearer token (webhook).
    pub token_env: String,
    /// The file that holds that token, relative to the project root.
    pub token_file: PathBuf,
    /// Telegram: the id of the chat, or `@name` of the channel.
    pub chat: String,
    /// A PEM file with the authority that signs the receiver's certificate. Empty: the authorities this machine trusts.
    pub tls_ca: PathBuf,
    /// The template of an alert's line. Empty: the default template.
    pub text: String,
    /// What is sent: alerts, and the host's own trouble.
    pub events: Vec<NotifyEvent>,
    /// The detectors whose alerts are sent: `*` matches any text, `?` one character.
    pub detectors: Vec<String>,
    /// The symbols whose alerts are sent: `*` matches any text, `?` one character.
    pub symbols: Vec<String>,
    /// The directions of alerts that are sent: `up`, `down`, `none`.
    pub directions: Vec<String>,
    /// The confidence, from 0 to 1, below which alerts are left out.
    pub min_confidence: f64,
    /// Whether the alerts of shadows are sent, and only these.
    pub shadows: bool,
    /// The age above which alerts are only counted, as stale ones are, seconds. After five minutes an intraday alert is
    /// old news.
    pub max_age_s: u64,
    /// The time after the first alert of a message in which further alerts join it, ms. Two seconds are long enough for
    /// the burst of one move, and short enough to still be news.
    pub group_ms: u64,
    /// Which alerts of a message are shown together.
    pub group_by: GroupBy,
    /// The maximum number of alerts that a message shows, those with the highest confidence; the others are counted.
    /// Ten are what a person reads at a glance.
    pub max_per_message: usize,
    /// The maximum number of messages in any minute; further alerts go into the next message. The default is what
    /// Telegram allows a bot in a group; Slack and Discord allow more.
    pub per_minute: usize,
    /// The longest time that sending a message may take, ms.
    pub timeout_ms: u64,
    /// What to do with a message that was in flight when the host died.
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
            events: vec![NotifyEvent::Alerts],
            detectors: any(),
            symbols: any(),
            directions: Direction::NAMES.map(str::to_owned).to_vec(),
            min_confidence: 0.0,
            shadows: false,
            max_age_s: 300,
            group_ms: 2000,
            group_by: GroupBy::Nothing,
            max_per_message: 10,
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
    /// A program that takes JSON in the form of docs/notify.md.
    Webhook,
    /// A Slack incoming webhook, or a receiver that takes the same form.
    Slack,
    /// A Discord webhook.
    Discord,
    /// A Telegram bot.
    Telegram,
}

/// What a channel is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyEvent {
    /// Alerts.
    Alerts,
    /// What is wrong with the host or its feed, when it begins and when it ends.
    Health,
}

/// Which alerts of a message are shown together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupBy {
    /// Each alert is shown by itself.
    #[default]
    #[serde(rename = "")]
    Nothing,
    /// The alerts of an instrument, its future and its options are shown together.
    #[serde(rename = "underlying")]
    Underlying,
}

/// What to do with a message that may or may not have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDoubt {
    /// The message is not sent again; the next one says how many alerts were in it, and which.
    Skip,
    /// The message is sent again, so that it may arrive twice.
    Repeat,
}

pub(super) fn validate(channels: &[NotifyConfig], source: &Source) -> Result<()> {
    for (index, channel) in channels.iter().enumerate() {
        let number = index.to_string();
        let section = Section::named(source, &["notify", &number], "notify");
        let name = &channel.name;
        ensure!(
            is_name(name),
            "{}: notify.name is `{name}`, expected letters, digits, - and _: the channel's position is stored under it",
            section.at("name")
        );
        let is_unique = channels[..index].iter().all(|other| other.name != *name);
        ensure!(is_unique, "{}: another [[notify]] has the name `{name}`", section.at("name"));
        channel.validate_receiver(&section)?;
        channel.validate_filter(&section)?;
        section.check_range("max_age_s", channel.max_age_s, 1..=86_400)?;
        section.check_range("group_ms", channel.group_ms, 0..=600_000)?;
        section.check_range("max_per_message", channel.max_per_message, 1..=500)?;
        section.check_range("per_minute", channel.per_minute, 1..=120)?;
        section.check_range("timeout_ms", channel.timeout_ms, 100..=60_000)?;
        channel.validate_text(&section)?;
    }
    Ok(())
}

impl NotifyConfig {
    /// Whether the channel is told of these.
    pub fn has(&self, event: NotifyEvent) -> bool {
        self.events.contains(&event)
    }

    /// Checks that exactly one URL is given, and the credentials that this kind of receiver needs.
    fn validate_receiver(&self, section: &Section<'_>) -> Result<()> {
        let Self { name, url, url_env, url_file, token_env, token_file, chat, .. } = self;
        let count = |given: &[bool]| given.iter().filter(|given| **given).count();
        let urls = count(&[!url.is_empty(), !url_env.is_empty(), !is_unset(url_file)]);
        let tokens = count(&[!token_env.is_empty(), !is_unset(token_file)]);
        let telegram = self.kind == NotifyKind::Telegram;
        // Telegram's URL is known; another one is for a server of one's own.
        let one_url = urls == 1 || (telegram && urls == 0);
        let at = section.at("url");
        ensure!(one_url, "{at}: notify `{name}` has {urls} URLs, expected one of url, url_env, url_file");
        let (allowed, expected) = match self.kind {
            NotifyKind::Telegram => (1..=1, "expected one of token_env, token_file"),
            NotifyKind::Webhook => (0..=1, "expected at most one of token_env, token_file"),
            NotifyKind::Slack | NotifyKind::Discord => (0..=0, "expected none: the URL contains the secret"),
        };
        let at = section.at(if token_env.is_empty() { "token_file" } else { "token_env" });
        ensure!(allowed.contains(&tokens), "{at}: notify `{name}` has {tokens} tokens, {expected}");
        let expected =
            if telegram { "the id of a chat, or @name of a channel" } else { "nothing: only Telegram has chats" };
        ensure!(telegram != chat.is_empty(), "{}: notify.chat is `{chat}`, expected {expected}", section.at("chat"));
        Ok(())
    }

    fn validate_filter(&self, section: &Section<'_>) -> Result<()> {
        let Self { detectors, symbols, directions, events, .. } = self;
        ensure!(
            !events.is_empty(),
            "{}: notify.events is empty, expected alerts, health, or both; to switch the channel off, set enabled = false",
            section.at("events")
        );
        section.check_range("min_confidence", self.min_confidence, 0.0..=1.0)?;
        for (key, list) in [("detectors", detectors), ("symbols", symbols), ("directions", directions)] {
            ensure!(
                !list.is_empty(),
                "{}: notify.{key} is empty; to switch the channel off, set enabled = false",
                section.at(key)
            );
            ensure!(
                key == "directions" || list.iter().all(|pattern| !pattern.trim().is_empty()),
                "{}: notify.{key} has an empty pattern, which matches nothing; `*` matches all",
                section.at(key)
            );
        }
        if let Some(wrong) = directions.iter().find(|direction| !Direction::NAMES.contains(&direction.as_str())) {
            bail!(
                "{}: notify.directions has `{wrong}`, expected {}",
                section.at("directions"),
                Direction::NAMES.join(", ")
            );
        }
        Ok(())
    }

    fn validate_text(&self, section: &Section<'_>) -> Result<()> {
        let at = section.at("text");
        let length = self.text.chars().count();
        ensure!(length <= TEXT_MAX, "{at}: notify.text has {length} characters, expected at most {TEXT_MAX}");
        if let Some(wrong) = placeholders(&self.text).find(|name| !PLACEHOLDERS.contains(name)) {
            let near = nearest(wrong, PLACEHOLDERS.into_iter());
            let near = near.map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
            let all = PLACEHOLDERS.map(|name| format!("{{{name}}}")).join(" ");
            bail!("{at}: notify.text has {{{wrong}}}, expected {all}{near}");
        }
        Ok(())
    }
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
    fn the_shipped_configuration_shows_every_key_of_a_channel_at_its_default() {
        let shipped = include_str!("../../../../config/config.toml");
        let shown = shipped.lines().skip_while(|line| *line != "# [[notify]]").take_while(|line| line.starts_with('#'));
        let shown: Vec<&str> = shown.map(|line| line.trim_start_matches("# ")).collect();
        let channel =
            crate::config::parse_text(Path::new("config.toml"), &shown.join("\n")).unwrap().config.notify.remove(0);
        let (name, url) = ("desk".to_owned(), "http://127.0.0.1:8080/".to_owned());
        assert_eq!(channel, NotifyConfig { name, url, ..NotifyConfig::default() });
        for key in toml::Table::try_from(&channel).unwrap().keys() {
            assert!(shown.iter().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
        }
    }
}
