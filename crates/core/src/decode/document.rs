//! Visits the values of a JSON or MessagePack document along the mapping. What no path leads to is skipped unread.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::{
    DecodeError,
    assemble::{Assembler, Scalar},
    mapping::{Mapping, ROOT},
    python,
};

/// Added to the ranks of flat fields beside a document, so that they rank behind everything in it.
const BEHIND_DOCUMENT: u16 = 1 << 12;

/// The nesting at which a MessagePack document is rejected, so that it can't overflow the stack. The JSON parser has
/// the same limit built in.
const NESTING_MAX: usize = 128;

/// Adds the values of a JSON document, and finishes its ticks.
pub(super) fn add_json(assembler: &mut Assembler<'_>, bytes: &[u8]) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    ValueVisitor::document(assembler).deserialize(&mut json)?;
    json.end()
}

/// Adds the values of a MessagePack document, and finishes its ticks.
pub(super) fn add_msgpack(assembler: &mut Assembler<'_>, bytes: &[u8]) -> Result<(), rmp_serde::decode::Error> {
    let mut msgpack = rmp_serde::Deserializer::from_read_ref(bytes);
    msgpack.set_max_depth(NESTING_MAX);
    ValueVisitor::document(assembler).deserialize(&mut msgpack)
}

/// Adds a field of the entry itself.
pub(super) fn add_field(assembler: &mut Assembler<'_>, name: &[u8], value: &[u8], beside_document: bool) {
    let penalty = if beside_document { BEHIND_DOCUMENT } else { 0 };
    let node = assembler.rules.mapping.key(ROOT, name);
    let Some(node) = node.filter(|node| assembler.wants(*node, penalty)) else { return };
    let Ok(text) = std::str::from_utf8(value) else { return };
    add_text(assembler, node, penalty, text);
}

/// Adds a text that is the whole value of a field or cell.
pub(super) fn add_text(assembler: &mut Assembler<'_>, node: usize, penalty: u16, text: &str) {
    if text.starts_with(['{', '[']) {
        // A structure in a flat field is JSON text, or what Python makes of it. If it is neither, the field has no usable
        // value, which is not an error.
        let converted = if python::is_repr(text) { python::to_json(text) } else { None };
        let mut json = serde_json::Deserializer::from_str(converted.as_deref().unwrap_or(text));
        let _ = ValueVisitor::inner(assembler, node, penalty).deserialize(&mut json);
    } else {
        assembler.offer(node, penalty, Scalar::Text(text));
    }
}

/// Visits the value at a node of the mapping, and everything below it.
struct ValueVisitor<'s, 'a> {
    assembler: &'s mut Assembler<'a>,
    node: usize,
    /// Added to the ranks of all names below.
    penalty: u16,
    level: Level,
}

/// What an object or a list is at a node.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    /// The document itself, or an element of it: an object is a tick, a list is a list of ticks.
    Document,
    /// A part of a tick.
    Inner,
}

impl<'s, 'a> ValueVisitor<'s, 'a> {
    /// A visitor of a whole document.
    fn document(assembler: &'s mut Assembler<'a>) -> Self {
        Self { assembler, node: ROOT, penalty: 0, level: Level::Document }
    }

    /// A visitor of a part of a tick.
    fn inner(assembler: &'s mut Assembler<'a>, node: usize, penalty: u16) -> Self {
        Self { assembler, node, penalty, level: Level::Inner }
    }

    fn scalar(self, value: Scalar<'_>) {
        match self.level {
            Level::Document => self.assembler.error = Some(DecodeError::NoObject),
            Level::Inner => self.assembler.offer(self.node, self.penalty, value),
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueVisitor<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.assembler.visit(self.node);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueVisitor<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(Scalar::Flag(value));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(Scalar::Integer(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        let value = i64::try_from(value).map_or(Scalar::Number(value as f64), Scalar::Integer);
        self.scalar(value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(Scalar::Number(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(value));
        Ok(())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<(), E> {
        if let Ok(text) = std::str::from_utf8(value) {
            self.scalar(Scalar::Text(text));
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        IgnoredAny.visit_newtype_struct(deserializer).map(|_| ())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { assembler, node, penalty, level } = self;
        if level == Level::Document {
            // Each element is a message of its own, to which the values of flat fields apply as well.
            let shared = assembler.begin_list();
            while items.next_element_seed(ValueVisitor { assembler: &mut *assembler, node, penalty, level })?.is_some()
            {
                assembler.begin_element(&shared);
                assembler.skipped = false;
            }
            assembler.end_list(shared);
            return Ok(());
        }
        let mut position = 0;
        loop {
            let more = match assembler.rules.mapping.index(node, position) {
                Some(child) => items.next_element_seed(ValueVisitor::inner(assembler, child, penalty))?,
                None => items.next_element::<IgnoredAny>()?.map(|_| ()),
            };
            if more.is_none() {
                return Ok(());
            }
            position += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { assembler, node, penalty, level } = self;
        let mapping = &assembler.rules.mapping;
        let mut has_ticks_inside = false;
        while let Some(child) = members.next_key_seed(KeyLookup { mapping, node })? {
            match child {
                Some(child) if mapping.get(child).is_tick_map => {
                    has_ticks_inside = true;
                    members.next_value_seed(TicksBySymbol { assembler: &mut *assembler })?;
                }
                Some(child) if assembler.wants(child, penalty) => {
                    members.next_value_seed(ValueVisitor::inner(assembler, child, penalty))?;
                }
                _ => members.next_value::<IgnoredAny>().map(|_| ())?,
            }
        }
        if level == Level::Document && !has_ticks_inside {
            assembler.finish_tick();
        }
        Ok(())
    }
}

/// Looks up the node that an object's key leads to, if any.
struct KeyLookup<'a> {
    mapping: &'a Mapping,
    node: usize,
}

impl<'de> DeserializeSeed<'de> for KeyLookup<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeyLookup<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.mapping.key(self.node, key.as_bytes()))
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Option<usize>, E> {
        Ok(self.mapping.key(self.node, key))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<usize>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<usize>, E> {
        Ok(None)
    }
}

/// Visits an object in which each member is a tick under its symbol.
struct TicksBySymbol<'s, 'a> {
    assembler: &'s mut Assembler<'a>,
}

impl<'de> DeserializeSeed<'de> for TicksBySymbol<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TicksBySymbol<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ticks by symbol")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { assembler } = self;
        let shared = assembler.begin_list();
        while members.next_key_seed(SymbolKey { assembler: &mut *assembler })?.is_some() {
            members.next_value_seed(ValueVisitor::document(assembler))?;
            assembler.begin_element(&shared);
        }
        assembler.end_list(shared);
        Ok(())
    }
}

/// Takes an object's key as a symbol.
struct SymbolKey<'s, 'a> {
    assembler: &'s mut Assembler<'a>,
}

impl<'de> DeserializeSeed<'de> for SymbolKey<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for SymbolKey<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a symbol")
    }

    fn visit_str<E>(self, symbol: &str) -> Result<(), E> {
        self.assembler.set_symbol(symbol);
        Ok(())
    }

    fn visit_bytes<E: serde::de::Error>(self, symbol: &[u8]) -> Result<(), E> {
        match std::str::from_utf8(symbol) {
            Ok(symbol) => self.visit_str(symbol),
            Err(_) => Err(E::invalid_value(Unexpected::Bytes(symbol), &self)),
        }
    }
}
