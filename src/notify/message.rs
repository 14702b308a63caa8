//! The text of a message; pure.
//!
//! What holds: no content of an alert can format, link or mention anything, or change the order of what is around it;
//! and no message is longer than its receiver accepts.

use std::ops::RangeInclusive;

use jiff::{Timestamp, tz::TimeZone};

use super::{health::HealthNews, sanitize::sanitize, shown::ShownAlerts};
use crate::clock::time_of_day;
use tickhound_core::{
    condition::Condition,
    config::{NotifyKind, ServerConfig},
};
use tickhound_redis::{StoredAlert, notification_position::Omissions};

/// The line of an alert, unless the configuration has another one.
const LINE: &str = "{arrow} [{DETECTOR}] {symbol} at {price}: {confidence} confidence, {time}";

/// What follows it where alerts have a link.
const LINK: &str = " {link}";

/// The name of a link, where a receiver shows a name instead of the address.
const LINK_NAME: &str = "chart";

/// The most conditions of the host that a message has in full; the others are counted. They are listed by gravity.
const NEWS_SHOWN_MAX: usize = 4;

/// A longer sentence about a condition is cut, characters. The first length holds the longest sentence of a host with the cure
/// at its end. The others are for messages that would be too long for their receiver, since four conditions share one: with the
/// last length they fit into the shortest message even if each character of them is escaped.
const SENTENCE_MAX: [usize; 4] = [601, 400, 200, 100];

/// Blocks of scripts that are written from right to left, from Hebrew to Arabic, with their presentation forms, ancient
/// and recent ones.
const RIGHT_TO_LEFT: [RangeInclusive<char>; 5] = [
    '\u{590}'..='\u{8ff}',
    '\u{fb1d}'..='\u{fdff}',
    '\u{fe70}'..='\u{feff}',
    '\u{10800}'..='\u{10fff}',
    '\u{1e800}'..='\u{1efff}',
];

/// Longer values are cut; no instrument has a name as long as this.
const VALUE_MAX: usize = 80;

/// A message before it is formatted for its receiver.
pub(super) struct Notification {
    /// The alerts that it shows, in the stream's order.
    pub(super) shown: ShownAlerts,
    /// How many alerts it is about; those that are not shown are counted.
    pub(super) fresh: u64,
    /// What it reports beside them.
    pub(super) unreported: Omissions,
    /// Key of the stream that has all alerts.
    pub(super) stream: String,
    /// The consumer group whose host sends it.
    pub(super) group: String,
    pub(super) kind: NotificationKind,
}

/// What a message is for.
#[derive(Clone, PartialEq)]
pub(super) enum NotificationKind {
    /// It reports alerts.
    Alerts,
    /// It reports what is wrong with the host, or no longer is.
    Health(Vec<HealthNews>),
    /// It shows that messages arrive, and says so.
    Test,
}

/// How lines are formatted.
pub(super) struct Style<'a> {
    pub(super) kind: NotifyKind,
    pub(super) template: &'a str,
    pub(super) zone: &'a TimeZone,
    /// Where the page is that links lead to.
    pub(super) server: &'a ServerConfig,
}

impl Style<'_> {
    /// The address of an alert's chart; empty unless `server.public_url` says where people open the page.
    pub(super) fn link(&self, alert: &StoredAlert) -> String {
        let link = self.server.alert_link(alert.field("id")).filter(|_| !self.server.public_url.is_empty());
        link.unwrap_or_default()
    }
}

impl Notification {
    /// The whole text, short enough for its receiver; alerts that do not fit are counted.
    pub(super) fn text(&self, style: &Style<'_>) -> String {
        let mut shown = self.shown.clone();
        let [mut sentence_max, shorter @ ..] = SENTENCE_MAX;
        let mut shorter = shorter.into_iter();
        let longest = longest(style.kind);
        loop {
            let text = self.text_with(&shown, sentence_max, style);
            if length(&text) <= longest {
                return text;
            }
            if !shown.is_empty() {
                shown.drop_least();
                continue;
            }
            let Some(length) = shorter.next() else { return cut(text, longest) };
            sentence_max = length;
        }
    }

