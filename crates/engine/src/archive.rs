//! Ticks from before the stream, which a warm-up shows first. The engine knows no files: whoever starts it passes a reader.

use tickhound_core::event::{Entries, EntryId};

/// The part of an archive that a warm-up needs.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveSpan {
    /// When the oldest tick arrived that is wanted, ms since the Unix epoch.
    pub from_ms: u64,
    /// The oldest entry of the stream. Ticks that have no entry ids can't be told from those of the stream, so they are only
    /// wanted from before it.
    pub stream_from: EntryId,
}

/// Where ticks from before the stream are.
pub trait Archive: Send + Sync + 'static {
    /// When the newest day ends of which there are any, ms since the Unix epoch; `None` if there are none.
    fn end_ms(&self) -> Option<u64>;

    /// Opens a part. It may be large, and is read on a thread of its own.
    fn open(&self, span: ArchiveSpan) -> Box<dyn ArchiveReader>;
}

/// Reads a part of an archive.
pub trait ArchiveReader {
    /// Reads at most `count` further entries, undecoded, in the order of their ids; fewer if they are large. None are left if
    /// the result is empty. What can't be read is left out, and logged.
    fn read(&mut self, count: usize) -> Entries;
}
