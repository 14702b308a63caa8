//! `tickhound replay`: runs the engine on recorded ticks, at full speed and without Redis.

mod sweep;
mod table;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use self::sweep::Sweep;
use super::author::{self, Catalogue, Subject};
use crate::{
    authoring::replay::{
        OnFaults, Progress, ReplaySetup, Source, Summary,
        outcome::{Judge, Outcomes, Rule},
        output::Output,
        replay, report,
        surrogate::{self, ShuffledTicks},
        tape::Tape,
    },
    output,
};
use tickhound_core::{
    config::{DetectorConfig, LoadedConfig},
    decode::{Decoder, time_zone},
    event::{Alert, EntryId},
    simulate::{Layout, SimConfig},
    stream::Stream,
};
use tickhound_engine::plugin::{Generation, Runtime, loader};
use tickhound_recorded::{
    self, Files, Mapping, Options,
    pace::{self, Pace},
};
use tickhound_redis::RedisStream;

const EXAMPLES: &str = "\
Examples:
  tickhound replay 2025-11-24.jsonl.zst --out alerts.csv
  tickhound replay day/ --map time=timestamp --map price=ltp --map cum_volume=volume --report day.html
  tickhound replay --stream --from 1763959530000 --detector breakout --params window_s=120
  tickhound replay day.parquet --detector breakout --sweep window_s=60,300,900 --sweep buffer_atr=0,0.5
  tickhound replay day.parquet --surrogate
  tickhound replay --simulate --count 1000000 --detector my_detector.wasm

Ticks are read as [input] says, and alerts are those that `run` would raise. --map is as in `feed`.
Outcomes: two levels are set --outcome-atr average true ranges (14 minutes) above and below the price of an alert. The
outcome is the level that the price reaches first within --outcome-minutes.

A replay ends with an error when a detector fails on more ticks than plugins.faults tolerates, counted over the whole
recording.

Exit codes: 0 done, or stopped by Ctrl-C; 1 failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReplayArgs {
    /// CSV, JSON lines or recorded `<ns> <json>` lines, plain, gzip or zstd; or Parquet. A folder means all its files,
    /// `-` standard input.
    #[arg(required_unless_present_any = ["stream", "simulate"])]
    files: Vec<PathBuf>,
    /// Read the column COLUMN (a name, or a number from 1) as NAME; not for JSON. May be repeated.
    #[arg(long, value_name = "NAME=COLUMN", conflicts_with_all = ["simulate", "stream"])]
    map: Vec<String>,
    /// Symbol of all ticks; by default the symbol column, else the file name.
    #[arg(long, conflicts_with_all = ["simulate", "stream"])]
    symbol: Option<String>,
    /// Read the stream in Redis without changing anything; a host may process it at the same time.
    #[arg(long, conflicts_with_all = ["files", "simulate"])]
    stream: bool,
    /// First entry of the stream to read.
    #[arg(long, value_name = "ID", requires = "stream")]
    from: Option<EntryId>,
    /// Last entry of the stream to read; by default the newest one now.
    #[arg(long, value_name = "ID", requires = "stream")]
    to: Option<EntryId>,
    /// Simulate ticks instead of reading recorded ones.
    #[arg(long, conflicts_with = "files")]
    simulate: bool,
    /// Number of instruments to simulate.
    #[arg(long, default_value_t = 100, requires = "simulate", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    symbols: u32,
    /// Seed of the simulated market, and of the order of shuffled moves.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How much simulated stocks follow the NIFTY, and premiums of options the trading activity, 0 to 1.
    #[arg(long, default_value_t = 0.0, requires = "simulate", value_parser = super::parse::share)]
    coupling: f64,
    /// Number of ticks to simulate.
    #[arg(long, default_value_t = 1_000_000, requires = "simulate")]
    count: u64,
    /// Speed in multiples of the recorded speed, or `max`; pauses of more than 30 minutes are skipped.
    #[arg(long, value_name = "X|max", default_value = "max", value_parser = pace::speed)]
    speed: Pace,
    /// Only this detector: one of the configuration; a plugin of the folder; a .wasm file; or the folder of a project,
    /// which is built. May be repeated.
    #[arg(long, value_name = "NAME|FILE|DIR")]
    detector: Vec<String>,
    /// Set a parameter of the detector, overriding the configuration. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Try every combination of these values of the detector's parameters in one run. May be repeated.
    #[arg(long, value_name = "NAME=A,B,C", conflicts_with_all = ["report", "surrogate", "out"])]
    sweep: Vec<String>,
    /// Minimum confidence of a detection, overriding the configuration.
    #[arg(long, value_name = "0..1", value_parser = super::parse::share)]
    min_confidence: Option<f64>,
    /// Write the alerts to a file: .jsonl, .csv or .parquet; `-` writes JSON lines to standard output. May be repeated.
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Write an HTML page with charts, which works offline.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Also run N times (default 3) on the same ticks with shuffled moves: alerts there are due to chance.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", value_parser = clap::value_parser!(u64).range(1..=1000))]
    surrogate: Option<u64>,
    /// Distance of the outcome levels from the price, in average true ranges.
    #[arg(long, value_name = "K", default_value_t = 2.0, value_parser = pace::positive)]
    outcome_atr: f64,
    /// Time limit for an outcome, in minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 15.0, value_parser = pace::positive)]
    outcome_minutes: f64,
    /// Number of worker threads, overriding the configuration; does not change the alerts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    workers: Option<u64>,
    /// Entries per read; does not change the alerts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: Option<u64>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    /// Whether nothing is left to do once stdout is closed. A file or a report must be of the whole recording.
    fn writes_only_to_stdout(&self) -> bool {
        let only_stdout = !self.out.is_empty() && self.out.iter().all(|file| file == Path::new("-"));
        only_stdout && self.report.is_none()
    }
}

