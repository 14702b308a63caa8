//! What the screen shows, and what keys do to it. No terminal, no Redis.

use std::{collections::VecDeque, time::Instant};

use jiff::tz::TimeZone;
use ratatui::{
    crossterm::event::KeyCode,
    style::{Color, Modifier, Style},
};
use wildmatch::WildMatch;

use super::look::Look;
use crate::{cli::text, observe::health::Verdict};
use tickhound_core::{config::Config, event::EntryId};
use tickhound_redis::{News, StoredAlert};

/// Alerts that one can scroll back to.
const ALERTS_KEPT: usize = 5000;

/// So far one page goes if the screen has not said how much it shows.
const PAGE: usize = 10;

/// Whether to go on after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    Quit,
}

/// In which order detectors stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Those in quarantine first, then by name.
    Name,
    /// The dearest first.
    Cost,
    /// The one that failed most first.
    Faults,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cost => "cost",
            Self::Faults => "faults",
        }
    }
}

/// All that is drawn.
pub(super) struct State {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) alerts_stream: String,
    /// Our consumer's name.
    pub(super) consumer: String,
    pub(super) zone: TimeZone,
    pub(super) paint: Paint,
    pub(super) look: Look,
    /// Newest first.
    alerts: VecDeque<StoredAlert>,
    /// Alerts that were trimmed away before they could be shown.
    pub(super) missed: u64,
    /// The one whose evidence is shown, by its place in the stream of alerts: others may come meanwhile.
    pub(super) selected: Option<EntryId>,
    /// First alert on the screen, while one is selected.
    pub(super) offset: usize,
    /// Rows that alerts had when they were drawn last.
    pub(super) page: usize,
    pub(super) filter: String,
    pub(super) typing: bool,
    pub(super) paused: Option<Instant>,
    pub(super) sort: Sort,
    pub(super) help: bool,
}

impl State {
    pub(super) fn new(config: &Config, color: bool) -> Self {
        Self {
            stream: config.stream.key.clone(),
            group: config.stream.group.clone(),
            alerts_stream: config.alerts.stream.clone(),
            consumer: config.stream.consumer.clone(),
            zone: text::zone(config),
            paint: Paint { color },
            look: Look::default(),
            alerts: VecDeque::new(),
            missed: 0,
            selected: None,
            offset: 0,
            page: PAGE,
            filter: String::new(),
            typing: false,
            paused: None,
            sort: Sort::Name,
            help: false,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(super) fn add(&mut self, news: News) {
        self.missed += news.missed;
        for alert in news.alerts {
            self.alerts.push_front(alert);
        }
        self.alerts.truncate(ALERTS_KEPT);
    }

    /// Alerts that are kept here, whatever the filter.
    pub(super) fn alerts_kept(&self) -> usize {
        self.alerts.len()
    }

    /// Alerts that the filter lets through, newest first.
    pub(super) fn shown(&self) -> Vec<&StoredAlert> {
        let filter = self.filter.trim().to_lowercase();
        if filter.is_empty() {
            return self.alerts.iter().collect();
        }
        // A part of a name is enough; whoever writes a pattern means the whole name.
        let pattern = filter.contains(['*', '?']).then(|| WildMatch::new(&filter));
        let fits = |text: &str| {
            let text = text.to_lowercase();
            pattern.as_ref().map_or_else(|| text.contains(&filter), |pattern| pattern.matches(&text))
        };
        let named = |alert: &StoredAlert| ["symbol", "detector"].iter().any(|name| fits(alert.field(name)));
        self.alerts.iter().filter(|alert| named(alert)).collect()
    }

    /// The selected alert among those that are shown.
    pub(super) fn position(&self, shown: &[&StoredAlert]) -> Option<usize> {
        shown.iter().position(|alert| Some(alert.at) == self.selected)
    }

    pub(super) fn press(&mut self, key: KeyCode) -> After {
        if self.typing {
            self.type_filter(key);
            return After::Stay;
        }
        if self.help {
            self.help = false;
            return if key == KeyCode::Char('q') { After::Quit } else { After::Stay };
        }
        let page = self.page.max(1).cast_signed();
        match key {
            KeyCode::Char('q') => return After::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('p' | ' ') => self.paused = self.paused.is_none().then(Instant::now),
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Name => Sort::Cost,
                    Sort::Cost => Sort::Faults,
                    Sort::Faults => Sort::Name,
                };
            }
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::PageDown => self.select(page),
            KeyCode::PageUp => self.select(-page),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX),
            KeyCode::Esc if self.selected.is_some() => self.selected = None,
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        After::Stay
    }

    fn type_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char(c) => self.filter.push(c),
            _ => {}
        }
    }

    /// The first key selects the newest one.
    fn select(&mut self, by: isize) {
        let shown = self.shown();
        let Some(last) = shown.len().checked_sub(1) else { return };
        let next = match self.position(&shown) {
            None if by != isize::MAX => 0,
            None => last,
            Some(at) => at.saturating_add_signed(by).min(last),
        };
        self.selected = Some(shown[next].at);
    }
}

/// Colours, or none (`NO_COLOR`); what matters is told by words and marks as well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub(super) color: bool,
}

impl Paint {
    fn of(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) fn good(self) -> Style {
        self.of(Color::Green)
    }

    pub(super) fn warn(self) -> Style {
        self.of(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.of(Color::Red)
    }

    pub(super) fn curve(self) -> Style {
        self.of(Color::Cyan)
    }

    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// A bar across the screen, and the selected row.
    pub(super) fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// Mark and style of a verdict. The marks are single characters, whose width all terminals agree on.
    pub(super) fn verdict(self, verdict: Verdict) -> (&'static str, Style) {
        match verdict {
            Verdict::Healthy => ("✅ healthy", self.good()),
            Verdict::Degraded => ("⚠ degraded", self.warn()),
            Verdict::Stuck => ("❌ stuck", self.bad()),
            Verdict::Unreachable => ("❌ unreachable", self.bad()),
        }
    }
}
