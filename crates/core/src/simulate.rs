//! A simulated market: endless ticks of NIFTY options, futures, stocks and indices.
//!
//! It serves the demo, `feed --simulate`, tests and benches. What holds:
//! - The same configuration gives the same ticks and the same rendered bytes on any machine: there is one ChaCha
//!   stream, and no float operation beyond `+ - * /` and `sqrt`, which IEEE 754 defines to the last bit.
//! - Ticks are in the order of their event time, in whole milliseconds.
//! - Dirt changes what a producer would write, never the market itself: the other ticks are those of a run without
//!   dirt.
//!
//! Exchange holidays, the expiry of contracts and the auction before the open are not simulated.

mod calendar;
mod instrument;
pub mod layout;
mod market;
mod render;

use std::{cmp::Reverse, collections::BinaryHeap};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use self::{
    calendar::{NS_PER_MS, NS_PER_S, TradingHours},
    market::Underlying,
};
pub use self::{
    instrument::{Instrument, InstrumentKind},
    layout::Layout,
    render::Renderer,
};

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct SimConfig {
    /// The number of instruments, >= 1. The first `n` instruments of a larger simulation are the same.
    pub symbols: usize,
    /// The seed that determines the course of the market.
    pub seed: u64,
    /// The event time at the beginning, ns since the Unix epoch. Outside of a session, the next one's open is used.
    pub start: u64,
    /// The approximate number of ticks per second of event time for each symbol, from 0.001 to 500.
    pub rate: f64,
    /// The share of ticks with a fault of the producer, from 0 to 1; [`Dirt`] lists the faults.
    pub dirt: f64,
    /// How strongly underlyings follow the NIFTY, and premiums of options the activity of trading, from 0 to 1. At 1, a stock
    /// moves by its beta times the NIFTY's move in addition to its own moves.
    pub coupling: f64,
}

impl Default for SimConfig {
    fn default() -> Self {
        // Monday, 2025-11-03, 09:15 in India: the near contracts expire in November.
        Self { symbols: 100, seed: 1, start: 1_762_141_500 * NS_PER_S, rate: 1.5, dirt: 0.0, coupling: 0.0 }
    }
}

/// One market update, without the faults of its published form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// The index of the instrument in [`Simulator::instruments`].
    pub instrument: u32,
    /// The event time, ns since the Unix epoch, a whole number of milliseconds.
    pub time: u64,
    /// The last traded price, a multiple of 0.05, > 0.
    pub price: f64,
    /// The quantity of the last trade.
    pub last_quantity: u64,
    /// The quantity traded in the session so far; always 0 for an index.
    pub cum_volume: u64,
    /// The best bid, at least 0.05; 0 for an index.
    pub bid: f64,
    /// The best ask, above the bid; 0 for an index.
    pub ask: f64,
    /// The quantity at the best bid.
    pub bid_quantity: u64,
    /// The quantity at the best ask.
    pub ask_quantity: u64,
    /// The open interest; 0 unless the instrument is a future or an option.
    pub oi: u64,
    /// The fault of the published form, if it has one.
    pub dirt: Option<Dirt>,
}

/// A fault of a published tick, as seen in real feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dirt {
    /// The time is the Unix epoch.
    EpochStamp,
    /// The time is 1 to 30 s too early.
    BackwardStamp,
    /// The cumulative volume is an eighth too low.
    VolumeFall,
    /// Volume, quantity and open interest are empty strings.
    EmptyText,
    /// Quotes and the last quantity are missing.
    MissingFields,
    /// The last quantity and the bid are not numbers.
    NanText,
    /// The bid and the ask are 0, which means "none".
    ZeroQuote,
    /// The tick can't be decoded: half a JSON text, bytes that are not MessagePack, or fields without a tick.
    Garbled,
}

impl Dirt {
    const ALL: [Self; 8] = [
        Self::EpochStamp,
        Self::BackwardStamp,
        Self::VolumeFall,
        Self::EmptyText,
        Self::MissingFields,
        Self::NanText,
        Self::ZeroQuote,
        Self::Garbled,
    ];
}

/// The market, as an endless iterator of ticks.
#[derive(Debug)]
pub struct Simulator {
    instruments: Vec<Instrument>,
    underlyings: Vec<Underlying>,
    books: Vec<Book>,
    hours: TradingHours,
    /// The time of each instrument's next tick, and its index.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    rng: ChaCha8Rng,
    dirt_rng: ChaCha8Rng,
    /// The mean time between two ticks of an instrument, ms.
    gap_ms: f64,
    dirt: f64,
    coupling: f64,
}

/// The state that an instrument's next tick depends on.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    day: u64,
    price: f64,
    last_quantity: u64,
    cum_volume: u64,
    oi: u64,
}

