//! Limits the number of alerts that a detector may raise in a minute of event time, over all symbols.
//!
//! What holds: alerts are counted after they are put in order, and the counts are stored with each commit. So the same
//! entries give the same alerts, however many workers there are and however often a host is killed.

use std::{collections::BTreeMap, fmt, str::FromStr};

const MINUTE_NS: u64 = 60_000_000_000;

/// The maximum distance between two alerts of one timeline, minutes: more than the ticks of one feed are ever out of
/// order.
const REACH: u64 = 5;

/// The maximum number of timelines of a detector: two would be enough for an old day and today at once, and a few more
/// cost nothing.
const TIMELINES: usize = 8;

/// The recent alerts of each detector that has a limit, by event time.
///
/// Event time is not one line: a feed may deliver one tick of today and then an old day, or ticks of both in turn. If
/// only the newest minute counted, that one tick would use up the limit for the whole old day. If counting restarted
/// whenever time goes back, ticks of two days in turn would bypass the limit. So a detector has several *timelines*. An
/// alert belongs to a timeline that is at most five minutes away: a late one counts for the timeline's current minute;
/// one of a later minute moves the timeline there, and counts from zero. An alert that is far from every timeline
/// begins a new one, which replaces the least recently used. So each timeline has the limit of a detector that sees
/// nothing else, and no tick silences another day. Ticks of several days in turn can raise the limit of alerts in each
/// of these days, for up to eight of them. Alerts of more than eight days in turn are not limited, since each begins a new
/// timeline. A new timeline can't begin with the count of the one that it replaces: in a feed with few alerts each of them
/// begins a timeline, too, and all would be held back in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertRates(BTreeMap<String, Vec<Timeline>>);

/// One timeline: its current minute, and the number of alerts that count for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Timeline {
    minute: u64,
    count: u64,
}

impl AlertRates {
    /// Whether a detector may raise an alert at `time`, ns, given a limit of `most` per minute (0: none). If it may,
    /// the alert is counted.
    pub fn may_alert(&mut self, detector: &str, time: u64, most: u64) -> bool {
        if most == 0 {
            return true;
        }
        if !self.0.contains_key(detector) {
            self.0.insert(detector.to_owned(), Vec::new());
        }
        let timelines = self.0.get_mut(detector).expect("inserted above if it was missing");
        let timeline = take_timeline(timelines, time / MINUTE_NS);
        let may_alert = timeline.count < most;
        timelines.push(Timeline { count: timeline.count + u64::from(may_alert), ..timeline });
        may_alert
    }
}

/// Removes the timeline that an alert of this minute belongs to, and returns it, moved to that minute if it is later.
/// The list is in the order of use, the most recent last.
fn take_timeline(timelines: &mut Vec<Timeline>, minute: u64) -> Timeline {
    let near = |timeline: &&Timeline| timeline.minute.abs_diff(minute) <= REACH;
    // An alert that may be late on one timeline, or a step forward on another, counts as late.
    let late = timelines
        .iter()
        .filter(near)
        .filter(|timeline| timeline.minute >= minute)
        .min_by_key(|timeline| timeline.minute);
    let forward = || timelines.iter().filter(near).max_by_key(|timeline| timeline.minute);
    let Some(Timeline { minute: newest, count }) = late.or_else(forward).copied() else {
        let surplus = timelines.len().saturating_sub(TIMELINES - 1);
        timelines.drain(..surplus);
        return Timeline { minute, count: 0 };
    };
    timelines.retain(|timeline| timeline.minute != newest);
    if newest >= minute { Timeline { minute: newest, count } } else { Timeline { minute, count: 0 } }
}

