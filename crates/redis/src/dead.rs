//! Reads dead letters, requeues their entries, and removes them.
//!
//! What holds: a letter is removed in the same step that adds its entry to the ticks again, and only if it still exists.
//! So an entry is requeued once, however often that is requested, and wherever a request is interrupted.

use std::time::Duration;

use anyhow::{Result, anyhow};
use redis::{Cmd, Pipeline, RedisError, Value, aio::MultiplexedConnection, cmd, streams::StreamInfoGroupsReply};

use crate::{
    connection::{client, connect},
    errors::explain,
    keys::Keys,
    reply,
};
use tickhound_core::{
    config::StreamConfig,
    event::EntryId,
    publish::{Fields, raw_fields},
};

/// The least time allowed for a reply: a page of letters may be large, and no other request waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The server's Lua passes at most 8000 values to a command.
const FIELDS_MAX: usize = 3900;

/// Requeues an entry. KEYS dead letters, ticks; ARGV letter, then the names and values of the entry. The letter is
/// removed last: if the entry can't be added, the script ends and the letter stays.
const REQUEUE: &str = r"
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return false end
local id = redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], ARGV[1])
return id";

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The id of the letter. Its first part is the time at which the entry was dead-lettered.
    pub id: EntryId,
    /// The names and values in the stream of dead letters.
    pub fields: Vec<(String, String)>,
}

/// The outcome of a request to move or remove a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterOutcome {
    /// The entry was added to the ticks again, under this id.
    Requeued(EntryId),
    /// The letter was removed.
    Dropped,
    /// The letter does not exist.
    Gone,
    /// The letter stays, for this reason.
    Rejected(String),
}

/// The dead letters of one group.
pub struct DeadLetters {
    connection: MultiplexedConnection,
    key: String,
    stream: String,
    group: String,
    address: String,
}

impl Letter {
    /// The value of a field; `None` if the letter does not have it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The size of all values, bytes.
    pub fn size(&self) -> usize {
        self.fields.iter().map(|(_, value)| value.len()).sum()
    }

    /// Parses the fields of the entry.
    fn entry_fields(&self) -> Result<Fields, String> {
        let raw = self.field("raw").ok_or("it has no field `raw`")?;
        let fields = raw_fields(raw).map_err(|error| format!("its field `raw` can't be read: {error}"))?;
        match fields.len() {
            0 => Err("its entry had no fields".into()),
            1..=FIELDS_MAX => Ok(fields),
            many => Err(format!("its entry has {many} fields; more than {FIELDS_MAX} can't be moved in one step")),
        }
    }
}

