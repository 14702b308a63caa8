//! A simulated market: endless ticks of NIFTY options, futures, stocks and indices.
//!
//! Serves the demo, `feed --simulate`, tests and benches. What holds:
//! - The same configuration gives the same ticks and the same rendered bytes on
//!   any machine: one ChaCha stream, and no float function beyond `+ - * /` and
//!   `sqrt`, which IEEE 754 pins to the last bit.
//! - Ticks come in the order of their event time, whole milliseconds apart.
//! - Dirt changes what a producer would write, never the market below it: the
//!   other ticks are those of a run without dirt.
//!
//! Not modelled: exchange holidays, expiry of contracts, the auction before the open.

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
    calendar::{NS_PER_MS, NS_PER_S},
    market::Underlying,
};
pub use self::{
    instrument::{Instrument, Kind},
    layout::Layout,
    render::Renderer,
};

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct SimConfig {
    /// Number of instruments, >= 1. The first `n` of a larger simulation are the same instruments.
    pub symbols: usize,
    /// Chooses the course of the market.
    pub seed: u64,
    /// Event time to begin at, ns since the Unix epoch; outside of a session, the next one's open.
    pub start: u64,
    /// Ticks a second of event time for each symbol, about; 0.001 to 500.
    pub rate: f64,
    /// Share of ticks that a careless producer spoils, 0..=1; see [`Dirt`].
    pub dirt: f64,
}

impl Default for SimConfig {
    fn default() -> Self {
        // Monday, 2025-11-03, 09:15 in India: the November contracts are the near ones.
        Self { symbols: 100, seed: 1, start: 1_762_141_500 * NS_PER_S, rate: 1.5, dirt: 0.0 }
    }
}

/// One market update, as the venue means it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// Index of the instrument in [`Simulator::instruments`].
    pub instrument: u32,
    /// Event time, ns since the Unix epoch, a whole number of milliseconds.
    pub time: u64,
    /// Last traded price, a multiple of 0.05, > 0.
    pub price: f64,
    /// Quantity of the last trade.
    pub last_quantity: u64,
    /// Traded in the session so far; 0 throughout for an index.
    pub cum_volume: u64,
    /// Best bid, 0.05 at least; 0 for an index.
    pub bid: f64,
    /// Best ask, above the bid; 0 for an index.
    pub ask: f64,
    /// Quantity at the best bid.
    pub bid_quantity: u64,
    /// Quantity at the best ask.
    pub ask_quantity: u64,
    /// Open interest; 0 unless the instrument is a future or an option.
    pub oi: u64,
    /// What is wrong with the published form.
    pub dirt: Option<Dirt>,
}

/// Faults seen in real feeds, one of which a spoiled tick has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dirt {
    /// Stamped with the Unix epoch.
    EpochStamp,
    /// Stamped 1 to 30 s too early.
    BackwardStamp,
    /// Cumulative volume an eighth too low.
    VolumeFall,
    /// Volume, quantity and open interest are empty strings.
    EmptyText,
    /// Neither quotes nor the last quantity.
    MissingFields,
    /// Last quantity and bid are not numbers.
    NanText,
    /// Bid and ask are 0, which means "none".
    ZeroQuote,
    /// Can't be decoded: half a JSON text, bytes that are no msgpack, fields without a tick.
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

/// The market. An iterator that never ends.
#[derive(Debug)]
pub struct Simulator {
    instruments: Vec<Instrument>,
    underlyings: Vec<Underlying>,
    books: Vec<Book>,
    /// When each instrument ticks next.
    due: BinaryHeap<Reverse<(u64, u32)>>,
    rng: ChaCha8Rng,
    dirt_rng: ChaCha8Rng,
    /// Mean time between two ticks of an instrument, ms.
    gap_ms: f64,
    dirt: f64,
}

/// What an instrument's next tick depends on.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    day: u64,
    price: f64,
    last_quantity: u64,
    cum_volume: u64,
    oi: u64,
}

