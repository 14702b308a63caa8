//! Series of dirty ticks against what the definitions say, computed from all ticks at once.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::{
    super::{
        computed::{Function, RowValue},
        snapshots::step_passed,
    },
    *,
};
use crate::{
    config::built_in,
    event::{column, flag},
    session::{Calendar, Phase, Span, UNKNOWN},
};

const SECOND: u64 = 1_000_000_000;
const LENGTHS: [u32; 3] = [1, 60, 7 * 60];
const COLUMNS: usize = column::NAMES.len() + 1;
const SYMBOLS: [&str; 5] = ["GOLD", "BTC", "NIFTY", "ACC", "EURUSD"];

/// When something happens to a session.
const MOMENTS: [&str; 8] = [
    // The open, the close, and a session that is followed by a holiday and a weekend.
    "2025-11-24T09:14:50+05:30",
    "2025-11-24T15:29:50+05:30",
    "2025-12-24T15:28:00+05:30",
    // Muhurat trading, an evening of MCX, midnight in Kolkata and in UTC.
    "2025-10-21T13:44:30+05:30",
    "2025-11-24T23:54:30+05:30",
    "2025-11-24T23:59:30+05:30",
    "2025-11-24T23:59:30Z",
    "1970-01-01T00:00:00Z",
];

fn ns(text: &str) -> u64 {
    text.parse::<jiff::Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
}

fn calendars() -> Vec<Calendar> {
    let days = Calendar::days(TimeZone::get("Asia/Kolkata").unwrap());
    vec![built_in("mcx"), built_in("crypto"), built_in("nse"), built_in("nse"), days]
}

/// A tick as it comes, with all that is known of its place.
#[derive(Clone, Debug)]
struct Given {
    symbol: usize,
    now: u64,
    span: Span,
    price: f64,
    columns: Vec<f64>,
}

impl Given {
    fn counts(&self) -> bool {
        self.span.phase == Phase::Open && self.columns[column::FLAGS] as u32 & flag::QUOTE_ONLY == 0
    }
}

/// A step of time in ms, which may be negative, and what the tick has.
type Move = (usize, i64, u32, u8, u8);

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        8 => 0i64..700,
        8 => Just(0i64),
        6 => -3000i64..3000,
        3 => 0i64..200_000,
        1 => -600_000i64..0,
        1 => 0i64..30 * 3_600_000,
        1 => Just(-30 * 3_600_000i64),
    ];
    prop::collection::vec((0..SYMBOLS.len(), step, 1u32..6, 0u8..4, 0u8..8), 1..150)
}

fn ticks(calendars: &[Calendar], moment: usize, moves: &[Move]) -> Vec<Given> {
    let mut now = ns(MOMENTS[moment]);
    let mut latest = [0; SYMBOLS.len()];
    let give = |&(symbol, step, price, quantity, kind): &Move| {
        let time = now.saturating_add_signed(step * 1_000_000).max(latest[symbol]);
        latest[symbol] = time;
        now = now.max(time);
        let span = calendars[symbol].span(time);
        let mut columns = vec![f64::NAN; COLUMNS];
        columns[column::QUANTITY] = [f64::NAN, 0.0, 1.0, 7.5][usize::from(quantity)];
        let flags = [0, 0, 0, flag::QUOTE_ONLY, flag::TIME_ESTIMATED, 0, flag::OUT_OF_ORDER, 0][usize::from(kind)];
        columns[column::FLAGS] = f64::from(flags | span.phase.flag());
        columns[column::OI] = if kind == 2 { f64::NAN } else { f64::from(price) * 10.0 };
        columns[COLUMNS - 1] = if kind == 5 { f64::from(quantity) } else { f64::NAN };
        Given { symbol, now, span, price: 100.0 + f64::from(price), columns }
    };
    moves.iter().map(give).collect()
}

/// A row of a bar or snapshot, told apart by the length of a bar: the place where it comes, and everything in it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    place: usize,
    name: String,
    length: u32,
    values: Vec<(&'static str, f64)>,
}

