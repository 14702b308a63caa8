//! The state of a partition as an observer sees it. Changes nothing.

use std::time::Duration;

use redis::{
    AsyncCommands, Client, RedisResult, Value,
    aio::MultiplexedConnection,
    cmd, pipe,
    streams::{
        StreamInfoConsumer, StreamInfoConsumersReply, StreamInfoGroupsReply, StreamInfoStreamReply,
        StreamPendingCountReply, StreamPendingReply,
    },
};

use crate::{
    checkpoint::Checkpoint,
    connection::{client, connect},
    errors::explain,
    keys::Keys,
    reply,
    state::last_visit,
};
use tickhound_core::{
    checkpoint::{Boundary, CHUNKS, LastVisit},
    config::{AlertsConfig, StreamConfig},
    event::EntryId,
    receipt::Receipt,
    stream::{Totals, owner::Owner},
};

/// What the server knows of a partition.
#[derive(Debug, Default, serde::Serialize)]
pub struct Survey {
    /// The number of entries in the stream.
    pub length: u64,
    /// Whether the consumer group exists.
    pub group_exists: bool,
    /// The number of entries that are delivered to any consumer and not acknowledged.
    pub pending: u64,
    /// The number of entries that are not delivered, by the server's own count, which trimming and deleting make wrong.
    pub lag: Option<u64>,
    /// The number of entries ever added to the stream; servers before 7.0 don't report it.
    pub added: Option<u64>,
    /// The number of entries that are not processed, pending ones included. It is counted by position in the stream where
    /// that is known, so that trimming does not make it wrong.
    pub waiting: Option<u64>,
    /// The consumers of the group.
    pub consumers: Vec<ConsumerStatus>,
    /// The host that holds the lease.
    pub owner: Option<String>,
    /// The epoch: the number of times that the lease was acquired or released.
    pub epoch: u64,
    /// The time since the last commit, ms.
    pub committed_ms_ago: Option<u64>,
    /// The time for which entries have waited without a commit, ms; `None` if no entry waits. Entries that other consumers
    /// hold are not counted.
    pub waiting_ms: Option<u64>,
    /// The age of the oldest entry that is not acknowledged, ms; 0 if its id is not a time, `None` if there is no such
    /// entry.
    pub behind_ms: Option<u64>,
    /// Whether the stream was deleted and filled again with ids below those that were processed. A host has to acquire the
    /// partition again before these are processed.
    pub began_anew: bool,
    /// The oldest entry that is pending under our name though later ones were processed: a recovery is running, or another
    /// program reads under our name.
    pub left_behind: Option<String>,
    /// The totals as of the last commit.
    pub totals: Totals,
    /// The saved states of detectors; `None` before the first visit.
    pub state: Option<SavedState>,
    /// The receipt that the owner wrote last.
    pub receipt: Option<Receipt>,
    /// The key of the alerts stream.
    pub alerts_key: String,
    /// The number of entries in the alerts stream.
    pub alerts_length: u64,
    /// The key of the stream of dead letters.
    pub dead_key: String,
    /// The number of dead letters.
    pub dead_length: u64,
}

/// A consumer of the group; serialized as an array of name, pending entries and idle time.
#[derive(Clone, Debug, Default)]
pub struct ConsumerStatus {
    /// The name of the consumer.
    pub name: String,
    /// Entries delivered to the consumer and not acknowledged.
    pub pending: u64,
    /// The time since the consumer last read, ms.
    pub idle_ms: u64,
}

impl serde::Serialize for ConsumerStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.name, self.pending, self.idle_ms).serialize(serializer)
    }
}

/// The size and age of a partition's saved states.
#[derive(Debug, serde::Serialize)]
pub struct SavedState {
    /// The number of symbols that have a saved state.
    pub symbols: u64,
    /// The memory that the states take in the server; `None` if the server does not report it.
    pub bytes: Option<u64>,
    /// The time since the oldest chunk was saved, ms.
    pub age_ms: u64,
    /// The number of entries that a host would replay if it started now.
    pub behind: u64,
}

