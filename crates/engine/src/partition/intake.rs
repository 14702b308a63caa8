//! How many entries to read at once, so that what is between read and commit has an end in bytes as well.
//!
//! The server counts entries, and does not tell how large they are. So reads are sized by what entries were of late, and
//! begin small. What holds: entries of a size that is known never exceed the limits by more than one entry; those that
//! are suddenly larger exceed them with the one read that shows it.

use tickhound_core::event::Entries;

/// Most bytes of entries between read and commit: far more than the default backlog of ticks (2,000 entries of some
/// hundred bytes), and little beside what a host needs anyway.
const IN_FLIGHT_BYTES: usize = 64 << 20;

/// Most bytes of entries in one read, and in one commit. A read is held three times for a moment: as it was received, as
/// entries, and in dead letters if it can't be decoded.
const STEP_BYTES: usize = 16 << 20;

/// An entry is taken to be as large as this before one was seen: the first read is one of eight entries.
const FIRST_ENTRY_BYTES: usize = STEP_BYTES / 8;

/// How much smaller than the read before a read may make entries look. Three reads get from the first guess to ticks.
const SHRINKS: usize = 16;

/// Sizes reads.
#[derive(Debug)]
pub(super) struct Intake {
    /// Bytes of an entry, as far as is known.
    entry_bytes: usize,
}

impl Default for Intake {
    fn default() -> Self {
        Self { entry_bytes: FIRST_ENTRY_BYTES }
    }
}

impl Intake {
    /// Most entries to read when so many bytes are in flight. At least one if there are none, however large it is.
    pub(super) fn room(&self, in_flight_bytes: usize) -> usize {
        let free = IN_FLIGHT_BYTES.saturating_sub(in_flight_bytes).min(STEP_BYTES);
        (free / self.entry_bytes).max(usize::from(in_flight_bytes == 0))
    }

    /// Most entries to read of what was processed before, which is not kept.
    pub(super) fn page(&self, most: usize) -> usize {
        self.room(0).min(most)
    }

    /// Takes note of how large entries are.
    pub(super) fn note(&mut self, entries: &Entries) {
        if !entries.is_empty() {
            let average = entries.bytes() / entries.len();
            self.entry_bytes = average.max(self.entry_bytes / SHRINKS).max(1);
        }
    }

    /// Whether a commit of so many bytes of entries is not to have more.
    pub(super) fn is_full(commit_bytes: usize) -> bool {
        commit_bytes >= STEP_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::EntryId;

    fn entries(count: usize, bytes: usize) -> Entries {
        let (mut entries, value) = (Entries::default(), vec![b'x'; bytes]);
        for seq in 0..count as u64 {
            entries.push_entry(EntryId { millis: 1, seq });
            entries.push_field(b"", &value);
        }
        entries
    }

    #[test]
    fn reads_of_ticks_are_bounded_by_count_alone_after_three() {
        let mut intake = Intake::default();
        assert_eq!(intake.room(0), 8);
        for _ in 0..3 {
            intake.note(&entries(8, 300));
        }
        assert!(intake.room(0) > 10_000, "{}", intake.room(0));
        assert!(intake.room(IN_FLIGHT_BYTES / 2) > 10_000);
    }

    #[test]
    fn large_entries_are_read_few_at_a_time_and_wait_while_much_is_in_flight() {
        const LARGE: usize = 10 << 20;
        let mut intake = Intake::default();
        let (mut in_flight, mut reads) = (0, Vec::new());
        while let count @ 1.. = intake.room(in_flight) {
            intake.note(&entries(count, LARGE));
            in_flight += count * LARGE;
            reads.push(count);
        }
        assert_eq!(reads, [8], "what was read first was unexpected");
        assert_eq!([0, LARGE, 4 * LARGE, 6 * LARGE].map(|bytes| intake.room(bytes)), [1, 1, 1, 0]);
    }

    #[test]
    fn an_entry_larger_than_all_limits_is_read_alone() {
        let mut intake = Intake::default();
        intake.note(&entries(1, 2 * IN_FLIGHT_BYTES));
        assert_eq!((intake.room(0), intake.room(1), intake.page(1000)), (1, 0, 1));
    }

    #[test]
    fn an_empty_read_tells_nothing() {
        let mut intake = Intake::default();
        intake.note(&Entries::default());
        assert_eq!(intake.room(0), 8);
        let mut decoded = Entries::default();
        decoded.push_entry(EntryId::ZERO);
        (0..10).for_each(|_| intake.note(&decoded));
        assert_eq!(intake.room(0), STEP_BYTES, "entries that were decoded where they were read have no bytes");
    }
}
