//! Checks whether a server is fit to hold a partition.

use redis::{RedisResult, Value, aio::MultiplexedConnection, cmd};

use crate::{connection::query, keys::Keys, partition_config::PartitionConfig, reply};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    stream::StreamError,
};

/// Checks that the server is a master, that every key has the right type, and that no key can be evicted.
///
/// # Errors
/// When the server can't be used as it is.
pub(super) async fn check_server(
    connection: &mut MultiplexedConnection,
    config: &PartitionConfig,
) -> Result<(), StreamError> {
    let role: Value = query(connection, &cmd("ROLE")).await?;
    if reply::first_text(&role) == Some("slave") {
        return Err(StreamError::Unavailable("the server is a replica; waiting until it is promoted".into()));
    }
    for (key, kind) in key_types(&config.stream, &config.alerts, &config.keys) {
        let actual: String = query(connection, cmd("TYPE").arg(key)).await?;
        if actual != kind && actual != "none" {
            return Err(StreamError::Misconfigured(format!(
                "the key {key} holds a {actual}, expected a {kind}: rename or delete it, or choose another name in config.toml"
            )));
        }
    }
    // CONFIG also returns passwords, so that a user of Tickhound should not have it. INFO has the same two settings.
    let memory: RedisResult<String> = cmd("INFO").arg("memory").query_async(connection).await;
    let memory = memory.unwrap_or_default();
    let setting = |name: &str| memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    if let (Some(policy), Some(limit)) = (setting("maxmemory_policy"), setting("maxmemory"))
        && may_evict_any_key(policy, limit)
    {
        return Err(StreamError::Misconfigured(format!(
            "the server may evict any key (maxmemory-policy {policy}), including the stream and its group, \
             so entries could be lost: CONFIG SET maxmemory-policy noeviction"
        )));
    }
    Ok(())
}

/// Every key of a partition, and the type of its value.
pub(super) fn key_types<'a>(
    config: &'a StreamConfig,
    alerts: &'a AlertsConfig,
    keys: &'a Keys,
) -> [(&'a str, &'static str); 12] {
    [
        (&config.key, "stream"),
        (&alerts.stream, "stream"),
        (&alerts.shadow_stream, "stream"),
        (&keys.dead, "stream"),
        (&keys.lease, "string"),
        (&keys.epoch, "string"),
        (&keys.checkpoint, "hash"),
        (&keys.state, "hash"),
        (&keys.venues, "hash"),
        (&keys.host, "string"),
        (&keys.notify, "hash"),
        (&keys.mutes, "hash"),
    ]
}

/// Whether a server with this `maxmemory-policy` and `maxmemory` may evict the stream.
pub fn may_evict_any_key(policy: &str, limit: &str) -> bool {
    policy.starts_with("allkeys") && limit != "0"
}
