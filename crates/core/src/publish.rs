//! The forms in which alerts and dead letters are written: stream fields, JSON, log line.

mod layout;
mod raw;

use std::borrow::Cow;

use serde::{
    de::IgnoredAny,
    ser::{Serialize, Serializer},
};

pub use self::{
    layout::{ALERT_FIELDS, AlertLayout, MAPPED_MAX, OPTIONAL_FIELDS, read_document},
    raw::{Fields, WHOLE_BYTES_MAX, raw_fields, raw_json},
};
use crate::{
    event::{Alert, DeadLetter, DetectorFault, Direction},
    text::printable_json,
};

impl Alert {
    /// The names and values of the fields in the alerts stream: those that each alert has, and then [`OPTIONAL_FIELDS`] that
    /// have a value.
    pub fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let [group, members] = self.group_fields();
        let optional = [("reference", Cow::from(self.origin.reference.as_str())), group, members];
        self.own_fields().into_iter().chain(optional.into_iter().filter(|(_, value)| !value.is_empty())).collect()
    }

    /// The fields of an alert of a group; empty if it is not one.
    fn group_fields(&self) -> [(&'static str, Cow<'_, str>); 2] {
        let members = if self.members.is_empty() { String::new() } else { json(&self.members) };
        [("group", self.group.as_str().into()), ("members", members.into())]
    }

    /// The fields that each alert has.
    fn own_fields(&self) -> [(&'static str, Cow<'_, str>); ALERT_FIELDS.len()] {
        [
            ("id", self.id.as_str().into()),
            ("detector", self.detector.as_str().into()),
            ("plugin", self.plugin.as_str().into()),
            ("version", self.version.as_str().into()),
            ("symbol", self.symbol.as_str().into()),
            ("time", self.time.to_string().into()),
            ("price", if self.price.is_finite() { self.price.to_string().into() } else { "".into() }),
            ("confidence", self.confidence.to_string().into()),
            ("direction", self.direction.as_str().into()),
            ("evidence", json(&Evidence(&self.evidence)).into()),
            ("entry", self.entry.to_string().into()),
            ("lag_ms", self.lag_ms.to_string().into()),
            ("recovered", if self.recovered { "1" } else { "0" }.into()),
            ("stale", if self.stale { "1" } else { "0" }.into()),
            ("venue", self.venue.as_str().into()),
            ("sha256", self.origin.sha256.as_str().into()),
            ("params_hash", self.origin.params_hash.as_str().into()),
            ("generation", self.origin.generation.to_string().into()),
        ]
    }

    /// One JSON object with the keys of the stream's fields, as [`json_line`] writes it.
    pub fn to_json(&self) -> String {
        let fields = self.fields();
        json_line(fields.iter().map(|(name, value)| (*name, &**value)))
    }

    /// The log line, which is what people grep for.
    pub fn to_log_line(&self) -> String {
        log_line(&self.detector, &self.symbol, self.confidence)
    }

    /// The log line, with direction and price behind it.
    pub fn to_detailed_log_line(&self) -> String {
        let mut line = self.to_log_line();
        if self.direction != Direction::None {
            line.push_str(", ");
            line.push_str(self.direction.as_str());
        }
        if self.price.is_finite() {
            line.push_str(", at ");
            line.push_str(&self.price.to_string());
        }
        line
    }
}

/// The log line of an alert of which only these values are at hand, the same as [`Alert::to_log_line`].
pub fn log_line(detector: &str, symbol: &str, confidence: f64) -> String {
    format!("✅ [{}] {symbol} - DETECTED: {confidence:.2} confidence", detector.to_uppercase())
}

/// The fields of an alert that are the same however it is delivered, and whichever build of its detector raised it: all but
/// `lag_ms`, `recovered`, `stale`, `sha256`, `params_hash`, `generation` and `reference`. The last two are empty unless it is an
/// alert of a group.
pub fn content_fields(alert: &Alert) -> [(&'static str, Cow<'_, str>); 14] {
    let fields = alert.own_fields();
    let [id, detector, plugin, version, symbol, time, price, confidence, direction, evidence, entry, ..] = fields;
    let venue = ("venue", alert.venue.as_str().into());
    let [group, members] = alert.group_fields();
    [id, detector, plugin, version, symbol, time, price, confidence, direction, evidence, entry, venue, group, members]
}

