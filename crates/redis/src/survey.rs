//! The state of a partition as an onlooker sees it; changes nothing.

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

use super::{
    Keys, client, connect, explain,
    reply::{self, Checkpoint},
    state::last_visit,
};
use tickhound_core::{
    checkpoint::{Boundary, CHUNKS, LastVisit},
    config::{AlertsConfig, StreamConfig},
    event::EntryId,
    receipt::Receipt,
    stream::{Totals, owner::Owner},
};

/// An id below this (2001) was given by somebody who counts, and tells no age.
const FIRST_TIME_MS: u64 = 1_000_000_000_000;

/// What the server knows of a partition.
#[derive(Debug, Default, serde::Serialize)]
pub struct Survey {
    /// Entries in the stream.
    pub length: u64,
    /// Whether the consumer group exists.
    pub group_exists: bool,
    /// Entries delivered and not acknowledged, of all consumers.
    pub pending: u64,
    /// Entries not delivered, by the server's own count, which trimming and deleting make wrong.
    pub lag: Option<u64>,
    /// Entries ever added to the stream; servers before 7.0 don't tell.
    pub added: Option<u64>,
    /// Entries that are not worked yet, pending ones included: by place in the stream where that is known,
    /// which trimming does not make wrong.
    pub waiting: Option<u64>,
    /// Every consumer of the group.
    pub consumers: Vec<ConsumerStatus>,
    /// Who holds the lease.
    pub owner: Option<String>,
    /// How often ownership has changed.
    pub epoch: u64,
    /// Time since the last commit, ms.
    pub committed_ms_ago: Option<u64>,
    /// How long work has waited without a commit, ms; `None` when there is none to do. What other consumers hold is
    /// not counted.
    pub waiting_ms: Option<u64>,
    /// Age of the oldest entry that is not acknowledged, ms; 0 if its id is no time, `None` when there is no such entry.
    pub behind_ms: Option<u64>,
    /// Whether the stream was deleted and filled again with ids below those that were processed: nothing in it is
    /// processed until a host takes it up.
    pub began_anew: bool,
    /// The oldest entry that is pending under our name though later ones were processed: a recovery that is under way,
    /// or somebody else who reads under our name.
    pub left_behind: Option<String>,
    /// Totals as of the last commit.
    pub totals: Totals,
    /// What detectors know, as it is saved; `None` before the first time.
    pub state: Option<SavedState>,
    /// What the host says of itself.
    pub receipt: Option<Receipt>,
    /// Key of the alerts stream.
    pub alerts_key: String,
    /// Entries in the alerts stream.
    pub alerts_length: u64,
    /// Key of the dead-letter stream.
    pub dead_key: String,
    /// Dead letters kept.
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

/// The saved state of a partition.
#[derive(Debug, serde::Serialize)]
pub struct SavedState {
    /// Symbols that it has.
    pub symbols: u64,
    /// Memory that it takes in the server; `None` if the server does not tell.
    pub bytes: Option<u64>,
    /// Time since the oldest part of it was saved, ms.
    pub age_ms: u64,
    /// Entries that a host would re-read if it had to start now.
    pub behind: u64,
}

/// Looks at a partition.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub async fn survey(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Survey> {
    Surveyor::new(config, alerts)?.look().await
}

/// Looks at a partition again and again, over one connection for as long as that holds.
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
    /// When the URL is none that can be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Self> {
        let client = client(config)?;
        Ok(Self { client, config: config.clone(), alerts: alerts.clone(), connection: None })
    }

    /// Looks now.
    ///
    /// # Errors
    /// A sentence on why the server can't be asked.
    pub async fn look(&mut self) -> anyhow::Result<Survey> {
        if let Some(mut connection) = self.connection.take() {
            match look(&mut connection, &self.config, &self.alerts).await {
                Ok(survey) => {
                    self.connection = Some(connection);
                    return Ok(survey);
                }
                // A server that hangs would keep us waiting once more; one that was restarted is there again.
                Err(error) if error.is_timeout() => return Err(anyhow::anyhow!(explain(&error))),
                Err(_) => {}
            }
        }
        let first = async {
            let mut connection = connect(&self.client, Duration::from_millis(self.config.timeout_ms)).await?;
            let survey = look(&mut connection, &self.config, &self.alerts).await?;
            RedisResult::Ok((connection, survey))
        };
        let (connection, survey) = first.await.map_err(|error| anyhow::anyhow!(explain(&error)))?;
        self.connection = Some(connection);
        Ok(survey)
    }
}

