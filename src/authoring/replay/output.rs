//! The alerts of a replay in a file: JSON lines, CSV or Parquet, depending on its extension.
//!
//! The file contains the alerts without the fields that a live host adds about their delivery (`lag_ms`, `recovered`,
//! `stale`). The file appears only when it is complete.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use tickhound_core::{
    event::{Alert, Direction, EntryId},
    publish::{content_fields, json_line},
};

/// The rows that are encoded at once.
const ROWS: usize = 8192;

/// A file that is being written.
pub(crate) struct Output {
    destination: Destination,
    format: Format,
}

enum Destination {
    StandardOutput,
    /// `part` is written, and renamed to `file` when it is complete.
    File {
        file: PathBuf,
        part: PathBuf,
    },
}

enum Format {
    Json(Box<dyn Write + Send>),
    Csv(Box<csv::Writer<File>>),
    Parquet { writer: Box<ArrowWriter<File>>, rows: Vec<Alert> },
}

impl Output {
    /// Creates the file; `-` stands for JSON lines on standard output.
    pub(crate) fn create(file: &Path) -> Result<Self> {
        if file == Path::new("-") {
            let format = Format::Json(Box::new(BufWriter::new(io::stdout())));
            return Ok(Self { destination: Destination::StandardOutput, format });
        }
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let part = PathBuf::from(format!("{}.part", file.display()));
        let create = || File::create(&part).with_context(|| format!("can't write {}", part.display()));
        let format = match ending {
            "jsonl" | "ndjson" | "json" => Format::Json(Box::new(BufWriter::new(create()?))),
            "csv" => {
                let mut writer = csv::Writer::from_writer(create()?);
                writer.write_record(content_fields(&blank()).map(|(name, _)| name))?;
                Format::Csv(Box::new(writer))
            }
            "parquet" => {
                let schema = record_batch(&[])?.schema();
                let level = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(level).build();
                let writer = ArrowWriter::try_new(create()?, schema, Some(properties))?;
                Format::Parquet { writer: Box::new(writer), rows: Vec::new() }
            }
            _ => bail!("{}: expected a file that ends in .jsonl, .csv or .parquet", file.display()),
        };
        Ok(Self { destination: Destination::File { file: file.to_path_buf(), part }, format })
    }

    /// Adds alerts.
    pub(crate) fn write(&mut self, alerts: &[Alert]) -> Result<()> {
        match &mut self.format {
            Format::Json(text) => {
                for alert in alerts {
                    let fields = content_fields(alert);
                    writeln!(text, "{}", json_line(fields.iter().map(|(name, value)| (*name, &**value))))?;
                }
            }
            Format::Csv(table) => {
                for alert in alerts {
                    table.write_record(content_fields(alert).iter().map(|(_, value)| value.as_bytes()))?;
                }
            }
            Format::Parquet { rows, .. } => {
                rows.extend(alerts.iter().cloned());
                if rows.len() >= ROWS {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Format::Parquet { writer, rows } = &mut self.format else { return Ok(()) };
        writer.write(&record_batch(rows)?)?;
        rows.clear();
        Ok(())
    }

    /// Completes the file, and makes it appear under its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.format {
            Format::Json(mut text) => text.flush()?,
            Format::Csv(mut table) => table.flush()?,
            Format::Parquet { writer, .. } => {
                writer.close()?;
            }
        }
        if let Destination::File { file, part } = &self.destination {
            fs::rename(part, file).with_context(|| format!("can't write {}", file.display()))?;
        }
        Ok(())
    }
}

fn record_batch(alerts: &[Alert]) -> Result<RecordBatch> {
    let text = |name: &str| -> ArrayRef {
        let values = alerts.iter().map(|alert| {
            let fields = content_fields(alert);
            let value = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.to_string());
            value.unwrap_or_default()
        });
        Arc::new(values.map(Some).collect::<StringArray>())
    };
    let times: TimestampNanosecondArray =
        alerts.iter().map(|alert| Some(i64::try_from(alert.time).unwrap_or(i64::MAX))).collect();
    let prices: Float64Array = alerts.iter().map(|alert| Some(alert.price).filter(|price| price.is_finite())).collect();
    let confidences: Float64Array = alerts.iter().map(|alert| Some(alert.confidence)).collect();
    let columns = content_fields(&blank()).map(|(name, _)| {
        let column: ArrayRef = match name {
            "time" => Arc::new(times.clone().with_timezone("UTC")),
            "price" => Arc::new(prices.clone()),
            "confidence" => Arc::new(confidences.clone()),
            name => text(name),
        };
        (name, column, name == "price")
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// An alert without content, for the names of the fields.
fn blank() -> Alert {
    Alert {
        id: String::new(),
        detector: String::new(),
        plugin: String::new(),
        version: String::new(),
        symbol: String::new(),
        time: 0,
        price: f64::NAN,
        confidence: 0.0,
        direction: Direction::None,
        evidence: Vec::new(),
        entry: EntryId::ZERO,
        lag_ms: 0,
        recovered: false,
        stale: false,
    }
}
