//! `/api/alerts`: the alerts in the alerts stream, newest first, filtered.

use std::sync::Arc;

use axum::{Json, extract::State};
use redis::cmd;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    api::App,
    error::{ApiError, Params},
};
use tickhound_core::event::EntryId;

/// The alerts that are read from Redis at once.
const PAGE: usize = 1000;

/// The most alerts that are read for one response. If too few match, the response says where to continue.
const LOOKED_AT_MAX: usize = 20_000;

const LIMIT_DEFAULT: usize = 100;
pub(super) const LIMIT_MAX: usize = 1000;

/// An entry of the alerts stream: its id, names and values.
pub(super) type Stored = (String, Vec<(String, String)>);

/// Which alerts are asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) detector: Option<String>,
    pub(super) symbol: Option<String>,
    pub(super) min_confidence: Option<f64>,
    pub(super) stale: Option<bool>,
}

impl Filter {
    pub(super) fn new(
        detector: Option<String>,
        symbol: Option<String>,
        min_confidence: Option<f64>,
        stale: Option<bool>,
    ) -> Result<Self, ApiError> {
        if let Some(wrong) = min_confidence.filter(|least| !(0.0..=1.0).contains(least)) {
            return Err(ApiError::bad_request(format!("min_confidence is {wrong}, expected 0 to 1")));
        }
        Ok(Self { detector, symbol, min_confidence, stale })
    }

    pub(super) fn fits(&self, alert: &Alert) -> bool {
        self.detector.as_ref().is_none_or(|detector| *detector == alert.detector)
            && self.symbol.as_ref().is_none_or(|symbol| *symbol == alert.symbol)
            && self.min_confidence.is_none_or(|least| alert.confidence.is_some_and(|confidence| confidence >= least))
            && self.stale.is_none_or(|stale| stale == alert.stale)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    detector: Option<String>,
    symbol: Option<String>,
    min_confidence: Option<f64>,
    stale: Option<bool>,
    limit: Option<usize>,
    before: Option<String>,
}

/// An alert with its numbers as numbers. What another program has written into the stream is shown as far as it goes.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Alert {
    pub(super) stream_id: String,
    pub(super) id: String,
    pub(super) detector: String,
    plugin: String,
    version: String,
    pub(super) symbol: String,
    /// Event time, ns since the Unix epoch.
    time: Option<u64>,
    price: Option<f64>,
    pub(super) confidence: Option<f64>,
    direction: String,
    evidence: Map<String, Value>,
    pub(super) entry: String,
    lag_ms: Option<u64>,
    recovered: bool,
    pub(super) stale: bool,
}

impl Alert {
    pub(super) fn new((stream_id, fields): Stored) -> Self {
        let mut fields = fields;
        let mut take = |name: &str| match fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => std::mem::take(value),
            None => String::new(),
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        Self {
            stream_id,
            id: take("id"),
            detector: take("detector"),
            plugin: take("plugin"),
            version: take("version"),
            symbol: take("symbol"),
            time: take("time").parse().ok(),
            price: number(&take("price")),
            confidence: number(&take("confidence")),
            direction: take("direction"),
            evidence: serde_json::from_str(&take("evidence")).unwrap_or_default(),
            entry: take("entry"),
            lag_ms: take("lag_ms").parse().ok(),
            recovered: take("recovered") == "1",
            stale: take("stale") == "1",
        }
    }
}

#[derive(Serialize)]
pub(super) struct Answer {
    alerts: Vec<Alert>,
    /// Where to go on: the `before` of the next request; `None`: there are no more.
    next: Option<String>,
}

pub(super) async fn list(State(app): State<Arc<App>>, Params(query): Params<Query>) -> Result<Json<Answer>, ApiError> {
    let Query { detector, symbol, min_confidence, stale, limit, before } = query;
    let filter = Filter::new(detector, symbol, min_confidence, stale)?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::bad_request(format!("limit is {limit}, expected 1 to {LIMIT_MAX}")));
    }
    let mut end = match before {
        Some(id) => format!("({}", entry_id("before", &id)?),
        None => "+".to_owned(),
    };
    let (mut alerts, mut looked_at) = (Vec::new(), 0);
    loop {
        let mut page = cmd("XREVRANGE");
        page.arg(&app.config.alerts.stream).arg(&end).arg("-").arg("COUNT").arg(PAGE);
        let page: Vec<Stored> = app.redis.ask(&page).await?;
        let all = page.len() < PAGE;
        let mut last = None;
        for stored in page {
            looked_at += 1;
            last = Some(stored.0.clone());
            let alert = Alert::new(stored);
            if filter.fits(&alert) {
                alerts.push(alert);
                if alerts.len() == limit {
                    return Ok(Json(Answer { alerts, next: last }));
                }
            }
        }
        let Some(last) = last.filter(|_| !all) else { return Ok(Json(Answer { alerts, next: None })) };
        if looked_at >= LOOKED_AT_MAX {
            return Ok(Json(Answer { alerts, next: Some(last) }));
        }
        end = format!("({last}");
    }
}

pub(super) fn entry_id(name: &str, text: &str) -> Result<EntryId, ApiError> {
    // This is the pattern of the OpenAPI description. Numbers of twenty digits may not fit.
    let digits = |part: &str| (1..=19).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|_| text.splitn(2, '-').all(digits));
    id.ok_or_else(|| {
        ApiError::bad_request(format!("{name} is `{text}`, expected the id of an entry such as 1762140000000-0"))
    })
}
