//! The state that all requests share.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::{Timestamp, tz::TimeZone};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore, watch};

use super::{near_replays::NearReplays, shares::Shares};
use crate::{
    clock,
    observe::health::{HealthObserver, HealthReport},
};
use tickhound_core::{
    config::{Config, ServerConfig, StreamConfig},
    decode::Decoder,
    receipt::Receipt,
    stream::owner::Owner,
};
use tickhound_engine::{
    monitor::{Monitor, Role},
    plugin::Reload,
    stats::Stats,
};
use tickhound_redis::StreamQueries;

/// A survey takes many round trips; all requests within this time share one.
const SURVEY_EVERY: Duration = Duration::from_secs(1);

/// A server that takes longer counts as unreachable: a viewer of the page must not wait for a server that hangs.
const SURVEY_PATIENCE: Duration = Duration::from_millis(1500);

/// The longest wait for an answer of Redis, ms, even if the engine may wait longer: the client is waiting as well.
const TIMEOUT_MAX_MS: u64 = 3000;

/// The most concurrent requests, without open streams, health and metrics. More would only make each slower, since there
/// is one thread.
const REQUESTS_MAX: usize = 16;

/// The most concurrent listeners; each holds a connection to Redis.
const LISTENERS_MAX: usize = 16;

/// How many of these one address may have: a quarter is left for others, and an office behind one address can still work.
const REQUESTS_PER_ADDRESS: usize = 12;
const LISTENERS_PER_ADDRESS: usize = 12;

/// What a run gives to its server.
pub(crate) struct ServerContext {
    /// The configuration at the start; the server uses no key that may change while the host runs.
    pub(crate) config: Config,
    /// The counters of the run.
    pub(crate) stats: Arc<Stats>,
    /// A decoder like the engine's.
    pub(crate) decoder: Decoder,
    /// The folder that paths in the configuration are relative to.
    pub(crate) root: PathBuf,
    /// The newest generation, and each one after it.
    pub(crate) reloads: watch::Receiver<Reload>,
    /// True when the run is about to end.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A report that was made a moment ago.
struct RecentReport {
    at: Instant,
    /// The host's role at that time: a host that has lost its connection since knows better.
    role: Role,
    report: Arc<HealthReport>,
}

pub(super) struct App {
    pub(super) config: Config,
    pub(super) stats: Arc<Stats>,
    pub(super) decoder: Decoder,
    pub(super) queries: StreamQueries,
    /// The digest of the token; `None` if no token is configured.
    pub(super) token: Option<[u8; 32]>,
    /// Whether only this machine can reach the server.
    pub(super) loopback: bool,
    pub(super) requests: Arc<Shares>,
    pub(super) listeners: Arc<Shares>,
    /// Allows one chart at a time, since it is the only expensive request.
    pub(super) charts: Semaphore,
    pub(super) near: NearReplays,
    pub(super) root: PathBuf,
    pub(super) reloads: watch::Receiver<Reload>,
    /// True when the server is about to end.
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) stopping: watch::Receiver<bool>,
    /// The lease of an engine that makes no progress for longer is not renewed.
    pub(super) lease: Duration,
    /// An engine may make no progress for this long: the lifetime of its lease and the timeouts of its requests.
    pub(super) still_max: Duration,
    pub(super) host: String,
    observer: Mutex<(HealthObserver, Option<RecentReport>)>,
    /// Whether something has happened since the last report that it can't know.
    doubted: AtomicBool,
    /// The IANA name of the zone of the times that people see.
    pub(super) timezone: String,
    zone: TimeZone,
}

