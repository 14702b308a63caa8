//! A case: ticks, and the alerts that a detector must raise on them, in one file.
//!
//! ```toml
//! about = "a fall of two percent raises an alert"
//! ticks = """
//! symbol,time,price
//! NIFTY,0.0,100.0
//! NIFTY,1.0,98.0
//! """
//!
//! [params]
//! move_pct = 1.0
//!
//! [[alerts]]
//! symbol = "NIFTY"
//! time = 1.0
//! direction = "down"
//! ```
//!
//! A detector of groups sees those of the underlyings, or those of the case's own `[groups.NAME]` tables; `[context.NAME]`
//! tables are as in the configuration. Alerts of groups have a `group`, and may have `members`. `start` is the time of second 0,
//! by default 2025-11-24T09:15:00+05:30, and `calendar` names the sessions, as in `[session]`.
//! The alerts of a case are complete and in order. Of each alert, only the given fields are compared, numbers to 0.1 %.
//! Each case also checks that the alerts do not depend on the size of batches or the number of workers, and that a
//! detector that is stopped after any tick and restarted with its saved state raises the same alerts.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use tokio::sync::watch;
use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table};

use super::rows::Rows;
use crate::authoring::replay::{OnFaults, ReplaySetup, Source, Summary, replay};
use tickhound_core::{
    config::{self, DetectorConfig, InputConfig, LoadedConfig, SessionConfig},
    decode::Decoder,
    event::{Alert, Direction, Entries, EntryId, column},
    stream::Commit,
};
use tickhound_engine::plugin::{Generation, Plugin};
use tickhound_recorded::pace::Pace;

/// The default start of a case: the opening of India's exchanges.
const START: &str = "2025-11-24T09:15:00+05:30";

/// The relative difference that a number may have from the expected one, so that authors can copy rounded numbers.
const TOLERANCE: f64 = 1e-3;

/// The difference that the time of an alert may have from the expected one, seconds: the digits of a time in a case.
const TIME_TOLERANCE: f64 = 1e-6;

/// The most restarts in a case. Each takes a moment, so in long cases there is not one for every tick.
const RESTARTS_MAX: usize = 200;

/// The sizes of batches and numbers of workers that must all give the same alerts.
const SHAPES: [(usize, usize); 3] = [(2000, 1), (1, 2), (7, 3)];

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    #[serde(default)]
    about: String,
    #[serde(default = "default_start")]
    start: String,
    /// The calendar of all symbols, as in `[session]`; empty: each day of the exchange's zone is a session.
    #[serde(default)]
    calendar: String,
    ticks: String,
    #[serde(default)]
    params: toml::Table,
    /// The groups that the detector sees, as in the configuration; empty: those of the underlyings.
    #[serde(default)]
    groups: toml::Table,
    /// The contexts, as in the configuration.
    #[serde(default)]
    context: toml::Table,
    #[serde(default)]
    alerts: Vec<ExpectedAlert>,
}

fn default_start() -> String {
    START.to_owned()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedAlert {
    symbol: String,
    /// Seconds from the start of the case.
    time: f64,
    direction: Option<String>,
    confidence: Option<f64>,
    price: Option<f64>,
    group: Option<String>,
    members: Option<Vec<String>>,
    #[serde(default)]
    evidence: BTreeMap<String, f64>,
}

/// A case that was read from a file.
pub(crate) struct Case {
    pub(crate) file: PathBuf,
    /// What the case shows, in a sentence; may be empty.
    pub(crate) about: String,
    contents: CaseFile,
    start_ns: i64,
    input: InputConfig,
    session: SessionConfig,
    entries: Arc<Entries>,
}

/// The result of running a case.
pub(crate) struct CaseResult {
    /// What differs from the case; if it is empty, the case holds.
    pub(crate) failures: Vec<String>,
    /// The alerts that the detector has raised.
    pub(crate) alerts: Vec<Alert>,
}

/// Reads the cases in files and folders.
///
/// # Errors
/// When a folder contains no case, or a case can't be read.
pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Vec<Case>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let inside = fs::read_dir(path).with_context(|| format!("can't read {}", path.display()))?;
        let mut inside: Vec<PathBuf> = inside.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
        ensure!(!inside.is_empty(), "{} contains no cases; a case is a .toml file", path.display());
        inside.sort();
        files.extend(inside);
    }
    files.iter().map(|file| Case::read(file).with_context(|| file.display().to_string())).collect()
}

