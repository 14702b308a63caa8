//! A day file: the entries of a stream that arrived on one day, as lines of JSON, compressed by zstd.
//!
//! It begins with a frame that decoders skip, which names the stream. The lines follow in frames of their own, and behind each
//! of them is one more skipped frame, the *mark*, with the position that the recording has reached. So the file is a usual
//! zstd file from its first line on, while it is written and after a kill, and its last mark says where to continue.
//!
//! What holds: frame and mark are appended by one write. What a killed writer or a full disk has left of one is cut off
//! before anything else is written, so a file has whole lines only, each entry once and in the order of the stream.

use std::{
    fs::{File, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use rustc_hash::FxHasher;
use serde_json::json;

use crate::{
    entry_line::{self, EntryTooLarge},
    record::Record,
};
use tickhound_core::event::{Entry, EntryId};

/// The ending of a day file's name, behind its date.
pub const ENDING: &str = ".jsonl.zst";

/// The magic number of the skipped frames: one of the sixteen that zstd has for users.
const SKIPPED: [u8; 4] = [0x5e, 0x2a, 0x4d, 0x18];

/// The magic number of a frame with data.
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// How the head of a file begins, behind the magic number and the length.
const HEAD: &[u8] = b"tickhound day file 1\n";

/// How a mark begins, behind the magic number and the length.
const MARK: &[u8] = b"tickhound mark\n";

/// The numbers of a mark: the length of the frame before it, id (two), index, and the checksum of all this.
const MARK_NUMBERS: usize = 5;

/// The bytes of a mark.
const MARK_BYTES: usize = 8 + MARK.len() + 8 * MARK_NUMBERS;

/// The longest head. The key of a stream may be long, but not this long.
const HEAD_MAX: usize = 64 << 10;

/// How hard to compress: a usual feed shrinks to a tenth, at some hundred megabytes of lines a second.
const LEVEL: i32 = 3;

/// From this many bytes of lines on, a frame is full. Larger ones compress hardly better, and are read again whole.
pub const FRAME_BYTES: usize = 1 << 20;

/// How much of the end of a file is searched for its last mark: the largest frame, which has one line of 4 MiB behind nearly
/// `FRAME_BYTES` of others, does not compress at all, and is torn; and the one before it.
const TAIL_BYTES: u64 = 16 << 20;

/// How many of the newest entries a recorder knows again. A failover of the server takes back some thousand.
pub const KNOWN_MAX: usize = 100_000;

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedUpTo {
    /// The last entry.
    pub id: EntryId,
    /// Its number among all entries that were ever added to the stream, if that is known.
    pub index: Option<u64>,
}

/// Identifies an entry with its content: after a failover, another one may have its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryMark {
    /// The id.
    pub id: EntryId,
    hash: u64,
}

/// The lines of the next frame.
#[derive(Debug, Default)]
pub struct PendingFrame {
    lines: Vec<u8>,
    entries: u64,
    last: Option<RecordedUpTo>,
}

/// A file that this process writes.
#[derive(Debug)]
pub struct DayFile {
    file: File,
    /// The length up to the last mark.
    length: u64,
}

/// What a file had when it was opened.
#[derive(Debug, Default)]
pub struct OpenedDay {
    /// How far its entries go; `None` if it has none.
    pub last: Option<RecordedUpTo>,
    /// Its newest entries, the oldest of them first.
    pub known: Vec<EntryMark>,
    /// The bytes that were cut off its end.
    pub torn_bytes: u64,
}

impl EntryMark {
    /// The mark of an entry.
    pub fn of(entry: &Entry<'_>) -> Self {
        Self::new(entry.id, entry.fields())
    }

    fn new<'a>(id: EntryId, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut hasher = FxHasher::default();
        fields.for_each(|field| field.hash(&mut hasher));
        Self { id, hash: hasher.finish() }
    }
}

