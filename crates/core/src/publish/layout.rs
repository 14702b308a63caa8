//! The layout of alerts in their stream: fields, or one JSON object with further members in the names of its readers.
//!
//! What holds: an alert is read back as it was written, whatever the layout. A reader knows from an entry alone which
//! layout it has, so the layout may change in the middle of a stream. An object has all fields of an alert under their own
//! names; those whose names `[alerts.map]` takes for something else are in its member `tickhound`.

use std::{borrow::Cow, fmt};

use serde::{
    Serialize,
    de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
    ser::Serializer,
};

use super::{json, json_value};
use crate::{
    config::{
        AlertsConfig,
        alerts::{AlertsLayout, MappedValue},
        nearest,
    },
    event::{Alert, Direction},
    text::printable_json,
    venue,
};

/// The member with the fields whose names are taken.
const OWN: &str = "tickhound";

/// The most members that `[alerts.map]` may add. Readers have some ten names of their own.
pub const MAPPED_MAX: usize = 64;

/// The fields that follow those of [`ALERT_FIELDS`] in alerts that have a value for them.
pub const OPTIONAL_FIELDS: [&str; 3] = ["reference", "group", "members"];

/// The fields of an alert in its stream, in their order. Alerts of shadows also have `shadow_of`.
pub const ALERT_FIELDS: [&str; 18] = [
    "id",
    "detector",
    "plugin",
    "version",
    "symbol",
    "time",
    "price",
    "confidence",
    "direction",
    "evidence",
    "entry",
    "lag_ms",
    "recovered",
    "stale",
    "venue",
    "sha256",
    "params_hash",
    "generation",
];

/// The field that alerts of shadows have as well.
const SHADOW_OF: &str = "shadow_of";

/// What a placeholder may name beside the fields of an alert.
const DERIVED: [&str; 6] = ["DETECTOR", "name", "signal", "time_ms", "time_s", "time_iso"];

/// How a stream of alerts is written.
#[derive(Debug, Default)]
pub struct AlertLayout {
    /// The field that holds the object; `None` if each value is a field.
    document: Option<String>,
    map: Vec<(String, Mapped)>,
}

/// The value of a further member.
#[derive(Debug)]
enum Mapped {
    /// The same for all alerts, as JSON.
    Constant(String),
    /// A word for each direction, as JSON: up, down, none.
    Words([String; 3]),
    /// Parts of a text. A single placeholder has the type of its value.
    Template(Vec<Part>),
}

#[derive(Debug)]
enum Part {
    Text(String),
    Field(&'static str),
    Derived(&'static str),
    /// A number of the evidence.
    Evidence(String),
}

impl AlertLayout {
    /// Compiles the layout of `[alerts]`.
    ///
    /// # Errors
    /// Names the key of `[alerts]` and what is wrong with it.
    pub fn compile(config: &AlertsConfig) -> Result<Self, String> {
        let document = match config.layout {
            AlertsLayout::Fields => None,
            AlertsLayout::Json => Some(config.field.clone()),
        };
        if ALERT_FIELDS.iter().chain(&OPTIONAL_FIELDS).any(|field| config.field == *field) || config.field == SHADOW_OF
        {
            // A reader takes such an entry for one of the other layout.
            return Err(format!(
                "alerts.field is `{}`, which is a field of alerts; expected another name",
                config.field
            ));
        }
        if config.map.len() > MAPPED_MAX {
            return Err(format!("alerts.map has {} members, at most {MAPPED_MAX} are allowed", config.map.len()));
        }
        let mut map = Vec::new();
        for (name, value) in &config.map {
            if name.is_empty() || name == OWN {
                return Err(format!("alerts.map.{name}: this name can't be used"));
            }
            if name == SHADOW_OF {
                // Each alert would look like one of a shadow.
                return Err(format!("alerts.map.{name}: this name is for alerts of shadows; expected another one"));
            }
            map.push((name.clone(), Mapped::compile(value).map_err(|error| format!("alerts.map.{name}: {error}"))?));
        }
        Ok(Self { document, map })
    }

    /// The fields of the entry that holds an alert. `shadow_of` is the detector that a shadow runs beside.
    pub fn entry_fields<'a>(
        &'a self,
        alert: &'a Alert,
        shadow_of: Option<&'a str>,
    ) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        let own = alert.fields().into_iter().chain(shadow_of.map(|name| (SHADOW_OF, name.into())));
        match &self.document {
            None => own.map(|(name, value)| (name.into(), value)).collect(),
            Some(field) => {
                vec![(field.as_str().into(), self.document(alert, &own.collect::<Vec<_>>()).into())]
            }
        }
    }

