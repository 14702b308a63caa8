//! Normalizes what spans the ticks of a symbol: the order of time, the carried price, and the volume.
//!
//! What holds for normalized rows: time never falls within a symbol, the price is finite and positive, `quantity` is
//! never negative, `cum_volume` falls only where counting starts again, and `flags` says what was changed and where in its
//! session a row is.
//!
//! Quotes and open interest stay as the tick published them, and NaN where it did not. A detector that needs the latest
//! value can remember it; one that needs to know whether a value is new could not find out otherwise.

mod volume;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::volume::{Volume, VolumeRow};
use crate::{
    config::{
        InputConfig,
        input::{Quotes, VolumeKind},
    },
    decode::time_zone,
    event::{column, flag},
    session::{NO_SESSION, Phase, SessionClock, Sessions, Span},
};

/// What was changed in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormalizeCounts {
    /// Rows that no detector sees, because no price of their symbol is known yet.
    pub unpriced: u64,
    /// Rows whose time was raised.
    pub out_of_order: u64,
    /// Rows whose volume was repaired.
    pub volume_repaired: u64,
    /// Rows whose time was estimated from their entry's arrival.
    pub time_estimated: u64,
    /// Rows from a pre-open.
    pub pre_open: u64,
    /// Rows from outside of every session.
    pub off_session: u64,
}

/// What the symbols of one calendar had since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalendarCounts {
    /// Symbols that were introduced.
    pub symbols: u64,
    /// Rows.
    pub ticks: u64,
    /// Rows from outside of every session.
    pub off_session: u64,
}

/// A tick that is normalized in place.
#[derive(Debug)]
pub struct NormalizedRow<'a> {
    /// The number of the symbol.
    pub symbol: u32,
    /// The event time, ns since the Unix epoch, UTC.
    pub time: u64,
    /// The last traded price; NaN where absent, and afterwards only if no price of the symbol is known.
    pub price: f64,
    /// The columns of the input, then the [session's](crate::session::COLUMNS) if they are wanted.
    pub columns: &'a mut [f64],
}

/// Normalizes the ticks of all symbols, in stream order.
#[derive(Debug)]
pub struct Normalizer {
    quotes: Quotes,
    volume: VolumeKind,
    sessions: SessionClock,
    /// Whether rows get the columns with times of the session.
    session_columns: bool,
    /// The symbols by their ids.
    symbols: Vec<SymbolEntry>,
    counts: NormalizeCounts,
    /// The counts by the number of the calendar; empty if all symbols have the same one, whose counts are those of all rows.
    by_calendar: Vec<CalendarCounts>,
    /// The rows since the last [`Self::keep`], which may be taken back.
    revocable: Vec<Revocable>,
}

/// What a symbol has here.
#[derive(Debug, Default)]
struct SymbolEntry {
    state: NormalizerState,
    /// The number of the symbol's calendar.
    calendar: u16,
}

/// A row that may be taken back.
#[derive(Debug)]
struct Revocable {
    symbol: u32,
    /// The state before the row.
    before: NormalizerState,
    flags: u32,
    unpriced: bool,
}

/// The state of a symbol. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NormalizerState {
    /// The time of the last tick, ns.
    time: u64,
    /// The price that detectors saw last.
    price: Option<f64>,
    bid: Option<f64>,
    ask: Option<f64>,
    /// The number of the session that had begun at the last tick.
    day: Option<i32>,
    volume: Volume,
    /// The number of the last session with a tick while it was open; [`NO_SESSION`] if there was none. A state that an
    /// older release saved has no such field: its days were sessions.
    #[serde(default)]
    session: Option<i32>,
}

impl Normalizer {
    /// A normalizer without any symbol.
    ///
    /// # Errors
    /// When the time zone does not exist.
    pub fn new(config: &InputConfig, sessions: &Sessions) -> Result<Self> {
        let sessions = sessions.clock(time_zone(&config.timezone)?);
        let (quotes, volume) = (config.quotes, config.volume);
        let calendars = if sessions.count() > 1 { sessions.count() } else { 0 };
        Ok(Self {
            quotes,
            volume,
            sessions,
            session_columns: false,
            symbols: Vec::new(),
            counts: NormalizeCounts::default(),
            by_calendar: vec![CalendarCounts::default(); calendars],
            revocable: Vec::new(),
        })
    }