fn bar_row(place: usize, name: &str, length: u32, bar: &Bar, columns: &[f64]) -> Row {
    let values = vec![
        ("start", bar.start as f64),
        ("end", bar.end as f64),
        ("open", bar.open),
        ("high", bar.high),
        ("low", bar.low),
        ("close", bar.close),
        ("quantity", bar.quantity),
        ("count", bar.count as f64),
        ("flags", f64::from(bar.flags)),
        ("since_open", bar.since_open),
        ("to_close", bar.to_close),
        ("oi", columns[column::OI]),
        ("extra", columns[COLUMNS - 1]),
        ("vwap", bar.vwap),
    ];
    Row { place, name: name.to_owned(), length, values }
}

fn seconds_between(span: &Span, from: u64, to: u64) -> f64 {
    if span.open == UNKNOWN { f64::NAN } else { (to - from) as f64 / 1e9 }
}

/// The last value of a column among ticks of one symbol in one session, before a place.
fn last_known(given: &[Given], place: usize, symbol: usize, session: i32, at: usize) -> f64 {
    let of = given[..place].iter().rev().filter(|tick| tick.symbol == symbol && tick.span.phase == Phase::Open);
    let mut of = of.take_while(|tick| tick.span.number == session);
    of.find(|tick| !tick.columns[at].is_nan()).map_or(f64::NAN, |tick| tick.columns[at])
}

/// All bars of one symbol and length.
fn expected_bars(given: &[Given], symbol: usize, seconds: u32) -> Vec<Row> {
    let length = u64::from(seconds) * SECOND;
    let counted = given.iter().filter(|tick| tick.symbol == symbol && tick.counts() && tick.now < tick.span.close);
    let origin = |tick: &Given| if tick.span.open == UNKNOWN { 0 } else { tick.span.open };
    let start = |tick: &Given| origin(tick) + (tick.now - origin(tick)) / length * length;
    let counted: Vec<&Given> = counted.collect();
    let (mut rows, mut sessions) = (Vec::new(), Vec::new());
    for of in counted.chunk_by(|a, b| start(a) == start(b)) {
        let span = of[0].span;
        let end = (start(of[0]) + length).min(span.close);
        let is_first = !sessions.contains(&span.number);
        sessions.push(span.number);
        let Some(place) = given.iter().position(|tick| tick.now >= end) else { continue };
        let quantities =
            || of.iter().map(|tick| (tick.price, tick.columns[column::QUANTITY])).filter(|(_, q)| *q > 0.0);
        let quantity: f64 = quantities().map(|(_, quantity)| quantity).sum();
        let flags = of
            .iter()
            .fold(u32::from(is_first) * flag::SESSION_START, |flags, tick| flags | tick.columns[column::FLAGS] as u32);
        let bar = Bar {
            start: start(of[0]),
            end,
            open: of[0].price,
            high: of.iter().map(|tick| tick.price).fold(0.0, f64::max),
            low: of.iter().map(|tick| tick.price).fold(f64::MAX, f64::min),
            close: of[of.len() - 1].price,
            quantity,
            vwap: quantities().map(|(price, quantity)| price * quantity).sum::<f64>() / quantity,
            count: of.len() as u64,
            flags,
            since_open: seconds_between(&span, span.open.min(end), end),
            to_close: seconds_between(&span, end, span.close.max(end)),
        };
        // A quote may have come in the next session already, if bars have no session to end with.
        let latest = given[..place].iter().rev().find(|t| t.symbol == symbol && t.span.phase == Phase::Open).unwrap();
        let columns: Vec<f64> =
            (0..COLUMNS).map(|at| last_known(given, place, symbol, latest.span.number, at)).collect();
        rows.push(bar_row(place, SYMBOLS[symbol], seconds, &bar, &columns));
    }
    rows
}