    fn text_with(&self, shown: &ShownAlerts, sentence_max: usize, style: &Style<'_>) -> String {
        let plain = |text: &str| escape(text, style.kind);
        let bold = |text: &str| emphasized(text, style.kind);
        let mut lines = Vec::new();
        match &self.kind {
            NotificationKind::Alerts => {}
            NotificationKind::Health(news) => self.add_news(news, sentence_max, &mut lines, style),
            NotificationKind::Test => {
                lines.push(bold("This is a test from tickhound: if you can read it, alerts will arrive here"));
            }
        }
        let rest = self.add_alerts(shown, &mut lines, style);
        let stream = clip(&self.stream);
        if rest > 0 {
            lines.push(plain(&if shown.is_empty() {
                format!("{}: see {stream}", count(rest))
            } else {
                format!("… and {rest} more: see {stream}")
            }));
        }
        let notes = self.notes(style).into_iter().filter(|(alerts, _)| *alerts > 0);
        lines.extend(notes.map(|(_, note)| plain(&format!("{note}: see {stream}"))));
        lines.join("\n")
    }

    /// Adds the lines of these alerts, and returns how many alerts have none.
    fn add_alerts(&self, shown: &ShownAlerts, lines: &mut Vec<String>, style: &Style<'_>) -> u64 {
        let bold = |text: &str| emphasized(text, style.kind);
        match (self.fresh, shown.underlyings()) {
            (0 | 1, _) | (_, 1) => {}
            (fresh, 0) => lines.push(bold(&format!("{fresh} alerts"))),
            (fresh, underlyings) => lines.push(bold(&format!("{fresh} alerts of {underlyings} underlyings"))),
        }
        let mut rest = self.fresh;
        for group in shown.groups() {
            rest -= group.count;
            if group.count == 1 {
                lines.extend(group.alerts.iter().map(|alert| self.line(alert, style)));
                continue;
            }
            let name = literal(group.underlying, style.kind);
            lines.push(format!("{name}: {}", bold(&format!("{} alerts", group.count))));
            lines.extend(group.alerts.iter().map(|alert| format!("· {}", self.line(alert, style))));
            let more = group.count - group.alerts.len() as u64;
            if more > 0 {
                lines.push(format!("· … and {more} more"));
            }
        }
        rest
    }

    /// What it reports beside its alerts: how many, and what of them.
    fn notes(&self, style: &Style<'_>) -> [(u64, String); 4] {
        let Omissions { older, newest_older_ms, in_doubt, doubt_after, doubt_to, refused, missed } = &self.unreported;
        [
            (
                *older,
                format!("too old to be shown: {}, newest at {}", count(*older), clock(*newest_older_ms, style.zone)),
            ),
            (
                *in_doubt,
                format!(
                    "{} may not have been delivered: it is unknown whether a message arrived; ids after {} up to {}",
                    count(*in_doubt),
                    clip(doubt_after),
                    clip(doubt_to)
                ),
            ),
            (*refused, format!("{} not delivered: the receiver rejected a message", count(*refused))),
            (
                *missed,
                format!(
                    "at least {} not delivered: trimmed from the stream before they were sent (alerts.maxlen)",
                    count(*missed)
                ),
            ),
        ]
    }

    /// Adds a line for each of `news`, as far as there is room, with sentences of at most `sentence_max` characters.
    fn add_news(&self, news: &[HealthNews], sentence_max: usize, lines: &mut Vec<String>, style: &Style<'_>) {
        let group = literal(&self.group, style.kind);
        let sentence = |text: &str| literal_sentence(text, sentence_max, style.kind);
        let with = |subject: &str| if subject.is_empty() { String::new() } else { format!(" ({})", sentence(subject)) };
        for news in news.iter().take(NEWS_SHOWN_MAX) {
            lines.push(match news {
                HealthNews::Began(condition) => format!("⚠ {group}: {}", sentence(&condition.text)),
                HealthNews::Ended { reported, ended_ms } => {
                    let lasted = ended_ms.map_or_else(String::new, |ended| lasted(reported.began_ms, ended));
                    format!("✅ {group}: {}{}{lasted}", reported.code.end(), with(&reported.subject))
                }
                HealthNews::Passed { condition, ended_ms } => {
                    let Condition { code, subject, text, began_ms, .. } = condition;
                    let lasted = lasted(*began_ms, *ended_ms);
                    format!("✅ {group}: {}{}{lasted}. It was: {}", code.end(), with(subject), sentence(text))
                }
            });
        }
        if let Some(rest) = news.len().checked_sub(NEWS_SHOWN_MAX).filter(|rest| *rest > 0) {
            lines.push(format!("… and {rest} more: see `tickhound status`"));
        }
    }

