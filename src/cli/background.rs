//! `tickhound run --background`: starts a host of its own session, and stays until that works.
//!
//! What holds: exit code 0 means that the very process which was started holds the lease and gets its
//! work done, or stands by for a host that lives. After any other end nothing is left running.

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
    observe::health::{Report, Verdict, seconds},
    service::{FAILED, Found, LogFile, PidFile},
};
use tickhound_core::{
    config::{Config, LoadedConfig},
    stream::owner::Owner,
    wall::now_ms,
};

/// Time for plugins to be compiled and for what was known to be restored.
pub(super) const WAIT_S: u64 = 30;

/// Lines of the log that are shown when it did not work out.
const LOG_SHOWN: usize = 20;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// For a host that did not get to work, to give back what it holds.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// While it waits for the same thing, it says so this often.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A server that has not answered by then is worth a word.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How a host is to be started.
pub(super) struct Start<'a> {
    pub(super) config_file: &'a Path,
    pub(super) loaded: &'a LoadedConfig,
    pub(super) wait: Duration,
    /// Options before the command, as `restart` finds them in the pid file.
    pub(super) options: &'a [String],
    /// Variables beside those of this process.
    pub(super) variables: &'a [(String, String)],
}

/// A host that was started, and what it has told of itself.
struct Started {
    child: Child,
    owner: String,
    at: Instant,
    at_ms: u64,
    /// Entries that were worked before, if the server could be asked.
    worked_before: Option<u64>,
    ready: bool,
    status: String,
    standing_by_since: Option<Instant>,
}

pub(super) fn start(start: &Start<'_>) -> Result<ExitCode> {
    super::runtime()?.block_on(start_and_wait(start))
}

