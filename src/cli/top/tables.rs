//! The tables of consumers and of detectors.

use std::cmp::Reverse;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use super::{
    section::section,
    state::{Sort, State},
};
use crate::{
    cli::text::{fit, fit_middle, grouped, span},
    observe::health::{ConsumerReport, HealthReport},
};
use tickhound_core::{receipt::DetectorReceipt, text::printable, wall::now_ms};

/// Width of a name, in columns.
const NAME: usize = 22;

/// Rows of consumers at least, on a small screen: a title and the host's consumer.
const CONSUMERS_MIN: u16 = 2;

/// Rows of both tables if there is enough room.
pub(super) fn rows(report: &HealthReport) -> u16 {
    let rows = |items: usize| 1 + u16::try_from(items.max(1)).unwrap_or(u16::MAX - 1);
    rows(report.consumers.len()).saturating_add(rows(detectors(report).len()))
}

pub(super) fn draw(frame: &mut Frame, area: Rect, report: &HealthReport, state: &State) {
    let consumers = report.consumers.len().max(1) as u16 + 1;
    let detectors = detectors(report).len().max(1) as u16 + 1;
    // On a small screen detectors get the room first: a group usually has one consumer.
    let consumers = consumers.min(area.height.saturating_sub(detectors).max(CONSUMERS_MIN).max(area.height / 3));
    let [upper, lower] = Layout::vertical([Constraint::Length(consumers), Constraint::Min(0)]).areas(area);
    let width = usize::from(area.width);
    section(frame, upper, state, &consumer_head(), consumer_lines(report, state));
    section(frame, lower, state, &detector_head(width, state), detector_lines(report, state, width));
}

fn consumer_head() -> String {
    format!("{}{:>10}{:>10}  ", fit("CONSUMERS", NAME + 2), "pending", "idle")
}

fn consumer_lines(report: &HealthReport, state: &State) -> Vec<Line<'static>> {
    if report.consumers.is_empty() {
        return vec![Line::styled("  none yet", state.paint.dim())];
    }
    let mut consumers: Vec<&ConsumerReport> = report.consumers.iter().collect();
    // The host's consumer, then those with the most pending entries.
    consumers.sort_by_key(|consumer| (consumer.name != state.consumer, Reverse(consumer.pending)));
    let line = |consumer: &&ConsumerReport| {
        let ConsumerReport { name, pending, idle_ms, verdict } = consumer;
        let (mark, style) = match *verdict {
            "active" | "idle" => ("✅", state.paint.good()),
            "stale" => ("⚠ ", state.paint.warn()),
            _ => ("❌", state.paint.bad()),
        };
        let numbers =
            format!("{}{:>10}{:>10}  ", fit_middle(&printable(name), NAME), grouped(*pending), span(*idle_ms));
        Line::from(vec![Span::from(format!("  {numbers}")), Span::styled(format!("{mark} {verdict}"), style)])
    };
    consumers.iter().map(line).collect()
}

fn detectors(report: &HealthReport) -> &[DetectorReceipt] {
    let survey = report.survey.as_ref().filter(|survey| survey.owner.is_some());
    survey.and_then(|survey| survey.receipt.as_ref()).map_or(&[], |receipt| &receipt.detectors)
}

/// Width of plugin and version, if there is enough room.
fn plugin_width(width: usize) -> usize {
    width.saturating_sub(90).min(26)
}

fn detector_head(width: usize, state: &State) -> String {
    let name = format!("DETECTORS by {}", state.sort.name());
    format!("{}{}{:>10}{:>10}  state", fit(&name, NAME + 2), fit("plugin", plugin_width(width)), "ns/tick", "faults")
}

fn detector_lines(report: &HealthReport, state: &State, width: usize) -> Vec<Line<'static>> {
    let mut detectors: Vec<&DetectorReceipt> = detectors(report).iter().collect();
    if detectors.is_empty() {
        return vec![Line::styled("  none: no host is running", state.paint.dim())];
    }
    detectors.sort_by_key(|detector| {
        let key = match state.sort {
            Sort::Name => u64::from(detector.quarantined_until_ms.is_some()),
            Sort::Cost => detector.ns_per_tick.unwrap_or(0),
            Sort::Faults => detector.faults,
        };
        (Reverse(key), &detector.name)
    });
    let line = |detector: &&DetectorReceipt| {
        let cost = detector.ns_per_tick.map_or_else(|| "-".to_owned(), grouped);
        let mut name = detector.name.clone();
        if !detector.shadow_of.is_empty() {
            name.push_str(&format!(" ⇠ {}", detector.shadow_of));
        }
        let plugin = format!("{} {}", detector.plugin, detector.version);
        let (what, style) = match detector.quarantined_until_ms {
            Some(until) => {
                let fault = detector.last_fault.as_deref().unwrap_or_default();
                let left = span(until.saturating_sub(now_ms()));
                let skipped = grouped(detector.skipped);
                (format!("❌ quarantine, {left} left, {skipped} skipped: {fault}"), state.paint.bad())
            }
            None if detector.faults > 0 => {
                let fault = detector.last_fault.as_deref().unwrap_or_default();
                (format!("⚠ failed: {fault}"), state.paint.warn())
            }
            None => {
                let since = span(now_ms().saturating_sub(detector.since_ms));
                (
                    format!("✅ {}, generation {}, {since}", detector.state_text(), detector.generation),
                    state.paint.good(),
                )
            }
        };
        let numbers = format!(
            "  {}{}{cost:>10}{:>10}  ",
            fit_middle(&printable(&name), NAME),
            fit_middle(&printable(&plugin), plugin_width(width)),
            grouped(detector.faults),
        );
        let room = width.saturating_sub(numbers.width());
        let what = printable(what.lines().next().unwrap_or_default());
        Line::from(vec![Span::from(numbers), Span::styled(fit(&what, room), style)])
    };
    detectors.iter().map(line).collect()
}
