//! The consumer group: creates it, and moves it forward if it was set back.
//!
//! What holds: a group does not deliver processed entries again. A group that vanished is created at the last commit. A
//! group that was set back is moved forward again. If the stream was deleted and created again, the group begins at its
//! start.

use redis::{RedisResult, Script, Value, aio::MultiplexedConnection, cmd};
use tracing::{info, warn};

use crate::{checkpoint::Checkpoint, connection::query, errors::unavailable, partition_config::PartitionConfig, reply};
use tickhound_core::{config::Start, event::EntryId, stream::StreamError};

/// Moves the group. KEYS stream, epoch; ARGV epoch, group, observed position, new position. It moves the group only from
/// the observed position: if the group has moved since, another consumer was given entries, which must not be delivered
/// twice. Returns -1 when fenced.
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

/// The state of the group after an acquisition.
pub(super) struct GroupState {
    /// The start of the group, if it was created just now.
    pub(super) created: Option<Start>,
    /// Whether the stream was deleted and created again, so that no entry of it is processed.
    pub(super) began_anew: bool,
    /// The newest entry that the group has delivered.
    pub(super) last_delivered: EntryId,
}

/// The consumer group of a partition, on a connection.
pub(super) struct ConsumerGroup<'a> {
    connection: &'a mut MultiplexedConnection,
    config: &'a PartitionConfig,
}

impl<'a> ConsumerGroup<'a> {
    pub(super) fn new(connection: &'a mut MultiplexedConnection, config: &'a PartitionConfig) -> Self {
        Self { connection, config }
    }

    /// Creates the group if it does not exist, and moves it forward if it was set back. `owned_before`: this process has
    /// owned the partition before.
    pub(super) async fn prepare(
        &mut self,
        checkpoint: &Checkpoint,
        epoch: u64,
        owned_before: bool,
    ) -> Result<GroupState, StreamError> {
        let began_anew = self.stream_began_anew(checkpoint).await?;
        let created = self.create(self.start(checkpoint, began_anew, owned_before)).await?;
        let mut last_delivered = self.last_delivered().await?;
        // Before the first commit the position is the choice of whoever created the group.
        let processed = checkpoint.last.filter(|_| !began_anew);
        if let Some(last) = processed {
            let least = self.newest_delivered(last).await;
            if self.move_forward(epoch, last_delivered, least).await? {
                last_delivered = least;
            }
        }
        Ok(GroupState { created: created.map(|start| start.at), began_anew, last_delivered })
    }

    /// Creates the group where a host would, if it does not exist; returns its start if it was created.
    pub(super) async fn ensure_exists(
        &mut self,
        checkpoint: &Checkpoint,
        owned_before: bool,
    ) -> Result<Option<Start>, StreamError> {
        let began_anew = self.stream_began_anew(checkpoint).await?;
        let created = self.create(self.start(checkpoint, began_anew, owned_before)).await?;
        Ok(created.map(|start| start.at))
    }

    /// Moves the group forward to the newest entry that is pending or committed, which is at least `committed`, unless
    /// it is there already.
    pub(super) async fn restore_position(&mut self, committed: EntryId, epoch: u64) -> Result<(), StreamError> {
        let observed = self.last_delivered().await?;
        let least = self.newest_delivered(committed).await;
        self.move_forward(epoch, observed, least).await.map(drop)
    }

    /// The newest entry that must not be delivered again: one that is committed, or pending. If the server does not
    /// report what is pending, the last commit decides.
    async fn newest_delivered(&mut self, committed: EntryId) -> EntryId {
        let stream = &self.config.stream;
        let pending: RedisResult<Value> =
            cmd("XPENDING").arg(&stream.key).arg(&stream.group).query_async(self.connection).await;
        let newest_pending = pending.ok().as_ref().and_then(reply::newest_pending);
        newest_pending.map_or(committed, |pending| pending.max(committed))
    }

