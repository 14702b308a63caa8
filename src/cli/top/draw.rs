//! The layout of the whole screen.
//!
//! What holds: no size causes a panic. 80x24 has room for the verdict, the key numbers, two curves, consumers,
//! detectors and five alerts. Lines that do not fit are counted, not silently dropped.

use std::time::Duration;

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, RenderDirection, Sparkline, Wrap},
};
use unicode_width::UnicodeWidthStr;

use super::{alerts, overview::CurvePoint, section::WIDE, state::State, tables};
use crate::{
    cli::text::{fit, grouped, span},
    clock::time_of_day,
    observe::health::{HealthReport, Verdict},
};
use tickhound_core::{
    text::{is_printable, printable},
    wall::now_ms,
};

/// A report that is older than this is shown with its age.
const OLD: Duration = Duration::from_millis(2500);

/// Rows of alerts before any other part grows: a title and five alerts.
const ALERTS_MIN: u16 = 6;

const KEYS: &str = "\
q, Ctrl-C      quit
↑ ↓, k j       select an alert; its evidence is shown
PgUp PgDn      move by a page; Home, End: newest, oldest
Esc            clear the selection, then the filter
/              filter alerts by symbol or detector: the name, in
               any case and with or without the venue, a pattern
               with * and ?, or a part of a name
p, space       pause; new alerts are shown afterwards
s              sort detectors: name, cost, faults
Ctrl-L         redraw the screen
Ctrl-Z         suspend; `fg` resumes

processed: entries that are committed.  waiting: entries that
are not.  late: the tick was old when it was processed (stale).";

/// How many reasons are shown below the verdict, which is the gravest one.
const REASONS_SHOWN: usize = 2;

pub(super) fn draw(frame: &mut Frame, state: &mut State) {
    let area = frame.area();
    let report = state.overview.newest.as_ref().map(|(report, _)| report.clone());
    let verdict = verdict(state, area.width);
    let notices = report.as_ref().map_or_else(Vec::new, |report| notices(report, state, area.width));
    let curve_rows = match area.height {
        0..20 => 1,
        20..34 => 2,
        _ => 4,
    };
    // On a small screen, the verdict and the alerts are shown.
    let rows = |wanted: u16, from: u16| if area.height >= from { wanted } else { 0 };
    let above =
        [rows(1, 3), verdict.len() as u16, rows(notices.len() as u16, 20), rows(2, 8), rows(1 + curve_rows, 14)];
    let footer = rows(1, 5);
    let left = area.height.saturating_sub(above.iter().sum::<u16>() + footer);
    let tables_wanted = report.as_ref().map_or(0, |report| tables::rows(report));
    let tables_rows = tables_wanted.min(left.saturating_sub(ALERTS_MIN));
    let [title, judged, noticed, numbers, curves, tables, alerts, keys] = Layout::vertical([
        Constraint::Length(above[0]),
        Constraint::Length(above[1]),
        Constraint::Length(above[2]),
        Constraint::Length(above[3]),
        Constraint::Length(above[4]),
        Constraint::Length(tables_rows),
        Constraint::Min(0),
        Constraint::Length(footer),
    ])
    .areas(area);

    draw_title(frame, title, state);
    frame.render_widget(Paragraph::new(verdict), judged);
    frame.render_widget(Paragraph::new(notices), noticed);
    if let Some(report) = &report {
        frame.render_widget(Paragraph::new(self::numbers(report, state, usize::from(area.width))), numbers);
    }
    draw_curves(frame, curves, state);
    alerts::draw(frame, tables, alerts, state, |frame, area, state| {
        if let Some(report) = &report {
            tables::draw(frame, area, report, state);
        }
    });
    frame.render_widget(Paragraph::new(footer_line(state)), keys);
    if state.help {
        draw_help(frame, area);
    }
    // Texts are printable before they are measured; this is for one that was forgotten.
    for cell in &mut frame.buffer_mut().content {
        if !is_printable(cell.symbol()) {
            cell.set_symbol("?");
        }
    }
}

fn draw_title(frame: &mut Frame, area: Rect, state: &State) {
    let now = time_of_day(Timestamp::now(), &state.zone);
    let left = format!(" tickhound top  {} · {}", printable(&state.stream), printable(&state.group));
    let right = match state.paused {
        Some(since) => format!(" PAUSED for {}, p resumes  {now} ", span(since.elapsed().as_millis() as u64)),
        None => format!(" {now} "),
    };
    let room = usize::from(area.width).saturating_sub(right.width());
    let title = format!("{}{right}", fit(&left, room));
    frame.render_widget(Paragraph::new(title).style(state.paint.bar()), area);
}