    fn line(&self, alert: &StoredAlert, style: &Style<'_>) -> String {
        let link = style.link(alert);
        let with_link = format!("{LINE}{LINK}");
        let template = match (style.template, link.as_str()) {
            ("", "") => LINE,
            ("", _) => &with_link,
            (template, _) => template,
        };
        let mut line = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            line += &escape(before, style.kind);
            let Some((name, after)) = after.split_once('}') else {
                line += &escape("{", style.kind);
                rest = after;
                continue;
            };
            line += &match name {
                "link" => anchor(&link, style.kind),
                name => literal(&value(alert, name, style.zone), style.kind),
            };
            rest = after;
        }
        line + &escape(rest, style.kind)
    }
}

fn value(alert: &StoredAlert, name: &str, zone: &TimeZone) -> String {
    match name {
        "arrow" => match alert.field("direction") {
            "up" => "▲",
            "down" => "▼",
            _ => "●",
        }
        .to_owned(),
        "DETECTOR" => alert.field("detector").to_uppercase(),
        "confidence" => format!("{:.2}", alert.confidence()),
        "time" => clock(alert.field("time").parse().unwrap_or(0) / 1_000_000, zone),
        "price" if alert.field("price").is_empty() => "no price".into(),
        name => alert.field(name).to_owned(),
    }
}

fn count(alerts: u64) -> String {
    if alerts == 1 { "1 alert".into() } else { format!("{alerts} alerts") }
}

/// The time of day, with its zone.
fn clock(millis: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| "?".into(), |time| time_of_day(time, zone))
}

