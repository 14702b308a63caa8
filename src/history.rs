//! The files of `[history]`, as warm-ups read them: day by day, with the ids of entries where the files have them.
//!
//! What holds: entries come in the order of their ids, as far as the files are in that order. A file that can't be read is
//! skipped with a warning, and never ends a warm-up.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Result;
use jiff::{civil::Date, tz::TimeZone};
use tracing::warn;

use crate::{
    authoring::replay::{Ids, Source},
    record,
};
use tickhound_core::{
    config::{Config, LoadedConfig, input::InputLayout, time_zone},
    decode::Decoder,
    event::{Entries, EntryId},
    simulate::Layout,
};
use tickhound_engine::archive::{Archive, ArchiveReader, ArchiveSpan};
use tickhound_recorded::{Files, Options, day_file, record::Record};

/// The most bytes in one page: entries may be large, and some pages wait for the shards.
const PAGE_BYTES: usize = 8 << 20;

/// The folder of `history.dir`.
pub(crate) struct HistoryFolder {
    folder: PathBuf,
    decoder: Decoder,
    options: Options,
    /// The zone of the days in the names of files.
    zone: TimeZone,
}

/// Files of one day.
#[derive(Debug, Default)]
struct Day {
    /// The file that a recorder wrote.
    recorded: Option<PathBuf>,
    /// Files and folders of others.
    others: Vec<PathBuf>,
}

/// Reads the days that a warm-up needs.
struct HistoryReader {
    days: VecDeque<Vec<PathBuf>>,
    span: ArchiveSpan,
    decoder: Decoder,
    options: Options,
    current: Option<Source>,
    ids: Ids,
    /// The last id that was given to a tick without one.
    last: EntryId,
    record: Record,
}

impl HistoryFolder {
    /// The folder that the configuration names; `None` if it names none.
    ///
    /// # Errors
    /// The decoder can't be made, which loading a configuration rules out.
    pub(crate) fn of(loaded: &LoadedConfig) -> Result<Option<Self>> {
        let Ok(folder) = record::folder_of(loaded) else { return Ok(None) };
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        let options = options(&loaded.config)?;
        Ok(Some(Self { folder, decoder, options, zone: record::zone_of(loaded)? }))
    }

    /// The days that have files.
    fn days(&self) -> BTreeMap<Date, Day> {
        let mut days: BTreeMap<Date, Day> = BTreeMap::new();
        let listed = fs::read_dir(&self.folder);
        // A folder that is missing has no files yet.
        if let Err(error) = &listed
            && error.kind() != ErrorKind::NotFound
        {
            skipped(&self.folder, error);
        }
        for path in listed.into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(date) = date_in(&name) else { continue };
            if name == format!("{date}{}", day_file::ENDING) {
                days.entry(date).or_default().recorded = Some(path);
            } else if path.is_dir() || tickhound_recorded::has_ticks(&path) {
                days.entry(date).or_default().others.push(path);
            }
        }
        days
    }

    /// The files of the day of an event time, and of so many days with files before it, in their order.
    pub(crate) fn files_until(&self, at_ns: u64, days: usize) -> Vec<PathBuf> {
        let at = jiff::Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or(jiff::Timestamp::MAX);
        let last = self.zone.to_datetime(at).date();
        let known: Vec<Day> = self.days().into_iter().filter(|(date, _)| *date <= last).map(|(_, day)| day).collect();
        let first = known.len().saturating_sub(days + 1);
        known.into_iter().skip(first).flat_map(Day::into_paths).collect()
    }
}

impl Day {
    /// What is read of the day: the recorder's file if there is one.
    fn into_paths(self) -> Vec<PathBuf> {
        let Self { recorded, mut others } = self;
        others.sort();
        recorded.map_or(others, |recorded| vec![recorded])
    }
}

impl Archive for HistoryFolder {
    fn end_ms(&self) -> Option<u64> {
        let (last, _) = self.days().pop_last()?;
        let midnight = last.tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight());
        let end = self.zone.to_timestamp(midnight).ok()?.as_millisecond();
        u64::try_from(end).ok().map(|end| end.saturating_sub(1))
    }

    fn open(&self, span: ArchiveSpan) -> Box<dyn ArchiveReader> {
        let first = jiff::Timestamp::from_millisecond(i64::try_from(span.from_ms).unwrap_or(i64::MAX));
        // A file of the day before may reach into the span, if its days are those of another zone.
        let first = first.ok().and_then(|first| self.zone.to_datetime(first).date().yesterday().ok());
        let days = self.days().into_iter().filter(|(date, _)| Some(*date) >= first);
        let days = days.map(|(_, day)| day.into_paths());
        Box::new(HistoryReader {
            days: days.collect(),
            span,
            decoder: self.decoder.clone(),
            options: self.options.clone(),
            current: None,
            ids: Ids::default(),
            last: EntryId::ZERO,
            record: Record::default(),
        })
    }
}

