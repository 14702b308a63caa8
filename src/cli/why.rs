//! What `explain`, `why-not` and `near` share: the detector, and the ticks that it is replayed from.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};
use tokio::runtime::Runtime;

use super::author::Catalogue;
use crate::{
    authoring::replay::Source,
    history::HistoryFolder,
    output::{self, Lines},
    why::scratch::{LoneDetector, Probed},
};
use tickhound_core::{
    config::LoadedConfig,
    decode::{Decoder, time_zone},
    event::EntryId,
    simulate::Layout,
    stream::Stream,
};
use tickhound_engine::plugin::{self, ProbeQuestion, loader};
use tickhound_recorded::{Files, Mapping, Options};
use tickhound_redis::RedisStream;

/// Recorded ticks to replay in place of the stream.
#[derive(Debug, clap::Args)]
pub(super) struct TicksArgs {
    /// Replay these files instead of the stream, in any form that `replay` reads; a folder means all its files. Begin early enough
    /// for the detector's warm-up.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Read the column COLUMN (a name, or a number from 1) as NAME; not for JSON. May be repeated.
    #[arg(long, value_name = "NAME=COLUMN")]
    map: Vec<String>,
}

/// A question about a detector, and where the answer comes from.
pub(super) struct Inquiry<'a> {
    pub(super) loaded: &'a LoadedConfig,
    pub(super) ticks: &'a TicksArgs,
    pub(super) runtime: &'a Runtime,
}

/// A span of event time, ns since the Unix epoch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeWindow {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Loads a detector of the configuration.
pub(super) fn load_detector(loaded: &LoadedConfig, name: &str, plugins: &plugin::Runtime) -> Result<LoneDetector> {
    LoneDetector::load(loaded, name, |loaded| {
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        loader::build(plugins, loaded, decoder.column_names(), None, &Catalogue::of(loaded))
    })
}

