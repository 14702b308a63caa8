//! What a detector has found, and what it has looked at, whatever version of the contract it speaks; and what must hold of
//! a detection.
//!
//! What holds: what is checked here needs no check in a later stage. The limits of a state at a row depend neither on the
//! batch that the row is in nor on the other states of the worker, so the same ticks cause the same faults.

use rustc_hash::FxHashMap;

use super::{
    introduced::Introduced,
    texts::{is_printable, shown},
};
use tickhound_core::event::{Batch, CLOCK, Direction};

/// The maximum number of detections of a state at one row: a tick, a bar, or a clock row. A detector that looks for several
/// patterns at once may see a dozen of them in one tick.
const DETECTIONS_PER_OWNER: usize = 16;

/// The maximum size of the detections of a state at one row, bytes: one with as much evidence as it may have, or a dozen as
/// they usually are.
pub(super) const DETECTION_BYTES_PER_OWNER: usize = 4 << 10;

/// The sizes of a detection and of a named number, bytes, in [`DETECTION_BYTES_PER_OWNER`]. These are what they take in the
/// host's memory by contract 0.1, and they stay, so that a plugin does not fail because of another release.
const DETECTION_BYTES: usize = 48;
const EVIDENCE_BYTES: usize = 32;

/// The maximum number of named numbers in one detection. Those of the detectors that ship have up to eight, and a person
/// who checks an alert does not read more than a few.
pub(super) const EVIDENCE_MAX: usize = 32;

/// The maximum length of a name in the evidence or of a gate, bytes, since each alert repeats it.
pub(super) const EVIDENCE_NAME_MAX: usize = 64;

/// The maximum number of members that a detection names: those of an index of fifty, and a few. Each alert repeats their names.
pub(super) const MEMBERS_MAX: usize = 64;

/// A detection that meets the contract.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// The index of the row. Rows of successive detections never decrease.
    pub row: u32,
    /// The symbol or group whose state it comes from.
    pub owner: u32,
    /// What it is about: the owner, or in a group a symbol.
    pub about: u32,
    /// How rare the event is, in 0..=1.
    pub confidence: f64,
    /// The direction of the event.
    pub direction: Direction,
    /// The symbols that make up the event of a group.
    pub members: Vec<u32>,
    /// Named finite numbers with which a person can check the detection.
    pub evidence: Vec<(String, f64)>,
}

/// What a detector looked at in one row, for one state.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgment {
    /// The index of the row.
    pub row: u32,
    /// The symbol or group whose state was looked at.
    pub owner: u32,
    /// The conditions, in the order in which they were looked at.
    pub gates: Vec<Gate>,
}

/// A condition that a detection depends on, as it was at one row.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Gate {
    /// A short name, such as `above_channel`.
    pub name: String,
    /// What was compared.
    pub value: f64,
    /// With what.
    pub limit: f64,
    /// Whether the condition held.
    pub holds: bool,
}

/// Checks the detections of one call, one after another.
pub(super) struct DetectionCheck<'a> {
    batch: &'a Batch,
    introduced: &'a Introduced,
    /// Whether states belong to groups.
    has_groups: bool,
    row: u32,
    /// The detections at that row so far, by their states.
    used: FxHashMap<u32, OwnerUse>,
}

/// The detections of one state at one row so far.
#[derive(Default)]
struct OwnerUse {
    detections: usize,
    bytes: usize,
}

impl<'a> DetectionCheck<'a> {
    pub(super) fn new(batch: &'a Batch, introduced: &'a Introduced, has_groups: bool) -> Self {
        Self { batch, introduced, has_groups, row: 0, used: FxHashMap::default() }
    }

    /// Checks the next detection.
    ///
    /// # Errors
    /// Says how it breaks the contract.
    pub(super) fn accept(&mut self, detection: &Detection) -> Result<(), String> {
        self.check_origin(detection)?;
        let confidence = detection.confidence;
        if !(0.0..=1.0).contains(&confidence) {
            return Err(format!("confidence {confidence} is not in 0..=1"));
        }
        check_evidence(&detection.evidence)?;
        self.add(detection)
    }

