//! The consumer group: where it begins, and where it stands.
//!
//! What holds: a group never hands out again what was processed. One that vanished is created at the last commit; one
//! that somebody set back is moved forward again; and where the stream itself was deleted and begins anew, the group
//! begins with it.

use std::time::Duration;

use redis::{RedisResult, Script, Value, aio::MultiplexedConnection, cmd};
use tracing::{info, warn};

use super::{
    RedisStream, connect, open, query,
    reply::{self, Checkpoint},
    unavailable,
};
use tickhound_core::{
    config::{Start, StreamConfig},
    event::EntryId,
    stream::StreamError,
};

/// KEYS stream, epoch; ARGV epoch, group, where the group was seen to stand, where it belongs. It is moved only from
/// where it was seen: in a group that moves, another consumer is given entries, which must not be handed out twice.
/// Returns -1 when fenced.
const MOVE_GROUP: &str = r"
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #info, 2 do group[info[at]] = info[at + 1] end
  if group['name'] == ARGV[2] and group['last-delivered-id'] == ARGV[3] then
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[2], ARGV[4])
    return 1
  end
end
return 0";

/// The group as an acquisition finds or makes it.
pub(super) struct Group {
    /// Where it begins, if it was created just now.
    pub(super) created: Option<Start>,
    /// The stream begins anew: no entry of it was ever processed.
    pub(super) began_anew: bool,
    /// The newest entry that it was given.
    pub(super) last_delivered: EntryId,
}

impl RedisStream {
    /// Creates the group if there is none, and moves it forward if it was set back.
    pub(super) async fn find_group(
        &self,
        connection: &mut MultiplexedConnection,
        checkpoint: &Checkpoint,
        epoch: u64,
    ) -> Result<Group, StreamError> {
        let began_anew = self.stream_began_anew(connection, checkpoint).await?;
        let created = self.create_group(connection, checkpoint, began_anew).await?;
        let mut last_delivered = self.last_delivered(connection).await?;
        // Before the first commit whoever made the group decides where it begins.
        let processed = checkpoint.last.filter(|_| !began_anew);
        if let Some(last) = processed {
            let least = self.newest_given(connection, last).await;
            if self.move_group(connection, epoch, last_delivered, least).await? {
                last_delivered = least;
            }
        }
        Ok(Group { created, began_anew, last_delivered })
    }

