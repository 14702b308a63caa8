//! What the server's answers mean.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    str::FromStr,
};

use redis::{FromRedisValue, ParsingError, Value};

use super::{
    resp::{Commands, Item, Replies, Unexpected},
    seal::{FORM, Sum, Unsealed, seal, unseal},
    wire::refused,
};
use tickhound_core::{
    event::{Clock, Entries, EntryId, NotAnEntryId},
    rate::Rates,
    stream::{Attempt, Commit, CommitId, Extent, StreamError, Totals},
};

/// What commits are made under.
#[derive(Clone, Copy, Debug)]
pub(super) struct AcquireReply {
    /// Its number, as the server counts.
    pub(super) epoch: u64,
    /// Drawn at random: a server that has gone back may count to the same number twice.
    pub(super) token: u64,
}

/// The checkpoint hash: what was committed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    /// The newest entry that was committed.
    pub(super) last: Option<EntryId>,
    /// Epoch under which that commit was made.
    pub(super) epoch: u64,
    /// Token of the acquisition under which that commit was made; 0 if a release without tokens made it.
    pub(super) token: u64,
    /// Totals as of that commit.
    pub(super) totals: Totals,
    /// Event time as of that commit.
    pub(super) clock: Clock,
    /// Entries ever added to the stream up to the newest, if known.
    pub(super) index: Option<u64>,
    /// The mark of a recovery that has not come to its end.
    pub(super) attempt: Option<Attempt>,
    /// Detectors whose states are all saved, with what must be the same to read them; `None` if no visit was ever made.
    pub(super) complete: Option<BTreeMap<String, u64>>,
    /// Whether that list is damaged, so that nothing is known of any detector.
    pub(super) complete_is_damaged: bool,
    /// What each detector was, that its states were made by; empty if that was not written down.
    pub(super) made_by: BTreeMap<String, u64>,
    /// What has been raised of late.
    pub(super) rates: Rates,
    /// When the commit was made, ms since the Unix epoch, by the owner's clock.
    pub(super) at_ms: u64,
    /// Whether all this can be relied on.
    pub(super) integrity: Integrity,
}

/// Whether a checkpoint can be relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Integrity {
    /// It is what was written.
    #[default]
    Sound,
    /// It is not what was written; what shows that.
    Damaged(String),
    /// A later release wrote it, in this form.
    Newer(u32),
}

/// What the seal of a checkpoint is about, in this order: all that every commit writes. `entries` and `lost` are not in
/// it themselves, since an adoption raises both; their difference, what was processed, is.
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
const PROCESSED: &str = "processed";

impl Checkpoint {
    /// The command that writes it.
    pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, owner: AcquireReply, at_ms: u64) {
        let AcquireReply { epoch, token } = owner;
        let Totals { commits, entries, alerts, quiet, shadow_alerts, held_back, dead, lost, state_gap } = commit.totals;
        let Clock { time, delay_ms, unstamped } = commit.clock;
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
        commands.arg("seal").show(format_args!("v{FORM} {sum} {commits}"));
        if let Some(visit) = &commit.visit {
            for (name, list) in [("complete", &visit.complete), ("made_by", &visit.made_by)] {
                let list: Vec<String> = list.iter().map(|(detector, hash)| format!("{detector}={hash}")).collect();
                commands.arg(name).arg(seal(name, &list.join(",")));
            }
        }
        commands.end();
    }
}

impl Checkpoint {
    /// Whether a stream whose newest id is this one is another than that of the last commit: it was deleted, and began
    /// anew below what was processed.
    pub(super) fn is_of_another_stream(&self, newest: EntryId) -> bool {
        self.last.is_some_and(|processed| newest < processed)
    }

    /// What tells the last commit from every other.
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
                dead: fields.number("dead"),
                lost: fields.number("lost"),
                state_gap: fields.number("state_gap"),
            },
            clock: Clock {
                time: fields.number("clock_time"),
                delay_ms: fields.read("clock_delay_ms"),
                unstamped: fields.number("clock_unstamped"),
            },
            index: fields.read("index"),
            attempt: fields.attempt(),
            complete_is_damaged: complete == Hashes::Damaged,
            complete: complete.known(),
            made_by: made_by.known().unwrap_or_default(),
            rates: fields.read("rates").unwrap_or_default(),
            at_ms: fields.number("at_ms"),
            integrity: Integrity::Sound,
        };
        checkpoint.integrity = fields.integrity(&checkpoint);
        Ok(checkpoint)
    }
}

/// The fields of a checkpoint as they are saved.
struct Fields {
    texts: HashMap<String, String>,
    /// Those that are there, and are not what they should be.
    unreadable: Vec<&'static str>,
}

/// A number for each detector.
#[derive(Debug, PartialEq)]
enum Hashes {
    Missing,
    Known(BTreeMap<String, u64>),
    Damaged,
}

impl Fields {
    /// `None` if it is not there, empty, or unreadable.
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

