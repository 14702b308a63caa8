//! `[reference]`: files with what is known of symbols beside their ticks.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};
use crate::market::reference::column_name;

/// `[reference]`: files with what is known of symbols beside their ticks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferenceConfig {
    /// CSV or Parquet files with a row for each symbol, relative to the project root. They are joined by symbol; of several values
    /// for one cell, that of the last file counts. Empty: there is no reference data.
    pub files: Vec<PathBuf>,
    /// The column with the symbol. Empty: the first that a file has of `symbol`, `tradingsymbol`, `trading_symbol` and
    /// `instrument`.
    pub symbol: String,
    /// The venues whose rows are used, in columns called `exchange`, `venue` or `exch_seg`. If a name is traded at several of them,
    /// the first one counts for symbols without a venue. Empty: all, of which the last row counts.
    pub venues: Vec<String>,
    /// Columns that hold texts, though all of their values look like numbers.
    pub texts: Vec<String>,
    /// The columns of the files, by the names that detectors have for them. Other columns keep their names, in lower case.
    pub columns: BTreeMap<String, String>,
}

impl ReferenceConfig {
    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["reference"]);
        for file in &self.files {
            section.check_file("files", file)?;
        }
        for venue in &self.venues {
            section.check_not_empty("venues", venue)?;
        }
        for (name, column) in &self.columns {
            let at = source.at(&["reference", "columns", name]);
            ensure!(
                *name == column_name(name) && !name.is_empty(),
                "{at}: reference.columns has `{name}`, expected a name in lower case, such as prev_close"
            );
            ensure!(!column.trim().is_empty(), "{at}: reference.columns.{name} is empty, expected a column of a file");
        }
        Ok(())
    }
}
