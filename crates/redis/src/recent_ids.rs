//! The ids of the newest alerts, to recognize those that are published a second time.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// A bounded set of alert ids that forgets the oldest one first. It may remember a value with each id, such as the
/// position of the alert.
#[derive(Debug)]
pub struct RecentIds<T = ()> {
    limit: usize,
    order: VecDeque<(Arc<str>, T)>,
    ids: HashSet<Arc<str>>,
}

impl<T> RecentIds<T> {
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

    /// Adds an id with its value; returns false, and keeps the value of before, if the set holds the id already.
    pub fn insert_with(&mut self, id: &str, value: T) -> bool {
        let id: Arc<str> = id.into();
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back((id, value));
        if self.order.len() > self.limit
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }

    /// The value of the oldest id in the set.
    pub fn oldest(&self) -> Option<&T> {
        self.order.front().map(|(_, value)| value)
    }
}

impl RecentIds {
    /// Adds an id; returns false if the set holds it already.
    pub fn insert(&mut self, id: &str) -> bool {
        self.insert_with(id, ())
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

    #[test]
    fn a_value_is_remembered_as_long_as_its_id() {
        let mut recent = RecentIds::new(2);
        assert_eq!(recent.oldest(), None);
        assert_eq!(
            [("a", 1), ("b", 2), ("a", 3)].map(|(id, value)| recent.insert_with(id, value)),
            [true, true, false]
        );
        assert_eq!(recent.oldest(), Some(&1), "the value of before");
        recent.insert_with("c", 4);
        assert_eq!(recent.oldest(), Some(&2));
    }
}