    /// Without it a recovery that ends the process again and again is noticed later, and nothing else is wrong.
    fn attempt(&self) -> Option<Attempt> {
        let Unsealed::Whole(text) = unseal("attempt", self.texts.get("attempt")?) else { return None };
        text.parse().ok().filter(|attempt| *attempt != Attempt::NONE)
    }

    fn hashes(&self, name: &str) -> Hashes {
        let Some(text) = self.texts.get(name) else { return Hashes::Missing };
        let Unsealed::Whole(text) = unseal(name, text) else { return Hashes::Damaged };
        let one = |pair: &str| {
            let (detector, hash) = pair.split_once('=')?;
            Some((detector.to_owned(), hash.parse().ok()?))
        };
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        pairs.map(one).collect::<Option<_>>().map_or(Hashes::Damaged, Hashes::Known)
    }

    fn integrity(&self, checkpoint: &Checkpoint) -> Integrity {
        let damaged = |what: &str| Integrity::Damaged(what.to_owned());
        let commits = checkpoint.totals.commits;
        if let Some(seal) = self.texts.get("seal") {
            let mut words = seal.strip_prefix('v').unwrap_or_default().split(' ');
            let form = words.next().and_then(|form| form.parse::<u32>().ok());
            let (sum, sealed) = (words.next(), words.next().and_then(|commits| commits.parse::<u64>().ok()));
            match (form, sum, sealed) {
                (Some(form), ..) if form > FORM => return Integrity::Newer(form),
                // A release that knows of no seal has committed since.
                (Some(FORM), Some(_), Some(sealed)) if sealed < commits => {}
                (Some(FORM), Some(sum), Some(_)) if *sum == self.sum(checkpoint).to_string() => {}
                _ => return damaged("its checksum is not that of what it holds"),
            }
        }
        match self.unreadable.first() {
            Some(name) => damaged(&format!("its field `{name}` cannot be read")),
            None if checkpoint.last.is_none() && commits > 0 => damaged("its field `last` is missing"),
            None => Integrity::Sound,
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

impl Hashes {
    /// Of a damaged list nothing is known of any detector.
    fn known(self) -> Option<BTreeMap<String, u64>> {
        match self {
            Self::Missing => None,
            Self::Known(known) => Some(known),
            Self::Damaged => Some(BTreeMap::new()),
        }
    }
}

/// The entries in the answer to a read of one stream; nil means none.
pub(super) fn parse_read(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    for _ in 0..replies.array()? {
        if replies.array()? != 2 {
            return Err(Unexpected("no stream with its entries").into());
        }
        replies.bulk()?;
        replies.entries(&mut entries)?;
    }
    Ok(entries)
}

/// The entries in the answer to `XRANGE`.
pub(super) fn parse_entries(replies: &mut Replies<'_>) -> Result<Entries, StreamError> {
    let mut entries = Entries::default();
    if let Item::Error(error) = replies.clone().item()? {
        return Err(refused(error));
    }
    replies.entries(&mut entries)?;
    Ok(entries)
}

/// The same in the client crate's form, for looks at a few.
pub fn entries_of(range: Value) -> Result<Entries, String> {
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let list: Vec<(String, Fields)> = redis::from_redis_value(range).map_err(|error| error.to_string())?;
    let mut entries = Entries::default();
    for (id, fields) in list {
        entries.push_entry(id.parse().map_err(|error: NotAnEntryId| error.to_string())?);
        fields.iter().for_each(|(name, value)| entries.push_field(name, value));
    }
    Ok(entries)
}

/// The newest entry, and how much the stream has held, which servers before 7.0 don't tell; in the answer to
/// `XINFO STREAM`.
pub(super) fn parse_extent(
    replies: &mut Replies<'_>,
    alone: bool,
) -> Result<(Option<EntryId>, Option<Extent>), Unexpected> {
    let (mut newest, mut added, mut length) = (None, None, None);
    for _ in 0..replies.array()? / 2 {
        let found = match replies.bulk()? {
            b"entries-added" => &mut added,
            b"length" => &mut length,
            b"last-generated-id" => {
                newest = std::str::from_utf8(replies.bulk()?).ok().and_then(|id| id.parse().ok());
                continue;
            }
            _ => {
                replies.skip()?;
                continue;
            }
        };
        if let Item::Int(count) = replies.item()? {
            *found = u64::try_from(count).ok();
        }
    }
    let extent = added.zip(length);
    Ok((newest, extent.map(|(added, length)| Extent { added, removed: added.saturating_sub(length), alone })))
}

/// The newest id that the stream has given out, in the answer to `XINFO STREAM`.
pub(super) fn newest(info: &Value) -> Option<EntryId> {
    field(info, "last-generated-id").and_then(text)?.parse().ok()
}

/// The newest entry that is pending under any name, in the answer to `XPENDING` without a range.
pub(super) fn newest_pending(summary: &Value) -> Option<EntryId> {
    text(items(summary).get(2)?)?.parse().ok()
}

/// The oldest entry, in the answer to `XINFO STREAM`.
pub(super) fn oldest(info: &Value) -> Option<EntryId> {
    items(field(info, "first-entry")?).first().and_then(text)?.parse().ok()
}

/// How much the stream has held, in the answer to `XINFO STREAM`; servers before 7.0 don't tell.
pub(super) fn extent(info: &Value, alone: bool) -> Option<Extent> {
    let added = number(field(info, "entries-added")?)?;
    let length = number(field(info, "length")?)?;
    Some(Extent { added, removed: added.saturating_sub(length), alone })
}

/// `last-delivered-id` of `group` in the answer to `XINFO GROUPS`.
pub(super) fn last_delivered(groups: &Value, group: &str) -> Option<EntryId> {
    let found = items(groups).iter().find(|info| field(info, "name").and_then(text) == Some(group))?;
    field(found, "last-delivered-id").and_then(text)?.parse().ok()
}

/// A consumer of a group.
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) pending: u64,
    pub(super) idle_ms: u64,
}

/// The answer to `XINFO CONSUMERS`.
pub(super) fn consumers(list: &Value) -> impl Iterator<Item = Consumer> {
    items(list).iter().filter_map(|info| {
        let name = field(info, "name").and_then(text)?.to_owned();
        let count = |name| field(info, name).and_then(number);
        Some(Consumer { name, pending: count("pending")?, idle_ms: count("idle")? })
    })
}

/// The value behind `name` in a flat list of names and values.
pub(super) fn field<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    items(list).chunks_exact(2).find(|pair| text(&pair[0]) == Some(name)).map(|pair| &pair[1])
}

