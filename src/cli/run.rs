//! `tickhound run`: works the stream until told to stop.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{signal::unix, sync::watch};
use tracing::{info, warn};

use super::Prepared;
use crate::{
    config::Loaded,
    engine::{Engine, Until},
    notify::Notifier,
    plugin::watch::watch,
    sink::Sinks,
    stats::{self, Stats},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound run\n  tickhound run --drain      # work off all that is there, then exit 0\n\n\
                  SIGTERM or Ctrl-C: finishes what was read, commits it, releases the lease, exits 0. A second one exits at once."
)]
pub(super) struct RunArgs {
    /// Work off everything that is there, pending entries included, then exit.
    #[arg(long)]
    drain: bool,
}

pub(super) fn run(args: &RunArgs, loaded: &Loaded) -> Result<ExitCode> {
    let config = &loaded.config;
    let runtime = super::runtime()?;
    // Before anything that takes time: a signal that comes while plugins load must not be lost.
    let stop = runtime.block_on(async { stop_on_signal() })?;
    let Prepared { decoder, loader, stream } = Prepared::load(loaded)?;
    let jsonl = (!config.alerts.jsonl.as_os_str().is_empty()).then(|| loaded.resolve(&config.alerts.jsonl));
    let sinks = Sinks::open(&config.alerts, jsonl.as_deref())?;
    let stats = Arc::new(Stats::default());
    info!(
        stream = %config.stream.key,
        group = %config.stream.group,
        workers = config.engine.worker_count(),
        detectors = loader.newest().detectors.len(),
        "starting"
    );
    let reloads = watch(loader, config.plugins.watch)?;
    let notifier = Notifier::start(loaded)?;
    runtime.spawn(notifier.clone().follow(reloads.clone()));
    let engine = Engine::new(stream, config, reloads, decoder, sinks, stats.clone());
    let until = if args.drain { Until::Drained } else { Until::Stopped };
    let totals = runtime.block_on(async {
        if config.engine.report_every > 0 {
            tokio::spawn(stats::report(stats.clone(), Duration::from_secs(config.engine.report_every)));
        }
        engine.run(until, stop.subscribe()).await
    })?;
    notifier.finish(totals.is_some());
    stats.tell();
    if let Some(totals) = totals {
        info!(
            entries = totals.entries,
            alerts = totals.alerts,
            held_back = totals.held_back,
            dead = totals.dead,
            lost = totals.lost,
            "totals of the group"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes true at the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn stop_on_signal() -> Result<watch::Sender<bool>> {
    let stop = watch::Sender::new(false);
    let listen = |kind| unix::signal(kind).context("failed to listen for signals");
    let (mut terminate, mut interrupt) =
        (listen(unix::SignalKind::terminate())?, listen(unix::SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if told.send_replace(true) {
                warn!("second signal: exiting at once; what was read is worked again at the next start");
                std::process::exit(130);
            }
            info!("stopping: finishing what was read");
        }
    });
    Ok(stop)
}
