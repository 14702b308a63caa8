//! What a detector has looked at on the way through a stream, for people who ask why it has found something, or nothing.
//!
//! What holds: only detectors that are made for it ([`DetectorSpec::probing`](super::DetectorSpec::probing)) write to a log; a
//! host has none. They process the same rows as others and change their states alike, and detect nothing. A log keeps what
//! its question needs and no more, however long the stream is.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

use tickhound_core::pattern::SymbolPattern;

/// The most rows of a window that are kept: those of an hour of a busy symbol. More don't help a person.
pub const WINDOW_ROWS_MAX: usize = 50_000;

/// The most states of which the last row is kept: as many as there are symbols in the largest market that a host reads.
const LATEST_MAX: usize = 200_000;

/// A condition that a detection depends on, as it was at one row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbedGate {
    /// A short name, such as `above_channel`.
    pub name: String,
    /// What was compared.
    pub value: f64,
    /// With what.
    pub limit: f64,
    /// Whether the condition held.
    pub holds: bool,
}

/// What a detector looked at in one row, for one state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbedState {
    /// The symbol or group whose state it was.
    pub owner: String,
    /// The conditions, in the order in which they were looked at.
    pub gates: Vec<ProbedGate>,
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

    /// Adds the next row. Rows of one state come in their order.
    pub(super) fn push(&self, row: ProbedRow) {
        let mut kept = self.kept();
        kept.rows += 1;
        match &self.question {
            ProbeQuestion::Latest => kept.note_latest(row),
            ProbeQuestion::Window { subject, from, to, around } if row.concerns(subject) => {
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
            ProbeQuestion::Window { .. } => {}
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

impl ProbedRow {
    /// Whether it is a row of this symbol or group, or shows its state.
    fn concerns(&self, subject: &SymbolPattern) -> bool {
        let of_row = [&self.symbol, &self.group].into_iter().flatten().any(|name| subject.matches(name));
        of_row || self.states.iter().any(|state| !state.gates.is_empty() && subject.matches(&state.owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time: u64, symbol: Option<&str>, owner: &str, gates: usize) -> ProbedRow {
        let gate = ProbedGate { name: "warm".to_owned(), value: time as f64, limit: 1.0, holds: true };
        let states = vec![ProbedState { owner: owner.to_owned(), gates: vec![gate; gates] }];
        ProbedRow { time, symbol: symbol.map(str::to_owned), group: None, price: 1.0, columns: Vec::new(), states }
    }

    #[test]
    fn a_window_keeps_the_rows_of_its_subject_and_some_around_it() {
        let subject = SymbolPattern::new("nifty");
        let log = ProbeLog::new(ProbeQuestion::Window { subject, from: 10, to: 12, around: 2 });
        for time in 1..20 {
            log.push(row(time, Some("NIFTY"), "NIFTY", 1));
            log.push(row(time, Some("OTHER"), "OTHER", 1));
            log.push(row(time, None, "OTHER", 1));
        }
        // A clock row at which the state was looked at, and one at which it was not.
        log.push(row(12, None, "NIFTY", 1));
        log.push(row(12, None, "NIFTY", 0));
        let ProbedRows { before, within, after, since, rows, left_out, .. } = log.take();
        let times = |rows: &mut dyn Iterator<Item = ProbedRow>| rows.map(|row| row.time).collect::<Vec<_>>();
        assert_eq!(times(&mut before.into_iter()), [8, 9]);
        assert_eq!(times(&mut within.into_iter()), [10, 11, 12, 12]);
        assert_eq!(times(&mut after.into_iter()), [13, 14]);
        assert_eq!((since, rows, left_out), (Some(1), 59, 0));
    }

    #[test]
    fn rows_beyond_the_most_are_counted() {
        let subject = SymbolPattern::new("A");
        let log = ProbeLog::new(ProbeQuestion::Window { subject, from: 0, to: 1, around: 0 });
        (0..WINDOW_ROWS_MAX + 7).for_each(|_| log.push(row(1, Some("A"), "A", 0)));
        let kept = log.take();
        assert_eq!((kept.within.len(), kept.left_out), (WINDOW_ROWS_MAX, 7));
    }

    #[test]
    fn the_last_row_of_each_state_is_kept_in_which_something_was_looked_at() {
        let log = ProbeLog::new(ProbeQuestion::Latest);
        log.push(row(1, Some("A"), "A", 1));
        log.push(row(2, Some("A"), "A", 2));
        log.push(row(3, Some("A"), "A", 0));
        log.push(row(3, None, "B", 1));
        let kept = log.take();
        let latest: Vec<(&str, u64, usize)> =
            kept.latest.iter().map(|(owner, row)| (owner.as_str(), row.time, row.states[0].gates.len())).collect();
        assert_eq!(latest, [("A", 2, 2), ("B", 3, 1)]);
    }
}
