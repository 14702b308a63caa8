//! Assembles an entry's values into ticks: it decides which values are usable, and which of several is the best.
//!
//! What holds: of a target's names, the first in the mapping that has a usable value wins, wherever that value is in
//! the entry. Of values under the same name, the first wins.

use std::{io::Write, mem};

use super::{
    DecodeError, Outcome, RawTick,
    iso::Zone,
    mapping::{Mapping, Target},
    symbol_text::{SymbolRules, SymbolText},
    time,
};
use crate::{
    event::column,
    symbol::check_symbol,
    venue::{read_exchange, read_venue},
};

/// The maximum length of a 64-bit number as text, with its sign.
const DIGITS_MAX: usize = 20;

/// A value as the layout contains it.
#[derive(Clone, Copy)]
pub enum Scalar<'a> {
    /// A boolean.
    Flag(bool),
    /// An integer that fits into 64 bits.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// A text, perhaps of a number.
    Text(&'a str),
}

/// What values are interpreted by.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) mapping: Mapping,
    pub(super) symbols: SymbolRules,
}

/// The buffers of an assembler, reused from entry to entry: decoding allocates nothing once they are large enough.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    /// The zone of times that name none; it caches its last offset.
    zone: Zone,
    tick: RawTick,
    ranks: Vec<u16>,
    /// Buffers for [`SharedValues`] that are not in use.
    spare: Vec<SharedValues>,
}

/// The values that precede a list of ticks: each of its ticks begins with them.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedValues {
    tick: RawTick,
    ranks: Vec<u16>,
}

impl Buffers {
    pub(super) fn new(zone: Zone, columns: usize, targets: usize) -> Self {
        let tick = RawTick { columns: vec![f64::NAN; columns], ..RawTick::default() };
        Self { zone, tick, ranks: vec![u16::MAX; targets], spare: Vec::new() }
    }
}

/// Assembles the ticks of one entry.
pub(super) struct Assembler<'a> {
    pub(super) rules: &'a Rules,
    zone: &'a mut Zone,
    arrival_ms: u64,
    tick: &'a mut RawTick,
    /// For each target, the rank of the name that its value came from; lower is better.
    ranks: &'a mut Vec<u16>,
    spare: &'a mut Vec<SharedValues>,
    emit: &'a mut dyn FnMut(&RawTick),
    emitted: usize,
    /// Whether the current message is of a kind that is not a tick.
    pub(super) skipped: bool,
    /// The code of the current event, of vendors that publish events.
    pub(super) event: Option<i64>,
    pub(super) error: Option<DecodeError>,
    /// The text by which the producer says that it does not know the instrument of the current tick.
    unresolved: Option<String>,
}

impl<'a> Assembler<'a> {
    /// An assembler for an entry that arrived at `arrival_ms`; it passes each tick to `emit`.
    pub(super) fn new(
        rules: &'a Rules,
        buffers: &'a mut Buffers,
        arrival_ms: u64,
        emit: &'a mut dyn FnMut(&RawTick),
    ) -> Self {
        let Buffers { zone, tick, ranks, spare } = buffers;
        clear(tick, ranks);
        let (emitted, skipped, event, error, unresolved) = (0, false, None, None, None);
        Self { rules, zone, arrival_ms, tick, ranks, spare, emit, emitted, skipped, event, error, unresolved }
    }

    /// Copies the values so far, for [`Self::begin_element`].
    pub(super) fn begin_list(&mut self) -> SharedValues {
        let mut shared = self.spare.pop().unwrap_or_default();
        shared.tick.clone_from(self.tick);
        shared.ranks.clone_from(self.ranks);
        shared
    }

    /// Begins the tick of a list's element with the values that precede the list.
    pub(super) fn begin_element(&mut self, shared: &SharedValues) {
        self.tick.clone_from(&shared.tick);
        self.ranks.clone_from(&shared.ranks);
    }

    /// Returns the buffers of a list.
    pub(super) fn end_list(&mut self, shared: SharedValues) {
        self.spare.push(shared);
    }

