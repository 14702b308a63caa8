//! `/api/near`: the symbols that are closest to a detection.
//!
//! What holds: one detector is replayed at a time, in a thread of its own with the server's low priority, from the saved states.
//! It ends by itself. The engine is not asked, and answers within a moment are shared.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context;
use axum::{Json, extract::State, http::StatusCode};
use serde_json::Value;
use tokio::sync::oneshot;
use tracing::subscriber::{NoSubscriber, with_default};

use super::{
    app::App,
    error::{ApiError, Params},
    query::{NearQuery, near_limit},
};
use crate::why::{
    scratch::LoneDetector,
    shown::{NearStates, Shower},
};
use tickhound_engine::plugin::ProbeQuestion;

/// How long a request waits: as long as the states of a large market take to be read and replayed on a slow machine. The replay
/// goes on, and the next request gets its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The most states in an answer.
const STATES_MAX: usize = 1000;

pub(super) async fn near(
    State(app): State<Arc<App>>,
    Params(NearQuery { detector, limit }): Params<NearQuery>,
) -> Result<Json<Value>, ApiError> {
    let limit = near_limit(limit)?;
    let answer = match app.near.recent(&detector) {
        Some(answer) => answer,
        None => replayed(&app, detector).await?,
    };
    Ok(Json(shortened(answer, limit)))
}

/// Replays a detector.
async fn replayed(app: &App, name: String) -> Result<Value, ApiError> {
    let Some(permit) = app.near.begin() else {
        return Err(ApiError::unavailable("another detector is being replayed; try again"));
    };
    let generation = app.reloads.borrow().generation.clone();
    if !generation.detectors.iter().any(|spec| spec.name == name) {
        let error = format!("there is no detector {name}, or it is not enabled");
        return Err(ApiError::new(StatusCode::NOT_FOUND, error));
    }
    let detector = LoneDetector::of(&app.config, &app.root, &generation, &name);
    let detector = detector.map_err(|error| ApiError::bad_request(format!("{error:#}")))?;
    let zone = app.zone().clone();
    let (send, answer) = oneshot::channel();
    // The thread has the server's priority. Its log is not the host's: it acquires no lease, and restores no checkpoint.
    let replay = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let probed = runtime.block_on(detector.replay_saved(ProbeQuestion::Latest))?;
        let probed = probed.context("the states of the detector are not saved yet; try again in a while")?;
        let shower = Shower { spec: detector.spec(), zone: &zone };
        anyhow::Ok(shower.near_json(&NearStates::of(&probed, STATES_MAX)))
    };
    let thread = thread::Builder::new().name("near".into()).spawn(move || {
        let answer = with_default(NoSubscriber::new(), replay);
        permit.end(name, answer.as_ref().ok());
        // The request may have ended.
        let _ = send.send(answer);
    });
    thread.context("failed to start a thread")?;
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer?),
        Ok(Err(_)) => Err(ApiError::unavailable("the replay ended without an answer")),
        Err(_) => Err(ApiError::unavailable("the replay takes long; try again in a while")),
    }
}

/// The answer with at most so many states.
fn shortened(mut answer: Value, limit: usize) -> Value {
    if let Some(near) = answer.get_mut("near").and_then(Value::as_array_mut) {
        near.truncate(limit);
    }
    answer
}