impl Inquiry<'_> {
    /// Replays a detector for a window: from files if some are named, else from the saved states if they are from before the
    /// window, else from the files of `history.dir` if they hold the window, else from all entries that the stream holds.
    pub(super) fn replay_window(
        &self,
        detector: &LoneDetector,
        question: &ProbeQuestion,
        window: TimeWindow,
    ) -> Result<Probed> {
        if self.has_files() {
            return self.replay_all(detector, question.clone(), window.to);
        }
        let saved = self.replay_saved(detector, question)?;
        let saved = match saved {
            Some(saved) if saved.rows.since.is_some_and(|since| since <= window.from) => return Ok(saved),
            saved => saved,
        };
        if let Some(recorded) = self.replay_recorded(detector, question, window)? {
            return Ok(recorded);
        }
        let all = self.replay_all(detector, question.clone(), window.to)?;
        // If the saved states were older than the window, no row of it is missing there.
        let covers = |saved: &Probed| !all.rows.within.is_empty() && saved.rows.within.len() == all.rows.within.len();
        Ok(saved.filter(covers).unwrap_or(all))
    }

    /// Replays a detector from the files of `history.dir`, as many sessions as a warm-up reads; `None` if they hold no row of the
    /// window.
    fn replay_recorded(
        &self,
        detector: &LoneDetector,
        question: &ProbeQuestion,
        window: TimeWindow,
    ) -> Result<Option<Probed>> {
        let Some(history) = HistoryFolder::of(self.loaded)? else { return Ok(None) };
        let files = history.files_until(window.to, self.loaded.config.plugins.rewarm_sessions as usize);
        if files.is_empty() {
            return Ok(None);
        }
        let source = self.open_files(&files)?;
        let probed = self.runtime.block_on(detector.replay(source, question.clone(), window.to))?;
        Ok(Some(probed).filter(|probed| !probed.rows.within.is_empty()))
    }

    /// Continues a detector from the saved states up to now; `None` if there are none, or no row has come since.
    pub(super) fn replay_saved(&self, detector: &LoneDetector, question: &ProbeQuestion) -> Result<Option<Probed>> {
        let probed = self.runtime.block_on(detector.replay_saved(question.clone()))?;
        Ok(probed.filter(|probed| probed.rows.rows > 0))
    }

    /// Replays a detector from the beginning of the files, or of the stream.
    pub(super) fn replay_all(&self, detector: &LoneDetector, question: ProbeQuestion, until: u64) -> Result<Probed> {
        self.runtime.block_on(detector.replay(self.open()?, question, until))
    }

    pub(super) fn has_files(&self) -> bool {
        !self.ticks.files.is_empty()
    }

    fn open(&self) -> Result<Source> {
        let config = &self.loaded.config;
        if !self.has_files() {
            let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?;
            let newest = self.runtime.block_on(stream.newest()).context("can't read the stream")?;
            let Some(newest) = newest else { bail!("the stream {} is empty; name recorded files", config.stream.key) };
            return Source::stream(stream.reader(), EntryId::ZERO, newest);
        }
        self.open_files(&self.ticks.files)
    }

    fn open_files(&self, files: &[PathBuf]) -> Result<Source> {
        let config = &self.loaded.config;
        let decoder = Decoder::new(&config.input, &self.loaded.root)?;
        let options = Options {
            decoder: Some(decoder.clone()),
            mapping: Mapping::parse(&self.ticks.map)?,
            table_layout: Layout::Flat,
            zone: time_zone(&config.input.timezone)?,
            ..Options::default()
        };
        let files = Files::open(&tickhound_recorded::expand(files)?, &options)?;
        Ok(Source::files(files, decoder))
    }

    /// The day of the first tick of the files; today if there are no files.
    fn day(&self, zone: &TimeZone) -> Result<Date> {
        let mut first = Timestamp::now();
        if self.has_files() {
            let mut record = tickhound_recorded::record::Record::default();
            let mut source = self.open()?;
            while source.next(&mut record)? {
                if let Some(time) = record.time {
                    first = Timestamp::from_nanosecond(i128::from(time))?;
                    break;
                }
            }
        }
        Ok(first.to_zoned_datetime(zone.clone()).date())
    }

    /// Parses `--at`: a time of the day of the ticks, or a date with a time. It means all of the minute or second that it names, or
    /// the span that is given.
    pub(super) fn window(&self, at: &str, span: Option<SignedDuration>, zone: &TimeZone) -> Result<TimeWindow> {
        let expected = || format!("--at {at}: expected a time such as 10:42, 10:42:17 or 2025-11-24 10:42");
        let text = at.trim();
        let (from, names_seconds) = if let Ok(at) = text.parse::<Timestamp>() {
            (at, true)
        } else {
            // First with a date: a time is also read from a text with one.
            let civil = match text.parse::<DateTime>() {
                Ok(civil) => civil,
                Err(_) => self.day(zone)?.to_datetime(text.parse::<Time>().ok().with_context(expected)?),
            };
            (zone.to_timestamp(civil)?, text.matches(':').count() > 1)
        };
        let length = span.unwrap_or(SignedDuration::from_secs(if names_seconds { 1 } else { 60 }));
        let from = u64::try_from(from.as_nanosecond()).ok().with_context(expected)?;
        let length =
            u64::try_from(length.as_nanos()).ok().filter(|length| *length > 0).context("--for must be above 0")?;
        Ok(TimeWindow { from, to: from.saturating_add(length - 1) })
    }
}

/// Parses a span of time such as `5m`.
pub(super) fn span(text: &str) -> Result<SignedDuration, String> {
    let expected = || format!("expected a span such as 30s or 5m, not {text}");
    text.parse::<SignedDuration>().map_err(|_| expected())
}

/// Prints lines of text, each printable.
pub(super) fn print_text(text: &str) -> Result<()> {
    let mut lines = Lines::default();
    for line in text.lines() {
        writeln!(lines, "{line}")?;
    }
    output::print(&lines);
    Ok(())
}