    fn document(&self, alert: &Alert, own: &[(&'static str, Cow<'_, str>)]) -> String {
        let is_taken = |name: &str| self.map.iter().any(|(mapped, _)| mapped == name);
        let member = |name: &str, value: &str| format!("{}:{value}", json(&name));
        let mut members = Vec::with_capacity(own.len() + self.map.len());
        let mut taken = Vec::new();
        for (name, value) in own {
            let list = if is_taken(name) { &mut taken } else { &mut members };
            list.push(member(name, &json_value(name, value)));
        }
        members.extend(self.map.iter().map(|(name, mapped)| member(name, &mapped.json(alert, own))));
        if !taken.is_empty() {
            members.push(member(OWN, &format!("{{{}}}", taken.join(","))));
        }
        printable_json(&format!("{{{}}}", members.join(","))).into_owned()
    }
}

impl Mapped {
    fn compile(value: &MappedValue) -> Result<Self, String> {
        Ok(match value {
            MappedValue::Flag(flag) => Self::Constant(json(flag)),
            MappedValue::Integer(number) => Self::Constant(json(number)),
            MappedValue::Number(number) if !number.is_finite() => {
                return Err(format!("`{number}` has no form in JSON; expected a finite number"));
            }
            MappedValue::Number(number) => Self::Constant(json(number)),
            MappedValue::Directions(words) => Self::Words([&words.up, &words.down, &words.none].map(json)),
            MappedValue::Text(text) => Self::Template(parse(text)?),
        })
    }

    fn json(&self, alert: &Alert, own: &[(&'static str, Cow<'_, str>)]) -> String {
        match self {
            Self::Constant(json) => json.clone(),
            Self::Words([up, down, none]) => match alert.direction {
                Direction::Up => up.clone(),
                Direction::Down => down.clone(),
                Direction::None => none.clone(),
            },
            Self::Template(parts) => match &parts[..] {
                [part] => part.json(alert, own),
                parts => json(&parts.iter().map(|part| part.text(alert, own)).collect::<String>()),
            },
        }
    }
}

impl Part {
    /// The value with its type.
    fn json(&self, alert: &Alert, own: &[(&'static str, Cow<'_, str>)]) -> String {
        match self {
            Self::Field(name) => json_value(name, &self.text(alert, own)),
            Self::Derived("time_ms") => (alert.time / 1_000_000).to_string(),
            Self::Derived("time_s") => json(&seconds(alert.time)),
            Self::Evidence(_) => match self.text(alert, own) {
                text if text.is_empty() => "null".into(),
                text => text.into_owned(),
            },
            Self::Text(_) | Self::Derived(_) => json(&self.text(alert, own)),
        }
    }

    /// The value as a part of a text.
    fn text<'a>(&'a self, alert: &'a Alert, own: &'a [(&'static str, Cow<'_, str>)]) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Field(name) => own.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value).into(),
            Self::Evidence(name) => {
                let value = alert.evidence.iter().find(|(known, value)| known == name && value.is_finite());
                value.map_or_else(String::new, |(_, value)| json(value)).into()
            }
            Self::Derived("DETECTOR") => alert.detector.to_uppercase().into(),
            Self::Derived("name") => venue::split(&alert.symbol).1.into(),
            Self::Derived("signal") => match alert.direction {
                Direction::Up => "BUY".into(),
                Direction::Down => "SELL".into(),
                Direction::None => "NEUTRAL".into(),
            },
            Self::Derived("time_ms") => (alert.time / 1_000_000).to_string().into(),
            Self::Derived("time_s") => json(&seconds(alert.time)).into(),
            Self::Derived(_) => {
                let time = jiff::Timestamp::from_nanosecond(i128::from(alert.time));
                time.map_or_else(|_| String::new(), |time| format!("{time:.3}")).into()
            }
        }
    }
}

