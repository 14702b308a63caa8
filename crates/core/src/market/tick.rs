//! A normalized tick with what the series of its symbol need to know about its place in the stream.

use crate::{
    event::{column, flag},
    session::{Phase, Span},
};

/// A normalized tick with a price.
#[derive(Clone, Copy, Debug)]
pub struct MarketTick<'a> {
    /// The number of the symbol.
    pub symbol: u32,
    /// The event time of the partition, this tick included, ns since the Unix epoch. A tick that is late has an earlier time of its
    /// own.
    pub now: u64,
    /// The span of the symbol's calendar that contains the tick's own time.
    pub span: &'a Span,
    /// The price, quote currency, finite and > 0.
    pub price: f64,
    /// The columns of the input, the standard ones first.
    pub columns: &'a [f64],
}

impl MarketTick<'_> {
    /// Whether it is from an open session.
    #[inline]
    pub fn is_in_session(&self) -> bool {
        self.span.phase == Phase::Open
    }

    /// Whether it is from an open session and has a price of its own: whether it counts in bars and computed columns.
    #[inline]
    pub fn counts(&self) -> bool {
        self.is_in_session() && self.flags() & flag::QUOTE_ONLY == 0
    }

    /// Its bit set of [`flag`].
    #[inline]
    pub fn flags(&self) -> u32 {
        self.columns[column::FLAGS] as u32
    }
}