/// The verdict in words, with its age if it is old.
fn verdict(state: &State, width: u16) -> Vec<Line<'static>> {
    let newest = state.overview.newest.as_ref();
    let age = newest.map(|(_, at)| at.elapsed());
    if let Some((reason, since)) = &state.overview.problem {
        let (mark, style) = state.paint.verdict(Verdict::Unreachable);
        let mut lines = wrapped(&format!("{mark}: {}", printable(reason)), width, 2, style.patch(state.paint.bold()));
        let old =
            age.map_or_else(String::new, |age| format!("; the data below is {} old", span(age.as_millis() as u64)));
        let since = span(since.elapsed().as_millis() as u64);
        lines.push(Line::styled(format!("  for {since}, retrying every second{old}"), style));
        return lines;
    }
    let Some((report, at)) = newest else { return vec![Line::from("… connecting")] };
    let (mark, style) = state.paint.verdict(report.verdict);
    let mut text = format!("{mark}: {}", printable(&report.reason));
    if at.elapsed() > OLD && !state.is_paused() {
        text.push_str(&format!("  ({} ago; redis is slow)", span(at.elapsed().as_millis() as u64)));
    }
    wrapped(&text, width, 2, style.patch(state.paint.bold()))
}

/// Wraps the text into at most `most` lines.
fn wrapped(text: &str, width: u16, most: usize, style: Style) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("it begins with one");
        let apart = usize::from(!line.is_empty());
        if line.width() + apart + word.width() <= width || line.is_empty() || lines.len() == most {
            let line = lines.last_mut().expect("it begins with one");
            line.extend(std::iter::repeat_n(' ', apart));
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.into_iter().map(|line| Line::styled(fit(&line, width), style)).collect()
}

/// Notices that are neither a verdict nor a number.
fn notices(report: &HealthReport, state: &State, width: u16) -> Vec<Line<'static>> {
    let further = report.reasons.iter().skip(1);
    let mut lines: Vec<Line<'static>> = further
        .take(REASONS_SHOWN)
        .flat_map(|reason| wrapped(&format!("⚠ {}", printable(&reason.text)), width, 2, state.paint.warn()))
        .collect();
    let mut notices = Vec::new();
    if let Some(more @ 1..) = report.reasons.len().checked_sub(1 + REASONS_SHOWN) {
        notices.push(format!("⚠ and {more} more; `tickhound status` lists them"));
    }
    let receipt = report.survey.as_ref().and_then(|survey| survey.receipt.as_ref().filter(|_| survey.owner.is_some()));
    if let Some(receipt) = receipt {
        if !receipt.warming.is_empty() {
            notices.push(format!("… warming up on earlier entries: {}", receipt.warming.join(", ")));
        }
        if !receipt.needs_restart.is_empty() {
            notices.push(format!("⚠ needs a restart: {}", receipt.needs_restart.join(", ")));
        }
    }
    if state.missed > 0 {
        notices.push(format!("⚠ at least {} alerts were trimmed before they could be shown", grouped(state.missed)));
    }
    lines.extend(notices.iter().map(|notice| Line::styled(printable(notice).into_owned(), state.paint.warn())));
    lines
}

fn numbers(report: &HealthReport, state: &State, width: usize) -> Vec<Line<'static>> {
    let Some(survey) = &report.survey else { return Vec::new() };
    let owner = survey.owner.as_ref().map_or_else(|| "no host".to_owned(), |owner| format!("host {owner}"));
    let committed = survey.committed_ms_ago.map_or_else(|| "never".to_owned(), |ago| format!("{} ago", span(ago)));
    let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
    let generation = receipt.map_or_else(String::new, |receipt| {
        let since = span(now_ms().saturating_sub(receipt.since_ms));
        format!(" · generation {}, {since}", receipt.generation)
    });
    let first = format!("{}, epoch {} · committed {committed}{generation}", printable(&owner), survey.epoch);
    let totals = survey.totals;
    let alerts = state.overview.pace.map_or_else(String::new, |pace| format!(" ({:.1}/s)", pace.alerts_per_s));
    let mut second = format!("processed {} · alerts {}{alerts}", grouped(totals.entries), grouped(totals.alerts));
    let counts = [
        ("held back", totals.held_back),
        ("below min_confidence", totals.below_min_confidence),
        ("dead", totals.dead),
        ("lost", totals.lost),
    ];
    for (name, count) in counts {
        second.push_str(&format!(" · {name} {}", grouped(count)));
    }
    if let Some(work) = &report.work {
        second.push_str(&format!(" · backlog {}", grouped(work.backlog)));
    }
    [first, second].iter().map(|line| Line::from(fit(line, width))).collect()
}

