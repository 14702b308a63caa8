//! The host's checks of a manifest and a configuration, for the native harness.
//!
//! These checks panic where the host rejects the detector.

use super::{Manifest, Value};
use crate::contract::{Param, Value as Typed};

impl Manifest {
    /// Panics if the manifest contradicts itself.
    pub(crate) fn check(&self) {
        let manifest = &self.0;
        assert!(is_name(&manifest.name), "a detector's name is of lower-case letters, digits, `_` and `-`");
        assert!(!manifest.version.is_empty(), "the manifest has no version");
        assert!(!manifest.description.is_empty(), "the manifest has no description");
        let computed = manifest.computed.iter().map(|computed| computed.name.as_str());
        no_twins("column", manifest.columns.iter().map(|column| column.name.as_str()).chain(computed));
        no_twins("text", manifest.texts.iter().map(|text| text.name.as_str()));
        no_twins("parameter", manifest.params.iter().map(|param| param.name.as_str()));
        for param in &manifest.params {
            accept(param, param.default.clone());
        }
    }

    /// Returns the value that the detector gets for `name = value` in a configuration.
    pub(crate) fn accept(&self, name: &str, value: Value) -> Typed {
        let Some(param) = self.0.params.iter().find(|param| param.name == name) else {
            panic!("the manifest has no parameter `{name}`")
        };
        accept(param, value.0)
    }
}

fn accept(param: &Param, value: Typed) -> Typed {
    let name = &param.name;
    let value = match (&param.default, value) {
        (Typed::Number(_), Typed::Integer(whole)) => Typed::Number(whole as f64),
        (_, value) => value,
    };
    let number = match (&param.default, &value) {
        (Typed::Number(_), Typed::Number(number)) => Some(*number),
        (Typed::Integer(_), Typed::Integer(whole)) => Some(*whole as f64),
        (Typed::Flag(_), Typed::Flag(_)) => None,
        (Typed::Text(_), Typed::Text(text)) => {
            let any = param.choices.is_empty();
            assert!(any || param.choices.contains(text), "parameter `{name}` can't be {text:?}");
            None
        }
        (default, value) => panic!("parameter `{name}` is of the type of {default:?}, not {value:?}"),
    };
    if let Some(number) = number {
        assert!(number.is_finite(), "parameter `{name}` is finite");
        let (minimum, maximum) = (param.minimum.unwrap_or(f64::MIN), param.maximum.unwrap_or(f64::MAX));
        assert!((minimum..=maximum).contains(&number), "parameter `{name}` is in {minimum}..={maximum}, not {number}");
    }
    value
}

fn no_twins<'a>(what: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = Vec::new();
    for name in names {
        assert!(!name.is_empty(), "a {what} has no name");
        assert!(!seen.contains(&name), "the {what} `{name}` is in the manifest twice");
        seen.push(name);
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}
