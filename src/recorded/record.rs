//! One entry on its way to the stream, or out of a recording.

use crate::event::{Entry, EntryId};

/// Fields of an entry, their bytes in one buffer that is kept from tick to tick.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// When it happened, ns since the Unix epoch in whatever zone the file is in: for order and pace alone.
    pub(crate) time: Option<i64>,
    /// Its id, if it comes from a stream.
    pub(crate) id: Option<EntryId>,
    bytes: Vec<u8>,
    /// Where the name and the value of each field end.
    ends: Vec<(usize, usize)>,
}

impl Record {
    pub(crate) fn clear(&mut self) {
        (self.time, self.id) = (None, None);
        self.bytes.clear();
        self.ends.clear();
    }

    /// Becomes the entry.
    pub(crate) fn copy(&mut self, entry: &Entry<'_>) {
        self.clear();
        self.id = Some(entry.id);
        self.time = i64::try_from(entry.id.millis).ok().map(|millis| millis * 1_000_000);
        entry.fields().for_each(|(name, value)| self.put(name, value));
    }

    pub(crate) fn put(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let field = (&self.bytes[start..*middle], &self.bytes[*middle..*end]);
            start = *end;
            field
        })
    }
}
