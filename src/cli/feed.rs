//! `tickhound feed`: publishes recorded or simulated ticks to the stream.
//!
//! What holds: an entry that is counted as published has been confirmed by
//! Redis with its id. Nothing is sent twice: after an error the feed ends and
//! says how far it came.

use std::{
    path::PathBuf,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use tickhound_core::{
    config::StreamConfig,
    simulate::{Layout, Renderer, SimConfig, Simulator},
};
use tickhound_recorded::{
    self, Files, Mapping, Options,
    pace::{self, Pace, Pacer},
    record::Record,
};
use tickhound_redis::{Producer, Published};

const EXAMPLES: &str = "\
Examples:
  tickhound feed SBIN.csv.gz --map time=timestamp --map price=ltp --map cum_volume=volume
  tickhound feed EURUSD.csv --map time=1 --map bid=2 --map ask=3
  tickhound feed capture.jsonl.gz --speed 10
  tickhound feed --simulate --symbols 500 --rate 20000 --dirt 0.02

Names for --map: symbol, time, price, quantity, cum_volume, bid, ask, bid_quantity,
ask_quantity, oi: they are published under the keys of the kite preset. Any other name
is published as it is, and so are columns of a header that are not mapped.
Several files are merged by time when each has times, else published one by one.

Exit codes: 0 all published, or stopped by Ctrl-C; 1 an error.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FeedArgs {
    /// CSV, JSON lines or recorded `<ns> <json>` lines, plain, gzip or zstd, or Parquet; found out by content. A folder
    /// stands for its files, `-` for standard input.
    #[arg(required_unless_present = "simulate")]
    files: Vec<PathBuf>,
    /// Publish column COLUMN (its name, or its number from 1) as NAME; not for JSON. May be repeated.
    #[arg(long, value_name = "NAME=COLUMN", conflicts_with = "simulate")]
    map: Vec<String>,
    /// Symbol of all ticks; else a symbol column's, else the file's name up to `.csv`.
    #[arg(long, conflicts_with = "simulate")]
    symbol: Option<String>,
    /// Publish simulated ticks instead of files.
    #[arg(long, conflicts_with = "files")]
    simulate: bool,
    /// Instruments to simulate.
    #[arg(long, default_value_t = 100, requires = "simulate", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    symbols: u32,
    /// Chooses the course of the simulated market; the same seed gives the same ticks.
    #[arg(long, default_value_t = 1, requires = "simulate")]
    seed: u64,
    /// Share of simulated ticks that are spoiled as real feeds spoil them, 0 to 1.
    #[arg(long, default_value_t = 0.0, requires = "simulate", value_parser = share)]
    dirt: f64,
    /// Stop after this many ticks.
    #[arg(long)]
    count: Option<u64>,
    /// Ticks a second.
    #[arg(long, value_name = "N", conflicts_with = "speed", value_parser = pace::positive)]
    rate: Option<f64>,
    /// Times as fast as it was recorded, or `max`; pauses of over 30 minutes are skipped.
    #[arg(long, value_name = "X|max", default_value = "max", value_parser = pace::speed)]
    speed: Pace,
    /// Form of the entries: `json` (one field, data), `flat` (a field for each value), `msgpack` (one field, data).
    #[arg(long, default_value = "json", value_parser = layout)]
    layout: Layout,
    /// Let Redis trim the stream to about this many entries; without it nothing is trimmed.
    #[arg(long, value_name = "ENTRIES")]
    maxlen: Option<u64>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Publishes to the stream of `config` until all is published or a signal comes.
pub(super) fn run(args: &FeedArgs, config: &StreamConfig) -> Result<()> {
    // On a thread of its own: a signal goes to the main thread, and there it would interrupt the reading
    // of an answer, which the client takes for a lost connection.
    std::thread::scope(|scope| {
        scope.spawn(|| publish_all(args, config)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn publish_all(args: &FeedArgs, config: &StreamConfig) -> Result<()> {
    let pace = args.rate.map_or(args.speed, Pace::Rate);
    let mut input = Input::open(args, pace)?;
    let mut producer = Producer::connect(config, args.maxlen)?;
    let bar = progress_bar(args, &input);
    let started = Instant::now();
    let ended = pump(&mut input, &mut producer, args.count.unwrap_or(u64::MAX), pace, &bar);
    bar.finish_and_clear();
    let published = producer.published();
    let end = ended.map_err(|error| match (published.count, producer.unconfirmed()) {
        (0, 0) => error,
        (count, 0) => {
            error.context(format!("stopped after {count} published ticks, the last is {}", published.last_id))
        }
        (count, unknown) => {
            error.context(format!("stopped after {count} published ticks; {unknown} more may have been published"))
        }
    })?;
    summary(args, &config.key, published, input.skipped(), started.elapsed(), end);
    Ok(())
}

/// Why publishing ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Signal,
}

fn pump(input: &mut Input, producer: &mut Producer, count: u64, pace: Pace, bar: &ProgressBar) -> Result<End> {
    /// Ticks due within this time go out together: one write each would be the limit at high rates.
    const GRAIN: Duration = Duration::from_millis(1);
    /// The bar moves while a long pause is waited for.
    const GLANCE: Duration = Duration::from_millis(200);

    let signal = stop_signal()?;
    let mut pacer = Pacer::new(pace);
    let mut record = Record::default();
    let started = Instant::now();
    for _ in 0..count {
        match input.next(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                // What was read before counts.
                producer.flush()?;
                return Err(error);
            }
        }
        let due = pacer.due(record.time);
        while let Some(wait) = due.checked_sub(started.elapsed()).filter(|wait| *wait > GRAIN) {
            producer.flush()?;
            input.show(bar, producer.published(), started.elapsed());
            if signal.recv_timeout(wait.min(GLANCE)).is_ok() {
                return Ok(End::Signal);
            }
        }
        if producer.add(record.fields())? {
            input.show(bar, producer.published(), started.elapsed());
            if signal.try_recv().is_ok() {
                producer.flush()?;
                return Ok(End::Signal);
            }
        }
    }
    producer.flush()?;
    Ok(End::Done)
}

/// Where ticks come from.
enum Input {
    Files(Files),
    Simulated { simulator: Box<Simulator>, renderer: Renderer },
}

impl Input {
    fn open(args: &FeedArgs, pace: Pace) -> Result<Self> {
        if args.simulate {
            let config =
                SimConfig { symbols: args.symbols as usize, seed: args.seed, dirt: args.dirt, ..SimConfig::default() };
            let simulator = Box::new(Simulator::new(&config));
            return Ok(Self::Simulated { simulator, renderer: Renderer::new(args.layout) });
        }
        let paths = tickhound_recorded::expand(&args.files)?;
        let options = Options {
            mapping: Mapping::parse(&args.map)?,
            symbol: args.symbol.clone(),
            layout: args.layout,
            table_layout: args.layout,
            needs_time: matches!(pace, Pace::Speed(_)) || paths.len() > 1,
            ..Options::default()
        };
        let files = Files::open(&paths, &options)?;
        if let (Pace::Speed(_), Some(name)) = (pace, files.without_time()) {
            bail!("{name}: no time to follow: name its column with --map time=COLUMN, or use --rate");
        }
        Ok(Self::Files(files))
    }

    /// Reads the next tick into `record`; false when there is none.
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        match self {
            Self::Files(files) => files.next(record),
            Self::Simulated { simulator, renderer } => {
                let tick = simulator.next().context("the simulated market has ended")?;
                record.clear();
                record.time = i64::try_from(tick.time).ok();
                let instrument = &simulator.instruments()[tick.instrument as usize];
                renderer.render(instrument, &tick, |name, value| record.put(name, value));
                Ok(true)
            }
        }
    }

    fn skipped(&self) -> u64 {
        match self {
            Self::Files(files) => files.skipped(),
            Self::Simulated { .. } => 0,
        }
    }

    fn show(&self, bar: &ProgressBar, published: &Published, elapsed: Duration) {
        match self {
            // With --count the bar counts ticks, else bytes: how many ticks a file holds isn't known.
            Self::Files(files) if bar.length() == Some(files.size()) => bar.set_position(files.read()),
            _ => bar.set_position(published.count),
        }
        bar.set_message(format!("{} ticks, {:.0}/s", published.count, rate(published, elapsed)));
    }
}

/// Published entries a second.
fn rate(published: &Published, elapsed: Duration) -> f64 {
    published.count as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn progress_bar(args: &FeedArgs, input: &Input) -> ProgressBar {
    let length = match (args.count, input) {
        (Some(count), _) => Some(count),
        (None, Input::Files(files)) => Some(files.size()).filter(|size| *size > 0),
        (None, Input::Simulated { .. }) => None,
    };
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{wide_bar} {percent:>3} %  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

fn summary(args: &FeedArgs, key: &str, published: &Published, skipped: u64, elapsed: Duration, end: End) {
    let Published { count, first_id, last_id } = published;
    let (seconds, rate) = (elapsed.as_secs_f64(), rate(published, elapsed));
    if args.json {
        let id = |id: &String| if id.is_empty() { None } else { Some(id.clone()) };
        let summary = json!({
            "stream": key, "published": count, "skipped": skipped, "seconds": seconds, "rate": rate,
            "first_id": id(first_id), "last_id": id(last_id), "stopped": end == End::Signal,
        });
        println!("{summary}");
        return;
    }
    let stopped = if end == End::Signal { "stopped: " } else { "" };
    println!("{stopped}published {count} ticks to {key} in {seconds:.2} s ({rate:.0}/s)");
    if *count > 0 {
        println!("first entry {first_id}, last entry {last_id}");
    }
    if skipped > 0 {
        println!("skipped {skipped} lines that could not be read as a tick");
    }
}

/// Receives a message at the first SIGINT or SIGTERM; the second one ends the process.
fn stop_signal() -> Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start listening for signals")?;
    let (sender, receiver) = mpsc::channel();
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let mut any = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            any().await;
            // Fails only when publishing has ended, and with it the wish to stop it.
            if sender.send(()).is_ok() {
                any().await;
                std::process::exit(130);
            }
        });
    });
    Ok(receiver)
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

fn layout(text: &str) -> Result<Layout, String> {
    text.parse().map_err(str::to_owned)
}
