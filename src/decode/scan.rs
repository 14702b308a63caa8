//! One walk over an entry's values, along the mapping.

use std::fmt;

use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    DecodeError, Outcome, RawTick,
    mapping::{Mapping, ROOT, Target},
    time,
};
use crate::event::column;

/// Flat fields beside a document rank behind everything in it.
const BEHIND_DOCUMENT: u16 = 1 << 12;

/// Exchanges that publishers put before a symbol, as in `NSE:RELIANCE`.
const EXCHANGES: [&str; 9] = ["NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO", "NSEIX"];

/// Texts that say "no value".
const ABSENT: [&str; 6] = ["", "nan", "none", "null", "-", "n/a"];

/// The entry being decoded.
pub(super) struct Scan<'a, F> {
    mapping: &'a Mapping,
    zone: &'a TimeZone,
    tokens: &'a FxHashMap<String, String>,
    arrival_ms: u64,
    tick: &'a mut RawTick,
    ranks: &'a mut Vec<u16>,
    emit: &'a mut F,
    emitted: usize,
    skipped: bool,
    error: Option<DecodeError>,
}

impl<'a, F: FnMut(&RawTick)> Scan<'a, F> {
    pub(super) fn new(
        mapping: &'a Mapping,
        zone: &'a TimeZone,
        tokens: &'a FxHashMap<String, String>,
        arrival_ms: u64,
        tick: &'a mut RawTick,
        ranks: &'a mut Vec<u16>,
        emit: &'a mut F,
    ) -> Self {
        clear(tick, ranks);
        let (emitted, skipped, error) = (0, false, None);
        Self { mapping, zone, tokens, arrival_ms, tick, ranks, emit, emitted, skipped, error }
    }

    /// Takes a field of the entry itself.
    pub(super) fn flat_field(&mut self, name: &[u8], value: &[u8], beside_document: bool) {
        let (Ok(name), Ok(text)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { return };
        let Some(node) = self.mapping.key(ROOT, name) else { return };
        let penalty = if beside_document { BEHIND_DOCUMENT } else { 0 };
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
        Walk { scan: self, node: ROOT, penalty: 0, top: true }.deserialize(&mut msgpack)
    }

    /// The values gathered so far are one tick.
    pub(super) fn finish_tick(&mut self) {
        if self.skipped {
            return;
        }
        let tick = &mut *self.tick;
        let quoted = [column::BID, column::ASK, column::OI].iter().any(|position| !tick.columns[*position].is_nan());
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
            (ticks, _) => Ok(Outcome::Ticks(ticks)),
        }
    }

    /// A value at `node`: taken where it is usable and no better one is known.
    fn offer(&mut self, node: usize, penalty: u16, value: Scalar<'_>) {
        let node = self.mapping.get(node);
        if let Some(values) = node.skips {
            self.skipped |= values.is_empty() || matches!(value, Scalar::Text(text) if values.contains(&text));
        }
        for (target, rank) in &node.serves {
            let rank = rank + penalty;
            if rank >= self.ranks[target.index()] {
                continue;
            }
            let taken = match target {
                Target::Symbol => self.take_symbol(value),
                Target::Time => self.take_time(value),
                Target::Price => match self.usable(value, column::BID) {
                    Some(price) => {
                        self.tick.price = price;
                        true
                    }
                    None => false,
                },
                Target::Column(position) => match self.usable(value, *position) {
                    Some(number) => {
                        self.tick.columns[*position] = number;
                        true
                    }
                    None => false,
                },
            };
            if taken {
                self.ranks[target.index()] = rank;
            }
        }
    }

    fn take_symbol(&mut self, value: Scalar<'_>) -> bool {
        let number;
        let text = match value {
            Scalar::Text(text) => text.trim(),
            Scalar::Integer(token) => {
                number = token.to_string();
                number.as_str()
            }
            _ => return false,
        };
        let text = self.tokens.get(text).map_or(text, String::as_str);
        let text = match text.split_once(':') {
            Some((exchange, symbol)) if EXCHANGES.contains(&exchange) => symbol,
            _ => text,
        };
        if ABSENT.iter().any(|absent| text.eq_ignore_ascii_case(absent)) {
            return false;
        }
        self.tick.symbol.clear();
        self.tick.symbol.push_str(text);
        if text.is_ascii() {
            self.tick.symbol.make_ascii_uppercase();
        } else {
            self.tick.symbol = text.to_uppercase();
        }
        true
    }

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

