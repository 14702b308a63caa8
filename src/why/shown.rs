//! How people and programs are shown what a detector has looked at.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use super::{
    judged::{Judged, WindowAccount, distance, near},
    scratch::{Basis, Probed},
};
use crate::clock::{rfc_3339, to_the_millisecond};
use tickhound_core::{event::Alert, text::printable};
use tickhound_engine::plugin::{DetectorSpec, Gate, ProbedRow};

/// The digits of a number that a person is shown: enough to tell a price from a limit beside it.
const DIGITS: i32 = 10;

/// Shows rows of one detector.
pub(crate) struct Shower<'a> {
    pub(crate) spec: &'a DetectorSpec,
    pub(crate) zone: &'a TimeZone,
}

impl Shower<'_> {
    /// The event time with date and zone.
    pub(crate) fn time(&self, ns: u64) -> String {
        instant(ns).map_or_else(|| "-".to_owned(), |at| to_the_millisecond(at, self.zone))
    }

    /// The event time for programs.
    pub(crate) fn time_json(&self, ns: u64) -> Value {
        instant(ns).map_or(Value::Null, |at| json!(rfc_3339(at, self.zone)))
    }

    /// What the detector was replayed from, and whether that is enough.
    pub(crate) fn basis(&self, probed: &Probed, at: u64) -> String {
        let mut text = match probed.basis {
            Basis::Saved => "from the states that the host has saved".to_owned(),
            Basis::Entries(entries) => {
                let since = probed.rows.since.map(|since| format!(", the first of them at {}", self.time(since)));
                format!("without a saved state, {entries} entries{}", since.unwrap_or_default())
            }
        };
        if let Some(missing) = self.missing_warm_up(probed, at) {
            let (has, needs) = missing;
            let _ = write!(
                text,
                "\nthe detector warms up for {needs:.0} s of market time, and had {has:.0} s: what it looked at may differ \
                 from what it looks at in a host. Name files of earlier ticks (docs/why.md)"
            );
        }
        if let Some((count, fault)) = &probed.faults {
            let _ = write!(text, "\nthe detector failed {count} times meanwhile: {}", printable(fault));
        }
        text
    }

    /// The seconds of market time that the detector had before `at`, and those that it needs, if it had too few.
    fn missing_warm_up(&self, probed: &Probed, at: u64) -> Option<(f64, f64)> {
        let needs = self.spec.trial.warm_up_seconds;
        let since = probed.rows.since.filter(|_| probed.basis != Basis::Saved)?;
        let has = at.saturating_sub(since) as f64 / 1e9;
        (has < needs).then_some((has, needs))
    }

    /// The basis for programs.
    pub(crate) fn basis_json(&self, probed: &Probed, at: u64) -> Value {
        let (kind, entries) = match probed.basis {
            Basis::Saved => ("saved", Value::Null),
            Basis::Entries(entries) => ("entries", json!(entries)),
        };
        let missing = self.missing_warm_up(probed, at);
        json!({
            "state": kind,
            "entries": entries,
            "since": probed.rows.since.map(|since| self.time_json(since)),
            "warm_up_s": self.spec.trial.warm_up_seconds,
            "is_warm": missing.is_none(),
            "faults": probed.faults.as_ref().map_or(0, |(count, _)| *count),
        })
    }

    /// A table of the conditions of a state, beside those of an earlier row of it.
    pub(crate) fn gates(&self, judged: &Judged<'_>, before: Option<&Judged<'_>>) -> String {
        let earlier = |gate: &Gate| {
            let gates = before.map(|before| before.state.gates.as_slice()).unwrap_or_default();
            gates
                .iter()
                .find(|known| known.name == gate.name)
                .map_or_else(|| "-".to_owned(), |known| number(known.value))
        };
        let mut rows = vec![vec!["gate", "", "value", "limit"].into_iter().map(str::to_owned).collect::<Vec<_>>()];
        if before.is_some() {
            rows[0].push("value before".to_owned());
        }
        for gate in &judged.state.gates {
            let holds = if gate.holds { "held" } else { "no" };
            let mut cells = vec![gate.name.clone(), holds.to_owned(), number(gate.value), number(gate.limit)];
            cells.extend(before.map(|_| earlier(gate)));
            rows.push(cells);
        }
        table(&rows)
    }

    /// A table of rows; the one at `marked` is marked.
    pub(crate) fn rows<'r>(&self, rows: impl Iterator<Item = &'r ProbedRow>, marked: &ProbedRow) -> String {
        let names: Vec<&str> = self.spec.column_names().collect();
        let mut cells = vec![["", "time", "symbol", "price"].into_iter().chain(names).map(str::to_owned).collect()];
        for row in rows {
            let mark = if std::ptr::eq(row, marked) { ">" } else { "" };
            let symbol = row.symbol.clone().unwrap_or_else(|| "(clock)".to_owned());
            let mut line = vec![mark.to_owned(), self.time(row.time), symbol, number(row.price)];
            line.extend(row.columns.iter().map(|value| number(*value)));
            cells.push(line);
        }
        table(&cells)
    }

    /// What a window says, for people.
    pub(crate) fn window(&self, account: &WindowAccount<'_>, alerts: &[Alert]) -> String {
        let Some(closest) = account.closest else {
            let rows = "it named no gate at any of these rows: they don't matter to it, such as ticks from outside of a session, or";
            return format!("{rows} its plugin names none (docs/why.md)");
        };
        let detections = account.detections().count();
        let mut text = if detections == 0 {
            format!("{} rows looked at; not all gates held at any of them\n", account.judged.len())
        } else {
            format!("{} rows looked at; all gates held at {detections} of them\n", account.judged.len())
        };
        for alert in alerts {
            let _ = writeln!(text, "an alert at {}: {}", self.time(alert.time), alert.id);
        }
        if detections > 0 && alerts.is_empty() {
            text.push_str(
                "no alert: a limit may have held it back (cooldown_s, min_confidence; see `tickhound status`)\n",
            );
        }
        let which = if detections == 0 { "closest" } else { "first" };
        let shown = account.detections().next().copied().unwrap_or(closest);
        let _ = write!(text, "\n{which} at {}", self.time(shown.row.time));
        if !shown.row.price.is_nan() {
            let _ = write!(text, ", price {}", number(shown.row.price));
        }
        let _ = writeln!(text, ", {} of {} gates held", shown.held(), shown.state.gates.len());
        text.push_str(&self.gates(&shown, None));
        text.push_str("\nhow often each gate held\n");
        let mut counts = vec![["gate", "held", "of rows"].map(str::to_owned).to_vec()];
        counts.extend(
            account.gates.iter().map(|gate| vec![gate.name.clone(), gate.held.to_string(), gate.looked_at.to_string()]),
        );
        text.push_str(&table(&counts));
        text
    }

    /// A state at a row, for programs.
    pub(crate) fn judged_json(&self, judged: &Judged<'_>) -> Value {
        let mut shown = self.row_json(judged.row);
        shown["owner"] = json!(judged.state.owner);
        shown["held"] = json!(judged.held());
        shown["failing"] = json!(judged.failing());
        shown["gates"] = json!(judged.state.gates);
        shown
    }

    /// A row for programs.
    pub(crate) fn row_json(&self, row: &ProbedRow) -> Value {
        let columns: serde_json::Map<String, Value> =
            self.spec.column_names().map(str::to_owned).zip(row.columns.iter().map(|value| json!(value))).collect();
        let mut shown = json!({
            "time": self.time_json(row.time),
            "time_ns": row.time,
            "symbol": row.symbol,
            "price": row.price,
            "columns": columns,
        });
        if let Some(group) = &row.group {
            shown["group"] = json!(group);
        }
        shown
    }
}

