//! The detectors of all languages in one host, on a real stream: their alerts live are those of a replay, before and after a
//! restart.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{WATCH, tickhound};
use crate::{run, running};

/// What is the same in an alert of each language, live and replayed.
const SAME: [&str; 8] = ["plugin", "version", "symbol", "time", "price", "confidence", "direction", "evidence"];

/// Runs the detectors, which were built in the folders of `languages`, live and as a replay.
pub(super) fn compare(all: &Path, languages: &[&str]) -> Result<()> {
    let dir = all.join("live");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(dir.join("plugins"))?;
    fs::create_dir_all(dir.join("config"))?;
    let (_redis, socket) = running::redis(&dir)?;
    let url = format!("redis+unix://{}", socket.display());
    let mut config = format!("[stream]\nurl = \"{url}\"\n[alerts]\njsonl = \"live.jsonl\"\n[engine]\nworkers = 2\n");
    for language in languages {
        fs::copy(all.join(language).join("plugins/watch.wasm"), dir.join(format!("plugins/{language}.wasm")))?;
        config += &format!(
            "[detectors.{language}]\nplugin = \"{language}\"\nmin_confidence = 0\nparams = {{ move_pct = 0.05 }}\n"
        );
    }
    fs::write(dir.join("config/config.toml"), config)?;
    for _ in 0..2 {
        run(tickhound(&dir).args(["feed", "--simulate", "--symbols", "10", "--count", "3000"]))?;
        run(tickhound(&dir).args(["run", "--drain"]).stdout(Stdio::null()))?;
    }
    run(tickhound(&dir).args(["replay", "--stream", "--out", "replayed.jsonl"]))?;

    let (live, replayed) = (read(&dir.join("live.jsonl"))?, read(&dir.join("replayed.jsonl"))?);
    let first = live.get(languages[0]).context("there are no alerts live")?;
    for language in languages {
        ensure!(live.get(*language) == Some(first), "{language} raises other alerts live than {}", languages[0]);
        ensure!(replayed.get(*language) == Some(first), "{language} raises other alerts in a replay than live");
    }
    println!("{} alerts of each, the same in a replay", first.len());
    Ok(())
}

/// The alerts in a file, by detector: what has to be the same.
fn read(file: &Path) -> Result<BTreeMap<String, Vec<Vec<Value>>>> {
    let mut alerts = BTreeMap::<_, Vec<_>>::new();
    for line in fs::read_to_string(file)?.lines() {
        let alert: Value = serde_json::from_str(line)?;
        let detector = alert["detector"].as_str().context("an alert names its detector")?.to_owned();
        ensure!(alert["plugin"] == WATCH, "an alert of another plugin: {line}");
        alerts.entry(detector).or_default().push(SAME.map(|key| alert[key].clone()).to_vec());
    }
    Ok(alerts)
}