    /// The number for a column, scaled, if it says something: prices are positive, quantities not negative.
    fn usable(&self, value: Scalar<'_>, position: usize) -> Option<f64> {
        let number = match value {
            Scalar::Integer(number) => number as f64,
            Scalar::Number(number) => number,
            Scalar::Flag(flag) => f64::from(u8::from(flag)),
            Scalar::Text(text) => number(text)?,
        };
        match position {
            column::BID | column::ASK => {
                let price = number * self.mapping.price_scale;
                (price.is_finite() && price > 0.0).then_some(price)
            }
            _ if position < column::NAMES.len() => (number.is_finite() && number >= 0.0).then_some(number),
            _ => number.is_finite().then_some(number),
        }
    }
}

fn clear(tick: &mut RawTick, ranks: &mut [u16]) {
    tick.symbol.clear();
    tick.time = None;
    tick.price = f64::NAN;
    tick.columns.fill(f64::NAN);
    ranks.fill(u16::MAX);
}

fn number(text: &str) -> Option<f64> {
    match text.trim() {
        "True" | "true" => Some(1.0),
        "False" | "false" => Some(0.0),
        text => text.parse().ok(),
    }
}

/// A value as the layout has it.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(&'a str),
}

/// The value at `node` and all below.
struct Walk<'s, 'a, F> {
    scan: &'s mut Scan<'a, F>,
    node: usize,
    penalty: u16,
    /// Whether it is the document itself: an object is a tick, a list is many.
    top: bool,
}

impl<'de, F: FnMut(&RawTick)> DeserializeSeed<'de> for Walk<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&RawTick)> Visitor<'de> for Walk<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scan.offer(self.node, self.penalty, Scalar::Flag(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scan.offer(self.node, self.penalty, Scalar::Integer(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_or(Scalar::Number(value as f64), Scalar::Integer);
        self.scan.offer(self.node, self.penalty, value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scan.offer(self.node, self.penalty, Scalar::Number(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scan.offer(self.node, self.penalty, Scalar::Text(value));
        Ok(())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        if let Ok(text) = std::str::from_utf8(value) {
            self.scan.offer(self.node, self.penalty, Scalar::Text(text));
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        // Null says nothing, except where the mere presence of a key does.
        self.scan.skipped |= self.scan.mapping.get(self.node).skips.is_some_and(<[_]>::is_empty);
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        IgnoredAny.visit_newtype_struct(deserializer).map(|_| ())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { scan, node, penalty, top } = self;
        let mut position = 0;
        if top {
            // Each element is a message; what flat fields said holds for all.
            let (tick, ranks) = (scan.tick.clone(), scan.ranks.clone());
            while items.next_element_seed(Walk { scan: &mut *scan, node, penalty, top: true })?.is_some() {
                scan.tick.clone_from(&tick);
                scan.ranks.clone_from(&ranks);
                scan.skipped = false;
            }
            return Ok(());
        }
        loop {
            let more = match scan.mapping.index(node, position) {
                Some(child) => items.next_element_seed(Walk { scan: &mut *scan, node: child, penalty, top: false })?,
                None => items.next_element::<IgnoredAny>()?.map(|_| ()),
            };
            if more.is_none() {
                return Ok(());
            }
            position += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { scan, node, penalty, top } = self;
        let mut many = false;
        while let Some(child) = members.next_key_seed(Key { mapping: scan.mapping, node })? {
            match child {
                Some(child) if scan.mapping.get(child).each => {
                    many = true;
                    members.next_value_seed(Each { scan: &mut *scan })?;
                }
                Some(child) => members.next_value_seed(Walk { scan: &mut *scan, node: child, penalty, top: false })?,
                None => members.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        if top && !many {
            scan.finish_tick();
        }
        Ok(())
    }
}

/// A key of an object: the node that it leads to, if any.
struct Key<'a> {
    mapping: &'a Mapping,
    node: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.mapping.key(self.node, key))
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Option<usize>, E> {
        Ok(std::str::from_utf8(key).ok().and_then(|key| self.mapping.key(self.node, key)))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<usize>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<usize>, E> {
        Ok(None)
    }
}

/// An object of which each member is a tick, its key the symbol.
struct Each<'s, 'a, F> {
    scan: &'s mut Scan<'a, F>,
}

impl<'de, F: FnMut(&RawTick)> DeserializeSeed<'de> for Each<'_, '_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&RawTick)> Visitor<'de> for Each<'_, '_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ticks by symbol")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { scan } = self;
        let (tick, ranks) = (scan.tick.clone(), scan.ranks.clone());
        while let Some(symbol) = members.next_key::<String>()? {
            if scan.take_symbol(Scalar::Text(&symbol)) {
                scan.ranks[Target::Symbol.index()] = 0;
            }
            members.next_value_seed(Walk { scan: &mut *scan, node: ROOT, penalty: 0, top: true })?;
            scan.tick.clone_from(&tick);
            scan.ranks.clone_from(&ranks);
        }
        Ok(())
    }
}
