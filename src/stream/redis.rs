//! A partition in Redis: lease, epoch, and the fenced step.
//!
//! Three connections, each used by one task alone: one for steps (`WATCH` binds
//! to a connection), one that may block in `XREAD`, one that renews the lease.
//! Group reads never block and happen only inside a step: a reply that is lost,
//! or a host that was paused, can leave entries pending under our own name, but
//! never hand them to nobody.
//!
//! A step is one round trip: `MULTI`, publish, acknowledge, checkpoint, read,
//! `EXEC`, and then `WATCH` + `GET` of the epoch for the step that follows. The
//! epoch was seen to be ours before `MULTI` is sent; if it has changed since,
//! `EXEC` does nothing.

mod adopt;
mod dead;
mod keys;
mod lease;
mod reply;
mod state;
mod survey;
mod tls;

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, RedisResult, Value,
    aio::MultiplexedConnection, cmd,
};
use tracing::{error, info, warn};

pub use self::{
    dead::{DeadLetters, Letter, Moved},
    keys::Keys,
    survey::{SavedState, Survey, survey},
};
use self::{
    lease::{Lease, LeaseAnswer},
    reply::{Checkpoint, parse_read},
};
use super::{Acquire, Acquired, Adopted, Commit, Delivered, Extent, From, Read, Stream, StreamError, Whose};
use crate::{
    checkpoint::Saved,
    config::{AlertsConfig, DeadLettersConfig, Start, StreamConfig},
    event::{Entries, EntryId},
    publish::json_line,
};

/// Longest time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Alerts looked at in one go when a sink asks what it has missed.
const ALERTS_PAGE: usize = 1000;

/// A Redis Stream, read through a consumer group.
pub struct RedisStream {
    client: Client,
    config: StreamConfig,
    alerts: AlertsConfig,
    dead_letters: DeadLettersConfig,
    keys: Keys,
    session: Option<Session>,
    lease: Lease,
    /// Consumers that were reported as at work beside us.
    left_alone: HashSet<String>,
    /// Alerts and dead letters whose entries are acknowledged, but which the server refused: another
    /// program put a key of another type in their stream's place.
    owed: Vec<Cmd>,
    /// Whether this process has owned the partition before.
    owned_before: bool,
    /// Whether no other consumer of the group holds or takes entries, as far as was seen.
    alone: bool,
}

/// What lives from one acquisition to the next error.
struct Session {
    steps: MultiplexedConnection,
    waits: MultiplexedConnection,
    epoch: u64,
}

