//! Whether a share of what came within a minute is affected; pure, with one observation a second.
//!
//! What holds: a condition begins and ends by what comes. While nothing comes, there is nothing that speaks against it,
//! so it stays: entries that were all dead-lettered are not forgotten after a quiet minute. On a sparse feed one good entry
//! does not end it, so that it does not flap with every other entry.

use std::collections::VecDeque;

/// The window in observations: a minute.
const WINDOW: usize = 60;

/// A condition that holds ends below this part of the share at which it begins, so that it does not flap.
const END_PART: f64 = 0.5;

/// The fewest of a minute that must be unaffected to end a condition: fewer say little.
const GOOD_LEAST: u64 = 5;

/// The seconds without an affected one after which a single unaffected one ends a condition: a sparse feed may never have
/// [`GOOD_LEAST`] within a minute.
const CALM_S: u64 = 300;

/// The fewest that must be affected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Least {
    /// If everything is affected.
    pub(super) of_all: u64,
    /// If some of it is.
    pub(super) of_some: u64,
}

/// What shows that a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Evidence {
    /// How many were affected within a minute.
    pub(super) affected: u64,
    /// How many came within that minute.
    pub(super) all: u64,
    /// How many seconds ago the last of them came.
    pub(super) ago_s: u64,
    /// How many were affected since the condition began.
    pub(super) total: u64,
}

impl Evidence {
    /// How much of what was affected, as the beginning of a sentence.
    pub(super) fn share_of(self, what: &str) -> String {
        let Self { affected, all, ago_s, .. } = self;
        if ago_s <= WINDOW as u64 {
            format!("{affected} of {all} {what} in the last minute")
        } else {
            format!("{affected} of {all} {what} within a minute, the last of them {ago_s} s ago,")
        }
    }

    /// The verb for what was affected.
    pub(super) fn was(self) -> &'static str {
        if self.affected == 1 { "was" } else { "were" }
    }
}

/// Observes one share.
#[derive(Debug)]
pub(super) struct ShareWatch {
    /// The share at which the condition begins; 0: never.
    share: f64,
    least: Least,
    /// Affected and all since the beginning, as of each of the last seconds.
    seconds: VecDeque<ShareCounts>,
    /// The seconds since the last one was affected.
    calm_s: u64,
    state: ShareState,
}

/// How many were affected, and how many there were, since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShareCounts {
    pub(super) affected: u64,
    pub(super) all: u64,
}

#[derive(Clone, Copy, Debug)]
enum ShareState {
    Calm,
    /// `before` were affected before the minute in which it began; `within` is the newest evidence, `ago_s` seconds old.
    Holds {
        before: u64,
        within: ShareCounts,
        ago_s: u64,
    },
}

impl ShareWatch {
    /// Observes what comes after `before`.
    pub(super) fn new(share: f64, least: Least, before: ShareCounts) -> Self {
        Self { share, least, seconds: VecDeque::from([before]), calm_s: 0, state: ShareState::Calm }
    }

    /// Observes a second. Returns the evidence if the condition holds.
    pub(super) fn observe(&mut self, now: ShareCounts) -> Option<Evidence> {
        let last = self.seconds.back().copied().unwrap_or_default();
        self.calm_s = if last.affected == now.affected { self.calm_s + 1 } else { 0 };
        if let ShareState::Holds { ago_s, .. } = &mut self.state {
            *ago_s += 1;
        }
        if self.seconds.len() > WINDOW {
            self.seconds.pop_front();
        }
        self.seconds.push_back(now);
        if last.all != now.all {
            self.judge(now);
        }
        let ShareState::Holds { before, within, ago_s } = self.state else { return None };
        let ShareCounts { affected, all } = within;
        Some(Evidence { affected, all, ago_s, total: now.affected.saturating_sub(before) })
    }

    fn judge(&mut self, now: ShareCounts) {
        let first = self.seconds.front().copied().unwrap_or_default();
        let all = now.all.saturating_sub(first.all);
        // What is affected may be counted before it is committed.
        let within = ShareCounts { affected: now.affected.saturating_sub(first.affected).min(all), all };
        let ShareCounts { affected, all } = within;
        if all == 0 || self.share == 0.0 {
            return;
        }
        let share = affected as f64 / all as f64;
        let has_enough_good = all - affected >= GOOD_LEAST || self.calm_s >= CALM_S;
        self.state = match self.state {
            ShareState::Holds { .. } if share < self.share * END_PART && has_enough_good => ShareState::Calm,
            // A minute without any is no evidence: that of before is shown, with its age.
            ShareState::Holds { .. } if affected == 0 => self.state,
            ShareState::Holds { before, .. } => ShareState::Holds { before, within, ago_s: 0 },
            ShareState::Calm if share >= self.share && self.is_enough(within) => {
                ShareState::Holds { before: first.affected, within, ago_s: 0 }
            }
            ShareState::Calm => ShareState::Calm,
        };
    }

