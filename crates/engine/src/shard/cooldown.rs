//! The cool-down of a symbol after an alert, during which a detector's further alerts of the same direction are dropped.
//! It is in event time, so that the same ticks give the same alerts whenever they are processed.
//!
//! Event time may go back. For example, a clock row may have the time of another symbol's tick of today, and the next
//! tick of this symbol may be of an old day. So an alert is dropped if it is too close to one of two alerts, before or
//! after it: the last one, and the last one before event time went back. Thus an alert of today does not silence a symbol
//! for the whole of an old day, and alternating ticks of two days do not end the cool-down of either.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use tickhound_core::event::Direction;

/// The event times of two alerts of a symbol in each direction, ns; 0 for none.
pub(super) type LastAlerts = [[u64; 3]; 2];

/// An alert that a detector is about to raise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// The symbol or group whose state it comes from.
    pub(super) owner: u32,
    /// The member that it is about, unless it is about the owner.
    pub(super) about: Option<&'a str>,
    pub(super) direction: Direction,
    /// Event time, ns.
    pub(super) time: u64,
}

/// The cool-downs of one shard. They outlive instances: a successor continues those of its predecessor.
#[derive(Default)]
pub(super) struct Cooldowns {
    /// The last alerts by detector, then by symbol id.
    last: FxHashMap<String, Vec<LastAlerts>>,
    /// The last alerts about members of groups by detector, then by the group's id, then by the member's name.
    about: FxHashMap<String, FxHashMap<u32, BTreeMap<String, LastAlerts>>>,
}

impl Cooldowns {
    /// Returns whether a detector may raise an alert, and records the alert if so.
    pub(super) fn admit(&mut self, detector: &str, candidate: Candidate, cooldown_s: f64) -> bool {
        if cooldown_s == 0.0 {
            return true;
        }
        let Candidate { owner, about, direction, time } = candidate;
        let [one, other] = match about {
            None => self.of_mut(detector, owner),
            Some(member) => self.about_mut(detector, owner).entry(member.to_owned()).or_default(),
        };
        let (one, other) = (&mut one[direction as usize], &mut other[direction as usize]);
        let too_close = |alert: u64| alert != 0 && (time.abs_diff(alert) as f64) < cooldown_s * 1e9;
        if too_close(*one) || too_close(*other) {
            return false;
        }
        // The alert replaces the later one of those before it. If both are after it, event time has gone back, and the
        // alert replaces the earlier one, so that the later one remains for the time from which event time went back.
        let (earlier, later) = if *one < *other { (one, other) } else { (other, one) };
        let replaced = if *later <= time { later } else { earlier };
        *replaced = time;
        true
    }

    /// Returns the last alerts of a symbol, to be saved with its state.
    pub(super) fn of(&self, detector: &str, symbol: u32) -> LastAlerts {
        let of_symbol = self.last.get(detector).and_then(|last| last.get(symbol as usize));
        of_symbol.copied().unwrap_or_default()
    }

    /// Returns the last alerts about the members of a group, to be saved with its state.
    pub(super) fn about(&self, detector: &str, group: u32) -> impl Iterator<Item = (&str, &LastAlerts)> {
        let members = self.about.get(detector).and_then(|groups| groups.get(&group));
        members.into_iter().flatten().map(|(member, last)| (member.as_str(), last))
    }

    /// Restores the last alerts about a member of a group.
    pub(super) fn restore_about(&mut self, detector: &str, group: u32, member: &str, last: LastAlerts) {
        self.about_mut(detector, group).insert(member.to_owned(), last);
    }

    /// Restores the last alerts of a symbol.
    pub(super) fn restore(&mut self, detector: &str, symbol: u32, last: LastAlerts) {
        if last != LastAlerts::default() {
            *self.of_mut(detector, symbol) = last;
        }
    }

    /// Ends the cool-down of a symbol whose state the detector has lost.
    pub(super) fn forget(&mut self, detector: &str, symbol: u32) {
        if let Some(last) = self.last.get_mut(detector).and_then(|last| last.get_mut(symbol as usize)) {
            *last = LastAlerts::default();
        }
        if let Some(groups) = self.about.get_mut(detector) {
            groups.remove(&symbol);
        }
    }

