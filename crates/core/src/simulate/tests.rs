//! The simulated market: its bytes, its order, and the patterns that detectors detect.

use std::collections::{HashMap, VecDeque};

use super::*;

fn market(symbols: usize, dirt: f64) -> Simulator {
    Simulator::new(&SimConfig { symbols, dirt, ..SimConfig::default() })
}

/// FNV-1a over everything that an entry would hold.
fn digest(config: &SimConfig, ticks: usize, layout: Layout) -> u64 {
    let mut simulator = Simulator::new(config);
    let mut renderer = Renderer::new(layout);
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for _ in 0..ticks {
        let tick = simulator.next().unwrap();
        renderer.render(&simulator.instruments()[tick.instrument as usize], &tick, |name, value| {
            for byte in name.iter().chain(value) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        });
    }
    hash
}

/// These digests are constants: every machine, toolchain and release must reproduce them.
#[test]
fn the_same_seed_gives_the_same_bytes_everywhere() {
    let config = SimConfig { symbols: 50, dirt: 0.1, ..SimConfig::default() };
    let digests = [Layout::Json, Layout::Flat, Layout::Msgpack].map(|layout| digest(&config, 20_000, layout));
    assert_eq!(digests, [13_906_763_152_216_530_750, 14_208_326_658_274_608_837, 8_617_233_250_563_620_280]);
    assert_ne!(digest(&SimConfig { seed: 2, ..config }, 20_000, Layout::Json), digests[0]);
}

/// The correlation of one-minute moves of a stock with the NIFTY's, and the least and the greatest straddle.
fn coupled(coupling: f64) -> (f64, f64) {
    let config = SimConfig { symbols: 8, coupling, ..SimConfig::default() };
    let mut simulator = Simulator::new(&config);
    let names: Vec<_> = simulator.instruments().iter().map(|i| i.symbol.clone()).collect();
    let of = |name: &str| names.iter().position(|symbol| symbol == name).unwrap();
    let (index, stock) = (of("NIFTY"), of("ICICIBANK"));
    let (call, put) = (of("NIFTY25NOV25750CE"), of("NIFTY25NOV25750PE"));
    let mut prices = vec![0.0; names.len()];
    let (mut moves, mut extremes) = (Vec::new(), (f64::MAX, f64::MIN));
    let mut before = [0.0; 2];
    for minute in 1..=300 {
        let end = config.start + minute * 60 * NS_PER_S;
        for tick in simulator.by_ref().take_while(|tick| tick.time < end) {
            prices[tick.instrument as usize] = tick.price;
        }
        let now = [prices[index], prices[stock]];
        moves.extend((minute > 1).then(|| [now[0] / before[0] - 1.0, now[1] / before[1] - 1.0]));
        before = now;
        // Relative to the part that its distance from the spot gives it.
        let premium = (prices[call] + prices[put]) / (now[0] - 25_750.0).hypot(now[0] * 0.02);
        extremes = (premium.min(extremes.0), premium.max(extremes.1));
    }
    let sum = |a: usize, b: usize| moves.iter().map(|both| both[a] * both[b]).sum::<f64>();
    (sum(0, 1) / (sum(0, 0) * sum(1, 1)).sqrt(), extremes.1 / extremes.0)
}

#[test]
fn with_coupling_stocks_follow_the_index_and_premiums_vary() {
    let ((alone, even), (together, uneven)) = (coupled(0.0), coupled(1.0));
    assert!(alone.abs() < 0.2 && together > 0.4, "{alone}, {together}");
    assert!(even < 1.05 && uneven > 1.1, "{even}, {uneven}");
}

#[test]
fn ticks_are_in_order_within_sessions_and_sane() {
    let mut simulator = Simulator::new(&SimConfig { symbols: 30, rate: 0.05, ..SimConfig::default() });
    let (mut last, mut days) = (0, 0);
    let mut hours = TradingHours::new();
    let mut volumes = HashMap::new();
    for _ in 0..200_000 {
        let tick = simulator.next().unwrap();
        assert!(tick.time >= last && tick.time.is_multiple_of(NS_PER_MS));
        assert_eq!(hours.in_session(tick.time), tick.time);
        if calendar::day(tick.time) != calendar::day(last) {
            days += 1;
            volumes.clear();
        }
        last = tick.time;
        assert!(volumes.insert(tick.instrument, tick.cum_volume).is_none_or(|v| v <= tick.cum_volume));
        let on_grid = |price: f64| price >= 0.05 && (price * 20.0 - (price * 20.0).round()).abs() < 1e-6;
        assert!(on_grid(tick.price), "{tick:?}");
        let instrument = &simulator.instruments()[tick.instrument as usize];
        match instrument.kind {
            InstrumentKind::Index => assert_eq!((tick.bid, tick.cum_volume, tick.oi), (0.0, 0, 0)),
            _ => assert!(on_grid(tick.bid) && on_grid(tick.ask) && tick.bid < tick.ask, "{tick:?}"),
        }
        assert_eq!(tick.oi > 0, instrument.has_oi());
        // The index stays near its initial price, so that the strikes stay useful.
        if instrument.symbol == "NIFTY" {
            assert!((tick.price / 25_750.0 - 1.0).abs() < 0.1, "{}", tick.price);
        }
    }
    assert!(days > 5, "{days} days");
}

