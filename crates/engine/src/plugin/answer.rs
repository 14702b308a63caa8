//! What must hold of a guest's answers: of how many detections and states they consist, and which texts are in them.
//!
//! What holds: what is checked here needs no check in a later stage. The limits of a symbol at a row depend neither on the
//! batch that the row is in nor on the other symbols of the worker, so the same ticks cause the same faults.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    bindings::tickhound::detector::types::{Detection, SymbolStateResult},
    call::DETECTION_BYTES_PER_SYMBOL,
    fault::Fault,
    guest::Limits,
    texts::{is_printable, shown},
};
use tickhound_core::event::{Batch, CLOCK};

/// The maximum number of detections about a symbol at one row: a tick of it, or a clock row. A detector that looks for several
/// patterns at once may see a dozen of them in one tick.
const DETECTIONS_PER_SYMBOL: usize = 16;

/// The maximum number of named numbers in one detection. Those of the detectors that ship have up to eight, and a person
/// who checks an alert does not read more than a few.
const EVIDENCE_MAX: usize = 32;

/// The maximum length of a name in the evidence, bytes, since each alert repeats it.
const EVIDENCE_NAME_MAX: usize = 64;

/// The symbols that a guest knows.
#[derive(Debug, Default)]
pub(super) struct Introduced {
    by_id: Vec<bool>,
    count: usize,
}

impl Introduced {
    pub(super) fn add(&mut self, symbol: u32) {
        let id = symbol as usize;
        self.by_id.resize(self.by_id.len().max(id + 1), false);
        self.count += usize::from(!self.by_id[id]);
        self.by_id[id] = true;
    }

