//! A partition in Redis: lease, epoch, and the fenced step.
//!
//! Four connections, each used by one task alone: one for steps (`WATCH` binds
//! to a connection), one for what is rare, one that blocks in `XREAD`, behind
//! which nothing else may queue, and one that renews the lease.
//! Group reads never block and happen only inside a step: a reply that is lost,
//! or a host that was paused, can leave entries pending under our own name, but
//! never hand them to nobody.
//!
//! A step is one round trip: `MULTI`, publish, acknowledge, checkpoint, read,
//! `EXEC`, and then `WATCH` + `GET` of the epoch for the step that follows. The
//! epoch was seen to be ours before `MULTI` is sent; if it has changed since,
//! `EXEC` does nothing.

mod acquire;
mod adopt;
pub mod claims;
mod client;
mod dead;
mod group;
mod history;
mod keys;
mod lease;
pub mod look;
pub mod notified;
mod owed;
mod reply;
mod reported;
pub mod resp;
mod seal;
mod state;
mod survey;
mod tls;
mod wire;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use redis::{Client, Cmd, RedisError, Value, aio::MultiplexedConnection, cmd};
use tracing::error;

use self::{
    acquire::key_types,
    client::address,
    lease::Lease,
    reply::{AcquireReply, Checkpoint, parse_extent, parse_read},
    resp::{Commands, Item, Replies, Unexpected},
    wire::{Address, Wire, refused},
};
pub use self::{
    acquire::may_evict_any_key,
    adopt::remove_if_empty,
    client::{connect, connect_blocking},
    reply::entries_of,
};
pub use self::{
    client::{client, explain},
    dead::{DeadLetters, Letter, Moved},
    history::RedisHistory,
    keys::Keys,
    reported::{AlertsReader, Kept, News, ReadTo, Reported, alerts_of},
    survey::{ConsumerStatus, SavedState, Survey, Surveyor, survey},
};
use tickhound_core::stream::{
    AcquireOutcome, Adoption, Commit, Consumers, Delivery, ReadFrom, ReadRequest, Stream, StreamError,
};
use tickhound_core::{
    checkpoint::SavedStates,
    config::{AlertsConfig, DeadLettersConfig, StreamConfig},
    event::{Entries, EntryId},
    pulse::Pulse,
    wall::now_ms,
};

/// Alerts looked at in one go when it is asked which of them were published.
const ALERTS_PAGE: usize = 1000;

/// A Redis Stream, read through a consumer group.
pub struct RedisStream {
    client: Client,
    /// The same server, for connections that read entries.
    address: Address,
    config: StreamConfig,
    alerts: AlertsConfig,
    dead_letters: DeadLettersConfig,
    keys: Keys,
    session: Option<Session>,
    lease: Lease,
    /// Consumers that were reported as at work beside us.
    left_alone: HashSet<String>,
    /// Commands that publish alerts and dead letters whose entries are acknowledged, but which the server
    /// refused: another program put a key of another type in their stream's place.
    owed: Vec<Vec<u8>>,
    /// Those of the step that was begun last.
    commands: Commands,
    begun: Option<Begun>,
    /// Whether this process has owned the partition before.
    owned_before: bool,
    /// Whether some detector was a shadow at the start: then the stream for their alerts must be ours too. One that comes
    /// later claims it at the next start, lest it bring what is live to a halt.
    has_shadows: bool,
    /// Whether no other consumer of the group holds or takes entries, as far as was seen.
    alone: bool,
    /// Entries up to this one have been given to somebody, not always to us.
    given: EntryId,
}

/// What lives from one acquisition to the next error.
struct Session {
    steps: Wire,
    asks: MultiplexedConnection,
    /// For the blocking read alone. A wait that is given up takes its connection along: behind a read that still
    /// blocks the next one would wait.
    waits: Option<MultiplexedConnection>,
    owner: AcquireReply,
}

/// What the answer to a step is about.
struct Begun {
    /// Commands that publish, right behind `MULTI`.
    publishes: usize,
    /// Position of `EXEC`.
    exec: usize,
    read: ReadRequest,
}

