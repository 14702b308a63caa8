//! Whether the server would let us do what Tickhound does, found out without doing it.
//!
//! Between `MULTI` and `DISCARD` a server only queues, but it looks first: may this user give this command on
//! this key, is there memory, may a replica be written to, are there enough of them, does the disk take what it
//! is given. So it says of each command whether it would be taken, and nothing happens. (`ACL DRYRUN` would
//! tell about rights alone, and needs more rights than any user of Tickhound should have.)
//!
//! To be quite sure, commands are only sent once the server has said that it queues, and where a command has
//! a form that does nothing, it is sent in that form.

use redis::{Cmd, RedisError, Value, cmd};

use super::{
    super::{Keys, keys::source_key},
    Asked, Asking, refusal,
};
use tickhound_core::config::{AlertsConfig, StreamConfig};

/// A command that would not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name, e.g. `XGROUP CREATE`.
    pub command: String,
    /// The subcommand of Tickhound that needs it.
    pub needed_by: &'static str,
    /// The server's words.
    pub reason: String,
}

/// An id that no entry has, and past any that one will have.
const END: &str = "18446744073709551615-18446744073709551615";

pub(super) async fn probe(
    asking: &mut Asking,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<Asked<Vec<Refused>>, RedisError> {
    let mut refused = Vec::new();
    // These are no good in a transaction, and do nothing.
    for plain in [cmd("WATCH").arg(&keys.epoch), &mut cmd("UNWATCH")] {
        if let Err(reason) = asking.ask::<Value>(plain).await? {
            refused.push(Refused { command: name(plain), needed_by: "run", reason });
        }
    }
    if let Err(reason) = asking.ask::<Value>(&cmd("MULTI")).await? {
        refused.push(Refused { command: "MULTI".into(), needed_by: "run", reason });
        return Ok(Ok(refused));
    }
    let (mut queues, mut reason) = (false, None);
    for harmless in [cmd("TYPE").arg(&keys.epoch), &mut cmd("PING"), cmd("EXISTS").arg(&keys.epoch)] {
        match asking.ask::<String>(harmless).await? {
            Ok(answer) if answer == "QUEUED" => {
                queues = true;
                break;
            }
            Ok(_) => {
                return Ok(Err("the server, or what stands before it, does not queue commands after MULTI".into()));
            }
            Err(words) => reason = Some(words),
        }
    }
    if let (false, Some(reason)) = (queues, reason.filter(|reason| !reason.starts_with("NOPERM"))) {
        // A server without memory, or one that loads, takes nothing at all into a transaction.
        refused.push(Refused { command: "any transaction".into(), needed_by: "run", reason });
        return Ok(Ok(refused));
    }
    if !queues {
        // The connection ends after this, and the transaction with it.
        return Ok(Err("this user may give no command that would show that others are only queued".into()));
    }
    let needed = needed(config, alerts, keys);
    let mut pipe = redis::pipe();
    for (_, command) in &needed {
        pipe.add_command(command.clone());
    }
    pipe.cmd("DISCARD");
    let answers = asking.send(&pipe).await?;
    let refusals = needed.iter().zip(&answers).filter_map(|((needed_by, command), answer)| match answer {
        Value::ServerError(error) => {
            Some(Refused { command: name(command), needed_by, reason: refusal(&error.clone().into()) })
        }
        _ => None,
    });
    refused.extend(refusals);
    if let Some(Value::ServerError(error)) = answers.last() {
        let reason = refusal(&error.clone().into());
        refused.push(Refused { command: "DISCARD".into(), needed_by: "run", reason });
    }
    Ok(Ok(refused))
}

/// Every command of Tickhound with what needs it, on the keys that it is for.
fn needed(config: &StreamConfig, alerts: &AlertsConfig, keys: &Keys) -> Vec<(&'static str, Cmd)> {
    let (key, group) = (config.key.as_str(), config.group.as_str());
    let Keys { lease, epoch, checkpoint, state, dead, host, notify } = keys;
    let run: &[&[&str]] = &[
        &["TYPE", epoch],
        &["GET", epoch],
        &["SET", lease, "x", "XX", "NX"],
        &["DEL", lease],
        &["INCR", epoch],
        &["PTTL", lease],
        &["SET", host, "x", "XX", "NX"],
        &["TIME"],
        &["ROLE"],
        &["HGETALL", checkpoint],
        &["HSET", checkpoint, "f", "v", "f"],
        &["HINCRBY", checkpoint, "entries", "none"],
        &["HSCAN", state, "0"],
        &["HSET", state, "f", "v", "f"],
        &["HDEL", state, "doctor"],
        &["XINFO", "STREAM", key],
        &["XINFO", "GROUPS", key],
        &["XINFO", "CONSUMERS", key, group],
        &["XPENDING", key, group],
        &["XRANGE", key, END, "+"],
        &["XREVRANGE", &alerts.stream, "+", END],
        &["XREAD", "COUNT", "1", "STREAMS", key, END],
        &["XREADGROUP", "GROUP", group, "doctor", "COUNT", "1", "STREAMS", key, END],
        &["XACK", key, group, "0-0"],
        &["XCLAIM", key, group, "doctor", "0", "0-0"],
        &["XGROUP", "CREATE", key, group, "not-an-id"],
        &["XGROUP", "SETID", key, group, "not-an-id"],
        &["XGROUP", "DELCONSUMER", key, group, "doctor"],
        &["XADD", &alerts.stream, "0-0", "f", "v"],
        &["XADD", &alerts.shadow_stream, "0-0", "f", "v"],
        &["XADD", dead, "0-0", "f", "v"],
        &["SCRIPT", "LOAD", "return 0"],
        &["EVALSHA", "0", "3", key, epoch, checkpoint],
    ];
    let source = source_key(&alerts.stream);
    let claims: &[&[&str]] = &[
        &["HSETNX", checkpoint, "partition", ""],
        &["HGET", checkpoint, "partition"],
        &["SET", &source, "x", "XX", "NX"],
        &["GET", &source],
    ];
    let status: &[&[&str]] = &[&["XLEN", key], &["EXISTS", key], &["HMGET", state, "f"], &["HLEN", state]];
    let letters: &[&[&str]] = &[&["XDEL", dead, "0-0"], &["EVAL", "return 0", "2", dead, key]];
    let told: &[&[&str]] = &[&["HGET", notify, "f"], &["HSET", notify, "f", "v", "f"], &["HKEYS", notify]];
    let feed: &[&[&str]] = &[&["XADD", key, "0-0", "f", "v"]];
    let stream = alerts.stream.as_str();
    let lines: &[&[&str]] = &[
        &["XINFO", "STREAM", stream],
        &["XRANGE", stream, END, "+"],
        &["XREAD", "COUNT", "1", "STREAMS", stream, END],
    ];
    let lines = if alerts.jsonl.as_os_str().is_empty() { &[] } else { lines };
    let all = [
        ("run", run),
        ("marking whose alerts these are", claims),
        ("status", status),
        ("dead requeue", letters),
        ("[[notify]]", told),
        ("feed", feed),
        ("alerts.jsonl", lines),
    ];
    let mut commands = Vec::new();
    for (needed_by, words) in all.iter().flat_map(|(by, list)| list.iter().map(move |words| (*by, *words))) {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        commands.push((needed_by, command));
    }
    commands
}

/// A command's name, with that of the subcommand if it has one.
fn name(command: &Cmd) -> String {
    let words: Vec<String> = command
        .args_iter()
        .take(2)
        .filter_map(|word| match word {
            redis::Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
            _ => None,
        })
        .collect();
    match words.first().map(String::as_str) {
        Some("XINFO" | "XGROUP" | "SCRIPT") => words.join(" "),
        _ => words.first().cloned().unwrap_or_default(),
    }
}
