//! Becoming the owner of a partition that is fit to be owned.

use std::time::Duration;

use redis::{RedisResult, Value, aio::MultiplexedConnection, cmd};
use tracing::warn;

use super::{
    Keys, RedisStream, Session, check_epoch,
    claims::Claim,
    connect,
    group::Group,
    lease::LeaseAnswer,
    query,
    reply::{self, AcquireReply, Checkpoint},
    resp::Commands,
    unavailable,
    wire::Wire,
};
use tickhound_core::{
    config::{AlertsConfig, Start, StreamConfig},
    stream::{AcquireOutcome, Acquisition, Extent, StreamError},
};

impl RedisStream {
    pub(super) async fn try_acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let mut asks = connect(&self.client, timeout).await.map_err(unavailable)?;
        let steps = self.address.connect().await?;
        self.check_server(&mut asks).await?;
        let unclaimed = self.unclaimed(&mut asks).await?;
        // What can't be relied on is left alone, before anything is changed.
        self.read_checkpoint(&mut asks).await?;
        let epoch = match self.lease.acquire(&mut asks).await.map_err(unavailable)? {
            LeaseAnswer::Held { by, retry_in } => return Ok(AcquireOutcome::Held { by, retry_in }),
            LeaseAnswer::Ours(epoch) => epoch,
        };
        // What follows takes several round trips.
        self.lease.keep_renewing(epoch);
        let begun = self.begin_session(asks.clone(), steps, epoch, &unclaimed).await;
        if let Err(StreamError::Misconfigured(_)) = begun {
            // This host won't come back for it. The renewal ends with the failed acquisition.
            self.lease.release(&mut asks, epoch).await;
        }
        begun.map(|acquired| AcquireOutcome::Owned(Box::new(acquired)))
    }

    /// Gets to know a partition whose lease is held.
    async fn begin_session(
        &mut self,
        mut asks: MultiplexedConnection,
        mut steps: Wire,
        epoch: u64,
        unclaimed: &[Claim],
    ) -> Result<Acquisition, StreamError> {
        self.claim(&mut asks, unclaimed).await?;
        let checkpoint = self.read_checkpoint(&mut asks).await?;
        if checkpoint.complete_is_damaged {
            warn!(
                event = "complete_damaged",
                "the list of detectors whose state is saved is damaged; all detectors warm up again"
            );
        }
        self.settle_owed(&mut asks).await?;
        let Group { created, began_anew, last_delivered } = self.find_group(&mut asks, &checkpoint, epoch).await?;
        let stream: Value = query(&mut asks, cmd("XINFO").arg("STREAM").arg(&self.config.key)).await?;
        // A group that was set ahead of its stream has been given no more than there is.
        let last_delivered = reply::newest(&stream).map_or(last_delivered, |newest| last_delivered.min(newest));
        let index = match (reply::extent(&stream, true), created) {
            (Some(Extent { removed, .. }), Some(Start::Earliest)) => Some(removed),
            (Some(Extent { added, .. }), Some(Start::Latest)) => Some(added),
            _ if began_anew => None,
            _ => checkpoint.index,
        };

        let mut arm = Commands::default();
        self.arm(&mut arm);
        check_epoch(&mut steps.ask(&arm).await?, epoch)?;
        let owner = AcquireReply { epoch, token: rand::random() };
        self.session = Some(Session { steps, asks, waits: None, owner });
        self.owned_before = true;
        let last_commit = checkpoint.commit_id();
        let Checkpoint { last: newest, totals, clock, attempt, complete, made_by, rates, .. } = checkpoint;
        Ok(Acquisition {
            epoch,
            token: owner.token,
            totals,
            last_commit,
            clock,
            newest,
            index,
            oldest: reply::oldest(&stream),
            last_delivered,
            began_anew,
            attempt,
            complete,
            made_by,
            rates,
        })
    }

    /// What would break the promise later is refused now.
    pub(super) async fn check_server(&self, connection: &mut MultiplexedConnection) -> Result<(), StreamError> {
        let role: Value = query(connection, &cmd("ROLE")).await?;
        if reply::first_text(&role) == Some("slave") {
            return Err(StreamError::Unavailable("the server is a replica; waiting until it is promoted".into()));
        }
        for (key, kind) in key_types(&self.config, &self.alerts, &self.keys) {
            let found: String = query(connection, cmd("TYPE").arg(key)).await?;
            if found != kind && found != "none" {
                return Err(StreamError::Misconfigured(format!(
                    "the key {key} holds a {found}, expected a {kind}: rename or delete it, or choose another name in config.toml"
                )));
            }
        }
        // Managed servers may forbid CONFIG; then there is nothing to judge by.
        let settings: RedisResult<Vec<String>> =
            cmd("CONFIG").arg("GET").arg("maxmemory*").query_async(connection).await;
        let settings = settings.unwrap_or_default();
        let setting = |name: &str| settings.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
        if let (Some(policy), Some(limit)) = (setting("maxmemory-policy"), setting("maxmemory"))
            && may_evict_any_key(policy, limit)
        {
            return Err(StreamError::Misconfigured(format!(
                "the server may evict any key (maxmemory-policy {policy}), the stream and its group too, \
                 and then nothing can be promised: CONFIG SET maxmemory-policy noeviction"
            )));
        }
        Ok(())
    }
}

/// Every key of a partition, and what it holds.
pub(super) fn key_types<'a>(
    config: &'a StreamConfig,
    alerts: &'a AlertsConfig,
    keys: &'a Keys,
) -> [(&'a str, &'static str); 10] {
    [
        (&config.key, "stream"),
        (&alerts.stream, "stream"),
        (&alerts.shadow_stream, "stream"),
        (&keys.dead, "stream"),
        (&keys.lease, "string"),
        (&keys.epoch, "string"),
        (&keys.checkpoint, "hash"),
        (&keys.state, "hash"),
        (&keys.host, "string"),
        (&keys.notify, "hash"),
    ]
}

/// Whether a server with this policy and limit (`maxmemory-policy`, `maxmemory`) may throw the stream away.
pub fn may_evict_any_key(policy: &str, limit: &str) -> bool {
    policy.starts_with("allkeys") && limit != "0"
}
