//! `tickhound feed`: publishes recorded or simulated ticks to the stream.
//!
//! What holds: an entry counts as published once Redis has confirmed it with its id. No entry is sent twice: after an
//! error the feed ends, and says how many entries were published.

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
ask_quantity, oi. These are published under the keys of the kite preset. Any other name
is published unchanged, and so are unmapped columns of a header.
Several files are merged by time if each has times, else published one after the other.

Exit codes: 0 all published, or stopped by Ctrl-C; 1 failed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FeedArgs {
    /// CSV, JSON lines or recorded `<ns> <json>` lines, plain, gzip or zstd; or Parquet. The format is detected by
    /// content. A folder means all its files, `-` standard input.
    #[arg(required_unless_present = "simulate")]
    files: Vec<PathBuf>,
    /// Publish the column COLUMN (a name, or a number from 1) as NAME; not for JSON. May be repeated.
    #[arg(long, value_name = "NAME=COLUMN", conflicts_with = "simulate")]
    map: Vec<String>,
    /// Symbol of all ticks; by default the symbol column, else the file name up to `.csv`.
    #[arg(long, conflicts_with = "simulate")]
    symbol: Option<String>,
    /// Publish simulated ticks instead of files.
    #[arg(long, conflicts_with = "files")]
    simulate: bool,
    /// Number of instruments to simulate.
    #[arg(long, default_value_t = 100, requires = "simulate", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    symbols: u32,
    /// Seed of the simulated market; the same seed gives the same ticks.
    #[arg(long, default_value_t = 1, requires = "simulate")]
    seed: u64,
    /// Share of simulated ticks with faults like those of real feeds, 0 to 1.
    #[arg(long, default_value_t = 0.0, requires = "simulate", value_parser = super::parse::share)]
    dirt: f64,
    /// How much simulated stocks follow the NIFTY, and premiums of options the trading activity, 0 to 1.
    #[arg(long, default_value_t = 0.0, requires = "simulate", value_parser = super::parse::share)]
    coupling: f64,
    /// Stop after this many ticks.
    #[arg(long)]
    count: Option<u64>,
    /// Ticks per second.
    #[arg(long, value_name = "N", conflicts_with = "speed", value_parser = pace::positive)]
    rate: Option<f64>,
    /// Speed in multiples of the recorded speed, or `max`; pauses of more than 30 minutes are skipped.
    #[arg(long, value_name = "X|max", default_value = "max", value_parser = pace::speed)]
    speed: Pace,
    /// Format of the entries: `json` (one field, data), `flat` (one field per value), `msgpack` (one field, data).
    #[arg(long, default_value = "json", value_parser = layout)]
    layout: Layout,
    /// Let Redis trim the stream to about this many entries; by default nothing is trimmed.
    #[arg(long, value_name = "ENTRIES")]
    maxlen: Option<u64>,
    /// Print the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Publishes to the stream of `config` until everything is published or a signal arrives.
pub(super) fn run(args: &FeedArgs, config: &StreamConfig) -> Result<()> {
    // On a thread of its own: signals go to the main thread, where one would interrupt the reading of an answer, which
    // the client takes for a lost connection.
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
            error.context(format!("stopped after {count} published ticks, the last one is {}", published.last_id))
        }
        (count, unknown) => {
            error.context(format!("stopped after {count} published ticks; {unknown} more may have been published"))
        }
    })?;
    let summary =
        FeedSummary { key: &config.key, published, skipped: input.skipped(), elapsed: started.elapsed(), end };
    if args.json {
        summary.print_json();
    } else {
        summary.print();
    }
    Ok(())
}

/// Why publishing ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Signal,
}

fn pump(input: &mut Input, producer: &mut Producer, count: u64, pace: Pace, bar: &ProgressBar) -> Result<End> {
    /// Ticks that are due within this time are sent together, since one write per tick would limit high rates.
    const GRAIN: Duration = Duration::from_millis(1);
    /// How often the progress bar is updated during a long pause.
    const REDRAW: Duration = Duration::from_millis(200);

    let signal = stop_signal()?;
    let mut pacer = Pacer::new(pace);
    let mut record = Record::default();
    let started = Instant::now();
    for _ in 0..count {
        match input.next(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                // The ticks that were read before are still published.
                producer.flush()?;
                return Err(error);
            }
        }
        let due = pacer.due(record.time);
        while let Some(wait) = due.checked_sub(started.elapsed()).filter(|wait| *wait > GRAIN) {
            producer.flush()?;
            input.show(bar, producer.published(), started.elapsed());
            if signal.recv_timeout(wait.min(REDRAW)).is_ok() {
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

/// The source of the ticks.
enum Input {
    Files(Files),
    Simulated { simulator: Box<Simulator>, renderer: Renderer },
}

impl Input {
    fn open(args: &FeedArgs, pace: Pace) -> Result<Self> {
        if args.simulate {
            let FeedArgs { symbols, seed, dirt, coupling, .. } = *args;
            let config = SimConfig { symbols: symbols as usize, seed, dirt, coupling, ..SimConfig::default() };
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
            bail!("{name} has no times to follow; name the column with --map time=COLUMN, or use --rate");
        }
        Ok(Self::Files(files))
    }

    /// Reads the next tick into `record`; returns false at the end.
    fn next(&mut self, record: &mut Record) -> Result<bool> {
        match self {
            Self::Files(files) => files.next(record),
            Self::Simulated { simulator, renderer } => {
                record.take_simulated(simulator, renderer)?;
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
            // With --count the bar counts ticks, otherwise bytes, since the number of ticks in a file is unknown.
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

/// What was published.
struct FeedSummary<'a> {
    /// Key of the stream.
    key: &'a str,
    published: &'a Published,
    skipped: u64,
    elapsed: Duration,
    end: End,
}

impl FeedSummary<'_> {
    fn print_json(&self) {
        let Self { key, published, skipped, elapsed, end } = self;
        let id = |id: &String| if id.is_empty() { None } else { Some(id.clone()) };
        let summary = json!({
            "stream": key, "published": published.count, "skipped": skipped, "seconds": elapsed.as_secs_f64(),
            "rate": rate(published, *elapsed), "first_id": id(&published.first_id), "last_id": id(&published.last_id),
            "stopped": *end == End::Signal,
        });
        crate::output::print_json(&summary);
    }

    fn print(&self) {
        let Self { key, published, skipped, elapsed, end } = self;
        let Published { count, first_id, last_id } = published;
        let (seconds, rate) = (elapsed.as_secs_f64(), rate(published, *elapsed));
        let stopped = if *end == End::Signal { "stopped: " } else { "" };
        outln!("{stopped}published {count} ticks to {key} in {seconds:.2} s ({rate:.0}/s)");
        if *count > 0 {
            outln!("first entry {first_id}, last entry {last_id}");
        }
        if *skipped > 0 {
            outln!("skipped {skipped} lines that could not be read as ticks");
        }
    }
}

/// Receives a message at the first SIGINT or SIGTERM; the second one exits the process.
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
                    // Both are cancel-safe.
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            any().await;
            // Fails only if publishing has already ended.
            if sender.send(()).is_ok() {
                any().await;
                std::process::exit(130);
            }
        });
    });
    Ok(receiver)
}

fn layout(text: &str) -> Result<Layout, String> {
    text.parse().map_err(str::to_owned)
}
