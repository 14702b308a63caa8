//! Ranks among recent values, which show how rare a value is, and their combination.
//!
//! A rank assumes nothing about the distribution. So it is right for fat tails and
//! coarse price grids, where formulas for a normal distribution call everything rare.
//! The results are the same bits natively and in WebAssembly: values are compared
//! with the limits of bins, and the normal distribution comes from the crate `libm`.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// The number of bins per doubling of the value. Neighbouring bins differ by 9 %.
const BINS_PER_OCTAVE: i32 = 8;

/// The maximum number of occupied bins. Together they are 32 doublings wide.
const BINS: usize = 256;

/// Weights are scaled down beyond this, before they exceed the range of their type.
const WEIGHT_MAX: f32 = 1e18;

/// The least distance of a rank from 0 and 1, where the normal quantile is infinite.
const CLIP: f64 = 1e-4;

/// A histogram of the logarithms of recent positive values, in which old values fade.
///
/// A new value weighs `2^(1/half_life)` times the previous one, so that a value counts
/// half after `half_life` values. No pass over old values is needed for that.
///
/// ```
/// use tickhound_sdk::rank::RankSketch;
/// let mut sizes = RankSketch::default();
/// (1..=100).for_each(|size| sizes.push(f64::from(size), 1000.0));
/// assert!((sizes.rank(50.0).unwrap() - 0.5).abs() < 0.05);
/// assert!(sizes.rank(200.0).unwrap() > 0.99);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankSketch {
    /// The number and weight of each occupied bin, in the order of numbers.
    bins: Vec<(i32, f32)>,
    /// The weight of the next value.
    next: f32,
}

impl Default for RankSketch {
    fn default() -> Self {
        Self { bins: Vec::new(), next: 1.0 }
    }
}

impl RankSketch {
    /// Adds a value. `half_life` is in values, >= 1. A value that is not finite and positive is ignored.
    pub fn push(&mut self, value: f64, half_life: f64) {
        if !(value.is_finite() && value > 0.0) {
            return;
        }
        let bin = bin(value);
        match self.bins.binary_search_by_key(&bin, |(number, _)| *number) {
            Ok(place) => self.bins[place].1 += self.next,
            Err(place) => self.bins.insert(place, (bin, self.next)),
        }
        if self.bins.len() > BINS {
            self.drop_lightest();
        }
        self.next *= libm::exp2(1.0 / half_life.max(1.0)) as f32;
        if self.next > WEIGHT_MAX {
            self.bins.iter_mut().for_each(|(_, weight)| *weight /= WEIGHT_MAX);
            self.bins.retain(|(_, weight)| *weight > 0.0);
            self.next /= WEIGHT_MAX;
        }
    }

    /// Returns the weighted share of values below `value`, in 0..=1. Values in the same bin count half.
    /// Returns `None` before the first value.
    pub fn rank(&self, value: f64) -> Option<f64> {
        let total: f64 = self.bins.iter().map(|(_, weight)| f64::from(*weight)).sum();
        if total <= 0.0 {
            return None;
        }
        if value.is_nan() || value <= 0.0 {
            return Some(0.0);
        }
        let bin = bin(value);
        let below = |(number, weight): &(i32, f32)| match number.cmp(&bin) {
            Ordering::Less => f64::from(*weight),
            Ordering::Equal => f64::from(*weight) / 2.0,
            Ordering::Greater => 0.0,
        };
        Some((self.bins.iter().map(below).sum::<f64>() / total).clamp(0.0, 1.0))
    }

    /// Drops the bin with the least weight, which changes the ranks least.
    fn drop_lightest(&mut self) {
        let lightest = self.bins.iter().enumerate().min_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b));
        if let Some((place, _)) = lightest {
            self.bins.remove(place);
        }
    }
}

/// Returns `floor(BINS_PER_OCTAVE * log2(value))`, found by comparison with the eighth roots of two.
fn bin(value: f64) -> i32 {
    const ROOTS: [f64; 7] = [
        1.090_507_732_665_257_7,
        1.189_207_115_002_721,
        1.296_839_554_651_009_6,
        std::f64::consts::SQRT_2,
        1.542_210_825_407_940_7,
        1.681_792_830_507_429,
        1.834_008_086_409_342_4,
    ];
    let bits = value.min(f64::MAX).to_bits();
    let exponent = (bits >> 52) as i32 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    exponent * BINS_PER_OCTAVE + ROOTS.iter().filter(|root| mantissa >= **root).count() as i32
}

