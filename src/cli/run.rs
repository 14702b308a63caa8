//! `tickhound run`: processes the stream until it is stopped.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{runtime::Runtime, signal::unix, sync::watch};
use tracing::{info, warn};

use super::{
    parts::Parts,
    process::{self, LAST_LINES_MAX, stop_on_signal},
};
use crate::{
    alerts_file::{AlertsFile, Completion},
    history::HistoryFolder,
    notify::Notifier,
    observe::server::{Server, ServerContext},
    record,
    service::{LogHealth, LogQueue, PidFile, Supervisor},
};
use tickhound_core::{
    condition::ConditionCode,
    config::{Config, LoadedConfig},
    normalize::Normalizer,
    pulse::Pulse,
    stream::Totals,
};
use tickhound_engine::{
    conditions::Conditions,
    feed::{FeedLimits, watch_feed},
    partition::{Partition, Stages, Until},
    plugin::watch::watch,
    sink::Sinks,
    stats::{self, Stats},
};

/// A host that is stopping and makes no progress for this long exits. Supervisors usually allow 30 s.
const STUCK_AFTER: Duration = Duration::from_secs(15);

/// How often to check whether the host makes progress.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// How often to check whether the log can be written.
const LOG_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound run\n  tickhound run --drain        # process everything in the stream, then exit 0\n  \
                  tickhound run --background   # exit 0 once it runs; then use `status`, `stop`, `restart`\n\n\
                  SIGTERM or Ctrl-C stops the host: it finishes and commits the entries in flight, releases the lease and exits 0. A\n\
                  second signal exits at once (130). A host that is stopping exits 1 if Redis accepts no commit for 10 s, or if it\n\
                  makes no progress for 15 s; it does not wait for a Redis that can't be reached, and exits 0. In each case, entries\n\
                  that were read but not committed are processed again at the next start. --drain also exits 1 if alerts.jsonl\n\
                  could not be completed.\n\n\
                  --background exits 0 when the host holds the lease, reads the group, and has nothing waiting or is committing; or\n\
                  when it is the standby of another host. Otherwise it exits 1 with the reason and the last lines of the log, and\n\
                  leaves nothing running."
)]
pub(super) struct RunArgs {
    /// Process everything in the stream, including pending entries, then exit.
    #[arg(long)]
    drain: bool,
    /// Run in the background; return once the host runs. The log is in service.log_file.
    #[arg(long, conflicts_with = "drain")]
    pub(super) background: bool,
    /// How long to wait until the host runs, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = super::background::WAIT_S, requires = "background")]
    pub(super) wait: u64,
    /// In the foreground, log to this file; it is rotated as [service] says.
    #[arg(long, value_name = "FILE", conflicts_with = "background")]
    pub(super) log_file: Option<PathBuf>,
    /// The process that `--background` starts.
    #[arg(long, hide = true, conflicts_with_all = ["background", "log_file"])]
    pub(super) detached: bool,
}

/// `options` are recorded for `restart`.
pub(super) fn run(args: &RunArgs, loaded: &LoadedConfig, log: &Arc<LogQueue>, options: &[String]) -> Result<ExitCode> {
    let supervisor = Supervisor::detect(args.detached);
    let ended = run_supervised(args, loaded, log, options, supervisor);
    if let Err(error) = &ended {
        supervisor.notify_failure(error);
    }
    ended
}

