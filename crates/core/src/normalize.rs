//! What spans ticks of a symbol: order of time, carried price, volume that makes sense.
//!
//! What holds for the rows that come out: time never falls within a symbol, the
//! price is finite and positive, `quantity` is never negative, `cum_volume` falls
//! only where a count began again, `flags` says what was changed.
//!
//! Quotes and open interest stay as this tick published them, NaN where it did
//! not: a detector that wants the latest keeps it, one that wants to know
//! whether it is fresh could not find out otherwise.

mod days;
mod volume;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::{
    days::Days,
    volume::{Volume, VolumeRow},
};
use crate::{
    config::{
        InputConfig,
        input::{Quotes, VolumeKind},
    },
    decode::time_zone,
    event::{Batch, CLOCK, column, flag},
};

/// What was done to a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormalizeCounts {
    /// Rows taken out: no price of the symbol is known yet.
    pub unpriced: u64,
    /// Rows whose time was raised.
    pub out_of_order: u64,
    /// Rows whose volume was not believed.
    pub volume_repaired: u64,
    /// Rows whose time was told from their entry's arrival.
    pub time_estimated: u64,
}

/// Normalises the rows of one shard's symbols.
#[derive(Debug)]
pub struct Normalizer {
    quotes: Quotes,
    volume: VolumeKind,
    days: Days,
    /// By symbol id.
    known: Vec<Known>,
    /// Number of the batch that was normalised last.
    batch: u64,
}

/// A symbol, and what it was like before the last batch that had a row of it.
#[derive(Debug, Default)]
struct Known {
    state: SymbolState,
    /// Number of that batch, and the price before it.
    batch: u64,
    price_before: Option<f64>,
}

/// What is remembered of a symbol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SymbolState {
    time: u64,
    /// As last shown to detectors.
    price: Option<f64>,
    bid: Option<f64>,
    ask: Option<f64>,
    /// Number of the last tick's day.
    day: Option<i32>,
    volume: Volume,
}

impl Normalizer {
    /// Knows no symbol yet.
    ///
    /// # Errors
    /// When the time zone does not exist.
    pub fn new(config: &InputConfig) -> Result<Self> {
        let days = Days::new(time_zone(&config.timezone)?);
        Ok(Self { quotes: config.quotes, volume: config.volume, days, known: Vec::new(), batch: 0 })
    }

    /// Price of a symbol as shown to detectors before the batch that was normalised last, NaN when there was none.
    pub fn price_before(&self, symbol: u32) -> f64 {
        let price = self.known.get(symbol as usize).and_then(|known| match known.batch == self.batch {
            true => known.price_before,
            false => known.state.price,
        });
        price.unwrap_or(f64::NAN)
    }

    /// What is remembered of a symbol, for [`Self::restore`]; `None` when it had no tick.
    pub fn save(&self, symbol: u32) -> Option<Vec<u8>> {
        self.state(symbol).map(|state| rmp_serde::to_vec(state).expect("plain numbers are always written"))
    }

    /// Whether anything is remembered of a symbol.
    pub fn knows(&self, symbol: u32) -> bool {
        self.state(symbol).is_some()
    }

    /// Goes on with a symbol where [`Self::save`] left it.
    ///
    /// # Errors
    /// When these bytes are no saved symbol; then nothing has changed.
    pub fn restore(&mut self, symbol: u32, saved: &[u8]) -> Result<()> {
        let state = rmp_serde::from_slice(saved).context("this is no saved state of a symbol")?;
        self.known(symbol).state = state;
        Ok(())
    }

    /// Normalises every row in place, and takes out those without a price.
    pub fn apply(&mut self, batch: &mut Batch) -> NormalizeCounts {
        let mut counts = NormalizeCounts::default();
        self.batch += 1;
        for row in 0..batch.len() {
            if batch.symbol[row] != CLOCK {
                let flags = self.settle(batch, row);
                batch.columns[column::FLAGS][row] = f64::from(flags);
                counts.unpriced += u64::from(batch.price[row].is_nan());
                counts.out_of_order += u64::from(flags & flag::OUT_OF_ORDER != 0);
                counts.volume_repaired += u64::from(flags & flag::VOLUME_REPAIRED != 0);
                counts.time_estimated += u64::from(flags & flag::TIME_ESTIMATED != 0);
            }
        }
        if counts.unpriced > 0 {
            remove_unpriced(batch);
        }
        counts
    }

    /// Normalises one row and returns its flags; its price stays NaN if none is known.
    fn settle(&mut self, batch: &mut Batch, row: usize) -> u32 {
        let (quotes, kind) = (self.quotes, self.volume);
        let symbol = batch.symbol[row];
        let this_batch = self.batch;
        let known = self.known(symbol);
        if known.batch != this_batch {
            (known.batch, known.price_before) = (this_batch, known.state.price);
        }
        let before = known.state.time;
        let time = batch.time[row].max(before);
        let day = self.days.number(time);
        let state = &mut self.known(symbol).state;
        let Batch { price, columns, .. } = batch;
        let mut flags = columns[column::FLAGS][row] as u32;
        if time > batch.time[row] {
            flags |= flag::OUT_OF_ORDER;
        }
        let new_session = state.day != Some(day);
        if new_session {
            flags |= flag::SESSION_START;
        }
        let mut volume = VolumeRow {
            quantity: columns[column::QUANTITY][row],
            cum_volume: columns[column::CUM_VOLUME][row],
            unclear: columns[column::VOLUME][row],
        };
        if state.volume.settle(kind, &mut volume, new_session, time - before) {
            flags |= flag::VOLUME_REPAIRED;
        }
        columns[column::QUANTITY][row] = volume.quantity;
        columns[column::CUM_VOLUME][row] = volume.cum_volume;
        state.bid = number(columns[column::BID][row]).or(state.bid);
        state.ask = number(columns[column::ASK][row]).or(state.ask);
        if price[row].is_nan() {
            // Volume without a price is a trade at the price last told.
            if volume.quantity.is_nan() || volume.quantity == 0.0 {
                flags |= flag::QUOTE_ONLY;
            }
            let middle = match quotes {
                Quotes::Carry => None,
                Quotes::Mid => state.bid.zip(state.ask).map(|(bid, ask)| f64::midpoint(bid, ask)),
            };
            price[row] = middle.or(state.price).unwrap_or(f64::NAN);
        }
        batch.time[row] = time;
        state.time = time;
        if let Some(price) = number(price[row]) {
            state.price = Some(price);
            // Counted from the first tick that a detector sees, so that it sees the session's start.
            state.day = Some(day);
        }
        flags
    }

    fn state(&self, symbol: u32) -> Option<&SymbolState> {
        // Its time does not tell: where ids count, and no tick has a stamp, it may be 0.
        self.known.get(symbol as usize).map(|known| &known.state).filter(|state| **state != SymbolState::default())
    }

    fn known(&mut self, symbol: u32) -> &mut Known {
        let symbol = symbol as usize;
        if self.known.len() <= symbol {
            self.known.resize_with(symbol + 1, Known::default);
        }
        &mut self.known[symbol]
    }
}

fn number(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

fn remove_unpriced(batch: &mut Batch) {
    let keep: Vec<bool> = batch.symbol.iter().zip(&batch.price).map(|(s, p)| *s == CLOCK || !p.is_nan()).collect();
    fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
        let mut kept = keep.iter();
        values.retain(|_| *kept.next().unwrap_or(&true));
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