/// The result of one pass over the ticks.
struct Pass {
    summary: Summary,
    alerts: Vec<Alert>,
    tape: Arc<Tape>,
}

pub(super) fn run(args: &ReplayArgs, loaded: LoadedConfig) -> Result<ExitCode> {
    let mut loaded = loaded;
    if let Some(workers) = args.workers {
        loaded.config.engine.workers = workers as usize;
    }
    let catalogue = select_detectors(args, &mut loaded)?;
    let sweep = Sweep::parse(&args.sweep, &mut loaded)?;
    let plugins = author::runtime(&loaded)?;
    let runtime = super::process::runtime()?;
    let stop = runtime.block_on(async { super::process::stop_on_signal(None) })?;
    let replayer = Replayer { args, catalogue, plugins, runtime, stop };
    let outputs: Vec<Output> = args.out.iter().map(|file| Output::create(file)).collect::<Result<_>>()?;

    let source = replayer.open(&loaded, Tables::ByColumn)?;
    let real = replayer.pass(source, &loaded, outputs, "replaying")?;
    ensure_ticks(&real, &loaded.config.input.preset)?;
    let rule = Rule { k: args.outcome_atr, within: Duration::from_secs_f64(args.outcome_minutes * 60.0) };
    let judge = Judge::new(rule, real.tape.histories());
    let outcomes = outcomes(&judge, &real);
    let shuffled = if real.summary.stopped { Vec::new() } else { replayer.shuffled(&loaded)? };
    let result = table::ReplayResult {
        summary: &real.summary,
        quality: real.tape.quality(),
        outcomes: &outcomes,
        shuffled: &shuffled,
        rule,
        alerts: &real.alerts,
        zone: crate::cli::text::zone(&loaded.config),
    };
    if let Some(file) = &args.report {
        let page = report::page(&report::Contents {
            replayed: result.to_json(),
            alerts: &real.alerts,
            judge: &judge,
            generation: &replayer.load(&loaded)?,
            zone: &loaded.config.display_zone()?,
        });
        std::fs::write(file, page).with_context(|| format!("can't write {}", file.display()))?;
    }
    print(args, sweep.as_ref(), &result);
    Ok(ExitCode::SUCCESS)
}

fn print(args: &ReplayArgs, sweep: Option<&Sweep>, result: &table::ReplayResult<'_>) {
    if args.json {
        output::print_json(&sweep.map_or_else(|| result.to_json(), |sweep| sweep.to_json(result)));
    } else if args.out.iter().any(|file| file == Path::new("-")) {
        // Standard output has the alerts.
        output::print_on_stderr(&result.to_text());
    } else {
        output::print(&sweep.map_or_else(|| result.to_text(), |sweep| sweep.to_text(result)));
    }
    for file in args.out.iter().chain(&args.report).filter(|file| *file != Path::new("-")) {
        errln!("wrote {}", file.display());
    }
}

/// How cells of tables reach the detectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// As columns, which is faster.
    ByColumn,
    /// As the fields of an entry, which can be changed.
    AsFields,
}

/// What all passes over the ticks share.
struct Replayer<'a> {
    args: &'a ReplayArgs,
    catalogue: Catalogue,
    plugins: Runtime,
    runtime: tokio::runtime::Runtime,
    stop: watch::Sender<bool>,
}

/// What one pass writes down while it runs.
#[derive(Default)]
struct Recorder {
    alerts: Vec<Alert>,
    outputs: Vec<Output>,
}

