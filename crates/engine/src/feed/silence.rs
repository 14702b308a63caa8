//! Whether the feed is silent: no tick has come for a while, in session hours; pure, with one observation a second.

/// What a second has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedReading {
    /// A clock that never goes back, ms.
    pub(super) at_ms: u64,
    /// Ticks committed since the beginning.
    pub(super) ticks: u64,
    /// Entries committed since the beginning.
    pub(super) entries: u64,
    /// Whether entries are in flight, so that ticks may be among them.
    pub(super) in_flight: bool,
    /// For how long a session has been open, ms; `None` if none is.
    pub(super) open_for_ms: Option<u64>,
}

/// A silence that is longer than configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silence {
    /// How long no tick has come while this host read, ms.
    pub(super) for_ms: u64,
    /// How long ago the last tick came, ms; `None` if none has.
    pub(super) last_tick_ago_ms: Option<u64>,
    /// Entries that have come since; none of them had a tick.
    pub(super) entries: u64,
}

/// Observes the ticks of a feed.
#[derive(Debug)]
pub(super) struct SilenceWatch {
    /// From when on it counts, ms; 0: never.
    after_ms: u64,
    /// When the last tick came, or the observation began.
    quiet_since: Option<FeedReading>,
    /// When the last tick came, ms.
    last_tick_at_ms: Option<u64>,
    /// Ticks committed as of the last observation.
    ticks: u64,
    silence: Option<Silence>,
}

impl SilenceWatch {
    /// Observes what comes after so many ticks.
    pub(super) fn new(after_ms: u64, ticks: u64) -> Self {
        Self { after_ms, quiet_since: None, last_tick_at_ms: None, ticks, silence: None }
    }

    /// Nobody reads at present, so that time is no silence; a silence that there is goes on.
    pub(super) fn interrupt(&mut self) {
        if self.silence.is_none() {
            self.quiet_since = None;
        }
    }

    /// Observes a second. Returns the silence if there is one.
    pub(super) fn observe(&mut self, now: FeedReading) -> Option<Silence> {
        if now.ticks != self.ticks {
            (self.ticks, self.last_tick_at_ms) = (now.ticks, Some(now.at_ms));
            (self.quiet_since, self.silence) = (Some(now), None);
            return None;
        }
        let since = *self.quiet_since.get_or_insert(now);
        // What is in flight shows later whether it has a tick.
        if now.in_flight {
            return self.silence;
        }
        let for_ms = now.at_ms.saturating_sub(since.at_ms);
        // The night before an opening is no silence.
        let in_session_ms = now.open_for_ms.map_or(0, |open| open.min(for_ms));
        let is_silent = self.after_ms > 0 && in_session_ms >= self.after_ms;
        let entries = now.entries.saturating_sub(since.entries);
        let last_tick_ago_ms = self.last_tick_at_ms.map(|at_ms| now.at_ms.saturating_sub(at_ms));
        self.silence = is_silent.then_some(Silence { for_ms, last_tick_ago_ms, entries });
        self.silence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Option<u64> = Some(86_400_000);

    fn at(second: u64, ticks: u64, open_for_ms: Option<u64>) -> FeedReading {
        FeedReading { at_ms: second * 1000, ticks, entries: ticks, in_flight: false, open_for_ms }
    }

    #[test]
    fn a_feed_is_silent_once_no_tick_has_come_for_long_and_no_longer_with_the_next_one() {
        let mut watch = SilenceWatch::new(60_000, 0);
        assert_eq!(watch.observe(at(0, 0, DAY)), None);
        assert_eq!(watch.observe(at(5, 9, DAY)), None);
        assert_eq!(watch.observe(at(64, 9, DAY)), None);
        let silence = watch.observe(at(65, 9, DAY)).unwrap();
        assert_eq!(silence, Silence { for_ms: 60_000, last_tick_ago_ms: Some(60_000), entries: 0 });
        assert_eq!(watch.observe(at(66, 10, DAY)), None);
        assert_eq!(watch.observe(at(100, 10, DAY)), None);
    }

    #[test]
    fn the_night_is_no_silence_and_the_time_counts_from_the_opening() {
        let mut watch = SilenceWatch::new(60_000, 0);
        watch.observe(at(0, 0, DAY));
        watch.observe(at(1, 9, None));
        assert_eq!(watch.observe(at(50_000, 9, None)), None);
        assert_eq!(watch.observe(at(50_059, 9, Some(59_000))), None);
        assert!(watch.observe(at(50_060, 9, Some(60_000))).is_some());
        assert_eq!(watch.observe(at(70_000, 9, None)), None, "it ends with the session");
    }

    #[test]
    fn entries_in_flight_are_waited_for_and_entries_without_ticks_are_counted() {
        let mut watch = SilenceWatch::new(60_000, 0);
        watch.observe(at(0, 0, DAY));
        assert_eq!(watch.observe(FeedReading { in_flight: true, ..at(70, 0, DAY) }), None);
        let silence = watch.observe(FeedReading { entries: 1000, ..at(71, 0, DAY) }).unwrap();
        assert_eq!((silence.last_tick_ago_ms, silence.entries), (None, 1000));
        assert!(watch.observe(FeedReading { in_flight: true, ..at(72, 0, DAY) }).is_some());
    }

    /// Redis was restarted. The time without it would have counted as silence.
    #[test]
    fn the_time_in_which_nobody_reads_is_no_silence_and_ends_none() {
        let mut watch = SilenceWatch::new(60_000, 0);
        watch.observe(at(0, 9, DAY));
        watch.interrupt();
        assert_eq!(watch.observe(at(300, 9, DAY)), None);
        let silence = watch.observe(at(360, 9, DAY)).unwrap();
        assert_eq!((silence.for_ms, silence.last_tick_ago_ms), (60_000, Some(360_000)));
        watch.interrupt();
        assert!(watch.observe(at(361, 9, DAY)).is_some());
    }

    #[test]
    fn zero_switches_it_off() {
        let mut watch = SilenceWatch::new(0, 0);
        watch.observe(at(0, 0, DAY));
        assert_eq!(watch.observe(at(90_000, 0, DAY)), None);
    }
}
