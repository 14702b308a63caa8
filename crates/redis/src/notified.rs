//! How far a sink has been told, kept beside the stream in Redis.
//!
//! What holds:
//! - A state is only replaced by whoever has read it: the script compares before it writes. So of two hosts
//!   that overlap for a moment one begins a message and the other finds that it has begun.
//! - Only the owner of the partition begins one.
//! - `sending` is written before a request is made, and taken away when its outcome is known. If it is
//!   found by another process, the message may have arrived, or not: nobody can know.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, anyhow};
use redis::{Client, Connection, Script, Value};
use serde::{Deserialize, Serialize};

use crate::{Keys, client, connect_blocking, explain};
use tickhound_core::{config::StreamConfig, event::EntryId, stream::owner::Owner};

/// Alerts in one round trip.
const PAGE: usize = 1000;

/// Round trips for one message; what is left goes into the next one.
const PAGES_MAX: usize = 100;

/// How long to wait for an alert before looking whether there is something else to do.
const BLOCK_MS: u64 = 1000;

/// KEYS lease, states; ARGV sink, state as it was read, next state, owner if it must be that one, whether
/// it was the owner before: a lease that ran out and that nobody took is its own still.
const WRITE: &str = r"
if ARGV[4] ~= '' then
  local holder = redis.call('GET', KEYS[1])
  if holder ~= ARGV[4] and (holder or ARGV[5] ~= '1') then return 0 end
end
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1";

/// KEYS lease, states; ARGV owner, sinks that are configured. -1: it is another's partition.
const TIDY: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local known, dropped = {}, 0
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not known[name] then dropped = dropped + redis.call('HDEL', KEYS[2], name) end
end
return dropped";

/// Of one sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Key of the stream of alerts.
    pub stream: String,
    /// The last alert, by its id in that stream, that needs no more telling.
    pub at: String,
    /// Alerts ever added to the stream, up to and with that one.
    pub index: u64,
    /// A message whose outcome is not known.
    pub sending: Option<Sending>,
    /// What the next message has to say beside its alerts.
    pub owed: Owed,
    /// Attempts within the last minute, ms since the Unix epoch.
    pub sent_ms: Vec<u64>,
    /// The last message that arrived, ms since the Unix epoch.
    pub last_ok_ms: Option<u64>,
    /// The last attempt that failed, ms since the Unix epoch.
    pub last_error_ms: Option<u64>,
    /// Why it did.
    pub last_error: Option<String>,
    /// Totals since the sink exists.
    pub totals: Totals,
}

impl State {
    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.last_error_ms > self.last_ok_ms
    }
}

/// A message under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sending {
    /// Whose it is: drawn anew for each message.
    pub token: u64,
    /// `at` and `index` once it has arrived.
    pub to: String,
    /// See `to`.
    pub index: u64,
    /// Alerts in it, counted ones too.
    pub alerts: u64,
    /// How often it was tried.
    pub attempts: u64,
}

/// Alerts that were not told, and of which the next message says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Owed {
    /// Came too late to be news.
    pub older: u64,
    /// When the newest of them came, ms since the Unix epoch.
    pub newest_older_ms: u64,
    /// Were in a message of which nobody knows whether it arrived.
    pub in_doubt: u64,
    /// Where these begin (after) and end (with), by id in the stream.
    pub doubt_after: String,
    /// See `doubt_after`.
    pub doubt_to: String,
    /// Were in a message that the receiver refused.
    pub refused: u64,
    /// Were trimmed away before they were told, at least.
    pub missed: u64,
}

impl Owed {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.older + self.in_doubt + self.refused + self.missed == 0
    }
}

/// Counted since the sink exists, over all hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Messages that arrived.
    pub messages: u64,
    /// Alerts in them.
    pub alerts: u64,
    /// Alerts that were only counted, because they came late.
    pub older: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Alerts in messages that were refused.
    pub refused: u64,
    /// Alerts in messages of which nobody knows whether they arrived.
    pub in_doubt: u64,
    /// Alerts that were trimmed away before they were told, at least.
    pub missed: u64,
}

/// What is there.
pub struct Look {
    pub state: Option<State>,
    /// Whether the partition is ours.
    pub ours: bool,
    /// By the server's clock.
    pub now_ms: u64,
}

/// How a stream of alerts stands.
#[derive(Default)]
pub struct Extent {
    /// Alerts ever added.
    pub added: u64,
    /// Of these those that are gone.
    pub removed: u64,
    pub last: String,
}

/// The way to the states, on a connection of its own.
pub struct Position {
    client: Client,
    timeout: Duration,
    keys: Keys,
    owner: String,
    /// Whether the partition is, or was last, ours.
    pub owned: bool,
    connection: Option<Connection>,
    sink: String,
    /// The state as it was last read or written.
    known: String,
}

