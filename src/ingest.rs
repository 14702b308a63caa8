//! Entries to ticks to shards: decode, intern, resolve time, route.
//!
//! What holds: rows of one symbol go to one shard, in stream order. Event time
//! and the places of clock rows depend on the entries alone, not on batches,
//! shards or the wall clock.

use std::{hash::BuildHasher, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{
    decode::{Decoder, Outcome},
    event::{Batch, Entries, EntryId, column, flag},
    stream::Clock,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

/// A shard's part of one read.
#[derive(Debug)]
pub struct Job {
    /// Number of the read.
    pub read: u64,
    /// Symbols that this shard sees for the first time.
    pub symbols: Vec<(u32, Arc<str>)>,
    /// Its rows.
    pub batch: Batch,
}

/// What became of one read.
#[derive(Debug, Default)]
pub struct Routed {
    /// For each shard, its part; `None` when there is nothing for it.
    pub jobs: Vec<Option<Job>>,
    /// Entries that are no tick, by index, with the reason.
    pub undecodable: Vec<(u32, String)>,
    /// Entries whose body was trimmed away.
    pub lost: Vec<EntryId>,
    /// Ticks in all jobs.
    pub ticks: usize,
}

/// Turns entries into jobs.
pub struct Ingest {
    decoder: Decoder,
    shards: usize,
    columns: usize,
    symbols: Symbols,
    clock: Clock,
}

#[derive(Default)]
struct Symbols {
    ids: FxHashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Ingest {
    /// Routes to `shards` shards; `clock` as of the last commit.
    pub fn new(decoder: Decoder, shards: usize, clock: Clock) -> Self {
        let columns = decoder.column_names().len();
        Self { decoder, shards, columns, symbols: Symbols::default(), clock }
    }

    /// Forgets every symbol and goes on from `clock`: the shards have been started afresh.
    pub fn reset(&mut self, clock: Clock) {
        self.symbols = Symbols::default();
        self.clock = clock;
    }

    /// Event time as of the last routed entry.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Name of an interned symbol.
    pub fn symbol_name(&self, id: u32) -> &str {
        self.symbols.names.get(id as usize).map_or("", |name| name)
    }

    /// Decodes and routes one read.
    pub fn route(&mut self, read: u64, entries: &Entries) -> Routed {
        let mut routed = Routed { jobs: (0..self.shards).map(|_| None).collect(), ..Routed::default() };
        let Self { decoder, shards, columns, symbols, clock } = self;
        for (index, entry) in entries.iter().enumerate() {
            let index = index as u32;
            if entry.fields().len() == 0 {
                routed.lost.push(entry.id);
                continue;
            }
            let Routed { jobs, ticks, .. } = &mut routed;
            let outcome = decoder.decode(entry, &mut |tick| {
                let (time, estimated) = resolve_time(clock, entry.id, tick.time);
                if time / NANOS_PER_SECOND > clock.time / NANOS_PER_SECOND {
                    let second = time / NANOS_PER_SECOND * NANOS_PER_SECOND;
                    for slot in jobs.iter_mut() {
                        open(slot, read, *columns).batch.push_clock(index, second);
                    }
                }
                clock.time = clock.time.max(time);
                let (id, shard, new) = symbols.intern(&tick.symbol, *shards);
                let job = open(&mut jobs[shard], read, *columns);
                if new {
                    job.symbols.push((id, symbols.names[id as usize].clone()));
                }
                job.batch.push(index, id, time, tick.price, &tick.columns);
                if estimated {
                    let flags = job.batch.columns[column::FLAGS].last_mut().expect("the row was just added");
                    *flags = f64::from(*flags as u32 | flag::TIME_ESTIMATED);
                }
                *ticks += 1;
            });
            match outcome {
                Ok(Outcome::Ticks(_) | Outcome::Skipped) => {}
                Err(error) => {
                    // A document that breaks off may have given ticks first: all of it is set aside.
                    routed.ticks -=
                        routed.jobs.iter_mut().flatten().map(|job| job.batch.take_back(index)).sum::<usize>();
                    routed.undecodable.push((index, error.to_string()));
                }
            }
        }
        routed
    }
}

fn open(slot: &mut Option<Job>, read: u64, columns: usize) -> &mut Job {
    slot.get_or_insert_with(|| Job { read, symbols: Vec::new(), batch: Batch::new(columns) })
}

/// The tick's own time, or else its arrival less the delay of the latest stamped tick: in a feed
/// of old ticks an arrival time would be years ahead of its neighbours.
fn resolve_time(clock: &mut Clock, id: EntryId, stamped: Option<u64>) -> (u64, bool) {
    match stamped {
        Some(time) => {
            clock.delay_ms = id.millis as i64 - (time / NANOS_PER_MILLI) as i64;
            (time, false)
        }
        None => (id.millis.saturating_add_signed(-clock.delay_ms) * NANOS_PER_MILLI, true),
    }
}

impl Symbols {
    /// Id and shard of a symbol, and whether it is new.
    fn intern(&mut self, name: &str, shards: usize) -> (u32, usize, bool) {
        let shard = (FxBuildHasher.hash_one(name) >> 32) as usize % shards;
        if let Some(id) = self.ids.get(name) {
            return (*id, shard, false);
        }
        let id = u32::try_from(self.names.len()).expect("fewer symbols than ids");
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.ids.insert(name, id);
        (id, shard, true)
    }
}
