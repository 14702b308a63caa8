//! `tickhound run --background`: starts a host in a session of its own, and waits until it runs.
//!
//! What holds: exit code 0 means that the started process holds the lease and makes progress, or is the standby of a
//! host that is alive. After any other exit nothing is left running.

use std::{
    env, fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
};

use crate::{
    observe::health::{HealthReport, Verdict, seconds},
    service::{FAILED, Holder, LogFile, OwnFileUse, PidFile, Record, open_own},
};
use tickhound_core::{
    config::{Config, LoadedConfig},
    stream::owner::Owner,
    wall::now_ms,
};

/// Time to compile plugins and to restore state.
pub(super) const WAIT_S: u64 = 30;

/// Lines of the log that are shown when the start has failed.
const LOG_SHOWN: usize = 20;

const POLL_EVERY: Duration = Duration::from_millis(200);

/// Time for a host that failed to start to release what it holds.
const EXIT_WITHIN: Duration = Duration::from_secs(3);

/// How often a wait for the same thing is reported.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// A server that has not answered by then is reported.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How to start a host.
pub(super) struct StartOptions<'a> {
    pub(super) config_file: &'a Path,
    pub(super) loaded: &'a LoadedConfig,
    pub(super) wait: Duration,
    /// Options before the command; `restart` reads them from the pid file.
    pub(super) options: &'a [String],
    /// Environment variables in addition to those of this process.
    pub(super) variables: &'a [(String, String)],
}

/// The process that was started, and what it has reported.
struct StartingHost {
    child: Child,
    owner: String,
    at: Instant,
    at_ms: u64,
    /// Entries that were processed before the start; `None` until the server answers.
    processed_before: Option<u64>,
    ready: bool,
    status: String,
    standby_since: Option<Instant>,
}

pub(super) fn start(start: &StartOptions<'_>) -> Result<ExitCode> {
    super::process::runtime()?.block_on(start_and_wait(start))
}

/// Prints that the pid file of a process that did not stop in an orderly way was removed.
pub(super) fn print_removed(pid_file: &Path, record: Option<&Record>) {
    let process = record.map_or_else(|| "its process".to_owned(), |record| record.owner.to_string());
    outln!("removed {}: {process} exited unexpectedly (killed?)", pid_file.display());
}

async fn start_and_wait(start: &StartOptions<'_>) -> Result<ExitCode> {
    let service = &start.loaded.config.service;
    let pid_file = start.loaded.resolve(&service.pid_file);
    match PidFile::inspect(&pid_file).await? {
        Holder::Running(record) => bail!(
            "already running: {} ({}); use `tickhound stop` or `tickhound restart`",
            record.owner,
            pid_file.display()
        ),
        Holder::Gone(record) => print_removed(&pid_file, record.as_ref()),
        Holder::Nobody => {}
    }
    let log_file = start.loaded.resolve(&service.log_file);
    LogFile::open(&log_file, service, start.loaded.config.display_zone()?)?;
    let log_before = fs::metadata(&log_file).map_or(0, |metadata| metadata.len());
    let (mut host, mut reports) = spawn(start, &log_file)?;
    let pid = host.child.id();
    outln!("started process {pid}, its log is {}", log_file.display());
    let reason = match host.wait_until_it_runs(start, &mut reports).await {
        Ok(summary) => {
            summary.iter().for_each(|line| outln!("{line}"));
            return Ok(ExitCode::SUCCESS);
        }
        Err(reason) => reason,
    };
    host.end().await;
    let log = tail_from(&log_file, log_before);
    if !log.is_empty() {
        outln!("the last lines of {}:", log_file.display());
        log.iter().for_each(|line| outln!("{line}"));
    }
    bail!("not started: {reason:#}")
}

/// Lines that the process writes to stdout: `READY=1`, `STATUS=…`, as for `sd_notify(3)`.
type Reports = Lines<BufReader<pipe::Receiver>>;