impl fmt::Display for AlertRates {
    /// Writes the form that [`FromStr`] reads. A release without timelines uses the last one of each detector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().flat_map(|(name, timelines)| timelines.iter().map(move |timeline| (name, timeline)));
        let parts: Vec<String> =
            each.map(|(name, Timeline { minute, count })| format!("{name}={minute}/{count}")).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for AlertRates {
    type Err = std::convert::Infallible;

    /// Reads the rates. A part that is not a rate is left out, so that its counting starts at zero.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let timeline = |part: &str| {
            let (name, rest) = part.split_once('=')?;
            let (minute, count) = rest.split_once('/')?;
            Some((name.to_owned(), Timeline { minute: minute.parse().ok()?, count: count.parse().ok()? }))
        };
        let mut rates = Self::default();
        for (name, timeline) in text.split(',').filter_map(timeline) {
            rates.0.entry(name).or_default().push(timeline);
        }
        Ok(rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u64 = 86_400;

    fn seconds(s: u64) -> u64 {
        s * 1_000_000_000
    }

    /// The number of alerts at these times, s, that may be raised.
    fn raised(times: impl IntoIterator<Item = u64>, most: u64) -> usize {
        let mut rates = AlertRates::default();
        times.into_iter().filter(|s| rates.may_alert("a", seconds(*s), most)).count()
    }

    #[test]
    fn so_many_alerts_a_minute_and_no_more() {
        let mut rates = AlertRates::default();
        let mut may = |s: u64| rates.may_alert("a", seconds(s), 2);
        assert_eq!([61, 62, 119, 120, 90, 121].map(&mut may), [true, true, false, true, true, false]);
        assert_eq!(rates.to_string().parse(), Ok(rates.clone()));
        assert!(rates.may_alert("b", 1, 0));
        assert_eq!("".parse(), Ok(AlertRates::default()));
    }

    /// Once, only the highest minute ever seen counted: after one alert of today, a whole old day had the limit of a
    /// single minute.
    #[test]
    fn one_tick_of_another_day_silences_nothing() {
        let old_day: Vec<u64> = (0..375).map(|minute| 100 * DAY_S + minute * 60).collect();
        assert_eq!(raised(old_day.iter().copied(), 1), 375);
        let after_one_of_today = std::iter::once(190 * DAY_S).chain(old_day.iter().copied());
        assert_eq!(raised(after_one_of_today, 1), 376);
        let (morning, afternoon) = old_day.split_at(180);
        let in_the_midst = morning.iter().chain([&(190 * DAY_S)]).chain(afternoon).copied();
        assert_eq!(raised(in_the_midst, 1), 376);
        // The same holds for one alert whose time is far in the past.
        assert_eq!(raised(std::iter::once(7).chain(old_day.iter().copied()), 1), 376);
    }

    #[test]
    fn ticks_of_two_days_in_turn_have_the_limit_of_each_day_and_no_more() {
        // Ten alerts a second in both days, for ten minutes.
        let both = (0..6000).flat_map(|tenth| [100 * DAY_S + tenth / 10, 190 * DAY_S + tenth / 10]);
        assert_eq!(raised(both, 3), 2 * 10 * 3);
        let eight = (0..600).flat_map(|s| (0..8).map(move |day| day * DAY_S + s));
        assert_eq!(raised(eight, 3), 8 * 10 * 3);
    }

    #[test]
    fn a_timeline_that_was_not_used_for_long_makes_room() {
        let mut rates = AlertRates::default();
        for day in 0..100 {
            assert!(rates.may_alert("a", seconds(day * DAY_S), 1));
            assert!(!rates.may_alert("a", seconds(day * DAY_S), 1));
            assert!(!rates.may_alert("a", seconds(0), 1), "day {day} and the first one in turn");
        }
        assert_eq!(rates.0["a"].len(), TIMELINES);
    }

    #[test]
    fn what_was_kept_is_read_whoever_wrote_it() {
        let mut rates: AlertRates = "a=29/2,b=3/1".parse().unwrap();
        assert_eq!(rates.to_string(), "a=29/2,b=3/1", "as a release without timelines wrote it");
        assert!(!rates.may_alert("a", seconds(29 * 60), 2));
        assert!(rates.may_alert("a", seconds(500 * 60), 2));
        // A release without timelines uses the last one of a name.
        assert_eq!(rates.to_string(), "a=29/2,a=500/1,b=3/1");
        assert_eq!(rates.to_string().parse(), Ok(rates));
        assert_eq!("a=1,=,a=x/2,a=3/4/5".parse(), Ok(AlertRates::default()));
    }

    #[test]
    fn no_minute_overflows() {
        let mut rates: AlertRates = format!("a={0}/{0},a=0/0", u64::MAX).parse().unwrap();
        assert!(rates.may_alert("a", u64::MAX, 1) && rates.may_alert("a", 0, 1));
    }
}
