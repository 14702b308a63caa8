//! The sources of replayed ticks, as entries with ids.
//!
//! A tick of a file has no entry id. Its id is its recorded time in ms, or that of the previous tick if that is later,
//! with a number within the millisecond. So the same files give the same ids.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::surrogate::{RecordSource, ShuffledTicks};
use tickhound_core::{
    decode::{Decoder, Names, RawTick},
    event::{Entries, EntryId},
    simulate::{Layout, Renderer, SimConfig, Simulator},
    stream::{History, StreamError},
    wall::now_ms,
};
use tickhound_recorded::{Files, record::Record};
use tickhound_redis::RedisHistory;

/// The most entries that are read from a stream at once.
const PAGE: usize = 2000;

/// After a page of fewer bytes than this, the next one may have twice as many entries: it is still far from too large.
const SMALL_PAGE_BYTES: usize = 16 << 20;

/// Recorded ticks.
pub(crate) enum Source {
    /// Ticks of files; the decoder extracts the time of a tick where the file has no separate one.
    Files(Box<(Files, Decoder)>),
    /// Entries in memory.
    Given(EntryList),
    /// The entries of a stream in Redis, which is only read.
    Stream(Box<Pages>),
    /// Ticks of a simulated market.
    Simulated(Box<SimulatedMarket>),
    /// Ticks of another source with their moves shuffled.
    ShuffledTicks(Box<ShuffledTicks<Source>>),
}

/// Entries in memory, and the position of the next one.
pub(crate) struct EntryList {
    entries: Arc<Entries>,
    next: usize,
}

/// A stream that is read page by page.
pub(crate) struct Pages {
    history: RedisHistory,
    runtime: tokio::runtime::Runtime,
    after: EntryId,
    through: EntryId,
    first: Option<EntryId>,
    page: Entries,
    next: usize,
    /// How many entries to read at once.
    count: usize,
}

/// A simulated market, and how many ticks are left.
pub(crate) struct SimulatedMarket {
    simulator: Simulator,
    renderer: Renderer,
    left: u64,
    count: u64,
}

impl Source {
    /// Reads ticks of files; `decoder` is that of the configuration.
    pub(crate) fn files(files: Files, decoder: Decoder) -> Self {
        Self::Files(Box::new((files, decoder)))
    }

    /// Reads these entries.
    pub(crate) fn given(entries: Arc<Entries>) -> Self {
        Self::Given(EntryList { entries, next: 0 })
    }

    /// Reads the entries from `from` to `to`, both included.
    ///
    /// # Errors
    /// When the async runtime does not start.
    pub(crate) fn stream(history: RedisHistory, from: EntryId, to: EntryId) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let after = match from {
            EntryId { millis: 0, seq: 0 } => EntryId::ZERO,
            EntryId { millis, seq: 0 } => EntryId { millis: millis - 1, seq: u64::MAX },
            EntryId { millis, seq } => EntryId { millis, seq: seq - 1 },
        };
        Ok(Self::Stream(Box::new(Pages {
            history,
            runtime: runtime.context("failed to start the async runtime")?,
            after,
            through: to,
            first: None,
            page: Entries::default(),
            next: 0,
            count: PAGE,
        })))
    }

    /// Reads the first `count` ticks of a simulated market.
    pub(crate) fn simulated(config: &SimConfig, count: u64) -> Self {
        let (simulator, renderer) = (Simulator::new(config), Renderer::new(Layout::Flat));
        Self::Simulated(Box::new(SimulatedMarket { simulator, renderer, left: count, count }))
    }

    /// Reads the next tick into `record`; returns false at the end.
    pub(crate) fn next(&mut self, record: &mut Record) -> Result<bool> {
        match self {
            Self::Files(files) => {
                let (files, decoder) = &mut **files;
                let more = files.next(record)?;
                if more && record.time.is_none() {
                    record.time = time_in(decoder, record);
                }
                Ok(more)
            }
            Self::Given(given) => {
                let Some(entry) = given.entries.get(given.next) else { return Ok(false) };
                given.next += 1;
                record.copy(&entry);
                Ok(true)
            }
            Self::Stream(pages) => pages.next(record),
            Self::ShuffledTicks(shuffled) => shuffled.next(record),
            Self::Simulated(simulated) => {
                let SimulatedMarket { simulator, renderer, left, .. } = &mut **simulated;
                if *left == 0 {
                    return Ok(false);
                }
                *left -= 1;
                record.take_simulated(simulator, renderer)?;
                Ok(true)
            }
        }
    }

    /// Returns the decoder and the symbols of a source whose records are rows of tables.
    pub(super) fn table(&self) -> Option<(Decoder, Names)> {
        match self {
            Self::Files(files) => Some((files.1.clone(), files.0.names().clone())),
            _ => None,
        }
    }

    /// Returns how much was read, and how much there is: bytes, ms, or ticks.
    pub(super) fn progress(&self) -> (u64, u64) {
        match self {
            Self::Files(files) => (files.0.read(), files.0.size()),
            Self::Given(given) => (given.next as u64, given.entries.len() as u64),
            Self::Stream(pages) => {
                let Some(first) = pages.first else { return (0, 1) };
                let end = pages.through.millis.min(now_ms());
                (pages.after.millis.saturating_sub(first.millis), end.saturating_sub(first.millis).max(1))
            }
            Self::Simulated(simulated) => (simulated.count - simulated.left, simulated.count),
            Self::ShuffledTicks(shuffled) => shuffled.inner().progress(),
        }
    }

    /// The number of lines that could not be read.
    pub(super) fn skipped(&self) -> u64 {
        match self {
            Self::Files(files) => files.0.skipped(),
            _ => 0,
        }
    }
}

