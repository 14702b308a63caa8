//! A detector in each language, as an author begins one: from an empty folder, by the commands that the tool tells.
//!
//! What holds for each: its cases hold, whatever the batches and restarts; on the same ticks it raises the alerts that the one
//! in Rust raises, byte for byte; a failure is reported with its text, file and line; and live, with a restart in the middle,
//! the alerts are those of a replay. Rust and C have to work. JavaScript and Python are left out where their tools can't be
//! installed, and that is said.

mod live;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cargo,
    checks::{apt_install, starts},
    run, target_dir,
};

/// The languages, each with the file of the detector's code.
const LANGUAGES: [(&str, &str); 4] =
    [("rust", "src/lib.rs"), ("c", "plugin.c"), ("js", "plugin.js"), ("python", "app.py")];

/// What the templates are called, and so every detector here: else alerts would differ by their detector.
const NAME: &str = "jump";

/// The detector in `tests/fixtures/languages` that sees a symbol, uses all of the contract for these, and fails.
const WATCH: &str = "watch";

/// The detector in `tests/fixtures/languages` that sees a group, in ticks and bars.
const GROUP: &str = "group";

/// What the detectors of all languages have to agree in.
#[derive(PartialEq)]
struct Results {
    /// The alerts of the template.
    jump: Vec<u8>,
    /// The alerts of the other detector.
    watch: Vec<u8>,
    /// Its alerts when it fails on some ticks.
    failing: Vec<u8>,
    /// The number of those ticks.
    faults: u64,
    /// The alerts of the detector of groups.
    group: Vec<u8>,
}

pub(crate) fn run_all() -> Result<()> {
    run(cargo().args(["build", "--release", "--locked"]))?;
    let dir = target_dir().join("languages");
    let (mut ran, mut left_out) = (Vec::new(), Vec::new());
    let mut expected: Option<Results> = None;
    for (language, source) in LANGUAGES {
        let dir = dir.join(language);
        // What is there is of an older version.
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("config"))?;
        // The ticks on which a detector fails are counted, however many there are.
        fs::write(dir.join("config/config.toml"), "[plugins]\nfaults = 100000\n")?;
        println!("\n{language}");
        run(tickhound(&dir).args(["new", NAME, "--lang", language]))?;
        if !install_tools(&dir.join(NAME))? {
            left_out.push(language);
            continue;
        }
        test_natively(&dir, language)?;
        let results = results(&dir, language, source, expected.as_ref());
        let results = results.with_context(|| format!("the detector in {language}"))?;
        match &expected {
            None => expected = Some(results),
            Some(expected) => ensure!(results == *expected, "{language} raises other alerts than rust"),
        }
        ran.push(language);
    }
    let expected = expected.context("no language was run")?;
    let results = [&expected.jump, &expected.watch, &expected.failing, &expected.group];
    let counts = results.map(|alerts| lines(alerts).count());
    ensure!(counts.iter().all(|count| *count > 0), "the detectors find nothing, which compares well");
    println!("\nlive, with a restart");
    live::compare(&dir, &ran)?;
    println!("\nsame cases, same {} alerts: {}", counts.iter().sum::<usize>(), ran.join(", "));
    if !left_out.is_empty() {
        println!("left out, their tools can't be installed here: {}", left_out.join(", "));
    }
    Ok(())
}

/// Runs the tests that need no host: of the template in Rust, and of the SDKs of the others.
fn test_natively(dir: &Path, language: &str) -> Result<()> {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../detectors-sdk");
    match language {
        "rust" => {
            run(cargo().args(["test", "--quiet"]).current_dir(dir.join(NAME)).env("CARGO_TARGET_DIR", examples()))
        }
        "js" => run(Command::new("node").args(["--test", "tests/"]).current_dir(sdk.join("js"))),
        "python" => {
            let sdk = sdk.join("python");
            run(Command::new("python3").args(["-B", "tests/test_sdk.py"]).env("PYTHONPATH", ".").current_dir(sdk))
        }
        _ => Ok(()),
    }
}