impl Replayer<'_> {
    fn load(&self, loaded: &LoadedConfig) -> Result<Generation> {
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        loader::build(&self.plugins, loaded, decoder.column_names(), None, &self.catalogue)
    }

    /// Runs the detectors on the same ticks with shuffled moves; returns the alerts of each detector in each run.
    fn shuffled(&self, loaded: &LoadedConfig) -> Result<Vec<BTreeMap<String, u64>>> {
        let mut shuffled = Vec::new();
        let runs = self.args.surrogate.unwrap_or(0);
        for run in 0..runs {
            let input = &loaded.config.input;
            let decoder = Decoder::new(input, &loaded.root)?;
            let ticks = self.open(loaded, Tables::AsFields)?;
            let source = ShuffledTicks::new(ticks, input, decoder, self.args.seed.wrapping_add(run));
            let mut other = loaded.clone();
            other.config.input = surrogate::input(input);
            let label = format!("shuffled, {} of {runs}", run + 1);
            let pass = self.pass(Source::ShuffledTicks(Box::new(source)), &other, Vec::new(), &label)?;
            if pass.summary.stopped {
                break;
            }
            shuffled.push(pass.summary.alerts);
        }
        Ok(shuffled)
    }

    /// Opens the ticks at their beginning.
    fn open(&self, loaded: &LoadedConfig, tables: Tables) -> Result<Source> {
        let (args, config) = (self.args, &loaded.config);
        if args.simulate {
            let ReplayArgs { symbols, seed, coupling, .. } = *args;
            let market = SimConfig { symbols: symbols as usize, seed, coupling, ..SimConfig::default() };
            return Ok(Source::simulated(&market, args.count));
        }
        if args.stream {
            let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?;
            let last = self.runtime.block_on(stream.newest()).context("can't read the stream")?;
            let Some(newest) = last else { bail!("the stream {} is empty", config.stream.key) };
            let to = args.to.unwrap_or(newest).min(newest);
            return Source::stream(stream.reader(), args.from.unwrap_or(EntryId::ZERO), to);
        }
        let files = tickhound_recorded::expand(&args.files)?;
        ensure!(
            args.surrogate.is_none() || !files.contains(&PathBuf::from("-")),
            "--surrogate reads the ticks more than once, which standard input does not allow"
        );
        let decoder = Decoder::new(&config.input, &loaded.root)?;
        let options = Options {
            decoder: (tables == Tables::ByColumn).then(|| decoder.clone()),
            mapping: Mapping::parse(&args.map)?,
            symbol: args.symbol.clone(),
            table_layout: Layout::Flat,
            zone: time_zone(&config.input.timezone)?,
            ..Options::default()
        };
        let files = Files::open(&files, &options)?;
        if let (Pace::Speed(_), Some(name)) = (args.speed, files.without_time()) {
            bail!("{name} has no times to follow; name the column with --map time=COLUMN");
        }
        Ok(Source::files(files, decoder))
    }

    fn pass(&self, source: Source, loaded: &LoadedConfig, outputs: Vec<Output>, label: &str) -> Result<Pass> {
        self.runtime.block_on(self.run_pass(source, loaded, outputs, label))
    }

    async fn run_pass(&self, source: Source, loaded: &LoadedConfig, outputs: Vec<Output>, label: &str) -> Result<Pass> {
        let config = &loaded.config;
        let generation = self.load(loaded)?;
        let tape = Arc::new(Tape::new(config.engine.worker_count(), true));
        let progress = Arc::<Progress>::default();
        let drawing = tokio::spawn(draw(progress.clone(), label.to_owned()));
        let recorder = Arc::new(Mutex::new(Recorder { alerts: Vec::new(), outputs }));
        let sink = {
            let (recorder, stop, stdout_only) =
                (recorder.clone(), self.stop.clone(), self.args.writes_only_to_stdout());
            move |commit: &tickhound_core::stream::Commit| {
                let Recorder { alerts, outputs } = &mut *recorder.lock().expect("no holder of this lock panics");
                alerts.extend(commit.alerts.iter().cloned());
                alerts.extend(commit.shadow_alerts.iter().map(|(_, alert)| alert.clone()));
                outputs.iter_mut().try_for_each(|output| output.write(&commit.alerts))?;
                if stdout_only && output::is_closed() {
                    // As Ctrl-C does: nobody reads further alerts, and what was replayed is reported.
                    stop.send_replace(true);
                }
                Ok(())
            }
        };
        let (batch, pace) = (self.args.batch.map(|batch| batch as usize), self.args.speed);
        let setup = ReplaySetup {
            config,
            root: &loaded.root,
            generation,
            batch,
            pace,
            on_faults: OnFaults::EndAfter(config.plugins.faults as u64),
            tape: Some(tape.clone()),
        };
        // Each pass has its own: the end of one must not stop the next.
        let own_stop = watch::Sender::new(false);
        let forward = tokio::spawn(forward_stop(self.stop.subscribe(), own_stop.clone()));
        let ended = replay(source, setup, sink, progress, own_stop).await;
        forward.abort();
        drawing.abort();
        // Lets the progress bar disappear before anything is printed.
        let _ = drawing.await;
        let mut summary = ended?;
        // The engine may end before it learns why the ticks do.
        summary.stopped |= *self.stop.borrow();
        let recorder = std::mem::take(&mut *recorder.lock().expect("no holder of this lock panics"));
        recorder.outputs.into_iter().try_for_each(Output::finish)?;
        Ok(Pass { summary, alerts: recorder.alerts, tape })
    }
}

