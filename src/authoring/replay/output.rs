//! Alerts of a replay in a file: JSON lines, CSV or Parquet, by its ending.
//!
//! What stands there is what an alert is, without what a live host adds of its delivery (`lag_ms`, `recovered`,
//! `stale`). The file appears when it is whole.

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
    event::Alert,
    publish::{content_fields, json_line},
};

/// Rows that are encoded at once.
const ROWS: usize = 8192;

/// A file that is being written.
pub(crate) struct Output {
    place: Option<Place>,
    format: Format,
}

struct Place {
    file: PathBuf,
    part: PathBuf,
}

enum Format {
    Json(Box<dyn Write + Send>),
    Csv(Box<csv::Writer<File>>),
    Parquet { file: Option<File>, writer: Option<Box<ArrowWriter<File>>>, rows: Vec<Alert> },
}

impl Output {
    /// `-` writes JSON lines to standard output.
    pub(crate) fn create(file: &Path) -> Result<Self> {
        if file == Path::new("-") {
            return Ok(Self { place: None, format: Format::Json(Box::new(BufWriter::new(io::stdout()))) });
        }
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let part = PathBuf::from(format!("{}.part", file.display()));
        let create = || File::create(&part).with_context(|| format!("can't write {}", part.display()));
        let format = match ending {
            "jsonl" | "ndjson" | "json" => Format::Json(Box::new(BufWriter::new(create()?))),
            "csv" => {
                let mut writer = csv::Writer::from_writer(create()?);
                writer.write_record(content_fields(&nothing()).map(|(name, _)| name))?;
                Format::Csv(Box::new(writer))
            }
            "parquet" => Format::Parquet { file: Some(create()?), writer: None, rows: Vec::new() },
            _ => bail!("{}: expected a file that ends in .jsonl, .csv or .parquet", file.display()),
        };
        Ok(Self { place: Some(Place { file: file.to_path_buf(), part }), format })
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
        let Format::Parquet { file, writer, rows } = &mut self.format else { return Ok(()) };
        let batch = record_batch(rows)?;
        rows.clear();
        let writer = match writer {
            Some(writer) => writer,
            None => {
                let file = file.take().context("a file is written once")?;
                let level = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(level).build();
                writer.insert(Box::new(ArrowWriter::try_new(file, batch.schema(), Some(properties))?))
            }
        };
        writer.write(&batch)?;
        Ok(())
    }

    /// Makes the file appear.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        match self.format {
            Format::Json(mut text) => text.flush()?,
            Format::Csv(mut table) => table.flush()?,
            Format::Parquet { writer, .. } => {
                writer.context("it is flushed")?.close()?;
            }
        }
        if let Some(Place { file, part }) = &self.place {
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
    let columns = content_fields(&nothing()).map(|(name, _)| {
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

/// For its fields' names.
fn nothing() -> Alert {
    use tickhound_core::event::{Direction, EntryId};
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
