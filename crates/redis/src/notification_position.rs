//! The position of a notification channel in its alerts stream, which is stored beside the stream in Redis.
//!
//! What holds:
//! - A state is replaced only by a process that has read it: the script compares before it writes. So if two hosts
//!   overlap, one begins a message, and the other reads that it was begun.
//! - Only the owner of the partition begins a message.
//! - `sending` is written before a request is sent, and removed when its outcome is known. If another process reads it,
//!   the message may or may not have arrived.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, anyhow};
use redis::{Client, Connection, Script, Value};
use serde::{Deserialize, Serialize};

use crate::{
    alert::{StoredAlert, parse_alerts},
    connection::{client, connect_blocking},
    errors::explain,
    keys::Keys,
    mute::Mute,
    reply,
};
use tickhound_core::{
    condition::ConditionCode,
    config::StreamConfig,
    event::EntryId,
    stream::{Extent, owner::Owner},
};

/// Alerts that are read in one request.
const PAGE: usize = 1000;

/// Limits the requests for one message; the remaining alerts go into the next one.
const PAGES_MAX: usize = 100;

/// Limits how long [`ChannelPosition::wait`] blocks, ms, so that the channel may do something else in between.
const BLOCK_MS: u64 = 1000;

/// Replaces a state. KEYS lease, states; ARGV channel, the state as it was read, the next state, the owner that the lease
/// must have (empty for any), and whether that owner held it before: an expired lease that nobody acquired is still its
/// own.
const WRITE: &str = r"
if ARGV[4] ~= '' then
  local holder = redis.call('GET', KEYS[1])
  if holder ~= ARGV[4] and (holder or ARGV[5] ~= '1') then return 0 end
end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1";

/// Removes the states of other channels. KEYS lease, states; ARGV owner, configured channels. Returns the number of
/// removed states, or -1 if another host owns the partition.
const TIDY: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local known, dropped = {}, 0
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not known[name] then dropped = dropped + redis.call('HDEL', KEYS[2], name) end
end
return dropped";

/// The state of one notification channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelState {
    /// The key of the alerts stream.
    pub stream: String,
    /// The position: the id in the stream of the last alert that was handled.
    pub at: String,
    /// The number of alerts ever added to the stream, up to the position.
    pub index: u64,
    /// The message whose outcome is not known yet.
    pub sending: Option<MessageInFlight>,
    /// What the next message must report beside its alerts.
    #[serde(rename = "owed")]
    pub omissions: Omissions,
    /// The times of attempts within the last minute, ms since the Unix epoch.
    pub sent_ms: Vec<u64>,
    /// The time of the last message that arrived, ms since the Unix epoch.
    pub last_ok_ms: Option<u64>,
    /// The time of the last attempt that failed, ms since the Unix epoch.
    pub last_error_ms: Option<u64>,
    /// The reason why that attempt failed.
    pub last_error: Option<String>,
    /// The totals since the channel exists.
    pub totals: NotificationTotals,
    /// The conditions of the host that were reported to the receiver, and whose end was not.
    pub reported: Vec<ReportedCondition>,
    /// The number of alerts that each mute in force has kept from this channel, by the mute's id.
    pub muted: BTreeMap<String, u64>,
}

/// A condition of the host that was reported to a receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedCondition {
    /// What is wrong.
    pub code: ConditionCode,
    /// What it is about.
    pub subject: String,
    /// When it began, ms since the Unix epoch.
    pub began_ms: u64,
}

impl ReportedCondition {
    /// Whether this is the condition with that code and subject.
    pub fn is(&self, code: ConditionCode, subject: &str) -> bool {
        self.code == code && self.subject == subject
    }
}

impl ChannelState {
    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.last_error_ms > self.last_ok_ms
    }
}

/// A message that is being sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageInFlight {
    /// A random number that identifies the message.
    pub token: u64,
    /// The position after the message.
    pub to: String,
    /// The number of alerts ever added to the stream, up to the position after the message.
    pub index: u64,
    /// The number of alerts in the message, including those that are only counted.
    pub alerts: u64,
    /// The number of attempts.
    pub attempts: u64,
    /// The number of alerts that mutes leave out between its first and its last one, by the mute's id.
    pub muted: BTreeMap<String, u64>,
}

