//! The fields of an entry as one JSON object, and back: the same bytes in the same order.
//!
//! Text stands as text. A value that is no text is `{"base64": "…"}`. A name that is no text is
//! `base64:…`; so is one that is text and begins like that, so that no two names are written alike.
//! Names that repeat, repeat.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
    ser::{Serialize, Serializer},
};

use crate::event::Entry;

/// What the name of a field that is no text begins with.
const BASE64_NAME: &str = "base64:";

/// Name and value of each field, in the order of the entry.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The fields of an entry as a JSON object.
pub fn raw_json(entry: &Entry<'_>) -> String {
    write(entry.fields())
}

/// The fields that [`raw_json`] has written.
///
/// # Errors
/// When the text is not what [`raw_json`] writes.
pub fn raw_fields(raw: &str) -> serde_json::Result<Fields> {
    serde_json::from_str::<Read>(raw).map(|Read(fields)| fields)
}

fn write<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let names_and_values = fields.map(|(name, value)| (Name(name), Value(value)));
    let mut json = Vec::new();
    let written = serde_json::Serializer::new(&mut json).collect_map(names_and_values);
    written.expect("a map of texts has a JSON form");
    String::from_utf8(json).expect("JSON is text")
}

struct Name<'a>(&'a [u8]);

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) if !text.starts_with(BASE64_NAME) => serializer.serialize_str(text),
            _ => serializer.serialize_str(&format!("{BASE64_NAME}{}", BASE64_STANDARD.encode(self.0))),
        }
    }
}

struct Value<'a>(&'a [u8]);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", BASE64_STANDARD.encode(self.0))]),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Base64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

struct Read(Fields);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder).map(Self)
    }
}

/// A map type would keep one of the names that repeat, and no order.
struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of an entry as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::new();
        while let Some((name, value)) = map.next_entry::<String, Written>()? {
            let name = match name.strip_prefix(BASE64_NAME) {
                Some(encoded) => decode(encoded)?,
                None => name.into_bytes(),
            };
            let value = match value {
                Written::Text(text) => text.into_bytes(),
                Written::Bytes(Base64 { base64 }) => decode(&base64)?,
            };
            fields.push((name, value));
        }
        Ok(fields)
    }
}

fn decode<E: Error>(base64: &str) -> Result<Vec<u8>, E> {
    BASE64_STANDARD.decode(base64).map_err(|error| E::custom(format!("`{base64}` is not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::*;
    use crate::event::{Entries, EntryId};

    fn raw(fields: &[(&[u8], &[u8])]) -> String {
        let mut entries = Entries::default();
        entries.push_entry(EntryId::ZERO);
        fields.iter().for_each(|(name, value)| entries.push_field(name, value));
        raw_json(&entries.get(0).unwrap())
    }

    #[test]
    fn an_entry_keeps_its_bytes_and_its_repeated_names() {
        let written = raw(&[(b"a", b"1"), (b"a", b"2"), (b"bin", &[0xff, 0x00]), (&[0xff], b""), (b"base64:", b"x")]);
        let expected = r#"{"a":"1","a":"2","bin":{"base64":"/wA="},"base64:/w==":"","base64:YmFzZTY0Og==":"x"}"#;
        assert_eq!(written, expected);
    }

    #[test]
    fn what_no_entry_was_written_as_is_refused() {
        for text in ["", "[]", "\"a\"", r#"{"a":1}"#, r#"{"a":{"base65":""}}"#, r#"{"a":{"base64":"?"}}"#, "{} {}"] {
            assert!(raw_fields(text).is_err(), "{text}");
        }
        assert!(raw_fields(r#"{"base64:?":""}"#).unwrap_err().to_string().contains("`?` is not base64"));
    }

    proptest! {
        #[test]
        fn any_fields_come_back_as_the_same_bytes(
            fields in proptest::collection::vec((
                prop_oneof![
                    any::<Vec<u8>>(),
                    any::<String>().prop_map(String::into_bytes),
                    "(base64:|a|b)[a-z=]{0,4}".prop_map(String::into_bytes),
                ],
                prop_oneof![any::<Vec<u8>>(), any::<String>().prop_map(String::into_bytes)],
            ), 0..12)
        ) {
            let borrowed: Vec<(&[u8], &[u8])> = fields.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
            prop_assert_eq!(raw_fields(&raw(&borrowed)).unwrap(), fields);
        }
    }
}
