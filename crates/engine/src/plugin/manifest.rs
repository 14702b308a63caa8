//! Checks a manifest, which a stranger may have written: how much is in it, and which texts.
//!
//! What holds: names are identifiers, and all other texts are short and can be printed. So they can be keys of the
//! configuration and fields of an alert, and no terminal obeys them.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{
    bindings::tickhound::detector::types::{Manifest, Param, ValueResult as DeclaredValue},
    texts::{is_identifier, is_printable, shown},
};

/// The maximum length of a name or a version, bytes. Each alert repeats those of the plugin.
const NAME_MAX: usize = 64;

/// The maximum length of a unit, bytes: a word or two.
const UNIT_MAX: usize = 32;

/// The maximum length of a sentence for users, bytes: five lines of a terminal.
const SENTENCE_MAX: usize = 512;

/// The maximum length of the default of a text parameter, bytes.
const DEFAULT_TEXT_MAX: usize = 1024;

/// The maximum number of columns. There are eight standard ones, and a feed has a few dozen fields.
const COLUMNS_MAX: usize = 64;

/// The maximum number of parameters. The detectors that ship have up to twenty.
const PARAMS_MAX: usize = 128;

/// The maximum number of valid texts of a parameter.
const CHOICES_MAX: usize = 64;

/// Checks the texts of a manifest, and how many there are.
///
/// # Errors
/// Names the first text that breaks a limit, and the limit.
pub(super) fn check(manifest: &Manifest) -> Result<()> {
    ensure!(!manifest.name.is_empty(), "the manifest has no name");
    check_identifier("the name", &manifest.name)?;
    ensure!(!manifest.version.is_empty(), "the manifest has no version");
    // A semantic version may have `+` and a build behind it.
    check_identifier("the version", &manifest.version.replacen('+', ".", 1))?;
    check_text("the description", &manifest.description, SENTENCE_MAX)?;
    check_count("columns", manifest.columns.len(), COLUMNS_MAX)?;
    check_names("column", manifest.columns.iter().map(|column| column.name.as_str()))?;
    check_count("parameters", manifest.params.len(), PARAMS_MAX)?;
    check_names("parameter", manifest.params.iter().map(|param| param.name.as_str()))?;
    manifest.params.iter().try_for_each(check_param)
}

fn check_param(param: &Param) -> Result<()> {
    let name = &param.name;
    check_text(&format!("the unit of parameter `{name}`"), &param.unit, UNIT_MAX)?;
    check_text(&format!("the doc of parameter `{name}`"), &param.doc, SENTENCE_MAX)?;
    check_count(&format!("choices of parameter `{name}`"), param.choices.len(), CHOICES_MAX)?;
    for choice in &param.choices {
        check_text(&format!("a choice of parameter `{name}`"), choice, NAME_MAX)?;
    }
    match &param.default {
        DeclaredValue::Text(text) => check_text(&format!("the default of parameter `{name}`"), text, DEFAULT_TEXT_MAX),
        DeclaredValue::Flag(_) | DeclaredValue::Integer(_) | DeclaredValue::Number(_) => Ok(()),
    }
}

fn check_names<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names {
        check_identifier(&format!("the name of a {kind}"), name)?;
        ensure!(seen.insert(name), "{kind} `{name}` is declared twice");
    }
    Ok(())
}

fn check_identifier(what: &str, text: &str) -> Result<()> {
    ensure!(
        is_identifier(text) && text.len() <= NAME_MAX,
        "{what} is `{}`, expected up to {NAME_MAX} letters, digits, -, _ and .",
        shown(text)
    );
    Ok(())
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    ensure!(text.len() <= bytes_max, "{what} has {} bytes, expected at most {bytes_max}", text.len());
    ensure!(is_printable(text), "{what} has characters that can't be printed: `{}`", shown(text));
    Ok(())
}

fn check_count(what: &str, count: usize, most: usize) -> Result<()> {
    ensure!(count <= most, "the manifest has {count} {what}, expected at most {most}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::bindings::tickhound::detector::types::Column;

    fn param(name: &str) -> Param {
        Param {
            name: name.into(),
            default: DeclaredValue::Text("on".into()),
            minimum: None,
            maximum: None,
            choices: vec!["on".into(), "off".into()],
            unit: "σ".into(),
            doc: "What it does – in one sentence.".into(),
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            name: "a-detector_2".into(),
            version: "1.2.0-rc.1+build.5".into(),
            description: "Détecte un écart ≥ 2 σ.".into(),
            columns: vec![Column { name: "bid".into(), required: true }],
            params: vec![param("mode"), param("half.life")],
            state_version: 1,
            state_outlives_params: false,
            wants_clock: false,
        }
    }

    /// Changes a sound manifest, and expects this error.
    fn rejected(expected: &str, change: impl Fn(&mut Manifest)) {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = check(&manifest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(is_printable(&error) && error.len() < 300, "{error}");
    }

    #[test]
    fn a_sound_manifest_is_accepted() {
        check(&manifest()).unwrap();
    }

    #[test]
    fn names_are_identifiers() {
        let escape = "a\u{1b}[2J";
        rejected("the manifest has no name", |manifest| manifest.name.clear());
        rejected(r"the name is `a\u{1b}[2J`, expected up to 64 letters", |manifest| manifest.name = escape.into());
        rejected("expected up to 64 letters", |manifest| manifest.name = "n".repeat(100_000));
        rejected("the version is `1.0 beta`", |manifest| manifest.version = "1.0 beta".into());
        rejected("the name of a column is ``", |manifest| manifest.columns[0].name.clear());
        rejected("the name of a parameter is `a=b`", |manifest| manifest.params[0].name = "a=b".into());
        rejected("parameter `mode` is declared twice", |manifest| manifest.params[1].name = "mode".into());
    }

    #[test]
    fn texts_are_short_and_can_be_printed() {
        rejected("the description has characters that can't be printed: `ok\\nDETECTED`", |manifest| {
            manifest.description = "ok\nDETECTED".into();
        });
        rejected("the description has 513 bytes, expected at most 512", |manifest| {
            manifest.description = "d".repeat(513);
        });
        rejected("the unit of parameter `mode` has characters", |manifest| {
            manifest.params[0].unit = "\u{202e}s".into();
        });
        rejected("the doc of parameter `half.life` has 1000000 bytes", |manifest| {
            manifest.params[1].doc = "d".repeat(1_000_000);
        });
        rejected("a choice of parameter `mode` has characters", |manifest| {
            manifest.params[0].choices.push("\u{200b}on".into());
        });
        rejected("the default of parameter `mode` has 1025 bytes", |manifest| {
            manifest.params[0].default = DeclaredValue::Text("t".repeat(1025));
        });
    }

    #[test]
    fn there_are_only_so_many_of_each() {
        rejected("the manifest has 65 columns, expected at most 64", |manifest| {
            manifest.columns = vec![manifest.columns[0].clone(); 65];
        });
        rejected("the manifest has 129 parameters", |manifest| manifest.params = vec![param("mode"); 129]);
        rejected("the manifest has 66 choices of parameter `mode`", |manifest| {
            manifest.params[0].choices.extend(vec!["on".to_owned(); 64]);
        });
    }
}