    /// Makes the group, if there is none, where a host would; says where it begins.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub async fn make_group(&self) -> Result<Option<Start>, StreamError> {
        let mut connection =
            connect(&self.client, Duration::from_millis(self.config.timeout_ms)).await.map_err(unavailable)?;
        let checkpoint = self.read_checkpoint(&mut connection).await?;
        let began_anew = self.stream_began_anew(&mut connection, &checkpoint).await?;
        self.create_group(&mut connection, &checkpoint, began_anew).await
    }

    /// Moves the group forward to what is committed, up to `committed`, or pending, if it stands before that.
    pub(super) async fn set_forward(&mut self, committed: EntryId) -> Result<(), StreamError> {
        let session = open(&mut self.session)?;
        let (epoch, mut connection) = (session.owner.epoch, session.asks.clone());
        let seen = self.last_delivered(&mut connection).await?;
        let least = self.newest_given(&mut connection, committed).await;
        self.move_group(&mut connection, epoch, seen, least).await.map(drop)
    }

    /// The newest entry that need not be handed out again: one that is committed, or is known to be pending. A server
    /// that does not tell what is pending leaves the last commit to go by.
    async fn newest_given(&self, connection: &mut MultiplexedConnection, committed: EntryId) -> EntryId {
        let pending: RedisResult<Value> =
            cmd("XPENDING").arg(&self.config.key).arg(&self.config.group).query_async(connection).await;
        let newest_pending = pending.ok().as_ref().and_then(reply::newest_pending);
        newest_pending.map_or(committed, |pending| pending.max(committed))
    }

    /// Whether the stream has given out no id as high as the newest that was processed: then it was deleted.
    async fn stream_began_anew(
        &self,
        connection: &mut MultiplexedConnection,
        checkpoint: &Checkpoint,
    ) -> Result<bool, StreamError> {
        let Some(processed) = checkpoint.last else { return Ok(false) };
        let exists: bool = query(connection, cmd("EXISTS").arg(&self.config.key)).await?;
        if !exists {
            return Ok(checkpoint.is_of_another_stream(EntryId::ZERO));
        }
        let stream: Value = query(connection, cmd("XINFO").arg("STREAM").arg(&self.config.key)).await?;
        let newest = reply::newest(&stream).unwrap_or(processed);
        let began_anew = checkpoint.is_of_another_stream(newest);
        if began_anew {
            warn!(
                event = "stream_recreated",
                stream = %self.config.key,
                %newest,
                %processed,
                "the stream was deleted and created again below the last processed entry; processing it from its start"
            );
        }
        Ok(began_anew)
    }

    /// Makes sure that there is a group; where it begins if it is new.
    async fn create_group(
        &self,
        connection: &mut MultiplexedConnection,
        checkpoint: &Checkpoint,
        began_anew: bool,
    ) -> Result<Option<Start>, StreamError> {
        // A group that vanished is created where its last commit was: earlier would repeat, later would
        // skip. If the server has lost everything, what it has now came after that.
        let known = checkpoint.last.filter(|_| !began_anew);
        let begin = match known {
            Some(last) => Start::After(last),
            None if self.owned_before || began_anew => Start::Earliest,
            None => self.config.start,
        };
        let start = match begin {
            Start::Earliest => "0".to_owned(),
            Start::Latest => "$".to_owned(),
            Start::After(id) => id.to_string(),
        };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.config.key).arg(&self.config.group).arg(&start).arg("MKSTREAM");
        let StreamConfig { key, group, .. } = &self.config;
        match create.query_async::<()>(connection).await {
            Ok(()) if known.is_some() => {
                warn!(
                    event = "group_recreated",
                    %group,
                    at = %start,
                    "the consumer group was missing; created it again at the last commit"
                );
            }
            Ok(()) if began_anew => {
                warn!(
                    event = "group_recreated",
                    %group,
                    at = %start,
                    "the stream had been deleted; created the consumer group again at its start"
                );
            }
            Ok(()) => info!(event = "group_created", %group, stream = %key, at = %start, "created the consumer group"),
            Err(error) if error.code() == Some("BUSYGROUP") => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        }
        Ok(Some(begin))
    }

    async fn last_delivered(&self, connection: &mut MultiplexedConnection) -> Result<EntryId, StreamError> {
        let groups: Value = query(connection, cmd("XINFO").arg("GROUPS").arg(&self.config.key)).await?;
        Ok(reply::last_delivered(&groups, &self.config.group).unwrap_or_default())
    }

    /// Moves the group from where it was seen to `to`, if that lies further on; whether it did.
    async fn move_group(
        &self,
        connection: &mut MultiplexedConnection,
        epoch: u64,
        seen: EntryId,
        to: EntryId,
    ) -> Result<bool, StreamError> {
        if seen >= to {
            return Ok(false);
        }
        let script = Script::new(MOVE_GROUP);
        let mut call = script.key(&self.config.key);
        call.key(&self.keys.epoch).arg(epoch).arg(&self.config.group).arg(seen.to_string()).arg(to.to_string());
        match call.invoke_async::<i64>(connection).await.map_err(unavailable)? {
            1 => {
                warn!(
                    event = "group_set_back",
                    group = %self.config.group,
                    from = %seen,
                    %to,
                    "the consumer group was set back to processed entries; moved it forward again. To process them \
                     once more, use another group."
                );
                Ok(true)
            }
            -1 => Err(StreamError::Fenced),
            _ => Ok(false),
        }
    }
}
