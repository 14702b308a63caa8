//! Everything that a run gives out, held against an undisturbed run and against itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
};

use serde_json::{Value, json};
use tickhound_core::event::EntryId;

use super::changes::{Chains, Changes, without_changes};
use crate::{
    notify::{receiver::Request, untold},
    support::{
        ALERTS, Alert, DEAD, Difference, Project, REFERENCE_ALERTS, REFERENCE_DEAD, Redis, SHADOW_ALERTS, STREAM,
        difference,
    },
};

const REFERENCE_SHADOWS: &str = "alerts:reference:shadow";

/// The file of JSON lines, in the project's folder.
pub const LINES: &str = "alerts.jsonl";

/// The detectors whose alerts the receiver gets: they alert seldom enough for a message to show all.
pub const TOLD_OF: [&str; 2] = ["breakout", "momentum"];

/// In what order entries were processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In that of the stream.
    Kept,
    /// Some later, as another consumer had been given them: what detectors found depends on when that was.
    Disturbed,
}

/// What is wrong with the JSON lines; all 0 when nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Lines that are not one JSON object with an id each.
    pub torn: usize,
    /// Ids of alerts that the stream does not have.
    pub unknown: Vec<String>,
    /// Alerts that the stream has, and the file lacks.
    pub missing: usize,
    /// Lines of alerts that an earlier line has already.
    pub twice: usize,
    /// Lines that are not where their alerts are in the stream.
    pub displaced: usize,
}

/// What is wrong with the notifications; all 0 when nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Alerts that came in another message already.
    pub twice: usize,
    /// Alerts that are neither in a message nor counted in one.
    pub untold: usize,
}

/// All of it.
#[derive(Debug)]
pub struct Outputs {
    pub alerts: Difference,
    pub shadows: Difference,
    pub chains: Chains,
    pub dead_are_the_same: bool,
    pub lines: Lines,
    pub notified: Notified,
    /// Counters that are not what the streams hold: name, counter, what it should be.
    pub totals: Vec<(&'static str, u64, u64)>,
}

impl Outputs {
    /// After the reference run has been over the same entries.
    pub fn read(redis: &Redis, project: &Project, order: Order, changes: &Changes, requests: &[Request]) -> Self {
        let chains = [ALERTS, SHADOW_ALERTS].map(|stream| changes.check(redis.paged(stream)));
        let [live, shadows] = chains;
        let chains = Chains {
            alerts: live.alerts + shadows.alerts,
            witnessed: live.witnessed,
            in_force: live.in_force.min(shadows.in_force),
            reread: live.reread + shadows.reread,
            broken: live.broken + shadows.broken,
            turned_back: live.turned_back + shadows.turned_back,
            first: live.first.or(shadows.first),
        };
        Self {
            alerts: compared(redis, order, ALERTS, REFERENCE_ALERTS),
            shadows: compared(redis, order, SHADOW_ALERTS, REFERENCE_SHADOWS),
            chains,
            dead_are_the_same: dead(redis, order, DEAD) == dead(redis, order, REFERENCE_DEAD),
            lines: Lines::read(redis, project),
            notified: Notified::of(redis, requests),
            totals: wrong_totals(redis),
        }
    }

    /// Entries of which the probe's alerts are missing: what to look for in the logs.
    pub fn missing(redis: &Redis) -> Vec<String> {
        let probes = |stream| redis.paged(stream).filter(|alert| alert["detector"] == "probe");
        let found: BTreeSet<String> = probes(ALERTS).map(|mut alert| alert.remove("entry").unwrap()).collect();
        probes(REFERENCE_ALERTS)
            .map(|mut alert| alert.remove("entry").unwrap())
            .filter(|id| !found.contains(id))
            .collect()
    }

