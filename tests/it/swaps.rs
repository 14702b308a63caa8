//! Detectors that are exchanged, or fail, in the middle of their work: no tick is missed, none is
//! seen twice, and a host that takes over has the state of the one before.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use proptest::prelude::*;
use tickhound_core::{
    checkpoint::CHUNKS,
    config,
    decode::Decoder,
    event::{Clock, Entries, EntryId},
    normalize::Normalizer,
    simulate::{Layout, Renderer, SimConfig, Simulator},
};
use tickhound_engine::{
    ingest::{Ingest, TakenOver},
    plugin::{DetectorSpec, Generation, Isolation, Runtime},
    shard::{Answer, Priority, ResolvedDetection, ShardHandle, ShardSetup, Task, TaskOutcome},
};
use tokio::sync::mpsc;

use crate::{
    chaos::setting,
    support::{
        ALERTS, Alert, Difference, Project, REFERENCE_ALERTS, Redis, STREAM, difference, lines_of, misbehaving,
        release, shipped, wait_for,
    },
};

const SYMBOLS: usize = 5;
const TICKS: usize = 12_000;

/// One worker with detectors of its own, driven task by task.
struct Worker {
    ingest: Ingest,
    shard: ShardHandle,
    outcomes: mpsc::Receiver<Answer>,
    read: u64,
    found: Vec<Sight>,
    letters: Vec<(u64, u16)>,
    quarantined: bool,
}

/// Something that was found, at which entry of the market.
#[derive(Clone, Debug, PartialEq)]
struct Sight {
    entry: u64,
    detector: u16,
    symbol: u32,
    price: f64,
    confidence: f64,
    evidence: Vec<(String, f64)>,
}

/// What happens between two reads.
#[derive(Clone, Debug)]
enum Step {
    Read(usize),
    Swap,
    Save(Range<u16>),
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new(None, Isolation::InProcess).unwrap())
}

/// A generation of `detectors`, as the configuration has them. Each has instances of its own.
fn generation(detectors: &str) -> Arc<Generation> {
    let loaded = config::shipped(detectors).unwrap();
    let decoder = Decoder::new(&loaded.config.input, &loaded.root).unwrap();
    let files = [shipped("plugins/breakout.wasm"), shipped("plugins/momentum.wasm"), misbehaving().to_path_buf()];
    let bytes: Vec<(String, PathBuf, Vec<u8>)> = files
        .into_iter()
        .map(|file| {
            (file.file_stem().unwrap().to_str().unwrap().to_owned(), file.clone(), std::fs::read(file).unwrap())
        })
        .collect();
    let plugins: Vec<(&str, PathBuf, &[u8])> =
        bytes.iter().map(|(name, file, bytes)| (name.as_str(), file.clone(), bytes.as_slice())).collect();
    Arc::new(Generation::embedded(runtime(), &loaded, decoder.column_names(), &plugins).unwrap())
}

/// The same code under another limit: the instances are others, what they do is the same.
fn other(generation: &Generation, number: usize) -> Arc<Generation> {
    let other = |spec: &Arc<DetectorSpec>| {
        let mut spec = spec.without_faults();
        spec.limits.memory_max_bytes += number << 16;
        Arc::new(spec)
    };
    Arc::new(generation.with(generation.detectors.iter().map(other).collect()))
}

/// Ticks of a simulated market, all of them different.
fn market() -> &'static Entries {
    static MARKET: OnceLock<Entries> = OnceLock::new();
    MARKET.get_or_init(|| {
        let config = SimConfig { symbols: SYMBOLS, seed: 3, dirt: 0.0, ..SimConfig::default() };
        let mut simulator = Simulator::new(&config);
        let mut renderer = Renderer::new(Layout::Json);
        let mut entries = Entries::default();
        for number in 0..TICKS as u64 {
            let tick = simulator.next().unwrap();
            entries.push_entry(EntryId { millis: tick.time / 1_000_000, seq: number });
            let instrument = &simulator.instruments()[tick.instrument as usize];
            renderer.render(instrument, &tick, |name, value| entries.push_field(name, value));
        }
        entries
    })
}

/// The last price but some that comes up twice or three times: late, so that there is something to forget.
fn price() -> f64 {
    static PRICE: OnceLock<f64> = OnceLock::new();
    *PRICE.get_or_init(|| {
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        let seen = by_schedule(&[], &generation("[detectors.odd]\nplugin = \"misbehaving\"\n")).0;
        seen.iter().for_each(|sight| *times.entry(sight.price.to_bits()).or_default() += 1);
        let late = seen[..seen.len() - TICKS / 10].iter().rev();
        late.map(|sight| sight.price).find(|price| (2..=3).contains(&times[&price.to_bits()])).unwrap()
    })
}

