//! Saved states in a hash beside the stream.
//!
//! Fields: `c:<chunk>` has the boundary of a chunk, `s:<symbol>` a packed state, `p:<entry>` stands
//! for an entry that must not be worked again. They are written inside a step, so that they are as
//! of its commit, and only by the owner. All of them have a form and a checksum; what a later release
//! wrote is never written over.

use std::collections::{BTreeSet, HashMap, HashSet};

use redis::{aio::MultiplexedConnection, cmd};
use tracing::warn;

use super::{
    RedisStream,
    history::range,
    open, query,
    reply::{Checkpoint, Integrity},
    resp::Commands,
    seal::{Unsealed, seal, unseal},
    unavailable,
};
use tickhound_core::{
    checkpoint::{Boundary, CHUNKS, LastVisit, SavedStates, is_of_a_newer_form},
    event::{Clock, Entries, EntryId},
    stream::{Commit, StreamError},
};

/// Fields looked at in one go, about: some megabytes of states.
const SCAN_PAGE: usize = 1000;

/// Pending entries listed in one go.
const PENDING_PAGE: usize = 1000;

/// Adds what a commit has to say of states.
pub(super) fn write(commands: &mut Commands, key: &str, commit: &Commit, at_ms: u64) {
    let Some(visit) = &commit.visit else { return };
    let boundary = Boundary {
        newest: commit.newest,
        worked: commit.totals.entries - commit.totals.lost,
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
    commands.end();
    // A symbol that was forgotten and has come back before this visit has a new state, which was written just now.
    let back: HashSet<&str> = if visit.forgotten.is_empty() {
        HashSet::new()
    } else {
        visit.symbols.iter().map(|(symbol, _)| &**symbol).collect()
    };
    let forgotten: Vec<&String> = visit.forgotten.iter().filter(|symbol| !back.contains(symbol.as_str())).collect();
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

/// Marks entries that must not be worked again.
pub(super) fn write_poison(commands: &mut Commands, key: &str, poison: &[EntryId]) {
    for id in poison {
        let field = format!("p:{id}");
        commands.arg("HSET").arg(key).arg(&field).arg(seal(&field, "1"));
        commands.end();
    }
}

impl RedisStream {
    /// What was committed last, if it can be relied on.
    ///
    /// # Errors
    /// Also when it is damaged, or of a later release: to go on from anything else would work the stream from its
    /// beginning, or write over what another release needs.
    pub(super) async fn read_checkpoint(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Checkpoint, StreamError> {
        let checkpoint: Checkpoint = query(connection, cmd("HGETALL").arg(&self.keys.checkpoint)).await?;
        match &checkpoint.integrity {
            Integrity::Sound => Ok(checkpoint),
            Integrity::Newer(form) => Err(self.newer(&self.keys.checkpoint, *form)),
            Integrity::Damaged(what) => Err(StreamError::Misconfigured(format!(
                "the key {key} is damaged: {what}. It says where the last commit was, so nothing is processed: restore it \
                 from a backup, or begin anew behind what the group was given, with detectors that know nothing: DEL {key} {state}",
                key = self.keys.checkpoint,
                state = self.keys.state,
            ))),
        }
    }

    fn newer(&self, key: &str, form: u32) -> StreamError {
        StreamError::Misconfigured(format!(
            "the key {key} was written by a later release of tickhound, in form {form}, which this release cannot read; \
             it is left as it is: run the later release"
        ))
    }

    pub(super) async fn read_saved(&mut self) -> Result<SavedStates, StreamError> {
        let session = open(&mut self.session)?;
        let mut saved = SavedStates { visits: vec![LastVisit::Never; usize::from(CHUNKS)], ..SavedStates::default() };
        let mut symbols: HashMap<String, Vec<u8>> = HashMap::new();
        let mut poison: BTreeSet<EntryId> = BTreeSet::new();
        let (mut cursor, mut newer) = (0u64, None);
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&self.keys.state).arg(cursor).arg("COUNT").arg(SCAN_PAGE);
            let (next, fields): (u64, Vec<(String, Vec<u8>)>) =
                scan.query_async(&mut session.asks).await.map_err(unavailable)?;
            for (field, value) in fields {
                match field.split_at_checked(2) {
                    // A scan may show a field twice.
                    Some(("s:", symbol)) => {
                        newer = newer.or(is_of_a_newer_form(&value));
                        symbols.insert(symbol.to_owned(), value);
                    }
                    Some(("c:", chunk)) => {
                        let place = chunk.parse().ok().and_then(|chunk: usize| saved.visits.get_mut(chunk));
                        let (visit, form) = last_visit(&field, &value);
                        newer = newer.or(form);
                        place.into_iter().for_each(|place| *place = visit);
                    }
                    Some(("p:", id)) => {
                        let mark = String::from_utf8_lossy(&value);
                        match unseal(&field, &mark) {
                            Unsealed::Whole(_) => {}
                            // The field has the id: what it holds does not matter.
                            Unsealed::Damaged => {
                                warn!(
                                    event = "poison_mark_damaged",
                                    %field,
                                    "the mark of an entry that must not be processed is damaged; the entry stays \
                                     excluded"
                                );
                            }
                            Unsealed::Newer(form) => newer = newer.or(Some(form)),
                        }
                        poison.extend(id.parse::<EntryId>().ok());
                    }
                    _ => {}
                }
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        saved.symbols = symbols.into_iter().collect();
        saved.poison = poison.into_iter().collect();
        newer.map_or(Ok(saved), |form| Err(self.newer(&self.keys.state, form)))
    }

    pub(super) async fn read_history(
        &mut self,
        after: EntryId,
        through: EntryId,
        count: usize,
    ) -> Result<Entries, StreamError> {
        let session = open(&mut self.session)?;
        range(&mut session.steps, &self.config.key, after, through, count).await
    }

    pub(super) async fn read_pending(
        &mut self,
        first: EntryId,
        last: EntryId,
    ) -> Result<BTreeSet<EntryId>, StreamError> {
        let session = open(&mut self.session)?;
        let (mut pending, mut from) = (BTreeSet::new(), first.to_string());
        loop {
            let mut list = cmd("XPENDING");
            list.arg(&self.config.key).arg(&self.config.group).arg(&from).arg(last.to_string()).arg(PENDING_PAGE);
            let page: Vec<(String, String, u64, u64)> = query(&mut session.asks, &list).await?;
            let Some((end, ..)) = page.last() else { return Ok(pending) };
            from = format!("({end}");
            pending.extend(page.iter().filter_map(|(id, ..)| id.parse::<EntryId>().ok()));
        }
    }
}

fn to_text(boundary: &Boundary) -> String {
    let Boundary { newest, worked, clock: Clock { time, delay_ms, unstamped }, at_ms } = boundary;
    let delay_ms = delay_ms.map_or_else(|| "-".to_owned(), |delay| delay.to_string());
    format!("{newest} {worked} {time} {delay_ms} {unstamped} {at_ms}")
}

/// The boundary in a field of the state; the form, if it is one of a later release.
pub(super) fn last_visit(field: &str, value: &[u8]) -> (LastVisit, Option<u32>) {
    let text = String::from_utf8_lossy(value);
    match unseal(field, &text) {
        Unsealed::Whole(text) => (from_text(text).map_or(LastVisit::Damaged, LastVisit::At), None),
        Unsealed::Damaged => (LastVisit::Damaged, None),
        Unsealed::Newer(form) => (LastVisit::Damaged, Some(form)),
    }
}

/// `None` for what [`to_text`] has not written.
fn from_text(text: &str) -> Option<Boundary> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let (newest, worked, time, delay_ms) = (word()?, word()?, word()?, word()?);
    let delay_ms = if delay_ms == "-" { None } else { Some(delay_ms.parse().ok()?) };
    let boundary = Boundary {
        newest: newest.parse().ok()?,
        worked: worked.parse().ok()?,
        clock: Clock { time: time.parse().ok()?, delay_ms, unstamped: word()?.parse().ok()? },
        at_ms: word()?.parse().ok()?,
    };
    words.next().is_none().then_some(boundary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::checkpoint::Visit;

    #[test]
    fn a_boundary_comes_back_as_it_was() {
        for delay_ms in [None, Some(-5)] {
            let boundary = Boundary {
                newest: EntryId { millis: 7, seq: 1 },
                worked: 2,
                clock: Clock { time: 3, delay_ms, unstamped: 4 },
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