impl RedisStream {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig, dead_letters: &DeadLettersConfig) -> anyhow::Result<Self> {
        let client = client(config)?;
        let keys = Keys::new(&config.key, &config.group);
        let lease = Lease::new(client.clone(), &keys, config);
        Ok(Self {
            client,
            config: config.clone(),
            alerts: alerts.clone(),
            dead_letters: dead_letters.clone(),
            keys,
            session: None,
            lease,
            left_alone: HashSet::new(),
            owed: Vec::new(),
            owned_before: false,
            alone: false,
        })
    }

    /// Whether the server is there and fit; takes nothing and changes nothing.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub async fn check(&self) -> Result<(), StreamError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let mut connection = connect(&self.client, timeout).await.map_err(unavailable)?;
        self.check_server(&mut connection).await
    }

    async fn try_acquire(&mut self) -> Result<Acquire, StreamError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let mut steps = connect(&self.client, timeout).await.map_err(unavailable)?;
        let blocking = timeout + Duration::from_millis(self.config.block_ms);
        let waits = connect(&self.client, blocking).await.map_err(unavailable)?;
        self.check_server(&mut steps).await?;
        let epoch = match self.lease.acquire(&mut steps).await.map_err(unavailable)? {
            LeaseAnswer::Held { by, retry_in } => return Ok(Acquire::Held { by, retry_in }),
            LeaseAnswer::Ours(epoch) => epoch,
        };
        let checkpoint: Checkpoint = query(&mut steps, cmd("HGETALL").arg(&self.keys.checkpoint)).await?;
        let created = self.create_group(&mut steps, &checkpoint).await?;
        let groups: Value = query(&mut steps, cmd("XINFO").arg("GROUPS").arg(&self.config.key)).await?;
        let last_delivered = reply::last_delivered(&groups, &self.config.group).unwrap_or_default();
        let stream: Value = query(&mut steps, cmd("XINFO").arg("STREAM").arg(&self.config.key)).await?;
        let index = match (reply::extent(&stream, true), created) {
            (Some(Extent { removed, .. }), Some(Start::Earliest)) => Some(removed),
            (Some(Extent { added, .. }), Some(Start::Latest)) => Some(added),
            _ => checkpoint.index,
        };

        let mut arm = redis::pipe();
        self.arm(&mut arm);
        let replies = steps.send_packed_commands(&arm, 0, arm.len()).await.map_err(unavailable)?;
        check_epoch(replies.last(), epoch)?;
        self.session = Some(Session { steps, waits, epoch });
        self.owned_before = true;
        let Checkpoint { last: newest, totals, epoch: committed_under, clock, attempt, .. } = checkpoint;
        Ok(Acquire::Owned(Acquired {
            epoch,
            totals,
            committed_under,
            clock,
            newest,
            index,
            oldest: reply::oldest(&stream),
            last_delivered,
            attempt,
        }))
    }

    /// What would break the promise later is refused now.
    async fn check_server(&self, connection: &mut MultiplexedConnection) -> Result<(), StreamError> {
        let role: Value = query(connection, &cmd("ROLE")).await?;
        if reply::first_text(&role) == Some("slave") {
            return Err(StreamError::Unavailable("the server is a replica; waiting until it is promoted".into()));
        }
        let expected = [
            (&self.config.key, "stream"),
            (&self.alerts.stream, "stream"),
            (&self.keys.dead, "stream"),
            (&self.keys.lease, "string"),
            (&self.keys.epoch, "string"),
            (&self.keys.checkpoint, "hash"),
            (&self.keys.state, "hash"),
        ];
        for (key, kind) in expected {
            let found: String = query(connection, cmd("TYPE").arg(key)).await?;
            if found != kind && found != "none" {
                return Err(StreamError::Misconfigured(format!(
                    "the key {key} holds a {found}, expected a {kind}: rename or delete it, or choose another name in config.toml"
                )));
            }
        }
        // Managed servers may forbid CONFIG; then there is nothing to judge by.
        let settings: RedisResult<Vec<String>> =
            cmd("CONFIG").arg("GET").arg("maxmemory*").query_async(connection).await;
        let settings = settings.unwrap_or_default();
        let setting = |name: &str| settings.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
        if let (Some(policy), Some(limit)) = (setting("maxmemory-policy"), setting("maxmemory"))
            && policy.starts_with("allkeys")
            && limit != "0"
        {
            return Err(StreamError::Misconfigured(format!(
                "the server may evict any key (maxmemory-policy {policy}), the stream and its group too, \
                 and then nothing can be promised: CONFIG SET maxmemory-policy noeviction"
            )));
        }
        Ok(())
    }

    /// Makes sure that there is a group; where it begins if it is new.
    async fn create_group(
        &self,
        connection: &mut MultiplexedConnection,
        checkpoint: &Checkpoint,
    ) -> Result<Option<Start>, StreamError> {
        // A group that vanished is created where its last commit was: earlier would repeat, later would
        // skip. If the server has lost everything, what it has now came after that.
        let known = checkpoint.last.filter(|_| checkpoint.totals.commits > 0);
        let begin = match known {
            Some(last) => Start::After(last),
            None if self.owned_before => Start::Earliest,
            None => self.config.start,
        };
        let start = match begin {
            Start::Earliest => "0".to_owned(),
            Start::Latest => "$".to_owned(),
            Start::After(id) => id.to_string(),
        };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.config.key).arg(&self.config.group).arg(&start).arg("MKSTREAM");
        match create.query_async::<()>(connection).await {
            Ok(()) if known.is_some() => {
                warn!(group = %self.config.group, at = %start, "the group had vanished; created it again at the last commit");
            }
            Ok(()) => {
                let StreamConfig { key, group, .. } = &self.config;
                info!(%group, stream = %key, at = %start, "created the consumer group");
            }
            Err(error) if error.code() == Some("BUSYGROUP") => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        }
        Ok(Some(begin))
    }

    /// The transaction of a step; returns the position of `EXEC`'s reply.
    fn transaction(&self, commit: &Commit, read: Read, epoch: u64) -> (Pipeline, usize) {
        let mut pipe = redis::pipe();
        pipe.cmd("MULTI");
        self.owed.iter().for_each(|publish| {
            pipe.add_command(publish.clone());
        });
        for alert in &commit.alerts {
            add_to(&mut pipe, &self.alerts.stream, self.alerts.maxlen);
            for (name, value) in alert.fields() {
                pipe.arg(name).arg(value);
            }
        }
        for letter in &commit.dead_letters {
            add_to(&mut pipe, &self.keys.dead, self.dead_letters.maxlen);
            for (name, value) in letter.fields() {
                pipe.arg(name).arg(value);
            }
        }
        if !commit.done.is_empty() {
            pipe.cmd("XACK").arg(&self.config.key).arg(&self.config.group);
            for id in &commit.done {
                pipe.arg(id.to_string());
            }
        }
        if commit.is_counted() {
            let at_ms = now_ms();
            pipe.add_command(Checkpoint::write(&self.keys.checkpoint, commit, epoch, at_ms));
            state::write(&mut pipe, &self.keys.state, commit, at_ms);
            state::write_poison(&mut pipe, &self.keys.state, &commit.poison);
        }
        if let Some((entry, times)) = commit.attempt {
            pipe.cmd("HSET").arg(&self.keys.checkpoint).arg("attempt").arg(format!("{entry} {times}"));
        }
        if read.count > 0 && read.from == From::New {
            pipe.cmd("XINFO").arg("STREAM").arg(&self.config.key);
        }
        if read.count > 0 {
            let from = match read.from {
                From::New => ">".to_owned(),
                From::Pending(after) => after.to_string(),
            };
            pipe.cmd("XREADGROUP").arg("GROUP").arg(&self.config.group).arg(&self.config.consumer);
            pipe.arg("COUNT").arg(read.count).arg("STREAMS").arg(&self.config.key).arg(from);
        }
        let exec = pipe.len();
        pipe.cmd("EXEC");
        self.arm(&mut pipe);
        (pipe, exec)
    }

    /// Lets the next transaction fail if the epoch changes from now on, and shows what it is now.
    fn arm(&self, pipe: &mut Pipeline) {
        pipe.cmd("WATCH").arg(&self.keys.epoch);
        pipe.cmd("GET").arg(&self.keys.epoch);
    }
}

