//! All series of all symbols: bars of several lengths, last values, and computed columns, in the order in which they follow
//! from the stream.
//!
//! What holds: computed columns of a row are as of before it, also those of a bar's own row. Bars that end at one place of the
//! stream come in the order of their symbols' names, then of their lengths. What a symbol's series are depends on its ticks
//! and on event time alone, and a saved state is all of it: restored before the next tick, everything continues as if
//! nothing had happened.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    bars::{Bar, BarState, Bars},
    computed::{Computation, ComputedColumn, ComputedState, RowKind},
    order::NameOrder,
    snapshots::{LastState, LastValues},
    tick::MarketTick,
};

/// The form of saved series. A later release reads earlier forms.
const FORM: u8 = 1;

/// Which series detectors ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesWanted {
    /// The lengths of bars that are rows or that something is computed from, seconds.
    pub bars: Vec<u32>,
    /// Whether last values are needed: for rows of bars or snapshots.
    pub last_values: bool,
    /// The number of columns of the input.
    pub columns: usize,
    /// The computed columns, each once.
    pub computed: Vec<Computation>,
}

/// A bar that ends at the present place of the stream.
#[derive(Clone, Copy, Debug)]
pub struct EndedBar<'a> {
    /// The number of its symbol.
    pub symbol: u32,
    /// The position of its length in [`Series::bars`].
    pub length: usize,
    /// The bar.
    pub bar: &'a Bar,
    /// The last known value of each column of the input in the bar's session; empty if last values are not wanted. Quantity and
    /// flags of the row are those of the bar.
    pub columns: &'a [f64],
    /// The value of each computed column.
    pub computed: &'a [f64],
}

/// The series of all symbols.
#[derive(Clone, Debug, Default)]
pub struct Series {
    bars: Vec<Bars>,
    last: Option<LastValues>,
    computed: Vec<ComputedColumn>,
    /// The bars that end, by symbol and length; kept for its memory.
    ended: Vec<(u32, u32, Bar)>,
    /// The bars of one length that end; kept for its memory.
    of_length: Vec<(u32, Bar)>,
    /// The computed columns of a row; kept for its memory.
    values: Vec<f64>,
}

/// All series of a symbol. Its fields are stored by position.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SymbolSeries {
    /// The bars by their lengths in seconds.
    bars: Vec<(u32, BarState)>,
    last: Option<LastState>,
    computed: Vec<(Computation, ComputedState)>,
}

impl Series {
    /// Series without any symbol.
    pub fn new(wanted: &SeriesWanted) -> Self {
        Self::default().with(wanted)
    }

    /// What is wanted of these series, with the states of all symbols as far as these series have them.
    pub fn with(self, wanted: &SeriesWanted) -> Self {
        let Self { mut bars, last, mut computed, .. } = self;
        let mut take_bars = |seconds: u32| {
            let at = bars.iter().position(|known| known.seconds() == seconds);
            at.map_or_else(|| Bars::new(seconds), |at| bars.swap_remove(at))
        };
        let mut take_computed = |wanted: &Computation| {
            let at = computed.iter().position(|known| known.computation() == wanted);
            at.map_or_else(|| ComputedColumn::new(*wanted), |at| computed.swap_remove(at))
        };
        let last = last.filter(|last| last.columns() == wanted.columns);
        Self {
            bars: wanted.bars.iter().map(|seconds| take_bars(*seconds)).collect(),
            last: wanted.last_values.then(|| last.unwrap_or_else(|| LastValues::new(wanted.columns))),
            computed: wanted.computed.iter().map(&mut take_computed).collect(),
            ..Self::default()
        }
    }

    /// Whether nothing is wanted, so that nothing else needs to be called.
    pub fn is_empty(&self) -> bool {
        self.bars.is_empty() && self.last.is_none() && self.computed.is_empty()
    }

    /// The bars of each length that is wanted.
    pub fn bars(&self) -> &[Bars] {
        &self.bars
    }

    /// The last values, if they are wanted.
    pub fn last_values(&self) -> Option<&LastValues> {
        self.last.as_ref()
    }

    /// Adds the value of each computed column for the next row of a symbol.
    #[inline]
    pub fn add_computed(&self, symbol: u32, values: &mut Vec<f64>) {
        values.extend(self.computed.iter().map(|column| column.value(symbol)));
    }

    /// The earliest end of an open bar, ns since the Unix epoch; the end of time if no bar is open.
    pub fn next_end(&self) -> u64 {
        self.bars.iter().map(Bars::next_end).min().unwrap_or(u64::MAX)
    }