impl DeadLetters {
    /// Connects.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn open(config: &StreamConfig) -> Result<Self> {
        let client = client(config)?;
        let timeout = Duration::from_millis(config.timeout_ms).max(ANSWER_TIMEOUT);
        let address = config.address().to_owned();
        let connection = connect(&client, timeout).await;
        let connection = connection.map_err(|error| anyhow!("redis at {address}: {}", explain(&error)))?;
        let key = Keys::new(&config.key, &config.group).dead;
        Ok(Self { connection, key, stream: config.key.clone(), group: config.group.clone(), address })
    }

    /// The key of the stream of dead letters.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key of the stream of ticks, to which requeued entries are added.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Counts the letters.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn count(&mut self) -> Result<u64> {
        self.query(cmd("XLEN").arg(self.key.clone())).await
    }

    /// Returns at most `count` letters before `before`, or the newest ones; newest first.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn newest(&mut self, before: Option<EntryId>, count: usize) -> Result<Vec<Letter>> {
        let end = before.map_or_else(|| "+".to_owned(), |before| format!("({before}"));
        let key = self.key.clone();
        self.letters(cmd("XREVRANGE").arg(key).arg(end).arg("-").arg("COUNT").arg(count)).await
    }

    /// Returns at most `count` letters after `after` and up to `through`; oldest first.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn oldest(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Vec<Letter>> {
        let (key, begin, end) = (self.key.clone(), format!("({after}"), through.to_string());
        self.letters(cmd("XRANGE").arg(key).arg(begin).arg(end).arg("COUNT").arg(count)).await
    }

    /// Returns whether the group has read all entries of the stream from `first` to `last`, and acknowledged them.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn is_processed(&mut self, first: EntryId, last: EntryId) -> Result<bool> {
        let (stream, group) = (self.stream.clone(), self.group.clone());
        let groups: StreamInfoGroupsReply = self.query(cmd("XINFO").arg("GROUPS").arg(&stream)).await?;
        let read = groups.groups.iter().find(|known| known.name == group).map(|group| &group.last_delivered_id);
        if read.and_then(|id| id.parse::<EntryId>().ok()).is_none_or(|read| read < last) {
            return Ok(false);
        }
        let mut pending = cmd("XPENDING");
        pending.arg(&stream).arg(&group).arg(first.to_string()).arg(last.to_string()).arg(1);
        let pending: Vec<Value> = self.query(&pending).await?;
        Ok(pending.is_empty())
    }

    /// Returns the letter of this id.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub async fn get(&mut self, id: EntryId) -> Result<Option<Letter>> {
        let (key, id) = (self.key.clone(), id.to_string());
        Ok(self.letters(cmd("XRANGE").arg(key).arg(&id).arg(&id)).await?.pop())
    }

    /// Adds the entries of letters to the ticks again, each in one step with the removal of its letter.
    ///
    /// # Errors
    /// When Redis cannot be reached. Some letters may have been moved.
    pub async fn requeue(&mut self, letters: &[Letter]) -> Result<Vec<LetterOutcome>> {
        let entries: Vec<Result<Fields, String>> = letters.iter().map(Letter::entry_fields).collect();
        let mut pipe = redis::pipe();
        for (letter, fields) in letters.iter().zip(&entries) {
            let Ok(fields) = fields else { continue };
            pipe.cmd("EVAL").arg(REQUEUE).arg(2).arg(&self.key).arg(&self.stream).arg(letter.id.to_string());
            for (name, value) in fields {
                pipe.arg(name).arg(value);
            }
        }
        let mut answers = self.send(&pipe).await?.into_iter();
        let moved = |entry: Result<Fields, String>| match entry {
            Ok(_) => self.moved(answers.next()),
            Err(reason) => LetterOutcome::Rejected(reason),
        };
        Ok(entries.into_iter().map(moved).collect())
    }

    /// Removes letters.
    ///
    /// # Errors
    /// When Redis cannot be reached. Some letters may have been removed.
    pub async fn remove(&mut self, ids: &[EntryId]) -> Result<Vec<LetterOutcome>> {
        let mut pipe = redis::pipe();
        for id in ids {
            pipe.cmd("XDEL").arg(&self.key).arg(id.to_string());
        }
        let answers = self.send(&pipe).await?;
        Ok(answers.into_iter().map(|answer| self.moved(Some(answer))).collect())
    }

    fn moved(&self, answer: Option<Value>) -> LetterOutcome {
        match answer {
            Some(Value::Nil | Value::Int(0)) => LetterOutcome::Gone,
            Some(Value::Int(_)) => LetterOutcome::Dropped,
            Some(Value::ServerError(error)) => LetterOutcome::Rejected(self.reason(&error.into(), &self.stream)),
            Some(other) => match reply::text(&other).and_then(|id| id.parse().ok()) {
                Some(id) => LetterOutcome::Requeued(id),
                None => LetterOutcome::Rejected(format!("unexpected answer: {other:?}")),
            },
            None => LetterOutcome::Rejected("no answer".into()),
        }
    }

    async fn letters(&mut self, command: &Cmd) -> Result<Vec<Letter>> {
        let entries: Vec<(String, Fields)> = self.query(command).await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let letter = |(id, fields): (String, Fields)| {
            let fields = fields.into_iter().map(|(name, value)| (text(name), text(value))).collect();
            Ok(Letter { id: id.parse()?, fields })
        };
        entries.into_iter().map(letter).collect()
    }

    async fn query<T: redis::FromRedisValue>(&mut self, command: &Cmd) -> Result<T> {
        let answer = command.query_async(&mut self.connection).await;
        answer.map_err(|error| anyhow!("redis at {}: {}", self.address, self.reason(&error, &self.key)))
    }

    async fn send(&mut self, pipe: &Pipeline) -> Result<Vec<Value>> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.connection.send_packed_commands(pipe, 0, pipe.len()).await;
        answers.map_err(|error| anyhow!("redis at {}: {}", self.address, explain(&error)))
    }

    fn reason(&self, error: &RedisError, key: &str) -> String {
        match error.to_string() {
            text if text.contains("WRONGTYPE") => format!("the key {key} does not hold a stream"),
            _ => explain(error),
        }
    }
}
