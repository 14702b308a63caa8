//! Inspects a partition: its keys, the stream at two moments, the group, the newest entries and dead letters.

use std::time::{Duration, Instant};

use redis::{RedisError, Value, cmd};

use super::inspector::{Answer, Inspector};
use crate::{
    claims::{Claim, Conflict, PartitionName},
    keys::Keys,
    reply,
    server_check::key_types,
};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    event::{Entries, EntryId},
    stream::owner::Owner,
};

/// The time between the two inspections of the stream.
const BETWEEN: Duration = Duration::from_secs(1);

/// Limits the newest entries that are read, and the pending ones that are listed.
const PAGE: usize = 100;

/// Limits the size of the entries that are read, bytes.
const SAMPLE_BYTES: u64 = 4 << 20;

/// Limits the names of other streams that are listed when ours does not exist.
const STREAMS_SHOWN: usize = 5;

/// Limits the `SCAN` requests that search for other streams.
const SCANS: usize = 10;

/// A partition at the time of the inspection.
#[derive(Debug, Default)]
pub struct PartitionInspection {
    /// The keys whose value has the wrong type.
    pub wrong_types: Vec<WrongType>,
    /// The streams and keys that belong to another partition, and which detectors need them.
    pub conflicts: Vec<(Conflict, NeededBy)>,
    /// The reason why the type of some keys is not known.
    pub types_error: Option<String>,
    /// The keys that will expire, and in how many ms.
    pub expiring: Vec<(String, u64)>,
    /// The memory of each key, bytes. Keys that do not exist, or whose memory the server does not report, are left out.
    pub sizes: Vec<(String, u64)>,
    /// The stream of ticks; `None` if it does not exist.
    pub stream: Option<StreamInspection>,
    /// The reason why the stream can't be inspected.
    pub stream_error: Option<String>,
    /// Some other streams on the server, if ours does not exist.
    pub other_streams: Vec<String>,
    /// The owner of the lease; `None` if nobody holds it.
    pub owner: Option<LeaseOwner>,
    /// The epoch at both inspections.
    pub epochs: (u64, u64),
    /// The number of entries lost to trimming so far, at both inspections.
    pub lost: (u64, u64),
    /// Whether there was a commit.
    pub committed: bool,
    /// The newest dead letter: its time (ms since the Unix epoch) and its reason.
    pub dead: Option<(u64, String)>,
}

/// A key whose value has another type than Tickhound expects.
#[derive(Clone, Debug)]
pub struct WrongType {
    /// The name of the key.
    pub key: String,
    /// The type that Tickhound expects.
    pub expected: &'static str,
    /// The type of the value.
    pub actual: String,
}

/// The detectors that need a stream or key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededBy {
    /// Every host needs it.
    Everybody,
    /// Only shadows need it.
    Shadows,
}

/// A stream of ticks at the time of the inspection.
#[derive(Debug, Default)]
pub struct StreamInspection {
    /// The number of entries.
    pub length: u64,
    /// The number of entries ever added; servers before 7.0 don't report it.
    pub added: Option<u64>,
    /// The oldest entry.
    pub oldest: Option<EntryId>,
    /// The newest id that the stream has given out.
    pub newest: EntryId,
    /// The values of `length`, `added` and `newest` at the second inspection.
    pub later: StreamCounts,
    /// The time between both inspections.
    pub between: Duration,
    /// The server's time at the second inspection, ms since the Unix epoch.
    pub now_ms: u64,
    /// The newest entries, newest first.
    pub sample: Entries,
    /// The consumer group; `None` if it does not exist.
    pub group: Option<GroupInspection>,
    /// The reason why it is not known whether the group exists.
    pub group_error: Option<String>,
}

/// How much a stream holds and has held.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamCounts {
    /// The number of entries.
    pub length: u64,
    /// The number of entries ever added; servers before 7.0 don't report it.
    pub added: Option<u64>,
    /// The newest id that the stream has given out.
    pub newest: EntryId,
}

