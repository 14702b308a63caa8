//! Decides when to save how many states, so that neither the flow stalls nor a recovery takes long.
//!
//! A cycle visits every chunk once. It takes as long as configured, or less if so many entries come that replaying those
//! of a whole cycle would take long. The cost of saving is measured: a visit is so small that the batch behind it hardly
//! waits, and visits are so far apart that they take a small share of the workers' time, even if that makes the cycle
//! longer.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use tickhound_core::checkpoint::CHUNKS;

/// Most entries of a cycle: replaying them takes about a quarter of a second.
const CYCLE_ENTRIES: u64 = 30_000;

/// How long a visit may take: about as long as a batch.
const VISIT_TARGET: Duration = Duration::from_millis(2);

/// The pause after a visit, in multiples of its duration: visits take a twentieth of the time.
const REST: u32 = 19;

/// The cost of saving one symbol before it is measured.
const FIRST_COST: Duration = Duration::from_micros(50);

/// The pace of the visits.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    /// The first chunk of the next visit.
    next: u16,
    cycle_started: Instant,
    /// Entries since the cycle began.
    entries: u64,
    /// Chunks visited since the last entry; if all were, there is nothing to save.
    unchanged: u16,
    /// Visits in flight.
    visiting: u32,
    not_before: Instant,
    /// How long saving one symbol takes.
    cost: Duration,
}

impl Pace {
    /// Creates a pace with cycles of the duration `every`.
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

    /// Starts a new cycle, since the shards have been restarted.
    pub fn restart(&mut self) {
        *self = Self { cost: self.cost, ..Self::new(self.every) };
    }

    /// Notes entries that are about to be processed.
    pub fn processed(&mut self, entries: usize) {
        self.entries += entries as u64;
        self.unchanged = 0;
    }

    /// The chunks to visit now, if any. `sizes` has the number of symbols of each chunk.
    pub fn due(&self, now: Instant, sizes: &[u32]) -> Option<Range<u16>> {
        if self.visiting > 0 || self.unchanged >= CHUNKS || now < self.not_before {
            return None;
        }
        let by_time = (now - self.cycle_started).as_secs_f64() / self.every.as_secs_f64();
        let by_entries = self.entries as f64 / CYCLE_ENTRIES as f64;
        let due = (by_time.max(by_entries).min(1.0) * f64::from(CHUNKS)) as u16;
        (due > self.next).then(|| self.next..self.end(due, sizes))
    }

    /// The next chunks with changes, whether they are due or not; for the end of a run.
    pub fn rest(&self, sizes: &[u32]) -> Option<Range<u16>> {
        (self.visiting == 0 && self.unchanged < CHUNKS).then(|| self.next..self.end(CHUNKS, sizes))
    }

    /// The end of a visit that takes as many chunks as it can, but at least one.
    fn end(&self, most: u16, sizes: &[u32]) -> u16 {
        let symbols_max = (VISIT_TARGET.as_nanos() / self.cost.as_nanos().max(1)) as u32;
        let mut symbols = sizes[usize::from(self.next)];
        let fits = |chunk: &u16| {
            symbols += sizes[usize::from(*chunk)];
            symbols <= symbols_max
        };
        (self.next + 1 + (self.next + 1..most).take_while(fits).count() as u16).min(CHUNKS)
    }

    /// Notes that a visit to `chunks` has started.
    pub fn started(&mut self, chunks: &Range<u16>) {
        self.visiting += 1;
        self.unchanged = self.unchanged.saturating_add(chunks.len() as u16);
        self.next = chunks.end;
        if self.next >= CHUNKS {
            (self.next, self.cycle_started, self.entries) = (0, Instant::now(), 0);
        }
    }

    /// Notes that the workers have finished a visit. `took` is the time of the slowest, `symbols` the number of symbols
    /// that all saved.
    pub fn saved(&mut self, took: Duration, symbols: usize) {
        self.visiting = self.visiting.saturating_sub(1);
        if let Ok(symbols @ 1..) = u32::try_from(symbols) {
            // A new measurement counts for a quarter: one that was interrupted should not change much.
            self.cost = (self.cost * 3 + took / symbols) / 4;
        }
        self.not_before = Instant::now() + took * REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Visits all chunks that are due at `now`, each visit finishing at once. Returns them in their order.
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
        assert!(visits(&mut pace, start + 2 * MINUTE, &sizes).is_empty(), "nothing was processed");
        pace.processed(5);
        let half = visits(&mut pace, start + MINUTE / 2, &sizes);
        assert!((120..=136).contains(&half.len()), "{} chunks in half of the time", half.len());
        let rest = visits(&mut pace, start + 2 * MINUTE, &sizes);
        assert_eq!([half, rest].concat(), (0..CHUNKS).collect::<Vec<_>>());
        assert!(visits(&mut pace, start + 9 * MINUTE, &sizes).is_empty(), "nothing was processed since");
    }

    #[test]
    fn many_entries_make_a_cycle_shorter() {
        let sizes = [3; CHUNKS as usize];
        let mut pace = Pace::new(60 * MINUTE);
        pace.processed(CYCLE_ENTRIES as usize);
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
        pace.processed(CYCLE_ENTRIES as usize);
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
