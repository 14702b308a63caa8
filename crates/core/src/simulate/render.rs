//! Renders a simulated tick as a scanner of Zerodha's Kite feed publishes it, faults included.

use std::fmt::Write;

use jiff::{Timestamp, tz::Offset};

use super::{
    Dirt, Instrument, InstrumentKind, Layout, Tick,
    calendar::{NS_PER_MS, NS_PER_S, OFFSET},
    layout::{Encoder, Value},
};

/// The maximum number of keys of a tick.
const KEYS: usize = 13;

/// Writes ticks in one layout. Its buffers are reused from tick to tick.
#[derive(Debug)]
pub struct Renderer {
    encoder: Encoder,
    stamp: String,
}

impl Renderer {
    /// A renderer for `layout`.
    pub fn new(layout: Layout) -> Self {
        Self { encoder: Encoder::new(layout), stamp: String::new() }
    }

    /// Passes each field of the entry with this tick of `instrument` to `put`.
    pub fn render(&mut self, instrument: &Instrument, tick: &Tick, mut put: impl FnMut(&[u8], &[u8])) {
        let time = stamp(tick);
        self.stamp.clear();
        let second = i64::try_from(time / NS_PER_S).expect("a u64 of nanoseconds is 584 years of seconds");
        let instant = Timestamp::from_second(second).expect("584 years after 1970 are within jiff's range");
        // The Python client publishes Indian time without an offset.
        let offset = Offset::from_seconds((OFFSET / NS_PER_S) as i32).expect("5.5 hours are an offset");
        let millis = time / NS_PER_MS % 1000;
        write!(self.stamp, "{}.{millis:03}", offset.to_datetime(instant)).expect("writing to a string can't fail");

        let mut fields = Vec::with_capacity(KEYS);
        fields.extend([
            ("symbol", Value::Text(&instrument.symbol)),
            ("instrument_token", Value::Whole(instrument.token.into())),
            ("mode", Value::Text("full")),
            ("last_price", Value::Float(tick.price)),
            ("exchange_timestamp", Value::Text(&self.stamp)),
            ("exchange_timestamp_ms", Value::Whole(time / NS_PER_MS)),
        ]);
        if instrument.kind != InstrumentKind::Index {
            traded_fields(instrument, tick, &mut fields);
        }
        if tick.dirt == Some(Dirt::Garbled) {
            match self.encoder.layout() {
                Layout::Json => self.encoder.encode(&fields, |name, json| put(name, &json[..json.len() / 2])),
                // 0xc1 is the only byte that MessagePack never uses.
                Layout::Msgpack => Encoder::payload(&[0xc1; 16], put),
                Layout::Flat => put(b"event", b"heartbeat"),
            }
        } else {
            self.encoder.encode(&fields, put);
        }
    }
}

/// The time that the producer writes, ns.
fn stamp(tick: &Tick) -> u64 {
    match tick.dirt {
        Some(Dirt::EpochStamp) => 0,
        Some(Dirt::BackwardStamp) => tick.time - (1 + tick.time / NS_PER_MS % 30) * NS_PER_S,
        _ => tick.time,
    }
}

/// Adds the fields of an instrument that is traded.
fn traded_fields(instrument: &Instrument, tick: &Tick, fields: &mut Vec<(&str, Value<'_>)>) {
    let volume = match tick.dirt {
        Some(Dirt::VolumeFall) => (tick.cum_volume - tick.cum_volume / 8).saturating_sub(1),
        _ => tick.cum_volume,
    };
    let empty = |number| if tick.dirt == Some(Dirt::EmptyText) { Value::Text("") } else { Value::Whole(number) };
    fields.push(("zerodha_cumulative_volume", empty(volume)));
    if instrument.has_oi() {
        fields.push(("open_interest", empty(tick.oi)));
    }
    if tick.dirt == Some(Dirt::MissingFields) {
        return;
    }
    let (quantity, bid, ask) = match tick.dirt {
        Some(Dirt::NanText) => (Value::Text("nan"), Value::Text("NaN"), Value::Float(tick.ask)),
        Some(Dirt::ZeroQuote) => (Value::Whole(tick.last_quantity), Value::Whole(0), Value::Whole(0)),
        _ => (empty(tick.last_quantity), Value::Float(tick.bid), Value::Float(tick.ask)),
    };
    fields.extend([
        ("last_traded_quantity", quantity),
        ("best_bid_price", bid),
        ("best_bid_quantity", Value::Whole(tick.bid_quantity)),
        ("best_ask_price", ask),
        ("best_ask_quantity", Value::Whole(tick.ask_quantity)),
    ]);
}
