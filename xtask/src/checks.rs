//! `cargo xtask test`: the steps that a change has to pass, cheapest first.
//!
//! Everything is built in the release profile, so that wasmtime, which takes
//! minutes, is compiled once for the tests, the demo and the host itself.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Result, bail, ensure};

use crate::{cargo, plugins, root, run, step, target_dir};

/// Runs every step; the first failure ends it.
pub(crate) fn run_all() -> Result<()> {
    let started = Instant::now();
    step("redis-server", redis)?;
    step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
    step("plugins as committed", plugins::check)?;
    step("clippy", || {
        run(cargo().args(["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))
    })?;
    step("documentation", || {
        let mut command = cargo();
        command.args(["doc", "--release", "--workspace", "--no-deps", "--locked"]);
        run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("tests", || run(cargo().args(["test", "--release", "--workspace", "--locked"])))?;
    step("example detector", example)?;
    println!("\nall checks passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The detector that users copy passes its test and builds as its README says.
fn example() -> Result<()> {
    let manifest = root().join("examples/detectors/rust/Cargo.toml");
    // Its own target folder: its settings differ from the workspace's.
    let target = target_dir().join("examples");
    let build: &[&str] = &["build", "--release", "--target", "wasm32-unknown-unknown"];
    for what in [&["test"], build] {
        let mut command = cargo();
        // Without a lock file, as a user who copies it has none.
        command.args(what).args(["--quiet", "--manifest-path"]).arg(&manifest);
        run(command.arg("--target-dir").arg(&target))?;
    }
    Ok(())
}

/// The tests start a redis-server of their own; installs it where apt and the rights for it are at hand.
fn redis() -> Result<()> {
    if starts("redis-server", &["--version"]) {
        return Ok(());
    }
    const HINT: &str = "install redis-server 6.2 or later (Debian, Ubuntu: `sudo apt-get install redis-server`; \
                        macOS: `brew install redis`) and run this again";
    ensure!(starts("apt-get", &["--version"]), "the tests need redis-server, and there is no apt-get: {HINT}");
    let as_root: &[&str] = if is_root() {
        &[]
    } else if starts("sudo", &["-n", "true"]) {
        &["sudo", "-n"]
    } else {
        bail!("the tests need redis-server, and only root may install it: {HINT}");
    };
    let apt = |args: &[&str]| {
        let words = [as_root, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat();
        run(Command::new(words[0]).args(&words[1..]))
    };
    apt(&["update", "-q"])?;
    apt(&["install", "-q", "-y", "--no-install-recommends", "redis-server"])?;
    ensure!(starts("redis-server", &["--version"]), "redis-server was installed, but does not start: {HINT}");
    Ok(())
}

/// Whether the program is there and ends well; what it prints is of no interest.
fn starts(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    crate::output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0")
}
