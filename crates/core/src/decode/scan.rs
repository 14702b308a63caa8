//! Gathers an entry's values into ticks: which values are usable, and which of several is the best.
//!
//! What holds: of a target's names, the one first in the mapping that has a usable value wins,
//! wherever it stands in the entry; of equal names, the first one met.

use std::{io::Write, mem};

use rustc_hash::FxHashMap;
use serde::de::DeserializeSeed;

use super::{
    DecodeError, Outcome, RawTick,
    iso::Zone,
    mapping::{Mapping, ROOT, Target},
    time,
    walk::Walk,
};
use crate::event::column;

/// Flat fields beside a document rank behind everything in it.
const BEHIND_DOCUMENT: u16 = 1 << 12;

/// Deeper documents are refused, lest they overflow the stack; the JSON parser has the same limit of its own.
const NESTING_MAX: usize = 128;

/// Exchanges that publishers put before a symbol, as in `NSE:RELIANCE`.
const EXCHANGES: [&str; 9] = ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "NSEIX"];

/// Of a 64-bit number, with its sign.
const DIGITS_MAX: usize = 20;

/// Texts that say "no value".
const ABSENT: [&str; 6] = ["", "nan", "none", "null", "-", "n/a"];

/// Buffers that are kept from entry to entry: decoding allocates nothing once they are large enough.
#[derive(Clone, Debug)]
pub(super) struct Work {
    tick: RawTick,
    ranks: Vec<u16>,
    /// Not in use.
    spare: Vec<Gathered>,
}

/// What was gathered before a list: each of its elements begins with that.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    tick: RawTick,
    ranks: Vec<u16>,
}

impl Work {
    pub(super) fn new(columns: usize, targets: usize) -> Self {
        let tick = RawTick { columns: vec![f64::NAN; columns], ..RawTick::default() };
        Self { tick, ranks: vec![u16::MAX; targets], spare: Vec::new() }
    }
}

