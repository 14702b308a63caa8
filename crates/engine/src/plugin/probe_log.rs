//! What a detector has looked at on the way through a stream, for people who ask why it has found something, or nothing.
//!
//! What holds: only detectors that are made for it ([`DetectorSpec::probing`](super::DetectorSpec::probing)) write to a log; a
//! host has none. They process the same rows as others and change their states alike, and detect nothing. A log keeps what
//! its question needs and no more, however long the stream is.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::detection::{Gate, Judgment};
use tickhound_core::{
    event::{Batch, CLOCK},
    pattern::SymbolPattern,
};

/// The most rows of a window that are kept: those of an hour of a busy symbol. More don't help a person.
pub const WINDOW_ROWS_MAX: usize = 50_000;

/// The most states of which the last row is kept: as many as there are symbols in the largest market that a host reads.
const LATEST_MAX: usize = 200_000;

/// What a detector looked at in one row, for one state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbedState {
    /// The symbol or group whose state it was.
    pub owner: String,
    /// The conditions, in the order in which they were looked at.
    pub gates: Vec<Gate>,
}

/// A row as a detector saw it, with what it looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbedRow {
    /// The event time, ns since the Unix epoch.
    pub time: u64,
    /// The symbol; `None` for a clock row.
    pub symbol: Option<String>,
    /// The group whose state the row is for; `None` if states belong to symbols.
    pub group: Option<String>,
    /// The price, quote currency; NaN for a clock row.
    pub price: f64,
    /// The columns that the detector reads, in its order.
    pub columns: Vec<f64>,
    /// The states that were looked at.
    pub states: Vec<ProbedState>,
}

/// Which rows a log keeps.
#[derive(Clone, Debug)]
pub enum ProbeQuestion {
    /// The rows of a symbol or group from one event time to another, ns since the Unix epoch, both included; and some before
    /// and after these.
    Window {
        /// The symbol or group.
        subject: SymbolPattern,
        /// The first event time.
        from: u64,
        /// The last event time.
        to: u64,
        /// How many rows are kept before the first one, and as many after the last one.
        around: usize,
    },
    /// The last row of each state in which the detector looked at something.
    Latest,
}

/// What was kept.
#[derive(Clone, Debug, Default)]
pub struct ProbedRows {
    /// The last rows before the window.
    pub before: VecDeque<ProbedRow>,
    /// The rows of the window.
    pub within: Vec<ProbedRow>,
    /// The first rows after the window.
    pub after: Vec<ProbedRow>,
    /// How many rows of the window were left out: only the first [`WINDOW_ROWS_MAX`] are kept.
    pub left_out: u64,
    /// The last row of each state.
    pub latest: BTreeMap<String, ProbedRow>,
    /// The event time of the first row that concerned the subject, ns since the Unix epoch; `None` if there was none.
    pub since: Option<u64>,
    /// How many rows the detector has processed.
    pub rows: u64,
}

/// Keeps what a detector has looked at, as far as a question needs it.
#[derive(Debug)]
pub struct ProbeLog {
    question: ProbeQuestion,
    kept: Mutex<ProbedRows>,
}

impl ProbeLog {
    /// An empty log.
    pub fn new(question: ProbeQuestion) -> Self {
        Self { question, kept: Mutex::default() }
    }

    /// Takes what was kept so far.
    pub fn take(&self) -> ProbedRows {
        std::mem::take(&mut *self.kept())
    }

    /// Whether all rows of a symbol or group matter, and each row at which its state was looked at.
    fn concerns(&self, name: &str) -> bool {
        match &self.question {
            ProbeQuestion::Window { subject, .. } => subject.matches(name),
            ProbeQuestion::Latest => false,
        }
    }

