//! How long a detector keeps silent about a symbol after an alert: by event time, so that the same
//! ticks give the same alerts whenever they are worked.
//!
//! Event time may go back: a clock row has the time of whatever symbol brought it, say of a tick of today, and its own
//! next tick may be of an old day. So an alert is held back if it is too close to one of two alerts, before or after it:
//! the last one, and another of where event time was before it went back. An alert of today then does not mute a symbol
//! for the whole of an old day, nor do ticks of two days in turn lift the cool-down of either.

use rustc_hash::FxHashMap;

use tickhound_core::event::Direction;

/// Event times of two alerts of a symbol in each direction, ns; 0 when there was none.
pub(super) type LastAlerts = [[u64; 3]; 2];

/// Of one shard. They outlive instances: a successor keeps the silence of the one before.
#[derive(Default)]
pub(super) struct Cooldowns {
    /// By detector, and by symbol id there.
    last: FxHashMap<String, Vec<LastAlerts>>,
}

impl Cooldowns {
    /// Whether a detector may alert now; then it has.
    pub(super) fn may_alert(
        &mut self,
        detector: &str,
        symbol: u32,
        direction: Direction,
        time: u64,
        cooldown_s: f64,
    ) -> bool {
        if cooldown_s == 0.0 {
            return true;
        }
        let [one, other] = self.of_mut(detector, symbol);
        let (one, other) = (&mut one[direction as usize], &mut other[direction as usize]);
        let too_close = |alert: u64| alert != 0 && (time.abs_diff(alert) as f64) < cooldown_s * 1e9;
        if too_close(*one) || too_close(*other) {
            return false;
        }
        // It follows the nearer one of those before it; where there is none, event time has gone back.
        let (earlier, later) = if *one < *other { (one, other) } else { (other, one) };
        let follows = if *later <= time { later } else { earlier };
        *follows = time;
        true
    }

    pub(super) fn of(&self, detector: &str, symbol: u32) -> LastAlerts {
        let of_symbol = self.last.get(detector).and_then(|last| last.get(symbol as usize));
        of_symbol.copied().unwrap_or_default()
    }

    pub(super) fn restore(&mut self, detector: &str, symbol: u32, last: LastAlerts) {
        if last != LastAlerts::default() {
            *self.of_mut(detector, symbol) = last;
        }
    }

    /// The detector begins anew with this symbol.
    pub(super) fn forget(&mut self, detector: &str, symbol: u32) {
        if let Some(last) = self.last.get_mut(detector).and_then(|last| last.get_mut(symbol as usize)) {
            *last = LastAlerts::default();
        }
    }

    /// The detector begins anew, or is gone.
    pub(super) fn forget_all(&mut self, detector: &str) {
        self.last.remove(detector);
    }

    fn of_mut(&mut self, detector: &str, symbol: u32) -> &mut LastAlerts {
        if !self.last.contains_key(detector) {
            self.last.insert(detector.to_owned(), Vec::new());
        }
        let last = self.last.get_mut(detector).expect("it was just put there");
        let index = symbol as usize;
        last.resize(last.len().max(index + 1), LastAlerts::default());
        &mut last[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_silences_its_symbol_and_direction_for_as_long_as_was_asked() {
        let mut cooldowns = Cooldowns::default();
        let mut may = |symbol, direction, s: u64| cooldowns.may_alert("a", symbol, direction, s * 1_000_000_000, 10.0);
        assert!(may(1, Direction::Up, 100));
        assert!(!may(1, Direction::Up, 109));
        assert!(may(1, Direction::Down, 109) && may(2, Direction::Up, 109));
        assert!(may(1, Direction::Up, 110), "what was held back does not count");
        assert!(!may(1, Direction::Up, 119));
        cooldowns.forget("a", 2);
        assert!(cooldowns.may_alert("a", 2, Direction::Up, 110 * 1_000_000_000, 10.0), "it was forgotten");
        assert!(
            cooldowns.may_alert("b", 1, Direction::Up, 1, 10.0) && cooldowns.may_alert("a", 1, Direction::Up, 1, 0.0)
        );
    }

    /// One alert of today, such as a clock row may bring, muted its symbol for the whole of an old day: it was after each
    /// alert of that day, and no time had passed since.
    #[test]
    fn event_time_that_goes_back_neither_mutes_a_symbol_nor_lifts_the_cooldown() {
        let mut cooldowns = Cooldowns::default();
        let mut may = |s: u64| cooldowns.may_alert("a", 1, Direction::Up, s * 1_000_000_000, 10.0);
        let (old_day, today) = (100_000, 900_000);
        assert!(may(today));
        for s in 0..100 {
            assert_eq!(may(old_day + s), s % 10 == 0, "second {s} of the old day");
            assert_eq!(may(today + s), s > 0 && s % 10 == 0, "second {s} of today, in turn");
        }
        assert!(!may(old_day + 85), "just before an alert is too close as well");
        let known = cooldowns.of("a", 1);
        let mut restored = Cooldowns::default();
        restored.restore("a", 1, known);
        assert!(!restored.may_alert("a", 1, Direction::Up, (today + 99) * 1_000_000_000, 10.0));
        assert!(restored.may_alert("a", 1, Direction::Up, (today + 100) * 1_000_000_000, 10.0));
    }
}