    /// Ends the cool-downs of symbols that are evicted.
    pub(super) fn forget_symbols(&mut self, evicted: &FxHashSet<u32>) {
        self.about.values_mut().for_each(|groups| groups.retain(|group, _| !evicted.contains(group)));
        for last in self.last.values_mut() {
            for id in evicted {
                if let Some(last) = last.get_mut(*id as usize) {
                    *last = LastAlerts::default();
                }
            }
        }
    }

    /// Ends all cool-downs of a detector that has lost its states, or was removed.
    pub(super) fn forget_all(&mut self, detector: &str) {
        self.last.remove(detector);
        self.about.remove(detector);
    }

    fn about_mut(&mut self, detector: &str, group: u32) -> &mut BTreeMap<String, LastAlerts> {
        self.about.entry(detector.to_owned()).or_default().entry(group).or_default()
    }

    fn of_mut(&mut self, detector: &str, symbol: u32) -> &mut LastAlerts {
        if !self.last.contains_key(detector) {
            self.last.insert(detector.to_owned(), Vec::new());
        }
        let last = self.last.get_mut(detector).expect("inserted above if it was missing");
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
        let at = |owner, direction, s: u64| Candidate { owner, about: None, direction, time: s * 1_000_000_000 };
        let mut may = |symbol, direction, s: u64| cooldowns.admit("a", at(symbol, direction, s), 10.0);
        assert!(may(1, Direction::Up, 100));
        assert!(!may(1, Direction::Up, 109));
        assert!(may(1, Direction::Down, 109) && may(2, Direction::Up, 109));
        assert!(may(1, Direction::Up, 110), "a dropped alert does not count");
        assert!(!may(1, Direction::Up, 119));
        cooldowns.forget("a", 2);
        assert!(cooldowns.admit("a", at(2, Direction::Up, 110), 10.0), "the cool-down was ended");
        let again = Candidate { owner: 1, about: None, direction: Direction::Up, time: 1 };
        assert!(cooldowns.admit("b", again, 10.0) && cooldowns.admit("a", again, 0.0));
    }

    /// One alert of today, such as a clock row may raise, silenced its symbol for the whole of an old day: it was after
    /// each alert of that day, and no time had passed since.
    #[test]
    fn event_time_that_goes_back_neither_mutes_a_symbol_nor_lifts_the_cooldown() {
        let mut cooldowns = Cooldowns::default();
        let at = |s: u64| Candidate { owner: 1, about: None, direction: Direction::Up, time: s * 1_000_000_000 };
        let mut may = |s: u64| cooldowns.admit("a", at(s), 10.0);
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
        assert!(!restored.admit("a", at(today + 99), 10.0));
        assert!(restored.admit("a", at(today + 100), 10.0));
    }

    #[test]
    fn alerts_about_members_of_a_group_have_cooldowns_of_their_own() {
        let mut cooldowns = Cooldowns::default();
        let at = |owner, about, s: u64| Candidate { owner, about, direction: Direction::Up, time: s * 1_000_000_000 };
        let mut may = |owner, about, s: u64| cooldowns.admit("a", at(owner, about, s), 10.0);
        assert!(may(1, None, 100) && may(1, Some("X"), 101) && may(1, Some("Y"), 102) && may(2, Some("X"), 103));
        assert!(!may(1, Some("X"), 110) && may(1, Some("X"), 111) && !may(1, Some("Y"), 111));
        let saved: Vec<(String, LastAlerts)> = cooldowns.about("a", 1).map(|(n, last)| (n.to_owned(), *last)).collect();
        let mut restored = Cooldowns::default();
        saved.iter().for_each(|(member, last)| restored.restore_about("a", 1, member, *last));
        assert!(!restored.admit("a", at(1, Some("X"), 120), 10.0) && restored.admit("a", at(2, Some("X"), 104), 10.0));
        cooldowns.forget("a", 1);
        assert!(cooldowns.admit("a", at(1, Some("X"), 112), 10.0));
    }
}
