//! The symbols and groups that a guest knows.

/// What an id was introduced as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Unknown,
    Symbol,
    Group,
}

/// The symbols and groups that were introduced to a guest, by their ids.
#[derive(Debug, Default)]
pub(super) struct Introduced {
    by_id: Vec<Kind>,
    count: usize,
}

impl Introduced {
    pub(super) fn add_symbol(&mut self, id: u32) {
        self.add(id, Kind::Symbol);
    }

    pub(super) fn add_group(&mut self, id: u32) {
        self.add(id, Kind::Group);
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.kind(id) != Kind::Unknown
    }

    pub(super) fn is_symbol(&self, id: u32) -> bool {
        self.kind(id) == Kind::Symbol
    }

    pub(super) fn is_group(&self, id: u32) -> bool {
        self.kind(id) == Kind::Group
    }

    /// Returns the number of symbols and groups.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn kind(&self, id: u32) -> Kind {
        self.by_id.get(id as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, id: u32, kind: Kind) {
        let index = id as usize;
        self.by_id.resize(self.by_id.len().max(index + 1), Kind::Unknown);
        self.count += usize::from(self.by_id[index] == Kind::Unknown);
        self.by_id[index] = kind;
    }
}