    /// Ends the bars that end when event time reaches `now`, a whole second, and gives each to `row`. This comes before the
    /// tick that reaches it. `names` has the name of each symbol by its number.
    pub fn end_bars(&mut self, now: u64, names: &[Arc<str>], order: &mut NameOrder, mut row: impl FnMut(EndedBar<'_>)) {
        if self.next_end() > now {
            return;
        }
        self.ended.clear();
        for (length, bars) in self.bars.iter_mut().enumerate() {
            bars.end_by(now, &mut self.of_length);
            self.ended.extend(self.of_length.drain(..).map(|(symbol, bar)| (symbol, length as u32, bar)));
        }
        order.sort(names, &mut self.ended, |(symbol, length, _)| (*symbol, *length));
        let ended = std::mem::take(&mut self.ended);
        for (symbol, length, bar) in &ended {
            let (symbol, length) = (*symbol, *length as usize);
            let mut values = std::mem::take(&mut self.values);
            values.clear();
            self.add_computed(symbol, &mut values);
            let columns = self.last.as_ref().and_then(|last| last.latest(symbol)).map_or(&[][..], |row| row.columns);
            row(EndedBar { symbol, length, bar, columns, computed: &values });
            self.values = values;
            self.compute(symbol, RowKind::Bars(self.bars[length].seconds()), bar);
        }
        self.ended = ended;
    }

    /// Adds a tick. This comes after the bars that end there, and after its own row has been made.
    #[inline]
    pub fn push(&mut self, tick: &MarketTick<'_>) {
        self.bars.iter_mut().for_each(|bars| bars.push(tick));
        if let Some(last) = &mut self.last {
            last.push(tick);
        }
        if tick.counts() {
            let of_ticks = |column: &&mut ComputedColumn| column.computation().rows == RowKind::Ticks;
            self.computed.iter_mut().filter(of_ticks).for_each(|column| column.push(tick.symbol, tick.price));
        }
    }

    /// The state of all series of a symbol, for [`Self::restore`]; `None` if there is none.
    pub fn save(&self, symbol: u32) -> Option<Vec<u8>> {
        let bars = self.bars.iter().filter_map(|bars| Some((bars.seconds(), bars.save(symbol)?)));
        let computed = self.computed.iter().filter_map(|column| Some((*column.computation(), column.save(symbol)?)));
        let state = SymbolSeries {
            bars: bars.collect(),
            last: self.last.as_ref().and_then(|last| last.save(symbol)),
            computed: computed.collect(),
        };
        let is_empty = state.bars.is_empty() && state.last.is_none() && state.computed.is_empty();
        if is_empty {
            return None;
        }
        let mut bytes = vec![FORM];
        rmp_serde::encode::write(&mut bytes, &state).expect("plain numbers are always written");
        Some(bytes)
    }

    /// Restores the series of a symbol that are wanted and were saved. Others are left alone.
    ///
    /// # Errors
    /// When the bytes are not what [`Self::save`] returned, or a newer release saved them. Nothing has changed then.
    pub fn restore(&mut self, symbol: u32, saved: &[u8]) -> Result<()> {
        let (form, saved) = saved.split_first().context("saved bars are empty")?;
        ensure!((1..=FORM).contains(form), "saved bars are of form {form}, this release reads up to {FORM}");
        let SymbolSeries { bars, last, computed } =
            rmp_serde::from_slice(saved).context("not saved bars of a symbol")?;
        for (computation, state) in &computed {
            ensure!(state.fits(computation), "a saved state is not one of {computation:?}");
        }
        for (seconds, state) in bars {
            if let Some(bars) = self.bars.iter_mut().find(|bars| bars.seconds() == seconds) {
                bars.restore(symbol, state);
            }
        }
        if let Some((last, state)) = self.last.as_mut().zip(last) {
            last.restore(symbol, state);
        }
        for (computation, state) in computed {
            if let Some(column) = self.computed.iter_mut().find(|column| *column.computation() == computation) {
                column.restore(symbol, state)?;
            }
        }
        Ok(())
    }

    /// Forgets all series of a symbol.
    pub fn forget(&mut self, symbol: u32) {
        self.bars.iter_mut().for_each(|bars| bars.forget(symbol));
        if let Some(last) = &mut self.last {
            last.forget(symbol);
        }
        self.computed.iter_mut().for_each(|column| column.forget(symbol));
    }

    fn compute(&mut self, symbol: u32, rows: RowKind, bar: &Bar) {
        for column in self.computed.iter_mut().filter(|column| column.computation().rows == rows) {
            let of = column.computation().of;
            column.push(symbol, of.of_bar(bar));
        }
    }
}

#[cfg(test)]
mod tests;