impl App {
    pub(super) fn new(
        config: &ServerConfig,
        served: ServerContext,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let ServerContext { config: mut all, stats, decoder, root, reloads, stopping } = served;
        let StreamConfig { lease_ms, timeout_ms, .. } = all.stream;
        let lease = Duration::from_millis(lease_ms);
        let still_max = lease + Duration::from_millis(3 * timeout_ms);
        all.stream.timeout_ms = timeout_ms.min(TIMEOUT_MAX_MS);
        let observer = Mutex::new((HealthObserver::new(&all), None));
        let zone = all.display_zone()?;
        let timezone = zone.iana_name().unwrap_or("UTC").to_owned();
        // Behind a proxy all requests come from one address.
        let shares = |total, of_address| match config.connections_per_address {
            0 => Shares::new(total, total),
            _ => Shares::new(total, of_address),
        };
        Ok(Self {
            queries: StreamQueries::new(&all.stream, &all.alerts)?,
            config: all,
            stats,
            decoder,
            stopping,
            token: config.token.secret().map(digest),
            loopback: config.address().is_some_and(|address| address.ip().is_loopback()),
            requests: shares(REQUESTS_MAX, REQUESTS_PER_ADDRESS),
            listeners: shares(LISTENERS_MAX, LISTENERS_PER_ADDRESS),
            charts: Semaphore::new(1),
            near: NearReplays::default(),
            root,
            reloads,
            stopped,
            lease,
            still_max,
            host: Owner::current().to_string(),
            observer,
            doubted: AtomicBool::new(false),
            timezone,
            zone,
        })
    }

    /// The zone of the times that people see.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.stats.monitor
    }

    /// Notes that the connection to Redis was lost or is back, so that the next report is a new one.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Relaxed);
    }

    /// What the zone of times is called now.
    pub(super) fn timezone_label(&self) -> String {
        clock::label(Timestamp::now(), &self.zone)
    }

    /// Returns a report on the partition that is at most a moment old, and no older than the host's last change of role.
    pub(super) async fn report(&self) -> Arc<HealthReport> {
        // The lock is held during the request to Redis, so that other requests wait for the same report.
        let (observer, known) = &mut *self.observer.lock().await;
        let (role, doubted) = (self.monitor().role(), self.doubted.swap(false, Relaxed));
        if let Some(recent) = known
            && !doubted
            && recent.role == role
            && recent.at.elapsed() < SURVEY_EVERY
        {
            return recent.report.clone();
        }
        let asked = tokio::time::timeout(SURVEY_PATIENCE, observer.observe()).await;
        let report = match asked {
            Ok((report, _)) => report,
            Err(_) => {
                let reason = format!("redis at {} does not answer", self.config.stream.address());
                HealthReport::unreachable(&self.config, reason)
            }
        };
        let report = Arc::new(report);
        *known = Some(RecentReport { at: Instant::now(), role, report: report.clone() });
        report
    }

    /// Returns what is in force: on the owner from memory, on other hosts from what the owner has written to Redis.
    pub(super) fn receipt(&self, report: &HealthReport) -> Option<Arc<Receipt>> {
        let own = self.monitor().receipt().filter(|_| self.monitor().role() == Role::Owner);
        own.or_else(|| report.survey.as_ref()?.receipt.clone().map(Arc::new))
    }

    /// Returns when the owner committed the last tick, ms since the Unix epoch; `None` if that is not known.
    pub(super) fn last_tick_ms(&self, report: &HealthReport) -> Option<u64> {
        if self.monitor().role() == Role::Owner {
            return self.monitor().last_tick_ms();
        }
        let survey = report.survey.as_ref().filter(|survey| survey.owner.is_some())?;
        survey.receipt.as_ref()?.last_tick_ms
    }

    /// Returns the age of the oldest uncommitted entry, ms; 0 if there is none, `None` if it is unknown.
    pub(super) fn behind_ms(&self, report: Option<&HealthReport>) -> Option<u64> {
        let in_flight = self.monitor().behind_ms();
        match report.and_then(|report| report.survey.as_ref()) {
            Some(survey) => Some(survey.behind_ms.unwrap_or(0).max(in_flight)),
            // The owner reads all the time, so its oldest entry in flight is the oldest one.
            None if self.monitor().role() == Role::Owner => Some(in_flight),
            None => Some(in_flight).filter(|behind| *behind > 0),
        }
    }
}

/// Takes a sample every second.
pub(super) async fn sample(app: Arc<App>) {
    let mut timer = tokio::time::interval(Duration::from_secs(1));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        timer.tick().await;
        let report = match app.observer.try_lock() {
            Ok(observer) => {
                let recent = observer.1.as_ref().filter(|recent| recent.at.elapsed() < 2 * SURVEY_EVERY);
                recent.map(|recent| recent.report.clone())
            }
            Err(_) => None,
        };
        app.stats.sample(app.behind_ms(report.as_deref()));
    }
}

/// Returns the digest of a token. All digests have the same length, so the time of a comparison reveals nothing.
pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
