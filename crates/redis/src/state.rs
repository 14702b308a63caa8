//! The saved states, in a hash beside the stream, and the venues of symbols, in another one.
//!
//! The field `c:<chunk>` holds the boundary of a chunk, `s:<symbol>` a packed state of a symbol or group,
//! `b:<entry>:<chunks>` what the owners of these chunks depend on, and `p:<entry>` marks an entry that must not be processed
//! again. What holds: fields are written inside a step, so they belong to its commit, and only the
//! owner writes them. Each has a form and a checksum. What a later release wrote is never overwritten.

use std::collections::{BTreeSet, HashMap, HashSet};

use redis::{aio::MultiplexedConnection, cmd};
use tracing::warn;

use crate::{
    checkpoint::{Checkpoint, Integrity},
    connection::query,
    keys::Keys,
    resp::Commands,
    seal::{Unsealed, seal, unseal},
};
use tickhound_core::{
    checkpoint::{BasesField, Boundary, CHUNKS, LastVisit, SavedStates, chunk_of, newer_form},
    event::{Clock, EntryId, TicksBehind},
    receipt::Receipt,
    stream::{Commit, StreamError},
    venue::is_venue,
};

/// About so many fields are read in one request, which are some megabytes of states.
const SCAN_PAGE: usize = 1000;

/// Adds the commands that save the states of a commit's visit.
pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, at_ms: u64) {
    let Some(visit) = &commit.visit else { return };
    let boundary = Boundary {
        newest: commit.newest,
        processed: commit.totals.entries - commit.totals.lost,
        clock: commit.clock,
        at_ms,
    };
    let boundary = to_text(&boundary);
    commands.arg("HSET").arg(key);
    for chunk in visit.chunks.clone() {
        let field = format!("c:{chunk}");
        commands.arg(&field).arg(seal(&field, &boundary));
    }
    for (symbol, packed) in &visit.symbols {
        commands.show(format_args!("s:{symbol}")).arg(packed);
    }
    if let Some((field, packed)) = &visit.bases {
        commands.arg(bases_field(field)).arg(packed);
    }
    commands.end();
    if !visit.obsolete.is_empty() {
        commands.arg("HDEL").arg(key);
        for field in &visit.obsolete {
            commands.arg(bases_field(field));
        }
        commands.end();
    }
    // A symbol that was forgotten and traded again before this visit has a new state, which is written above.
    let traded_again: HashSet<&str> = if visit.forgotten.is_empty() {
        HashSet::new()
    } else {
        visit.symbols.iter().map(|(symbol, _)| &**symbol).collect()
    };
    let forgotten: Vec<&String> =
        visit.forgotten.iter().filter(|symbol| !traded_again.contains(symbol.as_str())).collect();
    if !forgotten.is_empty() || !visit.passed.is_empty() {
        commands.arg("HDEL").arg(key);
        for symbol in forgotten {
            commands.show(format_args!("s:{symbol}"));
        }
        for id in &visit.passed {
            commands.show(format_args!("p:{id}"));
        }
        commands.end();
    }
}

/// Adds the commands that save the venues of a commit's visit: as of the same entry as the states.
pub(super) fn write_venues(commands: &mut Commands, key: &str, commit: &Commit) {
    let Some(visit) = &commit.visit else { return };
    if !visit.venues.is_empty() {
        commands.arg("HSET").arg(key);
        for (symbol, venue) in &visit.venues {
            commands.arg(&**symbol).arg(seal(symbol, venue));
        }
        commands.end();
    }
    let with_venue: HashSet<&str> = visit.venues.iter().map(|(symbol, _)| &**symbol).collect();
    let mut forgotten = visit.forgotten.iter().filter(|symbol| !with_venue.contains(symbol.as_str())).peekable();
    if forgotten.peek().is_some() {
        commands.arg("HDEL").arg(key);
        for symbol in forgotten {
            commands.arg(symbol);
        }
        commands.end();
    }
}

