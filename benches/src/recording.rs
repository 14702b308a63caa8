//! Recorded ticks: the simulated market in a Parquet or CSV file, and the least that reading it takes.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use parquet::{
    basic::Compression,
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    file::{
        properties::WriterProperties,
        reader::FileReader,
        serialized_reader::SerializedFileReader,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};
use tickhound_core::simulate::{SimConfig, Simulator};

use crate::measure::own_cpu_seconds;

const ROWS_AT_ONCE: usize = 8192;

/// As many as other writers put into a row group.
const ROWS_OF_A_GROUP: usize = 1 << 20;

/// Names that need no mapping.
const COLUMNS: [&str; 4] = ["symbol", "exchange_timestamp_ms", "last_price", "volume_traded"];

fn market(symbols: usize) -> Simulator {
    Simulator::new(&SimConfig { symbols, dirt: 0.0, ..SimConfig::default() })
}

/// As pandas writes it: Snappy, symbols in a dictionary.
pub(crate) fn write_parquet(file: &Path, symbols: usize, ticks: usize) -> Result<()> {
    let mut market = market(symbols);
    let [symbol, time, price, volume] = COLUMNS;
    let schema = parse_message_type(&format!(
        "message ticks {{
            required binary {symbol} (STRING);
            required int64 {time};
            required double {price};
            required int64 {volume};
        }}"
    ))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = SerializedFileWriter::new(File::create(file)?, Arc::new(schema), Arc::new(properties))?;
    let mut left = ticks;
    while left > 0 {
        let (mut names, mut times, mut prices, mut volumes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..left.min(ROWS_OF_A_GROUP) {
            let tick = market.next().context("the simulated market never ends")?;
            names.push(ByteArray::from(market.instruments()[tick.instrument as usize].symbol.as_str()));
            times.push(i64::try_from(tick.time / 1_000_000)?);
            prices.push(tick.price);
            volumes.push(i64::try_from(tick.cum_volume)?);
        }
        left -= names.len();
        let mut group = writer.next_row_group()?;
        write_column::<ByteArrayType>(&mut group, &names)?;
        write_column::<Int64Type>(&mut group, &times)?;
        write_column::<DoubleType>(&mut group, &prices)?;
        write_column::<Int64Type>(&mut group, &volumes)?;
        group.close()?;
    }
    writer.close()?;
    Ok(())
}

fn write_column<D: DataType>(group: &mut SerializedRowGroupWriter<'_, File>, values: &[D::T]) -> Result<()> {
    let mut column = group.next_column()?.context("the schema has a column for the values")?;
    column.typed::<D>().write_batch(values, None, None)?;
    Ok(column.close()?)
}

pub(crate) fn write_csv(file: &Path, symbols: usize, ticks: usize) -> Result<()> {
    let mut market = market(symbols);
    let mut out = BufWriter::new(File::create(file)?);
    writeln!(out, "{}", COLUMNS.join(","))?;
    for _ in 0..ticks {
        let tick = market.next().context("the simulated market never ends")?;
        let symbol = &market.instruments()[tick.instrument as usize].symbol;
        writeln!(out, "{symbol},{},{:.2},{}", tick.time / 1_000_000, tick.price, tick.cum_volume)?;
    }
    Ok(out.flush()?)
}

/// Processor time to have the columns of all rows in memory, and nothing more, s.
pub(crate) fn bare_parquet(file: &Path, ticks: usize) -> Result<f64> {
    let begun = own_cpu_seconds();
    let file = SerializedFileReader::new(File::open(file)?)?;
    let mut rows = 0;
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let mut columns: Vec<ColumnReader> =
            (0..group.num_columns()).map(|column| group.get_column_reader(column)).collect::<Result<_, _>>()?;
        let rows_of_group = usize::try_from(group.metadata().num_rows())?;
        for _ in 0..rows_of_group.div_ceil(ROWS_AT_ONCE) {
            let mut read = 0;
            for column in &mut columns {
                read = match column {
                    ColumnReader::ByteArrayColumnReader(column) => read_column(column)?,
                    ColumnReader::Int64ColumnReader(column) => read_column(column)?,
                    ColumnReader::DoubleColumnReader(column) => read_column(column)?,
                    _ => bail!("the file has a column of another type"),
                };
            }
            rows += read;
        }
    }
    ensure!(rows == ticks, "{rows} of {ticks} rows");
    Ok(own_cpu_seconds() - begun)
}

/// Reads the next values of a column, and returns how many.
fn read_column<D: DataType>(column: &mut ColumnReaderImpl<D>) -> Result<usize> {
    let mut values = Vec::with_capacity(ROWS_AT_ONCE);
    let (rows, _, _) = column.read_records(ROWS_AT_ONCE, None, None, &mut values)?;
    Ok(rows)
}

/// Processor time to have found the cells of all rows, s.
pub(crate) fn bare_csv(file: &Path, ticks: usize) -> Result<f64> {
    let begun = own_cpu_seconds();
    let mut reader = csv::ReaderBuilder::new().from_path(file)?;
    let (mut record, mut rows) = (csv::ByteRecord::new(), 0);
    while reader.read_byte_record(&mut record)? {
        rows += 1;
    }
    ensure!(rows == ticks, "{rows} of {ticks} rows");
    Ok(own_cpu_seconds() - begun)
}
