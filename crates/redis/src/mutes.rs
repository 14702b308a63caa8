//! Mutes: which alerts notification channels leave out for a while. They are kept beside the stream in Redis, so that all
//! hosts of a group, and every channel, have the same.
//!
//! What holds: a mute changes nothing but what channels send. It goes by the clock of the server, as the channels do, and
//! ends by itself.

use anyhow::{Result, ensure};
use redis::Script;
use serde::{Deserialize, Serialize};

use crate::{alert::StoredAlert, notification_position::ChannelPosition};
use tickhound_core::{config::StreamConfig, pattern::SymbolPattern, text::is_printable};
use wildmatch::WildMatch;

/// The most mutes at once. Each is compared with each alert, and nobody knows what a hundred of them leave out.
pub const MUTES_MAX: usize = 100;

/// The longest pattern of a mute, characters: the longest symbols have some 40.
pub const PATTERN_MAX: usize = 100;

/// The longest mute, seconds: what should never be sent is a matter of the channel's `symbols` and `detectors`.
pub const MUTE_SECONDS_MAX: u64 = 30 * 86_400;

/// Separates the patterns of a mute in the name of its field; no pattern contains a control character.
const SEPARATOR: char = '\u{1f}';

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

/// Alerts that are not sent for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// The pattern of the symbols.
    pub symbols: String,
    /// The pattern of the detectors.
    pub detector: String,
    /// When it was made, ms since the Unix epoch.
    pub made_ms: u64,
    /// When it ends, ms since the Unix epoch.
    pub until_ms: u64,
}

impl Mute {
    /// A mute with these patterns, without a time.
    ///
    /// # Errors
    /// When a pattern can't be one of a symbol or a detector.
    pub fn new(symbols: &str, detector: &str) -> Result<Self> {
        for (what, pattern) in [("symbols", symbols), ("detector", detector)] {
            ensure!(!pattern.trim().is_empty(), "the pattern of {what} is empty; `*` matches all");
            let length = pattern.chars().count();
            ensure!(
                length <= PATTERN_MAX,
                "the pattern of {what} has {length} characters, expected at most {PATTERN_MAX}"
            );
            ensure!(is_printable(pattern), "the pattern of {what} contains a character that can't be seen");
        }
        let [symbols, detector] = [symbols, detector].map(|pattern| pattern.trim().to_owned());
        Ok(Self { symbols, detector, made_ms: 0, until_ms: 0 })
    }

    /// Checks when it begins and ends.
    ///
    /// # Errors
    /// When it would end at once or last too long.
    pub fn check_length(&self) -> Result<()> {
        ensure!(self.until_ms > self.made_ms, "the mute would end before it begins");
        ensure!(
            self.until_ms - self.made_ms <= MUTE_SECONDS_MAX * 1000,
            "a mute lasts at most {} days; to send something never, set `symbols` or `detectors` of the channel",
            MUTE_SECONDS_MAX / 86_400
        );
        Ok(())
    }

    /// Identifies this mute among all that there ever were: its patterns, and when it was made.
    pub fn id(&self) -> String {
        format!("{}{SEPARATOR}{}", self.made_ms, self.field())
    }

    /// The field that holds it. Patterns of symbols are the same in any case.
    fn field(&self) -> String {
        format!("{}{SEPARATOR}{}", self.symbols.to_uppercase(), self.detector)
    }
}

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
        all.sort_by(|(one, _), (other, _)| (one.until_ms, one.field()).cmp(&(other.until_ms, other.field())));
        Ok(all)
    }
}

/// The mutes that are in force at one time, ready to be compared with alerts.
pub struct MutesInForce(Vec<(SymbolPattern, WildMatch, String)>);

impl MutesInForce {
    /// Those of `mutes` that have not ended at `now_ms`.
    pub fn at(mutes: &[Mute], now_ms: u64) -> Self {
        let in_force = mutes.iter().filter(|mute| mute.until_ms > now_ms);
        let compiled = |mute: &Mute| (SymbolPattern::new(&mute.symbols), WildMatch::new(&mute.detector), mute.id());
        Self(in_force.map(compiled).collect())
    }

    /// The id of the mute that leaves out this alert; of several, the first.
    pub fn of(&self, alert: &StoredAlert) -> Option<&str> {
        let (symbol, detector) = (alert.field("symbol"), alert.field("detector"));
        let fits = |(symbols, detectors, _): &&(SymbolPattern, WildMatch, String)| {
            symbols.matches(symbol) && detectors.matches(detector)
        };
        self.0.iter().find(fits).map(|(.., id)| id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mute(symbols: &str, detector: &str, until_ms: u64) -> Mute {
        Mute { until_ms, made_ms: 1, ..Mute::new(symbols, detector).unwrap() }
    }

    fn alert(symbol: &str, detector: &str) -> StoredAlert {
        let fields = [("symbol", symbol), ("detector", detector)];
        StoredAlert {
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..StoredAlert::default()
        }
    }

    #[test]
    fn a_mute_leaves_out_what_its_patterns_match_until_it_ends() {
        let mutes = [mute("NIFTY*", "breakout", 200), mute("nse:sbin", "*", 300)];
        for (symbol, detector, now_ms, muted) in [
            ("NIFTY25NOVFUT", "breakout", 199, true),
            ("NIFTY25NOVFUT", "breakout", 200, false),
            ("NIFTY25NOVFUT", "momentum", 100, false),
            ("BANKNIFTY25NOVFUT", "breakout", 100, false),
            ("SBIN", "momentum", 299, true),
            ("BSE:SBIN", "momentum", 299, false),
            ("SBIN", "momentum", 300, false),
        ] {
            let found = MutesInForce::at(&mutes, now_ms).of(&alert(symbol, detector)).is_some();
            assert_eq!(found, muted, "{symbol} {detector} at {now_ms}");
        }
    }

    #[test]
    fn a_pattern_is_one_short_visible_text() {
        for (symbols, detector) in [("", "*"), ("*", " "), ("A\n", "*"), ("A\u{1f}B", "*"), ("*", "\u{202e}")] {
            assert!(Mute::new(symbols, detector).is_err(), "{symbols:?} {detector:?}");
        }
        assert!(Mute::new(&"A".repeat(PATTERN_MAX + 1), "*").is_err());
        assert_eq!(Mute::new("株*", "*").unwrap().symbols, "株*");
        assert_eq!(mute("nifty*", "a", 1).field(), mute("NIFTY*", "a", 2).field());
    }
}
