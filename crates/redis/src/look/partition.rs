//! What a doctor sees of a partition: its keys, the stream twice, the group, the newest entries and dead letters.

use std::time::{Duration, Instant};

use redis::{RedisError, Value, cmd};

use super::{
    super::{
        Keys,
        claims::{Claim, Conflict, Partition},
        key_types, reply,
    },
    Asked, Asking,
};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    event::{Entries, EntryId},
    stream::owner::Owner,
};

/// Between the two looks at the stream.
const BETWEEN: Duration = Duration::from_secs(1);

/// Newest entries that are read, and pending ones that are listed, at most.
const PAGE: usize = 100;

/// Entries that are read may be so large together, bytes.
const SAMPLE_BYTES: u64 = 4 << 20;

/// Names that are listed when the stream is not there, and steps through the keys that are made for it.
const STREAMS_SHOWN: usize = 5;
const SCANS: usize = 10;

/// Of a partition.
#[derive(Debug, Default)]
pub struct PartitionLook {
    /// Keys of the wrong type: the key, what it is to hold, what it holds.
    pub wrong_types: Vec<(String, &'static str, String)>,
    /// What another partition has of that which ours needs, and whether only shadows need it.
    pub conflicts: Vec<(Conflict, NeededBy)>,
    /// Why it can't be told what some keys hold.
    pub untold: Option<String>,
    /// Keys that the server will remove by itself, and in how many ms.
    pub expiring: Vec<(String, u64)>,
    /// Memory of each key, bytes; those that are not there, or of which the server does not tell, are left out.
    pub sizes: Vec<(String, u64)>,
    /// `None` if there is no such stream.
    pub stream: Option<StreamLook>,
    /// Why the stream can't be looked at.
    pub unseen: Option<String>,
    /// Some streams that there are, when ours is not.
    pub others: Vec<String>,
    pub owner: Option<OwnerLook>,
    /// Epoch, and entries that were lost to trimming so far; at both looks.
    pub epochs: (u64, u64),
    pub lost: (u64, u64),
    /// Whether something was committed once.
    pub committed: bool,
    /// The newest dead letter: when it was set aside (ms since the Unix epoch) and why.
    pub dead: Option<(u64, String)>,
}

/// Who needs what another partition has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededBy {
    Everybody,
    Shadows,
}

/// Of a stream.
#[derive(Debug, Default)]
pub struct StreamLook {
    pub length: u64,
    /// Entries ever added; servers before 7.0 don't tell.
    pub added: Option<u64>,
    pub oldest: Option<EntryId>,
    pub newest: EntryId,
    /// The same a while later, and how much later.
    pub later: (u64, Option<u64>, EntryId),
    pub between: Duration,
    /// The server's time at the second look, ms since the Unix epoch.
    pub now_ms: u64,
    /// The newest entries, newest first.
    pub sample: Entries,
    pub group: Option<GroupLook>,
    /// Why it can't be told whether there is a group.
    pub group_untold: Option<String>,
}

/// Of the consumer group.
#[derive(Clone, Debug, Default)]
pub struct GroupLook {
    pub last_delivered: EntryId,
    pub consumers: Vec<ConsumerLook>,
    /// The oldest entry that is not worked: pending, or else not delivered.
    pub oldest_undone: Option<EntryId>,
    /// The oldest pending entries.
    pub pending: Vec<PendingLook>,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerLook {
    pub name: String,
    pub pending: u64,
    pub idle_ms: u64,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Debug)]
pub struct PendingLook {
    pub id: EntryId,
    pub deliveries: u64,
}

/// Who holds the lease.
#[derive(Clone, Debug)]
pub struct OwnerLook {
    pub name: String,
    /// It ran on this machine, and does no more.
    pub gone: bool,
}

