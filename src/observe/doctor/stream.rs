//! The stream: its rate, how long it keeps entries, whether they decode into ticks, and what their times say.

use std::collections::BTreeSet;

use super::{
    finding::{Finding, Level},
    text::{duration, size},
};
use tickhound_core::{
    config::{Config, LoadedConfig},
    decode::{Decoder, Outcome},
    event::{Entries, EntryId},
};
use tickhound_redis::{
    Conflict,
    inspect::{NeededBy, PartitionInspection, StreamCounts, StreamInspection, WrongType},
};

/// A host may be stopped for this long, to restart or to update it. A stream that keeps entries for less loses some.
const STOP_MS: u64 = 15 * 60_000;

/// `MAXLEN ~` removes about a hundred entries at a time, fewer if they are large. When this many entries arrived and
/// none was removed, the stream is not trimmed.
const TRIM_NODES: u64 = 250;

/// Ids that are ahead of the server's clock by more than this are a warning.
const AHEAD_WARNING_MS: u64 = 1_000;

/// Ids that are ahead of the server's clock by more than this are a problem.
const AHEAD_PROBLEM_MS: u64 = 60_000;

/// Ids of arriving entries that are older than this are a warning.
const BEHIND_WARNING_MS: u64 = 3_000;

/// In any live feed, event times and arrival differ by less than this.
const LIVE_DELAY_MAX_MS: i64 = 60_000;

/// Event times and arrival differ by more than this only if the ticks were recorded on another day.
const RECORDED_DELAY_MS: i64 = 86_400_000;

/// The least time between the oldest and the newest entry from which a rate can be computed: a burst has none.
const SPAN_MIN_MS: u64 = 60_000;

/// How fast entries arrive, and when they are removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flow {
    /// Entries that arrive in a second, measured during the inspection.
    pub(super) rate_now: f64,
    /// Entries a second over the whole stream; 0 if it is too short for a rate.
    pub(super) rate_overall: f64,
    /// Whether the stream seems to be trimmed; an entry that was deleted by hand once does not count.
    pub(super) trimmed: bool,
    /// Entries removed so far.
    pub(super) removed: u64,
    /// How long an entry stays in the stream, ms: computed from the current rate, or else the age of the oldest entry.
    /// `None` if the stream is not trimmed.
    pub(super) retention_ms: Option<u64>,
    /// Age of the oldest entry, ms; `None` if ids are not times.
    pub(super) oldest_ms: Option<u64>,
    /// Age of the oldest entry that is not processed, ms; 0 if all are.
    pub(super) behind_ms: u64,
}

impl Flow {
    pub(super) fn of(stream: &StreamInspection) -> Self {
        let StreamCounts { length, added, newest } = stream.later;
        let arrived = match (stream.added, added) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => length.saturating_sub(stream.length),
        };
        let rate_now = arrived as f64 / stream.between.as_secs_f64().max(0.001);
        let removed = |length, added: Option<u64>| added.map_or(0, |added| added.saturating_sub(length));
        let (before, after) = (removed(stream.length, stream.added), removed(length, added));
        let trimmed = after > before || (after > 0 && arrived < TRIM_NODES);
        let oldest = stream.oldest.filter(|oldest| oldest.millis >= EntryId::TIMES_FROM_MS);
        let oldest_ms = oldest.map(|oldest| stream.now_ms.saturating_sub(oldest.millis));
        let span = oldest.map_or(0, |oldest| newest.millis.saturating_sub(oldest.millis));
        let rate_overall = if span >= SPAN_MIN_MS { length as f64 * 1e3 / span as f64 } else { 0.0 };
        let retention_ms = if !trimmed {
            None
        } else if rate_now > 0.0 {
            Some((length as f64 * 1e3 / rate_now) as u64)
        } else {
            oldest_ms
        };
        // The oldest unprocessed entry was read at the beginning of the inspection, so its age is as of then.
        let first_ms = stream.now_ms.saturating_sub(stream.between.as_millis() as u64);
        let undone = stream.group.as_ref().and_then(|group| group.oldest_unprocessed);
        let behind_ms =
            undone.filter(|id| id.millis >= EntryId::TIMES_FROM_MS).map_or(0, |id| first_ms.saturating_sub(id.millis));
        Self { rate_now, rate_overall, trimmed, removed: after, retention_ms, oldest_ms, behind_ms }
    }

    /// Returns the current rate, or the overall rate if no entries arrive.
    pub(super) fn rate(&self) -> f64 {
        if self.rate_now > 0.0 { self.rate_now } else { self.rate_overall }
    }
}

