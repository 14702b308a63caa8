//! `[stream]`: the Redis Stream to read, and as which consumer.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Source,
    section::{Section, is_unset},
};
use crate::event::EntryId;

/// The largest value of `stream.claim_idle_ms`: a week, so that what a dead consumer left on a Friday is not forgotten for
/// longer.
const CLAIM_IDLE_MAX_MS: u64 = 7 * 86_400_000;

/// `[stream]`: the Redis Stream that is read, and as whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// The Redis server: `redis://[user:password@]host:port[/db]`, with TLS `rediss://…`, or `redis+unix:///path`.
    pub url: String,
    /// A PEM file with the authority that signs the server's certificate. Empty: the authorities this machine trusts.
    pub tls_ca: PathBuf,
    /// A PEM file with the client certificate and its chain. Empty: no client certificate.
    pub tls_cert: PathBuf,
    /// A PEM file with the private key of `tls_cert`, not encrypted.
    pub tls_key: PathBuf,
    /// The key of the stream in Redis.
    pub key: String,
    /// The consumer group. It is created if it is missing.
    pub group: String,
    /// The consumer's name. It belongs to the stream and not to the process, so that a restarted host finds the
    /// entries that were read and not acknowledged.
    pub consumer: String,
    /// Where a new group begins: `earliest`, `latest` or an entry id.
    pub start: Start,
    /// The maximum number of entries in one read. From about 500 on the server is the limit; more would only enlarge
    /// what is repeated after a crash.
    pub batch: usize,
    /// The longest time that a read waits for new entries, ms.
    pub block_ms: u64,
    /// The lifetime of the lease, ms: a standby takes over from a crashed host after this time. A shorter lease means
    /// a faster takeover, a longer one tolerates longer pauses of a healthy host.
    pub lease_ms: u64,
    /// The idle time after which entries that are pending for another consumer of the group are taken over, ms.
    pub claim_idle_ms: u64,
    /// The number of deliveries, the first included, after which an entry that ends hosts becomes a dead letter.
    /// 0: never. While the entry is processed alone, a host that was stuck on it counts as one delivery, and one that
    /// ended suddenly as a third.
    pub max_deliveries: u64,
    /// The longest time to wait for an answer of the server, ms.
    pub timeout_ms: u64,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".into(),
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            key: "ticks:intraday:processed".into(),
            group: "scanner_group".into(),
            consumer: "tickhound".into(),
            start: Start::Earliest,
            batch: 500,
            block_ms: 2000,
            lease_ms: 5000,
            claim_idle_ms: 60_000,
            max_deliveries: 5,
            timeout_ms: 3000,
        }
    }
}

impl StreamConfig {
    /// The server's address without user and password, for messages.
    pub fn address(&self) -> &str {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        // A URL of a host has the password before `@`; one of a socket has it in the query, `?pass=…`.
        let is_socket = scheme.ends_with("unix");
        let address = if is_socket { rest } else { rest.rsplit_once('@').map_or(rest, |(_, address)| address) };
        address.split(['?', '#']).next().unwrap_or(address)
    }

    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["stream"]);
        for (key, text) in
            [("url", &self.url), ("key", &self.key), ("group", &self.group), ("consumer", &self.consumer)]
        {
            section.check_not_empty(key, text)?;
        }
        let (has_cert, has_key) = (!is_unset(&self.tls_cert), !is_unset(&self.tls_key));
        let (given, missing) = if has_cert { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
        ensure!(
            has_cert == has_key,
            "{}: stream.{given} requires stream.{missing}: set both or neither",
            section.at(given)
        );
        section.check_range("batch", self.batch, 1..=10_000)?;
        section.check_range("block_ms", self.block_ms, 10..=60_000)?;
        section.check_range("lease_ms", self.lease_ms, 500..=600_000)?;
        section.check_range("timeout_ms", self.timeout_ms, 100..=600_000)?;
        section.check_range("claim_idle_ms", self.claim_idle_ms, 0..=CLAIM_IDLE_MAX_MS)?;
        section.check_range("max_deliveries", self.max_deliveries, 0..=1_000_000)
    }
}

/// The position at which a new consumer group begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    /// At the oldest entry that the stream still holds.
    Earliest,
    /// At the first entry that is added after the group.
    Latest,
    /// After this entry.
    After(EntryId),
}

impl TryFrom<String> for Start {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            id => id.parse().map(Self::After).map_err(|_| {
                format!("`{id}`: expected \"earliest\", \"latest\" or an entry id such as \"1700000000000-0\"")
            }),
        }
    }
}

impl From<Start> for String {
    fn from(start: Start) -> Self {
        match start {
            Start::Earliest => "earliest".into(),
            Start::Latest => "latest".into(),
            Start::After(id) => id.to_string(),
        }
    }
}
