//! `tickhound record`: writes the stream to daily files, in the foreground or in the background.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{
    background, process,
    run::reopen_on_signal,
    stop::exits,
    text::{grouped, span},
};
use crate::{
    record::{HOLES, LOCK, RecordStatus, RecordVerdict, StreamRecorder, create_folder, folder_of},
    service::{FAILED, Holder, LogFile, LogQueue, OwnFileUse, PidFile, Supervisor, open_own},
};
use tickhound_core::{config::LoadedConfig, wall::now_ms};

/// How long `--background` waits until the recorder has opened its files, and `--stop` until it has ended. Both take
/// milliseconds; the rest is for a disk that is slow.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound record               # until Ctrl-C or SIGTERM\n  tickhound record --background\n  \
                  tickhound record --status\n  tickhound replay history/      # replays what was recorded\n\n\
                  The files are in history.dir, one for each day: DATE.jsonl.zst. New detectors warm up from them.\n\
                  A recorder reads the stream without a group: it takes no entry away from a host, and outlives it.\n\n\
                  Exit codes: 0 stopped, or, with --status, recording; 1 failed, or, with --status, nothing is recorded."
)]
pub(super) struct RecordArgs {
    /// Record in the background; return once the files are open. The log is in record.log_file.
    #[arg(long, conflicts_with_all = ["stop", "status", "json"])]
    pub(super) background: bool,
    /// Stop the recorder of this folder, wherever it was started.
    #[arg(long, conflicts_with_all = ["status", "json"])]
    stop: bool,
    /// Show what the recorder of this folder does.
    #[arg(long)]
    status: bool,
    /// Show it as one JSON object.
    #[arg(long)]
    json: bool,
    /// The process that `--background` starts.
    #[arg(long, hide = true, conflicts_with_all = ["background", "stop", "status", "json"])]
    pub(super) detached: bool,
}

impl RecordArgs {
    /// Whether this process records.
    pub(super) fn records(&self) -> bool {
        !(self.background || self.stop || self.status || self.json)
    }
}

/// Records until a signal ends it.
pub(super) fn record(args: &RecordArgs, loaded: &LoadedConfig, log: &Arc<LogQueue>) -> Result<ExitCode> {
    let supervisor = Supervisor::detect(args.detached);
    let ended = record_supervised(loaded, log, supervisor);
    if let Err(error) = &ended {
        supervisor.notify_failure(error);
    }
    ended
}

fn record_supervised(loaded: &LoadedConfig, log: &Arc<LogQueue>, supervisor: Supervisor) -> Result<ExitCode> {
    let runtime = process::runtime()?;
    let stop = runtime.block_on(async { process::stop_on_signal(Some(log.clone())) })?;
    if log.is_file() {
        runtime.block_on(async { reopen_on_signal(log.clone()) })?;
    }
    let folder = folder_of(loaded)?;
    create_folder(&folder)?;
    // Two recorders of one folder would write every entry twice.
    let lock = runtime.block_on(PidFile::acquire(&folder.join(LOCK), &[]));
    let _lock = lock.with_context(|| format!("can't record into {}", folder.display()))?;
    let recorder = StreamRecorder::open(loaded).with_context(|| format!("can't record into {}", folder.display()))?;
    supervisor.notify_ready();
    runtime.block_on(recorder.run(stop.subscribe()));
    supervisor.notify_stopping();
    Ok(ExitCode::SUCCESS)
}