/// All snapshots of a symbol.
fn expected_snapshots(calendar: &Calendar, given: &[Given], symbol: usize, seconds: u32) -> Vec<Row> {
    let length = u64::from(seconds) * SECOND;
    let (mut rows, mut sessions) = (Vec::new(), Vec::new());
    for place in 1..given.len() {
        let (before, now) = (given[place - 1].now, given[place].now);
        // The session that is open before; time passes its end at the latest there.
        let span = calendar.span(before);
        let (origin, close) = if span.open == UNKNOWN { (0, span.end) } else { (span.open, span.close) };
        let last_by = |time: u64| origin + (time - origin) / length * length;
        let step = last_by(now.min(close).max(origin));
        if step <= before / SECOND * SECOND || step > close {
            continue;
        }
        let has_tick = given[..place]
            .iter()
            .any(|tick| tick.symbol == symbol && tick.span.phase == Phase::Open && tick.span.number == span.number);
        if span.phase != Phase::Open || !has_tick {
            continue;
        }
        let price = given[..place].iter().rev().find(|t| t.symbol == symbol && t.span.phase == Phase::Open);
        let is_first = !sessions.contains(&span.number);
        sessions.push(span.number);
        let values = vec![
            ("time", step as f64),
            ("price", price.unwrap().price),
            ("oi", last_known(given, place, symbol, span.number, column::OI)),
            ("extra", last_known(given, place, symbol, span.number, COLUMNS - 1)),
            ("since_open", seconds_between(&span, span.open.min(step), step)),
            ("to_close", seconds_between(&span, step, span.close.max(step))),
            ("is_first", f64::from(u8::from(is_first))),
        ];
        rows.push(Row { place, name: SYMBOLS[symbol].to_owned(), length: seconds, values });
    }
    rows
}

/// The computed columns of a row: `name` is a symbol, or that of a bar's row, and `at` is the row's place among all rows.
fn expected_computed(given: &[Given], made: &Made, place: usize, name: &str, at: usize) -> Vec<f64> {
    let symbol = name.split('/').next().unwrap();
    let earlier = made.computed[..at].iter().filter(|(_, name, _)| *name == format!("{symbol}/60")).count();
    let bars = || made.bars.iter().filter(|row| row.name == symbol && row.length == 60).take(earlier);
    let last = |mut values: Vec<f64>, length: usize| {
        if values.len() < length { Vec::new() } else { values.split_off(values.len() - length) }
    };
    let of_bars = |at: usize| last(bars().map(|row| row.values[at].1).collect(), 3);
    let (highs, closes) = (of_bars(3), of_bars(5));
    let ticks = given[..place].iter().filter(|tick| SYMBOLS[tick.symbol] == symbol && tick.counts());
    let prices = last(ticks.map(|tick| tick.price).collect(), 4);
    let mean = closes.iter().sum::<f64>() / 3.0;
    vec![
        highs.into_iter().reduce(f64::max).unwrap_or(f64::NAN),
        prices.into_iter().reduce(f64::min).unwrap_or(f64::NAN),
        if closes.is_empty() { f64::NAN } else { mean },
    ]
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by(|a, b| (a.place, &a.name, a.length).cmp(&(b.place, &b.name, b.length)));
    rows
}

fn wanted() -> SeriesWanted {
    let of_bars = |function, of| Computation { function, of, rows: RowKind::Bars(60), length: 3 };
    let computed = vec![
        of_bars(Function::Highest, RowValue::High),
        Computation { function: Function::Lowest, of: RowValue::Price, rows: RowKind::Ticks, length: 4 },
        of_bars(Function::Mean, RowValue::Price),
    ];
    SeriesWanted { bars: LENGTHS.to_vec(), last_values: true, columns: COLUMNS, computed }
}

/// Series as ingest drives them, with symbols numbered from `first` on.
struct Driver {
    series: Series,
    order: NameOrder,
    names: Vec<Arc<str>>,
    first: usize,
    clock: u64,
}

/// What the series of all ticks are.
#[derive(Debug, Default, PartialEq)]
struct Made {
    bars: Vec<Row>,
    snapshots: Vec<Row>,
    /// For each tick, the computed columns of its row; for each bar, those of its row.
    computed: Vec<(usize, String, Vec<f64>)>,
}

impl Driver {
    fn new(first: usize, clock: u64) -> Self {
        let names = (0..first).map(|n| format!("\0{n}").into()).chain(SYMBOLS.map(Arc::from)).collect();
        Self { series: Series::new(&wanted()), order: NameOrder::default(), names, first, clock }
    }

    /// Another one after a restart, in which symbols have other numbers.
    fn restarted(self, first: usize) -> Self {
        let mut next = Self::new(first, self.clock);
        for symbol in 0..SYMBOLS.len() {
            if let Some(saved) = self.series.save((self.first + symbol) as u32) {
                next.series.restore((first + symbol) as u32, &saved).unwrap();
            }
        }
        next
    }

