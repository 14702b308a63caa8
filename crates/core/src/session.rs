//! The trading sessions of symbols: when a market is open, and which session a time belongs to.
//!
//! What holds: time is divided into spans without gaps. Each span is a pre-open, an open session, or a time without a
//! session, and belongs to the session that began last, so that what is counted in a session goes on until the next one
//! begins. All of this depends on event time and the calendar alone.

pub(crate) mod calendar;

use std::sync::Arc;

use jiff::tz::TimeZone;

pub use self::calendar::Calendar;
use crate::{event::flag, pattern::SymbolPattern, venue};

/// The columns with times of the session, which detectors may ask for. They follow those of the input.
pub const COLUMNS: [&str; 2] = ["since_open", "to_close"];

/// The number of spans that a calendar remembers. In a feed, nearly all times are in one or two of them; the others are
/// for symbols with times of long ago.
const REMEMBERED: usize = 4;

/// The number of the session before the first one.
pub const NO_SESSION: i32 = i32::MIN;

/// The open and the close of a session whose hours nobody knows.
pub const UNKNOWN: u64 = u64::MAX;

/// What a span of time is to a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The time before the open in which orders are collected.
    PreOpen,
    /// The session.
    Open,
    /// No session: night, weekend, holiday.
    Closed,
}

/// A session, as instants in ns since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The number of its date since 1970-01-01.
    pub number: i32,
    /// When it begins, with its pre-open if it has one.
    pub begin: u64,
    /// When it opens.
    pub open: u64,
    /// When it closes.
    pub close: u64,
}

/// A span of time in which nothing changes for a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first instant, ns since the Unix epoch.
    pub begin: u64,
    /// The first instant after the span, ns since the Unix epoch.
    pub end: u64,
    /// What the span is.
    pub phase: Phase,
    /// The number of the session that began last; [`NO_SESSION`] before the first one.
    pub number: i32,
    /// When that session opened, ns since the Unix epoch; [`UNKNOWN`] without a calendar.
    pub open: u64,
    /// When that session closes, ns since the Unix epoch; [`UNKNOWN`] without a calendar.
    pub close: u64,
}

/// Which calendar each symbol has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sessions {
    /// The calendar of symbols without one of their own; `None`: a session is a calendar day.
    default: Option<Arc<Calendar>>,
    by_symbol: Arc<[SymbolCalendar]>,
}

/// The calendar of some symbols.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SymbolCalendar {
    pub(crate) patterns: Vec<SymbolPattern>,
    pub(crate) calendar: Arc<Calendar>,
}

/// Finds the spans of times, and remembers the last ones: a time zone is too slow to ask for each tick.
#[derive(Clone, Debug)]
pub struct SessionClock {
    by_symbol: Arc<[SymbolCalendar]>,
    /// The calendar of other symbols, then those of `by_symbol`.
    calendars: Vec<Remembering>,
}

/// A calendar and the spans that were asked for last.
#[derive(Clone, Debug)]
struct Remembering {
    calendar: Arc<Calendar>,
    spans: [Span; REMEMBERED],
    oldest: usize,
}

impl Phase {
    /// The bit of the `flags` column that says so, or 0.
    pub fn flag(self) -> u32 {
        match self {
            Self::PreOpen => flag::PRE_OPEN,
            Self::Open => 0,
            Self::Closed => flag::OFF_SESSION,
        }
    }
}

impl Span {
    /// Returns whether the span contains a time.
    #[inline]
    pub fn contains(&self, time: u64) -> bool {
        (self.begin..self.end).contains(&time)
    }

    /// The seconds from the session's open to `time`, and from `time` to its close. Both are signed, and NaN if the hours are
    /// not known.
    #[inline]
    pub fn seconds(&self, time: u64) -> (f64, f64) {
        if self.open == UNKNOWN {
            return (f64::NAN, f64::NAN);
        }
        // Times in ns are below 2^63 until the year 2262.
        let seconds = |from: u64, to: u64| to.wrapping_sub(from) as i64 as f64 / 1e9;
        (seconds(self.open, time), seconds(time, self.close))
    }
}

impl Sessions {
    pub(crate) fn new(default: Option<Arc<Calendar>>, by_symbol: Vec<SymbolCalendar>) -> Self {
        Self { default, by_symbol: by_symbol.into() }
    }

    /// A clock for these sessions. Symbols without a calendar have one session a day in `zone`.
    pub fn clock(&self, zone: TimeZone) -> SessionClock {
        let default = self.default.clone().unwrap_or_else(|| Arc::new(Calendar::days(zone)));
        let others = self.by_symbol.iter().map(|of| of.calendar.clone());
        let calendars = std::iter::once(default).chain(others);
        let calendars = calendars.map(Remembering::new);
        SessionClock { by_symbol: self.by_symbol.clone(), calendars: calendars.collect() }
    }

