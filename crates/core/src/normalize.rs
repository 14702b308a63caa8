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
    event::{Batch, CLOCK, column, flag},
    session::{COLUMNS, NO_SESSION, Phase, SessionClock, Sessions},
};

/// What was changed in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormalizeCounts {
    /// Rows that were removed, because no price of their symbol is known yet.
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

/// Normalizes the rows of one shard's symbols.
#[derive(Debug)]
pub struct Normalizer {
    quotes: Quotes,
    volume: VolumeKind,
    sessions: SessionClock,
    /// Whether rows get the columns with times of the session.
    session_columns: bool,
    /// The symbols by their ids.
    symbols: Vec<SymbolEntry>,
    /// The counts by the number of the calendar; empty if all symbols have the same one, whose counts are those of all rows.
    by_calendar: Vec<CalendarCounts>,
    /// The number of the last batch.
    batch: u64,
}

/// The state of a symbol, and its price before the last batch with one of its rows.
#[derive(Debug, Default)]
struct SymbolEntry {
    state: NormalizerState,
    /// The number of that batch.
    batch: u64,
    /// The price before that batch.
    price_before: Option<f64>,
    /// The number of the symbol's calendar.
    calendar: u16,
}

/// The state of a symbol. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct NormalizerState {
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
        let by_calendar = vec![CalendarCounts::default(); calendars];
        Ok(Self { quotes, volume, sessions, session_columns: false, symbols: Vec::new(), by_calendar, batch: 0 })
    }

    /// Says whether batches get the columns [`COLUMNS`] behind their own.
    pub fn set_session_columns(&mut self, wanted: bool) {
        self.session_columns = wanted;
    }

    /// Introduces a symbol before its first row or state.
    pub fn introduce(&mut self, symbol: u32, name: &str) {
        if !self.by_calendar.is_empty() {
            let calendar = self.sessions.calendar_of(name);
            self.entry(symbol).calendar = calendar;
            self.by_calendar[usize::from(calendar)].symbols += 1;
        }
    }

    /// What the symbols of each calendar had since this was last called, by the number of the calendar; empty if all
    /// symbols have the same one.
    pub fn take_calendar_counts(&mut self) -> Vec<CalendarCounts> {
        let none = vec![CalendarCounts::default(); self.by_calendar.len()];
        std::mem::replace(&mut self.by_calendar, none)
    }

    /// The price of a symbol that detectors saw before the last batch, NaN if there was none.
    pub fn price_before(&self, symbol: u32) -> f64 {
        let Some(entry) = self.symbols.get(symbol as usize) else { return f64::NAN };
        // Without a row in the last batch, the state has not changed since.
        let price = if entry.batch == self.batch { entry.price_before } else { entry.state.price };
        price.unwrap_or(f64::NAN)
    }

    /// The state of a symbol, for [`Self::restore`]; `None` if it had no tick.
    pub fn save(&self, symbol: u32) -> Option<Vec<u8>> {
        self.state(symbol).map(|state| rmp_serde::to_vec(state).expect("plain numbers are always written"))
    }

    /// The time of a symbol's latest tick, ns; 0 if it had none.
    pub fn latest(&self, symbol: u32) -> u64 {
        self.state(symbol).map_or(0, |state| state.time)
    }

    /// Whether a symbol has a state.
    pub fn knows(&self, symbol: u32) -> bool {
        self.state(symbol).is_some()
    }

    /// Restores the state of a symbol from the bytes that [`Self::save`] returned.
    ///
    /// # Errors
    /// When the bytes are not a saved state. The symbol's state is then unchanged.
    pub fn restore(&mut self, symbol: u32, saved: &[u8]) -> Result<()> {
        let mut state: NormalizerState = rmp_serde::from_slice(saved).context("not a saved state of a symbol")?;
        state.session = state.session.or(state.day);
        self.entry(symbol).state = state;
        Ok(())
    }

    /// Forgets the state of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        if let Some(entry) = self.symbols.get_mut(symbol as usize) {
            *entry = SymbolEntry::default();
        }
    }

    /// Normalizes every row in place, and removes those without a price.
    pub fn apply(&mut self, batch: &mut Batch) -> NormalizeCounts {
        let mut counts = NormalizeCounts::default();
        self.batch += 1;
        if self.session_columns {
            let rows = batch.len();
            batch.columns.extend(COLUMNS.map(|_| vec![f64::NAN; rows]));
        }
        for row in 0..batch.len() {
            if batch.symbol[row] != CLOCK {
                let flags = self.normalize_row(batch, row);
                batch.columns[column::FLAGS][row] = f64::from(flags);
                counts.unpriced += u64::from(batch.price[row].is_nan());
                counts.out_of_order += u64::from(flags & flag::OUT_OF_ORDER != 0);
                counts.volume_repaired += u64::from(flags & flag::VOLUME_REPAIRED != 0);
                counts.time_estimated += u64::from(flags & flag::TIME_ESTIMATED != 0);
                counts.pre_open += u64::from(flags & flag::PRE_OPEN != 0);
                counts.off_session += u64::from(flags & flag::OFF_SESSION != 0);
                if !self.by_calendar.is_empty() {
                    let of = &mut self.by_calendar[usize::from(self.symbols[batch.symbol[row] as usize].calendar)];
                    of.ticks += 1;
                    of.off_session += u64::from(flags & flag::OFF_SESSION != 0);
                }
            }
        }
        if counts.unpriced > 0 {
            remove_unpriced(batch);
        }
        counts
    }

    /// Normalizes one row and returns its flags. Its price stays NaN if none is known.
    fn normalize_row(&mut self, batch: &mut Batch, row: usize) -> u32 {
        let (quotes, kind) = (self.quotes, self.volume);
        let symbol = batch.symbol[row];
        let this_batch = self.batch;
        let entry = self.entry(symbol);
        if entry.batch != this_batch {
            (entry.batch, entry.price_before) = (this_batch, entry.state.price);
        }
        let (before, calendar) = (entry.state.time, entry.calendar);
        let time = batch.time[row].max(before);
        let span = self.sessions.span(calendar, time);
        let (phase, session) = (span.phase, span.number);
        if self.session_columns {
            set_session_columns(batch, row, span.seconds(time));
        }
        let state = &mut self.entry(symbol).state;
        let Batch { price, columns, .. } = batch;
        let mut flags = columns[column::FLAGS][row] as u32;
        if time > batch.time[row] {
            flags |= flag::OUT_OF_ORDER;
        }
        flags |= phase.flag();
        let starts = phase == Phase::Open && state.session != Some(session);
        if starts {
            flags |= flag::SESSION_START;
        }
        // Volume is counted anew from the pre-open on, which the session's own volume includes.
        let counts_anew = state.day != Some(session);
        let mut volume = VolumeRow {
            quantity: columns[column::QUANTITY][row],
            cum_volume: columns[column::CUM_VOLUME][row],
            unclear: columns[column::VOLUME][row],
        };
        if state.volume.normalize(kind, &mut volume, counts_anew, time - before) {
            flags |= flag::VOLUME_REPAIRED;
        }
        columns[column::QUANTITY][row] = volume.quantity;
        columns[column::CUM_VOLUME][row] = volume.cum_volume;
        state.bid = number(columns[column::BID][row]).or(state.bid);
        state.ask = number(columns[column::ASK][row]).or(state.ask);
        if price[row].is_nan() {
            // Volume without a price is a trade at the last price.
            if volume.quantity.is_nan() || volume.quantity == 0.0 {
                flags |= flag::QUOTE_ONLY;
            }
            price[row] = state.price_without_trade(quotes).unwrap_or(f64::NAN);
        }
        batch.time[row] = time;
        state.time = time;
        if let Some(price) = number(price[row]) {
            state.price = Some(price);
            // Rows without a price are removed, so only a row with one may use up the session's start.
            state.day = Some(session);
            match phase {
                Phase::Open => state.session = Some(session),
                Phase::PreOpen | Phase::Closed => {
                    state.session.get_or_insert(NO_SESSION);
                }
            }
        }
        flags
    }

    fn state(&self, symbol: u32) -> Option<&NormalizerState> {
        // The time alone does not show whether there was a tick: it may be 0 if entry ids are counters and not times.
        self.symbols
            .get(symbol as usize)
            .map(|entry| &entry.state)
            .filter(|state| **state != NormalizerState::default())
    }

    fn entry(&mut self, symbol: u32) -> &mut SymbolEntry {
        let symbol = symbol as usize;
        if self.symbols.len() <= symbol {
            self.symbols.resize_with(symbol + 1, SymbolEntry::default);
        }
        &mut self.symbols[symbol]
    }
}

