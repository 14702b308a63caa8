//! When to save how much: neither may the flow stall, nor a recovery take long.
//!
//! A cycle visits every chunk once. It is as long as configured, or shorter where so many entries
//! come that re-reading those of a whole cycle would take long. What saving costs is measured: a
//! visit is so small that a batch behind it hardly waits, and visits are so far apart that they take
//! a small share of the workers' time, even where that makes the cycle longer.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tickhound_core::checkpoint::CHUNKS;

/// About a quarter of a second of re-reading.
const CYCLE_ENTRIES: u64 = 30_000;

/// As long as a batch takes.
const VISIT_TARGET: Duration = Duration::from_millis(2);

/// After a visit of 1 ms, 19 ms without one: a twentieth of the time.
const REST: u32 = 19;

/// Until it is measured.
const FIRST_COST: Duration = Duration::from_micros(50);

/// Paces the visits.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    /// First chunk of the next visit.
    next: u16,
    cycle_started: Instant,
    /// Entries since then.
    entries: u64,
    /// Chunks visited since the last entry; when it is all of them there is nothing to save.
    unchanged: u16,
    /// Visits on their way.
    visiting: u32,
    not_before: Instant,
    /// What saving one symbol takes.
    cost: Duration,
}

impl Pace {
    /// A cycle takes `every` where nothing speaks against it.
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self {
            every,
            next: 0,
            cycle_started: now,
            entries: 0,
            unchanged: CHUNKS,
            visiting: 0,
            not_before: now,
            cost: FIRST_COST,
        }
    }

    /// Begins anew: shards have been started afresh.
    pub fn restart(&mut self) {
        *self = Self { cost: self.cost, ..Self::new(self.every) };
    }

    /// So many entries more are being worked.
    pub fn worked(&mut self, entries: usize) {
        self.entries += entries as u64;
        self.unchanged = 0;
    }

    /// Chunks to visit now, if any; `sizes` has the number of symbols of each.
    pub fn due(&self, now: Instant, sizes: &[u32]) -> Option<Range<u16>> {
        if self.visiting > 0 || self.unchanged >= CHUNKS || now < self.not_before {
            return None;
        }
        let by_time = (now - self.cycle_started).as_secs_f64() / self.every.as_secs_f64();
        let by_entries = self.entries as f64 / CYCLE_ENTRIES as f64;
        let due = (by_time.max(by_entries).min(1.0) * f64::from(CHUNKS)) as u16;
        (due > self.next).then(|| self.next..self.end(due, sizes))
    }

    /// As [`Pace::due`], without waiting for the time: the next part of what has changed.
    pub fn rest(&self, sizes: &[u32]) -> Option<Range<u16>> {
        (self.visiting == 0 && self.unchanged < CHUNKS).then(|| self.next..self.end(CHUNKS, sizes))
    }

    /// As many chunks as one visit can take, at least one.
    fn end(&self, most: u16, sizes: &[u32]) -> u16 {
        let symbols_max = (VISIT_TARGET.as_nanos() / self.cost.as_nanos().max(1)) as u32;
        let mut symbols = sizes[usize::from(self.next)];
        let fits = |chunk: &u16| {
            symbols += sizes[usize::from(*chunk)];
            symbols <= symbols_max
        };
        (self.next + 1 + (self.next + 1..most).take_while(fits).count() as u16).min(CHUNKS)
    }

    /// A visit to `chunks` is on its way.
    pub fn started(&mut self, chunks: &Range<u16>) {
        self.visiting += 1;
        self.unchanged = self.unchanged.saturating_add(chunks.len() as u16);
        self.next = chunks.end;
        if self.next >= CHUNKS {
            (self.next, self.cycle_started, self.entries) = (0, Instant::now(), 0);
        }
    }

    /// The workers have done their part of a visit: the slowest took so long, all saved so many symbols.
    pub fn saved(&mut self, took: Duration, symbols: usize) {
        self.visiting = self.visiting.saturating_sub(1);
        if let Ok(symbols @ 1..) = u32::try_from(symbols) {
            // New measurements count for a quarter: one that was interrupted should not change much.
            self.cost = (self.cost * 3 + took / symbols) / 4;
        }
        self.not_before = Instant::now() + took * REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Visits all that is due at `now`, each done at once; the chunks in their order.
    fn visits(pace: &mut Pace, now: Instant, sizes: &[u32]) -> Vec<u16> {
        let mut visited = Vec::new();
        while let Some(chunks) = pace.due(now, sizes) {
            pace.started(&chunks);
            pace.saved(Duration::ZERO, 1);
            visited.extend(chunks);
        }
        visited
    }

    #[test]
    fn a_cycle_visits_each_chunk_once_and_then_there_is_nothing_to_do() {
        let sizes = [3; CHUNKS as usize];
        let (mut pace, start) = (Pace::new(MINUTE), Instant::now());
        assert!(visits(&mut pace, start + 2 * MINUTE, &sizes).is_empty(), "nothing was worked");
        pace.worked(5);
        let half = visits(&mut pace, start + MINUTE / 2, &sizes);
        assert!((120..=136).contains(&half.len()), "{} chunks in half of the time", half.len());
        let rest = visits(&mut pace, start + 2 * MINUTE, &sizes);
        assert_eq!([half, rest].concat(), (0..CHUNKS).collect::<Vec<_>>());
        assert!(visits(&mut pace, start + 9 * MINUTE, &sizes).is_empty(), "nothing was worked since");
    }

    #[test]
    fn many_entries_make_a_cycle_shorter() {
        let sizes = [3; CHUNKS as usize];
        let mut pace = Pace::new(60 * MINUTE);
        pace.worked(CYCLE_ENTRIES as usize);
        assert_eq!(visits(&mut pace, Instant::now() + MINUTE, &sizes).len(), usize::from(CHUNKS));
    }

    #[test]
    fn a_visit_takes_as_much_as_fits_and_then_rests() {
        let sizes = [100; CHUNKS as usize];
        let mut pace = Pace::new(MINUTE);
        for _ in 0..50 {
            pace.started(&(0..1));
            pace.saved(Duration::from_millis(1), 100);
        }
        pace.worked(CYCLE_ENTRIES as usize);
        let now = Instant::now();
        assert_eq!(pace.due(now, &sizes), None, "it rests");
        // 10 us a symbol, 2 ms: two chunks of 100.
        assert_eq!(pace.due(now + MINUTE, &sizes).map(|chunks| chunks.len()), Some(2));
        assert_eq!(
            pace.due(now + MINUTE, &[1000; CHUNKS as usize]).map(|chunks| chunks.len()),
            Some(1),
            "one at least"
        );
    }
}
