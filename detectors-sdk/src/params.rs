//! Deserializes the contract's list of named values into the author's `Params`.
//!
//! Each value must have a field, and each field a value. Otherwise the error names the parameter.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess, Unexpected,
        Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use crate::contract::Value;

const NO_FIELD: &str = "`Params` has no such field";

type Named = (String, Value);

/// Deserializes the values into `P`, or returns the reason why that is not possible.
pub(crate) fn from_values<P: DeserializeOwned>(values: &[Named]) -> Result<P, String> {
    P::deserialize(Params(values)).map_err(|error| error.to_string())
}

struct Params<'a>(&'a [Named]);

impl<'de> Deserializer<'de> for Params<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { rest: self.0.iter(), current: None })
    }

    /// A detector without parameters has `type Params = ()`.
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.first() {
            Some((name, _)) => Err(Error::custom(format_args!("parameter `{name}`: {NO_FIELD}"))),
            None => visitor.visit_unit(),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Fields<'a> {
    rest: std::slice::Iter<'a, Named>,
    current: Option<&'a Named>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.next();
        let Some((name, _)) = self.current else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let (name, value) = self.current.expect("serde asks for a value after its key");
        seed.deserialize(Field(value)).map_err(|error| Error::custom(format_args!("parameter `{name}`: {error}")))
    }
}

struct Field<'a>(&'a Value);

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Flag(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Number(value) => visitor.visit_f64(*value),
            Value::Text(value) => visitor.visit_str(value),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Text(value) => visitor.visit_enum(value.as_str().into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    /// Called when `Params` has no field of that name.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom(NO_FIELD))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier
    }
}

/// An error message. It is not serde's own type, which also formats floats: that code is a third of a small detector.
#[derive(Debug)]
struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self(format!("{} where `Params` wants {expected}", kind(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match unexpected {
            Unexpected::Signed(whole) => Self(format!("{whole} where `Params` wants {expected}")),
            Unexpected::Str(text) => Self(format!("`{text}` where `Params` wants {expected}")),
            other => Self::invalid_type(other, expected),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("`Params` has a field `{field}`, the manifest has no such parameter"))
    }
}

fn kind(value: Unexpected<'_>) -> &'static str {
    match value {
        Unexpected::Bool(_) => "a flag",
        Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a number",
        Unexpected::Str(_) => "a text",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Rolling,
        OpeningRange,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct All {
        on: bool,
        bars: u16,
        window_s: f64,
        start: String,
        mode: Mode,
        cap: Option<f64>,
    }

    fn values(changed: &str, value: Option<Value>) -> Vec<Named> {
        let text = |text: &str| Value::Text(text.into());
        let mut values = vec![
            ("on".to_owned(), Value::Flag(true)),
            ("bars".to_owned(), Value::Integer(14)),
            ("window_s".to_owned(), Value::Number(2.5)),
            ("start".to_owned(), text("09:15")),
            ("mode".to_owned(), text("opening-range")),
            ("cap".to_owned(), Value::Number(4.0)),
        ];
        values.retain(|(name, _)| name != changed);
        values.extend(value.map(|value| (changed.to_owned(), value)));
        values
    }

    #[test]
    fn every_type_of_value_fills_its_kind_of_field() {
        let all =
            All { on: true, bars: 14, window_s: 2.5, start: "09:15".into(), mode: Mode::OpeningRange, cap: Some(4.0) };
        assert_eq!(from_values(&values("", None)), Ok(all));
        let whole: All = from_values(&values("window_s", Some(Value::Integer(3)))).unwrap();
        assert_eq!(whole.window_s, 3.0);
    }

    #[test]
    fn a_misfit_is_told_in_a_sentence_that_names_the_parameter() {
        let text = |text: &str| Some(Value::Text(text.into()));
        for (name, value, told) in [
            ("on", Some(Value::Integer(1)), "parameter `on`: an integer where `Params` wants a boolean"),
            ("bars", Some(Value::Number(2.0)), "parameter `bars`: a number where `Params` wants u16"),
            ("bars", Some(Value::Integer(-1)), "parameter `bars`: -1 where `Params` wants u16"),
            ("window_s", text("9"), "parameter `window_s`: a text where `Params` wants f64"),
            ("mode", Some(Value::Flag(true)), "parameter `mode`: a flag where `Params` wants enum Mode"),
            ("mode", text("x"), "parameter `mode`: unknown variant `x`, expected `rolling` or `opening-range`"),
            ("start", None, "`Params` has a field `start`, the manifest has no such parameter"),
            ("new", Some(Value::Flag(true)), "parameter `new`: `Params` has no such field"),
        ] {
            assert_eq!(from_values::<All>(&values(name, value)).unwrap_err(), told);
        }
    }

    #[test]
    fn no_parameters_may_be_a_unit_and_a_unit_takes_none() {
        assert_eq!(from_values::<()>(&[]), Ok(()));
        let error = from_values::<()>(&[("n".to_owned(), Value::Integer(1))]).unwrap_err();
        assert_eq!(error, "parameter `n`: `Params` has no such field");
    }
}
