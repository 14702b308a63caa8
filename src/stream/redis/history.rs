//! What the stream holds, read beside the host's own work, on a connection of its own.

use std::time::Duration;

use redis::{Client, Value, aio::MultiplexedConnection, cmd};

use super::{connect, query, reply, unavailable};
use crate::{
    config::StreamConfig,
    event::{Entries, EntryId},
    stream::{History, StreamError},
};

/// Connects when it is first asked.
pub struct RedisHistory {
    client: Client,
    key: String,
    timeout: Duration,
    connection: Option<MultiplexedConnection>,
}

impl RedisHistory {
    pub(super) fn new(client: &Client, config: &StreamConfig) -> Self {
        let timeout = Duration::from_millis(config.timeout_ms);
        Self { client: client.clone(), key: config.key.clone(), timeout, connection: None }
    }
}

impl History for RedisHistory {
    async fn read(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        let connection = match &mut self.connection {
            Some(open) => open,
            none => none.insert(connect(&self.client, self.timeout).await.map_err(unavailable)?),
        };
        let entries = range(connection, &self.key, after, through, count).await;
        if entries.is_err() {
            self.connection = None;
        }
        entries
    }
}

/// Entries after one id and up to another.
pub(super) async fn range(
    connection: &mut MultiplexedConnection,
    key: &str,
    after: EntryId,
    through: EntryId,
    count: usize,
) -> Result<Entries, StreamError> {
    let mut range = cmd("XRANGE");
    range.arg(key).arg(format!("({after}")).arg(through.to_string()).arg("COUNT").arg(count);
    let entries: Value = query(connection, &range).await?;
    reply::parse_entries(&entries).map_err(StreamError::Unavailable)
}
