//! Ranks and the normal distribution by their definitions, for oracles; shares no code with the SDK.

#![allow(dead_code, unreachable_pub, reason = "a test binary has no outside, and may need a part of it")]

use std::f64::consts::PI;

/// Share of values in lower bins, eight to an octave; the own bin counts half, `half_life` values ago counts half.
pub fn rank(values: &[f64], asked: f64, half_life: f64) -> f64 {
    let bin = |value: f64| (8.0 * value.log2()).floor();
    let (mut below, mut total) = (0.0, 0.0);
    for (age, value) in values.iter().filter(|value| **value > 0.0).rev().enumerate() {
        let weight = 0.5f64.powf(age as f64 / half_life);
        total += weight;
        if bin(*value) < bin(asked) {
            below += weight;
        } else if bin(*value) == bin(asked) {
            below += weight / 2.0;
        }
    }
    below / total
}

/// Whether rounding decides which bin a value falls into.
pub fn at_edge(value: f64) -> bool {
    let exact = 8.0 * value.log2();
    (exact - exact.round()).abs() < 1e-6
}

/// Of a standard normal distribution, by Simpson's rule.
pub fn share_below(z: f64) -> f64 {
    let (z, density) = (z.clamp(-12.0, 12.0), |x: f64| (-x * x / 2.0).exp() / f64::sqrt(2.0 * PI));
    let step = z / 1000.0;
    let inner: f64 = (1..1000).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(z)) * step / 3.0
}
