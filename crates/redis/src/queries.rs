//! Reads ticks and alerts for requests of other clients, on connections of its own.
//!
//! What holds: nothing here has an effect on the server, and nothing uses a connection of the engine.

use std::{ops::Bound, time::Duration};

use anyhow::{Result, anyhow};
use redis::{Client, Cmd, FromRedisValue, RedisError, Value, aio::MultiplexedConnection, cmd};
use tokio::sync::Mutex;

use crate::{
    alert::{StoredAlert, parse_alerts},
    connection::{client, connect},
    errors::explain,
    reply,
};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    event::{Entries, EntryId},
};

/// Alerts that a listener reads in one request.
const LIVE_PAGE: usize = 100;

/// How long a listener's read waits for the next alert.
const LIVE_BLOCK: Duration = Duration::from_secs(5);

/// Limits a listener's wait for a reply; it must be longer than [`LIVE_BLOCK`].
const LIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// The direction in which a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Reads from older entries to newer ones.
    OldestFirst,
    /// Reads from newer entries to older ones.
    NewestFirst,
}

/// One page of a stream. Without a bound the page begins or ends where the stream does.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// The direction in which to read.
    pub order: ReadOrder,
    /// The entry with which to begin.
    pub first: Bound<EntryId>,
    /// The entry with which to end.
    pub last: Bound<EntryId>,
    /// The largest number of entries to return.
    pub count: usize,
}

/// A page of entries as it was received. To parse it takes a while, so the caller decides on which thread that happens.
pub struct EntryPage(Value);

/// Reads the streams of one partition. Requests share a connection, which is opened when it is first needed.
pub struct StreamQueries {
    client: Client,
    address: String,
    timeout: Duration,
    ticks: String,
    alerts: String,
    shared: Mutex<Option<MultiplexedConnection>>,
}

/// Reads alerts as they are published, on a connection of its own.
pub struct LiveAlerts {
    client: Client,
    address: String,
    stream: String,
    connection: Option<MultiplexedConnection>,
}

impl StreamQueries {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig) -> Result<Self> {
        Ok(Self {
            client: client(config)?,
            address: config.address().to_owned(),
            timeout: Duration::from_millis(config.timeout_ms),
            ticks: config.key.clone(),
            alerts: alerts.stream.clone(),
            shared: Mutex::new(None),
        })
    }

    /// Reads a page of the alerts stream.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn alerts(&self, page: &PageRequest) -> Result<Vec<StoredAlert>> {
        parse_alerts(self.query(&page.command(&self.alerts)).await?)
    }

    /// Reads a page of the stream of ticks.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn ticks(&self, page: &PageRequest) -> Result<EntryPage> {
        self.query(&page.command(&self.ticks)).await.map(EntryPage)
    }

    /// Returns the id of the newest alert in its stream; zero if there is none.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn newest_alert(&self) -> Result<EntryId> {
        let newest: Value = self.query(&PageRequest::newest(1).command(&self.alerts)).await?;
        Ok(reply::first_id(&newest).unwrap_or(EntryId::ZERO))
    }

    /// Prepares to read alerts as they are published, without connecting.
    pub fn live_alerts(&self) -> LiveAlerts {
        LiveAlerts {
            client: self.client.clone(),
            address: self.address.clone(),
            stream: self.alerts.clone(),
            connection: None,
        }
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut connection = {
            let mut shared = self.shared.lock().await;
            match &*shared {
                Some(connection) => connection.clone(),
                None => {
                    let connection = connect(&self.client, self.timeout).await;
                    shared.insert(connection.map_err(|error| failed(&self.address, &error))?).clone()
                }
            }
        };
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() {
                    *self.shared.lock().await = None;
                }
                Err(failed(&self.address, &error))
            }
        }
    }
}

impl LiveAlerts {
    /// Waits a few seconds for alerts after `last`; returns an empty list if none is published. After an error the next
    /// call connects again.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn after(&mut self, last: EntryId) -> Result<Vec<StoredAlert>> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(LIVE_PAGE).arg("BLOCK").arg(LIVE_BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(&self.stream).arg(last.to_string());
        // A call that is dropped takes its connection along: behind a read that still blocks the next one would wait.
        let connection = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.client, LIVE_TIMEOUT).await,
        };
        let mut connection = connection.map_err(|error| failed(&self.address, &error))?;
        let streams: Option<Vec<(String, Value)>> =
            read.query_async(&mut connection).await.map_err(|error| failed(&self.address, &error))?;
        self.connection = Some(connection);
        streams.into_iter().flatten().next().map_or_else(|| Ok(Vec::new()), |(_, page)| parse_alerts(page))
    }
}

impl PageRequest {
    /// The newest `count` entries, newest first.
    pub(crate) fn newest(count: usize) -> Self {
        Self { order: ReadOrder::NewestFirst, first: Bound::Unbounded, last: Bound::Unbounded, count }
    }

    /// The command that reads the page from `stream`.
    pub(crate) fn command(&self, stream: &str) -> Cmd {
        let (name, start, end) = match self.order {
            ReadOrder::OldestFirst => ("XRANGE", "-", "+"),
            ReadOrder::NewestFirst => ("XREVRANGE", "+", "-"),
        };
        let bound = |bound: Bound<EntryId>, unbounded: &str| match bound {
            Bound::Included(id) => id.to_string(),
            Bound::Excluded(id) => format!("({id}"),
            Bound::Unbounded => unbounded.to_owned(),
        };
        let mut command = cmd(name);
        command.arg(stream).arg(bound(self.first, start)).arg(bound(self.last, end)).arg("COUNT").arg(self.count);
        command
    }
}

impl EntryPage {
    /// Parses the entries.
    ///
    /// # Errors
    /// When the reply is not a list of entries.
    pub fn parse(self) -> Result<Entries> {
        reply::entries_of(self.0).map_err(|error| anyhow!(error))
    }
}

fn failed(address: &str, error: &RedisError) -> anyhow::Error {
    anyhow!("redis at {address}: {}", explain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_at_its_first_bound_in_either_order() {
        let words = |page: &PageRequest| {
            let text = |word: redis::Arg<&[u8]>| match word {
                redis::Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
                _ => panic!("a word of another kind"),
            };
            page.command("ticks").args_iter().map(text).collect::<Vec<_>>().join(" ")
        };
        let id = EntryId { millis: 7, seq: 1 };
        let page = PageRequest {
            order: ReadOrder::NewestFirst,
            first: Bound::Unbounded,
            last: Bound::Included(id),
            count: 10,
        };
        assert_eq!(words(&page), "XREVRANGE ticks + 7-1 COUNT 10");
        let page =
            PageRequest { order: ReadOrder::OldestFirst, first: Bound::Excluded(id), last: Bound::Unbounded, ..page };
        assert_eq!(words(&page), "XRANGE ticks (7-1 + COUNT 10");
    }
}