impl RedisStream {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig, dead_letters: &DeadLettersConfig) -> anyhow::Result<Self> {
        let (client, address) = (client(config)?, address(config)?);
        let keys = Keys::new(&config.key, &config.group);
        let lease = Lease::new(client.clone(), &keys, config);
        Ok(Self {
            client,
            address,
            config: config.clone(),
            alerts: alerts.clone(),
            dead_letters: dead_letters.clone(),
            keys,
            session: None,
            lease,
            left_alone: HashSet::new(),
            owed: Vec::new(),
            commands: Commands::default(),
            begun: None,
            owned_before: false,
            has_shadows: false,
            alone: false,
            given: EntryId::ZERO,
        })
    }

    /// With the stream for alerts of shadows as its own as well, if there are shadows.
    pub fn with_shadows(self, has_shadows: bool) -> Self {
        Self { has_shadows, ..self }
    }

    /// Renews the lease only while the engine with this `pulse` comes round. Without one it is always renewed.
    pub fn with_pulse(mut self, pulse: Pulse) -> Self {
        self.lease.follow(pulse);
        self
    }

    /// Whether the server is there and fit; takes nothing and changes nothing.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StreamError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let mut connection = connect(&self.client, timeout).await.map_err(unavailable)?;
        self.check_server(&mut connection).await?;
        self.unclaimed(&mut connection).await.map(drop)
    }

    /// The newest entry of the stream; `None` when it has none. Changes nothing.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub async fn newest(&self) -> Result<Option<EntryId>, StreamError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let mut connection = connect(&self.client, timeout).await.map_err(unavailable)?;
        let mut last = cmd("XREVRANGE");
        last.arg(&self.config.key).arg("+").arg("-").arg("COUNT").arg(1);
        let last: Value = query(&mut connection, &last).await?;
        Ok(reply::first_id(&last))
    }

    /// Writes the transaction of a step, and what arms the next one.
    fn write_step(&self, commands: &mut Commands, commit: &Commit, read: ReadRequest, owner: AcquireReply) -> Begun {
        commands.clear();
        commands.words(&["MULTI"]);
        self.owed.iter().for_each(|publish| commands.push_packed(publish));
        for alert in &commit.alerts {
            add_to(commands, &self.alerts.stream, self.alerts.maxlen);
            add_fields(commands, &alert.fields());
            commands.end();
        }
        for letter in &commit.dead_letters {
            add_to(commands, &self.keys.dead, self.dead_letters.maxlen);
            add_fields(commands, &letter.fields());
            commands.end();
        }
        for (shadow_of, alert) in &commit.shadow_alerts {
            add_to(commands, &self.alerts.shadow_stream, self.alerts.maxlen);
            add_fields(commands, &alert.fields());
            commands.arg("shadow_of").arg(shadow_of);
            commands.end();
        }
        let publishes = commands.len() - 1;
        if !commit.done.is_empty() || !commit.repeated.is_empty() {
            commands.arg("XACK").arg(&self.config.key).arg(&self.config.group);
            for id in commit.done.iter().chain(&commit.repeated) {
                commands.id(*id);
            }
            commands.end();
        }
        if commit.is_counted() {
            let at_ms = now_ms();
            Checkpoint::write(commands, &self.keys.checkpoint, commit, owner, at_ms);
            state::write(commands, &self.keys.state, commit, at_ms);
            state::write_poison(commands, &self.keys.state, &commit.poison);
        }
        if let Some(attempt) = commit.attempt {
            commands.arg("HSET").arg(&self.keys.checkpoint).arg("attempt");
            commands.arg(seal::seal("attempt", &attempt.to_string()));
            commands.end();
        }
        if let Some(receipt) = &commit.receipt {
            commands.words(&["SET", &self.keys.host, receipt]);
        }
        if read.count > 0 && read.from == ReadFrom::New {
            commands.words(&["XINFO", "STREAM", &self.config.key]);
        }
        if read.count > 0 {
            commands.arg("XREADGROUP").arg("GROUP").arg(&self.config.group).arg(&self.config.consumer);
            commands.arg("COUNT").show(read.count).arg("STREAMS").arg(&self.config.key);
            match read.from {
                ReadFrom::New => commands.arg(">"),
                ReadFrom::Pending(after) => commands.id(after),
            };
            commands.end();
        }
        let exec = commands.len();
        commands.words(&["EXEC"]);
        self.arm(commands);
        Begun { publishes, exec, read }
    }

    /// Lets the next transaction fail if the epoch changes from now on, and shows what it is now.
    fn arm(&self, commands: &mut Commands) {
        commands.words(&["WATCH", &self.keys.epoch]);
        commands.words(&["GET", &self.keys.epoch]);
    }
}

impl Stream for RedisStream {
    type History = RedisHistory;

    fn reader(&self) -> RedisHistory {
        RedisHistory::new(&self.address, &self.config.key)
    }