/// What is found if these ticks are missed by the detector that is numbered 1, which counts.
fn without_some(undisturbed: Vec<Sight>) -> (Vec<Sight>, Vec<(u64, u16)>) {
    let mut missed: BTreeMap<u32, f64> = BTreeMap::new();
    let (mut found, mut letters) = (Vec::new(), Vec::new());
    for mut sight in undisturbed {
        if sight.detector == 1 {
            let missed = missed.entry(sight.symbol).or_default();
            if sight.price == price() {
                *missed += 1.0;
                letters.push((sight.entry, 1));
                continue;
            }
            sight.evidence[0].1 -= *missed;
        }
        found.push(sight);
    }
    (found, letters)
}

impl Worker {
    fn start(generation: &Arc<Generation>) -> Self {
        let config = config::shipped("").unwrap().config;
        let decoder = Decoder::new(&config.input, ".".as_ref()).unwrap();
        let (outbox, outcomes) = mpsc::channel(4);
        let normalizer = Normalizer::new(&config.input, &config.session.sessions).unwrap();
        let setup =
            ShardSetup { number: 0, generation: generation.clone(), queue: 4, priority: Priority::Live, tape: None };
        let shard = ShardHandle::start(setup, outbox).unwrap();
        let ingest = Ingest::new(decoder, normalizer, 1, Clock::default());
        Self { ingest, shard, outcomes, read: 0, found: Vec::new(), letters: Vec::new(), quarantined: false }
    }

    async fn ask(&mut self, task: Task) -> Answer {
        self.shard.submit(task).await;
        self.outcomes.recv().await.unwrap()
    }

    async fn work(&mut self, entries: &Entries, at: u64) {
        self.read += 1;
        let job = self.ingest.route(self.read, entries).jobs.remove(0).unwrap();
        let Answer { incidents, outcome, .. } = self.ask(Task::Process(job)).await;
        let TaskOutcome::Processed(processing) = outcome else { panic!("{outcome:?} for a job") };
        self.found.extend(processing.found.into_iter().map(|found| {
            let ResolvedDetection { entry, detector, symbol, price, confidence, evidence, .. } = found;
            Sight { entry: at + u64::from(entry), detector, symbol, price, confidence, evidence }
        }));
        for faulted in incidents.faulted {
            self.quarantined |= faulted.quarantined;
            self.letters.extend(faulted.entry.map(|entry| (at + u64::from(entry), faulted.detector)));
        }
    }

    async fn swap(&mut self, generation: Arc<Generation>) {
        self.read += 1;
        let taken_over = TakenOver::default();
        self.ask(Task::Swap { read: self.read, generation, taken_over, warmed: Vec::new() }).await;
    }

    async fn save(&mut self, chunks: Range<u16>) {
        self.read += 1;
        let bases = self.ingest.visit(&chunks).by_shard.remove(0);
        self.ask(Task::Save { read: self.read, chunks, bases, shared: None }).await;
    }
}

/// What was found, and which entries are dead-lettered for which detector.
type Account = (Vec<Sight>, Vec<(u64, u16)>);

/// Works the market by a schedule.
fn by_schedule(steps: &[Step], detectors: &Arc<Generation>) -> Account {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut worker = Worker::start(&other(detectors, 0));
        let (mut at, mut swaps) = (0, 0);
        let market = market();
        for step in steps.iter().chain(std::iter::once(&Step::Read(TICKS))) {
            match step {
                Step::Read(count) => {
                    let end = (at + count).min(TICKS);
                    let mut entries = Entries::default();
                    for index in at..end {
                        let entry = market.get(index).unwrap();
                        entries.push_entry(entry.id);
                        entry.fields().for_each(|(name, value)| entries.push_field(name, value));
                    }
                    if !entries.is_empty() {
                        worker.work(&entries, at as u64).await;
                    }
                    at = end;
                }
                Step::Swap => {
                    swaps += 1;
                    worker.swap(other(detectors, swaps)).await;
                }
                Step::Save(chunks) => worker.save(chunks.clone()).await,
            }
        }
        assert!(!worker.quarantined, "it failed too often");
        // A read's are in the order of detectors.
        worker.found.sort_by_key(|sight| (sight.entry, sight.detector));
        worker.letters.sort_unstable();
        (worker.found, worker.letters)
    })
}

fn schedule() -> impl Strategy<Value = Vec<Step>> {
    let save = (0..CHUNKS, 1..CHUNKS).prop_map(|(start, length)| Step::Save(start..(start + length).min(CHUNKS)));
    let step = prop_oneof![4 => (1usize..400).prop_map(Step::Read), 2 => Just(Step::Swap), 1 => save];
    proptest::collection::vec(step, 10..60)
}

fn shipped_detectors() -> Arc<Generation> {
    generation(
        "[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
         [detectors.momentum]\nplugin = \"momentum\"\nmin_confidence = 0.0\n",
    )
}

