//! The ids of the newest alerts, to recognize those that are published a second time.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// A bounded set of alert ids that forgets the oldest one first.
#[derive(Debug)]
pub struct RecentIds {
    limit: usize,
    order: VecDeque<Arc<str>>,
    ids: HashSet<Arc<str>>,
}

impl RecentIds {
    /// Creates an empty set that holds at most `limit` ids.
    pub fn new(limit: usize) -> Self {
        Self { limit, order: VecDeque::new(), ids: HashSet::new() }
    }

    /// Whether the set holds this id.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// Whether the set holds no id.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Adds an id; returns false if the set holds it already.
    pub fn insert(&mut self, id: &str) -> bool {
        let id: Arc<str> = id.into();
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_for_a_while() {
        const LIMIT: usize = 10_000;
        let mut recent = RecentIds::new(LIMIT);
        (0..LIMIT + 5).for_each(|number| assert!(recent.insert(&number.to_string())));
        assert!(!recent.insert("9"));
        assert_eq!(["4", "5", "9"].map(|id| recent.contains(id)), [false, true, true]);
        assert_eq!((recent.ids.len(), recent.order.len()), (LIMIT, LIMIT));
    }
}
