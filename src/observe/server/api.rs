//! The state that all requests share, and the requests that are answered from it directly.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore, watch};

use super::{
    error::{ApiError, Nothing, Params},
    guard::{self, Trusted},
    live,
    redis::Asker,
};
use crate::observe::health::{Report, Verdict, Watch};
use tickhound_core::{
    config::{Config, ServerConfig, StreamConfig},
    decode::Decoder,
    receipt::{DetectorReceipt, Receipt},
    stream::owner::Owner,
    wall::now_ms,
};
use tickhound_engine::{
    monitor::{DetectorView, Monitor, Role, Samples},
    stats::Stats,
};

/// A survey takes many round trips; all requests within this time share one.
const SURVEY_EVERY: Duration = Duration::from_secs(1);

/// A server that takes longer counts as unreachable: a viewer of the page must not wait for a server that hangs.
const SURVEY_PATIENCE: Duration = Duration::from_millis(1500);

/// The longest wait for an answer of Redis, ms, even if the engine may wait longer: the client is waiting as well.
const TIMEOUT_MAX_MS: u64 = 3000;

/// What a run gives to its server.
pub(crate) struct Served {
    /// The configuration at the start; the server uses no key that may change while the host runs.
    pub(crate) config: Config,
    /// The counters of the run.
    pub(crate) stats: Arc<Stats>,
    /// A decoder like the engine's.
    pub(crate) decoder: Decoder,
    /// True when the run is about to end.
    pub(crate) stopping: watch::Receiver<bool>,
}

/// A report with the time at which it was made.
type Seen = (Instant, Arc<Report>);

pub(super) struct App {
    pub(super) config: Config,
    pub(super) stats: Arc<Stats>,
    pub(super) decoder: Decoder,
    pub(super) redis: Asker,
    /// Digest of the token.
    pub(super) token: Option<[u8; 32]>,
    /// Whether only this machine can reach the server.
    pub(super) loopback: bool,
    pub(super) free: Semaphore,
    pub(super) listeners: Arc<Semaphore>,
    /// Allows one chart at a time, since it is the only expensive request.
    pub(super) charts: Semaphore,
    /// True when the server is about to end.
    pub(super) stopped: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
    /// The lease of an engine that makes no progress for longer is not renewed.
    lease: Duration,
    /// An engine may make no progress for this long: the lifetime of its lease and the timeouts of its requests.
    still_max: Duration,
    host: String,
    look: Mutex<(Watch, Option<Seen>)>,
}

impl App {
    pub(super) fn new(config: &ServerConfig, served: Served, stopped: watch::Receiver<bool>) -> anyhow::Result<Self> {
        let Served { config: mut all, stats, decoder, stopping } = served;
        let StreamConfig { lease_ms, timeout_ms, .. } = all.stream;
        let lease = Duration::from_millis(lease_ms);
        let still_max = lease + Duration::from_millis(3 * timeout_ms);
        all.stream.timeout_ms = timeout_ms.min(TIMEOUT_MAX_MS);
        let look = Mutex::new((Watch::new(&all), None));
        Ok(Self {
            redis: Asker::new(&all.stream)?,
            config: all,
            stats,
            decoder,
            stopping,
            token: config.token.secret().map(guard::digest),
            loopback: config.address().is_some_and(|address| address.ip().is_loopback()),
            free: Semaphore::new(guard::REQUESTS_MAX),
            listeners: Arc::new(Semaphore::new(live::LISTENERS_MAX)),
            charts: Semaphore::new(1),
            stopped,
            lease,
            still_max,
            host: Owner::current().to_string(),
            look,
        })
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.stats.monitor
    }

    /// Returns a report on the partition that is at most a moment old.
    pub(super) async fn report(&self) -> Arc<Report> {
        // The lock is held during the request to Redis, so that other requests wait for the same report.
        let (watch, known) = &mut *self.look.lock().await;
        if let Some((at, report)) = known
            && at.elapsed() < SURVEY_EVERY
        {
            return report.clone();
        }
        let asked = tokio::time::timeout(SURVEY_PATIENCE, watch.look()).await;
        let report = Arc::new(asked.map_or_else(|_| self.silent(), |(report, _)| report));
        *known = Some((Instant::now(), report.clone()));
        report
    }

    /// Makes the report for a server that does not answer.
    fn silent(&self) -> Report {
        let stream = &self.config.stream;
        Report {
            verdict: Verdict::Unreachable,
            reason: format!("redis at {} does not answer", stream.address()),
            stream: stream.key.clone(),
            group: stream.group.clone(),
            survey: None,
            consumers: Vec::new(),
            work: None,
        }
    }

    /// Returns what is in force: on the owner from memory, on other hosts from what the owner has written to Redis.
    pub(super) fn receipt(&self, report: &Report) -> Option<Arc<Receipt>> {
        let own = self.monitor().receipt().filter(|_| self.monitor().role() == Role::Owner);
        own.or_else(|| report.survey.as_ref()?.receipt.clone().map(Arc::new))
    }

    /// Returns the age of the oldest uncommitted entry, ms; 0 if there is none, `None` if it is unknown.
    pub(super) fn behind_ms(&self, report: Option<&Report>) -> Option<u64> {
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
        let report = match app.look.try_lock() {
            Ok(look) => {
                look.1.as_ref().filter(|(at, _)| at.elapsed() < 2 * SURVEY_EVERY).map(|(_, report)| report.clone())
            }
            Err(_) => None,
        };
        app.monitor().sample(&app.stats, app.behind_ms(report.as_deref()));
    }
}