pub(super) fn judge(partition: &PartitionInspection, loaded: &LoadedConfig) -> Vec<Finding> {
    let config = &loaded.config;
    let key = &config.stream.key;
    let mut findings = judge_keys(partition);
    if let Some(rejection) = partition.stream_error.as_ref().filter(|_| partition.wrong_types.is_empty()) {
        findings.push(Finding::note("stream.exists", format!("the stream {key} can't be inspected: {rejection}")));
    }
    let Some(stream) = &partition.stream else {
        if partition.stream_error.is_none() {
            findings.push(judge_missing(partition, loaded));
        }
        return findings;
    };
    let flow = Flow::of(stream);
    let rate = if flow.rate_now > 0.0 {
        format!("{:.0} arrive each second now", flow.rate_now.ceil())
    } else {
        format!("none arrived within {:.1} s", stream.between.as_secs_f64())
    };
    findings.push(Finding::ok(
        "stream.exists",
        format!("{key} holds {} entries; {rate}, and {:.1} a second overall", stream.length, flow.rate_overall),
    ));
    let entry_bytes =
        partition.sizes.iter().find(|(known, _)| known == key).map_or(0, |(_, bytes)| bytes / stream.length.max(1));
    let retention = Retention {
        length: stream.later.length,
        entry_bytes,
        saved_every_ms: config.engine.checkpoint_every_ms.max(config.stream.lease_ms),
        rewarm_ms: config.plugins.rewarm_s * 1000,
    };
    findings.push(judge_retention(&flow, &retention));
    findings.extend(judge_ids(stream, &flow));
    findings
}

/// Judges whether each key holds the type that Tickhound expects, and whether another group claims it.
fn judge_keys(partition: &PartitionInspection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for WrongType { key, expected, actual } in &partition.wrong_types {
        findings.push(
            Finding::problem(
                "stream.types",
                format!("the key {key} holds a {actual}, expected a {expected}; `tickhound run` does not start"),
            )
            .cure(format!(
                "check what the key is for, then move it away (RENAME {key} {key}:old) or set another name in config.toml"
            )),
        );
    }
    findings.extend(partition.conflicts.iter().map(|(conflict, needed_by)| judge_conflict(conflict, *needed_by)));
    match &partition.types_error {
        Some(rejection) => {
            findings.push(Finding::note("stream.types", format!("the types of keys can't be inspected: {rejection}")));
        }
        None if partition.wrong_types.is_empty() => {
            findings.push(Finding::ok("stream.types", "every key has the expected type, or does not exist yet"));
        }
        None => {}
    }
    findings
}

fn judge_missing(partition: &PartitionInspection, loaded: &LoadedConfig) -> Finding {
    let key = &loaded.config.stream.key;
    let others = match partition.other_streams.as_slice() {
        [] => "the server has no stream at all".to_owned(),
        others => format!("the server has these, among others: {}", others.join(", ")),
    };
    let setting = loaded.source.at(&["stream", "key"]);
    Finding::warning("stream.exists", format!("there is no stream {key}; {others}")).cure(format!(
        "start the producer, or correct stream.key in {setting}; a database other than 0 is part of stream.url (…/1)"
    ))
}

fn judge_conflict(conflict: &Conflict, needed_by: NeededBy) -> Finding {
    let Conflict { problem, cure } = conflict;
    let finding = match needed_by {
        NeededBy::Everybody => Finding::problem("stream.claims", format!("{problem}; `tickhound run` does not start")),
        NeededBy::Shadows => {
            Finding::warning("stream.claims", format!("{problem}; `tickhound run` does not start with a shadow"))
        }
    };
    finding.cure(cure)
}

/// What the retention of a stream is judged by.
struct Retention {
    /// Entries in the stream.
    length: u64,
    /// Memory that an entry takes.
    entry_bytes: u64,
    /// The state is saved this often; younger entries may have to be replayed.
    saved_every_ms: u64,
    /// How much of the past a new detector is warmed up with.
    rewarm_ms: u64,
}