    pub(super) fn contains(&self, symbol: u32) -> bool {
        self.by_id.get(symbol as usize) == Some(&true)
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// The detections of one row so far.
#[derive(Default)]
struct RowUse {
    row: u32,
    by_symbol: FxHashMap<u32, SymbolUse>,
}

/// The detections about one symbol at one row so far.
#[derive(Default)]
struct SymbolUse {
    detections: usize,
    bytes: usize,
}

impl RowUse {
    fn add(&mut self, detection: &Detection) -> Result<(), String> {
        let Detection { row, symbol, evidence, .. } = detection;
        if *row != self.row {
            self.row = *row;
            self.by_symbol.clear();
        }
        let used = self.by_symbol.entry(*symbol).or_default();
        used.detections += 1;
        used.bytes += size_of::<Detection>();
        used.bytes += evidence.iter().map(|named| size_of_val(named) + named.0.len()).sum::<usize>();
        if used.detections > DETECTIONS_PER_SYMBOL {
            return Err(format!("more than {DETECTIONS_PER_SYMBOL} detections about a symbol at row {row}"));
        }
        if used.bytes > DETECTION_BYTES_PER_SYMBOL {
            return Err(format!(
                "detections of more than {DETECTION_BYTES_PER_SYMBOL} bytes about a symbol at row {row}"
            ));
        }
        Ok(())
    }
}

/// Checks detections against the contract.
///
/// # Errors
/// Returns the fault of the guest.
pub(super) fn check_detections(
    detections: Vec<Detection>,
    batch: &Batch,
    introduced: &Introduced,
) -> Result<Vec<Detection>, Fault> {
    let mut used = RowUse::default();
    for detection in &detections {
        check_detection(detection, used.row, batch, introduced).map_err(Fault::Contract)?;
        used.add(detection).map_err(Fault::Contract)?;
    }
    Ok(detections)
}

fn check_detection(detection: &Detection, last_row: u32, batch: &Batch, introduced: &Introduced) -> Result<(), String> {
    let Detection { row, symbol, confidence, evidence, .. } = detection;
    let Some(&row_symbol) = batch.symbol.get(*row as usize) else {
        return Err(format!("a detection at row {row} of a batch of {}", batch.len()));
    };
    if *row < last_row {
        return Err(format!("a detection at row {row} after one at row {last_row}"));
    }
    // On a clock row a detector may report any symbol that it knows.
    let is_about_its_symbol = if row_symbol == CLOCK { introduced.contains(*symbol) } else { *symbol == row_symbol };
    if !is_about_its_symbol {
        return Err(format!("a detection at row {row} about symbol {symbol}, which is not the row's"));
    }
    if !(0.0..=1.0).contains(confidence) {
        return Err(format!("confidence {confidence} is not in 0..=1"));
    }
    check_evidence(evidence)
}

fn check_evidence(evidence: &[(String, f64)]) -> Result<(), String> {
    if evidence.len() > EVIDENCE_MAX {
        return Err(format!("{} numbers of evidence in one detection, at most {EVIDENCE_MAX}", evidence.len()));
    }
    for (name, value) in evidence {
        if name.is_empty() || name.len() > EVIDENCE_NAME_MAX {
            let (name, length) = (shown(name), name.len());
            return Err(format!("evidence `{name}` has a name of {length} bytes, expected 1 to {EVIDENCE_NAME_MAX}"));
        }
        if !is_printable(name) {
            return Err(format!("evidence `{}` has a name with characters that can't be printed", shown(name)));
        }
        if !value.is_finite() {
            return Err(format!("evidence {name} is {value}"));
        }
    }
    Ok(())
}

/// Checks saved states against the contract: each is of another one of the symbols `asked` for, and within its size.
///
/// # Errors
/// Returns the fault of the guest.
pub(super) fn check_states(
    states: Vec<SymbolStateResult>,
    asked: &[u32],
    limits: Limits,
) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
    let mut unanswered: FxHashSet<u32> = asked.iter().copied().collect();
    let mut checked = Vec::with_capacity(states.len());
    for SymbolStateResult { symbol, state } in states {
        if !unanswered.remove(&symbol) {
            return Err(Fault::Contract(format!("saved symbol {symbol} twice, or without being asked")));
        }
        if state.len() > limits.state_max_bytes {
            return Err(Fault::Contract(format!(
                "its state of symbol {symbol} has {} bytes, more than {} KiB (plugins.state_max_kib)",
                state.len(),
                limits.state_max_bytes >> 10
            )));
        }
        checked.push((symbol, state));
    }
    Ok(checked)
}

/// The sizes of the states that a guest has saved last, or was given.
#[derive(Debug, Default)]
pub(super) struct StateSizes {
    by_symbol: Vec<usize>,
    total: usize,
}

impl StateSizes {
    /// Notes the size of a symbol's state.
    pub(super) fn note(&mut self, symbol: u32, bytes: usize) {
        let id = symbol as usize;
        self.by_symbol.resize(self.by_symbol.len().max(id + 1), 0);
        self.total = self.total - self.by_symbol[id] + bytes;
        self.by_symbol[id] = bytes;
    }

