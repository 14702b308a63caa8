//! A chain of options to test on: index, future, two expiries, session rolls, pauses, a pre-open, quotes without a trade.

use tickhound_sdk::{
    flag,
    harness::{Row, group_tick},
};

use crate::market::{Dice, SECOND};

/// Where the strikes begin, and their distance.
const LOWEST: f64 = 24_900.0;
const STEP: f64 = 50.0;
const STRIKES: usize = 5;

/// What an instrument is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    Spot,
    Future,
    Option { is_call: bool, strike: f64, is_far: bool },
}

/// How the detector learns what an instrument is, and where the spot is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// From the names, and the index.
    Names,
    /// From the reference data, and the column `spot`.
    Reference,
}

/// One tick, as plain numbers for an oracle to recompute from.
#[derive(Clone, Debug)]
pub struct Raw {
    pub time: u64,
    pub what: What,
    pub price: f64,
    pub quantity: f64,
    pub flags: u32,
    pub opened: u64,
    /// The last price of the index.
    pub spot: f64,
    pub source: Source,
}

impl Raw {
    pub fn symbol(&self) -> String {
        match (self.source, self.what) {
            (_, What::Spot) => "NIFTY".to_owned(),
            (_, What::Future) => "NIFTY25NOVFUT".to_owned(),
            (Source::Names, What::Option { is_call, strike, is_far }) => {
                format!("NIFTY{}{strike}{}", if is_far { "25NOV" } else { "25N11" }, if is_call { "CE" } else { "PE" })
            }
            (Source::Reference, What::Option { is_call, strike, is_far }) => {
                format!("TOKEN{}", strike * 4.0 + f64::from(u8::from(is_far) * 2 + u8::from(is_call)))
            }
        }
    }

    pub fn row(&self) -> Row {
        let row = group_tick("NIFTY", &self.symbol(), 0.0, self.price).at_nanos(self.time);
        let row = row.with("quantity", self.quantity).with("flags", f64::from(self.flags));
        let row = row.with("since_open", (self.time as f64 - self.opened as f64) / SECOND as f64);
        match (self.source, self.what) {
            (Source::Reference, What::Option { is_call, strike, is_far }) => {
                let row = row.with("spot", self.spot).with("strike", strike);
                row.with("days_to_expiry", if is_far { 14.0 } else { 0.0 })
                    .with_text("option_type", if is_call { "CE" } else { "PE" })
            }
            _ => row,
        }
    }

    pub fn is_in_session(&self) -> bool {
        self.flags & flag::OUTSIDE == 0
    }
}

/// The fair price of an option: a hyperbola between 0 and its intrinsic value.
fn fair(is_call: bool, strike: f64, spot: f64, width: f64) -> f64 {
    let inside = if is_call { spot - strike } else { strike - spot };
    (inside + inside.hypot(width)) / 2.0
}

/// `count` ticks.
pub fn chain(seed: u64, count: usize, source: Source) -> Vec<Raw> {
    let mut dice = Dice::new(seed);
    let mut opened = 1_763_958_600 * SECOND;
    let (mut time, mut spot, mut width, mut drift) = (opened - 20 * SECOND, 25_000.0f64, 300.0f64, 0.0);
    let mut last: Vec<(What, f64)> = Vec::new();
    let mut ticks = Vec::new();
    for _ in 0..count {
        time += match dice.roll() {
            r if r < 0.002 => 40 * SECOND,
            r if r < 0.003 => {
                opened += 24 * 3600 * SECOND;
                spot += (dice.roll() - 0.5) * 200.0;
                width *= 0.8 + 0.4 * dice.roll();
                opened - 20 * SECOND - time
            }
            _ => (dice.roll() * 0.5 * SECOND as f64) as u64,
        };
        if dice.roll() < 0.03 {
            drift = (dice.roll() - 0.5) * 0.02;
        }
        spot = (spot + (dice.roll() - 0.5) * 6.0 + (25_000.0 - spot) * 0.005).max(24_000.0);
        width = (width * (1.0 + drift) + (300.0 - width) * 0.03).clamp(60.0, 900.0);
        // Most are near the money.
        let rung = ((dice.roll() + dice.roll()) / 2.0 * STRIKES as f64) as usize;
        let strike = LOWEST + rung as f64 * STEP;
        let what = match dice.roll() {
            r if r < 0.15 => What::Spot,
            r if r < 0.18 => What::Future,
            r => What::Option { is_call: dice.roll() < 0.5, strike, is_far: r < 0.25 },
        };
        let is_quote = dice.roll() < 0.1;
        let price = match what {
            What::Spot => spot,
            What::Future => spot * 1.001,
            What::Option { is_call, strike, is_far } => {
                fair(is_call, strike, spot, width * if is_far { 2.0 } else { 1.0 }) * (1.0 + (dice.roll() - 0.5) * 0.01)
            }
        };
        let price = ((price * 20.0).round() / 20.0).max(0.05);
        let known = last.iter_mut().find(|(of, _)| *of == what);
        let (price, flags) = match (is_quote, known) {
            (true, Some((_, last))) => (*last, flag::QUOTE_ONLY),
            (_, Some((_, last))) => {
                *last = price;
                (price, 0)
            }
            (_, None) => {
                last.push((what, price));
                (price, 0)
            }
        };
        let flags = flags | if time < opened { flag::PRE_OPEN } else { 0 };
        let is_option = matches!(what, What::Option { .. });
        let traded = is_option && flags & flag::QUOTE_ONLY == 0 && dice.roll() < 0.8;
        let quantity = if traded { (dice.roll() * 20.0).floor() * 75.0 } else { f64::NAN };
        ticks.push(Raw { time, what, price, quantity, flags, opened, spot, source });
    }
    ticks
}