impl PendingFrame {
    /// Adds an entry; `index` is its number among all that were ever added, if that is known.
    ///
    /// # Errors
    /// The entry is too large. It counts as passed nevertheless.
    pub fn push(&mut self, entry: &Entry<'_>, index: Option<u64>) -> Result<(), EntryTooLarge> {
        entry_line::write_line(&mut self.lines, entry, index)?;
        self.last = Some(RecordedUpTo { id: entry.id, index });
        self.entries += 1;
        Ok(())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether it should be written before anything is added.
    pub fn is_full(&self) -> bool {
        self.lines.len() >= FRAME_BYTES
    }

    /// The number of entries.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The last entry; `None` if there is none.
    pub fn last(&self) -> Option<RecordedUpTo> {
        self.last
    }

    /// Drops the entries, which are written.
    pub fn clear(&mut self) {
        self.lines.clear();
        (self.entries, self.last) = (0, None);
    }

    /// Compresses the lines, and adds the mark.
    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        let mut bytes = compressor.compress(&self.lines)?;
        let last = self.last.ok_or_else(|| io::Error::other("a frame without entries"))?;
        bytes.extend(encode_mark(bytes.len() as u64, last));
        Ok(bytes)
    }
}

impl DayFile {
    /// Opens a file to append to it; creates it, with the name of the stream, if it does not exist. What a killed writer has
    /// left of a frame is cut off.
    ///
    /// # Errors
    /// The file can't be written, belongs to another stream, or is no day file.
    pub fn open(path: &Path, stream: &str) -> Result<(Self, OpenedDay)> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).context("can't write it")?;
        let size = file.metadata().context("can't read its metadata")?.len();
        let head = head(stream)?;
        let found = read_at(&mut file, 0, size.min(HEAD_MAX as u64)).context("can't read it")?;
        if (found.len() as u64) == size && head.starts_with(&found) {
            // It is new, or its writer was killed before the head was whole.
            file.set_len(0).and_then(|()| file.write_all(&head)).context("can't write it")?;
            return Ok((Self { file, length: head.len() as u64 }, OpenedDay::default()));
        }
        check_head(&found, stream)?;
        let (length, opened) = find_end(&mut file, head_length(&found)? as u64, size)?;
        if length < size {
            file.set_len(length).context("can't cut off the part of a frame at its end")?;
        }
        Ok((Self { file, length }, opened))
    }

    /// Appends a frame, or nothing.
    ///
    /// # Errors
    /// The frame can't be written. It may be written again later.
    pub fn append(&mut self, frame: &PendingFrame) -> io::Result<u64> {
        let bytes = frame.encode()?;
        // Left by a write that failed, if cutting it off has failed as well.
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        if let Err(error) = self.file.write_all(&bytes) {
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }

    /// Whether the file is still the one at its path: what is written to a file without a name is lost.
    pub fn is_at(&self, path: &Path) -> bool {
        let (Ok(open), Ok(at_path)) = (self.file.metadata(), path.metadata()) else { return false };
        (open.dev(), open.ino()) == (at_path.dev(), at_path.ino())
    }

    /// Has the system write everything to the disk.
    ///
    /// # Errors
    /// The error of the system.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The length of the file.
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Whether a file is a day file, and of which stream.
///
/// # Errors
/// The file can't be read.
pub fn stream_of(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    Ok(named_stream(&read_at(&mut file, 0, size.min(HEAD_MAX as u64))?))
}

/// The head of a file of this stream.
fn head(stream: &str) -> Result<Vec<u8>> {
    let text = json!({ "stream": stream }).to_string();
    let length = HEAD.len() + text.len();
    ensure!(8 + length <= HEAD_MAX, "the key of the stream is too long to be recorded");
    let mut head = SKIPPED.to_vec();
    head.extend((length as u32).to_le_bytes());
    head.extend_from_slice(HEAD);
    head.extend_from_slice(text.as_bytes());
    Ok(head)
}

/// The length of the head with which `bytes` begin.
fn head_length(bytes: &[u8]) -> Result<usize> {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.map(|length| 8 + length as usize).context("it has no head")
}

/// The stream that the head in `bytes` names.
fn named_stream(bytes: &[u8]) -> Option<String> {
    let head = bytes.get(..head_length(bytes).ok()?)?.strip_prefix(&SKIPPED)?.get(4..)?.strip_prefix(HEAD)?;
    let head: serde_json::Value = serde_json::from_slice(head).ok()?;
    head.get("stream")?.as_str().map(str::to_owned)
}

fn check_head(bytes: &[u8], stream: &str) -> Result<()> {
    match named_stream(bytes) {
        Some(named) if named == stream => Ok(()),
        Some(named) => bail!(
            "it was recorded from the stream `{named}`, and this is `{stream}`: give each stream a folder of its own \
             (history.dir)"
        ),
        None => bail!("it was not written by `tickhound record`: move it to another folder"),
    }
}

fn encode_mark(frame: u64, last: RecordedUpTo) -> Vec<u8> {
    let mut mark = SKIPPED.to_vec();
    mark.extend(((MARK_BYTES - 8) as u32).to_le_bytes());
    mark.extend_from_slice(MARK);
    for number in [frame, last.id.millis, last.id.seq, last.index.unwrap_or(u64::MAX)] {
        mark.extend(number.to_le_bytes());
    }
    mark.extend(checksum(&mark).to_le_bytes());
    mark
}

/// The length of the frame before a mark, and the position that it notes; `None` if these bytes are not a mark.
fn decode_mark(bytes: &[u8]) -> Option<(u64, RecordedUpTo)> {
    let (numbered, sum) = bytes.get(..MARK_BYTES)?.split_at(MARK_BYTES - 8);
    let numbers = numbered.strip_prefix(&SKIPPED)?.get(4..)?.strip_prefix(MARK)?;
    let mut numbers =
        numbers.chunks_exact(8).chain([sum]).map_while(|number| Some(u64::from_le_bytes(number.try_into().ok()?)));
    let (frame, millis, seq, index) = (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?);
    let last = RecordedUpTo { id: EntryId { millis, seq }, index: Some(index).filter(|index| *index != u64::MAX) };
    (numbers.next()? == checksum(numbered)).then_some((frame, last))
}

/// FNV-1a: tells a mark from bytes that look like one, and half of one from a whole.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Finds the end of the last frame that is whole, with its mark. After a power cut, a mark may be on the disk without its
/// frame, so the frame is unpacked.
fn find_end(file: &mut File, head: u64, size: u64) -> Result<(u64, OpenedDay)> {
    let from = head.max(size.saturating_sub(TAIL_BYTES));
    let tail = read_at(file, from, size - from).context("can't read its end")?;
    let mut end = tail.len();
    let found = loop {
        let Some(at) = tail[..end].windows(4).rposition(|bytes| bytes == SKIPPED) else { break None };
        if let Some((frame, last)) = decode_mark(&tail[at..])
            && let Some(lines) = unpack(&tail[..at], frame)
        {
            break Some((at, frame, last, lines));
        }
        end = at;
    };
    let Some((at, frame, last, lines)) = found else {
        ensure!(from == head, "its last {} MiB have no whole frame; move the file to another folder", TAIL_BYTES >> 20);
        return Ok((head, OpenedDay { torn_bytes: size - head, ..OpenedDay::default() }));
    };
    let length = from + (at + MARK_BYTES) as u64;
    let mut pages = vec![marks_in(&lines)];
    let (mut known, mut end) = (pages[0].len(), at.saturating_sub(frame as usize));
    while known < KNOWN_MAX
        && let Some(before) = end.checked_sub(MARK_BYTES)
        && let Some((frame, _)) = decode_mark(&tail[before..])
        && let Some(lines) = unpack(&tail[..before], frame)
    {
        pages.push(marks_in(&lines));
        known += pages.last().map_or(0, Vec::len);
        end = before - frame as usize;
    }
    let known = pages.into_iter().rev().flatten().collect();
    Ok((length, OpenedDay { last: Some(last), known, torn_bytes: size - length }))
}

/// Unpacks the frame of this length at the end of `bytes`; `None` if it is damaged.
fn unpack(bytes: &[u8], frame: u64) -> Option<Vec<u8>> {
    let frame = &bytes[bytes.len().checked_sub(usize::try_from(frame).ok()?)?..];
    if !frame.starts_with(&FRAME) {
        return None;
    }
    let mut lines = Vec::new();
    // A frame has little more than `FRAME_BYTES`, or one line.
    let most = FRAME_BYTES as u64 + 2 * crate::RECORD_MAX;
    zstd::Decoder::with_buffer(frame).ok()?.single_frame().take(most).read_to_end(&mut lines).ok()?;
    lines.ends_with(b"\n").then_some(lines)
}

/// The entries in some lines.
fn marks_in(lines: &[u8]) -> Vec<EntryMark> {
    let mut record = Record::default();
    let marks = lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let is_entry = entry_line::read_line(line, &mut record);
        record.id.filter(|_| is_entry).map(|id| EntryMark::new(id, record.fields()))
    });
    marks.collect()
}

