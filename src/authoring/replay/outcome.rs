//! The outcome of an alert: whether the price continued in its direction, or turned.
//!
//! There are two lines around the price of the alert, `k` times the average true range above and below it (Wilder, 14
//! bars of a minute, as of the last complete bar before the alert). The outcome is the line that the price touches first
//! within a given time. If the price moved by chance, each line would be touched first equally often; trading costs are
//! left out. Bars of five seconds that begin after the alert are compared; if a bar touches both lines, the worse
//! outcome counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::tape::{Bar, PriceHistory};
use tickhound_core::event::{Alert, Direction};

/// The number of bars in the average true range.
const ATR_BARS: usize = 14;

/// The length of these bars, ns.
const ATR_BAR: u64 = 60_000_000_000;

/// When an alert counts as reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// The distance of the lines, in average true ranges.
    pub(crate) k: f64,
    /// The event time within which a line has to be touched.
    pub(crate) within: Duration,
}

/// The outcome of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AlertOutcome {
    /// The price touched the line in the alert's direction first.
    Reached,
    /// The price touched the other line first.
    Failed,
    /// The price touched neither line in time.
    Neither,
    /// The outcome is unknown: the alert has no direction, there is no average true range yet, or the recording ends.
    Open,
}

/// The number of alerts with each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Outcomes {
    pub(crate) reached: u64,
    pub(crate) failed: u64,
    pub(crate) neither: u64,
    pub(crate) open: u64,
}

impl Outcomes {
    /// Counts an outcome.
    pub(crate) fn add(&mut self, outcome: AlertOutcome) {
        *match outcome {
            AlertOutcome::Reached => &mut self.reached,
            AlertOutcome::Failed => &mut self.failed,
            AlertOutcome::Neither => &mut self.neither,
            AlertOutcome::Open => &mut self.open,
        } += 1;
    }

    /// The share of reached alerts among those that reached or failed.
    pub(crate) fn hit_rate(&self) -> Option<f64> {
        let decided = self.reached + self.failed;
        (decided > 0).then(|| self.reached as f64 / decided as f64)
    }
}

/// Judges alerts by the prices after them.
pub(crate) struct Judge {
    rule: Rule,
    symbols: BTreeMap<Arc<str>, SymbolPrices>,
}

/// The prices of a symbol, and what they are measured by.
struct SymbolPrices {
    history: PriceHistory,
    /// The average true ranges, each with the time from which it is known.
    ranges: Vec<(u64, f64)>,
}

impl Judge {
    pub(crate) fn new(rule: Rule, histories: BTreeMap<Arc<str>, PriceHistory>) -> Self {
        let prices = |history: PriceHistory| SymbolPrices { ranges: average_true_ranges(&history), history };
        Self { rule, symbols: histories.into_iter().map(|(name, history)| (name, prices(history))).collect() }
    }

    /// Returns the prices of each symbol.
    pub(crate) fn histories(&self) -> impl Iterator<Item = (&str, &PriceHistory)> {
        self.symbols.iter().map(|(name, prices)| (&**name, &prices.history))
    }

    /// Returns the outcome of an alert.
    pub(crate) fn judge(&self, alert: &Alert) -> AlertOutcome {
        if alert.direction == Direction::None {
            return AlertOutcome::Open;
        }
        let Some(SymbolPrices { history, ranges }) = self.symbols.get(alert.symbol.as_str()) else {
            return AlertOutcome::Open;
        };
        let known = ranges.partition_point(|(since, _)| *since <= alert.time);
        let Some((_, range)) = known.checked_sub(1).map(|last| ranges[last]).filter(|(_, range)| *range > 0.0) else {
            return AlertOutcome::Open;
        };
        let (above, below) = (alert.price + self.rule.k * range, alert.price - self.rule.k * range);
        let end = alert.time.saturating_add(self.rule.within.as_nanos() as u64);
        let first = history.bars.partition_point(|bar| bar.start < alert.time);
        for bar in &history.bars[first..] {
            if bar.start >= end {
                return AlertOutcome::Neither;
            }
            let (rises, falls) = (bar.high >= above, bar.low <= below);
            let (good, bad) = if alert.direction == Direction::Up { (rises, falls) } else { (falls, rises) };
            // If the bar touches both lines, the worse outcome counts.
            if bad {
                return AlertOutcome::Failed;
            }
            if good {
                return AlertOutcome::Reached;
            }
        }
        AlertOutcome::Open
    }
}

