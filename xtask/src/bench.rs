//! `cargo xtask bench`: builds the host and what it is measured beside, then measures.
//!
//! What needs a build of its own (Extism brings another wasmtime, the old scanner a Python with its packages) is built
//! on a full run, or when a suite that needs it is asked for; `--quick` takes it if it is there already.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, checks::starts, root, run, target_dir};

/// `args`: `--quick`, `--only SUITE`, `--json`.
pub(crate) fn run_all(args: &[&str]) -> Result<()> {
    let (mut quick, mut only, mut passed) = (false, Vec::new(), Vec::new());
    let mut left = args.iter().copied();
    while let Some(arg) = left.next() {
        passed.push(arg.to_owned());
        match arg {
            "--quick" => quick = true,
            "--json" => {}
            "--only" => {
                let suite = left.next().context("--only needs the name of a suite")?;
                only.push(suite);
                passed.push(suite.to_owned());
            }
            _ => bail!("{arg}: expected --quick, --only SUITE or --json"),
        }
    }
    ensure!(
        starts("redis-server", &["--version"]),
        "redis-server is needed (Debian, Ubuntu: `sudo apt-get install redis-server`)"
    );
    let mut build = cargo();
    // For a copy that has other profiles, as where several builds share a machine.
    build.args(env::var_os("TICKHOUND_BENCH_CONFIG").iter().flat_map(|file| [Path::new("--config"), Path::new(file)]));
    build.args(["build", "--release", "--locked", "--workspace", "--bins"]);
    run(&mut build)?;
    let release = target_dir().join("release");
    let mut measure = Command::new(release.join("tickhound-bench"));
    measure.arg("run").arg("--host").arg(release.join("tickhound")).args(&passed);
    let needs = |suite: &str| only.is_empty() || only.contains(&suite);
    if needs("guest") {
        with(&mut measure, "--peers", peers, target_dir().join("peers/release/tickhound-peers"), quick)?;
    }
    if needs("latency") {
        measure.arg("--probe").arg(probe()?);
    }
    if needs("bars") {
        measure.arg("--light").arg(light()?);
    }
    if needs("scanner") {
        with(&mut measure, "--python", python, target_dir().join("scanner/bin/python"), quick)?;
    }
    run(&mut measure)
}

/// Adds what is to be built, unless it is to be quick and isn't there.
fn with(measure: &mut Command, option: &str, build: fn() -> Result<()>, built: PathBuf, quick: bool) -> Result<()> {
    if !quick {
        build()?;
    }
    if built.exists() {
        measure.arg(option).arg(built);
    } else {
        println!("without {option}: it is not built yet; a run without --quick builds it");
    }
    Ok(())
}

/// A detector that alerts on every tick it is given: the tests' own.
fn probe() -> Result<PathBuf> {
    let target = target_dir().join("fixtures");
    run(wasm("tests/fixtures/misbehaving/Cargo.toml", &target).arg("--release"))?;
    Ok(target.join("wasm32-unknown-unknown/release/misbehaving.wasm"))
}

/// A detector of bars that does next to nothing: the tests' own.
fn light() -> Result<PathBuf> {
    let target = target_dir().join("fixtures");
    run(wasm("tests/fixtures/probe/Cargo.toml", &target).args(["--release", "--example", "probe_bars"]))?;
    Ok(target.join("wasm32-unknown-unknown/release/examples/probe_bars.wasm"))
}

/// The same detector behind Extism, its host and its guest.
fn peers() -> Result<()> {
    let (manifest, target) = ("benches/peers/Cargo.toml", target_dir().join("peers"));
    run(wasm(manifest, &target).args(["--profile", "guest", "-p", "tickhound-peers-guest"]))?;
    let mut host = cargo();
    host.args(["build", "--quiet", "--locked", "--release", "-p", "tickhound-peers", "--manifest-path", manifest]);
    run(host.arg("--target-dir").arg(target))
}

/// A Python with the packages of the old scanner.
fn python() -> Result<()> {
    let folder = target_dir().join("scanner");
    if !folder.join("bin/python").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let requirements = root().join("benches/scanner/requirements.txt");
    run(Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements))
}

fn wasm(manifest: &str, target: &Path) -> Command {
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--target", "wasm32-unknown-unknown", "--manifest-path", manifest]);
    command.arg("--target-dir").arg(target);
    command
}