/// Starts the process with an empty stdin. This process reads its stdout; its stderr goes to the log.
fn spawn(start: &StartOptions<'_>, log_file: &Path) -> Result<(StartingHost, Reports)> {
    let log = open_own(log_file, OwnFileUse::Append);
    let log = log.with_context(|| format!("can't write the log {}", log_file.display()))?;
    let mut command = Command::new(env::current_exe().context("can't determine the path of tickhound")?);
    command.arg("--config").arg(start.config_file).args(start.options).args(["run", "--detached"]);
    command.envs(start.variables.iter().map(|(name, value)| (name, value)));
    // A supervisor of this process does not supervise the new one.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("failed to start the process")?;
    let stdout = OwnedFd::from(child.stdout.take().context("the process has no output")?);
    let stdout = pipe::Receiver::from_owned_fd(stdout).context("can't read the output of the process")?;
    let host = StartingHost {
        owner: Owner::of(child.id()).to_string(),
        child,
        at: Instant::now(),
        at_ms: now_ms(),
        processed_before: None,
        ready: false,
        status: String::new(),
        standby_since: None,
    };
    Ok((host, BufReader::new(stdout).lines()))
}

/// What the host waits for, and when that was reported last.
struct WaitReport {
    longest: Duration,
    missing: String,
    has_answer: bool,
    reported: Option<(String, Duration)>,
}

impl WaitReport {
    fn new(config: &Config, longest: Duration) -> Self {
        let missing = format!("an answer from redis at {}", config.stream.address());
        Self { longest, missing, has_answer: false, reported: None }
    }

    /// Sets what is missing according to the server's answer.
    fn set(&mut self, missing: String) {
        (self.missing, self.has_answer) = (missing, true);
    }

    /// Prints on stderr what is missing, when that changes and from time to time; `passed` = time since the start.
    fn print(&mut self, passed: Duration) {
        let (seconds, longest) = (passed.as_secs(), self.longest.as_secs());
        match &self.reported {
            Some((missing, at)) if *missing == self.missing && passed < *at + REPORT_EVERY => return,
            Some((missing, _)) if *missing == self.missing => {
                errln!("still waiting for {} ({seconds} s of {longest} s)", self.missing);
            }
            None if passed < FIRST_ANSWER && !self.has_answer => return,
            _ => errln!("waiting for {}", self.missing),
        }
        self.reported = Some((self.missing.clone(), passed));
    }
}

/// The state of the partition after a pause.
fn ask_after(config: &Config, pause: Duration) -> Pin<Box<dyn Future<Output = HealthReport> + '_>> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        HealthReport::observe(config).await
    })
}

impl StartingHost {
    /// Returns the lines of a summary once the host runs; an error says why it does not.
    async fn wait_until_it_runs(&mut self, start: &StartOptions<'_>, reports: &mut Reports) -> Result<Vec<String>> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let config = &start.loaded.config;
        let mut asking = ask_after(config, Duration::ZERO);
        let (mut waiting, mut open) = (WaitReport::new(config, start.wait), true);
        loop {
            tokio::select! {
                // All are cancel-safe; `asking` is polled again in the next round.
                line = reports.next_line(), if open => {
                    match line {
                        Ok(Some(line)) => self.receive(&line),
                        _ => open = false,
                    }
                    continue;
                }
                report = &mut asking => {
                    match self.judge(start, &report) {
                        Ok(summary) => return Ok(summary),
                        Err(missing) => waiting.set(missing),
                    }
                    asking = ask_after(config, POLL_EVERY);
                }
                () = tokio::time::sleep(POLL_EVERY) => {}
                _ = interrupt.recv() => bail!("interrupted"),
                _ = terminate.recv() => bail!("interrupted"),
            }
            if let Some(status) = self.child.try_wait()? {
                // Its last reports may still be in the pipe.
                while let (true, Ok(Some(line))) = (open, reports.next_line().await) {
                    self.receive(&line);
                }
                match self.status.strip_prefix(FAILED) {
                    Some(reason) => bail!("{reason}"),
                    None => bail!("the process exited unexpectedly: {status}"),
                }
            }
            if self.at.elapsed() >= start.wait {
                bail!("after {} s (--wait) it is still waiting for {}", start.wait.as_secs(), waiting.missing);
            }
            waiting.print(self.at.elapsed());
        }
    }

