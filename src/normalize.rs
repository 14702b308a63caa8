//! What spans ticks of a symbol: order of time, carried price, volume that makes sense.
//!
//! What holds for the rows that come out: time never falls within a symbol, the
//! price is finite and positive, `cum_volume` never falls within a session,
//! `quantity` is never negative, `flags` says what was changed.
//!
//! Quotes and open interest stay as this tick published them, NaN where it did
//! not: a detector that wants the latest keeps it, one that wants to know
//! whether it is fresh could not find out otherwise.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        InputConfig,
        input::{Quotes, VolumeKind},
    },
    decode::time_zone,
    event::{Batch, CLOCK, column, flag},
};

/// After a pause this long, a cumulative volume that begins again low is a new count.
const RESET_PAUSE_NS: u64 = 30 * 60 * 1_000_000_000;

/// ... low being this share of the count before.
const RESET_SHARE: f64 = 0.1;

/// Ticks of a symbol after which a bare `volume` is known to be cumulative or not.
const VOLUME_SAMPLE: u8 = 50;

/// Falls among them that a cumulative volume may show: real feeds have about one in a hundred,
/// while per-tick volumes fall about every other time.
const VOLUME_FALLS_MAX: u8 = 10;

/// What was done to a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormalizeCounts {
    /// Rows taken out: no trade of the symbol is known yet.
    pub unpriced: u64,
    /// Rows whose time was raised.
    pub out_of_order: u64,
    /// Rows whose volume was not believed.
    pub volume_repaired: u64,
}

/// Normalises the rows of one shard's symbols.
#[derive(Debug)]
pub struct Normalizer {
    quotes: Quotes,
    volume: VolumeKind,
    days: Days,
    /// By symbol id.
    states: Vec<SymbolState>,
}

/// What is remembered of a symbol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SymbolState {
    time: u64,
    /// Of the last trade.
    price: Option<f64>,
    /// Number of the last tick's day.
    day: Option<i32>,
    /// Highest cumulative volume of the session.
    cum_volume: Option<f64>,
    sample: VolumeSample,
}

/// How a bare `volume` has behaved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct VolumeSample {
    ticks: u8,
    falls: u8,
    last: f64,
}

impl Normalizer {
    /// Knows no symbol yet.
    ///
    /// # Errors
    /// When the time zone does not exist.
    pub fn new(config: &InputConfig) -> anyhow::Result<Self> {
        let days = Days { zone: time_zone(&config.timezone)?, known: None };
        Ok(Self { quotes: config.quotes, volume: config.volume, days, states: Vec::new() })
    }

    /// Price of the last trade of a symbol, NaN when there was none.
    pub fn last_price(&self, symbol: u32) -> f64 {
        self.states.get(symbol as usize).and_then(|state| state.price).unwrap_or(f64::NAN)
    }

    /// Normalises every row in place, and takes out those without a price.
    pub fn apply(&mut self, batch: &mut Batch) -> NormalizeCounts {
        let mut counts = NormalizeCounts::default();
        let mut unpriced = false;
        for row in 0..batch.len() {
            let symbol = batch.symbol[row];
            if symbol == CLOCK {
                continue;
            }
            if self.states.len() <= symbol as usize {
                self.states.resize_with(symbol as usize + 1, SymbolState::default);
            }
            let state = &mut self.states[symbol as usize];
            let mut flags = batch.columns[column::FLAGS][row] as u32;
            if batch.time[row] < state.time {
                batch.time[row] = state.time;
                flags |= flag::OUT_OF_ORDER;
                counts.out_of_order += 1;
            }
            let day = self.days.number(batch.time[row]);
            let new_session = state.day != Some(day);
            if new_session {
                flags |= flag::SESSION_START;
            }
            if batch.price[row].is_nan() {
                flags |= flag::QUOTE_ONLY;
                batch.price[row] = match self.quotes {
                    Quotes::Carry => state.price.unwrap_or(f64::NAN),
                    Quotes::Mid => f64::midpoint(batch.columns[column::BID][row], batch.columns[column::ASK][row]),
                };
            }
            flags |= repair_volume(state, self.volume, batch, row, new_session);
            counts.volume_repaired += u64::from(flags & flag::VOLUME_REPAIRED != 0);
            state.time = batch.time[row];
            if batch.price[row].is_nan() {
                unpriced = true;
                continue;
            }
            // Counted from the first tick that a detector sees, so that it sees the session's start.
            state.day = Some(day);
            state.price = Some(batch.price[row]);
            batch.columns[column::FLAGS][row] = f64::from(flags);
        }
        if unpriced {
            let before = batch.len();
            remove_unpriced(batch);
            counts.unpriced = (before - batch.len()) as u64;
        }
        counts
    }
}