    /// All of it as numbers; `null` is what can't be compared after entries were processed in another order.
    pub fn account(&self, order: Order) -> Value {
        let Self { alerts, shadows, chains, dead_are_the_same, lines, notified, totals } = self;
        let Difference { lost, twice, extra, different, displaced, .. } = alerts;
        let compared = |count: &usize| (order == Order::Kept).then_some(*count);
        json!({
            "lost": lost, "twice": twice, "extra": extra, "different": compared(different), "displaced": compared(displaced),
            "dead_are_the_same": dead_are_the_same,
            "shadows_wrong": shadows.lost + shadows.twice + shadows.extra + shadows.different + shadows.displaced,
            "probed": chains.alerts, "witnessed": chains.witnessed, "changes_in_force": chains.in_force, "reread_by_new_code": chains.reread,
            "chains_broken": chains.broken, "changes_turned_back": chains.turned_back,
            "lines_torn": lines.torn, "lines_unknown": lines.unknown.len(), "lines_missing": lines.missing,
            "lines_twice": lines.twice, "lines_displaced": lines.displaced, "told_twice": notified.twice,
            "untold": notified.untold,
            "totals_wrong": totals.len(),
        })
    }
}

/// In what alerts differ from those of the undisturbed run. Where the order was disturbed only the probe's can be
/// compared, and of them only whether each is there once.
fn compared(redis: &Redis, order: Order, stream: &str, reference: &str) -> Difference {
    let comparable = |alert: Alert| match order {
        _ if alert["detector"] == "spare" => None,
        Order::Kept => Some(without_changes(alert)),
        Order::Disturbed => (alert["plugin"] == "probe").then(|| {
            let fields = [("id", alert["id"].clone()), ("entry", EntryId::ZERO.to_string())];
            fields.map(|(name, value)| (name.to_owned(), value)).into()
        }),
    };
    difference(redis.paged(stream).filter_map(comparable), redis.paged(reference).filter_map(comparable))
}

fn dead(redis: &Redis, order: Order, key: &str) -> Vec<Alert> {
    let mut letters: Vec<Alert> = redis.paged(key).collect();
    if order == Order::Disturbed {
        letters.sort_by_key(|letter| letter["entry"].parse::<EntryId>().unwrap());
    }
    letters
}

impl Lines {
    fn read(redis: &Redis, project: &Project) -> Self {
        let places: HashMap<String, usize> =
            redis.paged(ALERTS).enumerate().map(|(place, mut alert)| (alert.remove("id").unwrap(), place)).collect();
        let text = fs::read_to_string(project.path(LINES)).unwrap_or_default();
        let (mut found, mut seen, mut next) = (Self::default(), BTreeSet::new(), 0);
        for line in text.lines() {
            let line = serde_json::from_str::<Value>(line).ok();
            let Some(id) = line.and_then(|line| Some(line["id"].as_str()?.to_owned())) else {
                found.torn += 1;
                continue;
            };
            let Some(place) = places.get(&id).copied() else {
                found.unknown.push(id);
                continue;
            };
            found.displaced += usize::from(place < next);
            next = place + 1;
            found.twice += usize::from(!seen.insert(place));
        }
        found.torn += usize::from(!text.is_empty() && !text.ends_with('\n'));
        found.missing = places.len() - seen.len();
        found
    }
}

impl Notified {
    fn of(redis: &Redis, requests: &[Request]) -> Self {
        let told: Vec<String> = requests.iter().flat_map(Request::ids).collect();
        let unique: BTreeSet<&String> = told.iter().collect();
        let untold = untold(wanted(redis), requests).len();
        // What is too old, or does not fit into a message, is told by its number; a message that was repeated tells it once.
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let counts = requests.iter().filter_map(|Request { body, .. }| {
            Some((body["key"].as_str()?, number(&body["older"]["count"]) + number(&body["more"])))
        });
        let counted: u64 = counts.collect::<BTreeMap<_, _>>().into_values().sum();
        Self { twice: told.len() - unique.len(), untold: untold.saturating_sub(counted as usize) }
    }
}

/// Alerts that the receiver is to be told of: their id in the stream, and their own.
fn wanted(redis: &Redis) -> Vec<(EntryId, String)> {
    let wanted = redis.stream_entries(ALERTS).into_iter();
    let wanted = wanted.filter(|(_, alert)| TOLD_OF.contains(&alert["detector"].as_str()));
    wanted.map(|(at, mut alert)| (at.parse().unwrap(), alert.remove("id").unwrap())).collect()
}

/// The counters that do not add up to what the streams hold.
fn wrong_totals(redis: &Redis) -> Vec<(&'static str, u64, u64)> {
    let touched: BTreeSet<String> = [ALERTS, DEAD]
        .into_iter()
        .flat_map(|key| redis.paged(key).map(|mut entry| entry.remove("entry").unwrap()).collect::<Vec<_>>())
        .collect();
    let entries = redis.length(STREAM);
    let expected = [
        ("entries", entries),
        ("alerts", redis.length(ALERTS)),
        ("shadow_alerts", redis.length(SHADOW_ALERTS)),
        ("dead", redis.length(DEAD)),
        ("quiet", entries.saturating_sub(touched.len() as u64)),
        ("lost", 0),
        ("state_gap", 0),
        ("held_back", 0),
    ];
    let totals = redis.totals();
    let found = expected.map(|(name, expected)| (name, totals.get(name).copied().unwrap_or(0), expected));
    found.into_iter().filter(|(_, found, expected)| found != expected).collect()
}
