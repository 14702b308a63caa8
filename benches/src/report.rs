//! What was measured, as a table for people, as JSON, and as sections of `docs/PERFORMANCE.md`.
//!
//! What people wrote in that file stays: only what stands between a suite's marks is replaced.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::{Spread, ratios};

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: Spread,
    /// What stands beside it.
    pub(crate) baseline: Option<Baseline>,
    pub(crate) target: Option<Target>,
    pub(crate) met: Option<bool>,
}

/// Measured in turn with ours.
#[derive(Debug, Serialize)]
pub(crate) struct Baseline {
    pub(crate) name: String,
    pub(crate) value: Spread,
    /// Ours to it, pair by pair; upside down where less is better and so it reads as "times".
    pub(crate) ratio: Spread,
}

/// What was to be reached, by the median.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    /// A figure that stands alone.
    pub(crate) fn alone(what: impl Into<String>, unit: &'static str, ours: &[f64]) -> Self {
        Self { what: what.into(), unit, ours: Spread::of(ours), baseline: None, target: None, met: None }
    }

    /// Beside what was measured in turn with it.
    pub(crate) fn beside(
        what: impl Into<String>,
        unit: &'static str,
        ours: &[f64],
        name: &str,
        theirs: &[f64],
    ) -> Self {
        let baseline =
            Baseline { name: name.into(), value: Spread::of(theirs), ratio: Spread::of(&ratios(ours, theirs)) };
        Self { baseline: Some(baseline), ..Self::alone(what, unit, ours) }
    }

    /// Times that theirs takes as long as ours.
    pub(crate) fn faster_than(
        what: impl Into<String>,
        unit: &'static str,
        ours: &[f64],
        name: &str,
        theirs: &[f64],
    ) -> Self {
        let mut row = Self::beside(what, unit, ours, name, theirs);
        if let Some(baseline) = &mut row.baseline {
            baseline.ratio = Spread::of(&ratios(theirs, ours));
        }
        row
    }

    pub(crate) fn target(mut self, target: Target) -> Self {
        let ratio = self.baseline.as_ref().map_or(f64::NAN, |baseline| baseline.ratio.median);
        self.met = Some(match target {
            Target::RatioAtLeast(least) => ratio >= least,
            Target::RatioAtMost(most) => ratio <= most,
            Target::AtLeast(least) => self.ours.median >= least,
            Target::AtMost(most) => self.ours.median <= most,
        });
        self.target = Some(target);
        self
    }

    fn cells(&self) -> [String; 6] {
        let Self { unit, ours, baseline, target, met, .. } = self;
        let with_unit = |spread: &Spread| format!("{} {unit}", shown(spread)).trim_end().to_owned();
        let target = target.map_or_else(String::new, |target| match target {
            Target::RatioAtLeast(least) => format!("ratio ≥ {}", number(least)),
            Target::RatioAtMost(most) => format!("ratio ≤ {}", number(most)),
            Target::AtLeast(least) => format!("≥ {} {unit}", number(least)).trim_end().to_owned(),
            Target::AtMost(most) => format!("≤ {} {unit}", number(most)).trim_end().to_owned(),
        });
        [
            self.what.clone(),
            format!("{}, n={}", with_unit(ours), ours.n),
            baseline.as_ref().map_or_else(String::new, |other| format!("{}: {}", other.name, shown(&other.value))),
            baseline.as_ref().map_or_else(String::new, |other| shown(&other.ratio)),
            target,
            match met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            }
            .to_owned(),
        ]
    }
}

const HEADS: [&str; 6] = ["what", "ours", "baseline", "ratio", "target", ""];

/// For a terminal.
pub(crate) fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| {
            let longest = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            longest.max(HEADS[column].len())
        })
        .collect();
    let mut text = String::new();
    for row in std::iter::once(&HEADS.map(str::to_owned)).chain(&cells) {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell}{:pad$}  ", "", pad = width - cell.chars().count());
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// For a Markdown file.
fn markdown(rows: &[Row]) -> String {
    let mut text = String::from("| what | ours: median (least–most) | baseline | ratio | target | |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    text
}

/// Replaces what stands between the marks of `section`.
///
/// # Errors
/// When the file has no such marks.
pub(crate) fn write_section(file: &Path, section: &str, text: &str) -> Result<()> {
    let before = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let after =
        replaced(&before, section, text).with_context(|| format!("{} has no marks for {section}", file.display()))?;
    fs::write(file, after).with_context(|| format!("can't write {}", file.display()))
}

/// A suite's section: its figures, and when they were taken.
pub(crate) fn section(rows: &[Row], taken: &str) -> String {
    format!("{}\n{taken}\n", markdown(rows))
}

fn replaced(text: &str, section: &str, new: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- {section}: begin -->\n"), format!("<!-- {section}: end -->"));
    let (head, rest) = text.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}{new}{end}{tail}"))
}

fn shown(spread: &Spread) -> String {
    let Spread { median, least, most, n } = spread;
    match n {
        1 => number(*median),
        _ => format!("{} ({}–{})", number(*median), number(*least), number(*most)),
    }
}

/// Three digits that count, thousands apart.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 || size == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let fraction = fraction.trim_end_matches('0');
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.8123, "0.812"),
            (1.3, "1.3"),
            (47.26, "47.3"),
            (312.4, "312"),
            (1_234_567.0, "1,234,567"),
            (-1000.0, "-1,000"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_target_is_judged_by_the_median() {
        let row = |target| Row::beside("", "", &[1.0, 2.0, 9.0], "", &[1.0, 1.0, 1.0]).target(target).met;
        assert_eq!(row(Target::RatioAtLeast(2.0)), Some(true));
        assert_eq!(row(Target::RatioAtMost(1.9)), Some(false));
        assert_eq!(row(Target::AtMost(2.0)), Some(true));
        let faster = Row::faster_than("", "", &[1.0], "", &[30.0]).target(Target::RatioAtLeast(30.0));
        assert_eq!(faster.met, Some(true));
    }

    #[test]
    fn what_people_wrote_stays() {
        let text = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n";
        let expected = "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n";
        assert_eq!(replaced(text, "x", "new\n").as_deref(), Some(expected));
        assert_eq!(replaced(text, "z", "new"), None);
    }
}
