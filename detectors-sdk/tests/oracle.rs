//! Our indicators say what others' say: TA-Lib and talipp (values in `fixtures/oracle.csv`,
//! made by the script beside it) and the crate `quantedge-ta`.
//!
//! EMA and RSI begin alike in all of them. ATR does not: TA-Lib, like us, leaves out the first
//! bar, which has no previous close; the others take its high - low. That difference has faded
//! below the tolerance after 300 bars.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::num::NonZero;

use quantedge_ta::Ohlcv;
use tickhound_sdk::indicators::{Atr, Ema, Rsi};

/// Relative; what different orders of the same sums may differ by, and little more.
const TOLERANCE: f64 = 1e-9;

/// Bars after which Wilder's average of 14 has forgotten how it began: (13/14)^300 < 1e-9.
const FORGOTTEN: usize = 300;

/// High, low, close.
type Bar = [f64; 3];

/// Columns of the fixture by name; `None` where an oracle says nothing yet.
struct Fixture {
    names: Vec<&'static str>,
    rows: Vec<Vec<Option<f64>>>,
}

impl Fixture {
    fn load() -> Self {
        let mut lines = include_str!("fixtures/oracle.csv").lines().filter(|line| !line.starts_with('#'));
        let names: Vec<_> = lines.next().unwrap().split(',').collect();
        let cell = |cell: &str| (!cell.is_empty()).then(|| cell.parse().unwrap());
        let rows: Vec<Vec<_>> = lines.map(|line| line.split(',').map(cell).collect()).collect();
        assert!(rows.len() >= 400 && rows.iter().all(|row| row.len() == names.len()));
        Self { names, rows }
    }

    fn column(&self, name: &str) -> Vec<Option<f64>> {
        let place = self.names.iter().position(|n| *n == name).unwrap();
        self.rows.iter().map(|row| row[place]).collect()
    }

    /// What `indicator` says after each bar.
    fn run(&self, mut indicator: impl FnMut(Bar) -> Option<f64>) -> Vec<Option<f64>> {
        let bar = |row: &Vec<Option<f64>>| [row[0].unwrap(), row[1].unwrap(), row[2].unwrap()];
        self.rows.iter().map(|row| indicator(bar(row))).collect()
    }

    fn ema(&self, length: u32) -> Vec<Option<f64>> {
        let mut ema = Ema::default();
        self.run(|[_, _, close]| {
            ema.push(length, close);
            ema.get(length)
        })
    }

    fn rsi(&self) -> Vec<Option<f64>> {
        let mut rsi = Rsi::default();
        self.run(|[_, _, close]| {
            rsi.push(14, close);
            rsi.get(14)
        })
    }

    fn atr(&self) -> Vec<Option<f64>> {
        let mut atr = Atr::default();
        self.run(|[high, low, close]| {
            atr.push(14, high, low, close);
            atr.get(14)
        })
    }
}

/// Equal from row `from` on: both silent, or both say the same.
#[track_caller]
fn assert_same(ours: &[Option<f64>], theirs: &[Option<f64>], from: usize) {
    assert_eq!(ours.len(), theirs.len());
    for (row, (ours, theirs)) in ours.iter().zip(theirs).enumerate().skip(from) {
        let same = match (ours, theirs) {
            (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * b.abs(),
            (a, b) => a.is_none() && b.is_none(),
        };
        assert!(same, "row {row}: {ours:?}, but the oracle says {theirs:?}");
    }
}

#[test]
fn they_say_what_ta_lib_says_from_its_first_value_on() {
    let fixture = Fixture::load();
    assert_same(&fixture.ema(10), &fixture.column("talib_ema_10"), 0);
    assert_same(&fixture.ema(26), &fixture.column("talib_ema_26"), 0);
    assert_same(&fixture.rsi(), &fixture.column("talib_rsi_14"), 0);
    assert_same(&fixture.atr(), &fixture.column("talib_atr_14"), 0);
}

#[test]
fn they_say_what_talipp_says() {
    let fixture = Fixture::load();
    assert_same(&fixture.ema(10), &fixture.column("talipp_ema_10"), 0);
    assert_same(&fixture.ema(26), &fixture.column("talipp_ema_26"), 0);
    assert_same(&fixture.rsi(), &fixture.column("talipp_rsi_14"), 0);
    assert_same(&fixture.atr(), &fixture.column("talipp_atr_14"), FORGOTTEN);
}

#[test]
fn they_say_what_the_crate_says_whose_state_cannot_be_saved() {
    use quantedge_ta::{Atr, AtrConfig, Ema, EmaConfig, Rsi, RsiConfig};

    let fixture = Fixture::load();
    let mut time = 0;
    let mut candle = |[high, low, close]: Bar| {
        time += 1;
        Ohlcv { open: close, high, low, close, open_time: time, volume: 0.0 }
    };
    let length = NonZero::new(14).unwrap();
    let mut ema = Ema::new(EmaConfig::close(NonZero::new(26).unwrap()));
    assert_same(&fixture.ema(26), &fixture.run(|bar| ema.compute(&candle(bar))), 0);
    let mut rsi = Rsi::new(RsiConfig::close(length));
    assert_same(&fixture.rsi(), &fixture.run(|bar| rsi.compute(&candle(bar))), 0);
    let mut atr = Atr::new(AtrConfig::builder().length(length).build());
    assert_same(&fixture.atr(), &fixture.run(|bar| atr.compute(&candle(bar))), FORGOTTEN);
}