    fn receive(&mut self, line: &str) {
        match line.split_once('=') {
            Some(("READY", _)) => self.ready = true,
            Some(("STATUS", status)) => status.clone_into(&mut self.status),
            _ => {}
        }
    }

    /// Returns the lines of a summary if the host runs, otherwise what is missing.
    fn judge(&mut self, start: &StartOptions<'_>, report: &HealthReport) -> Result<Vec<String>, String> {
        let Some(survey) = &report.survey else { return Err(report.reason.clone()) };
        let processed_before = *self.processed_before.get_or_insert(survey.totals.entries);
        let mark = if report.verdict == Verdict::Healthy { "✅" } else { "⚠️ " };
        match &survey.owner {
            Some(owner) if *owner == self.owner => {}
            // A host that died elsewhere holds the lease until it expires.
            Some(owner) if self.ready => {
                let since = *self.standby_since.get_or_insert_with(Instant::now);
                let lease = Duration::from_millis(start.loaded.config.stream.lease_ms);
                if since.elapsed() > lease {
                    return Ok(vec![format!("✅ standby: {owner} owns this stream; {}", report.reason)]);
                }
                return Err(format!("{owner}, which holds the lease, to renew or release it"));
            }
            _ if self.ready => return Err("the lease".into()),
            _ => return Err(format!("the host: {}", if self.status.is_empty() { "starting" } else { &self.status })),
        }
        if !survey.group_exists {
            return Err(format!("the group {}", report.group));
        }
        // The first commit writes it, after everything is restored.
        if survey.receipt.as_ref().is_none_or(|receipt| receipt.at_ms < self.at_ms) {
            return Err(format!("its first commit: {}", self.status));
        }
        if report.verdict == Verdict::Stuck {
            return Err("progress: entries are waiting, and nothing is committed".into());
        }
        let processed = survey.totals.entries - processed_before.min(survey.totals.entries);
        if survey.waiting_ms.is_some() && processed == 0 {
            return Err("its first processed entries".into());
        }
        let ours = report.consumers.iter().find(|consumer| consumer.name == start.loaded.config.stream.consumer);
        let ours = ours.map_or_else(String::new, |ours| {
            format!("; {}: {} pending, idle {}", ours.name, ours.pending, seconds(ours.idle_ms))
        });
        let verdict = format!("{:?}", report.verdict).to_lowercase();
        Ok(vec![
            format!("{mark} {verdict}: {}", report.reason),
            format!("   {} holds the lease{ours}; {processed} entries processed since the start", self.owner),
        ])
    }

    /// Stops the process, gracefully if it responds, so that it releases the lease.
    async fn end(&mut self) {
        let pid = Pid::from_child(&self.child);
        for (signal, patience) in [(Signal::TERM, EXIT_WITHIN), (Signal::KILL, EXIT_WITHIN)] {
            let since = Instant::now();
            if let Ok(None) = self.child.try_wait() {
                let _ = kill_process(pid, signal);
            }
            while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < patience {
                tokio::time::sleep(POLL_EVERY / 10).await;
            }
        }
    }
}

/// The last lines of the file behind the byte `from`.
fn tail_from(file: &PathBuf, from: u64) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    // The log may have been rotated.
    let new = bytes.get(from as usize..).unwrap_or(&bytes);
    let lines: Vec<String> = String::from_utf8_lossy(new).lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(LOG_SHOWN)..].to_vec()
}
