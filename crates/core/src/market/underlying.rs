//! The underlying of an instrument, from its name; pure.
//!
//! What holds: names that only begin alike have different underlyings (NIFTY and NIFTYBEES), and a name in none of the
//! forms below is its own underlying, so that a wrong guess never hides one instrument behind another.
//!
//! | form | example |
//! |---|---|
//! | future | `ICICIBANK25NOVFUT`, `ICICIBANK28NOV25FUT` |
//! | monthly option | `NIFTY25NOV25750PE`, `NHPC25NOV102.5CE`, `NIFTY28NOV2525750PE` |
//! | weekly option: year, month as 1 to 9, O, N or D, and day | `BANKNIFTY25N1157800CE` |
//! | option or future in words | `NIFTY-Nov2025-25750-CE`, `NIFTY 28 NOV 25750 CALL`, `NIFTY 25750 CE 25 NOV 25` |
//! | share with its series | `RELIANCE-EQ` |
//! | index as its own feed names it | `NIFTY 50`, `Nifty_Bank` |
//! | option as OCC names it | `AAPL251121C00150000` |
//! | each of these behind a venue | `NFO:NIFTY25NOVFUT`, `NSE_FO\|NIFTY25NOVFUT` |

use crate::venue;

/// The months as symbols have them.
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// The series of NSE's shares that feeds append to names: settlement classes of one share.
const SERIES: [&str; 9] = ["EQ", "BE", "BZ", "BL", "BT", "SM", "ST", "IL", "IQ"];

/// Indices whose derivatives have another name.
const INDICES: [(&str, &str); 6] = [
    ("NIFTY 50", "NIFTY"),
    ("NIFTY BANK", "BANKNIFTY"),
    ("NIFTY FIN SERVICE", "FINNIFTY"),
    ("NIFTY MID SELECT", "MIDCPNIFTY"),
    ("NIFTY MIDCAP SELECT", "MIDCPNIFTY"),
    ("NIFTY NEXT 50", "NIFTYNXT50"),
];

/// The digits of an option's strike in the form of OCC.
const OCC_STRIKE: usize = 8;

/// What some feeds write before an option in that form.
const OCC_PREFIX: &str = "O:";

/// Returns the underlying of the instrument with this name.
pub(super) fn underlying(symbol: &str) -> String {
    let whole = symbol.trim().to_uppercase();
    let name = match venue::split(&whole) {
        // A token is unique within its venue only.
        (Some(_), token) if is_digits(token) => return whole,
        (_, name) => name,
    };
    let words = name.replace(['_', '-'], " ");
    if let Some((_, root)) = INDICES.iter().find(|(index, _)| *index == words) {
        return (*root).to_owned();
    }
    derived_from(name).or_else(|| share(name)).unwrap_or(name).to_owned()
}

/// Returns whether the name is that of a future or an option.
pub(super) fn is_derivative(symbol: &str) -> bool {
    derived_from(venue::split(&symbol.trim().to_uppercase()).1).is_some()
}

/// The root of a future or an option.
fn derived_from(name: &str) -> Option<&str> {
    derivative(name).or_else(|| in_words(name)).or_else(|| occ(name))
}

/// The root of a future or an option whose name is one word: `root` + expiry + `FUT`, or + strike + `CE` or `PE`.
fn derivative(name: &str) -> Option<&str> {
    if let Some(dated) = name.strip_suffix("FUT") {
        // `25NOV`, or `28NOV25`, which begins alike.
        let month = month_within(dated)?;
        return root(&dated[..month]).filter(|_| is_digits_at_most(&dated[month + 3..], 2));
    }
    let dated = name.strip_suffix("CE").or_else(|| name.strip_suffix("PE"))?;
    let strike = |text: &str| !text.is_empty() && text.parse::<f64>().is_ok() && !text.starts_with(['+', '-']);
    if let Some(month) = month_within(dated)
        && strike(&dated[month + 3..])
    {
        return root(&dated[..month]);
    }
    weekly(dated, strike)
}

