//! `tickhound run`: works the stream until told to stop.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{signal::unix, sync::watch};
use tracing::{info, warn};

use super::Prepared;
use crate::{
    config::Loaded,
    engine::{Engine, Until},
    notify::Notifier,
    plugin::watch::watch,
    server::{Served, Server},
    service::{LogFile, PidFile, Supervisor},
    sink::Sinks,
    stats::{self, Stats},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound run\n  tickhound run --drain        # work off all that is there, then exit 0\n  \
                  tickhound run --background   # exit 0 once it works; then `status`, `stop`, `restart`\n\n\
                  SIGTERM or Ctrl-C: finishes what was read, commits it, releases the lease, exits 0. A second one exits at once.\n\n\
                  --background exits 0 when the host holds the lease, reads the group, has nothing waiting or is committing, or\n\
                  stands by for another host; else 1, with the reason and the last lines of the log, and nothing is left running."
)]
pub(super) struct RunArgs {
    /// Work off everything that is there, pending entries included, then exit.
    #[arg(long)]
    drain: bool,
    /// Go on in the background once it is seen to work; the log is in service.log_file.
    #[arg(long, conflicts_with = "drain")]
    pub(super) background: bool,
    /// Longest wait until it works, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = super::background::WAIT_S, requires = "background")]
    pub(super) wait: u64,
    /// In the foreground too, log to this file, with a new one begun as [service] says.
    #[arg(long, value_name = "FILE", conflicts_with = "background")]
    pub(super) log_file: Option<PathBuf>,
    /// The process that `--background` starts.
    #[arg(long, hide = true, conflicts_with_all = ["background", "log_file"])]
    pub(super) detached: bool,
}

/// `log`: where the log goes, if that is a file. `options` are kept for `restart`.
pub(super) fn run(args: &RunArgs, loaded: &Loaded, log: Option<Arc<LogFile>>, options: &[String]) -> Result<ExitCode> {
    let supervisor = Supervisor::of(args.detached);
    let worked = work(args, loaded, log, options, supervisor);
    if let Err(error) = &worked {
        supervisor.tell_failure(error);
    }
    worked
}

fn work(
    args: &RunArgs,
    loaded: &Loaded,
    log: Option<Arc<LogFile>>,
    options: &[String],
    supervisor: Supervisor,
) -> Result<ExitCode> {
    let config = &loaded.config;
    let runtime = super::runtime()?;
    // Before anything that takes time: a signal that comes while plugins load must not be lost.
    let stop = runtime.block_on(async { stop_on_signal() })?;
    if let Some(log) = log {
        runtime.block_on(async { reopen_on_signal(log) })?;
    }
    let _held = match args.detached {
        true => Some(runtime.block_on(PidFile::hold(&loaded.resolve(&config.service.pid_file), options))?),
        false => None,
    };
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
    let served =
        Served { config: config.clone(), stats: stats.clone(), decoder: decoder.clone(), stopping: stop.subscribe() };
    let _server = Server::start(&config.server, served)?;
    let reloads = watch(loader, config.plugins.watch)?;
    let notifier = Notifier::start(loaded)?;
    runtime.spawn(notifier.clone().follow(reloads.clone()));
    let engine = Engine::new(stream, config, reloads, decoder, sinks, stats.clone());
    let until = if args.drain { Until::Drained } else { Until::Stopped };
    let totals = runtime.block_on(async {
        if supervisor != Supervisor::Nobody {
            tokio::spawn(supervisor.attend(stats.clone(), stop.subscribe()));
        }
        if config.engine.report_every > 0 {
            tokio::spawn(stats::report(stats.clone(), Duration::from_secs(config.engine.report_every)));
        }
        engine.run(until, stop.subscribe()).await
    })?;
    notifier.finish(totals.is_some());
    // Once more: it may have been quicker than the task.
    supervisor.tell_stopping();
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

/// SIGHUP opens the log's file by its name again, as `logrotate` and the like expect.
fn reopen_on_signal(log: Arc<LogFile>) -> Result<()> {
    let mut hangup = unix::signal(unix::SignalKind::hangup()).context("failed to listen for signals")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            log.reopen();
            info!("SIGHUP: the log was opened again; configuration and plugins are taken up without it");
        }
    });
    Ok(())
}