impl Simulator {
    /// A market at `config.start`. A value out of range counts as the nearest one in range.
    pub fn new(config: &SimConfig) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mut dirt_rng = rng.clone();
        dirt_rng.set_stream(1);
        let mut hours = TradingHours::new();
        let start = hours.in_session(config.start / NS_PER_MS * NS_PER_MS);
        let instruments = instrument::universe(config.symbols.max(1));
        let underlyings = instrument::UNDERLYINGS.iter().map(|u| Underlying::new(u.price, start)).collect();
        let gap_ms = 1000.0 / config.rate.clamp(0.001, 500.0);
        let books = instruments.iter().map(|i| Book { oi: first_oi(i, &mut rng), ..Book::default() }).collect();
        let due = (0..)
            .zip(&instruments)
            .map(|(i, _)| Reverse((start + (uniform(&mut rng) * gap_ms) as u64 * NS_PER_MS, i)))
            .collect();
        let (dirt, coupling) = (config.dirt.clamp(0.0, 1.0), config.coupling.clamp(0.0, 1.0));
        Self { instruments, underlyings, books, hours, due, rng, dirt_rng, gap_ms, dirt, coupling }
    }

    /// The instruments, by [`Tick::instrument`].
    pub fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// The symbol of a tick.
    pub fn symbol(&self, tick: &Tick) -> &str {
        &self.instruments[tick.instrument as usize].symbol
    }

    fn tick(&mut self) -> Tick {
        let (time, index) = self.next_due();
        let market = self.underlyings[instrument::MARKET].change();
        let rng = &mut self.rng;
        let instrument = &self.instruments[index as usize];
        let underlying = &mut self.underlyings[instrument.underlying];
        let book = &mut self.books[index as usize];
        underlying.advance(time, rng);
        let day = calendar::day(time);
        if book.day != day {
            *book = Book { day, oi: book.oi, ..Book::default() };
        }
        let spot = underlying.price() * (1.0 + self.coupling * instrument.beta() * market);
        let fair =
            instrument.fair_price(spot, 1.0 + self.coupling * PREMIUM_OF_ACTIVITY * (underlying.activity() - 1.0));
        let dirt = self.dirt_rng.next_u64();
        let bare = Tick {
            instrument: index,
            time,
            price: nearest_step(fair),
            last_quantity: 0,
            cum_volume: 0,
            bid: 0.0,
            ask: 0.0,
            bid_quantity: 0,
            ask_quantity: 0,
            oi: 0,
            // The low bits choose the fault, the high ones whether there is one.
            dirt: (share(dirt) < self.dirt).then(|| Dirt::ALL[(dirt % 8) as usize]),
        };
        if instrument.kind == InstrumentKind::Index {
            return bare;
        }
        let (bid, ask) = quotes(fair, fair * instrument.spread_share());
        let activity = underlying.activity();
        let dice = rng.next_u64();
        // A tick is a snapshot, with or without a trade: in a calm market about every other has one.
        if share(dice) < 1.0 - 0.5 / activity || book.price == 0.0 {
            let lots = 1 + (instrument.depth * activity * 0.4 / (uniform(rng) + 0.1)) as u64;
            book.price = if dice & 1 == 0 { bid } else { ask };
            book.cum_volume += lots * instrument.lot;
            book.last_quantity = (lots / 4).max(1) * instrument.lot;
            if instrument.has_oi() {
                let change = (lots / 4) * instrument.lot;
                book.oi = if dice & 2 == 0 { book.oi + change } else { book.oi.saturating_sub(change) };
            }
        }
        Tick {
            price: book.price,
            last_quantity: book.last_quantity,
            cum_volume: book.cum_volume,
            bid,
            ask,
            bid_quantity: (1 + (dice >> 2) % 40) * instrument.lot,
            ask_quantity: (1 + (dice >> 12) % 40) * instrument.lot,
            oi: book.oi,
            ..bare
        }
    }

    /// The time and the index of the instrument that ticks next. Its following tick is scheduled about a gap later.
    fn next_due(&mut self) -> (u64, u32) {
        let gap_ms = ((0.5 + uniform(&mut self.rng)) * self.gap_ms) as u64;
        let mut next = self.due.peek_mut().expect("there is at least one instrument, and none is ever removed");
        let Reverse((time, index)) = *next;
        *next = Reverse((self.hours.in_session(time + gap_ms.max(1) * NS_PER_MS), index));
        (time, index)
    }
}

impl Iterator for Simulator {
    type Item = Tick;

    fn next(&mut self) -> Option<Tick> {
        Some(self.tick())
    }
}

/// The open interest at the beginning.
fn first_oi(instrument: &Instrument, rng: &mut ChaCha8Rng) -> u64 {
    let lots = 2000 + rng.next_u64() % 20_000;
    if instrument.has_oi() { lots * instrument.lot } else { 0 }
}

/// Bid and ask on the price grid around `fair`, at least one step apart.
fn quotes(fair: f64, spread: f64) -> (f64, f64) {
    let bid = ((fair - spread / 2.0) * STEPS).floor().max(1.0);
    let ask = ((fair + spread / 2.0) * STEPS).ceil().max(bid + 1.0);
    (bid * 5.0 / 100.0, ask * 5.0 / 100.0)
}

/// What the width of options' premiums gains by each multiple of the activity of a calm market.
const PREMIUM_OF_ACTIVITY: f64 = 0.05;

/// The price steps in one rupee: all of these instruments trade in steps of 0.05.
const STEPS: f64 = 20.0;

fn nearest_step(price: f64) -> f64 {
    // Dividing, not multiplying by 0.05, gives exactly the f64 that "548.85" parses to.
    (price * STEPS + 0.5).floor().max(1.0) * 5.0 / 100.0
}

/// A number in 0..1 from the high bits.
fn share(bits: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    (bits >> 11) as f64 * UNIT
}

/// A random number in 0..1.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    share(rng.next_u64())
}

#[cfg(test)]
mod tests;
