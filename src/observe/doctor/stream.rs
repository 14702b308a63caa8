//! The stream: how fast it comes, how long it is kept, whether it can be read, and what its clock says.

use std::collections::BTreeSet;

use super::{Finding, lasting, size};
use tickhound_core::{
    config::{Config, LoadedConfig},
    decode::Decoder,
    event::Entries,
};
use tickhound_redis::{
    claims::Conflict,
    look::{NeededBy, PartitionLook, StreamLook},
};

/// Ids of entries are times from here on, 2001-09-09; smaller ones are numbers that somebody chose.
const TIMES_FROM_MS: u64 = 1_000_000_000_000;

/// A stop that anybody may need, to restart or to update: what is kept for less is lost then.
const STOP_MS: u64 = 15 * 60_000;

/// `MAXLEN ~` removes a hundred entries at a time, or less if they are large: when so many came and none went, nothing
/// is trimmed.
const NODES: u64 = 250;

/// Ids may be ahead of the server's clock by this much before anyone notices.
const AHEAD_MS: u64 = 1_000;
const AHEAD_MAX_MS: u64 = 60_000;

/// And behind it by this much, while entries come in.
const BEHIND_MS: u64 = 3_000;

/// Event times and arrivals are apart by less than this in any live feed,
const APART_MS: i64 = 60_000;

/// and by more than that only if what is fed was recorded on another day.
const RECORDED_MS: i64 = 86_400_000;

/// Least time between the oldest and the newest entry that says anything of a rate: a burst is none.
const SPAN_MS: u64 = 60_000;

/// How entries come and go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flow {
    /// Entries a second, between two looks.
    pub(super) rate_now: f64,
    /// Entries a second over all that is kept; 0 if that can't be told.
    pub(super) rate_kept: f64,
    /// Whether entries are removed, as far as can be seen; one that was deleted by hand once does not count.
    pub(super) trimmed: bool,
    /// Entries removed so far.
    pub(super) removed: u64,
    /// How long an entry stays, ms: at the rate of now, or else as long as the oldest one is there. `None` if
    /// nothing is trimmed.
    pub(super) kept_ms: Option<u64>,
    /// Age of the oldest entry, ms; `None` if ids are no times.
    pub(super) oldest_ms: Option<u64>,
    /// How old the oldest entry is that is not worked, ms; 0 if all are.
    pub(super) behind_ms: u64,
}

impl Flow {
    pub(super) fn of(look: &StreamLook) -> Self {
        let (length, added, newest) = look.later;
        let came = match (look.added, added) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => length.saturating_sub(look.length),
        };
        let rate_now = came as f64 / look.between.as_secs_f64().max(0.001);
        let removed = |length, added: Option<u64>| added.map_or(0, |added| added.saturating_sub(length));
        let (before, after) = (removed(look.length, look.added), removed(length, added));
        let trimmed = after > before || (after > 0 && came < NODES);
        let oldest = look.oldest.filter(|oldest| oldest.millis >= TIMES_FROM_MS);
        let oldest_ms = oldest.map(|oldest| look.now_ms.saturating_sub(oldest.millis));
        let span = oldest.map_or(0, |oldest| newest.millis.saturating_sub(oldest.millis));
        let rate_kept = if span >= SPAN_MS { length as f64 * 1e3 / span as f64 } else { 0.0 };
        let kept_ms = match trimmed {
            true if rate_now > 0.0 => Some((length as f64 * 1e3 / rate_now) as u64),
            true => oldest_ms,
            false => None,
        };
        // It was looked up at the first look.
        let first_ms = look.now_ms.saturating_sub(look.between.as_millis() as u64);
        let undone = look.group.as_ref().and_then(|group| group.oldest_undone);
        let behind_ms =
            undone.filter(|id| id.millis >= TIMES_FROM_MS).map_or(0, |id| first_ms.saturating_sub(id.millis));
        Self { rate_now, rate_kept, trimmed, removed: after, kept_ms, oldest_ms, behind_ms }
    }

    /// The rate of now, or if nothing comes, that of before.
    pub(super) fn rate(&self) -> f64 {
        if self.rate_now > 0.0 { self.rate_now } else { self.rate_kept }
    }
}