impl DeadLetter {
    /// The names and values of the fields in the dead-letter stream.
    pub fn fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields = vec![("reason", self.reason.as_str().into()), ("entry", self.entry.to_string().into())];
        if let Some(DetectorFault { detector, plugin, version, sha256, params }) = &self.blamed {
            fields.push(("detector", detector.as_str().into()));
            fields.push(("plugin", plugin.as_str().into()));
            fields.push(("version", version.as_str().into()));
            fields.push(("sha256", sha256.as_str().into()));
            fields.push(("params", params.as_str().into()));
        }
        fields.push(("raw", self.raw.as_str().into()));
        fields
    }
}

/// Writes the fields of an entry of the alerts stream as one JSON object in one line, with numbers as numbers and the
/// evidence as an object, and `recovered` and `stale` as true or false.
///
/// Anyone may have added the entry: a value that is not JSON, or that has line breaks, is written as a text.
pub fn json_line<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let member = |(name, value): (&str, &str)| format!("{}:{}", json(&name), json_value(name, value));
    printable_json(&format!("{{{}}}", fields.map(member).collect::<Vec<_>>().join(","))).into_owned()
}

/// The value of a field as JSON, with the type that the field has in JSON.
fn json_value(name: &str, value: &str) -> String {
    match (name, value) {
        ("recovered" | "stale", "0") => "false".into(),
        ("recovered" | "stale", "1") => "true".into(),
        ("time" | "price" | "confidence" | "lag_ms" | "recovered" | "stale" | "generation", "") => "null".into(),
        (
            "time" | "price" | "confidence" | "lag_ms" | "recovered" | "stale" | "evidence" | "generation" | "members",
            value,
        ) if is_json_in_line(value) => value.to_owned(),
        _ => json(&value),
    }
}

fn is_json_in_line(text: &str) -> bool {
    !text.contains(['\n', '\r']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps of texts and numbers have a JSON form")
}

/// The evidence of an alert, which is serialized as an object in the detector's order.
struct Evidence<'a>(&'a [(String, f64)]);

impl Serialize for Evidence<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AlertOrigin, EntryId};

    pub(super) fn alert() -> Alert {
        Alert {
            id: "5-0/breakout/0".into(),
            detector: "breakout".into(),
            plugin: "breakout".into(),
            version: "0.1.0".into(),
            origin: AlertOrigin {
                sha256: "0123456789ab".into(),
                params_hash: "ba9876543210".into(),
                generation: 3,
                reference: String::new(),
            },
            symbol: "NIFTY25NOV25750PE".into(),
            venue: "NFO".into(),
            group: String::new(),
            members: Vec::new(),
            time: 1_700_000_000_000_000_001,
            price: 101.05,
            confidence: 0.9473,
            direction: Direction::Up,
            evidence: vec![("level".into(), 100.0), ("atr".into(), 0.35)],
            entry: EntryId { millis: 5, seq: 0 },
            lag_ms: 3,
            recovered: true,
            stale: false,
        }
    }

    #[test]
    fn the_log_line_is_the_one_that_users_grep_for() {
        assert_eq!(alert().to_log_line(), "✅ [BREAKOUT] NIFTY25NOV25750PE - DETECTED: 0.95 confidence");
    }

    #[test]
    fn stream_and_json_have_the_same_keys_in_the_same_order() {
        let alert = alert();
        let json = alert.to_json();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let fields = alert.fields();
        assert_eq!(value.as_object().unwrap().len(), fields.len());
        let mut position = 0;
        for (name, text) in fields {
            let key = format!("\"{name}\":");
            position += json[position..].find(&key).unwrap();
            let written = &value[name];
            let written = written.as_str().map_or_else(|| written.to_string(), str::to_owned);
            let same = match name {
                "evidence" => serde_json::from_str::<serde_json::Value>(&text).unwrap() == value[name],
                "recovered" | "stale" => value[name].as_bool() == Some(text == "1"),
                _ => written == text,
            };
            assert!(same, "{name}: {written} against {text}");
        }
    }
}
