//! A Redis Stream as a partition: acquires it, runs steps on it, and reads what recovery needs.
//!
//! What holds: the epoch was ours when the step before ended, and `WATCH` makes `EXEC` fail if it has changed since.
//! Group reads happen only inside a step and never block. So a lost reply, or a host that was paused, can leave entries
//! pending under our own name, where recovery finds them, but can't lose them.
//!
//! A session has four connections, each for one task: one for steps (`WATCH` belongs to a connection), one for rare
//! requests, one that blocks in `XREAD`, behind which no other request may wait, and one that renews the lease.

use std::{collections::BTreeSet, time::Duration};

use redis::{Client, Value, aio::MultiplexedConnection, cmd};
use tracing::warn;

use crate::{
    adopt::OtherConsumers,
    checkpoint::{Checkpoint, Ownership},
    claims::{unmarked_claims, write_markers},
    connection::{address, client, connect, query},
    errors::unavailable,
    group::{ConsumerGroup, GroupState},
    history::{RedisHistory, range},
    lease::{Lease, LeaseReply},
    partition_config::PartitionConfig,
    reply,
    resp::Commands,
    server_check::check_server,
    state,
    step::{Steps, arm, parse_armed},
    wire::{Address, Wire},
};
use tickhound_core::{
    checkpoint::SavedStates,
    config::{AlertsConfig, DeadLettersConfig, Start, StreamConfig},
    decode::check_symbol,
    event::{Entries, EntryId},
    pulse::Pulse,
    stream::{
        AcquireOutcome, Acquisition, Adoption, Commit, Consumers, Delivery, Extent, ReadRequest, Stream, StreamError,
    },
};

/// Pending entries that are listed in one request.
const PENDING_PAGE: usize = 1000;

/// A Redis Stream, read through a consumer group.
pub struct RedisStream {
    client: Client,
    /// The same server, for connections of [`crate::wire`].
    address: Address,
    config: PartitionConfig,
    session: Option<Session>,
    lease: Lease,
    steps: Steps,
    others: OtherConsumers,
    /// Whether this process has owned the partition before.
    owned_before: bool,
    /// Entries up to this one have been delivered to some consumer of the group.
    delivered: EntryId,
}

/// What lives from one acquisition to the next error.
struct Session {
    steps: Wire,
    /// The connection for rare requests.
    requests: MultiplexedConnection,
    /// The connection for the blocking read. A wait that is dropped takes its connection along, because behind a read
    /// that still blocks the next one would wait.
    waits: Option<MultiplexedConnection>,
    owner: Ownership,
}