/// Adds the commands that mark entries which must not be processed again.
pub(super) fn write_poison(commands: &mut Commands, key: &str, poison: &[EntryId]) {
    for id in poison {
        let field = format!("p:{id}");
        commands.arg("HSET").arg(key).arg(&field).arg(seal(&field, "1"));
        commands.end();
    }
}

/// Reads the checkpoint.
///
/// # Errors
/// Also when the checkpoint is damaged, or was written by a later release: to continue from anything else would process
/// the stream from its beginning, or overwrite what another release needs.
pub(super) async fn read_checkpoint(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<Checkpoint, StreamError> {
    let checkpoint: Checkpoint = query(connection, cmd("HGETALL").arg(&keys.checkpoint)).await?;
    match &checkpoint.integrity {
        Integrity::Intact => Ok(checkpoint),
        Integrity::Newer(form) => Err(newer_release(&keys.checkpoint, *form)),
        Integrity::Damaged(what) => Err(StreamError::Misconfigured(format!(
            "the key {key} is damaged: {what}. It records the last commit, so nothing is processed. Restore it from a \
             backup, or continue after the last entry that the group was given, with detectors that start cold: \
             DEL {key} {state}",
            key = keys.checkpoint,
            state = keys.state,
        ))),
    }
}

/// Reads all saved states.
///
/// # Errors
/// Also when a later release wrote one of them.
pub(super) async fn read_saved(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<SavedStates, StreamError> {
    let mut fields = SavedFields::default();
    let mut cursor = 0u64;
    loop {
        let mut scan = cmd("HSCAN");
        scan.arg(&keys.state).arg(cursor).arg("COUNT").arg(SCAN_PAGE);
        let (next, page): (u64, Vec<(String, Vec<u8>)>) = query(connection, &scan).await?;
        page.into_iter().for_each(|(field, value)| fields.add(&field, value));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    if let Some(form) = fields.newer {
        return Err(newer_release(&keys.state, form));
    }
    let venues: HashMap<String, String> = query(connection, cmd("HGETALL").arg(&keys.venues)).await?;
    let venues = read_venues(venues, &keys.venues)?;
    Ok(SavedStates { venues, last_tick_ms: last_tick_ms(connection, keys).await, ..fields.into_states() })
}

/// Reads all saved states beside their owner, who may save others meanwhile: those of a chunk in one request with its boundary,
/// so that they belong together.
///
/// # Errors
/// Also when a later release wrote one of them.
pub(super) async fn read_observed(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> Result<SavedStates, StreamError> {
    let mut chunks: Vec<Vec<String>> = (0..CHUNKS).map(|chunk| vec![format!("c:{chunk}")]).collect();
    let mut others = Vec::new();
    for name in query::<Vec<String>>(connection, cmd("HKEYS").arg(&keys.state)).await? {
        match name.split_at_checked(2) {
            Some(("s:", symbol)) => chunks[usize::from(chunk_of(symbol))].push(name),
            Some(("c:", _)) | None => {}
            Some(_) => others.push(name),
        }
    }
    let mut fields = SavedFields::default();
    // What the states of a boundary depend on is deleted with the boundary, so it is read first; and once more, since chunks may
    // have got new boundaries meanwhile.
    for names in std::iter::once(others).chain(chunks) {
        read_fields(connection, keys, &names, &mut fields).await?;
    }
    let mut names: Vec<String> = query(connection, cmd("HKEYS").arg(&keys.state)).await?;
    names.retain(|name| name.starts_with("b:"));
    read_fields(connection, keys, &names, &mut fields).await?;
    if let Some(form) = fields.newer {
        return Err(newer_release(&keys.state, form));
    }
    let venues: HashMap<String, String> = query(connection, cmd("HGETALL").arg(&keys.venues)).await?;
    let venues = read_venues(venues, &keys.venues)?;
    Ok(SavedStates { venues, ..fields.into_states() })
}

/// Reads fields in one request.
async fn read_fields(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    names: &[String],
    fields: &mut SavedFields,
) -> Result<(), StreamError> {
    if names.is_empty() {
        return Ok(());
    }
    let values: Vec<Option<Vec<u8>>> = query(connection, cmd("HMGET").arg(&keys.state).arg(names)).await?;
    for (name, value) in names.iter().zip(values) {
        value.into_iter().for_each(|value| fields.add(name, value));
    }
    Ok(())
}

/// When the owner before committed the last tick, as its receipt says. A receipt that can't be read is like a missing one:
/// nothing is processed by it.
async fn last_tick_ms(connection: &mut MultiplexedConnection, keys: &Keys) -> Option<u64> {
    let receipt: Option<String> = query(connection, cmd("GET").arg(&keys.host)).await.ok()?;
    serde_json::from_str::<Receipt>(&receipt?).ok()?.last_tick_ms
}

/// The symbols with the venues that were saved. A damaged one is not known: the next tick that names a venue gives the
/// symbol one.
fn read_venues(saved: HashMap<String, String>, key: &str) -> Result<Vec<(String, String)>, StreamError> {
    let mut venues = Vec::with_capacity(saved.len());
    for (symbol, sealed) in saved {
        match unseal(&symbol, &sealed) {
            Unsealed::Intact(venue) if is_venue(venue) => venues.push((symbol.clone(), venue.to_owned())),
            Unsealed::Intact(_) | Unsealed::Damaged => {}
            Unsealed::Newer(form) => return Err(newer_release(key, form)),
        }
    }
    Ok(venues)
}

/// The fields of the state hash that were read so far. A scan may return a field twice.
#[derive(Default)]
struct SavedFields {
    visits: HashMap<u16, LastVisit>,
    symbols: HashMap<String, Vec<u8>>,
    poison: BTreeSet<EntryId>,
    bases: HashMap<String, (BasesField, Vec<u8>)>,
    /// The form of a field that a later release wrote.
    newer: Option<u32>,
}

impl SavedFields {
    fn add(&mut self, field: &str, value: Vec<u8>) {
        match field.split_at_checked(2) {
            Some(("s:", symbol)) => {
                self.newer = self.newer.or(newer_form(&value));
                self.symbols.insert(symbol.to_owned(), value);
            }
            Some(("c:", chunk)) => {
                let (visit, form) = last_visit(field, &value);
                self.newer = self.newer.or(form);
                self.visits.extend(chunk.parse().ok().map(|chunk: u16| (chunk, visit)));
            }
            Some(("b:", name)) => {
                self.newer = self.newer.or(newer_form(&value));
                if let Some(field) = to_bases_field(name) {
                    self.bases.insert(name.to_owned(), (field, value));
                }
            }
            Some(("p:", id)) => {
                self.check_poison_mark(field, &value);
                self.poison.extend(id.parse::<EntryId>().ok());
            }
            _ => {}
        }
    }

    /// A damaged mark still excludes its entry, because the id is in the name of the field.
    fn check_poison_mark(&mut self, field: &str, value: &[u8]) {
        match unseal(field, &String::from_utf8_lossy(value)) {
            Unsealed::Intact(_) => {}
            Unsealed::Damaged => {
                warn!(
                    event = "poison_mark_damaged",
                    %field,
                    "the mark of an entry that must not be processed is damaged; the entry stays excluded"
                );
            }
            Unsealed::Newer(form) => self.newer = self.newer.or(Some(form)),
        }
    }

    fn into_states(self) -> SavedStates {
        let visit = |chunk| self.visits.get(&chunk).copied().unwrap_or(LastVisit::Never);
        SavedStates {
            visits: (0..CHUNKS).map(visit).collect(),
            symbols: self.symbols.into_iter().collect(),
            poison: self.poison.into_iter().collect(),
            venues: Vec::new(),
            last_tick_ms: None,
            bases: self.bases.into_values().collect(),
        }
    }
}

/// The name of a field with what the owners of a visit depend on.
fn bases_field(BasesField { newest, chunks }: &BasesField) -> String {
    format!("b:{newest}:{}-{}", chunks.start, chunks.end)
}

/// Parses what follows `b:` in the name of a field; `None` if [`bases_field`] did not write it.
fn to_bases_field(name: &str) -> Option<BasesField> {
    let (newest, chunks) = name.split_once(':')?;
    let (start, end) = chunks.split_once('-')?;
    Some(BasesField { newest: newest.parse().ok()?, chunks: start.parse().ok()?..end.parse().ok()? })
}

fn newer_release(key: &str, form: u32) -> StreamError {
    StreamError::Misconfigured(format!(
        "the key {key} was written by a later release of tickhound, in form {form}, which this release cannot read; \
         nothing was changed: run the later release"
    ))
}

fn to_text(boundary: &Boundary) -> String {
    let Boundary { newest, processed, clock: Clock { time, delay_ms, unstamped, behind: _ }, at_ms } = boundary;
    let delay_ms = delay_ms.map_or_else(|| "-".to_owned(), |delay| delay.to_string());
    format!("{newest} {processed} {time} {delay_ms} {unstamped} {at_ms}")
}

/// Parses the boundary in a field of the state hash; also returns its form, if a later release wrote it.
pub(super) fn last_visit(field: &str, value: &[u8]) -> (LastVisit, Option<u32>) {
    let text = String::from_utf8_lossy(value);
    match unseal(field, &text) {
        Unsealed::Intact(text) => (from_text(text).map_or(LastVisit::Damaged, LastVisit::At), None),
        Unsealed::Damaged => (LastVisit::Damaged, None),
        Unsealed::Newer(form) => (LastVisit::Damaged, Some(form)),
    }
}

/// Parses a boundary; `None` if [`to_text`] did not write it.
fn from_text(text: &str) -> Option<Boundary> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let (newest, processed, time, delay_ms) = (word()?, word()?, word()?, word()?);
    let delay_ms = if delay_ms == "-" { None } else { Some(delay_ms.parse().ok()?) };
    let boundary = Boundary {
        newest: newest.parse().ok()?,
        processed: processed.parse().ok()?,
        clock: Clock {
            time: time.parse().ok()?,
            delay_ms,
            unstamped: word()?.parse().ok()?,
            // A recovery takes it from the checkpoint, as it ends there.
            behind: TicksBehind::default(),
        },
        at_ms: word()?.parse().ok()?,
    };
    words.next().is_none().then_some(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::checkpoint::Visit;

    #[test]
    fn the_venue_of_a_symbol_comes_back_and_a_damaged_one_does_not() {
        let keys = Keys::new("s", "g");
        let forgotten = ["A", "GONE"].map(str::to_owned).to_vec();
        let visit = Visit { chunks: 0..1, venues: vec![("A".into(), "NSE".into())], forgotten, ..Visit::default() };
        let commit = Commit { visit: Some(visit), ..Commit::default() };
        let mut commands = Commands::default();
        write_venues(&mut commands, &keys.venues, &commit);
        let texts: Vec<_> =
            (0..commands.len()).map(|at| String::from_utf8_lossy(commands.get(at)).into_owned()).collect();
        let sealed = seal("A", "NSE");
        let [set, deleted] = &texts[..] else { panic!("{texts:?}") };
        assert!(set.contains("HSET") && set.contains(&sealed), "{set}");
        assert!(deleted.contains("HDEL") && deleted.contains("GONE") && !deleted.contains("\r\nA\r\n"), "{deleted}");
        let saved = [("A", sealed.clone()), ("B", sealed)].map(|(symbol, sealed)| (symbol.to_owned(), sealed));
        assert_eq!(read_venues(saved.into(), "key").unwrap(), [("A".to_owned(), "NSE".to_owned())]);
        assert!(read_venues([("A".to_owned(), "v3 x".to_owned())].into(), "key").is_err());
    }

    #[test]
    fn the_bases_of_a_visit_come_back_and_those_that_are_obsolete_go() {
        let field = |millis, chunks| BasesField { newest: EntryId { millis, seq: 2 }, chunks };
        let visit = Visit {
            chunks: 3..9,
            bases: Some((field(7, 3..9), vec![2, 0])),
            obsolete: vec![field(5, 0..256)],
            ..Visit::default()
        };
        let commit = Commit { visit: Some(visit), ..Commit::default() };
        let mut commands = Commands::default();
        write(&mut commands, "key", &commit, 0);
        let texts: Vec<_> =
            (0..commands.len()).map(|at| String::from_utf8_lossy(commands.get(at)).into_owned()).collect();
        assert!(texts[0].contains("b:7-2:3-9") && texts[1].contains("HDEL") && texts[1].contains("b:5-2:0-256"));
        let mut fields = SavedFields::default();
        fields.add("b:7-2:3-9", vec![2, 0]);
        fields.add("b:7-2", vec![2]);
        assert_eq!(fields.into_states().bases, [(field(7, 3..9), vec![2, 0])]);
    }

    #[test]
    fn a_boundary_comes_back_as_it_was() {
        for delay_ms in [None, Some(-5)] {
            let boundary = Boundary {
                newest: EntryId { millis: 7, seq: 1 },
                processed: 2,
                clock: Clock { time: 3, delay_ms, unstamped: 4, ..Clock::default() },
                at_ms: 6,
            };
            assert_eq!(from_text(&to_text(&boundary)), Some(boundary));
        }
        assert_eq!(from_text("7-1 2"), None);
        assert_eq!(from_text("7-1 2 3 x 4 6"), None);
        assert_eq!(from_text("7-1 2 3 - 4 6 7"), None);
    }

    #[test]
    fn a_boundary_is_read_in_its_form_and_in_the_one_before() {
        let boundary = from_text("7-1 2 3 - 4 6").unwrap();
        assert_eq!(last_visit("c:3", b"7-1 2 3 - 4 6"), (LastVisit::At(boundary), None));
        assert_eq!(last_visit("c:3", seal("c:3", "7-1 2 3 - 4 6").as_bytes()), (LastVisit::At(boundary), None));
        assert_eq!(last_visit("c:4", seal("c:3", "7-1 2 3 - 4 6").as_bytes()), (LastVisit::Damaged, None));
        assert_eq!(last_visit("c:3", b"\xff"), (LastVisit::Damaged, None));
        assert_eq!(last_visit("c:3", b"v3 7-1"), (LastVisit::Damaged, Some(3)));
    }

    /// A symbol without a tick for a month is forgotten at a start. It came back before the first visit: `HSET` wrote its
    /// new state, `HDEL` in the same transaction deleted it, and the boundary said that it had been saved.
    #[test]
    fn the_state_of_a_forgotten_symbol_that_has_come_back_is_not_deleted() {
        let forgotten = vec!["BACK".to_owned(), "GONE".to_owned()];
        let symbols = vec![("BACK".into(), b"packed".as_slice().into())];
        let visit = Visit { chunks: 0..1, symbols, forgotten, ..Visit::default() };
        let commit = Commit { visit: Some(visit), ..Commit::default() };
        let mut commands = Commands::default();
        write(&mut commands, "key", &commit, 0);
        assert_eq!(commands.len(), 2);
        let deleted = String::from_utf8_lossy(commands.get(1));
        assert!(deleted.contains("HDEL") && deleted.contains("s:GONE") && !deleted.contains("s:BACK"), "{deleted}");
    }
}
