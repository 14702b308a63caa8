//! `cargo xtask test`: the steps that a change has to pass, cheapest first.
//!
//! Everything is built in the release profile, so that wasmtime, which takes
//! minutes, is compiled once for the tests, the demo and the host itself.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, dependencies, instructions, languages, plugins, run, step, target_dir};

/// Runs every step; the first failure ends it.
pub(crate) fn run_all() -> Result<()> {
    let started = Instant::now();
    step("redis-server", redis)?;
    step("libfaketime", faketime)?;
    step("dependencies", dependencies::check)?;
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
    step("fuzzed code", || {
        let command = ["check", "--release", "--locked", "--lib", "--manifest-path", "fuzz/Cargo.toml"];
        run(cargo().args(command).arg("--target-dir").arg(target_dir()))
    })?;
    let has_browser = browser();
    step("tests", || {
        let mut command = cargo();
        if !has_browser {
            println!("without those that need a browser: there is no chromium, and it can't be installed");
            command.env("TICKHOUND_NO_BROWSER", "1");
        }
        run(command.args(["test", "--release", "--workspace", "--locked"]))
    })?;
    step("instructions", || instructions::run_all(&[]))?;
    step("languages", languages::run_all)?;
    println!("\nall checks passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// The tests start a redis-server of their own; installs it where apt and the rights for it are at hand.
fn redis() -> Result<()> {
    if starts("redis-server", &["--version"]) {
        return Ok(());
    }
    const HINT: &str =
        "install redis-server 6.2 or later (Debian, Ubuntu: `sudo apt-get install redis-server`) and run this again";
    apt_install("redis-server").with_context(|| format!("the tests need redis-server: {HINT}"))?;
    ensure!(starts("redis-server", &["--version"]), "redis-server was installed, but does not start: {HINT}");
    Ok(())
}

/// Some tests give a host another time than the machine's.
fn faketime() -> Result<()> {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    let library = std::env::var_os("TICKHOUND_TEST_FAKETIME").map_or_else(|| folder.into(), std::path::PathBuf::from);
    if !library.exists() {
        const HINT: &str = "install libfaketime (Debian, Ubuntu: `sudo apt-get install libfaketime`) and run this again; \
                            TICKHOUND_TEST_FAKETIME names libfaketime.so.1 if it is elsewhere";
        apt_install("libfaketime").with_context(|| format!("the tests need libfaketime: {HINT}"))?;
        ensure!(library.exists(), "libfaketime was installed, but there is no {}: {HINT}", library.display());
    }
    Ok(())
}

/// Whether there is one for the tests of pages; installs it where that can be done.
fn browser() -> bool {
    let is_there = || ["chromium", "chromium-browser", "google-chrome"].iter().any(|name| starts(name, &["--version"]));
    is_there() || (apt_install("chromium").is_ok() && is_there())
}

/// Installs a package where apt and the rights for it are at hand.
pub(crate) fn apt_install(package: &str) -> Result<()> {
    ensure!(starts("apt-get", &["--version"]), "there is no apt-get to install {package}");
    let as_root: &[&str] = if is_root() {
        &[]
    } else if starts("sudo", &["-n", "true"]) {
        &["sudo", "-n"]
    } else {
        bail!("only root may install {package}");
    };
    let apt = |args: &[&str]| {
        let words = [as_root, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat();
        run(Command::new(words[0]).args(&words[1..]))
    };
    apt(&["update", "-q"])?;
    apt(&["install", "-q", "-y", "--no-install-recommends", package])
}

/// Whether the program is there and ends well; what it prints is of no interest.
pub(crate) fn starts(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    crate::output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0")
}
