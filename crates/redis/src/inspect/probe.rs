//! Checks whether the server would accept the commands of Tickhound, without executing them.
//!
//! Between `MULTI` and `DISCARD` a server only queues commands, but it checks each one first: the user's rights to the
//! command and its key, memory, whether the server is a replica, the number of its replicas, and disk errors. So it
//! reports for each command whether it would be accepted, and nothing happens. (`ACL DRYRUN` checks rights only, and
//! needs more rights than a user of Tickhound should have.)
//!
//! As a further safeguard, commands are sent only after the server has replied `QUEUED` to a harmless one, and a command
//! that has a form without an effect is sent in that form.

use redis::{Cmd, RedisError, Value, cmd};

use super::inspector::{Answer, Inspector, rejection};
use crate::keys::{Keys, source_key};
use tickhound_core::config::{AlertsConfig, StreamConfig, is_unset};

/// A command that the server would reject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedCommand {
    /// The name of the command, such as `XGROUP CREATE`.
    pub command: String,
    /// The key that it was to be used on; `None` if it has none.
    pub key: Option<String>,
    /// The subcommand of Tickhound that needs it.
    pub needed_by: &'static str,
    /// The server's words.
    pub reason: String,
}

impl RejectedCommand {
    fn new(command: &Cmd, needed_by: &'static str, reason: String) -> Self {
        Self { command: name(command), key: key(command), needed_by, reason }
    }
}

/// The highest possible id, which no entry has.
const END: &str = "18446744073709551615-18446744073709551615";

/// Probes every command that Tickhound needs; returns those that the server would reject.
pub(super) async fn probe(
    inspector: &mut Inspector,
    config: &StreamConfig,
    alerts: &AlertsConfig,
    keys: &Keys,
) -> Result<Answer<Vec<RejectedCommand>>, RedisError> {
    let mut rejected = Vec::new();
    // `WATCH` is not allowed in a transaction, and has no effect without one.
    for plain in [cmd("WATCH").arg(&keys.epoch), &mut cmd("UNWATCH")] {
        if let Err(reason) = inspector.ask::<Value>(plain).await? {
            rejected.push(RejectedCommand::new(plain, "run", reason));
        }
    }
    if let Err(reason) = inspector.ask::<Value>(&cmd("MULTI")).await? {
        rejected.push(RejectedCommand::new(&cmd("MULTI"), "run", reason));
        return Ok(Ok(rejected));
    }
    match check_queueing(inspector, keys).await? {
        Queueing::Confirmed => {}
        Queueing::Rejected(reason) => {
            let command = "any transaction".to_owned();
            rejected.push(RejectedCommand { command, key: None, needed_by: "run", reason });
            return Ok(Ok(rejected));
        }
        // The connection ends after this, and the transaction with it.
        Queueing::Unconfirmed(reason) => return Ok(Err(reason.into())),
    }
    let needed = needed(config, alerts, keys);
    let mut pipe = redis::pipe();
    for (_, command) in &needed {
        pipe.add_command(command.clone());
    }
    pipe.cmd("DISCARD");
    let replies = inspector.send(&pipe).await?;
    rejected.extend(needed.iter().zip(&replies).filter_map(|((needed_by, command), reply)| match reply {
        Value::ServerError(error) => Some(RejectedCommand::new(command, needed_by, rejection(&error.clone().into()))),
        _ => None,
    }));
    if let Some(Value::ServerError(error)) = replies.last() {
        let reason = rejection(&error.clone().into());
        rejected.push(RejectedCommand::new(&cmd("DISCARD"), "run", reason));
    }
    Ok(Ok(rejected))
}