/// Fills `quantity` and `cum_volume` of a row from whichever of them the feed has.
fn repair_volume(state: &mut SymbolState, kind: VolumeKind, batch: &mut Batch, row: usize, new_session: bool) -> u32 {
    let Batch { columns, time, .. } = batch;
    let bare = columns[column::VOLUME][row];
    if columns[column::CUM_VOLUME][row].is_nan() && !bare.is_nan() {
        match state.sample.judge(kind, bare) {
            Some(VolumeKind::Cumulative) => columns[column::CUM_VOLUME][row] = bare,
            Some(_) if columns[column::QUANTITY][row].is_nan() => columns[column::QUANTITY][row] = bare,
            _ => {}
        }
    }
    let published = columns[column::CUM_VOLUME][row];
    // An index publishes 0 for ever: it has no volume.
    if published.is_nan() || (published == 0.0 && state.cum_volume.is_none()) {
        columns[column::CUM_VOLUME][row] = f64::NAN;
        return 0;
    }
    let quantity = &mut columns[column::QUANTITY][row];
    let Some(highest) = state.cum_volume else {
        // Nothing to take the difference from; a published quantity stands.
        state.cum_volume = Some(published);
        return 0;
    };
    let paused = time[row].saturating_sub(state.time) >= RESET_PAUSE_NS;
    let mut flags = 0;
    if published >= highest && !new_session {
        *quantity = published - highest;
        state.cum_volume = Some(published);
    } else if new_session || (paused && published < highest * RESET_SHARE) {
        *quantity = f64::NAN;
        state.cum_volume = Some(published);
    } else {
        *quantity = 0.0;
        flags = flag::VOLUME_REPAIRED;
    }
    columns[column::CUM_VOLUME][row] = state.cum_volume.unwrap_or(published);
    flags
}

impl VolumeSample {
    /// What `volume` is for this symbol; `None` while that is not known.
    fn judge(&mut self, kind: VolumeKind, volume: f64) -> Option<VolumeKind> {
        if kind != VolumeKind::Auto {
            return Some(kind);
        }
        if self.ticks < VOLUME_SAMPLE {
            self.falls += u8::from(volume < self.last);
            self.last = volume;
            self.ticks += 1;
            return None;
        }
        Some(if self.falls <= VOLUME_FALLS_MAX { VolumeKind::Cumulative } else { VolumeKind::PerTick })
    }
}

fn remove_unpriced(batch: &mut Batch) {
    let keep: Vec<bool> = batch.symbol.iter().zip(&batch.price).map(|(s, p)| *s == CLOCK || !p.is_nan()).collect();
    fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
        let mut kept = keep.iter();
        values.retain(|_| *kept.next().unwrap_or(&true));
    }
    retain(&mut batch.entry, &keep);
    retain(&mut batch.symbol, &keep);
    retain(&mut batch.time, &keep);
    for column in &mut batch.columns {
        retain(column, &keep);
    }
    retain(&mut batch.price, &keep);
}

/// Numbers days in the session's time zone; asks the zone once a day, not once a tick.
#[derive(Debug)]
struct Days {
    zone: TimeZone,
    /// Begin, end (ns) and number of the day asked for last.
    known: Option<(u64, u64, i32)>,
}

impl Days {
    fn number(&mut self, time: u64) -> i32 {
        match self.known {
            Some((begin, end, number)) if (begin..end).contains(&time) => number,
            _ => self.look_up(time),
        }
    }

