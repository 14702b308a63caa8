//! What an instrument is to the chain of its underlying: an option, the underlying itself, or neither.
//!
//! The reference data says it, by `option_type`, `strike` and `days_to_expiry`. Where one of them is missing, the symbol's
//! name says it, in the forms that NSE and BSE use: root, expiry, strike, `CE` or `PE`. The expiry is a year and a month
//! (`25NOV`), or a year, a month as 1 to 9, O, N or D, and a day (`25N11`).

use serde::{Deserialize, Serialize};

/// The months as symbols have them.
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// The day of a monthly expiry, which its name does not give: after all weekly ones of that month.
const MONTHLY: u32 = 99;

/// Expiries read from names come after all from the reference data, which are days from now.
const FROM_NAME: u32 = 1_000_000;

/// The length of expiry, right and strike in the form of OCC.
const OCC: usize = 15;

/// The unit of [`Strike`], as a share of 1.
const STRIKE_UNITS: f64 = 10_000.0;

/// The largest strike of a contract: twice that can still be represented exactly.
const STRIKE_MAX: f64 = 1e9;

/// What an instrument is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contract {
    /// The underlying itself, whose price is the spot.
    Underlying,
    /// A future, or an option that has expired or can't be read, or a second instrument for the same contract.
    Other,
    /// An option.
    Option(Terms),
}

/// The terms of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The right.
    pub right: Right,
    /// The strike.
    pub strike: Strike,
    /// A number that is greater for a later expiry.
    pub expiry: u32,
}

/// Whether an option is a right to buy or to sell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Right {
    /// To buy: CE.
    Call,
    /// To sell: PE.
    Put,
}

/// A strike, in ten-thousandths of the quote currency, so that equal ones are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Strike(i64);

/// What the reference data says of an instrument. Texts are `None` and numbers NaN where it says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The column `option_type`.
    pub option_type: Option<&'a str>,
    /// The column `strike`.
    pub strike: f64,
    /// The column `days_to_expiry`.
    pub days_to_expiry: f64,
}

impl Contract {
    /// Returns what the instrument of this name is.
    #[must_use]
    pub fn of(name: &str, reference: Reference<'_>) -> Self {
        if let Some(contract) = Self::of_reference(reference) {
            return contract;
        }
        let name = name.rsplit([':', '|']).next().unwrap_or(name).trim_ascii().to_ascii_uppercase();
        if let Some(terms) = of_name(&name) {
            return Self::Option(terms);
        }
        if is_derivative(&name) { Self::Other } else { Self::Underlying }
    }

    fn of_reference(reference: Reference<'_>) -> Option<Self> {
        let Reference { option_type, strike, days_to_expiry } = reference;
        let right = match option_type?.trim_ascii().to_ascii_uppercase().as_str() {
            "CE" | "C" | "CALL" => Right::Call,
            "PE" | "P" | "PUT" => Right::Put,
            "FUT" | "FUTIDX" | "FUTSTK" => return Some(Self::Other),
            // Such as EQ or INDEX: the name decides.
            _ => return None,
        };
        if days_to_expiry < 0.0 {
            return Some(Self::Other);
        }
        let expiry = (days_to_expiry < f64::from(FROM_NAME)).then_some(days_to_expiry as u32)?;
        Some(Self::Option(Terms { right, strike: Strike::new(strike)?, expiry }))
    }
}

impl Strike {
    /// Returns the strike of this price. `None` unless it is greater than 0 and at most 1e9.
    #[must_use]
    pub fn new(price: f64) -> Option<Self> {
        (price > 0.0 && price <= STRIKE_MAX).then_some(Self((price * STRIKE_UNITS + 0.5) as i64))
    }

    /// Returns the strike in the quote currency.
    #[must_use]
    pub fn price(self) -> f64 {
        self.0 as f64 / STRIKE_UNITS
    }
}

/// Returns whether the name of no option that can be read is that of a derivative, whose price is not the spot: a future, or an
/// option in words (`NIFTY 28 NOV 25750 CALL`), in the form of OCC (`AAPL251121C00150000`), or with a wrong expiry or strike.
fn is_derivative(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let ends_as_option = matches!(bytes, [.., b'0'..=b'9', b'C' | b'P', b'E']);
    let is_occ = bytes.len() > OCC && {
        let (expiry, right, strike) =
            (&bytes[bytes.len() - OCC..][..6], bytes[bytes.len() - 9], &bytes[bytes.len() - 8..]);
        is_digits(expiry) && is_digits(strike) && matches!(right, b'C' | b'P')
    };
    let mut words = name.split([' ', '-', '_']).skip(1);
    let has_right = words.any(|word| matches!(word, "FUT" | "CE" | "PE" | "CALL" | "PUT"));
    name.ends_with("FUT") || ends_as_option || is_occ || has_right
}

/// Reads an upper-case name without a venue.
fn of_name(name: &str) -> Option<Terms> {
    let (dated, right) = match name.strip_suffix("CE") {
        Some(dated) => (dated, Right::Call),
        None => (name.strip_suffix("PE")?, Right::Put),
    };
    let (expiry, strike) = monthly(dated).or_else(|| weekly(dated))?;
    Some(Terms { right, strike, expiry: FROM_NAME + expiry })
}

/// Reads root, two digits of the year, three letters of the month, and strike.
fn monthly(dated: &str) -> Option<(u32, Strike)> {
    let of_month = |(number, month): (u32, &&str)| {
        let at = dated.rfind(*month)?;
        let year = digits(dated.get(at.checked_sub(2)?..at)?)?;
        let root = &dated[..at - 2];
        let strike = strike(&dated[at + 3..])?;
        (!root.is_empty()).then_some((date(year, number, MONTHLY), strike))
    };
    (1..).zip(&MONTHS).find_map(of_month)
}