    /// Adds the next row. Rows of one state come in their order.
    fn push(&self, row: ProbedRow) {
        let mut kept = self.kept();
        match &self.question {
            ProbeQuestion::Latest => kept.note_latest(row),
            ProbeQuestion::Window { from, to, around, .. } => {
                kept.since = kept.since.or(Some(row.time));
                match row.time {
                    time if time < *from => {
                        kept.before.push_back(row);
                        let many = kept.before.len().saturating_sub(*around);
                        kept.before.drain(..many);
                    }
                    time if time > *to && kept.after.len() < *around => kept.after.push(row),
                    time if time > *to => {}
                    _ if kept.within.len() < WINDOW_ROWS_MAX => kept.within.push(row),
                    _ => kept.left_out += 1,
                }
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, ProbedRows> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProbedRows {
    fn note_latest(&mut self, row: ProbedRow) {
        for state in row.states.iter().filter(|state| !state.gates.is_empty()) {
            if self.latest.contains_key(&state.owner) || self.latest.len() < LATEST_MAX {
                self.latest.insert(state.owner.clone(), ProbedRow { states: vec![state.clone()], ..row.clone() });
            }
        }
    }
}

/// Writes what one instance looks at to a log.
#[derive(Debug)]
pub(super) struct ProbeWriter {
    log: Arc<ProbeLog>,
    /// The symbols and groups by their ids.
    names: FxHashMap<u32, ProbedName>,
}

/// A symbol or group, and whether the log's question is about it.
#[derive(Debug)]
struct ProbedName {
    name: String,
    is_concerned: bool,
}

impl ProbeWriter {
    pub(super) fn new(log: Arc<ProbeLog>) -> Self {
        Self { log, names: FxHashMap::default() }
    }

    /// Notes the name of a symbol or group before its first row.
    pub(super) fn introduce(&mut self, id: u32, name: &str) {
        let is_concerned = self.log.concerns(name);
        self.names.insert(id, ProbedName { name: name.to_owned(), is_concerned });
    }

    /// Writes a batch, with what was looked at, and the values of a row's columns.
    pub(super) fn write(&self, batch: &Batch, judgments: Vec<Judgment>, columns: impl Fn(usize) -> Vec<f64>) {
        self.log.kept().rows += batch.len() as u64;
        let is_latest = matches!(self.log.question, ProbeQuestion::Latest);
        let mut by_row: FxHashMap<u32, Vec<ProbedState>> = FxHashMap::default();
        for Judgment { row, owner, gates } in judgments {
            // Of a group, the rows of a member that is asked about show the state of the group.
            let of_row = batch.symbol.get(row as usize).and_then(|symbol| self.names.get(symbol));
            let of_member = of_row.is_some_and(|member| member.is_concerned);
            if let Some(known) = self.names.get(&owner).filter(|known| is_latest || of_member || known.is_concerned) {
                by_row.entry(row).or_default().push(ProbedState { owner: known.name.clone(), gates });
            }
        }
        for row in 0..batch.len() {
            let states = by_row.remove(&(row as u32)).unwrap_or_default();
            let known = |id: Option<&u32>| id.filter(|id| **id != CLOCK).and_then(|id| self.names.get(id));
            let (symbol, group) = (known(batch.symbol.get(row)), known(batch.group.get(row)));
            let is_concerned = [symbol, group].into_iter().flatten().any(|name| name.is_concerned);
            if is_concerned || states.iter().any(|state| !state.gates.is_empty()) {
                self.log.push(ProbedRow {
                    time: batch.time[row],
                    symbol: symbol.map(|symbol| symbol.name.clone()),
                    group: group.map(|group| group.name.clone()),
                    price: batch.price[row],
                    columns: columns(row),
                    states,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    const NIFTY: u32 = 7;
    const OTHER: u32 = 8;

    fn writer(question: ProbeQuestion) -> (ProbeWriter, Arc<ProbeLog>) {
        let log = Arc::new(ProbeLog::new(question));
        let mut writer = ProbeWriter::new(log.clone());
        writer.introduce(NIFTY, "NIFTY");
        writer.introduce(OTHER, "OTHER");
        (writer, log)
    }

    /// A batch of rows, of which each is judged for one state with so many gates.
    fn write(writer: &ProbeWriter, rows: &[(u64, u32, u32, usize)]) {
        let mut batch = Batch::new(1);
        let mut judgments = Vec::new();
        for (row, (time, symbol, owner, gates)) in rows.iter().enumerate() {
            batch.push(TickRow { entry: 0, symbol: *symbol, time: *time, price: 1.0, columns: &[*time as f64] });
            let gate = Gate { name: "warm".to_owned(), value: *time as f64, limit: 1.0, holds: true };
            judgments.push(Judgment { row: row as u32, owner: *owner, gates: vec![gate; *gates] });
        }
        writer.write(&batch, judgments, |row| vec![batch.columns[0][row]]);
    }

    #[test]
    fn a_window_keeps_the_rows_of_its_subject_and_some_around_it() {
        let subject = SymbolPattern::new("nifty");
        let (writer, log) = writer(ProbeQuestion::Window { subject, from: 10, to: 12, around: 2 });
        for time in 1..20 {
            write(&writer, &[(time, NIFTY, NIFTY, 1), (time, OTHER, OTHER, 1), (time, CLOCK, OTHER, 1)]);
            if time == 12 {
                // A clock row at which the state was looked at, and one at which it was not.
                write(&writer, &[(time, CLOCK, NIFTY, 1), (time, CLOCK, NIFTY, 0)]);
            }
        }
        let ProbedRows { before, within, after, since, rows, left_out, .. } = log.take();
        let times = |rows: &mut dyn Iterator<Item = ProbedRow>| rows.map(|row| row.time).collect::<Vec<_>>();
        assert_eq!(within[0].columns, [10.0]);
        assert_eq!((within[2].symbol.as_deref(), within[3].symbol.as_deref()), (Some("NIFTY"), None));
        assert_eq!(times(&mut before.into_iter()), [8, 9]);
        assert_eq!(times(&mut within.into_iter()), [10, 11, 12, 12]);
        assert_eq!(times(&mut after.into_iter()), [13, 14]);
        assert_eq!((since, rows, left_out), (Some(1), 59, 0));
    }

    #[test]
    fn the_rows_of_a_member_show_the_state_of_its_group() {
        const GROUP: u32 = 9;
        let question = |subject: &str| {
            let subject = SymbolPattern::new(subject);
            ProbeQuestion::Window { subject, from: 0, to: 9, around: 0 }
        };
        for (subject, rows) in [("NIFTY", vec![1, 4]), ("banks", vec![1, 2, 3, 4]), ("OTHER", vec![2])] {
            let (mut writer, log) = writer(question(subject));
            writer.introduce(GROUP, "banks");
            write(&writer, &[(1, NIFTY, GROUP, 1), (2, OTHER, GROUP, 1), (3, CLOCK, GROUP, 1), (4, NIFTY, GROUP, 1)]);
            let kept = log.take().within;
            assert_eq!(kept.iter().map(|row| row.time).collect::<Vec<_>>(), rows, "{subject}");
            assert!(kept.iter().all(|row| row.states[0].owner == "banks"), "{subject}");
        }
    }

    #[test]
    fn rows_beyond_the_most_are_counted() {
        let subject = SymbolPattern::new("NIFTY");
        let (writer, log) = writer(ProbeQuestion::Window { subject, from: 0, to: 1, around: 0 });
        write(&writer, &vec![(1, NIFTY, NIFTY, 0); WINDOW_ROWS_MAX + 7]);
        let kept = log.take();
        assert_eq!((kept.within.len(), kept.left_out), (WINDOW_ROWS_MAX, 7));
    }

    #[test]
    fn the_last_row_of_each_state_is_kept_in_which_something_was_looked_at() {
        let (writer, log) = writer(ProbeQuestion::Latest);
        write(&writer, &[(1, NIFTY, NIFTY, 1), (2, NIFTY, NIFTY, 2), (3, NIFTY, NIFTY, 0)]);
        write(&writer, &[(3, CLOCK, OTHER, 1), (3, CLOCK, 99, 1)]);
        let kept = log.take();
        let latest: Vec<(&str, u64, usize)> =
            kept.latest.iter().map(|(owner, row)| (owner.as_str(), row.time, row.states[0].gates.len())).collect();
        assert_eq!(latest, [("NIFTY", 2, 2), ("OTHER", 3, 1)]);
    }
}
