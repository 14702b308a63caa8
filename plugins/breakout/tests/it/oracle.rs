//! Breakout by its definition, from raw ticks; shares no code with the detector.
//!
//! Keeps all there ever was and computes it anew for each tick, as the detector must not.

use proptest::prelude::*;
use tickhound_sdk::{Direction, harness::Found};

use super::market::{Raw, SECOND};

pub const WINDOW: u64 = 300 * SECOND;
const BAR: u64 = 5 * SECOND;

/// A closed bar: session, number since the Unix epoch, high, low, close, volume.
#[derive(Clone, Copy, Debug)]
struct Bar {
    session: usize,
    number: u64,
    high: f64,
    low: f64,
    close: f64,
    volume: f64,
}

/// What the definition says of the tick at `index`, from all ticks up to it.
struct Oracle {
    high: f64,
    low: f64,
    atr: f64,
    closed: usize,
    /// Age of the oldest tick since the last pause of more than half a window.
    channel_age: u64,
    /// Present volume, its average; NaN average without volume.
    volume: f64,
    average: f64,
    moves: Vec<f64>,
    volumes: Vec<f64>,
}

fn oracle(ticks: &[Raw], index: usize) -> Oracle {
    let now = ticks[index];
    let begin = (0..=index).rev().find(|i| ticks[*i].session_start).unwrap();
    let grain = WINDOW.div_ceil(512);
    let paused = |i: &usize| ticks[*i].time - ticks[i - 1].time > WINDOW / 2;
    let since = (begin + 1..=index).rev().find(paused).unwrap_or(begin);
    let inside = |tick: &&Raw| now.time / grain - tick.time / grain < 512;
    let prices = || ticks[begin..index].iter().filter(inside).map(|tick| tick.price);

    // Bars by session and stretch of time; the one that a session ends in is never closed.
    let mut session = 0;
    let keyed = ticks[..=index].iter().map(|tick| {
        session += usize::from(tick.session_start);
        (session, tick.time / BAR, *tick)
    });
    let keyed: Vec<(usize, u64, Raw)> = keyed.collect();
    let groups: Vec<&[(usize, u64, Raw)]> = keyed.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
    let bars = closed_bars(&groups);
    let mut ranges = Vec::new();
    let mut moves = Vec::new();
    for pair in bars.windows(2).filter(|pair| pair[0].session == pair[1].session) {
        let (last, bar) = (pair[0], pair[1]);
        ranges.push((bar.high - bar.low).max((bar.high - last.close).abs()).max((bar.low - last.close).abs()));
        moves.push((bar.close - last.close).abs());
    }
    let step = ticks[begin..=index].windows(2).map(|pair| (pair[1].price - pair[0].price).abs());
    let all_steps = ticks[..=index].windows(2).filter(|pair| !pair[1].session_start);
    let all_steps = all_steps.map(|pair| (pair[1].price - pair[0].price).abs());
    let least = step.chain(all_steps).filter(|step| *step > 0.0).fold(f64::INFINITY, f64::min);
    let bar_volumes: Vec<f64> = bars.iter().map(|bar| bar.volume).collect();
    let current = groups.last().unwrap();
    let elapsed = (now.time - current[0].1 * BAR).clamp(SECOND, BAR);
    let scaled = volume_of(current) * BAR as f64 / elapsed as f64;
    let this_session = current[0].0;
    let fresh = |bar: &&Bar| bar.session == this_session && current[0].1 - bar.number <= 5;
    let last = bars.last().filter(fresh).map_or(0.0, |bar| bar.volume);
    Oracle {
        high: prices().reduce(f64::max).unwrap_or(f64::NAN),
        low: prices().reduce(f64::min).unwrap_or(f64::NAN),
        atr: average_range(&ranges).max(if least.is_finite() { least } else { 0.0 }),
        closed: bars.len(),
        channel_age: now.time - ticks[since].time,
        volume: scaled.max(last),
        average: average_volume(&bar_volumes),
        moves: moves.into_iter().filter(|size| *size > 0.0).collect(),
        volumes: bar_volumes.into_iter().filter(|volume| *volume > 0.0).collect(),
    }
}

/// The bars that are closed by another bar of their session.
fn closed_bars(groups: &[&[(usize, u64, Raw)]]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for pair in groups.windows(2) {
        let (group, next) = (pair[0], pair[1]);
        if group[0].0 == next[0].0 {
            let prices = || group.iter().map(|(_, _, tick)| tick.price);
            bars.push(Bar {
                session: group[0].0,
                number: group[0].1,
                high: prices().reduce(f64::max).unwrap(),
                low: prices().reduce(f64::min).unwrap(),
                close: group.last().unwrap().2.price,
                volume: volume_of(group),
            });
        }
    }
    bars
}

fn volume_of(group: &[(usize, u64, Raw)]) -> f64 {
    group.iter().map(|(_, _, tick)| tick.quantity).filter(|quantity| !quantity.is_nan()).sum()
}

/// Wilder's average of true ranges, NaN before 14 of them.
fn average_range(ranges: &[f64]) -> f64 {
    let mut average = f64::NAN;
    for (count, range) in ranges.iter().enumerate() {
        match count {
            0..13 => {}
            13 => average = ranges[..14].iter().sum::<f64>() / 14.0,
            _ => average += (range - average) / 14.0,
        }
    }
    average
}