    /// Whether the stream was deleted and created again: then its newest id is below the newest processed one.
    async fn stream_began_anew(&mut self, checkpoint: &Checkpoint) -> Result<bool, StreamError> {
        let key = &self.config.stream.key;
        let Some(processed) = checkpoint.last else { return Ok(false) };
        let exists: bool = query(self.connection, cmd("EXISTS").arg(key)).await?;
        if !exists {
            return Ok(checkpoint.is_of_another_stream(EntryId::ZERO));
        }
        let stream: Value = query(self.connection, cmd("XINFO").arg("STREAM").arg(key)).await?;
        let newest = reply::newest(&stream).unwrap_or(processed);
        let began_anew = checkpoint.is_of_another_stream(newest);
        if began_anew {
            warn!(
                event = "stream_recreated",
                stream = %key,
                %newest,
                %processed,
                "the stream was deleted and created again below the last processed entry; processing it from its start"
            );
        }
        Ok(began_anew)
    }

    /// Where to create the group, and why there. At a place before the last commit it would deliver entries again, and at
    /// a later place it would skip some. If the server has lost everything, what it holds now was added after that.
    fn start(&self, checkpoint: &Checkpoint, began_anew: bool, owned_before: bool) -> GroupStart {
        let (at, reason) = match checkpoint.last {
            Some(last) if !began_anew => (Start::After(last), StartReason::LastCommit),
            _ if began_anew => (Start::Earliest, StartReason::NewStream),
            _ if owned_before => (Start::Earliest, StartReason::NewGroup),
            _ => (self.config.stream.start, StartReason::NewGroup),
        };
        GroupStart { at, reason }
    }

    /// Creates the group, if it does not exist; returns the start if it was created.
    async fn create(&mut self, start: GroupStart) -> Result<Option<GroupStart>, StreamError> {
        let (key, group) = (&self.config.stream.key, &self.config.stream.group);
        let at = match start.at {
            Start::Earliest => "0".to_owned(),
            Start::Latest => "$".to_owned(),
            Start::After(id) => id.to_string(),
        };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(key).arg(group).arg(&at).arg("MKSTREAM");
        match create.query_async::<()>(self.connection).await {
            Ok(()) => {}
            Err(error) if error.code() == Some("BUSYGROUP") => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        }
        match start.reason {
            StartReason::LastCommit => warn!(
                event = "group_recreated",
                %group,
                %at,
                "the consumer group was missing; created it again at the last commit"
            ),
            StartReason::NewStream => warn!(
                event = "group_recreated",
                %group,
                %at,
                "the stream had been deleted; created the consumer group again at its start"
            ),
            StartReason::NewGroup => {
                info!(event = "group_created", %group, stream = %key, %at, "created the consumer group");
            }
        }
        Ok(Some(start))
    }

    async fn last_delivered(&mut self) -> Result<EntryId, StreamError> {
        let stream = &self.config.stream;
        let groups: Value = query(self.connection, cmd("XINFO").arg("GROUPS").arg(&stream.key)).await?;
        Ok(reply::last_delivered(&groups, &stream.group).unwrap_or_default())
    }

    /// Moves the group from its observed position to `to`, if that is further on; returns whether it was moved.
    async fn move_forward(&mut self, epoch: u64, observed: EntryId, to: EntryId) -> Result<bool, StreamError> {
        if observed >= to {
            return Ok(false);
        }
        let PartitionConfig { stream, keys, .. } = self.config;
        let script = Script::new(MOVE_GROUP);
        let mut call = script.key(&stream.key);
        call.key(&keys.epoch).arg(epoch).arg(&stream.group).arg(observed.to_string()).arg(to.to_string());
        match call.invoke_async::<i64>(self.connection).await.map_err(unavailable)? {
            1 => {
                warn!(
                    event = "group_set_back",
                    group = %stream.group,
                    from = %observed,
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

/// Where a new group begins.
#[derive(Clone, Copy)]
struct GroupStart {
    at: Start,
    reason: StartReason,
}

/// Why a new group begins where it does.
#[derive(Clone, Copy)]
enum StartReason {
    /// The group of a known partition was missing.
    LastCommit,
    /// The stream was deleted and created again.
    NewStream,
    /// No commit is known.
    NewGroup,
}
