//! `tickhound run`: works the stream until told to stop.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{signal::unix, sync::watch};
use tracing::{info, warn};

use super::Prepared;
use crate::{
    jsonl::{Finished, JsonLines},
    notify::Notifier,
    observe::server::{Served, Server},
    service::{LogQueue, PidFile, Supervisor},
};
use tickhound_core::{config::LoadedConfig, pulse::Pulse, stream::Totals};
use tickhound_engine::{
    engine::{Engine, Stages, Until},
    plugin::watch::watch,
    sink::Sinks,
    stats::{self, Stats},
};

/// A host that was told to stop, and does not move for so long, is ended. Below what supervisors allow (30 s).
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// How often it is looked whether the host still moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The last words of a process that ends at once may take so long to be written.
const LAST_WORDS: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound run\n  tickhound run --drain        # work off all that is there, then exit 0\n  \
                  tickhound run --background   # exit 0 once it works; then `status`, `stop`, `restart`\n\n\
                  SIGTERM or Ctrl-C: finishes what was read, commits it, releases the lease, exits 0. A second one exits at once\n\
                  (130). Exits 1 if a server that is reached takes no commit for 10 s, or if the host does not move for 15 s. Does\n\
                  not wait for a Redis that can't be reached, and exits 0. In all these cases what was read and not committed is\n\
                  processed again at the next start. --drain also exits 1 if alerts.jsonl could not be completed.\n\n\
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

/// `options` are kept for `restart`.
pub(super) fn run(args: &RunArgs, loaded: &LoadedConfig, log: &Arc<LogQueue>, options: &[String]) -> Result<ExitCode> {
    let supervisor = Supervisor::of(args.detached);
    let worked = work(args, loaded, log, options, supervisor);
    if let Err(error) = &worked {
        supervisor.tell_failure(error);
    }
    worked
}