/// The time in seconds, exact to the microsecond: a double does not hold the nanoseconds.
fn seconds(time: u64) -> f64 {
    (time / 1000) as f64 / 1e6
}

/// Parses a text with placeholders in braces; two braces stand for one.
fn parse(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            plain.push_str(brace);
            rest = after;
            continue;
        }
        let Some((name, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err(format!("`{text}` has a single `{brace}`; write it twice to mean the character"));
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(placeholder(name)?);
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

fn placeholder(name: &str) -> Result<Part, String> {
    let find = |names: &[&'static str]| names.iter().find(|known| **known == name).copied();
    if let Some(number) = name.strip_prefix("evidence.").filter(|number| !number.is_empty()) {
        return Ok(Part::Evidence(number.to_owned()));
    }
    let field = find(&ALERT_FIELDS).or_else(|| find(&OPTIONAL_FIELDS)).map(Part::Field);
    field.or_else(|| find(&DERIVED).map(Part::Derived)).ok_or_else(|| {
        let all = || ALERT_FIELDS.into_iter().chain(OPTIONAL_FIELDS).chain(DERIVED);
        let near = nearest(name, all()).map(|near| format!("; did you mean `{{{near}}}`?")).unwrap_or_default();
        let all: Vec<&str> = all().collect();
        format!("`{{{name}}}` is not a placeholder, expected one of {}, evidence.NAME{near}", all.join(", "))
    })
}

/// Reads the fields of an alert from an object that [`AlertLayout`] has written; `None` if the text is not one.
pub fn read_document(text: &str) -> Option<Vec<(String, String)>> {
    let JsonNode::Object(mut members) = serde_json::from_str(text).ok()? else { return None };
    let own = members.iter().position(|(name, _)| name == OWN).map(|at| members.swap_remove(at).1);
    let own = if let Some(JsonNode::Object(own)) = own { own } else { Vec::new() };
    let field = |name: &str| {
        let named = |members: &[(String, JsonNode)]| {
            members.iter().find(|(known, _)| known == name).map(|(_, node)| node.text())
        };
        Some((name.to_owned(), named(&own).or_else(|| named(&members))?))
    };
    let fields: Vec<(String, String)> =
        ALERT_FIELDS.into_iter().chain(OPTIONAL_FIELDS).chain([SHADOW_OF]).filter_map(field).collect();
    let has = |name: &str| fields.iter().any(|(known, value)| known == name && !value.is_empty());
    ["id", "detector", "symbol", "entry"].into_iter().all(has).then_some(fields)
}

/// A value of JSON, with the members of objects in their order.
#[derive(Debug)]
enum JsonNode {
    Text(String),
    Whole(u64),
    Negative(i64),
    Number(f64),
    Flag(bool),
    Null,
    Object(Vec<(String, Self)>),
    /// Nothing that an alert contains.
    List,
}

impl JsonNode {
    /// The value as a field of a stream has it.
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Whole(number) => number.to_string(),
            Self::Negative(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Flag(flag) => u8::from(*flag).to_string(),
            Self::Null | Self::List => String::new(),
            Self::Object(_) => json(self),
        }
    }
}

impl Serialize for JsonNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Whole(number) => serializer.serialize_u64(*number),
            Self::Negative(number) => serializer.serialize_i64(*number),
            Self::Number(number) => serializer.serialize_f64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Null | Self::List => serializer.serialize_unit(),
            Self::Object(members) => serializer.collect_map(members.iter().map(|(name, node)| (name, node))),
        }
    }
}

