//! The checkpoint hash: what was committed last, with a seal that shows whether it is intact.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    str::FromStr,
};

use redis::{FromRedisValue, ParsingError, Value};

use crate::{
    resp::Commands,
    seal::{FORM, Sum, Unsealed, seal, unseal},
};
use tickhound_core::{
    event::{Clock, EntryId, TicksBehind},
    rate::AlertRates,
    stream::{Attempt, Commit, CommitId, Totals},
};

/// Identifies one acquisition of the partition. Every commit carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ownership {
    /// The number of the acquisition, as the server counts.
    pub(super) epoch: u64,
    /// A random number, because a server that lost its newest data may count to the same epoch twice.
    pub(super) token: u64,
}

/// The state of the partition as of its last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    /// The newest entry that was committed.
    pub(super) last: Option<EntryId>,
    /// The epoch under which that commit was made.
    pub(super) epoch: u64,
    /// The token of the acquisition under which that commit was made; 0 if a release without tokens made it.
    pub(super) token: u64,
    /// The totals as of that commit.
    pub(super) totals: Totals,
    /// The event time as of that commit.
    pub(super) clock: Clock,
    /// The number of entries ever added to the stream up to the newest, if it is known.
    pub(super) index: Option<u64>,
    /// The mark of a recovery that is not finished.
    pub(super) attempt: Option<Attempt>,
    /// The detectors whose states are all saved, each with the hash that a reader of its states must have; `None` before
    /// the first visit.
    pub(super) complete: Option<BTreeMap<String, u64>>,
    /// Whether `complete` is damaged, so that every detector has to warm up again.
    pub(super) complete_is_damaged: bool,
    /// The hash of the detector that made each detector's states; empty if it was not recorded.
    pub(super) made_by: BTreeMap<String, u64>,
    /// The numbers of recent alerts, for rate limits.
    pub(super) rates: AlertRates,
    /// The time of the commit by the owner's clock, ms since the Unix epoch.
    pub(super) at_ms: u64,
    /// Whether the checkpoint is intact.
    pub(super) integrity: Integrity,
}

/// Whether a checkpoint is intact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Integrity {
    /// The checkpoint is what was written.
    #[default]
    Intact,
    /// The checkpoint is not what was written; the text says how that shows.
    Damaged(String),
    /// A later release wrote the checkpoint, in this form.
    Newer(u32),
}

/// The fields that the seal covers, in this order: those that every commit writes. `entries` and `lost` are not among
/// them, because an adoption raises both; their difference, the number of processed entries, is covered instead.
const SEALED: [&str; 16] = [
    "last",
    "rates",
    "epoch",
    "token",
    "at_ms",
    "commits",
    "alerts",
    "quiet",
    "dead",
    "state_gap",
    "held_back",
    "shadow_alerts",
    "clock_time",
    "clock_unstamped",
    "index",
    "clock_delay_ms",
];

/// The name of the count of detections below `min_confidence`, which the seal does not cover.
const BELOW_MIN_CONFIDENCE: &str = "below_min_confidence";

/// The field with the ticks that are far behind the clock; empty if there are none. It has a seal of its own: without it,
/// a clock that went back is only noticed some ticks later, and an earlier release goes on without knowing it.
const BEHIND: &str = "clock_behind";

/// The name under which the seal covers the number of processed entries.
const PROCESSED: &str = "processed";