/// Where the name of the last month begins that has two digits before it.
fn month_within(dated: &str) -> Option<usize> {
    let months = MONTHS.iter().filter_map(|month| dated.rfind(month));
    months.filter(|at| *at > 2 && dated.get(at - 2..*at).is_some_and(is_digits)).max()
}

/// The name before the two digits of a day or year.
fn root(before_month: &str) -> Option<&str> {
    before_month.get(..before_month.len().checked_sub(2)?).filter(|root| !root.is_empty())
}

/// The root of a weekly option: + two digits of the year, a digit or letter for the month, two of the day, and the strike.
fn weekly(dated: &str, strike: impl Fn(&str) -> bool) -> Option<&str> {
    // The first digit behind a letter begins the expiry: roots with a digit at their end have no weekly options.
    let begin = (1..dated.len()).find(|at| {
        let (before, after) = (dated.as_bytes()[at - 1], dated.as_bytes()[*at]);
        !before.is_ascii_digit() && after.is_ascii_digit()
    })?;
    let (root, expiry) = dated.split_at_checked(begin)?;
    let (year, month) = (expiry.get(..2)?, expiry.get(2..3)?);
    let (day, rest) = (expiry.get(3..5)?, expiry.get(5..)?);
    let is_month = matches!(month.as_bytes(), [b'1'..=b'9' | b'O' | b'N' | b'D']);
    let is_day = is_digits(day) && matches!(day.parse(), Ok(1..=31));
    (is_digits(year) && is_month && is_day && strike(rest)).then_some(root)
}

/// The root of a derivative whose name is several words: one of them is a month, and one says what it is.
fn in_words(name: &str) -> Option<&str> {
    let words: Vec<&str> = name.split([' ', '-']).filter(|word| !word.is_empty()).collect();
    let is_kind = |word: &&str| matches!(*word, "FUT" | "CE" | "PE" | "CALL" | "PUT");
    let is_dated = |word: &&str| MONTHS.iter().any(|month| word.strip_prefix(month).is_some_and(is_digits_or_nothing));
    let first = words.iter().position(|word| word.as_bytes()[0].is_ascii_digit() || is_dated(word))?;
    let derived = first > 0 && words.iter().any(is_kind) && words.iter().any(is_dated);
    // The root may itself contain a hyphen, as `BAJAJ-AUTO` does: everything before the first date or number.
    let end = words[first].as_ptr() as usize - name.as_ptr() as usize;
    derived.then(|| name[..end].trim_end_matches([' ', '-']))
}

/// The root of an option in the form of OCC: + `YYMMDD`, `C` or `P`, and eight digits of the strike.
fn occ(name: &str) -> Option<&str> {
    let name = name.strip_prefix(OCC_PREFIX).unwrap_or(name);
    let (dated, strike) = name.split_at_checked(name.len().checked_sub(OCC_STRIKE)?)?;
    let dated = dated.strip_suffix(['C', 'P'])?;
    let (root, expiry) = dated.split_at_checked(dated.len().checked_sub(6)?)?;
    let root = root.trim_end();
    (is_digits(strike) && is_digits(expiry) && !root.is_empty()).then_some(root)
}

/// The name of a share without its series.
fn share(name: &str) -> Option<&str> {
    let (share, series) = name.rsplit_once('-')?;
    (SERIES.contains(&series) && !share.is_empty()).then_some(share)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && is_digits_or_nothing(text)
}

