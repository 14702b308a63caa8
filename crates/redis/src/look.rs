//! What a doctor sees of a server: what it says of itself, its clock, and what it would let us do.
//!
//! What holds: nothing is changed, and every look is small whatever the server holds (no `KEYS`, no scan of
//! pending entries by idle time, at most a hundred entries). What the server refuses to tell is its answer,
//! not an error; only a connection that is gone ends the examination.

mod partition;
mod probe;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use redis::{Cmd, ConnectionAddr, FromRedisValue, RedisError, Value, aio::MultiplexedConnection, cmd};

pub use self::{
    partition::{ConsumerLook, GroupLook, NeededBy, OwnerLook, PartitionLook, PendingLook, StreamLook},
    probe::Refused,
};
use super::{Keys, client, connect, explain};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    wall::since_epoch,
};

/// How often the clock is asked for: enough that one slow answer does not matter.
const ROUND_TRIPS: usize = 9;

/// What was asked, or the server's words for why it does not tell.
pub type Asked<T> = Result<T, String>;

/// Names and values.
pub type Settings = BTreeMap<String, String>;

/// All that was seen.
pub struct Look {
    pub server: ServerLook,
    pub partition: PartitionLook,
}

/// Of the server.
#[derive(Clone, Debug)]
pub struct ServerLook {
    pub place: Place,
    /// Whether it was shown a password, or a client certificate.
    pub authenticated: bool,
    /// Shortest first.
    pub round_trips: Vec<Duration>,
    /// How far its clock is ahead of ours, ms, and by how much that may be wrong.
    pub ahead_ms: Asked<(f64, f64)>,
    pub info: Asked<Settings>,
    /// What `INFO` leaves out.
    pub settings: Asked<Settings>,
    pub refused: Asked<Vec<Refused>>,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine, for all we know.
    Here,
    /// Elsewhere, over TLS or in the clear.
    Elsewhere { tls: bool },
}

impl ServerLook {
    /// A value of `INFO`.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.get(name).map(String::as_str)
    }

    /// The same as a number.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
    }

    /// A value of `CONFIG GET`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref().ok()?.get(name).map(String::as_str)
    }
}

/// Looks at a server, and at a partition on it.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub async fn look(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Look> {
    let client = client(config)?;
    let info = client.get_connection_info();
    let place = match info.addr() {
        ConnectionAddr::Unix(_) => Place::Here,
        ConnectionAddr::TcpTls { host, .. } if !is_here(host) => Place::Elsewhere { tls: true },
        ConnectionAddr::Tcp(host, _) if !is_here(host) => Place::Elsewhere { tls: false },
        _ => Place::Here,
    };
    let authenticated = info.redis_settings().password().is_some() || !config.tls_cert.as_os_str().is_empty();
    let asked = async {
        let connection = connect(&client, Duration::from_millis(config.timeout_ms)).await?;
        let mut asking = Asking { connection };
        let (round_trips, ahead_ms) = asking.clock().await?;
        let keys = Keys::new(&config.key, &config.group);
        let info = asking.ask::<String>(&cmd("INFO")).await?.map(|text| parse_info(&text));
        let settings = asking.settings().await?;
        let partition = partition::look(&mut asking, config, alerts, &keys).await?;
        // Last: a user who may do little leaves traces of it in `ACL LOG`, and slows nobody down.
        let refused = probe::probe(&mut asking, config, alerts, &keys).await?;
        let server = ServerLook { place, authenticated, round_trips, ahead_ms, info, settings, refused };
        Ok(Look { server, partition })
    };
    asked.await.map_err(|error: RedisError| anyhow::anyhow!(explain(&error)))
}

fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A connection that tells a server's refusal from a connection that is gone.
struct Asking {
    connection: MultiplexedConnection,
}

impl Asking {
    /// An answer, or the server's refusal.
    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<Asked<T>, RedisError> {
        match command.query_async::<T>(&mut self.connection).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(error) if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => Err(error),
            // Who is not let in sees nothing at all.
            Err(error) if error.code() == Some("NOAUTH") => Err(error),
            Err(error) => Ok(Err(refusal(&error))),
        }
    }

    /// How long answers take, and how far the server's clock is ahead by the quickest of them.
    async fn clock(&mut self) -> Result<(Vec<Duration>, Asked<(f64, f64)>), RedisError> {
        let (mut round_trips, mut best) = (Vec::new(), Err("it was not asked".to_owned()));
        for _ in 0..ROUND_TRIPS {
            let (started, before) = (Instant::now(), since_epoch());
            let answer = self.ask::<(u64, u64)>(&cmd("TIME")).await?;
            let took = started.elapsed();
            let quickest = round_trips.iter().all(|other| took < *other);
            round_trips.push(took);
            match answer {
                Ok((seconds, micros)) if quickest => {
                    let half = took.as_secs_f64() * 500.0;
                    let ours = before.as_secs_f64() * 1e3 + half;
                    best = Ok((seconds as f64 * 1e3 + micros as f64 / 1e3 - ours, half));
                }
                Ok(_) => {}
                Err(refusal) => best = Err(refusal),
            }
        }
        round_trips.sort_unstable();
        Ok((round_trips, best))
    }

    async fn settings(&mut self) -> Result<Asked<Settings>, RedisError> {
        let mut settings = Settings::new();
        // One name at a time: servers before 7.0 take no more.
        for name in ["append*", "save", "maxmemory*"] {
            match self.ask::<Vec<String>>(cmd("CONFIG").arg("GET").arg(name)).await? {
                Ok(pairs) => settings.extend(pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()))),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Ok(Ok(settings))
    }

    /// Sends commands in one go; answers and refusals in their order.
    async fn send(&mut self, pipe: &redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        self.connection.send_packed_commands(pipe, 0, pipe.len()).await
    }
}

/// The server's own words: they name the command or key.
fn refusal(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => explain(error),
    }
}

fn parse_info(text: &str) -> Settings {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
