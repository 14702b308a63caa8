//! Recorded ticks: the simulated market in a Parquet or CSV file, and the least that reading it takes.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use arrow_array::{Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::properties::WriterProperties,
};
use tickhound_core::simulate::{SimConfig, Simulator};

use crate::measure::own_cpu_seconds;

const ROWS_AT_ONCE: usize = 8192;

/// Names that need no mapping.
const COLUMNS: [&str; 4] = ["symbol", "exchange_timestamp_ms", "last_price", "volume_traded"];

fn market(symbols: usize) -> Simulator {
    Simulator::new(&SimConfig { symbols, dirt: 0.0, ..SimConfig::default() })
}

/// As pandas writes it: Snappy, symbols in a dictionary.
pub(crate) fn write_parquet(file: &Path, symbols: usize, ticks: usize) -> Result<()> {
    let mut market = market(symbols);
    let mut writer: Option<ArrowWriter<File>> = None;
    let mut left = ticks;
    while left > 0 {
        let (mut names, mut times, mut prices, mut volumes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..left.min(ROWS_AT_ONCE) {
            let tick = market.next().context("the simulated market never ends")?;
            names.push(market.instruments()[tick.instrument as usize].symbol.clone());
            times.push(i64::try_from(tick.time / 1_000_000)?);
            prices.push(tick.price);
            volumes.push(i64::try_from(tick.cum_volume)?);
        }
        left -= names.len();
        let [symbol, time, price, volume] = COLUMNS;
        let batch = RecordBatch::try_from_iter([
            (symbol, Arc::new(StringArray::from(names)) as _),
            (time, Arc::new(Int64Array::from(times)) as _),
            (price, Arc::new(Float64Array::from(prices)) as _),
            (volume, Arc::new(Int64Array::from(volumes)) as _),
        ])?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                none.insert(ArrowWriter::try_new(File::create(file)?, batch.schema(), Some(properties))?)
            }
        };
        writer.write(&batch)?;
    }
    writer.context("there is at least one tick")?.close()?;
    Ok(())
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
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?.with_batch_size(ROWS_AT_ONCE).build()?;
    let mut rows = 0;
    for batch in reader {
        rows += batch?.num_rows();
    }
    ensure!(rows == ticks, "{rows} of {ticks} rows");
    Ok(own_cpu_seconds() - begun)
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
