//! Adds entries to the stream, many to a round trip.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use redis::{Cmd, Connection, RedisError, Value};

use tickhound_core::config::StreamConfig;
use tickhound_recorded::record::Record;
use tickhound_redis as server;

/// Entries in one write. From a few hundred on a round trip no longer shows.
const BATCH: usize = 500;

/// Longest wait for a connection and for any answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What Redis has confirmed.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) count: u64,
    pub(super) first_id: String,
    pub(super) last_id: String,
}

impl Published {
    fn add(&mut self, id: String) {
        if self.count == 0 {
            self.first_id.clone_from(&id);
        }
        self.count += 1;
        self.last_id = id;
    }

    /// Entries a second.
    pub(super) fn rate(&self, elapsed: Duration) -> f64 {
        self.count as f64 / elapsed.as_secs_f64().max(1e-9)
    }
}

/// A connection to the stream.
pub(super) struct Publisher {
    connection: Connection,
    key: String,
    maxlen: Option<u64>,
    command: Cmd,
    /// Commands that are not yet written, and how many.
    buffer: Vec<u8>,
    unsent: usize,
    /// Commands that are written and not yet answered.
    unanswered: usize,
    published: Published,
}

impl Publisher {
    pub(super) fn connect(config: &StreamConfig, maxlen: Option<u64>) -> Result<Self> {
        let client = server::client(config)?;
        let address = config.address();
        let connection = server::connect_blocking(&client, TIMEOUT).map_err(|error| {
            if error.is_connection_refusal() {
                let cure = "start one with `redis-server`, or set stream.url in the configuration";
                anyhow!("no Redis at {address} ({error}): {cure}")
            } else {
                anyhow!("can't use Redis at {address}: {}", server::explain(&error))
            }
        })?;
        connection.set_read_timeout(Some(TIMEOUT)).context("failed to set the connection's time-out")?;
        connection.set_write_timeout(Some(TIMEOUT)).context("failed to set the connection's time-out")?;
        Ok(Self {
            connection,
            key: config.key.clone(),
            maxlen,
            command: Cmd::new(),
            buffer: Vec::new(),
            unsent: 0,
            unanswered: 0,
            published: Published::default(),
        })
    }

    /// What Redis has confirmed so far.
    pub(super) fn published(&self) -> &Published {
        &self.published
    }

    /// How many entries were sent whose fate is not known; 0 unless the connection failed.
    pub(super) fn unknown(&self) -> usize {
        self.unanswered
    }

    /// Adds an entry; true when this completed a batch and the one before has been confirmed.
    pub(super) fn add(&mut self, record: &Record) -> Result<bool> {
        self.command.clear();
        self.command.arg("XADD").arg(&self.key);
        if let Some(maxlen) = self.maxlen {
            self.command.arg("MAXLEN").arg("~").arg(maxlen);
        }
        self.command.arg("*");
        for (name, value) in record.fields() {
            self.command.arg(name).arg(value);
        }
        self.command.write_packed_command(&mut self.buffer);
        self.unsent += 1;
        if self.unsent < BATCH {
            return Ok(false);
        }
        // Redis works on this batch while the answers to the last are read and the next is made.
        self.send()?;
        self.confirm(self.unanswered - BATCH)?;
        Ok(true)
    }

    /// Sends what was added and waits until all of it is confirmed.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.send()?;
        self.confirm(self.unanswered)
    }

    fn send(&mut self) -> Result<()> {
        if self.unsent > 0 {
            // Before it is tried: a write that fails may have reached Redis in part.
            self.unanswered += std::mem::take(&mut self.unsent);
            self.connection.send_packed_command(&self.buffer).map_err(|error| self.explain(error))?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Reads `count` answers. An error among them does not hide what Redis did take.
    fn confirm(&mut self, count: usize) -> Result<()> {
        let mut refused = None;
        let mut left = count;
        while left > 0 {
            let answer = self.connection.recv_response().map_err(|error| self.explain(error))?;
            self.unanswered -= 1;
            left -= 1;
            match answer.extract_error() {
                Ok(Value::BulkString(id)) => {
                    self.published.add(String::from_utf8(id).context("an entry id is no text")?);
                }
                Ok(other) => bail!("Redis answered XADD with {other:?}, expected an entry id"),
                Err(error) => {
                    refused.get_or_insert(error);
                    left = self.unanswered;
                }
            }
        }
        refused.map_or(Ok(()), |error| Err(self.explain(error)))
    }

    fn explain(&self, error: RedisError) -> Error {
        let key = &self.key;
        let meaning = match error.code() {
            Some("WRONGTYPE") => {
                format!("the key {key} holds no stream (see `redis-cli TYPE {key}`): set another one as stream.key")
            }
            Some("OOM") => {
                "Redis has reached its maxmemory: raise it, or keep the stream short with --maxlen".to_owned()
            }
            Some("READONLY") => "this Redis is a replica: set stream.url to its master".to_owned(),
            Some("NOPERM") => format!("the Redis user may not XADD to {key}"),
            _ if error.is_timeout() => format!("Redis did not answer within {} s", TIMEOUT.as_secs()),
            Some("NOAUTH") => server::explain(&error),
            _ => format!("failed to publish to {key}"),
        };
        // As text: a RedisError names itself as its own cause, which would be printed twice.
        anyhow!("{meaning}: {error}")
    }
}