pub(super) fn judge(partition: &PartitionLook, loaded: &LoadedConfig) -> Vec<Finding> {
    let config = &loaded.config;
    let key = &config.stream.key;
    let mut findings = Vec::new();
    for (key, expected, found) in &partition.wrong_types {
        findings.push(
            Finding::problem(
                "stream.types",
                format!("the key {key} holds a {found}, expected a {expected}; `run` refuses to start"),
            )
            .cure(format!(
                "look what it is (TYPE {key}), then RENAME {key} {key}:old, or choose another name in config.toml"
            )),
        );
    }
    findings.extend(partition.conflicts.iter().map(|(conflict, needed_by)| judge_conflict(conflict, *needed_by)));
    match &partition.untold {
        Some(refusal) => {
            findings.push(Finding::note("stream.types", format!("what keys hold can't be looked at: {refusal}")));
        }
        None if partition.wrong_types.is_empty() => {
            findings.push(Finding::ok("stream.types", "every key holds what it is to hold, or is not there yet"));
        }
        None => {}
    }
    if let Some(refusal) = partition.unseen.as_ref().filter(|_| partition.wrong_types.is_empty()) {
        findings.push(Finding::note("stream.exists", format!("{key} can't be looked at: {refusal}")));
    }
    let Some(look) = &partition.stream else {
        if partition.unseen.is_none() {
            let others = match partition.others.as_slice() {
                [] => "the server has no stream at all".to_owned(),
                others => format!("there are, among others: {}", others.join(", ")),
            };
            let at = loaded.source.at(&["stream", "key"]);
            findings.push(Finding::warning("stream.exists", format!("there is no stream {key}; {others}")).cure(
                format!(
                    "start the producer, or mend {at}: stream.key; a database other than 0 is named in stream.url (…/1)"
                ),
            ));
        }
        return findings;
    };
    let flow = Flow::of(look);
    let rate = match flow.rate_now > 0.0 {
        true => format!("{:.0} a second now", flow.rate_now.ceil()),
        false => format!("none came within {:.1} s", look.between.as_secs_f64()),
    };
    findings.push(Finding::ok(
        "stream.exists",
        format!("{key}: {} entries, {rate}, {:.1} a second over all", look.length, flow.rate_kept),
    ));
    let each =
        partition.sizes.iter().find(|(known, _)| known == key).map_or(0, |(_, bytes)| bytes / look.length.max(1));
    let saved_every = config.engine.checkpoint_every_ms.max(config.stream.lease_ms);
    findings.push(judge_kept(&flow, look.later.0, each, saved_every, config.plugins.rewarm_s * 1000));
    findings.extend(judge_ids(look, &flow));
    findings
}

fn judge_conflict(conflict: &Conflict, needed_by: NeededBy) -> Finding {
    let Conflict { problem, cure } = conflict;
    let finding = match needed_by {
        NeededBy::Everybody => Finding::problem("stream.claims", format!("{problem}; `run` does not start")),
        NeededBy::Shadows => {
            Finding::warning("stream.claims", format!("{problem}; with a shadow `run` does not start"))
        }
    };
    finding.cure(cure)
}

/// `each`: bytes of an entry. `saved_every_ms`: what is younger may have to be read again.
fn judge_kept(flow: &Flow, length: u64, each: u64, saved_every_ms: u64, rewarm_ms: u64) -> Finding {
    let oldest = flow.oldest_ms.map_or_else(String::new, |age| format!("; the oldest is {} old", lasting(age)));
    let Some(kept) = flow.kept_ms else {
        let when = if flow.removed == 0 { "was trimmed so far" } else { "is trimmed now" };
        return Finding::ok("stream.kept", format!("nothing {when}, {length} entries{oldest}"));
    };
    let behind = match flow.behind_ms {
        0 => "everything is worked".to_owned(),
        ms => format!("the oldest entry that is not worked is {} old", lasting(ms)),
    };
    let how = if flow.rate_now > 0.0 { "at this rate entries are trimmed" } else { "entries were last trimmed" };
    let found = format!("about {length} entries are kept: {how} {} after they arrive, {behind}", lasting(kept));
    let hour = (flow.rate() * 3600.0).ceil() as u64;
    let cure = format!(
        "let the producer keep hours, by time: XADD … MINID ~ <now in ms - 4 h>, or by number: MAXLEN ~ {} for 4 h at this rate, about {} of memory",
        hour * 4,
        size(hour * 4 * each)
    );
    let least = flow.behind_ms.saturating_mul(2) + 2 * saved_every_ms;
    match kept {
        kept if kept <= least => {
            Finding::problem("stream.kept", format!("{found}; a short pause of the host loses ticks")).cure(cure)
        }
        kept if kept < STOP_MS => {
            Finding::warning("stream.kept", format!("{found}; a host that stops for longer than that loses ticks"))
                .cure(cure)
        }
        kept if kept < rewarm_ms => Finding::note(
            "stream.kept",
            format!("{found}; a new detector is warmed by that much only, of plugins.rewarm_s = {}", rewarm_ms / 1000),
        ),
        _ => Finding::ok("stream.kept", found),
    }
}