    /// Another one that normalizes alike, without any symbol.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            quotes: self.quotes,
            volume: self.volume,
            sessions: self.sessions.clone(),
            session_columns: self.session_columns,
            symbols: Vec::new(),
            counts: NormalizeCounts::default(),
            by_calendar: vec![CalendarCounts::default(); self.by_calendar.len()],
            revocable: Vec::new(),
        }
    }

    /// Says whether rows have the columns [`COLUMNS`](crate::session::COLUMNS) behind those of the input.
    pub fn set_session_columns(&mut self, wanted: bool) {
        self.session_columns = wanted;
    }

    /// Whether rows have the columns with times of the session.
    pub fn has_session_columns(&self) -> bool {
        self.session_columns
    }

    /// The number of the calendar of a symbol.
    pub fn calendar_of(&self, symbol: u32) -> u16 {
        self.symbols.get(symbol as usize).map_or(0, |entry| entry.calendar)
    }

    /// The number of calendars.
    pub fn calendars(&self) -> usize {
        self.sessions.count()
    }

    /// The span of a calendar that contains a time.
    pub fn span(&mut self, calendar: u16, time: u64) -> Span {
        *self.sessions.span(calendar, time)
    }

    /// Introduces a symbol before its first row or state.
    pub fn introduce(&mut self, symbol: u32, name: &str) {
        if !self.by_calendar.is_empty() {
            let calendar = self.sessions.calendar_of(name);
            self.entry(symbol).calendar = calendar;
            self.by_calendar[usize::from(calendar)].symbols += 1;
        }
    }

    /// Takes back that a symbol was introduced.
    pub fn take_back_symbol(&mut self, symbol: u32) {
        let Some(entry) = self.symbols.get_mut(symbol as usize) else { return };
        if let Some(counts) = self.by_calendar.get_mut(usize::from(entry.calendar)) {
            counts.symbols -= 1;
        }
        *entry = SymbolEntry::default();
    }

    /// Takes what was changed in rows since this was last called.
    pub fn take_counts(&mut self) -> NormalizeCounts {
        std::mem::take(&mut self.counts)
    }

    /// Takes what the symbols of each calendar had since this was last called, by the number of the calendar; empty if all
    /// symbols have the same one.
    pub fn take_calendar_counts(&mut self) -> Vec<CalendarCounts> {
        let none = vec![CalendarCounts::default(); self.by_calendar.len()];
        std::mem::replace(&mut self.by_calendar, none)
    }

    /// The state of a symbol; `None` if it had no tick.
    pub fn state(&self, symbol: u32) -> Option<&NormalizerState> {
        self.symbols.get(symbol as usize).map(|entry| &entry.state).filter(|state| state.has_tick())
    }

    /// Continues a symbol from a state.
    pub fn restore(&mut self, symbol: u32, state: NormalizerState) {
        self.entry(symbol).state = state;
    }

    /// Forgets the state of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        if let Some(entry) = self.symbols.get_mut(symbol as usize) {
            *entry = SymbolEntry::default();
        }
    }

    /// Forgets all symbols.
    pub fn forget_all(&mut self) {
        *self = self.beside();
    }

    /// Normalizes a row in place. Its price stays NaN if none is known; no detector may see it then.
    pub fn normalize(&mut self, row: &mut NormalizedRow<'_>) {
        let calendar = self.entry(row.symbol).calendar;
        let flags = self.normalize_values(row, calendar);
        row.columns[column::FLAGS] = f64::from(flags);
        let unpriced = row.price.is_nan();
        if flags != 0 || unpriced {
            self.counts.add(flags, unpriced);
        }
        if let Some(of) = self.by_calendar.get_mut(usize::from(calendar)) {
            of.ticks += 1;
            of.off_session += u64::from(flags & flag::OFF_SESSION != 0);
        }
    }

    /// Like [`Self::normalize`], for a row that [`Self::take_back`] may take back.
    pub fn normalize_revocably(&mut self, row: &mut NormalizedRow<'_>) {
        let before = self.entry(row.symbol).state.clone();
        self.normalize(row);
        let (flags, unpriced) = (row.columns[column::FLAGS] as u32, row.price.is_nan());
        self.revocable.push(Revocable { symbol: row.symbol, before, flags, unpriced });
    }

    /// Keeps the rows that might have been taken back.
    pub fn keep(&mut self) {
        self.revocable.clear();
    }

    /// Takes back all rows since the last [`Self::keep`], as if they had never been, and returns their number.
    pub fn take_back(&mut self) -> usize {
        let rows = std::mem::take(&mut self.revocable);
        for Revocable { symbol, before, flags, unpriced } in rows.iter().rev() {
            let entry = &mut self.symbols[*symbol as usize];
            entry.state.clone_from(before);
            if let Some(of) = self.by_calendar.get_mut(usize::from(entry.calendar)) {
                of.ticks -= 1;
                of.off_session -= u64::from(flags & flag::OFF_SESSION != 0);
            }
            self.counts.take_back(*flags, *unpriced);
        }
        rows.len()
    }

    /// Normalizes the values of a row, and returns its flags.
    fn normalize_values(&mut self, row: &mut NormalizedRow<'_>, calendar: u16) -> u32 {
        let NormalizedRow { symbol, time: published, price, columns } = row;
        let Self { quotes, volume: kind, sessions, session_columns, symbols, .. } = self;
        let state = &mut symbols[*symbol as usize].state;
        let before = state.time;
        let time = (*published).max(before);
        let span = sessions.span(calendar, time);
        let (phase, session) = (span.phase, span.number);
        if *session_columns && let [.., since_open, to_close] = &mut **columns {
            (*since_open, *to_close) = span.seconds(time);
        }
        let mut flags = columns[column::FLAGS] as u32;
        if time > *published {
            flags |= flag::OUT_OF_ORDER;
        }
        flags |= phase.flag();
        if phase == Phase::Open && state.session != Some(session) {
            flags |= flag::SESSION_START;
        }
        // Volume is counted anew from the pre-open on, which the session's own volume includes.
        let counts_anew = state.day != Some(session);
        let mut volume = VolumeRow {
            quantity: columns[column::QUANTITY],
            cum_volume: columns[column::CUM_VOLUME],
            unclear: columns[column::VOLUME],
        };
        if state.volume.normalize(*kind, &mut volume, counts_anew, time - before) {
            flags |= flag::VOLUME_REPAIRED;
        }
        columns[column::QUANTITY] = volume.quantity;
        columns[column::CUM_VOLUME] = volume.cum_volume;
        state.bid = number(columns[column::BID]).or(state.bid);
        state.ask = number(columns[column::ASK]).or(state.ask);
        if price.is_nan() {
            // Volume without a price is a trade at the last price.
            if volume.quantity.is_nan() || volume.quantity == 0.0 {
                flags |= flag::QUOTE_ONLY;
            }
            *price = state.price_without_trade(*quotes).unwrap_or(f64::NAN);
        }
        (*published, state.time) = (time, time);
        if let Some(price) = number(*price) {
            state.note_price(price, phase, session);
        }
        flags
    }

    fn entry(&mut self, symbol: u32) -> &mut SymbolEntry {
        let symbol = symbol as usize;
        if self.symbols.len() <= symbol {
            self.symbols.resize_with(symbol + 1, SymbolEntry::default);
        }
        &mut self.symbols[symbol]
    }
}

