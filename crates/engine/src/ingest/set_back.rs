//! Notices that the clock of a feed went back and stays back, as when a recorded day is published into the stream again.
//!
//! Otherwise the ticks of each symbol would all get the time of its latest one until the feed has caught up, which may
//! take hours, and every detector would be blind meanwhile.
//!
//! What holds: whether the clock went back depends on the entries alone. Old entries that are processed late, and old times
//! of symbols that are rarely traded, do not count.

use tickhound_core::event::{Clock, TicksBehind};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Ticks further behind may show that the clock went back, ns. Feeds of several producers differ by less, and after a
/// smaller step the feed has caught up within that time.
const FAR_BEHIND_NS: u64 = 300 * NANOS_PER_SECOND;

/// The number of successive ticks after which the clock is believed to have gone back.
const TICKS_MIN: u64 = 100;

/// The event time that these ticks must span, ns. Of two producers, one may be silent for as long without an effect.
const SPAN_MIN_NS: u64 = 10 * NANOS_PER_SECOND;

/// Whether a time is so far behind the event time that it may show that the clock went back.
#[inline]
pub(super) fn is_far_behind(time: u64, latest: u64) -> bool {
    time.saturating_add(FAR_BEHIND_NS) < latest
}

/// Notes a tick that is far behind the latest event time, given the time of the symbol's latest tick: a symbol that is
/// rarely traded may be as far behind, and says nothing about the clock.
#[cold]
pub(super) fn note(clock: &mut Clock, time: u64, of_symbol: u64) {
    if !is_far_behind(time, of_symbol) {
        return;
    }
    let behind = &mut clock.behind;
    if behind.count == 0 {
        *behind = TicksBehind { since: time, time, count: 0 };
    }
    behind.count += 1;
    behind.time = behind.time.max(time);
}

/// Whether the clock is believed to have gone back.
pub(super) fn is_set_back(clock: &Clock) -> bool {
    let TicksBehind { since, time, count } = clock.behind;
    count >= TICKS_MIN && time - since >= SPAN_MIN_NS
}
