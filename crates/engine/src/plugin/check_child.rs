//! The check process itself; `check_process` starts it.
//!
//! What holds: it has limits before it reads the first byte of the plugin. Before it parses one, it has given up all files and
//! the network, as far as the kernel supports that.

mod confine;

use std::{
    io::{self, BufRead, Read, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};

use super::{
    check_process::{CheckAnswer, CheckTask, Checked, Request, Start},
    facts::SymbolFacts,
    instance::Instance,
    runtime::Runtime,
    trial,
};

/// Checks the plugin on standard input, and writes the answer to standard output.
///
/// # Errors
/// Fails when the input is not a request, or this process can't be confined.
pub fn serve() -> Result<ExitCode> {
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    let Start { process, request } =
        serde_json::from_slice(&line).context("this command is for the host: it reads a request of the host")?;
    confine::limit(process)?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let unconfined = confine::isolate(request.exchange.as_deref());
    let result = match Runtime::in_check_process(request.exchange.as_deref()) {
        Ok(runtime) => check(&runtime, request, &bytes).unwrap_or_else(|error| Checked::Rejected(format!("{error:#}"))),
        Err(error) => Checked::Failed(format!("{error:#}")),
    };
    let answer = CheckAnswer { result, unconfined };
    io::stdout().lock().write_all(&serde_json::to_vec(&answer)?)?;
    Ok(ExitCode::SUCCESS)
}

fn check(runtime: &Runtime, request: Request, bytes: &[u8]) -> Result<Checked> {
    let Request { name, limits, task, .. } = request;
    let plugin = runtime.compile(&name, Path::new(&name), bytes, limits)?;
    let CheckTask::Try { params, wiring, rows } = task else { return Ok(Checked::Described) };
    let wiring = Arc::new(*wiring);
    let start = || Instance::start(&plugin, &params, wiring.clone(), SymbolFacts::MadeUp, limits);
    Ok(Checked::Tried(trial::run(start, &rows, plugin.manifest.state_version)?))
}