/// Starts, stops or shows a recorder. `options` are those of this command.
pub(super) fn control(
    args: &RecordArgs,
    config_file: &Path,
    loaded: &LoadedConfig,
    options: &[String],
) -> Result<ExitCode> {
    let folder = folder_of(loaded)?;
    if args.background {
        return start(&folder, config_file, loaded, options);
    }
    if args.stop {
        return stop(&folder);
    }
    let status = RecordStatus::read(&folder).with_context(|| format!("can't read {}", folder.display()))?;
    let verdict = status.as_ref().map(|status| status.verdict(now_ms()));
    if args.json {
        print_json(&folder, status.as_ref(), verdict.as_ref());
    } else {
        print(&folder, status.as_ref(), verdict.as_ref());
    }
    Ok(match verdict {
        Some(RecordVerdict::Recording) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The process that holds the lock of a folder.
fn holder(folder: &Path) -> Result<Holder> {
    process::runtime()?.block_on(PidFile::inspect(&folder.join(LOCK)))
}

fn start(folder: &Path, config_file: &Path, loaded: &LoadedConfig, options: &[String]) -> Result<ExitCode> {
    let lock = folder.join(LOCK);
    match holder(folder)? {
        Holder::Running(running) => bail!("already recording: {}; use `tickhound record --stop`", running.owner),
        Holder::Gone(gone) => background::print_removed(&lock, gone.as_ref()),
        Holder::Nobody => {}
    }
    let log_file = loaded.resolve(&loaded.config.record.log_file);
    // It also creates the folder of the log.
    LogFile::open(&log_file, &loaded.config.service, loaded.config.display_zone()?)?;
    let log = open_own(&log_file, OwnFileUse::Append);
    let log = log.with_context(|| format!("can't write the log {}", log_file.display()))?;
    let mut command = Command::new(env::current_exe().context("can't determine the path of tickhound")?);
    command.arg("--config").arg(config_file).args(options).args(["record", "--detached"]);
    // A supervisor of this process does not supervise the new one.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("failed to start the process")?;
    match wait_until_ready(&mut child) {
        Ok(()) => {
            outln!("✅ recording into {}; process {}, its log is {}", folder.display(), child.id(), log_file.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.context(format!("not started, the log is {}", log_file.display())))
        }
    }
}

/// Waits for the message that the files are open.
fn wait_until_ready(child: &mut Child) -> Result<()> {
    let stdout = child.stdout.take().context("the process has no output")?;
    let (sender, messages) = mpsc::channel();
    // Ends with the process, or with this one.
    std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.for_each(|line| _ = sender.send(line));
    });
    let began = Instant::now();
    let mut reason = String::from("the process exited unexpectedly");
    loop {
        match messages.recv_timeout(WAIT.saturating_sub(began.elapsed())) {
            Ok(line) => match line.split_once('=') {
                Some(("READY", _)) => return Ok(()),
                Some(("STATUS", status)) if status.starts_with(FAILED) => {
                    status[FAILED.len()..].clone_into(&mut reason);
                }
                _ => {}
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!(reason),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("its files are not open after {} s", WAIT.as_secs()),
        }
    }
}

fn stop(folder: &Path) -> Result<ExitCode> {
    let owner = match holder(folder)? {
        Holder::Running(running) => running.owner,
        Holder::Gone(gone) => {
            background::print_removed(&folder.join(LOCK), gone.as_ref());
            return Ok(ExitCode::SUCCESS);
        }
        Holder::Nobody => {
            outln!("nothing to stop: no recorder of {} is running", folder.display());
            return Ok(ExitCode::SUCCESS);
        }
    };
    let pid = i32::try_from(owner.pid()).ok().and_then(Pid::from_raw);
    let pid =
        pid.filter(|_| owner.is_here()).with_context(|| format!("{owner} is in another container; stop it there"))?;
    match kill_process(pid, Signal::TERM) {
        // It has exited by itself meanwhile.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("can't signal {owner}; it may belong to another user"));
        }
    }
    if !process::runtime()?.block_on(exits(&owner, WAIT)) {
        bail!("{owner} is still running after {} s; its log says why", WAIT.as_secs());
    }
    outln!("stopped {owner}");
    Ok(ExitCode::SUCCESS)
}

fn print(folder: &Path, status: Option<&RecordStatus>, verdict: Option<&RecordVerdict>) {
    let (Some(status), Some(verdict)) = (status, verdict) else {
        outln!("❌ nothing was ever recorded into {}", folder.display());
        return;
    };
    let ago = |at_ms: u64| span(now_ms().saturating_sub(at_ms));
    let process = status.owner().map_or_else(|| "an unknown process".to_owned(), |owner| owner.to_string());
    match verdict {
        RecordVerdict::Recording => outln!("✅ recording {} into {}", status.stream, folder.display()),
        RecordVerdict::Stopped => outln!("❌ not recording: {process} was stopped {} ago", ago(status.at_ms)),
        RecordVerdict::Failing(reason) => outln!("❌ {reason}"),
    }
    if *verdict == RecordVerdict::Recording {
        outln!("host: {process}, started {} ago", ago(status.started_ms));
    }
    if let Some(file) = &status.file {
        outln!("file: {}, {:.1} MB", file.display(), status.file_bytes as f64 / 1e6);
    }
    let last = status.last.as_deref().unwrap_or("none");
    outln!("last entry: {last}; {} entries since the start", grouped(status.entries));
    if status.holes > 0 {
        outln!(
            "⚠️  {} holes since the start, {} entries are missing; see {}",
            status.holes,
            grouped(status.missing),
            folder.join(HOLES).display()
        );
    }
}

fn print_json(folder: &Path, status: Option<&RecordStatus>, verdict: Option<&RecordVerdict>) {
    let (verdict, reason) = match verdict {
        None => ("never", None),
        Some(RecordVerdict::Recording) => ("recording", None),
        Some(RecordVerdict::Stopped) => ("stopped", None),
        Some(RecordVerdict::Failing(reason)) => ("failing", Some(reason)),
    };
    crate::output::print_json(&json!({
        "folder": folder, "verdict": verdict, "reason": reason, "recorder": status,
    }));
}