fn judge_ids(look: &StreamLook, flow: &Flow) -> Option<Finding> {
    let newest = look.later.2;
    if look.length == 0 {
        return None;
    }
    let own = "let the server give the ids (XADD key *): the time of arrival is then what it says";
    if newest.millis < TIMES_FROM_MS {
        return Some(
            Finding::warning("clock.ids", format!("the ids of entries are no times ({newest}): `lag_ms`, `stale`, and how long a tick is kept can't be told"))
                .cure(own),
        );
    }
    let (ahead, age) = (newest.millis.saturating_sub(look.now_ms), look.now_ms.saturating_sub(newest.millis));
    let came = flow.rate_now > 0.0;
    Some(match () {
        () if ahead > AHEAD_MAX_MS => Finding::problem(
            "clock.ids",
            format!("the newest id is {} ahead of the server's clock: until then any XADD with * gets an id of that same millisecond, and no alert is ever late", lasting(ahead)),
        )
        .cure(format!("{own}; ids only rise, so the stream has to be begun anew under another key to get rid of it")),
        () if ahead > AHEAD_MS => {
            Finding::warning("clock.ids", format!("the newest id is {} ahead of the server's clock", lasting(ahead))).cure(own)
        }
        () if came && age > BEHIND_MS => Finding::warning(
            "clock.ids",
            format!("entries come in with ids that are {} old: alerts look late by that", lasting(age)),
        )
        .cure(own),
        () => Finding::ok("clock.ids", format!("ids are times of arrival; the newest is {} old", lasting(age))),
    })
}

/// What the newest entries hold.
#[derive(Debug, Default)]
pub(super) struct Sample {
    entries: usize,
    ticks: usize,
    failed: usize,
    /// Why the newest of those failed.
    reason: Option<String>,
    pub(super) symbols: BTreeSet<String>,
    /// From event time to arrival, ms, of each tick that has a time.
    delays_ms: Vec<i64>,
}

impl Sample {
    pub(super) fn ticks_per_entry(&self) -> f64 {
        self.ticks as f64 / self.entries.max(1) as f64
    }
}

pub(super) fn decode(decoder: &mut Decoder, entries: &Entries) -> Sample {
    let mut sample = Sample { entries: entries.len(), ..Sample::default() };
    for entry in entries.iter() {
        let arrival = i64::try_from(entry.id.millis).unwrap_or(i64::MAX);
        let Sample { ticks, symbols, delays_ms, .. } = &mut sample;
        let outcome = decoder.decode(entry, &mut |tick| {
            *ticks += 1;
            symbols.insert(tick.symbol.clone());
            delays_ms.extend(tick.time.map(|time| arrival - (time / 1_000_000) as i64));
        });
        let error = match outcome {
            Err(error) | Ok(tickhound_core::decode::Outcome::Partly(_, error)) => error,
            Ok(_) => continue,
        };
        sample.failed += 1;
        sample.reason.get_or_insert_with(|| error.to_string());
    }
    sample.delays_ms.sort_unstable();
    sample
}

pub(super) fn judge_sample(sample: &Sample, config: &Config) -> Vec<Finding> {
    let Sample { entries, ticks, failed, reason, symbols, delays_ms } = sample;
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
            let found = format!(
                "{failed} of the newest {entries} entries can't be read (preset {preset}), the newest because: {reason}"
            );
            let cure = "input.preset, or own names in [input.map], e.g. price = [\"px\"]; it needs a restart. Then `tickhound dead requeue --all` gives back what was set aside";
            if failed * 2 >= *entries {
                Finding::problem("stream.decode", found)
            } else {
                Finding::warning("stream.decode", found)
            }
            .cure(cure)
        }
    }];
    if *ticks > 0 {
        findings.push(judge_times(delays_ms, *ticks, &config.input.timezone));
    }
    findings
}

