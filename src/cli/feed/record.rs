//! One entry on its way to the stream.

/// Fields of an entry, their bytes in one buffer that is kept from tick to tick.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// When it happened, ns since the Unix epoch in whatever zone the file is in: for order and pace alone.
    pub(super) time: Option<i64>,
    bytes: Vec<u8>,
    /// Where the name and the value of each field end.
    ends: Vec<(usize, usize)>,
}

impl Record {
    pub(super) fn clear(&mut self) {
        self.time = None;
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn put(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((middle, self.bytes.len()));
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let field = (&self.bytes[start..*middle], &self.bytes[*middle..*end]);
            start = *end;
            field
        })
    }
}
