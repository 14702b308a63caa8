//! A calendar: the rules from which the sessions of a market follow.
//!
//! What holds: a session begins on its date, and ends before the next one begins. What is not known to be a holiday is a
//! trading day, also after the last day whose holidays are known: a session too many is noticed, and one too few would
//! hide ticks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

use super::{NO_SESSION, Phase, Session, Span, UNKNOWN};

/// The most days between two sessions that are searched: twice the longest closure of the last century, in 1914.
const SEARCHED_DAYS: i64 = 300;

/// The most sessions without a pause that are followed back, such as days of a market that never closes.
const FOLLOWED: usize = 7;

/// The time before its last known day at which a calendar should be replaced, days. Exchanges publish the holidays of a
/// year some weeks before it begins.
const RENEW_DAYS: i32 = 42;

const NANOS_PER_DAY: u64 = 86_400_000_000_000;

/// A market that does not open for so long is probably a mistake in its calendar, ns.
const SOON_NS: u64 = 30 * NANOS_PER_DAY;

pub(crate) const MINUTES_PER_DAY: u16 = 24 * 60;

/// The sessions of a market.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    pub(crate) name: String,
    pub(crate) zone: TimeZone,
    /// Whether there are sessions on each day of the week, from Monday on.
    pub(crate) days: [bool; 7],
    /// The usual hours, each from a date on, by date.
    pub(crate) hours: BTreeMap<Date, Hours>,
    /// The days with other hours.
    pub(crate) special: BTreeMap<Date, Hours>,
    pub(crate) holidays: BTreeSet<Date>,
    /// The last day whose holidays are known; `None` if there will never be any.
    pub(crate) last_known: Option<Date>,
}

/// The hours of a session, in minutes after midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hours {
    pub(crate) pre_open: Option<u16>,
    pub(crate) open: u16,
    /// If it is not after the open, the session closes on the next day.
    pub(crate) close: u16,
}

impl Calendar {
    /// A calendar in which each day of a zone is a session.
    pub fn days(zone: TimeZone) -> Self {
        let all_day = Hours { pre_open: None, open: 0, close: MINUTES_PER_DAY };
        Self {
            name: String::new(),
            zone,
            days: [true; 7],
            hours: BTreeMap::from([(Date::MIN, all_day)]),
            special: BTreeMap::new(),
            holidays: BTreeSet::new(),
            last_known: None,
        }
    }

    /// The name by which the configuration refers to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The zone of its hours.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// What is wrong with the calendar on the day of `now_ns`, if it has no sessions, or its end is near or past: a sentence
    /// with the cure.
    pub fn warning(&self, now_ns: u64) -> Option<String> {
        let soon = now_ns.saturating_add(SOON_NS);
        let is_closed = self.span(now_ns).phase == Phase::Closed;
        if is_closed && self.sessions_after(now_ns).next().is_none_or(|next| next.begin > soon) {
            let (name, days) = (&self.name, SOON_NS / NANOS_PER_DAY);
            return Some(format!(
                "the calendar {name} has no session in the next {days} days; check its days and hours"
            ));
        }
        let (last, today) = (self.last_known?, self.date(now_ns));
        let days = days_between(today, last);
        let ends = match days {
            RENEW_DAYS.. => return None,
            14.. => format!("ends in {} weeks", days / 7),
            2.. => format!("ends in {days} days"),
            1 => "ends tomorrow".to_owned(),
            0 => "ends today".to_owned(),
            _ => "has ended".to_owned(),
        };
        Some(format!(
            "the calendar {name} {ends}, on {last}; after that, holidays count as trading days. Put a newer one into \
             sessions/{name}.toml beside the configuration",
            name = self.name
        ))
    }

    /// The span that contains a time.
    pub fn span(&self, time: u64) -> Span {
        let date = self.date(time);
        let session = self.last_begun(date, time);
        let next = self.sessions_after(time).next().map_or(u64::MAX, |next| next.begin);
        let Some(session) = session else {
            let phase = Phase::Closed;
            return Span { begin: 0, end: next, phase, number: NO_SESSION, open: UNKNOWN, close: UNKNOWN };
        };
        let close = session.close.min(next);
        let (phase, begin, end) = if time < session.open {
            (Phase::PreOpen, session.begin, session.open)
        } else if time < close {
            (Phase::Open, session.open, close)
        } else {
            (Phase::Closed, close, next)
        };
        let Session { number, open, .. } = session;
        // Without a calendar, nobody knows when the market opens on a day.
        let (open, close) = if self.name.is_empty() { (UNKNOWN, UNKNOWN) } else { (open, close) };
        Span { begin, end, phase, number, open, close }
    }