impl NormalizerState {
    /// The price of a tick without a trade.
    fn price_without_trade(&self, quotes: Quotes) -> Option<f64> {
        let middle = match quotes {
            Quotes::Carry => None,
            Quotes::Mid => self.bid.zip(self.ask).map(|(bid, ask)| f64::midpoint(bid, ask)),
        };
        middle.or(self.price)
    }
}

/// Fills the last columns, which are those with times of the session.
fn set_session_columns(batch: &mut Batch, row: usize, (since_open, to_close): (f64, f64)) {
    if let [.., since, to] = batch.columns.as_mut_slice() {
        (since[row], to[row]) = (since_open, to_close);
    }
}

fn number(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

fn remove_unpriced(batch: &mut Batch) {
    let keep: Vec<bool> = batch.symbol.iter().zip(&batch.price).map(|(s, p)| *s == CLOCK || !p.is_nan()).collect();
    fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
        let mut keep = keep.iter();
        values.retain(|_| *keep.next().unwrap_or(&true));
    }
    retain(&mut batch.entry, &keep);
    retain(&mut batch.symbol, &keep);
    retain(&mut batch.time, &keep);
    for column in &mut batch.columns {
        retain(column, &keep);
    }
    retain(&mut batch.price, &keep);
}

#[cfg(test)]
mod tests;