impl RecordSource for Source {
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        Self::next(self, record)
    }
}

impl Pages {
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        if self.next >= self.page.len() {
            self.page = self.read_page().context("can't read the stream")?;
            self.next = 0;
            let Some(last) = self.page.last() else { return Ok(false) };
            self.first = self.first.or(self.page.first());
            self.after = last;
        }
        let Some(entry) = self.page.get(self.next) else { return Ok(false) };
        self.next += 1;
        record.copy(&entry);
        Ok(true)
    }

    /// Reads the next page. One that is too large is read again with fewer entries; a single entry never is.
    fn read_page(&mut self) -> Result<Entries, StreamError> {
        loop {
            match self.runtime.block_on(self.history.read(self.after, self.through, self.count)) {
                Err(StreamError::TooLarge(_)) if self.count > 1 => self.count /= 2,
                Ok(page) => {
                    if page.bytes() < SMALL_PAGE_BYTES {
                        self.count = (self.count * 2).min(PAGE);
                    }
                    return Ok(page);
                }
                failed => return failed,
            }
        }
    }
}

/// Returns the event time within a tick, as the decoder reads it.
fn time_in(decoder: &mut Decoder, record: &Record) -> Option<i64> {
    let mut time = None;
    let mut emit = |tick: &RawTick| time = time.or(tick.time);
    // A record that is not a tick has no time; the engine reports why.
    if let Some(cells) = record.cells() {
        let _ = decoder.decode_cells(now_ms(), cells, &mut emit);
    } else {
        let mut entries = Entries::default();
        entries.push_entry(EntryId { millis: now_ms(), seq: 0 });
        record.fields().for_each(|(name, value)| entries.push_field(name, value));
        let _ = decoder.decode(entries.get(0)?, &mut emit);
    }
    i64::try_from(time?).ok()
}

/// Assigns ids to ticks.
#[derive(Default)]
pub(crate) struct Ids {
    last: Option<EntryId>,
    untimed: u64,
}

/// If this many ticks at the beginning have no time, the recording has no times at all.
const UNTIMED_MAX: u64 = 1000;

impl Ids {
    /// Returns the id of a tick; `None` if no time is known yet.
    pub(crate) fn next(&mut self, record: &Record) -> Result<Option<EntryId>> {
        if record.id.is_some() {
            return Ok(record.id);
        }
        let millis = record.time.and_then(|time| u64::try_from(time / 1_000_000).ok()).unwrap_or(0);
        let id = match self.last {
            None if millis == 0 => {
                self.untimed += 1;
                if self.untimed > UNTIMED_MAX {
                    bail!(
                        "the ticks have no time: name the column with --map time=COLUMN, or record lines as `<ns> <json>`"
                    );
                }
                return Ok(None);
            }
            Some(last) if millis <= last.millis => EntryId { millis: last.millis, seq: last.seq + 1 },
            _ => EntryId { millis, seq: 0 },
        };
        self.last = Some(id);
        Ok(Some(id))
    }

    /// The number of ticks at the beginning that were left out, since their time is unknown.
    pub(super) fn untimed(&self) -> u64 {
        self.untimed
    }
}

/// Waits until `due`; returns false if `stop` has ended the wait.
pub(super) fn wait_until(due: Instant, stop: &dyn Fn() -> bool) -> bool {
    /// `stop` is checked this often.
    const CHECK_EVERY: Duration = Duration::from_millis(100);
    while !stop() {
        match due.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::park_timeout(left.min(CHECK_EVERY)),
            _ => return true,
        }
    }
    false
}
