//! Reads the rows of a file of reference data: CSV, plain or compressed, or Parquet.

use std::{fs::File, sync::Arc};

use anyhow::{Result, bail};

use super::{CountingReader, Format, contained::contained, parquet, plain_text, table};
use tickhound_core::market::reference::TableSink;

/// Passes the header and the rows of a file to `sink`. The format is detected from the content.
///
/// # Errors
/// When the file can't be read, or `sink` can't use it.
pub fn read_reference(file: File, sink: &mut dyn TableSink) -> Result<()> {
    if parquet::is_parquet(&file) {
        return contained("the file", || parquet::pass_rows(file, sink));
    }
    let mut text = plain_text(CountingReader { file: Box::new(file), read: Arc::default() })?;
    match Format::of(text.fill_buf()?)? {
        Format::Csv { separator } => table::pass_rows(Box::new(text), separator, sink),
        Format::Lines => bail!("has lines of JSON, expected CSV or Parquet"),
    }
}