impl Case {
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).map_err(|error| anyhow!("can't read the file: {error}"))?;
        let contents: CaseFile = toml::from_str(&text)?;
        let start: jiff::Timestamp =
            contents.start.parse().context("start must be a time such as 2025-11-24T09:15:00+05:30")?;
        let start_ns = i64::try_from(start.as_nanosecond()).context("start is too far from now")?;
        for ExpectedAlert { direction, .. } in &contents.alerts {
            if let Some(wrong) = direction.as_deref().filter(|it| !Direction::NAMES.contains(it)) {
                bail!("direction is \"{wrong}\", expected \"up\", \"down\" or \"none\"");
            }
        }
        let (entries, input) = entries(&contents.ticks, start_ns)?;
        let session = SessionConfig::of_calendar(&contents.calendar, file.parent().unwrap_or(Path::new("")))?;
        let (file, about) = (file.to_path_buf(), contents.about.clone());
        Ok(Self { file, about, contents, start_ns, input, session, entries: Arc::new(entries) })
    }

    /// Runs a plugin on the ticks.
    ///
    /// # Errors
    /// When the plugin rejects the case's parameters.
    pub(crate) async fn run(&self, plugin: &Arc<Plugin>, loaded: &LoadedConfig) -> Result<CaseResult> {
        let mut failures = Vec::new();
        let mut first: Option<Vec<Alert>> = None;
        for (batch, workers) in SHAPES {
            let (alerts, summary) = self.replay(plugin, loaded, batch, workers).await?;
            for (reason, count) in &summary.undecodable {
                failures.push(format!("{count} lines of the case are not ticks: {reason}"));
            }
            for (count, fault) in summary.faults.values() {
                let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
                failures.push(format!("the detector failed {times}: {fault}"));
            }
            match &first {
                None => {
                    failures.extend(self.compare(&alerts));
                    if !failures.is_empty() && summary.faults.is_empty() {
                        failures.extend(self.hint_at_one_symbol(plugin, loaded, &alerts).await?);
                    }
                    first = Some(alerts);
                }
                Some(first) if !are_same(first, &alerts) => {
                    let (alone, _) = self.replay(plugin, loaded, batch, 1).await?;
                    failures.push(dependence(first, &alerts, &alone, (batch, workers)));
                }
                Some(_) => {}
            }
            if !failures.is_empty() {
                break;
            }
        }
        if failures.is_empty() {
            let generation = self.generation(plugin, loaded, 1)?.1;
            failures.extend(self.restarts(&generation)?);
        }
        Ok(CaseResult { failures, alerts: first.unwrap_or_default() })
    }

    /// Returns a hint if an alert is missing that the detector raises when all ticks are those of one symbol: the case may
    /// expect it to compare two symbols.
    async fn hint_at_one_symbol(
        &self,
        plugin: &Arc<Plugin>,
        loaded: &LoadedConfig,
        alerts: &[Alert],
    ) -> Result<Option<String>> {
        let is_at = |alert: &Alert, time: f64| (self.seconds(alert) - time).abs() < TIME_TOLERANCE;
        let times = self.contents.alerts.iter().map(|expected| expected.time);
        let missing: Vec<f64> = times.filter(|time| !alerts.iter().any(|alert| is_at(alert, *time))).collect();
        // A detector that sees a group can compare its members.
        let sees_groups = self.generation(plugin, loaded, 1)?.1.detectors[0].view().has_groups();
        if sees_groups {
            return Ok(None);
        }
        let Some(as_one) = under_one_symbol(&self.contents.ticks)?.filter(|_| !missing.is_empty()) else {
            return Ok(None);
        };
        let (entries, input) = entries(&as_one, self.start_ns)?;
        let contents = CaseFile { alerts: Vec::new(), ticks: as_one, ..self.contents.clone() };
        let (file, about) = (self.file.clone(), self.about.clone());
        let (start_ns, session) = (self.start_ns, self.session.clone());
        let case = Self { file, about, contents, start_ns, input, session, entries: Arc::new(entries) };
        let (alerts, _) = case.replay(plugin, loaded, SHAPES[0].0, SHAPES[0].1).await?;
        let found = missing.into_iter().find(|time| alerts.iter().any(|alert| is_at(alert, *time)));
        Ok(found.map(|time| {
            format!(
                "hint: a detector sees one symbol at a time, and can't compare two of them; with all ticks under one \
                 symbol, there is an alert at {time} s; `tickhound new --scope group` makes a detector that sees several"
            )
        }))
    }

    /// Writes the raised alerts into the case's file, as the expected ones.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn write(&self, alerts: &[Alert]) -> Result<()> {
        let text = fs::read_to_string(&self.file)?;
        let mut document: DocumentMut = text.parse()?;
        let mut tables = ArrayOfTables::new();
        for alert in alerts {
            let mut table = Table::new();
            table.insert("symbol", toml_edit::value(alert.symbol.as_str()));
            table.insert("time", toml_edit::value(self.seconds(alert)));
            table.insert("direction", toml_edit::value(alert.direction.as_str()));
            table.insert("confidence", toml_edit::value(rounded(alert.confidence)));
            if !alert.group.is_empty() {
                table.insert("group", toml_edit::value(alert.group.as_str()));
            }
            if !alert.members.is_empty() {
                let members: toml_edit::Array = alert.members.iter().map(String::as_str).collect();
                table.insert("members", toml_edit::value(members));
            }
            let mut evidence = InlineTable::new();
            for (name, value) in &alert.evidence {
                evidence.insert(name, rounded(*value).into());
            }
            table.insert("evidence", toml_edit::value(evidence));
            tables.push(table);
        }
        document.remove("alerts");
        if !tables.is_empty() {
            document.insert("alerts", Item::ArrayOfTables(tables));
        }
        fs::write(&self.file, document.to_string()).with_context(|| format!("can't write {}", self.file.display()))
    }

    /// The part of a configuration that says what the detector knows of the market.
    fn market(&self) -> Result<String> {
        let CaseFile { groups, context, .. } = &self.contents;
        let tables = [("groups", groups), ("context", context)];
        let market: toml::Table =
            tables.into_iter().map(|(name, table)| (name.to_owned(), toml::Value::Table(table.clone()))).collect();
        Ok(toml::to_string(&market)?)
    }

    fn generation(
        &self,
        plugin: &Arc<Plugin>,
        loaded: &LoadedConfig,
        workers: usize,
    ) -> Result<(LoadedConfig, Generation)> {
        // The configuration is the case's, so that an error in a parameter names the case's file.
        let mut case_config = config::parse_text(&self.file, &self.market()?)?;
        case_config.config.input = self.input.clone();
        case_config.config.session = self.session.clone();
        case_config.config.plugins = loaded.config.plugins.clone();
        case_config.config.engine.workers = workers;
        let detector = DetectorConfig {
            plugin: plugin.name.clone(),
            enabled: true,
            min_confidence: 0.0,
            params: self.contents.params.clone(),
            ..DetectorConfig::default()
        };
        let families: Vec<String> = self.contents.groups.keys().cloned().collect();
        let detector = if families.is_empty() { detector } else { DetectorConfig { groups: families, ..detector } };
        case_config.config.detectors = [(plugin.name.clone(), detector)].into();
        let decoder = Decoder::new(&self.input, &case_config.root)?;
        let generation = Generation::build(&case_config, decoder.column_names(), None, &mut plugin.clone())?;
        Ok((case_config, generation))
    }

    async fn replay(
        &self,
        plugin: &Arc<Plugin>,
        loaded: &LoadedConfig,
        batch: usize,
        workers: usize,
    ) -> Result<(Vec<Alert>, Summary)> {
        let (case_config, generation) = self.generation(plugin, loaded, workers)?;
        let raised = Arc::<Mutex<Vec<Alert>>>::default();
        let sink = {
            let raised = raised.clone();
            move |commit: &Commit| {
                // The lag depends on the clock, and would make equal alerts differ.
                let alerts = commit.alerts.iter().map(|alert| Alert { lag_ms: 0, ..alert.clone() });
                raised.lock().expect("no thread panics while it holds the lock").extend(alerts);
                Ok(())
            }
        };
        let (config, root) = (&case_config.config, case_config.root.as_path());
        let setup = ReplaySetup {
            config,
            root,
            generation,
            batch: Some(batch),
            pace: Pace::Max,
            on_faults: OnFaults::Count,
            tape: None,
        };
        let source = Source::given(self.entries.clone());
        let summary = replay(source, setup, sink, Arc::default(), watch::Sender::new(false)).await?;
        let alerts = std::mem::take(&mut *raised.lock().expect("no thread panics while it holds the lock"));
        Ok((alerts, summary))
    }

    fn compare(&self, alerts: &[Alert]) -> Vec<String> {
        let mut failures = Vec::new();
        let expected = &self.contents.alerts;
        for index in 0..expected.len().max(alerts.len()) {
            match (expected.get(index), alerts.get(index)) {
                (Some(expected), Some(raised)) => {
                    let differences = self.differences(expected, raised);
                    if !differences.is_empty() {
                        failures.push(format!("alert {}: {}", index + 1, differences.join(", ")));
                    }
                }
                (Some(ExpectedAlert { symbol, time, .. }), None) => {
                    failures.push(format!(
                        "alert {}: expected one of {symbol} at {time} s, but none was raised",
                        index + 1
                    ));
                }
                (None, Some(raised)) => {
                    failures.push(format!("alert {}: not expected: {}", index + 1, self.description(raised)));
                }
                (None, None) => {}
            }
        }
        failures
    }

    fn differences(&self, expected: &ExpectedAlert, raised: &Alert) -> Vec<String> {
        let mut differences = Vec::new();
        if expected.symbol != raised.symbol {
            differences.push(format!("symbol is {}, expected {}", raised.symbol, expected.symbol));
        }
        if let Some(direction) = expected.direction.as_deref().filter(|it| *it != raised.direction.as_str()) {
            differences.push(format!("direction is {}, expected {direction}", raised.direction.as_str()));
        }
        if let Some(group) = expected.group.as_ref().filter(|group| **group != raised.group) {
            differences.push(format!("group is `{}`, expected {group}", raised.group));
        }
        if let Some(members) = expected.members.as_ref().filter(|members| **members != raised.members) {
            differences.push(format!("members are {}, expected {}", raised.members.join(", "), members.join(", ")));
        }
        let mut number = |name: &str, actual: f64, expected: f64, tolerance: f64| {
            // The price of an alert about a group is NaN, which is near nothing.
            let is_near = (actual - expected).abs() <= tolerance;
            if !is_near {
                differences.push(format!("{name} is {}, expected {expected}", rounded(actual)));
            }
        };
        // The time of a tick is given and not computed, so it has to match exactly.
        number("time", self.seconds(raised), expected.time, TIME_TOLERANCE);
        let near = |value: f64| TOLERANCE * value.abs();
        if let Some(confidence) = expected.confidence {
            number("confidence", raised.confidence, confidence, TOLERANCE);
        }
        if let Some(price) = expected.price {
            number("price", raised.price, price, near(price));
        }
        for (name, value) in &expected.evidence {
            match raised.evidence.iter().find(|(known, _)| known == name) {
                Some((_, actual)) => number(name, *actual, *value, near(*value)),
                None => number(name, f64::INFINITY, *value, 0.0),
            }
        }
        differences
    }

    fn description(&self, alert: &Alert) -> String {
        let mut text = format!(
            "{} at {} s, {}, confidence {}",
            alert.symbol,
            self.seconds(alert),
            alert.direction.as_str(),
            rounded(alert.confidence)
        );
        for (name, value) in &alert.evidence {
            let _ = write!(text, ", {name} {}", rounded(*value));
        }
        text
    }

    /// The time of an alert, in seconds from the start of the case.
    fn seconds(&self, alert: &Alert) -> f64 {
        (alert.time as i64 - self.start_ns) as f64 / 1e9
    }

    /// Restarts the detector between ticks, and says what differs from a run without restarts.
    fn restarts(&self, generation: &Generation) -> Result<Option<String>> {
        let failed = |fault| anyhow!("the detector failed when it was restarted: {fault}");
        let spec = &generation.detectors[0];
        let rows = Rows::of(&self.entries, &self.input, &self.session.sessions, generation)?;
        let (batch, ids) = (rows.of_view(spec.view()), rows.owners(spec.view()));
        let whole = rows.start(spec).and_then(|mut instance| {
            let detections = instance.detect(batch)?;
            Ok((detections, instance.save(&ids)?))
        });
        let (whole, state) = whole.map_err(failed)?;
        let size = batch.len().div_ceil(RESTARTS_MAX);
        let mut saved: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut detections = Vec::new();
        for (number, chunk) in rows.chunks(spec.view(), size).iter().enumerate() {
            let mut instance = rows.start(spec).map_err(failed)?;
            let states: Vec<(u32, &[u8])> = saved.iter().map(|(id, state)| (*id, state.as_slice())).collect();
            let restored = instance.restore(spec.plugin.manifest.state_version, &states).map_err(failed)?;
            if let Err(rejection) = restored {
                return Ok(Some(format!("the detector rejects the state that it has saved: {rejection}")));
            }
            let before = number * size;
            // Rows are counted from the beginning of a batch.
            detections.extend(instance.detect(chunk).map_err(failed)?.into_iter().map(|mut one| {
                one.row += before as u32;
                one
            }));
            saved = instance.save(&ids).map_err(failed)?;
        }
        let same = detections.len() == whole.len()
            && detections.iter().zip(&whole).all(|(one, other)| {
                (one.row, one.owner, one.about, one.direction) == (other.row, other.owner, other.about, other.direction)
                    && one.confidence == other.confidence
                    && one.members == other.members
                    && one.evidence == other.evidence
            });
        Ok(match (same, saved == state) {
            (true, true) => None,
            (true, false) => {
                Some("the saved state differs after a restart; the detector does not save all of its state".to_owned())
            }
            (false, _) => Some(format!(
                "a restart makes a difference: {} detections with restarts, {} without; the detector does not save all of its state",
                detections.len(),
                whole.len()
            )),
        })
    }
}

