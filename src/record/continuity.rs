//! Where a recording is in its stream, and what it lacks: from the pages that were read, without I/O.
//!
//! What holds: an entry is recorded once, in the order of the stream, also when the server comes back with older data. What
//! was removed from the stream before it was read is a hole, and each hole is reported once.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use tickhound_core::event::{Entry, EntryId};
use tickhound_recorded::day_file::{EntryMark, KNOWN_MAX, OpenedDay, RecordedUpTo};
use tickhound_redis::TailPage;

/// How far the recording is in the stream, and what it knows of the entries before.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    /// The entry after which the next page is read.
    cursor: EntryId,
    /// The number of that entry among all that were ever added; `None` if it is not known.
    index: Option<u64>,
    /// Whether anything was recorded: what was removed before the first entry is no hole.
    has_begun: bool,
    /// The newest recorded entries.
    known: VecDeque<EntryMark>,
    rejoin: Option<Rejoin>,
}

/// The stream went back, and is read from its beginning: its older entries may be recorded already.
#[derive(Debug)]
struct Rejoin {
    /// The newest entry that was recorded before.
    from: EntryId,
    known: HashSet<EntryMark>,
    /// Whether the stream has one of the known entries, so that nothing is missing between these and the next ones.
    met_known: bool,
    /// Whether the stream was read to its end once. Until the ids pass those from before, a producer may still send again
    /// what the server lost.
    is_caught_up: bool,
}

/// Entries that are missing in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hole {
    /// The last entry before the hole, in milliseconds and number.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub(crate) after: EntryId,
    /// The first entry behind it.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub(crate) before: EntryId,
    /// How many entries are missing; `None` if the server can't say.
    pub(crate) entries: Option<u64>,
    /// Why.
    pub(crate) cause: HoleCause,
}

/// Why entries are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HoleCause {
    /// They were trimmed or deleted before they were read.
    Trimmed,
    /// The stream was deleted and created again, or the server lost its data.
    StreamReplaced,
    /// An entry was too large for a line.
    TooLarge,
}

/// What a page means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PageOutcome {
    /// Its entries are to be recorded, as far as [`Continuity::admit`] admits them. The first has this number.
    Entries {
        first_index: Option<u64>,
        /// What is missing before or among them.
        holes: Vec<Hole>,
    },
    /// The stream went back behind what was recorded, up to this entry: it is to be read again from its beginning.
    WentBack {
        /// The newest entry of the stream; `None` if there is no stream.
        to: Option<EntryId>,
    },
}

impl Continuity {
    /// Continues where the files end.
    pub(super) fn resume(opened: OpenedDay) -> Self {
        let OpenedDay { last, known, .. } = opened;
        let RecordedUpTo { id, index } = last.unwrap_or(RecordedUpTo { id: EntryId::ZERO, index: None });
        Self { cursor: id, index, has_begun: last.is_some(), known: known.into(), rejoin: None }
    }

    /// The entry after which the next page is to be read.
    pub(super) fn cursor(&self) -> EntryId {
        self.cursor
    }

    /// Judges a page that was read after [`Self::cursor`], with at most `asked` entries.
    pub(super) fn judge(&mut self, page: &TailPage, asked: usize) -> PageOutcome {
        let added = page.extent.map(|extent| extent.added);
        let is_behind = page.newest.unwrap_or_default() < self.cursor
            || added.zip(self.index).is_some_and(|(added, index)| added < index);
        if is_behind {
            let cursor = std::mem::take(&mut self.cursor);
            // Of several times in a row, the first one knows how far the recording is.
            let from = self.rejoin.take().filter(|rejoin| !rejoin.is_caught_up).map_or(cursor, |rejoin| rejoin.from);
            let known = self.known.iter().copied().collect();
            self.rejoin = Some(Rejoin { from, known, met_known: false, is_caught_up: false });
            self.index = None;
            return PageOutcome::WentBack { to: page.newest };
        }
        let first = page.entries.first();
        let is_end = page.entries.len() < asked;
        let mut holes = Vec::new();
        let may_lack = self.has_begun && self.rejoin.as_ref().is_none_or(|rejoin| rejoin.is_caught_up);
        let hole = |before: Option<EntryId>, entries| Hole {
            after: self.cursor,
            before: before.or(page.newest).unwrap_or_default(),
            entries,
            cause: HoleCause::Trimmed,
        };
        let first_index = match page.extent {
            Some(extent) => {
                if let Some(index) = self.index.filter(|index| may_lack && extent.removed > *index) {
                    holes.push(hole(first, Some(extent.removed - index)));
                } else if self.index.is_none() && may_lack && page.oldest.is_none_or(|oldest| oldest > self.cursor) {
                    holes.extend(first.map(|first| hole(Some(first), None)));
                }
                let is_whole = self.index.is_some() || page.oldest.is_none_or(|oldest| oldest > self.cursor);
                let before = is_whole.then(|| self.index.unwrap_or(0).max(extent.removed));
                let after = before.map(|before| before + page.entries.len() as u64);
                // Entries that were deleted from the middle show once all others are read.
                if let Some(after) = after.filter(|after| is_end && may_lack && *after < extent.added) {
                    holes.push(hole(page.newest, Some(extent.added - after)));
                }
                self.index = if is_end { Some(extent.added) } else { after };
                before.map(|before| before + 1)
            }
            None => {
                let is_missing = may_lack && page.oldest.is_some_and(|oldest| oldest > self.cursor);
                holes.extend(first.filter(|_| is_missing).map(|first| hole(Some(first), None)));
                self.index = None;
                None
            }
        };
        self.cursor = page.entries.last().unwrap_or(self.cursor);
        self.has_begun |= first.is_some();
        PageOutcome::Entries { first_index, holes }
    }

