//! The three layouts in which producers put a tick into a stream entry.
//!
//! What holds: the same fields decode to the same tick in any layout. Numbers are written so that they parse to exactly the
//! same f64.

use std::{io::Write, str::FromStr};

use serde::{Serialize, Serializer, ser::SerializeMap};

/// The name of the single field in the layouts `json` and `msgpack`.
const PAYLOAD: &[u8] = b"data";

/// How a tick is written into the fields of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// One field `data` with a JSON object.
    #[default]
    Json,
    /// A field for each value, as text.
    Flat,
    /// One field `data` with a MessagePack map.
    Msgpack,
}

impl FromStr for Layout {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "flat" => Ok(Self::Flat),
            "msgpack" => Ok(Self::Msgpack),
            _ => Err("expected json, flat or msgpack"),
        }
    }
}

/// A value in a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A text, perhaps of a number.
    Text(&'a str),
    /// A non-negative integer.
    Whole(u64),
    /// Any other finite number.
    Float(f64),
}

impl<'a> Value<'a> {
    /// The number that `text` spells, or else the text itself. A text that is not a number in JSON (`007`, `+1`, `nan`), or
    /// that has more digits than a u64 holds, stays a text.
    pub fn guess(text: &'a str) -> Self {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let mut bytes = digits.bytes();
        let begins_as_json = match (bytes.next(), bytes.next()) {
            (Some(b'0'), second) => !second.is_some_and(|b| b.is_ascii_digit()),
            (first, _) => first.is_some_and(|b| b.is_ascii_digit()),
        };
        if !begins_as_json || text.ends_with('.') {
            return Self::Text(text);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map_or(Self::Text(text), Self::Whole);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Self::Float(number),
            _ => Self::Text(text),
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Whole(number) => serializer.serialize_u64(number),
            Self::Float(number) => serializer.serialize_f64(number),
        }
    }
}

/// Writes ticks in one layout. Its buffer is reused from tick to tick.
#[derive(Debug)]
pub struct Encoder {
    layout: Layout,
    buffer: Vec<u8>,
}

impl Encoder {
    /// An encoder for `layout`.
    pub fn new(layout: Layout) -> Self {
        Self { layout, buffer: Vec::new() }
    }

    /// The layout of the encoder.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Passes each field of the entry with this tick to `put`.
    pub fn encode(&mut self, tick: &[(&str, Value<'_>)], mut put: impl FnMut(&[u8], &[u8])) {
        const INTO_MEMORY: &str = "text, whole and finite numbers can always be written to memory";
        let buffer = &mut self.buffer;
        buffer.clear();
        match self.layout {
            Layout::Json => serde_json::to_writer(&mut *buffer, &Payload(tick)).expect(INTO_MEMORY),
            Layout::Msgpack => rmp_serde::encode::write(buffer, &Payload(tick)).expect(INTO_MEMORY),
            Layout::Flat => {
                for (name, value) in tick {
                    buffer.clear();
                    match value {
                        Value::Text(text) => buffer.extend_from_slice(text.as_bytes()),
                        Value::Whole(number) => write!(buffer, "{number}").expect(INTO_MEMORY),
                        Value::Float(number) => serde_json::to_writer(&mut *buffer, number).expect(INTO_MEMORY),
                    }
                    put(name.as_bytes(), buffer);
                }
                return;
            }
        }
        put(PAYLOAD, buffer);
    }

    /// Passes `bytes`, which are already a payload, to `put` as the entry's single field.
    pub fn payload(bytes: &[u8], mut put: impl FnMut(&[u8], &[u8])) {
        put(PAYLOAD, bytes);
    }
}

/// The fields of a payload in their order. The caller ensures that names are unique.
struct Payload<'a>(&'a [(&'a str, Value<'a>)]);

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_json_calls_a_number_is_taken_for_one() {
        for (text, expected) in [
            ("548.80", Value::Float(548.8)),
            ("0.05", Value::Float(0.05)),
            ("-3", Value::Float(-3.0)),
            ("0", Value::Whole(0)),
            ("1723161254024619568", Value::Whole(1_723_161_254_024_619_568)),
            ("1e3", Value::Float(1000.0)),
        ] {
            assert_eq!(Value::guess(text), expected, "{text}");
        }
        for text in
            ["", "-", "007", "+1", ".5", "5.", "nan", "1e999", "0x10", "20200101 170000065", "99999999999999999999"]
        {
            assert_eq!(Value::guess(text), Value::Text(text), "{text}");
        }
    }

    #[test]
    fn the_layouts_hold_the_same_values() {
        let tick = [("symbol", Value::Text("M\"&M")), ("price", Value::Float(548.85)), ("volume", Value::Whole(7))];
        let mut fields = Vec::new();
        for layout in ["json", "flat", "msgpack"] {
            let put = |name: &[u8], value: &[u8]| fields.push((name.to_vec(), value.to_vec()));
            Encoder::new(layout.parse().unwrap()).encode(&tick, put);
        }
        let expected = serde_json::json!({ "symbol": "M\"&M", "price": 548.85, "volume": 7 });
        let names: Vec<_> = fields.iter().map(|(name, _)| str::from_utf8(name).unwrap()).collect();
        assert_eq!(names, ["data", "symbol", "price", "volume", "data"]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&fields[0].1).unwrap(), expected);
        assert_eq!(rmp_serde::from_slice::<serde_json::Value>(&fields[4].1).unwrap(), expected);
        assert_eq!((&fields[1].1[..], &fields[2].1[..], &fields[3].1[..]), (&b"M\"&M"[..], &b"548.85"[..], &b"7"[..]));
    }
}