    fn is_enough(&self, within: ShareCounts) -> bool {
        let least = if within.affected == within.all { self.least.of_all } else { self.least.of_some };
        within.affected >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observes so many seconds, in each of which `affected` of `all` come. Returns the last result.
    fn seconds(watch: &mut ShareWatch, sum: &mut (u64, u64), each: (u64, u64), count: u64) -> Option<Evidence> {
        let mut last = None;
        for _ in 0..count {
            (sum.0, sum.1) = (sum.0 + each.0, sum.1 + each.1);
            last = watch.observe(ShareCounts { affected: sum.0, all: sum.1 });
        }
        last
    }

    fn watch() -> (ShareWatch, (u64, u64)) {
        let before = ShareCounts { affected: 70, all: 80 };
        (ShareWatch::new(0.05, Least { of_all: 1, of_some: 5 }, before), (70, 80))
    }

    #[test]
    fn all_of_a_few_are_enough_and_a_few_of_many_are_not() {
        let (mut few, mut sum) = watch();
        assert_eq!(seconds(&mut few, &mut sum, (1, 1), 1).map(|shown| shown.affected), Some(1));
        let (mut many, mut sum) = watch();
        assert_eq!(seconds(&mut many, &mut sum, (4, 20), 1), None, "a fifth, but only four");
        assert_eq!(seconds(&mut many, &mut sum, (1, 1000), 1), None, "five, but less than the share");
    }

    #[test]
    fn a_quiet_time_does_not_end_it_and_what_comes_does() {
        let (mut watch, mut sum) = watch();
        seconds(&mut watch, &mut sum, (500, 500), 2);
        let later = seconds(&mut watch, &mut sum, (0, 0), 300).unwrap();
        assert_eq!(later, Evidence { affected: 1000, all: 1000, ago_s: 300, total: 1000 });
        assert!(
            later.share_of("entries").starts_with("1000 of 1000 entries within a minute, the last of them 300 s ago")
        );
        assert_eq!(seconds(&mut watch, &mut sum, (0, 1), 1), None);
    }

    #[test]
    fn it_ends_well_below_the_share_at_which_it_begins() {
        let (mut watch, mut sum) = watch();
        assert!(seconds(&mut watch, &mut sum, (6, 100), 60).is_some());
        assert!(seconds(&mut watch, &mut sum, (3, 100), 300).is_some(), "half of it is left");
        assert_eq!(seconds(&mut watch, &mut sum, (2, 100), 61), None);
        assert_eq!(seconds(&mut watch, &mut sum, (4, 100), 300), None);
        let again = seconds(&mut watch, &mut sum, (10, 100), 60).unwrap();
        assert_eq!((again.affected, again.all), (600, 6000));
        assert!(again.total < 1000, "the first time is not counted again: {}", again.total);
    }

    /// One entry came every 63 s, and every other one was garbage: the condition began and ended with each.
    #[test]
    fn it_does_not_flap_on_a_sparse_feed() {
        let (mut watch, mut sum) = watch();
        for _ in 0..10 {
            let bad = seconds(&mut watch, &mut sum, (1, 1), 1).unwrap();
            assert_eq!((bad.affected, bad.all, bad.ago_s), (1, 1, 0));
            assert!(seconds(&mut watch, &mut sum, (0, 0), 62).is_some());
            let good = seconds(&mut watch, &mut sum, (0, 1), 1).unwrap();
            assert_eq!(good.share_of("entries"), "1 of 1 entries within a minute, the last of them 63 s ago,");
            assert!(seconds(&mut watch, &mut sum, (0, 0), 62).is_some());
        }
        assert!(seconds(&mut watch, &mut sum, (0, 1), 4).is_some(), "four are too few");
        assert_eq!(seconds(&mut watch, &mut sum, (0, 1), 1), None);
    }

    #[test]
    fn a_share_of_zero_switches_it_off() {
        let mut watch = ShareWatch::new(0.0, Least { of_all: 1, of_some: 1 }, ShareCounts::default());
        assert_eq!(watch.observe(ShareCounts { affected: 10, all: 10 }), None);
    }
}
