//! Figures: medians with least and most, ratios of what was measured side by side, processor time.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Median, least and most of several measurements.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// How many they were.
    pub(crate) n: usize,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (n, middle) = (values.len(), values.len() / 2);
        let median = match n {
            0 => f64::NAN,
            _ if n % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self { median, least: at(0), most: at(n.saturating_sub(1)), n }
    }
}

/// What was measured in turn with something else, value for value.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

/// Processor time that a process has had, all threads together, s. Of one that has ended too, until it is waited for.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("can't see a process")?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th after it.
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |field: usize| -> Result<f64> { Ok(fields.get(field).context("/proc/PID/stat is short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Runs it to its end: what it printed, and its processor time, s.
pub(crate) fn run_to_end(command: &mut Command) -> Result<(String, f64)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("can't start what is measured")?;
    let mut printed = String::new();
    // Ends when the process does; then it can still be looked at until it is waited for.
    child.stdout.take().context("the output is piped")?.read_to_string(&mut printed)?;
    let seconds = loop {
        let state = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        if state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('Z')) {
            break cpu_seconds(child.id())?;
        }
        pause(Duration::from_millis(1));
    };
    let status = child.wait()?;
    ensure!(status.success(), "what is measured ended with {status}");
    Ok((printed, seconds))
}

/// Processor time of this thread so far, s.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// `USER_HZ`, which is 100 on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A line `name: N kB` of `/proc/PID/status`, bytes.
pub(crate) fn memory_bytes(pid: u32, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("can't see a process")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: f64 = line.context("/proc/PID/status has no such line")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

#[expect(clippy::disallowed_methods, reason = "the step of a wait for a condition, and the pace of a feed")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