    fn tick(&mut self, place: usize, tick: &Given, calendars: &[Calendar], made: &mut Made) {
        let Self { series, order, names, first, clock } = self;
        let second = tick.now / SECOND * SECOND;
        if second > *clock / SECOND * SECOND {
            series.end_bars(second, names, order, |ended| {
                let name = &names[ended.symbol as usize];
                made.bars.push(bar_row(place, name, LENGTHS[ended.length], ended.bar, ended.columns));
                made.computed.push((place, format!("{name}/{}", LENGTHS[ended.length]), ended.computed.to_vec()));
            });
            let mut rows = Vec::new();
            for (symbol, calendar) in calendars.iter().enumerate() {
                for seconds in LENGTHS {
                    let step = step_passed(&calendar.span(*clock), *clock, second, seconds);
                    let last = series.last_values().unwrap();
                    let row = step.as_ref().and_then(|step| last.at_step((*first + symbol) as u32, step));
                    let Some((step, row)) = step.zip(row) else { continue };
                    let values = vec![
                        ("time", step.time as f64),
                        ("price", row.price),
                        ("oi", row.columns[column::OI]),
                        ("extra", row.columns[COLUMNS - 1]),
                        ("since_open", step.since_open),
                        ("to_close", step.to_close),
                        ("is_first", f64::from(u8::from(row.is_first))),
                    ];
                    rows.push(Row { place, name: SYMBOLS[symbol].to_owned(), length: seconds, values });
                }
            }
            made.snapshots.extend(sorted(rows));
        }
        *clock = tick.now;
        let symbol = (*first + tick.symbol) as u32;
        let mut computed = Vec::new();
        series.add_computed(symbol, &mut computed);
        made.computed.push((place, SYMBOLS[tick.symbol].to_owned(), computed));
        let Given { now, span, price, columns, .. } = tick;
        series.push(&MarketTick { symbol, now: *now, span, price: *price, columns });
    }
}

fn made(given: &[Given], restarts: &[bool]) -> Made {
    let calendars = calendars();
    let (mut made, mut driver) = (Made::default(), Driver::new(0, given[0].now));
    for (place, tick) in given.iter().enumerate() {
        driver.tick(place, tick, &calendars, &mut made);
        if restarts.get(place) == Some(&true) {
            driver = driver.restarted(place % 3);
        }
    }
    made
}

