//! Ticks to test on: a random walk with calm and lively stretches, bursts, pauses and session rolls.

use tickhound_sdk::{
    flag,
    harness::{Row, tick},
};

pub const SECOND: u64 = 1_000_000_000;

/// One tick, as plain numbers for an oracle to recompute from.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub time: u64,
    pub price: f64,
    pub quantity: f64,
    pub session_start: bool,
}

impl Raw {
    pub fn row(&self) -> Row {
        let flags = if self.session_start { flag::SESSION_START } else { 0 };
        tick("X", 0.0, self.price).at_nanos(self.time).with("quantity", self.quantity).with("flags", f64::from(flags))
    }
}

/// The same numbers for the same seed (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in 0..1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `count` ticks; `volume` off: an index.
pub fn walk(seed: u64, count: usize, volume: bool) -> Vec<Raw> {
    let mut dice = Dice::new(seed);
    let (mut time, mut price, mut drift, mut lively) = (1_763_958_600 * SECOND, 1000.0f64, 0.0, 1.0);
    let mut ticks = Vec::new();
    for index in 0..count {
        if dice.roll() < 0.004 {
            drift = (dice.roll() - 0.5) * 0.8;
            lively = 0.3 + 3.0 * dice.roll();
        }
        let mut session_start = index == 0;
        time += match dice.roll() {
            // A burst, pauses within the day, the next day, a usual step.
            r if r < 0.1 => SECOND / 1000,
            r if r < 0.1005 => 40 * SECOND,
            r if r < 0.1007 => 200 * SECOND,
            r if r < 0.101 => {
                session_start = true;
                price += (dice.roll() - 0.5) * 20.0;
                18 * 3600 * SECOND
            }
            _ => ((0.2 + dice.roll()) * SECOND as f64) as u64,
        };
        price = (price + (drift + (dice.roll() - 0.5) * 2.0) * 0.3 * lively).max(10.0);
        let price = (price * 20.0).round() / 20.0;
        let quantity = if volume {
            (dice.roll() * dice.roll() * 100.0 * lively * (1.0 + 8.0 * f64::abs(drift))).floor()
        } else {
            f64::NAN
        };
        ticks.push(Raw { time, price, quantity, session_start });
    }
    ticks
}
