//! How long ticks wait while what detectors know is saved.
//!
//! Real shards, driven as the engine drives them: a read, a visit when the pace says so. A shard works no tick while it
//! saves, so the pause of the flow is how long the slowest shard took for a visit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tickhound_core::{
    config::{self, Config},
    decode::Decoder,
    event::{Clock, Entries, EntryId},
    normalize::Normalizer,
    session::Sessions,
    simulate::{Layout, Renderer, SimConfig, Simulator},
};
use tickhound_engine::{
    ingest::Ingest,
    pace::Pace,
    plugin::Generation,
    shard::{Answer, Priority, ShardHandle, ShardSetup, Task, TaskOutcome},
};
use tokio::sync::mpsc;

use crate::{
    Bench,
    detectors::generation,
    host::BOTH,
    report::{Row, Target},
};

const SYMBOLS: usize = 10_000;
const SHARDS: usize = 2;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let (runs, ticks_a_symbol) = bench.sized((1, 60), (5, 450));
    let detectors = generation(bench, &format!("[plugins]\nmemory_max_mib = 1000\n{BOTH}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut longest, mut all, mut visits) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        bench.tell(&format!("{run} of {runs}"));
        let pauses = runtime.block_on(pauses(&detectors, SYMBOLS * ticks_a_symbol))?;
        longest.push(pauses.iter().copied().fold(0.0, f64::max));
        visits.push(pauses.len() as f64);
        all.extend(pauses);
    }
    Ok(vec![
        Row::alone("10,000 symbols: longest pause of a run", "ms", &longest).target(Target::AtMost(5.0)),
        Row::alone("10,000 symbols: pause of a visit", "ms", &all),
        Row::alone("visits in a run", "", &visits),
    ])
}

/// Pauses of the second half of a run, when states have their size, ms.
async fn pauses(detectors: &Arc<Generation>, ticks: usize) -> Result<Vec<f64>> {
    let Config { input, stream, engine, .. } = config::shipped("")?.config;
    let (outbox, mut outcomes) = mpsc::channel(4 * SHARDS);
    let mut shards = Vec::new();
    for number in 0..SHARDS {
        let setup =
            ShardSetup { number, generation: detectors.clone(), queue: 4, priority: Priority::Live, tape: None };
        shards.push(ShardHandle::start(setup, outbox.clone())?);
    }
    let normalizer = Normalizer::new(&input, &Sessions::default())?;
    let mut ingest = Ingest::new(Decoder::new(&input, ".".as_ref())?, normalizer, SHARDS, Clock::default());
    let mut pace = Pace::new(Duration::from_millis(engine.checkpoint_every_ms));
    let mut market = Simulator::new(&SimConfig { symbols: SYMBOLS, dirt: 0.0, ..SimConfig::default() });
    let mut renderer = Renderer::new(Layout::Flat);
    let (mut read, mut done, mut pauses) = (0, 0, Vec::new());
    while done < ticks {
        let mut entries = Entries::default();
        for _ in 0..stream.batch {
            let tick = market.next().context("the simulated market never ends")?;
            done += 1;
            entries.push_entry(EntryId { millis: tick.time / 1_000_000, seq: done as u64 });
            let instrument = &market.instruments()[tick.instrument as usize];
            renderer.render(instrument, &tick, |name, value| entries.push_field(name, value));
        }
        read += 1;
        let mut asked = 0;
        for (shard, job) in shards.iter().zip(ingest.route(read, &entries).jobs) {
            if let Some(job) = job {
                shard.submit(Task::Process(job)).await;
                asked += 1;
            }
        }
        pace.processed(entries.len());
        answers(&mut outcomes, asked).await?;
        let Some(chunks) = pace.due(Instant::now(), ingest.chunk_sizes()) else { continue };
        read += 1;
        pace.started(&chunks);
        for (shard, bases) in shards.iter().zip(ingest.visit(&chunks).by_shard) {
            shard.submit(Task::Save { read, chunks: chunks.clone(), bases, shared: None }).await;
        }
        let saved = answers(&mut outcomes, SHARDS).await?;
        let took = saved.iter().map(|answer| answer.took).max().unwrap_or_default();
        pace.saved(took, saved.iter().map(symbols).sum());
        if done > ticks / 2 {
            pauses.push(took.as_secs_f64() * 1e3);
        }
    }
    shards.into_iter().for_each(ShardHandle::join);
    Ok(pauses)
}

/// The number of symbols that a shard has saved.
fn symbols(answer: &Answer) -> usize {
    if let TaskOutcome::Saved(saved) = &answer.outcome { saved.states.len() } else { 0 }
}

async fn answers(outcomes: &mut mpsc::Receiver<Answer>, count: usize) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(outcomes.recv().await.context("a shard has ended")?);
    }
    Ok(answers)
}
