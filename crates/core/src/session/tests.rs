//! The days on which markets do not do what they usually do.

use proptest::prelude::*;

use super::*;
use crate::config::{BUILT_IN, built_in, parse_calendar};

fn ns(text: &str) -> u64 {
    text.parse::<jiff::Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
}

/// The phase at a time, and the date of the session that it belongs to.
fn at(calendar: &Calendar, time: &str) -> (Phase, String) {
    let span = calendar.span(ns(time));
    assert!(span.contains(ns(time)), "{span:?}");
    let date = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(span.number);
    (span.phase, date.to_string())
}

#[test]
fn a_day_at_the_nse() {
    let nse = built_in("nse");
    for (time, phase, session) in [
        ("2025-11-24T08:59:59.999999999+05:30", Phase::Closed, "2025-11-21"),
        ("2025-11-24T09:00:00+05:30", Phase::PreOpen, "2025-11-24"),
        ("2025-11-24T09:14:59.999999999+05:30", Phase::PreOpen, "2025-11-24"),
        ("2025-11-24T09:15:00+05:30", Phase::Open, "2025-11-24"),
        ("2025-11-24T15:29:59.999999999+05:30", Phase::Open, "2025-11-24"),
        ("2025-11-24T15:30:00+05:30", Phase::Closed, "2025-11-24"),
        ("2025-11-25T02:00:00+05:30", Phase::Closed, "2025-11-24"),
        // A Saturday on which a mock session was held, and a holiday.
        ("2021-05-01T10:00:00+05:30", Phase::Closed, "2021-04-30"),
        ("2025-12-25T10:00:00+05:30", Phase::Closed, "2025-12-24"),
        // Muhurat trading on a holiday, and a budget on a Sunday.
        ("2025-10-21T10:00:00+05:30", Phase::Closed, "2025-10-20"),
        ("2025-10-21T13:50:00+05:30", Phase::Open, "2025-10-21"),
        ("2026-02-01T09:30:00+05:30", Phase::Open, "2026-02-01"),
        // Days after the last known one are trading days, unless they are at a weekend.
        ("2027-01-26T10:00:00+05:30", Phase::Open, "2027-01-26"),
        ("2027-01-30T10:00:00+05:30", Phase::Closed, "2027-01-29"),
    ] {
        assert_eq!(at(&nse, time), (phase, session.to_owned()), "{time}");
    }
    let span = nse.span(ns("2025-11-24T10:00:00.5+05:30"));
    assert_eq!(span.seconds(ns("2025-11-24T10:00:00.5+05:30")), (2700.5, 19_799.5));
    assert_eq!(span.seconds(ns("2025-11-24T09:10:00+05:30")).0, -300.0);
}

#[test]
fn the_other_built_in_calendars() {
    let (mcx, us, crypto) = (built_in("mcx"), built_in("us"), built_in("crypto"));
    // The evening is longer while New York has winter time.
    assert_eq!(at(&mcx, "2026-10-30T23:40:00+05:30").0, Phase::Closed);
    assert_eq!(at(&mcx, "2026-11-02T23:40:00+05:30").0, Phase::Open);
    assert_eq!(at(&mcx, "2026-11-10T12:00:00+05:30").0, Phase::Closed, "a morning without a session");
    assert_eq!(at(&mcx, "2026-11-10T17:00:00+05:30").0, Phase::Open);
    // Summer time has no effect on the hours there.
    assert_eq!(at(&us, "2026-03-06T09:30:00-05:00").0, Phase::Open);
    assert_eq!(at(&us, "2026-03-09T09:30:00-04:00").0, Phase::Open);
    assert_eq!(at(&us, "2026-03-09T09:29:59-04:00").0, Phase::PreOpen);
    assert_eq!(at(&us, "2026-11-27T13:00:00-05:00").0, Phase::Closed, "an early close");
    assert_eq!(at(&us, "2026-07-03T12:00:00-04:00").0, Phase::Closed);
    assert_eq!(at(&crypto, "2026-11-29T23:59:59Z"), (Phase::Open, "2026-11-29".into()));
    assert_eq!(at(&crypto, "2026-11-30T00:00:00Z"), (Phase::Open, "2026-11-30".into()));
    assert_eq!(us.zone().iana_name(), Some("America/New_York"));
    assert_eq!(crypto.warning(ns("2026-11-29T00:00:00Z")), None);
}