async fn look(
    connection: &mut MultiplexedConnection,
    config: &StreamConfig,
    alerts: &AlertsConfig,
) -> RedisResult<Survey> {
    let keys = Keys::new(&config.key, &config.group);
    // The server may be far away: what does not depend on each other is asked in one go.
    let mut asked = pipe();
    asked.cmd("TIME").hgetall(&keys.checkpoint).get(&keys.lease).get(&keys.host).get(&keys.epoch);
    asked.xlen(&config.key).xlen(&alerts.stream).xlen(&keys.dead).exists(&config.key);
    type Answers = ((u64, u64), Checkpoint, Option<String>, Option<String>, Option<u64>, u64, u64, u64, bool);
    let answers: Answers = asked.query_async(connection).await?;
    let ((seconds, micros), checkpoint, owner, receipt, epoch, length, alerts_length, dead_length, exists) = answers;
    let now_ms = seconds * 1000 + micros / 1000;
    let mut survey = Survey {
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
    survey.state = saved_state(connection, &keys.state, &checkpoint, now_ms).await?;
    if !exists {
        return Ok(survey);
    }
    let info: Value = cmd("XINFO").arg("STREAM").arg(&config.key).query_async(connection).await?;
    survey.added = reply::extent(&info, true).map(|extent| extent.added);
    let stream: StreamInfoStreamReply = redis::from_redis_value(info)?;
    let groups: StreamInfoGroupsReply = connection.xinfo_groups(&config.key).await?;
    let Some(group) = groups.groups.iter().find(|group| group.name == config.group) else { return Ok(survey) };
    survey.group_exists = true;
    survey.pending = group.pending as u64;
    survey.lag = group.lag.map(|lag| lag as u64);
    let consumers: StreamInfoConsumersReply = connection.xinfo_consumers(&config.key, &config.group).await?;
    let status =
        |c: StreamInfoConsumer| ConsumerStatus { name: c.name, pending: c.pending as u64, idle_ms: c.idle as u64 };
    survey.consumers = consumers.consumers.into_iter().map(status).collect();
    let added: EntryId = stream.last_generated_id.parse().unwrap_or_default();
    survey.began_anew = length > 0 && checkpoint.is_of_another_stream(added);
    let mut delivered: EntryId = group.last_delivered_id.parse().unwrap_or_default();
    if survey.began_anew && delivered >= added {
        delivered = EntryId::ZERO;
    }
    let held: Option<EntryId> = match connection.xpending(&config.key, &config.group).await? {
        StreamPendingReply::Data(pending) => pending.start_id.parse().ok(),
        _ => None,
    };
    // What others hold is not ours to work until it has been left alone for long.
    let mut ours = held;
    if survey.consumers.iter().any(|consumer| consumer.name != config.consumer && consumer.pending > 0) {
        let first: StreamPendingCountReply =
            connection.xpending_consumer_count(&config.key, &config.group, "-", "+", 1, &config.consumer).await?;
        ours = first.ids.first().and_then(|entry| entry.id.parse().ok());
    }
    survey.left_behind = ours.filter(|ours| Some(*ours) <= checkpoint.last).map(|ours| ours.to_string());
    if ours.is_none() && added > delivered {
        let after = format!("({delivered}");
        let next: Value =
            cmd("XRANGE").arg(&config.key).arg(after).arg("+").arg("COUNT").arg(1).query_async(connection).await?;
        ours = reply::first_id(&next);
    }
    survey.waiting = match (survey.added, checkpoint.index) {
        (Some(added), Some(worked)) => Some(added.saturating_sub(worked).min(survey.length).max(survey.pending)),
        _ => survey.lag.map(|lag| lag + survey.pending),
    };
    // Work waits since it arrived, or since the last commit showed that it was being got at.
    survey.behind_ms = held.or(ours).map(|oldest| match oldest.millis {
        FIRST_TIME_MS.. => now_ms.saturating_sub(oldest.millis),
        _ => 0,
    });
    survey.waiting_ms = ours.map(|ours| now_ms.saturating_sub(ours.millis.max(checkpoint.at_ms)));
    Ok(survey)
}

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
    let Some(oldest) = boundaries.iter().min_by_key(|boundary| boundary.worked) else { return Ok(None) };
    let fields: u64 = connection.hlen(key).await?;
    let bytes = cmd("MEMORY").arg("USAGE").arg(key).query_async(connection).await.unwrap_or(None);
    let worked = checkpoint.totals.entries.saturating_sub(checkpoint.totals.lost);
    Ok(Some(SavedState {
        symbols: fields.saturating_sub(boundaries.len() as u64),
        bytes,
        age_ms: now_ms.saturating_sub(boundaries.iter().map(|boundary| boundary.at_ms).min().unwrap_or(now_ms)),
        behind: worked.saturating_sub(oldest.worked),
    }))
}
