//! Back to what was known at the last commit: saved states, and the entries since then once more.
//!
//! Chunks of the saved state are of different ages. The stream is re-read from the oldest on, and
//! each chunk restored when its place is reached; until then the ticks of its symbols are left out.
//! What the detectors find meanwhile was published by whoever found it first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::Engine;
use crate::{
    checkpoint::{Boundary, CHUNKS, Saved, chunk_of, is_forgotten},
    event::{Entries, EntryId},
    shard::{SavedSymbol, Task},
    stream::{Acquired, Stream, StreamError, Whose},
};

/// Entries re-read in one go; so large that the server's answer is no wait, so small that it is no burden.
const PAGE: usize = 2000;

/// Tasks that may wait in a shard while the next page is fetched.
const AHEAD: usize = 4;

/// Long recoveries tell how far they are.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How the saved state is put together again.
struct Plan {
    /// Where re-reading begins.
    start: Boundary,
    /// Symbols to restore at each boundary.
    stops: BTreeMap<EntryId, Vec<(String, Vec<u8>)>>,
    forgotten: Vec<String>,
}

/// A recovery under way.
struct Progress {
    started: Instant,
    told: Instant,
    expected: u64,
    replayed: u64,
    /// Answers of shards that are still to come.
    waiting: usize,
    /// Entries that are not to be worked now: pending ones will be later, poison never.
    left_out: BTreeSet<EntryId>,
}

impl<S: Stream> Engine<S> {
    /// Makes the shards know what they knew at the last commit. `false`: told to stop meanwhile.
    pub(super) async fn restore(
        &mut self,
        acquired: &Acquired,
        stop: &watch::Receiver<bool>,
    ) -> Result<bool, StreamError> {
        self.ingest.reset(acquired.clock);
        let Some(last) = acquired.newest else {
            // Nothing was ever worked: every chunk begins here.
            self.visit(0..CHUNKS).await;
            return Ok(true);
        };
        let saved = self.stream.saved().await?;
        if acquired.began_anew {
            self.restore_without_history(saved, acquired, last).await;
            return Ok(true);
        }
        let mut left_out = self.stream.pending(EntryId::ZERO, last, Whose::Anybodys).await?;
        let (poison, symbols) = (saved.poison.clone(), saved.symbols.len());
        let Plan { start, stops, forgotten } = plan(saved, last);
        self.passed = poison.iter().copied().filter(|id| *id <= start.newest).collect();
        self.elsewhere.clone_from(&left_out);
        left_out.extend(&poison);
        self.poison = poison;
        self.forgotten = forgotten;

        let mut stops: Vec<(EntryId, Vec<Vec<SavedSymbol>>)> =
            stops.into_iter().map(|(at, symbols)| (at, self.deal_out(symbols, last.millis))).collect();
        stops.push((last, Vec::new()));
        self.ingest.reset_clock(start.clock);
        let worked = acquired.totals.entries - acquired.totals.lost;
        let now = Instant::now();
        let mut progress = Progress {
            started: now,
            told: now,
            expected: worked.saturating_sub(start.worked),
            replayed: 0,
            waiting: 0,
            left_out,
        };
        let mut cursor = start.newest;
        for (at, shares) in stops {
            if !self.replay(cursor, at, stop, &mut progress).await? {
                return Ok(false);
            }
            cursor = cursor.max(at);
            for (shard, share) in self.shards.iter().zip(shares) {
                share.iter().for_each(|symbol| self.ingest.restored(symbol.id));
                shard.submit(Task::Restore(share)).await;
            }
        }
        self.settle_replayed(0, &mut progress).await;
        self.ingest.reset_clock(acquired.clock);
        let gap = progress.expected.saturating_sub(progress.replayed);
        self.totals.state_gap += gap;
        if gap > 0 {
            warn!(
                entries = gap,
                after = %start.newest,
                through = %last,
                "entries that detectors knew were trimmed away before their state was saved; they go on without them: \
                 keep more entries in the stream"
            );
        }
        let took_ms = progress.started.elapsed().as_millis() as u64;
        info!(symbols, entries = progress.replayed, took_ms, "restored what was known, and re-read what came after it");
        Ok(true)
    }