fn run_supervised(
    args: &RunArgs,
    loaded: &LoadedConfig,
    log: &Arc<LogQueue>,
    options: &[String],
    supervisor: Supervisor,
) -> Result<ExitCode> {
    let config = &loaded.config;
    let runtime = process::runtime()?;
    let stats = Arc::new(Stats::default());
    // Before anything that takes time: a signal that arrives while plugins load must not be lost.
    let stop = handle_signals(&runtime, log, &stats.pulse)?;
    let pid_file = args.detached.then(|| loaded.resolve(&config.service.pid_file));
    let _pid_file = pid_file.map(|path| runtime.block_on(PidFile::acquire(&path, options))).transpose()?;
    let Parts { decoder, loader, stream } = Parts::load(loaded)?;
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
    let (reloads, watcher) = watch(loader, config.plugins.watch)?;
    let served = ServerContext {
        config: config.clone(),
        stats: stats.clone(),
        decoder: decoder.clone(),
        root: loaded.root.clone(),
        reloads: reloads.clone(),
        stopping: stop.subscribe(),
    };
    let _server = Server::start(&config.server, served)?;
    let notifier = Notifier::start(loaded, &stats.conditions)?;
    let alerts_file = AlertsFile::start(&config.stream, &newest.alerts, &stats.conditions)?;
    runtime.spawn(notifier.clone().follow(reloads.clone()));
    runtime.spawn(alerts_file.clone().follow(reloads.clone()));
    let normalizer = Normalizer::new(&config.input, &config.session.sessions)?;
    let stages = Stages { reloads, decoder, normalizer, sinks: Sinks::new(&newest.alerts), stats: stats.clone() };
    if let Ok(folder) = record::folder_of(loaded) {
        record::watch_recorder(folder, stats.conditions.clone())?;
    }
    let mut engine = Partition::new(stream, config, stages).with_watcher(watcher);
    if let Some(history) = HistoryFolder::of(loaded)? {
        engine = engine.with_archive(Arc::new(history));
    }
    let until = if args.drain { Until::Drained } else { Until::Stopped };
    let ended = runtime.block_on(async {
        start_watching(config, &stats, log);
        start_reporting(supervisor, &stats, stop.subscribe());
        engine.run(until, stop.subscribe()).await
    });
    stats.conditions.close();
    let completion = finish(&alerts_file, &notifier, ended.as_ref().is_ok_and(Option::is_some), &stats.pulse);
    let totals = ended?;
    // Once more: the host may have stopped before the task reported it.
    supervisor.notify_stopping();
    log_totals(&stats, totals);
    match completion {
        Completion::Incomplete { file, reason } if args.drain => bail!(
            "everything is committed, but alerts may be missing from {} ({reason}); the next start adds them from the alerts stream",
            file.display()
        ),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Starts the task that reports to a supervisor, if there is one. Called within the runtime.
fn start_reporting(supervisor: Supervisor, stats: &Arc<Stats>, stop: watch::Receiver<bool>) {
    if supervisor != Supervisor::Nobody {
        tokio::spawn(supervisor.report(stats.clone(), stop));
    }
}

/// Starts the tasks that watch the feed and the log, and the one that logs the progress. Called within the runtime.
fn start_watching(config: &Config, stats: &Arc<Stats>, log: &Arc<LogQueue>) {
    tokio::spawn(watch_feed(stats.clone(), feed_limits(config)));
    tokio::spawn(watch_log(log.clone(), stats.conditions.clone()));
    if config.engine.report_every > 0 {
        tokio::spawn(stats::log_progress(stats.clone(), Duration::from_secs(config.engine.report_every)));
    }
}

/// Starts what handles signals: the end of the host, also of one that is stuck, and a new log file.
fn handle_signals(runtime: &Runtime, log: &Arc<LogQueue>, pulse: &Pulse) -> Result<watch::Sender<bool>> {
    let stop = runtime.block_on(async { stop_on_signal(Some(log.clone())) })?;
    end_if_stuck(stop.subscribe(), pulse.clone(), log.clone())?;
    if log.is_file() {
        runtime.block_on(async { reopen_on_signal(log.clone()) })?;
    }
    Ok(stop)
}

/// What the conditions of the feed are judged by.
fn feed_limits(config: &Config) -> FeedLimits {
    let (health, sessions) = (config.health.clone(), config.session.sessions.clone());
    FeedLimits { health, stream: config.stream.key.clone(), sessions }
}

/// Reports for ever whether lines are missing from the log: the log itself can't.
async fn watch_log(log: Arc<LogQueue>, conditions: Conditions) {
    loop {
        tokio::time::sleep(LOG_EVERY).await;
        let (text, lines) = match log.health() {
            LogHealth::Works => {
                conditions.end(ConditionCode::LogFailing, "");
                continue;
            }
            LogHealth::Fails { lines, cause } => {
                let cure = "Free space, or correct the permissions of the file";
                (format!("the log can't be written: {cause}. {lines} lines are missing from it. {cure}"), lines)
            }
            LogHealth::Slow { lines } => {
                let cure = "Check the terminal, the program or the disk that takes it";
                (format!("the log is written too slowly, and {lines} lines were left out. {cure}"), lines)
            }
        };
        conditions.report(ConditionCode::LogFailing, "", &text, lines);
    }
}

/// Writes the last commits to the alerts file and sends their notifications, both at once. `owned` = this host owned
/// the partition.
fn finish(alerts_file: &AlertsFile, notifier: &Notifier, owned: bool, pulse: &Pulse) -> Completion {
    let file = alerts_file.path();
    thread::scope(|scope| {
        // Nothing is sent: the channel is closed once both have ended.
        let (file_done, both_done) = mpsc::channel::<()>();
        let notifier_done = file_done.clone();
        scope.spawn(move || {
            notifier.finish(owned);
            drop(notifier_done);
        });
        let completing = scope.spawn(move || {
            let completion = alerts_file.finish();
            drop(file_done);
            completion
        });
        // Both are bounded, a request by notify.timeout_ms. The pulse shows that this wait is progress.
        while both_done.recv_timeout(CHECK_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            pulse.turn();
        }
        completing.join().unwrap_or_else(|_| Completion::Incomplete { file, reason: "its thread has panicked".into() })
    })
}

fn log_totals(stats: &Stats, totals: Option<Totals>) {
    stats.log();
    if let Some(totals) = totals {
        info!(
            event = "group_totals_reported",
            entries = totals.entries,
            alerts = totals.alerts,
            held_back = totals.held_back,
            below_min_confidence = totals.below_min_confidence,
            dead = totals.dead,
            lost = totals.lost,
            "totals of the consumer group"
        );
    }
}

/// Exits when the host is stopping and makes no progress. On a thread of its own, since any other may be stuck.
fn end_if_stuck(mut stop: watch::Receiver<bool>, pulse: Pulse, log: Arc<LogQueue>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.context("failed to start a runtime")?;
    let watch = async move {
        if stop.wait_for(|stop| *stop).await.is_err() {
            return;
        }
        let since = Instant::now();
        while pulse.still_for().min(since.elapsed()) < STUCK_AFTER {
            tokio::time::sleep(CHECK_EVERY).await;
        }
        let seconds = STUCK_AFTER.as_secs();
        let what = format!(
            "the host is stopping but has made no progress for {seconds} s; exiting. Entries that were read but not \
             committed are processed again at the next start."
        );
        warn!(event = "stop_timed_out", "{what}");
        log.finish(LAST_LINES_MAX);
        // Stderr may be blocked, so another thread writes to it.
        let (written, is_written) = mpsc::channel::<()>();
        let _ = thread::Builder::new().spawn(move || {
            errln!("error: {what}");
            drop(written);
        });
        let _ = is_written.recv_timeout(LAST_LINES_MAX);
        std::process::exit(1);
    };
    thread::Builder::new()
        .name("end".into())
        .spawn(move || runtime.block_on(watch))
        .context("failed to start a thread")?;
    Ok(())
}

/// Reopens the log file by its name at each SIGHUP, as `logrotate` expects.
pub(super) fn reopen_on_signal(log: Arc<LogQueue>) -> Result<()> {
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