/// Ids of entries may be counters, which are times of 1970. The first day had no session, so its ticks were outside of all.
#[test]
fn without_a_calendar_no_time_is_outside_of_a_session() {
    for zone in ["Asia/Kolkata", "UTC", "America/New_York", "Pacific/Kiritimati"] {
        let days = Calendar::days(TimeZone::get(zone).unwrap());
        for time in [0, 1, 5_000_000, 86_400_000_000_000, ns("2025-11-24T10:00:00Z")] {
            let span = days.span(time);
            assert!(span.phase == Phase::Open && span.contains(time), "{zone}: {span:?}");
            assert!(span.seconds(time).0.is_nan(), "nobody knows its open");
        }
    }
}

#[test]
fn a_calendar_that_ends_says_so_in_time() {
    let nse = built_in("nse");
    let warning = |time| nse.warning(ns(time)).map(|text| text[..text.find(',').unwrap()].to_owned());
    assert_eq!(warning("2026-11-01T00:00:00+05:30"), None);
    assert_eq!(warning("2026-12-10T00:00:00+05:30").unwrap(), "the calendar nse ends in 3 weeks");
    assert_eq!(warning("2026-12-30T23:00:00+05:30").unwrap(), "the calendar nse ends tomorrow");
    assert_eq!(warning("2027-01-01T00:00:00+05:30").unwrap(), "the calendar nse has ended");
}

#[test]
fn a_session_may_go_on_after_midnight() {
    let globex = r#"
        timezone = "America/Chicago"
        days = ["sun", "mon", "tue", "wed", "thu"]
        [[hours]]
        open = "17:00"
        close = "16:00"
    "#;
    let globex = parse_calendar("globex", globex).unwrap();
    assert_eq!(at(&globex, "2026-11-29T16:59:59-06:00"), (Phase::Closed, "2026-11-26".into()));
    assert_eq!(at(&globex, "2026-11-30T02:00:00-06:00"), (Phase::Open, "2026-11-29".into()));
    assert_eq!(at(&globex, "2026-11-30T16:30:00-06:00"), (Phase::Closed, "2026-11-29".into()));
    assert_eq!(at(&globex, "2026-11-30T17:00:00-06:00"), (Phase::Open, "2026-11-30".into()));
}

#[test]
fn what_is_open_and_until_when() {
    let default = Some(Arc::new(built_in("nse")));
    let by_symbol = vec![SymbolCalendar {
        patterns: SymbolPattern::list(&["*USDT".into(), "DELTA:*".into()]),
        calendar: Arc::new(built_in("crypto")),
    }];
    let zone = || TimeZone::get("Asia/Kolkata").unwrap();
    let nse = built_in("nse");
    assert_eq!(nse.open_since(ns("2025-11-24T10:00:00+05:30")), Some(ns("2025-11-24T09:15:00+05:30")));
    assert_eq!(nse.open_since(ns("2025-11-24T09:14:00+05:30")), None);
    assert_eq!(Sessions::default().by_number().flatten().count(), 0, "no calendar, no hours");
    let both = Sessions::new(default, by_symbol);
    let by_number: Vec<&str> = both.by_number().flatten().map(|calendar| calendar.name()).collect();
    assert_eq!(by_number, ["nse", "crypto"], "each is asked on its own");
    let since = built_in("crypto").open_since(ns("2025-11-24T00:10:00Z")).unwrap();
    assert!(since < ns("2025-11-23T00:00:00Z"), "days without a pause are one");
    let night = ns("2025-11-24T20:00:00+05:30");
    assert_eq!(both.close_after("RELIANCE", night, zone()), Some(ns("2025-11-25T15:30:00+05:30")));
    assert_eq!(both.close_after("BTCUSDT", night, zone()), Some(ns("2025-11-25T00:00:00Z")));
    assert_eq!(both.close_after("DELTA:BTC", night, zone()), Some(ns("2025-11-25T00:00:00Z")));
    let close = Sessions::default().close_after("RELIANCE", night, zone());
    assert_eq!(close, Some(ns("2025-11-25T00:00:00+05:30")), "the end of the day");
}

