//! Reads an alerts stream and continues where it stopped.
//!
//! What holds: a reader returns each alert once, in the order of the stream, over any loss of the connection and any
//! restart of the server. Alerts that were trimmed before they were read are counted, because a server since 7.0
//! reports how many entries it ever added.

use std::{ops::Bound, time::Duration};

use anyhow::{Result, anyhow};
use redis::{Client, Cmd, RedisError, Value, aio::MultiplexedConnection, cmd};

use crate::{
    alert::{StoredAlert, parse_alerts},
    connection::{client, connect},
    errors::explain,
    queries::{PageRequest, ReadOrder},
    recent_ids::RecentIds,
    reply,
};
use tickhound_core::{config::StreamConfig, event::EntryId, stream::Extent};

/// Alerts that are read in one request.
const PAGE: usize = 2000;

/// Limits how long [`AlertsReader::wait`] blocks, so that the caller may do something else in between.
const WAIT: Duration = Duration::from_secs(1);

/// Alerts that a reader remembers, to recognize those that are published again after a failover.
const REMEMBERED: usize = 10_000;

/// Reads everything that an alerts stream holds, oldest first. `map` converts each alert, so that only what the caller
/// needs stays in memory.
///
/// # Errors
/// When Redis cannot be reached, or rejects the request.
pub async fn all_alerts<T>(config: &StreamConfig, stream: &str, map: impl Fn(&StoredAlert) -> T) -> Result<Vec<T>> {
    let client = client(config)?;
    let explain = |error| anyhow!("redis at {}: {}", config.address(), explain(&error));
    let mut connection = connect(&client, Duration::from_millis(config.timeout_ms)).await.map_err(explain)?;
    let (mut alerts, mut from) = (Vec::new(), Bound::Unbounded);
    loop {
        let request = PageRequest { order: ReadOrder::OldestFirst, first: from, last: Bound::Unbounded, count: PAGE };
        let page = request.command(stream).query_async(&mut connection).await.map_err(explain)?;
        let page = parse_alerts(page)?;
        let Some(last) = page.last() else { return Ok(alerts) };
        from = Bound::Excluded(last.at);
        alerts.extend(page.iter().map(&map));
    }
}

/// What one read of an alerts stream returns.
#[derive(Debug, Default)]
pub struct News {
    /// The new alerts, oldest first.
    pub alerts: Vec<StoredAlert>,
    /// At least so many alerts were trimmed before they could be read.
    pub missed: u64,
    /// The number of entries that were left out, because they are not alerts.
    pub foreign: u64,
    /// Whether the server has lost its newest data since the last read.
    pub went_back: bool,
    /// Whether the stream holds nothing newer.
    pub at_end: bool,
}

/// How far an alerts stream has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadPosition {
    /// The id of the last entry that was read.
    pub last: EntryId,
    /// The number of entries ever added to the stream up to `last`. While it is not known, trimmed entries are not
    /// counted as missed.
    index: Option<u64>,
}

/// The result of a search from the newest alert backwards.
struct BackwardSearch {
    /// The wanted alerts, newest first.
    alerts: Vec<StoredAlert>,
    /// The position of the newest entry of the stream.
    newest: ReadPosition,
    /// The number of entries that are newer than the last wanted alert; all entries, if there is no such alert.
    passed: u64,
}

/// Reads an alerts stream, and continues after errors where it stopped.
pub struct AlertsReader {
    client: Client,
    answer_timeout: Duration,
    address: String,
    stream: String,
    connection: Option<MultiplexedConnection>,
    position: ReadPosition,
    /// The alerts that were read last, with their positions.
    seen: RecentIds<EntryId>,
}

