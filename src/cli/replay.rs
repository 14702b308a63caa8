//! `tickhound replay`: the engine on recorded ticks, at full speed, without Redis.

mod sweep;
mod table;

use std::{
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
use crate::authoring::replay::{
    Progress, Setup, Source, Summary,
    outcome::{Judge, Outcomes, Rule},
    output::Output,
    replay, report,
    surrogate::{self, Shuffled},
    tape::Tape,
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

Ticks are read as [input] says, alerts are those that `run` would raise; --map is as in `feed`.
Outcomes: from the price of an alert two lines are drawn, --outcome-atr average true ranges (14 minutes) above and
below; which is touched first within --outcome-minutes?

Exit codes: 0 done, or stopped by Ctrl-C; 1 an error.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReplayArgs {
    /// CSV, JSON lines or recorded `<ns> <json>` lines, plain, gzip or zstd; or Parquet. A folder stands for its files,
    /// `-` for standard input.
    #[arg(required_unless_present_any = ["stream", "simulate"])]
    files: Vec<PathBuf>,
    /// Read column COLUMN (its name, or its number from 1) as NAME; not for JSON. May be repeated.
    #[arg(long, value_name = "NAME=COLUMN", conflicts_with_all = ["simulate", "stream"])]
    map: Vec<String>,
    /// Symbol of all ticks; else a symbol column's, else the file's name.
    #[arg(long, conflicts_with_all = ["simulate", "stream"])]
    symbol: Option<String>,
    /// Read what the stream in Redis holds, beside whoever works it, and change nothing.
    #[arg(long, conflicts_with_all = ["files", "simulate"])]
    stream: bool,
    /// First entry of the stream.
    #[arg(long, value_name = "ID", requires = "stream")]
    from: Option<EntryId>,
    /// Last entry of the stream; else the newest that is there now.
    #[arg(long, value_name = "ID", requires = "stream")]
    to: Option<EntryId>,
    /// Simulated ticks instead of recorded ones.
    #[arg(long, conflicts_with = "files")]
    simulate: bool,
    /// Instruments to simulate.
    #[arg(long, default_value_t = 100, requires = "simulate", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    symbols: u32,
    /// Chooses the course of the simulated market, and the order of shuffled moves.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ticks to simulate.
    #[arg(long, default_value_t = 1_000_000, requires = "simulate")]
    count: u64,
    /// Times as fast as it was recorded, or `max`; pauses of over 30 minutes are skipped.
    #[arg(long, value_name = "X|max", default_value = "max", value_parser = pace::speed)]
    speed: Pace,
    /// Only this detector: one of the configuration, a plugin of the folder, a .wasm file, or a project's folder, which
    /// is built. May be repeated.
    #[arg(long, value_name = "NAME|FILE|DIR")]
    detector: Vec<String>,
    /// A parameter of the one detector; before the configuration's. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Try every combination of these values of the one detector's parameters, in one go. May be repeated.
    #[arg(long, value_name = "NAME=A,B,C", conflicts_with_all = ["report", "surrogate", "out"])]
    sweep: Vec<String>,
    /// Drop detections below this confidence; before the configuration's.
    #[arg(long, value_name = "0..1", value_parser = confidence)]
    min_confidence: Option<f64>,
    /// Write the alerts to a file: .jsonl, .csv or .parquet; `-` = JSON lines to standard output. May be repeated.
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Write a page with charts, which works offline.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Also run N times on the same ticks with their moves shuffled: what detectors find there is chance.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3", value_parser = clap::value_parser!(u64).range(1..=1000))]
    surrogate: Option<u64>,
    /// How far the price must go for an outcome, in average true ranges.
    #[arg(long, value_name = "K", default_value_t = 2.0, value_parser = pace::positive)]
    outcome_atr: f64,
    /// Within how many minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 15.0, value_parser = pace::positive)]
    outcome_minutes: f64,
    /// Worker threads; else as the configuration says. Makes no difference to the alerts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    workers: Option<u64>,
    /// Entries in one read. Makes no difference to the alerts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: Option<u64>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a pass over the ticks has brought.
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
    let catalogue = choose(args, &mut loaded)?;
    let sweep = Sweep::parse(&args.sweep, &mut loaded)?;
    let plugins = Runtime::new(author::cache(&loaded).as_deref())?;
    let runtime = super::runtime()?;
    let stop = runtime.block_on(async { super::run::stop_on_signal(None) })?;
    let outputs: Vec<Output> = args.out.iter().map(|file| Output::create(file)).collect::<Result<_>>()?;
    let rule = Rule { k: args.outcome_atr, within: Duration::from_secs_f64(args.outcome_minutes * 60.0) };
    let is_quiet = args.out.iter().any(|file| file == Path::new("-"));

    let load = |loaded: &LoadedConfig| -> Result<Generation> {
        let decoder = Decoder::new(&loaded.config.input, &loaded.root)?;
        loader::build(&plugins, loaded, decoder.column_names(), None, &catalogue)
    };
    let once = |source, loaded: &LoadedConfig, outputs, what: &str| {
        let passed = pass(args, source, loaded, load(loaded)?, outputs, what, stop.clone());
        runtime.block_on(passed)
    };
    let source = open(args, &loaded, &runtime, true)?;
    let real = once(source, &loaded, outputs, "replaying")?;
    refuse_nothing(&real, &loaded.config.input.preset)?;
    let judge = Judge::new(rule, real.tape.courses());
    let outcomes = outcomes(&judge, &real);

    let mut shuffled = Vec::new();
    let runs = if real.summary.stopped { 0 } else { args.surrogate.unwrap_or(0) };
    for run in 0..runs {
        let input = &loaded.config.input;
        let decoder = Decoder::new(input, &loaded.root)?;
        let source = Shuffled::new(open(args, &loaded, &runtime, false)?, input, decoder, args.seed.wrapping_add(run));
        let mut other = loaded.clone();
        other.config.input = surrogate::input(input);
        let what = format!("shuffled, {} of {runs}", run + 1);
        let pass = once(Source::Shuffled(Box::new(source)), &other, Vec::new(), &what)?;
        if pass.summary.stopped {
            break;
        }
        shuffled.push(pass.summary.alerts);
    }

    let quality = real.tape.quality();
    let result = table::Replayed {
        summary: &real.summary,
        quality,
        outcomes: &outcomes,
        shuffled: &shuffled,
        rule,
        alerts: &real.alerts,
    };
    if let Some(file) = &args.report {
        let generation = load(&loaded)?;
        let page = report::page(&report::Contents {
            replayed: result.to_json(),
            alerts: &real.alerts,
            judge: &judge,
            generation: &generation,
            timezone: &loaded.config.input.timezone,
        });
        std::fs::write(file, page).with_context(|| format!("can't write {}", file.display()))?;
    }
    match (args.json, sweep) {
        (true, None) => println!("{}", result.to_json()),
        (true, Some(sweep)) => println!("{}", sweep.to_json(&result)),
        // Standard output is the alerts'.
        (false, _) if is_quiet => eprint!("{}", result.to_text()),
        (false, None) => print!("{}", result.to_text()),
        (false, Some(sweep)) => print!("{}", sweep.to_text(&result)),
    }
    for file in args.out.iter().chain(&args.report).filter(|file| *file != Path::new("-")) {
        eprintln!("wrote {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A recording without a single tick is read in the wrong way: its table of zeros would hide that.
fn refuse_nothing(pass: &Pass, preset: &str) -> Result<()> {
    let Pass { summary, tape, .. } = pass;
    if summary.stopped || tape.quality().ticks > 0 {
        return Ok(());
    }
    let commonest = summary.undecodable.iter().max_by_key(|(_, count)| **count).map(|(reason, _)| reason.as_str());
    let why = match commonest {
        Some(reason) => reason,
        None if summary.unseen > 0 => "no price or no time",
        None => bail!("there is not one tick in it"),
    };
    bail!(
        "not one of {} entries is a tick: {why}\nname its columns with --map, or its fields in [input.map] (input.preset is \"{preset}\")",
        summary.totals.entries
    )
}

fn outcomes(judge: &Judge, pass: &Pass) -> std::collections::BTreeMap<String, Outcomes> {
    let mut outcomes: std::collections::BTreeMap<String, Outcomes> =
        pass.summary.alerts.keys().map(|name| (name.clone(), Outcomes::default())).collect();
    for alert in &pass.alerts {
        outcomes.entry(alert.detector.clone()).or_default().add(judge.judge(alert));
    }
    outcomes
}

/// Leaves in the configuration what --detector, --params and --min-confidence ask for.
fn choose(args: &ReplayArgs, loaded: &mut LoadedConfig) -> Result<Catalogue> {
    let mut catalogue = Catalogue::of(loaded);
    if !args.detector.is_empty() {
        let known = std::mem::take(&mut loaded.config.detectors);
        for wanted in &args.detector {
            let file = Path::new(wanted);
            let subject = match wanted.ends_with(".wasm") || file.is_dir() {
                true => Some(Subject::find(file, loaded)?),
                false => None,
            };
            let name = subject.as_ref().map_or(wanted, |subject| &subject.name).clone();
            // A file of one's own may be the next version of a detector: then its settings hold.
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
            "--params and --sweep are for one detector: name it with --detector"
        );
    }
    for given in &args.params {
        let (name, value) = author::param(given)?;
        for settings in loaded.config.detectors.values_mut() {
            settings.params.insert(name.clone(), value.clone());
        }
    }
    // Ticks on which a detector fails are counted; a pause by the clock of the wall would make every run another one.
    loaded.config.plugins.faults = usize::MAX;
    Ok(catalogue)
}

/// The ticks, from their beginning; `by_column`: cells of tables are not made into fields.
fn open(
    args: &ReplayArgs,
    loaded: &LoadedConfig,
    runtime: &tokio::runtime::Runtime,
    by_column: bool,
) -> Result<Source> {
    let config = &loaded.config;
    if args.simulate {
        let market = SimConfig { symbols: args.symbols as usize, seed: args.seed, ..SimConfig::default() };
        return Ok(Source::simulated(&market, args.count));
    }
    if args.stream {
        let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?;
        let last = runtime.block_on(stream.newest()).context("can't read the stream")?;
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
        decoder: by_column.then(|| decoder.clone()),
        mapping: Mapping::parse(&args.map)?,
        symbol: args.symbol.clone(),
        table_layout: Layout::Flat,
        zone: time_zone(&config.input.timezone)?,
        ..Options::default()
    };
    let files = Files::open(&files, &options)?;
    if let (Pace::Speed(_), Some(name)) = (args.speed, files.without_time()) {
        bail!("{name}: no time to follow: name its column with --map time=COLUMN");
    }
    Ok(Source::files(files, decoder))
}

async fn pass(
    args: &ReplayArgs,
    source: Source,
    loaded: &LoadedConfig,
    generation: Generation,
    mut outputs: Vec<Output>,
    what: &str,
    stop: watch::Sender<bool>,
) -> Result<Pass> {
    let config = &loaded.config;
    let tape = Arc::new(Tape::new(config.engine.worker_count(), true));
    let progress = Arc::<Progress>::default();
    let drawn = tokio::spawn(draw(progress.clone(), what.to_owned()));
    let kept = Arc::<Mutex<(Vec<Alert>, Vec<Output>)>>::default();
    std::mem::swap(&mut kept.lock().expect("just made").1, &mut outputs);
    let sink = {
        let kept = kept.clone();
        move |commit: &tickhound_core::stream::Commit| {
            let (alerts, outputs) = &mut *kept.lock().expect("nobody panics while holding it");
            alerts.extend(commit.alerts.iter().cloned());
            alerts.extend(commit.shadow_alerts.iter().map(|(_, alert)| alert.clone()));
            outputs.iter_mut().try_for_each(|output| output.write(&commit.alerts))
        }
    };
    let (batch, pace) = (args.batch.map(|batch| batch as usize), args.speed);
    let setup = Setup { config, root: &loaded.root, generation, batch, pace, tape: Some(tape.clone()) };
    // Of this pass: its end stops no other.
    let own_stop = watch::Sender::new(false);
    let (told, own) = (stop.subscribe(), own_stop.clone());
    let follow = tokio::spawn(follow(told, own));
    let ended = replay(source, setup, sink, progress, own_stop).await;
    follow.abort();
    drawn.abort();
    // Lets the bar disappear before anything is printed.
    let _ = drawn.await;
    let summary = ended?;
    let (alerts, outputs) = std::mem::take(&mut *kept.lock().expect("nobody panics while holding it"));
    outputs.into_iter().try_for_each(Output::finish)?;
    Ok(Pass { summary, alerts, tape })
}

async fn follow(mut told: watch::Receiver<bool>, own: watch::Sender<bool>) {
    if told.wait_for(|stop| *stop).await.is_ok() {
        own.send_replace(true);
    }
}

/// Shows how far it is until it is aborted.
async fn draw(progress: Arc<Progress>, what: String) {
    let bar = ClearedOnDrop(ProgressBar::new_spinner());
    let template = "{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left";
    bar.0.set_style(ProgressStyle::with_template(template).expect("the template is well-formed"));
    bar.0.set_prefix(what);
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

pub(super) fn confidence(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}