/// Combines several ranks into one by Stouffer's weighted method (Stouffer 1949, with the variance of
/// correlated scores). The ranks become normal scores. Their weighted sum is divided by its standard
/// deviation, for scores of which each two correlate by `correlation`, and becomes a rank again.
///
/// `ranks` are pairs of a rank (0..=1, limited to 0.0001..=0.9999) and its weight (> 0).
///
/// ```
/// use tickhound_sdk::rank::stouffer;
/// let both = stouffer(&[(0.95, 1.0), (0.95, 0.7)], 0.5);
/// assert!(both > 0.95 && both < 0.99);
/// assert!((stouffer(&[(0.5, 1.0), (0.5, 0.7)], 0.5) - 0.5).abs() < 1e-12);
/// ```
pub fn stouffer(ranks: &[(f64, f64)], correlation: f64) -> f64 {
    let mut score = 0.0;
    let mut variance = 0.0;
    for (i, (rank, weight)) in ranks.iter().enumerate() {
        score += weight * normal_quantile(rank.clamp(CLIP, 1.0 - CLIP));
        let shared: f64 = ranks[..i].iter().map(|(_, other)| other * weight * correlation).sum();
        variance += weight * weight + 2.0 * shared;
    }
    if variance > 0.0 { normal_cdf(score / variance.sqrt()) } else { 0.5 }
}

/// Returns the share of a standard normal distribution below `z`.
///
/// ```
/// use tickhound_sdk::rank::normal_cdf;
/// assert!((normal_cdf(0.0) - 0.5).abs() < 1e-12);
/// assert!((normal_cdf(1.96) - 0.975).abs() < 1e-3);
/// ```
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

/// Returns the `z` below which the share `p` of a standard normal distribution lies. `p` is greater than 0 and less than 1.
///
/// This is Wichura's algorithm AS 241 (Applied Statistics 37, 1988), which is exact to about 16 digits.
///
/// ```
/// use tickhound_sdk::rank::normal_quantile;
/// assert!((normal_quantile(0.975) - 1.96).abs() < 1e-3);
/// ```
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * polynomial(&A, r) / polynomial(&B, r);
    }
    let r = libm::sqrt(-libm::log(p.min(1.0 - p)));
    let z = if r <= 5.0 {
        polynomial(&C, r - 1.6) / polynomial(&D, r - 1.6)
    } else {
        polynomial(&E, r - 5.0) / polynomial(&F, r - 5.0)
    };
    z.copysign(q)
}