    async fn acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        self.session = None;
        self.lease.stop_renewing();
        self.given = EntryId::ZERO;
        let answer = self.try_acquire().await;
        if !matches!(answer, Ok(AcquireOutcome::Owned(_))) {
            self.lease.stop_renewing();
        }
        answer
    }

    async fn begin(&mut self, commit: &Commit, read: ReadRequest) -> Result<(), StreamError> {
        let owner = open(&mut self.session)?.owner;
        let mut commands = std::mem::take(&mut self.commands);
        self.begun = Some(self.write_step(&mut commands, commit, read, owner));
        self.commands = commands;
        open(&mut self.session)?.steps.send(&self.commands).await
    }

    async fn finish(&mut self) -> Result<Delivery, StreamError> {
        let session = open(&mut self.session)?;
        let Some(Begun { publishes, exec, read }) = self.begun.take() else {
            return Err(StreamError::Unavailable("no step was begun".into()));
        };
        let mut replies = session.steps.receive(self.commands.len()).await?;
        let mut error = None;
        for _ in 0..exec {
            error = error.or(replies.skip()?);
        }
        if let Some(error) = error {
            return Err(refused(error));
        }
        let results = match replies.item()? {
            Item::Nil => return Err(StreamError::Fenced),
            // One for each command between `MULTI` and `EXEC`.
            Item::Array(results) if results + 1 == exec => results,
            Item::Error(error) => return Err(refused(error)),
            _ => return Err(Unexpected("EXEC does not tell what it did").into()),
        };
        let mut delivered = Delivery::default();
        // A transaction has no way back: what the server refuses in the middle of it is owed from now on.
        self.owed.clear();
        for result in 0..results {
            if let Item::Error(reason) = replies.clone().item()? {
                replies.skip()?;
                error = error.or(Some(reason));
                if result < publishes {
                    self.owed.push(self.commands.get(1 + result).to_vec());
                }
            } else if read.count > 0 && result + 1 == results {
                delivered.entries = parse_read(&mut replies)?;
            } else if read.count > 0 && read.from == ReadFrom::New && result + 2 == results {
                (delivered.newest, delivered.extent) = parse_extent(&mut replies, self.alone)?;
            } else {
                replies.skip()?;
            }
        }
        if !self.owed.is_empty() {
            error!(
                event = "publish_rejected",
                kept = self.owed.len(),
                "Redis rejected alerts or dead letters; keeping them until it accepts them"
            );
        }
        if let Some(error) = error {
            return Err(refused(error));
        }
        check_epoch(&mut replies, session.owner.epoch)?;
        if delivered.entries.len() < read.count {
            self.given = delivered.newest.unwrap_or(self.given);
        }
        Ok(delivered)
    }

    async fn saved(&mut self) -> Result<SavedStates, StreamError> {
        self.read_saved().await
    }

    async fn history(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        self.read_history(after, through, count).await
    }

    async fn pending(&mut self, first: EntryId, last: EntryId) -> Result<BTreeSet<EntryId>, StreamError> {
        self.read_pending(first, last).await
    }

    async fn adopt(&mut self) -> Result<Adoption, StreamError> {
        self.adopt_all().await
    }

    async fn consumers(&mut self) -> Result<Consumers, StreamError> {
        Ok(self.see_others().await?.consumers)
    }

    async fn restore_group(&mut self, last: EntryId) -> Result<(), StreamError> {
        self.set_forward(last).await
    }

    async fn wait(&mut self, last: EntryId) -> Result<(), StreamError> {
        let session = open(&mut self.session)?;
        let mut waits = match session.waits.take() {
            Some(waits) => waits,
            None => {
                let longest = Duration::from_millis(self.config.timeout_ms + self.config.block_ms);
                connect(&self.client, longest).await.map_err(unavailable)?
            }
        };
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(self.config.block_ms);
        // What another consumer was given is no reason to wake up.
        wait.arg("STREAMS").arg(&self.config.key).arg(last.max(self.given).to_string());
        let _: Value = wait.query_async(&mut waits).await.map_err(unavailable)?;
        session.waits = Some(waits);
        Ok(())
    }

    async fn release(&mut self) {
        self.lease.stop_renewing();
        if let Some(session) = &mut self.session {
            self.lease.release(&mut session.asks, session.owner.epoch).await;
        }
        self.session = None;
    }
}

async fn query<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StreamError> {
    command.query_async(connection).await.map_err(unavailable)
}

fn unavailable(error: RedisError) -> StreamError {
    StreamError::Unavailable(explain(&error))
}

fn add_to(commands: &mut Commands, stream: &str, maxlen: usize) {
    commands.arg("XADD").arg(stream);
    if maxlen > 0 {
        commands.arg("MAXLEN").arg("~").show(maxlen);
    }
    commands.arg("*");
}

fn add_fields(commands: &mut Commands, fields: &[(&'static str, Cow<'_, str>)]) {
    for (name, value) in fields {
        commands.arg(name).arg(value.as_bytes());
    }
}

fn open(session: &mut Option<Session>) -> Result<&mut Session, StreamError> {
    session.as_mut().ok_or_else(|| StreamError::Unavailable("not connected".into()))
}

/// Reads the answers to what [`RedisStream::arm`] asks.
fn check_epoch(replies: &mut Replies<'_>, epoch: u64) -> Result<(), StreamError> {
    if let Some(error) = replies.skip()? {
        return Err(refused(error));
    }
    let now = match replies.item()? {
        Item::Bulk(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok()),
        Item::Error(error) => return Err(refused(error)),
        _ => None,
    };
    match now {
        Some(now) if now == epoch => Ok(()),
        Some(_) => Err(StreamError::Fenced),
        None => Err(StreamError::Unavailable("the epoch key has vanished".into())),
    }
}