/// Whether rows are the same, up to the last places of means.
fn assert_equal(rows: &[Row], expected: &[Row]) {
    let places = |rows: &[Row]| rows.iter().map(|row| (row.place, row.name.clone(), row.length)).collect::<Vec<_>>();
    assert_eq!(places(rows), places(expected));
    for (row, expected) in rows.iter().zip(expected) {
        for ((name, value), (_, of)) in row.values.iter().zip(&expected.values) {
            let is_near = value == of || *name == "vwap" && (value - of).abs() < 1e-9;
            assert!(is_near || value.is_nan() && of.is_nan(), "{name}: {value}, not {of}, in {row:?}, {expected:?}");
        }
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn bars_and_snapshots_are_what_all_ticks_at_once_say(moment in 0..MOMENTS.len(), moves in moves()) {
        let calendars = calendars();
        let given = ticks(&calendars, moment, &moves);
        let made = made(&given, &[]);
        let each = || (0..SYMBOLS.len()).flat_map(|symbol| LENGTHS.map(|seconds| (symbol, seconds)));
        let bars = each().flat_map(|(symbol, seconds)| expected_bars(&given, symbol, seconds)).collect();
        assert_equal(&made.bars, &sorted(bars));
        let snapshots =
            each().flat_map(|(symbol, seconds)| expected_snapshots(&calendars[symbol], &given, symbol, seconds));
        assert_equal(&made.snapshots, &sorted(snapshots.collect()));
        for (at, (place, name, values)) in made.computed.iter().enumerate() {
            let expected = expected_computed(&given, &made, *place, name, at);
            prop_assert_eq!(format!("{:?}", values), format!("{:?}", expected), "{} at {}", name, place);
        }
        for row in &made.bars {
            let of = |name: &str| row.values.iter().find(|(known, _)| *known == name).unwrap().1;
            prop_assert!(of("low") <= of("open").min(of("close")) && of("high") >= of("open").max(of("close")));
            prop_assert!(of("vwap").is_nan() || (of("low")..=of("high")).contains(&of("vwap")));
        }
    }

    #[test]
    fn restarts_with_other_numbers_of_symbols_change_nothing(
        moment in 0..MOMENTS.len(),
        moves in moves(),
        restarts in prop::collection::vec(prop::bool::weighted(0.2), 150),
    ) {
        let given = ticks(&calendars(), moment, &moves);
        prop_assert_eq!(format!("{:?}", made(&given, &restarts)), format!("{:?}", made(&given, &[])));
    }
}

fn tick(span: &Span, now: u64, price: f64) -> Given {
    let mut columns = vec![f64::NAN; COLUMNS];
    columns[column::FLAGS] = f64::from(span.phase.flag());
    Given { symbol: 2, now, span: *span, price, columns }
}

/// Another symbol has moved event time on, by a fraction of a second or by minutes: the tick's own bar has ended.
#[test]
fn a_tick_after_the_end_of_its_bar_belongs_to_the_bar_that_is_current() {
    let at = |time: &str| ns(&format!("2025-11-24T{time}+05:30"));
    let span = built_in("nse").span(at("10:00:00"));
    let given = [("10:00:59.9", 1.0), ("10:01:00.1", 2.0), ("10:05:10", 3.0), ("10:05:11", 4.0), ("10:06:00", 5.0)];
    let given = given.map(|(now, price)| tick(&span, at(now), price));
    let bars: Vec<[f64; 3]> = made(&given, &[])
        .bars
        .iter()
        .filter(|row| row.length == 60)
        .map(|row| [(row.values[0].1 - span.open as f64) / 60e9, row.values[2].1, row.values[5].1])
        .collect();
    assert_eq!(bars, [[45.0, 1.0, 1.0], [46.0, 2.0, 2.0], [50.0, 3.0, 4.0]]);
}

#[test]
fn a_tick_that_comes_after_the_close_of_its_session_is_in_no_bar() {
    let at = |time: &str| ns(&format!("2025-11-24T{time}+05:30"));
    let span = built_in("nse").span(at("15:29:00"));
    let given =
        [tick(&span, at("15:30:00.1"), 2.0), tick(&span, at("15:31:00"), 3.0), tick(&span, at("15:32:00"), 3.0)];
    assert_eq!(made(&given, &[]).bars, []);
}

#[test]
fn series_of_another_generation_continue_those_that_it_still_has() {
    let span = built_in("nse").span(ns("2025-11-24T10:00:00+05:30"));
    let mut series = Series::new(&wanted());
    let push = |series: &mut Series, price: f64| {
        let Given { symbol, now, span, price, columns } = tick(&span, span.open + 5 * SECOND, price);
        series.push(&MarketTick { symbol: symbol as u32, now, span: &span, price, columns: &columns });
    };
    (0..4).for_each(|price| push(&mut series, f64::from(price) + 1.0));
    let saved = series.save(2).unwrap();
    let fewer = SeriesWanted { bars: vec![60, 3600], computed: wanted().computed[1..2].to_vec(), ..wanted() };
    let mut series = series.with(&fewer);
    let mut values = Vec::new();
    series.add_computed(2, &mut values);
    assert_eq!(values, [1.0]);
    let names: Vec<Arc<str>> = vec!["A".into(), "B".into(), "C".into()];
    let mut ended = Vec::new();
    series.end_bars(span.close, &names, &mut NameOrder::default(), |bar| ended.push((bar.length, bar.bar.count)));
    assert_eq!(ended, [(0, 4)], "bars of an hour have not begun");
    // What the new one has not yet comes from a saved state; what it has no use for is left alone.
    let mut restored = Series::new(&fewer);
    restored.restore(2, &saved).unwrap();
    assert_eq!(restored.next_end(), span.open + 60 * SECOND);
    restored.forget(2);
    assert_eq!(restored.save(2), None);
    restored.end_bars(u64::MAX, &names, &mut NameOrder::default(), |_| panic!("it was forgotten"));
}

#[test]
fn bytes_that_are_not_saved_series_are_rejected() {
    let mut series = Series::new(&wanted());
    assert_eq!(series.restore(0, &[]).unwrap_err().to_string(), "saved bars are empty");
    let error = series.restore(0, &[FORM + 1, 0x90]).unwrap_err().to_string();
    assert_eq!(error, "saved bars are of form 2, this release reads up to 1");
    assert!(series.restore(0, &[FORM, 0xff, 1, 2]).is_err());
    assert_eq!(series.save(0), None);
}
