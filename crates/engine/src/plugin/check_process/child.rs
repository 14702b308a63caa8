//! The check process itself.
//!
//! What holds: it has limits before it reads the first byte of the plugin, and no files and no network before it parses
//! one.

use std::{
    io::{self, BufRead, Read, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};

use super::{Answer, Request, Start, Task, confine};
use crate::plugin::{instance::Instance, runtime::Runtime, trial};

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
    confine::isolate(request.exchange.as_deref());
    let answer = check(request, &bytes).unwrap_or_else(|error| Answer::Rejected(format!("{error:#}")));
    io::stdout().lock().write_all(&serde_json::to_vec(&answer)?)?;
    Ok(ExitCode::SUCCESS)
}

fn check(request: Request, bytes: &[u8]) -> Result<Answer> {
    let Request { name, exchange, limits, task } = request;
    let runtime = Runtime::in_check_process(exchange.as_deref())?;
    let plugin = runtime.compile(&name, Path::new(&name), bytes, limits)?;
    let Task::Try { params, columns, width } = task else { return Ok(Answer::Described) };
    let start = || Instance::start(&plugin, &params, columns.clone().into(), limits);
    Ok(Answer::Tried(trial::run(start, plugin.manifest.state_version, width)?))
}