fn judge_retention(flow: &Flow, retention: &Retention) -> Finding {
    let Retention { length, entry_bytes, saved_every_ms, rewarm_ms } = retention;
    let Some(retention_ms) = flow.retention_ms else {
        let oldest = flow.oldest_ms.map_or_else(String::new, |age| format!("; the oldest is {} old", duration(age)));
        let when = if flow.removed == 0 { "has been trimmed so far" } else { "is being trimmed now" };
        return Finding::ok("stream.kept", format!("nothing {when}: the stream holds {length} entries{oldest}"));
    };
    let behind = match flow.behind_ms {
        0 => "every entry is processed".to_owned(),
        ms => format!("the oldest unprocessed entry is {} old", duration(ms)),
    };
    let how = if flow.rate_now > 0.0 { "at this rate entries are trimmed" } else { "entries were last trimmed" };
    let observed =
        format!("about {length} entries are kept; {how} {} after they arrive, and {behind}", duration(retention_ms));
    let four_hours = 4 * (flow.rate() * 3600.0).ceil() as u64;
    let cure = format!(
        "let the producer keep several hours: by time with XADD … MINID ~ <now in ms - 4 h>, or by number with MAXLEN ~ {four_hours} for 4 h at this rate, about {} of memory",
        size(four_hours * entry_bytes)
    );
    let least = flow.behind_ms.saturating_mul(2) + 2 * saved_every_ms;
    match retention_ms {
        ms if ms <= least => {
            Finding::problem("stream.kept", format!("{observed}; a short pause of the host loses ticks")).cure(cure)
        }
        ms if ms < STOP_MS => {
            Finding::warning("stream.kept", format!("{observed}; a host that is stopped for longer loses ticks"))
                .cure(cure)
        }
        ms if ms < *rewarm_ms => Finding::note(
            "stream.kept",
            format!(
                "{observed}; a new detector is warmed up with no more than that, though plugins.rewarm_s is {}",
                rewarm_ms / 1000
            ),
        ),
        _ => Finding::ok("stream.kept", observed),
    }
}

fn judge_ids(stream: &StreamInspection, flow: &Flow) -> Option<Finding> {
    let newest = stream.later.newest;
    if stream.length == 0 {
        return None;
    }
    let own = "let the server assign the ids (XADD key *), which are then the times of arrival";
    if newest.millis < EntryId::TIMES_FROM_MS {
        return Some(
            Finding::warning("clock.ids", format!("the ids of entries are not times ({newest}), so `lag_ms`, `stale` and the retention of the stream are unknown"))
                .cure(own),
        );
    }
    let (ahead, age) = (newest.millis.saturating_sub(stream.now_ms), stream.now_ms.saturating_sub(newest.millis));
    let finding = if ahead > AHEAD_PROBLEM_MS {
        let observed = format!(
            "the newest id is {} ahead of the server's clock; until then every XADD with * gets an id of that millisecond, and no alert counts as late",
            duration(ahead)
        );
        let cure = format!("{own}; ids only rise, so the producer has to start a new stream under another key");
        Finding::problem("clock.ids", observed).cure(cure)
    } else if ahead > AHEAD_WARNING_MS {
        let observed = format!("the newest id is {} ahead of the server's clock", duration(ahead));
        Finding::warning("clock.ids", observed).cure(own)
    } else if flow.rate_now > 0.0 && age > BEHIND_WARNING_MS {
        let observed =
            format!("entries arrive with ids that are {} old, and alerts look late by as much", duration(age));
        Finding::warning("clock.ids", observed).cure(own)
    } else {
        Finding::ok("clock.ids", format!("ids are times of arrival; the newest is {} old", duration(age)))
    };
    Some(finding)
}

/// The newest entries, decoded.
#[derive(Debug, Default)]
pub(super) struct DecodedSample {
    entries: usize,
    ticks: usize,
    failed: usize,
    /// Why the newest of the failed entries could not be decoded.
    reason: Option<String>,
    pub(super) symbols: BTreeSet<String>,
    /// The time from event to arrival of each tick that has an event time, ms.
    delays_ms: Vec<i64>,
}

