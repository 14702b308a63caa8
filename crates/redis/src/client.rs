//! Connections, and what the client's errors mean.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    aio::MultiplexedConnection,
};

use super::{tls, wire::Address};
use tickhound_core::config::StreamConfig;

/// Longest time to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A client, with Nagle's algorithm off: every request is one small write that must not wait.
///
/// # Errors
/// When the URL can't be understood, or the files for TLS can't be used.
pub fn client(config: &StreamConfig) -> anyhow::Result<Client> {
    tls::client(connection_info(config)?, config)
}

/// The same server, for connections of our own.
///
/// # Errors
/// As [`client`].
pub(super) fn address(config: &StreamConfig) -> anyhow::Result<Address> {
    let info = connection_info(config)?;
    let tls = tls::config(&info, config)?;
    Ok(Address::new(info, tls, Duration::from_millis(config.timeout_ms)))
}

fn connection_info(config: &StreamConfig) -> anyhow::Result<ConnectionInfo> {
    let info = config.url.as_str().into_connection_info().map_err(|error| {
        anyhow::anyhow!(
            "stream.url: {error}; expected redis://[user:password@]host:port[/db], with TLS rediss://…, \
             or redis+unix:///path"
        )
    })?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_tcp_settings(tcp))
}

/// Connects; every answer must come within `timeout`.
pub async fn connect(client: &Client, timeout: Duration) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(timeout));
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// As [`connect`], for a thread that waits; `timeout` is for all of it.
pub fn connect_blocking(client: &Client, timeout: Duration) -> RedisResult<redis::Connection> {
    let connected = client.get_connection_with_timeout(timeout);
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// No answer came within the time that is allowed.
pub(super) const NO_ANSWER: &str = "no answer in time (stream.timeout_ms)";

/// The client's error in a user's words.
pub fn explain(error: &RedisError) -> String {
    // Of several commands at once: what the first one met.
    let first = error.clone().into_server_errors();
    let first = first.and_then(|errors| errors.first().map(|(_, error)| RedisError::from(error.clone())));
    let error = first.as_ref().unwrap_or(error);
    if error.is_connection_refusal() {
        return "connection refused: is redis-server running at that address?".into();
    }
    if error.is_timeout() {
        return NO_ANSWER.into();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "the server refuses the user or password in stream.url".into();
    }
    error.code().and_then(explain_code).map_or_else(|| error.to_string(), str::to_owned)
}

/// What an error of the server means, by its first word.
pub(super) fn explain_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "NOAUTH" => "the server wants a password: put it in the URL, or in TICKHOUND_STREAM__URL",
        "WRONGPASS" => "the server refuses the user or password in stream.url",
        "LOADING" => "the server is still loading its data",
        "READONLY" => "the server has become a replica",
        "OOM" => "the server's memory is full (maxmemory): free some, or raise it",
        _ => return None,
    })
}