impl AlertsReader {
    /// Prepares to read `stream`, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, stream: &str) -> Result<Self> {
        Ok(Self {
            client: client(config)?,
            answer_timeout: Duration::from_millis(config.timeout_ms) + WAIT,
            address: config.address().to_owned(),
            stream: stream.to_owned(),
            connection: None,
            position: ReadPosition::default(),
            seen: RecentIds::new(REMEMBERED),
        })
    }

    /// The key of the stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The position up to which the stream has been read.
    pub fn position(&self) -> ReadPosition {
        self.position
    }

    /// Continues after the entry `last` of the alerts stream. Trimmed entries are counted as missed only after the reader
    /// has reached the end once.
    pub fn continue_after(&mut self, last: EntryId) {
        self.position = ReadPosition { last, index: None };
    }

    /// Continues where another reader of the same stream stopped.
    pub fn continue_at(&mut self, position: ReadPosition) {
        self.position = position;
    }

    /// Continues with everything that the stream holds; entries that were trimmed count as missed.
    pub fn continue_from_start(&mut self) {
        self.position = ReadPosition { last: EntryId::ZERO, index: Some(0) };
    }

    /// Returns the newest `count` alerts that are wanted, oldest first, and continues after the newest entry.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn newest(&mut self, count: usize, is_wanted: impl Fn(&StoredAlert) -> bool) -> Result<Vec<StoredAlert>> {
        let BackwardSearch { mut alerts, newest, .. } = self.search_back(count, is_wanted).await?;
        alerts.reverse();
        self.position = newest;
        alerts.iter().for_each(|alert| _ = self.seen.insert_with(alert.field("id"), alert.at));
        Ok(alerts)
    }

    /// Continues after the newest alert that is wanted; returns false, and leaves the position as it is, if there is no
    /// such alert.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn continue_after_newest(&mut self, is_wanted: impl Fn(&StoredAlert) -> bool) -> Result<bool> {
        let BackwardSearch { alerts, newest, passed } = self.search_back(1, is_wanted).await?;
        let Some(alert) = alerts.first() else { return Ok(false) };
        let index = newest.index.map(|added| added.saturating_sub(passed));
        self.position = ReadPosition { last: alert.at, index };
        Ok(true)
    }

    async fn search_back(&mut self, count: usize, is_wanted: impl Fn(&StoredAlert) -> bool) -> Result<BackwardSearch> {
        // Often every alert is wanted, and then one small page is enough.
        let mut request = PageRequest::newest(count.clamp(1, PAGE));
        let (extent, mut page) = self.read_with_extent(&request.command(&self.stream)).await?;
        let newest = page.first().map_or(EntryId::ZERO, |newest| newest.at);
        let newest = ReadPosition { last: newest, index: extent.map(|extent| extent.added) };
        let mut search = BackwardSearch { alerts: Vec::new(), newest, passed: 0 };
        while search.alerts.len() < count {
            let (is_last, oldest) = (page.len() < request.count, page.last().map(|oldest| oldest.at));
            for alert in page {
                if alert.is_well_formed() && is_wanted(&alert) {
                    search.alerts.push(alert);
                    if search.alerts.len() == count {
                        return Ok(search);
                    }
                }
                search.passed += 1;
            }
            let Some(oldest) = oldest.filter(|_| !is_last) else { break };
            request = PageRequest { first: Bound::Excluded(oldest), count: PAGE, ..request };
            page = parse_alerts(self.query(&request.command(&self.stream)).await?)?;
        }
        Ok(search)
    }

    /// Returns the id of the newest entry that the stream holds; zero if it is empty. The position stays as it is.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn end(&mut self) -> Result<EntryId> {
        let newest = self.query(&PageRequest::newest(1).command(&self.stream)).await?;
        Ok(reply::first_id(&newest).unwrap_or_default())
    }

    /// Reads the alerts after the position, without waiting for any.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn read(&mut self) -> Result<News> {
        let mut news = News::default();
        loop {
            let first = Bound::Excluded(self.position.last);
            let request = PageRequest { order: ReadOrder::OldestFirst, first, last: Bound::Unbounded, count: PAGE };
            let (extent, page) = self.read_with_extent(&request.command(&self.stream)).await?;
            if let (Some(Extent { added, removed, .. }), Some(index)) = (extent, self.position.index) {
                if added < index {
                    // The server may give new alerts ids that are below the position: read again from the oldest alert
                    // that is remembered, and return only those that are not.
                    let oldest = self.seen.oldest().copied().unwrap_or(self.position.last);
                    self.continue_after(oldest.min(self.position.last));
                    news.went_back = true;
                    continue;
                }
                // Trimming removes the oldest entries, so those beyond the position were removed unread.
                news.missed = removed.saturating_sub(index);
                self.position.index = Some(index + news.missed + page.len() as u64);
            }
            if let Some(newest) = page.last() {
                self.position.last = newest.at;
            }
            news.at_end = page.len() < PAGE;
            if news.at_end {
                self.position.index = extent.map(|extent| extent.added);
            }
            for alert in page {
                if !alert.is_well_formed() {
                    news.foreign += 1;
                } else if self.seen.insert_with(alert.field("id"), alert.at) {
                    news.alerts.push(alert);
                }
            }
            return Ok(news);
        }
    }

    /// Waits until there is something to read, at most a second.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn wait(&mut self) -> Result<()> {
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(WAIT.as_millis() as u64);
        wait.arg("STREAMS").arg(&self.stream).arg(self.position.last.to_string());
        self.query(&wait).await.map(|_| ())
    }

    /// Reads a page together with the extent of the stream, in one transaction. Servers before 7.0 don't report the
    /// extent.
    async fn read_with_extent(&mut self, read: &Cmd) -> Result<(Option<Extent>, Vec<StoredAlert>)> {
        let mut pipe = redis::pipe();
        pipe.cmd("MULTI");
        pipe.cmd("XINFO").arg("STREAM").arg(&self.stream);
        pipe.add_command(read.clone());
        pipe.cmd("EXEC");
        let mut connection = self.connection().await?;
        let replies = connection.send_packed_commands(&pipe, 0, pipe.len()).await;
        let mut replies = replies.map_err(|error| self.explain(&error))?;
        let reason = replies.iter().find_map(server_error);
        let Some(Value::Array(mut results)) = replies.pop() else {
            let reason = reason.unwrap_or_else(|| "unexpected answer to EXEC".into());
            return Err(anyhow!("redis at {}: {reason}", self.address));
        };
        let page = results.pop().unwrap_or(Value::Nil);
        if let Some(reason) = server_error(&page) {
            return Err(anyhow!("redis at {}: {}: {reason}", self.address, self.stream));
        }
        self.connection = Some(connection);
        let extent = match results.pop().unwrap_or(Value::Nil) {
            // The server reports an error if the key does not exist: nothing was ever added to it.
            Value::ServerError(_) => Some(Extent { added: 0, removed: 0, alone: true }),
            info => reply::extent(&info, true),
        };
        Ok((extent, parse_alerts(page)?))
    }

    async fn query(&mut self, command: &Cmd) -> Result<Value> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await.map_err(|error| self.explain(&error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Takes the connection out while it is in use: after an error, or half a reply, the next request opens a new one.
    async fn connection(&mut self) -> Result<MultiplexedConnection> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.client, self.answer_timeout).await.map_err(|error| self.explain(&error)),
        }
    }

    fn explain(&self, error: &RedisError) -> anyhow::Error {
        anyhow!("redis at {}: {}", self.address, explain(error))
    }
}

fn server_error(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) => Some(explain(&error.clone().into())),
        _ => None,
    }
}
