//! Judges the symbols of each calendar on their own: whether they are silent while it is open, and whether their ticks are
//! outside of its sessions.
//!
//! What holds: a calendar without a known symbol is not judged, and ticks of one calendar say nothing about another:
//! crypto trades at night, and goes on when the feed of an exchange is dead. Before any symbol is known, the first calendar
//! stands for all.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{
    NANOS_PER_MILLI, TICKS_LEAST,
    share::{Evidence, ShareCounts, ShareWatch},
    silence::{FeedReading, Silence, SilenceWatch},
};
use crate::{monitor::CalendarLoad, stats::Stats};
use tickhound_core::{
    config::HealthConfig,
    session::{Calendar, Sessions},
    wall::now_ms,
};

/// Feeds go on for a while when the last session has closed. Only if they do for this long, a calendar may be wrong.
const AFTER_HOURS: Duration = Duration::from_secs(3600);

/// In the first minute of a session, ticks from before it are still processed: they are not outside of it.
const OPENING_MS: u64 = 60_000;

/// With several calendars, entries are nearly always in flight. Only a host that lags by more than this may have ticks of a
/// silent calendar among them, ms.
const LAGS_MS: u64 = 5_000;

/// What a second has shown, for all calendars.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoursReading {
    /// A clock that never goes back, ms.
    pub(super) at_ms: u64,
    /// Wall-clock time, ns since the Unix epoch.
    pub(super) now_ns: u64,
}

/// What is wrong with the symbols of a calendar.
#[derive(Debug)]
pub(super) struct HoursVerdict<'a> {
    /// The name of the calendar.
    pub(super) calendar: &'a str,
    pub(super) silence: Option<Silence>,
    /// The ticks from outside of every session.
    pub(super) outside: Option<Evidence>,
}

/// Whose counts a calendar has.
#[derive(Debug)]
enum CountSource {
    /// All symbols have this calendar.
    All,
    /// The calendars with these numbers have one name.
    Numbers(Vec<usize>),
}

/// The counts of a calendar's symbols since the run began.
#[derive(Clone, Copy, Debug, Default)]
struct HoursCounts {
    symbols: u64,
    ticks: ShareCounts,
}

/// Observes the symbols of one calendar.
#[derive(Debug)]
pub(super) struct HoursWatch {
    calendar: Arc<Calendar>,
    source: CountSource,
    share: f64,
    silence: SilenceWatch,
    outside: ShareWatch,
    /// How many seconds ticks have been outside of every session, while none was open.
    after_hours_s: u64,
    is_open: bool,
}

impl HoursWatch {
    /// The watches of all named calendars, each of which observes what is counted from now on.
    pub(super) fn all(sessions: &Sessions, limits: &HealthConfig, stats: &Stats) -> Vec<Self> {
        let mut watches: Vec<Self> = Vec::new();
        for (number, calendar) in sessions.by_number().enumerate() {
            let Some(calendar) = calendar else { continue };
            let known = watches.iter_mut().find(|watch| watch.calendar.name() == calendar.name());
            match known.map(|watch| &mut watch.source) {
                Some(CountSource::Numbers(numbers)) => numbers.push(number),
                Some(CountSource::All) => {}
                None if sessions.is_single() => watches.push(Self::new(calendar, CountSource::All, limits)),
                None => watches.push(Self::new(calendar, CountSource::Numbers(vec![number]), limits)),
            }
        }
        for watch in &mut watches {
            let before = watch.source.counts(stats).ticks;
            watch.outside = ShareWatch::new(watch.share, TICKS_LEAST, before);
            watch.silence = SilenceWatch::new(limits.silent_after_s * 1000, before.all);
        }
        watches
    }

    fn new(calendar: &Arc<Calendar>, source: CountSource, limits: &HealthConfig) -> Self {
        let share = limits.off_session_share;
        Self {
            calendar: calendar.clone(),
            source,
            share,
            silence: SilenceWatch::new(limits.silent_after_s * 1000, 0),
            outside: ShareWatch::new(share, TICKS_LEAST, ShareCounts::default()),
            after_hours_s: 0,
            is_open: calendar.open_since(now_ms() * NANOS_PER_MILLI).is_some(),
        }
    }

    /// Begins to measure times anew: the host does not read at present.
    pub(super) fn interrupt(&mut self) {
        self.silence.interrupt();
    }

