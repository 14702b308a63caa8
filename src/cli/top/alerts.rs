//! The list of alerts, and the evidence of the selected one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};
use unicode_width::UnicodeWidthStr;

use super::{
    section::{WIDE, section},
    state::State,
};
use crate::{
    cli::text::{detected, event_time, fit, fit_middle, grouped, span},
    clock,
};
use tickhound_core::text::printable;
use tickhound_redis::StoredAlert;

/// Width of the evidence beside the alerts, in columns.
const EVIDENCE_WIDTH: u16 = 42;

/// Width of a symbol at least, however narrow the screen is, in columns: the name of an option with its underlying cut short.
const SYMBOL_WIDTH_MIN: usize = 14;

/// The width below which a line has no time, columns: the name needs the room.
const TIME_WIDTH_MIN: usize = 48;

/// Rows of the evidence where it replaces the tables.
const EVIDENCE_ROWS: u16 = 9;

/// Draws alerts and evidence: beside the alerts on a wide screen, else instead of what `tables` draws.
pub(super) fn draw(
    frame: &mut Frame,
    mut upper: Rect,
    mut lower: Rect,
    state: &mut State,
    tables: impl FnOnce(&mut Frame, Rect, &State),
) {
    let shown = state.shown();
    let selected = state.position(&shown);
    let evidence = selected.map(|at| evidence(shown[at], state));
    match evidence {
        Some(lines) if lower.width >= WIDE => {
            let columns = [Constraint::Min(0), Constraint::Length(EVIDENCE_WIDTH)];
            let [list, beside] = Layout::horizontal(columns).spacing(1).areas(lower);
            lower = list;
            tables(frame, upper, state);
            draw_evidence(frame, beside, state, lines);
        }
        Some(lines) => {
            // The tables may have less room than the evidence needs, or more.
            let whole = Rect { height: upper.height + lower.height, ..upper };
            let rows = EVIDENCE_ROWS.min(whole.height.saturating_sub(2));
            [upper, lower] = Layout::vertical([Constraint::Length(rows), Constraint::Min(0)]).areas(whole);
            draw_evidence(frame, upper, state, lines);
        }
        None => tables(frame, upper, state),
    }

    let room = usize::from(lower.height.saturating_sub(1));
    // The selected alert stays visible when new alerts move it down.
    let offset = match selected {
        Some(at) if at < state.offset => at,
        Some(at) if at >= state.offset + room => (at + 1).saturating_sub(room),
        Some(_) => state.offset,
        None => 0,
    };
    let lines: Vec<Line> = (offset..shown.len().min(offset + room))
        .map(|at| line(shown[at], state, usize::from(lower.width), Some(at) == selected))
        .collect();
    let lines = if !lines.is_empty() {
        lines
    } else if state.alert_count() > 0 {
        vec![Line::styled("  no alert matches the filter", state.paint.dim())]
    } else {
        vec![Line::styled(format!("  none yet in {}", printable(&state.alerts_stream)), state.paint.dim())]
    };
    let title = title(state, shown.len(), selected);
    section(frame, lower, state, &title, lines);
    (state.offset, state.page) = (offset, room);
}

fn title(state: &State, shown: usize, selected: Option<usize>) -> String {
    let mut title = format!("ALERTS newest first, {}", clock::label(Timestamp::now(), &state.zone));
    if let Some(at) = selected {
        title.push_str(&format!(" · {} of {}", grouped(at as u64 + 1), grouped(shown as u64)));
    }
    if !state.filter.is_empty() {
        let count = grouped(state.alert_count() as u64);
        title.push_str(&format!(" · /{}: {} of {count}", printable(&state.filter), grouped(shown as u64)));
    }
    title
}

fn line(alert: &StoredAlert, state: &State, width: usize, selected: bool) -> Line<'static> {
    let arrow = match alert.field("direction") {
        "up" => " ↑",
        "down" => " ↓",
        _ => "",
    };
    let price = alert.number::<f64>("price").map_or_else(String::new, |price| format!(" {price}"));
    let mut late = String::new();
    if alert.is("stale") {
        late = format!(", {} late", span(alert.number("lag_ms").unwrap_or(0)));
    }
    let time = event_time(alert, &state.zone, clock::bare_time_of_day);
    let whole = format!("{time} {}{arrow}{price}{late}", detected(alert));
    let text = if whole.width() <= width {
        fit(&whole, width)
    } else {
        // Words that every line has make room for the name, whose end may say which option it is, and for the price.
        let (detector, symbol) = (alert.field("detector").to_uppercase(), printable(alert.field("symbol")));
        let time = if width < TIME_WIDTH_MIN { String::new() } else { format!("{time} ") };
        let (begin, end) =
            (format!("{time}✅ [{}] ", printable(&detector)), format!(" {:.2}{arrow}{price}", alert.confidence()));
        let room = width.saturating_sub(begin.width() + end.width()).max(SYMBOL_WIDTH_MIN);
        fit(&format!("{begin}{}{end}{late}", fit_middle(&symbol, room.min(symbol.width()))), width)
    };
    let style = match (selected, alert.is("stale")) {
        (true, _) => state.paint.bar(),
        (false, true) => state.paint.dim(),
        (false, false) => ratatui::style::Style::new(),
    };
    Line::styled(text, style)
}

fn draw_evidence(frame: &mut Frame, area: Rect, state: &State, lines: Vec<Line<'static>>) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    section(frame, head, state, "EVIDENCE", Vec::new());
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), body);
}

/// The lines about the selected alert.
fn evidence(alert: &StoredAlert, state: &State) -> Vec<Line<'static>> {
    let field = |name: &str| printable(alert.field(name)).into_owned();
    let bold = |text: String| Span::styled(text, state.paint.bold());
    let numbers: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(alert.field("evidence")).unwrap_or_default();
    let mut spans: Vec<Span> = Vec::new();
    for (name, number) in &numbers {
        spans.push(Span::from(format!("{} ", printable(name))));
        spans.push(bold(format!("{}   ", short(number))));
    }
    if spans.is_empty() {
        spans.push(Span::styled("the detector gave no evidence", state.paint.dim()));
    }
    let confidence = alert.number("confidence").map_or_else(String::new, |confidence: f64| format!("{confidence:.4}"));
    let price = Some(field("price")).filter(|price| !price.is_empty()).unwrap_or_else(|| "unknown".into());
    let lag = match alert.number("lag_ms") {
        Some(ms @ 0..1000) => format!("{ms} ms"),
        lag => span(lag.unwrap_or(0)),
    };
    let mut timing = format!("processed {lag} after it arrived");
    for (flag, what) in [("stale", ", stale"), ("recovered", ", recovered")] {
        if alert.is(flag) {
            timing.push_str(what);
        }
    }
    vec![
        Line::from(vec![bold(field("symbol")), Span::from(format!(" {}, price {price}", field("direction")))]),
        Line::from(format!("by {}, plugin {} {}", field("detector"), field("plugin"), field("version"))),
        Line::from(vec![Span::from("confidence "), bold(confidence)]),
        Line::from(spans),
        Line::from(event_time(alert, &state.zone, clock::to_the_millisecond)),
        Line::from(timing),
        Line::styled(field("id"), state.paint.dim()),
    ]
}

/// A number with at most four decimal places.
fn short(number: &serde_json::Value) -> String {
    match number.as_f64() {
        Some(value) if value.fract() != 0.0 => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => printable(&number.to_string()).into_owned(),
    }
}
