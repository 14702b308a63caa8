//! Mutes: which alerts notification channels leave out for a while. They are kept beside the stream in Redis, so that all
//! hosts of a group, and every channel, have the same.
//!
//! What holds: a mute changes nothing but what channels send. It goes by the clock of the server, as the channels do, and
//! ends by itself.

use anyhow::Result;
use redis::Script;

pub use crate::mute::{MUTE_SECONDS_MAX, Mute, MutesInForce, PATTERN_MAX};
use crate::notification_position::ChannelPosition;
use tickhound_core::config::StreamConfig;

/// The most mutes at once. Each is compared with each alert, and nobody knows what a hundred of them leave out.
pub const MUTES_MAX: usize = 100;

/// Adds a mute. KEYS mutes; ARGV the server's clock (ms), the most mutes, field, value. Removes the mutes that have ended.
/// Returns -1 if there are too many, else 1.
const ADD: &str = r"
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local read, mute = pcall(cjson.decode, all[i + 1])
  local ends = read and type(mute) == 'table' and tonumber(mute.until_ms) or 0
  if ends <= tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], all[i]) end
end
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1";

/// What became of a mute that was to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// It is in force.
    Added,
    /// There are as many as there may be.
    TooMany,
}

/// The mutes of a group, on a connection of its own.
pub struct Mutes {
    server: ChannelPosition,
}

impl Mutes {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig) -> Result<Self> {
        Ok(Self { server: ChannelPosition::new(config, "")? })
    }

    /// The clock of the server, ms since the Unix epoch.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn now_ms(&mut self) -> Result<u64> {
        Ok(self.server.read_state()?.now_ms)
    }

    /// Adds a mute, instead of one with the same patterns.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn add(&mut self, mute: &Mute) -> Result<Addition> {
        let value = serde_json::to_string(mute)?;
        let script = Script::new(ADD);
        let mut add = script.key(&self.server.keys.mutes);
        add.arg(mute.made_ms).arg(MUTES_MAX).arg(mute.field()).arg(&value);
        let added: i64 = self.server.ask(|connection| add.invoke(connection))?;
        Ok(if added < 0 { Addition::TooMany } else { Addition::Added })
    }

    /// Ends all mutes, also those that can't be read, and returns their number.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn clear(&mut self) -> Result<u64> {
        let key = self.server.keys.mutes.clone();
        let fields: Vec<String> = self.server.ask(|connection| redis::cmd("HKEYS").arg(&key).query(connection))?;
        if fields.is_empty() {
            return Ok(0);
        }
        self.server.ask(|connection| redis::cmd("HDEL").arg(&key).arg(&fields).query(connection))
    }

    /// Ends the mute with these patterns; returns whether there was one.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn remove(&mut self, mute: &Mute) -> Result<bool> {
        let (key, field) = (self.server.keys.mutes.clone(), mute.field());
        let removed: u64 = self.server.ask(|connection| redis::cmd("HDEL").arg(&key).arg(&field).query(connection))?;
        Ok(removed > 0)
    }

    /// The mutes that have not ended, the one that ends first at the front, each with the number of alerts that it has kept
    /// from channels.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request.
    pub fn list(&mut self) -> Result<Vec<(Mute, u64)>> {
        let reading = self.server.read_state()?;
        let states = self.server.all()?;
        let count = |mute: &Mute| states.iter().filter_map(|(_, state)| state.muted.get(&mute.id())).sum();
        let mut all: Vec<(Mute, u64)> = reading
            .mutes
            .into_iter()
            .filter(|mute| mute.until_ms > reading.now_ms)
            .map(|mute| (mute.clone(), count(&mute)))
            .collect();
        all.sort_by_key(|(mute, _)| (mute.until_ms, mute.field()));
        Ok(all)
    }
}
