//! What the server's replies mean.

use redis::Value;

use crate::{
    errors::error_reply,
    resp::{Item, Replies, UnexpectedReply},
};
use tickhound_core::{
    event::{Entries, EntryId, NotAnEntryId},
    stream::{Extent, StreamError},
};

/// How a stream stands, by the reply to `XINFO STREAM` in a step.
#[derive(Debug, Default)]
pub(super) struct StreamInfo {
    /// The newest id that the stream has given out.
    pub(super) newest: Option<EntryId>,
    /// How much the stream has held; servers before 7.0 don't report it.
    pub(super) extent: Option<Extent>,
}

/// Parses the reply to a read of one stream; nil means no entries.
pub(super) fn parse_read(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    for _ in 0..replies.array()? {
        if replies.array()? != 2 {
            return Err(UnexpectedReply("expected a stream with its entries").into());
        }
        replies.bulk()?;
        replies.entries(&mut entries)?;
    }
    Ok(entries)
}

/// Parses the reply to `XRANGE`.
pub(super) fn parse_entries(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    if let Item::Error(error) = replies.clone().item()? {
        return Err(error_reply(error));
    }
    replies.entries(&mut entries)?;
    Ok(entries)
}

/// Parses the reply to `XRANGE` as the client crate returns it.
pub(super) fn entries_of(range: Value) -> Result<Entries, String> {
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let list: Vec<(String, Fields)> = redis::from_redis_value(range).map_err(|error| error.to_string())?;
    let mut entries = Entries::default();
    for (id, fields) in list {
        entries.push_entry(id.parse().map_err(|error: NotAnEntryId| error.to_string())?);
        fields.iter().for_each(|(name, value)| entries.push_field(name, value));
    }
    Ok(entries)
}

/// Parses the reply to `XINFO STREAM`. `alone`: no other consumer of the group takes entries.
pub(super) fn parse_stream_info(replies: &mut Replies<'_>, alone: bool) -> Result<StreamInfo, UnexpectedReply> {
    let (mut newest, mut added, mut length) = (None, None, None);
    for _ in 0..replies.array()? / 2 {
        let number = match replies.bulk()? {
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
            *number = u64::try_from(count).ok();
        }
    }
    let extent = added.zip(length);
    let extent = extent.map(|(added, length)| Extent { added, removed: added.saturating_sub(length), alone });
    Ok(StreamInfo { newest, extent })
}

/// The newest id that the stream has given out, by the reply to `XINFO STREAM`.
pub(super) fn newest(info: &Value) -> Option<EntryId> {
    field(info, "last-generated-id").and_then(text)?.parse().ok()
}

/// The newest entry that is pending under any consumer, by the reply to `XPENDING` without a range.
pub(super) fn newest_pending(summary: &Value) -> Option<EntryId> {
    text(items(summary).get(2)?)?.parse().ok()
}

/// The oldest entry, by the reply to `XINFO STREAM`.
pub(super) fn oldest(info: &Value) -> Option<EntryId> {
    items(field(info, "first-entry")?).first().and_then(text)?.parse().ok()
}

/// How much the stream has held, by the reply to `XINFO STREAM`; servers before 7.0 don't report it.
pub(super) fn extent(info: &Value, alone: bool) -> Option<Extent> {
    let added = number(field(info, "entries-added")?)?;
    let length = number(field(info, "length")?)?;
    Some(Extent { added, removed: added.saturating_sub(length), alone })
}

/// The `last-delivered-id` of `group`, by the reply to `XINFO GROUPS`.
pub(super) fn last_delivered(groups: &Value, group: &str) -> Option<EntryId> {
    let info = items(groups).iter().find(|info| field(info, "name").and_then(text) == Some(group))?;
    field(info, "last-delivered-id").and_then(text)?.parse().ok()
}

/// A consumer of a group.
pub(super) struct Consumer {
    pub(super) name: String,
    /// The number of entries that are delivered to it and not acknowledged.
    pub(super) pending: u64,
    /// The time since it last asked for entries.
    pub(super) idle_ms: u64,
}

/// Parses the reply to `XINFO CONSUMERS`.
pub(super) fn consumers(list: &Value) -> impl Iterator<Item = Consumer> {
    items(list).iter().filter_map(|info| {
        let name = field(info, "name").and_then(text)?.to_owned();
        let count = |name| field(info, name).and_then(number);
        Some(Consumer { name, pending: count("pending")?, idle_ms: count("idle")? })
    })
}

/// The value of `name` in a flat list of names and values, or in a map, which is its form in RESP3
/// (`stream.url` may end with `?protocol=resp3`).
pub(super) fn field<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    if let Value::Map(pairs) = list {
        return pairs.iter().find(|(key, _)| text(key) == Some(name)).map(|(_, value)| value);
    }
    items(list).chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
}

/// The id of the first entry in the reply to `XRANGE`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_as_long_in_resp2_as_in_resp3() {
        let text = |text: &str| Value::BulkString(text.into());
        let pairs = [("length", Value::Int(3)), ("last-generated-id", text("7-1")), ("entries-added", Value::Int(10))];
        let map = Value::Map(pairs.iter().map(|(name, value)| (text(name), value.clone())).collect());
        let list = Value::Array(pairs.iter().flat_map(|(name, value)| [text(name), value.clone()]).collect());
        for info in [map, list] {
            let extent = extent(&info, true).unwrap();
            assert_eq!((extent.added, extent.removed), (10, 7));
            assert_eq!(newest(&info), Some(EntryId { millis: 7, seq: 1 }));
        }
    }
}
