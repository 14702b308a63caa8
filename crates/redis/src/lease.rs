//! The lease on a partition, renewed by a task with its own connection and timer.
//!
//! The lease only keeps two hosts from competing. The epoch, which every step checks, makes sure that a host which lost
//! the lease does no harm.
//!
//! The lease is renewed only while the engine makes progress: a host that is stuck must not keep a standby from
//! acquiring it. A stall that is shorter than the lease's time to live has no effect; one that is twice as long loses the
//! lease.

use std::time::Duration;

use redis::{Client, RedisResult, Script, aio::MultiplexedConnection};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::{connection::connect, keys::Keys};
use tickhound_core::{config::StreamConfig, pulse::Pulse, stream::owner::Owner};

/// Acquires the lease. KEYS lease, epoch; ARGV owner, ttl, an owner whose process is known to be dead.
const ACQUIRE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then
  return {0, holder, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {redis.call('INCR', KEYS[2]), '', 0}";

/// Renews the lease. KEYS lease, epoch; ARGV owner, ttl, epoch. An expired lease that nobody acquired is still ours. One
/// that another host holds is not, even under our epoch: a replica that was promoted before it received our acquisition
/// gave the same epoch to the other host.
const RENEW: &str = r"
local holder = redis.call('GET', KEYS[1])
if redis.call('GET', KEYS[2]) ~= ARGV[3] or (holder and holder ~= ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// Releases the lease. KEYS lease, epoch; ARGV owner, epoch. It raises the epoch, so that a renewal which arrives later
/// does nothing.
const RELEASE: &str = r"
local holder = redis.call('GET', KEYS[1])
if redis.call('GET', KEYS[2]) ~= ARGV[2] or (holder and holder ~= ARGV[1]) then return 0 end
redis.call('INCR', KEYS[2])
return redis.call('DEL', KEYS[1])";

/// How an attempt to acquire the lease ended.
pub(super) enum LeaseReply {
    /// The lease is ours, under this epoch.
    Acquired(u64),
    /// Another host holds the lease.
    Held { by: String, retry_in: Duration },
}

/// The lease of one partition, as this host sees it.
pub(super) struct Lease {
    client: Client,
    keys: Keys,
    ttl: Duration,
    timeout: Duration,
    owner: String,
    /// The pulse of the engine; without one the lease is always renewed.
    pulse: Option<Pulse>,
    renewal: Option<JoinHandle<()>>,
}

impl Lease {
    pub(super) fn new(client: Client, keys: &Keys, config: &StreamConfig) -> Self {
        Self {
            client,
            keys: keys.clone(),
            ttl: Duration::from_millis(config.lease_ms),
            timeout: Duration::from_millis(config.timeout_ms),
            owner: Owner::current().to_text(),
            pulse: None,
            renewal: None,
        }
    }

    /// Renews the lease only while this pulse beats.
    pub(super) fn follow(&mut self, pulse: Pulse) {
        self.pulse = Some(pulse);
    }

    /// Tries to acquire the lease. An owner that ran on this machine and is dead does not hold it any longer.
    pub(super) async fn acquire(&self, connection: &mut MultiplexedConnection) -> RedisResult<LeaseReply> {
        let mut dead = String::new();
        loop {
            let (epoch, holder, ttl): (u64, String, i64) = Script::new(ACQUIRE)
                .key(&self.keys.lease)
                .key(&self.keys.epoch)
                .arg(&self.owner)
                .arg(self.ttl.as_millis() as u64)
                .arg(&dead)
                .invoke_async(connection)
                .await?;
            if epoch > 0 {
                return Ok(LeaseReply::Acquired(epoch));
            }
            match Owner::parse(&holder) {
                Some(owner) if owner.is_gone() && holder != dead => {
                    info!(
                        event = "lease_owner_dead",
                        %owner,
                        "the process that held the lease was killed; acquiring the lease"
                    );
                    dead = holder;
                }
                Some(owner) => return Ok(LeaseReply::Held { by: owner.to_string(), retry_in: self.retry_in(ttl) }),
                None => return Ok(LeaseReply::Held { by: holder, retry_in: self.retry_in(ttl) }),
            }
        }
    }

    /// Waits a quarter of the lease's time to live, but not past its end, so that a standby acquires it soon after that.
    fn retry_in(&self, ttl_ms: i64) -> Duration {
        let left = Duration::from_millis(u64::try_from(ttl_ms).unwrap_or(0) + 1);
        left.min(self.ttl / 4).max(Duration::from_millis(20))
    }

    /// Starts the task that renews the lease under this epoch.
    pub(super) fn start_renewing(&mut self, epoch: u64) {
        let (client, keys, owner) = (self.client.clone(), self.keys.clone(), self.owner.clone());
        let (ttl, timeout) = (self.ttl, self.timeout.min(self.ttl / 3));
        let mut progress = EngineProgress { pulse: self.pulse.clone(), longest_stall: ttl, stalled: false };
        self.renewal = Some(tokio::spawn(async move {
            let script = Script::new(RENEW);
            let mut connection = None;
            let mut timer = tokio::time::interval(ttl / 3);
            loop {
                timer.tick().await;
                if !progress.check() {
                    continue;
                }
                if connection.is_none() {
                    connection = connect(&client, timeout).await.ok();
                }
                let Some(open) = &mut connection else { continue };
                let mut renew = script.key(&keys.lease);
                renew.key(&keys.epoch).arg(&owner).arg(ttl.as_millis() as u64).arg(epoch);
                match renew.invoke_async::<u64>(open).await {
                    Ok(1) => {}
                    Ok(_) => {
                        warn!(event = "lease_lost", epoch, "the lease has another owner now");
                        return;
                    }
                    Err(error) => {
                        debug!(event = "lease_renewal_failed", %error, "failed to renew the lease");
                        connection = None;
                    }
                }
            }
        }));
    }

    /// Ends the task that renews the lease.
    pub(super) fn stop_renewing(&mut self) {
        if let Some(task) = self.renewal.take() {
            task.abort();
        }
    }

    /// Releases the lease, so that a standby can acquire it at once. After a failure the standby waits until it expires.
    pub(super) async fn release(&self, connection: &mut MultiplexedConnection, epoch: u64) {
        let script = Script::new(RELEASE);
        let mut release = script.key(&self.keys.lease);
        if let Err(error) =
            release.key(&self.keys.epoch).arg(&self.owner).arg(epoch).invoke_async::<u64>(connection).await
        {
            debug!(event = "lease_release_failed", %error, "failed to release the lease; it will expire");
        }
    }
}

/// Watches whether the engine makes progress, and logs when that changes.
struct EngineProgress {
    pulse: Option<Pulse>,
    /// The engine may make no progress for so long.
    longest_stall: Duration,
    stalled: bool,
}

impl EngineProgress {
    /// Whether the engine makes progress.
    fn check(&mut self) -> bool {
        let Some(pulse) = &self.pulse else { return true };
        let still = pulse.still_for();
        let stalled = still > self.longest_stall;
        if stalled && !self.stalled {
            warn!(
                event = "lease_renewal_paused",
                still_s = still.as_secs(),
                "the engine has made no progress for longer than stream.lease_ms; not renewing the lease, so that a \
                 standby can acquire it"
            );
        }
        if !stalled && self.stalled {
            info!(
                event = "lease_renewal_resumed",
                "the engine makes progress again; renewing the lease, unless another host has acquired it"
            );
        }
        self.stalled = stalled;
        !stalled
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_renewing();
    }
}
