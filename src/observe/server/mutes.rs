//! `/api/mutes`: what notification channels leave out for a while. The only part of the API that changes anything.
//!
//! What holds: a mute changes nothing but what channels send. The guard has made sure that no other web site has sent the
//! request.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::{MethodRouter, get},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    app::App,
    error::{ApiError, Nothing, Params},
};
use crate::notify::{self, MuteEnd, MuteError};
use tickhound_core::config::Config;
use tickhound_redis::mutes::Mute;

/// The largest body of a request, bytes: two patterns and a span.
const BODY_MAX: usize = 4096;

/// What to mute.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"symbols\": \"NIFTY*\", \"for\": \"30m\"}")]
struct MuteRequest {
    symbols: String,
    #[serde(default = "any")]
    detector: String,
    /// A span such as `30m`, or `session`.
    #[serde(rename = "for", default = "session")]
    end: String,
}

/// The parameters of a request that ends a mute.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnmuteQuery {
    symbols: String,
    #[serde(default = "any")]
    detector: String,
}

fn any() -> String {
    "*".into()
}

fn session() -> String {
    "session".into()
}

/// What each method does.
pub(super) fn routes() -> MethodRouter<Arc<App>> {
    get(list).post(mute).delete(unmute).layer(DefaultBodyLimit::max(BODY_MAX))
}

async fn list(State(app): State<Arc<App>>, _: Params<Nothing>) -> Result<Json<Value>, ApiError> {
    let mutes = blocking(&app, notify::mutes).await??;
    let mutes: Vec<Value> = mutes.iter().map(|(mute, alerts)| to_json(mute, *alerts)).collect();
    Ok(Json(json!({ "mutes": mutes })))
}

async fn mute(
    State(app): State<Arc<App>>,
    _: Params<Nothing>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let request: MuteRequest = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("the body is not a mute: {error}")))?;
    let MuteRequest { symbols, detector, end } = request;
    let end = MuteEnd::parse(&end).map_err(|error| ApiError::bad_request(format!("for: {error}")))?;
    let made = blocking(&app, move |config| notify::mute(config, &symbols, &detector, &end)).await?;
    let made = made.map_err(|error| rejected(error, StatusCode::BAD_REQUEST))?;
    Ok((StatusCode::CREATED, Json(to_json(&made, 0))))
}

async fn unmute(State(app): State<Arc<App>>, query: Params<UnmuteQuery>) -> Result<Json<Value>, ApiError> {
    let Params(UnmuteQuery { symbols, detector }) = query;
    let ended = blocking(&app, move |config| notify::unmute(config, &symbols, &detector)).await?;
    ended.map_err(|error| rejected(error, StatusCode::NOT_FOUND))?;
    Ok(Json(json!({ "ok": true })))
}

/// The answer to what is not possible has this status.
fn rejected(error: MuteError, status: StatusCode) -> ApiError {
    match error {
        MuteError::Rejected(reason) => ApiError::new(status, reason),
        MuteError::Failed(error) => ApiError::from(error),
    }
}

/// Asks Redis on a thread of its own, since the server has only one.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    ask: impl FnOnce(&Config) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let asked = tokio::task::spawn_blocking(move || ask(&app.config)).await;
    asked.map_err(|_| ApiError::unavailable("the request ended early"))
}

fn to_json(mute: &Mute, alerts: u64) -> Value {
    let Mute { symbols, detector, made_ms, until_ms } = mute;
    json!({ "symbols": symbols, "detector": detector, "made_ms": made_ms, "until_ms": until_ms, "alerts": alerts })
}
