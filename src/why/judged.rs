//! What a detector looked at, compared: how far a row was from a detection.
//!
//! What holds: a condition that compares with NaN does not hold and is farther away than any other. The order is the same
//! whatever the units are: distances are relative to the limit.

use std::cmp::Ordering;

use serde::Serialize;

use tickhound_engine::plugin::{Gate, ProbedRow, ProbedState};

/// One state at one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) row: &'a ProbedRow,
    pub(crate) state: &'a ProbedState,
}

/// How often a condition was looked at, and how often it held.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GateCount {
    pub(crate) name: String,
    pub(crate) looked_at: usize,
    pub(crate) held: usize,
}

/// What the rows of a window say together.
pub(crate) struct WindowAccount<'a> {
    /// The states that were looked at, in the order of their rows.
    pub(crate) judged: Vec<Judged<'a>>,
    /// That which was closest to a detection; `None` if nothing was looked at.
    pub(crate) closest: Option<Judged<'a>>,
    /// The conditions in the order in which they were looked at first.
    pub(crate) gates: Vec<GateCount>,
}

impl<'a> Judged<'a> {
    /// The states of a row in which something was looked at.
    pub(crate) fn of_row(row: &'a ProbedRow) -> impl Iterator<Item = Self> {
        let states = row.states.iter().filter(|state| !state.gates.is_empty());
        states.map(move |state| Self { row, state })
    }

    /// How many conditions did not hold.
    pub(crate) fn failing(&self) -> usize {
        self.state.gates.iter().filter(|gate| !gate.holds).count()
    }

    /// How many conditions held.
    pub(crate) fn held(&self) -> usize {
        self.state.gates.len() - self.failing()
    }

    /// Whether all conditions held that were looked at.
    pub(crate) fn all_held(&self) -> bool {
        self.failing() == 0
    }

    /// The first condition that did not hold.
    pub(crate) fn first_failing(&self) -> Option<&'a Gate> {
        self.state.gates.iter().find(|gate| !gate.holds)
    }

    /// The sum of the distances of the conditions that did not hold.
    pub(crate) fn distance(&self) -> f64 {
        self.state.gates.iter().filter(|gate| !gate.holds).map(distance).sum()
    }

    /// Orders what is closer to a detection first: fewer conditions that did not hold, then more that held, since a detector may
    /// look at no further one after the first that does not, then the smaller distance.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let counts = self.failing().cmp(&other.failing()).then(other.held().cmp(&self.held()));
        counts.then_with(|| self.distance().total_cmp(&other.distance()))
    }
}

impl<'a> WindowAccount<'a> {
    pub(crate) fn of(rows: &'a [ProbedRow]) -> Self {
        let judged: Vec<Judged<'a>> = rows.iter().flat_map(Judged::of_row).collect();
        let mut gates: Vec<GateCount> = Vec::new();
        for gate in judged.iter().flat_map(|judged| &judged.state.gates) {
            let at = gates.iter().position(|count| count.name == gate.name).unwrap_or_else(|| {
                gates.push(GateCount { name: gate.name.clone(), looked_at: 0, held: 0 });
                gates.len() - 1
            });
            gates[at].looked_at += 1;
            gates[at].held += usize::from(gate.holds);
        }
        // Of several that are as close, the first.
        let closest = judged.iter().copied().reduce(|best, other| match other.compare(&best) {
            Ordering::Less => other,
            Ordering::Equal | Ordering::Greater => best,
        });
        Self { judged, closest, gates }
    }

    /// The rows at which all conditions held that were looked at.
    pub(crate) fn detections(&self) -> impl Iterator<Item = &Judged<'a>> {
        self.judged.iter().filter(|judged| judged.all_held())
    }
}

/// How far a condition is from holding, relative to what it compares; infinite if either is not a number.
pub(crate) fn distance(gate: &Gate) -> f64 {
    let scale = gate.limit.abs().max(gate.value.abs());
    let distance = (gate.value - gate.limit).abs() / scale;
    match scale {
        0.0 => 0.0,
        _ if distance.is_nan() => f64::INFINITY,
        _ => distance,
    }
}