/// A consumer group at the time of the inspection.
#[derive(Clone, Debug, Default)]
pub struct GroupInspection {
    /// The newest entry that the group has delivered.
    pub last_delivered: EntryId,
    /// The consumers of the group.
    pub consumers: Vec<ConsumerInspection>,
    /// The oldest entry that is not processed: pending, or else not delivered.
    pub oldest_unprocessed: Option<EntryId>,
    /// The oldest pending entries.
    pub pending: Vec<PendingEntry>,
}

/// A consumer of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerInspection {
    /// The name of the consumer.
    pub name: String,
    /// The number of entries that are delivered to it and not acknowledged.
    pub pending: u64,
    /// The time since it last asked for entries, ms.
    pub idle_ms: u64,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Debug)]
pub struct PendingEntry {
    /// The id of the entry.
    pub id: EntryId,
    /// The number of its deliveries.
    pub deliveries: u64,
}

/// The owner of the lease.
#[derive(Clone, Debug)]
pub struct LeaseOwner {
    /// The host and process.
    pub name: String,
    /// Whether the process ran on this machine and has ended.
    pub gone: bool,
}

/// Inspects a partition.
pub(super) async fn inspect(
    inspector: &mut Inspector,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<PartitionInspection, RedisError> {
    let mut inspection = PartitionInspection::default();
    for (key, expected) in key_types(config, alerts, keys) {
        inspect_key(inspector, key, expected, keys, &mut inspection).await?;
    }
    inspection.conflicts = conflicts(inspector, config, alerts, keys).await?;
    if let Ok(Some(owner)) = inspector.ask::<Option<String>>(cmd("GET").arg(&keys.lease)).await? {
        let parsed = Owner::parse(&owner);
        let gone = parsed.as_ref().is_some_and(Owner::is_gone);
        inspection.owner = Some(LeaseOwner { name: parsed.map_or(owner, |owner| owner.to_string()), gone });
    }
    inspection.committed = inspector.ask(cmd("HEXISTS").arg(&keys.checkpoint).arg("last")).await?.unwrap_or(false);
    inspection.dead = newest_dead_letter(inspector, keys).await?;
    let before = counters(inspector, keys).await?;
    let size = inspection.sizes.iter().find(|(key, _)| *key == config.key).map(|(_, size)| *size);
    if inspection.wrong_types.iter().any(|wrong| wrong.key == config.key) {
        inspection.stream_error = Some("the key holds a value of another type".into());
    } else {
        match inspect_stream(inspector, config, size).await? {
            Ok(stream) => inspection.stream = stream,
            Err(rejection) => inspection.stream_error = Some(rejection),
        }
    }
    let after = counters(inspector, keys).await?;
    (inspection.epochs, inspection.lost) = ((before.0, after.0), (before.1, after.1));
    if inspection.stream.is_none() && inspection.stream_error.is_none() {
        inspection.other_streams = other_streams(inspector).await?;
    }
    Ok(inspection)
}

/// Inspects the type, size and expiry of one key.
async fn inspect_key(
    inspector: &mut Inspector,
    key: &str,
    expected: &'static str,
    keys: &Keys,
    inspection: &mut PartitionInspection,
) -> Result<(), RedisError> {
    let actual = match inspector.ask::<String>(cmd("TYPE").arg(key)).await? {
        Ok(actual) => actual,
        Err(rejection) => {
            inspection.types_error.get_or_insert(rejection);
            return Ok(());
        }
    };
    if actual == "none" {
        return Ok(());
    }
    if actual != expected {
        inspection.wrong_types.push(WrongType { key: key.to_owned(), expected, actual });
        return Ok(());
    }
    if let Ok(Some(bytes)) = inspector.ask(cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(5)).await? {
        inspection.sizes.push((key.to_owned(), bytes));
    }
    // `PTTL` returns a negative number for a key that does not expire. The lease is meant to expire.
    let expires = inspector.ask::<i64>(cmd("PTTL").arg(key)).await?.unwrap_or(-1);
    if let (true, Ok(expires)) = (key != keys.lease, u64::try_from(expires)) {
        inspection.expiring.push((key.to_owned(), expires));
    }
    Ok(())
}

/// Reads when the newest dead letter was written (ms since the Unix epoch), and its reason.
async fn newest_dead_letter(inspector: &mut Inspector, keys: &Keys) -> Result<Option<(u64, String)>, RedisError> {
    let mut newest = cmd("XREVRANGE");
    newest.arg(&keys.dead).arg("+").arg("-").arg("COUNT").arg(1);
    let letters = inspector.ask::<Vec<(String, Vec<(String, String)>)>>(&newest).await?;
    let Some((id, fields)) = letters.ok().and_then(|mut letters| letters.pop()) else { return Ok(None) };
    let reason = fields.into_iter().find(|(name, _)| name == "reason").map_or_else(String::new, |(_, value)| value);
    Ok(Some((id.parse::<EntryId>().map_or(0, |id| id.millis), reason)))
}

/// Reads the markers of what the partition needs, and returns those that name another partition.
async fn conflicts(
    inspector: &mut Inspector,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<Vec<(Conflict, NeededBy)>, RedisError> {
    let (ours, mut conflicts) = (PartitionName::of(config), Vec::new());
    let needed = Claim::all(alerts, keys).into_iter().map(|claim| (claim, NeededBy::Everybody));
    for (claim, needed_by) in needed.chain([(Claim::shadows(alerts), NeededBy::Shadows)]) {
        // A marker that can't be read is reported when the host starts.
        let marker = inspector.ask::<Option<String>>(&claim.read()).await?.ok().flatten();
        let conflict = marker.and_then(|marker| claim.conflict(&marker, &ours));
        conflicts.extend(conflict.map(|conflict| (conflict, needed_by)));
    }
    Ok(conflicts)
}

/// Reads the epoch, and the number of entries lost to trimming.
async fn counters(inspector: &mut Inspector, keys: &Keys) -> Result<(u64, u64), RedisError> {
    let epoch = inspector.ask::<Option<u64>>(cmd("GET").arg(&keys.epoch)).await?.ok().flatten();
    let lost = inspector.ask::<Option<u64>>(cmd("HGET").arg(&keys.checkpoint).arg("lost")).await?.ok().flatten();
    Ok((epoch.unwrap_or(0), lost.unwrap_or(0)))
}

/// Inspects the stream and its group, waits, and inspects the stream again.
async fn inspect_stream(
    inspector: &mut Inspector,
    config: &StreamConfig,
    bytes: Option<u64>,
) -> Result<Answer<Option<StreamInspection>>, RedisError> {
    let key = &config.key;
    if let Ok(false) = inspector.ask::<bool>(cmd("EXISTS").arg(key)).await? {
        return Ok(Ok(None));
    }
    let first = match inspector.ask::<Value>(cmd("XINFO").arg("STREAM").arg(key)).await? {
        Ok(info) => info,
        Err(rejection) if rejection.contains("no such key") => return Ok(Ok(None)),
        Err(rejection) => return Ok(Err(rejection)),
    };
    let started = Instant::now();
    let mut inspection = StreamInspection { oldest: reply::oldest(&first), ..StreamInspection::default() };
    StreamCounts { length: inspection.length, added: inspection.added, newest: inspection.newest } = counts(&first);
    match inspect_group(inspector, config).await? {
        Ok(group) => inspection.group = group,
        Err(rejection) => inspection.group_error = Some(rejection),
    }
    let average = bytes.unwrap_or(0) / inspection.length.max(1);
    let count = SAMPLE_BYTES.checked_div(average).map_or(PAGE, |count| (count as usize).clamp(1, PAGE));
    let newest = inspector.ask::<Value>(cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(count)).await?;
    inspection.sample = newest.ok().and_then(|list| reply::entries_of(list).ok()).unwrap_or_default();
    tokio::time::sleep(BETWEEN.saturating_sub(started.elapsed())).await;
    let second = inspector.ask::<Value>(cmd("XINFO").arg("STREAM").arg(key)).await?;
    inspection.between = started.elapsed();
    inspection.later = second.map_or_else(|_| counts(&first), |info| counts(&info));
    let time = inspector.ask::<(u64, u64)>(&cmd("TIME")).await?;
    inspection.now_ms =
        time.map_or_else(|_| tickhound_core::wall::now_ms(), |(seconds, micros)| seconds * 1000 + micros / 1000);
    Ok(Ok(Some(inspection)))
}

/// Parses the counts in the reply to `XINFO STREAM`.
fn counts(info: &Value) -> StreamCounts {
    let number = |name| reply::field(info, name).and_then(reply::number);
    let newest = reply::field(info, "last-generated-id").and_then(reply::text).and_then(|id| id.parse().ok());
    StreamCounts {
        length: number("length").unwrap_or(0),
        added: number("entries-added"),
        newest: newest.unwrap_or_default(),
    }
}

async fn inspect_group(
    inspector: &mut Inspector,
    config: &StreamConfig,
) -> Result<Answer<Option<GroupInspection>>, RedisError> {
    let (key, name) = (&config.key, &config.group);
    let groups = match inspector.ask::<Value>(cmd("XINFO").arg("GROUPS").arg(key)).await? {
        Ok(groups) => groups,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let Some(last_delivered) = reply::last_delivered(&groups, name) else { return Ok(Ok(None)) };
    let consumers =
        inspector.ask::<Value>(cmd("XINFO").arg("CONSUMERS").arg(key).arg(name)).await?.unwrap_or(Value::Nil);
    let consumers = reply::consumers(&consumers)
        .map(|reply::Consumer { name, pending, idle_ms }| ConsumerInspection { name, pending, idle_ms })
        .collect();
    let mut list = cmd("XPENDING");
    list.arg(key).arg(name).arg("-").arg("+").arg(PAGE);
    let list = inspector.ask::<Vec<(String, String, u64, u64)>>(&list).await?.unwrap_or_default();
    let pending: Vec<PendingEntry> = list
        .into_iter()
        .filter_map(|(id, _, _, deliveries)| Some(PendingEntry { id: id.parse().ok()?, deliveries }))
        .collect();
    let mut oldest_unprocessed = pending.first().map(|entry| entry.id);
    if oldest_unprocessed.is_none() {
        let after = format!("({last_delivered}");
        let next = inspector.ask::<Value>(cmd("XRANGE").arg(key).arg(after).arg("+").arg("COUNT").arg(1)).await?;
        oldest_unprocessed = next.ok().and_then(|next| reply::first_id(&next));
    }
    Ok(Ok(Some(GroupInspection { last_delivered, consumers, oldest_unprocessed, pending })))
}

/// Searches for other streams, but not through all keys: a server may hold millions of them.
async fn other_streams(inspector: &mut Inspector) -> Result<Vec<String>, RedisError> {
    let (mut streams, mut cursor) = (Vec::new(), "0".to_owned());
    for _ in 0..SCANS {
        let scan = inspector
            .ask::<(String, Vec<String>)>(cmd("SCAN").arg(&cursor).arg("COUNT").arg(PAGE).arg("TYPE").arg("stream"))
            .await?;
        let Ok((next, page)) = scan else { break };
        streams.extend(page.into_iter().filter(|key| !key.starts_with("tickhound:")));
        cursor = next;
        if cursor == "0" || streams.len() >= STREAMS_SHOWN {
            break;
        }
    }
    streams.sort();
    streams.truncate(STREAMS_SHOWN);
    Ok(streams)
}
