//! `cargo xtask`: what a developer of Tickhound runs, the same by hand and in CI.

mod api;
mod bench;
mod chaos;
mod checks;
mod dependencies;
mod fuzz;
mod instructions;
mod languages;
mod plugins;
mod running;
mod screenshots;
mod strip;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

const HELP: &str = "\
cargo xtask test              runs every check that a change must pass
cargo xtask plugins           builds each plugins/NAME.wasm from plugins/NAME/
cargo xtask plugins --check   builds them, and fails if a committed file differs
cargo xtask bench             measures throughput and latency beside baselines in the same run; writes docs/PERFORMANCE.md
                              [--quick] [--only SUITE] [--json]
cargo xtask languages         builds a detector in each language from an empty folder; all must raise the same alerts
cargo xtask api               tests the server against its OpenAPI description, and its metrics; needs python3 with venv
cargo xtask screenshots       takes the pictures in docs/images from a real run; needs chromium and pngquant
cargo xtask instructions      counts the instructions and allocations of a tick; fails if they exceed the recorded ones
                              [--accept]: records the new counts
cargo xtask sbom              prints every crate with version, license and hash, as CycloneDX JSON
cargo xtask audit             checks advisories, licenses, bans and sources with cargo-deny, which needs GitHub
cargo xtask fuzz              gives random input to each reader of untrusted bytes, and names what it finds
                              [--minutes 1] (of each) [--target NAME] [--keep]: keeps some of the new inputs as seeds
cargo xtask chaos             injects faults into hosts and server for a while, then compares every output with an
                              undisturbed run; if `foreign` reads change the order of entries, it only checks that each
                              alert of a probe exists once and that the probe missed no tick
                              [--seconds 15] [--seed 1] [--hosts 2]
                              [--nemeses kills,pauses,stops,server,cuts,swaps,settings,clock,foreign,group|all]
                              [--server redis|valkey|redis-8|PATH]
cargo xtask failover          kills the server and promotes a replica that lags, then compares every output with an
                              undisturbed run over what the replica has [--seeds 20] [--seed 1] [--server …]
cargo xtask swaps             replaces a plugin again and again while ticks flow; reports the pauses, compares the alerts
                              [--count 25] [--rate 20000] [--server …]
cargo xtask real              compares the alerts of detectors that see several symbols on recorded days of the NSE: workers,
                              batches, kills, swaps, reloads, history, live and replay
                              --days FOLDER [--count 2] (of days; histories need six) [--test NAME] [--server …]
cargo xtask servers           runs the tests on the installed redis-server, on Valkey and on Redis 8";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["test"] => checks::run_all(),
        ["plugins"] => plugins::write(),
        ["plugins", "--check"] => plugins::check(),
        ["bench", ref args @ ..] => bench::run_all(args),
        ["languages"] => languages::run_all(),
        ["api"] => api::check(),
        ["screenshots"] => screenshots::take(),
        ["instructions", ref args @ ..] if matches!(args, [] | ["--accept"]) => instructions::run_all(args),
        ["sbom"] => dependencies::print_sbom(),
        ["audit"] => dependencies::audit(),
        ["fuzz", ref args @ ..] => fuzz::run_all(args),
        ["chaos", ref args @ ..] => chaos::CHAOS.run(args),
        ["failover", ref args @ ..] => chaos::FAILOVER.run(args),
        ["swaps", ref args @ ..] => chaos::SWAPS.run(args),
        ["real", ref args @ ..] => chaos::real(args),
        ["servers"] => chaos::servers(),
        ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs this program, at the workspace's root.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // What `cargo run` says of this package: build scripts that look at it would run again, and wasmtime's users with them.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Runs it to its end and expects success.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't start {}", shown(command)))?;
    ensure!(status.success(), "failed: {}", shown(command));
    Ok(())
}

/// Runs it to its end and returns what it printed, without the white space at the ends.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("can't start {}", shown(command)))?;
    if !output.status.success() {
        bail!("failed: {}\n{}", shown(command), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// One named step, with its time.
fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n==> {name}");
    let started = Instant::now();
    work().with_context(|| format!("step `{name}`"))?;
    println!("    {name}: ok, {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