/// How long a condition lasted, as the end of a sentence.
fn lasted(began_ms: u64, ended_ms: u64) -> String {
    let seconds = ended_ms.saturating_sub(began_ms) / 1000;
    match seconds {
        0..100 => format!(", after {seconds} s"),
        100..6000 => format!(", after {} min", seconds / 60),
        _ => format!(", after {} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A link, in the form that the receiver shows; empty without one. The address has nothing that could end it.
fn anchor(link: &str, kind: NotifyKind) -> String {
    match kind {
        _ if link.is_empty() => String::new(),
        NotifyKind::Webhook => link.to_owned(),
        NotifyKind::Slack => format!("<{link}|{LINK_NAME}>"),
        NotifyKind::Discord => format!("[{LINK_NAME}](<{link}>)"),
        NotifyKind::Telegram => format!("<a href=\"{link}\">{LINK_NAME}</a>"),
    }
}

fn clip(text: &str) -> String {
    clip_to(text, VALUE_MAX)
}

fn clip_to(text: &str, longest: usize) -> String {
    let mut clean = sanitize(text);
    let mut clipped: String = clean.by_ref().take(longest).collect();
    if clean.next().is_some() {
        clipped.push('…');
    }
    clipped
}

/// Shows a value of an alert literally. Receivers make links and mentions even of text without any markup.
fn literal(value: &str, kind: NotifyKind) -> String {
    let value = clip(value);
    let escaped = escape(&value, kind);
    let literal = match kind {
        // Telegram looks for links, mentions and commands everywhere but in code.
        NotifyKind::Telegram if may_link(&value) => format!("<code>{escaped}</code>"),
        // What takes Slack's messages may know `@channel` and Markdown; an invisible space keeps them apart.
        NotifyKind::Slack => escaped.replace('@', "@\u{200b}").replace("](", "]\u{200b}("),
        NotifyKind::Discord => {
            // A `-` may begin a list, and a `/` is part of every link and invitation.
            let start = if escaped.starts_with('-') { "\\" } else { "" };
            format!("{start}{}", escaped.replace('/', "\\/"))
        }
        NotifyKind::Telegram | NotifyKind::Webhook => escaped,
    };
    // Isolated, a text from right to left leaves the rest of the line as it is.
    if value.chars().any(is_right_to_left) { format!("\u{2068}{literal}\u{2069}") } else { literal }
}

/// Shows a sentence literally that may quote what strangers sent. Where a receiver makes links and mentions of plain text,
/// an invisible space keeps them apart.
fn literal_sentence(text: &str, longest: usize, kind: NotifyKind) -> String {
    let clipped = clip_to(text, longest);
    if kind == NotifyKind::Webhook {
        return clipped;
    }
    let mut apart = String::new();
    let mut characters = clipped.chars().peekable();
    while let Some(c) = characters.next() {
        apart.push(c);
        // A dot between letters may be one of a domain.
        if "@/#$.+:](".contains(c) && characters.peek().is_some_and(|next| !next.is_whitespace()) {
            apart.push('\u{200b}');
        }
    }
    escape(&apart, kind)
}

/// Whether Telegram could take part of the value for a link, a mention, a command, a tag or a telephone number.
fn may_link(value: &str) -> bool {
    value.parse::<f64>().is_err() && value.contains(['@', '/', '#', '$', '.', '+'])
}

/// Whether the character is of a script that is written from right to left.
fn is_right_to_left(c: char) -> bool {
    RIGHT_TO_LEFT.iter().any(|script| script.contains(&c))
}

/// Shows `text` in bold, where the receiver has that.
fn emphasized(text: &str, kind: NotifyKind) -> String {
    let plain = escape(text, kind);
    match kind {
        NotifyKind::Telegram => format!("<b>{plain}</b>"),
        NotifyKind::Discord => format!("**{plain}**"),
        NotifyKind::Slack | NotifyKind::Webhook => plain,
    }
}

/// Escapes `text` so that its markup is shown literally.
fn escape(text: &str, kind: NotifyKind) -> String {
    match kind {
        NotifyKind::Webhook => text.to_owned(),
        NotifyKind::Slack | NotifyKind::Telegram => {
            text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
        }
        NotifyKind::Discord => text.chars().fold(String::new(), |mut escaped, c| {
            if "\\*_~`|>#<[]@".contains(c) {
                escaped.push('\\');
            }
            escaped.push(c);
            escaped
        }),
    }
}

/// The longest text that the receiver accepts, in UTF-16 units, which are never fewer than characters.
fn longest(kind: NotifyKind) -> usize {
    match kind {
        NotifyKind::Discord => 2000,
        NotifyKind::Telegram => 4096,
        // Slack cuts at 40,000, and recommends this.
        NotifyKind::Slack | NotifyKind::Webhook => 4000,
    }
}

fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Drops lines at the end of a text that is too long even without alerts.
fn cut(text: String, longest: usize) -> String {
    if length(&text) <= longest {
        return text;
    }
    let mut short = String::new();
    for line in text.split_inclusive('\n') {
        if length(&short) + length(line) > longest {
            break;
        }
        short += line;
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::notify::filter::tests::alert;
    use tickhound_core::{
        condition::ConditionCode,
        config::{GroupBy, notify::PLACEHOLDERS},
    };
    use tickhound_redis::notification_position::ReportedCondition;

    const KINDS: [NotifyKind; 4] = [NotifyKind::Webhook, NotifyKind::Slack, NotifyKind::Discord, NotifyKind::Telegram];

    fn message(shown: Vec<StoredAlert>) -> Notification {
        Notification {
            fresh: shown.len() as u64,
            shown: shown.into(),
            unreported: Omissions::default(),
            stream: "alerts:intraday".into(),
            group: "scanner_group".into(),
            kind: NotificationKind::Alerts,
        }
    }

    fn text(message: &Notification, kind: NotifyKind, template: &str) -> String {
        text_linked(message, kind, template, "")
    }

    fn text_linked(message: &Notification, kind: NotifyKind, template: &str, public_url: &str) -> String {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let server = ServerConfig { public_url: public_url.into(), ..ServerConfig::default() };
        message.text(&Style { kind, template, zone: &zone, server: &server })
    }

    // 14:33:20 in Kolkata.
    const TIME: u64 = 1_764_061_400_000;

    #[test]
    fn an_alert_is_one_line_with_its_key_values() {
        let one = message(vec![alert(TIME, "NIFTY25NOV25750PE", 0.947)]);
        let expected = "▲ [BREAKOUT] NIFTY25NOV25750PE at 101.05: 0.95 confidence, 14:33:20 IST";
        assert_eq!(text(&one, NotifyKind::Webhook, ""), expected);
        assert_eq!(text(&one, NotifyKind::Telegram, ""), expected);
    }

    #[test]
    fn templates_are_filled_in_and_escaped() {
        let one = message(vec![alert(TIME, "M&M_FUT", 1.0)]);
        let cases = [
            (
                NotifyKind::Webhook,
                "{symbol} {direction} {detector}/{version} {id}",
                "M&M_FUT up breakout/0.1.0 1764061400000-0/breakout/0",
            ),
            (NotifyKind::Telegram, "<b>{symbol}</b> {", "&lt;b&gt;M&amp;M_FUT&lt;/b&gt; {"),
            (NotifyKind::Slack, "<!channel> {symbol}", "&lt;!channel&gt; M&amp;M_FUT"),
            (NotifyKind::Discord, "@everyone {symbol}", "\\@everyone M&M\\_FUT"),
        ];
        for (kind, template, expected) in cases {
            assert_eq!(text(&one, kind, template), expected);
        }
        for name in PLACEHOLDERS {
            let template = format!("{{{name}}}");
            assert_ne!(text(&one, NotifyKind::Webhook, &template), template, "it is not filled in");
        }
    }

    #[test]
    fn an_alert_links_to_its_chart_where_people_can_open_the_page() {
        let one = message(vec![alert(TIME, "A", 0.9)]);
        let linked = |kind, template| text_linked(&one, kind, template, "https://scanner.example");
        let url = "https://scanner.example/#alert=1764061400000-0/breakout/0";
        let line = "▲ [BREAKOUT] A at 101.05: 0.90 confidence, 14:33:20 IST";
        assert_eq!(linked(NotifyKind::Webhook, ""), format!("{line} {url}"));
        assert_eq!(linked(NotifyKind::Telegram, ""), format!("{line} <a href=\"{url}\">chart</a>"));
        assert_eq!(linked(NotifyKind::Slack, "{link} {symbol}"), format!("<{url}|chart> A"));
        assert_eq!(linked(NotifyKind::Discord, "{symbol} {link}"), format!("A [chart](<{url}>)"));
        assert_eq!(linked(NotifyKind::Discord, "{symbol}"), "A");
        assert_eq!(text(&one, NotifyKind::Telegram, "{symbol}{link}"), "A", "nobody said where the page is");
        let mut strange = alert(TIME, "A", 0.9);
        strange.fields[0].1 = "1-0/\"><b>|(@x/0".into();
        let strange = message(vec![strange]);
        for kind in KINDS {
            let sent = text_linked(&strange, kind, "{link}", "https://scanner.example");
            assert!(sent.contains("/#alert=1-0/%22%3E%3Cb%3E%7C%28%40x/0"), "{sent}");
        }
    }

    #[test]
    fn alerts_of_one_underlying_are_shown_together_and_counted() {
        let mut shown = ShownAlerts::new(GroupBy::Underlying, Default::default());
        let alerts = [("NIFTY25NOV25750PE", 0.9), ("SBIN", 0.8), ("NIFTY 50", 0.7), ("NIFTY25NOVFUT", 0.95)];
        for (symbol, confidence) in alerts {
            shown.push(alert(TIME, symbol, confidence), 3);
        }
        let grouped = Notification { shown, fresh: 4, ..message(Vec::new()) };
        assert_eq!(
            text(&grouped, NotifyKind::Telegram, "{symbol}"),
            "<b>4 alerts of 2 underlyings</b>\nNIFTY: <b>3 alerts</b>\n· NIFTY25NOV25750PE\n· NIFTY25NOVFUT\n· … and 1 more\nSBIN"
        );
        let mut shown = ShownAlerts::new(GroupBy::Underlying, Default::default());
        ["M&M", "M&M25NOVFUT"].iter().for_each(|symbol| shown.push(alert(TIME, symbol, 0.9), 10));
        let grouped = Notification { shown, fresh: 2, ..message(Vec::new()) };
        assert_eq!(text(&grouped, NotifyKind::Discord, "{symbol}"), "M&M: **2 alerts**\n· M&M\n· M&M25NOVFUT");
    }

    fn condition(text: &str) -> Condition {
        Condition { code: ConditionCode::SilentFeed, text: text.into(), began_ms: 1000, ..Condition::default() }
    }

    #[test]
    fn the_hosts_trouble_is_told_with_its_cure_and_its_end() {
        let reported =
            ReportedCondition { code: ConditionCode::ChannelFailing, subject: "phone".into(), began_ms: 1000 };
        let news = vec![
            HealthNews::Began(condition("no tick for 100 s. Check the producer")),
            HealthNews::Ended { reported: reported.clone(), ended_ms: Some(721_000) },
            HealthNews::Ended { reported: ReportedCondition { subject: String::new(), ..reported }, ended_ms: None },
            HealthNews::Passed { condition: condition("no tick"), ended_ms: 41_000 },
        ];
        let health = Notification { kind: NotificationKind::Health(news), ..message(Vec::new()) };
        assert_eq!(
            text(&health, NotifyKind::Webhook, ""),
            "⚠ scanner_group: no tick for 100 s. Check the producer\n\
             ✅ scanner_group: the notification channel is no longer failing (phone), after 12 min\n\
             ✅ scanner_group: the notification channel is no longer failing\n\
             ✅ scanner_group: the feed is no longer silent, after 40 s. It was: no tick"
        );
    }

    /// They were cut after 200 characters, before the cure.
    #[test]
    fn the_cure_at_the_end_of_a_long_sentence_is_sent() {
        let cure = "Restart the producer.";
        let sentence = |length: usize| format!("{}{cure}", "word ".repeat((length - cure.len()) / 5));
        for (shown, longest) in [(1, 600), (2, 600), (4, 400)] {
            let news = (0..shown).map(|_| HealthNews::Began(condition(&sentence(longest)))).collect();
            let health = Notification { kind: NotificationKind::Health(news), ..message(Vec::new()) };
            for kind in KINDS {
                let sent = text(&health, kind, "");
                // A dot at a sentence's end makes no link.
                assert_eq!(sent.matches(cure).count(), shown, "{kind:?}: {sent}");
                assert!(length(&sent) <= super::longest(kind));
            }
        }
        let news = HealthNews::Began(condition(&format!("{}{cure}", "@".repeat(579))));
        let health = Notification { kind: NotificationKind::Health(vec![news]), ..message(Vec::new()) };
        for kind in KINDS {
            let sent = text(&health, kind, "");
            assert!(length(&sent) <= super::longest(kind) && sent.contains("@"), "{kind:?}: {sent}");
        }
    }

    /// A condition may quote what a producer has sent.
    #[test]
    fn a_sentence_about_the_host_makes_no_links_and_fits() {
        let hostile = "@channel /stop http://evil.example t.me/x <b> [X](http://evil) \u{202e}".repeat(30);
        let news = vec![HealthNews::Began(condition(&hostile)); 9];
        let health = Notification { kind: NotificationKind::Health(news), ..message(Vec::new()) };
        for kind in KINDS {
            let sent = text(&health, kind, "");
            assert!(length(&sent) <= longest(kind) && sent.ends_with("… and 5 more: see `tickhound status`"), "{sent}");
            assert!(!sent.contains('\u{202e}'));
            if kind != NotifyKind::Webhook {
                for link in ["@channel", "/stop", "://", "t.me", "<b>", "]("] {
                    assert!(!sent.contains(link), "{kind:?} {link}: {sent}");
                }
            }
        }
    }

    #[test]
    fn alerts_that_are_not_shown_or_not_delivered_are_counted() {
        let mut many = message((0..3).map(|n| alert(TIME + n, "A", 0.5)).collect());
        many.fresh = 40;
        many.unreported = Omissions {
            older: 37,
            newest_older_ms: TIME,
            in_doubt: 2,
            doubt_after: "5-0".into(),
            doubt_to: "7-1".into(),
            refused: 1,
            missed: 12,
        };
        let sent = text(&many, NotifyKind::Telegram, "{symbol}");
        let expected = "<b>40 alerts</b>\nA\nA\nA\n… and 37 more: see alerts:intraday\n\
            too old to be shown: 37 alerts, newest at 14:33:20 IST: see alerts:intraday\n\
            2 alerts may not have been delivered: it is unknown whether a message arrived; ids after 5-0 up to 7-1: see alerts:intraday\n\
            1 alert not delivered: the receiver rejected a message: see alerts:intraday\n\
            at least 12 alerts not delivered: trimmed from the stream before they were sent (alerts.maxlen): see alerts:intraday";
        assert_eq!(sent, expected);
    }

    #[test]
    fn alerts_of_the_highest_confidence_are_shown_where_not_all_fit() {
        let alerts = (0..100u32).map(|n| alert(TIME, &format!("S{n:02}-{}", "&".repeat(70)), f64::from(n) / 100.0));
        let many = message(alerts.collect());
        let sent = text(&many, NotifyKind::Telegram, "");
        let shown = sent.matches("[BREAKOUT]").count();
        assert!(length(&sent) <= 4096 && shown > 5, "{shown} shown");
        assert!(sent.contains("S99-") && !sent.contains("S00-"));
        assert!(sent.contains(&format!("… and {} more: see", 100 - shown)), "{sent}");
    }

    #[test]
    fn values_make_no_links_and_mentions() {
        let sent = |kind, symbol: &str| text(&message(vec![alert(TIME, symbol, 1.0)]), kind, "{symbol}");
        let cases = [
            (NotifyKind::Telegram, "@BOSS", "<code>@BOSS</code>"),
            (NotifyKind::Telegram, "T.ME/X?<B>", "<code>T.ME/X?&lt;B&gt;</code>"),
            (NotifyKind::Telegram, "/STOP", "<code>/STOP</code>"),
            (NotifyKind::Telegram, "</code>@BOSS", "<code>&lt;/code&gt;@BOSS</code>"),
            (NotifyKind::Telegram, "NIFTY 50", "NIFTY 50"),
            (NotifyKind::Slack, "<!CHANNEL>", "&lt;!CHANNEL&gt;"),
            (NotifyKind::Slack, "@channel", "@\u{200b}channel"),
            (NotifyKind::Slack, "[X](HTTP://EVIL)", "[X]\u{200b}(HTTP://EVIL)"),
            (NotifyKind::Discord, "@everyone", "\\@everyone"),
            (NotifyKind::Discord, "<@&42>", "\\<\\@&42\\>"),
            (NotifyKind::Discord, "https://evil.example", "https:\\/\\/evil.example"),
            (NotifyKind::Discord, "- X", "\\- X"),
            (NotifyKind::Webhook, "@channel <b>", "@channel <b>"),
        ];
        for (kind, symbol, expected) in cases {
            assert_eq!(sent(kind, symbol), expected, "{kind:?} {symbol}");
        }
        for kind in KINDS {
            assert_eq!(sent(kind, "A\u{202e}B\u{1b}[1m").matches(['\u{202e}', '\u{1b}']).count(), 0);
            assert!(sent(kind, "שלום").starts_with('\u{2068}') && sent(kind, "שלום").ends_with('\u{2069}'));
        }
    }

    proptest! {
        #[test]
        fn no_message_is_too_long_or_can_format_or_mention(
            symbols in prop::collection::vec(any::<String>(), 0..60),
            template in any::<String>(),
            stream in any::<String>(),
            counts in any::<[u32; 5]>(),
        ) {
            let mut any = message(symbols.iter().map(|symbol| alert(TIME, symbol, 0.5)).collect());
            let [more, older, in_doubt, refused, missed] = counts.map(u64::from);
            any.fresh += more;
            any.stream = stream.repeat(50);
            any.unreported = Omissions { older, newest_older_ms: u64::MAX, in_doubt, refused, missed, ..Omissions::default() };
            for kind in KINDS {
                for template in ["", &format!("{template}{{symbol}}")] {
                    let sent = text(&any, kind, template);
                    prop_assert!(length(&sent) <= longest(kind));
                    let own = ["<b>", "</b>", "<code>", "</code>"].iter().fold(sent.clone(), |sent, tag| sent.replace(tag, ""));
                    match kind {
                        NotifyKind::Webhook => {}
                        NotifyKind::Slack => prop_assert!(!sent.contains('<') && !sent.contains('>')),
                        NotifyKind::Telegram => prop_assert!(!own.contains('<') && !own.contains('>')),
                        NotifyKind::Discord => prop_assert!(!sent.replace("\\@", "").contains('@')),
                    }
                }
            }
        }
    }
}
