//! Whether the lag grows over minutes although the host works; pure, with one observation a second.
//!
//! The least lag of each minute is compared: a burst makes the greatest and the mean rise, but between bursts a host that
//! keeps up is up to date.

use std::collections::VecDeque;

/// A minute in observations.
const MINUTE: usize = 60;

/// The minutes over which the lag must grow: two could be one slow burst.
const MINUTES: usize = 3;

/// A lag below this is not worth a condition, ms; the verdict mentions a lag anyway.
const LEAST_MS: u64 = 5_000;

/// The least lag of the first and of the last of these minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) before_ms: u64,
    pub(super) now_ms: u64,
}

/// Observes the lag.
#[derive(Debug, Default)]
pub(super) struct LagWatch {
    seconds: VecDeque<u64>,
    growth: Option<Growth>,
}

impl LagWatch {
    /// Observes a second. Returns the growth while the lag grows: until a minute's least lag is below that of the minute
    /// before.
    pub(super) fn observe(&mut self, lag_ms: u64) -> Option<Growth> {
        if self.seconds.len() == MINUTES * MINUTE {
            self.seconds.pop_front();
        }
        self.seconds.push_back(lag_ms);
        if self.seconds.len() < MINUTES * MINUTE {
            return None;
        }
        let least = |minute: usize| self.seconds.range(minute * MINUTE..(minute + 1) * MINUTE).min().copied();
        let least = [0, 1, 2].map(|minute| least(minute).unwrap_or(0));
        let [before_ms, between_ms, now_ms] = least;
        let grows = before_ms < between_ms && between_ms < now_ms && now_ms >= LEAST_MS;
        let goes_on = self.growth.is_some() && now_ms >= between_ms && now_ms >= LEAST_MS;
        self.growth = match self.growth {
            Some(growth) if goes_on && !grows => Some(Growth { now_ms, ..growth }),
            _ => grows.then_some(Growth { before_ms, now_ms }),
        };
        self.growth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(watch: &mut LagWatch, lags: impl Iterator<Item = u64>) -> Option<Growth> {
        lags.map(|lag| watch.observe(lag)).last().flatten()
    }

    #[test]
    fn a_lag_that_grows_for_minutes_is_reported_until_it_falls() {
        let mut watch = LagWatch::default();
        let growth = observed(&mut watch, (0..240).map(|second| second * 100)).unwrap();
        assert_eq!(growth, Growth { before_ms: 6_000, now_ms: 18_000 });
        assert!(observed(&mut watch, [24_000; 100].into_iter()).is_some(), "it stays high");
        assert_eq!(observed(&mut watch, (0..61).map(|second| 24_000 - second * 10)), None);
    }

    #[test]
    fn bursts_catching_up_and_small_lags_are_not_growth() {
        let bursts = (0..600).map(|second| if second % 50 == 0 { 0 } else { second * 1000 });
        assert_eq!(observed(&mut LagWatch::default(), bursts), None);
        assert_eq!(observed(&mut LagWatch::default(), (0..600).map(|second| 600_000 - second * 1000)), None);
        assert_eq!(observed(&mut LagWatch::default(), (0..600).map(|second| second * 8)), None);
    }
}
