//! Crosses of the straddle's average by their definition, from raw ticks; shares no code with the detector.

use tickhound_sdk::{Direction, flag};

use crate::{
    chain::{Raw, What},
    market::SECOND,
    rank,
};

pub const HYSTERESIS: f64 = 0.25;
pub const OPENING: usize = 20;
pub const HALF_LIFE: f64 = 200.0;
pub const EXCURSIONS: f64 = 100.0;
pub const STALE: f64 = 15.0;

/// A cross.
#[derive(Clone, Debug)]
pub struct Event {
    pub time: u64,
    pub direction: Direction,
    pub strike: f64,
    pub legs: Vec<String>,
    pub premium: f64,
    pub average: f64,
    pub z: f64,
    pub peak: f64,
    pub rank: f64,
}

/// A trade of the straddle at the money.
#[derive(Clone, Debug)]
struct Trade {
    index: usize,
    strike: f64,
    premium: f64,
    quantity: f64,
}

/// Ticks that carry a price: of the session, and not a quote that repeats the instrument's last price.
fn counted(ticks: &[Raw]) -> Vec<bool> {
    let repeats = |n: usize| {
        let before = ticks[..n].iter().rev().find(|tick| tick.what == ticks[n].what && tick.is_in_session());
        ticks[n].flags & flag::QUOTE_ONLY != 0 && before.is_some_and(|before| before.price == ticks[n].price)
    };
    (0..ticks.len()).map(|n| ticks[n].is_in_session() && !repeats(n)).collect()
}

/// The trade at this tick, if it is one, from the ticks of its session.
fn trade(ticks: &[Raw], counted: &[bool], begin: usize, index: usize) -> Option<Trade> {
    let now = &ticks[index];
    let What::Option { strike, is_far: false, .. } = now.what else { return None };
    let known = || (begin..=index).rev().filter(|n| counted[*n]);
    let leg = |strike: f64, is_call: bool| {
        known().find(|n| ticks[*n].what == What::Option { is_call, strike, is_far: false })
    };
    let spot = match now.source {
        crate::chain::Source::Reference => now.spot,
        crate::chain::Source::Names => ticks[known().find(|n| ticks[*n].what == What::Spot)?].price,
    };
    let strikes = (0..5).map(|rung| 24_900.0 + 50.0 * f64::from(rung));
    let whole = strikes.filter(|strike| leg(*strike, true).is_some() && leg(*strike, false).is_some());
    let at_money = whole.min_by(|a, b| (a - spot).abs().total_cmp(&(b - spot).abs()))?;
    if at_money != strike || now.quantity.is_nan() || now.quantity <= 0.0 {
        return None;
    }
    let (call, put) = (leg(strike, true)?, leg(strike, false)?);
    let age = (now.time - ticks[call].time.min(ticks[put].time)) as f64 / SECOND as f64;
    let is_near = (strike - spot).abs() / spot <= 0.02;
    let premium = ticks[call].price + ticks[put].price;
    (age <= STALE && is_near).then_some(Trade { index, strike, premium, quantity: now.quantity })
}

/// All crosses, and whether rounding decides one of them.
pub fn expected(ticks: &[Raw]) -> (Vec<Event>, bool) {
    let counted = counted(ticks);
    let alpha = 1.0 - 0.5f64.powf(1.0 / HALF_LIFE);
    let (mut events, mut peaks, mut is_close, mut square) = (Vec::new(), Vec::new(), false, 0.0f64);
    let (mut begin, mut distances) = (0, 0);
    for session in ticks.chunk_by(|a, b| a.opened == b.opened) {
        let all: Vec<Trade> = (begin..begin + session.len())
            .filter(|n| counted[*n])
            .filter_map(|n| trade(ticks, &counted, begin, n))
            .collect();
        begin += session.len();
        let mut judged = Vec::new();
        for n in 0..all.len() {
            let turnover: f64 = all[..=n].iter().map(|trade| trade.premium * trade.quantity).sum();
            let average = turnover / all[..=n].iter().map(|trade| trade.quantity).sum::<f64>();
            let distance = all[n].premium / average - 1.0;
            let deviation = square.sqrt();
            let most = if distances < 100 { f64::INFINITY } else { 64.0 * square };
            square = square * (1.0 - alpha) + f64::min(distance * distance, most) * alpha;
            distances += 1;
            if n >= OPENING {
                judged.push((n, average, if deviation > 0.0 { distance / deviation } else { 0.0 }));
            }
        }
        // An excursion goes from the first trade beyond the hysteresis to the first one beyond it on the other side.
        is_close |= judged.iter().any(|(.., z)| (z.abs() - HYSTERESIS).abs() < 1e-9);
        let mut from = judged.iter().position(|(.., z)| z.abs() >= HYSTERESIS);
        while let Some(first) = from {
            let sign = judged[first].2.signum();
            let end = judged[first..].iter().position(|(.., z)| -z * sign >= HYSTERESIS).map(|n| first + n);
            let inside = &judged[first..end.unwrap_or(judged.len())];
            let peak = inside.iter().map(|(.., z)| z * sign).fold(0.0, f64::max);
            if let Some(end) = end {
                let (n, average, z) = judged[end];
                let Trade { index, strike, premium, .. } = all[n];
                let leg =
                    |is_call| Raw { what: What::Option { is_call, strike, is_far: false }, ..ticks[index].clone() };
                events.push(Event {
                    time: ticks[index].time,
                    direction: if sign > 0.0 { Direction::Down } else { Direction::Up },
                    strike,
                    legs: vec![leg(true).symbol(), leg(false).symbol()],
                    premium,
                    average,
                    z,
                    peak,
                    rank: if peaks.len() < 10 { f64::NAN } else { rank::rank(&peaks, peak, EXCURSIONS) },
                });
                peaks.push(peak);
            }
            from = end;
        }
    }
    events.retain(|event| !event.rank.is_nan());
    (events, is_close)
}
