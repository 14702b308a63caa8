//! One table of the file, as its checks see it: each error names a key by its line, its value and what is allowed.

use std::{fmt::Display, ops::RangeInclusive, path::Path};

use anyhow::{Result, anyhow, ensure};

use super::Source;

/// A table of `config.toml` that is being checked.
pub(super) struct Section<'a> {
    source: &'a Source,
    path: Vec<&'a str>,
    /// What errors put before the key.
    name: String,
}

impl<'a> Section<'a> {
    /// The table at `path`, which errors name by its full path.
    pub(super) fn new(source: &'a Source, path: &[&'a str]) -> Self {
        Self { source, path: path.to_vec(), name: path.join(".") }
    }

    /// The table at `path`, which errors call `name`.
    pub(super) fn named(source: &'a Source, path: &[&'a str], name: &str) -> Self {
        Self { source, path: path.to_vec(), name: name.to_owned() }
    }

    /// The position of the table itself, as `file:line:column`.
    pub(super) fn position(&self) -> String {
        self.source.at(&self.path)
    }

    /// The position of a key, as `file:line:column`.
    pub(super) fn at(&self, key: &str) -> String {
        let path: Vec<&str> = self.path.iter().copied().chain([key]).collect();
        self.source.at(&path)
    }

    /// Checks that a number is within `allowed`.
    pub(super) fn check_range<T>(&self, key: &str, value: T, allowed: RangeInclusive<T>) -> Result<()>
    where
        T: PartialOrd + Display,
    {
        let (name, least, most) = (&self.name, allowed.start(), allowed.end());
        ensure!(allowed.contains(&value), "{}: {name}.{key} is {value}, expected {least} to {most}", self.at(key));
        Ok(())
    }

    /// Checks that a number is within `allowed`; the error ends with the `reason` of the limit.
    pub(super) fn check_limit<T>(&self, key: &str, value: T, allowed: RangeInclusive<T>, reason: &str) -> Result<()>
    where
        T: PartialOrd + Display,
    {
        self.check_range(key, value, allowed).map_err(|error| anyhow!("{error}: {reason}"))
    }

    /// Checks that a text has at least one character.
    pub(super) fn check_not_empty(&self, key: &str, text: &str) -> Result<()> {
        ensure!(!text.is_empty(), "{}: {}.{key} is empty", self.at(key), self.name);
        Ok(())
    }

    /// Checks that a path ends in a file name.
    pub(super) fn check_file(&self, key: &str, file: &Path) -> Result<()> {
        let is_file = file.file_name().is_some();
        ensure!(is_file, "{}: {}.{key} is `{}`, expected a file", self.at(key), self.name, file.display());
        Ok(())
    }
}

/// Whether a name can be part of ids and keys, in which other characters are separators.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Whether a key for a path was left at its empty default.
pub fn is_unset(path: &Path) -> bool {
    path.as_os_str().is_empty()
}