    /// Checks which row, state and symbols a detection names.
    fn check_origin(&self, detection: &Detection) -> Result<(), String> {
        let Detection { row, owner, about, members, .. } = detection;
        let (index, rows) = (*row as usize, self.batch.len());
        let Some(&symbol) = self.batch.symbol.get(index) else {
            return Err(format!("a detection at row {row} of a batch of {rows}"));
        };
        if *row < self.row {
            return Err(format!("a detection at row {row} after one at row {}", self.row));
        }
        // At a clock row a detector may report any state that it has.
        let is_owner = match (symbol == CLOCK, self.has_groups) {
            (false, false) => *owner == symbol,
            (false, true) => self.batch.group.get(index) == Some(owner),
            (true, false) => self.introduced.is_symbol(*owner),
            (true, true) => self.introduced.is_group(*owner),
        };
        if !is_owner {
            let kind = if self.has_groups { "group" } else { "symbol" };
            return Err(format!("a detection at row {row} about {kind} {owner}, which is not the row's"));
        }
        let is_about = about == owner || self.has_groups && self.introduced.is_symbol(*about);
        if !is_about {
            return Err(format!(
                "a detection at row {row} is about {about}, which is neither its state's nor a member"
            ));
        }
        self.check_members(members)
    }

    fn check_members(&self, members: &[u32]) -> Result<(), String> {
        if members.len() > MEMBERS_MAX {
            return Err(format!("{} members in one detection, at most {MEMBERS_MAX}", members.len()));
        }
        if !members.is_empty() && !self.has_groups {
            return Err("a detection of a symbol has members, which only those of groups have".to_owned());
        }
        for (number, member) in members.iter().enumerate() {
            if !self.introduced.is_symbol(*member) {
                return Err(format!("a detection has member {member}, which is not a symbol that it knows"));
            }
            if members[..number].contains(member) {
                return Err(format!("a detection has member {member} twice"));
            }
        }
        Ok(())
    }

    fn add(&mut self, detection: &Detection) -> Result<(), String> {
        let Detection { row, owner, evidence, members, .. } = detection;
        if *row != self.row {
            self.row = *row;
            self.used.clear();
        }
        let used = self.used.entry(*owner).or_default();
        used.detections += 1;
        used.bytes += DETECTION_BYTES + size_of_val(&members[..]);
        used.bytes += evidence.iter().map(|(name, _)| EVIDENCE_BYTES + name.len()).sum::<usize>();
        let kind = if self.has_groups { "of a group" } else { "about a symbol" };
        if used.detections > DETECTIONS_PER_OWNER {
            return Err(format!("more than {DETECTIONS_PER_OWNER} detections {kind} at row {row}"));
        }
        if used.bytes > DETECTION_BYTES_PER_OWNER {
            return Err(format!("detections of more than {DETECTION_BYTES_PER_OWNER} bytes {kind} at row {row}"));
        }
        Ok(())
    }
}

/// Checks what a guest says that it has looked at.
///
/// # Errors
/// Says how it breaks the contract.
pub(super) fn check_judgments(
    judgments: Vec<Judgment>,
    batch: &Batch,
    introduced: &Introduced,
) -> Result<Vec<Judgment>, String> {
    for Judgment { row, owner, gates } in &judgments {
        if *row as usize >= batch.len() {
            return Err(format!("a judgment at row {row} of a batch of {}", batch.len()));
        }
        if !introduced.contains(*owner) {
            return Err(format!("a judgment at row {row} about {owner}, which it does not know"));
        }
        gates.iter().try_for_each(|gate| check_name("gate", &gate.name))?;
    }
    Ok(judgments)
}

fn check_evidence(evidence: &[(String, f64)]) -> Result<(), String> {
    if evidence.len() > EVIDENCE_MAX {
        return Err(format!("{} numbers of evidence in one detection, at most {EVIDENCE_MAX}", evidence.len()));
    }
    for (name, value) in evidence {
        check_name("evidence", name)?;
        if !value.is_finite() {
            return Err(format!("evidence {name} is {value}"));
        }
    }
    Ok(())
}