/// The entry being decoded.
pub(super) struct Scan<'a> {
    pub(super) mapping: &'a Mapping,
    zone: &'a mut Zone,
    tokens: &'a FxHashMap<String, String>,
    arrival_ms: u64,
    tick: &'a mut RawTick,
    /// For each target, the rank of the name that gave its value.
    ranks: &'a mut Vec<u16>,
    spare: &'a mut Vec<Gathered>,
    emit: &'a mut dyn FnMut(&RawTick),
    emitted: usize,
    /// Whether the message at hand is of a kind that is no tick.
    pub(super) skipped: bool,
    /// Code of the event, where ticks are events.
    pub(super) kind: Option<i64>,
    pub(super) error: Option<DecodeError>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        mapping: &'a Mapping,
        zone: &'a mut Zone,
        tokens: &'a FxHashMap<String, String>,
        arrival_ms: u64,
        work: &'a mut Work,
        emit: &'a mut dyn FnMut(&RawTick),
    ) -> Self {
        let Work { tick, ranks, spare } = work;
        clear(tick, ranks);
        let (emitted, skipped, kind, error) = (0, false, None, None);
        Self { mapping, zone, tokens, arrival_ms, tick, ranks, spare, emit, emitted, skipped, kind, error }
    }

    /// What has been gathered so far, for [`Self::begin_element`].
    pub(super) fn begin_list(&mut self) -> Gathered {
        let mut gathered = self.spare.pop().unwrap_or_default();
        gathered.tick.clone_from(self.tick);
        gathered.ranks.clone_from(self.ranks);
        gathered
    }

    /// Begins with what was gathered before the list.
    pub(super) fn begin_element(&mut self, gathered: &Gathered) {
        self.tick.clone_from(&gathered.tick);
        self.ranks.clone_from(&gathered.ranks);
    }

    pub(super) fn end_list(&mut self, gathered: Gathered) {
        self.spare.push(gathered);
    }

    /// Takes a field of the entry itself.
    pub(super) fn flat_field(&mut self, name: &[u8], value: &[u8], beside_document: bool) {
        let penalty = if beside_document { BEHIND_DOCUMENT } else { 0 };
        let Some(node) = self.mapping.key(ROOT, name).filter(|node| self.wants(*node, penalty)) else { return };
        let Ok(text) = std::str::from_utf8(value) else { return };
        self.flat_text(node, penalty, text);
    }

    /// A text that is the whole value of a field or cell.
    pub(super) fn flat_text(&mut self, node: usize, penalty: u16, text: &str) {
        if text.starts_with(['{', '[']) {
            // A structure in a flat field is JSON text; one that is not has no values for us.
            let mut json = serde_json::Deserializer::from_str(text);
            let _ = Walk { scan: self, node, penalty, top: false }.deserialize(&mut json);
        } else {
            self.offer(node, penalty, Scalar::Text(text));
        }
    }

    pub(super) fn json(&mut self, bytes: &[u8]) -> Result<(), serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(bytes);
        Walk { scan: self, node: ROOT, penalty: 0, top: true }.deserialize(&mut json)?;
        json.end()
    }

    pub(super) fn msgpack(&mut self, bytes: &[u8]) -> Result<(), rmp_serde::decode::Error> {
        let mut msgpack = rmp_serde::Deserializer::from_read_ref(bytes);
        msgpack.set_max_depth(NESTING_MAX);
        Walk { scan: self, node: ROOT, penalty: 0, top: true }.deserialize(&mut msgpack)
    }

    /// The values gathered so far are one tick.
    pub(super) fn finish_tick(&mut self) {
        let event = self.settle_kind();
        if self.skipped {
            return;
        }
        let tick = &mut *self.tick;
        let quoted = match event {
            true => (0..column::NAMES.len()).any(|position| !tick.columns[position].is_nan()),
            false => is_quoted(&tick.columns),
        };
        if tick.symbol.is_empty() {
            self.error = Some(DecodeError::NoSymbol(self.mapping.symbol_names().to_owned()));
        } else if tick.price.is_nan() && !quoted {
            let names = self.mapping.price_names().to_owned();
            self.error = Some(DecodeError::Empty { symbol: tick.symbol.clone(), names });
        } else {
            tick.columns[column::FLAGS] = 0.0;
            (self.emit)(tick);
            self.emitted += 1;
        }
    }

    pub(super) fn outcome(self) -> Result<Outcome, DecodeError> {
        match (self.emitted, self.error) {
            (0, Some(error)) => Err(error),
            (0, None) => Ok(Outcome::Skipped),
            (ticks, None) => Ok(Outcome::Ticks(ticks)),
            (ticks, Some(error)) => Ok(Outcome::Partly(ticks, error)),
        }
    }

    /// Where the tick is an event of a known kind, moves its values to what they are of.
    fn settle_kind(&mut self) -> bool {
        let Some(code) = self.kind.take() else { return false };
        let Some(kind) = self.mapping.kinds.iter().find(|kind| kind.code == code) else {
            self.skipped = true;
            return false;
        };
        let RawTick { price, columns, .. } = &mut *self.tick;
        let values = [mem::replace(price, f64::NAN), mem::replace(&mut columns[column::QUANTITY], f64::NAN)];
        for (target, value) in [kind.price, kind.quantity].into_iter().zip(values) {
            match target {
                Some(Target::Price) => *price = value,
                Some(Target::Column(position)) => columns[position] = value,
                _ => {}
            }
        }
        true
    }

    /// Something is at `node`, whatever it is.
    pub(super) fn visit(&mut self, node: usize) {
        self.skipped |= self.mapping.get(node).skips.is_some_and(<[_]>::is_empty);
    }

    /// Whether a value at `node` could still matter.
    pub(super) fn wants(&self, node: usize, penalty: u16) -> bool {
        let node = self.mapping.get(node);
        let better = |(target, rank): &(Target, u16)| rank + penalty < self.ranks[target.index()];
        node.is_inner() || node.kind || node.skips.is_some() || node.serves.iter().any(better)
    }

    /// A value at `node`: taken where it is usable and no better one is known.
    pub(super) fn offer(&mut self, node: usize, penalty: u16, value: Scalar<'_>) {
        let node = self.mapping.get(node);
        if let Some(values) = node.skips {
            self.skipped |= values.is_empty() || matches!(value, Scalar::Text(text) if values.contains(&text));
        }
        if node.kind {
            self.kind = match value {
                Scalar::Integer(code) => Some(code),
                Scalar::Text(text) => text.trim().parse().ok(),
                _ => None,
            };
        }
        for (target, rank) in &node.serves {
            let rank = rank + penalty;
            if rank >= self.ranks[target.index()] {
                continue;
            }
            let taken = match target {
                Target::Symbol => self.take_symbol(value),
                Target::Time => self.take_time(value),
                Target::Price => {
                    let price = usable(value, column::BID, self.mapping.price_scale);
                    self.tick.price = price.unwrap_or(self.tick.price);
                    price.is_some()
                }
                Target::Column(position) => {
                    let number = usable(value, *position, self.mapping.price_scale);
                    self.tick.columns[*position] = number.unwrap_or(self.tick.columns[*position]);
                    number.is_some()
                }
            };
            if taken {
                self.ranks[target.index()] = rank;
            }
        }
    }

    /// The name of the tick that follows, whatever is in it.
    pub(super) fn name(&mut self, symbol: &str) {
        if self.take_symbol(Scalar::Text(symbol)) {
            self.ranks[Target::Symbol.index()] = 0;
        }
    }

    #[inline(never)]
    fn take_symbol(&mut self, value: Scalar<'_>) -> bool {
        let mut digits = [0; DIGITS_MAX];
        let number;
        let text = match value {
            Scalar::Text(text) => text,
            Scalar::Integer(token) => whole(token, &mut digits),
            Scalar::Number(token) if token.fract() == 0.0 => {
                number = token.to_string();
                number.as_str()
            }
            _ => return false,
        };
        read_symbol(text, self.tokens, &mut self.tick.symbol)
    }

    /// Apart, or else the compiler has every value tried as a time, which is dear.
    #[inline(never)]
    fn take_time(&mut self, value: Scalar<'_>) -> bool {
        let ns = match value {
            Scalar::Integer(number) => Some(time::from_integer(i128::from(number))),
            Scalar::Number(number) if number.is_finite() => Some(time::from_number(number)),
            Scalar::Text(text) => time::from_text(text.trim(), self.zone, self.arrival_ms),
            _ => None,
        };
        let plausible = ns.and_then(|ns| time::plausible(ns, self.arrival_ms));
        self.tick.time = plausible.or(self.tick.time);
        plausible.is_some()
    }
}