impl Stream for RedisStream {
    async fn acquire(&mut self) -> Result<Acquire, StreamError> {
        self.session = None;
        self.lease.stop_renewing();
        let answer = self.try_acquire().await;
        if let Ok(Acquire::Owned(acquired)) = &answer {
            self.lease.keep_renewing(acquired.epoch);
        }
        answer
    }

    async fn step(&mut self, commit: &Commit, read: Read) -> Result<Delivered, StreamError> {
        let epoch = open(&mut self.session)?.epoch;
        let (pipe, exec) = self.transaction(commit, read, epoch);
        let session = open(&mut self.session)?;
        let replies = session.steps.send_packed_commands(&pipe, 0, pipe.len()).await.map_err(unavailable)?;
        if let Some(refused) = replies[..exec].iter().find_map(reply::server_error) {
            return Err(StreamError::Unavailable(refused));
        }
        let results = match replies.get(exec) {
            Some(Value::Nil) => return Err(StreamError::Fenced),
            // One for each command between `MULTI` and `EXEC`.
            Some(Value::Array(results)) if results.len() + 1 == exec => results.as_slice(),
            Some(Value::ServerError(error)) => return Err(StreamError::Unavailable(error.to_string())),
            _ => return Err(StreamError::Unavailable("unexpected answer to EXEC".into())),
        };
        // A transaction has no way back: what the server refuses in the middle of it is owed from now on.
        let publishes = self.owed.len() + commit.alerts.len() + commit.dead_letters.len();
        let commands = pipe.cmd_iter().skip(1).zip(results).take(publishes);
        self.owed = commands.filter(|(_, result)| is_error(result)).map(|(publish, _)| publish.clone()).collect();
        if !self.owed.is_empty() {
            error!(
                kept = self.owed.len(),
                "alerts or dead letters were refused by the server; they are kept, and published once it takes them"
            );
        }
        if let Some(refused) = results.iter().find_map(reply::server_error) {
            return Err(StreamError::Unavailable(refused));
        }
        check_epoch(replies.last(), epoch)?;
        let Some((value, before)) = results.split_last().filter(|_| read.count > 0) else {
            return Ok(Delivered::default());
        };
        let entries = parse_read(value).map_err(StreamError::Unavailable)?;
        let stream = before.last().filter(|_| read.from == From::New);
        Ok(Delivered { entries, extent: stream.and_then(|stream| reply::extent(stream, self.alone)) })
    }

