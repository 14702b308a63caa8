//! Parameters: checks the values in `config.toml` against the declarations in a manifest.

use anyhow::{Result, bail};

use super::manifest::{self, Manifest, Param};
pub use super::value::{Value, json_value};
use tickhound_core::config::{Source, nearest};

/// Every parameter of a manifest with its value, in the order of the manifest.
pub type Params = Vec<(String, Value)>;

/// Checks the declarations of a plugin.
///
/// # Errors
/// Names the declaration that is incomplete, too long, or contradicts itself.
pub(crate) fn check_manifest(manifest: &Manifest) -> Result<()> {
    manifest::check::check(manifest)?;
    for param in &manifest.params {
        let default = default(param);
        if let Err(reason) = check_value(param, &default) {
            bail!("the default of parameter `{}` {reason}", param.name);
        }
    }
    Ok(())
}

/// Checks the parameters in `[detectors.NAME.params]`, and adds the plugin's defaults for those that are not given.
///
/// # Errors
/// Names the line and the expected value, and suggests the nearest name.
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
        let Some(value) = given.get(&param.name) else { return Ok(default(param)) };
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

/// Returns the parameters as a JSON object.
pub fn to_json(params: &Params) -> serde_json::Value {
    params.iter().map(|(name, value)| (name.clone(), json_value(value))).collect()
}

/// Returns the default of a parameter.
pub fn default(param: &Param) -> Value {
    param.default.clone()
}

/// Returns the type, range and unit of a parameter, in words.
pub fn expected(param: &Param) -> String {
    let kind = match &param.default {
        Value::Flag(_) => "true or false",
        Value::Integer(_) => "a whole number",
        Value::Number(_) => "a number",
        Value::Text(_) if param.choices.is_empty() => "a text",
        Value::Text(_) => return format!("one of \"{}\"", param.choices.join("\", \"")),
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

/// Converts a value to the type of a default, if it fits.
fn convert(value: &toml::Value, like: &Value) -> Option<Value> {
    Some(match (like, value) {
        (Value::Flag(_), toml::Value::Boolean(v)) => Value::Flag(*v),
        (Value::Integer(_), toml::Value::Integer(v)) => Value::Integer(*v),
        (Value::Number(_), toml::Value::Float(v)) => Value::Number(*v),
        (Value::Number(_), toml::Value::Integer(v)) => Value::Number(*v as f64),
        (Value::Text(_), toml::Value::String(v)) => Value::Text(v.clone()),
        _ => return None,
    })
}

/// Returns an error if the value is not allowed: the rest of a sentence that begins with the parameter's name.
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
