//! Parameters: what the manifest declares against what `config.toml` gives.

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::bindings::tickhound::detector::types::{Manifest, Param, ValueResult as Declared};
use tickhound_core::config::{Source, nearest};

/// The value of a parameter, of the type that its default has.
#[derive(Clone, Debug, PartialEq)]
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
    /// As TOML and JSON write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        json_value(self).fmt(f)
    }
}

/// Every parameter of a manifest with its value, in the manifest's order.
pub type Params = Vec<(String, Value)>;

/// Checks what a plugin declares.
///
/// # Errors
/// Says which declaration contradicts itself.
pub fn check_manifest(manifest: &Manifest) -> Result<()> {
    ensure!(!manifest.name.is_empty(), "it has no name");
    ensure!(!manifest.version.is_empty(), "it has no version");
    let mut seen = BTreeSet::new();
    for column in &manifest.columns {
        ensure!(seen.insert(&column.name), "column `{}` is asked for twice", column.name);
    }
    let mut seen = BTreeSet::new();
    for param in &manifest.params {
        ensure!(seen.insert(&param.name), "parameter `{}` is declared twice", param.name);
        let default = owned(&param.default);
        if let Err(reason) = check_value(param, &default) {
            bail!("the default of parameter `{}` {reason}", param.name);
        }
    }
    Ok(())
}

/// The parameters of `[detectors.NAME.params]`, checked, with the plugin's defaults for what it leaves out.
///
/// # Errors
/// Points at the line, says what was expected, and suggests the nearest name.
pub fn resolve(manifest: &Manifest, detector: &str, given: &toml::Table, source: &Source) -> Result<Params> {
    for name in given.keys() {
        if manifest.params.iter().any(|param| param.name == *name) {
            continue;
        }
        let at = source.at(&["detectors", detector, "params", name]);
        let names: Vec<&str> = manifest.params.iter().map(|param| param.name.as_str()).collect();
        match nearest(name, names.iter().copied()) {
            Some(near) => bail!("{at}: {} has no parameter `{name}`; did you mean `{near}`?", manifest.name),
            None if names.is_empty() => bail!("{at}: {} has no parameters", manifest.name),
            None => bail!("{at}: {} has no parameter `{name}`; it has: {}", manifest.name, names.join(", ")),
        }
    }
    let value_of = |param: &Param| {
        let Some(value) = given.get(&param.name) else { return Ok(owned(&param.default)) };
        let at = source.at(&["detectors", detector, "params", &param.name]);
        let Some(value) = convert(value, &param.default) else {
            bail!("{at}: parameter `{}` is {value}, expected {}", param.name, expected(param));
        };
        if let Err(reason) = check_value(param, &value) {
            bail!("{at}: parameter `{}` {reason}", param.name);
        }
        Ok(value)
    };
    manifest.params.iter().map(|param| Ok((param.name.clone(), value_of(param)?))).collect()
}

/// Parameters as a JSON object.
pub fn to_json(params: &Params) -> serde_json::Value {
    params.iter().map(|(name, value)| (name.clone(), json_value(value))).collect()
}

/// As JSON has it.
pub fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Flag(v) => json!(v),
        Value::Integer(v) => json!(v),
        Value::Number(v) => json!(v),
        Value::Text(v) => json!(v),
    }
}

/// The default of a parameter.
pub fn default(param: &Param) -> Value {
    owned(&param.default)
}

fn owned(value: &Declared) -> Value {
    match value {
        Declared::Flag(v) => Value::Flag(*v),
        Declared::Integer(v) => Value::Integer(*v),
        Declared::Number(v) => Value::Number(*v),
        Declared::Text(v) => Value::Text(v.clone()),
    }
}

fn convert(value: &toml::Value, like: &Declared) -> Option<Value> {
    Some(match (like, value) {
        (Declared::Flag(_), toml::Value::Boolean(v)) => Value::Flag(*v),
        (Declared::Integer(_), toml::Value::Integer(v)) => Value::Integer(*v),
        (Declared::Number(_), toml::Value::Float(v)) => Value::Number(*v),
        (Declared::Number(_), toml::Value::Integer(v)) => Value::Number(*v as f64),
        (Declared::Text(_), toml::Value::String(v)) => Value::Text(v.clone()),
        _ => return None,
    })
}

/// The rest of a sentence that begins with the parameter's name, when the value is not allowed.
fn check_value(param: &Param, value: &Value) -> Result<(), String> {
    let number = match value {
        Value::Flag(_) => return Ok(()),
        Value::Text(text) if param.choices.is_empty() || param.choices.contains(text) => return Ok(()),
        Value::Text(text) => return Err(format!("is \"{text}\", expected {}", expected(param))),
        Value::Integer(v) => *v as f64,
        Value::Number(v) => *v,
    };
    let inside = number.is_finite()
        && param.minimum.is_none_or(|least| number >= least)
        && param.maximum.is_none_or(|most| number <= most);
    if inside { Ok(()) } else { Err(format!("is {number}, expected {}", expected(param))) }
}

/// Type, range and unit of a parameter, in words.
pub fn expected(param: &Param) -> String {
    let kind = match &param.default {
        Declared::Flag(_) => "true or false",
        Declared::Integer(_) => "a whole number",
        Declared::Number(_) => "a number",
        Declared::Text(_) if param.choices.is_empty() => "a text",
        Declared::Text(_) => return format!("one of \"{}\"", param.choices.join("\", \"")),
    };
    let range = match (param.minimum, param.maximum) {
        (Some(least), Some(most)) => format!(" from {least} to {most}"),
        (Some(least), None) => format!(" of at least {least}"),
        (None, Some(most)) => format!(" of at most {most}"),
        (None, None) => String::new(),
    };
    let unit = if param.unit.is_empty() { String::new() } else { format!(" {}", param.unit) };
    format!("{kind}{range}{unit}")
}