    /// Emits the values so far as one tick, or records why they are not a tick.
    pub(super) fn finish_tick(&mut self) {
        let is_event = self.apply_event();
        let unresolved = self.unresolved.take();
        if self.skipped {
            return;
        }
        let tick = &mut *self.tick;
        self.rules.symbols.join(&mut tick.symbol, &mut tick.venue);
        // An event has one value, whichever it is; any other tick without a price needs a quote.
        let has_value = if is_event {
            (0..column::NAMES.len()).any(|position| !tick.columns[position].is_nan())
        } else {
            is_quoted(&tick.columns)
        };
        if let Some(text) = unresolved.filter(|_| is_number(&tick.symbol)) {
            let error = || DecodeError::Unresolved(text.clone());
            self.error = Some(check_symbol(&text).map_or_else(DecodeError::from, |()| error()));
        } else if tick.symbol.is_empty() {
            self.error = Some(DecodeError::NoSymbol(self.rules.mapping.symbol_names().to_owned()));
        } else if tick.price.is_nan() && !has_value {
            let names = self.rules.mapping.price_names().to_owned();
            // The reason repeats the symbol, so that must be usable.
            let empty = || DecodeError::Empty { symbol: tick.symbol.clone(), names };
            self.error = Some(check_symbol(&tick.symbol).map_or_else(DecodeError::from, |()| empty()));
        } else {
            tick.columns[column::FLAGS] = 0.0;
            (self.emit)(tick);
            self.emitted += 1;
        }
    }

    /// What the entry contained.
    pub(super) fn outcome(self) -> Result<Outcome, DecodeError> {
        match (self.emitted, self.error) {
            (0, Some(error)) => Err(error),
            (0, None) => Ok(Outcome::Skipped),
            (ticks, None) => Ok(Outcome::Ticks(ticks)),
            (ticks, Some(error)) => Ok(Outcome::Partly(ticks, error)),
        }
    }

    /// Moves the values of an event to the targets that its code assigns. Returns whether the tick is an event; an
    /// event of an unknown code is skipped.
    fn apply_event(&mut self) -> bool {
        let Some(code) = self.event.take() else { return false };
        let Some(event) = self.rules.mapping.events.iter().find(|event| event.code == code) else {
            self.skipped = true;
            return false;
        };
        let RawTick { price, columns, .. } = &mut *self.tick;
        let values = [mem::replace(price, f64::NAN), mem::replace(&mut columns[column::QUANTITY], f64::NAN)];
        for (target, value) in [event.price, event.quantity].into_iter().zip(values) {
            match target {
                Some(Target::Price) => *price = value,
                Some(Target::Column(position)) => columns[position] = value,
                _ => {}
            }
        }
        true
    }

    /// Notes that the entry has something at `node`, whatever it is.
    pub(super) fn visit(&mut self, node: usize) {
        self.skipped |= self.rules.mapping.get(node).skips.is_some_and(<[_]>::is_empty);
    }

    /// Whether a value at `node` could still matter.
    pub(super) fn wants(&self, node: usize, penalty: u16) -> bool {
        let node = self.rules.mapping.get(node);
        let better = |(target, rank): &(Target, u16)| rank + penalty < self.ranks[target.index()];
        node.is_inner() || node.is_event_code || node.skips.is_some() || node.targets.iter().any(better)
    }

    /// Adds a value at `node`, unless it is unusable or a better one is known.
    pub(super) fn offer(&mut self, node: usize, penalty: u16, value: Scalar<'_>) {
        let mapping = &self.rules.mapping;
        let node = mapping.get(node);
        if let Some(values) = node.skips {
            self.skipped |= values.is_empty() || matches!(value, Scalar::Text(text) if values.contains(&text));
        }
        if node.is_event_code {
            self.event = match value {
                Scalar::Integer(code) => Some(code),
                Scalar::Text(text) => text.trim().parse().ok(),
                _ => None,
            };
        }
        for (target, rank) in &node.targets {
            let rank = rank + penalty;
            if rank >= self.ranks[target.index()] {
                continue;
            }
            let taken = match target {
                Target::Symbol => self.take_symbol(value),
                Target::Time => self.take_time(value),
                Target::Venue => self.take_venue(value),
                Target::Price => {
                    let price = usable(value, column::BID, mapping.price_scale);
                    self.tick.price = price.unwrap_or(self.tick.price);
                    price.is_some()
                }
                Target::Column(position) => {
                    let number = usable(value, *position, mapping.price_scale);
                    self.tick.columns[*position] = number.unwrap_or(self.tick.columns[*position]);
                    number.is_some()
                }
            };
            if taken {
                self.ranks[target.index()] = rank;
            }
        }
    }

