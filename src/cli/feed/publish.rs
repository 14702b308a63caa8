//! Publishes entries to the stream, many in one round trip.

use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use redis::{Cmd, Connection, RedisError, Value};

use tickhound_core::config::StreamConfig;
use tickhound_recorded::record::Record;
use tickhound_redis as server;

/// Entries in one write. With a few hundred, the round trip no longer matters.
const BATCH: usize = 500;

/// The longest wait for a connection and for any answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The entries that Redis has confirmed.
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

    /// Entries per second.
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
    /// Commands that are not written yet.
    buffer: Vec<u8>,
    unsent: usize,
    /// Commands that are written and not answered yet.
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

    /// The entries that Redis has confirmed so far.
    pub(super) fn published(&self) -> &Published {
        &self.published
    }

    /// How many entries were sent without an answer; 0 unless the connection failed.
    pub(super) fn unknown(&self) -> usize {
        self.unanswered
    }

    /// Adds an entry; returns true if this completed a batch and the previous batch is confirmed.
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
        // Redis processes this batch while the previous answers are read and the next batch is built.
        self.send()?;
        self.confirm(self.unanswered - BATCH)?;
        Ok(true)
    }

    /// Sends the added entries and waits until all are confirmed.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.send()?;
        self.confirm(self.unanswered)
    }

    fn send(&mut self) -> Result<()> {
        if self.unsent > 0 {
            // Counted before the write: one that fails may have reached Redis in part.
            self.unanswered += std::mem::take(&mut self.unsent);
            self.connection.send_packed_command(&self.buffer).map_err(|error| self.explain(error))?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Reads `count` answers. After an error it reads the rest, to count the entries that Redis accepted.
    fn confirm(&mut self, count: usize) -> Result<()> {
        let mut rejection = None;
        let mut left = count;
        while left > 0 {
            let answer = self.connection.recv_response().map_err(|error| self.explain(error))?;
            self.unanswered -= 1;
            left -= 1;
            match answer.extract_error() {
                Ok(Value::BulkString(id)) => {
                    self.published.add(String::from_utf8(id).context("an entry id is not text")?);
                }
                Ok(other) => bail!("Redis answered XADD with {other:?}, expected an entry id"),
                Err(error) => {
                    rejection.get_or_insert(error);
                    left = self.unanswered;
                }
            }
        }
        rejection.map_or(Ok(()), |error| Err(self.explain(error)))
    }

    fn explain(&self, error: RedisError) -> Error {
        let key = &self.key;
        let meaning = match error.code() {
            Some("WRONGTYPE") => {
                format!("the key {key} is not a stream (see `redis-cli TYPE {key}`); set another stream.key")
            }
            Some("OOM") => "Redis has reached its maxmemory; raise it, or limit the stream with --maxlen".to_owned(),
            Some("READONLY") => "this Redis is a replica; set stream.url to its master".to_owned(),
            Some("NOPERM") => format!("the Redis user may not XADD to {key}"),
            _ if error.is_timeout() => format!("Redis did not answer within {} s", TIMEOUT.as_secs()),
            Some("NOAUTH") => server::explain(&error),
            _ => format!("failed to publish to {key}"),
        };
        // As text: a RedisError is also its own source, so it would be printed twice.
        anyhow!("{meaning}: {error}")
    }
}
