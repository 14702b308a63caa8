//! Rows of tables, told from their numbers at once.
//!
//! Most recordings have a column with names, one with times and some with prices and volumes, as numbers: there is
//! nothing to look for in them, and which column a value comes from is the same in every row.
//!
//! What holds: where this tells a tick, [`Decoder::decode_cells`] tells the same one. It declines what takes more than a
//! glance, and rows that are no tick; the general way has the last word.

use rustc_hash::FxHashMap;

use super::{
    Decoder, Names,
    mapping::Target,
    scan::{self, Scalar, usable},
    time,
};
use crate::event::column;

/// What a column of a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Texts.
    Text,
    /// Whole numbers.
    Whole,
    /// Other numbers.
    Float,
}

/// The tick of a row.
#[derive(Debug, Default)]
pub struct PlainTick {
    /// Number of its name, as decoded.
    pub symbol: u32,
    /// Event time, ns since the Unix epoch.
    pub time: u64,
    /// Last traded price, quote currency; NaN where absent.
    pub price: f64,
    /// By position, as in [`super::RawTick`].
    pub columns: Vec<f64>,
}

/// Which columns of a table give what.
pub struct Plan {
    symbol: Symbol,
    /// Column of the event time.
    time: usize,
    /// Columns of each number, the best first.
    numbers: Vec<(Target, Vec<usize>)>,
    price_scale: f64,
    width: usize,
}

/// What names a row.
enum Symbol {
    /// The text in this column.
    Column(usize, Texts),
    /// All rows are of this one.
    Same(u32),
}

/// Numbers of symbols by the texts that name them.
struct Texts {
    known: FxHashMap<Box<str>, u32>,
    tokens: FxHashMap<String, String>,
    names: Names,
}

impl Decoder {
    /// How to read a table whose columns have these places and kinds; `time` is the column that its rows are ordered by,
    /// `symbol` the place and the text of that of all rows, if no column has it. `None`: that takes a look at each value.
    pub fn plan(
        &self,
        columns: &[Option<(usize, Kind)>],
        time: usize,
        symbol: Option<(usize, &str)>,
        names: &Names,
    ) -> Option<Plan> {
        let mut candidates: Vec<(Target, u16, usize)> = Vec::new();
        for (at, (place, kind)) in columns.iter().enumerate().filter_map(|(at, column)| Some((at, (*column)?))) {
            let node = self.mapping.get(place);
            if node.kind || node.each || node.skips.is_some() {
                return None;
            }
            for (target, rank) in &node.serves {
                let fits = match target {
                    Target::Symbol => kind == Kind::Text,
                    Target::Time => kind == Kind::Whole && at == time,
                    Target::Price | Target::Column(_) => kind != Kind::Text,
                };
                if !fits {
                    return None;
                }
                candidates.push((*target, *rank, at));
            }
            if kind == Kind::Text && node.is_inner() {
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
        let texts = Texts { known: FxHashMap::default(), tokens: self.tokens.clone(), names: names.clone() };
        let symbol = match (symbol, &symbols[..]) {
            (Some((place, symbol)), []) if matches!(self.mapping.get(place).serves[..], [(Target::Symbol, _)]) => {
                Symbol::Same(texts.decoded(symbol)?)
            }
            (None, [one]) => Symbol::Column(*one, texts),
            _ => return None,
        };
        let (price_scale, width) = (self.mapping.price_scale, self.column_names.len());
        (!times.is_empty()).then_some(Plan { symbol, time, numbers, price_scale, width })
    }
}

impl Plan {
    /// Tells a row's tick from the value in each column; false if the general way is to be taken.
    pub fn read<'c>(&mut self, value: impl Fn(usize) -> Option<Scalar<'c>>, tick: &mut PlainTick) -> bool {
        let symbol = match &mut self.symbol {
            Symbol::Same(symbol) => Some(*symbol),
            Symbol::Column(at, texts) => match value(*at) {
                Some(Scalar::Text(text)) => texts.get(text),
                _ => None,
            },
        };
        let Some(symbol) = symbol else { return false };
        let Some(Scalar::Integer(stamp)) = value(self.time) else { return false };
        // A row arrives no earlier than it is stamped, so only what is too long ago can't be true; nor what is too far
        // ahead to have been taken for the time of its arrival.
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
        scan::is_quoted(&tick.columns) || !tick.price.is_nan()
    }
}

impl Texts {
    /// The symbol that this text names.
    fn get(&mut self, text: &str) -> Option<u32> {
        if let Some(symbol) = self.known.get(text) {
            return Some(*symbol);
        }
        let symbol = self.decoded(text)?;
        self.known.insert(text.into(), symbol);
        Some(symbol)
    }

    fn decoded(&self, text: &str) -> Option<u32> {
        // That is the general way's.
        if text.starts_with(['{', '[']) {
            return None;
        }
        let mut symbol = String::new();
        scan::read_symbol(text, &self.tokens, &mut symbol).then(|| self.names.number(&symbol))
    }
}