    /// Sets the symbol of the tick that follows, before any symbol that it contains.
    pub(super) fn set_symbol(&mut self, symbol: &str) {
        if self.take_symbol(Scalar::Text(symbol)) {
            self.ranks[Target::Symbol.index()] = 0;
        }
    }

    /// Not inlined, for the reason of [`Self::take_time`].
    #[inline(never)]
    fn take_symbol(&mut self, value: Scalar<'_>) -> bool {
        let mut digits = [0; DIGITS_MAX];
        let number;
        let text = match value {
            Scalar::Text(text) => text,
            Scalar::Integer(token) => integer_text(token, &mut digits),
            Scalar::Number(token) if token.fract() == 0.0 => {
                number = token.to_string();
                number.as_str()
            }
            _ => return false,
        };
        let RawTick { symbol, venue, .. } = &mut *self.tick;
        match self.rules.symbols.read(text, symbol, venue) {
            SymbolText::Name => true,
            SymbolText::NameAtVenue => {
                // It goes before the venue in a field.
                self.ranks[Target::Venue.index()] = 0;
                true
            }
            SymbolText::Absent => false,
            SymbolText::Unresolved => {
                self.unresolved = Some(text.to_owned());
                false
            }
        }
    }

    #[inline(never)]
    fn take_venue(&mut self, value: Scalar<'_>) -> bool {
        let number = match value {
            Scalar::Integer(number) => Some(number),
            Scalar::Text(text) if !self.rules.mapping.venues.is_empty() => text.trim().parse().ok(),
            _ => None,
        };
        let numbered = |number| self.rules.mapping.venues.iter().find(|(known, _)| *known == number);
        match (number.and_then(numbered), value) {
            (Some((_, name)), _) => read_venue(name, &mut self.tick.venue),
            (None, Scalar::Text(text)) => read_exchange(text, self.rules.mapping.venues, &mut self.tick.venue),
            _ => false,
        }
    }

    /// Not inlined: otherwise the compiled code tries every value as a time, which is expensive.
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

/// The scaled number for a column, if it is usable: prices and cumulative volume must be positive (publishers write
/// zero for "none"), quantities must not be negative. Only extra columns accept booleans.
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
    let in_range = match position {
        column::BID | column::ASK | column::CUM_VOLUME => number > 0.0,
        _ => number >= 0.0 || !standard,
    };
    (number.is_finite() && in_range).then_some(number)
}

/// Whether the columns make a tick without a price.
pub(super) fn is_quoted(columns: &[f64]) -> bool {
    [column::BID, column::ASK, column::OI].iter().any(|position| !columns[*position].is_nan())
}

/// Whether a symbol is empty, or only the number of an instrument.
fn is_number(symbol: &str) -> bool {
    symbol.bytes().all(|byte| byte.is_ascii_digit())
}

/// Formats a number without allocating.
fn integer_text(number: i64, digits: &mut [u8; DIGITS_MAX]) -> &str {
    let mut rest = &mut digits[..];
    let written = write!(rest, "{number}").map(|()| DIGITS_MAX - rest.len());
    written.ok().and_then(|length| std::str::from_utf8(&digits[..length]).ok()).unwrap_or_default()
}

fn clear(tick: &mut RawTick, ranks: &mut [u16]) {
    tick.symbol.clear();
    tick.venue.clear();
    tick.time = None;
    tick.price = f64::NAN;
    tick.columns.fill(f64::NAN);
    ranks.fill(u16::MAX);
}
