//! The value of a parameter.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

/// The value of a parameter. Its type is that of the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// A text.
    Text(String),
}

impl fmt::Display for Value {
    /// Writes the value like TOML and JSON do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        json_value(self).fmt(f)
    }
}

/// Returns the value as JSON.
pub fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Flag(v) => json!(v),
        Value::Integer(v) => json!(v),
        Value::Number(v) => json!(v),
        Value::Text(v) => json!(v),
    }
}