    /// The calendars that the configuration names, each once.
    pub fn calendars(&self) -> Vec<&Calendar> {
        let all = self.default.iter().chain(self.by_symbol.iter().map(|of| &of.calendar));
        let mut calendars: Vec<&Calendar> = Vec::new();
        for calendar in all {
            if !calendars.iter().any(|known| known.name() == calendar.name()) {
                calendars.push(calendar);
            }
        }
        calendars
    }

    /// What is wrong with the calendars that are about to end, or have ended: a sentence for each.
    pub fn warnings(&self, now_ns: u64) -> Vec<String> {
        self.calendars().into_iter().filter_map(|calendar| calendar.warning(now_ns)).collect()
    }

    /// The calendars by their numbers, which are those of [`SessionClock::calendar_of`]. The first one is `None` if symbols
    /// without a calendar of their own have none.
    pub fn by_number(&self) -> impl Iterator<Item = Option<&Arc<Calendar>>> {
        std::iter::once(self.default.as_ref()).chain(self.by_symbol.iter().map(|of| Some(&of.calendar)))
    }

    /// Whether all symbols have the same calendar, or none has one.
    pub fn is_single(&self) -> bool {
        self.by_symbol.is_empty()
    }

    /// When the session of the symbols that match a pattern ends, which is open at `now_ns` or comes next, ns since the Unix
    /// epoch: the last of them, if they may have several calendars. Without a calendar it is the end of the day in `zone`. `None`
    /// if no session comes.
    pub fn close_after(&self, pattern: &str, now_ns: u64, zone: TimeZone) -> Option<u64> {
        let days = Calendar::days(zone);
        let default = self.default.as_deref().unwrap_or(&days);
        self.calendars_of(pattern, default).into_iter().filter_map(|calendar| calendar.close_after(now_ns)).max()
    }

    /// When the session began that is `count` sessions before the one at `time`, ns since the Unix epoch, by the calendar of
    /// symbols without one of their own; without one, sessions are days in `zone`.
    pub fn begin_before(&self, time: u64, count: u32, zone: TimeZone) -> u64 {
        let days = Calendar::days(zone);
        let calendar = self.default.as_deref().unwrap_or(&days);
        let (mut span, mut left) = (calendar.span(time), count);
        while let Some(before) = span.begin.checked_sub(1).map(|before| calendar.span(before)) {
            if before.number != span.number {
                match left.checked_sub(1) {
                    Some(fewer) if before.number != NO_SESSION => left = fewer,
                    _ => break,
                }
            }
            span = before;
        }
        span.begin
    }

    /// The calendars that symbols which match a pattern may have.
    fn calendars_of<'a>(&'a self, pattern: &str, default: &'a Calendar) -> Vec<&'a Calendar> {
        let all = || self.by_symbol.iter().map(|of| &*of.calendar);
        let of = |symbol: &str| self.by_symbol.iter().find(|of| of.is_of(symbol)).map_or(default, |of| &*of.calendar);
        if pattern.contains(['*', '?']) {
            return all().chain([default]).collect();
        }
        match venue::split(pattern) {
            (Some(_), _) => vec![of(pattern)],
            // It also matches the symbol at each venue.
            (None, name) => {
                let at_venues = self.by_symbol.iter().filter(|of| of.has_at_a_venue(name)).map(|of| &*of.calendar);
                at_venues.chain([of(name)]).collect()
            }
        }
    }
}

impl SymbolCalendar {
    /// Whether a symbol has this calendar. One without a venue has none by its venue: `MCX:*` would match all of them.
    fn is_of(&self, symbol: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches_known_venue(symbol))
    }

    /// Whether the symbol of this name has this calendar at one of the venues.
    fn has_at_a_venue(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches_at_its_venue(name))
    }
}

impl SessionClock {
    /// The number of a symbol's calendar, for [`Self::span`].
    pub fn calendar_of(&self, symbol: &str) -> u16 {
        self.by_symbol.iter().position(|of| of.is_of(symbol)).map_or(0, |at| at as u16 + 1)
    }

    /// How many calendars there are, numbered from 0.
    pub fn count(&self) -> usize {
        self.calendars.len()
    }

    /// The span that contains a time.
    #[inline]
    pub fn span(&mut self, calendar: u16, time: u64) -> &Span {
        let of = &mut self.calendars[usize::from(calendar)];
        if !of.spans[0].contains(time) {
            of.look_up(time);
        }
        &of.spans[0]
    }
}

impl Remembering {
    fn new(calendar: Arc<Calendar>) -> Self {
        let spans = [calendar.span(0); REMEMBERED];
        Self { calendar, spans, oldest: 0 }
    }

    /// Finds or computes the span that contains a time, and puts it first.
    #[cold]
    fn look_up(&mut self, time: u64) {
        let known = self.spans.iter().position(|span| span.contains(time));
        let at = known.unwrap_or_else(|| {
            self.oldest = self.oldest % (REMEMBERED - 1) + 1;
            self.spans[self.oldest] = self.calendar.span(time);
            self.oldest
        });
        self.spans.swap(0, at);
    }
}

#[cfg(test)]
mod tests;
