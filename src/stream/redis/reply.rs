//! What the server's answers mean.

use std::collections::{BTreeMap, HashMap};

use redis::{FromRedisValue, ParsingError, Value};

use super::{
    resp::{Commands, Item, Replies, Unexpected},
    wire::refused,
};
use crate::{
    event::{Entries, EntryId, NotAnEntryId},
    rate::Rates,
    stream::{Attempt, Clock, Commit, CommitId, Extent, StreamError, Totals},
};

/// What commits are made under.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acquisition {
    /// Its number, as the server counts.
    pub(super) epoch: u64,
    /// Drawn at random: a server that has gone back may count to the same number twice.
    pub(super) token: u64,
}

/// The checkpoint hash: what was committed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    /// The newest entry that was committed.
    pub(super) last: Option<EntryId>,
    /// Epoch under which that commit was made.
    pub(super) epoch: u64,
    /// Token of the acquisition under which that commit was made; 0 if a release without tokens made it.
    pub(super) token: u64,
    /// Totals as of that commit.
    pub(super) totals: Totals,
    /// Event time as of that commit.
    pub(super) clock: Clock,
    /// Entries ever added to the stream up to the newest, if known.
    pub(super) index: Option<u64>,
    /// The mark of a recovery that has not come to its end.
    pub(super) attempt: Option<Attempt>,
    /// Detectors whose states are all saved, with what must be the same to read them.
    pub(super) complete: BTreeMap<String, u64>,
    /// What has been raised of late.
    pub(super) rates: Rates,
    /// When the commit was made, ms since the Unix epoch, by the owner's clock.
    pub(super) at_ms: u64,
}

impl Checkpoint {
    /// The command that writes it.
    pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, owner: Acquisition, at_ms: u64) {
        let Acquisition { epoch, token } = owner;
        let Totals { commits, entries, alerts, quiet, shadow_alerts, held_back, dead, lost, state_gap } = commit.totals;
        let Clock { time, delay_ms, unstamped } = commit.clock;
        commands.arg("HSET").arg(key).arg("last").show(commit.newest).arg("rates").show(&commit.rates);
        let numbers = [
            ("epoch", epoch),
            ("token", token),
            ("at_ms", at_ms),
            ("commits", commits),
            ("entries", entries),
            ("alerts", alerts),
            ("quiet", quiet),
            ("dead", dead),
            ("lost", lost),
            ("state_gap", state_gap),
            ("held_back", held_back),
            ("shadow_alerts", shadow_alerts),
            ("clock_time", time),
            ("clock_unstamped", unstamped),
        ];
        for (name, number) in numbers {
            commands.arg(name).show(number);
        }
        commands.arg("index").arg(commit.index.map_or_else(String::new, |index| index.to_string()));
        commands.arg("clock_delay_ms").arg(delay_ms.map_or_else(String::new, |delay| delay.to_string()));
        if let Some(visit) = &commit.visit {
            let complete: Vec<String> =
                visit.complete.iter().map(|(name, schema)| format!("{name}={schema}")).collect();
            commands.arg("complete").arg(complete.join(","));
        }
        commands.end();
    }
}

impl Checkpoint {
    /// What tells the last commit from every other.
    pub(super) fn commit_id(&self) -> CommitId {
        let newest = self.last.unwrap_or_default();
        CommitId { number: self.totals.commits, epoch: self.epoch, token: self.token, newest }
    }
}

impl FromRedisValue for Checkpoint {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let fields: HashMap<String, String> = redis::from_redis_value(value)?;
        let number = |name: &str| fields.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            last: fields.get("last").and_then(|text| text.parse().ok()),
            epoch: number("epoch"),
            token: number("token"),
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
            attempt: fields
                .get("attempt")
                .and_then(|text| text.parse().ok())
                .filter(|attempt| *attempt != Attempt::NONE),
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
pub(super) fn parse_read(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    for _ in 0..replies.array()? {
        if replies.array()? != 2 {
            return Err(Unexpected("no stream with its entries").into());
        }
        replies.bulk()?;
        replies.entries(&mut entries)?;
    }
    Ok(entries)
}

/// The entries in the answer to `XRANGE`.
pub(super) fn parse_entries(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    if let Item::Error(error) = replies.clone().item()? {
        return Err(refused(error));
    }
    replies.entries(&mut entries)?;
    Ok(entries)
}

/// The same in the client crate's form, for looks at a few.
pub(crate) fn entries_of(range: Value) -> Result<Entries, String> {
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let list: Vec<(String, Fields)> = redis::from_redis_value(range).map_err(|error| error.to_string())?;
    let mut entries = Entries::default();
    for (id, fields) in list {
        entries.push_entry(id.parse().map_err(|error: NotAnEntryId| error.to_string())?);
        fields.iter().for_each(|(name, value)| entries.push_field(name, value));
    }
    Ok(entries)
}

/// The newest entry, and how much the stream has held, which servers before 7.0 don't tell; in the answer to
/// `XINFO STREAM`.
pub(super) fn parse_extent(
    replies: &mut Replies<'_>,
    alone: bool,
) -> Result<(Option<EntryId>, Option<Extent>), Unexpected> {
    let (mut newest, mut added, mut length) = (None, None, None);
    for _ in 0..replies.array()? / 2 {
        let found = match replies.bulk()? {
            b"entries-added" => &mut added,
            b"length" => &mut length,
            b"last-generated-id" => {
                newest = std::str::from_utf8(replies.bulk()?).ok().and_then(|id| id.parse().ok());
                continue;
            }
            _ => {
                replies.skip()?;
                continue;
            }
        };
        if let Item::Int(count) = replies.item()? {
            *found = u64::try_from(count).ok();
        }
    }
    let extent = added.zip(length);
    Ok((newest, extent.map(|(added, length)| Extent { added, removed: added.saturating_sub(length), alone })))
}

/// The newest id that the stream has given out, in the answer to `XINFO STREAM`.
pub(super) fn newest(info: &Value) -> Option<EntryId> {
    field(info, "last-generated-id").and_then(text)?.parse().ok()
}

/// The newest entry that is pending under any name, in the answer to `XPENDING` without a range.
pub(super) fn newest_pending(summary: &Value) -> Option<EntryId> {
    text(items(summary).get(2)?)?.parse().ok()
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
pub(super) fn field<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
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