impl ArchiveReader for HistoryReader {
    fn read(&mut self, count: usize) -> Entries {
        let mut page = Entries::default();
        while page.len() < count && page.bytes() < PAGE_BYTES {
            let Some(source) = &mut self.current else {
                let Some(files) = self.days.pop_front() else { break };
                self.current = self.open(&files);
                continue;
            };
            match source.next(&mut self.record) {
                Ok(true) => match self.id() {
                    Ok(Some(id)) => {
                        page.push_entry(id);
                        self.record.fields().for_each(|(name, value)| page.push_field(name, value));
                    }
                    Ok(None) => {}
                    Err(error) => self.skip(&error),
                },
                Ok(false) => self.current = None,
                Err(error) => self.skip(&error),
            }
        }
        page
    }
}

impl HistoryReader {
    /// The id of the tick in `record`; `None` if it is not wanted.
    fn id(&mut self) -> Result<Option<EntryId>> {
        let recorded = self.record.id;
        let Some(id) = self.ids.next(&self.record)? else { return Ok(None) };
        if recorded.is_some() {
            self.last = self.last.max(id);
            return Ok((id.millis >= self.span.from_ms).then_some(id));
        }
        if id.millis < self.span.from_ms || id >= self.span.stream_from {
            return Ok(None);
        }
        // Files of several days may overlap; ids rise nevertheless.
        let next = EntryId { millis: self.last.millis, seq: self.last.seq.saturating_add(1) };
        self.last = id.max(next);
        Ok(Some(self.last))
    }

    /// Opens the files of a day, those that can be read.
    fn open(&self, paths: &[PathBuf]) -> Option<Source> {
        let mut files = Vec::new();
        for path in paths {
            match tickhound_recorded::expand(std::slice::from_ref(path)) {
                Ok(expanded) => files.extend(expanded),
                Err(error) => skipped(path, &error),
            }
        }
        // One file that is damaged must not hide the others of its day.
        files.retain(|file| match Files::open(std::slice::from_ref(file), &self.options) {
            Ok(_) => true,
            Err(error) => {
                skipped(file, &error);
                false
            }
        });
        if files.is_empty() {
            return None;
        }
        match Files::open(&files, &self.options) {
            Ok(opened) => Some(Source::files(opened, self.decoder.clone())),
            Err(error) => {
                skipped(&files[0], &error);
                None
            }
        }
    }

    /// Leaves out the rest of a day that can't be read on.
    fn skip(&mut self, error: &anyhow::Error) {
        warn!(
            event = "history_file_skipped",
            error = format!("{error:#}"),
            "a file of history.dir can't be read to its end; the warm-up goes on with the next day"
        );
        self.current = None;
    }
}

fn skipped(file: &Path, error: &impl Display) {
    warn!(
        event = "history_file_skipped",
        file = %file.display(),
        error = format!("{error:#}"),
        "a file of history.dir can't be read; the warm-up goes on without it"
    );
}

/// How the files are read: their ticks become the fields that a producer would publish, in the layout that is expected.
fn options(config: &Config) -> Result<Options> {
    let (layout, table_layout) = match config.input.layout {
        InputLayout::Auto => (Layout::Json, Layout::Flat),
        InputLayout::Json => (Layout::Json, Layout::Json),
        InputLayout::Flat => (Layout::Flat, Layout::Flat),
        InputLayout::Msgpack => (Layout::Msgpack, Layout::Msgpack),
    };
    Ok(Options { layout, table_layout, zone: time_zone(&config.input.timezone)?, ..Options::default() })
}

