//! The result of a replay as text and as JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::{
    authoring::replay::{
        Summary,
        outcome::{Outcomes, Rule},
        tape::Quality,
    },
    clock,
    output::Lines,
};
use tickhound_core::{event::Alert, stream::LeftOut};

/// How many reasons are shown; the others are counted.
const REASONS: usize = 5;

/// The result of a replay.
pub(super) struct ReplayResult<'a> {
    pub(super) summary: &'a Summary,
    pub(super) quality: Quality,
    pub(super) outcomes: &'a BTreeMap<String, Outcomes>,
    /// The number of alerts of each detector in each run on shuffled ticks.
    pub(super) shuffled: &'a [BTreeMap<String, u64>],
    pub(super) rule: Rule,
    pub(super) alerts: &'a [Alert],
    /// The time zone in which times are shown.
    pub(super) zone: TimeZone,
}

impl ReplayResult<'_> {
    /// The median confidence of a detector's alerts.
    pub(super) fn confidence(&self, detector: &str) -> Option<f64> {
        let of = self.alerts.iter().filter(|alert| alert.detector == detector);
        let mut sorted: Vec<f64> = of.map(|alert| alert.confidence).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    fn left_out(&self, detector: &str) -> LeftOut {
        self.summary.left_out.get(detector).copied().unwrap_or_default()
    }

    fn counts_shuffled(&self, detector: &str) -> Vec<u64> {
        self.shuffled.iter().map(|counts| counts.get(detector).copied().unwrap_or(0)).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let Self { summary, quality, rule, .. } = self;
        let detectors: BTreeMap<&String, Value> = summary
            .alerts
            .iter()
            .map(|(name, count)| {
                let outcomes = self.outcomes.get(name).copied().unwrap_or_default();
                let (faults, last_fault) = summary.faults.get(name).cloned().unwrap_or_default();
                let detector = json!({
                    "alerts": count, "median_confidence": self.confidence(name), "outcomes": outcomes,
                    "hit_rate": outcomes.hit_rate(), "ns_per_tick": summary.ns_per_tick.get(name),
                    "alerts_shuffled": self.counts_shuffled(name), "left_out": self.left_out(name),
                    "faults": faults, "last_fault": Some(last_fault).filter(|fault| !fault.is_empty()),
                });
                (name, detector)
            })
            .collect();
        json!({
            "stopped": summary.stopped, "seconds": summary.seconds, "entries": summary.totals.entries,
            "ticks": quality.ticks, "symbols": quality.symbols, "groups": quality.groups, "ticks_per_second": self.rate(),
            "first": rfc_3339(quality.first), "last": rfc_3339(quality.last),
            "alerts": summary.alerts.values().sum::<u64>(), "held_back": summary.totals.held_back,
            "below_min_confidence": summary.totals.below_min_confidence, "detectors": detectors,
            "outcome_rule": { "atr": rule.k, "minutes": rule.within.as_secs_f64() / 60.0 },
            "data": {
                "undecodable": summary.undecodable, "skipped_lines": summary.skipped_lines, "unseen": summary.unseen,
                "time_estimated": quality.time_estimated, "out_of_order": quality.out_of_order,
                "volume_repaired": quality.volume_repaired, "quote_only": quality.quote_only,
            },
        })
    }

    fn rate(&self) -> f64 {
        self.quality.ticks as f64 / self.summary.seconds.max(1e-9)
    }

    /// What was replayed, and the quality of the data.
    pub(super) fn head(&self) -> Lines {
        let Self { summary, quality, .. } = self;
        let mut text = Lines::default();
        let stopped = if summary.stopped { "stopped: " } else { "" };
        let time = |nanos| instant(nanos).map(|at| clock::to_the_second(at, &self.zone));
        let _ = writeln!(
            text,
            "{stopped}{} ticks of {} symbols{}, {} to {}, in {:.2} s ({:.0} ticks/s)",
            quality.ticks,
            quality.symbols,
            of_groups(quality.groups),
            time(quality.first).unwrap_or_default(),
            time(quality.last).unwrap_or_default(),
            summary.seconds,
            self.rate()
        );
        let repairs = [
            (quality.time_estimated, "estimated times"),
            (quality.out_of_order, "ticks out of order, with the time of the tick before"),
            (quality.volume_repaired, "implausible volumes corrected"),
            (quality.quote_only, "ticks with quotes only"),
            (summary.unseen, "ticks without a price or a time, not passed to detectors"),
            (summary.skipped_lines, "skipped lines that are not a JSON object"),
            (summary.totals.held_back, "detections held back (cooldown_s, max_alerts_per_minute, alerts.keep_minutes)"),
            (summary.totals.below_min_confidence, "detections below min_confidence"),
        ];
        for (count, what) in repairs.iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "{count:>9} {what}");
        }
        let mut reasons: Vec<(&String, &u64)> = summary.undecodable.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons.iter().take(REASONS) {
            let _ = writeln!(text, "{count:>9} undecodable: {reason}");
        }
        if let Some(rest) = reasons.get(REASONS..).filter(|rest| !rest.is_empty()) {
            let count: u64 = rest.iter().map(|(_, count)| **count).sum();
            let _ = writeln!(text, "{count:>9} undecodable, for {} other reasons (see --json)", rest.len());
        }
        for (name, (faults, last)) in &summary.faults {
            let _ = writeln!(text, "{faults:>9} ticks on which {name} failed; the last fault: {last}");
        }
        text
    }

    pub(super) fn to_text(&self) -> Lines {
        let mut text = self.head();
        let mut line = String::new();
        let shuffled = !self.shuffled.is_empty();
        let width = self.summary.alerts.keys().map(String::len).max().unwrap_or(0).max("detector".len());
        let _ = write!(line, "{:width$} {:>8} {:>8} {:>8}", "detector", "alerts", "held", "below");
        if shuffled {
            let _ = write!(line, " {:>15}", "in shuffled");
        }
        let _ = writeln!(text);
        let _ = writeln!(
            text,
            "{line} {:>10} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8}",
            "confidence", "reached", "failed", "neither", "open", "hits", "ns/tick"
        );
        for (name, count) in &self.summary.alerts {
            line.clear();
            let left_out = self.left_out(name);
            let _ = write!(line, "{name:width$} {count:>8} {:>8} {:>8}", left_out.held_back(), left_out.min_confidence);
            if shuffled {
                let counts = self.counts_shuffled(name);
                let (least, most) = (counts.iter().min().copied(), counts.iter().max().copied());
                let span = match (least, most) {
                    (Some(least), Some(most)) if least == most => least.to_string(),
                    (Some(least), Some(most)) => format!("{least} to {most}"),
                    _ => String::new(),
                };
                let _ = write!(line, " {span:>15}");
            }
            let outcomes = self.outcomes.get(name).copied().unwrap_or_default();
            let confidence = self.confidence(name).map_or_else(|| "-".to_owned(), |middle| format!("{middle:.3}"));
            let cost = self.summary.ns_per_tick.get(name).map_or_else(|| "-".to_owned(), u64::to_string);
            let Outcomes { reached, failed, neither, open } = outcomes;
            let hits = percent(outcomes.hit_rate());
            let _ = writeln!(
                text,
                "{line} {confidence:>10} {reached:>8} {failed:>8} {neither:>8} {open:>8} {hits:>7} {cost:>8}"
            );
        }
        let _ = writeln!(text);
        let _ = writeln!(
            text,
            "held: detections held back by cooldown_s or a limit per minute; below: those below min_confidence."
        );
        let _ = writeln!(
            text,
            "confidence: the median. reached, failed: the price first moved {} average true ranges with, or against, the alert,",
            self.rule.k
        );
        let _ = writeln!(
            text,
            "within {} minutes. hits: the share of reached in both; chance gives about 50 %. open: no direction, or unknown.",
            self.rule.within.as_secs_f64() / 60.0
        );
        if shuffled {
            let _ = writeln!(
                text,
                "in shuffled: alerts on the same ticks with moves in random order. A pattern that is as frequent there is due to chance."
            );
        }
        text
    }
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// What follows the number of symbols, if detectors saw groups.
fn of_groups(groups: u64) -> String {
    match groups {
        0 => String::new(),
        1 => " and 1 group".to_owned(),
        _ => format!(" and {groups} groups"),
    }
}

/// An event time; `None` before the first tick.
fn instant(nanos: u64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanos)).ok().filter(|_| nanos > 0)
}

/// An event time for programs.
fn rfc_3339(nanos: u64) -> Option<String> {
    instant(nanos).map(|at| format!("{at:.0}"))
}