impl DecodedSample {
    pub(super) fn ticks_per_entry(&self) -> f64 {
        self.ticks as f64 / self.entries.max(1) as f64
    }
}

pub(super) fn decode(decoder: &mut Decoder, entries: &Entries) -> DecodedSample {
    let mut sample = DecodedSample { entries: entries.len(), ..DecodedSample::default() };
    for entry in entries.iter() {
        let arrival = i64::try_from(entry.id.millis).unwrap_or(i64::MAX);
        let DecodedSample { ticks, symbols, delays_ms, .. } = &mut sample;
        let outcome = decoder.decode(entry, &mut |tick| {
            *ticks += 1;
            symbols.insert(tick.symbol.clone());
            delays_ms.extend(tick.time.map(|time| arrival - (time / 1_000_000) as i64));
        });
        let error = match outcome {
            Err(error) | Ok(Outcome::Partly(_, error)) => error,
            Ok(_) => continue,
        };
        sample.failed += 1;
        sample.reason.get_or_insert_with(|| error.to_string());
    }
    sample.delays_ms.sort_unstable();
    sample
}

pub(super) fn judge_sample(sample: &DecodedSample, config: &Config) -> Vec<Finding> {
    let DecodedSample { entries, ticks, failed, reason, symbols, delays_ms } = sample;
    if *entries == 0 {
        return Vec::new();
    }
    let preset = &config.input.preset;
    let mut findings = vec![match reason {
        None => Finding::ok(
            "stream.decode",
            format!("the newest {entries} entries are {ticks} ticks of {} symbols (preset {preset})", symbols.len()),
        ),
        Some(reason) => {
            let observed = format!(
                "{failed} of the newest {entries} entries can't be decoded (preset {preset}), the newest because: {reason}"
            );
            let level = if failed * 2 >= *entries { Level::Problem } else { Level::Warning };
            let cure = "set input.preset, or field names in [input.map] such as price = [\"px\"], and restart the host; `tickhound dead requeue --all` then adds the dead letters to the stream again";
            Finding::new(level, "stream.decode", observed).cure(cure)
        }
    }];
    if *ticks > 0 {
        findings.push(judge_times(delays_ms, *ticks, &config.input.timezone));
    }
    findings
}