    fn look_up(&mut self, time: u64) -> i32 {
        let instant = Timestamp::from_nanosecond(i128::from(time)).unwrap_or(Timestamp::UNIX_EPOCH);
        let date = self.zone.to_datetime(instant).date();
        let midnight = |date: Date| {
            let instant = self.zone.to_timestamp(date.at(0, 0, 0, 0)).unwrap_or(Timestamp::UNIX_EPOCH);
            u64::try_from(instant.as_nanosecond()).unwrap_or(0)
        };
        let end = date.tomorrow().map_or(u64::MAX, midnight);
        let number = date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
        let number = i32::try_from(number).unwrap_or(0);
        self.known = Some((midnight(date), end, number));
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// 2025-11-24 10:00 in Kolkata.
    const START: u64 = 1_763_958_600 * SECOND;

    struct Feed {
        normalizer: Normalizer,
        batch: Batch,
    }

    impl Feed {
        fn new(config: &InputConfig) -> Self {
            Self { normalizer: Normalizer::new(config).unwrap(), batch: Batch::new(column::NAMES.len()) }
        }

        /// A row at `START + seconds`; the values as (column, value).
        fn row(&mut self, seconds: u64, price: f64, values: &[(usize, f64)]) -> &mut Self {
            let mut columns = vec![f64::NAN; column::NAMES.len()];
            columns[column::FLAGS] = 0.0;
            for (position, value) in values {
                columns[*position] = *value;
            }
            self.batch.push(0, 0, START + seconds * SECOND, price, &columns);
            self
        }

        fn apply(&mut self) -> NormalizeCounts {
            self.normalizer.apply(&mut self.batch)
        }

        fn column(&self, position: usize) -> Vec<String> {
            self.batch.columns[position].iter().map(ToString::to_string).collect()
        }

        fn flags(&self) -> Vec<u32> {
            self.batch.columns[column::FLAGS].iter().map(|flags| *flags as u32).collect()
        }
    }

    fn cumulative(volumes: &[(u64, f64)]) -> Feed {
        let mut feed = Feed::new(&InputConfig::default());
        for (seconds, volume) in volumes {
            feed.row(*seconds, 10.0, &[(column::CUM_VOLUME, *volume), (column::QUANTITY, 1.0)]);
        }
        feed.apply();
        feed
    }

    #[test]
    fn quantity_is_what_the_cumulative_volume_grew_by() {
        let feed = cumulative(&[(0, 100.0), (1, 130.0), (2, 130.0), (3, 150.0)]);
        assert_eq!(feed.column(column::QUANTITY), ["1", "30", "0", "20"]);
    }

    #[test]
    fn a_fall_of_volume_is_not_a_new_session() {
        let feed = cumulative(&[(0, 100.0), (1, 150.0), (2, 140.0), (3, 145.0), (4, 160.0)]);
        assert_eq!(feed.column(column::QUANTITY), ["1", "50", "0", "0", "10"]);
        assert_eq!(feed.column(column::CUM_VOLUME), ["100", "150", "150", "150", "160"]);
        let repaired = flag::VOLUME_REPAIRED;
        assert_eq!(feed.flags(), [flag::SESSION_START, 0, repaired, repaired, 0]);
    }

    #[test]
    fn volume_begins_again_with_a_day_or_after_a_long_pause_from_low() {
        let day = 24 * 3600;
        let feed =
            cumulative(&[(0, 1000.0), (day, 5000.0), (day + 1, 5010.0), (day + 7201, 100.0), (day + 7202, 120.0)]);
        assert_eq!(feed.column(column::QUANTITY), ["1", "NaN", "10", "NaN", "20"]);
        assert_eq!(feed.flags()[1], flag::SESSION_START);
    }

    #[test]
    fn time_never_falls() {
        let mut feed = Feed::new(&InputConfig::default());
        feed.row(5, 1.0, &[]).row(3, 2.0, &[]).row(6, 3.0, &[]);
        assert_eq!(feed.apply().out_of_order, 1);
        assert_eq!(feed.batch.time, [5, 5, 6].map(|seconds| START + seconds * SECOND));
        assert_eq!(feed.flags(), [flag::SESSION_START, flag::OUT_OF_ORDER, 0]);
    }

    #[test]
    fn a_quote_carries_the_last_price_and_none_is_invented() {
        let quote = [(column::BID, 9.0), (column::ASK, 11.0)];
        let mut feed = Feed::new(&InputConfig::default());
        feed.row(0, f64::NAN, &quote).row(1, 10.5, &[]).row(2, f64::NAN, &quote);
        assert_eq!(feed.apply().unpriced, 1);
        assert_eq!(feed.batch.price, [10.5, 10.5]);
        assert_eq!(feed.flags(), [flag::SESSION_START, flag::QUOTE_ONLY]);

        let mut feed = Feed::new(&InputConfig { quotes: Quotes::Mid, ..InputConfig::default() });
        feed.row(0, f64::NAN, &quote).row(1, f64::NAN, &[(column::BID, 9.0)]);
        assert_eq!(feed.apply().unpriced, 1);
        assert_eq!(feed.batch.price, [10.0]);
    }

    #[test]
    fn a_bare_volume_shows_what_it_is() {
        let mut rising = Feed::new(&InputConfig::default());
        let mut jumping = Feed::new(&InputConfig::default());
        for tick in 0..60u32 {
            rising.row(tick.into(), 1.0, &[(column::VOLUME, f64::from(100 + tick * 3))]);
            jumping.row(tick.into(), 1.0, &[(column::VOLUME, f64::from(tick * 37 % 11))]);
        }
        rising.apply();
        jumping.apply();
        assert!(rising.column(column::QUANTITY)[..51].iter().all(|quantity| quantity == "NaN"));
        assert!(rising.column(column::QUANTITY)[51..].iter().all(|quantity| quantity == "3"));
        assert_eq!(jumping.column(column::QUANTITY)[55], (55 * 37 % 11).to_string());
        assert_eq!(jumping.column(column::CUM_VOLUME)[55], "NaN");
    }

    #[test]
    fn an_index_has_no_volume() {
        let feed = cumulative(&[(0, 0.0), (1, 0.0)]);
        assert_eq!(feed.column(column::CUM_VOLUME), ["NaN", "NaN"]);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let mut days = Days { zone: time_zone("Asia/Kolkata").unwrap(), known: None };
        let today = days.number(START);
        assert_eq!(days.number(START + 14 * 3600 * SECOND - 1), today, "until midnight in Kolkata");
        assert_eq!(days.number(START + 14 * 3600 * SECOND), today + 1);
        assert_eq!(days.number(START), today);
    }
}