/// Fails if there is no tick at all: such a recording is read in the wrong way, which a table of zeros would hide.
fn ensure_ticks(pass: &Pass, preset: &str) -> Result<()> {
    let Pass { summary, tape, .. } = pass;
    if summary.stopped || tape.quality().ticks > 0 {
        return Ok(());
    }
    let most_frequent = summary.undecodable.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| reason.as_str());
    let why = match most_frequent {
        Some(reason) => reason,
        None if summary.unseen > 0 => "no price or no time",
        None => bail!("there are no ticks to replay"),
    };
    bail!(
        "none of {} entries is a tick: {why}; name the columns with --map, or the fields in [input.map] (input.preset is \"{preset}\")",
        summary.totals.entries
    )
}

fn outcomes(judge: &Judge, pass: &Pass) -> BTreeMap<String, Outcomes> {
    let mut outcomes: BTreeMap<String, Outcomes> =
        pass.summary.alerts.keys().map(|name| (name.clone(), Outcomes::default())).collect();
    for alert in &pass.alerts {
        outcomes.entry(alert.detector.clone()).or_default().add(judge.judge(alert));
    }
    outcomes
}

/// Reduces the configuration to what --detector, --params and --min-confidence select.
fn select_detectors(args: &ReplayArgs, loaded: &mut LoadedConfig) -> Result<Catalogue> {
    let mut catalogue = Catalogue::of(loaded);
    if !args.detector.is_empty() {
        let known = std::mem::take(&mut loaded.config.detectors);
        for wanted in &args.detector {
            let file = Path::new(wanted);
            let is_configured = known.contains_key(wanted);
            let is_path = author::names_path(file, is_configured, loaded);
            let subject = is_path.then(|| Subject::read(file, loaded)).transpose()?;
            let name = subject.as_ref().map_or(wanted, |subject| &subject.name).clone();
            // The file may be the next version of a configured detector, whose settings then apply.
            let settings = known
                .get(&name)
                .cloned()
                .unwrap_or_else(|| DetectorConfig { plugin: name.clone(), ..Default::default() });
            let plugin = if subject.is_some() { name.clone() } else { settings.plugin.clone() };
            subject.into_iter().for_each(|subject| catalogue.add(subject));
            let settings = DetectorConfig { enabled: true, shadow_of: String::new(), plugin, ..settings };
            loaded.config.detectors.insert(name, settings);
        }
    }
    loaded.config.detectors.retain(|_, settings| settings.enabled);
    if let Some(least) = args.min_confidence {
        loaded.config.detectors.values_mut().for_each(|settings| settings.min_confidence = least);
    }
    if !args.params.is_empty() || !args.sweep.is_empty() {
        ensure!(
            loaded.config.detectors.len() == 1,
            "--params and --sweep need exactly one detector; name it with --detector"
        );
    }
    for given in &args.params {
        let (name, value) = author::param(given)?;
        for settings in loaded.config.detectors.values_mut() {
            settings.params.insert(name.clone(), value.clone());
        }
    }
    // A quarantine ends by wall-clock time, so it would make each run differ: faults count over the whole recording, and
    // the replay ends with the detector's quarantine.
    loaded.config.plugins.fault_window_s = u64::MAX;
    Ok(catalogue)
}

/// Stops a pass when the command is stopped.
async fn forward_stop(mut stop: watch::Receiver<bool>, own_stop: watch::Sender<bool>) {
    if stop.wait_for(|stop| *stop).await.is_ok() {
        own_stop.send_replace(true);
    }
}

/// Shows the progress until the task is aborted.
async fn draw(progress: Arc<Progress>, label: String) {
    let bar = ClearedOnDrop(ProgressBar::new_spinner());
    let template = "{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left";
    bar.0.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
    bar.0.set_prefix(label);
    let mut timer = tokio::time::interval(Duration::from_millis(200));
    let started = std::time::Instant::now();
    loop {
        timer.tick().await;
        let entries = progress.entries.load(Relaxed);
        bar.0.set_length(progress.length.load(Relaxed));
        bar.0.set_position(progress.position.load(Relaxed));
        bar.0.set_message(format!(
            "{entries} ticks, {:.0}/s",
            entries as f64 / started.elapsed().as_secs_f64().max(1e-9)
        ));
    }
}

struct ClearedOnDrop(ProgressBar);

impl Drop for ClearedOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
