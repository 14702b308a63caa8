//! The text of `config.toml`: it locates keys, and suggests the nearest valid name.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;
use toml::{
    Spanned, Table,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    origin::{Origins, in_table_of},
};
use crate::nearest::nearest;

/// Sections of tables with names of their own, and keys of which each such table has at least one.
pub(super) const NAMED_TABLES: [(&str, [&str; 2]); 3] =
    [("detectors", ["plugin", "shadow_of"]), ("groups", ["symbols", "by"]), ("context", ["symbol", "of"])];

/// The text of a configuration file.
#[derive(Clone, Debug)]
pub struct Source {
    file: PathBuf,
    text: String,
    origins: Origins,
}

impl Source {
    /// Takes the text of `file`, which must be valid TOML.
    pub(crate) fn parse(file: &Path, text: String) -> Result<Self> {
        let source = Self { file: file.to_path_buf(), text, origins: Origins::default() };
        match DeTable::parse(&source.text) {
            Ok(_) => Ok(source),
            Err(error) => Err(source.explain(&error)),
        }
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The path of the file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Sets where values come from that the file does not set.
    pub(super) fn set_origins(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// Where values come from that the file does not set.
    pub(super) fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The position of the key at `path`, as `file:line:column`, or of the nearest table above a key that is not in the
    /// file. Tables of a list, `[[name]]`, are addressed by their number, from 0. For a key that a variable sets, or a table that
    /// only variables have made, it is the variable's name, and for one that a shadow inherits, the position of the live detector's.
    pub fn at(&self, path: &[&str]) -> String {
        if let Some(variable) = self.origins.variable(path) {
            return variable.to_owned();
        }
        if let Some(live) = self.origins.live(path) {
            return self.at(&in_table_of(live, path));
        }
        // A table with a name of its own that only variables have made: the tables above it say nothing about it.
        let made = path
            .get(..2)
            .filter(|made| NAMED_TABLES.iter().any(|(section, _)| section == &made[0]) && !self.sets(made));
        if let Some(variable) = made.and_then(|made| self.origins.variable_within(made)) {
            return variable.to_owned();
        }
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

    /// Whether the file sets the key at `path`.
    pub fn sets(&self, path: &[&str]) -> bool {
        let table: Option<Table> = toml::from_str(&self.text).ok();
        let mut keys = path.iter();
        let first = keys.next().and_then(|key| table.as_ref()?.get(*key));
        keys.fold(first, |value, key| value?.as_table()?.get(*key)).is_some()
    }

    /// The configuration that the file alone makes.
    pub(super) fn config(&self) -> Result<Config> {
        self.read()
    }

    /// The keys of the file.
    pub(super) fn table(&self) -> Result<Table> {
        self.read()
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

/// Adds "did you mean" to serde's "unknown field `x`, expected one of `a`, `b`", and says in words what it says in Rust.
pub(super) fn with_suggestion(message: &str) -> String {
    let message = &in_words(message);
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

/// Replaces the names of Rust's types and of its enums in a message of serde.
fn in_words(message: &str) -> String {
    let message = match message.strip_prefix("unknown variant ") {
        Some(rest) => format!("unknown value {}", rest.replace("``", "`\"\"`")),
        None => message.trim_end().to_owned(),
    };
    if message == "duplicate key" {
        return "this table or key is in the file twice: merge the two".to_owned();
    }
    let Some((head, expected)) = message.rsplit_once(", expected ") else { return message };
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text",
        "a sequence" => "a list, such as [\"a\", \"b\"]",
        "a map" => "a table, such as { a = 1 }",
        other if other.starts_with("struct ") => "a table, such as { a = 1 }",
        other => other,
    };
    format!("{head}, expected {words}")
}