pub(super) async fn healthz(State(app): State<Arc<App>>, _: Params<Nothing>) -> Response {
    let still = app.stats.pulse.still_for();
    if still > app.still_max {
        let error = format!("the engine has made no progress for {} s", still.as_secs());
        return ApiError::unavailable(error).into_response();
    }
    Json(json!({ "alive": true })).into_response()
}

pub(super) async fn readyz(
    State(app): State<Arc<App>>,
    Extension(Trusted(trusted)): Extension<Trusted>,
    _: Params<Nothing>,
) -> Response {
    let report = app.report().await;
    let mut reasons = Vec::new();
    if matches!(report.verdict, Verdict::Stuck | Verdict::Unreachable) {
        reasons.push(report.reason.clone());
    }
    let still = app.stats.pulse.still_for();
    if still > app.lease {
        reasons.push(format!("the engine has made no progress for {} s; a standby may take over", still.as_secs()));
    }
    if app.monitor().role() == Role::Connecting {
        reasons.push("this host has no connection to redis yet, or has lost it".to_owned());
    }
    if *app.stopping.borrow() {
        reasons.push("this host is stopping".to_owned());
    }
    let ready = reasons.is_empty();
    if !ready && !trusted {
        reasons = vec!["send the token to see the reasons".to_owned()];
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "reasons": reasons }))).into_response()
}

pub(super) async fn status(State(app): State<Arc<App>>, _: Params<Nothing>) -> Json<Value> {
    let report = app.report().await;
    let (stats, monitor, load) = (&app.stats, app.monitor(), app.monitor().load());
    let (submitted, completed) = (stats.submitted.load(Relaxed), stats.completed.load(Relaxed));
    let workers: Vec<Value> = monitor
        .shards()
        .iter()
        .enumerate()
        .map(|(shard, worker)| {
            json!({
                "shard": shard,
                "queued": worker.queued.load(Relaxed),
                "ticks": worker.ticks.load(Relaxed),
                "busy_share": load.busy_share.get(shard).copied().unwrap_or(0.0),
            })
        })
        .collect();
    Json(json!({
        "verdict": report.verdict,
        "reason": report.reason,
        "now_ms": now_ms(),
        "version": env!("CARGO_PKG_VERSION"),
        "started_at_ms": monitor.started_at_ms,
        "host": app.host,
        "role": monitor.role(),
        "stream": report.stream,
        "group": report.group,
        "ticks_per_s": load.ticks_per_s,
        "alerts_per_min": load.alerts_per_min,
        "behind_ms": app.behind_ms(Some(&report)),
        "counters": {
            "submitted": submitted,
            "completed": completed,
            "backlog": submitted.saturating_sub(completed),
            "alerts": stats.alerts.load(Relaxed),
            "late": stats.late.load(Relaxed),
            "dead": stats.dead.load(Relaxed),
            "repaired": stats.repaired.load(Relaxed),
            "unseen": stats.unseen.load(Relaxed),
            "lag_ms": stats.lag_ms.load(Relaxed),
        },
        "latency_ms": load.latency,
        "workers": workers,
        "survey": report.survey,
        "consumers": report.consumers,
    }))
}

pub(super) async fn history(State(app): State<Arc<App>>, _: Params<Nothing>) -> Json<Samples> {
    Json(app.monitor().samples())
}

pub(super) async fn detectors(State(app): State<Arc<App>>, _: Params<Nothing>) -> Result<Json<Value>, ApiError> {
    let monitor = app.monitor();
    let report = app.report().await;
    let owns = monitor.role() == Role::Owner;
    if !owns && report.verdict == Verdict::Unreachable {
        return Err(ApiError::unavailable(report.reason.clone()));
    }
    let Some(receipt) = app.receipt(&report) else {
        return Ok(Json(json!({ "detectors": [], "warming": [], "refusal": null, "needs_restart": [] })));
    };
    // Only the owner knows more than what is in Redis.
    let views = if owns { monitor.detectors() } else { Vec::new() };
    let load = monitor.load();
    let show = |detector: &DetectorReceipt| {
        let mut shown = json!(detector);
        for only_here in ["warm_up_s", "core_share", "ticks", "alerts"] {
            shown[only_here] = Value::Null;
        }
        if let Some(DetectorView { spec, counts }) = views.iter().find(|view| view.spec.name == detector.name) {
            let share = load.detectors.iter().find(|load| load.name == detector.name);
            shown["warm_up_s"] = json!(spec.warm_up_seconds);
            shown["ns_per_tick"] = json!(spec.health.ns_per_tick());
            shown["core_share"] = json!(share.map_or(0.0, |share| share.core_share));
            shown["ticks"] = json!(counts.ticks);
            shown["alerts"] = json!(counts.alerts);
            shown["faults"] = json!(counts.faults);
            shown["skipped"] = json!(counts.skipped);
        }
        shown
    };
    Ok(Json(json!({
        "detectors": receipt.detectors.iter().map(show).collect::<Vec<_>>(),
        "warming": receipt.warming,
        "refusal": receipt.refusal,
        "needs_restart": receipt.needs_restart,
    })))
}

pub(super) async fn openapi(_: Params<Nothing>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}