fn is_digits_or_nothing(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_digits_at_most(text: &str, most: usize) -> bool {
    text.len() <= most && is_digits_or_nothing(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spot_future_and_options_have_one_underlying() {
        let cases = [
            (
                "NIFTY",
                &[
                    "NIFTY",
                    "NIFTY 50",
                    "NSE:NIFTY 50",
                    "Nifty_50",
                    "NIFTY25NOV25750PE",
                    "NFO:NIFTY25NOV25750CE",
                    "NIFTY25NOVFUT",
                    "NIFTY28NOV25FUT",
                    "NIFTY28NOV2525750PE",
                    "NIFTY25N1125750CE",
                    "NIFTY2610625750PE",
                    "NIFTY-Nov2025-25750-CE",
                    "NIFTY-Nov2025-FUT",
                    "NIFTY 28 NOV 25750 CALL",
                    "NIFTY 25750 CE 25 NOV 25",
                    "NSE_FO|NIFTY25NOVFUT",
                ][..],
            ),
            ("BANKNIFTY", &["BANKNIFTY25N1157800CE", "Nifty_Bank", "NIFTY BANK", "BANKNIFTY25NOVFUT", "BANKNIFTY"]),
            ("FINNIFTY", &["FINNIFTY", "FINNIFTY25NOV26000CE", "NIFTY FIN SERVICE"]),
            ("NIFTYNXT50", &["NIFTYNXT50", "NIFTYNXT5025NOVFUT", "NIFTYNXT5025NOV68000CE", "NIFTY NEXT 50"]),
            ("NIFTYBEES", &["NIFTYBEES", "NSE:NIFTYBEES", "NIFTYBEES-EQ"]),
            ("ICICIBANK", &["ICICIBANK25NOVFUT", "ICICIBANK", "ICICIBANK-EQ", "BSE:ICICIBANK", "icicibank"]),
            ("RELIANCE", &["RELIANCE", "RELIANCE-EQ", "NSE:RELIANCE", "RELIANCE25NOV1500PE", "RELIANCE25NOV1502.5PE"]),
            ("BAJFINANCE", &["BAJFINANCE", "BAJFINANCE25NOVFUT"]),
            ("M&M", &["M&M", "M&M-EQ", "M&M25NOVFUT", "M&M25NOV3700CE", "NFO:M&M25NOV3700PE"]),
            ("M&MFIN", &["M&MFIN25NOVFUT", "M&MFIN"]),
            ("BAJAJ-AUTO", &["BAJAJ-AUTO", "BAJAJ-AUTO-EQ", "BAJAJ-AUTO25NOVFUT", "BAJAJ-AUTO-Nov2025-FUT"]),
            ("NAM-INDIA", &["NAM-INDIA"]),
            ("360ONE", &["360ONE", "360ONE25NOVFUT", "360ONE25NOV1100CE"]),
            ("TV18BRDCST", &["TV18BRDCST", "TV18BRDCST25NOVFUT"]),
            ("ITC", &["ITC25NOV422.5CE", "ITC26JANFUT", "ITC"]),
            ("CRUDEOIL", &["CRUDEOIL25NOVFUT", "MCX:CRUDEOIL25NOV5300CE"]),
            ("USDINR", &["USDINR25N1484.5CE", "CDS:USDINR25NOVFUT"]),
            ("SENSEX", &["SENSEX", "BFO:SENSEX25N1385000CE"]),
            ("AAPL", &["AAPL", "AAPL251121C00150000", "O:AAPL251121P00150000", "AAPL  251121C00150000"]),
        ];
        for (expected, symbols) in cases {
            for symbol in symbols {
                assert_eq!(underlying(symbol), expected, "{symbol}");
            }
        }
    }

    /// Tokens, pairs and names that end like options.
    #[test]
    fn a_name_in_no_known_form_is_its_own_underlying() {
        for symbol in [
            "NSE_FO|40084",
            "12345",
            "BTCUSDT",
            "BTC-USDT",
            "EURUSD",
            "FUT",
            "CE",
            "PE",
            "25NOVFUT",
            "NOVFUT",
            "XFUT",
            "SENSEX CE",
            "JAN",
            "1FUT",
            "FORCE",
            "PRESTIGE",
            "",
            "É25NOVFUTÉ",
            "A-EQ-",
            "-EQ",
            "X25N99100CE",
        ] {
            assert_eq!(underlying(symbol), symbol);
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_underlying_that_is_no_longer_than_itself(text in "\\PC{0,40}", tail in "(25NOV|25N11|Nov2025)?[0-9.]{0,6}(FUT|CE|PE)?") {
            for symbol in [text.clone(), format!("{text}{tail}")] {
                let found = underlying(&symbol);
                let known = INDICES.iter().any(|(_, root)| *root == found);
                prop_assert!(known || symbol.to_uppercase().contains(&found), "{symbol}: {found}");
            }
        }
    }
}