/// Whether alerts are the same. An alert about a group has no price, so both of them may be NaN.
fn are_same(alerts: &[Alert], others: &[Alert]) -> bool {
    let without_price = |alert: &Alert| Alert { price: 0.0, ..alert.clone() };
    alerts.len() == others.len()
        && alerts.iter().zip(others).all(|(one, other)| {
            one.price.to_bits() == other.price.to_bits() && without_price(one) == without_price(other)
        })
}

/// Says what the alerts depend on, given those of the first shape, those of another one, and those in the other's batches
/// with one worker.
fn dependence(first: &[Alert], other: &[Alert], alone: &[Alert], (batch, workers): (usize, usize)) -> String {
    if are_same(alone, first) {
        return format!(
            "the alerts depend on the number of workers: there are {} with {workers} workers, and {} with one; a detector \
             sees one symbol or group at a time: these are spread over the workers, so it must not remember anything \
             outside of their states",
            other.len(),
            first.len()
        );
    }
    format!(
        "the alerts depend on the batches: there are {} in batches of {batch}, and {} in batches of {}",
        other.len(),
        first.len(),
        SHAPES[0].0
    )
}

/// Returns the ticks with the first symbol in all of them; `None` if there is only one symbol.
fn under_one_symbol(csv: &str) -> Result<Option<String>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(csv.trim_start().as_bytes());
    let header = reader.headers()?.clone();
    let symbol = header.iter().position(|name| name == "symbol").context("the ticks have symbols")?;
    let mut rows = reader.records().collect::<Result<Vec<_>, _>>()?;
    let Some(first) = rows.first().and_then(|row| row.get(symbol)).map(str::to_owned) else { return Ok(None) };
    if rows.iter().all(|row| row.get(symbol) == Some(&first)) {
        return Ok(None);
    }
    for row in &mut rows {
        *row = row.iter().enumerate().map(|(at, cell)| if at == symbol { first.as_str() } else { cell }).collect();
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&header)?;
    rows.iter().try_for_each(|row| writer.write_record(row))?;
    Ok(Some(String::from_utf8(writer.into_inner()?)?))
}

