//! Quotes without a trade, as the host hands them on.

use tickhound_sdk::{
    flag,
    harness::{Row, tick},
};

use crate::market::{Raw, SECOND};

/// A quote that is no trade, and carries this price.
pub fn quote(time: u64, price: f64, session_start: bool) -> Row {
    let flags = flag::QUOTE_ONLY | if session_start { flag::SESSION_START } else { 0 };
    tick("X", 0.0, price).at_nanos(time).with("flags", f64::from(flags))
}

/// The ticks, with quotes between that only repeat the last price, as the host carries it.
pub fn with_carried_quotes(ticks: &[Raw]) -> Vec<Row> {
    let (mut rows, mut last): (Vec<Row>, Option<(u64, f64)>) = (Vec::new(), None);
    for tick in ticks {
        // A session may begin with one: it has the price of the session before.
        match last.filter(|_| tick.session_start) {
            Some((_, price)) => {
                rows.push(quote(tick.time - 900 * SECOND, price, true));
                rows.push(Raw { session_start: false, ..*tick }.row());
            }
            None => {
                // Of a pause, its first minute has quotes.
                let (time, price) = last.unwrap_or((tick.time, tick.price));
                let times = (1..=20).map(|n| time + n * 3 * SECOND).take_while(|time| *time < tick.time);
                rows.extend(times.map(|time| quote(time, price, false)));
                rows.push(tick.row());
            }
        }
        last = Some((tick.time, tick.price));
    }
    rows
}