fn work(
    args: &RunArgs,
    loaded: &LoadedConfig,
    log: &Arc<LogQueue>,
    options: &[String],
    supervisor: Supervisor,
) -> Result<ExitCode> {
    let config = &loaded.config;
    let runtime = super::runtime()?;
    let stats = Arc::new(Stats::default());
    // Before anything that takes time: a signal that comes while plugins load must not be lost.
    let stop = runtime.block_on(async { stop_on_signal(Some(log.clone())) })?;
    end_if_stuck(stop.subscribe(), stats.pulse.clone(), log.clone())?;
    if log.is_file() {
        runtime.block_on(async { reopen_on_signal(log.clone()) })?;
    }
    let _held = match args.detached {
        true => Some(runtime.block_on(PidFile::hold(&loaded.resolve(&config.service.pid_file), options))?),
        false => None,
    };
    let Prepared { decoder, loader, stream } = Prepared::load(loaded)?;
    let stream = stream.with_pulse(stats.pulse.clone());
    let newest = loader.newest().clone();
    info!(
        event = "host_starting",
        stream = %config.stream.key,
        group = %config.stream.group,
        workers = config.engine.worker_count(),
        detectors = newest.detectors.len(),
        "starting"
    );
    let served =
        Served { config: config.clone(), stats: stats.clone(), decoder: decoder.clone(), stopping: stop.subscribe() };
    let _server = Server::start(&config.server, served)?;
    let (reloads, looker) = watch(loader, config.plugins.watch)?;
    let notifier = Notifier::start(loaded)?;
    let lines = JsonLines::start(&config.stream, &newest.alerts)?;
    runtime.spawn(notifier.clone().follow(reloads.clone()));
    runtime.spawn(lines.clone().follow(reloads.clone()));
    let stages = Stages { reloads, decoder, sinks: Sinks::new(&newest.alerts), stats: stats.clone() };
    let engine = Engine::new(stream, config, stages).with_looker(looker);
    let until = if args.drain { Until::Drained } else { Until::Stopped };
    let ended = runtime.block_on(async {
        if supervisor != Supervisor::Nobody {
            tokio::spawn(supervisor.attend(stats.clone(), stop.subscribe()));
        }
        if config.engine.report_every > 0 {
            tokio::spawn(stats::report(stats.clone(), Duration::from_secs(config.engine.report_every)));
        }
        engine.run(until, stop.subscribe()).await
    });
    let finished = finish(&lines, &notifier, ended.as_ref().is_ok_and(Option::is_some), &stats.pulse);
    let totals = ended?;
    // Once more: it may have been quicker than the task.
    supervisor.tell_stopping();
    tell_totals(&stats, totals);
    match finished {
        Finished::Incomplete { file, reason } if args.drain => bail!(
            "all is committed, but alerts may be missing from {} ({reason}); the next start adds them from the alerts stream",
            file.display()
        ),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Lets the file and the notifications have what was committed last, both at once. `owned`: the partition was ours.
fn finish(lines: &JsonLines, notifier: &Notifier, owned: bool, pulse: &Pulse) -> Finished {
    let file = lines.path();
    thread::scope(|scope| {
        let (waits, waited) = mpsc::channel::<()>();
        let waits_too = waits.clone();
        scope.spawn(move || {
            notifier.finish(owned);
            drop(waits_too);
        });
        let lines = scope.spawn(move || {
            let finished = lines.finish();
            drop(waits);
            finished
        });
        // Both end by themselves, a request perhaps after a minute (notify.timeout_ms): to wait for it is not to be stuck.
        while waited.recv_timeout(LOOK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            pulse.turn();
        }
        lines.join().unwrap_or_else(|_| Finished::Incomplete { file, reason: "its thread has panicked".into() })
    })
}

fn tell_totals(stats: &Stats, totals: Option<Totals>) {
    stats.tell();
    if let Some(totals) = totals {
        info!(
            event = "group_totals_reported",
            entries = totals.entries,
            alerts = totals.alerts,
            held_back = totals.held_back,
            dead = totals.dead,
            lost = totals.lost,
            "totals of the consumer group"
        );
    }
}

/// Becomes true at the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn stop_on_signal(log: Option<Arc<LogQueue>>) -> Result<watch::Sender<bool>> {
    let stop = watch::Sender::new(false);
    let listen = |kind| unix::signal(kind).context("failed to listen for signals");
    let (mut terminate, mut interrupt) =
        (listen(unix::SignalKind::terminate())?, listen(unix::SignalKind::interrupt())?);
    let told = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // Both are cancel-safe.
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if told.send_replace(true) {
                warn!(
                    event = "stop_forced",
                    "second signal: exiting at once; the entries in flight are processed again at the next start"
                );
                if let Some(log) = &log {
                    log.finish(LAST_WORDS);
                }
                std::process::exit(130);
            }
            info!(event = "host_stopping", "stopping; finishing the entries in flight");
        }
    });
    Ok(stop)
}

/// Ends the process when it was told to stop and does not move any more. On a thread of its own, as what is stuck
/// may be any other.
fn end_if_stuck(mut stop: watch::Receiver<bool>, pulse: Pulse, log: Arc<LogQueue>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.context("failed to start a runtime")?;
    let watch = async move {
        if stop.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        let since = Instant::now();
        while pulse.still_for().min(since.elapsed()) < STUCK_AFTER {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let seconds = STUCK_AFTER.as_secs();
        let what = format!(
            "the host was told to stop but has made no progress for {seconds} s; ending it now. Entries that were read and \
             not committed are processed again at the next start."
        );
        warn!(event = "stop_timed_out", "{what}");
        log.finish(LAST_WORDS);
        // Stderr may be what is stuck.
        let (said, is_said) = mpsc::channel::<()>();
        let _ = thread::Builder::new().spawn(move || {
            eprintln!("error: {what}");
            drop(said);
        });
        let _ = is_said.recv_timeout(LAST_WORDS);
        std::process::exit(1);
    };
    thread::Builder::new()
        .name("end".into())
        .spawn(move || runtime.block_on(watch))
        .context("failed to start a thread")?;
    Ok(())
}

/// SIGHUP opens the log's file by its name again, as `logrotate` and the like expect.
fn reopen_on_signal(log: Arc<LogQueue>) -> Result<()> {
    let mut hangup = unix::signal(unix::SignalKind::hangup()).context("failed to listen for signals")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            log.reopen();
            info!(
                event = "log_reopened",
                "SIGHUP: reopened the log; changes of the configuration and plugins need no signal"
            );
        }
    });
    Ok(())
}
