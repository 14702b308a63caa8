//! Latencies: buckets that only grow, for Prometheus, and a fine histogram of the last second, for people.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hdrhistogram::Histogram;

/// The upper bounds of the buckets in microseconds: from a step on a socket of the same machine to a minute.
pub const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Counts of durations by [`BOUNDS_US`], with one more bucket for longer ones.
#[derive(Debug, Default)]
pub struct Buckets {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Buckets {
    /// Counts a duration `times` times.
    pub fn add(&self, us: u64, times: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(times, Relaxed);
        self.sum_us.fetch_add(us.saturating_mul(times), Relaxed);
    }

    /// The sum of all durations in microseconds, and the count of each bucket. The last bucket has no bound.
    pub fn read(&self) -> (u64, [u64; BOUNDS_US.len() + 1]) {
        (self.sum_us.load(Relaxed), std::array::from_fn(|bucket| self.counts[bucket].load(Relaxed)))
    }
}

/// The longest duration that is distinguished, in microseconds: a day.
const LONGEST_US: u64 = 86_400_000_000;

/// The number of significant digits: percentiles are accurate to 1 %.
const DIGITS: u8 = 2;

/// Latencies since the last sample in microseconds. It allocates with the first one.
#[derive(Debug, Default)]
pub(super) struct Recent(Option<Histogram<u32>>);

impl Recent {
    pub(super) fn add(&mut self, us: u64, times: u64) {
        let histogram = match &mut self.0 {
            Some(open) => open,
            none => match Histogram::new_with_bounds(1, LONGEST_US, DIGITS) {
                Ok(new) => none.insert(new),
                Err(_) => return,
            },
        };
        histogram.saturating_record_n(us.max(1), u32::try_from(times).unwrap_or(u32::MAX));
    }

    /// The histogram; `None` if there were no latencies.
    pub(super) fn histogram(&self) -> Option<&Histogram<u32>> {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_exactly_a_bound_is_within_it_and_what_took_longer_than_all_is_kept() {
        let buckets = Buckets::default();
        for (us, times) in [(100, 2), (101, 1), (60_000_001, 5)] {
            buckets.add(us, times);
        }
        let (sum_us, counts) = buckets.read();
        assert_eq!(sum_us, 200 + 101 + 5 * 60_000_001);
        assert_eq!((counts[0], counts[1], counts[BOUNDS_US.len()]), (2, 1, 5));
        assert_eq!(counts.iter().sum::<u64>(), 8);
    }
}