pub(super) async fn look(
    asking: &mut Asking,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<PartitionLook, RedisError> {
    let mut look = PartitionLook::default();
    for (key, expected) in key_types(config, alerts, keys) {
        let found = match asking.ask::<String>(cmd("TYPE").arg(key)).await? {
            Ok(found) => found,
            Err(refusal) => {
                look.untold.get_or_insert(refusal);
                continue;
            }
        };
        if found == "none" {
            continue;
        }
        if found != expected {
            look.wrong_types.push((key.to_owned(), expected, found));
            continue;
        }
        if let Ok(Some(bytes)) = asking.ask(cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(5)).await? {
            look.sizes.push((key.to_owned(), bytes));
        }
        // A lease is to run out.
        let expires = asking.ask::<i64>(cmd("PTTL").arg(key)).await?.unwrap_or(-1);
        if let (true, Ok(expires)) = (key != keys.lease, u64::try_from(expires)) {
            look.expiring.push((key.to_owned(), expires));
        }
    }
    look.conflicts = conflicts(asking, config, alerts, keys).await?;
    if let Ok(Some(owner)) = asking.ask::<Option<String>>(cmd("GET").arg(&keys.lease)).await? {
        let parsed = Owner::parse(&owner);
        let gone = parsed.as_ref().is_some_and(Owner::is_gone);
        look.owner = Some(OwnerLook { name: parsed.map_or(owner, |owner| owner.to_string()), gone });
    }
    look.committed = asking.ask(cmd("HEXISTS").arg(&keys.checkpoint).arg("last")).await?.unwrap_or(false);
    let mut newest = cmd("XREVRANGE");
    newest.arg(&keys.dead).arg("+").arg("-").arg("COUNT").arg(1);
    let letters = asking.ask::<Vec<(String, Vec<(String, String)>)>>(&newest).await?;
    if let Some((id, fields)) = letters.ok().and_then(|mut letters| letters.pop()) {
        let reason = fields.into_iter().find(|(name, _)| name == "reason").map_or_else(String::new, |(_, value)| value);
        look.dead = Some((id.parse::<EntryId>().map_or(0, |id| id.millis), reason));
    }
    let before = counters(asking, keys).await?;
    let size = look.sizes.iter().find(|(key, _)| *key == config.key).map(|(_, size)| *size);
    match look.wrong_types.iter().any(|(key, ..)| *key == config.key) {
        true => look.unseen = Some("the key holds something else".into()),
        false => match stream(asking, config, size).await? {
            Ok(stream) => look.stream = stream,
            Err(refusal) => look.unseen = Some(refusal),
        },
    }
    let after = counters(asking, keys).await?;
    (look.epochs, look.lost) = ((before.0, after.0), (before.1, after.1));
    if look.stream.is_none() && look.unseen.is_none() {
        look.others = other_streams(asking).await?;
    }
    Ok(look)
}

async fn conflicts(
    asking: &mut Asking,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<Vec<(Conflict, NeededBy)>, RedisError> {
    let (ours, mut conflicts) = (Partition::of(config), Vec::new());
    let needed = Claim::all(alerts, keys).into_iter().map(|claim| (claim, NeededBy::Everybody));
    for (claim, needed_by) in needed.chain([(Claim::shadows(alerts), NeededBy::Shadows)]) {
        // Who may not look at a marker is told so when the host starts.
        let marker = asking.ask::<Option<String>>(&claim.read()).await?.ok().flatten();
        let conflict = marker.and_then(|marker| claim.conflict(&marker, &ours));
        conflicts.extend(conflict.map(|conflict| (conflict, needed_by)));
    }
    Ok(conflicts)
}

async fn counters(asking: &mut Asking, keys: &Keys) -> Result<(u64, u64), RedisError> {
    let epoch = asking.ask::<Option<u64>>(cmd("GET").arg(&keys.epoch)).await?.ok().flatten();
    let lost = asking.ask::<Option<u64>>(cmd("HGET").arg(&keys.checkpoint).arg("lost")).await?.ok().flatten();
    Ok((epoch.unwrap_or(0), lost.unwrap_or(0)))
}

async fn stream(
    asking: &mut Asking,
    config: &StreamConfig,
    bytes: Option<u64>,
) -> Result<Asked<Option<StreamLook>>, RedisError> {
    let key = &config.key;
    if let Ok(false) = asking.ask::<bool>(cmd("EXISTS").arg(key)).await? {
        return Ok(Ok(None));
    }
    let first = match asking.ask::<Value>(cmd("XINFO").arg("STREAM").arg(key)).await? {
        Ok(info) => info,
        Err(refusal) if refusal.contains("no such key") => return Ok(Ok(None)),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let started = Instant::now();
    let mut look = StreamLook { oldest: reply::oldest(&first), ..StreamLook::default() };
    (look.length, look.added, look.newest) = extent(&first);
    match group(asking, config).await? {
        Ok(group) => look.group = group,
        Err(refusal) => look.group_untold = Some(refusal),
    }
    let average = bytes.unwrap_or(0) / look.length.max(1);
    let count = SAMPLE_BYTES.checked_div(average).map_or(PAGE, |count| (count as usize).clamp(1, PAGE));
    let newest = asking.ask::<Value>(cmd("XREVRANGE").arg(key).arg("+").arg("-").arg("COUNT").arg(count)).await?;
    look.sample = newest.ok().and_then(|list| reply::entries_of(list).ok()).unwrap_or_default();
    tokio::time::sleep(BETWEEN.saturating_sub(started.elapsed())).await;
    let second = asking.ask::<Value>(cmd("XINFO").arg("STREAM").arg(key)).await?;
    look.between = started.elapsed();
    look.later = second.map_or((look.length, look.added, look.newest), |info| extent(&info));
    let time = asking.ask::<(u64, u64)>(&cmd("TIME")).await?;
    look.now_ms =
        time.map_or_else(|_| tickhound_core::wall::now_ms(), |(seconds, micros)| seconds * 1000 + micros / 1000);
    Ok(Ok(Some(look)))
}

fn extent(info: &Value) -> (u64, Option<u64>, EntryId) {
    let number = |name| reply::field(info, name).and_then(reply::number);
    let newest = reply::field(info, "last-generated-id").and_then(reply::text).and_then(|id| id.parse().ok());
    (number("length").unwrap_or(0), number("entries-added"), newest.unwrap_or_default())
}

async fn group(asking: &mut Asking, config: &StreamConfig) -> Result<Asked<Option<GroupLook>>, RedisError> {
    let (key, name) = (&config.key, &config.group);
    let groups = match asking.ask::<Value>(cmd("XINFO").arg("GROUPS").arg(key)).await? {
        Ok(groups) => groups,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Some(last_delivered) = reply::last_delivered(&groups, name) else { return Ok(Ok(None)) };
    let consumers = asking.ask::<Value>(cmd("XINFO").arg("CONSUMERS").arg(key).arg(name)).await?.unwrap_or(Value::Nil);
    let consumers = reply::consumers(&consumers)
        .map(|reply::Consumer { name, pending, idle_ms }| ConsumerLook { name, pending, idle_ms })
        .collect();
    let mut list = cmd("XPENDING");
    list.arg(key).arg(name).arg("-").arg("+").arg(PAGE);
    let list = asking.ask::<Vec<(String, String, u64, u64)>>(&list).await?.unwrap_or_default();
    let pending: Vec<PendingLook> = list
        .into_iter()
        .filter_map(|(id, _, _, deliveries)| Some(PendingLook { id: id.parse().ok()?, deliveries }))
        .collect();
    let mut oldest_undone = pending.first().map(|entry| entry.id);
    if oldest_undone.is_none() {
        let after = format!("({last_delivered}");
        let next = asking.ask::<Value>(cmd("XRANGE").arg(key).arg(after).arg("+").arg("COUNT").arg(1)).await?;
        oldest_undone = next.ok().and_then(|next| reply::first_id(&next));
    }
    Ok(Ok(Some(GroupLook { last_delivered, consumers, oldest_undone, pending })))
}

/// Not all of them: a server may hold millions of keys.
async fn other_streams(asking: &mut Asking) -> Result<Vec<String>, RedisError> {
    let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
    for _ in 0..SCANS {
        let scan = asking
            .ask::<(String, Vec<String>)>(cmd("SCAN").arg(&cursor).arg("COUNT").arg(PAGE).arg("TYPE").arg("stream"))
            .await?;
        let Ok((next, page)) = scan else { break };
        found.extend(page.into_iter().filter(|key| !key.starts_with("tickhound:")));
        cursor = next;
        if cursor == "0" || found.len() >= STREAMS_SHOWN {
            break;
        }
    }
    found.sort();
    found.truncate(STREAMS_SHOWN);
    Ok(found)
}
