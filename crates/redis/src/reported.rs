//! Alerts as a stream keeps them, for reports and for those who follow them.
//!
//! What holds for who follows: each alert once, in the order of the stream, over any loss of the
//! connection and any restart of the server. What was trimmed away unseen is counted, as a server since
//! 7.0 tells how many entries there ever were.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use anyhow::{Result, anyhow};
use redis::{Client, Cmd, RedisError, Value, aio::MultiplexedConnection, cmd};
use serde::Serialize;

use super::{client, connect, explain, reply};
use tickhound_core::{
    config::StreamConfig,
    event::{Entry, EntryId},
    publish::json_line,
};

/// Alerts read in one go.
const PAGE: usize = 2000;

/// Longest wait for an alert before the caller may look at something else.
const WAIT: Duration = Duration::from_secs(1);

/// So many alerts are remembered, to know those again that a server without its newest data is given twice.
const REMEMBERED: usize = 10_000;

/// What a report needs of an alert.
#[derive(Clone, Debug, Serialize)]
pub struct Reported {
    /// Never given twice.
    pub id: String,
    /// Who raised it.
    pub detector: String,
    /// Id of the entry that caused it.
    pub entry: String,
    /// About what.
    pub symbol: String,
    /// `up`, `down` or `none`.
    pub direction: String,
    /// 0..=1.
    pub confidence: f64,
}

/// Everything that a stream of alerts keeps, oldest first.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub async fn alerts_of(config: &StreamConfig, stream: &str) -> Result<Vec<Reported>> {
    let client = client(config)?;
    let explain = |error| anyhow!("redis at {}: {}", config.address(), explain(&error));
    let mut connection = connect(&client, Duration::from_millis(config.timeout_ms)).await.map_err(explain)?;
    let (mut alerts, mut from) = (Vec::new(), "-".to_owned());
    loop {
        let mut page = cmd("XRANGE");
        page.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let page: Vec<(String, HashMap<String, String>)> = page.query_async(&mut connection).await.map_err(explain)?;
        let Some((last, _)) = page.last() else { return Ok(alerts) };
        from = format!("({last}");
        alerts.extend(page.into_iter().map(|(_, mut fields)| {
            let mut take = |name: &str| fields.remove(name).unwrap_or_default();
            Reported {
                id: take("id"),
                detector: take("detector"),
                entry: take("entry"),
                symbol: take("symbol"),
                direction: take("direction"),
                confidence: take("confidence").parse().unwrap_or(0.0),
            }
        }));
    }
}

/// An alert as it lies in its stream.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Id in the stream of alerts, whose first part is when it was published.
    pub at: EntryId,
    /// Names and values.
    pub fields: Vec<(String, String)>,
}

impl Kept {
    /// The value of a field; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The value of a field that is a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.field(name).parse().ok()
    }

    /// Whether a field that is 0 or 1 is 1.
    pub fn is(&self, name: &str) -> bool {
        self.field(name) == "1"
    }

    /// The line that the JSON lines file has.
    pub fn to_json(&self) -> String {
        json_line(self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Whether it is an alert: anybody may add anything to a stream.
    fn is_alert(&self) -> bool {
        let evidence = serde_json::from_str::<serde::de::IgnoredAny>(self.field("evidence"));
        let named = ["id", "detector", "symbol"].iter().all(|name| !self.field(name).is_empty());
        let empty_or_number = |name| self.field(name).is_empty() || self.number::<f64>(name).is_some();
        named
            && evidence.is_ok()
            && self.number::<f64>("confidence").is_some()
            && ["time", "price", "lag_ms", "recovered", "stale"].into_iter().all(empty_or_number)
    }
}

/// What there was to read.
#[derive(Debug, Default)]
pub struct News {
    /// Oldest first.
    pub alerts: Vec<Kept>,
    /// Alerts, at least, that were trimmed away before they could be read.
    pub missed: u64,
    /// Entries that are no alerts, and were left out.
    pub foreign: u64,
    /// Whether the server has come back without its newest data.
    pub went_back: bool,
    /// Whether there is no more for now.
    pub at_end: bool,
}

/// How far a stream of alerts has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadTo {
    /// Reading goes on after this one.
    pub last: EntryId,
    /// Entries ever added to the stream up to `last`; `None` while that is not known. What is trimmed is only missed if it
    /// is.
    index: Option<u64>,
}

