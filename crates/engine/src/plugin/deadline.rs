//! The time limit of a guest's call, in processor time.
//!
//! What holds: a call is not ended because other programs used the processor. The thread's processor time decides, which
//! does not advance while the thread waits for its turn or the process is stopped. A thread that gets no processor for a
//! very long time is ended too. Epochs measure that time, since they do not advance in a stopped process either.

use std::{fmt, time::Duration};

use cpu_time::ThreadTime;

/// Time between two epochs, which is the precision of a deadline. An epoch costs a running guest a read of the clock at
/// most.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// The maximum time of a call, in deadlines. A call that gets a twentieth of a core still has its full processor time.
const WALL_DEADLINES: u32 = 20;

/// No call is ended for lack of processor time before this. A guest can't make its thread wait, since it can call nothing
/// outside itself. So the wait is not its fault, and a fault would cost it a tick. But a worker must not be blocked for
/// ever. A minute is far more than forty busy threads per core take from a call of 100 ms, or ten from a background thread.
const STARVATION_MIN: Duration = Duration::from_secs(60);

/// The time limit at which a call was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// The call used all of this processor time.
    Processor(Duration),
    /// The machine did not give the call its processor time within a far longer time.
    Starvation {
        /// The processor time that the call may use.
        deadline: Duration,
        /// The time since the call began.
        waited: Duration,
    },
}

impl Overrun {
    /// Writes a sentence without its subject. `did` is its verb, such as "ran", and `key` the setting of the limit.
    pub(super) fn describe(self, f: &mut fmt::Formatter<'_>, did: &str, key: &str) -> fmt::Result {
        match self {
            Self::Processor(deadline) => {
                write!(f, "{did} longer than {} ms of processor time ({key})", deadline.as_millis())
            }
            Self::Starvation { deadline, waited } => write!(
                f,
                "got less than its {} ms of processor time ({key}) within {} s: the machine is too busy with other work",
                deadline.as_millis(),
                waited.as_secs()
            ),
        }
    }
}

/// The deadline of one call.
#[derive(Debug)]
pub(super) struct Deadline {
    /// The processor time that the call may use.
    limit: Duration,
    /// The thread's processor time at the first epoch within the call. Most calls end before that.
    began: Option<Duration>,
    /// The least number of epochs since the begin of the call at the next check.
    epochs: u64,
}

impl Deadline {
    /// Returns the deadline of a call that is about to begin. The first check comes one epoch later.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, began: None, epochs: 1 }
    }

    /// Checks the deadline, given the thread's `processor` time since its start. Returns the number of epochs until the
    /// next check.
    pub(super) fn check(&mut self, processor: Duration) -> Result<u64, Overrun> {
        let Self { limit, .. } = *self;
        let left = limit.saturating_sub(processor.saturating_sub(*self.began.get_or_insert(processor)));
        if left.is_zero() {
            return Err(Overrun::Processor(limit));
        }
        let patience = (limit * WALL_DEADLINES).max(STARVATION_MIN);
        let waited = Duration::from_millis(self.epochs * EPOCH_TICK.as_millis() as u64);
        if waited >= patience {
            return Err(Overrun::Starvation { deadline: limit, waited });
        }
        // Processor time does not pass faster than wall-clock time, so the deadline can't be met before that.
        let epochs = left.min(patience - waited).as_nanos().div_ceil(EPOCH_TICK.as_nanos()) as u64;
        self.epochs += epochs;
        Ok(epochs)
    }
}

/// Returns the processor time of the calling thread since its start.
pub(super) fn processor_time() -> Duration {
    ThreadTime::now().as_duration()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Checks until the call is ended, on a machine that gives it one part in `share` of its epochs.
    fn ended(share: u32) -> (Overrun, Duration) {
        let (mut deadline, start) = (Deadline::new(LIMIT), Duration::from_secs(7));
        let mut wall = EPOCH_TICK;
        loop {
            match deadline.check(start + wall / share) {
                Ok(epochs) => wall += EPOCH_TICK * epochs as u32,
                Err(overrun) => return (overrun, wall),
            }
        }
    }

    #[test]
    fn a_call_that_has_the_processor_ends_at_its_deadline() {
        let (overrun, wall) = ended(1);
        assert_eq!(overrun, Overrun::Processor(LIMIT));
        assert!(wall <= LIMIT + 2 * EPOCH_TICK, "{wall:?}");
    }

    #[test]
    fn a_call_that_shares_the_processor_has_the_same_processor_time() {
        let (overrun, wall) = ended(50);
        assert_eq!(overrun, Overrun::Processor(LIMIT));
        assert!(wall >= 50 * LIMIT, "{wall:?}");
    }

    #[test]
    fn a_call_that_gets_no_processor_is_ended_after_a_long_time() {
        let (overrun, wall) = ended(1_000_000);
        assert_eq!(overrun, Overrun::Starvation { deadline: LIMIT, waited: STARVATION_MIN });
        assert_eq!(wall, STARVATION_MIN);
    }

    #[test]
    fn checks_are_few() {
        let mut deadline = Deadline::new(Duration::from_secs(10));
        assert_eq!(deadline.check(Duration::ZERO), Ok(2000));
    }

    #[test]
    fn processor_time_rises_with_work_only() {
        let before = processor_time();
        while processor_time() < before + Duration::from_millis(1) {
            std::hint::black_box(before);
        }
        // Processor time of another thread, which this one waits for, does not count.
        let (before, others) = (processor_time(), Duration::from_millis(50));
        let other = std::thread::spawn(move || while processor_time() < others {});
        other.join().unwrap();
        assert!(processor_time() - before < others);
    }
}