fn draw_curves(frame: &mut Frame, area: Rect, state: &State) {
    let now = state.overview.points.back().copied().unwrap_or_default();
    let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), grouped);
    let added = state.overview.pace.and_then(|pace| pace.added_per_s);
    let added = added.map_or_else(String::new, |rate| format!(", {}/s added", grouped(rate.round() as u64)));
    let oldest = now.behind_ms.map_or_else(|| "?".to_owned(), span);
    let wide = area.width >= WIDE;
    let mut waiting = format!("waiting {}", number(now.waiting));
    if !wide {
        waiting.push_str(&format!(", the oldest {oldest}"));
    }
    let mut curves = vec![
        Curve {
            title: format!("processed {}/s{added}", number(now.processed)),
            value: |point| point.processed,
            floor: 10,
        },
        Curve { title: waiting, value: |point| point.waiting, floor: 100 },
    ];
    if wide {
        let title = format!("the oldest is {oldest} old");
        curves.push(Curve { title, value: |point| point.behind_ms, floor: 1000 });
    }
    let columns = Layout::horizontal(curves.iter().map(|_| Constraint::Fill(1))).spacing(2).split(area);
    for (Curve { title, value, floor }, area) in curves.into_iter().zip(columns.iter()) {
        let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(*area);
        frame.render_widget(Line::styled(fit(&title, usize::from(area.width)), state.paint.bold()), head);
        // The newest value is at the right end.
        let values: Vec<_> = state.overview.points.iter().rev().map(value).take(usize::from(area.width)).collect();
        let top = values.iter().flatten().max().map_or(floor, |most| floor.max(*most));
        let curve = Sparkline::default().data(values).max(top).direction(RenderDirection::RightToLeft);
        frame.render_widget(curve.style(state.paint.curve()).absent_value_symbol(" "), body);
    }
}

struct Curve {
    title: String,
    value: fn(&CurvePoint) -> Option<u64>,
    /// The least value of a full bar, so that a few waiting entries do not look like trouble.
    floor: u64,
}

fn footer_line(state: &State) -> Line<'static> {
    if state.typing {
        let filter = printable(&state.filter);
        return Line::from(vec![
            Span::styled(format!("/{filter}█"), state.paint.bold()),
            Span::styled("  Enter applies the filter, Esc clears it", state.paint.dim()),
        ]);
    }
    let pause = if state.is_paused() { "resume" } else { "pause" };
    let keys =
        [("q", "quit"), ("?", "help"), ("/", "filter"), ("p", pause), ("s", "sort"), ("↑↓", "select"), ("Esc", "back")];
    let spans = keys.iter().flat_map(|(key, what)| {
        [Span::styled(format!(" {key} "), state.paint.bar()), Span::from(format!(" {what}  "))]
    });
    Line::from(spans.collect::<Vec<_>>())
}