/// What a walk from the newest alert backwards has found.
struct Walk {
    /// Those that were wanted, newest first.
    found: Vec<Kept>,
    /// The newest entry of all.
    newest: ReadTo,
    /// Entries newer than the last one that was found; all that there are, if none was.
    passed: u64,
}

/// Reads a stream of alerts, and goes on where it was after whatever happened.
pub struct AlertsReader {
    client: Client,
    answer_timeout: Duration,
    address: String,
    stream: String,
    connection: Option<MultiplexedConnection>,
    read_to: ReadTo,
    seen: Seen,
}

impl AlertsReader {
    /// Prepares to read `stream`, without connecting.
    ///
    /// # Errors
    /// When the URL is none that can be used.
    pub fn new(config: &StreamConfig, stream: &str) -> Result<Self> {
        Ok(Self {
            client: client(config)?,
            answer_timeout: Duration::from_millis(config.timeout_ms) + WAIT,
            address: config.address().to_owned(),
            stream: stream.to_owned(),
            connection: None,
            read_to: ReadTo::default(),
            seen: Seen::default(),
        })
    }

    /// Key of the stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// How far it has read.
    pub fn read_to(&self) -> ReadTo {
        self.read_to
    }

    /// Reading goes on after the entry `last` of the stream of alerts. What is trimmed is counted as missed only once the
    /// end has been read.
    pub fn go_on_after(&mut self, last: EntryId) {
        self.read_to = ReadTo { last, index: None };
    }

    /// Reading goes on where another reader of the same stream was.
    pub fn go_on_at(&mut self, read_to: ReadTo) {
        self.read_to = read_to;
    }

    /// Reading goes on with everything that the stream holds; what it held before counts as missed.
    pub fn go_on_from_start(&mut self) {
        self.read_to = ReadTo { last: EntryId::ZERO, index: Some(0) };
    }

    /// The newest `count` alerts that `wanted` wants, oldest first; reading goes on after the newest one.
    ///
    /// # Errors
    /// A sentence on why the server can't be asked; so with all that follow.
    pub async fn newest(&mut self, count: usize, wanted: impl Fn(&Kept) -> bool) -> Result<Vec<Kept>> {
        let Walk { mut found, newest, .. } = self.walk_back(count, wanted).await?;
        found.reverse();
        self.read_to = newest;
        found.iter().for_each(|alert| _ = self.seen.is_new(alert));
        Ok(found)
    }

