//! Connections to the server of the configuration.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, Connection, ConnectionInfo, FromRedisValue, IntoConnectionInfo, RedisResult,
    aio::MultiplexedConnection,
};

use crate::{errors::unavailable, tls, wire::Address};
use tickhound_core::{config::StreamConfig, stream::StreamError};

/// Limits how long it may take to establish a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Prepares a client, without connecting. Nagle's algorithm is off: every request is one small write that must not wait.
///
/// # Errors
/// When the URL can't be parsed, or the TLS files can't be used.
pub(crate) fn client(config: &StreamConfig) -> anyhow::Result<Client> {
    tls::client(connection_info(config)?, config)
}

/// Resolves the address of the same server for [`crate::wire`].
///
/// # Errors
/// When the URL can't be parsed, or the TLS files can't be used.
pub(crate) fn address(config: &StreamConfig) -> anyhow::Result<Address> {
    let info = connection_info(config)?;
    let tls = tls::config(&info, config)?;
    Ok(Address::new(info, tls, Duration::from_millis(config.timeout_ms)))
}

/// Connects. Every reply must arrive within `timeout`.
pub(crate) async fn connect(client: &Client, timeout: Duration) -> RedisResult<MultiplexedConnection> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(timeout));
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// Connects from a thread that may block. `timeout` limits the whole attempt.
pub(crate) fn connect_blocking(client: &Client, timeout: Duration) -> RedisResult<Connection> {
    let connected = client.get_connection_with_timeout(timeout);
    connected.map_err(|error| tls::explain(error, client.get_connection_info().addr()))
}

/// Sends a command and parses its reply.
pub(crate) async fn query<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StreamError> {
    command.query_async(connection).await.map_err(unavailable)
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