#[test]
fn dirt_leaves_the_market_as_it_is() {
    let clean: Vec<_> = market(20, 0.0).take(20_000).collect();
    let dirty: Vec<_> = market(20, 0.2).take(20_000).collect();
    let mut counts = HashMap::<_, usize>::new();
    for (clean, dirty) in clean.iter().zip(&dirty) {
        assert_eq!(*clean, Tick { dirt: None, ..*dirty });
        *counts.entry(dirty.dirt.map(|d| d as usize)).or_default() += 1;
    }
    let spoiled = 20_000 - counts[&None];
    assert!((3800..4200).contains(&spoiled), "{spoiled}");
    assert_eq!(counts.len(), 1 + Dirt::ALL.len(), "{counts:?}");
}

#[test]
fn a_rendered_tick_says_what_the_tick_says() {
    let mut simulator = market(3, 0.0);
    let tick = simulator.by_ref().find(|tick| tick.instrument == 0).unwrap();
    let mut text = Vec::new();
    let instrument = &simulator.instruments()[0];
    Renderer::new(Layout::Json).render(instrument, &tick, |_, json| text.extend_from_slice(json));
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["symbol"], "NIFTY25NOV25750PE");
    assert_eq!(json["last_price"], tick.price);
    assert_eq!(json["best_bid_price"], tick.bid);
    assert_eq!(json["zerodha_cumulative_volume"], tick.cum_volume);
    assert_eq!(json["open_interest"], tick.oi);
    assert_eq!(json["exchange_timestamp_ms"], tick.time / NS_PER_MS);
    let naive = json["exchange_timestamp"].as_str().unwrap();
    let stamp: jiff::Timestamp = format!("{naive}+05:30").parse().unwrap();
    assert_eq!(stamp.as_nanosecond(), i128::from(tick.time));
}

/// The simplest form of what the shipped breakout detector detects: a new five-minute high or low, beyond the jitter of
/// a calm market, while trading is at least one and a half times the usual.
#[test]
fn each_symbol_breaks_out_a_handful_of_times_an_hour() {
    const HOURS: u64 = 5;
    let simulator = market(12, 0.0);
    let end = SimConfig::default().start + HOURS * 3600 * NS_PER_S;
    let kinds: Vec<_> = simulator.instruments().iter().map(|i| i.kind).collect();
    let mut watched: Vec<_> = kinds.iter().map(|_| TrendWatch::default()).collect();
    for tick in simulator.take_while(|tick| tick.time < end) {
        watched[tick.instrument as usize].push(&tick);
    }
    for (kind, watch) in kinds.iter().zip(&watched).filter(|(kind, _)| **kind != InstrumentKind::Index) {
        let an_hour = watch.breakouts as f64 / HOURS as f64;
        assert!((1.0..20.0).contains(&an_hour), "{kind:?}: {an_hour} an hour");
    }
}

#[derive(Default)]
struct TrendWatch {
    window: VecDeque<(u64, f64, u64)>,
    last_breakout: u64,
    breakouts: u64,
}

impl TrendWatch {
    fn push(&mut self, tick: &Tick) {
        const WINDOW: u64 = 300 * NS_PER_S;
        while self.window.front().is_some_and(|(time, ..)| *time + WINDOW < tick.time) {
            self.window.pop_front();
        }
        let warm = tick.time > SimConfig::default().start + WINDOW;
        if warm && tick.time > self.last_breakout + 60 * NS_PER_S {
            let (low, high) =
                self.window.iter().fold((f64::MAX, f64::MIN), |(l, h), (_, price, _)| (l.min(*price), h.max(*price)));
            let volume_at = |seconds: u64| {
                let from = tick.time - seconds * NS_PER_S;
                self.window.iter().find(|(time, ..)| *time >= from).map_or(0, |(.., volume)| tick.cum_volume - volume)
            };
            let busy = volume_at(5) as f64 / 5.0 > 1.5 * volume_at(300) as f64 / 300.0;
            let margin = 0.1 * (high - low);
            if busy && (tick.price > high + margin || tick.price < low - margin) {
                self.breakouts += 1;
                self.last_breakout = tick.time;
            }
        }
        self.window.push_back((tick.time, tick.price, tick.cum_volume));
    }
}