/// With one that fails `how` on the ticks of one price, and tells how many ticks it has seen.
fn with_failing(how: &str) -> Arc<Generation> {
    let price = price();
    generation(&format!(
        "[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
         [detectors.odd]\nplugin = \"misbehaving\"\n[detectors.odd.params]\nhow = \"{how}\"\nat = 1000000\nprice = {price:?}\n"
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_of_swaps_finds_what_is_found_without(steps in schedule()) {
        let detectors = shipped_detectors();
        let undisturbed = by_schedule(&[], &detectors);
        prop_assert!(undisturbed.0.len() > 30, "{} found", undisturbed.0.len());
        prop_assert!(by_schedule(&steps, &detectors) == undisturbed);
    }

    /// It misses the ticks that it fails on, and only these; it remembers all others; nobody else notices.
    #[test]
    fn a_detector_that_fails_continues_with_the_next_tick(steps in schedule(), how in 0usize..4) {
        let how = ["panic", "hog", "recurse", "nan"][how];
        let expected = without_some(by_schedule(&[], &with_failing("not")).0);
        prop_assert!((2..=3).contains(&expected.1.len()), "{:?}", expected.1);
        let found = by_schedule(&steps, &with_failing(how));
        prop_assert_eq!(&found.1, &expected.1, "{}", how);
        let differs = found.0.iter().zip(&expected.0).find(|(found, expected)| found != expected);
        prop_assert_eq!((found.0.len(), differs), (expected.0.len(), None), "{}", how);
    }
}

/// `cargo xtask swaps --count 1000` does it for longer.
#[test]
fn plugins_are_exchanged_while_ticks_flow() {
    let (count, rate) = (setting("TICKHOUND_SWAPS_COUNT", 25), setting("TICKHOUND_SWAPS_RATE", 20_000u32).to_string());
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[alerts]\nlog = false\nmaxlen = 0");
    let host = project.start_owner();
    let feed = project.start(&["feed", "--simulate", "--symbols", "200", "--count", "100000000", "--rate", &rate]);
    wait_for("detectors are warm", || (redis.totals().get("alerts").copied().unwrap_or(0) > 10).then_some(()));
    let shipped = shipped("plugins/breakout.wasm");
    let (mut fresh, mut known) = (Vec::new(), Vec::new());
    for number in 0..count {
        // Every second time one that was there before, and is in the cache.
        let bytes = match number {
            1 => std::fs::read(&shipped).unwrap(),
            _ if number % 2 == 0 => release(&shipped, &number.to_string()),
            _ => release(&shipped, &(number - 3).to_string()),
        };
        let dropped = Timestamp::now();
        std::fs::write(project.path("plugins/new"), bytes).unwrap();
        std::fs::rename(project.path("plugins/new"), project.path("plugins/breakout.wasm")).unwrap();
        let (live, line) = wait_for("it is in force", || in_force(&host.log(), number + 2));
        assert!(line.contains("breakout 0.1.0 (carried), momentum 0.1.0 (cold)"), "{line}");
        let times = if number % 2 == 0 { &mut fresh } else { &mut known };
        times.push(dropped.duration_until(live).as_secs_f64() * 1000.0);
    }
    feed.signal("TERM");
    wait_for("all is processed", || (redis.totals()["entries"] == redis.length(STREAM)).then_some(()));
    host.signal("TERM");
    host.wait_for_event("group_totals_reported");
    project.run_reference(&redis);
    // The files differ by a mark, and so in their hashes.
    let files: BTreeSet<String> = redis.paged(ALERTS).map(|alert| alert["sha256"].clone()).collect();
    assert!(files.len() > 2, "alerts name the file that raised them: {files:?}");
    let unmarked = |mut alert: Alert| {
        alert.remove("sha256");
        alert
    };
    let found = difference(redis.paged(ALERTS).map(unmarked), redis.paged(REFERENCE_ALERTS).map(unmarked));
    let pauses: Vec<f64> =
        host.log().lines().filter_map(|line| line.rsplit_once("pause_us=")?.1.parse().ok()).collect();
    let lags: Vec<f64> = redis.paged(ALERTS).map(|alert| alert["lag_ms"].parse().unwrap()).collect();
    println!("{count} swaps, {} entries, {} alerts: {found:?}", redis.length(STREAM), lags.len());
    for (what, unit, mut values) in [
        ("from the file's arrival to the first batch, never seen before", "ms", fresh),
        ("from the file's arrival to the first batch, in the cache", "ms", known),
        ("pause of a worker", "us", pauses),
        ("from a tick's arrival to its alert", "ms", lags),
    ] {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
        println!("  {what}: median {:.1} {unit}, p99 {:.1}, most {:.1}", at(0.5), at(0.99), at(1.0));
    }
    assert_eq!(found, Difference::default());
}

/// When a generation came into force, and the line that says so.
fn in_force(log: &str, generation: usize) -> Option<(Timestamp, String)> {
    let mark = format!(" generation={generation} pause_us=");
    let line = lines_of(log, "generation_activated").into_iter().rev().find(|line| line.contains(&mark))?;
    Some((line.split(' ').next()?.parse().unwrap(), line.to_owned()))
}
