//! `tickhound notify`: who has been told what, and does a message arrive?

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{notify, observe::health::seconds};
use tickhound_core::{
    config::{LoadedConfig, nearest},
    wall::now_ms,
};
use tickhound_redis::notified::{Owed, State, Totals};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound notify\n  tickhound notify test desk\n\n\
                  Exit codes: 0 all is well, 1 a sink fails or a message did not arrive, 2 wrong usage.")]
pub(super) struct NotifyArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Print everything as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// How each [[notify]] sink stands: how far it was told, what failed last.
    Status,
    /// Send one message that is clearly a test.
    Test {
        /// Name of a [[notify]] table.
        name: String,
    },
}

pub(super) fn run(args: &NotifyArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    match &args.what {
        None | Some(What::Status) => status(args.json, loaded),
        Some(What::Test { name }) => test(name, args.json, loaded),
    }
}

fn test(name: &str, as_json: bool, loaded: &LoadedConfig) -> Result<ExitCode> {
    let sinks = &loaded.config.notify;
    let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
    let Some(sink) = sinks.iter().find(|sink| sink.name == name) else {
        let near = nearest(name, names.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        ensure!(!names.is_empty(), "there is no [[notify]] in {}", loaded.source.at(&[]));
        let near = near.unwrap_or_default();
        anyhow::bail!("there is no [[notify]] with the name `{name}`, only {}{near}", names.join(", "));
    };
    let sent = notify::send_test(loaded, sink);
    if as_json {
        let error = sent.as_ref().err().map(|error| format!("{error:#}"));
        println!("{}", json!({ "sink": name, "ok": error.is_none(), "error": error }));
        return Ok(if error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    println!("{name}: a test has arrived at {}", sent?);
    Ok(ExitCode::SUCCESS)
}

fn status(as_json: bool, loaded: &LoadedConfig) -> Result<ExitCode> {
    let mut states: BTreeMap<String, (State, u64)> =
        notify::states(loaded)?.into_iter().map(|(name, state, behind)| (name, (state, behind))).collect();
    let mut failing = false;
    let mut report = Vec::new();
    for sink in &loaded.config.notify {
        let state = states.remove(&sink.name);
        let fails = sink.enabled && state.as_ref().is_some_and(|(state, _)| state.is_failing());
        failing |= fails;
        if as_json {
            let behind = state.as_ref().map(|(_, behind)| behind);
            let state = state.as_ref().map(|(state, _)| state);
            report.push(json!({
                "name": sink.name, "enabled": sink.enabled, "failing": fails, "behind": behind, "state": state,
            }));
        } else {
            print(&sink.name, sink.enabled, fails, state.as_ref());
        }
    }
    if as_json {
        println!("{}", json!({ "ok": !failing, "sinks": report }));
    } else if loaded.config.notify.is_empty() {
        println!("there is no [[notify]] in {}", loaded.source.at(&[]));
    }
    Ok(if failing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(name: &str, enabled: bool, fails: bool, state: Option<&(State, u64)>) {
    let Some((state, behind)) = state else {
        return println!(
            "{name}: no host has had it yet; it begins with the first alert after `tickhound run` has started"
        );
    };
    let mark = match (enabled, fails) {
        (false, _) => "off",
        (_, true) => "❌ failing",
        (_, false) => "✅",
    };
    let now_ms = now_ms();
    let ago = |at_ms: u64| format!("{} ago", seconds(now_ms.saturating_sub(at_ms)));
    let ok = state.last_ok_ms.map_or_else(|| "no message yet".to_owned(), |at| format!("last message {}", ago(at)));
    println!("{name}: {mark} {ok}; told up to {} of {}, {behind} alerts after it", state.at, state.stream);
    let Totals { messages, alerts, older, failures, refused, in_doubt, missed } = state.totals;
    println!(
        "  {alerts} alerts in {messages} messages, {older} too old, {refused} refused, {in_doubt} in doubt, {missed} trimmed \
         away; {failures} attempts failed"
    );
    if let (Some(at), Some(error)) = (state.last_error_ms, &state.last_error) {
        println!("  last failure {}: {error}", ago(at));
    }
    if let Some(sending) = &state.sending {
        println!("  a message with {} alerts is under way", sending.alerts);
    }
    let Owed { older, in_doubt, refused, missed, .. } = &state.owed;
    if !state.owed.is_empty() {
        println!(
            "  the next message will say: {older} older, {in_doubt} in doubt, {refused} refused, {missed} trimmed away"
        );
    }
}