impl RedisStream {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig, dead_letters: &DeadLettersConfig) -> anyhow::Result<Self> {
        let (client, address) = (client(config)?, address(config)?);
        let config = PartitionConfig::new(config, alerts, dead_letters);
        let lease = Lease::new(client.clone(), &config.keys, &config.stream);
        Ok(Self {
            client,
            address,
            config,
            session: None,
            lease,
            steps: Steps::default(),
            others: OtherConsumers::default(),
            owned_before: false,
            delivered: EntryId::ZERO,
        })
    }

    /// Also claims the stream for alerts of shadows, if there are shadows.
    pub fn with_shadows(mut self, has_shadows: bool) -> Self {
        self.config.has_shadows = has_shadows;
        self
    }

    /// Renews the lease only while the engine with this `pulse` makes progress. Without a pulse it is always renewed.
    pub fn with_pulse(mut self, pulse: Pulse) -> Self {
        self.lease.follow(pulse);
        self
    }

    /// Checks that the server is reachable and fit to hold the partition. Changes nothing.
    ///
    /// # Errors
    /// When the server cannot be reached or used, with what to do.
    pub async fn check(&self) -> Result<(), StreamError> {
        let mut connection = self.connect().await?;
        check_server(&mut connection, &self.config).await?;
        unmarked_claims(&mut connection, &self.config).await.map(drop)
    }

    /// Returns the symbols that have a saved state. Changes nothing.
    ///
    /// # Errors
    /// When the server cannot be reached, or rejects the request.
    pub async fn known_symbols(&self) -> Result<Vec<String>, StreamError> {
        let mut connection = self.connect().await?;
        let fields: Vec<String> = query(&mut connection, cmd("HKEYS").arg(&self.config.keys.state)).await?;
        // Groups have states too, under names that no symbol has.
        let symbols =
            fields.iter().filter_map(|field| field.strip_prefix("s:")).filter(|name| check_symbol(name).is_ok());
        Ok(symbols.map(str::to_owned).collect())
    }

    /// Returns the newest entry of the stream; `None` if it is empty. Changes nothing.
    ///
    /// # Errors
    /// When the server cannot be reached, or rejects the request.
    pub async fn newest(&self) -> Result<Option<EntryId>, StreamError> {
        let mut connection = self.connect().await?;
        let mut last = cmd("XREVRANGE");
        last.arg(&self.config.stream.key).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Value = query(&mut connection, &last).await?;
        Ok(reply::first_id(&last))
    }

    /// Creates the group where a host would, if it does not exist; returns its start if it was created.
    ///
    /// # Errors
    /// When the server cannot be reached, or rejects the request.
    pub async fn create_group(&self) -> Result<Option<Start>, StreamError> {
        let mut connection = self.connect().await?;
        let checkpoint = state::read_checkpoint(&mut connection, &self.config.keys).await?;
        ConsumerGroup::new(&mut connection, &self.config).ensure_exists(&checkpoint, self.owned_before).await
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StreamError> {
        connect(&self.client, Duration::from_millis(self.config.stream.timeout_ms)).await.map_err(unavailable)
    }

    async fn try_acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        let mut requests = self.connect().await?;
        let steps = self.address.connect().await?;
        check_server(&mut requests, &self.config).await?;
        let unmarked = unmarked_claims(&mut requests, &self.config).await?;
        // A damaged checkpoint must be noticed before anything is changed.
        state::read_checkpoint(&mut requests, &self.config.keys).await?;
        let epoch = match self.lease.acquire(&mut requests).await.map_err(unavailable)? {
            LeaseReply::Held { by, retry_in } => return Ok(AcquireOutcome::Held { by, retry_in }),
            LeaseReply::Acquired(epoch) => epoch,
        };
        // The rest takes several round trips, and the lease must not expire meanwhile.
        self.lease.start_renewing(epoch);
        if let Err(error) = write_markers(&mut requests, &self.config, &unmarked).await {
            self.give_up_lease(&mut requests, epoch).await;
            return Err(error);
        }
        let acquisition = self.begin_session(requests.clone(), steps, epoch).await;
        if let Err(StreamError::Misconfigured(_)) = acquisition {
            // This host does not retry.
            self.give_up_lease(&mut requests, epoch).await;
        }
        acquisition.map(|acquisition| AcquireOutcome::Owned(Box::new(acquisition)))
    }

    /// Releases the lease of an acquisition that has failed.
    async fn give_up_lease(&mut self, requests: &mut MultiplexedConnection, epoch: u64) {
        // A release raises the epoch, so a renewal after it would report that somebody else has the lease.
        self.lease.stop_renewing();
        self.lease.release(requests, epoch).await;
    }

    /// Prepares a partition whose lease is ours, and reads how it stands.
    async fn begin_session(
        &mut self,
        mut requests: MultiplexedConnection,
        mut steps: Wire,
        epoch: u64,
    ) -> Result<Acquisition, StreamError> {
        let checkpoint = state::read_checkpoint(&mut requests, &self.config.keys).await?;
        if checkpoint.complete_is_damaged {
            warn!(
                event = "complete_damaged",
                "the list of detectors whose state is saved is damaged; all detectors warm up again"
            );
        }
        self.steps.pending.remove_published(&mut requests, &self.config).await?;
        let mut group = ConsumerGroup::new(&mut requests, &self.config);
        let group = group.prepare(&checkpoint, epoch, self.owned_before).await?;
        let stream: Value = query(&mut requests, cmd("XINFO").arg("STREAM").arg(&self.config.stream.key)).await?;

        // From here on each step fails if the epoch has changed.
        let mut armed = Commands::default();
        arm(&mut armed, &self.config.keys);
        parse_armed(&mut steps.ask(&armed, 0).await?, epoch)?;
        let owner = Ownership { epoch, token: rand::random() };
        self.session = Some(Session { steps, requests, waits: None, owner });
        self.owned_before = true;
        Ok(acquisition(owner, checkpoint, &group, &stream))
    }
}

impl Stream for RedisStream {
    type History = RedisHistory;

    fn reader(&self) -> RedisHistory {
        RedisHistory::new(&self.address, &self.config.stream.key)
    }

