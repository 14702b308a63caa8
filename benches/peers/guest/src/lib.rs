//! Breakout as an Extism plugin, in three forms: a JSON object a call, a packed row a call, many packed rows a call.
//!
//! A packed row has 32 bytes, little endian: symbol, flags, time, price, quantity.

use breakout::Breakout;
use extism_pdk::{plugin_fn, FnResult, Json};
use serde::{Deserialize, Serialize};
use tickhound_sdk::__private::{
    bindings::{
        tickhound::detector::types::Symbol,
        Guest,
    },
    Instance, Plugin,
};

struct Breakouts;

impl Plugin for Breakouts {
    type Detector = Breakout;

    fn with<R>(call: impl FnOnce(&mut Instance<Breakout>) -> R) -> R {
        thread_local! {
            static INSTANCE: std::cell::RefCell<Instance<Breakout>> = const { std::cell::RefCell::new(Instance::new()) };
        }
        INSTANCE.with(|instance| call(&mut instance.borrow_mut()))
    }
}

#[derive(Deserialize)]
struct Tick {
    symbol: u32,
    time: u64,
    price: f64,
    quantity: Option<f64>,
    flags: u32,
}

#[derive(Serialize)]
struct JsonDetection {
    confidence: f64,
    up: bool,
    evidence: Vec<(String, f64)>,
}

/// Every parameter at its default; `symbols` is how many there are.
#[plugin_fn]
pub fn start(symbols: String) -> FnResult<()> {
    let params = Breakouts::describe().params.into_iter().map(|param| (param.name, param.default)).collect();
    Breakouts::configure(params).map_err(extism_pdk::Error::msg)?;
    let count: u32 = symbols.parse()?;
    Breakouts::introduce((0..count).map(|id| Symbol { id, name: format!("S{id}"), texts: Vec::new() }).collect(), Vec::new());
    Ok(())
}

#[plugin_fn]
pub fn json(Json(tick): Json<Tick>) -> FnResult<Json<Option<JsonDetection>>> {
    let mut rows = Rows::new(1);
    rows.push(tick.symbol, tick.flags, tick.time, tick.price, tick.quantity.unwrap_or(f64::NAN));
    let found = rows.detect().pop();
    Ok(Json(found.map(|Found { confidence, up, evidence, .. }| JsonDetection { confidence, up, evidence })))
}

/// For each detection its row and its confidence.
#[plugin_fn]
pub fn packed(rows: Vec<u8>) -> FnResult<Vec<u8>> {
    let mut batch = Rows::new(rows.len() / 32);
    for row in rows.chunks_exact(32) {
        let word = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        batch.push(word(0), word(4), long(8), f64::from_bits(long(16)), f64::from_bits(long(24)));
    }
    let mut answer = Vec::new();
    for found in batch.detect() {
        answer.extend(found.row.to_le_bytes());
        answer.extend(found.confidence.to_le_bytes());
    }
    Ok(answer)
}

/// Rows by column.
#[derive(Default)]
struct Rows {
    symbols: Vec<u32>,
    times: Vec<u64>,
    prices: Vec<f64>,
    quantities: Vec<f64>,
    flags: Vec<f64>,
}

impl Rows {
    fn new(rows: usize) -> Self {
        let column = || Vec::with_capacity(rows);
        let (symbols, times) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Self { symbols, times, prices: column(), quantities: column(), flags: column() }
    }

    fn push(&mut self, symbol: u32, flags: u32, time: u64, price: f64, quantity: f64) {
        self.symbols.push(symbol);
        self.times.push(time);
        self.prices.push(price);
        self.quantities.push(quantity);
        self.flags.push(f64::from(flags));
    }

    /// Breakout asks for the quantity, the flags and the time since the open, which is not known here.
    fn detect(&self) -> Vec<Found> {
        let rows = self.symbols.len();
        let mut values = Vec::with_capacity(rows * 44);
        values.extend(self.times.iter().flat_map(|time| time.to_le_bytes()));
        let columns = self.prices.iter().chain(&self.quantities).chain(&self.flags);
        values.extend(columns.flat_map(|value| value.to_le_bytes()));
        values.extend((0..rows).flat_map(|_| f64::NAN.to_le_bytes()));
        values.extend(self.symbols.iter().flat_map(|symbol| symbol.to_le_bytes()));
        detections(&Breakouts::detect(rows as u32, values))
    }
}

struct Found {
    row: u32,
    confidence: f64,
    up: bool,
    evidence: Vec<(String, f64)>,
}

/// The packed detections of a symbol, which have no members.
fn detections(mut packed: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    while !packed.is_empty() {
        let row = u32::from_le_bytes(take(&mut packed));
        let _about: [u8; 8] = take(&mut packed);
        let confidence = f64::from_le_bytes(take(&mut packed));
        let [direction, _, _, count] = take(&mut packed);
        let mut evidence = Vec::new();
        for _ in 0..count {
            let [length] = take(&mut packed);
            let (name, rest) = packed.split_at(usize::from(length));
            packed = rest;
            evidence.push((String::from_utf8_lossy(name).into_owned(), f64::from_le_bytes(take(&mut packed))));
        }
        found.push(Found { row, confidence, up: direction == 0, evidence });
    }
    found
}

fn take<const N: usize>(packed: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = packed.split_first_chunk().expect("a detection is whole");
    *packed = rest;
    *taken
}
