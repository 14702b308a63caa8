//! Checks plugins in a process of its own, the check process: reads the file, compiles it, starts it, and tries it on made-up
//! ticks.
//!
//! What holds: until a plugin has passed there, nothing in this process parses, compiles or calls it. A plugin that takes
//! all memory, overflows a stack or never ends only ends its check process, which is a reason to reject it. A check
//! process has limits on memory, processor time and time. Where the kernel supports it, it has no network either, and only
//! the folder where it leaves the compiled code.
//!
//! The check process is this program itself, started with [`COMMAND`]. One check is one process: the request is a line
//! of JSON on its standard input, followed by the bytes of the plugin, and the answer is a line of JSON.

use std::{
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Once, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{guest::Limits, params::Params, trial_rows::TrialRows, wiring::Wiring};
use tickhound_core::config::PluginsConfig;

/// The hidden command of the program that is a check process. It calls
/// [`super::check_child::serve`].
pub const COMMAND: &str = "check-plugin";

/// This program, even after a newer one was installed in its place.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The maximum time of a check, in limits of processor time. A check gives way to all other work, so that it may get a small
/// part of a busy machine.
const WALL_LIMITS: u32 = 20;

/// The maximum length of an answer, bytes. The longest part is a sentence about the plugin.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// One warning is enough: the kernel stays the same.
static WARN_UNCONFINED: Once = Once::new();

/// Where plugins are checked.
#[derive(Clone, Copy, Debug)]
pub enum Isolation {
    /// In this process: for plugins that were checked before, such as those that are part of this program.
    InProcess,
    /// In a check process each.
    Process(ProcessLimits),
}

/// The limits of a check process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// The maximum memory that it may write to, bytes.
    pub memory_bytes: u64,
    /// The maximum processor time of all its threads together.
    pub processor: Duration,
}

/// What a trial has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialResult {
    /// The median cost of a tick, ns.
    pub ns_per_tick: u32,
    /// The event time that must pass before the first detection according to the plugin, seconds.
    pub warm_up_seconds: f64,
}

/// What a check process is asked to do with a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// The name of the plugin, for messages.
    pub(super) name: String,
    /// The folder for compiled code, in the form of wasmtime's cache. `None`: the code is dropped.
    pub(super) exchange: Option<PathBuf>,
    /// The limits of its instances.
    pub(super) limits: Limits,
    pub(super) task: CheckTask,
}

/// How far a check goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum CheckTask {
    /// Compile the plugin, and let it describe itself.
    Describe,
    /// After that, try it with these parameters.
    Try {
        params: Params,
        /// How its rows are made, and from which batches.
        wiring: Box<Wiring>,
        rows: TrialRows,
    },
}

/// The first line that a check process reads.
#[derive(Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) process: ProcessLimits,
    pub(super) request: Request,
}

/// The answer of a check process.
#[derive(Serialize, Deserialize)]
pub(super) struct CheckAnswer {
    pub(super) result: Checked,
    /// What the kernel does not support, so that the check process was not fully confined.
    pub(super) unconfined: Option<String>,
}

/// What a check process has found.
#[derive(Serialize, Deserialize)]
pub(super) enum Checked {
    /// The plugin has passed.
    Described,
    /// The plugin has passed a trial.
    Tried(TrialResult),
    /// The reason why the plugin is rejected.
    Rejected(String),
    /// The reason why nothing could be checked.
    Failed(String),
}

/// Why a check has not passed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckFailure {
    /// The reason why the plugin is rejected, which is the same each time.
    #[error("{0}")]
    Rejected(String),
    /// The check could not be carried out here and now.
    #[error("{0}")]
    Failed(String),
}

/// The output of a check process that has ended.
struct Ended {
    status: ExitStatus,
    answer: Vec<u8>,
    errors: String,
}

impl Isolation {
    /// Returns the isolation that the configuration asks for.
    pub fn of(config: &PluginsConfig) -> Self {
        Self::Process(ProcessLimits {
            memory_bytes: config.compile_memory_max_mib << 20,
            processor: Duration::from_secs(config.compile_deadline_s),
        })
    }
}