/// The exponential average of volumes, or their mean before 120 of them.
fn average_volume(volumes: &[f64]) -> f64 {
    let mut average = f64::NAN;
    for (count, volume) in volumes.iter().enumerate() {
        match count {
            0..120 => average = volumes[..=count].iter().sum::<f64>() / (count + 1) as f64,
            _ => average += (volume - average) * 2.0 / 121.0,
        }
    }
    average
}

/// Share of the values below, each half as heavy after 720 more; equal to within an eighth of an octave counts half.
fn rank(values: &[f64], asked: f64) -> f64 {
    let bin = |value: f64| (8.0 * value.log2()).floor();
    let (mut below, mut total) = (0.0, 0.0);
    for (age, value) in values.iter().rev().enumerate() {
        let weight = 0.5f64.powf(age as f64 / 720.0);
        total += weight;
        below += weight
            * if bin(*value) < bin(asked) {
                1.0
            } else if bin(*value) == bin(asked) {
                0.5
            } else {
                0.0
            };
    }
    below / total
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()).max(1.0)
}

/// Checks one detection; says what is wrong.
pub fn confirm(ticks: &[Raw], found: &Found) -> Result<(), TestCaseError> {
    let index = ticks.iter().rposition(|tick| tick.time == found.time).unwrap();
    // Ticks may share a nanosecond only by their price being another one's: take the one that fits.
    let (now, o) = (ticks[index], oracle(ticks, index));
    let detection = &found.detection;
    let told = |name: &str| detection.evidence(name).unwrap_or(f64::NAN);
    let (sign, level) = if detection.direction == Direction::Up { (1.0, o.high) } else { (-1.0, o.low) };
    let excess = sign * (now.price - level);
    prop_assert!(close(told("level"), level, 1e-12), "level {} is {level}", told("level"));
    prop_assert!(close(told("excess"), excess, 1e-12), "excess {} is {excess}", told("excess"));
    prop_assert!(close(told("atr"), o.atr, 1e-9), "atr {} is {}", told("atr"), o.atr);
    prop_assert!(excess > 0.25 * o.atr);
    prop_assert!(o.closed >= 60 && o.channel_age >= WINDOW / 2);
    prop_assert!(now.time - ticks[index - 1].time <= 5 * BAR, "the level was stale");
    let move_rank = rank(&o.moves, excess);
    prop_assert!(close(told("move_rank"), move_rank, 2e-3), "rank {} is {move_rank}", told("move_rank"));
    if o.average > 0.0 {
        prop_assert!(close(told("volume_ratio"), o.volume / o.average, 1e-9));
        prop_assert!(o.volume / o.average >= 1.5);
        let volume_rank = rank(&o.volumes, o.volume);
        prop_assert!(close(told("volume_rank"), volume_rank, 2e-3), "{} is {volume_rank}", told("volume_rank"));
    }
    let volume_rank = detection.evidence("volume_rank");
    let combined = match volume_rank {
        Some(rank) => share_below((score(told("move_rank")) + 0.7 * score(rank)) / f64::sqrt(2.19)),
        None => share_below(score(told("move_rank"))),
    };
    prop_assert!(close(detection.confidence, combined, 1e-6), "{} is {combined}", detection.confidence);
    Ok(())
}

/// Time and direction of each breakout by the definition, from raw ticks; slow.
pub fn expected(ticks: &[Raw]) -> Vec<(u64, Direction)> {
    let mut all = Vec::new();
    // When each direction fired last and at which level, and whether it has come back since.
    let mut arms = [(1.0, Direction::Up, None), (-1.0, Direction::Down, None)];
    let mut spent = [false; 2];
    for (index, now) in ticks.iter().enumerate() {
        if now.session_start {
            arms.iter_mut().for_each(|arm| arm.2 = None);
            spent = [false; 2];
        }
        let o = oracle(ticks, index);
        // `None` without a channel or without an average range; NaN compares to nothing.
        if o.channel_age < WINDOW / 2 || o.high.is_nan() || o.atr.is_nan() {
            continue;
        }
        for ((sign, direction, fired), spent) in arms.iter_mut().zip(&mut spent) {
            if let Some((time, level)) = *fired
                && (*sign * (now.price - level) < -o.atr || now.time - time >= WINDOW)
            {
                *spent = false;
            }
            let level = if *sign > 0.0 { o.high } else { o.low };
            let cool = fired.is_none_or(|(time, _): (u64, f64)| now.time - time >= 60 * SECOND);
            let traded = o.average.is_nan() || o.average <= 0.0 || o.volume / o.average >= 1.5;
            let fresh = now.time - ticks[index - 1].time <= 5 * BAR;
            let beyond = *sign * (now.price - level) > 0.25 * o.atr;
            if beyond && traded && fresh && cool && !*spent && o.closed >= 60 {
                (*fired, *spent) = (Some((now.time, level)), true);
                all.push((now.time, *direction));
            }
        }
    }
    all
}

/// The normal score of a rank, by halving.
fn score(rank: f64) -> f64 {
    let rank = rank.clamp(1e-4, 1.0 - 1e-4);
    let (mut low, mut high) = (-5.0, 5.0);
    while high - low > 1e-10 {
        let middle = (low + high) / 2.0;
        *(if share_below(middle) < rank { &mut low } else { &mut high }) = middle;
    }
    low
}

/// Share of a standard normal distribution below `z`, by Simpson's rule.
fn share_below(z: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / f64::sqrt(2.0 * std::f64::consts::PI);
    let step = z / 200.0;
    let inner: f64 = (1..200).map(|i| density(f64::from(i) * step) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    0.5 + (density(0.0) + inner + density(z)) * step / 3.0
}
