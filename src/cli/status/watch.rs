//! `tickhound status --watch`: updates in place on a terminal, otherwise prints one report after the other.

use std::{pin::pin, time::Duration};

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};
use unicode_width::UnicodeWidthStr;

use super::observer::Observer;
use crate::{
    cli::process::{output_closed, stop_requested},
    observe::health::Verdict,
    output,
};

/// Moves to the upper left corner. Lines are overwritten, not cleared first, so nothing flickers.
const HOME: &str = "\x1b[H";
/// These clear the rest of a line, and of the screen.
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Reports every `period` until it is stopped; returns the last verdict.
///
/// # Errors
/// The output can't be written.
pub(super) async fn watch(observer: &mut Observer, period: Duration) -> Result<Verdict> {
    let (mut stop, mut closed) = (pin!(stop_requested()?), pin!(output_closed()));
    let in_place = output::can_draw() && !observer.json;
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nothing is known before the first observation.
    let mut verdict = Verdict::Unreachable;
    loop {
        let observe = async {
            timer.tick().await;
            observer.observe().await
        };
        let observation = tokio::select! {
            () = &mut stop => break,
            () = &mut closed => break,
            // Cancelled only when the command ends.
            observation = observe => observation,
        };
        verdict = observation.report.verdict;
        match observer.report(&observation)? {
            Some(lines) if in_place => output::draw(&on_screen(lines.as_str(), period)),
            Some(lines) => {
                output::print(&lines);
                outln!();
            }
            None => {}
        }
    }
    if in_place {
        outln!();
    }
    Ok(verdict)
}

/// As much of the report as fits, over the previous one.
fn on_screen(report: &str, period: Duration) -> String {
    let (columns, rows) = terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0));
    let title = format!("tickhound status, every {period:?}, Ctrl-C to quit");
    fit(&title, report, usize::from(columns.max(1)), usize::from(rows))
}

fn fit(title: &str, report: &str, columns: usize, rows: usize) -> String {
    let height = |line: &str| line.width().div_ceil(columns).max(1);
    // The last row stays free: a line break there would scroll the screen.
    let mut left = rows.saturating_sub(1);
    let mut shown = HOME.to_owned();
    let lines: Vec<&str> = std::iter::once(title).chain(report.lines()).collect();
    for (number, line) in lines.iter().enumerate() {
        let more = lines.len() - number;
        // If not all lines fit, the last one says so.
        if height(line) + usize::from(more > 1) > left {
            shown.push_str(&format!("… {more} more lines; enlarge the window{REST_OF_LINE}\n"));
            break;
        }
        left -= height(line);
        shown.push_str(&format!("{line}{REST_OF_LINE}\n"));
    }
    shown + REST_OF_SCREEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_to_the_screen() {
        let report = "✅ healthy: working\na: 1\nthis one is wider than the screen is\nlast\n";
        let shown = |rows: usize| fit("title", report, 20, rows);
        assert!(shown(24).contains("last") && shown(24).matches('\n').count() == 5);
        // Six rows for five lines; one stays free.
        assert!(shown(7).contains("last"));
        assert!(!shown(6).contains("last") && shown(6).contains("… 2 more lines"), "{}", shown(6));
        assert_eq!(shown(1).matches('\n').count(), 1);
    }
}
