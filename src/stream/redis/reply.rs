//! What the server's answers mean.

use std::collections::{BTreeMap, HashMap};

use redis::{Cmd, FromRedisValue, ParsingError, Value, cmd};

use crate::{
    event::{Entries, EntryId},
    rate::Rates,
    stream::{Clock, Commit, Extent, Totals},
};

/// The checkpoint hash: what was committed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    /// The newest entry that was committed.
    pub(super) last: Option<EntryId>,
    /// Epoch under which that commit was made.
    pub(super) epoch: u64,
    /// Totals as of that commit.
    pub(super) totals: Totals,
    /// Event time as of that commit.
    pub(super) clock: Clock,
    /// Entries ever added to the stream up to the newest, if known.
    pub(super) index: Option<u64>,
    /// The pending entry that was tried last, and how often.
    pub(super) attempt: Option<(EntryId, u64)>,
    /// Detectors whose states are all saved, with what must be the same to read them.
    pub(super) complete: BTreeMap<String, u64>,
    /// What has been raised of late.
    pub(super) rates: Rates,
    /// When the commit was made, ms since the Unix epoch, by the owner's clock.
    pub(super) at_ms: u64,
}

impl Checkpoint {
    /// The command that writes it.
    pub(super) fn write(key: &str, commit: &Commit, epoch: u64, at_ms: u64) -> Cmd {
        let Totals { commits, entries, alerts, quiet, shadow_alerts, held_back, dead, lost, state_gap } = commit.totals;
        let mut write = cmd("HSET");
        write.arg(key).arg("last").arg(commit.newest.to_string()).arg("epoch").arg(epoch).arg("at_ms").arg(at_ms);
        write.arg("commits").arg(commits).arg("entries").arg(entries).arg("alerts").arg(alerts);
        write.arg("quiet").arg(quiet).arg("dead").arg(dead).arg("lost").arg(lost);
        write
            .arg("state_gap")
            .arg(state_gap)
            .arg("held_back")
            .arg(held_back)
            .arg("rates")
            .arg(commit.rates.to_string());
        write.arg("shadow_alerts").arg(shadow_alerts);
        write.arg("index").arg(commit.index.map_or_else(String::new, |index| index.to_string()));
        let Clock { time, delay_ms, unstamped } = commit.clock;
        let delay_ms = delay_ms.map_or_else(String::new, |delay| delay.to_string());
        write.arg("clock_time").arg(time).arg("clock_delay_ms").arg(delay_ms).arg("clock_unstamped").arg(unstamped);
        if let Some(visit) = &commit.visit {
            let complete: Vec<String> =
                visit.complete.iter().map(|(name, schema)| format!("{name}={schema}")).collect();
            write.arg("complete").arg(complete.join(","));
        }
        write
    }
}

impl FromRedisValue for Checkpoint {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let fields: HashMap<String, String> = redis::from_redis_value(value)?;
        let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            last: fields.get("last").and_then(|text| text.parse().ok()),
            epoch: number("epoch"),
            totals: Totals {
                commits: number("commits"),
                entries: number("entries"),
                alerts: number("alerts"),
                quiet: number("quiet"),
                shadow_alerts: number("shadow_alerts"),
                held_back: number("held_back"),
                dead: number("dead"),
                lost: number("lost"),
                state_gap: number("state_gap"),
            },
            clock: Clock {
                time: number("clock_time"),
                delay_ms: fields.get("clock_delay_ms").and_then(|text| text.parse().ok()),
                unstamped: number("clock_unstamped"),
            },
            index: fields.get("index").and_then(|text| text.parse().ok()),
            attempt: fields.get("attempt").and_then(|text| {
                let (entry, times) = text.split_once(' ')?;
                Some((entry.parse().ok()?, times.parse().ok().filter(|times| *times > 0)?))
            }),
            complete: fields.get("complete").map_or_else(BTreeMap::new, |text| {
                let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
                pairs.filter_map(|(name, schema)| Some((name.to_owned(), schema.parse().ok()?))).collect()
            }),
            rates: fields.get("rates").map_or_else(Rates::default, |text| text.parse().unwrap_or_default()),
            at_ms: number("at_ms"),
        })
    }
}

/// The entries in the answer to a read of one stream; nil means none.
pub(super) fn parse_read(value: &Value) -> Result<Entries, String> {
    let mut entries = Entries::default();
    let Value::Array(streams) = value else {
        return match value {
            Value::Nil => Ok(entries),
            other => Err(format!("unexpected answer to XREADGROUP: {other:?}")),
        };
    };
    for stream in streams {
        let [_key, list] = items(stream) else { return Err("unexpected answer to XREADGROUP".into()) };
        push_entries(&mut entries, list)?;
    }
    Ok(entries)
}

/// The entries in the answer to `XRANGE`.
pub(crate) fn parse_entries(value: &Value) -> Result<Entries, String> {
    let mut entries = Entries::default();
    push_entries(&mut entries, value)?;
    Ok(entries)
}

fn push_entries(entries: &mut Entries, list: &Value) -> Result<(), String> {
    let unexpected = || "unexpected form of an entry".to_owned();
    for entry in items(list) {
        let [id, fields] = items(entry) else { return Err(unexpected()) };
        let id = text(id).and_then(|id| id.parse().ok()).ok_or_else(unexpected)?;
        entries.push_entry(id);
        // A body that was trimmed away comes as nil: an entry without fields.
        for field in items(fields).chunks_exact(2) {
            let (Some(name), Some(value)) = (bytes(&field[0]), bytes(&field[1])) else { return Err(unexpected()) };
            entries.push_field(name, value);
        }
    }
    Ok(())
}

/// The oldest entry, in the answer to `XINFO STREAM`.
pub(super) fn oldest(info: &Value) -> Option<EntryId> {
    items(field(info, "first-entry")?).first().and_then(text)?.parse().ok()
}

/// How much the stream has held, in the answer to `XINFO STREAM`; servers before 7.0 don't tell.
pub(super) fn extent(info: &Value, alone: bool) -> Option<Extent> {
    let added = number(field(info, "entries-added")?)?;
    let length = number(field(info, "length")?)?;
    Some(Extent { added, removed: added.saturating_sub(length), alone })
}

/// `last-delivered-id` of `group` in the answer to `XINFO GROUPS`.
pub(super) fn last_delivered(groups: &Value, group: &str) -> Option<EntryId> {
    let found = items(groups).iter().find(|info| field(info, "name").and_then(text) == Some(group))?;
    field(found, "last-delivered-id").and_then(text)?.parse().ok()
}

/// A consumer of a group.
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) pending: u64,
    pub(super) idle_ms: u64,
}

/// The answer to `XINFO CONSUMERS`.
pub(super) fn consumers(list: &Value) -> impl Iterator<Item = Consumer> {
    items(list).iter().filter_map(|info| {
        let name = field(info, "name").and_then(text)?.to_owned();
        let count = |name| field(info, name).and_then(number);
        Some(Consumer { name, pending: count("pending")?, idle_ms: count("idle")? })
    })
}

/// The value behind `name` in a flat list of names and values.
fn field<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    items(list).chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
}

/// The id of the first entry in the answer to `XRANGE`.
pub(super) fn first_id(range: &Value) -> Option<EntryId> {
    items(items(range).first()?).first().and_then(text)?.parse().ok()
}

/// The text of the first item of a list.
pub(super) fn first_text(list: &Value) -> Option<&str> {
    items(list).first().and_then(text)
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => text(value)?.parse().ok(),
    }
}

pub(super) fn server_error(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) => Some(super::explain(&error.clone().into())),
        _ => None,
    }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