    /// Checks the size of all states together. Their limit is that of the guest's memory: a detector has its states in
    /// memory, so whoever saves more than fits there has made it up.
    ///
    /// # Errors
    /// Returns the fault of the guest.
    pub(super) fn check(&self, limits: Limits) -> Result<(), Fault> {
        if self.total <= limits.memory_max_bytes {
            return Ok(());
        }
        let mib = limits.memory_max_bytes >> 20;
        Err(Fault::Contract(format!("its states together are larger than its {mib} MiB (plugins.memory_max_mib)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::bindings::tickhound::detector::types::Direction;
    use tickhound_core::{config::PluginsConfig, event::TickRow};

    const SYMBOL: u32 = 3;

    fn limits() -> Limits {
        Limits::of(&PluginsConfig { memory_max_mib: 1, state_max_kib: 512, ..PluginsConfig::default() })
    }

    /// A batch with a tick, a clock row, and a tick.
    fn batch() -> Batch {
        let mut batch = Batch::new(0);
        let tick = |entry| TickRow { entry, symbol: SYMBOL, time: 1, price: 1.0, columns: &[] };
        batch.push(tick(0));
        batch.push_clock(1, 1);
        batch.push(tick(2));
        batch
    }

    fn detection(row: u32, evidence: &[&str]) -> Detection {
        let evidence = evidence.iter().map(|name| ((*name).to_owned(), 1.0)).collect();
        Detection { row, symbol: SYMBOL, confidence: 1.0, direction: Direction::Up, evidence }
    }

    /// The fault of these detections in a batch of a guest that knows `known` symbols; empty if there is none.
    fn fault(detections: Vec<Detection>, known: u32) -> String {
        let mut introduced = Introduced::default();
        (0..known).for_each(|symbol| introduced.add(symbol));
        check_detections(detections, &batch(), &introduced).map_or_else(|fault| fault.to_string(), |_| String::new())
    }

    #[test]
    fn a_tick_has_so_many_detections_and_no_more() {
        let many = |row, count| vec![detection(row, &["level"]); count];
        assert_eq!(fault(many(0, DETECTIONS_PER_SYMBOL), 4), "");
        assert_eq!(fault([many(0, DETECTIONS_PER_SYMBOL), many(2, DETECTIONS_PER_SYMBOL)].concat(), 4), "");
        let rejected = |row| fault(many(row, DETECTIONS_PER_SYMBOL + 1), 4);
        assert!(rejected(2).contains("more than 16 detections about a symbol at row 2"));
        assert!(rejected(1).contains("more than 16 detections about a symbol at row 1"), "the same at a clock row");
        // At a clock row they may be about several symbols, in any order.
        let about = |symbol| Detection { symbol, ..detection(1, &["level"]) };
        let turns: Vec<Detection> = (0..DETECTIONS_PER_SYMBOL).flat_map(|_| [about(3), about(1)]).collect();
        assert_eq!(fault(turns.clone(), 4), "");
        assert!(fault([turns, vec![about(1)]].concat(), 4).contains("more than 16 detections about a symbol at row 1"));
        let name = "n".repeat(EVIDENCE_NAME_MAX);
        let full = vec![name.as_str(); EVIDENCE_MAX];
        assert_eq!(fault(vec![detection(0, &full)], 4), "");
        assert!(
            fault(vec![detection(0, &full); 2], 4)
                .contains("detections of more than 4096 bytes about a symbol at row 0")
        );
    }

    #[test]
    fn evidence_has_few_short_names_that_can_be_printed() {
        let long = "n".repeat(EVIDENCE_NAME_MAX + 1);
        let cases = [
            (vec!["n"; EVIDENCE_MAX + 1], "33 numbers of evidence in one detection, at most 32"),
            (vec![""], "evidence `` has a name of 0 bytes"),
            (vec![long.as_str()], "has a name of 65 bytes, expected 1 to 64"),
            (vec!["\u{1b}[2J"], r"evidence `\u{1b}[2J` has a name with characters that can't be printed"),
            (vec!["a\u{202e}b"], r"evidence `a\u{202e}b` has a name"),
        ];
        for (names, expected) in cases {
            let fault = fault(vec![detection(0, &names)], 4);
            assert!(fault.contains(expected), "{fault}");
        }
        assert_eq!(fault(vec![detection(0, &["σ of the move", "λ"])], 4), "");
    }

    #[test]
    fn a_state_is_of_a_symbol_that_was_asked_for_and_within_its_size() {
        let state = |symbol, bytes| SymbolStateResult { symbol, state: vec![0; bytes] };
        let fault = |states| check_states(states, &[1, 2], limits()).map_err(|fault| fault.to_string());
        assert_eq!(fault(vec![state(2, 1), state(1, 512 << 10)]).map(|states| states.len()), Ok(2));
        for (states, expected) in [
            (vec![state(3, 1)], "saved symbol 3 twice, or without being asked"),
            (vec![state(1, 1), state(1, 1)], "saved symbol 1 twice, or without being asked"),
            (vec![state(1, (512 << 10) + 1)], "more than 512 KiB (plugins.state_max_kib)"),
        ] {
            assert!(fault(states).unwrap_err().contains(expected));
        }
    }

    #[test]
    fn all_states_together_are_no_larger_than_the_guests_memory() {
        let mut sizes = StateSizes::default();
        (0..2).for_each(|symbol| sizes.note(symbol, 512 << 10));
        assert_eq!(sizes.check(limits()), Ok(()));
        sizes.note(7, 1);
        assert!(sizes.check(limits()).unwrap_err().to_string().contains("its 1 MiB (plugins.memory_max_mib)"));
        sizes.note(0, 0);
        assert_eq!(sizes.check(limits()), Ok(()));
    }
}
