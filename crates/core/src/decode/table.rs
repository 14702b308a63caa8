//! A fast path for rows of tables whose columns are plain numbers.
//!
//! Most recordings have one column of symbols, one of times, and some of prices and volumes. Which column a value comes
//! from is then the same in every row, and is decided once for the table.
//!
//! What holds: for a row that is read here, [`Decoder::decode_cells`] gives the same tick. Rows that need a closer
//! check, and rows that are not ticks, are declined and left to that function.

use rustc_hash::FxHashMap;

use super::{
    Decoder, Names,
    assemble::{self, Scalar, usable},
    mapping::Target,
    symbol_text::{SymbolRules, SymbolText},
    time,
};
use crate::event::column;

/// The type of a table's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Texts.
    Text,
    /// Integers.
    Whole,
    /// Other numbers.
    Float,
}

/// The tick of a row that the fast path has read.
#[derive(Debug, Default)]
pub struct PlainTick {
    /// The number of the symbol in [`Names`].
    pub symbol: u32,
    /// The event time, ns since the Unix epoch.
    pub time: u64,
    /// The last traded price, quote currency; NaN where absent.
    pub price: f64,
    /// The columns by position, as in [`super::RawTick`].
    pub columns: Vec<f64>,
}

/// Which columns of a table the values of a tick come from.
pub struct TablePlan {
    symbol: SymbolSource,
    /// The column of the event time.
    time: usize,
    /// The columns of each target, the preferred one first.
    numbers: Vec<(Target, Vec<usize>)>,
    price_scale: f64,
    /// The number of columns of a tick.
    width: usize,
}

/// Where the symbol of a row comes from.
enum SymbolSource {
    /// From the text in this column.
    Column(usize, SymbolTexts),
    /// All rows have this symbol.
    Same(u32),
}

/// The numbers of symbols by the texts of their cells.
struct SymbolTexts {
    known: FxHashMap<Box<str>, u32>,
    rules: SymbolRules,
    names: Names,
}

impl Decoder {
    /// Plans how to read a table whose columns have these [ids](Self::column_id) and types. `time` is the column that
    /// the rows are ordered by; `symbol` is the id and the text of the symbol of all rows, if it is not in a column.
    /// Returns `None` if the fast path can't read this table.
    pub fn plan_table(
        &self,
        columns: &[Option<(usize, ColumnKind)>],
        time: usize,
        symbol: Option<(usize, &str)>,
        names: &Names,
    ) -> Option<TablePlan> {
        let mapping = &self.rules.mapping;
        let mut candidates: Vec<(Target, u16, usize)> = Vec::new();
        for (at, (id, kind)) in columns.iter().enumerate().filter_map(|(at, column)| Some((at, (*column)?))) {
            let node = mapping.get(id);
            if node.is_event_code || node.is_tick_map || node.skips.is_some() {
                return None;
            }
            for (target, rank) in &node.targets {
                let fits = match target {
                    Target::Symbol => kind == ColumnKind::Text,
                    Target::Time => kind == ColumnKind::Whole && at == time,
                    Target::Price | Target::Column(_) => kind != ColumnKind::Text,
                    // It is joined to the symbol of each row.
                    Target::Venue => false,
                };
                if !fits {
                    return None;
                }
                candidates.push((*target, *rank, at));
            }
            // Its texts may be documents, with values for other targets inside.
            if kind == ColumnKind::Text && node.is_inner() {
                return None;
            }
        }
        candidates.sort_by_key(|(target, rank, _)| (target.index(), *rank));
        let mut numbers: Vec<(Target, Vec<usize>)> = Vec::new();
        let (mut symbols, mut times) = (Vec::new(), Vec::new());
        for (target, _, at) in candidates {
            match target {
                Target::Symbol => symbols.push(at),
                Target::Time => times.push(at),
                _ => match numbers.last_mut().filter(|(last, _)| *last == target) {
                    Some((_, more)) => more.push(at),
                    None => numbers.push((target, vec![at])),
                },
            }
        }
        let rules = self.rules.symbols.clone();
        let texts = SymbolTexts { known: FxHashMap::default(), rules, names: names.clone() };
        let symbol = match (symbol, &symbols[..]) {
            (Some((id, symbol)), []) if matches!(mapping.get(id).targets[..], [(Target::Symbol, _)]) => {
                SymbolSource::Same(texts.decode(symbol)?)
            }
            (None, [one]) => SymbolSource::Column(*one, texts),
            _ => return None,
        };
        let (price_scale, width) = (mapping.price_scale, self.column_names.len());
        (!times.is_empty()).then_some(TablePlan { symbol, time, numbers, price_scale, width })
    }
}

impl TablePlan {
    /// Reads a row into `tick`; `value` gives the value in a column. Returns false if the row is declined; `tick` is
    /// then undefined.
    pub fn read<'c>(&mut self, value: impl Fn(usize) -> Option<Scalar<'c>>, tick: &mut PlainTick) -> bool {
        let symbol = match &mut self.symbol {
            SymbolSource::Same(symbol) => Some(*symbol),
            SymbolSource::Column(at, texts) => match value(*at) {
                Some(Scalar::Text(text)) => texts.get(text),
                _ => None,
            },
        };
        let Some(symbol) = symbol else { return false };
        let Some(Scalar::Integer(stamp)) = value(self.time) else { return false };
        // A recorded row counts as having arrived when it is stamped, so only an early stamp is implausible, or one
        // that does not fit into the signed time of a recording.
        let stamp = time::from_integer(i128::from(stamp));
        let Some(time) = time::not_too_early(stamp).filter(|time| i64::try_from(*time).is_ok()) else { return false };
        (tick.symbol, tick.time) = (symbol, time);
        tick.price = f64::NAN;
        tick.columns.clear();
        tick.columns.resize(self.width, f64::NAN);
        for (target, candidates) in &self.numbers {
            let (position, into) = match target {
                Target::Column(position) => (*position, &mut tick.columns[*position]),
                _ => (column::BID, &mut tick.price),
            };
            let mut values = candidates.iter().filter_map(|at| usable(value(*at)?, position, self.price_scale));
            *into = values.next().unwrap_or(f64::NAN);
        }
        tick.columns[column::FLAGS] = 0.0;
        assemble::is_quoted(&tick.columns) || !tick.price.is_nan()
    }
}

impl SymbolTexts {
    /// The number of the symbol that a text names.
    fn get(&mut self, text: &str) -> Option<u32> {
        if let Some(symbol) = self.known.get(text) {
            return Some(*symbol);
        }
        let symbol = self.decode(text)?;
        self.known.insert(text.into(), symbol);
        Some(symbol)
    }

    fn decode(&self, text: &str) -> Option<u32> {
        // A document may name a symbol anywhere inside.
        if text.starts_with(['{', '[']) {
            return None;
        }
        let (mut symbol, mut venue) = (String::new(), String::new());
        match self.rules.read(text, &mut symbol, &mut venue) {
            SymbolText::Absent | SymbolText::Unresolved => return None,
            SymbolText::Name | SymbolText::NameAtVenue => self.rules.join(&mut symbol, &mut venue),
        }
        Some(self.names.number(&symbol, &venue))
    }
}