/// The states that are one condition away from a detection or closer, closest first.
pub(crate) fn near<'a>(rows: impl Iterator<Item = &'a ProbedRow>) -> Vec<Judged<'a>> {
    let mut near: Vec<Judged<'a>> = rows.flat_map(Judged::of_row).filter(|judged| judged.failing() <= 1).collect();
    near.sort_by(|a, b| a.compare(b).then_with(|| a.state.owner.cmp(&b.state.owner)));
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(time: u64, owner: &str, gates: &[(&str, f64, f64, bool)]) -> ProbedRow {
        let gate =
            |&(name, value, limit, holds): &(&str, f64, f64, bool)| Gate { name: name.to_owned(), value, limit, holds };
        let states = vec![ProbedState { owner: owner.to_owned(), gates: gates.iter().map(gate).collect() }];
        let symbol = Some(owner.to_owned());
        ProbedRow { time, symbol, group: None, price: 1.0, columns: Vec::new(), states }
    }

    #[test]
    fn the_closest_row_has_the_fewest_failing_gates_then_the_most_held_ones_then_the_smallest_distance() {
        let rows = [
            row(1, "A", &[("warm", 1.0, 5.0, false)]),
            row(2, "A", &[("warm", 9.0, 5.0, true), ("high", 99.0, 100.0, false)]),
            row(3, "A", &[("warm", 9.0, 5.0, true), ("high", 99.9, 100.0, false)]),
            row(4, "A", &[("warm", 9.0, 5.0, true), ("high", f64::NAN, 100.0, false)]),
            row(5, "A", &[]),
            row(6, "A", &[("warm", 9.0, 5.0, true), ("high", 1.0, 100.0, false), ("quick", 0.0, 0.0, false)]),
            row(7, "A", &[("warm", 9.0, 5.0, true), ("high", 99.9, 100.0, false)]),
        ];
        let account = WindowAccount::of(&rows);
        assert_eq!(account.closest.unwrap().row.time, 3);
        assert_eq!((account.judged.len(), account.detections().count()), (6, 0));
        let counts: Vec<(&str, usize, usize)> =
            account.gates.iter().map(|gate| (gate.name.as_str(), gate.looked_at, gate.held)).collect();
        assert_eq!(counts, [("warm", 6, 5), ("high", 5, 0), ("quick", 1, 0)]);
        let of_none = WindowAccount::of(&rows[4..5]);
        assert!(of_none.closest.is_none() && of_none.gates.is_empty());
    }

    #[test]
    fn states_that_are_one_gate_away_come_closest_first() {
        let rows = [
            row(1, "FAR", &[("a", 1.0, 2.0, false), ("b", 1.0, 2.0, false)]),
            row(1, "B", &[("a", 3.0, 2.0, true), ("b", 1.0, 2.0, false)]),
            row(1, "A", &[("a", 3.0, 2.0, true), ("b", 1.0, 2.0, false)]),
            row(1, "COLD", &[("a", 1.9, 2.0, false)]),
            row(1, "THERE", &[("a", 3.0, 2.0, true)]),
            row(1, "NAN", &[("a", 3.0, 2.0, true), ("b", f64::NAN, f64::NAN, false)]),
        ];
        let owners: Vec<&str> = near(rows.iter()).iter().map(|judged| judged.state.owner.as_str()).collect();
        assert_eq!(owners, ["THERE", "A", "B", "NAN", "COLD"]);
    }

    #[test]
    fn distances_are_relative_and_never_nan() {
        let gate = |value, limit| Gate { name: String::new(), value, limit, holds: false };
        let distances = [(99.0, 100.0), (-1.0, 1.0), (0.0, 0.0), (0.0, 5.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0)]
            .map(|(value, limit)| distance(&gate(value, limit)));
        assert_eq!(distances, [0.01, 2.0, 0.0, 1.0, f64::INFINITY, f64::INFINITY]);
    }
}
