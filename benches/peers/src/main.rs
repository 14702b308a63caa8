//! Breakout behind Extism: `tickhound-peers measure FORM GUEST ROWS SYMBOLS` tells what a tick costs.
//!
//! FORM: `json` (an object a tick), `packed` (32 bytes a tick), `batch` (256 of them a call). ROWS is a file of packed
//! rows. Time is that of the processor on this thread.

use std::{env, fs};

use anyhow::{Context, Result, bail};
use extism::{Manifest, Plugin, Wasm};
use serde::Serialize;

const ROW_BYTES: usize = 32;
const BATCH: usize = 256;

#[derive(Serialize)]
struct Tick {
    symbol: u32,
    time: u64,
    price: f64,
    quantity: Option<f64>,
    flags: u32,
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["version"] => {
            println!("Extism {} with the same detector", extism::extism_version().trim_end_matches(char::from(0)))
        }
        ["measure", form, guest, rows, symbols] => {
            let (ns, found) = measure(form, guest, &fs::read(rows)?, symbols)?;
            println!("{{\"ns\":{ns},\"found\":{found}}}");
        }
        _ => bail!("usage: tickhound-peers measure json|packed|batch GUEST ROWS SYMBOLS"),
    }
    Ok(())
}

/// Time of a tick, ns, and how much was found.
fn measure(form: &str, guest: &str, rows: &[u8], symbols: &str) -> Result<(f64, usize)> {
    let mut plugin = Plugin::new(Manifest::new([Wasm::data(fs::read(guest)?)]), [], false)?;
    plugin.call::<&str, ()>("start", symbols)?;
    let count = rows.len() / ROW_BYTES;
    let ticks: Vec<Tick> = rows.chunks_exact(ROW_BYTES).map(tick).collect::<Result<_>>()?;
    let mut found = 0;
    let begun = cpu_ns()?;
    match form {
        "json" => {
            for tick in &ticks {
                let answer = plugin.call::<Vec<u8>, &[u8]>("json", serde_json::to_vec(tick)?)?;
                let answer: Option<serde_json::Value> = serde_json::from_slice(answer)?;
                found += usize::from(answer.is_some());
            }
        }
        "packed" | "batch" => {
            let size = if form == "batch" { BATCH * ROW_BYTES } else { ROW_BYTES };
            for chunk in rows.chunks(size) {
                // Each detection comes as a row and a confidence.
                found += plugin.call::<&[u8], &[u8]>("packed", chunk)?.len() / 12;
            }
        }
        other => bail!("no form {other}"),
    }
    Ok(((cpu_ns()? - begun) / count as f64, found))
}

fn tick(row: &[u8]) -> Result<Tick> {
    let word = |at: usize| -> Result<u32> { Ok(u32::from_le_bytes(row[at..at + 4].try_into()?)) };
    let long = |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(row[at..at + 8].try_into()?)) };
    let quantity = Some(f64::from_bits(long(24)?)).filter(|quantity| quantity.is_finite());
    Ok(Tick { symbol: word(0)?, flags: word(4)?, time: long(8)?, price: f64::from_bits(long(16)?), quantity })
}

fn cpu_ns() -> Result<f64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").context("the kernel counts no processor time")?;
    Ok(stat.split(' ').next().unwrap_or_default().parse()?)
}