impl Checkpoint {
    /// Adds the command that writes the checkpoint of a commit.
    pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, owner: Ownership, at_ms: u64) {
        let Ownership { epoch, token } = owner;
        let Totals { commits, entries, alerts, quiet, shadow_alerts, held_back, dead, lost, state_gap, .. } =
            commit.totals;
        let Clock { time, delay_ms, unstamped, behind } = commit.clock;
        let mut sum = Sum::default();
        commands.arg("HSET").arg(key);
        let mut field = |name: &str, value: &dyn Display| {
            sum.add(name, value);
            commands.arg(name).show(value);
        };
        field("last", &commit.newest);
        field("rates", &commit.rates);
        let numbers = [
            ("epoch", epoch),
            ("token", token),
            ("at_ms", at_ms),
            ("commits", commits),
            ("alerts", alerts),
            ("quiet", quiet),
            ("dead", dead),
            ("state_gap", state_gap),
            ("held_back", held_back),
            ("shadow_alerts", shadow_alerts),
            ("clock_time", time),
            ("clock_unstamped", unstamped),
        ];
        numbers.iter().for_each(|(name, number)| field(name, number));
        field("index", &commit.index.map_or_else(String::new, |index| index.to_string()));
        field("clock_delay_ms", &delay_ms.map_or_else(String::new, |delay| delay.to_string()));
        sum.add(PROCESSED, entries.saturating_sub(lost));
        commands.arg("entries").show(entries).arg("lost").show(lost);
        // A statistic, which earlier releases neither write nor cover with their seal.
        commands.arg(BELOW_MIN_CONFIDENCE).show(commit.totals.below_min_confidence);
        commands.arg(BEHIND).arg(write_behind(behind));
        commands.arg("seal").show(format_args!("v{FORM} {sum} {commits}"));
        if let Some(visit) = &commit.visit {
            for (name, list) in [("complete", &visit.complete), ("made_by", &visit.made_by)] {
                let list: Vec<String> = list.iter().map(|(detector, hash)| format!("{detector}={hash}")).collect();
                commands.arg(name).arg(seal(name, &list.join(",")));
            }
        }
        commands.end();
    }

    /// Whether a stream whose newest id is `newest` is not the stream of the last commit: it was deleted, and its ids
    /// started again below what was processed.
    pub(super) fn is_of_another_stream(&self, newest: EntryId) -> bool {
        self.last.is_some_and(|processed| newest < processed)
    }

    /// The identity of the last commit.
    pub(super) fn commit_id(&self) -> CommitId {
        let newest = self.last.unwrap_or_default();
        CommitId { number: self.totals.commits, epoch: self.epoch, token: self.token, newest }
    }
}

impl FromRedisValue for Checkpoint {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let raw: HashMap<Vec<u8>, Vec<u8>> = redis::from_redis_value(value)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let texts = raw.iter().map(|(name, value)| (text(name), text(value))).collect();
        let mut fields = Fields { texts, unreadable: Vec::new() };
        let (complete, made_by) = (fields.hashes("complete"), fields.hashes("made_by"));
        let mut checkpoint = Self {
            last: fields.read("last"),
            epoch: fields.number("epoch"),
            token: fields.number("token"),
            totals: Totals {
                commits: fields.number("commits"),
                entries: fields.number("entries"),
                alerts: fields.number("alerts"),
                quiet: fields.number("quiet"),
                shadow_alerts: fields.number("shadow_alerts"),
                held_back: fields.number("held_back"),
                below_min_confidence: fields.statistic(BELOW_MIN_CONFIDENCE),
                dead: fields.number("dead"),
                lost: fields.number("lost"),
                state_gap: fields.number("state_gap"),
            },
            clock: Clock {
                time: fields.number("clock_time"),
                delay_ms: fields.read("clock_delay_ms"),
                unstamped: fields.number("clock_unstamped"),
                behind: fields.behind(),
            },
            index: fields.read("index"),
            attempt: fields.attempt(),
            complete_is_damaged: complete == HashList::Damaged,
            complete: complete.into_hashes(),
            made_by: made_by.into_hashes().unwrap_or_default(),
            rates: fields.read("rates").unwrap_or_default(),
            at_ms: fields.number("at_ms"),
            integrity: Integrity::Intact,
        };
        checkpoint.integrity = fields.integrity(&checkpoint);
        Ok(checkpoint)
    }
}

/// The fields of a checkpoint as they are saved.
struct Fields {
    texts: HashMap<String, String>,
    /// The names of fields whose value can't be parsed.
    unreadable: Vec<&'static str>,
}

/// A saved list with a hash for each detector.
#[derive(Debug, PartialEq)]
enum HashList {
    Missing,
    Intact(BTreeMap<String, u64>),
    Damaged,
}

impl Fields {
    /// Parses a field; `None` if it is missing, empty, or unreadable.
    fn read<T: FromStr>(&mut self, name: &'static str) -> Option<T> {
        let value = self.texts.get(name).filter(|text| !text.is_empty())?.parse().ok();
        if value.is_none() {
            self.unreadable.push(name);
        }
        value
    }

    fn number(&mut self, name: &'static str) -> u64 {
        self.read(name).unwrap_or(0)
    }

