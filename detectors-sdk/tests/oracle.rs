//! Indicators against TA-Lib's values for one series: `fixtures/make_oracle.py` made them (TA-Lib 0.8.2).

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use tickhound_sdk::indicators::{Atr, Ema, Rsi};

const SERIES: &str = include_str!("fixtures/oracle.csv");

#[test]
fn every_value_is_that_of_ta_lib_from_the_first_one_on() {
    let (mut ema_10, mut ema_26, mut rsi, mut atr) = (Ema::default(), Ema::default(), Rsi::default(), Atr::default());
    let mut compared = 0;
    for (bar, line) in SERIES.lines().skip(1).enumerate() {
        let fields: Vec<Option<f64>> = line.split(',').map(|field| field.parse().ok()).collect();
        let [high, low, close] = [0, 1, 2].map(|i| fields[i].unwrap());
        ema_10.push(10, close);
        ema_26.push(26, close);
        rsi.push(14, close);
        atr.push(14, high, low, close);
        let ours = [ema_10.get(10), ema_26.get(26), rsi.get(14), atr.get(14)];
        for (name, (ours, theirs)) in ["ema_10", "ema_26", "rsi_14", "atr_14"].iter().zip(ours.iter().zip(&fields[3..])) {
            assert_eq!(ours.is_some(), theirs.is_some(), "{name} of bar {bar}");
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                assert!((ours - theirs).abs() < 1e-9 * theirs.abs().max(1.0), "{name} of bar {bar}: {ours}, {theirs}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1500);
}