impl NormalizeCounts {
    fn add(&mut self, flags: u32, unpriced: bool) {
        self.each(flags, unpriced, |count| *count += 1);
    }

    fn take_back(&mut self, flags: u32, unpriced: bool) {
        self.each(flags, unpriced, |count| *count -= 1);
    }

    /// Applies `change` to the counts that a row with these flags has a part in.
    fn each(&mut self, flags: u32, unpriced: bool, change: impl Fn(&mut u64)) {
        if unpriced {
            change(&mut self.unpriced);
        }
        for (bit, count) in [
            (flag::OUT_OF_ORDER, &mut self.out_of_order),
            (flag::VOLUME_REPAIRED, &mut self.volume_repaired),
            (flag::TIME_ESTIMATED, &mut self.time_estimated),
            (flag::PRE_OPEN, &mut self.pre_open),
            (flag::OFF_SESSION, &mut self.off_session),
        ] {
            if flags & bit != 0 {
                change(count);
            }
        }
    }
}

impl NormalizerState {
    /// The state as bytes, for [`Self::from_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("plain numbers are always written")
    }

    /// The state that [`Self::to_bytes`] of this or an older release returned.
    ///
    /// # Errors
    /// When the bytes are not a saved state.
    pub fn from_bytes(saved: &[u8]) -> Result<Self> {
        let mut state: Self = rmp_serde::from_slice(saved).context("not a saved state of a symbol")?;
        state.session = state.session.or(state.day);
        Ok(state)
    }

    /// The time of the last tick, ns.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// The price that detectors saw last; NaN if they have seen none.
    pub fn price(&self) -> f64 {
        self.price.unwrap_or(f64::NAN)
    }

    /// Whether the symbol had a tick.
    fn has_tick(&self) -> bool {
        // The time alone does not show that: it may be 0 if entry ids are counters and not times.
        *self != Self::default()
    }

    /// Notes a price that detectors see. Rows without a price are removed, so only a row with one may use up the session's
    /// start.
    fn note_price(&mut self, price: f64, phase: Phase, session: i32) {
        (self.price, self.day) = (Some(price), Some(session));
        match phase {
            Phase::Open => self.session = Some(session),
            Phase::PreOpen | Phase::Closed => {
                self.session.get_or_insert(NO_SESSION);
            }
        }
    }

    /// The price of a tick without a trade.
    fn price_without_trade(&self, quotes: Quotes) -> Option<f64> {
        let middle = match quotes {
            Quotes::Carry => None,
            Quotes::Mid => self.bid.zip(self.ask).map(|(bid, ask)| f64::midpoint(bid, ask)),
        };
        middle.or(self.price)
    }
}

fn number(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

#[cfg(test)]
mod tests;
