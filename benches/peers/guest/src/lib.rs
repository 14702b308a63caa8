//! Breakout as an Extism plugin, in three forms: a JSON object a call, a packed row a call, many packed rows a call.
//!
//! A packed row has 32 bytes, little endian: symbol, flags, time, price, quantity.

use breakout::Breakout;
use extism_pdk::{plugin_fn, FnResult, Json};
use serde::{Deserialize, Serialize};
use tickhound_sdk::__private::{
    bindings::{
        tickhound::detector::types::{Batch, Detection, Symbol},
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
    Breakouts::introduce((0..count).map(|id| Symbol { id, name: format!("S{id}") }).collect());
    Ok(())
}

#[plugin_fn]
pub fn json(Json(tick): Json<Tick>) -> FnResult<Json<Option<JsonDetection>>> {
    let mut rows = Rows::new(1);
    rows.push(tick.symbol, tick.flags, tick.time, tick.price, tick.quantity.unwrap_or(f64::NAN));
    let found = Breakouts::detect(rows.0).pop();
    Ok(Json(found.map(|found| JsonDetection { confidence: found.confidence, up: is_up(&found), evidence: found.evidence })))
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
    for found in Breakouts::detect(batch.0) {
        answer.extend(found.row.to_le_bytes());
        answer.extend(found.confidence.to_le_bytes());
    }
    Ok(answer)
}

struct Rows(Batch);

impl Rows {
    fn new(rows: usize) -> Self {
        let column = || Vec::with_capacity(rows);
        Self(Batch {
            symbols: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            prices: column(),
            columns: vec![column(), column()],
        })
    }

    fn push(&mut self, symbol: u32, flags: u32, time: u64, price: f64, quantity: f64) {
        let Batch { symbols, times, prices, columns } = &mut self.0;
        symbols.push(symbol);
        times.push(time);
        prices.push(price);
        columns[0].push(quantity);
        columns[1].push(f64::from(flags));
    }
}

fn is_up(found: &Detection) -> bool {
    matches!(found.direction, tickhound_sdk::__private::bindings::tickhound::detector::types::Direction::Up)
}
