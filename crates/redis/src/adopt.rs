//! The other consumers of the group: observes who is active, and adopts what dead ones left pending.
//!
//! A consumer that is named after its process leaves its entries pending under a name that never returns. Entries that
//! have been idle long enough are claimed for our own consumer, where recovery reads them in id order. What holds: a
//! consumer's name is removed once nothing is pending under it, and never before, because that would drop its entries.

use std::{collections::HashSet, time::Duration};

use redis::{RedisError, Script, Value, aio::MultiplexedConnection, cmd};
use tracing::{info, warn};

use crate::{
    connection::{client, connect, query},
    errors::{explain, unavailable},
    keys::Keys,
    partition_config::PartitionConfig,
    reply,
};
use tickhound_core::{
    config::StreamConfig,
    event::EntryId,
    stream::{Adoption, Consumers, StreamError},
};

/// Entries that one script claims: enough to be fast, and few enough not to block the server.
const CLAIM_PAGE: usize = 100;

/// Claims a page of entries. KEYS stream, epoch, checkpoint; ARGV epoch, group, our consumer, the dead consumer, least
/// idle time (ms), page. `XCLAIM` leaves out entries that were trimmed; they are counted here, in the same step. Returns
/// the number of pending entries (-1 when fenced), the ids of trimmed ones, and whether the consumer was removed.
const ADOPT: &str = r"
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return {-1, {}, 0} end
local page = redis.call('XPENDING', KEYS[1], ARGV[2], 'IDLE', ARGV[5], '-', '+', ARGV[6], ARGV[4])
local lost, removed = {}, 0
if #page > 0 then
  local claim = {'XCLAIM', KEYS[1], ARGV[2], ARGV[3], ARGV[5]}
  for _, entry in ipairs(page) do claim[#claim + 1] = entry[1] end
  claim[#claim + 1] = 'JUSTID'
  local claimed = {}
  for _, id in ipairs(redis.call(unpack(claim))) do claimed[id] = true end
  for _, entry in ipairs(page) do
    if not claimed[entry[1]] then lost[#lost + 1] = entry[1] end
  end
  if #lost > 0 then
    redis.call('HINCRBY', KEYS[3], 'entries', #lost)
    redis.call('HINCRBY', KEYS[3], 'lost', #lost)
  end
elseif #redis.call('XPENDING', KEYS[1], ARGV[2], '-', '+', 1, ARGV[4]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[2], ARGV[4])
  removed = 1
end
return {#page, lost, removed}";

/// Removes a consumer that is idle and holds no entries, in one step. KEYS stream; ARGV group, consumer, least idle time
/// (ms). Returns 1 if it was removed.
const REMOVE_IF_EMPTY: &str = r"
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for at = 1, #info, 2 do consumer[info[at]] = info[at + 1] end
  if consumer['name'] == ARGV[2] then
    if consumer['idle'] < tonumber(ARGV[3]) then return 0 end
    if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0";

/// Removes another consumer from the group, if nothing is pending under its name and it has been idle for
/// `stream.claim_idle_ms`; returns whether it was removed.
///
/// # Errors
/// When Redis cannot be reached, or rejects the request.
pub async fn remove_if_empty(config: &StreamConfig, consumer: &str) -> anyhow::Result<bool> {
    let client = client(config)?;
    let remove = async {
        let mut connection = connect(&client, Duration::from_millis(config.timeout_ms)).await?;
        let script = Script::new(REMOVE_IF_EMPTY);
        let mut call = script.key(&config.key);
        call.arg(&config.group).arg(consumer).arg(config.claim_idle_ms).invoke_async(&mut connection).await
    };
    remove.await.map_err(|error: RedisError| anyhow::anyhow!(explain(&error)))
}

/// What is known of the other consumers of the group.
#[derive(Default)]
pub(super) struct OtherConsumers {
    /// Whether no other consumer was active when they were last observed.
    pub(super) alone: bool,
    /// The active consumers that were reported in the log.
    reported: HashSet<String>,
}

/// The consumers of the group at one moment.
pub(super) struct Observation {
    /// Other consumers that have been idle for `stream.claim_idle_ms`.
    dead: Vec<reply::Consumer>,
    /// A summary of the other consumers, and our own.
    pub(super) consumers: Consumers,
}

impl OtherConsumers {
    /// Adopts the pending entries of all dead consumers.
    pub(super) async fn adopt(
        &mut self,
        connection: &mut MultiplexedConnection,
        config: &PartitionConfig,
        epoch: u64,
    ) -> Result<Adoption, StreamError> {
        let Observation { dead, consumers } = self.observe(connection, &config.stream).await?;
        let has_dead = !dead.is_empty();
        let mut adoption = Adoption { consumers, ..Adoption::default() };
        for consumer in dead {
            adopt_from(connection, config, epoch, &consumer.name, &mut adoption).await?;
        }
        if has_dead {
            adoption.consumers = self.observe(connection, &config.stream).await?.consumers;
        }
        Ok(adoption)
    }

    /// Observes the consumers of the group, and reports each active one once in the log.
    pub(super) async fn observe(
        &mut self,
        connection: &mut MultiplexedConnection,
        config: &StreamConfig,
    ) -> Result<Observation, StreamError> {
        let consumers: Value =
            query(connection, cmd("XINFO").arg("CONSUMERS").arg(&config.key).arg(&config.group)).await?;
        let (own, others): (Vec<_>, Vec<_>) =
            reply::consumers(&consumers).partition(|consumer| consumer.name == config.consumer);
        let (dead, active): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| other.idle_ms >= config.claim_idle_ms);
        self.alone = active.is_empty();
        for other in active {
            if other.pending > 0 && self.reported.insert(other.name.clone()) {
                warn!(
                    event = "foreign_consumer_active",
                    consumer = %other.name,
                    pending = other.pending,
                    idle_ms = other.idle_ms,
                    "another consumer is active in this group and takes some of the ticks; detectors do not see all of \
                     them"
                );
            }
        }
        let alone = self.alone && dead.iter().all(|dead| dead.pending == 0);
        let own_pending = own.first().map_or(0, |own| own.pending);
        Ok(Observation { dead, consumers: Consumers { alone, own_pending } })
    }
}

/// Claims the entries of one dead consumer, page by page, and adds them to `adoption`.
async fn adopt_from(
    connection: &mut MultiplexedConnection,
    config: &PartitionConfig,
    epoch: u64,
    consumer: &str,
    adoption: &mut Adoption,
) -> Result<(), StreamError> {
    let mut entries = 0;
    let removed = loop {
        let page = claim_page(connection, config, epoch, consumer).await?;
        entries += page.pending - page.lost.len();
        adoption.lost.extend(page.lost);
        if page.pending == 0 {
            break page.removed;
        }
    };
    adoption.entries += entries;
    if entries > 0 || removed {
        info!(
            event = "consumer_adopted",
            %consumer,
            entries,
            removed,
            "adopted the pending entries of a dead consumer"
        );
    }
    Ok(())
}

/// One page of a dead consumer's entries.
struct ClaimedPage {
    /// The number of pending entries, including lost ones.
    pending: usize,
    /// Entries that were trimmed from the stream.
    lost: Vec<EntryId>,
    /// Whether nothing was pending, so that the consumer was removed.
    removed: bool,
}

async fn claim_page(
    connection: &mut MultiplexedConnection,
    config: &PartitionConfig,
    epoch: u64,
    consumer: &str,
) -> Result<ClaimedPage, StreamError> {
    let PartitionConfig { stream: StreamConfig { key, group, consumer: ours, claim_idle_ms, .. }, keys, .. } = config;
    let Keys { epoch: epoch_key, checkpoint, .. } = keys;
    let script = Script::new(ADOPT);
    let mut call = script.key(key);
    call.key(epoch_key)
        .key(checkpoint)
        .arg(epoch)
        .arg(group)
        .arg(ours)
        .arg(consumer)
        .arg(claim_idle_ms)
        .arg(CLAIM_PAGE);
    let (pending, lost, removed): (i64, Vec<String>, bool) =
        call.invoke_async(connection).await.map_err(unavailable)?;
    let Ok(pending) = usize::try_from(pending) else { return Err(StreamError::Fenced) };
    Ok(ClaimedPage { pending, lost: lost.iter().filter_map(|id| id.parse().ok()).collect(), removed })
}
