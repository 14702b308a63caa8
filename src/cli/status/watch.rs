//! `tickhound status --watch`: in place on a terminal; one report after the other where there is none.

use std::{
    io::{self, IsTerminal, Write},
    pin::pin,
    time::Duration,
};

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};
use unicode_width::UnicodeWidthStr;

use super::Onlooker;
use crate::{
    cli::{output_closed, told_to_stop},
    observe::health::Verdict,
};

/// To the upper left corner: what was there is written over, so that nothing flickers.
const HOME: &str = "\x1b[H";
/// Clears the rest of a line, and of the screen.
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Looks every `period` until it is told to stop; the last verdict.
///
/// # Errors
/// The output can't be written.
pub(super) async fn watch(onlooker: &mut Onlooker, period: Duration) -> Result<Verdict> {
    let (mut stop, mut closed) = (pin!(told_to_stop()?), pin!(output_closed()));
    let in_place = io::stdout().is_terminal() && !onlooker.json;
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Before the first look is over, nothing is known.
    let mut verdict = Verdict::Unreachable;
    loop {
        let look = async {
            timer.tick().await;
            onlooker.look().await
        };
        let look = tokio::select! {
            () = &mut stop => break,
            () = &mut closed => break,
            look = look => look,
        };
        verdict = look.report.verdict;
        let report = onlooker.write(&look)?;
        super::print(&match in_place {
            true => on_screen(&report, period),
            false if onlooker.json => report,
            false => report + "\n",
        })?;
    }
    if in_place {
        writeln!(io::stdout())?;
    }
    Ok(verdict)
}

/// As much of the report as there is room for, at the place of the one before.
fn on_screen(report: &str, period: Duration) -> String {
    let (columns, rows) = terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0));
    let title = format!("tickhound status, every {period:?}, Ctrl-C ends it");
    fit(&title, report, usize::from(columns.max(1)), usize::from(rows))
}

fn fit(title: &str, report: &str, columns: usize, rows: usize) -> String {
    let height = |line: &str| line.width().div_ceil(columns).max(1);
    // The last row stays free: a line's end there would move everything up.
    let mut left = rows.saturating_sub(1);
    let mut shown = HOME.to_owned();
    let lines: Vec<&str> = std::iter::once(title).chain(report.lines()).collect();
    for (number, line) in lines.iter().enumerate() {
        let more = lines.len() - number;
        // Where not all can be shown, a row tells so.
        if height(line) + usize::from(more > 1) > left {
            shown.push_str(&format!("… {more} more lines: make the window larger{REST_OF_LINE}\n"));
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
    fn what_is_shown_fits_on_the_screen() {
        let report = "✅ healthy: working\na: 1\nthis one is wider than the screen is\nlast\n";
        let shown = |rows: usize| fit("title", report, 20, rows);
        assert!(shown(24).contains("last") && shown(24).matches('\n').count() == 5);
        // Six rows for five lines, and one that stays free.
        assert!(shown(7).contains("last"));
        assert!(!shown(6).contains("last") && shown(6).contains("… 2 more lines"), "{}", shown(6));
        assert_eq!(shown(1).matches('\n').count(), 1);
    }
}
