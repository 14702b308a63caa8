//! The instruments: their names as NSE writes them, and how their prices follow the underlying.

/// One instrument.
#[derive(Clone, Debug, PartialEq)]
pub struct Instrument {
    /// The trading symbol, such as `NIFTY25NOV25750PE`.
    pub symbol: String,
    /// The instrument number of a broker's feed.
    pub token: u32,
    /// The kind of instrument.
    pub kind: InstrumentKind,
    /// The number of units in one lot.
    pub lot: u64,
    /// The typical number of lots between two snapshots.
    pub(super) depth: f64,
    /// The index in [`UNDERLYINGS`].
    pub(super) underlying: usize,
    /// The months to expiry, counted from the near contract; 0 for stocks.
    months: u32,
}

/// A kind of instrument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InstrumentKind {
    /// An index, which is calculated and not traded. It has only a price.
    Index,
    /// A stock, with quotes and volume.
    Stock,
    /// A future, with quotes, volume and open interest.
    Future,
    /// An option to buy at the strike.
    Call {
        /// The strike in the underlying's currency.
        strike: f64,
    },
    /// An option to sell at the strike.
    Put {
        /// The strike in the underlying's currency.
        strike: f64,
    },
}

impl Instrument {
    /// Whether the instrument has open interest.
    pub(crate) fn has_oi(&self) -> bool {
        !matches!(self.kind, InstrumentKind::Index | InstrumentKind::Stock)
    }

    /// The move of the underlying for a move of 1 of the market; 0 for the market itself.
    pub(super) fn beta(&self) -> f64 {
        match self.underlying {
            MARKET => 0.0,
            // 0.6, 0.7, … 1.3, and again.
            number => 0.6 + (number % 8) as f64 / 10.0,
        }
    }

    /// The fair price when the underlying is at `spot`, > 0, and premiums are `richness` times the usual ones.
    ///
    /// Options follow a hyperbola between 0 and their intrinsic value. It has the right shape (delta from 0 to 1, most
    /// time value at the strike, put-call parity) and needs only a square root.
    pub(super) fn fair_price(&self, spot: f64, richness: f64) -> f64 {
        let time = (f64::from(self.months) + 1.0).sqrt();
        let option = |moneyness: f64| {
            let width = spot * UNDERLYINGS[self.underlying].swing * time * richness;
            (moneyness + (moneyness * moneyness + width * width).sqrt()) / 2.0
        };
        match self.kind {
            InstrumentKind::Index | InstrumentKind::Stock => spot,
            InstrumentKind::Future => spot * (1.0 + 0.005 * (f64::from(self.months) + 1.0)),
            InstrumentKind::Call { strike } => option(spot - strike),
            InstrumentKind::Put { strike } => option(strike - spot),
        }
        .max(0.05)
    }

    /// The usual distance between bid and ask, as a share of the price.
    pub(super) fn spread_share(&self) -> f64 {
        match self.kind {
            InstrumentKind::Index | InstrumentKind::Stock | InstrumentKind::Future => 0.0001,
            InstrumentKind::Call { .. } | InstrumentKind::Put { .. } => 0.002,
        }
    }
}

/// An underlying, and how its instruments are traded.
pub(super) struct Listing {
    name: &'static str,
    pub(super) price: f64,
    lot: u64,
    /// The distance between neighbouring strikes.
    strike_step: f64,
    /// Twice the fair price of a near option at the money, as a share of the price.
    swing: f64,
    is_index: bool,
}

const fn stock(name: &'static str, price: f64, lot: u64, strike_step: f64) -> Listing {
    Listing { name, price, lot, strike_step, swing: 0.05, is_index: false }
}

const fn index(name: &'static str, price: f64, lot: u64, strike_step: f64) -> Listing {
    Listing { name, price, lot, strike_step, swing: 0.02, is_index: true }
}

/// The index in [`UNDERLYINGS`] of the market, which the others follow: NIFTY.
pub(super) const MARKET: usize = 0;