fn draw_help(frame: &mut Frame, area: Rect) {
    let (width, height) = (68.min(area.width), (KEYS.lines().count() as u16 + 2).min(area.height));
    let middle = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, middle);
    let block = Block::bordered().title(" keys ").title_bottom(" any key closes this ");
    frame.render_widget(Paragraph::new(KEYS).wrap(Wrap { trim: false }).block(block), middle);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::*;
    use crate::{cli::top::state::After, observe::health::ConsumerReport};
    use tickhound_core::{
        config::Config,
        event::EntryId,
        receipt::{DetectorReceipt, Receipt},
    };
    use tickhound_redis::{News, StoredAlert, Survey};

    fn report(consumers: usize, detectors: usize, number: u64, name: &str) -> HealthReport {
        let detector = |at: usize| DetectorReceipt {
            name: format!("{name}{at}"),
            ns_per_tick: Some(number.saturating_sub(at as u64)),
            state: "carried".into(),
            quarantined_until_ms: (at == 1).then_some(u64::MAX),
            last_fault: (at == 1).then(|| format!("panicked\nat {name}\u{1b}[2J")),
            faults: at as u64,
            ..DetectorReceipt::default()
        };
        let receipt = Receipt { detectors: (0..detectors).map(detector).collect(), ..Receipt::default() };
        let survey = Survey {
            owner: Some(name.to_owned()),
            receipt: Some(receipt),
            waiting: Some(number),
            behind_ms: Some(number),
            committed_ms_ago: Some(number),
            ..Survey::default()
        };
        let consumer = |at: usize| ConsumerReport {
            name: format!("{name}{at}"),
            pending: number,
            idle_ms: number,
            verdict: if at == 0 { "active" } else { "stuck" },
        };
        HealthReport {
            verdict: Verdict::Degraded,
            reasons: Vec::new(),
            reason: format!("{name} is not what it was {}", name.repeat(20)),
            stream: name.to_owned(),
            group: name.to_owned(),
            survey: Some(survey),
            consumers: (0..consumers).map(consumer).collect(),
            work: None,
        }
    }

    fn alert(at: u64, symbol: &str) -> StoredAlert {
        let fields = [
            ("id", format!("{at}-0/breakout/0")),
            ("detector", "breakout".into()),
            ("symbol", symbol.into()),
            ("confidence", "0.95".into()),
            ("direction", "up".into()),
            ("price", "101.05".into()),
            ("time", "1763958315250000000".into()),
            ("evidence", r#"{"level":100.0,"atr":0.35123456}"#.into()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        StoredAlert { at: EntryId { millis: at, seq: 0 }, fields }
    }

    fn state(report: HealthReport, alerts: u64, symbol: &str) -> State {
        let mut state = State::new(&Config::default(), true);
        (0..500).for_each(|_| state.overview.add(self::report(0, 0, u64::MAX, ""), None));
        state.overview.add(report, None);
        state.add(News { alerts: (1..=alerts).map(|at| alert(at, symbol)).collect(), ..News::default() });
        state
    }

    fn screen(state: &mut State, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let cells = terminal.backend().buffer().content();
        // The cell behind a wide character belongs to it.
        let row = |row: &[ratatui::buffer::Cell]| {
            let (mut text, mut behind) = (String::new(), false);
            for cell in row {
                text.push_str(if behind { "" } else { cell.symbol() });
                behind = !behind && cell.symbol().width() == 2;
            }
            text
        };
        if width == 0 { Vec::new() } else { cells.chunks(usize::from(width)).map(row).collect() }
    }

    #[test]
    fn odd_sizes_and_odd_data_are_drawn_without_a_panic() {
        let long = "a name with ✅ and 日本 that goes on ".repeat(5);
        for (consumers, detectors, number, name, alerts) in
            [(0, 0, 0, "", 0), (1, 2, 5, "tickhound", 3), (40, 60, u64::MAX, long.as_str(), 400)]
        {
            let mut state = state(report(consumers, detectors, number, name), alerts, name);
            for keys in ["", "/a", "jj", "G", "?"] {
                keys.chars().for_each(|key| _ = state.press(KeyCode::Char(key)));
                state.typing = false;
                for (width, height) in
                    [(0, 0), (1, 1), (7, 3), (20, 10), (80, 24), (80, 8), (109, 24), (110, 25), (300, 100), (12, 60)]
                {
                    screen(&mut state, width, height);
                }
            }
            state.overview.problem = Some((long.clone(), std::time::Instant::now()));
            screen(&mut state, 80, 24);
        }
    }

    #[test]
    fn a_small_screen_has_all_parts() {
        let mut state = state(report(3, 8, 1_234_567, "tick"), 50, "NIFTY25NOV25750PE");
        let rows = screen(&mut state, 80, 24);
        let all = rows.join("\n");
        assert!(rows[1].starts_with("⚠ degraded: tick is not what it was"), "{all}");
        for part in ["processed", "waiting 1,234,567", "CONSUMERS", "DETECTORS", "… ", "❌ quarantine", "q  quit"] {
            assert!(all.contains(part), "{part:?} is missing in\n{all}");
        }
        assert!(all.matches("DETECTED").count() >= 5, "{all}");
        assert!(!all.contains('\u{1b}'));
    }

    #[test]
    fn a_selected_alert_stays_while_others_arrive() {
        let mut state = state(report(1, 2, 5, "tick"), 30, "INFY");
        state.press(KeyCode::Down);
        state.press(KeyCode::PageDown);
        let selected = state.selected;
        for width in [80, 120] {
            let all = screen(&mut state, width, 24).join("\n");
            assert!(
                all.contains("EVIDENCE") && all.contains("level 100.0   ") && all.contains("20-0/breakout/0"),
                "{all}"
            );
            state.add(News { alerts: (31..=60).map(|at| alert(at, "TCS")).collect(), ..News::default() });
            assert_eq!(state.selected, selected);
        }
        "/inf".chars().for_each(|key| _ = state.press(KeyCode::Char(key)));
        assert!(screen(&mut state, 80, 24).join("\n").contains("/inf█"));
        state.press(KeyCode::Enter);
        assert_eq!(state.shown().len(), 30);
        state.press(KeyCode::Esc);
        assert!(state.selected.is_none() && state.shown().len() == 30);
        state.press(KeyCode::Esc);
        assert_eq!(state.shown().len(), 90);
        "/t*s".chars().for_each(|key| _ = state.press(KeyCode::Char(key)));
        assert_eq!(state.shown().len(), 60);
        state.press(KeyCode::Esc);
        assert_eq!(state.press(KeyCode::Char('q')), After::Quit);
    }

    /// Cut at its end, the name of an option no longer said whether it is a call or a put.
    #[test]
    fn a_narrow_screen_keeps_the_end_of_a_symbol() {
        let mut state = state(report(1, 1, 5, "tick"), 3, "BANKNIFTY25NOV57800CE");
        for width in [120, 80, 70, 60, 50, 44, 36] {
            let rows = screen(&mut state, width, 24);
            let alerts: Vec<&String> = rows.iter().filter(|row| row.contains("[BREAKOUT]")).collect();
            assert_eq!(alerts.len(), 3, "{width}: {rows:#?}");
            assert!(alerts.iter().all(|row| row.contains("57800CE")), "{width}: {rows:#?}");
            assert!(width < 60 || alerts.iter().all(|row| row.contains("↑ 101.05")), "{width}: {rows:#?}");
        }
    }

    #[test]
    fn a_filter_is_a_pattern_of_symbols_as_everywhere_else() {
        let mut state = state(report(1, 1, 5, "tick"), 0, "");
        let symbols = ["NIFTY", "BANKNIFTY", "NIFTY25NOV25750PE", "NSE:RELIANCE", "BSE:RELIANCE"];
        let alerts = symbols.iter().zip(1..).map(|(symbol, at)| alert(at, symbol)).collect();
        state.add(News { alerts, ..News::default() });
        for (filter, expected) in [
            ("nifty", vec!["NIFTY"]),
            ("nifty*", vec!["NIFTY25NOV25750PE", "NIFTY"]),
            ("*NIFTY", vec!["BANKNIFTY", "NIFTY"]),
            ("ankni", vec!["BANKNIFTY"]),
            ("Reliance", vec!["BSE:RELIANCE", "NSE:RELIANCE"]),
            ("nse:rel*", vec!["NSE:RELIANCE"]),
            ("bse:reliance", vec!["BSE:RELIANCE"]),
            ("ankni*", vec![]),
        ] {
            state.filter = filter.into();
            let shown: Vec<&str> = state.shown().iter().map(|alert| alert.field("symbol")).collect();
            assert_eq!(shown, expected, "{filter}");
        }
        state.filter = "BREAK*".into();
        assert_eq!(state.shown().len(), 5, "detectors match as well");
    }

    #[test]
    fn words_show_the_verdict_without_colours() {
        let mut state = state(report(2, 3, 5, "tick"), 3, "INFY");
        let coloured = |state: &mut State| {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| draw(frame, state)).unwrap();
            terminal.backend().buffer().content().iter().any(|cell| cell.fg != ratatui::style::Color::Reset)
        };
        assert!(coloured(&mut state));
        state.paint.color = false;
        assert!(!coloured(&mut state));
        assert!(screen(&mut state, 80, 24).join("").contains("⚠ degraded"));
    }

    #[test]
    fn an_unreachable_server_is_shown_with_the_age_of_the_data() {
        let mut state = state(report(1, 1, 5, "tick"), 1, "INFY");
        let mut gone = report(0, 0, 0, "");
        gone.survey = None;
        gone.reason = "redis at 127.0.0.1:6379: connection refused: is redis-server running at that address?".into();
        state.overview.add(gone, None);
        let all = screen(&mut state, 80, 24).join("\n");
        assert!(
            all.contains("❌ unreachable: redis at 127.0.0.1:6379") && all.contains("the data below is 0."),
            "{all}"
        );
        assert!(all.contains("tick0") && all.contains("processed ?/s"), "{all}");
    }
}