    /// Whether an entry of the page is to be recorded, with the hole before it. One that is known already is not.
    pub(super) fn admit(&mut self, entry: &Entry<'_>) -> (bool, Option<Hole>) {
        let mark = EntryMark::of(entry);
        let mut found = None;
        if let Some(Rejoin { from, known, met_known, .. }) = &mut self.rejoin {
            if known.contains(&mark) {
                *met_known = true;
                return (false, None);
            }
            if !*met_known {
                // What the stream lost between both, nobody knows.
                *met_known = true;
                let (after, before) = (*from, entry.id);
                found = Some(Hole { after, before, entries: None, cause: HoleCause::StreamReplaced });
            }
        }
        if self.known.len() == KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(mark);
        (true, found)
    }

    /// Notes that the stream was read to its end.
    pub(super) fn caught_up(&mut self) {
        if let Some(rejoin) = self.rejoin.as_mut() {
            rejoin.is_caught_up = true;
        }
        self.rejoin.take_if(|rejoin| self.cursor > rejoin.from);
    }
}

fn as_text<S: serde::Serializer>(id: &EntryId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<EntryId, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use tickhound_core::{event::Entries, stream::Extent};

    use super::*;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, seq: 0 }
    }

    fn entries(ids: impl IntoIterator<Item = u64>) -> Entries {
        let mut entries = Entries::default();
        for millis in ids {
            entries.push_entry(id(millis));
            entries.push_field(b"n", millis.to_string().as_bytes());
        }
        entries
    }

    /// A stream that holds the entries `held` of all that were ever `added`, read after the cursor.
    fn page(continuity: &Continuity, added: u64, held: std::ops::RangeInclusive<u64>, asked: usize) -> TailPage {
        let (first, last) = (*held.start(), *held.end());
        let after = continuity.cursor().millis;
        let length = held.clone().count() as u64;
        TailPage {
            entries: entries(held.filter(|id| *id > after).take(asked)),
            newest: Some(id(last)),
            oldest: (length > 0).then(|| id(first)),
            extent: Some(Extent { added, removed: added - length, alone: true }),
        }
    }

    fn record(continuity: &mut Continuity, page: &TailPage, asked: usize) -> (Vec<u64>, Vec<Hole>) {
        let PageOutcome::Entries { mut holes, .. } = continuity.judge(page, asked) else { panic!("it went back") };
        let mut recorded = Vec::new();
        for entry in page.entries.iter() {
            let (is_new, hole) = continuity.admit(&entry);
            holes.extend(hole);
            recorded.extend(is_new.then_some(entry.id.millis));
        }
        if page.entries.len() < asked {
            continuity.caught_up();
        }
        (recorded, holes)
    }

    fn trimmed(after: u64, before: u64, entries: Option<u64>) -> Hole {
        Hole { after: id(after), before: id(before), entries, cause: HoleCause::Trimmed }
    }

    #[test]
    fn what_is_trimmed_before_the_first_entry_is_no_hole_and_after_it_is_one() {
        let mut continuity = Continuity::default();
        let first = page(&continuity, 100, 91..=100, 4);
        assert_eq!(record(&mut continuity, &first, 4), ((91..=94).collect(), vec![]));
        // While that was written, 95 to 97 were trimmed.
        let next = page(&continuity, 105, 98..=105, 4);
        assert_eq!(record(&mut continuity, &next, 4), ((98..=101).collect(), vec![trimmed(94, 98, Some(3))]));
        let rest = page(&continuity, 105, 98..=105, 10);
        assert_eq!(record(&mut continuity, &rest, 10), ((102..=105).collect(), vec![]));
        let none = page(&continuity, 105, 98..=105, 10);
        assert_eq!(record(&mut continuity, &none, 10), (vec![], vec![]));
    }

    #[test]
    fn entries_that_are_trimmed_until_none_is_left_are_a_hole_that_is_reported_once() {
        let mut continuity = Continuity::default();
        let first = page(&continuity, 3, 1..=3, 10);
        record(&mut continuity, &first, 10);
        let empty = TailPage {
            newest: Some(id(8)),
            extent: Some(Extent { added: 8, removed: 8, alone: true }),
            ..TailPage::default()
        };
        assert_eq!(record(&mut continuity, &empty, 10), (vec![], vec![trimmed(3, 8, Some(5))]));
        assert_eq!(record(&mut continuity, &empty, 10), (vec![], vec![]));
        let next = page(&continuity, 9, 9..=9, 10);
        assert_eq!(record(&mut continuity, &next, 10), (vec![9], vec![]));
    }

    /// A recorder that starts again knows from its file how many entries there were.
    #[test]
    fn a_restart_counts_what_was_trimmed_meanwhile() {
        for (index, expected) in [(Some(40), Some(10)), (None, None)] {
            let last = Some(RecordedUpTo { id: id(40), index });
            let mut continuity = Continuity::resume(OpenedDay { last, ..OpenedDay::default() });
            let next = page(&continuity, 60, 51..=60, 100);
            assert_eq!(record(&mut continuity, &next, 100), ((51..=60).collect(), vec![trimmed(40, 51, expected)]));
        }
        let last = Some(RecordedUpTo { id: id(55), index: None });
        let mut continuity = Continuity::resume(OpenedDay { last, ..OpenedDay::default() });
        let next = page(&continuity, 60, 51..=60, 100);
        assert_eq!(record(&mut continuity, &next, 100), ((56..=60).collect(), vec![]), "nothing is missing");
    }

    #[test]
    fn entries_deleted_from_the_middle_are_a_hole_once_the_others_are_read() {
        let mut continuity = Continuity::default();
        let first = page(&continuity, 3, 1..=3, 10);
        record(&mut continuity, &first, 10);
        let mut gap = page(&continuity, 8, 1..=8, 10);
        gap.entries = entries([4, 7, 8]);
        gap.extent = Some(Extent { added: 8, removed: 2, alone: true });
        assert_eq!(record(&mut continuity, &gap, 10), (vec![4, 7, 8], vec![trimmed(3, 8, Some(2))]));
        // Recorded entries may be deleted.
        let mut deleted = page(&continuity, 9, 9..=9, 10);
        deleted.extent = Some(Extent { added: 9, removed: 8, alone: true });
        assert_eq!(record(&mut continuity, &deleted, 10), (vec![9], vec![]));
    }

    /// After a failover, the server lacks the last entries; new ones follow.
    #[test]
    fn a_server_with_older_data_causes_no_entry_twice() {
        let mut continuity = Continuity::default();
        let first = page(&continuity, 20, 1..=20, 100);
        record(&mut continuity, &first, 100);
        let older = page(&continuity, 15, 6..=15, 100);
        assert_eq!(continuity.judge(&older, 100), PageOutcome::WentBack { to: Some(id(15)) });
        let again = page(&continuity, 15, 6..=15, 100);
        assert_eq!(record(&mut continuity, &again, 100), (vec![], vec![]));
        // A producer sends one of the lost entries again, and another entry has the id of one.
        let mut new = page(&continuity, 18, 6..=18, 100);
        new.entries = entries([16]);
        new.entries.push_entry(id(17));
        new.entries.push_field(b"n", b"another");
        new.entries.push_entry(id(18));
        assert_eq!(record(&mut continuity, &new, 100), (vec![17, 18], vec![]));
    }

    /// The ids of the new stream go on rising, so that only its count of entries shows that it is another one.
    #[test]
    fn a_stream_that_was_created_again_is_a_hole_of_unknown_size() {
        let mut continuity = Continuity::default();
        let first = page(&continuity, 20, 1..=20, 100);
        record(&mut continuity, &first, 100);
        let new = page(&continuity, 5, 31..=35, 100);
        assert_eq!(continuity.judge(&new, 100), PageOutcome::WentBack { to: Some(id(35)) });
        let again = page(&continuity, 5, 31..=35, 3);
        let replaced = Hole { after: id(20), before: id(31), entries: None, cause: HoleCause::StreamReplaced };
        assert_eq!(record(&mut continuity, &again, 3), (vec![31, 32, 33], vec![replaced]));
        let rest = page(&continuity, 5, 31..=35, 3);
        assert_eq!(record(&mut continuity, &rest, 3), (vec![34, 35], vec![]));
        // And if there is none any more.
        assert_eq!(continuity.judge(&TailPage::default(), 3), PageOutcome::WentBack { to: None });
        assert_eq!(record(&mut continuity, &TailPage::default(), 3), (vec![], vec![]));
    }

    /// Redis 6.2 does not report how many entries were added.
    #[test]
    fn without_counts_a_hole_is_known_by_the_oldest_entry() {
        let mut continuity = Continuity::default();
        let without = |mut page: TailPage| {
            page.extent = None;
            page
        };
        let first = without(page(&continuity, 20, 11..=20, 100));
        assert_eq!(record(&mut continuity, &first, 100), ((11..=20).collect(), vec![]));
        let next = without(page(&continuity, 25, 16..=25, 100));
        assert_eq!(record(&mut continuity, &next, 100), ((21..=25).collect(), vec![]));
        let trimmed_away = without(page(&continuity, 40, 31..=40, 100));
        assert_eq!(record(&mut continuity, &trimmed_away, 100), ((31..=40).collect(), vec![trimmed(25, 31, None)]));
    }
}
