//! Sends the requests of an inspection.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use redis::{Cmd, FromRedisValue, RedisError, Value, aio::MultiplexedConnection, cmd};

use crate::errors::explain;
use tickhound_core::wall::since_epoch;

/// The number of requests for the clock: enough that one slow reply does not matter.
const ROUND_TRIPS: usize = 9;

/// A value, or the server's words for why it rejected the request.
pub type Answer<T> = Result<T, String>;

/// Names and values.
pub type Settings = BTreeMap<String, String>;

/// A connection that distinguishes a rejected request from a lost connection.
pub(super) struct Inspector {
    connection: MultiplexedConnection,
}

impl Inspector {
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection }
    }

    /// Sends a command.
    pub(super) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<Answer<T>, RedisError> {
        match command.query_async::<T>(&mut self.connection).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => Err(error),
            // Without a login every request would be rejected.
            Err(error) if error.code() == Some("NOAUTH") => Err(error),
            Err(error) => Ok(Err(rejection(&error))),
        }
    }

    /// Measures some round trips, and how far the server's clock is ahead, by the fastest of them.
    pub(super) async fn clock(&mut self) -> Result<(Vec<Duration>, Answer<(f64, f64)>), RedisError> {
        let (mut round_trips, mut best) = (Vec::new(), Err("the server was not asked".to_owned()));
        for _ in 0..ROUND_TRIPS {
            let (started, before) = (Instant::now(), since_epoch());
            let answer = self.ask::<(u64, u64)>(&cmd("TIME")).await?;
            let duration = started.elapsed();
            let is_fastest = round_trips.iter().all(|other| duration < *other);
            round_trips.push(duration);
            match answer {
                Ok((seconds, micros)) if is_fastest => {
                    // The server read its clock half a round trip ago, more or less.
                    let half = duration.as_secs_f64() * 500.0;
                    let ours = before.as_secs_f64() * 1e3 + half;
                    best = Ok((seconds as f64 * 1e3 + micros as f64 / 1e3 - ours, half));
                }
                Ok(_) => {}
                Err(rejection) => best = Err(rejection),
            }
        }
        round_trips.sort_unstable();
        Ok((round_trips, best))
    }

    /// Reads the settings that matter to a host.
    pub(super) async fn settings(&mut self) -> Result<Answer<Settings>, RedisError> {
        let mut settings = Settings::new();
        // Servers before 7.0 accept one name in a request.
        for name in ["append*", "save", "maxmemory*"] {
            match self.ask::<Vec<String>>(cmd("CONFIG").arg("GET").arg(name)).await? {
                Ok(pairs) => settings.extend(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()))),
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
        Ok(Ok(settings))
    }

    /// Sends commands in one round trip; returns a reply or an error for each.
    pub(super) async fn send(&mut self, pipe: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        self.connection.send_packed_commands(pipe, 0, pipe.len()).await
    }
}

/// The server's own words for an error, because they name the command or key.
pub(super) fn rejection(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => explain(error),
    }
}
