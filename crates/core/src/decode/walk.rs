//! One walk over a JSON or MessagePack document, along the mapping. What no path leads to is skipped unread.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

use super::{
    DecodeError,
    mapping::{Mapping, ROOT},
    scan::{Scalar, Scan},
};

/// The value at `node` and all below.
pub(super) struct Walk<'s, 'a> {
    pub(super) scan: &'s mut Scan<'a>,
    pub(super) node: usize,
    /// Added to the ranks of all names below.
    pub(super) penalty: u16,
    /// Whether it is the document itself: an object is a tick, a list is many.
    pub(super) top: bool,
}

impl Walk<'_, '_> {
    fn scalar(self, value: Scalar<'_>) {
        match self.top {
            true => self.scan.error = Some(DecodeError::NoObject),
            false => self.scan.offer(self.node, self.penalty, value),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.scan.visit(self.node);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
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
        let Self { scan, node, penalty, top } = self;
        let mut position = 0;
        if top {
            // Each element is a message; what flat fields said holds for all.
            let gathered = scan.begin_list();
            while items.next_element_seed(Walk { scan: &mut *scan, node, penalty, top: true })?.is_some() {
                scan.begin_element(&gathered);
                scan.skipped = false;
            }
            scan.end_list(gathered);
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
                Some(child) if scan.wants(child, penalty) => {
                    members.next_value_seed(Walk { scan: &mut *scan, node: child, penalty, top: false })?;
                }
                _ => members.next_value::<IgnoredAny>().map(|_| ())?,
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

/// An object of which each member is a tick, its key the symbol.
struct Each<'s, 'a> {
    scan: &'s mut Scan<'a>,
}

impl<'de> DeserializeSeed<'de> for Each<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Each<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of ticks by symbol")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { scan } = self;
        let gathered = scan.begin_list();
        while members.next_key_seed(Name { scan: &mut *scan })?.is_some() {
            members.next_value_seed(Walk { scan: &mut *scan, node: ROOT, penalty: 0, top: true })?;
            scan.begin_element(&gathered);
        }
        scan.end_list(gathered);
        Ok(())
    }
}

/// A key that is a symbol.
struct Name<'s, 'a> {
    scan: &'s mut Scan<'a>,
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a symbol")
    }

    fn visit_str<E>(self, symbol: &str) -> Result<(), E> {
        self.scan.name(symbol);
        Ok(())
    }

    fn visit_bytes<E: serde::de::Error>(self, symbol: &[u8]) -> Result<(), E> {
        match std::str::from_utf8(symbol) {
            Ok(symbol) => self.visit_str(symbol),
            Err(_) => Err(E::invalid_value(Unexpected::Bytes(symbol), &self)),
        }
    }
}
