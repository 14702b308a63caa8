//! The mark of a recovery: the pending entry that is processed alone, and how often hosts ended during that.
//!
//! What holds: once a worker has processed the entry, its counts are what they were before. So they count only the ends of
//! hosts between the mark and the worker's answer, which is as short as the processing of one entry.

use std::{fmt, str::FromStr};

use crate::event::EntryId;

/// The number of sudden ends that count as much as one end of a stuck host. A kill that has nothing to do with the entry
/// may hit the moment of its processing by chance, so more of them are needed to blame the entry.
const SUDDEN_PER_STUCK: u64 = 3;

/// The pending entry that was last processed alone, and its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The entry.
    pub entry: EntryId,
    /// Hosts that ended soon after they began to process the entry. The last of them may still be processing it.
    pub sudden: u64,
    /// Hosts that ended after a worker had processed the entry for long without an answer.
    pub stuck: u64,
}

impl Attempt {
    /// The mark of a recovery that is finished.
    pub const NONE: Self = Self { entry: EntryId::ZERO, sudden: 0, stuck: 0 };

    /// The mark of an entry on which no host has ended.
    pub fn first(entry: EntryId) -> Self {
        Self { entry, ..Self::NONE }
    }

    /// The mark for one more attempt, to be written before the attempt begins.
    pub fn begun(self) -> Self {
        Self { sudden: self.sudden + 1, ..self }
    }

    /// The mark when a worker is stuck on the entry, made from the mark before the attempt.
    pub fn got_stuck(self) -> Self {
        Self { stuck: self.stuck + 1, ..self }
    }

    /// The number of hosts that ended while a worker processed the entry.
    pub fn ends(self) -> u64 {
        self.sudden + self.stuck
    }

    /// Whether the entry must not be tried again, if an entry may be delivered `max_deliveries` times; 0: without limit.
    /// The delivery before the first recovery counts, but at least one attempt alone is always allowed.
    pub fn is_given_up(self, max_deliveries: u64) -> bool {
        let tries = max_deliveries.saturating_sub(1).max(1);
        max_deliveries > 0 && self.stuck * SUDDEN_PER_STUCK + self.sudden >= tries * SUDDEN_PER_STUCK
    }
}

/// Writes the form of the checkpoint, where it is sealed. Older releases wrote an entry and one number.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, sudden, stuck } = self;
        write!(f, "{entry} {sudden} {stuck}")
    }
}

/// An error: the text is not a mark, or of a form that this release does not know.
#[derive(Debug, thiserror::Error)]
#[error("not the mark of a recovery")]
pub struct NotAnAttempt;

impl FromStr for Attempt {
    type Err = NotAnAttempt;

    fn from_str(text: &str) -> Result<Self, NotAnAttempt> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotAnAttempt);
        let entry = |text: &str| text.parse::<EntryId>().map_err(|_| NotAnAttempt);
        match text.split(' ').collect::<Vec<_>>()[..] {
            [id, sudden, stuck] => Ok(Self { entry: entry(id)?, sudden: number(sudden)?, stuck: number(stuck)? }),
            // An older release wrote one number, of hosts that ended in any way.
            [id, times] => Ok(Self { sudden: number(times)?, ..Self::first(entry(id)?) }),
            _ => Err(NotAnAttempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryId = EntryId { millis: 17, seq: 1 };

    #[test]
    fn a_mark_is_read_as_it_was_written_and_so_is_one_of_an_older_host() {
        let mark = Attempt { entry: ENTRY, sudden: 2, stuck: 3 };
        assert_eq!(mark.to_string().parse::<Attempt>().unwrap(), mark);
        assert_eq!("17-1 4".parse::<Attempt>().unwrap(), Attempt { entry: ENTRY, sudden: 4, stuck: 0 });
        assert_eq!("0-0 0".parse::<Attempt>().unwrap(), Attempt::NONE);
        for wrong in ["", "17-1", "17-1 1 1 1", "17-1 x 1"] {
            assert!(wrong.parse::<Attempt>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_is_given_up_after_fewer_ends_of_stuck_hosts_than_of_killed_ones() {
        let tries = |step: fn(Attempt) -> Attempt, max: u64| {
            let mut attempt = Attempt::first(ENTRY);
            while !attempt.is_given_up(max) {
                attempt = step(attempt);
            }
            attempt.ends()
        };
        assert_eq!([1, 2, 5].map(|max| tries(Attempt::got_stuck, max)), [1, 1, 4]);
        assert_eq!([1, 2, 5].map(|max| tries(Attempt::begun, max)), [3, 3, 12]);
        assert!(!Attempt { entry: ENTRY, sudden: 1_000_000, stuck: 1_000_000 }.is_given_up(0));
    }
}