    async fn saved(&mut self) -> Result<Saved, StreamError> {
        self.read_saved().await
    }

    async fn history(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        self.read_history(after, through, count).await
    }

    async fn pending(&mut self, first: EntryId, last: EntryId, whose: Whose) -> Result<BTreeSet<EntryId>, StreamError> {
        self.read_pending(first, last, whose).await
    }

    async fn adopt(&mut self) -> Result<Adopted, StreamError> {
        self.adopt_all().await
    }

    async fn wait(&mut self, last: EntryId) -> Result<(), StreamError> {
        let session = open(&mut self.session)?;
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(self.config.block_ms);
        wait.arg("STREAMS").arg(&self.config.key).arg(last.to_string());
        let _: Value = wait.query_async(&mut session.waits).await.map_err(unavailable)?;
        Ok(())
    }

    async fn alerts_after(&mut self, id: &str) -> Result<Vec<String>, StreamError> {
        let session = open(&mut self.session)?;
        let (mut lines, mut end) = (Vec::new(), "+".to_owned());
        loop {
            let mut page = cmd("XREVRANGE");
            page.arg(&self.alerts.stream).arg(&end).arg("-").arg("COUNT").arg(ALERTS_PAGE);
            let page: Vec<(String, Vec<(String, String)>)> = query(&mut session.waits, &page).await?;
            let Some((oldest, _)) = page.last() else { return Ok(Vec::new()) };
            end = format!("({oldest}");
            for (_, fields) in &page {
                if fields.iter().any(|(name, value)| name == "id" && value == id) {
                    lines.reverse();
                    return Ok(lines);
                }
                lines.push(json_line(fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))));
            }
        }
    }

    async fn release(&mut self) {
        self.lease.stop_renewing();
        if let Some(session) = &mut self.session {
            self.lease.release(&mut session.steps).await;
        }
        self.session = None;
    }
}

/// A client, with Nagle's algorithm off: every step is one small write that must not wait.
///
/// # Errors
/// When the URL can't be understood, or the files for TLS can't be used.
pub fn client(config: &StreamConfig) -> anyhow::Result<Client> {
    let info = config.url.as_str().into_connection_info().map_err(|error| {
        anyhow::anyhow!(
            "stream.url: {error}; expected redis://[user:password@]host:port[/db], with TLS rediss://…, \
             or redis+unix:///path"
        )
    })?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    tls::client(info.set_tcp_settings(tcp), config)
}

/// Connects; every answer must come within `timeout`.
pub(crate) async fn connect(client: &Client, timeout: Duration) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(timeout));
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// As [`connect`], for a thread that waits; `timeout` is for all of it.
pub(crate) fn connect_blocking(client: &Client, timeout: Duration) -> RedisResult<redis::Connection> {
    let connected = client.get_connection_with_timeout(timeout);
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
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

/// The client's error in a user's words.
pub fn explain(error: &RedisError) -> String {
    if error.is_connection_refusal() {
        return "connection refused: is redis-server running at that address?".into();
    }
    if error.is_timeout() {
        return "no answer in time (stream.timeout_ms)".into();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "the server refuses the user or password in stream.url".into();
    }
    match error.code() {
        Some("NOAUTH") => "the server wants a password: put it in the URL, or in TICKHOUND_STREAM__URL".into(),
        Some("LOADING") => "the server is still loading its data".into(),
        Some("READONLY") => "the server has become a replica".into(),
        Some("OOM") => "the server's memory is full (maxmemory): free some, or raise it".into(),
        _ => error.to_string(),
    }
}

fn add_to(pipe: &mut Pipeline, stream: &str, maxlen: usize) {
    pipe.cmd("XADD").arg(stream);
    if maxlen > 0 {
        pipe.arg("MAXLEN").arg("~").arg(maxlen);
    }
    pipe.arg("*");
}

fn open(session: &mut Option<Session>) -> Result<&mut Session, StreamError> {
    session.as_mut().ok_or_else(|| StreamError::Unavailable("not connected".into()))
}

fn is_error(result: &Value) -> bool {
    matches!(result, Value::ServerError(_))
}

fn check_epoch(reply: Option<&Value>, epoch: u64) -> Result<(), StreamError> {
    match reply.and_then(reply::number) {
        Some(now) if now == epoch => Ok(()),
        Some(_) => Err(StreamError::Fenced),
        None => Err(StreamError::Unavailable("the epoch key has vanished".into())),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