async fn start_and_wait(start: &Start<'_>) -> Result<ExitCode> {
    let service = &start.loaded.config.service;
    let pid_file = start.loaded.resolve(&service.pid_file);
    match PidFile::look(&pid_file).await? {
        Found::Running(record) => bail!(
            "already running: {} ({}); `tickhound stop` ends it, `tickhound restart` starts it anew",
            record.owner,
            pid_file.display()
        ),
        Found::Nobody(Some(_)) => {
            println!("removed {}: the process that it named has ended without an order", pid_file.display());
        }
        Found::Nobody(None) => {}
    }
    let log_file = start.loaded.resolve(&service.log_file);
    LogFile::open(&log_file, service, &start.loaded.config.input.timezone)?;
    let log_before = fs::metadata(&log_file).map_or(0, |metadata| metadata.len());
    let (mut started, mut words) = spawn(start, &log_file)?;
    let pid = started.child.id();
    println!("started process {pid}, its log is {}", log_file.display());
    let reason = match started.wait_until_it_works(start, &mut words).await {
        Ok(what) => {
            println!("{what}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(reason) => reason,
    };
    started.end().await;
    let log = tail_from(&log_file, log_before);
    if !log.is_empty() {
        println!("the last lines of {}:\n{}", log_file.display(), log.join("\n"));
    }
    bail!("not started: {reason:#}")
}

/// Its stdin is empty, its stdout comes to us, its stderr goes to the log.
fn spawn(start: &Start<'_>, log_file: &Path) -> Result<(Started, Lines<BufReader<pipe::Receiver>>)> {
    let log = fs::OpenOptions::new().append(true).create(true).open(log_file);
    let log = log.with_context(|| format!("can't write the log {}", log_file.display()))?;
    let mut command = Command::new(env::current_exe().context("can't tell where tickhound is")?);
    command.arg("--config").arg(start.config_file).args(start.options).args(["run", "--detached"]);
    command.envs(start.variables.iter().map(|(name, value)| (name, value)));
    // Whoever supervises this process does not supervise that one.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("failed to start the process")?;
    let words = OwnedFd::from(child.stdout.take().context("the process has no output")?);
    let words = pipe::Receiver::from_owned_fd(words).context("can't listen to the process")?;
    let started = Started {
        owner: Owner::of(child.id()).to_string(),
        child,
        at: Instant::now(),
        at_ms: now_ms(),
        worked_before: None,
        ready: false,
        status: String::new(),
        standing_by_since: None,
    };
    Ok((started, BufReader::new(words).lines()))
}

/// What is still missing, and when that was said last.
struct Waiting {
    longest: Duration,
    missing: String,
    /// Whether that is what the server says.
    is_answered: bool,
    told: Option<(String, Duration)>,
}

impl Waiting {
    fn new(config: &Config, longest: Duration) -> Self {
        let missing = format!("an answer of redis at {}", config.stream.address());
        Self { longest, missing, is_answered: false, told: None }
    }

    fn is_for(&mut self, missing: String) {
        (self.missing, self.is_answered) = (missing, true);
    }

    /// Says on stderr what is waited for, when that is another thing, and now and then; `passed` since the start.
    fn tell(&mut self, passed: Duration) {
        let (seconds, longest) = (passed.as_secs(), self.longest.as_secs());
        match &self.told {
            Some((told, at)) if *told == self.missing && passed < *at + TELL_EVERY => return,
            Some((told, _)) if *told == self.missing => {
                eprintln!("still waiting for {} ({seconds} s of {longest} s)", self.missing);
            }
            None if passed < FIRST_ANSWER && !self.is_answered => return,
            _ => eprintln!("waiting for {}", self.missing),
        }
        self.told = Some((self.missing.clone(), passed));
    }
}

/// How the partition is doing, a while from now.
fn ask_after(config: &Config, pause: Duration) -> Pin<Box<dyn Future<Output = Report> + '_>> {
    Box::pin(async move {
        tokio::time::sleep(pause).await;
        Report::ask(config).await
    })
}

impl Started {
    /// What there is to say when it works; an error tells why it does not.
    async fn wait_until_it_works(
        &mut self,
        start: &Start<'_>,
        words: &mut Lines<BufReader<pipe::Receiver>>,
    ) -> Result<String> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let config = &start.loaded.config;
        let mut asking = ask_after(config, Duration::ZERO);
        let (mut waiting, mut open) = (Waiting::new(config, start.wait), true);
        loop {
            tokio::select! {
                // All are cancel-safe; what is asked goes on.
                line = words.next_line(), if open => {
                    match line {
                        Ok(Some(line)) => self.heard(&line),
                        _ => open = false,
                    }
                    continue;
                }
                report = &mut asking => {
                    match self.judge(start, &report) {
                        Ok(what) => return Ok(what),
                        Err(missing) => waiting.is_for(missing),
                    }
                    asking = ask_after(config, LOOK_EVERY);
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = interrupt.recv() => bail!("interrupted"),
                _ = terminate.recv() => bail!("interrupted"),
            }
            if let Some(status) = self.child.try_wait()? {
                // What it said last may be on its way.
                while let (true, Ok(Some(line))) = (open, words.next_line().await) {
                    self.heard(&line);
                }
                match self.status.strip_prefix(FAILED) {
                    Some(reason) => bail!("{reason}"),
                    None => bail!("the process has ended by itself: {status}"),
                }
            }
            if self.at.elapsed() >= start.wait {
                bail!("after {} s (--wait) it still waits for {}", start.wait.as_secs(), waiting.missing);
            }
            waiting.tell(self.at.elapsed());
        }
    }

    fn heard(&mut self, line: &str) {
        match line.split_once('=') {
            Some(("READY", _)) => self.ready = true,
            Some(("STATUS", status)) => status.clone_into(&mut self.status),
            _ => {}
        }
    }

    /// Whether it works, and how; or what is missing.
    fn judge(&mut self, start: &Start<'_>, report: &Report) -> Result<String, String> {
        let Some(survey) = &report.survey else { return Err(report.reason.clone()) };
        let worked_before = *self.worked_before.get_or_insert(survey.totals.entries);
        let mark = if report.verdict == Verdict::Healthy { "✅" } else { "⚠️ " };
        match &survey.owner {
            Some(owner) if *owner == self.owner => {}
            // One that died elsewhere holds the lease until that runs out.
            Some(owner) if self.ready => {
                let since = *self.standing_by_since.get_or_insert_with(Instant::now);
                let lease = Duration::from_millis(start.loaded.config.stream.lease_ms);
                return match since.elapsed() > lease {
                    true => Ok(format!("✅ standing by: {owner} works this stream; {}", report.reason)),
                    false => Err(format!("{owner}, which holds the lease, to renew it or let it go")),
                };
            }
            _ if self.ready => return Err("the lease".into()),
            _ => return Err(format!("the host: {}", if self.status.is_empty() { "starting" } else { &self.status })),
        }
        if !survey.group_exists {
            return Err(format!("the group {}", report.group));
        }
        // Written with its first step, behind everything that it had to restore.
        if survey.receipt.as_ref().is_none_or(|receipt| receipt.at_ms < self.at_ms) {
            return Err(format!("its first step: {}", self.status));
        }
        if report.verdict == Verdict::Stuck {
            return Err("progress: there is work, and nothing is committed".into());
        }
        let worked = survey.totals.entries - worked_before.min(survey.totals.entries);
        if survey.waiting_ms.is_some() && worked == 0 {
            return Err("its first commit".into());
        }
        let ours = report.consumers.iter().find(|consumer| consumer.name == start.loaded.config.stream.consumer);
        let ours = ours.map_or_else(String::new, |ours| {
            format!("; {}: {} pending, idle {}", ours.name, ours.pending, seconds(ours.idle_ms))
        });
        let verdict = format!("{:?}", report.verdict).to_lowercase();
        Ok(format!(
            "{mark} {verdict}: {}\n   {} holds the lease{ours}; {worked} entries worked since the start",
            report.reason, self.owner
        ))
    }

    /// In order if it can, so that the lease is free for whoever comes next.
    async fn end(&mut self) {
        let pid = Pid::from_child(&self.child);
        for (signal, patience) in [(Signal::TERM, ENDS_WITHIN), (Signal::KILL, ENDS_WITHIN)] {
            let since = Instant::now();
            if let Ok(None) = self.child.try_wait() {
                let _ = kill_process(pid, signal);
            }
            while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < patience {
                tokio::time::sleep(LOOK_EVERY / 10).await;
            }
        }
    }
}

/// The last lines behind that place of the file.
fn tail_from(file: &PathBuf, from: u64) -> Vec<String> {
    let bytes = fs::read(file).unwrap_or_default();
    // A new file may have been begun.
    let new = bytes.get(from as usize..).unwrap_or(&bytes);
    let lines: Vec<String> = String::from_utf8_lossy(new).lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(LOG_SHOWN)..].to_vec()
}