/// Reads root, two digits of the year, a digit or letter of the month, two digits of the day, and strike.
fn weekly(dated: &str) -> Option<(u32, Strike)> {
    // The first digit behind a letter begins the expiry: roots with a digit at their end have no weekly options.
    let bytes = dated.as_bytes();
    let begin = (1..bytes.len()).find(|at| !bytes[at - 1].is_ascii_digit() && bytes[*at].is_ascii_digit())?;
    let expiry = dated.get(begin..)?;
    let year = digits(expiry.get(..2)?)?;
    let month = match expiry.as_bytes().get(2)? {
        digit @ b'1'..=b'9' => u32::from(digit - b'0'),
        b'O' => 10,
        b'N' => 11,
        b'D' => 12,
        _ => return None,
    };
    let day = digits(expiry.get(3..5)?).filter(|day| (1..=31).contains(day))?;
    Some((date(year, month, day), strike(expiry.get(5..)?)?))
}

/// Reads a strike such as `25750` or `102.5`. Whole numbers, since the code that reads any float is a tenth of a detector.
fn strike(text: &str) -> Option<Strike> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let (whole, places) = (digits(whole)?, 10i64.checked_pow(part.len().try_into().ok()?)?);
    let units = i64::from(whole) * STRIKE_UNITS as i64 + i64::from(digits(part)?) * STRIKE_UNITS as i64 / places;
    (units > 0).then_some(Strike(units))
}

fn digits(text: &str) -> Option<u32> {
    // `parse` takes a sign too.
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns a number that is greater for a later date. All are below [`FROM_NAME`].
fn date(year: u32, month: u32, day: u32) -> u32 {
    year * 10_000 + month * 100 + day
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Reference<'_> = Reference { option_type: None, strike: f64::NAN, days_to_expiry: f64::NAN };

    fn option(contract: Contract) -> (Right, f64, u32) {
        match contract {
            Contract::Option(terms) => (terms.right, terms.strike.price(), terms.expiry),
            other => panic!("{other:?} is not an option"),
        }
    }

    #[test]
    fn names_of_the_exchange_are_read() {
        for (name, right, strike, expiry) in [
            ("NIFTY25NOV25750PE", Right::Put, 25_750.0, 251_199),
            ("NFO:NIFTY25NOV25750CE", Right::Call, 25_750.0, 251_199),
            ("nse_fo|nhpc26jan102.5ce", Right::Call, 102.5, 260_199),
            ("BANKNIFTY25N1157800CE", Right::Call, 57_800.0, 251_111),
            ("SENSEX2610985000PE", Right::Put, 85_000.0, 260_109),
            ("NIFTYNXT5025NOV68000CE", Right::Call, 68_000.0, 251_199),
            ("M&M25NOV3700PE", Right::Put, 3_700.0, 251_199),
            ("BAJAJ-AUTO25NOV8900CE", Right::Call, 8_900.0, 251_199),
        ] {
            assert_eq!(option(Contract::of(name, NOTHING)), (right, strike, FROM_NAME + expiry), "{name}");
        }
        for name in
            ["NIFTY", "NIFTY 50", "Nifty_Bank", "RELIANCE-EQ", "PRESTIGE", "FORCE", "XCE", "360ONE", "É25NOVÉCE"]
        {
            assert_eq!(Contract::of(name, NOTHING), Contract::Underlying, "{name}");
        }
    }

    /// Their prices were taken for the spot.
    #[test]
    fn a_derivative_that_cannot_be_read_is_not_the_underlying() {
        for name in [
            "NIFTY25NOVFUT",
            "NIFTY 28 NOV 25750 CALL",
            "NIFTY-Nov2025-25750-CE",
            "AAPL251121C00150000",
            "O:AAPL251121P00150000",
            "25NOV25750CE",
            "X25NOV-1CE",
            "X25NOV.5CE",
            "X25NOV0CE",
            "X25NOV1E2CE",
            "X25NOV99999999999CE",
        ] {
            assert_eq!(Contract::of(name, NOTHING), Contract::Other, "{name}");
        }
    }

    #[test]
    fn reference_data_wins_over_the_name_and_comes_first_among_expiries() {
        let reference = Reference { option_type: Some("pe"), strike: 25_800.0, days_to_expiry: 3.0 };
        assert_eq!(option(Contract::of("NIFTY25NOV25750CE", reference)), (Right::Put, 25_800.0, 3));
        let expired = Reference { days_to_expiry: -1.0, ..reference };
        assert_eq!(Contract::of("NIFTY25NOV25750CE", expired), Contract::Other);
        let future = Reference { option_type: Some("FUT"), ..reference };
        assert_eq!(Contract::of("X", future), Contract::Other);
        let share = Reference { option_type: Some("EQ"), strike: 0.0, days_to_expiry: f64::NAN };
        assert_eq!(Contract::of("RELIANCE", share), Contract::Underlying);
    }

    #[test]
    fn what_the_reference_data_lacks_the_name_says() {
        for reference in [
            Reference { option_type: Some("CE"), strike: f64::NAN, days_to_expiry: 3.0 },
            Reference { option_type: Some("CE"), strike: 100.0, days_to_expiry: f64::NAN },
            Reference { option_type: Some("CE"), strike: f64::INFINITY, days_to_expiry: 3.0 },
            Reference { option_type: Some("CE"), strike: 100.0, days_to_expiry: 1e12 },
        ] {
            let read = option(Contract::of("NIFTY25NOV25750PE", reference));
            assert_eq!(read, (Right::Put, 25_750.0, FROM_NAME + 251_199));
        }
    }
}
