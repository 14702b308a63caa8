//! The requests that are answered from the shared state directly.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use axum::{
    Extension, Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    app::App,
    error::{ApiError, Nothing, Params},
    guard::Trusted,
};
use crate::observe::health::Verdict;
use tickhound_core::{
    receipt::{DetectorReceipt, MarketReceipt},
    wall::now_ms,
};
use tickhound_engine::monitor::{DetectorView, Role, Samples};

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
    let mut answer = json!({ "ready": ready, "reasons": reasons, "verdict": report.verdict });
    if trusted {
        // A host with a silent feed or a full disk is ready: to restart it, or to send requests elsewhere, mends neither.
        answer["verdict_reasons"] = json!(report.reasons);
    }
    (status, Json(answer)).into_response()
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
        "reasons": report.reasons,
        "now_ms": now_ms(),
        "timezone": app.timezone,
        "timezone_label": app.timezone_label(),
        "version": env!("CARGO_PKG_VERSION"),
        "started_at_ms": monitor.started_at_ms,
        "host": app.host,
        "role": monitor.role(),
        "stream": report.stream,
        "group": report.group,
        "ticks_per_s": load.ticks_per_s,
        "alerts_per_min": load.alerts_per_min,
        "behind_ms": app.behind_ms(Some(&report)),
        "last_tick_ms": app.last_tick_ms(&report),
        "counters": {
            "submitted": submitted,
            "completed": completed,
            "backlog": submitted.saturating_sub(completed),
            "alerts": stats.alerts.load(Relaxed),
            "late": stats.stale.load(Relaxed),
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
        return Ok(Json(
            json!({ "detectors": [], "warming": [], "refusal": null, "needs_restart": [], "market": MarketReceipt::default() }),
        ));
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
            shown["warm_up_s"] = json!(spec.trial.warm_up_seconds);
            shown["ns_per_tick"] = json!(spec.health.ns_per_tick());
            shown["core_share"] = json!(share.map_or(0.0, |share| share.core_share));
            shown["ticks"] = json!(counts.ticks);
            shown["alerts"] = json!(counts.alerts);
            shown["left_out"] = json!(counts.left_out);
            shown["faults"] = json!(counts.faults);
            shown["skipped"] = json!(counts.skipped);
        }
        shown
    };
    Ok(Json(json!({
        "detectors": receipt.detectors.iter().map(show).collect::<Vec<_>>(),
        "warming": receipt.warming,
        "refusal": receipt.rejection,
        "needs_restart": receipt.needs_restart,
        "market": receipt.market,
    })))
}

pub(super) async fn openapi(_: Params<Nothing>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}
