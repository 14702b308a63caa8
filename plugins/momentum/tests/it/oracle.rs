//! Momentum by its definition, from raw ticks; shares no code with the detector.
//!
//! Keeps all there ever was and computes it anew for each bar, as the detector must not.

use std::f64::consts::PI;

use tickhound_sdk::{Direction, harness::Found};

use super::market::{Raw, SECOND};

pub const BAR: u64 = 5 * SECOND;
pub const N: usize = 12;

/// A closed bar over whose look-back there is a move.
#[derive(Debug)]
pub struct Judged {
    /// Of the tick that closed it, ns.
    pub time: u64,
    /// Logarithmic return over the look-back.
    pub size: f64,
    pub ratio: f64,
    pub z: f64,
    pub fast: f64,
    pub slow: f64,
    pub size_rank: f64,
    pub ratio_rank: f64,
    /// The tick that closed it came more than five bars after its beginning.
    pub late: bool,
    /// Bars closed until then, this one included.
    pub closed: usize,
    /// A pause or a new session came since the last one judged.
    pub anew: bool,
    /// Rounding decides which bin its size or ratio falls into.
    pub edge: bool,
}

/// Every bar with a full look-back behind it.
pub fn judge(ticks: &[Raw]) -> Vec<Judged> {
    let (mut judged, mut closes, mut sizes, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut run, mut square, mut anew) = (0, 0.0, true);
    for (time, late, close) in closes_of(ticks) {
        let Some(close) = close else {
            (run, anew) = (0, true);
            continue;
        };
        closes.push(close);
        run += 1;
        if run <= N {
            continue;
        }
        let look_back = &closes[closes.len() - N - 1..];
        let size = (close / look_back[0]).ln();
        let way: f64 = look_back.windows(2).map(|pair| (pair[1] / pair[0]).ln().abs()).sum();
        // A way without a turn is exactly straight; 1 is a bin's edge, where rounding would decide.
        let straight = look_back.is_sorted() || look_back.is_sorted_by(|a, b| a >= b);
        let ratio = match size != 0.0 {
            true if straight => 1.0,
            true => size.abs() / way,
            false => 0.0,
        };
        judged.push(Judged {
            time,
            size,
            ratio,
            z: if square > 0.0 { size / f64::sqrt(square) } else { 0.0 },
            fast: ema(&closes, 12),
            slow: ema(&closes, 26),
            size_rank: rank(&sizes, size.abs()),
            ratio_rank: rank(&ratios, ratio),
            late,
            closed: closes.len(),
            anew,
            edge: at_edge(size.abs()) || at_edge(ratio),
        });
        anew = false;
        square += (size * size - square) * 2.0 / 241.0;
        sizes.push(size.abs());
        ratios.push(ratio);
    }
    judged
}

/// Whether a move may fire, other parameters at their defaults; `None` where it is too close to tell.
pub fn passes(it: &Judged, er_min: f64, direction: Direction, armed: bool, last: Option<u64>) -> Option<bool> {
    let sign = if direction == Direction::Up { 1.0 } else { -1.0 };
    let cool = last.is_none_or(|last| it.time - last >= 60 * SECOND);
    if !(armed && cool && sign * it.size > 0.0 && sign * (it.fast - it.slow) > 0.0 && it.closed > 120 && !it.late) {
        return Some(false);
    }
    // One old value in the neighbouring bin is worth up to half a percent.
    if it.edge || (it.size_rank - 0.6).abs() < 0.006 || (it.ratio - er_min).abs() < 1e-9 {
        return None;
    }
    Some(it.size_rank > 0.6 && it.ratio > er_min)
}

/// Stouffer's combination of the ranks that a detection tells, with the normal distribution integrated.
pub fn confidence(found: &Found) -> f64 {
    let score = |name: &str| {
        let rank = found.detection.evidence(name).unwrap().clamp(1e-4, 1.0 - 1e-4);
        let (mut low, mut high) = (-5.0, 5.0);
        while high - low > 1e-9 {
            let middle = (low + high) / 2.0;
            *(if share_below(middle) < rank { &mut low } else { &mut high }) = middle;
        }
        low
    };
    let deviation = f64::sqrt(1.0 + 0.49 + 2.0 * 0.5 * 0.7);
    share_below((score("move_rank") + 0.7 * score("efficiency_rank")) / deviation)
}

/// Of a standard normal distribution, by Simpson's rule.
fn share_below(z: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / f64::sqrt(2.0 * PI);
    let step = z / 200.0;
    let inner: f64 = (1..200).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(z)) * step / 3.0
}

/// Each close with the time of the tick that ended its bar and whether that was late; `None` where the look-back begins anew.
fn closes_of(ticks: &[Raw]) -> Vec<(u64, bool, Option<f64>)> {
    let mut session = 0;
    let keyed: Vec<(usize, u64, Raw)> = ticks
        .iter()
        .map(|tick| {
            session += usize::from(tick.session_start);
            (session, tick.time / BAR, *tick)
        })
        .collect();
    let groups: Vec<&[(usize, u64, Raw)]> = keyed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
    let ended = |pair: &[&[(usize, u64, Raw)]]| {
        let ((session, bar, _), (next_session, next_bar, next)) = (pair[0][0], pair[1][0]);
        let counts = session == next_session && next_bar - bar <= N as u64;
        (next.time, next_bar - bar > 5, counts.then(|| pair[0].last().unwrap().2.price))
    };
    groups.windows(2).map(ended).collect()
}

fn ema(closes: &[f64], length: usize) -> f64 {
    let Some((seed, rest)) = closes.split_at_checked(length) else { return f64::NAN };
    let mean = seed.iter().sum::<f64>() / length as f64;
    rest.iter().fold(mean, |average, close| average + (close - average) * 2.0 / (length as f64 + 1.0))
}

/// Share of values in lower bins, eight to an octave; the own bin counts half, 720 values ago counts half.
fn rank(values: &[f64], asked: f64) -> f64 {
    let bin = |value: f64| (8.0 * value.log2()).floor();
    let (mut below, mut total) = (0.0, 0.0);
    for (age, value) in values.iter().filter(|value| **value > 0.0).rev().enumerate() {
        let weight = 0.5f64.powf(age as f64 / 720.0);
        total += weight;
        if bin(*value) < bin(asked) {
            below += weight;
        } else if bin(*value) == bin(asked) {
            below += weight / 2.0;
        }
    }
    below / total
}

fn at_edge(value: f64) -> bool {
    let exact = 8.0 * value.log2();
    (exact - exact.round()).abs() < 1e-6
}
