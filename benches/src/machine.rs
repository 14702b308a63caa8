//! What the figures were taken on. No names, no folders.

use std::{fs, process::Command};

use anyhow::Result;

use crate::{Bench, server::Server};

/// Facts, as a list in Markdown.
pub(crate) fn facts(bench: &Bench) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let gib = kib.unwrap_or("0").trim().parse::<f64>()? / f64::from(1 << 20);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut lines = vec![
        format!(
            "{cores} cores of {model}, {gib:.0} GiB, Linux {}",
            kernel.trim().split('-').next().unwrap_or_default()
        ),
        format!("Redis {} on loopback TCP, nothing written to disk", Server::start()?.version()?),
        first_line("rustc", &["--version"]),
    ];
    if let Some(python) = &bench.python {
        let packages = "import sys, redis, hiredis; \
                        print('Python', sys.version.split()[0], 'redis-py', redis.__version__, 'hiredis', hiredis.__version__)";
        lines.push(first_line(&python.to_string_lossy(), &["-c", packages]));
    }
    if let Some(peers) = &bench.peers {
        lines.push(first_line(&peers.to_string_lossy(), &["version"]));
    }
    Ok(lines.iter().map(|line| format!("- {line}\n")).collect())
}

fn first_line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