    /// Observes a second. `stands_for_all` says that no symbol is known, and that this is the first calendar.
    pub(super) fn observe(&mut self, reading: HoursReading, stats: &Stats, stands_for_all: bool) -> HoursVerdict<'_> {
        let HoursReading { at_ms, now_ns } = reading;
        let HoursCounts { symbols, ticks } = self.source.counts(stats);
        let since_ns = self.calendar.open_since(now_ns);
        let open_for_ms = since_ns.map(|since_ns| now_ns.saturating_sub(since_ns) / NANOS_PER_MILLI);
        let outside = self.outside_of_hours(ticks, open_for_ms);
        let (entries, in_flight) = self.source.in_flight(stats);
        let silence = self.silence.observe(FeedReading { at_ms, ticks: ticks.all, entries, in_flight, open_for_ms });
        let is_judged = symbols > 0 || stands_for_all;
        HoursVerdict { calendar: self.calendar.name(), silence: silence.filter(|_| is_judged), outside }
    }

    /// Whether the calendar has a known symbol.
    pub(super) fn has_symbols(&self, stats: &Stats) -> bool {
        self.source.counts(stats).symbols > 0
    }

    /// Ticks outside of every session while one is open have wrong times, or the calendar is wrong. While none is open,
    /// they are what a feed sends after hours, unless they go on for long.
    fn outside_of_hours(&mut self, ticks: ShareCounts, open_for_ms: Option<u64>) -> Option<Evidence> {
        let was_open = std::mem::replace(&mut self.is_open, open_for_ms.is_some());
        if open_for_ms.is_some_and(|open_ms| !was_open || open_ms < OPENING_MS) {
            // What came after hours says nothing about the session.
            self.outside = ShareWatch::new(self.share, TICKS_LEAST, ticks);
            self.after_hours_s = 0;
            return None;
        }
        let shown = self.outside.observe(ticks);
        match shown {
            Some(shown) if !self.is_open && shown.ago_s == 0 => self.after_hours_s += super::EVERY.as_secs(),
            Some(_) => {}
            None => self.after_hours_s = 0,
        }
        shown.filter(|_| self.is_open || self.after_hours_s > AFTER_HOURS.as_secs())
    }
}

impl CountSource {
    fn counts(&self, stats: &Stats) -> HoursCounts {
        let monitor = &stats.monitor;
        match self {
            Self::All => {
                let (affected, all) = (monitor.off_session.load(Relaxed), stats.completed.load(Relaxed));
                // Whoever they are, they have this calendar.
                HoursCounts { symbols: 1, ticks: ShareCounts { affected, all } }
            }
            Self::Numbers(numbers) => {
                let mut sum = HoursCounts::default();
                for load in numbers.iter().filter_map(|number| monitor.calendars().get(*number)) {
                    let CalendarLoad { symbols, ticks, off_session } = load;
                    sum.symbols += symbols.load(Relaxed);
                    sum.ticks.affected += off_session.load(Relaxed);
                    sum.ticks.all += ticks.load(Relaxed);
                }
                sum
            }
        }
    }

    /// The entries that may have had ticks of the calendar, and whether entries in flight may have some.
    fn in_flight(&self, stats: &Stats) -> (u64, bool) {
        let monitor = &stats.monitor;
        match self {
            Self::All => (monitor.entries.load(Relaxed), monitor.has_in_flight()),
            // Nobody knows which calendar an entry without a tick belongs to.
            Self::Numbers(_) => (0, monitor.lag_ms() > LAGS_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tickhound_core::config::SessionConfig;

    /// So many ticks, all of them outside of every session.
    fn outside(ticks: u64) -> ShareCounts {
        ShareCounts { affected: ticks, all: ticks }
    }

    /// What the exchange had sent on the evening before was still a condition in the morning, since a quiet night ends none.
    #[test]
    fn what_came_after_hours_is_forgotten_when_the_next_session_opens() {
        let sessions = SessionConfig::of_calendar("crypto", Path::new("")).unwrap().sessions;
        let mut watch = HoursWatch::all(&sessions, &HealthConfig::default(), &Stats::default()).remove(0);
        let evening = (1..3000).filter_map(|second| watch.outside_of_hours(outside(second), None)).count();
        assert_eq!(evening, 0, "feeds go on for a while");
        assert_eq!(watch.outside_of_hours(outside(3000), Some(500)), None);
        // Ticks of before the opening that are processed now.
        assert_eq!(watch.outside_of_hours(outside(3100), Some(59_000)), None);
        assert_eq!(watch.outside_of_hours(outside(3100), Some(60_000)), None);
        let shown = watch.outside_of_hours(outside(3200), Some(61_000)).unwrap();
        assert_eq!((shown.affected, shown.all), (100, 100), "these have wrong times");
        assert_eq!(watch.outside_of_hours(outside(3200), None), None, "the session has closed");
        let night = (3201..6900).filter_map(|second| watch.outside_of_hours(outside(second), None)).count();
        assert!(night > 50, "the calendar may be wrong: {night}");
        // The host was asleep during the first minute.
        assert_eq!(watch.outside_of_hours(outside(6900), Some(3_600_000)), None);
        assert_eq!(watch.outside_of_hours(outside(6900), Some(3_601_000)), None);
    }
}
