//! What may hurt in market hours, each finding with its cure: the looking around behind `tickhound doctor`.
//!
//! `check` asks whether this host is fit to run; here the whole of it is looked at: the server, what it keeps and
//! for how long, the feed, the group, the host, this machine, the plugins. Looking is apart from judging: what was
//! seen is plain data, and the judgements are functions of it.
//!
//! What holds: looking changes nothing but the plugins' cache. Mending does what is harmless or can be undone, and
//! never acknowledges, claims, trims or overwrites anything. What can't be looked at is a note that says so, and
//! all the rest is looked at nevertheless.

mod fix;
mod group;
mod host;
mod machine;
mod memory;
mod plugins;
mod server;
mod stream;

use std::time::Duration;

use serde::Serialize;

use self::{fix::Remedy, plugins::Known, stream::Flow};
use crate::observe::health::Report;
use tickhound_core::{config::LoadedConfig, decode::Decoder};
use tickhound_redis::look::{self, Look};

/// Longest time for all questions to the server together: one that hangs must not hang us.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// To be known.
    Note,
    /// It may hurt on a bad day.
    Warning,
    /// It hurts, or will.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// Which, e.g. `memory.policy`; stays the same over releases.
    pub(crate) id: String,
    /// The part before the dot.
    pub(crate) area: String,
    pub(crate) level: Level,
    /// What was found, in a sentence.
    pub(crate) found: String,
    /// What to do, and what it costs.
    pub(crate) cure: Option<String>,
    /// What was done.
    pub(crate) fixed: Option<String>,
    /// What can be done without asking.
    #[serde(skip)]
    pub(crate) remedy: Option<Remedy>,
}

impl Finding {
    fn new(level: Level, id: impl Into<String>, found: impl Into<String>) -> Self {
        let id = id.into();
        let area = id.split('.').next().unwrap_or_default().to_owned();
        Self { id, area, level, found: found.into(), cure: None, fixed: None, remedy: None }
    }

    fn ok(id: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, id, found)
    }

    fn note(id: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Note, id, found)
    }

    fn warning(id: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Warning, id, found)
    }

    fn problem(id: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Level::Problem, id, found)
    }

    fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }
}

/// Looks at everything; with `mend`, does what is safe.
pub(crate) async fn examine(loaded: anyhow::Result<LoadedConfig>, mend: bool) -> Vec<Finding> {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let found = format!("{error:#}");
            return vec![
                Finding::problem("config.file", found)
                    .cure("mend that, then look again: nothing else can be looked at without it"),
            ];
        }
    };
    let config = &loaded.config;
    let mut findings = vec![Finding::ok("config.file", loaded.source.file().display().to_string())];
    let decoder = Decoder::new(&config.input, &loaded.root);
    if let Err(error) = &decoder {
        findings.push(Finding::problem("config.input", format!("{error:#}")).cure("a host does not start with it"));
    }
    let mut decoder = decoder.ok();
    let mut sample = None;
    let (mut receipt, mut rate) = (None, 0.0);
    let ask = async {
        let look = look::look(&config.stream, &config.alerts).await?;
        anyhow::Ok((look, Report::ask(config).await))
    };
    match tokio::time::timeout(SERVER_TIMEOUT, ask).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))) {
        Err(error) => findings.push(
            Finding::problem("server.reach", format!("redis at {}: {error:#}", config.stream.address())).cure(
                "nothing runs without it; stream.url, or TICKHOUND_STREAM__URL, says where it is. What follows is what can be seen from here",
            ),
        ),
        Ok((Look { server, partition }, report)) => {
            findings.extend(server::judge(&server, &config.stream));
            findings.extend(server::judge_clock(&server.ahead_ms, config.alerts.stale_after_ms));
            findings.extend(memory::judge(&server, &partition, &config.stream.key));
            findings.extend(stream::judge(&partition, &loaded));
            if let (Some(decoder), Some(seen)) = (&mut decoder, &partition.stream) {
                let decoded = stream::decode(decoder, &seen.sample);
                findings.extend(stream::judge_sample(&decoded, config));
                rate = decoded.ticks_per_entry() * Flow::of(seen).rate_now;
                sample = Some(decoded);
            }
            findings.extend(group::judge(&partition, config));
            findings.extend(host::judge(&partition, &report));
            findings.extend(machine::judge_redis_here(&server));
            receipt = report.survey.filter(|survey| survey.owner.is_some()).and_then(|survey| survey.receipt);
        }
    }
    findings.extend(machine::judge(&machine::look(&loaded), config));
    let known =
        Known { decoder: decoder.as_ref(), receipt: receipt.as_ref(), sample: sample.as_ref(), ticks_per_second: rate };
    findings.extend(plugins::judge(&loaded, known));
    finish(findings, &loaded, mend).await
}

/// Does what can be done, or says that it could be.
async fn finish(mut findings: Vec<Finding>, loaded: &LoadedConfig, mend: bool) -> Vec<Finding> {
    for finding in &mut findings {
        let Some(remedy) = finding.remedy.take() else { continue };
        if !mend {
            let cure = finding.cure.take().map_or_else(String::new, |cure| format!("{cure}; "));
            finding.cure = Some(format!("{cure}`tickhound doctor --fix` {}", remedy.says()));
            continue;
        }
        match remedy.apply(loaded).await {
            Ok(done) => {
                finding.fixed = Some(done);
                finding.level = Level::Note;
            }
            Err(error) => finding.found = format!("{}; could not be mended: {error:#}", finding.found),
        }
    }
    findings
}

/// A time in the largest unit that tells enough.
fn lasting(ms: u64) -> String {
    let s = ms as f64 / 1e3;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{s:.1} s"),
        10_000..600_000 => format!("{s:.0} s"),
        600_000..7_200_000 => format!("{:.0} min", s / 60.0),
        7_200_000..172_800_000 => format!("{:.1} h", s / 3600.0),
        _ => format!("{:.0} days", s / 86_400.0),
    }
}

/// A size in the largest unit that tells enough.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
