//! How many alerts a detector may raise in a minute of event time, over all symbols.
//!
//! Counted where alerts are put in order, and kept with each commit: so the same entries give the same
//! alerts, however many workers there are and however often a host was killed in between.

use std::{collections::BTreeMap, fmt, str::FromStr};

const MINUTE_NS: u64 = 60_000_000_000;

/// Minutes between two alerts of one strand, at most: more than ticks of one feed are ever out of order.
const REACH: u64 = 5;

/// Strands of a detector: two would do for an old day and today at once, a few more cost nothing.
const STRANDS: usize = 8;

/// By detector: where in event time it alerted of late. Those without a limit are not there.
///
/// Event time is not one line: a feed may bring one tick of today and then an old day, or ticks of both in turn. If only
/// the newest minute of all counted, that one tick would use up the limit for the whole old day; and if counting began
/// anew whenever time goes back, ticks of two days in turn would lift it. So there are *strands*. An alert belongs to a
/// strand that is at most five minutes away: one that is late counts for the strand's present minute, one of a later
/// minute moves the strand there and counts from zero. An alert that is away from every strand begins a new one, in place
/// of that which was used longest ago. Each strand thus has the limit of a detector that sees nothing else, so no tick
/// silences another day; and what ticks of several days in turn can raise is the limit in each of these days, for up to
/// eight of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(BTreeMap<String, Vec<Strand>>);

/// The newest minute of a strand, and how many alerts count for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Strand {
    minute: u64,
    count: u64,
}

impl Rates {
    /// Whether a detector may alert at `time`, ns; then it has.
    pub fn may_alert(&mut self, detector: &str, time: u64, most: u64) -> bool {
        if most == 0 {
            return true;
        }
        let strands = self.0.entry(detector.to_owned()).or_default();
        let strand = take_strand(strands, time / MINUTE_NS);
        let may = strand.count < most;
        strands.push(Strand { count: strand.count + u64::from(may), ..strand });
        may
    }
}

/// Takes out the strand that an alert of this minute belongs to, moved to where it is with that alert; the one used
/// last is at the end.
fn take_strand(strands: &mut Vec<Strand>, minute: u64) -> Strand {
    let near = |strand: &&Strand| strand.minute.abs_diff(minute) <= REACH;
    // If an alert may be late in one strand or a step forward in another, it is late.
    let late = strands.iter().filter(near).filter(|strand| strand.minute >= minute).min_by_key(|strand| strand.minute);
    let step = || strands.iter().filter(near).max_by_key(|strand| strand.minute);
    let Some(Strand { minute: newest, count }) = late.or_else(step).copied() else {
        let longest_unused = strands.len().saturating_sub(STRANDS - 1);
        strands.drain(..longest_unused);
        return Strand { minute, count: 0 };
    };
    strands.retain(|strand| strand.minute != newest);
    match newest >= minute {
        true => Strand { minute: newest, count },
        false => Strand { minute, count: 0 },
    }
}

impl fmt::Display for Rates {
    /// As [`FromStr`] reads it. An older release, which has no strands, reads the one used last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().flat_map(|(name, strands)| strands.iter().map(move |strand| (name, strand)));
        let parts: Vec<String> =
            each.map(|(name, Strand { minute, count })| format!("{name}={minute}/{count}")).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Rates {
    type Err = std::convert::Infallible;

    /// What is no rate is left out: counting then begins anew.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |part: &str| {
            let (name, rest) = part.split_once('=')?;
            let (minute, count) = rest.split_once('/')?;
            Some((name.to_owned(), Strand { minute: minute.parse().ok()?, count: count.parse().ok()? }))
        };
        let mut rates = Self::default();
        for (name, strand) in text.split(',').filter_map(one) {
            rates.0.entry(name).or_default().push(strand);
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

    /// Of so many alerts at these times, s, those that may be raised.
    fn raised(times: impl IntoIterator<Item = u64>, most: u64) -> usize {
        let mut rates = Rates::default();
        times.into_iter().filter(|s| rates.may_alert("a", seconds(*s), most)).count()
    }

    #[test]
    fn so_many_alerts_a_minute_and_no_more() {
        let mut rates = Rates::default();
        let mut may = |s: u64| rates.may_alert("a", seconds(s), 2);
        assert_eq!([61, 62, 119, 120, 90, 121].map(&mut may), [true, true, false, true, true, false]);
        assert_eq!(rates.to_string().parse(), Ok(rates.clone()));
        assert!(rates.may_alert("b", 1, 0));
        assert_eq!("".parse(), Ok(Rates::default()));
    }

    /// The highest minute ever seen was the only one that counted: after one alert of today a whole old day was
    /// limited to what one minute may have.
    #[test]
    fn one_tick_of_another_day_silences_nothing() {
        let old_day: Vec<u64> = (0..375).map(|minute| 100 * DAY_S + minute * 60).collect();
        assert_eq!(raised(old_day.iter().copied(), 1), 375);
        let after_one_of_today = std::iter::once(190 * DAY_S).chain(old_day.iter().copied());
        assert_eq!(raised(after_one_of_today, 1), 376);
        let (morning, afternoon) = old_day.split_at(180);
        let in_the_midst = morning.iter().chain([&(190 * DAY_S)]).chain(afternoon).copied();
        assert_eq!(raised(in_the_midst, 1), 376);
        // Of one whose time is far in the past, likewise.
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
    fn a_strand_that_was_not_used_for_long_makes_room() {
        let mut rates = Rates::default();
        for day in 0..100 {
            assert!(rates.may_alert("a", seconds(day * DAY_S), 1));
            assert!(!rates.may_alert("a", seconds(day * DAY_S), 1));
            assert!(!rates.may_alert("a", seconds(0), 1), "day {day} and the first one in turn");
        }
        assert_eq!(rates.0["a"].len(), STRANDS);
    }

    #[test]
    fn what_was_kept_is_read_whoever_wrote_it() {
        let mut rates: Rates = "a=29/2,b=3/1".parse().unwrap();
        assert_eq!(rates.to_string(), "a=29/2,b=3/1", "as a release without strands wrote it");
        assert!(!rates.may_alert("a", seconds(29 * 60), 2));
        assert!(rates.may_alert("a", seconds(500 * 60), 2));
        // A release without strands takes the last one of a name.
        assert_eq!(rates.to_string(), "a=29/2,a=500/1,b=3/1");
        assert_eq!(rates.to_string().parse(), Ok(rates));
        assert_eq!("a=1,=,a=x/2,a=3/4/5".parse(), Ok(Rates::default()));
    }

    #[test]
    fn no_minute_overflows() {
        let mut rates: Rates = format!("a={0}/{0},a=0/0", u64::MAX).parse().unwrap();
        assert!(rates.may_alert("a", u64::MAX, 1) && rates.may_alert("a", 0, 1));
    }
}
