//! Ids of the alerts at the end of a file, which recognise alerts that are published a second time.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// The alerts of some minutes of the busiest market: more than a failover loses.
const KNOWN_MAX: usize = 50_000;

/// The newest ids of a file.
#[derive(Debug, Default)]
pub(super) struct KnownIds {
    order: VecDeque<Arc<str>>,
    ids: HashSet<Arc<str>>,
}

impl KnownIds {
    /// Whether `id` is one of them.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds `id`; returns `false` if it is known already.
    pub(super) fn insert(&mut self, id: &str) -> bool {
        let id: Arc<str> = id.into();
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
