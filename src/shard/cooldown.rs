//! How long a detector keeps silent about a symbol after an alert: by event time, so that the same
//! ticks give the same alerts whenever they are worked.

use rustc_hash::FxHashMap;

use crate::event::Direction;

/// Event time of a symbol's last alert in each direction, ns; 0 when there was none.
pub(super) type LastAlerts = [u64; 3];

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
        let last = &mut self.of_mut(detector, symbol)[direction as usize];
        let may = *last == 0 || time.saturating_sub(*last) as f64 >= cooldown_s * 1e9;
        if may {
            *last = time;
        }
        may
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
}