/// The states that are closest to a detection.
pub(crate) struct NearStates<'a> {
    probed: &'a Probed,
    /// Those that are near, the closest first.
    pub(crate) near: Vec<Judged<'a>>,
    /// How many are near, those included that are not listed.
    count: usize,
    /// The latest event time of all states, ns since the Unix epoch.
    latest: u64,
}

impl<'a> NearStates<'a> {
    /// The closest states of all that were looked at, at most so many.
    pub(crate) fn of(probed: &'a Probed, most: usize) -> Self {
        let mut near = near(probed.rows.latest.values());
        let count = near.len();
        near.truncate(most);
        Self { probed, near, count, latest: probed.rows.latest.values().map(|row| row.time).max().unwrap_or(0) }
    }
}

impl Shower<'_> {
    /// The states that are near, for people.
    pub(crate) fn near(&self, states: &NearStates<'_>) -> String {
        let NearStates { probed, near, count, latest } = states;
        let all = probed.rows.latest.len();
        if all == 0 {
            let rows = probed.rows.rows;
            let basis = self.basis(probed, u64::MAX);
            return format!("{} named no gate at any of {rows} rows (docs/why.md); replayed {basis}", self.spec.name);
        }
        let mut text = format!(
            "{}: {count} of {all} are one gate away or closer, as of {}\nreplayed {}\n",
            self.spec.name,
            self.time(*latest),
            self.basis(probed, *latest)
        );
        if near.is_empty() {
            return text;
        }
        let mut rows = vec![
            ["", "price", "held", "gate that does not hold", "value", "limit", "away", "at"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for judged in near {
            let gate = judged.first_failing();
            let of_gate = |shown: &dyn Fn(&Gate) -> String| gate.map_or_else(|| "-".to_owned(), shown);
            rows.push(vec![
                judged.state.owner.clone(),
                number(judged.row.price),
                judged.held().to_string(),
                of_gate(&|gate| gate.name.clone()),
                of_gate(&|gate| number(gate.value)),
                of_gate(&|gate| number(gate.limit)),
                of_gate(&|gate| share(distance(gate))),
                self.time(judged.row.time),
            ]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
        text
    }

    /// The states that are near, for programs.
    pub(crate) fn near_json(&self, states: &NearStates<'_>) -> Value {
        let NearStates { probed, near, count, latest } = states;
        json!({
            "detector": self.spec.name,
            "as_of": if *latest > 0 { self.time_json(*latest) } else { Value::Null },
            "replayed": self.basis_json(probed, *latest),
            "looked_at": probed.rows.latest.len(),
            "count": count,
            "near": near.iter().map(|judged| self.near_state_json(judged)).collect::<Vec<_>>(),
        })
    }

    fn near_state_json(&self, judged: &Judged<'_>) -> Value {
        let mut shown = self.judged_json(judged);
        shown["gate"] = json!(judged.first_failing().map(|gate| &gate.name));
        shown["away"] = json!(judged.first_failing().map(distance));
        shown
    }
}

/// A distance relative to its limit, as a percentage.
fn share(distance: f64) -> String {
    if distance.is_finite() { format!("{:.2} %", 100.0 * distance) } else { "-".to_owned() }
}

/// A number with as many digits as help a person.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "-".to_owned() } else { value.to_string() };
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = DIGITS - 1 - value.abs().log10().floor() as i32;
    if !(0..=2 * DIGITS).contains(&digits) {
        return format!("{value:e}");
    }
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Lines of cells in columns. The first line has their names.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let shown: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell).into_owned()).collect()).collect();
    let width = |at: usize| shown.iter().filter_map(|row| row.get(at)).map(|cell| cell.width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &shown {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width - cell.width());
            let _ = write!(line, "  {cell}{padding}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn instant(ns: u64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(ns)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_tell_them_apart() {
        let shown =
            [0.0, 1.0, 812.35, 0.1 + 0.2, 24_853.052_631_578_947, -0.000_012_345, 1e-30, 3e20, f64::NAN].map(number);
        assert_eq!(shown, ["0", "1", "812.35", "0.3", "24853.05263", "-0.000012345", "1e-30", "3e20", "-"]);
        assert_eq!(number(f64::INFINITY), "inf");
    }

    #[test]
    fn a_table_has_columns_and_nothing_that_moves_the_cursor() {
        let rows = [vec!["gate", "value"], vec!["warm\u{1b}[2J", "1"], vec!["a", ""]]
            .map(|row| row.into_iter().map(str::to_owned).collect());
        let shown = table(&rows);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        assert!(shown.lines().all(|line| line.starts_with("  ") && !line.ends_with(' ')), "{shown:?}");
    }
}