impl ProcessLimits {
    /// Checks a plugin. Returns the result of its trial, if the request asks for one.
    ///
    /// # Errors
    /// The reason why the plugin is rejected. That the check process could not be started is one, too.
    pub(super) fn check(self, request: &Request, bytes: &[u8]) -> Result<Option<TrialResult>, CheckFailure> {
        let ended = self.run(request, bytes).map_err(|error| CheckFailure::Failed(format!("{error:#}")))?;
        let answer: Option<CheckAnswer> = serde_json::from_slice(&ended.answer).ok();
        let (result, unconfined) = answer.map_or((None, None), |answer| (Some(answer.result), answer.unconfined));
        if let Some(missing) = unconfined {
            WARN_UNCONFINED.call_once(|| {
                warn!(
                    event = "plugin_check_unconfined",
                    missing,
                    "this kernel does not support all that confines the check of plugins; its limits on memory and time hold"
                );
            });
        }
        match result {
            Some(Checked::Described) => Ok(None),
            Some(Checked::Tried(result)) => Ok(Some(result)),
            Some(Checked::Rejected(reason)) => Err(CheckFailure::Rejected(reason)),
            Some(Checked::Failed(reason)) => Err(CheckFailure::Failed(reason)),
            None => {
                warn!(
                    event = "plugin_check_died",
                    plugin = request.name,
                    status = %ended.status,
                    stderr = ended.errors,
                    "the process that checked a plugin died; rejecting the plugin"
                );
                Err(self.describe_death(&ended))
            }
        }
    }

    /// Runs a check process to its end.
    fn run(self, request: &Request, bytes: &[u8]) -> Result<Ended> {
        let mut command = Command::new(THIS_PROGRAM);
        // A name may begin with a hyphen.
        command.arg0("tickhound").args([COMMAND, "--", &request.name]).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut start = serde_json::to_vec(&Start { process: self, request: request.clone() })?;
        start.push(b'\n');
        let child = command.spawn().with_context(|| {
            format!("can't start the process that checks plugins ({THIS_PROGRAM}; is /proc mounted?)")
        })?;
        let ended = converse(child, &[&start, bytes], self.processor * WALL_LIMITS)?;
        ended.with_context(|| {
            format!(
                "its check got less than its {} s of processor time (plugins.compile_deadline_s) in {} s: the machine is \
                 too busy with other work",
                self.processor.as_secs(),
                (self.processor * WALL_LIMITS).as_secs()
            )
        })
    }

    /// Returns the reason why the plugin of a check process that has died is rejected.
    fn describe_death(self, ended: &Ended) -> CheckFailure {
        let signal = ended.status.signal().and_then(Signal::from_named_raw);
        if signal == Some(Signal::XCPU) {
            let seconds = self.processor.as_secs();
            return CheckFailure::Rejected(format!(
                "its check took more than {seconds} s of processor time (plugins.compile_deadline_s)"
            ));
        }
        if ended.errors.contains("memory allocation of") {
            let mib = self.memory_bytes >> 20;
            return CheckFailure::Rejected(format!(
                "its check needed more than {mib} MiB of memory (plugins.compile_memory_max_mib)"
            ));
        }
        if ended.errors.contains("overflowed its stack") {
            return CheckFailure::Rejected("its check overflowed the stack: it is nested too deeply".to_owned());
        }
        if signal == Some(Signal::KILL) {
            return CheckFailure::Failed("its check was killed; has the machine run out of memory?".to_owned());
        }
        let detail = ended.errors.lines().find(|line| !line.trim().is_empty()).unwrap_or("without a message");
        CheckFailure::Failed(format!("its check failed ({}): {}", ended.status, detail.trim()))
    }
}

/// Writes the input to a process, and reads its output until it ends. Returns `None` if it was killed at the time limit.
fn converse(mut child: Child, input: &[&[u8]], limit: Duration) -> Result<Option<Ended>> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { bail!("the check process has no pipes") };
    thread::scope(|scope| {
        scope.spawn(move || {
            // A process that has died does not read all of it.
            let _ = input.iter().try_for_each(|part| stdin.write_all(part));
        });
        let errors = scope.spawn(|| read_all(stderr));
        let (sender, answer) = mpsc::channel();
        scope.spawn(move || sender.send(read_all(stdout)));
        let answer = answer.recv_timeout(limit);
        // The end of the answer is that of the process, whose status then can't be changed by this any more. A process that
        // has only closed its output ends now.
        child.kill()?;
        let status = child.wait().context("can't wait for the process that checks plugins")?;
        let errors = errors.join().unwrap_or_default();
        let Ok(answer) = answer else { return Ok(None) };
        Ok(Some(Ended { status, answer, errors: String::from_utf8_lossy(&errors).into_owned() }))
    })
}

/// Reads a pipe to its end, and returns the first part of it.
fn read_all(mut pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    bytes
}

/// Returns a request, for a plugin whose compiled code is in `exchange`, or goes there.
pub(super) fn request(name: &str, exchange: Option<&Path>, limits: Limits, task: CheckTask) -> Request {
    Request { name: name.to_owned(), exchange: exchange.map(Path::to_owned), limits, task }
}
