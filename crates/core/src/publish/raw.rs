//! Converts the fields of an entry to one JSON object and back, with the same bytes in the same order.
//!
//! Text is written as text. A value that is not text becomes `{"base64": "…"}`. A name that is not text becomes
//! `base64:…`, and so does a text with this prefix, so that no two names have the same form. Repeated names are repeated.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
    ser::{Serialize, Serializer},
};

use crate::event::Entry;

/// The prefix of a name in base64.
const BASE64_NAME: &str = "base64:";

/// The name and the value of each field, in the order of the entry.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes the fields of an entry as a JSON object.
pub fn raw_json(entry: &Entry<'_>) -> String {
    write(entry.fields())
}

/// Reads the fields from a JSON object that [`raw_json`] has written.
///
/// # Errors
/// When the text has another form.
pub fn raw_fields(raw: &str) -> serde_json::Result<Fields> {
    serde_json::from_str::<FieldList>(raw).map(|FieldList(fields)| fields)
}

fn write<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let names_and_values = fields.map(|(name, value)| (FieldName(name), FieldValue(value)));
    let mut json = Vec::new();
    let written = serde_json::Serializer::new(&mut json).collect_map(names_and_values);
    written.expect("a map of texts has a JSON form");
    String::from_utf8(json).expect("JSON is text")
}

/// A name as text, or in base64 if it has to be.
struct FieldName<'a>(&'a [u8]);

impl Serialize for FieldName<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) if !text.starts_with(BASE64_NAME) => serializer.serialize_str(text),
            _ => serializer.serialize_str(&format!("{BASE64_NAME}{}", BASE64_STANDARD.encode(self.0))),
        }
    }
}

/// A value as text, or in base64 if it is not text.
struct FieldValue<'a>(&'a [u8]);

impl Serialize for FieldValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_map([("base64", BASE64_STANDARD.encode(self.0))]),
        }
    }
}

/// A value as it is written.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Text(String),
    Bytes(Base64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    base64: String,
}

/// Fields that are deserialized in their order.
struct FieldList(Fields);

impl<'de> Deserialize<'de> for FieldList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldVisitor).map(Self)
    }
}

/// Collects the members of an object into a list: a map type would drop repeated names and the order.
struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fields of an entry as a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::new();
        while let Some((name, value)) = map.next_entry::<String, RawValue>()? {
            let name = match name.strip_prefix(BASE64_NAME) {
                Some(encoded) => decode(encoded)?,
                None => name.into_bytes(),
            };
            let value = match value {
                RawValue::Text(text) => text.into_bytes(),
                RawValue::Bytes(Base64 { base64 }) => decode(&base64)?,
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
    fn other_forms_are_rejected() {
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