/// Computes the average true range after each bar, with the time from which it is known.
fn average_true_ranges(history: &PriceHistory) -> Vec<(u64, f64)> {
    let bars = history.in_bars_of(ATR_BAR);
    let length = (ATR_BAR / history.bar).max(1) * history.bar;
    let (mut ranges, mut average) = (Vec::new(), 0.0);
    for (number, pair) in bars.windows(2).enumerate() {
        let [before, bar] = pair else { continue };
        let range = true_range(before, bar);
        // The first average is the mean of the first ranges; from then on, Wilder's smoothing applies.
        let step = if number < ATR_BARS { range } else { range - average };
        average += step / ATR_BARS as f64;
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
    use tickhound_core::event::{AlertOrigin, EntryId};

    const S: u64 = 1_000_000_000;

    fn alert(second: u64, price: f64, direction: Direction) -> Alert {
        Alert {
            id: String::new(),
            detector: "d".into(),
            plugin: "d".into(),
            version: "1.0.0".into(),
            origin: AlertOrigin::default(),
            symbol: "X".into(),
            venue: String::new(),
            group: String::new(),
            members: Vec::new(),
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

    /// Twenty minutes of prices from 100 to 101, both of them in each minute, then the given prices, one a bar of 5 s.
    fn judge(after: &[f64]) -> Judge {
        let mut history = PriceHistory::default();
        for second in 0..1200 {
            history.push(second * S, if second % 20 < 10 { 100.0 } else { 101.0 }, 1.0);
        }
        for (number, price) in (0u64..).zip(after) {
            history.push((1205 + 5 * number) * S, *price, 1.0);
        }
        let rule = Rule { k: 1.0, within: Duration::from_secs(60) };
        Judge::new(rule, BTreeMap::from([("X".into(), history)]))
    }

    #[test]
    fn the_line_that_is_touched_first_decides() {
        let up = alert(1201, 101.0, Direction::Up);
        let down = alert(1201, 101.0, Direction::Down);
        let rises = judge(&[101.5, 102.0, 99.0]);
        assert_eq!((rises.judge(&up), rises.judge(&down)), (AlertOutcome::Reached, AlertOutcome::Failed));
        let falls = judge(&[101.5, 100.0, 103.0]);
        assert_eq!((falls.judge(&up), falls.judge(&down)), (AlertOutcome::Failed, AlertOutcome::Reached));
        assert_eq!(rises.judge(&alert(1201, 101.0, Direction::None)), AlertOutcome::Open);
    }

    #[test]
    fn a_touch_that_is_late_or_missing_does_not_count() {
        let up = alert(1201, 101.0, Direction::Up);
        assert_eq!(judge(&[101.0; 20]).judge(&up), AlertOutcome::Neither);
        assert_eq!(judge(&[101.0; 3]).judge(&up), AlertOutcome::Open);
        let mut late = vec![101.0; 13];
        late.push(110.0);
        assert_eq!(judge(&late).judge(&up), AlertOutcome::Neither);
        assert_eq!(judge(&[]).judge(&alert(300, 100.0, Direction::Up)), AlertOutcome::Open, "no range is known yet");
    }

    #[test]
    fn the_range_is_wilders() {
        let judge = judge(&[]);
        let SymbolPrices { ranges, .. } = &judge.symbols["X"];
        assert!(ranges.iter().all(|(_, range)| (range - 1.0).abs() < 1e-12), "every minute spans 1");
        assert_eq!(ranges[0].0, 15 * 60 * S, "14 ranges need 15 bars");
    }
}
