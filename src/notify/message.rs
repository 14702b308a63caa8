//! The text of a message; pure.
//!
//! What holds: no content of an alert can format, link or mention anything, or change the order of what is around it;
//! and no message is longer than its receiver accepts.

use std::ops::RangeInclusive;

use jiff::{Timestamp, tz::TimeZone};

use super::{filter::drop_least, sanitize::sanitize};
use tickhound_core::config::NotifyKind;
use tickhound_redis::{StoredAlert, notification_position::Omissions};

/// The line of an alert, unless the configuration has another one.
const LINE: &str = "{arrow} [{DETECTOR}] {symbol} at {price}: {confidence} confidence, {time}";

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
    pub(super) shown: Vec<StoredAlert>,
    /// How many alerts it is about; those that are not shown are counted.
    pub(super) fresh: u64,
    /// What it reports beside them.
    pub(super) unreported: Omissions,
    /// Key of the stream that has all alerts.
    pub(super) stream: String,
    pub(super) kind: NotificationKind,
}

/// What a message is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NotificationKind {
    /// It reports alerts.
    Alerts,
    /// It shows that messages arrive, and says so.
    Test,
}

/// How lines are formatted.
pub(super) struct Style<'a> {
    pub(super) kind: NotifyKind,
    pub(super) template: &'a str,
    pub(super) zone: &'a TimeZone,
}

impl Notification {
    /// The whole text, short enough for its receiver; alerts that do not fit are counted.
    pub(super) fn text(&self, style: &Style<'_>) -> String {
        let mut shown = self.shown.clone();
        loop {
            let text = self.text_with(&shown, style);
            let longest = longest(style.kind);
            if length(&text) <= longest || shown.is_empty() {
                return cut(text, longest);
            }
            drop_least(&mut shown);
        }
    }

    fn text_with(&self, shown: &[StoredAlert], style: &Style<'_>) -> String {
        let plain = |text: &str| escape(text, style.kind);
        let bold = |text: &str| match style.kind {
            NotifyKind::Telegram => format!("<b>{}</b>", plain(text)),
            NotifyKind::Discord => format!("**{}**", plain(text)),
            _ => plain(text),
        };
        let mut lines = Vec::new();
        if self.kind == NotificationKind::Test {
            lines.push(bold("This is a test from tickhound: if you can read it, alerts will arrive here"));
        }
        if self.fresh > 1 {
            lines.push(bold(&format!("{} alerts", self.fresh)));
        }
        lines.extend(shown.iter().map(|alert| self.line(alert, style)));
        let stream: String = clip(&self.stream);
        let rest = self.fresh - shown.len() as u64;
        if rest > 0 {
            lines.push(plain(&if shown.is_empty() {
                format!("{}: see {stream}", count(rest))
            } else {
                format!("… and {rest} more: see {stream}")
            }));
        }
        let Omissions { older, newest_older_ms, in_doubt, doubt_after, doubt_to, refused, missed } = &self.unreported;
        let notes = [
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
        ];
        for (alerts, note) in notes {
            if alerts > 0 {
                lines.push(plain(&format!("{note}: see {stream}")));
            }
        }
        lines.join("\n")
    }

    fn line(&self, alert: &StoredAlert, style: &Style<'_>) -> String {
        let template = if style.template.is_empty() { LINE } else { style.template };
        let mut line = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            line += &escape(before, style.kind);
            let Some((name, after)) = after.split_once('}') else {
                line += &escape("{", style.kind);
                rest = after;
                continue;
            };
            line += &literal(&value(alert, name, style.zone), style.kind);
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

/// The time of day.
fn clock(millis: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| "?".into(), |time| time.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string())
}

fn clip(text: &str) -> String {
    let mut clean = sanitize(text);
    let mut clipped: String = clean.by_ref().take(VALUE_MAX).collect();
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

/// Whether Telegram could take part of the value for a link, a mention, a command, a tag or a telephone number.
fn may_link(value: &str) -> bool {
    value.parse::<f64>().is_err() && value.contains(['@', '/', '#', '$', '.', '+'])
}

/// Whether the character is of a script that is written from right to left.
fn is_right_to_left(c: char) -> bool {
    RIGHT_TO_LEFT.iter().any(|script| script.contains(&c))
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
    use tickhound_core::config::notify::PLACEHOLDERS;

    const KINDS: [NotifyKind; 4] = [NotifyKind::Webhook, NotifyKind::Slack, NotifyKind::Discord, NotifyKind::Telegram];

    fn message(shown: Vec<StoredAlert>) -> Notification {
        Notification {
            fresh: shown.len() as u64,
            shown,
            unreported: Omissions::default(),
            stream: "alerts:intraday".into(),
            kind: NotificationKind::Alerts,
        }
    }

    fn text(message: &Notification, kind: NotifyKind, template: &str) -> String {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        message.text(&Style { kind, template, zone: &zone })
    }

    // 14:33:20 in Kolkata.
    const TIME: u64 = 1_764_061_400_000;

    #[test]
    fn an_alert_is_one_line_with_its_key_values() {
        let one = message(vec![alert(TIME, "NIFTY25NOV25750PE", 0.947)]);
        let expected = "▲ [BREAKOUT] NIFTY25NOV25750PE at 101.05: 0.95 confidence, 14:33:20";
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
            too old to be shown: 37 alerts, newest at 14:33:20: see alerts:intraday\n\
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
