//! What came after an alert: did the price go on in its direction, or turn?
//!
//! From the price of the alert two lines are drawn, `k` times the average true range above and below (Wilder, 14 bars
//! of a minute, as of the last whole bar before). Which one is touched first, within a time? If chance alone moved
//! the price, both would be touched first equally often; costs of trading are left out. Judged by bars of five
//! seconds that begin after the alert; where one bar touches both lines, the worse is counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::tape::{Bar, Course};
use tickhound_core::event::{Alert, Direction};

/// Bars of the average true range.
const ATR_BARS: usize = 14;
const ATR_BAR: u64 = 60_000_000_000;

/// How far, and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// In average true ranges.
    pub(crate) k: f64,
    /// Event time.
    pub(crate) within: Duration,
}

/// See above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The price went on.
    Reached,
    /// It turned.
    Failed,
    /// Neither line was touched in time.
    Neither,
    /// No direction, no average true range yet, or the recording ends before.
    Open,
}

/// How many alerts had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Outcomes {
    pub(crate) reached: u64,
    pub(crate) failed: u64,
    pub(crate) neither: u64,
    pub(crate) open: u64,
}

impl Outcomes {
    /// Takes one more into account.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Reached => &mut self.reached,
            Outcome::Failed => &mut self.failed,
            Outcome::Neither => &mut self.neither,
            Outcome::Open => &mut self.open,
        } += 1;
    }

    /// Share that reached of those that reached or failed.
    pub(crate) fn hit_rate(&self) -> Option<f64> {
        let decided = self.reached + self.failed;
        (decided > 0).then(|| self.reached as f64 / decided as f64)
    }
}

/// Average true ranges of one symbol: since when, and how much.
type Ranges = Vec<(u64, f64)>;

/// Judges alerts by what prices did.
pub(crate) struct Judge {
    rule: Rule,
    courses: BTreeMap<Arc<str>, (Course, Ranges)>,
}

impl Judge {
    pub(crate) fn new(rule: Rule, courses: BTreeMap<Arc<str>, Course>) -> Self {
        let with_range = |course: Course| {
            let ranges = average_true_ranges(&course);
            (course, ranges)
        };
        Self { rule, courses: courses.into_iter().map(|(name, course)| (name, with_range(course))).collect() }
    }

    /// What prices did.
    pub(crate) fn courses(&self) -> impl Iterator<Item = (&str, &Course)> {
        self.courses.iter().map(|(name, (course, _))| (&**name, course))
    }

    /// What came after `alert`.
    pub(crate) fn judge(&self, alert: &Alert) -> Outcome {
        let up = match alert.direction {
            Direction::Up => true,
            Direction::Down => false,
            Direction::None => return Outcome::Open,
        };
        let Some((course, ranges)) = self.courses.get(alert.symbol.as_str()) else { return Outcome::Open };
        let known = ranges.partition_point(|(since, _)| *since <= alert.time);
        let Some((_, range)) = known.checked_sub(1).map(|last| ranges[last]).filter(|(_, range)| *range > 0.0) else {
            return Outcome::Open;
        };
        let (above, below) = (alert.price + self.rule.k * range, alert.price - self.rule.k * range);
        let end = alert.time.saturating_add(self.rule.within.as_nanos() as u64);
        let first = course.bars.partition_point(|bar| bar.start < alert.time);
        for bar in &course.bars[first..] {
            if bar.start >= end {
                return Outcome::Neither;
            }
            let (good, bad) = match up {
                true => (bar.high >= above, bar.low <= below),
                false => (bar.low <= below, bar.high >= above),
            };
            if bad {
                return Outcome::Failed;
            }
            if good {
                return Outcome::Reached;
            }
        }
        Outcome::Open
    }
}

/// From when on, and how much.
fn average_true_ranges(course: &Course) -> Ranges {
    let bars = course.in_bars_of(ATR_BAR);
    let length = (ATR_BAR / course.bar).max(1) * course.bar;
    let (mut ranges, mut average) = (Vec::new(), 0.0);
    for (number, pair) in bars.windows(2).enumerate() {
        let [before, bar] = pair else { continue };
        let range = true_range(before, bar);
        average = match number < ATR_BARS {
            true => average + range / ATR_BARS as f64,
            false => average + (range - average) / ATR_BARS as f64,
        };
        if number + 1 >= ATR_BARS {
            ranges.push((bar.start + length, average));
        }
    }
    ranges
}

fn true_range(before: &Bar, bar: &Bar) -> f64 {
    bar.high.max(before.close) - bar.low.min(before.close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::EntryId;

    const S: u64 = 1_000_000_000;

    fn alert(second: u64, price: f64, direction: Direction) -> Alert {
        Alert {
            id: String::new(),
            detector: "d".into(),
            plugin: "d".into(),
            version: "1.0.0".into(),
            symbol: "X".into(),
            time: second * S,
            price,
            confidence: 0.9,
            direction,
            evidence: Vec::new(),
            entry: EntryId::ZERO,
            lag_ms: 0,
            recovered: false,
            stale: false,
        }
    }

    /// Twenty minutes of 100 to 101, each minute touching both, then the given prices, one a bar of five seconds.
    fn judge(after: &[f64]) -> Judge {
        let mut course = Course::default();
        for second in 0..1200 {
            course.push(second * S, if second % 20 < 10 { 100.0 } else { 101.0 }, 1.0);
        }
        for (number, price) in (0u64..).zip(after) {
            course.push((1205 + 5 * number) * S, *price, 1.0);
        }
        let rule = Rule { k: 1.0, within: Duration::from_secs(60) };
        Judge::new(rule, BTreeMap::from([("X".into(), course)]))
    }

    #[test]
    fn the_line_that_is_touched_first_decides() {
        let up = alert(1201, 101.0, Direction::Up);
        let down = alert(1201, 101.0, Direction::Down);
        let rises = judge(&[101.5, 102.0, 99.0]);
        assert_eq!((rises.judge(&up), rises.judge(&down)), (Outcome::Reached, Outcome::Failed));
        let falls = judge(&[101.5, 100.0, 103.0]);
        assert_eq!((falls.judge(&up), falls.judge(&down)), (Outcome::Failed, Outcome::Reached));
        assert_eq!(rises.judge(&alert(1201, 101.0, Direction::None)), Outcome::Open);
    }

    #[test]
    fn what_comes_too_late_or_not_at_all_does_not_count() {
        let up = alert(1201, 101.0, Direction::Up);
        assert_eq!(judge(&[101.0; 20]).judge(&up), Outcome::Neither);
        assert_eq!(judge(&[101.0; 3]).judge(&up), Outcome::Open);
        let mut late = vec![101.0; 13];
        late.push(110.0);
        assert_eq!(judge(&late).judge(&up), Outcome::Neither);
        assert_eq!(judge(&[]).judge(&alert(300, 100.0, Direction::Up)), Outcome::Open, "no range is known yet");
    }

    #[test]
    fn the_range_is_wilders() {
        let judge = judge(&[]);
        let (_, ranges) = &judge.courses["X"];
        assert!(ranges.iter().all(|(_, range)| (range - 1.0).abs() < 1e-12), "every minute spans 1");
        assert_eq!(ranges[0].0, 15 * 60 * S, "14 ranges need 15 bars");
    }
}