fn polynomial(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

const A: [f64; 8] = [
    3.387_132_872_796_366_5,
    133.141_667_891_784_38,
    1_971.590_950_306_551_3,
    13_731.693_765_509_46,
    45_921.953_931_549_87,
    67_265.770_927_008_7,
    33_430.575_583_588_13,
    2_509.080_928_730_122_7,
];
const B: [f64; 8] = [
    1.0,
    42.313_330_701_600_91,
    687.187_007_492_057_9,
    5_394.196_021_424_751,
    21_213.794_301_586_597,
    39_307.895_800_092_71,
    28_729.085_735_721_943,
    5_226.495_278_852_854,
];
const C: [f64; 8] = [
    1.423_437_110_749_683_5,
    4.630_337_846_156_546,
    5.769_497_221_460_691,
    3.647_848_324_763_204_5,
    1.270_458_252_452_368_4,
    0.241_780_725_177_450_6,
    0.022_723_844_989_269_184,
    7.745_450_142_783_414e-4,
];
const D: [f64; 8] = [
    1.0,
    2.053_191_626_637_759,
    1.676_384_830_183_803_8,
    0.689_767_334_985_1,
    0.148_103_976_427_480_08,
    0.015_198_666_563_616_457,
    5.475_938_084_995_345e-4,
    1.050_750_071_644_416_9e-9,
];
const E: [f64; 8] = [
    6.657_904_643_501_103,
    5.463_784_911_164_114,
    1.784_826_539_917_291_3,
    0.296_560_571_828_504_87,
    0.026_532_189_526_576_124,
    0.001_242_660_947_388_078_4,
    2.711_555_568_743_487_6e-5,
    2.010_334_399_292_288_1e-7,
];
const F: [f64; 8] = [
    1.0,
    0.599_832_206_555_888,
    0.136_929_880_922_735_8,
    0.014_875_361_290_850_615,
    7.868_691_311_456_133e-4,
    1.846_318_317_510_054_8e-5,
    1.421_511_758_316_446e-7,
    2.044_263_103_389_939_8e-15,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959_963_984_540_054),
            (0.05, -1.644_853_626_951_472_6),
            (1e-10, -6.361_340_902_404_056),
        ] {
            assert!((normal_quantile(p) - z).abs() < 1e-13, "{p}: {}", normal_quantile(p));
        }
    }

    proptest! {
        #[test]
        fn quantile_and_share_are_each_others_inverse(p in 1e-12f64..1.0) {
            prop_assume!(p < 1.0 - 1e-12);
            prop_assert!((normal_cdf(normal_quantile(p)) - p).abs() < 1e-14);
        }

        #[test]
        fn bins_are_floors_of_logarithms(value in prop::num::f64::POSITIVE | prop::num::f64::NORMAL) {
            let exact = 8.0 * value.log2();
            // At a bin's very edge the logarithm itself is rounded.
            prop_assume!((exact - exact.round()).abs() > 1e-9);
            prop_assert_eq!(bin(value), exact.floor() as i32);
        }

        #[test]
        fn a_rank_is_the_faded_share_of_lower_bins(
            values in prop::collection::vec(0.01f64..1000.0, 1..300),
            asked in 0.01f64..1000.0,
            half_life in 5.0f64..500.0,
        ) {
            let mut sketch = RankSketch::default();
            values.iter().for_each(|value| sketch.push(*value, half_life));
            let (mut below, mut total) = (0.0, 0.0);
            for (age, value) in values.iter().rev().enumerate() {
                let weight = 0.5f64.powf(age as f64 / half_life);
                total += weight;
                below += weight * match bin(*value).cmp(&bin(asked)) {
                    Ordering::Less => 1.0,
                    Ordering::Equal => 0.5,
                    Ordering::Greater => 0.0,
                };
            }
            prop_assert!((sketch.rank(asked).unwrap() - below / total).abs() < 1e-3);
            prop_assert!(sketch.rank(asked * 1.5).unwrap() >= sketch.rank(asked).unwrap());
        }

        #[test]
        fn a_combination_is_between_0_and_1_and_rises_with_each_rank(
            a in 0.0f64..=1.0, b in 0.0f64..=1.0, more in 0.0f64..=1.0,
        ) {
            let rank = stouffer(&[(a, 1.0), (b, 0.7)], 0.5);
            prop_assert!((0.0..=1.0).contains(&rank));
            prop_assert!(stouffer(&[(a.max(more), 1.0), (b, 0.7)], 0.5) >= rank);
            prop_assert!(stouffer(&[(a, 1.0), (b.max(more), 0.7)], 0.5) >= rank);
        }
    }

    #[test]
    fn an_odd_first_value_does_not_blur_those_that_follow() {
        // A bin is 9 % wide, so a rank among evenly spread values may be off by as much.
        for first in [1e-9, 1e12] {
            let mut sketch = RankSketch::default();
            sketch.push(first, 1000.0);
            (1..=100).for_each(|size| sketch.push(f64::from(size), 1000.0));
            assert!((sketch.rank(90.0).unwrap() - 0.9).abs() < 0.09, "{first}: {:?}", sketch.rank(90.0));
        }
    }

    #[test]
    fn more_than_all_bins_keep_the_ranks_in_bounded_space() {
        let mut sketch = RankSketch::default();
        // One value for each of 300 octaves, all in different bins, then a crowd in ten of them.
        (-150..150).for_each(|octave| sketch.push(f64::from(octave).exp2(), 100.0));
        (0..2000).for_each(|n| sketch.push(f64::from(n % 10 * 10 + 5), 100.0));
        assert!(sketch.bins.len() <= BINS);
        assert!((sketch.rank(50.0).unwrap() - 0.5).abs() < 0.01, "{:?}", sketch.rank(50.0));
    }

    #[test]
    fn a_long_life_does_not_overflow() {
        let mut sketch = RankSketch::default();
        for n in 0..200_000 {
            sketch.push(1.0 + f64::from(n % 100), 50.0);
        }
        assert!((sketch.rank(50.0).unwrap() - 0.5).abs() < 0.2);
    }
}
