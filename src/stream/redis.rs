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

mod acquire;
mod adopt;
mod client;
mod dead;
mod history;
mod keys;
mod lease;
mod owed;
mod reply;
mod reported;
mod state;
mod survey;
mod tls;

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::{Client, Cmd, Pipeline, RedisError, Value, aio::MultiplexedConnection, cmd};
use tracing::error;

pub(crate) use self::client::{connect, connect_blocking};
pub use self::{
    client::{client, explain},
    dead::{DeadLetters, Letter, Moved},
    history::RedisHistory,
    keys::Keys,
    reported::{AlertsReader, Kept, News, Reported, alerts_of},
    survey::{SavedState, Survey, Surveyor, survey},
};
use self::{
    lease::Lease,
    reply::{Checkpoint, parse_read},
};
use super::{Acquire, Adopted, Commit, Delivered, From, Read, Stream, StreamError, Whose};
use crate::{
    checkpoint::Saved,
    config::{AlertsConfig, DeadLettersConfig, StreamConfig},
    event::{Entries, EntryId},
    publish::json_line,
};

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
        Ok(reply::parse_entries(&last).map_err(StreamError::Unavailable)?.last())
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
        for (shadow_of, alert) in &commit.shadow_alerts {
            add_to(&mut pipe, &self.alerts.shadow_stream, self.alerts.maxlen);
            for (name, value) in alert.fields() {
                pipe.arg(name).arg(value);
            }
            pipe.arg("shadow_of").arg(shadow_of);
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
        if let Some(receipt) = &commit.receipt {
            pipe.cmd("SET").arg(&self.keys.host).arg(&**receipt);
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
    type History = RedisHistory;

    fn reader(&self) -> RedisHistory {
        RedisHistory::new(&self.client, &self.config)
    }

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
        let publishes = self.owed.len() + commit.alerts.len() + commit.dead_letters.len() + commit.shadow_alerts.len();
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

async fn query<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StreamError> {
    command.query_async(connection).await.map_err(unavailable)
}

fn unavailable(error: RedisError) -> StreamError {
    StreamError::Unavailable(explain(&error))
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
