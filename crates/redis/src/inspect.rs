//! Inspects a server and a partition for the doctor: settings, clock, rights, keys, stream and group.
//!
//! What holds: nothing is changed, and every request is small whatever the server holds (no `KEYS`, no scan of pending
//! entries by idle time, at most a hundred entries). A rejected request is a result and not an error; only a lost
//! connection ends the inspection.

mod inspector;
mod partition;
mod probe;

use std::time::Duration;

use redis::{ConnectionAddr, RedisError, cmd};

use self::inspector::Inspector;
pub use self::{
    inspector::{Answer, Settings},
    partition::{
        ConsumerInspection, GroupInspection, LeaseOwner, NeededBy, PartitionInspection, PendingEntry, StreamCounts,
        StreamInspection, WrongType,
    },
    probe::RejectedCommand,
};
use crate::{
    connection::{client, connect},
    errors::explain,
    keys::Keys,
};
use tickhound_core::config::{AlertsConfig, StreamConfig, is_unset};

/// The result of an inspection.
pub struct Inspection {
    /// The server.
    pub server: ServerInspection,
    /// The partition on it.
    pub partition: PartitionInspection,
}

/// The server at the time of the inspection.
#[derive(Clone, Debug)]
pub struct ServerInspection {
    /// Where the server runs.
    pub location: ServerLocation,
    /// Whether the connection used a password or a client certificate.
    pub authenticated: bool,
    /// The durations of some round trips, shortest first.
    pub round_trips: Vec<Duration>,
    /// How far the server's clock is ahead of ours, ms, and the largest error of that.
    pub ahead_ms: Answer<(f64, f64)>,
    /// The values of `INFO`.
    pub info: Answer<Settings>,
    /// The values of `CONFIG GET` that `INFO` leaves out.
    pub settings: Answer<Settings>,
    /// The commands that the server would reject.
    pub rejected: Answer<Vec<RejectedCommand>>,
}

/// Where a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerLocation {
    /// The server is on this machine, by its address.
    Here,
    /// The server is on another machine.
    Elsewhere {
        /// Whether the connection is encrypted.
        tls: bool,
    },
}

impl ServerInspection {
    /// A value of `INFO`.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref().ok()?.get(name).map(String::as_str)
    }

    /// A value of `INFO` that is a number.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.info(name)?.parse().ok()
    }

    /// A value of `CONFIG GET`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref().ok()?.get(name).map(String::as_str)
    }
}

/// Inspects a server, and a partition on it.
///
/// # Errors
/// When Redis cannot be reached.
pub async fn inspect(config: &StreamConfig, alerts: &AlertsConfig) -> anyhow::Result<Inspection> {
    let client = client(config)?;
    let info = client.get_connection_info();
    let location = match info.addr() {
        ConnectionAddr::Unix(_) => ServerLocation::Here,
        ConnectionAddr::TcpTls { host, .. } if !is_here(host) => ServerLocation::Elsewhere { tls: true },
        ConnectionAddr::Tcp(host, _) if !is_here(host) => ServerLocation::Elsewhere { tls: false },
        _ => ServerLocation::Here,
    };
    let authenticated = info.redis_settings().password().is_some() || !is_unset(&config.tls_cert);
    let inspection = async {
        let connection = connect(&client, Duration::from_millis(config.timeout_ms)).await?;
        let mut inspector = Inspector::new(connection);
        let (round_trips, ahead_ms) = inspector.clock().await?;
        let keys = Keys::new(&config.key, &config.group);
        let info = inspector.ask::<String>(&cmd("INFO")).await?.map(|text| parse_info(&text));
        let settings = inspector.settings().await?;
        let partition = partition::inspect(&mut inspector, config, alerts, &keys).await?;
        // The probe comes last, because each right that the user lacks adds an entry to `ACL LOG`.
        let rejected = probe::probe(&mut inspector, config, alerts, &keys).await?;
        let server = ServerInspection { location, authenticated, round_trips, ahead_ms, info, settings, rejected };
        Ok(Inspection { server, partition })
    };
    inspection.await.map_err(|error: RedisError| anyhow::anyhow!(explain(&error)))
}

fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn parse_info(text: &str) -> Settings {
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