/// The alerts that were not sent, which the next message must report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Omissions {
    /// The number of alerts that were too old to be sent.
    pub older: u64,
    /// The time of the newest alert among `older`, ms since the Unix epoch.
    pub newest_older_ms: u64,
    /// The number of alerts in messages that may or may not have arrived.
    pub in_doubt: u64,
    /// The position before the first alert in doubt.
    pub doubt_after: String,
    /// The position of the last alert in doubt.
    pub doubt_to: String,
    /// The number of alerts in messages that the receiver rejected.
    pub refused: u64,
    /// At least so many alerts were trimmed before they were sent.
    pub missed: u64,
}

impl Omissions {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.older + self.in_doubt + self.refused + self.missed == 0
    }
}

/// Counts since the channel exists, over all hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotificationTotals {
    /// The number of messages that arrived.
    pub messages: u64,
    /// The number of alerts in messages that arrived.
    pub alerts: u64,
    /// The number of alerts that were only counted, because they were too old.
    pub older: u64,
    /// The number of attempts that failed.
    pub failures: u64,
    /// The number of alerts in messages that the receiver rejected.
    pub refused: u64,
    /// The number of alerts in messages that may or may not have arrived.
    pub in_doubt: u64,
    /// At least so many alerts were trimmed before they were sent.
    pub missed: u64,
    /// The number of alerts that mutes have left out.
    pub muted: u64,
    /// The number of messages about the host's health that arrived.
    pub health: u64,
}

/// What Redis holds about a channel.
pub struct ChannelReading {
    /// The state of the channel; `None` if it is new.
    pub state: Option<ChannelState>,
    /// Whether the partition is ours.
    pub ours: bool,
    /// The server's clock, ms since the Unix epoch.
    pub now_ms: u64,
    /// The mutes of the group. Some of them may have ended.
    pub mutes: Vec<Mute>,
}

/// How much an alerts stream has held.
#[derive(Default)]
pub struct AlertsExtent {
    /// The number of alerts ever added.
    pub added: u64,
    /// The number of alerts that were trimmed or deleted.
    pub removed: u64,
    /// The newest id that the stream has given out.
    pub last: EntryId,
}

/// The lease's holder, the state of a channel, the server's clock (s, us), and the mutes.
type StateReply = (Option<String>, Option<String>, (u64, u64), Vec<(String, String)>);

/// Reads and writes the state of one channel, on a connection of its own.
pub struct ChannelPosition {
    client: Client,
    timeout: Duration,
    pub(crate) keys: Keys,
    owner: String,
    /// Whether the partition is ours, or was when somebody last held the lease.
    pub owned: bool,
    connection: Option<Connection>,
    channel: String,
    /// The state as it was last read or written, as JSON.
    known: String,
}

