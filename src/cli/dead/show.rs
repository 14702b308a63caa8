//! Dead letters as text, and as JSON lines.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};
use serde::de::IgnoredAny;
use serde_json::json;

use super::letters::{PAGE, matches};
use crate::{
    cli::text::zone,
    clock,
    output::{self, Lines},
};
use tickhound_core::{config::LoadedConfig, event::EntryId, publish::raw_fields, text::printable};
use tickhound_redis::{DeadLetters, Letter};

/// Letters and bytes that the summary by reason reads at most: enough to show what is wrong, and quick at any number of
/// letters.
const SUMMARY_LETTERS: usize = 1000;
const SUMMARY_BYTES: usize = 16 << 20;

/// How many kinds of reason the summary shows.
const KINDS_SHOWN: usize = 5;

/// The longest kind of reason in the summary, in characters.
const KIND_MAX: usize = 60;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound dead list\n  tickhound dead list --detector jump --limit 100\n  \
                  tickhound dead list --json | jq -r .raw.data")]
pub(super) struct ListArgs {
    /// Only letters on which this detector failed.
    #[arg(long, value_name = "NAME")]
    detector: Option<String>,
    /// Only letters whose reason contains this text, ignoring case.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Maximum number of letters.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Print one JSON object per letter.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound dead show 1762140000000-0\n  tickhound dead show 1762140000000-0 --json | jq .raw\n\n\
                  Exit codes: 0 done, 1 failed or a letter does not exist, 2 wrong usage."
)]
pub(super) struct ShowArgs {
    /// Ids of letters, as shown by `tickhound dead list`.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<EntryId>,
    /// Print one JSON object per letter.
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(args: &ListArgs, dead: &mut DeadLetters, loaded: &LoadedConfig) -> Result<ExitCode> {
    let zone = zone(&loaded.config);
    let total = dead.count().await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut rows, mut shown, mut before) = (Vec::new(), 0, None);
    let (mut seen, mut bytes) = (0, 0);
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let page = dead.newest(before, PAGE).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen += page.len();
        bytes += page.iter().map(Letter::size).sum::<usize>();
        for letter in page.iter().filter(|letter| matches(letter, args.detector.as_deref(), args.reason.as_deref())) {
            *kinds.entry(kind(letter)).or_default() += 1;
            if shown == limit {
                continue;
            }
            shown += 1;
            if args.json {
                output::print_json(&to_json(letter, &zone));
            } else {
                rows.push(row(letter, &zone));
            }
        }
        if output::is_closed() || shown == limit && (args.json || seen >= SUMMARY_LETTERS || bytes >= SUMMARY_BYTES) {
            break;
        }
    }
    if args.json {
        return Ok(ExitCode::SUCCESS);
    }
    match (total, shown) {
        (0, _) => outln!("no dead letters in {}", dead.key()),
        (_, 0) => outln!("none of the {total} dead letters in {} matches", dead.key()),
        _ => {
            output::print(&table(&rows));
            outln!("{shown} of {total} dead letters in {}, newest first (--limit)", dead.key());
            let of = if seen as u64 >= total { String::new() } else { format!(", of the newest {seen}") };
            outln!("by reason{of}: {}", summary(kinds));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn show(args: &ShowArgs, dead: &mut DeadLetters, loaded: &LoadedConfig) -> Result<ExitCode> {
    let zone = zone(&loaded.config);
    let mut missing = false;
    for (number, id) in args.ids.iter().enumerate() {
        let Some(letter) = dead.get(*id).await? else {
            errln!("error: {id}: there is no such letter in {}", dead.key());
            missing = true;
            continue;
        };
        if args.json {
            output::print_json(&to_json(&letter, &zone));
            continue;
        }
        if number > 0 {
            outln!();
        }
        output::print(&whole(&letter, &zone));
    }
    Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The time of a letter, as `show` formats it.
fn time(id: EntryId, zone: &TimeZone, show: fn(Timestamp, &TimeZone) -> String) -> String {
    let instant = i64::try_from(id.millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    instant.map_or_else(|| "-".to_owned(), |at| show(at, zone))
}

/// The part of the reason that letters of one cause share.
pub(super) fn kind(letter: &Letter) -> String {
    if let Some(detector) = letter.field("detector") {
        return format!("{detector} failed");
    }
    let reason = letter.field("reason").unwrap_or("").lines().next().unwrap_or("");
    let kind = reason.split_once(": ").map_or(reason, |(kind, _)| kind);
    if kind.is_empty() { "no reason".into() } else { printable(&cut(kind, KIND_MAX)).into_owned() }
}

pub(super) fn summary(kinds: BTreeMap<String, u64>) -> String {
    let mut kinds: Vec<(String, u64)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let others: u64 = kinds.iter().skip(KINDS_SHOWN).map(|(_, count)| count).sum();
    let mut parts: Vec<String> =
        kinds.iter().take(KINDS_SHOWN).map(|(kind, count)| format!("{count} × {kind}")).collect();
    if others > 0 {
        parts.push(format!("{others} others"));
    }
    parts.join(", ")
}

fn row(letter: &Letter, zone: &TimeZone) -> [String; 5] {
    let field = |name| printable(letter.field(name).unwrap_or("-")).into_owned();
    let reason = letter.field("reason").unwrap_or("").lines().next().unwrap_or("");
    let when = time(letter.id, zone, clock::to_the_second);
    [letter.id.to_string(), when, field("entry"), field("detector"), printable(reason).into_owned()]
}

fn table(rows: &[[String; 5]]) -> Lines {
    let head = ["letter", "time", "entry", "detector", "reason"].map(str::to_owned);
    let terminal = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
    let most = terminal.map_or(usize::MAX, |(width, _)| usize::from(width.0));
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = Lines::default();
    for row in all() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.push_str(&row[4]);
        let _ = writeln!(text, "{}", cut(line.trim_end(), most));
    }
    text
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn whole(letter: &Letter, zone: &TimeZone) -> Lines {
    let mut text = Lines::default();
    let mut line = |name: &str, value: &str| {
        for (number, line) in value.lines().enumerate() {
            let _ = writeln!(text, "{:<10}{line}", if number == 0 { name } else { "" });
        }
    };
    line("letter", &letter.id.to_string());
    line("time", &time(letter.id, zone, clock::to_the_millisecond));
    letter.fields.iter().filter(|(name, _)| name != "raw").for_each(|(name, value)| line(name, value));
    let Some(raw) = letter.field("raw") else { return text };
    let _ = writeln!(text, "raw");
    let Ok(fields) = raw_fields(raw) else {
        let _ = writeln!(text, "  {raw}");
        return text;
    };
    for (name, value) in fields {
        let name = String::from_utf8_lossy(&name);
        let _ = match str::from_utf8(&value) {
            Ok(json) if is_document(json) => write_document(&mut text, &name, json),
            Ok(plain) => writeln!(text, "  {name}: {plain}"),
            Err(_) => writeln!(text, "  {name}: {} bytes that are not text: {}", value.len(), value.escape_ascii()),
        };
    }
    text
}

/// Writes valid JSON, indented below the name of its field.
fn write_document(text: &mut Lines, name: &str, json: &str) -> fmt::Result {
    let document = indented(json);
    let mut lines = document.lines();
    writeln!(text, "  {name}: {}", lines.next().unwrap_or_default())?;
    lines.try_for_each(|line| writeln!(text, "{line}"))
}

fn is_document(text: &str) -> bool {
    text.starts_with(['{', '[']) && is_json(text)
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Formats valid JSON with line breaks and indents; order, numbers and repeated names do not change.
fn indented(json: &str) -> String {
    let (mut text, mut depth) = (String::new(), 1);
    let (mut quoted, mut escaped, mut opened) = (false, false, false);
    let line = |text: &mut String, depth: usize| {
        let _ = write!(text, "\n{:width$}", "", width = 2 * depth);
    };
    for c in json.chars() {
        if quoted {
            text.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        depth -= usize::from(closes);
        // An empty object or array stays on one line.
        if closes != opened {
            line(&mut text, depth);
        }
        text.push(c);
        quoted = c == '"';
        opened = matches!(c, '{' | '[');
        depth += usize::from(opened);
        match c {
            ':' => text.push(' '),
            ',' => line(&mut text, depth),
            _ => {}
        }
    }
    text
}

/// The letter as one JSON object; the fields of the entry are those of `raw`.
fn to_json(letter: &Letter, zone: &TimeZone) -> String {
    const NAMES: [&str; 8] = ["entry", "detector", "plugin", "version", "sha256", "params", "reason", "raw"];
    let member = |name: &str| match letter.field(name) {
        Some(value) if matches!(name, "params" | "raw") && is_json(value) => value.to_owned(),
        value => json!(value).to_string(),
    };
    let known = NAMES.iter().map(|name| format!("\"{name}\":{}", member(name)));
    let more = letter.fields.iter().filter(|(name, _)| !NAMES.contains(&name.as_str()));
    let more = more.map(|(name, value)| format!("{}:{}", json!(name), json!(value)));
    let members: Vec<String> = known.chain(more).collect();
    let time = time(letter.id, zone, clock::rfc_3339);
    format!("{{\"id\":\"{}\",\"time\":\"{time}\",{}}}", letter.id, members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_indented_and_otherwise_unchanged() {
        let json = r#"{"a":[1.50,{}, [ ]],"a":"{\"x\\\\","b":{"c":null}}"#;
        let expected = r#"{
    "a": [
      1.50,
      {},
      []
    ],
    "a": "{\"x\\\\",
    "b": {
      "c": null
    }
  }"#;
        assert_eq!(indented(json), expected);
        assert_eq!(indented("[]"), "[]");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(cut("abcdef", 4), "abc…");
    }

    #[test]
    fn letters_of_one_cause_have_one_kind() {
        let letter = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            kind(&Letter { id: EntryId::ZERO, fields })
        };
        assert_eq!(letter(&[("reason", "no symbol: none of a, b has a value")]), "no symbol");
        assert_eq!(letter(&[("reason", "panicked"), ("detector", "jump")]), "jump failed");
        assert_eq!(letter(&[]), "no reason");
    }
}
