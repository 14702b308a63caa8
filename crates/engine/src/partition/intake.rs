//! Sizes reads, so that what is between read and commit is limited in bytes as well as in entries.
//!
//! The server counts entries and does not report their sizes. So reads are sized by the sizes of recent entries, and begin
//! small, at the start and after a failure, which may be due to their size.
//!
//! What holds: entries of a known size exceed the limits by at most one entry. Entries that are suddenly larger exceed
//! them only with the read that shows it, and a stream gives up a read of several entries that are far larger than a read
//! should be (`StreamError::TooLarge`). A recovery begins again after a failure, with the same reads, so each failure
//! makes its pages smaller: it gets past any entries that can be read one by one.

use tickhound_core::event::Entries;

/// The most bytes of entries between read and commit: far more than the default backlog of 2,000 entries with some
/// hundred bytes, and little beside what a host needs anyway.
const IN_FLIGHT_BYTES: usize = 64 << 20;

/// The most bytes of entries in one read, and in one commit. For a moment a read is in memory three times: as it was
/// received, as entries, and as dead letters if it can't be decoded.
const STEP_BYTES: usize = 16 << 20;

/// The assumed size of an entry before the first one: the first read has eight entries.
const FIRST_ENTRY_BYTES: usize = STEP_BYTES / 8;

/// The largest factor by which a read may reduce the size that is assumed of an entry. Three reads get from the first
/// assumption to the size of ticks.
const SHRINK_MAX: usize = 16;

/// The share of its entries that a page keeps after it could not be read. A recovery restores all states again after each
/// failure, so few failures should lead from the largest page to a single entry.
const PAGE_KEPT_SHARE: usize = 4;

/// The sizes of reads.
#[derive(Debug)]
pub(super) struct Intake {
    /// The assumed size of an entry in bytes.
    entry_bytes: usize,
    /// The most entries in a page, since a larger page could not be read.
    page_max: usize,
    /// The size of the last page that was asked for, until it is read; 0 if there is none.
    asked: usize,
}

impl Default for Intake {
    fn default() -> Self {
        Self { entry_bytes: FIRST_ENTRY_BYTES, page_max: usize::MAX, asked: 0 }
    }
}

impl Intake {
    /// The most entries to read while so many bytes are in flight: at least one if there are none, however large it is.
    pub(super) fn room(&self, in_flight_bytes: usize) -> usize {
        let free = IN_FLIGHT_BYTES.saturating_sub(in_flight_bytes).min(STEP_BYTES);
        (free / self.entry_bytes).max(usize::from(in_flight_bytes == 0))
    }

    /// The most entries to read at once in a replay or a warm-up, up to `most`.
    pub(super) fn page(&mut self, most: usize) -> usize {
        self.asked = self.room(0).min(most).min(self.page_max);
        self.asked
    }

    /// Notes the sizes of entries that were read.
    pub(super) fn note(&mut self, entries: &Entries) {
        self.asked = 0;
        if !entries.is_empty() {
            let average = entries.bytes() / entries.len();
            self.entry_bytes = average.max(self.entry_bytes / SHRINK_MAX).max(1);
        }
    }

    /// Begins with a single entry again, since a read has failed, perhaps because of its size. If it was a page, pages are
    /// smaller until [`Intake::lift_page_limit`].
    pub(super) fn begin_small(&mut self) {
        self.entry_bytes = STEP_BYTES;
        if self.asked > 0 {
            self.page_max = (self.asked / PAGE_KEPT_SHARE).max(1);
            self.asked = 0;
        }
    }

    /// Allows pages of any size again, since what could not be read is passed.
    pub(super) fn lift_page_limit(&mut self) {
        self.page_max = usize::MAX;
    }

    /// Whether a commit with so many bytes of entries is full.
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
        assert_eq!(reads, [8], "the size of the first read was not expected");
        assert_eq!([0, LARGE, 4 * LARGE, 6 * LARGE].map(|bytes| intake.room(bytes)), [1, 1, 1, 0]);
    }

    #[test]
    fn after_a_failure_one_entry_is_read_and_soon_many() {
        let mut intake = Intake::default();
        intake.begin_small();
        let mut reads = Vec::new();
        for _ in 0..5 {
            let count = intake.room(0);
            intake.note(&entries(count.min(500), 300));
            reads.push(count);
        }
        assert_eq!(reads[..3], [1, 16, 256]);
        assert!(reads[4] > 10_000, "{reads:?}");
    }

    /// The failures of a recovery, each with the size of its page, if so many entries can be read at once.
    fn failures(readable: usize) -> Vec<usize> {
        let (mut intake, mut failures) = (Intake::default(), Vec::new());
        'recovery: loop {
            for _ in 0..10 {
                let page = intake.page(2000);
                if page > readable {
                    intake.begin_small();
                    failures.push(page);
                    continue 'recovery;
                }
                intake.note(&entries(page, 300));
            }
            return failures;
        }
    }

    /// A recovery that failed at a page began again with the same pages, and failed at the same one, for ever.
    #[test]
    fn a_recovery_gets_past_entries_that_can_be_read_one_by_one() {
        assert_eq!(
            [2000, 300, 100, 1].map(failures),
            [vec![], vec![2000, 500], vec![128], vec![8, 2]],
            "few failures, however few entries can be read at once"
        );
    }

    #[test]
    fn pages_are_large_again_after_a_recovery_and_only_failed_pages_make_them_small() {
        let mut intake = Intake::default();
        assert_eq!(intake.page(2000), 8);
        intake.begin_small();
        assert_eq!(intake.page_max, 2);
        intake.lift_page_limit();
        for _ in 0..4 {
            intake.note(&entries(8, 300));
        }
        intake.begin_small();
        assert_eq!((intake.page(2000), intake.page_max), (1, usize::MAX));
    }

    #[test]
    fn an_entry_larger_than_all_limits_is_read_alone() {
        let mut intake = Intake::default();
        intake.note(&entries(1, 2 * IN_FLIGHT_BYTES));
        assert_eq!((intake.room(0), intake.room(1), intake.page(1000)), (1, 0, 1));
    }

    #[test]
    fn an_empty_read_changes_nothing() {
        let mut intake = Intake::default();
        intake.note(&Entries::default());
        assert_eq!(intake.room(0), 8);
        let mut decoded = Entries::default();
        decoded.push_entry(EntryId::ZERO);
        (0..10).for_each(|_| intake.note(&decoded));
        assert_eq!(intake.room(0), STEP_BYTES, "entries that were decoded where they were read have no bytes");
    }
}
