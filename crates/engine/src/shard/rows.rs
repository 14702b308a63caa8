//! The rows of a read by view, and the names that a shard knows: whose state it has, and whom it only sees in groups.

use std::sync::Arc;

use crate::{
    ingest::{Job, ViewRows, has_group},
    plugin::{DetectorSpec, GROUP_MARK, Scope, View},
};
use tickhound_core::event::Batch;

/// The rows that a shard has of one read.
#[derive(Debug, Default)]
pub(super) struct ShardRows {
    /// The ticks of its symbols.
    pub(super) ticks: Batch,
    /// The rows of other views.
    views: Vec<ViewRows>,
}

/// Names by their numbers.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// Symbols and groups that have their states in the shard.
    pub(super) owners: &'a [(u32, Arc<str>)],
    /// Symbols that groups of the shard have as members.
    pub(super) members: &'a [(u32, Arc<str>)],
}

impl ShardRows {
    /// Takes the rows of a job.
    pub(super) fn of(job: &mut Job) -> Self {
        Self { ticks: std::mem::take(&mut job.batch), views: std::mem::take(&mut job.views) }
    }

    /// The rows that detectors of a view get; `None` if there are none.
    pub(super) fn of_view(&self, view: &View) -> Option<&Batch> {
        if view.is_of_ticks() {
            return Some(&self.ticks);
        }
        let rows = self.views.iter().find(|rows| *rows.view == *view)?;
        (!rows.batch.is_empty()).then_some(&rows.batch)
    }
}

impl<'a> Names<'a> {
    /// The names that a detector is introduced to.
    pub(super) fn of(self, spec: &'a DetectorSpec) -> impl Iterator<Item = &'a (u32, Arc<str>)> {
        let members = if spec.view().has_groups() { self.members } else { &[] };
        let owners = self.owners.iter().filter(|(_, name)| owns(spec, name));
        owners.chain(members.iter().filter(|(_, name)| spec.wants(name)))
    }

    /// The symbols whose rows a detector may get.
    pub(super) fn symbols(self, spec: &DetectorSpec) -> &'a [(u32, Arc<str>)] {
        if spec.view().has_groups() { self.members } else { self.owners }
    }
}

/// Whether a detector has a state for what is interned under this name.
pub(super) fn owns(spec: &DetectorSpec, name: &str) -> bool {
    let view = spec.view();
    if view.scope == Scope::Symbol { !name.starts_with(GROUP_MARK) && spec.wants(name) } else { has_group(view, name) }
}

/// The owners whose states the rows of a batch are for.
pub(super) fn owners(batch: &Batch) -> &[u32] {
    if batch.group.is_empty() { &batch.symbol } else { &batch.group }
}
