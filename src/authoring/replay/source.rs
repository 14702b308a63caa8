//! Where replayed ticks come from, as entries with ids.
//!
//! A tick of a file has no entry id. It is given its recorded time in ms, or that of the tick before it if that is
//! later, and a number within the millisecond: the same files give the same ids.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::surrogate::Shuffled;
use tickhound_core::{
    decode::{Decoder, Names, RawTick},
    event::{Entries, EntryId},
    simulate::{Layout, Renderer, SimConfig, Simulator},
    stream::History,
    wall::now_ms,
};
use tickhound_recorded::{Files, record::Record};
use tickhound_redis::RedisHistory;

/// Entries that are fetched from a stream at once.
const PAGE: usize = 2000;

/// Recorded ticks.
pub(crate) enum Source {
    /// Of files; the decoder finds the time where the recording does not tell it.
    Files(Box<(Files, Decoder)>),
    /// Entries that are there already.
    Given(Given),
    /// Of a stream in Redis, which stays as it is.
    Stream(Box<Pages>),
    /// So many of a simulated market.
    Simulated(Box<Simulated>),
    /// Of another source, their moves in another order.
    Shuffled(Box<Shuffled>),
}

/// See [`Source::Given`].
pub(crate) struct Given {
    entries: Arc<Entries>,
    next: usize,
}

/// See [`Source::Stream`].
pub(crate) struct Pages {
    history: RedisHistory,
    runtime: tokio::runtime::Runtime,
    after: EntryId,
    through: EntryId,
    first: Option<EntryId>,
    page: Entries,
    next: usize,
}

/// See [`Source::Simulated`].
pub(crate) struct Simulated {
    simulator: Simulator,
    renderer: Renderer,
    left: u64,
    count: u64,
}

impl Source {
    /// Ticks of files; `decoder` as the configuration has it.
    pub(crate) fn files(files: Files, decoder: Decoder) -> Self {
        Self::Files(Box::new((files, decoder)))
    }

    /// These entries.
    pub(crate) fn given(entries: Arc<Entries>) -> Self {
        Self::Given(Given { entries, next: 0 })
    }

    /// The entries from `from` to `to`, both included.
    ///
    /// # Errors
    /// When the system gives no thread.
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
        })))
    }

    /// The first `count` ticks of a simulated market.
    pub(crate) fn simulated(config: &SimConfig, count: u64) -> Self {
        let (simulator, renderer) = (Simulator::new(config), Renderer::new(Layout::Flat));
        Self::Simulated(Box::new(Simulated { simulator, renderer, left: count, count }))
    }

    /// Reads the next tick into `record`; false at the end.
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
            Self::Shuffled(shuffled) => shuffled.next(record),
            Self::Simulated(simulated) => {
                let Simulated { simulator, renderer, left, .. } = &mut **simulated;
                if *left == 0 {
                    return Ok(false);
                }
                *left -= 1;
                let tick = simulator.next().context("the simulated market has ended")?;
                record.clear();
                record.time = i64::try_from(tick.time).ok();
                let instrument = &simulator.instruments()[tick.instrument as usize];
                renderer.render(instrument, &tick, |name, value| record.put(name, value));
                Ok(true)
            }
        }
    }

    /// Who decodes rows of tables that it gives, and who knows their symbols.
    pub(super) fn table(&self) -> Option<(Decoder, Names)> {
        match self {
            Self::Files(files) => Some((files.1.clone(), files.0.names().clone())),
            _ => None,
        }
    }

    /// How far it has been read, and how far that can go: bytes, ms, or ticks.
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
            Self::Shuffled(shuffled) => shuffled.inner().progress(),
        }
    }

    /// Lines that could not be read.
    pub(super) fn skipped(&self) -> u64 {
        match self {
            Self::Files(files) => files.0.skipped(),
            _ => 0,
        }
    }
}

impl Pages {
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        if self.next >= self.page.len() {
            let read = self.history.read(self.after, self.through, PAGE);
            self.page = self.runtime.block_on(read).context("can't read the stream")?;
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
}

/// The time that a tick has in it, as the decoder reads it.
fn time_in(decoder: &mut Decoder, record: &Record) -> Option<i64> {
    let mut time = None;
    let mut emit = |tick: &RawTick| time = time.or(tick.time);
    // What is no tick has no time; the engine says why.
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

/// Gives ticks their ids.
#[derive(Default)]
pub(crate) struct Ids {
    last: Option<EntryId>,
    untimed: u64,
}

/// So many ticks without a time at the very beginning, and the recording is taken to have none.
const UNTIMED_MAX: u64 = 1000;

impl Ids {
    /// `None`: nothing is known of its time yet.
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
                        "its ticks have no time: name the column with --map time=COLUMN, or record lines as `<ns> <json>`"
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

    /// Ticks that were left out at the beginning.
    pub(super) fn untimed(&self) -> u64 {
        self.untimed
    }
}

/// Waits until `due`, or until `stop` says so; false then.
pub(super) fn wait_until(due: Instant, stop: &dyn Fn() -> bool) -> bool {
    /// A stop is noticed within this time.
    const GLANCE: Duration = Duration::from_millis(100);
    while !stop() {
        match due.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::park_timeout(left.min(GLANCE)),
            _ => return true,
        }
    }
    false
}
