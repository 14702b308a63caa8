//! What a detector is called with: ticks, bars, rows of snapshots, and seconds.

use crate::{detector::flag, gates::Gates, members::Member, packed::Batch, shape::BarColumns};

/// A symbol or group as the host has introduced it.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    /// The texts of a symbol, in the order of the manifest.
    pub(crate) texts: Vec<Option<String>>,
}

/// A row of the present call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) row: usize,
    pub(crate) id: u32,
    /// The id of the symbol or group whose state is passed along.
    pub(crate) owner: u32,
}

/// Declares a type of rows, with the methods that all of them have.
macro_rules! row {
    ($(#[$about:meta])* $name:ident, $(#[$time:meta])* time, $(#[$price:meta])* price $(, $(#[$more:meta])* $field:ident: $type:ty)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a> {
            $(#[$time])*
            pub time: u64,
            $(#[$price])*
            pub price: f64,
            $($(#[$more])* pub(crate) $field: $type,)*
            pub(crate) source: Source<'a>,
        }

        impl<'a> $name<'a> {
            /// Returns the name of the symbol, such as `NIFTY25NOV25750PE`.
            #[must_use]
            pub fn symbol(&self) -> &'a str {
                &self.source.symbol().name
            }

            /// Returns the symbol as a key of [`ByMember`](crate::ByMember).
            #[inline]
            #[must_use]
            pub fn symbol_id(&self) -> Member<'a> {
                Member { id: self.source.id, name: &self.source.symbol().name }
            }

            /// Returns the name of the group whose state is passed along, such as `NIFTY`. It is empty if the state belongs to
            /// the symbol.
            #[must_use]
            pub fn group(&self) -> &'a str {
                let Source { batch, owner, .. } = self.source;
                if batch.shape.has_groups() { &named(batch.names, owner).name } else { "" }
            }

            /// Returns the value of a column, given its position in the manifest. An absent value is NaN. Computed columns
            /// follow the others.
            ///
            /// # Panics
            /// Panics if the manifest has no such position.
            #[inline]
            #[must_use]
            #[track_caller]
            pub fn column(&self, position: usize) -> f64 {
                self.source.batch.column(position, self.source.row)
            }

            /// Returns a text of the symbol's reference data, given its position among the texts of the manifest. `None` if the
            /// reference data has none.
            ///
            /// # Panics
            /// Panics if the manifest has no such text.
            #[must_use]
            #[track_caller]
            pub fn text(&self, position: usize) -> Option<&'a str> {
                self.source.symbol().texts[position].as_deref()
            }

            /// Returns the value of the column `flags`, given its position in the manifest. It is a set of the bits in
            /// [`flag`](crate::flag).
            ///
            /// # Panics
            /// Panics if the manifest has no such position.
            #[inline]
            #[must_use]
            #[track_caller]
            pub fn flags(&self, position: usize) -> u32 {
                // The contract guarantees a whole number of at least 0. NaN would give 0.
                self.column(position) as u32
            }

            /// Returns whether the row is from the session, and not from its pre-open or from outside of it, given the position
            /// of the column `flags` in the manifest.
            ///
            /// # Panics
            /// Panics if the manifest has no such position.
            #[inline]
            #[must_use]
            #[track_caller]
            pub fn is_in_session(&self, position: usize) -> bool {
                self.flags(position) & flag::OUTSIDE == 0
            }

            /// Returns when the row's session opened, or opens if this is a row of its pre-open, in ns since the Unix epoch,
            /// given the position of the column `since_open` in the manifest. `None` if the host does not know it.
            ///
            /// # Panics
            /// Panics if the manifest has no such position.
            #[inline]
            #[must_use]
            #[track_caller]
            pub fn session_open(&self, position: usize) -> Option<u64> {
                after(self.time, -self.column(position))
            }

            /// Returns when the row's session closes, in ns since the Unix epoch, given the position of the column `to_close` in
            /// the manifest. `None` if the host does not know it.
            ///
            /// # Panics
            /// Panics if the manifest has no such position.
            #[inline]
            #[must_use]
            #[track_caller]
            pub fn session_close(&self, position: usize) -> Option<u64> {
                after(self.time, self.column(position))
            }

            /// Returns the means to compare values so that the comparisons can be shown.
            #[inline]
            #[must_use]
            pub fn gates(&self) -> Gates<'a> {
                Gates { record: self.source.batch.gates }
            }
        }
    };
}