/// The number for a column, scaled, if it says something: prices and cumulative volume are positive
/// (zero is what publishers write for "none"), quantities not negative. Only extra columns take yes and no.
pub(super) fn usable(value: Scalar<'_>, position: usize, price_scale: f64) -> Option<f64> {
    let standard = position < column::NAMES.len();
    let number = match value {
        Scalar::Integer(number) => number as f64,
        Scalar::Number(number) => number,
        Scalar::Flag(flag) if !standard => f64::from(u8::from(flag)),
        Scalar::Flag(_) => return None,
        Scalar::Text(text) => match text.trim() {
            "True" | "true" if !standard => 1.0,
            "False" | "false" if !standard => 0.0,
            text => text.parse().ok()?,
        },
    };
    let number = match position {
        column::BID | column::ASK => number * price_scale,
        _ => number,
    };
    let says = match position {
        column::BID | column::ASK | column::CUM_VOLUME => number > 0.0,
        _ => number >= 0.0 || !standard,
    };
    (number.is_finite() && says).then_some(number)
}

/// Whether there is something to say without a price.
pub(super) fn is_quoted(columns: &[f64]) -> bool {
    [column::BID, column::ASK, column::OI].iter().any(|position| !columns[*position].is_nan())
}

/// Writes the symbol that this text names, if it names one.
pub(super) fn read_symbol(text: &str, tokens: &FxHashMap<String, String>, symbol: &mut String) -> bool {
    let text = text.trim();
    // A column of whole numbers with gaps leaves pandas as floats.
    let text = match text.strip_suffix(".0") {
        Some(token) if token.bytes().all(|byte| byte.is_ascii_digit()) => token,
        _ => text,
    };
    let text = tokens.get(text).map_or(text, String::as_str);
    let text = match text.split_once(':') {
        Some((exchange, symbol)) if EXCHANGES.iter().any(|known| exchange.eq_ignore_ascii_case(known)) => symbol,
        _ => text,
    };
    if ABSENT.iter().any(|absent| text.eq_ignore_ascii_case(absent)) {
        return false;
    }
    symbol.clear();
    symbol.push_str(text);
    if text.is_ascii() {
        symbol.make_ascii_uppercase();
    } else {
        *symbol = text.to_uppercase();
    }
    true
}

/// A number as text.
fn whole(number: i64, digits: &mut [u8; DIGITS_MAX]) -> &str {
    let mut rest = &mut digits[..];
    let written = write!(rest, "{number}").map(|()| DIGITS_MAX - rest.len());
    written.ok().and_then(|length| std::str::from_utf8(&digits[..length]).ok()).unwrap_or_default()
}

fn clear(tick: &mut RawTick, ranks: &mut [u16]) {
    tick.symbol.clear();
    tick.time = None;
    tick.price = f64::NAN;
    tick.columns.fill(f64::NAN);
    ranks.fill(u16::MAX);
}

/// A value as the layout has it.
#[derive(Clone, Copy)]
pub enum Scalar<'a> {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(&'a str),
}
