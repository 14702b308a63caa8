//! How many alerts a detector may raise in a minute of event time, over all symbols.
//!
//! Counted where alerts are put in order, and kept with each commit: so the same entries give the same
//! alerts, however many workers there are and however often a host was killed in between.

use std::{collections::BTreeMap, fmt, str::FromStr};

const MINUTE_NS: u64 = 60_000_000_000;

/// By detector: the newest minute in which it alerted, and how often. Those without a limit are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(BTreeMap<String, (u64, u64)>);

impl Rates {
    /// Whether a detector may alert at `time`, ns; then it has. An alert of a minute that is over counts
    /// for the present one.
    pub fn may_alert(&mut self, detector: &str, time: u64, most: u64) -> bool {
        if most == 0 {
            return true;
        }
        let minute = time / MINUTE_NS;
        let (newest, count) = self.0.entry(detector.to_owned()).or_default();
        if minute > *newest {
            (*newest, *count) = (minute, 0);
        }
        let may = *count < most;
        *count += u64::from(may);
        may
    }
}

impl fmt::Display for Rates {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(name, (minute, count))| format!("{name}={minute}/{count}")).collect();
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
            Some((name.to_owned(), (minute.parse().ok()?, count.parse().ok()?)))
        };
        Ok(Self(text.split(',').filter_map(one).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_alerts_a_minute_and_no_more() {
        let mut rates = Rates::default();
        let mut may = |s: u64| rates.may_alert("a", s * 1_000_000_000, 2);
        assert_eq!([61, 62, 119, 120, 90, 121].map(&mut may), [true, true, false, true, true, false]);
        assert_eq!(rates.to_string().parse(), Ok(rates.clone()));
        assert!(rates.may_alert("b", 1, 0));
        assert_eq!("".parse(), Ok(Rates::default()));
    }
}