row! {
    /// One market update of one symbol.
    ///
    /// ```
    /// use tickhound_sdk::Tick;
    ///
    /// const BID: usize = 0; // the position of the column `bid` in the manifest
    ///
    /// fn distance_to_bid(tick: &Tick<'_>) -> Option<f64> {
    ///     let distance = tick.price - tick.column(BID);
    ///     distance.is_finite().then_some(distance)
    /// }
    /// ```
    Tick,
    /// The event time, ns since the Unix epoch, UTC. It never decreases within one symbol.
    time,
    /// The last traded price in quote currency, finite and greater than 0.
    price
}

row! {
    /// What happened to one symbol in a span of the session, as the host has put it together for all detectors.
    ///
    /// Its columns are those at the end of the span. To read the open and the like, the manifest needs
    /// [`bars_columns`](crate::Manifest::bars_columns).
    ///
    /// ```
    /// use tickhound_sdk::{Bar, Detection};
    ///
    /// fn on_bar(bar: &Bar<'_>) -> Option<Detection> {
    ///     let range = bar.high() - bar.low();
    ///     (range > 0.02 * bar.price).then(|| Detection::neutral(0.5).with("range", range))
    /// }
    /// ```
    Bar,
    /// The end of the bar, ns since the Unix epoch, UTC.
    time,
    /// The close: the last price of the bar.
    price,
    /// The length in seconds.
    length: u32
}

row! {
    /// What was known of one symbol at one step of a snapshot: its last price, and the last known value of each column.
    ///
    /// ```
    /// use tickhound_sdk::{ByMember, Detection, Snapshot};
    ///
    /// /// Reports the share of rising members once a step is complete.
    /// fn on_snapshot(last: &mut ByMember<(f64, bool)>, row: &Snapshot<'_>) -> Option<Detection> {
    ///     let (price, rises) = last.entry(row.symbol_id());
    ///     *rises = row.price > std::mem::replace(price, row.price);
    ///     if !row.is_last() {
    ///         return None;
    ///     }
    ///     let share = last.values().filter(|(_, rises)| *rises).count() as f64 / last.len() as f64;
    ///     (share > 0.9).then(|| Detection::up(share))
    /// }
    /// ```
    Snapshot,
    /// The time of the step, ns since the Unix epoch, UTC.
    time,
    /// The last price of the symbol.
    price,
    /// The number of seconds between two steps.
    length: u32,
    /// Whether no row of this step follows.
    last: bool
}

impl Tick<'_> {
    /// Returns the event time in seconds since the Unix epoch, exact to a microsecond.
    #[inline]
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }
}