    /// Looks for the newest alert that `wanted` wants; reading goes on after it, or where it was if there is none.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn go_on_after_newest(&mut self, wanted: impl Fn(&Kept) -> bool) -> Result<bool> {
        let Walk { found, newest, passed } = self.walk_back(1, wanted).await?;
        let Some(alert) = found.first() else { return Ok(false) };
        let index = newest.index.map(|added| added.saturating_sub(passed));
        self.read_to = ReadTo { last: alert.at, index };
        Ok(true)
    }

    async fn walk_back(&mut self, count: usize, wanted: impl Fn(&Kept) -> bool) -> Result<Walk> {
        // Often all are wanted; if not, who knows how many have to be looked at.
        let mut size = count.clamp(1, PAGE);
        let mut command = cmd("XREVRANGE");
        command.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(size);
        let (extent, mut page) = self.look(&command).await?;
        let newest = page.first().map_or(EntryId::ZERO, |newest| newest.at);
        let newest = ReadTo { last: newest, index: extent.map(|(added, _)| added) };
        let mut walk = Walk { found: Vec::new(), newest, passed: 0 };
        loop {
            let (whole, oldest) = (page.len() < size, page.last().map(|oldest| oldest.at));
            for alert in page {
                if alert.is_alert() && wanted(&alert) {
                    walk.found.push(alert);
                    if walk.found.len() == count {
                        return Ok(walk);
                    }
                }
                walk.passed += 1;
            }
            let Some(oldest) = oldest.filter(|_| !whole) else { return Ok(walk) };
            size = PAGE;
            let mut command = cmd("XREVRANGE");
            command.arg(&self.stream).arg(format!("({oldest}")).arg("-").arg("COUNT").arg(size);
            page = kept(self.query(&command).await?)?;
        }
    }

    /// Id of the newest entry that the stream holds; zero if there is none. Reading goes on where it was.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn end(&mut self) -> Result<EntryId> {
        let mut newest = cmd("XREVRANGE");
        newest.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        Ok(reply::first_id(&self.query(&newest).await?).unwrap_or_default())
    }

    /// What there is after the last one that was read; may be nothing.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn read(&mut self) -> Result<News> {
        let mut news = News::default();
        loop {
            let mut next = cmd("XRANGE");
            next.arg(&self.stream).arg(format!("({}", self.read_to.last)).arg("+").arg("COUNT").arg(PAGE);
            let (extent, page) = self.look(&next).await?;
            if let (Some((added, removed)), Some(index)) = (extent, self.read_to.index) {
                if added < index {
                    // What comes now may get ids from before: read again what is remembered, and tell only what is new.
                    let oldest = self.seen.order.front().map_or(self.read_to.last, |(at, _)| *at);
                    self.go_on_after(oldest.min(self.read_to.last));
                    news.went_back = true;
                    continue;
                }
                // Trimming takes the oldest, so what is gone beyond our place was never ours to read.
                news.missed = removed.saturating_sub(index);
                self.read_to.index = Some(index + news.missed + page.len() as u64);
            }
            if let Some(newest) = page.last() {
                self.read_to.last = newest.at;
            }
            news.at_end = page.len() < PAGE;
            if news.at_end {
                self.read_to.index = extent.map(|(added, _)| added);
            }
            for kept in page {
                match kept.is_alert() {
                    true if self.seen.is_new(&kept) => news.alerts.push(kept),
                    true => {}
                    false => news.foreign += 1,
                }
            }
            return Ok(news);
        }
    }

    /// Waits until there is something to read, a second at the longest.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn wait(&mut self) -> Result<()> {
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(WAIT.as_millis() as u64);
        wait.arg("STREAMS").arg(&self.stream).arg(self.read_to.last.to_string());
        self.query(&wait).await.map(|_| ())
    }

    /// How many entries were ever added to the stream and how many of them are gone, and what `read` reads of it, of one
    /// moment. Servers before 7.0 don't tell the numbers.
    async fn look(&mut self, read: &Cmd) -> Result<(Option<(u64, u64)>, Vec<Kept>)> {
        let mut pipe = redis::pipe();
        pipe.cmd("MULTI");
        pipe.cmd("XINFO").arg("STREAM").arg(&self.stream);
        pipe.add_command(read.clone());
        pipe.cmd("EXEC");
        let mut connection = self.connection().await?;
        let answer = connection.send_packed_commands(&pipe, 0, pipe.len()).await;
        let mut answer = answer.map_err(|error| self.explain(&error))?;
        let refused = answer.iter().find_map(server_error);
        let Some(Value::Array(mut results)) = answer.pop() else {
            let refused = refused.unwrap_or_else(|| "unexpected answer to EXEC".into());
            return Err(anyhow!("redis at {}: {refused}", self.address));
        };
        let page = results.pop().unwrap_or(Value::Nil);
        if let Some(refused) = server_error(&page) {
            return Err(anyhow!("redis at {}: {}: {refused}", self.address, self.stream));
        }
        self.connection = Some(connection);
        let extent = match results.pop().unwrap_or(Value::Nil) {
            // Without the key there is no answer: nothing was ever added to it.
            Value::ServerError(_) => Some((0, 0)),
            info => reply::extent(&info, true).map(|extent| (extent.added, extent.removed)),
        };
        Ok((extent, kept(page)?))
    }

    async fn query(&mut self, command: &Cmd) -> Result<Value> {
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await.map_err(|error| self.explain(&error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Taken out while it is used: after an error, or half an answer, the next use makes a new one.
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

/// The alerts that were read last.
#[derive(Default)]
struct Seen {
    order: VecDeque<(EntryId, String)>,
    ids: HashSet<String>,
}

impl Seen {
    fn is_new(&mut self, alert: &Kept) -> bool {
        let id = alert.field("id");
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back((alert.at, id.to_owned()));
        if self.order.len() > REMEMBERED
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

fn server_error(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(error) => Some(explain(&error.clone().into())),
        _ => None,
    }
}

fn kept(page: Value) -> Result<Vec<Kept>> {
    let entries = reply::entries_of(page).map_err(|error| anyhow!(error))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kept = |entry: Entry<'_>| Kept {
        at: entry.id,
        fields: entry.fields().map(|(name, value)| (text(name), text(value))).collect(),
    };
    Ok(entries.iter().map(kept).collect())
}