/// Of an entry, as they are: names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl Position {
    pub fn new(config: &StreamConfig, sink: &str) -> Result<Self> {
        Ok(Self {
            client: client(config)?,
            timeout: Duration::from_millis(config.timeout_ms),
            keys: Keys::new(&config.key, &config.group),
            owner: Owner::current().to_text(),
            owned: false,
            connection: None,
            sink: sink.to_owned(),
            known: String::new(),
        })
    }

    /// Reads the state anew.
    pub fn look(&mut self) -> Result<Look> {
        let mut look = redis::pipe();
        look.cmd("GET").arg(&self.keys.lease);
        look.cmd("HGET").arg(&self.keys.notify).arg(&self.sink);
        look.cmd("TIME");
        let (holder, known, (seconds, micros)): (Option<String>, Option<String>, (u64, u64)) =
            self.ask(|connection| look.query(connection))?;
        if let Some(holder) = holder {
            self.owned = holder == self.owner;
        }
        self.known = known.unwrap_or_default();
        let state = serde_json::from_str(&self.known).ok();
        Ok(Look { state, ours: self.owned, now_ms: seconds * 1000 + micros / 1000 })
    }

    /// Replaces the state that was read; `Ok(false)` if it has changed since, or if `fenced` and the
    /// partition is not ours.
    pub fn write(&mut self, next: &State, fenced: bool) -> Result<bool> {
        let next = serde_json::to_string(next)?;
        let script = Script::new(WRITE);
        let mut write = script.key(&self.keys.lease);
        write.key(&self.keys.notify).arg(&self.sink).arg(&self.known).arg(&next);
        write.arg(if fenced { self.owner.as_str() } else { "" }).arg(u8::from(self.owned));
        let written: u64 = self.ask(|connection| write.invoke(connection))?;
        if written == 1 {
            self.known = next;
        }
        Ok(written == 1)
    }

    /// Waits a moment for an alert after `at`.
    pub fn wait(&mut self, stream: &str, at: &str, block: bool) -> Result<bool> {
        let mut wait = redis::cmd("XREAD");
        wait.arg("COUNT").arg(1);
        if block {
            wait.arg("BLOCK").arg(BLOCK_MS);
        }
        wait.arg("STREAMS").arg(stream).arg(at);
        let found: Value = self.ask(|connection| wait.query(connection))?;
        Ok(found != Value::Nil)
    }

    /// How a stream stands; empty if there is none.
    pub fn extent(&mut self, stream: &str) -> Result<Extent> {
        let exists: bool = self.ask(|connection| redis::cmd("EXISTS").arg(stream).query(connection))?;
        if !exists {
            return Ok(Extent { last: EntryId::ZERO.to_string(), ..Extent::default() });
        }
        let info: HashMap<String, Value> =
            self.ask(|connection| redis::cmd("XINFO").arg("STREAM").arg(stream).query(connection))?;
        let number = |name: &str| match info.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).unwrap_or(0),
            _ => 0,
        };
        let last = info.get("last-generated-id").and_then(|id| redis::from_redis_value(id.clone()).ok());
        // Servers before 7.0 do not count what was ever added: then nothing seems to be missing.
        let (added, length) = (number("entries-added").max(number("length")), number("length"));
        Ok(Extent { added, removed: added - length, last: last.unwrap_or_default() })
    }

    /// Hands over alerts after `at`, one after the other.
    pub fn read(&mut self, stream: &str, at: &str, mut take: impl FnMut(Told)) -> Result<()> {
        let mut from = format!("({at}");
        for _ in 0..PAGES_MAX {
            let mut range = redis::cmd("XRANGE");
            range.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
            let page: Vec<(String, Fields)> = self.ask(|connection| range.query(connection))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = format!("({last}");
            let full = page.len() == PAGE;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            for (at, fields) in page {
                let fields = fields.into_iter().map(|(name, value)| (text(name), text(value))).collect();
                take(Told { at: at.parse().unwrap_or_default(), fields });
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Drops the states of all sinks but these; `None`: another host works the partition, or none.
    pub fn tidy(&mut self, sinks: &[String]) -> Result<Option<u64>> {
        let script = Script::new(TIDY);
        let mut tidy = script.key(&self.keys.lease);
        tidy.key(&self.keys.notify).arg(&self.owner).arg(sinks);
        let dropped: i64 = self.ask(|connection| tidy.invoke(connection))?;
        Ok(u64::try_from(dropped).ok())
    }

    /// Every state that there is, by sink.
    pub fn all(&mut self) -> Result<Vec<(String, State)>> {
        let key = self.keys.notify.clone();
        let all: Vec<(String, String)> = self.ask(|connection| redis::cmd("HGETALL").arg(&key).query(connection))?;
        let read = |(name, text): (String, String)| Some((name, serde_json::from_str(&text).ok()?));
        Ok(all.into_iter().filter_map(read).collect())
    }

    fn ask<T>(&mut self, ask: impl FnOnce(&mut Connection) -> redis::RedisResult<T>) -> Result<T> {
        let asked = match &mut self.connection {
            Some(open) => ask(open),
            none => connect_blocking(&self.client, self.timeout).and_then(|open| {
                let longest = Some(self.timeout + Duration::from_millis(BLOCK_MS));
                open.set_read_timeout(longest)?;
                open.set_write_timeout(longest)?;
                ask(none.insert(open))
            }),
        };
        asked.map_err(|error| {
            // An answer may still be on its way; nobody must take it for another one's.
            self.connection = None;
            anyhow!("redis: {}", explain(&error))
        })
    }
}

/// Whether one id in a stream comes before another.
pub fn is_before(one: &str, other: &str) -> bool {
    one.parse::<EntryId>().unwrap_or_default() < other.parse().unwrap_or_default()
}

/// An alert as its stream has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Its place in the stream.
    pub at: EntryId,
    /// Names and values.
    pub fields: Vec<(String, String)>,
}

impl Told {
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn confidence(&self) -> f64 {
        self.field("confidence").parse().unwrap_or(0.0)
    }

    /// Time since its entry arrived, ms.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.at.millis).saturating_add(self.field("lag_ms").parse().unwrap_or(0))
    }
}