    /// The stream that the states are of is gone: they are taken as they are, and saved again as of the beginning of
    /// the one that there is now.
    async fn restore_without_history(&mut self, saved: Saved, acquired: &Acquired, last: EntryId) {
        self.passed.clone_from(&saved.poison);
        (self.poison, self.elsewhere) = (Vec::new(), BTreeSet::new());
        let Plan { start, stops, forgotten } = plan(saved, last);
        self.forgotten = forgotten;
        let shares = self.deal_out(stops.into_values().flatten().collect(), last.millis);
        for (shard, share) in self.shards.iter().zip(shares) {
            share.iter().for_each(|symbol| self.ingest.restored(symbol.id));
            shard.submit(Task::Restore(share)).await;
        }
        let gap = (acquired.totals.entries - acquired.totals.lost).saturating_sub(start.worked);
        self.totals.state_gap += gap;
        if gap > 0 {
            warn!(
                event = "state_gap",
                entries = gap,
                "the stream was deleted before what detectors knew of its last entries was saved; continuing without them"
            );
        }
        self.visit(0..CHUNKS).await;
    }

    /// Makes the symbols known, and divides them by shard; the newest entry processed arrived at `newest_ms`.
    fn deal_out(&mut self, symbols: Vec<(String, Vec<u8>)>, newest_ms: u64) -> Vec<Vec<SavedSymbol>> {
        let mut shares: Vec<Vec<SavedSymbol>> = self.shards.iter().map(|_| Vec::new()).collect();
        for (name, packed) in symbols {
            let (id, shard) = self.ingest.await_state(&name);
            shares[shard].push(SavedSymbol { id, name: Arc::from(name), packed, newest_ms });
        }
        shares
    }

    /// Works the entries after one id and up to another without a word. `false`: told to stop meanwhile.
    async fn replay(
        &mut self,
        after: EntryId,
        through: EntryId,
        stop: &watch::Receiver<bool>,
        progress: &mut Progress,
    ) -> Result<bool, StreamError> {
        let mut cursor = after;
        while cursor < through {
            if *stop.borrow() {
                return Ok(false);
            }
            self.stats.monitor.turned(None);
            self.stats.turn();
            let mut entries = self.stream.history(cursor, through, self.intake.page(PAGE)).await?;
            self.intake.note(&entries);
            let Some(last) = entries.last() else { break };
            cursor = last;
            entries.retain(|id| !progress.left_out.contains(&id));
            progress.replayed += entries.len() as u64;
            self.rework(&entries, progress).await;
            self.settle_replayed(AHEAD * self.shards.len(), progress).await;
            if progress.told.elapsed() > TELL_EVERY {
                progress.told = Instant::now();
                info!(
                    entries = progress.replayed,
                    of = progress.expected,
                    "re-reading what came after the saved state"
                );
            }
        }
        Ok(true)
    }

    async fn rework(&mut self, entries: &Entries, progress: &mut Progress) {
        self.reads += 1;
        let routed = self.ingest.route(self.reads, entries);
        for (shard, job) in self.shards.iter().zip(routed.jobs) {
            if let Some(job) = job {
                shard.submit(Task::Rework(job)).await;
                progress.waiting += 1;
            }
        }
    }

    /// Waits until at most `left` answers are to come; what they say is known already.
    async fn settle_replayed(&mut self, left: usize, progress: &mut Progress) {
        // Every call of a guest has a deadline, also the first ones, which may take long.
        while progress.waiting > left && self.stats.waiting(self.outcomes.recv()).await.is_some() {
            progress.waiting -= 1;
        }
    }
}

fn plan(saved: Saved, last: EntryId) -> Plan {
    // A chunk that was never visited had no symbol to save: it begins with the stream.
    let boundary = |chunk: u16| saved.boundaries.get(usize::from(chunk)).copied().flatten().unwrap_or_default();
    let start = (0..CHUNKS).map(boundary).min_by_key(|boundary| boundary.newest).unwrap_or_default();
    let mut plan = Plan { start, stops: BTreeMap::new(), forgotten: Vec::new() };
    for (name, packed) in saved.symbols {
        if is_forgotten(&packed, last.millis) {
            plan.forgotten.push(name);
        } else {
            let at = boundary(chunk_of(&name)).newest.min(last);
            plan.stops.entry(at).or_default().push((name, packed));
        }
    }
    plan
}
