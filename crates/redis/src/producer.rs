//! Publishes entries to the stream of ticks, many in one round trip.
//!
//! What holds: an entry counts as published once the server has confirmed it.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use redis::{Cmd, Connection, RedisError, Value};

use crate::{
    connection::{client, connect_blocking},
    errors::explain,
};
use tickhound_core::config::StreamConfig;

/// Entries in one write. From a few hundred on, the round trip no longer limits the rate.
const BATCH: usize = 500;

/// Limits the wait for a connection, and for any reply.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The entries that Redis has confirmed.
#[derive(Debug, Default)]
pub struct Published {
    /// The number of confirmed entries.
    pub count: u64,
    /// The id of the first entry; empty if there is none.
    pub first_id: String,
    /// The id of the last entry; empty if there is none.
    pub last_id: String,
}

impl Published {
    fn add(&mut self, id: String) {
        if self.count == 0 {
            self.first_id.clone_from(&id);
        }
        self.count += 1;
        self.last_id = id;
    }
}

/// Adds entries to a stream.
pub struct Producer {
    connection: Connection,
    key: String,
    maxlen: Option<u64>,
    command: Cmd,
    /// The commands that are not sent yet.
    buffer: Vec<u8>,
    /// The number of commands in `buffer`.
    unsent: usize,
    /// The number of commands that are sent and not confirmed.
    unconfirmed: usize,
    published: Published,
}

impl Producer {
    /// Connects. With `maxlen` the server trims the stream to about that many entries.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub fn connect(config: &StreamConfig, maxlen: Option<u64>) -> Result<Self> {
        let client = client(config)?;
        let address = config.address();
        let connection = connect_blocking(&client, TIMEOUT).map_err(|error| {
            if error.is_connection_refusal() {
                let cure = "start one with `redis-server`, or set stream.url in the configuration";
                anyhow!("no Redis at {address} ({error}): {cure}")
            } else {
                anyhow!("can't use Redis at {address}: {}", explain(&error))
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
            unconfirmed: 0,
            published: Published::default(),
        })
    }

    /// The entries that Redis has confirmed so far.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The number of entries that were sent and may or may not have been added; 0 unless the connection failed.
    pub fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Adds an entry of these names and values; returns true when this completed a batch and the batch before is
    /// confirmed.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects an entry of the batch before.
    pub fn add<'a>(&mut self, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<bool> {
        self.command.clear();
        self.command.arg("XADD").arg(&self.key);
        if let Some(maxlen) = self.maxlen {
            self.command.arg("MAXLEN").arg("~").arg(maxlen);
        }
        self.command.arg("*");
        for (name, value) in fields {
            self.command.arg(name).arg(value);
        }
        self.command.write_packed_command(&mut self.buffer);
        self.unsent += 1;
        if self.unsent < BATCH {
            return Ok(false);
        }
        // Redis processes this batch while the replies to the one before are read and the next one is filled.
        self.send()?;
        self.confirm(self.unconfirmed - BATCH)?;
        Ok(true)
    }

    /// Sends what was added, and waits until all of it is confirmed.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects an entry.
    pub fn flush(&mut self) -> Result<()> {
        self.send()?;
        self.confirm(self.unconfirmed)
    }

    fn send(&mut self) -> Result<()> {
        if self.unsent > 0 {
            // Counted before the write, because a write that fails may have reached Redis in part.
            self.unconfirmed += std::mem::take(&mut self.unsent);
            self.connection.send_packed_command(&self.buffer).map_err(|error| self.explain(error))?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Reads `count` replies. After an error the rest is read too, so that accepted entries are counted.
    fn confirm(&mut self, count: usize) -> Result<()> {
        let mut rejected = None;
        let mut left = count;
        while left > 0 {
            let answer = self.connection.recv_response().map_err(|error| self.explain(error))?;
            self.unconfirmed -= 1;
            left -= 1;
            match answer.extract_error() {
                Ok(Value::BulkString(id)) => {
                    self.published.add(String::from_utf8(id).context("an entry id is not text")?);
                }
                Ok(other) => bail!("Redis answered XADD with {other:?}, expected an entry id"),
                Err(error) => {
                    rejected.get_or_insert(error);
                    left = self.unconfirmed;
                }
            }
        }
        rejected.map_or(Ok(()), |error| Err(self.explain(error)))
    }

    fn explain(&self, error: RedisError) -> Error {
        let key = &self.key;
        let meaning = match error.code() {
            Some("WRONGTYPE") => {
                format!(
                    "the key {key} does not hold a stream (see `redis-cli TYPE {key}`): set another one as stream.key"
                )
            }
            Some("OOM") => "Redis has reached its maxmemory; raise it, or limit the stream with --maxlen".to_owned(),
            Some("READONLY") => "this Redis is a replica; set stream.url to its master".to_owned(),
            Some("NOPERM") => format!("the Redis user may not XADD to {key}"),
            _ if error.is_timeout() => format!("Redis did not answer within {} s", TIMEOUT.as_secs()),
            Some("NOAUTH") => explain(&error),
            _ => format!("failed to publish to {key}"),
        };
        // As text: a RedisError is also its own source, so it would be printed twice.
        anyhow!("{meaning}: {error}")
    }
}