/// Goes the author's way up to the plugins folder, and runs what is there on a simulated market.
fn results(dir: &Path, language: &str, source: &str, expected: Option<&Results>) -> Result<Results> {
    run(tickhound(dir).args(["test", NAME]))?;
    run(tickhound(dir).args(["build", NAME, "--into", "plugins"]))?;
    run(tickhound(dir).args(["bench", "plugins/jump.wasm", "--ticks", "20000", "--symbols", "50"]))?;
    let (jump, _) = replay(dir, NAME, "100000", "move_pct=0.1")?;
    make_from_fixture(dir, WATCH, language, source)?;
    let (watch, _) = replay(dir, WATCH, "50000", "move_pct=0.05")?;
    // A price that occurs, the same in all languages.
    let first = expected.map_or(watch.as_slice(), |expected| expected.watch.as_slice());
    let price = lines(first).nth(20).and_then(|line| serde_json::from_str::<Value>(line).ok()?["price"].as_f64());
    let price = price.context("there are no twenty alerts with prices")?;
    let (failing, summary) = replay(dir, WATCH, "20000", &format!("fail_price={price}"))?;
    let detector = &summary["detectors"][WATCH];
    let (faults, last) =
        (detector["faults"].as_u64().unwrap_or(0), detector["last_fault"].as_str().unwrap_or_default());
    println!("failed on {faults} ticks, the last time with: {last}");
    ensure!(faults > 0, "it did not fail at the price {price}");
    ensure!(last.contains(&format!("{source}:")) && last.contains("too much"), "the fault does not say what and where");
    make_from_fixture(dir, GROUP, language, source)?;
    let (group, _) = replay(dir, GROUP, "50000", "move_pct=0.05")?;
    test_shapes(dir, language)?;
    Ok(Results { jump, watch, failing, faults, group })
}

/// Replays a simulated market; returns the alerts and the summary.
fn replay(dir: &Path, name: &str, count: &str, params: &str) -> Result<(Vec<u8>, Value)> {
    let mut command = tickhound(dir);
    command.args(["replay", "--simulate", "--symbols", "50", "--count", count, "--min-confidence", "0", "--json"]);
    command.args(["--detector", &format!("plugins/{name}.wasm"), "--params", params, "--out", "alerts.jsonl"]);
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok((fs::read(dir.join("alerts.jsonl"))?, serde_json::from_slice(&output.stdout)?))
}

/// Makes a project with the code and the cases in `tests/fixtures/languages`, tests it, and builds it into the plugins folder.
fn make_from_fixture(dir: &Path, name: &str, language: &str, source: &str) -> Result<()> {
    run(tickhound(dir).args(["new", name, "--lang", language]))?;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/languages");
    let ending = Path::new(source).extension().context("the code has an ending")?;
    let project = dir.join(name);
    fs::copy(fixtures.join(name).with_extension(ending), project.join(source))?;
    fs::remove_dir_all(project.join("cases"))?;
    fs::create_dir(project.join("cases"))?;
    fs::copy(fixtures.join(format!("cases/{name}.toml")), project.join(format!("cases/{name}.toml")))?;
    run(tickhound(dir).args(["test", name]))?;
    run(tickhound(dir).args(["build", name, "--into", "plugins"]))
}

/// Tests the templates of other scopes and feeds.
fn test_shapes(dir: &Path, language: &str) -> Result<()> {
    for (scope, feed) in [("group", "ticks"), ("market", "bars:60"), ("symbol", "snapshots:5")] {
        let name = format!("{scope}-jump");
        run(tickhound(dir).args(["new", &name, "--lang", language, "--scope", scope, "--feed", feed]))?;
        run(tickhound(dir).args(["test", &name]))?;
    }
    Ok(())
}

fn lines(alerts: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(alerts).unwrap_or_default().lines()
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
