//! The alerts of a replay in a file: JSON lines, CSV or Parquet, depending on its extension.
//!
//! The file contains the alerts without the fields that a live host adds about their delivery (`lag_ms`, `recovered`,
//! `stale`) and their code (`sha256`, `params_hash`, `generation`), so that two builds of a detector can be compared. The
//! file appears only when it is complete.

use std::{
    fs::{self, File},
    io::{BufWriter, LineWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{Type, TypePtr},
};

use crate::output::JsonStdout;
use tickhound_core::{
    event::{Alert, AlertOrigin, Direction, EntryId},
    publish::{OPTIONAL_FIELDS, content_fields, json_line},
    text::printable,
};

/// The rows of a row group of a Parquet file. They are held in memory until all are there: a row group is written column
/// by column.
const ROWS: usize = 32_768;

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
    Parquet { writer: Box<SerializedFileWriter<File>>, rows: Vec<Alert> },
}

impl Output {
    /// Creates the file; `-` stands for JSON lines on standard output.
    pub(crate) fn create(file: &Path) -> Result<Self> {
        if file == Path::new("-") {
            let format = Format::Json(Box::new(LineWriter::new(JsonStdout)));
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
                let level = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(level).build();
                let writer = SerializedFileWriter::new(create()?, schema()?, Arc::new(properties))?;
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
                    // As a live host writes them: optional fields only with a value. The columns of tables are the same in each row.
                    let fields =
                        fields.iter().filter(|(name, value)| !(value.is_empty() && OPTIONAL_FIELDS.contains(name)));
                    writeln!(text, "{}", json_line(fields.map(|(name, value)| (*name, &**value))))?;
                }
            }
            Format::Csv(table) => {
                for alert in alerts {
                    table.write_record(content_fields(alert).iter().map(|(name, value)| cell(name, value)))?;
                }
            }
            Format::Parquet { writer, rows } => {
                rows.extend(alerts.iter().cloned());
                // Each row group has as many rows, so that the file does not depend on how alerts arrive.
                while rows.len() >= ROWS {
                    write_row_group(writer, &rows[..ROWS])?;
                    rows.drain(..ROWS);
                }
            }
        }
        Ok(())
    }

    /// Completes the file, and makes it appear under its name.
    pub(crate) fn finish(self) -> Result<()> {
        match self.format {
            Format::Json(mut text) => text.flush()?,
            Format::Csv(mut table) => table.flush()?,
            Format::Parquet { mut writer, rows } => {
                if !rows.is_empty() {
                    write_row_group(&mut writer, &rows)?;
                }
                writer.close()?;
            }
        }
        if let Destination::File { file, part } = &self.destination {
            fs::rename(part, file).with_context(|| format!("can't write {}", file.display()))?;
        }
        Ok(())
    }
}

/// The cell of a CSV file for a field of an alert.
///
/// People open such a file in a spreadsheet, which runs a text that begins like a formula: `=HYPERLINK("http://…")` as the
/// name of a symbol would send what stands beside it. An apostrophe before it makes it text. It also stands where a formula
/// would begin if the spreadsheet took another character than the comma as the separator. Control characters are escaped.
fn cell(name: &str, value: &str) -> String {
    if matches!(name, "time" | "price" | "confidence") {
        return value.to_owned();
    }
    let (mut cell, mut begins) = (String::with_capacity(value.len()), true);
    for c in printable(value).chars() {
        if begins && matches!(c, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') {
            cell.push('\'');
        }
        // Quotes and spaces around a formula do not disarm it.
        begins = matches!(c, ',' | ';' | '|') || (begins && matches!(c, '"' | ' '));
        cell.push(c);
    }
    cell
}

/// The columns of a Parquet file: the fields of an alert, with numbers as numbers. Only the price may be missing.
fn schema() -> Result<TypePtr> {
    let column = |name: &str| {
        let (physical_type, logical_type) = match name {
            "time" => (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::NANOS))),
            "price" | "confidence" => (PhysicalType::DOUBLE, None),
            _ => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let repetition = if name == "price" { Repetition::OPTIONAL } else { Repetition::REQUIRED };
        let column = Type::primitive_type_builder(name, physical_type).with_logical_type(logical_type);
        column.with_repetition(repetition).build().map(Arc::new)
    };
    let columns: Result<Vec<TypePtr>, _> = content_fields(&blank()).iter().map(|(name, _)| column(name)).collect();
    Ok(Arc::new(Type::group_type_builder("alerts").with_fields(columns?).build()?))
}

fn write_row_group(writer: &mut SerializedFileWriter<File>, alerts: &[Alert]) -> Result<()> {
    let rows: Vec<_> = alerts.iter().map(content_fields).collect();
    let mut group = writer.next_row_group()?;
    for (position, (name, _)) in content_fields(&blank()).iter().enumerate() {
        let mut column = group.next_column()?.context("the file has a column for each field")?;
        match *name {
            "time" => {
                let times: Vec<i64> =
                    alerts.iter().map(|alert| i64::try_from(alert.time).unwrap_or(i64::MAX)).collect();
                column.typed::<Int64Type>().write_batch(&times, None, None)?;
            }
            "price" => write_prices(&mut column, alerts)?,
            "confidence" => {
                let confidences: Vec<f64> = alerts.iter().map(|alert| alert.confidence).collect();
                column.typed::<DoubleType>().write_batch(&confidences, None, None)?;
            }
            _ => {
                let texts: Vec<ByteArray> = rows.iter().map(|fields| ByteArray::from(&*fields[position].1)).collect();
                column.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
            }
        }
        column.close()?;
    }
    group.close()?;
    Ok(())
}