/// Makes entries of the ticks, as a producer would publish them. Columns that are not standard become extra columns.
fn entries(csv: &str, start_ns: i64) -> Result<(Entries, InputConfig)> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(csv.trim_start().as_bytes());
    let header = reader.headers()?.clone();
    let column = |wanted: &str| header.iter().position(|name| name == wanted);
    let (symbol, time) = (column("symbol"), column("time"));
    let (Some(symbol), Some(time), Some(_)) = (symbol, time, column("price")) else {
        bail!("the first line of ticks must name the columns: symbol, time, price, and any others");
    };
    let mut input = InputConfig::default();
    for name in header.iter().filter(|name| !["symbol", "time", "price"].contains(name)) {
        ensure!(name != "flags", "ticks must not have a column `flags`: the host sets the flags");
        if !column::NAMES.contains(&name) {
            input.extra.insert(name.to_owned(), vec![name.to_owned()]);
        }
    }
    let (mut entries, mut last) = (Entries::default(), EntryId::ZERO);
    for (number, row) in reader.records().enumerate() {
        let row = row?;
        let cell = row.get(time).unwrap_or_default();
        let seconds: f64 = cell.parse().ok().filter(|seconds: &f64| seconds.is_finite()).with_context(|| {
            format!("tick {}: time is \"{cell}\", expected seconds from the start of the case", number + 1)
        })?;
        let nanos = start_ns + (seconds * 1e9).round() as i64;
        let millis = u64::try_from(nanos / 1_000_000).context("a tick is before 1970")?;
        last = if millis > last.millis {
            EntryId { millis, seq: 0 }
        } else {
            EntryId { millis: last.millis, seq: last.seq + 1 }
        };
        entries.push_entry(last);
        for (position, value) in row.iter().enumerate().filter(|(_, value)| !value.is_empty()) {
            match position {
                _ if position == time => entries.push_field(b"timestamp_ns", nanos.to_string().as_bytes()),
                _ if position == symbol => entries.push_field(b"symbol", value.as_bytes()),
                _ => entries.push_field(header[position].as_bytes(), value.as_bytes()),
            }
        }
    }
    ensure!(!entries.is_empty(), "the case has no ticks");
    Ok((entries, input))
}

