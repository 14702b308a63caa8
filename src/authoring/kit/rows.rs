//! Entries as a detector sees them: decoded, normalised, with clock rows; of its own scope and feeds.

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
    ingest::{Ingest, IngestPlan, ViewRows},
    plugin::{DetectorSpec, Fault, GROUP_MARK, Generation, Instance, View},
};

/// Rows by view, and the names of their symbols and groups.
pub(super) struct Rows {
    /// Symbols, and groups by the names under which they are interned.
    names: Vec<(u32, Arc<str>)>,
    /// The ticks of symbols.
    ticks: Batch,
    /// The rows of the other views of the generation.
    views: Vec<ViewRows>,
    none: Batch,
}

impl Rows {
    /// Returns the rows that the detectors of a generation see, and the ticks of symbols.
    pub(super) fn of(
        entries: &Entries,
        input: &InputConfig,
        sessions: &Sessions,
        generation: &Generation,
    ) -> Result<Self> {
        let decoder = Decoder::new(input, Path::new("."))?;
        let mut ingest = Ingest::new(decoder, Normalizer::new(input, sessions)?, 1, Clock::default());
        ingest.set_session_columns(true);
        ingest.set_plan(IngestPlan::of(generation).map(Arc::new));
        let job = ingest.route(1, entries).jobs.into_iter().flatten().next().context("the entries contain no ticks")?;
        let mut names = job.symbols;
        // A symbol is an owner, and a member of its groups.
        names.extend(job.members);
        names.sort_unstable();
        names.dedup();
        Ok(Self { names, ticks: job.batch, views: job.views, none: Batch::default() })
    }

    /// The rows that a detector of this view sees.
    pub(super) fn of_view(&self, view: &View) -> &Batch {
        if view.is_of_ticks() {
            return &self.ticks;
        }
        self.views.iter().find(|rows| *rows.view == *view).map_or(&self.none, |rows| &rows.batch)
    }

    /// Splits the rows of a view into chunks of this size.
    pub(super) fn chunks(&self, view: &View, size: usize) -> Vec<Batch> {
        let batch = self.of_view(view);
        let rows = batch.len();
        (0..rows).step_by(size.max(1)).map(|from| batch.rows(from..rows.min(from + size))).collect()
    }

    /// The ids of those that have a state in this view: all symbols, or all groups.
    pub(super) fn owners(&self, view: &View) -> Vec<u32> {
        let is_owner = |name: &str| name.starts_with(GROUP_MARK) == view.has_groups();
        self.names.iter().filter(|(_, name)| is_owner(name)).map(|(id, _)| *id).collect()
    }

    /// Starts a fresh instance, and introduces the symbols to it, and the groups if it sees any.
    pub(super) fn start(&self, spec: &DetectorSpec) -> Result<Instance, Fault> {
        let mut instance = spec.start()?;
        let is_seen = |name: &str| spec.view().has_groups() || !name.starts_with(GROUP_MARK);
        let names = self.names.iter().filter(|(_, name)| is_seen(name));
        let names: Vec<(u32, &str)> = names.map(|(id, name)| (*id, &**name)).collect();
        instance.introduce(&names)?;
        Ok(instance)
    }
}