/// Writes the prices; one that is not a number is missing.
fn write_prices(column: &mut SerializedColumnWriter<'_>, alerts: &[Alert]) -> Result<()> {
    let levels: Vec<i16> = alerts.iter().map(|alert| i16::from(alert.price.is_finite())).collect();
    let prices: Vec<f64> = alerts.iter().map(|alert| alert.price).filter(|price| price.is_finite()).collect();
    column.typed::<DoubleType>().write_batch(&prices, Some(&levels), None)?;
    Ok(())
}

/// An alert without content, for the names of the fields.
fn blank() -> Alert {
    Alert {
        id: String::new(),
        detector: String::new(),
        plugin: String::new(),
        version: String::new(),
        origin: AlertOrigin::default(),
        symbol: String::new(),
        venue: String::new(),
        group: String::new(),
        members: Vec::new(),
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

#[cfg(test)]
mod tests {
    use parquet::{
        file::serialized_reader::SerializedFileReader,
        record::{Field, Row},
    };

    use super::*;

    /// The bytes of a file to which so many alerts are added at a time.
    fn written(file: &Path, alerts: &[Alert], at_once: usize) -> Vec<u8> {
        let mut output = Output::create(file).unwrap();
        alerts.chunks(at_once).for_each(|alerts| output.write(alerts).unwrap());
        output.finish().unwrap();
        fs::read(file).unwrap()
    }

    #[test]
    fn a_parquet_file_does_not_depend_on_how_alerts_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.parquet");
        let price = |number: u64| if number.is_multiple_of(7) { f64::NAN } else { number as f64 };
        let alert = |number: u64| Alert { id: number.to_string(), time: number, price: price(number), ..blank() };
        let alerts: Vec<Alert> = (0..ROWS as u64 + 1000).map(alert).collect();
        let bytes = written(&file, &alerts, 999);
        assert!(bytes == written(&file, &alerts, alerts.len()), "the bytes differ");
        let rows: Vec<Row> =
            SerializedFileReader::try_from(file.as_path()).unwrap().into_iter().map(|row| row.unwrap()).collect();
        assert_eq!(rows.len(), alerts.len());
        for (row, alert) in rows.iter().zip(&alerts) {
            let column = |name: &str| row.get_column_iter().find(|(column, _)| *column == name).unwrap().1.clone();
            assert_eq!(column("id"), Field::Str(alert.id.clone()));
            assert_eq!(column("time"), Field::Long(alert.time as i64));
            let price = if alert.price.is_nan() { Field::Null } else { Field::Double(alert.price) };
            assert_eq!(column("price"), price);
        }
    }

    /// A symbol that is a formula was run by the spreadsheet that opened the file.
    #[test]
    fn a_spreadsheet_runs_no_cell_of_a_csv_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.csv");
        let symbols = [
            ("=HYPERLINK(\"http://x\",\"y\")", "'=HYPERLINK(\"http://x\",\"y\")"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            (" \"=1", " \"'=1"),
            ("\t=1", "\\t=1"),
            ("\r=1", "\\r=1"),
            // Where a spreadsheet takes the semicolon as the separator, this is two cells.
            ("A;=1", "A;'=1"),
            ("A;\"=1\"", "A;\"'=1\""),
            ("＝1", "'＝1"),
            ("M&M-EQ", "M&M-EQ"),
        ];
        let evidence = vec![("level".to_owned(), -1.5)];
        let alerts = symbols.map(|(symbol, _)| Alert {
            symbol: symbol.to_owned(),
            price: -1.0,
            evidence: evidence.clone(),
            ..blank()
        });
        written(&file, &alerts, alerts.len());
        let mut table = csv::Reader::from_path(&file).unwrap();
        let position = |name: &str| content_fields(&blank()).iter().position(|(field, _)| *field == name).unwrap();
        let rows: Vec<csv::StringRecord> = table.records().map(|row| row.unwrap()).collect();
        for (row, (_, expected)) in rows.iter().zip(symbols) {
            assert_eq!(&row[position("symbol")], expected);
            assert_eq!(&row[position("price")], "-1", "numbers stay numbers");
            assert_eq!(&row[position("evidence")], r#"{"level":-1.5}"#);
        }
    }

    /// The lines had neither, though those of a live host do.
    #[test]
    fn a_line_names_group_and_members_where_there_are_any() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.jsonl");
        let members = vec!["HDFCBANK".to_owned(), "M&M".to_owned()];
        let alerts = [blank(), Alert { group: "banks".to_owned(), members, ..blank() }];
        let lines = String::from_utf8(written(&file, &alerts, 2)).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0].get("group"), lines[0].get("members")), (None, None));
        assert_eq!(lines[1]["group"], "banks");
        assert_eq!(lines[1]["members"], serde_json::json!(["HDFCBANK", "M&M"]));
    }

    #[test]
    fn a_parquet_file_without_alerts_has_the_columns() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("alerts.parquet");
        assert!(!written(&file, &[], 1).is_empty());
        let reader = SerializedFileReader::try_from(file.as_path()).unwrap();
        let columns = parquet::file::reader::FileReader::metadata(&reader).file_metadata().schema_descr().num_columns();
        assert_eq!(columns, content_fields(&blank()).len());
        assert_eq!(reader.into_iter().count(), 0);
    }
}