    async fn acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        self.session = None;
        self.lease.stop_renewing();
        self.delivered = EntryId::ZERO;
        let outcome = self.try_acquire().await;
        if !matches!(outcome, Ok(AcquireOutcome::Owned(_))) {
            self.lease.stop_renewing();
        }
        outcome
    }

    async fn begin(&mut self, commit: &Commit, read: ReadRequest) -> Result<(), StreamError> {
        let session = open(&mut self.session)?;
        let commands = self.steps.write(&self.config, commit, read, session.owner);
        session.steps.send(commands).await
    }

    async fn finish(&mut self) -> Result<Delivery, StreamError> {
        let session = open(&mut self.session)?;
        let step = self.steps.take_sent()?;
        let replies = session.steps.receive(step.replies(), step.count()).await?;
        let delivery = self.steps.parse(step, replies, session.owner.epoch, self.others.alone)?;
        if delivery.entries.len() < step.count() {
            // The step has read everything, so newer ids went to other consumers.
            self.delivered = delivery.newest.unwrap_or(self.delivered);
        }
        Ok(delivery)
    }

    async fn saved(&mut self) -> Result<SavedStates, StreamError> {
        state::read_saved(&mut open(&mut self.session)?.requests, &self.config.keys).await
    }

    async fn history(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        range(&mut open(&mut self.session)?.steps, &self.config.stream.key, after, through, count).await
    }

    async fn pending(&mut self, first: EntryId, last: EntryId) -> Result<BTreeSet<EntryId>, StreamError> {
        let StreamConfig { key, group, .. } = &self.config.stream;
        let requests = &mut open(&mut self.session)?.requests;
        let (mut pending, mut from) = (BTreeSet::new(), first.to_string());
        loop {
            let mut list = cmd("XPENDING");
            list.arg(key).arg(group).arg(&from).arg(last.to_string()).arg(PENDING_PAGE);
            let page: Vec<(String, String, u64, u64)> = query(requests, &list).await?;
            let Some((end, ..)) = page.last() else { return Ok(pending) };
            from = format!("({end}");
            pending.extend(page.iter().filter_map(|(id, ..)| id.parse::<EntryId>().ok()));
        }
    }

    async fn adopt(&mut self) -> Result<Adoption, StreamError> {
        let Session { requests, owner, .. } = open(&mut self.session)?;
        self.others.adopt(requests, &self.config, owner.epoch).await
    }

    async fn consumers(&mut self) -> Result<Consumers, StreamError> {
        let requests = &mut open(&mut self.session)?.requests;
        Ok(self.others.observe(requests, &self.config.stream).await?.consumers)
    }

    async fn restore_group(&mut self, last: EntryId) -> Result<(), StreamError> {
        let Session { requests, owner, .. } = open(&mut self.session)?;
        ConsumerGroup::new(requests, &self.config).restore_position(last, owner.epoch).await
    }

    async fn wait(&mut self, last: EntryId) -> Result<(), StreamError> {
        let session = open(&mut self.session)?;
        let StreamConfig { key, timeout_ms, block_ms, .. } = &self.config.stream;
        let mut waits = match session.waits.take() {
            Some(waits) => waits,
            None => {
                let longest = Duration::from_millis(timeout_ms + block_ms);
                connect(&self.client, longest).await.map_err(unavailable)?
            }
        };
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(block_ms);
        // Entries that another consumer was given must not end the wait.
        wait.arg("STREAMS").arg(key).arg(last.max(self.delivered).to_string());
        let _: Value = query(&mut waits, &wait).await?;
        session.waits = Some(waits);
        Ok(())
    }

    async fn release(&mut self) {
        self.lease.stop_renewing();
        if let Some(session) = &mut self.session {
            self.lease.release(&mut session.requests, session.owner.epoch).await;
        }
        self.session = None;
    }
}

/// Describes an acquired partition by its checkpoint, its group, and the reply to `XINFO STREAM`.
fn acquisition(owner: Ownership, checkpoint: Checkpoint, group: &GroupState, stream: &Value) -> Acquisition {
    let Ownership { epoch, token } = owner;
    let GroupState { created, began_anew, last_delivered } = *group;
    let index = match (reply::extent(stream, true), created) {
        (Some(Extent { removed, .. }), Some(Start::Earliest)) => Some(removed),
        (Some(Extent { added, .. }), Some(Start::Latest)) => Some(added),
        _ if began_anew => None,
        _ => checkpoint.index,
    };
    let last_commit = checkpoint.commit_id();
    let Checkpoint { last: newest, totals, clock, attempt, complete, made_by, rates, .. } = checkpoint;
    Acquisition {
        epoch,
        token,
        totals,
        last_commit,
        clock,
        newest,
        index,
        oldest: reply::oldest(stream),
        // A group that was set ahead of its stream has delivered no more than the stream holds.
        last_delivered: reply::newest(stream).map_or(last_delivered, |newest| last_delivered.min(newest)),
        began_anew,
        attempt,
        complete,
        made_by,
        rates,
    }
}

fn open(session: &mut Option<Session>) -> Result<&mut Session, StreamError> {
    session.as_mut().ok_or_else(|| StreamError::Unavailable("not connected".into()))
}