/// Surveys a partition once.
///
/// # Errors
/// When Redis cannot be reached, or rejects a request.
pub async fn survey(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Survey> {
    Surveyor::new(config, alerts)?.survey().await
}

/// Surveys a partition repeatedly, over one connection while that works.
pub struct Surveyor {
    client: Client,
    config: StreamConfig,
    alerts: AlertsConfig,
    connection: Option<MultiplexedConnection>,
}

impl Surveyor {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Self> {
        let client = client(config)?;
        Ok(Self { client, config: config.clone(), alerts: alerts.clone(), connection: None })
    }

    /// Surveys the partition.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects a request.
    pub async fn survey(&mut self) -> anyhow::Result<Survey> {
        if let Some(mut connection) = self.connection.take() {
            match read_survey(&mut connection, &self.config, &self.alerts).await {
                Ok(survey) => {
                    self.connection = Some(connection);
                    return Ok(survey);
                }
                // A server that hangs would hang again, but a server that was restarted can be reached.
                Err(error) if error.is_timeout() => return Err(anyhow::anyhow!(explain(&error))),
                Err(_) => {}
            }
        }
        let first = async {
            let mut connection = connect(&self.client, Duration::from_millis(self.config.timeout_ms)).await?;
            let survey = read_survey(&mut connection, &self.config, &self.alerts).await?;
            RedisResult::Ok((connection, survey))
        };
        let (connection, survey) = first.await.map_err(|error| anyhow::anyhow!(explain(&error)))?;
        self.connection = Some(connection);
        Ok(survey)
    }
}

/// What the requests that depend on nothing else have returned.
struct FirstReplies {
    /// The server's clock, ms since the Unix epoch.
    now_ms: u64,
    checkpoint: Checkpoint,
    stream_exists: bool,
}

/// Runs the requests of a survey on one connection.
async fn read_survey(
    connection: &mut MultiplexedConnection,
    config: &StreamConfig,
    alerts: &AlertsConfig,
) -> RedisResult<Survey> {
    let keys = Keys::new(&config.key, &config.group);
    let (mut survey, first) = read_keys(connection, config, alerts, &keys).await?;
    survey.state = saved_state(connection, &keys.state, &first.checkpoint, first.now_ms).await?;
    if first.stream_exists {
        read_group(connection, config, &first, &mut survey).await?;
    }
    Ok(survey)
}

/// Reads the keys beside the stream. The server may be far away, so this is one round trip.
async fn read_keys(
    connection: &mut MultiplexedConnection,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> RedisResult<(Survey, FirstReplies)> {
    let mut requests = pipe();
    requests.cmd("TIME").hgetall(&keys.checkpoint).get(&keys.lease).get(&keys.host).get(&keys.epoch);
    requests.xlen(&config.key).xlen(&alerts.stream).xlen(&keys.dead).exists(&config.key);
    type Replies = ((u64, u64), Checkpoint, Option<String>, Option<String>, Option<u64>, u64, u64, u64, bool);
    let replies: Replies = requests.query_async(connection).await?;
    let ((seconds, micros), checkpoint, owner, receipt, epoch, length, alerts_length, dead_length, stream_exists) =
        replies;
    let now_ms = seconds * 1000 + micros / 1000;
    let survey = Survey {
        receipt: receipt.and_then(|text| serde_json::from_str(&text).ok()),
        length,
        owner: owner.map(|text| Owner::parse(&text).map_or(text, |owner| owner.to_string())),
        epoch: epoch.unwrap_or(0),
        committed_ms_ago: (checkpoint.at_ms > 0).then(|| now_ms.saturating_sub(checkpoint.at_ms)),
        totals: checkpoint.totals,
        alerts_length,
        alerts_key: alerts.stream.clone(),
        dead_length,
        dead_key: keys.dead.clone(),
        ..Survey::default()
    };
    Ok((survey, FirstReplies { now_ms, checkpoint, stream_exists }))
}

/// Reads the stream and its group, and derives what waits to be processed.
async fn read_group(
    connection: &mut MultiplexedConnection,
    config: &StreamConfig,
    first: &FirstReplies,
    survey: &mut Survey,
) -> RedisResult<()> {
    let FirstReplies { now_ms, checkpoint, .. } = first;
    let info: Value = cmd("XINFO").arg("STREAM").arg(&config.key).query_async(connection).await?;
    survey.added = reply::extent(&info, true).map(|extent| extent.added);
    let stream: StreamInfoStreamReply = redis::from_redis_value(info)?;
    let groups: StreamInfoGroupsReply = connection.xinfo_groups(&config.key).await?;
    let Some(group) = groups.groups.iter().find(|group| group.name == config.group) else { return Ok(()) };
    survey.group_exists = true;
    survey.pending = group.pending as u64;
    survey.lag = group.lag.map(|lag| lag as u64);
    let consumers: StreamInfoConsumersReply = connection.xinfo_consumers(&config.key, &config.group).await?;
    let status =
        |c: StreamInfoConsumer| ConsumerStatus { name: c.name, pending: c.pending as u64, idle_ms: c.idle as u64 };
    survey.consumers = consumers.consumers.into_iter().map(status).collect();
    let newest: EntryId = stream.last_generated_id.parse().unwrap_or_default();
    survey.began_anew = survey.length > 0 && checkpoint.is_of_another_stream(newest);
    let mut delivered: EntryId = group.last_delivered_id.parse().unwrap_or_default();
    if survey.began_anew && delivered >= newest {
        delivered = EntryId::ZERO;
    }
    let oldest_pending: Option<EntryId> = match connection.xpending(&config.key, &config.group).await? {
        StreamPendingReply::Data(pending) => pending.start_id.parse().ok(),
        _ => None,
    };
    // Entries that other consumers hold are not ours to process until these have been idle for long.
    let mut oldest_ours = oldest_pending;
    if survey.consumers.iter().any(|consumer| consumer.name != config.consumer && consumer.pending > 0) {
        let own: StreamPendingCountReply =
            connection.xpending_consumer_count(&config.key, &config.group, "-", "+", 1, &config.consumer).await?;
        oldest_ours = own.ids.first().and_then(|entry| entry.id.parse().ok());
    }
    survey.left_behind = oldest_ours.filter(|ours| Some(*ours) <= checkpoint.last).map(|ours| ours.to_string());
    if oldest_ours.is_none() && newest > delivered {
        let after = format!("({delivered}");
        let next: Value =
            cmd("XRANGE").arg(&config.key).arg(after).arg("+").arg("COUNT").arg(1).query_async(connection).await?;
        oldest_ours = reply::first_id(&next);
    }
    survey.waiting = match (survey.added, checkpoint.index) {
        (Some(added), Some(processed)) => Some(added.saturating_sub(processed).min(survey.length).max(survey.pending)),
        _ => survey.lag.map(|lag| lag + survey.pending),
    };
    survey.behind_ms = oldest_pending.or(oldest_ours).map(|oldest| match oldest.millis {
        EntryId::TIMES_FROM_MS.. => now_ms.saturating_sub(oldest.millis),
        _ => 0,
    });
    // An entry has waited since it arrived, or since the last commit, which shows that the host processes entries.
    survey.waiting_ms = oldest_ours.map(|ours| now_ms.saturating_sub(ours.millis.max(checkpoint.at_ms)));
    Ok(())
}

/// Reads how many symbols are saved and how old that is; `None` before the first visit.
async fn saved_state(
    connection: &mut MultiplexedConnection,
    key: &str,
    checkpoint: &Checkpoint,
    now_ms: u64,
) -> RedisResult<Option<SavedState>> {
    let mut read = cmd("HMGET");
    read.arg(key);
    for chunk in 0..CHUNKS {
        read.arg(format!("c:{chunk}"));
    }
    let boundaries: Vec<Option<Vec<u8>>> = read.query_async(connection).await?;
    let boundary = |(chunk, value): (u16, Option<Vec<u8>>)| match last_visit(&format!("c:{chunk}"), &value?).0 {
        LastVisit::At(boundary) => Some(boundary),
        LastVisit::Never | LastVisit::Damaged => None,
    };
    let boundaries: Vec<Boundary> = (0..CHUNKS).zip(boundaries).filter_map(boundary).collect();
    let Some(oldest) = boundaries.iter().min_by_key(|boundary| boundary.processed) else { return Ok(None) };
    let fields: u64 = connection.hlen(key).await?;
    let bytes = cmd("MEMORY").arg("USAGE").arg(key).query_async(connection).await.unwrap_or(None);
    let processed = checkpoint.totals.entries.saturating_sub(checkpoint.totals.lost);
    Ok(Some(SavedState {
        symbols: fields.saturating_sub(boundaries.len() as u64),
        bytes,
        age_ms: now_ms.saturating_sub(boundaries.iter().map(|boundary| boundary.at_ms).min().unwrap_or(now_ms)),
        behind: processed.saturating_sub(oldest.processed),
    }))
}