fn judge_times(delays_ms: &[i64], ticks: usize, timezone: &str) -> Finding {
    let Some(median) = delays_ms.get(delays_ms.len() / 2).copied() else {
        return Finding::note("clock.events", format!("none of {ticks} ticks has a time of its own; arrival counts"))
            .cure("if the feed has one, name its field: time = [\"…\"] in [input.map]");
    };
    let way = if median < 0 { "ahead of" } else { "behind" };
    let found =
        format!("event times are {} {way} arrival (median of {})", lasting(median.unsigned_abs()), delays_ms.len());
    match median.abs() {
        apart if apart <= APART_MS => Finding::ok("clock.events", found),
        apart if apart > RECORDED_MS => Finding::note("clock.events", format!("{found}: recorded ticks, it seems")),
        // Zones differ by quarters of an hour.
        apart if (apart + 120_000) % 900_000 < 240_000 => {
            Finding::warning("clock.events", format!("{found}: nearly a whole number of quarters of an hour, so input.timezone = \"{timezone}\" may not be the feed's"))
                .cure("set input.timezone to the zone of the times in the feed; detectors cut sessions and bars by it. It needs a restart")
        }
        _ => Finding::warning("clock.events", found).cure("look at the feed's clock, and at how long ticks wait before they are published"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::doctor::Level;
    use tickhound_core::event::EntryId;

    const NOW: u64 = 1_762_141_500_000;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, seq: 0 }
    }

    /// `came` entries within a second, of `length` that are kept for `span` seconds.
    fn look(length: u64, added: u64, came: u64, span: u64) -> StreamLook {
        StreamLook {
            length,
            added: Some(added),
            oldest: Some(id(NOW - span * 1000)),
            newest: id(NOW - 1000),
            later: (length, Some(added + came), id(NOW)),
            between: Duration::from_secs(1),
            now_ms: NOW,
            ..StreamLook::default()
        }
    }

    #[test]
    fn how_long_entries_stay_is_reckoned_at_the_rate_of_now() {
        let flow = Flow::of(&look(9_000, 50_000, 100, 300));
        assert_eq!((flow.rate_now, flow.rate_kept, flow.kept_ms), (100.0, 30.0, Some(90_000)));
        let quiet = Flow::of(&look(9_000, 50_000, 0, 300));
        assert_eq!((quiet.rate(), quiet.kept_ms), (30.0, Some(300_000)));
        let untrimmed = Flow { ..Flow::of(&StreamLook { later: (100, Some(100), id(NOW)), ..look(90, 90, 10, 60) }) };
        // Somebody deleted some once, and now three hundred come and none goes.
        let once = StreamLook { later: (9_300, Some(50_300), id(NOW)), ..look(9_000, 50_000, 0, 300) };
        assert_eq!((Flow::of(&once).trimmed, Flow::of(&once).kept_ms), (false, None));
        assert_eq!((untrimmed.rate_now, untrimmed.trimmed, untrimmed.kept_ms), (10.0, false, None));
    }

    #[test]
    fn retention_is_judged_by_what_a_host_needs() {
        let flow = |kept_s: u64, behind_s: u64| Flow {
            rate_now: 100.0,
            trimmed: true,
            kept_ms: Some(kept_s * 1000),
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
        for (kept, behind, level) in cases {
            let finding = judge_kept(&flow(kept, behind), 9_000, 100, 5_000, 86_400_000);
            assert_eq!(finding.level, level, "{}", finding.found);
        }
        let told = judge_kept(&flow(90, 4), 9_000, 100, 5_000, 86_400_000);
        assert!(told.found.contains("at this rate entries are trimmed 90 s after they arrive"), "{}", told.found);
        assert!(told.cure.unwrap().contains("MAXLEN ~ 1440000 for 4 h"));
        assert_eq!(judge_kept(&Flow::default(), 9, 100, 5_000, 0).level, Level::Ok);
    }

    #[test]
    fn ids_are_compared_with_the_servers_clock() {
        let level = |newest: u64, came: u64| {
            let look = StreamLook { later: (10, Some(10 + came), id(newest)), ..look(10, 10, 0, 60) };
            judge_ids(&look, &Flow::of(&look)).unwrap().level
        };
        assert_eq!(level(NOW, 5), Level::Ok);
        assert_eq!(level(NOW - 3_600_000, 0), Level::Ok);
        assert_eq!(level(NOW - 3_600_000, 5), Level::Warning);
        assert_eq!(level(NOW + 5_000, 5), Level::Warning);
        assert_eq!(level(NOW + 3_600_000, 0), Level::Problem);
        assert_eq!(level(77, 5), Level::Warning);
    }

    #[test]
    fn event_times_show_a_wrong_zone() {
        let level = |delay: i64| judge_times(&[delay], 1, "UTC").level;
        assert_eq!([level(40), level(-59_000), level(100_000_000)], [Level::Ok, Level::Ok, Level::Note]);
        let zone = judge_times(&[-19_799_500], 1, "UTC");
        assert!(zone.level == Level::Warning && zone.found.contains("input.timezone"), "{}", zone.found);
        let late = judge_times(&[400_000], 1, "UTC");
        assert!(late.level == Level::Warning && !late.found.contains("input.timezone"), "{}", late.found);
        assert_eq!(judge_times(&[], 3, "UTC").level, Level::Note);
    }
}
