//! The course of one underlying: calm for some minutes, then a trend, a breakout or a spike.

use rand_chacha::{ChaCha8Rng, rand_core::Rng};

use super::{calendar::NS_PER_S, uniform};

/// One hundredth of a percent.
const BP: f64 = 1e-4;
/// The time without a tick after which the market was closed, s. It exceeds the pauses within a session at useful
/// rates.
const CLOSED: f64 = 3600.0;

/// An underlying, and its current mood.
#[derive(Debug)]
pub(super) struct Underlying {
    /// The initial price, to which the price reverts, so that strikes stay near the money.
    base: f64,
    price: f64,
    time: u64,
    mood: Mood,
    /// When the mood ends, ns.
    until: u64,
}

/// How the price moves for a while.
#[derive(Clone, Copy, Debug)]
struct Mood {
    /// The standard deviation, per square root of a second.
    noise: f64,
    /// The drift per second, as a share of the price.
    drift: f64,
    /// The trading activity, as a multiple of that in a calm market.
    activity: f64,
    /// The share of the price that is taken back when the mood ends.
    overshoot: f64,
    is_calm: bool,
}

impl Underlying {
    /// An underlying at its initial price.
    pub(super) fn new(price: f64, time: u64) -> Self {
        // The first mood is drawn at the first tick.
        let mood = Mood { noise: 0.0, drift: 0.0, activity: 1.0, overshoot: 0.0, is_calm: false };
        Self { base: price, price, time, mood, until: time }
    }

    /// The current price.
    pub(super) fn price(&self) -> f64 {
        self.price
    }

    /// The distance from the initial price, as a share of it.
    pub(super) fn change(&self) -> f64 {
        self.price / self.base - 1.0
    }

    /// The trading activity, as a multiple of that in a calm market, >= 1.
    pub(super) fn activity(&self) -> f64 {
        self.mood.activity
    }

    /// Moves the price until `time`, which must not be before that of the last call.
    pub(super) fn advance(&mut self, time: u64, rng: &mut ChaCha8Rng) {
        let seconds = (time - self.time) as f64 / NS_PER_S as f64;
        self.time = time;
        if seconds > CLOSED {
            // The price gaps at the open, and the market is calm at first.
            self.price *= 1.0 + 40.0 * BP * gauss(rng);
            self.calm(time, rng);
            return;
        }
        if time >= self.until {
            self.price *= 1.0 - self.mood.overshoot;
            if self.mood.is_calm { self.stir(time, rng) } else { self.calm(time, rng) }
        }
        let step = self.mood.noise * seconds.sqrt() * gauss(rng) + self.mood.drift * seconds;
        self.price *= 1.0 + step;
    }

    fn calm(&mut self, time: u64, rng: &mut ChaCha8Rng) {
        // The price reverts to the base within hours.
        let drift = (1.0 - self.price / self.base) / 7200.0;
        self.mood = Mood { noise: 0.4 * BP, drift, activity: 1.0, overshoot: 0.0, is_calm: true };
        self.until = time + between(180.0, 480.0, rng);
    }

    fn stir(&mut self, time: u64, rng: &mut ChaCha8Rng) {
        // Up is as likely as down, except far from the base.
        let outward = self.price / self.base - 1.0;
        let up = if uniform(rng) < 0.5 - 20.0 * outward { 1.0 } else { -1.0 };
        let strength = uniform(rng);
        let kind = uniform(rng);
        let (mood, seconds, jump);
        if kind < 0.45 {
            // Breakout: a jump out of the range on high volume, and a drift in the same direction.
            jump = up * (4.0 + 6.0 * strength) * BP;
            let drift = up * (0.5 + strength) * BP;
            mood = Mood { noise: 0.8 * BP, drift, activity: 4.0 + 3.0 * strength, overshoot: 0.0, is_calm: false };
            seconds = between(20.0, 60.0, rng);
        } else if kind < 0.8 {
            // Trend: no jump, more trading, and the same direction for minutes.
            jump = 0.0;
            let drift = up * (0.15 + 0.25 * strength) * BP;
            mood = Mood { noise: 0.5 * BP, drift, activity: 1.6, overshoot: 0.0, is_calm: false };
            seconds = between(120.0, 300.0, rng);
        } else {
            // Spike: a jump that is nearly all taken back within seconds.
            jump = up * (10.0 + 20.0 * strength) * BP;
            mood = Mood { noise: 0.8 * BP, drift: 0.0, activity: 2.5, overshoot: 0.9 * jump, is_calm: false };
            seconds = between(2.0, 8.0, rng);
        }
        self.price *= 1.0 + jump;
        self.mood = mood;
        self.until = time + seconds;
    }
}

/// A random duration in ns, uniform between `least` and `most` seconds.
fn between(least: f64, most: f64, rng: &mut ChaCha8Rng) -> u64 {
    ((least + (most - least) * uniform(rng)) * NS_PER_S as f64) as u64
}

/// A random number that is about normal, with mean 0 and variance 1: a sum of six uniform numbers of 10 bits each, at
/// times doubled, since returns have fat tails.
fn gauss(rng: &mut ChaCha8Rng) -> f64 {
    let bits = rng.next_u64();
    let sum: u64 = (0..6).map(|i| bits >> (10 * i) & 1023).sum();
    // Sum of six: mean 6 * 511.5, variance 6 * (1024² - 1) / 12.
    let z = (sum as f64 - 3069.0) / 724.0769;
    // Variance of the mixture: (15 * 0.9² + 2²) / 16 = 1.009.
    if bits >> 60 == 0 { 2.0 * z } else { 0.9 * z }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn gauss_has_mean_0_and_variance_1() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let n = 200_000;
        let (sum, squares) = (0..n).map(|_| gauss(&mut rng)).fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        assert!((sum / f64::from(n)).abs() < 0.01);
        assert!((squares / f64::from(n) - 1.0).abs() < 0.02);
    }
}
