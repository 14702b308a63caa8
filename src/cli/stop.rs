//! `tickhound stop`: ends what `run --background` has started, when it has committed what it has read.
//! `tickhound restart`: that, and `run --background` with the options of before.

use std::{
    fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Prepared, background};
use crate::{
    observe::health::{Report, seconds},
    service::{Found, PidFile, Record},
};
use tickhound_core::{
    config::{self, LoadedConfig},
    stream::owner::Owner,
};

/// A drain is a matter of milliseconds; the rest is for a server that does not answer.
const TIMEOUT_S: u64 = 30;

/// Nothing can refuse SIGKILL, but a large process takes its time to go.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound stop\n  tickhound stop --timeout 5 --kill\n\n\
                  Exit codes: 0 it has ended, or nothing was running; 1 it is still running after --timeout.")]
pub(super) struct StopArgs {
    /// Longest wait until it has ended, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_S)]
    timeout: u64,
    /// After that, end it at once; what it has read is worked again at the next start.
    #[arg(long)]
    kill: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound restart\n  TICKHOUND_ENGINE__WORKERS=8 tickhound restart\n\n\
                  Options such as --debug and TICKHOUND_ variables are those of the running host, and those given here\n\
                  on top. What could not start is refused while the running one goes on.\n\
                  Exit codes: as of `run --background`; 1 also if the running one does not end.")]
pub(super) struct RestartArgs {
    /// Longest wait until the new one works, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = background::WAIT_S)]
    wait: u64,
    #[command(flatten)]
    stop: StopArgs,
}

pub(super) fn run(args: &StopArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    super::runtime()?.block_on(async {
        let Some(record) = find(loaded).await? else {
            println!("nothing to stop: no host of this folder runs in the background");
            tell_of_others(loaded).await;
            return Ok(ExitCode::SUCCESS);
        };
        stop(args, loaded, &record).await?;
        tell_last_commit(loaded).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// `options` are those given now.
pub(super) fn restart(args: &RestartArgs, config_file: &Path, options: &[String]) -> Result<ExitCode> {
    let runtime = super::runtime()?;
    // Where the pid file is, the running host's variables may say, but only it knows those.
    let loaded = config::load(config_file, std::env::vars())?;
    let record = runtime.block_on(find(&loaded))?;
    let mut all = options.to_vec();
    let mut variables = Vec::new();
    if let Some(record) = &record {
        // The ones given now come last, and count.
        all = [record.options.as_slice(), options].concat();
        variables = variables_of(&record.owner);
        variables.retain(|(name, _)| std::env::var_os(name).is_none());
        if !variables.is_empty() {
            let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
            println!("kept from the running host: {}", names.join(", "));
        }
    }
    let loaded = config::load(config_file, std::env::vars().chain(variables.clone()))?;
    if let Some(record) = &record {
        Prepared::load(&loaded).with_context(|| format!("not restarted, {} goes on", record.owner))?;
        runtime.block_on(stop(&args.stop, &loaded, record))?;
    } else {
        println!("nothing to stop: no host of this folder runs in the background");
    }
    drop(runtime);
    let wait = Duration::from_secs(args.wait);
    let (loaded, options, variables) = (&loaded, all.as_slice(), variables.as_slice());
    background::start(&background::Start { config_file, loaded, wait, options, variables })
}

/// The host in the background. What one that is gone has left is removed.
async fn find(loaded: &LoadedConfig) -> Result<Option<Record>> {
    let pid_file = loaded.resolve(&loaded.config.service.pid_file);
    match PidFile::look(&pid_file).await? {
        Found::Running(record) if record.owner.is_here() => Ok(Some(record)),
        Found::Running(record) => {
            bail!("{} is held by {}, which is in another container: stop it there", pid_file.display(), record.owner)
        }
        Found::Nobody(None) => Ok(None),
        Found::Nobody(Some(left)) => {
            let who = left.record.map_or_else(|| "what it named".to_owned(), |record| record.owner.to_string());
            println!("removed {}: {who} has ended without an order (killed?)", pid_file.display());
            Ok(None)
        }
    }
}

async fn stop(args: &StopArgs, loaded: &LoadedConfig, record: &Record) -> Result<()> {
    let pid = i32::try_from(record.owner.pid()).ok().and_then(Pid::from_raw).context("no process has that number")?;
    let since = Instant::now();
    let timeout = Duration::from_secs(args.timeout);
    signal(&record.owner, pid, Signal::TERM)?;
    println!("stopping {}: it finishes and commits what it has read", record.owner);
    if !ends(&record.owner, timeout).await {
        if !args.kill {
            bail!(
                "{} is still running after {} s (--timeout); its log tells why ({}). --kill ends it at once",
                record.owner,
                args.timeout,
                loaded.resolve(&loaded.config.service.log_file).display()
            );
        }
        signal(&record.owner, pid, Signal::KILL)?;
        if !ends(&record.owner, KILLED_WITHIN).await {
            bail!("{} can't be ended, not even by SIGKILL: the system waits for a device", record.owner);
        }
        find(loaded).await?;
        println!("killed {}; what it had read is worked again at the next start", record.owner);
    } else {
        println!("stopped {} after {}", record.owner, seconds(since.elapsed().as_millis() as u64));
    }
    Ok(())
}

fn signal(owner: &Owner, pid: Pid, signal: Signal) -> Result<()> {
    // It may have ended since the pid file was looked at, and its number be another's by now.
    if owner.is_gone() {
        return Ok(());
    }
    match kill_process(pid, signal) {
        // It has ended by itself meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("can't signal process {}: is it another user's?", pid.as_raw_pid()))
        }
    }
}

async fn ends(owner: &Owner, within: Duration) -> bool {
    let since = Instant::now();
    while !owner.is_gone() {
        if since.elapsed() >= within {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    true
}

/// What it was started with; nothing if it is another user's.
fn variables_of(owner: &Owner) -> Vec<(String, String)> {
    let environment = fs::read(format!("/proc/{}/environ", owner.pid())).unwrap_or_default();
    let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
        let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        (name.starts_with("TICKHOUND_") || name == "RUST_LOG").then(|| (name.to_owned(), value.to_owned()))
    });
    variables.collect()
}

async fn tell_last_commit(loaded: &LoadedConfig) {
    let report = Report::ask(&loaded.config).await;
    let Some(survey) = &report.survey else {
        println!("what was committed last can't be told: {}", report.reason);
        return;
    };
    let totals = &survey.totals;
    let ago = survey.committed_ms_ago.map_or_else(|| "never".into(), |ago| format!("{} ago", seconds(ago)));
    println!("last commit: {ago}; {} entries worked, {} alerts, {} dead", totals.entries, totals.alerts, totals.dead);
    println!("{}", report.reason);
}

async fn tell_of_others(loaded: &LoadedConfig) {
    let survey = Report::ask(&loaded.config).await.survey;
    if let Some(owner) = survey.and_then(|survey| survey.owner) {
        println!("{owner} works this stream; end it where it was started");
    }
}
