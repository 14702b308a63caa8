//! Saved states in a hash beside the stream.
//!
//! Fields: `c:<chunk>` has the boundary of a chunk, `s:<symbol>` a packed state, `p:<entry>` stands
//! for an entry that must not be worked again. They are written inside a step, so that they are as
//! of its commit, and only by the owner.

use std::collections::{BTreeSet, HashMap};

use redis::cmd;

use super::{RedisStream, history::range, open, query, resp::Commands, unavailable};
use crate::{
    checkpoint::{Boundary, CHUNKS, Saved},
    event::{Entries, EntryId},
    stream::{Clock, Commit, StreamError, Whose},
};

/// Fields looked at in one go, about: some megabytes of states.
const SCAN_PAGE: usize = 1000;

/// Pending entries listed in one go.
const PENDING_PAGE: usize = 1000;

/// Adds what a commit has to say of states.
pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, at_ms: u64) {
    let Some(visit) = &commit.visit else { return };
    let boundary = Boundary {
        newest: commit.newest,
        worked: commit.totals.entries - commit.totals.lost,
        clock: commit.clock,
        at_ms,
    };
    let boundary = to_text(&boundary);
    commands.arg("HSET").arg(key);
    for chunk in visit.chunks.clone() {
        commands.show(format_args!("c:{chunk}")).arg(&boundary);
    }
    for (symbol, packed) in &visit.symbols {
        commands.show(format_args!("s:{symbol}")).arg(packed);
    }
    commands.end();
    if !visit.forgotten.is_empty() || !visit.passed.is_empty() {
        commands.arg("HDEL").arg(key);
        for symbol in &visit.forgotten {
            commands.show(format_args!("s:{symbol}"));
        }
        for id in &visit.passed {
            commands.show(format_args!("p:{id}"));
        }
        commands.end();
    }
}

/// Marks entries that must not be worked again.
pub(super) fn write_poison(commands: &mut Commands, key: &str, poison: &[EntryId]) {
    for id in poison {
        commands.arg("HSET").arg(key).show(format_args!("p:{id}")).arg("1");
        commands.end();
    }
}

impl RedisStream {
    pub(super) async fn read_saved(&mut self) -> Result<Saved, StreamError> {
        let session = open(&mut self.session)?;
        let mut saved = Saved { boundaries: vec![None; usize::from(CHUNKS)], ..Saved::default() };
        let mut symbols: HashMap<String, Vec<u8>> = HashMap::new();
        let mut cursor = 0u64;
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&self.keys.state).arg(cursor).arg("COUNT").arg(SCAN_PAGE);
            let (next, fields): (u64, Vec<(String, Vec<u8>)>) =
                scan.query_async(&mut session.asks).await.map_err(unavailable)?;
            for (field, value) in fields {
                match field.split_at_checked(2) {
                    // A scan may show a field twice.
                    Some(("s:", symbol)) => drop(symbols.insert(symbol.to_owned(), value)),
                    Some(("c:", chunk)) => {
                        let place = chunk.parse().ok().and_then(|chunk: usize| saved.boundaries.get_mut(chunk));
                        if let Some(place) = place {
                            *place = from_text(&String::from_utf8_lossy(&value));
                        }
                    }
                    Some(("p:", id)) => saved.poison.extend(id.parse::<EntryId>().ok()),
                    _ => {}
                }
            }
            cursor = next;
            if cursor == 0 {
                saved.symbols = symbols.into_iter().collect();
                return Ok(saved);
            }
        }
    }

    pub(super) async fn read_history(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> Result<Entries, StreamError> {
        let session = open(&mut self.session)?;
        range(&mut session.steps, &self.config.key, after, through, count).await
    }

    pub(super) async fn read_pending(
        &mut self,
        first: EntryId,
        last: EntryId,
        whose: Whose,
    ) -> Result<BTreeSet<EntryId>, StreamError> {
        let session = open(&mut self.session)?;
        let (mut pending, mut from) = (BTreeSet::new(), first.to_string());
        loop {
            let mut list = cmd("XPENDING");
            list.arg(&self.config.key).arg(&self.config.group).arg(&from).arg(last.to_string()).arg(PENDING_PAGE);
            if whose == Whose::Ours {
                list.arg(&self.config.consumer);
            }
            let page: Vec<(String, String, u64, u64)> = query(&mut session.asks, &list).await?;
            let Some((end, ..)) = page.last() else { return Ok(pending) };
            from = format!("({end}");
            pending.extend(page.iter().filter_map(|(id, ..)| id.parse::<EntryId>().ok()));
        }
    }
}

fn to_text(boundary: &Boundary) -> String {
    let Boundary { newest, worked, clock: Clock { time, delay_ms, unstamped }, at_ms } = boundary;
    let delay_ms = delay_ms.map_or_else(|| "-".to_owned(), |delay| delay.to_string());
    format!("{newest} {worked} {time} {delay_ms} {unstamped} {at_ms}")
}

/// `None` for what [`to_text`] has not written.
pub(super) fn from_text(text: &str) -> Option<Boundary> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    Some(Boundary {
        newest: word()?.parse().ok()?,
        worked: word()?.parse().ok()?,
        clock: Clock { time: word()?.parse().ok()?, delay_ms: word()?.parse().ok(), unstamped: word()?.parse().ok()? },
        at_ms: word()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_comes_back_as_it_was() {
        for delay_ms in [None, Some(-5)] {
            let boundary = Boundary {
                newest: EntryId { millis: 7, seq: 1 },
                worked: 2,
                clock: Clock { time: 3, delay_ms, unstamped: 4 },
                at_ms: 6,
            };
            assert_eq!(from_text(&to_text(&boundary)), Some(boundary));
        }
        assert_eq!(from_text("7-1 2"), None);
    }
}