/// The underlyings, with prices near those of November 2025.
pub(super) const UNDERLYINGS: [Listing; 32] = [
    index("NIFTY", 25_750.0, 75, 50.0),
    stock("ICICIBANK", 1_345.0, 700, 10.0),
    stock("RELIANCE", 1_485.0, 500, 10.0),
    stock("HDFCBANK", 987.0, 550, 5.0),
    index("BANKNIFTY", 57_800.0, 35, 100.0),
    stock("SBIN", 937.0, 750, 5.0),
    stock("INFY", 1_482.0, 400, 10.0),
    stock("TCS", 3_058.0, 175, 20.0),
    stock("AXISBANK", 1_232.0, 625, 10.0),
    stock("KOTAKBANK", 2_102.0, 400, 20.0),
    stock("LT", 4_031.0, 175, 20.0),
    stock("ITC", 420.0, 1600, 2.5),
    stock("BHARTIARTL", 2_054.0, 475, 20.0),
    stock("M&M", 3_487.0, 200, 50.0),
    stock("BAJAJ-AUTO", 8_892.0, 75, 100.0),
    stock("MARUTI", 16_186.0, 50, 100.0),
    stock("SUNPHARMA", 1_690.0, 350, 10.0),
    stock("HINDUNILVR", 2_466.0, 300, 20.0),
    stock("TATASTEEL", 182.0, 5500, 1.0),
    stock("JSWSTEEL", 1_206.0, 675, 10.0),
    stock("NTPC", 337.0, 1500, 2.5),
    stock("POWERGRID", 288.0, 1900, 2.5),
    stock("ONGC", 255.0, 2250, 2.5),
    stock("COALINDIA", 388.0, 1350, 5.0),
    stock("TITAN", 3_747.0, 175, 20.0),
    stock("ASIANPAINT", 2_510.0, 250, 20.0),
    stock("ULTRACEMCO", 11_947.0, 50, 100.0),
    stock("WIPRO", 240.0, 3000, 2.5),
    stock("HCLTECH", 1_541.0, 350, 20.0),
    stock("TECHM", 1_424.0, 600, 10.0),
    stock("CIPLA", 1_501.0, 375, 10.0),
    stock("HINDALCO", 848.0, 700, 5.0),
];

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// The first `count` instruments: some of each kind, then only options.
pub(super) fn universe(count: usize) -> Vec<Instrument> {
    let mut list = Vec::with_capacity(count);
    // An option, a future, a stock or index for each underlying, so that a small universe has every kind.
    let mut options = options();
    for (underlying, listing) in UNDERLYINGS.iter().enumerate() {
        list.extend(options.next());
        list.push(future(underlying, 0));
        let kind = if listing.is_index { InstrumentKind::Index } else { InstrumentKind::Stock };
        list.push(Instrument {
            symbol: listing.name.to_owned(),
            token: 0,
            kind,
            lot: 1,
            depth: 2.0 * listing.lot as f64,
            underlying,
            months: 0,
        });
    }
    list.extend(options.take(count.saturating_sub(list.len())));
    list.truncate(count);
    for (token, instrument) in (1..).zip(&mut list) {
        instrument.token = token * 256 + 2;
    }
    list
}

fn future(underlying: usize, months: u32) -> Instrument {
    let listing = &UNDERLYINGS[underlying];
    let symbol = format!("{}{}FUT", listing.name, expiry(months));
    Instrument { symbol, token: 0, kind: InstrumentKind::Future, lot: listing.lot, depth: 2.0, underlying, months }
}

/// An endless list of options: month by month, from the strikes at the money outwards.
fn options() -> impl Iterator<Item = Instrument> {
    (0..).flat_map(|months| {
        (0..40).flat_map(move |rung: i32| {
            // At the money, one below, one above, two below, …
            let distance = if rung % 2 == 0 { rung / 2 } else { -(rung + 1) / 2 };
            (0..UNDERLYINGS.len()).flat_map(move |underlying| {
                [false, true].map(|is_call| option(underlying, months, distance, is_call)).into_iter().flatten()
            })
        })
    })
}

fn option(underlying: usize, months: u32, distance: i32, is_call: bool) -> Option<Instrument> {
    let listing = &UNDERLYINGS[underlying];
    let middle = (listing.price / listing.strike_step + 0.5).floor();
    let strike = (middle + f64::from(distance)) * listing.strike_step;
    let (kind, suffix) =
        if is_call { (InstrumentKind::Call { strike }, "CE") } else { (InstrumentKind::Put { strike }, "PE") };
    let symbol = format!("{}{}{strike}{suffix}", listing.name, expiry(months));
    (strike > 0.0).then_some(Instrument { symbol, token: 0, kind, lot: listing.lot, depth: 4.0, underlying, months })
}

/// The expiry in a symbol; `25NOV` is that of the near contract.
fn expiry(months: u32) -> String {
    let month = 10 + months;
    format!("{}{}", 25 + month / 12, MONTHS[(month % 12) as usize])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_a_larger_universe_begins_with_the_smaller() {
        let large = universe(20_000);
        assert_eq!(large.len(), 20_000);
        assert_eq!(large.iter().map(|i| &i.symbol).collect::<HashSet<_>>().len(), 20_000);
        for count in [1, 3, 96, 97, 500] {
            assert_eq!(universe(count), large[..count]);
        }
    }

    #[test]
    fn the_names_are_those_of_the_exchange() {
        let names: Vec<_> = universe(7).into_iter().map(|i| i.symbol).collect();
        assert_eq!(
            names,
            [
                "NIFTY25NOV25750PE",
                "NIFTY25NOVFUT",
                "NIFTY",
                "NIFTY25NOV25750CE",
                "ICICIBANK25NOVFUT",
                "ICICIBANK",
                "ICICIBANK25NOV1350PE"
            ]
        );
        assert!(universe(5000).iter().any(|i| i.symbol == "ITC25NOV422.5CE"));
        assert!(universe(20_000).iter().any(|i| i.symbol.contains("26JAN")));
    }

    #[test]
    fn an_option_follows_its_underlying_by_a_plausible_delta() {
        let all = universe(2000);
        let delta = |symbol: &str| {
            let option = all.iter().find(|i| i.symbol == symbol).unwrap();
            option.fair_price(25_755.0, 1.0) - option.fair_price(25_745.0, 1.0)
        };
        assert!((delta("NIFTY25NOV25750CE") / 10.0 - 0.51).abs() < 0.02);
        assert!((delta("NIFTY25NOV25750PE") / 10.0 + 0.49).abs() < 0.02);
        assert!(delta("NIFTY25NOV25000CE") > 8.0);
        assert!((0.0..2.0).contains(&delta("NIFTY25NOV26500CE")));
    }
}
