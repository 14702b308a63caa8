//! The server's own connection to Redis: opened when somebody asks, never one of the engine's.

use std::time::Duration;

use redis::{Client, Cmd, FromRedisValue, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use super::error::ApiError;
use tickhound_core::config::StreamConfig;
use tickhound_redis::{client, connect, explain};

pub(super) struct Asker {
    client: Client,
    address: String,
    open: Mutex<Option<MultiplexedConnection>>,
    timeout: Duration,
}

impl Asker {
    pub(super) fn new(config: &StreamConfig) -> anyhow::Result<Self> {
        let timeout = Duration::from_millis(config.timeout_ms);
        Ok(Self { client: client(config)?, address: config.address().to_owned(), open: Mutex::new(None), timeout })
    }

    /// The answer to a command that has no effect.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, ApiError> {
        let mut connection = {
            let mut open = self.open.lock().await;
            match &*open {
                Some(connection) => connection.clone(),
                None => open.insert(self.connect(self.timeout).await?).clone(),
            }
        };
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() {
                    *self.open.lock().await = None;
                }
                Err(self.failed(&error))
            }
        }
    }

    /// A connection for one asker alone, whose answers may take `timeout`.
    pub(super) async fn connect(&self, timeout: Duration) -> Result<MultiplexedConnection, ApiError> {
        connect(&self.client, timeout).await.map_err(|error| self.failed(&error))
    }

    pub(super) fn failed(&self, error: &redis::RedisError) -> ApiError {
        ApiError::unavailable(format!("redis at {}: {}", self.address, explain(error)))
    }
}
