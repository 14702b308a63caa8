//! `tickhound notify`: the state of notification channels, and test messages.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    notify::{self, ChannelStatus},
    observe::health::seconds,
};
use tickhound_core::{
    config::{LoadedConfig, nearest},
    wall::now_ms,
};
use tickhound_redis::notification_position::{NotificationTotals, Omissions};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound notify\n  tickhound notify test desk\n\n\
                  Exit codes: 0 all channels deliver, 1 a channel fails or a message did not arrive, 2 wrong usage.")]
pub(super) struct NotifyArgs {
    #[command(subcommand)]
    command: Option<NotifyCommand>,
    /// Print everything as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum NotifyCommand {
    /// Show the position and the last failure of each [[notify]] channel.
    Status,
    /// Send one message that says that it is a test.
    Test {
        /// Name of a [[notify]] table.
        name: String,
    },
}

pub(super) fn run(args: &NotifyArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    match &args.command {
        None | Some(NotifyCommand::Status) => status(args.json, loaded),
        Some(NotifyCommand::Test { name }) => test(name, args.json, loaded),
    }
}

fn test(name: &str, as_json: bool, loaded: &LoadedConfig) -> Result<ExitCode> {
    let channels = &loaded.config.notify;
    let names: Vec<&str> = channels.iter().map(|channel| channel.name.as_str()).collect();
    let Some(channel) = channels.iter().find(|channel| channel.name == name) else {
        let near = nearest(name, names.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        ensure!(!names.is_empty(), "there is no [[notify]] in {}", loaded.source.at(&[]));
        let near = near.unwrap_or_default();
        anyhow::bail!("there is no [[notify]] with the name `{name}`; there is {}{near}", names.join(", "));
    };
    let sent = notify::send_test(loaded, channel);
    if as_json {
        let error = sent.as_ref().err().map(|error| format!("{error:#}"));
        crate::output::print_json(&json!({ "sink": name, "ok": error.is_none(), "error": error }));
        return Ok(if error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    outln!("{name}: the test message arrived at {}", sent?);
    Ok(ExitCode::SUCCESS)
}

fn status(as_json: bool, loaded: &LoadedConfig) -> Result<ExitCode> {
    let states = notify::states(loaded)?.into_iter();
    let states: BTreeMap<String, ChannelStatus> = states.map(|state| (state.name.clone(), state)).collect();
    let mut failing = false;
    let mut report = Vec::new();
    for channel in &loaded.config.notify {
        let recorded = states.get(&channel.name);
        let fails = channel.enabled && recorded.is_some_and(|recorded| recorded.state.is_failing());
        failing |= fails;
        if as_json {
            let behind = recorded.map(|recorded| recorded.behind);
            let state = recorded.map(|recorded| &recorded.state);
            report.push(json!({
                "name": channel.name, "enabled": channel.enabled, "failing": fails, "behind": behind, "state": state,
            }));
        } else {
            let mark = match (channel.enabled, fails) {
                (false, _) => "off",
                (true, true) => "❌ failing",
                (true, false) => "✅",
            };
            print(&channel.name, mark, recorded);
        }
    }
    let mutes = notify::mutes(&loaded.config)?.len();
    if as_json {
        crate::output::print_json(&json!({ "ok": !failing, "sinks": report, "mutes": mutes }));
    } else if loaded.config.notify.is_empty() {
        outln!("there is no [[notify]] in {}", loaded.source.at(&[]));
    } else if mutes > 0 {
        let what = if mutes == 1 { "1 mute is".to_owned() } else { format!("{mutes} mutes are") };
        outln!("{what} in force; `tickhound mutes` lists what is left out");
    }
    Ok(if failing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(name: &str, mark: &str, recorded: Option<&ChannelStatus>) {
    let Some(ChannelStatus { state, behind, .. }) = recorded else {
        return outln!(
            "{name}: not used by any host yet; it begins with the first alert after `tickhound run` has started"
        );
    };
    let now_ms = now_ms();
    let ago = |at_ms: u64| format!("{} ago", seconds(now_ms.saturating_sub(at_ms)));
    let ok = state.last_ok_ms.map_or_else(|| "no message yet".to_owned(), |at| format!("last message {}", ago(at)));
    // One that sends no alerts has read none.
    if state.stream.is_empty() {
        outln!("{name}: {mark} {ok}; it sends no alerts, only what is wrong with the host");
    } else {
        outln!("{name}: {mark} {ok}; sent up to {} of {}, {behind} alerts behind it", state.at, state.stream);
    }
    let NotificationTotals { messages, alerts, older, failures, refused, in_doubt, missed, muted, health } =
        state.totals;
    outln!(
        "  {alerts} alerts in {messages} messages, {older} too old, {refused} rejected, {in_doubt} in doubt, {missed} trimmed, \
         {muted} muted; {health} messages about the host's health; {failures} attempts failed"
    );
    if let (Some(at), Some(error)) = (state.last_error_ms, &state.last_error) {
        outln!("  last failure {}: {error}", ago(at));
    }
    if let Some(sending) = &state.sending {
        outln!("  a message with {} alerts is being sent", sending.alerts);
    }
    let Omissions { older, in_doubt, refused, missed, .. } = &state.omissions;
    if !state.omissions.is_empty() {
        outln!(
            "  the next message reports: {older} too old, {in_doubt} in doubt, {refused} rejected, {missed} trimmed"
        );
    }
}
