//! How long a guest's call may take, counted in processor time.
//!
//! What holds: a call is not ended because somebody else used the processor. The thread's processor time decides, and
//! stands still while the thread waits for its turn or the process is stopped. A thread that gets no turn for a very
//! long time is given up all the same: epochs are counted for that, since they too stand still in a stopped process.

use std::{fmt, time::Duration};

use cpu_time::ThreadTime;

/// Time between two epochs, which is how exact a deadline is. Each costs a running guest one look at the clock.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// A call may wait for the processor as long as it would take on a machine that gives it a twentieth of a core.
const WAITS_PER_DEADLINE: u32 = 20;

/// No call is given up for waiting before this. A guest can't make its thread wait, it can call nothing outside itself,
/// so one that waits is not to blame and a fault would cost it a tick; but a worker must not be gone for ever. A minute
/// is far more than forty busy threads a core take from a call of 100 ms, or ten from a background thread.
const WAIT_MIN: Duration = Duration::from_secs(60);

/// The limit that a call has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfTime {
    /// It used so much processor time, which is all that it may use.
    Used(Duration),
    /// It was not given the processor time that it may use within a far longer time.
    Starved {
        /// The processor time that it may use.
        deadline: Duration,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl OutOfTime {
    /// A sentence without its subject: what a call `did` ("ran", "took") and which `key` sets the limit.
    pub(super) fn describe(self, f: &mut fmt::Formatter<'_>, did: &str, key: &str) -> fmt::Result {
        match self {
            Self::Used(deadline) => {
                write!(f, "{did} longer than {} ms of processor time ({key})", deadline.as_millis())
            }
            Self::Starved { deadline, waited } => write!(
                f,
                "got less than its {} ms of processor time ({key}) within {} s: the machine is too busy with other work",
                deadline.as_millis(),
                waited.as_secs()
            ),
        }
    }
}

/// The deadline of one call, from its begin on.
#[derive(Debug)]
pub(super) struct Deadline {
    /// The processor time that the call may use.
    limit: Duration,
    /// The thread's processor time at the first epoch within the call; most calls end before there is one.
    began: Option<Duration>,
    /// Epochs that have passed at the next look, at least.
    epochs: u64,
}

impl Deadline {
    /// For a call that is about to begin, and is looked at when the epoch has changed once.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, began: None, epochs: 1 }
    }

    /// After how many more epochs to look again, at a thread that has used so much `processor` time in its life.
    pub(super) fn look(&mut self, processor: Duration) -> Result<u64, OutOfTime> {
        let Self { limit, .. } = *self;
        let left = limit.saturating_sub(processor.saturating_sub(*self.began.get_or_insert(processor)));
        if left.is_zero() {
            return Err(OutOfTime::Used(limit));
        }
        let patience = (limit * WAITS_PER_DEADLINE).max(WAIT_MIN);
        let waited = Duration::from_millis(self.epochs * EPOCH_TICK.as_millis() as u64);
        if waited >= patience {
            return Err(OutOfTime::Starved { deadline: limit, waited });
        }
        // Processor time does not pass faster than the clock on the wall.
        let epochs = left.min(patience - waited).as_nanos().div_ceil(EPOCH_TICK.as_nanos()) as u64;
        self.epochs += epochs;
        Ok(epochs)
    }
}

/// Processor time that the calling thread has used in its life.
pub(super) fn processor_time() -> Duration {
    ThreadTime::now().as_duration()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Looks until the call is ended, on a machine that gives it one part in `share` of its epochs.
    fn ended(share: u32) -> (OutOfTime, Duration) {
        let (mut deadline, start) = (Deadline::new(LIMIT), Duration::from_secs(7));
        let mut wall = EPOCH_TICK;
        loop {
            match deadline.look(start + wall / share) {
                Ok(epochs) => wall += EPOCH_TICK * epochs as u32,
                Err(limit) => return (limit, wall),
            }
        }
    }

    #[test]
    fn a_call_that_has_the_processor_ends_at_its_deadline() {
        let (limit, wall) = ended(1);
        assert_eq!(limit, OutOfTime::Used(LIMIT));
        assert!(wall <= LIMIT + 2 * EPOCH_TICK, "{wall:?}");
    }

    #[test]
    fn a_call_that_shares_the_processor_has_the_same_processor_time() {
        let (limit, wall) = ended(50);
        assert_eq!(limit, OutOfTime::Used(LIMIT));
        assert!(wall >= 50 * LIMIT, "{wall:?}");
    }

    #[test]
    fn a_call_that_gets_no_processor_is_given_up_after_a_long_time() {
        let (limit, wall) = ended(1_000_000);
        assert_eq!(limit, OutOfTime::Starved { deadline: LIMIT, waited: WAIT_MIN });
        assert_eq!(wall, WAIT_MIN);
    }

    #[test]
    fn looks_are_few() {
        let mut deadline = Deadline::new(Duration::from_secs(10));
        assert_eq!(deadline.look(Duration::ZERO), Ok(2000));
    }

    #[test]
    fn processor_time_rises_with_work_only() {
        let before = processor_time();
        while processor_time() < before + Duration::from_millis(1) {
            std::hint::black_box(before);
        }
        // What another thread uses, while this one waits for it, is not this one's.
        let (before, others) = (processor_time(), Duration::from_millis(50));
        let other = std::thread::spawn(move || while processor_time() < others {});
        other.join().unwrap();
        assert!(processor_time() - before < others);
    }
}