/// A pattern was taken for a symbol, which has the calendar of no commodity: a mute of `GOLD*` ended in their evening session.
#[test]
fn the_session_of_a_pattern_ends_with_the_last_one_of_its_symbols() {
    let calendar = |pattern: &str, name: &str| SymbolCalendar {
        patterns: SymbolPattern::list(&[pattern.into()]),
        calendar: Arc::new(built_in(name)),
    };
    let by_symbol = vec![calendar("GOLD*", "mcx"), calendar("NASDAQ:*", "us")];
    let sessions = Sessions::new(Some(Arc::new(built_in("nse"))), by_symbol.clone());
    let zone = || TimeZone::get("Asia/Kolkata").unwrap();
    let noon = ns("2025-11-24T12:00:00+05:30");
    let close = |pattern: &str| sessions.close_after(pattern, noon, zone()).unwrap();
    let nse = ns("2025-11-24T15:30:00+05:30");
    let us = ns("2025-11-24T16:00:00-05:00");
    let mcx = close("GOLDM25DECFUT").min(close("NSE:GOLDM25DECFUT"));
    assert!(nse < mcx && mcx < us, "each is another");
    assert_eq!([close("NSE:SBIN"), close("NYSE:SBIN"), close("NASDAQ:AAPL")], [nse, nse, us]);
    assert_eq!(close("AAPL"), us, "it may be that of NASDAQ");
    for pattern in ["*", "gold*", "?OLD", "NIFTY*", "MCX:*"] {
        assert_eq!(close(pattern), us, "{pattern}");
    }
    // Other symbols have a day, which ends before New York closes.
    let without = Sessions::new(None, by_symbol[..1].to_vec());
    assert_eq!(without.close_after("*", noon, zone()), Some(ns("2025-11-25T00:00:00+05:30")));
}

proptest! {
    /// The spans of a calendar follow each other without a gap, and numbers of sessions never fall.
    #[test]
    fn spans_leave_no_gap(start in 0u64..4_000_000_000, which in 0usize..4) {
        let calendar = built_in(BUILT_IN[which].0);
        let mut span = calendar.span(start * 1_000_000_000);
        for _ in 0..10 {
            let next = calendar.span(span.end);
            prop_assert_eq!(next.begin, span.end);
            prop_assert_eq!(calendar.span(next.end - 1), next);
            prop_assert!(next.number >= span.number);
            span = next;
        }
    }
}

/// How far a warm-up goes back.
#[test]
fn sessions_are_counted_back_over_weekends_and_holidays() {
    let zone = TimeZone::get("Asia/Kolkata").unwrap();
    let nse = Sessions::new(Some(Arc::new(built_in("nse"))), Vec::new());
    let begin = |time: &str, count| nse.begin_before(ns(time), count, zone.clone());
    // A Monday, in the session and before it; the session of Friday goes on until then.
    assert_eq!(begin("2025-11-24T10:00:00+05:30", 0), ns("2025-11-24T09:00:00+05:30"));
    assert_eq!(begin("2025-11-24T08:00:00+05:30", 0), ns("2025-11-21T09:00:00+05:30"));
    assert_eq!(begin("2025-11-24T10:00:00+05:30", 5), ns("2025-11-17T09:00:00+05:30"));
    // 2025-11-05 was a holiday.
    assert_eq!(begin("2025-11-06T16:00:00+05:30", 1), ns("2025-11-04T09:00:00+05:30"));
    let days = Sessions::default();
    assert_eq!(days.begin_before(ns("2025-11-24T10:00:00+05:30"), 5, zone.clone()), ns("2025-11-19T00:00:00+05:30"));
    for time in [0, 5_000_000, u64::MAX] {
        assert!(days.begin_before(time, 3, zone.clone()) <= time);
        assert!(nse.begin_before(time, 3, zone.clone()) <= time);
    }
}