/// The id of the first entry in the answer to `XRANGE`.
pub(super) fn first_id(range: &Value) -> Option<EntryId> {
    items(items(range).first()?).first().and_then(text)?.parse().ok()
}

/// The text of the first item of a list.
pub(super) fn first_text(list: &Value) -> Option<&str> {
    items(list).first().and_then(text)
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => text(value)?.parse().ok(),
    }
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::checkpoint::Visit;

    /// The fields of a checkpoint as a commit writes them.
    fn written() -> BTreeMap<String, String> {
        let visit = Visit { complete: vec![("a".into(), 1)], made_by: vec![("a".into(), 2)], ..Visit::default() };
        let commit = Commit {
            newest: EntryId { millis: 7, seq: 1 },
            totals: Totals { commits: 9, entries: 20, lost: 3, alerts: 5, ..Totals::default() },
            clock: Clock { time: 11, delay_ms: Some(-4), unstamped: 0 },
            index: Some(21),
            visit: Some(visit),
            ..Commit::default()
        };
        let mut commands = Commands::default();
        Checkpoint::write(&mut commands, "key", &commit, AcquireReply { epoch: 4, token: 5 }, 13);
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
        assert_eq!(checkpoint.integrity, Integrity::Sound);
        assert_eq!((checkpoint.last, checkpoint.epoch, checkpoint.token), (Some(EntryId { millis: 7, seq: 1 }), 4, 5));
        assert_eq!(checkpoint.totals, Totals { commits: 9, entries: 20, lost: 3, alerts: 5, ..Totals::default() });
        assert_eq!(checkpoint.clock, Clock { time: 11, delay_ms: Some(-4), unstamped: 0 });
        assert_eq!((checkpoint.index, checkpoint.at_ms), (Some(21), 13));
        assert_eq!(checkpoint.complete, Some(BTreeMap::from([("a".to_owned(), 1)])));
        assert_eq!(checkpoint.made_by, BTreeMap::from([("a".to_owned(), 2)]));
    }

    #[test]
    fn whatever_is_changed_in_a_checkpoint_is_noticed() {
        for name in written().keys().filter(|name| !["complete", "made_by", "commits"].contains(&name.as_str())) {
            for other in ["8", "garbage"] {
                let mut fields = written();
                fields.insert(name.clone(), other.to_owned());
                assert!(is_damaged(&fields), "{name} = {other}");
            }
        }
        let mut fields = written();
        fields.insert("complete".into(), "v2 0000000000000000 a=1".into());
        let checkpoint = read(&fields);
        assert_eq!(checkpoint.integrity, Integrity::Sound, "all that is to be done is to warm up");
        assert_eq!((checkpoint.complete_is_damaged, checkpoint.complete), (true, Some(BTreeMap::new())));
    }

    #[test]
    fn an_adoption_of_entries_breaks_no_seal() {
        let mut fields = written();
        fields.insert("entries".into(), "22".into());
        fields.insert("lost".into(), "5".into());
        assert_eq!(read(&fields).integrity, Integrity::Sound);
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
        assert_eq!(read(&fields).integrity, Integrity::Sound);
        // It has begun.
        fields.remove("seal");
        fields.insert("complete".into(), "a=1".into());
        let checkpoint = read(&fields);
        assert_eq!(
            (checkpoint.integrity, checkpoint.complete),
            (Integrity::Sound, Some(BTreeMap::from([("a".into(), 1)])))
        );
        fields.remove("last");
        assert!(is_damaged(&fields), "there were commits, and nobody knows up to where");
    }
}
