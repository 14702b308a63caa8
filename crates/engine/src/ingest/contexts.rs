//! The last values of the sources of contexts.
//!
//! What holds: a value is as of the last tick of its source before the present place of the stream, this tick included.

use rustc_hash::FxHashMap;

use tickhound_core::{
    checkpoint::{SharedBases, SharedContext},
    market::{
        Market,
        context::{ContextRule, ContextValue},
    },
};

/// The last value of each source of each context.
#[derive(Debug, Default)]
pub(super) struct ContextValues {
    cells: Vec<Cell>,
    /// The cell of a source, by context.
    by_source: Vec<FxHashMap<String, u32>>,
}

#[derive(Debug)]
struct Cell {
    context: usize,
    source: String,
    value: f64,
}

/// What a symbol has to do with contexts.
#[derive(Clone, Debug, Default)]
pub(super) struct ContextLinks {
    /// The cell whose value the symbol's rows have, by context.
    pub(super) reads: Vec<Option<u32>>,
    /// The cells whose value the symbol's ticks are.
    pub(super) feeds: Vec<u32>,
}

impl ContextValues {
    /// Values of the contexts of `market`, with those of `before` that mean the same.
    pub(super) fn new(market: &Market, before: Option<(&Self, &Market)>) -> Self {
        let mut values = Self { cells: Vec::new(), by_source: vec![FxHashMap::default(); market.contexts().len()] };
        let Some((before, before_market)) = before else { return values };
        for Cell { context, source, value } in &before.cells {
            let rule: &ContextRule = &before_market.contexts()[*context];
            if let Some(now) = market.contexts().iter().position(|other| other == rule) {
                let cell = values.cell(now, source);
                values.cells[cell as usize].value = *value;
            }
        }
        values
    }

    /// Finds what a symbol has to do with contexts.
    pub(super) fn link(&mut self, market: &Market, symbol: &str) -> ContextLinks {
        let contexts = 0..market.contexts().len();
        let reads =
            contexts.clone().map(|at| market.context_source(at, symbol).map(|source| self.cell(at, &source))).collect();
        let feeds =
            contexts.filter_map(|at| market.context_fed_by(at, symbol).map(|source| self.cell(at, &source))).collect();
        ContextLinks { reads, feeds }
    }

    /// Notes a tick of a source.
    pub(super) fn note(&mut self, links: &ContextLinks, market: &Market, price: f64, columns: &[f64]) {
        for cell in &links.feeds {
            let cell = &mut self.cells[*cell as usize];
            let value = match market.contexts()[cell.context].value {
                ContextValue::Price => price,
                ContextValue::Column(position) => columns.get(position).copied().unwrap_or(f64::NAN),
            };
            if !value.is_nan() {
                cell.value = value;
            }
        }
    }

    /// The value that a context has in the rows of a symbol.
    pub(super) fn get(&self, cell: Option<u32>) -> f64 {
        cell.map_or(f64::NAN, |cell| self.cells[cell as usize].value)
    }

    /// What is saved.
    pub(super) fn save(&self, market: &Market) -> Vec<SharedContext> {
        let saved = self.cells.iter().map(|Cell { context, source, value }| SharedContext {
            context: market.contexts()[*context].name.clone(),
            column: market.contexts()[*context].column.clone(),
            source: source.clone(),
            value: *value,
        });
        saved.collect()
    }

    /// Restores the values. A source without a saved value had no tick, or the context was of another column.
    pub(super) fn restore(&mut self, bases: &SharedBases, market: &Market) {
        self.cells.iter_mut().for_each(|cell| cell.value = f64::NAN);
        for SharedContext { context, column, source, value } in &bases.contexts {
            let is_same = |rule: &ContextRule| rule.name == *context && rule.column == *column;
            if let Some(at) = market.contexts().iter().position(is_same) {
                let cell = self.cell(at, source);
                self.cells[cell as usize].value = *value;
            }
        }
    }

    /// Takes over the values of contexts of `market` that are not in `before`, from those of a warm-up.
    pub(super) fn take_over(&mut self, warm: &Self, market: &Market, is_new: impl Fn(usize) -> bool) {
        for Cell { context, source, value } in &warm.cells {
            if *context < market.contexts().len() && is_new(*context) {
                let cell = self.cell(*context, source);
                self.cells[cell as usize].value = *value;
            }
        }
    }

    fn cell(&mut self, context: usize, source: &str) -> u32 {
        if let Some(cell) = self.by_source[context].get(source) {
            return *cell;
        }
        let cell = self.cells.len() as u32;
        self.cells.push(Cell { context, source: source.to_owned(), value: f64::NAN });
        self.by_source[context].insert(source.to_owned(), cell);
        cell
    }
}
