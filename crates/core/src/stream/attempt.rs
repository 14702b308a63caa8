//! The mark of a recovery: the pending entry that was tried alone, and how hosts ended while a worker had it.
//!
//! What holds: an entry that a worker has answered for has no more on its account than before it was tried. So what is
//! on an account are ends of hosts between the mark and the answer, a time as short as that one entry takes.

use std::{fmt, str::FromStr};

use crate::event::EntryId;

/// So many sudden ends weigh as much as one of a host that was stuck. A kill that has nothing to do with the entry hits
/// the moment that it is tried only by chance, so it takes more of them to believe that the entry is to blame.
const SUDDEN_PER_STUCK: u64 = 3;

/// What is known of the pending entry that was tried last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The entry.
    pub entry: EntryId,
    /// Hosts that ended right after they had begun with it, and left no word of why. The last of them may be at work.
    pub sudden: u64,
    /// Hosts that ended after a worker had had it for long without an answer.
    pub stuck: u64,
}

impl Attempt {
    /// The mark of a recovery that has come to its end.
    pub const NONE: Self = Self { entry: EntryId::ZERO, sudden: 0, stuck: 0 };

    /// An entry that no host has ended on.
    pub fn first(entry: EntryId) -> Self {
        Self { entry, ..Self::NONE }
    }

    /// It is about to be tried once more.
    pub fn begun(self) -> Self {
        Self { sudden: self.sudden + 1, ..self }
    }

    /// A worker has had it for long, counted from the mark of before it was tried.
    pub fn got_stuck(self) -> Self {
        Self { stuck: self.stuck + 1, ..self }
    }

    /// Hosts that ended while a worker had it.
    pub fn ends(self) -> u64 {
        self.sudden + self.stuck
    }

    /// Whether it is not to be tried again, when an entry may be delivered `max_deliveries` times; 0 = as often as it
    /// takes. It was delivered once before its first recovery. However few are allowed, it is tried once alone.
    pub fn is_given_up(self, max_deliveries: u64) -> bool {
        let tries = max_deliveries.saturating_sub(1).max(1);
        max_deliveries > 0 && self.stuck * SUDDEN_PER_STUCK + self.sudden >= tries * SUDDEN_PER_STUCK
    }
}

/// As the checkpoint has it, under a seal; the form before was an entry and one number.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entry, sudden, stuck } = self;
        write!(f, "{entry} {sudden} {stuck}")
    }
}

/// The text is no mark, or one of a form that this host does not know.
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
            // Of an older host: all that is known is that so many ended before that recovery did.
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
