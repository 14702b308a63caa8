//! Takes over what other consumers of the group left behind.
//!
//! A scanner that names itself after its process leaves its entries pending
//! under a name that never comes back. Entries that have been idle long enough
//! are claimed for our own name, where recovery finds them, in id order. The
//! name is removed once nothing is pending under it; never before, since that
//! would drop its entries silently.

use std::time::Duration;

use redis::{RedisError, Script, Value, aio::MultiplexedConnection, cmd};
use tracing::{info, warn};

use super::{RedisStream, client, connect, explain, open, query, reply, unavailable};
use tickhound_core::{
    config::StreamConfig,
    event::EntryId,
    stream::{Adoption, Consumers, StreamError},
};

/// Entries claimed in one script: long enough to be quick, short enough to block nobody.
const CLAIM_PAGE: usize = 100;

/// KEYS stream, epoch, checkpoint; ARGV epoch, group, our consumer, the other one, least idle time
/// (ms), page. Entries whose body was trimmed away drop out of the claim; they are counted here, in
/// the same step. Returns how many were found, the ids that were lost, and whether the name was removed.
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

/// KEYS stream; ARGV group, consumer, least idle time (ms). Looks and removes in one step: 1 = removed, 0 = it
/// holds entries, was at work of late, or is not there.
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

/// Removes another consumer's name from the group, if nothing is pending under it and it has been idle as long
/// as dead ones are; whether it did.
///
/// # Errors
/// A sentence on why the server can't be asked.
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

/// What the consumers of the group hold.
pub(super) struct Others {
    /// Those beside our own that have been idle for long.
    pub(super) dead: Vec<reply::Consumer>,
    /// The same in brief, and our own.
    pub(super) consumers: Consumers,
}

impl RedisStream {
    pub(super) async fn adopt_all(&mut self) -> Result<Adoption, StreamError> {
        let Others { dead, consumers } = self.see_others().await?;
        let left = !dead.is_empty();
        let session = open(&mut self.session)?;
        let (config, keys, epoch) = (&self.config, &self.keys, session.owner.epoch);
        let connection = &mut session.asks;
        let mut adopted = Adoption { consumers, ..Adoption::default() };
        for other in dead {
            let mut entries = 0;
            let removed = loop {
                let (found, lost, removed) = claim_page(connection, |script| {
                    script.key(&config.key).key(&keys.epoch).key(&keys.checkpoint).arg(epoch).arg(&config.group);
                    script.arg(&config.consumer).arg(&other.name).arg(config.claim_idle_ms).arg(CLAIM_PAGE);
                })
                .await
                .map_err(unavailable)?;
                let Ok(found) = usize::try_from(found) else { return Err(StreamError::Fenced) };
                entries += found - lost.len();
                adopted.lost.extend(lost.iter().filter_map(|id| id.parse::<EntryId>().ok()));
                if found == 0 {
                    break removed;
                }
            };
            adopted.entries += entries;
            if entries > 0 || removed {
                info!(
                    event = "consumer_adopted",
                    consumer = %other.name,
                    entries,
                    removed,
                    "adopted the pending entries of a dead consumer"
                );
            }
        }
        if left {
            adopted.consumers = self.see_others().await?.consumers;
        }
        Ok(adopted)
    }

    /// Looks whether other consumers of the group are at work, and tells of each once.
    pub(super) async fn see_others(&mut self) -> Result<Others, StreamError> {
        let connection = &mut open(&mut self.session)?.asks;
        let config = &self.config;
        let consumers: Value =
            query(connection, cmd("XINFO").arg("CONSUMERS").arg(&config.key).arg(&config.group)).await?;
        let (own, others): (Vec<_>, Vec<_>) =
            reply::consumers(&consumers).partition(|consumer| consumer.name == config.consumer);
        let (dead, at_work): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|other| other.idle_ms >= config.claim_idle_ms);
        self.alone = at_work.is_empty();
        for other in at_work {
            if other.pending > 0 && self.left_alone.insert(other.name.clone()) {
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
        Ok(Others { dead, consumers: Consumers { alone, own_pending: own.first().map_or(0, |own| own.pending) } })
    }
}

async fn claim_page(
    connection: &mut MultiplexedConnection,
    fill: impl FnOnce(&mut redis::ScriptInvocation<'_>),
) -> Result<(i64, Vec<String>, bool), RedisError> {
    let script = Script::new(ADOPT);
    let mut call = script.prepare_invoke();
    fill(&mut call);
    call.invoke_async(connection).await
}
