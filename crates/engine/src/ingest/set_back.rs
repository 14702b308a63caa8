//! Notices that the clock of a feed went back and stays back, as when a recorded day is replayed into the stream again.
//!
//! Otherwise the ticks of each symbol would all get the time of its latest one until the feed has caught up, which may
//! take hours, and every detector would be blind meanwhile.
//!
//! What holds: whether the clock went back depends on the entries alone. Old entries that are processed late, and old
//! times of symbols that are rarely traded, do not count as a clock.

use tickhound_core::event::{Clock, TicksBehind};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Ticks further behind the latest event time may show that the clock went back, ns. Feeds of several producers differ by
/// less, and after a smaller step the feed has caught up within that time.
const FAR_BEHIND_NS: u64 = 300 * NANOS_PER_SECOND;

/// The number of successive ticks, in the order of their times, after which the clock is believed to have gone back. In a
/// list of the last trades of many symbols, whose times have no order, no more than a dozen follow each other so.
const TICKS_MIN: u64 = 100;

/// The event time that must pass with these ticks, ns. Of two producers, one may be silent for as long without an effect.
const SPAN_MIN_NS: u64 = 10 * NANOS_PER_SECOND;

/// A tick may be this much before the latest of these ticks and still be in order, ns: the times of symbols differ.
const DISORDER_NS: u64 = 5 * NANOS_PER_SECOND;

/// Notes the published time of a tick that arrived after all others so far. Most ticks are not far behind, and have no
/// effect.
#[inline]
pub(super) fn note(clock: &mut Clock, time: u64) {
    if time.saturating_add(FAR_BEHIND_NS) < clock.time {
        note_behind(&mut clock.behind, time);
    } else if clock.behind.in_order > 0 {
        clock.behind = TicksBehind::default();
    }
}

/// Whether the clock is believed to have gone back.
pub(super) fn is_set_back(clock: &Clock) -> bool {
    let TicksBehind { since, time, in_order, .. } = clock.behind;
    in_order >= TICKS_MIN && time - since >= SPAN_MIN_NS
}

#[cold]
fn note_behind(behind: &mut TicksBehind, time: u64) {
    if behind.in_order == 0 || behind.stray > behind.in_order {
        *behind = TicksBehind { since: time, time, in_order: 1, stray: 0 };
    } else if time.saturating_add(DISORDER_NS) >= behind.time {
        behind.in_order += 1;
        behind.time = behind.time.max(time);
    } else {
        behind.stray += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 15:30 of a day, in seconds.
    const CLOSE: u64 = 1_764_000_000;

    fn after(times: impl Iterator<Item = u64>) -> Clock {
        let mut clock = Clock { time: CLOSE * NANOS_PER_SECOND, ..Clock::default() };
        times
            .take_while(|time| {
                note(&mut clock, time * NANOS_PER_SECOND);
                !is_set_back(&clock)
            })
            .for_each(drop);
        clock
    }

    #[test]
    fn a_clock_that_went_back_is_believed_after_a_hundred_ticks() {
        let morning = CLOSE - 20_000;
        let clock = after(morning..morning + 1000);
        assert!(is_set_back(&clock));
        assert_eq!(clock.behind.time, (morning + 99) * NANOS_PER_SECOND);
        // Some symbols are rarely traded, and their times are of long before.
        assert!(is_set_back(&after((0..1000).map(|n| if n % 3 == 0 { morning - 5000 } else { morning + n }))));
        // Many ticks in a moment may be those of one producer of several.
        assert!(!is_set_back(&after((0..1000).map(|n| morning + n / 200))));
    }

    #[test]
    fn last_trades_of_rarely_traded_symbols_are_not_a_clock() {
        // A generator of Park and Miller: times over six hours, without an order.
        let mut random = 1u64;
        let times = std::iter::repeat_with(|| {
            random = random * 16_807 % 2_147_483_647;
            CLOSE - 301 - random % 21_600
        });
        let clock = after(times.take(300_000));
        assert!(!is_set_back(&clock), "{:?}", clock.behind);
    }

    #[test]
    fn one_tick_at_the_clock_starts_again() {
        let times = (0..1000).map(|n| if n % 90 == 89 { CLOSE } else { CLOSE - 5000 + n });
        assert!(!is_set_back(&after(times)));
        // A producer that is a few minutes late is not a clock that went back.
        assert!(!is_set_back(&after(CLOSE - 299..CLOSE)));
    }
}