/// Checks the name of a number that people are shown.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > EVIDENCE_NAME_MAX {
        let (name, length) = (shown(name), name.len());
        return Err(format!("{what} `{name}` has a name of {length} bytes, expected 1 to {EVIDENCE_NAME_MAX}"));
    }
    if !is_printable(name) {
        return Err(format!("{what} `{}` has a name with characters that can't be printed", shown(name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::event::TickRow;

    const SYMBOL: u32 = 3;

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
        let members = Vec::new();
        Detection { row, owner: SYMBOL, about: SYMBOL, confidence: 1.0, direction: Direction::Up, members, evidence }
    }

    /// The fault of these detections in a batch of a guest that knows `known` symbols; empty if there is none.
    fn fault(detections: Vec<Detection>, known: u32) -> String {
        let mut introduced = Introduced::default();
        (0..known).for_each(|symbol| introduced.add_symbol(symbol));
        let batch = batch();
        let mut check = DetectionCheck::new(&batch, &introduced, false);
        detections.iter().try_for_each(|detection| check.accept(detection)).err().unwrap_or_default()
    }

    #[test]
    fn a_tick_has_so_many_detections_and_no_more() {
        let many = |row, count| vec![detection(row, &["level"]); count];
        assert_eq!(fault(many(0, DETECTIONS_PER_OWNER), 4), "");
        assert_eq!(fault([many(0, DETECTIONS_PER_OWNER), many(2, DETECTIONS_PER_OWNER)].concat(), 4), "");
        let rejected = |row| fault(many(row, DETECTIONS_PER_OWNER + 1), 4);
        assert!(rejected(2).contains("more than 16 detections about a symbol at row 2"));
        assert!(rejected(1).contains("more than 16 detections about a symbol at row 1"), "the same at a clock row");
        // At a clock row they may be about several symbols, in any order.
        let about = |symbol| Detection { owner: symbol, about: symbol, ..detection(1, &["level"]) };
        let turns: Vec<Detection> = (0..DETECTIONS_PER_OWNER).flat_map(|_| [about(3), about(1)]).collect();
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

    /// The fault of a detection in a batch of groups: a tick of symbol 0 for group 10, and a clock row. Symbols 0 to 3 are known,
    /// and groups 10 and 11.
    fn fault_of_group(change: impl Fn(&mut Detection)) -> String {
        let mut batch = Batch::new(0);
        batch.push(TickRow { entry: 0, symbol: 0, time: 1, price: 1.0, columns: &[] });
        batch.push_clock(1, 1);
        batch.group = vec![10, CLOCK];
        let mut introduced = Introduced::default();
        (0..4).for_each(|symbol| introduced.add_symbol(symbol));
        (10..12).for_each(|group| introduced.add_group(group));
        let mut detection = Detection { owner: 10, about: 10, members: vec![1, 2], ..detection(0, &["level"]) };
        change(&mut detection);
        DetectionCheck::new(&batch, &introduced, true).accept(&detection).err().unwrap_or_default()
    }

    #[test]
    fn a_detection_of_a_group_is_about_the_group_or_a_member() {
        assert_eq!(fault_of_group(|_| ()), "");
        assert_eq!(fault_of_group(|detection| detection.about = 3), "");
        assert_eq!(fault_of_group(|detection| (detection.row, detection.owner, detection.about) = (1, 11, 11)), "");
        type Change = fn(&mut Detection);
        let cases: [(&str, Change); 8] = [
            ("about group 11, which is not the row's", |detection| detection.owner = 11),
            ("about group 0, which is not the row's", |detection| detection.owner = 0),
            ("is about 11, which is neither its state's nor a member", |detection| detection.about = 11),
            ("is about 4294967295, which is neither", |detection| detection.about = CLOCK),
            ("about group 12, which is not the row's", |detection| (detection.row, detection.owner) = (1, 12)),
            ("has member 11, which is not a symbol that it knows", |detection| detection.members = vec![1, 11]),
            ("has member 2 twice", |detection| detection.members = vec![2, 1, 2]),
            ("65 members in one detection, at most 64", |detection| detection.members = vec![1; 65]),
        ];
        for (expected, change) in cases {
            let fault = fault_of_group(change);
            assert!(fault.contains(expected), "{fault}");
        }
    }

    #[test]
    fn a_detection_of_a_symbol_has_no_members_and_is_about_the_symbol() {
        let with = |change: fn(&mut Detection)| {
            let mut one = detection(0, &["level"]);
            change(&mut one);
            fault(vec![one], 4)
        };
        assert_eq!(with(|_| ()), "");
        assert!(with(|one| one.members = vec![SYMBOL]).contains("a detection of a symbol has members"));
        assert!(with(|one| one.about = 1).contains("is about 1, which is neither"));
        assert!(with(|one| one.confidence = f64::NAN).contains("confidence NaN is not in 0..=1"));
        assert!(with(|one| one.evidence[0].1 = f64::INFINITY).contains("evidence level is inf"));
    }

    #[test]
    fn a_judgment_is_about_a_row_and_a_state_and_its_gates_have_names() {
        let mut introduced = Introduced::default();
        introduced.add_symbol(SYMBOL);
        let judgment = |row, owner, name: &str| {
            let gates = vec![Gate { name: name.into(), value: f64::NAN, limit: 1.0, holds: false }];
            check_judgments(vec![Judgment { row, owner, gates }], &batch(), &introduced).err().unwrap_or_default()
        };
        assert_eq!(judgment(2, SYMBOL, "above_channel"), "");
        assert_eq!(judgment(3, SYMBOL, "x"), "a judgment at row 3 of a batch of 3");
        assert_eq!(judgment(0, 9, "x"), "a judgment at row 0 about 9, which it does not know");
        assert!(judgment(0, SYMBOL, "\u{202e}").contains("characters that can't be printed"));
    }
}
