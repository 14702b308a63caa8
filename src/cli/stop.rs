//! `tickhound stop`: stops the host that `run --background` started, after it has committed the entries in flight.
//! `tickhound restart`: stops it and starts it again with the same options.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{background, parts::Parts};
use crate::{
    observe::health::{HealthReport, seconds},
    service::{Holder, PidFile, Record},
};
use tickhound_core::{
    config::{self, LoadedConfig},
    stream::owner::Owner,
};

/// Stopping takes milliseconds; the rest is for a server that does not answer.
const TIMEOUT_S: u64 = 30;

/// No process can ignore SIGKILL, but a large one takes a while to exit.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

const NOTHING_TO_STOP: &str = "nothing to stop: no host of this folder runs in the background";

const POLL_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound stop\n  tickhound stop --timeout 5 --kill\n\n\
                  Exit codes: 0 stopped, or nothing was running; 1 still running after --timeout.")]
pub(super) struct StopArgs {
    /// How long to wait until the host has stopped, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_S)]
    timeout: u64,
    /// Kill the host after the time-out; uncommitted entries are processed again at the next start.
    #[arg(long)]
    kill: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound restart\n  TICKHOUND_ENGINE__WORKERS=8 tickhound restart\n\n\
                  The new host gets the options, such as --debug, and the TICKHOUND_ variables of the running host; those given here\n\
                  override them. If the new host can't start, the running one is not stopped.\n\
                  Exit codes: those of `run --background`; also 1 if the running host does not stop.")]
pub(super) struct RestartArgs {
    /// How long to wait until the new host runs, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = background::WAIT_S)]
    wait: u64,
    #[command(flatten)]
    stop: StopArgs,
}

pub(super) fn run(args: &StopArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    super::process::runtime()?.block_on(async {
        let Some(record) = find(loaded).await? else {
            outln!("{NOTHING_TO_STOP}");
            print_owner(loaded).await;
            return Ok(ExitCode::SUCCESS);
        };
        stop(args, loaded, &record).await?;
        print_last_commit(loaded).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// `options` are those that were given to this command.
pub(super) fn restart(args: &RestartArgs, config_file: &Path, options: &[String]) -> Result<ExitCode> {
    let runtime = super::process::runtime()?;
    // Without the running host's variables: they are known only once its pid file is read.
    let loaded = config::load(config_file, config::environment())?;
    let record = runtime.block_on(find(&loaded))?;
    let mut all = options.to_vec();
    let mut variables = Vec::new();
    if let Some(record) = &record {
        // The options given now come last, so they override.
        all = [record.options.as_slice(), options].concat();
        variables = variables_of(&record.owner);
        variables.retain(|(name, _)| std::env::var_os(name).is_none());
        if !variables.is_empty() {
            let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
            outln!("taken from the running host: {}", names.join(", "));
        }
    }
    let loaded = config::load(config_file, config::environment().chain(variables.clone()))?;
    if let Some(record) = &record {
        Parts::load(&loaded).with_context(|| format!("not restarted; {} continues", record.owner))?;
        runtime.block_on(stop(&args.stop, &loaded, record))?;
    } else {
        outln!("{NOTHING_TO_STOP}");
    }
    drop(runtime);
    let wait = Duration::from_secs(args.wait);
    let (loaded, options, variables) = (&loaded, all.as_slice(), variables.as_slice());
    background::start(&background::StartOptions { config_file, loaded, wait, options, variables })
}

/// The host in the background. The pid file of one that is gone is removed.
async fn find(loaded: &LoadedConfig) -> Result<Option<Record>> {
    let pid_file = loaded.resolve(&loaded.config.service.pid_file);
    match PidFile::inspect(&pid_file).await? {
        Holder::Running(record) if record.owner.is_here() => Ok(Some(record)),
        Holder::Running(record) => {
            bail!("{} is held by {}, which is in another container; stop it there", pid_file.display(), record.owner)
        }
        Holder::Nobody => Ok(None),
        Holder::Gone(record) => {
            background::print_removed(&pid_file, record.as_ref());
            Ok(None)
        }
    }
}

async fn stop(args: &StopArgs, loaded: &LoadedConfig, record: &Record) -> Result<()> {
    let pid = i32::try_from(record.owner.pid())
        .ok()
        .and_then(Pid::from_raw)
        .context("the pid file contains an invalid process number")?;
    let since = Instant::now();
    let timeout = Duration::from_secs(args.timeout);
    signal(&record.owner, pid, Signal::TERM)?;
    outln!("stopping {}: it commits the entries in flight", record.owner);
    if !exits(&record.owner, timeout).await {
        if !args.kill {
            bail!(
                "{} is still running after {} s (--timeout); its log says why ({}). Use --kill to kill it",
                record.owner,
                args.timeout,
                loaded.resolve(&loaded.config.service.log_file).display()
            );
        }
        signal(&record.owner, pid, Signal::KILL)?;
        if !exits(&record.owner, KILLED_WITHIN).await {
            bail!("{} does not exit, not even after SIGKILL; the system may be waiting for a device", record.owner);
        }
        find(loaded).await?;
        outln!("killed {}; its uncommitted entries are processed again at the next start", record.owner);
    } else {
        outln!("stopped {} after {}", record.owner, seconds(since.elapsed().as_millis() as u64));
    }
    Ok(())
}

fn signal(owner: &Owner, pid: Pid, signal: Signal) -> Result<()> {
    // It may have exited since the pid file was read, and another process may have its number by now.
    if owner.is_gone() {
        return Ok(());
    }
    match kill_process(pid, signal) {
        // It has exited by itself meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error)
            .with_context(|| format!("can't signal process {}; it may belong to another user", pid.as_raw_pid())),
    }
}

/// Waits until a process has ended; returns whether it has.
pub(super) async fn exits(owner: &Owner, within: Duration) -> bool {
    let since = Instant::now();
    while !owner.is_gone() {
        if since.elapsed() >= within {
            return false;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    true
}

/// The environment variables that the host was started with; empty if it belongs to another user.
fn variables_of(owner: &Owner) -> Vec<(String, String)> {
    let environment = fs::read(format!("/proc/{}/environ", owner.pid())).unwrap_or_default();
    let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
        let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        (name.starts_with("TICKHOUND_") || name == "RUST_LOG").then(|| (name.to_owned(), value.to_owned()))
    });
    variables.collect()
}

async fn print_last_commit(loaded: &LoadedConfig) {
    let report = HealthReport::observe(&loaded.config).await;
    let Some(survey) = &report.survey else {
        outln!("the last commit is unknown: {}", report.reason);
        return;
    };
    let totals = &survey.totals;
    let ago = survey.committed_ms_ago.map_or_else(|| "never".into(), |ago| format!("{} ago", seconds(ago)));
    outln!("last commit: {ago}; {} entries processed, {} alerts, {} dead", totals.entries, totals.alerts, totals.dead);
    outln!("{}", report.reason);
}

async fn print_owner(loaded: &LoadedConfig) {
    let survey = HealthReport::observe(&loaded.config).await.survey;
    if let Some(owner) = survey.and_then(|survey| survey.owner) {
        outln!("{owner} owns this stream; stop it where it was started");
    }
}
