//! From the start of a process to its first read, and from a new file to the first batch that it works.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tickhound_core::simulate::Layout;

use crate::{
    Bench,
    host::{Host, Project, wait_for},
    market::Market,
    measure::pause,
    report::{Row, Target},
    server::{Group, Server},
};

const PLUGINS: usize = 20;

pub(crate) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let runs = bench.sized(3, 11);
    let server = Server::start()?;
    let (project, config) = with_plugins(bench, &server)?;
    Market::new(10, 1.5, Layout::Json).publish_many(&mut server.wire()?, &[], 1)?;
    let (mut cached, mut uncached) = (Vec::new(), Vec::new());
    // The first run is none: what it reads is not in memory yet.
    for run in 0..=runs {
        bench.tell(&format!("start: {run} of {runs}"));
        fs::remove_dir_all(project.path("caches")).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let first = to_first_read(&server, &project)?;
        let again = to_first_read(&server, &project)?;
        if run > 0 {
            uncached.push(first);
            cached.push(again);
        }
    }
    let (new, known) = reloads(bench, &server, &project, &config, runs)?;
    Ok(vec![
        Row::alone(format!("{PLUGINS} plugins, cached: process to first read"), "ms", &cached)
            .target(Target::AtMost(150.0)),
        Row::alone(format!("{PLUGINS} plugins, not cached: process to first read"), "ms", &uncached),
        Row::alone("a plugin never seen: new file to in force", "ms", &new),
        Row::alone("a plugin in the cache: new file to in force", "ms", &known),
    ])
}

/// Those that ship, again and again under other names; no two files are the same.
fn with_plugins(bench: &Bench, server: &Server) -> Result<(Project, String)> {
    let project = Project::new(bench, Some(server), "")?;
    let mut shipped: Vec<_> =
        fs::read_dir(project.path("plugins"))?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    shipped.sort();
    let mut config = fs::read_to_string(project.path("config/config.toml"))?;
    for (number, file) in shipped.iter().cycle().take(PLUGINS).enumerate() {
        let name = format!("plugin-{number}");
        fs::write(project.path(format!("plugins/{name}.wasm")), release(&fs::read(file)?, &name)?)?;
        config += &format!("[detectors.{name}]\nplugin = \"{name}\"\n");
    }
    fs::write(project.path("config/config.toml"), &config)?;
    Ok((project, config))
}

/// The same plugin under another hash: with a custom section at the end, which says `tag`.
fn release(plugin: &[u8], tag: &str) -> Result<Vec<u8>> {
    let name = b"release";
    let length = 1 + name.len() + tag.len();
    ensure!(length < 128, "one byte of LEB128");
    Ok([plugin, &[0, length as u8, name.len() as u8], name, tag.as_bytes()].concat())
}

/// ms.
fn to_first_read(server: &Server, project: &Project) -> Result<f64> {
    server.fresh_group()?;
    let mut connection = server.connect()?;
    let started = Instant::now();
    let host = project.start(&["run"])?;
    wait_for("the first read", || Ok((Group::read(&mut connection)?.delivered != "0-0").then_some(())))?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    host.stop()?;
    Ok(ms)
}

/// Times of files that were never seen, and of those that are in the cache, ms; ticks flow meanwhile.
fn reloads(
    bench: &Bench,
    server: &Server,
    project: &Project,
    config: &str,
    runs: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    server.fresh_group()?;
    ensure!(config.contains("[detectors.plugin-0]"), "there is a plugin to exchange");
    let host = project.start(&["run"])?;
    host.wait_for_log("event=\"lease_acquired\"")?;
    let file = project.path("plugins/plugin-0.wasm");
    let before = fs::read(&file)?;
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for run in 0..runs {
        bench.tell(&format!("reload: {} of {runs}", run + 1));
        let fresh = release(&before, &format!("run {run}"))?;
        new.push(in_force(project, &host, &fresh, 2 * run + 2)?);
        known.push(in_force(project, &host, &before, 2 * run + 3)?);
    }
    host.stop()?;
    Ok((new, known))
}

fn in_force(project: &Project, host: &Host, bytes: &[u8], generation: usize) -> Result<f64> {
    // Two changes in a row would be taken up as one.
    pause(Duration::from_millis(500));
    let (ready, file) = (project.path("plugins/new"), project.path("plugins/plugin-0.wasm"));
    fs::write(&ready, bytes)?;
    let started = Instant::now();
    fs::rename(ready, file)?;
    host.wait_for_log(&format!(" generation={generation} pause_us=")).context("the new file is in force")?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}
