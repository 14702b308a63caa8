//! Converts the fields of an entry to one JSON object and back, with the same bytes in the same order.
//!
//! Text is written as text. A value that is not text becomes `{"base64": "…"}`. A name that is not text becomes
//! `base64:…`, and so does a text with this prefix, so that no two names have the same form. Repeated names are
//! repeated.
//!
//! Of an entry that is larger than any batch of ticks, only the beginnings of some fields are written, each as
//! `{"cut": "…", "bytes": 73400320}`. It can be looked at, and not be converted back.

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

/// The most bytes of names and values that are written whole: room for a list of several thousand ticks. There is a dead
/// letter for each detector that failed on an entry, so that copies of large entries would fill the server's memory.
pub const WHOLE_BYTES_MAX: usize = 2 << 20;

/// The number of fields that are written of a larger entry, and the bytes of each name and value.
const CUT_FIELDS: usize = 16;
const CUT_BYTES: usize = 1024;

/// The name and the value of each field, in the order of the entry.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Writes the fields of an entry as a JSON object; the beginnings of some fields, if the entry is very large.
pub fn raw_json(entry: &Entry<'_>) -> String {
    let bytes: usize = entry.fields().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= WHOLE_BYTES_MAX {
        return to_text(entry.fields().map(|(name, value)| (FieldName(name), FieldValue(value))));
    }
    to_text(entry.fields().take(CUT_FIELDS).map(|(name, value)| (FieldName(beginning(name)), Cut::of(value))))
}

/// Reads the fields from a JSON object that [`raw_json`] has written.
///
/// # Errors
/// When the text has another form.
pub fn raw_fields(raw: &str) -> serde_json::Result<Fields> {
    serde_json::from_str::<FieldList>(raw).map(|FieldList(fields)| fields)
}

fn beginning(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(CUT_BYTES)]
}

fn to_text<'a>(fields: impl Iterator<Item = (FieldName<'a>, impl Serialize)>) -> String {
    let mut json = Vec::new();
    let written = serde_json::Serializer::new(&mut json).collect_map(fields);
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

/// The beginning of a value.
#[derive(Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Cut {
    /// As text; what is not text is replaced.
    cut: String,
    /// The length of the whole value.
    bytes: usize,
}

impl Cut {
    fn of(value: &[u8]) -> Self {
        Self { cut: String::from_utf8_lossy(beginning(value)).into_owned(), bytes: value.len() }
    }
}

/// A value as it is written.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Text(String),
    Bytes(Base64),
    Cut(Cut),
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
                RawValue::Cut(Cut { bytes, .. }) => {
                    return Err(Error::custom(format_args!(
                        "the entry was larger than {} MiB, and only the beginning of this value of {bytes} bytes was kept; \
                         the stream of ticks may still hold the entry under its id",
                        WHOLE_BYTES_MAX >> 20
                    )));
                }
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

    /// A value of 70 MB was copied to the dead letters, once for each detector that failed on it.
    #[test]
    fn of_a_huge_entry_the_beginning_is_written_and_never_taken_for_the_whole() {
        let huge = vec![b'x'; WHOLE_BYTES_MAX];
        let written = raw(&[(b"data", &huge), (b"id", b"7"), (&huge, b"")]);
        assert!(written.len() < 4 * CUT_BYTES, "{}", written.len());
        assert!(written.starts_with("{\"data\":{\"cut\":\"xxx") && written.contains("\"bytes\":2097152"));
        let error = raw_fields(&written).unwrap_err().to_string();
        assert!(error.contains("larger than 2 MiB"), "{error}");
        let many: Vec<(&[u8], &[u8])> = vec![(b"\x01", &[0xff; 300]); 10_000];
        assert!(raw(&many).len() < CUT_FIELDS * 7 * CUT_BYTES);
        let whole = raw(&[(b"data", &huge[4..])]);
        assert_eq!(raw_fields(&whole).unwrap()[0].1, &huge[4..]);
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