fn read_at(file: &mut File, from: u64, count: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(count).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tickhound_core::event::Entries;

    use super::*;
    use crate::{Files, Options};

    fn frame(ids: impl Iterator<Item = u64>) -> PendingFrame {
        let mut frame = PendingFrame::default();
        for seq in ids {
            let mut entries = Entries::default();
            entries.push_entry(EntryId { millis: 1_762_140_000_000, seq });
            entries.push_field(b"data", format!("{{\"n\":{seq}}}").as_bytes());
            frame.push(&entries.get(0).unwrap(), Some(seq + 1)).unwrap();
        }
        frame
    }

    /// The sequences of all entries, as `replay` reads them.
    fn read(path: &Path) -> Vec<u64> {
        let mut files = Files::open(&[path.to_path_buf()], &Options::default()).unwrap();
        let (mut record, mut read) = (Record::default(), Vec::new());
        while files.next(&mut record).unwrap() {
            let id = record.id.unwrap();
            assert_eq!(record.time, Some(id.millis as i64 * 1_000_000));
            let fields: Vec<(&[u8], &[u8])> = record.fields().collect();
            assert_eq!(fields, [(&b"data"[..], format!("{{\"n\":{}}}", id.seq).as_bytes())]);
            read.push(id.seq);
        }
        read
    }

    fn new_file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("2025-11-03{ENDING}"));
        (dir, path)
    }

    fn open(path: &Path) -> (DayFile, OpenedDay) {
        DayFile::open(path, "ticks").unwrap()
    }

    #[test]
    fn a_file_is_read_while_it_grows_and_continued_where_it_ends() {
        let (_dir, path) = new_file();
        let (mut file, opened) = open(&path);
        assert_eq!((opened.last, opened.known.len()), (None, 0));
        file.append(&frame(0..10)).unwrap();
        assert_eq!(read(&path), (0..10).collect::<Vec<_>>());
        file.append(&frame(10..15)).unwrap();
        drop(file);
        let (mut file, opened) = open(&path);
        let last = RecordedUpTo { id: EntryId { millis: 1_762_140_000_000, seq: 14 }, index: Some(15) };
        assert_eq!((opened.last, opened.torn_bytes), (Some(last), 0));
        let known: Vec<u64> = opened.known.iter().map(|mark| mark.id.seq).collect();
        assert_eq!(known, (0..15).collect::<Vec<_>>());
        file.append(&frame(15..16)).unwrap();
        assert_eq!(read(&path), (0..16).collect::<Vec<_>>());
        assert_eq!(stream_of(&path).unwrap().as_deref(), Some("ticks"));
    }

    /// A kill may leave any part of the last write.
    #[test]
    fn whatever_a_kill_leaves_of_a_write_is_readable_and_is_cut_off() {
        let (dir, path) = new_file();
        let (mut file, _) = open(&path);
        let mut whole = vec![0, file.length()];
        for range in [0..10, 10..20, 20..30] {
            file.append(&frame(range)).unwrap();
            whole.push(file.length());
        }
        let bytes = fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            let torn = dir.path().join("torn.jsonl.zst");
            fs::write(&torn, &bytes[..length]).unwrap();
            let ends = whole.iter().filter(|end| **end <= length as u64).count();
            let entries = 10 * ends.saturating_sub(2) as u64;
            if entries > 0 {
                // Lines of a torn frame may be read already; never half of one.
                let read = read(&torn);
                assert!(read.len() as u64 >= entries && read == (0..read.len() as u64).collect::<Vec<_>>(), "{length}");
            }
            let (mut file, opened) = open(&torn);
            assert_eq!(opened.last.and_then(|last| last.index).unwrap_or(0), entries, "{length}");
            file.append(&frame(entries..entries + 1)).unwrap();
            assert_eq!(read(&torn), (0..=entries).collect::<Vec<_>>(), "{length}");
        }
    }

    /// After a power cut, the pages of one write may be on the disk in part, in any order.
    #[test]
    fn a_mark_whose_frame_is_damaged_does_not_count() {
        let (_dir, path) = new_file();
        let (mut file, _) = open(&path);
        file.append(&frame(0..10)).unwrap();
        let first = file.length() as usize;
        file.append(&frame(10..500)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[first + 20..first + 60].fill(0);
        fs::write(&path, &bytes).unwrap();
        let (_, opened) = open(&path);
        assert_eq!(opened.last.and_then(|last| last.index), Some(10));
        assert_eq!(opened.torn_bytes as usize, bytes.len() - first);
        assert_eq!(read(&path), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_of_another_stream_or_of_a_user_is_left_alone() {
        let (_dir, path) = new_file();
        drop(DayFile::open(&path, "other").unwrap());
        let error = DayFile::open(&path, "ticks").unwrap_err().to_string();
        assert!(error.contains("from the stream `other`"), "{error}");
        for content in [&b"{\"price\":1}\n"[..], &zstd::encode_all(&b"{\"price\":1}\n"[..], 3).unwrap(), b"x"] {
            fs::write(&path, content).unwrap();
            let error = DayFile::open(&path, "ticks").unwrap_err().to_string();
            assert!(error.contains("was not written by `tickhound record`"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    /// The bytes of a mark within an entry must not be taken for one, nor a frame that a writer has copied into a value.
    #[test]
    fn an_entry_may_contain_marks() {
        let (_dir, path) = new_file();
        let (mut file, _) = open(&path);
        file.append(&frame(0..3)).unwrap();
        let copied = fs::read(&path).unwrap();
        let mut entries = Entries::default();
        entries.push_entry(EntryId { millis: 1_762_140_000_001, seq: 0 });
        entries.push_field(b"data", &copied);
        let mut hostile = PendingFrame::default();
        hostile.push(&entries.get(0).unwrap(), Some(4)).unwrap();
        file.append(&hostile).unwrap();
        drop(file);
        let (_, opened) = open(&path);
        assert_eq!(opened.last.and_then(|last| last.index), Some(4));
    }

    #[test]
    fn a_failed_write_leaves_the_file_as_it_was() {
        let (_dir, path) = new_file();
        let (mut file, _) = open(&path);
        file.append(&frame(0..3)).unwrap();
        // As a write that failed halfway, and could not be cut off.
        file.file.write_all(b"half").unwrap();
        file.append(&frame(3..5)).unwrap();
        assert_eq!(read(&path), (0..5).collect::<Vec<_>>());
    }
}