/// Whether the server queues commands after `MULTI`.
enum Queueing {
    /// The server has queued a harmless command.
    Confirmed,
    /// The server accepts no command into a transaction, for this reason.
    Rejected(String),
    /// The server may execute commands, or shows nothing of it; so none must be sent.
    Unconfirmed(&'static str),
}

/// Sends harmless commands until the server replies to one with `QUEUED`.
async fn check_queueing(inspector: &mut Inspector, keys: &Keys) -> Result<Queueing, RedisError> {
    let mut last_reason = None;
    for harmless in [cmd("TYPE").arg(&keys.epoch), &mut cmd("PING"), cmd("EXISTS").arg(&keys.epoch)] {
        match inspector.ask::<String>(harmless).await? {
            Ok(reply) if reply == "QUEUED" => return Ok(Queueing::Confirmed),
            Ok(_) => {
                return Ok(Queueing::Unconfirmed(
                    "the server, or a proxy before it, does not queue commands after MULTI",
                ));
            }
            Err(reason) => last_reason = Some(reason),
        }
    }
    Ok(match last_reason.filter(|reason| !reason.starts_with("NOPERM")) {
        // A server without memory, or one that is loading, rejects every transaction.
        Some(reason) => Queueing::Rejected(reason),
        None => Queueing::Unconfirmed("this user may not send any command that shows whether others are only queued"),
    })
}

/// Every command of Tickhound on its keys, with the subcommand that needs it.
fn needed(config: &StreamConfig, alerts: &AlertsConfig, keys: &Keys) -> Vec<(&'static str, Cmd)> {
    let key = config.key.as_str();
    let Keys { checkpoint, state, dead, notify: position, .. } = keys;
    let marker = source_key(&alerts.stream);
    let claims = commands(&[
        &["HSETNX", checkpoint, "partition", ""],
        &["HGET", checkpoint, "partition"],
        &["SET", &marker, "x", "XX", "NX"],
        &["GET", &marker],
    ]);
    let status = commands(&[&["XLEN", key], &["EXISTS", key], &["HMGET", state, "f"], &["HLEN", state]]);
    let letters = commands(&[&["XDEL", dead, "0-0"], &["EVAL", "return 0", "2", dead, key]]);
    let notify = commands(&[&["HGET", position, "f"], &["HSET", position, "f", "v", "f"], &["HKEYS", position]]);
    let feed = commands(&[&["XADD", key, "0-0", "f", "v"]]);
    let stream = alerts.stream.as_str();
    let jsonl = if is_unset(&alerts.jsonl) {
        Vec::new()
    } else {
        commands(&[
            &["XINFO", "STREAM", stream],
            &["XRANGE", stream, END, "+"],
            &["XREAD", "COUNT", "1", "STREAMS", stream, END],
        ])
    };
    let all = [
        ("run", host_commands(config, alerts, keys)),
        ("marking which group owns the alerts", claims),
        ("status", status),
        ("dead requeue", letters),
        ("[[notify]]", notify),
        ("feed", feed),
        ("alerts.jsonl", jsonl),
    ];
    all.into_iter().flat_map(|(needed_by, list)| list.into_iter().map(move |command| (needed_by, command))).collect()
}

/// The commands of a host.
fn host_commands(config: &StreamConfig, alerts: &AlertsConfig, keys: &Keys) -> Vec<Cmd> {
    let (key, group) = (config.key.as_str(), config.group.as_str());
    let Keys { lease, epoch, checkpoint, state, dead, host, .. } = keys;
    commands(&[
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
    ])
}

fn commands(list: &[&[&str]]) -> Vec<Cmd> {
    let command = |words: &&[&str]| {
        let mut command = cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command
    };
    list.iter().map(command).collect()
}

/// The name of a command, with its subcommand if it has one.
fn name(command: &Cmd) -> String {
    let words = words(command);
    match words.first().map(String::as_str) {
        Some("XINFO" | "XGROUP" | "SCRIPT") => words[..words.len().min(2)].join(" "),
        _ => words.first().cloned().unwrap_or_default(),
    }
}

/// The key that a command is about, or the first one of several.
fn key(command: &Cmd) -> Option<String> {
    let words = words(command);
    let at = match words.first()?.as_str() {
        "XINFO" | "XGROUP" => 2,
        "XREAD" | "XREADGROUP" => words.iter().position(|word| word == "STREAMS")? + 1,
        // A script, the number of its keys, and then these.
        "EVAL" | "EVALSHA" => 3,
        "SCRIPT" => return None,
        _ => 1,
    };
    words.into_iter().nth(at)
}

fn words(command: &Cmd) -> Vec<String> {
    let simple = command.args_iter().filter_map(|word| match word {
        redis::Arg::Simple(word) => Some(String::from_utf8_lossy(word).into_owned()),
        _ => None,
    });
    simple.collect()
}
