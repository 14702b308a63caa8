//! The right to read a partition, renewed on a connection and a timer of its own.
//!
//! The lease only keeps two hosts from fighting. That a host which lost it can
//! do no harm is the epoch's work, in the step.
//!
//! The lease is renewed only while the engine's loop comes round: a host that is stuck must not keep a
//! standby from taking over. A stall shorter than the lease's life goes unnoticed; one of twice that
//! length gives the lease away.

use std::time::Duration;

use redis::{Client, RedisResult, Script, aio::MultiplexedConnection};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::{Keys, connect};
use tickhound_core::{config::StreamConfig, pulse::Pulse, stream::owner::Owner};

/// KEYS lease, epoch; ARGV owner, ttl, a holder that is known to be gone.
const ACQUIRE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[3] then
  return {0, holder, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {redis.call('INCR', KEYS[2]), '', 0}";

/// KEYS lease, epoch; ARGV owner, ttl, epoch. An expired lease that nobody took is ours still. One that another host
/// holds is not, whatever the epoch: a replica that was promoted before it had heard of our acquisition gave our
/// epoch to the other one as well.
const RENEW: &str = r"
local holder = redis.call('GET', KEYS[1])
if redis.call('GET', KEYS[2]) ~= ARGV[3] or (holder and holder ~= ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// KEYS lease, epoch; ARGV owner, epoch. A renewal that is still on its way finds another epoch, and does nothing.
const RELEASE: &str = r"
local holder = redis.call('GET', KEYS[1])
if redis.call('GET', KEYS[2]) ~= ARGV[2] or (holder and holder ~= ARGV[1]) then return 0 end
redis.call('INCR', KEYS[2])
return redis.call('DEL', KEYS[1])";

pub(super) enum LeaseAnswer {
    Ours(u64),
    Held { by: String, retry_in: Duration },
}

pub(super) struct Lease {
    client: Client,
    keys: Keys,
    ttl: Duration,
    timeout: Duration,
    owner: String,
    /// The engine's; `None` if nothing drives the lease but itself.
    pulse: Option<Pulse>,
    renewing: Option<JoinHandle<()>>,
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
            renewing: None,
        }
    }

    /// Renews only while this pulse goes.
    pub(super) fn follow(&mut self, pulse: Pulse) {
        self.pulse = Some(pulse);
    }

    pub(super) async fn acquire(&self, connection: &mut MultiplexedConnection) -> RedisResult<LeaseAnswer> {
        let mut gone = String::new();
        loop {
            let (epoch, holder, ttl): (u64, String, i64) = Script::new(ACQUIRE)
                .key(&self.keys.lease)
                .key(&self.keys.epoch)
                .arg(&self.owner)
                .arg(self.ttl.as_millis() as u64)
                .arg(&gone)
                .invoke_async(connection)
                .await?;
            if epoch > 0 {
                return Ok(LeaseAnswer::Ours(epoch));
            }
            match Owner::parse(&holder) {
                Some(owner) if owner.is_gone() && holder != gone => {
                    info!(
                        event = "lease_owner_dead",
                        %owner,
                        "the process that held the lease was killed; acquiring the lease"
                    );
                    gone = holder;
                }
                Some(owner) => return Ok(LeaseAnswer::Held { by: owner.to_string(), retry_in: self.retry_in(ttl) }),
                None => return Ok(LeaseAnswer::Held { by: holder, retry_in: self.retry_in(ttl) }),
            }
        }
    }

    /// A quarter of the lease's life, and never past its end: a take-over comes soon after it ran out.
    fn retry_in(&self, ttl_ms: i64) -> Duration {
        let left = Duration::from_millis(u64::try_from(ttl_ms).unwrap_or(0) + 1);
        left.min(self.ttl / 4).max(Duration::from_millis(20))
    }

    pub(super) fn keep_renewing(&mut self, epoch: u64) {
        let (client, keys, owner) = (self.client.clone(), self.keys.clone(), self.owner.clone());
        let (ttl, timeout) = (self.ttl, self.timeout.min(self.ttl / 3));
        let mut vouched = Vouched { pulse: self.pulse.clone(), longest: ttl, stalled: false };
        self.renewing = Some(tokio::spawn(async move {
            let script = Script::new(RENEW);
            let mut connection = None;
            let mut timer = tokio::time::interval(ttl / 3);
            loop {
                timer.tick().await;
                if !vouched.is_turning() {
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

    pub(super) fn stop_renewing(&mut self) {
        if let Some(task) = self.renewing.take() {
            task.abort();
        }
    }

    /// Lets a stand-by begin at once. A failure only makes it wait for the lease to run out.
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

/// Whether the engine vouches for a renewal, with a log line when that changes.
struct Vouched {
    pulse: Option<Pulse>,
    /// How long the engine may stand still.
    longest: Duration,
    stalled: bool,
}

impl Vouched {
    fn is_turning(&mut self) -> bool {
        let Some(pulse) = &self.pulse else { return true };
        let still = pulse.still_for();
        let stalled = still > self.longest;
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
