//! Runs one detector with many settings in one pass over the ticks.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    super::author,
    table::{ReplayResult, percent},
};
use crate::output::Lines;
use tickhound_core::config::LoadedConfig;

/// More points would take more memory than most machines have.
const POINTS_MAX: usize = 1000;

/// A grid of parameters.
pub(super) struct Sweep {
    names: Vec<String>,
    /// The name of each point's detector, and its values.
    points: Vec<(String, Vec<toml::Value>)>,
}

impl Sweep {
    /// Replaces the detector of the configuration by one for each point; `None` if there is nothing to sweep.
    pub(super) fn parse(args: &[String], loaded: &mut LoadedConfig) -> Result<Option<Self>> {
        if args.is_empty() {
            return Ok(None);
        }
        let mut names: Vec<String> = Vec::new();
        let mut grid: Vec<Vec<toml::Value>> = vec![Vec::new()];
        for arg in args {
            let (name, values) = arg
                .split_once('=')
                .filter(|(name, values)| !name.is_empty() && !values.is_empty())
                .with_context(|| format!("--sweep {arg}: expected NAME=A,B,C"))?;
            ensure!(!names.iter().any(|known| known == name), "--sweep {arg}: {name} is swept twice");
            names.push(name.to_owned());
            let values: Vec<toml::Value> = values.split(',').map(author::value).collect();
            grid = grid
                .iter()
                .flat_map(|point| values.iter().map(|value| point.iter().cloned().chain([value.clone()]).collect()))
                .collect();
        }
        ensure!(grid.len() <= POINTS_MAX, "--sweep: {} combinations, expected {POINTS_MAX} at most", grid.len());
        let detectors = std::mem::take(&mut loaded.config.detectors);
        let (name, settings) = detectors.into_iter().next().context("there is no detector to sweep")?;
        let digits = grid.len().to_string().len();
        let mut points = Vec::new();
        for (number, values) in grid.into_iter().enumerate() {
            let mut settings = settings.clone();
            settings.params.extend(names.iter().cloned().zip(values.iter().cloned()));
            // Detectors are ordered by name, so the numbers have leading zeros.
            let point = format!("{name}-{:0digits$}", number + 1);
            loaded.config.detectors.insert(point.clone(), settings);
            points.push((point, values));
        }
        Ok(Some(Self { names, points }))
    }

    pub(super) fn to_text(&self, result: &ReplayResult<'_>) -> Lines {
        let mut text = result.head();
        let widths: Vec<usize> = (0..self.names.len())
            .map(|at| {
                let values = self.points.iter().map(|(_, values)| values[at].to_string().len());
                values.max().unwrap_or(0).max(self.names[at].len())
            })
            .collect();
        let mut line = String::new();
        for (name, width) in self.names.iter().zip(&widths) {
            let _ = write!(line, "{name:>width$}  ");
        }
        let _ = writeln!(text);
        let _ = writeln!(
            text,
            "{line}{:>8} {:>10} {:>8} {:>8} {:>8} {:>7} {:>8}",
            "alerts", "confidence", "reached", "failed", "neither", "hits", "ns/tick"
        );
        for (point, values) in &self.points {
            line.clear();
            for (value, width) in values.iter().zip(&widths) {
                let _ = write!(line, "{:>width$}  ", value.to_string());
            }
            let outcomes = result.outcomes.get(point).copied().unwrap_or_default();
            let confidence = result.confidence(point).map_or_else(|| "-".to_owned(), |middle| format!("{middle:.3}"));
            let cost = result.summary.ns_per_tick.get(point).map_or_else(|| "-".to_owned(), u64::to_string);
            let _ = writeln!(
                text,
                "{line}{:>8} {confidence:>10} {:>8} {:>8} {:>8} {:>7} {cost:>8}",
                result.summary.alerts.get(point).copied().unwrap_or(0),
                outcomes.reached,
                outcomes.failed,
                outcomes.neither,
                percent(outcomes.hit_rate()),
            );
        }
        let _ = writeln!(text);
        let _ = writeln!(
            text,
            "The best of many settings may look good by chance: test it on other ticks, and with --surrogate."
        );
        text
    }

    pub(super) fn to_json(&self, result: &ReplayResult<'_>) -> Value {
        let mut all = result.to_json();
        let points: Vec<Value> = self
            .points
            .iter()
            .map(|(point, values)| {
                let params: serde_json::Map<String, Value> =
                    self.names.iter().cloned().zip(values.iter().map(|value| json!(value))).collect();
                let mut detector = all["detectors"][point].take();
                detector["params"] = Value::Object(params);
                detector
            })
            .collect();
        if let Some(all) = all.as_object_mut() {
            all.remove("detectors");
            all.insert("sweep".into(), points.into());
        }
        all
    }
}