impl ChannelPosition {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, channel: &str) -> Result<Self> {
        Ok(Self {
            client: client(config)?,
            timeout: Duration::from_millis(config.timeout_ms),
            keys: Keys::new(&config.key, &config.group),
            owner: Owner::current().to_text(),
            owned: false,
            connection: None,
            channel: channel.to_owned(),
            known: String::new(),
        })
    }

    /// Reads the state, and whether the partition is ours.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn read_state(&mut self) -> Result<ChannelReading> {
        let mut read = redis::pipe();
        read.cmd("GET").arg(&self.keys.lease);
        read.cmd("HGET").arg(&self.keys.notify).arg(&self.channel);
        read.cmd("TIME");
        read.cmd("HGETALL").arg(&self.keys.mutes);
        let (holder, known, (seconds, micros), mutes): StateReply = self.ask(|connection| read.query(connection))?;
        if let Some(holder) = holder {
            self.owned = holder == self.owner;
        }
        self.known = known.unwrap_or_default();
        let state = serde_json::from_str(&self.known).ok();
        // One that can't be read is another program's, or a newer release's.
        let mutes = mutes.iter().filter_map(|(_, mute)| serde_json::from_str(mute).ok()).collect();
        Ok(ChannelReading { state, ours: self.owned, now_ms: seconds * 1000 + micros / 1000, mutes })
    }

    /// Replaces the state that was read; returns false if it has changed since, or if `fenced` and the partition is not
    /// ours.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn write(&mut self, next: &ChannelState, fenced: bool) -> Result<bool> {
        let next = serde_json::to_string(next)?;
        let script = Script::new(WRITE);
        let mut write = script.key(&self.keys.lease);
        write.key(&self.keys.notify).arg(&self.channel).arg(&self.known).arg(&next);
        write.arg(if fenced { self.owner.as_str() } else { "" }).arg(u8::from(self.owned));
        let written: u64 = self.ask(|connection| write.invoke(connection))?;
        if written == 1 {
            self.known = next;
        }
        Ok(written == 1)
    }

    /// Returns whether there is an alert after `at`; with `block` it waits up to a second for one.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn wait(&mut self, stream: &str, at: &str, block: bool) -> Result<bool> {
        let mut wait = redis::cmd("XREAD");
        wait.arg("COUNT").arg(1);
        if block {
            wait.arg("BLOCK").arg(BLOCK_MS);
        }
        wait.arg("STREAMS").arg(stream).arg(at);
        let alerts: Value = self.ask(|connection| wait.query(connection))?;
        Ok(alerts != Value::Nil)
    }

    /// Reads how much a stream has held; nothing if it does not exist.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn extent(&mut self, stream: &str) -> Result<AlertsExtent> {
        let exists: bool = self.ask(|connection| redis::cmd("EXISTS").arg(stream).query(connection))?;
        if !exists {
            return Ok(AlertsExtent::default());
        }
        let info: Value = self.ask(|connection| redis::cmd("XINFO").arg("STREAM").arg(stream).query(connection))?;
        let last = reply::newest(&info).unwrap_or_default();
        if let Some(Extent { added, removed, .. }) = reply::extent(&info, true) {
            return Ok(AlertsExtent { added, removed, last });
        }
        // Servers before 7.0 do not count what was ever added; then no alert counts as trimmed.
        let length = reply::field(&info, "length").and_then(reply::number);
        Ok(AlertsExtent { added: length.unwrap_or(0), removed: 0, last })
    }

    /// Reads the alerts after `at`, oldest first, and passes each one to `handle`.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn read_alerts(&mut self, stream: &str, at: &str, mut handle: impl FnMut(StoredAlert)) -> Result<()> {
        let mut from = format!("({at}");
        for _ in 0..PAGES_MAX {
            let mut range = redis::cmd("XRANGE");
            range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
            let page = parse_alerts(self.ask(|connection| range.query(connection))?)?;
            let Some(last) = page.last() else { return Ok(()) };
            from = format!("({}", last.at);
            let is_full = page.len() == PAGE;
            page.into_iter().for_each(&mut handle);
            if !is_full {
                break;
            }
        }
        Ok(())
    }

    /// Removes the states of all channels but these, and returns their number; `None` if this host does not own the
    /// partition.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn remove_other_states(&mut self, channels: &[String]) -> Result<Option<u64>> {
        let script = Script::new(TIDY);
        let mut tidy = script.key(&self.keys.lease);
        tidy.key(&self.keys.notify).arg(&self.owner).arg(channels);
        let dropped: i64 = self.ask(|connection| tidy.invoke(connection))?;
        Ok(u64::try_from(dropped).ok())
    }

    /// Reads the states of all channels, by name.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn all(&mut self) -> Result<Vec<(String, ChannelState)>> {
        let key = self.keys.notify.clone();
        let all: Vec<(String, String)> = self.ask(|connection| redis::cmd("HGETALL").arg(&key).query(connection))?;
        let read = |(name, text): (String, String)| Some((name, serde_json::from_str(&text).ok()?));
        Ok(all.into_iter().filter_map(read).collect())
    }

    /// Sends a request on the open connection, or on a new one.
    pub(crate) fn ask<T>(&mut self, ask: impl FnOnce(&mut Connection) -> redis::RedisResult<T>) -> Result<T> {
        let answer = match &mut self.connection {
            Some(open) => ask(open),
            none => connect_blocking(&self.client, self.timeout).and_then(|open| {
                let longest = Some(self.timeout + Duration::from_millis(BLOCK_MS));
                open.set_read_timeout(longest)?;
                open.set_write_timeout(longest)?;
                ask(none.insert(open))
            }),
        };
        answer.map_err(|error| {
            // The reply may still arrive, and must not be read as the reply to the next request.
            self.connection = None;
            anyhow!("redis: {}", explain(&error))
        })
    }
}

/// Whether one id in a stream comes before another.
pub fn is_before(one: &str, other: &str) -> bool {
    one.parse::<EntryId>().unwrap_or_default() < other.parse().unwrap_or_default()
}