    /// Parses a count that nothing depends on: if it is damaged, it begins anew, and the checkpoint is still good.
    fn statistic(&self, name: &str) -> u64 {
        self.texts.get(name).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Parses the mark of a recovery. A damaged mark counts as missing: then a recovery that ends the process again and
    /// again is only noticed later.
    fn attempt(&self) -> Option<Attempt> {
        let Unsealed::Intact(text) = unseal("attempt", self.texts.get("attempt")?) else { return None };
        text.parse().ok().filter(|attempt| *attempt != Attempt::NONE)
    }

    /// Parses the ticks behind the clock. If they are damaged, counting them starts again.
    fn behind(&self) -> TicksBehind {
        let text = self.texts.get(BEHIND).filter(|text| !text.is_empty());
        let Some(Unsealed::Intact(text)) = text.map(|text| unseal(BEHIND, text)) else { return TicksBehind::default() };
        let mut numbers = text.split(',').map(|number| number.parse().unwrap_or(0));
        let mut number = || numbers.next().unwrap_or(0);
        TicksBehind { since: number(), time: number(), count: number() }
    }

    fn hashes(&self, name: &str) -> HashList {
        let Some(text) = self.texts.get(name) else { return HashList::Missing };
        let Unsealed::Intact(text) = unseal(name, text) else { return HashList::Damaged };
        let one = |pair: &str| {
            let (detector, hash) = pair.split_once('=')?;
            Some((detector.to_owned(), hash.parse().ok()?))
        };
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        pairs.map(one).collect::<Option<_>>().map_or(HashList::Damaged, HashList::Intact)
    }

    fn integrity(&self, checkpoint: &Checkpoint) -> Integrity {
        let damaged = |what: &str| Integrity::Damaged(what.to_owned());
        let commits = checkpoint.totals.commits;
        if let Some(seal) = self.texts.get("seal") {
            // `v<form> <sum> <number of the commit>`
            let mut words = seal.strip_prefix('v').unwrap_or_default().split(' ');
            let form = words.next().and_then(|form| form.parse::<u32>().ok());
            let (sum, sealed) = (words.next(), words.next().and_then(|commits| commits.parse::<u64>().ok()));
            match (form, sum, sealed) {
                (Some(form), ..) if form > FORM => return Integrity::Newer(form),
                // A release without seals has committed since, and left this one as it was.
                (Some(FORM), Some(_), Some(sealed)) if sealed < commits => {}
                (Some(FORM), Some(sum), Some(_)) if *sum == self.sum(checkpoint).to_string() => {}
                _ => return damaged("its checksum is not that of what it holds"),
            }
        }
        match self.unreadable.first() {
            Some(name) => damaged(&format!("its field `{name}` cannot be read")),
            None if checkpoint.last.is_none() && commits > 0 => damaged("its field `last` is missing"),
            None => Integrity::Intact,
        }
    }

    fn sum(&self, checkpoint: &Checkpoint) -> Sum {
        let mut sum = Sum::default();
        for name in SEALED {
            sum.add(name, self.texts.get(name).map_or("", String::as_str));
        }
        sum.add(PROCESSED, checkpoint.totals.entries.saturating_sub(checkpoint.totals.lost));
        sum
    }
}

fn write_behind(behind: TicksBehind) -> String {
    if behind == TicksBehind::default() {
        return String::new();
    }
    let TicksBehind { since, time, count } = behind;
    seal(BEHIND, &format!("{since},{time},{count}"))
}

impl HashList {
    /// The hashes by detector. A damaged list counts as empty: then every detector warms up again.
    fn into_hashes(self) -> Option<BTreeMap<String, u64>> {
        match self {
            Self::Missing => None,
            Self::Intact(hashes) => Some(hashes),
            Self::Damaged => Some(BTreeMap::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Replies;
    use tickhound_core::checkpoint::Visit;

    const CLOCK: Clock =
        Clock { time: 11, delay_ms: Some(-4), unstamped: 0, behind: TicksBehind { since: 1, time: 2, count: 3 } };

    /// The fields of a checkpoint as a commit writes them.
    fn written() -> BTreeMap<String, String> {
        let visit = Visit { complete: vec![("a".into(), 1)], made_by: vec![("a".into(), 2)], ..Visit::default() };
        let commit = Commit {
            newest: EntryId { millis: 7, seq: 1 },
            totals: Totals {
                commits: 9,
                entries: 20,
                lost: 3,
                alerts: 5,
                below_min_confidence: 6,
                ..Totals::default()
            },
            clock: CLOCK,
            index: Some(21),
            visit: Some(visit),
            ..Commit::default()
        };
        let mut commands = Commands::default();
        Checkpoint::write(&mut commands, "key", &commit, Ownership { epoch: 4, token: 5 }, 13);
        let mut words = Replies::new(commands.get(0));
        let count = words.array().unwrap();
        let words: Vec<String> =
            (0..count).map(|_| String::from_utf8(words.bulk().unwrap().to_vec()).unwrap()).collect();
        words[2..].chunks_exact(2).map(|field| (field[0].clone(), field[1].clone())).collect()
    }

    fn read(fields: &BTreeMap<String, String>) -> Checkpoint {
        let bulk = |text: &String| Value::BulkString(text.clone().into_bytes());
        let value = Value::Map(fields.iter().map(|(name, value)| (bulk(name), bulk(value))).collect());
        redis::from_redis_value(value).unwrap()
    }

    fn is_damaged(fields: &BTreeMap<String, String>) -> bool {
        matches!(read(fields).integrity, Integrity::Damaged(_))
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was() {
        let checkpoint = read(&written());
        assert_eq!(checkpoint.integrity, Integrity::Intact);
        assert_eq!((checkpoint.last, checkpoint.epoch, checkpoint.token), (Some(EntryId { millis: 7, seq: 1 }), 4, 5));
        let totals =
            Totals { commits: 9, entries: 20, lost: 3, alerts: 5, below_min_confidence: 6, ..Totals::default() };
        assert_eq!(checkpoint.totals, totals);
        assert_eq!(checkpoint.clock, CLOCK);
        assert_eq!((checkpoint.index, checkpoint.at_ms), (Some(21), 13));
        assert_eq!(checkpoint.complete, Some(BTreeMap::from([("a".to_owned(), 1)])));
        assert_eq!(checkpoint.made_by, BTreeMap::from([("a".to_owned(), 2)]));
    }

    #[test]
    fn whatever_is_changed_in_a_checkpoint_is_noticed() {
        let others = [BEHIND, BELOW_MIN_CONFIDENCE, "complete", "made_by", "commits"];
        for name in written().keys().filter(|name| !others.contains(&name.as_str())) {
            for other in ["8", "garbage"] {
                let mut fields = written();
                fields.insert(name.clone(), other.to_owned());
                assert!(is_damaged(&fields), "{name} = {other}");
            }
        }
        // Nothing depends on this one: it begins anew.
        let mut fields = written();
        fields.insert(BELOW_MIN_CONFIDENCE.into(), "garbage".into());
        let checkpoint = read(&fields);
        assert_eq!((checkpoint.integrity, checkpoint.totals.below_min_confidence), (Integrity::Intact, 0));
        let mut fields = written();
        fields.insert(BEHIND.into(), "v2 0000000000000000 1,2,3".into());
        let checkpoint = read(&fields);
        assert_eq!((checkpoint.integrity, checkpoint.clock.behind), (Integrity::Intact, TicksBehind::default()));
        let mut fields = written();
        fields.insert("complete".into(), "v2 0000000000000000 a=1".into());
        let checkpoint = read(&fields);
        assert_eq!(checkpoint.integrity, Integrity::Intact, "all that is to be done is to warm up");
        assert_eq!((checkpoint.complete_is_damaged, checkpoint.complete), (true, Some(BTreeMap::new())));
    }

    #[test]
    fn an_adoption_of_entries_breaks_no_seal() {
        let mut fields = written();
        fields.insert("entries".into(), "22".into());
        fields.insert("lost".into(), "5".into());
        assert_eq!(read(&fields).integrity, Integrity::Intact);
    }

    #[test]
    fn a_checkpoint_of_another_release_is_known_as_such() {
        let mut fields = written();
        fields.insert("seal".into(), "v3 whatever".into());
        assert_eq!(read(&fields).integrity, Integrity::Newer(3));
        // An earlier release has gone on from here: it leaves the seal as it is.
        let mut fields = written();
        fields.insert("commits".into(), "10".into());
        fields.insert("last".into(), "8-0".into());
        assert_eq!(read(&fields).integrity, Integrity::Intact);
        // It has begun.
        fields.remove("seal");
        fields.insert("complete".into(), "a=1".into());
        let checkpoint = read(&fields);
        assert_eq!(
            (checkpoint.integrity, checkpoint.complete),
            (Integrity::Intact, Some(BTreeMap::from([("a".into(), 1)])))
        );
        fields.remove("last");
        assert!(is_damaged(&fields), "there were commits, and nobody knows up to where");
    }
}
