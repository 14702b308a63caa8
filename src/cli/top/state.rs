//! The state of the screen, and how keys change it; without a terminal and without Redis.

use std::{collections::VecDeque, time::Instant};

use jiff::tz::TimeZone;
use ratatui::{
    crossterm::event::KeyCode,
    style::{Color, Modifier, Style},
};
use wildmatch::WildMatch;

use super::overview::Overview;
use crate::{cli::text, observe::health::Verdict};
use tickhound_core::{config::Config, event::EntryId, pattern::SymbolPattern};
use tickhound_redis::{News, StoredAlert};

/// How many alerts the list holds.
const ALERTS_MAX: usize = 5000;

/// Rows of a page before the screen is drawn for the first time.
const PAGE: usize = 10;

/// What happens after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Stay,
    Quit,
}

/// The order of detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Quarantined detectors first, then by name.
    Name,
    /// The most expensive first.
    Cost,
    /// The one with the most faults first.
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

/// Everything that is drawn.
pub(super) struct State {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) alerts_stream: String,
    /// The name of the host's consumer.
    pub(super) consumer: String,
    pub(super) zone: TimeZone,
    pub(super) paint: Paint,
    pub(super) overview: Overview,
    /// Newest first.
    alerts: VecDeque<StoredAlert>,
    /// Alerts that were trimmed before they could be shown.
    pub(super) missed: u64,
    /// The alert whose evidence is shown, by its id in the alerts stream, since new alerts change its row.
    pub(super) selected: Option<EntryId>,
    /// Index of the first alert on the screen while one is selected.
    pub(super) offset: usize,
    /// Rows of the list when it was drawn last.
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
            overview: Overview::default(),
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
        self.alerts.truncate(ALERTS_MAX);
    }

    /// The number of alerts in the list, whatever the filter.
    pub(super) fn alert_count(&self) -> usize {
        self.alerts.len()
    }

    /// The alerts that match the filter, newest first. It is a pattern of symbols, as `alerts --symbol` and the page have it, or
    /// of detectors. While it is typed, a text that is no name yet shows the names that contain it.
    pub(super) fn shown(&self) -> Vec<&StoredAlert> {
        let filter = self.filter.trim().to_lowercase();
        if filter.is_empty() {
            return self.alerts.iter().collect();
        }
        let (symbols, detectors) = (SymbolPattern::new(&filter), WildMatch::new(&filter));
        let fits = |alert: &&StoredAlert| {
            symbols.matches(alert.field("symbol")) || detectors.matches(&alert.field("detector").to_lowercase())
        };
        let shown: Vec<&StoredAlert> = self.alerts.iter().filter(fits).collect();
        if !shown.is_empty() || filter.contains(['*', '?']) {
            return shown;
        }
        let contains_it = |alert: &&StoredAlert| {
            ["symbol", "detector"].iter().any(|name| alert.field(name).to_lowercase().contains(&filter))
        };
        self.alerts.iter().filter(contains_it).collect()
    }

    /// The index of the selected alert among those that are shown.
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

    /// Moves the selection; the first key selects the newest alert.
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

/// Styles with colours, or without (`NO_COLOR`). Words and marks show the same, so colours are not needed.
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

    /// The style of bars across the screen, and of the selected row.
    pub(super) fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The mark and the style of a verdict. The marks are single characters, which have the same width in all
    /// terminals.
    pub(super) fn verdict(self, verdict: Verdict) -> (&'static str, Style) {
        match verdict {
            Verdict::Healthy => ("✅ healthy", self.good()),
            Verdict::Degraded => ("⚠ degraded", self.warn()),
            Verdict::Stuck => ("❌ stuck", self.bad()),
            Verdict::Unreachable => ("❌ unreachable", self.bad()),
        }
    }
}