impl Bar<'_> {
    /// Returns the first price.
    ///
    /// # Panics
    /// Like all methods down to [`vwap`](Self::vwap): panics if the manifest lacks the columns of bars.
    #[must_use]
    #[track_caller]
    pub fn open(&self) -> f64 {
        self.of_bar(|columns| columns.open)
    }

    /// Returns the highest price.
    #[must_use]
    #[track_caller]
    pub fn high(&self) -> f64 {
        self.of_bar(|columns| columns.high)
    }

    /// Returns the lowest price.
    #[must_use]
    #[track_caller]
    pub fn low(&self) -> f64 {
        self.of_bar(|columns| columns.low)
    }

    /// Returns the last price, which is also [`price`](Self::price).
    #[must_use]
    pub fn close(&self) -> f64 {
        self.price
    }

    /// Returns the quantity traded. It is NaN if no tick of the bar has one.
    #[must_use]
    #[track_caller]
    pub fn quantity(&self) -> f64 {
        self.of_bar(|columns| columns.quantity)
    }

    /// Returns the number of ticks, at least 1.
    #[must_use]
    #[track_caller]
    pub fn count(&self) -> f64 {
        self.of_bar(|columns| columns.count)
    }

    /// Returns the average price, weighted by quantity. It is NaN if nothing was traded.
    #[must_use]
    #[track_caller]
    pub fn vwap(&self) -> f64 {
        self.of_bar(|columns| columns.vwap)
    }

    /// Returns the length in seconds, which tells the bars of several feeds apart. A bar that the session's close has cut short
    /// has the length of its feed.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        self.length
    }

    #[track_caller]
    fn of_bar(&self, position: impl Fn(&BarColumns) -> Option<usize>) -> f64 {
        let Some(position) = position(&self.source.batch.shape.bar) else {
            panic!("the manifest doesn't ask for this column of bars: add `.bars_columns()`")
        };
        self.column(position)
    }
}

impl Snapshot<'_> {
    /// Returns whether this is the last row of the step, for this state.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last
    }

    /// Returns the number of seconds between two steps, which tells several feeds apart.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        self.length
    }
}

/// A whole second that event time has reached.
///
/// ```
/// use tickhound_sdk::{Clock, Detection};
///
/// const MINUTE: u64 = 60_000_000_000;
///
/// fn on_clock(last_tick: &mut u64, clock: &Clock<'_>) -> Option<Detection> {
///     (clock.time >= *last_tick + MINUTE).then(|| Detection::neutral(1.0))
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Clock<'a> {
    /// The second, in ns since the Unix epoch, UTC.
    pub time: u64,
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) owner: &'a str,
}

impl<'a> Clock<'a> {
    /// Returns the name of the symbol whose state is passed along. It is empty if the state belongs to a group.
    #[must_use]
    pub fn symbol(&self) -> &'a str {
        if self.batch.shape.has_groups() { "" } else { self.owner }
    }

    /// Returns the name of the group whose state is passed along. It is empty if the state belongs to a symbol.
    #[must_use]
    pub fn group(&self) -> &'a str {
        if self.batch.shape.has_groups() { self.owner } else { "" }
    }

    /// Returns the second, in seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.time)
    }

    /// Returns the means to compare values so that the comparisons can be shown.
    #[must_use]
    pub fn gates(&self) -> Gates<'a> {
        Gates { record: self.batch.gates }
    }
}

impl<'a> Source<'a> {
    fn symbol(self) -> &'a Named {
        named(self.batch.names, self.id)
    }

    pub(crate) fn tick(self, time: u64, price: f64) -> Tick<'a> {
        Tick { time, price, source: self }
    }

    pub(crate) fn bar(self, time: u64, price: f64, length: u32) -> Bar<'a> {
        Bar { time, price, length, source: self }
    }

    pub(crate) fn snapshot(self, time: u64, price: f64, length: u32) -> Snapshot<'a> {
        Snapshot { time, price, length, last: self.batch.is_last(self.row), source: self }
    }
}

/// Returns the symbol or group that has this id.
pub(crate) fn named(names: &[Option<Named>], id: u32) -> &Named {
    match names.get(id as usize) {
        Some(Some(named)) => named,
        _ => unknown(id),
    }
}

#[cold]
pub(crate) fn unknown(id: u32) -> ! {
    panic!("the host sent a row of symbol or group {id} before introducing it")
}

/// Returns the time `seconds` after `time`, in ns. Seconds of a session are exact to a ns.
fn after(time: u64, seconds: f64) -> Option<u64> {
    let nanos = seconds * 1e9;
    let nanos = if nanos < 0.0 { nanos - 0.5 } else { nanos + 0.5 };
    if nanos.is_nan() { None } else { time.checked_add_signed(nanos as i64) }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
