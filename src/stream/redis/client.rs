//! Connections, and what the client's errors mean.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, aio::MultiplexedConnection,
};

use super::tls;
use crate::config::StreamConfig;

/// Longest time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client, with Nagle's algorithm off: every step is one small write that must not wait.
///
/// # Errors
/// When the URL can't be understood, or the files for TLS can't be used.
pub fn client(config: &StreamConfig) -> anyhow::Result<Client> {
    let info = config.url.as_str().into_connection_info().map_err(|error| {
        anyhow::anyhow!(
            "stream.url: {error}; expected redis://[user:password@]host:port[/db], with TLS rediss://…, \
             or redis+unix:///path"
        )
    })?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    tls::client(info.set_tcp_settings(tcp), config)
}

/// Connects; every answer must come within `timeout`.
pub(crate) async fn connect(client: &Client, timeout: Duration) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(timeout));
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// As [`connect`], for a thread that waits; `timeout` is for all of it.
pub(crate) fn connect_blocking(client: &Client, timeout: Duration) -> RedisResult<redis::Connection> {
    let connected = client.get_connection_with_timeout(timeout);
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// The client's error in a user's words.
pub fn explain(error: &RedisError) -> String {
    if error.is_connection_refusal() {
        return "connection refused: is redis-server running at that address?".into();
    }
    if error.is_timeout() {
        return "no answer in time (stream.timeout_ms)".into();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "the server refuses the user or password in stream.url".into();
    }
    match error.code() {
        Some("NOAUTH") => "the server wants a password: put it in the URL, or in TICKHOUND_STREAM__URL".into(),
        Some("LOADING") => "the server is still loading its data".into(),
        Some("READONLY") => "the server has become a replica".into(),
        Some("OOM") => "the server's memory is full (maxmemory): free some, or raise it".into(),
        _ => error.to_string(),
    }
}