/// Rounds to six significant digits, which people can check.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(5 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_entries_with_times_and_extra_columns() {
        let (entries, input) =
            entries("\nsymbol,time,price,bid,iv\nA,0,100,,0.2\nB,0.0005,5,4.9,\nA,1,101,,\n", 1_000_000_000_000)
                .unwrap();
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
        assert_eq!(ids, ["1000000-0", "1000000-1", "1001000-0"]);
        assert_eq!(entries.get(1).unwrap().field(b"timestamp_ns"), Some(&b"1000000500000"[..]));
        assert_eq!(entries.get(1).unwrap().field(b"iv"), None);
        assert_eq!(input.extra.keys().collect::<Vec<_>>(), ["iv"]);
    }

    #[test]
    fn the_ticks_of_a_case_can_be_those_of_one_symbol() {
        assert_eq!(under_one_symbol("symbol,time,price\nA,0,1\nA,1,2\n").unwrap(), None);
        let ticks = "\nsymbol, time,price,bid\nA,0,1,\n\"B,C\",1,2,3\n";
        let expected = "symbol,time,price,bid\nA,0,1,\nA,1,2,3\n";
        assert_eq!(under_one_symbol(ticks).unwrap().unwrap(), expected);
    }

    #[test]
    fn an_invalid_case_is_rejected_with_a_sentence() {
        for (text, message) in [
            ("symbol,price\nA,1", "the first line of ticks must name the columns"),
            ("symbol,time,price\nA,09:15,1", "tick 1: time is \"09:15\", expected seconds"),
            ("symbol,time,price", "the case has no ticks"),
            ("symbol,time,price,flags\nA,0,1,0", "ticks must not have a column `flags`"),
        ] {
            let error = format!("{:#}", entries(text, 0).err().unwrap());
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn numbers_are_rounded_to_six_digits() {
        assert_eq!([0.0, 1.0, -123_456.789, 0.001_234_567_8].map(rounded), [0.0, 1.0, -123_457.0, 0.001_234_57]);
    }
}
