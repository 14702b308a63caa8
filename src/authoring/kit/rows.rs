//! Entries as a detector sees them: decoded, normalised, with clock rows.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};

use tickhound_core::{
    config::InputConfig,
    decode::Decoder,
    event::{Batch, Clock, Entries},
    normalize::Normalizer,
    session::Sessions,
};
use tickhound_engine::{
    ingest::Ingest,
    plugin::{DetectorSpec, Fault, Instance},
};

/// Rows of ticks, and their symbols.
pub(super) struct Rows {
    symbols: Vec<(u32, Arc<str>)>,
    pub(super) batch: Batch,
}

impl Rows {
    pub(super) fn of(entries: &Entries, input: &InputConfig, sessions: &Sessions) -> Result<Self> {
        let decoder = Decoder::new(input, Path::new("."))?;
        let mut ingest = Ingest::new(decoder, Normalizer::new(input, sessions)?, 1, Clock::default());
        ingest.set_session_columns(true);
        let job = ingest.route(1, entries).jobs.into_iter().flatten().next().context("the entries contain no ticks")?;
        Ok(Self { symbols: job.symbols, batch: job.batch })
    }

    /// Splits the rows into chunks of this size.
    pub(super) fn chunks(&self, size: usize) -> Vec<Batch> {
        let rows = self.batch.len();
        (0..rows).step_by(size).map(|from| self.batch.rows(from..rows.min(from + size))).collect()
    }

    /// The ids of all symbols.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.symbols.iter().map(|(id, _)| *id).collect()
    }

    /// Starts a fresh instance, and introduces the symbols to it.
    pub(super) fn start(&self, spec: &DetectorSpec) -> Result<Instance, Fault> {
        let mut instance = spec.start()?;
        let symbols: Vec<(u32, &str)> = self.symbols.iter().map(|(id, name)| (*id, &**name)).collect();
        instance.introduce(&symbols)?;
        Ok(instance)
    }
}