fn judge_times(delays_ms: &[i64], ticks: usize, timezone: &str) -> Finding {
    let Some(median) = delays_ms.get(delays_ms.len() / 2).copied() else {
        let observed = format!("none of {ticks} ticks has an event time, so the time of arrival is used");
        return Finding::note("clock.events", observed)
            .cure("if the feed has event times, name their field in [input.map]: time = [\"…\"]");
    };
    let way = if median < 0 { "ahead of" } else { "behind" };
    let observed =
        format!("event times are {} {way} arrival (median of {})", duration(median.unsigned_abs()), delays_ms.len());
    match median.abs() {
        apart if apart <= LIVE_DELAY_MAX_MS => Finding::ok("clock.events", observed),
        apart if apart > RECORDED_DELAY_MS => {
            Finding::note("clock.events", format!("{observed}; the ticks seem to be recorded ones"))
        }
        // Time zones differ by multiples of a quarter of an hour.
        apart if (apart + 120_000) % 900_000 < 240_000 => {
            Finding::warning("clock.events", format!("{observed}, close to a multiple of 15 min, so input.timezone = \"{timezone}\" may not be the feed's time zone"))
                .cure("set input.timezone to the time zone of the feed, which sessions and bars of detectors depend on, and restart the host")
        }
        _ => Finding::warning("clock.events", observed)
            .cure("check the feed's clock, and how long ticks wait before they are published"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tickhound_core::event::EntryId;

    const NOW: u64 = 1_762_141_500_000;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, seq: 0 }
    }

    fn counts(length: u64, added: u64, newest: u64) -> StreamCounts {
        StreamCounts { length, added: Some(added), newest: id(newest) }
    }

    /// A stream of `length` entries over `span` seconds, to which `arrived` more come within a second.
    fn stream(length: u64, added: u64, arrived: u64, span: u64) -> StreamInspection {
        StreamInspection {
            length,
            added: Some(added),
            oldest: Some(id(NOW - span * 1000)),
            newest: id(NOW - 1000),
            later: counts(length, added + arrived, NOW),
            between: Duration::from_secs(1),
            now_ms: NOW,
            ..StreamInspection::default()
        }
    }

    #[test]
    fn retention_is_computed_from_the_current_rate() {
        let flow = Flow::of(&stream(9_000, 50_000, 100, 300));
        assert_eq!((flow.rate_now, flow.rate_overall, flow.retention_ms), (100.0, 30.0, Some(90_000)));
        let quiet = Flow::of(&stream(9_000, 50_000, 0, 300));
        assert_eq!((quiet.rate(), quiet.retention_ms), (30.0, Some(300_000)));
        let untrimmed =
            Flow { ..Flow::of(&StreamInspection { later: counts(100, 100, NOW), ..stream(90, 90, 10, 60) }) };
        // Some were deleted by hand once; now three hundred arrive and none is removed.
        let once = StreamInspection { later: counts(9_300, 50_300, NOW), ..stream(9_000, 50_000, 0, 300) };
        assert_eq!((Flow::of(&once).trimmed, Flow::of(&once).retention_ms), (false, None));
        assert_eq!((untrimmed.rate_now, untrimmed.trimmed, untrimmed.retention_ms), (10.0, false, None));
    }

    #[test]
    fn retention_is_judged_by_what_a_host_needs() {
        let flow = |retention_s: u64, behind_s: u64| Flow {
            rate_now: 100.0,
            trimmed: true,
            retention_ms: Some(retention_s * 1000),
            behind_ms: behind_s * 1000,
            ..Flow::default()
        };
        let cases = [
            (90, 4, Level::Warning),
            (90, 45, Level::Problem),
            (9, 0, Level::Problem),
            (3_600, 0, Level::Note),
            (3_600, 3_000, Level::Problem),
            (90_000, 1, Level::Ok),
        ];
        let stream = Retention { length: 9_000, entry_bytes: 100, saved_every_ms: 5_000, rewarm_ms: 86_400_000 };
        for (retention, behind, level) in cases {
            let finding = judge_retention(&flow(retention, behind), &stream);
            assert_eq!(finding.level, level, "{}", finding.found);
        }
        let finding = judge_retention(&flow(90, 4), &stream);
        assert!(finding.found.contains("at this rate entries are trimmed 90 s after they arrive"), "{}", finding.found);
        assert!(finding.cure.unwrap().contains("MAXLEN ~ 1440000 for 4 h"));
        let untrimmed = Retention { length: 9, rewarm_ms: 0, ..stream };
        assert_eq!(judge_retention(&Flow::default(), &untrimmed).level, Level::Ok);
    }

    #[test]
    fn ids_are_compared_with_the_servers_clock() {
        let level = |newest: u64, arrived: u64| {
            let stream = StreamInspection { later: counts(10, 10 + arrived, newest), ..stream(10, 10, 0, 60) };
            judge_ids(&stream, &Flow::of(&stream)).unwrap().level
        };
        assert_eq!(level(NOW, 5), Level::Ok);
        assert_eq!(level(NOW - 3_600_000, 0), Level::Ok);
        assert_eq!(level(NOW - 3_600_000, 5), Level::Warning);
        assert_eq!(level(NOW + 5_000, 5), Level::Warning);
        assert_eq!(level(NOW + 3_600_000, 0), Level::Problem);
        assert_eq!(level(77, 5), Level::Warning);
    }

    #[test]
    fn event_times_show_a_wrong_time_zone() {
        let level = |delay: i64| judge_times(&[delay], 1, "UTC").level;
        assert_eq!([level(40), level(-59_000), level(100_000_000)], [Level::Ok, Level::Ok, Level::Note]);
        let zone = judge_times(&[-19_799_500], 1, "UTC");
        assert!(zone.level == Level::Warning && zone.found.contains("input.timezone"), "{}", zone.found);
        let late = judge_times(&[400_000], 1, "UTC");
        assert!(late.level == Level::Warning && !late.found.contains("input.timezone"), "{}", late.found);
        assert_eq!(judge_times(&[], 3, "UTC").level, Level::Note);
    }
}