impl<'de> Deserialize<'de> for JsonNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = JsonNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<JsonNode, E> {
        Ok(JsonNode::Flag(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<JsonNode, E> {
        Ok(JsonNode::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<JsonNode, E> {
        Ok(JsonNode::Negative(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<JsonNode, E> {
        Ok(JsonNode::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<JsonNode, E> {
        Ok(JsonNode::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<JsonNode, E> {
        Ok(JsonNode::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<JsonNode, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(JsonNode::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<JsonNode, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(JsonNode::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish;

    fn alert() -> Alert {
        Alert {
            symbol: "NFO:NIFTY25NOV25750PE".into(),
            time: 1_763_959_531_250_000_001,
            price: 101.0,
            evidence: vec![("level".into(), 100.0), ("atr".into(), 0.35), ("broken".into(), f64::NAN)],
            ..publish::tests::alert()
        }
    }

    fn layout(map: &str) -> Result<AlertLayout, String> {
        let config = format!("layout = \"json\"\n[map]\n{map}");
        let config: AlertsConfig = toml::from_str(&config).map_err(|error| error.to_string())?;
        AlertLayout::compile(&config)
    }

    fn document(map: &str, alert: &Alert) -> serde_json::Value {
        let layout = layout(map).unwrap();
        let fields = layout.entry_fields(alert, None);
        let [(name, value)] = &fields[..] else { panic!("{fields:?}") };
        assert_eq!(name, "data");
        serde_json::from_str(value).unwrap()
    }

    fn own(alert: &Alert, shadow_of: Option<&str>) -> Vec<(String, String)> {
        let layout = AlertLayout::default();
        let fields = layout.entry_fields(alert, shadow_of);
        fields.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }

    #[test]
    fn the_names_of_fields_are_those_that_an_alert_has() {
        let names = |alert: &Alert| alert.fields().iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(&alert()), ALERT_FIELDS);
        let mut full = alert();
        full.origin.reference = "00112233aabb".into();
        (full.group, full.members) = ("NIFTY".into(), vec!["A".into(), "B".into()]);
        assert!(full.to_json().contains(r#""group":"NIFTY","members":["A","B"]"#), "{}", full.to_json());
        assert_eq!(names(&full), [&ALERT_FIELDS[..], &OPTIONAL_FIELDS].concat());
    }

    #[test]
    fn members_have_the_names_and_types_that_readers_expect() {
        let map = r#"
            alert_id = "{id}"
            pattern = "{detector}"
            PATTERN = "{DETECTOR}!"
            signal = "{signal}"
            side = { up = "long", down = "short", none = "" }
            last_price = "{price}"
            timestamp_ms = "{time_ms}"
            timestamp = "{time_s}"
            at = "{time_iso}"
            name = "{name}"
            exchange = "{venue}"
            level = "{evidence.level}"
            broken = "{evidence.broken}"
            text = "{{{symbol}}} at {price} ({evidence.atr}{evidence.none})"
            source = "tickhound"
            version_of_format = 2
            weight = 0.5
            live = true
            late = "{stale}"
            nothing = ''"#;
        let written = document(map, &alert());
        for (name, expected) in [
            ("alert_id", serde_json::json!("5-0/breakout/0")),
            ("pattern", "breakout".into()),
            ("PATTERN", "BREAKOUT!".into()),
            ("signal", "BUY".into()),
            ("side", "long".into()),
            ("last_price", 101.into()),
            ("timestamp_ms", 1_763_959_531_250_u64.into()),
            ("timestamp", 1_763_959_531.25.into()),
            ("at", "2025-11-24T04:45:31.250Z".into()),
            ("name", "NIFTY25NOV25750PE".into()),
            ("exchange", "NFO".into()),
            ("level", 100.0.into()),
            ("broken", serde_json::Value::Null),
            ("text", "{NFO:NIFTY25NOV25750PE} at 101 (0.35)".into()),
            ("source", "tickhound".into()),
            ("version_of_format", 2.into()),
            ("weight", 0.5.into()),
            ("live", true.into()),
            ("late", false.into()),
            ("nothing", "".into()),
            ("confidence", 0.9473.into()),
            ("time", 1_763_959_531_250_000_001_u64.into()),
            ("recovered", true.into()),
        ] {
            assert_eq!(written[name], expected, "{name}");
        }
        let signal = |direction| document("signal = \"{signal}\"", &Alert { direction, ..alert() })["signal"].clone();
        assert_eq!([Direction::Down, Direction::None].map(signal), ["SELL", "NEUTRAL"]);
    }

    /// What was written is what is read, even if readers need the names of an alert's fields for something else.
    #[test]
    fn an_alert_is_read_back_whatever_its_layout() {
        let odd = Alert {
            symbol: "A\"\\{}".into(),
            price: f64::NAN,
            confidence: 1.0,
            evidence: vec![
                ("z".into(), 1e300),
                ("a".into(), -0.1),
                ("\u{e9}".into(), f64::INFINITY),
                ("n".into(), 5e-324),
            ],
            ..alert()
        };
        for alert in [alert(), odd] {
            for map in ["", "direction = \"{signal}\"\nid = 7\nsymbol = \"{name}\"\ntime = \"{time_s}\"\nmore = 1"] {
                for shadow_of in [None, Some("breakout")] {
                    let layout = layout(map).unwrap();
                    let fields = layout.entry_fields(&alert, shadow_of);
                    assert_eq!(read_document(&fields[0].1).unwrap(), own(&alert, shadow_of), "{}", fields[0].1);
                }
            }
        }
    }

    #[test]
    fn other_objects_are_not_alerts() {
        for text in [
            "{}",
            "[]",
            "{\"id\":\"1\",\"detector\":\"d\"}",
            r#"{"alert_id":"1","symbol":"NIFTY","pattern":"breakout","confidence":0.9,"timestamp":1}"#,
            "{\"id\":\"1\",\"detector\":\"d\",\"symbol\":\"s\",\"entry\":\"1-1\"",
            &format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
        ] {
            assert_eq!(read_document(text), None, "{}", &text[..text.len().min(80)]);
        }
        let minimal = r#"{"id":"1","detector":"d","symbol":"s","entry":"1-1","evidence":[1],"tickhound":5}"#;
        assert_eq!(read_document(minimal).unwrap().len(), 5);
    }

    #[test]
    fn a_wrong_map_is_rejected_with_the_nearest_valid_name() {
        let own = toml::from_str("layout = \"json\"\nfield = \"id\"").unwrap();
        assert!(AlertLayout::compile(&own).unwrap_err().contains("expected another name"));
        let many = (0..=MAPPED_MAX).map(|n| format!("m{n} = 1")).collect::<Vec<_>>().join("\n");
        for (map, expected) in [
            ("a = \"{confidense}\"", "alerts.map.a: `{confidense}` is not a placeholder"),
            ("a = \"{confidense}\"", "did you mean `{confidence}`?"),
            ("a = \"{evidence.}\"", "is not a placeholder"),
            ("a = \"{price\"", "has a single `{`"),
            ("a = \"price}\"", "has a single `}`"),
            ("tickhound = 1", "this name can't be used"),
            ("shadow_of = \"\"", "alerts.map.shadow_of: this name is for alerts of shadows"),
            ("a = nan", "alerts.map.a: `NaN` has no form in JSON; expected a finite number"),
            ("a = -inf", "alerts.map.a: `-inf` has no form in JSON"),
            ("a = [1]", "expected a text, a number"),
            ("a = { up = \"BUY\" }", "expected a text, a number"),
            (&many, "at most 64 are allowed"),
        ] {
            let error = layout(map).unwrap_err();
            assert!(error.contains(expected), "{map}: {error}");
        }
    }
}