/// The first date in a name, as `2025-11-24` or `20251124`.
fn date_in(name: &str) -> Option<Date> {
    let is_date = |(at, _): (usize, char)| {
        let rest = &name[at..];
        let compact = rest.get(..8).filter(|date| date.bytes().all(|byte| byte.is_ascii_digit()));
        let spelled = compact.map(|date| format!("{}-{}-{}", &date[..4], &date[4..6], &date[6..]));
        let parsed = spelled.as_deref().or_else(|| rest.get(..10))?.parse::<Date>().ok()?;
        // Digits before or behind it make it another number.
        let length = if compact.is_some() { 8 } else { 10 };
        let is_alone = !name[..at].ends_with(|c: char| c.is_ascii_digit())
            && !rest[length..].starts_with(|c: char| c.is_ascii_digit());
        is_alone.then_some(parsed)
    };
    name.char_indices().find_map(is_date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_a_file_is_in_its_name() {
        for name in ["2025-11-24.parquet", "ticks_20251124.csv.gz", "20251124", "NSE-2025-11-24-1.csv", "é2025-11-24"]
        {
            assert_eq!(date_in(name).map(|date| date.to_string()).as_deref(), Some("2025-11-24"), "{name}");
        }
        for name in ["SBIN.csv", "2025-13-24.csv", "202511241.csv", "120251124", "holes.log", "2025-11-2", "é", ""] {
            assert_eq!(date_in(name), None, "{name}");
        }
    }

    fn folder(path: &Path) -> HistoryFolder {
        let text = format!("[history]\ndir = \"{}\"\n[input]\ntimezone = \"UTC\"\n", path.display());
        let loaded = tickhound_core::config::parse_text(Path::new("config.toml"), &text).unwrap();
        HistoryFolder::of(&loaded).unwrap().unwrap()
    }

    /// The ids and the fields of all entries from a time on.
    fn read(folder: &HistoryFolder, from: &str, stream_from: EntryId) -> Vec<(String, String)> {
        let from_ms = from.parse::<jiff::Timestamp>().unwrap().as_millisecond() as u64;
        let mut reader = folder.open(ArchiveSpan { from_ms, stream_from });
        let mut all = Vec::new();
        loop {
            let page = reader.read(3);
            if page.is_empty() {
                return all;
            }
            for entry in page.iter() {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let fields: Vec<String> = entry.fields().map(|(name, value)| text(name) + "=" + &text(value)).collect();
                all.push((entry.id.to_string(), fields.join(" ")));
            }
        }
    }

    const END: EntryId = EntryId { millis: u64::MAX, seq: 0 };

    #[test]
    fn days_follow_each_other_and_what_is_damaged_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let row = |time: &str| format!("timestamp,price\n2025-11-{time},5\n");
        write("2025-11-21.csv", &row("21 10:00:00"));
        write("2025-11-24/SBIN.csv", &row("24 10:00:00"));
        write("2025-11-24/TCS.csv", &row("24 09:00:00"));
        write("2025-11-24/BROKEN.csv.gz", "\x1f\u{8b}no gzip");
        write("2025-11-25.jsonl", "{\"symbol\":\"X\",\"timestamp\":\"2025-11-25 10:00:00\"}\n");
        write("2025-11-26.parquet", "PAR1 and no more");
        write("2025-11-27.txt.bak", "of an editor");
        write("holes.log", "{}\n");
        write("reference.csv", "symbol,lot\nSBIN,1\n");
        let folder = folder(dir.path());
        assert_eq!(folder.end_ms(), Some(1_764_201_600_000 - 1), "the end of 2025-11-26");
        let ids: Vec<(String, String)> = read(&folder, "2025-11-24T00:00:00Z", END);
        let symbols: Vec<&str> = ids
            .iter()
            .map(|(_, fields)| ["TCS", "SBIN", "X"].into_iter().find(|name| fields.contains(name)).unwrap())
            .collect();
        assert_eq!(symbols, ["TCS", "SBIN", "X"], "{ids:?}");
        assert!(ids.is_sorted() && ids[0].0 == "1763974800000-0", "{ids:?}");
        // The stream has them from ten o'clock on.
        let stream_from = ids[1].0.parse().unwrap();
        assert_eq!(read(&folder, "2025-11-24T00:00:00Z", stream_from).len(), 1);
    }

    /// A recorder's file of a day has what the other files of that day have, and their ids.
    #[test]
    fn of_a_recorded_day_only_the_recording_counts() {
        let dir = tempfile::tempdir().unwrap();
        let id = EntryId { millis: 1_763_978_400_000, seq: 7 };
        let mut entries = Entries::default();
        entries.push_entry(id);
        entries.push_field(b"data", b"{}");
        let mut frame = day_file::PendingFrame::default();
        frame.push(&entries.get(0).unwrap(), None).unwrap();
        let path = dir.path().join(format!("2025-11-24{}", day_file::ENDING));
        day_file::DayFile::open(&path, "ticks").unwrap().0.append(&frame).unwrap();
        fs::write(dir.path().join("2025-11-24.csv"), "symbol,timestamp,price\nX,2025-11-24 10:00:00,5\n").unwrap();
        let expected = [(id.to_string(), "data={}".to_owned())];
        // Its ids are those of the stream, so that the stream's beginning does not matter.
        assert_eq!(read(&folder(dir.path()), "2025-11-24T00:00:00Z", EntryId::ZERO), expected);
        assert_eq!(read(&folder(dir.path()), "2025-11-24T10:00:00.001Z", END), []);
    }

    #[test]
    fn a_folder_that_is_missing_has_no_ticks() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(folder(&dir.path().join("none")).end_ms(), None);
    }
}
