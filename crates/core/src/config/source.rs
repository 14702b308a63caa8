//! The text of `config.toml`: it locates keys, applies environment variables, and suggests the nearest valid name.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, de::DeserializeOwned};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::Config;

/// The prefix of environment variables that override a key of the file; they also contain `__`.
const ENVIRONMENT_PREFIX: &str = "TICKHOUND_";

/// The edit distance beyond which a suggestion is noise.
const NEAREST_MAX_DISTANCE: usize = 3;

/// The text of a configuration file.
#[derive(Clone, Debug)]
pub struct Source {
    file: PathBuf,
    text: String,
}

impl Source {
    /// Takes the text of `file`, which must be valid TOML.
    pub(crate) fn parse(file: &Path, text: String) -> Result<Self> {
        let source = Self { file: file.to_path_buf(), text };
        match DeTable::parse(&source.text) {
            Ok(_) => Ok(source),
            Err(error) => Err(source.explain(&error)),
        }
    }

    /// The path of the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The position of the key at `path`, as `file:line:column`, or of the nearest table above a key that is not in the
    /// file. Tables of a list, `[[name]]`, are addressed by their number, from 0.
    pub fn at(&self, path: &[&str]) -> String {
        match self.span(path) {
            Some(offset) => self.position(offset),
            None => self.file.display().to_string(),
        }
    }

    fn span(&self, path: &[&str]) -> Option<usize> {
        let root = DeTable::parse(&self.text).ok()?;
        let mut table: &DeTable<'_> = root.get_ref();
        let mut list: Option<&[Spanned<DeValue<'_>>]> = None;
        let mut offset = None;
        for name in path {
            let (start, value) = match list.take() {
                Some(list) => {
                    let Some(value) = name.parse().ok().and_then(|number: usize| list.get(number)) else { break };
                    (value.span().start, value.get_ref())
                }
                None => {
                    let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
                    (Spanned::span(key).start, value.get_ref())
                }
            };
            offset = Some(start);
            match value {
                DeValue::Table(inner) => table = inner,
                DeValue::Array(inner) => list = Some(inner),
                _ => break,
            }
        }
        offset
    }

    fn position(&self, offset: usize) -> String {
        let before = &self.text[..offset.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        format!("{}:{line}:{column}", self.file.display())
    }

    /// The configuration, with the overrides of environment variables applied.
    pub(super) fn config(&self, environment: impl Iterator<Item = (String, String)>) -> Result<Config> {
        let mut config: Config = self.read()?;
        let mut merged: Table = self.read()?;
        for (name, text) in environment {
            let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX).filter(|path| path.contains("__")) else { continue };
            let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            // `7` may be a number or a text, so both are tried: the key's type decides.
            let typed = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
            let candidates = typed.into_iter().chain([Value::String(text)]);
            let mut rejected = None;
            for candidate in candidates {
                let mut attempt = merged.clone();
                if !set(&mut attempt, &path, candidate) {
                    bail!("environment variable {name}: {} is not a section of config.toml", path[0]);
                }
                match Config::deserialize(Value::Table(attempt.clone())) {
                    Ok(accepted) => {
                        (config, merged, rejected) = (accepted, attempt, None);
                        break;
                    }
                    Err(error) => rejected = Some(rejected.unwrap_or(error)),
                }
            }
            if let Some(error) = rejected {
                bail!("environment variable {name}: {}", with_suggestion(error.message()));
            }
        }
        Ok(config)
    }

    /// What the text says, without environment variables.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &toml::de::Error) -> anyhow::Error {
        let at = error.span().map_or_else(|| self.file.display().to_string(), |span| self.position(span.start));
        anyhow!("{at}: {}", with_suggestion(error.message()))
    }
}

/// Sets the key at `path`; false if a part of the path is not a section.
fn set(table: &mut Table, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [key] => {
            table.insert(key.clone(), value);
            true
        }
        [section, rest @ ..] => {
            let inner = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().is_some_and(|inner| set(inner, rest, value))
        }
    }
}

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let suggestion = match (message.starts_with("unknown "), quoted.next()) {
        (true, Some(wrong)) => nearest(wrong, quoted),
        _ => None,
    };
    match suggestion {
        Some(name) => format!("{}; did you mean `{name}`?", message.trim_end()),
        None => message.trim_end().to_owned(),
    }
}

/// The candidate that `wrong` was probably meant to be, if one is similar enough.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= NEAREST_MAX_DISTANCE && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}
