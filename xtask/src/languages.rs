//! A detector in each language, as an author begins one: from an empty folder, by the commands that the tool tells.
//!
//! What holds for each: its cases hold, whatever the batches and restarts; and on the same ticks it raises the alerts
//! that the one in Rust raises, byte for byte. Rust and C have to work. JavaScript and Python are left out where their
//! tools can't be installed, and that is said.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cargo,
    checks::{apt_install, starts},
    run, target_dir,
};

const LANGUAGES: [&str; 4] = ["rust", "c", "js", "python"];

/// What the templates are called, and so every detector here: else alerts would differ by their detector.
const NAME: &str = "jump";

pub(crate) fn run_all() -> Result<()> {
    run(cargo().args(["build", "--release", "--locked"]))?;
    let dir = target_dir().join("languages");
    let mut ran = Vec::new();
    let mut left_out = Vec::new();
    let mut expected: Option<Vec<u8>> = None;
    for language in LANGUAGES {
        let dir = dir.join(language);
        // What is there is of an older version.
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        println!("\n{language}");
        run(tickhound(&dir).args(["new", NAME, "--lang", language]))?;
        if !install_tools(&dir.join(NAME))? {
            left_out.push(language);
            continue;
        }
        if language == "rust" {
            run(cargo().args(["test", "--quiet"]).current_dir(dir.join(NAME)).env("CARGO_TARGET_DIR", examples()))?;
        }
        let alerts = alerts(&dir).with_context(|| format!("the detector in {language}"))?;
        match &expected {
            None => expected = Some(alerts),
            Some(expected) => ensure!(alerts == *expected, "{language} raises other alerts than rust"),
        }
        ran.push(language);
    }
    let count = expected.iter().flatten().filter(|byte| **byte == b'\n').count();
    ensure!(count > 0, "the detectors find nothing, which compares well");
    println!("\nsame cases, same {count} alerts: {}", ran.join(", "));
    if !left_out.is_empty() {
        println!("left out, their tools can't be installed here: {}", left_out.join(", "));
    }
    Ok(())
}

/// Goes the author's way up to the plugins folder; what the plugin there raises on a simulated market.
fn alerts(dir: &Path) -> Result<Vec<u8>> {
    run(tickhound(dir).args(["test", NAME]))?;
    run(tickhound(dir).args(["build", NAME, "--into", "plugins"]))?;
    run(tickhound(dir).args(["bench", "plugins/jump.wasm", "--ticks", "20000", "--symbols", "50"]))?;
    let market = ["--simulate", "--symbols", "50", "--count", "100000"];
    let detector = ["--detector", "plugins/jump.wasm", "--params", "move_pct=0.1", "--min-confidence", "0"];
    run(tickhound(dir).arg("replay").args(market).args(detector).args(["--out", "alerts.jsonl"]))?;
    Ok(fs::read(dir.join("alerts.jsonl"))?)
}

/// Whether they are there now. A project that names none needs none.
fn install_tools(project: &Path) -> Result<bool> {
    let Ok(recipe) = fs::read_to_string(project.join("detector.toml")) else { return Ok(true) };
    let command = recipe.lines().find_map(|line| line.strip_prefix("tools = \"")?.strip_suffix('"'));
    let command = command.with_context(|| format!("{} names no tools", project.display()))?;
    if command.starts_with("python3 -m venv") && !starts("python3", &["-c", "import ensurepip, venv"]) {
        // Debian has it in a package of its own.
        if let Err(error) = apt_install("python3-venv") {
            println!("{error:#}");
            return Ok(false);
        }
    }
    println!("$ {command}");
    Ok(Command::new("sh").args(["-c", command]).current_dir(project).status()?.success())
}

fn tickhound(dir: &Path) -> Command {
    let mut command = Command::new(target_dir().join(format!("release/tickhound{}", env::consts::EXE_SUFFIX)));
    command.current_dir(dir).env("CARGO_TARGET_DIR", examples());
    command
}

/// Detectors' own settings differ from the workspace's: they have a target folder of their own.
fn examples() -> PathBuf {
    target_dir().join("examples")
}