impl Simulator {
    /// A market at `config.start`. Values out of range are taken as the nearest in range.
    pub fn new(config: &SimConfig) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let mut dirt_rng = rng.clone();
        dirt_rng.set_stream(1);
        let start = calendar::in_session(config.start / NS_PER_MS * NS_PER_MS);
        let instruments = instrument::universe(config.symbols.max(1));
        let underlyings = instrument::UNDERLYINGS.iter().map(|u| Underlying::new(u.price, start)).collect();
        let gap_ms = 1000.0 / config.rate.clamp(0.001, 500.0);
        let books = instruments.iter().map(|i| Book { oi: first_oi(i, &mut rng), ..Book::default() }).collect();
        let due = (0..)
            .zip(&instruments)
            .map(|(i, _)| Reverse((start + (uniform(&mut rng) * gap_ms) as u64 * NS_PER_MS, i)))
            .collect();
        Self { instruments, underlyings, books, due, rng, dirt_rng, gap_ms, dirt: config.dirt.clamp(0.0, 1.0) }
    }

    /// What is traded, by [`Tick::instrument`].
    pub fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// The symbol of a tick.
    pub fn symbol(&self, tick: &Tick) -> &str {
        &self.instruments[tick.instrument as usize].symbol
    }

    fn tick(&mut self) -> Tick {
        let (time, index) = self.next_due();
        let rng = &mut self.rng;
        let instrument = &self.instruments[index as usize];
        let underlying = &mut self.underlyings[instrument.underlying];
        let book = &mut self.books[index as usize];
        underlying.advance(time, rng);
        let day = calendar::day(time);
        if book.day != day {
            *book = Book { day, oi: book.oi, ..Book::default() };
        }
        let fair = instrument.fair_price(underlying.price());
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
        if instrument.kind == Kind::Index {
            return bare;
        }
        let (bid, ask) = quotes(fair, fair * instrument.spread_share());
        let activity = underlying.activity();
        let dice = rng.next_u64();
        // Snapshots come whether or not there was a trade: in a calm market about every other has one.
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

    /// The instrument that ticks next, and when; it is due again about a gap later.
    fn next_due(&mut self) -> (u64, u32) {
        let gap_ms = ((0.5 + uniform(&mut self.rng)) * self.gap_ms) as u64;
        let mut next = self.due.peek_mut().expect("there is at least one instrument, and none is ever taken out");
        let Reverse((time, index)) = *next;
        *next = Reverse((calendar::in_session(time + gap_ms.max(1) * NS_PER_MS), index));
        (time, index)
    }
}

impl Iterator for Simulator {
    type Item = Tick;

    fn next(&mut self) -> Option<Tick> {
        Some(self.tick())
    }
}

fn first_oi(instrument: &Instrument, rng: &mut ChaCha8Rng) -> u64 {
    let lots = 2000 + rng.next_u64() % 20_000;
    if instrument.has_oi() { lots * instrument.lot } else { 0 }
}

/// Bid and ask on the price grid, one step apart at least, around `fair`.
fn quotes(fair: f64, spread: f64) -> (f64, f64) {
    let bid = ((fair - spread / 2.0) * STEPS).floor().max(1.0);
    let ask = ((fair + spread / 2.0) * STEPS).ceil().max(bid + 1.0);
    (bid * 5.0 / 100.0, ask * 5.0 / 100.0)
}

/// Price steps in one rupee: all of these instruments trade in 0.05.
const STEPS: f64 = 20.0;

fn nearest_step(price: f64) -> f64 {
    // Divided, not multiplied by 0.05: that gives the very f64 that "548.85" parses to.
    (price * STEPS + 0.5).floor().max(1.0) * 5.0 / 100.0
}

/// In 0..1, from the high bits.
fn share(bits: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
    (bits >> 11) as f64 * UNIT
}

fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    share(rng.next_u64())
}

#[cfg(test)]
mod tests;
