//! `tickhound doctor`: what may cause harm in market hours, each finding with its cure.
//!
//! `tickhound check` says whether this host can run. The doctor examines everything around it: the server, how long
//! it keeps entries, the feed, the group, the running host, this machine, and the plugins. Inspection and judgement
//! are separate: an inspection returns plain data, and each judgement is a function of that data.
//!
//! What holds: inspection changes nothing but the cache of compiled plugins. `--fix` does only what is harmless or
//! can be undone, and never acknowledges, claims, trims or overwrites anything. What can't be inspected becomes a
//! note that says so, and everything else is inspected nevertheless.

mod finding;
mod fix;
mod group;
mod host;
mod machine;
mod market;
mod memory;
mod plugins;
mod record;
mod server;
mod stream;
mod text;

use std::time::Duration;

pub(crate) use self::finding::{Finding, Level};
use self::{plugins::PartitionFacts, stream::Flow};
use crate::observe::health::HealthReport;
use tickhound_core::{
    config::{Config, LoadedConfig},
    decode::Decoder,
    wall::now_ms,
};
use tickhound_recorded::read_reference;
use tickhound_redis::inspect::{self, Inspection};

/// The longest time that all requests to the server may take together: a server that hangs must not block the doctor.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Examines everything; with `fix`, applies the remedies that are safe.
pub(crate) async fn examine(loaded: anyhow::Result<LoadedConfig>, fix: bool) -> Vec<Finding> {
    let mut loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let finding = Finding::problem("config.file", format!("{error:#}"));
            return vec![finding.cure("fix the configuration and run the doctor again; every other check needs it")];
        }
    };
    let market = loaded.load_market(read_reference, None);
    let config = &loaded.config;
    let file = loaded.source.file().display();
    let mut findings = vec![Finding::ok("config.file", format!("the configuration {file} is valid"))];
    let mut decoder = match Decoder::new(&config.input, &loaded.root) {
        Ok(decoder) => Some(decoder),
        Err(error) => {
            let finding = Finding::problem("config.input", format!("{error:#}"));
            findings.push(finding.cure("fix [input]; a host does not start with this configuration"));
            None
        }
    };
    let mut facts = PartitionFacts::default();
    let mut stream = None;
    match inspect_server(config).await {
        Ok((inspection, report)) => {
            let judged = judge_server(&inspection, &report, decoder.as_mut(), &loaded);
            findings.extend(judged.0);
            facts = judged.1;
            stream = inspection.partition.stream;
        }
        Err(error) => findings.push(
            Finding::problem("server.reach", format!("redis at {}: {error:#}", config.stream.address()))
                .cure("set stream.url, or TICKHOUND_STREAM__URL, to the address of a running server; checks that need the server were left out"),
        ),
    }
    if let Some(recorder) = record::inspect(&loaded) {
        findings.extend(record::judge(&recorder, config, stream.as_ref()));
    }
    findings.extend(judge_secrets(&loaded));
    findings.extend(judge_calendars(config));
    findings.extend(machine::judge(&machine::inspect(&loaded), config));
    findings.extend(market::judge(market, &loaded.market, &facts.symbols));
    findings.extend(plugins::judge(&loaded, decoder.as_ref(), &facts));
    apply_remedies(findings, &loaded, fix).await
}

/// Judges who may read the secrets of the configuration.
fn judge_secrets(loaded: &LoadedConfig) -> Vec<Finding> {
    let exposed = loaded.exposed_secrets().into_iter();
    exposed.map(|exposed| Finding::warning("config.secrets", exposed.describe()).cure(exposed.cure())).collect()
}

/// Judges whether the calendars know the next weeks.
fn judge_calendars(config: &Config) -> Vec<Finding> {
    let warnings = config.session.sessions.warnings(now_ms() * 1_000_000);
    warnings.into_iter().map(|warning| Finding::warning("config.calendar", warning)).collect()
}

async fn inspect_server(config: &Config) -> anyhow::Result<(Inspection, HealthReport)> {
    let inspection = async {
        let inspection = inspect::inspect(&config.stream, &config.alerts).await?;
        anyhow::Ok((inspection, HealthReport::observe(config).await))
    };
    let timed = tokio::time::timeout(SERVER_TIMEOUT, inspection).await;
    timed.unwrap_or_else(|_| Err(anyhow::anyhow!("the server did not answer within {} s", SERVER_TIMEOUT.as_secs())))
}

/// Judges the server and the partition, and returns what the checks of the plugins need to know of them.
fn judge_server(
    inspection: &Inspection,
    report: &HealthReport,
    decoder: Option<&mut Decoder>,
    loaded: &LoadedConfig,
) -> (Vec<Finding>, PartitionFacts) {
    let Inspection { server, partition } = inspection;
    let config = &loaded.config;
    let survey = report.survey.as_ref().filter(|survey| survey.owner.is_some());
    let receipt = survey.and_then(|survey| survey.receipt.clone());
    let mut facts = PartitionFacts { receipt, ..PartitionFacts::default() };
    let mut findings = server::judge(server, &config.stream);
    findings.extend(server::judge_clock(&server.ahead_ms, config.alerts.stale_after_ms));
    findings.extend(memory::judge(server, partition, &config.stream.key));
    findings.extend(stream::judge(partition, loaded));
    if let (Some(decoder), Some(stream)) = (decoder, &partition.stream) {
        let sample = stream::decode(decoder, &stream.sample);
        findings.extend(stream::judge_sample(&sample, config));
        facts.ticks_per_second = sample.ticks_per_entry() * Flow::of(stream).rate_now;
        facts.symbols = sample.symbols;
    }
    findings.extend(group::judge(partition, config));
    findings.extend(host::judge(partition, report));
    findings.extend(machine::judge_kernel_for_redis(server));
    (findings, facts)
}

/// Applies each remedy, or without `fix` says in the cure what it would do.
async fn apply_remedies(mut findings: Vec<Finding>, loaded: &LoadedConfig, fix: bool) -> Vec<Finding> {
    for finding in &mut findings {
        let Some(remedy) = finding.remedy.take() else { continue };
        if !fix {
            let cure = finding.cure.take().map_or_else(String::new, |cure| format!("{cure}; "));
            finding.cure = Some(format!("{cure}`tickhound doctor --fix` {}", remedy.description()));
            continue;
        }
        match remedy.apply(loaded).await {
            Ok(done) => {
                finding.fixed = Some(done);
                finding.level = Level::Note;
            }
            Err(error) => finding.found = format!("{}; the fix failed: {error:#}", finding.found),
        }
    }
    findings
}
