//! A titled part of the screen.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr;

use super::state::State;

/// A screen of at least this many columns has a third curve, and evidence beside the alerts.
pub(super) const WIDE: u16 = 110;

/// Draws a title and its lines; lines that do not fit are counted.
pub(super) fn section(frame: &mut Frame, area: Rect, state: &State, title: &str, mut lines: Vec<Line<'static>>) {
    let width = usize::from(area.width);
    let room = usize::from(area.height.saturating_sub(1));
    if lines.len() > room && room > 0 {
        let more = lines.len() - (room - 1);
        lines.truncate(room - 1);
        lines.push(Line::styled(format!("  … {more} more"), state.paint.dim()));
    }
    let rule = "─".repeat(width.saturating_sub(title.width() + 1));
    let head = Line::from(vec![
        Span::styled(title.to_owned(), state.paint.bold()),
        Span::styled(format!(" {rule}"), state.paint.dim()),
    ]);
    let shown: Vec<Line> = std::iter::once(head).chain(lines).collect();
    frame.render_widget(Paragraph::new(shown), area);
}