    /// Returns `time` if a session is open then, and the open of the next session otherwise.
    pub fn in_session(&self, time: u64) -> Option<u64> {
        let span = self.span(time);
        match span.phase {
            Phase::Open => Some(time),
            Phase::PreOpen => Some(span.end),
            Phase::Closed => self.sessions_after(time).next().map(|session| session.open),
        }
    }

    /// The sessions that begin after a time, in order.
    pub fn sessions_after(&self, time: u64) -> impl Iterator<Item = Session> {
        let mut date = self.date(time);
        std::iter::from_fn(move || {
            let dates = (0..SEARCHED_DAYS).map_while(|ahead| date.checked_add(ahead.days()).ok());
            let found = dates.filter_map(|date| Some((date, self.session(date)?)));
            let (of, session) = found.into_iter().find(|(_, session)| session.begin > time)?;
            date = of.tomorrow().ok()?;
            Some(session)
        })
    }

    /// Since when the market has been open without a pause, ns since the Unix epoch; `None` if it is closed at `now`.
    pub fn open_since(&self, now: u64) -> Option<u64> {
        let mut since = Some(self.span(now)).filter(|span| span.phase == Phase::Open)?.begin;
        for _ in 0..FOLLOWED {
            let before = self.span(since.checked_sub(1)?);
            if before.phase != Phase::Open {
                break;
            }
            since = before.begin;
        }
        Some(since)
    }

    /// When the session closes that is open or comes next.
    pub(super) fn close_after(&self, now: u64) -> Option<u64> {
        let span = self.span(now);
        match span.phase {
            Phase::Open => Some(span.end),
            Phase::PreOpen => Some(span.close),
            Phase::Closed => self.sessions_after(now).next().map(|session| session.close),
        }
    }

    /// The session of a date.
    fn session(&self, date: Date) -> Option<Session> {
        let usual = || {
            let trades = self.days[weekday(date)] && !self.holidays.contains(&date);
            let (_, hours) = self.hours.range(..=date).next_back()?;
            trades.then_some(hours)
        };
        let Hours { pre_open, open, close } = *self.special.get(&date).or_else(usual)?;
        let closes_on = if close > open { date } else { date.tomorrow().ok()? };
        let open_at = self.instant(date, open)?;
        Some(Session {
            number: days_between(Date::constant(1970, 1, 1), date),
            begin: pre_open.map_or(Some(open_at), |pre_open| self.instant(date, pre_open))?,
            open: open_at,
            close: self.instant(closes_on, close)?,
        })
    }

    /// The session that began last at `time`, which is on `date`.
    fn last_begun(&self, date: Date, time: u64) -> Option<Session> {
        let dates = (0..SEARCHED_DAYS).map_while(|back| date.checked_sub(back.days()).ok());
        dates.filter_map(|date| self.session(date)).find(|session| session.begin <= time)
    }

    fn date(&self, time: u64) -> Date {
        let instant = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH);
        self.zone.to_datetime(instant).date()
    }

    fn instant(&self, date: Date, minutes: u16) -> Option<u64> {
        let (date, minutes) = if minutes < MINUTES_PER_DAY {
            (date, minutes)
        } else {
            (date.tomorrow().ok()?, minutes - MINUTES_PER_DAY)
        };
        let time = Time::new((minutes / 60) as i8, (minutes % 60) as i8, 0, 0).ok()?;
        let instant = self.zone.to_timestamp(date.to_datetime(time)).ok()?;
        // The first day of 1970 begins before that in some zones, and a feed without times may have ids that are counters.
        Some(u64::try_from(instant.as_nanosecond()).unwrap_or(0))
    }
}

fn weekday(date: Date) -> usize {
    date.weekday().to_monday_zero_offset() as usize
}

/// The day of the week with this name of three letters.
pub(crate) fn weekday_of(name: &str) -> Option<usize> {
    let all = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];
    let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let at = names.iter().position(|known| *known == name)?;
    Some(all[at].to_monday_zero_offset() as usize)
}

fn days_between(from: Date, to: Date) -> i32 {
    i32::try_from(to.duration_since(from).as_hours() / 24).unwrap_or(i32::MAX)
}
