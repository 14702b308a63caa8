//! `/api/alerts`: the alerts in the alerts stream, newest first, filtered.

use std::{ops::Bound, sync::Arc};

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    app::App,
    error::{ApiError, Params},
    paging::PageSize,
    query::{AlertsQuery, alerts_limit, confidence, entry_id},
};
use tickhound_core::pattern::SymbolPattern;
use tickhound_redis::{AlertFilter, AlertPage, NamePattern, PageRequest, ReadOrder, StoredAlert};

/// The most alerts that are read for one response. If too few match, the response says where to continue.
const ALERTS_READ_MAX: usize = 20_000;

/// What the alerts of one response may have at most, bytes, before it says where to continue: a thousand alerts of
/// ordinary size have less than one MiB. It is in memory until the client has read it.
const BYTES_MAX: usize = 4 << 20;

/// Makes the filter of a request, which names at most one detector and one symbol.
///
/// # Errors
/// When the confidence is out of range.
pub(super) fn filter(
    detector: Option<String>,
    symbol: Option<String>,
    min_confidence: Option<f64>,
    stale: Option<bool>,
) -> Result<AlertFilter, ApiError> {
    let min_confidence = confidence(min_confidence)?;
    let detectors = detector.into_iter().map(NamePattern::Exact).collect();
    let symbols = symbol.iter().map(|symbol| SymbolPattern::exact(symbol)).collect();
    Ok(AlertFilter { detectors, symbols, directions: Vec::new(), min_confidence, stale })
}

/// An alert as JSON, with numbers as numbers. Fields that another program has written are shown as far as they can be
/// parsed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AlertJson {
    stream_id: String,
    id: String,
    detector: String,
    plugin: String,
    version: String,
    symbol: String,
    /// Event time, ns since the Unix epoch.
    time: Option<u64>,
    price: Option<f64>,
    confidence: Option<f64>,
    direction: String,
    evidence: Map<String, Value>,
    entry: String,
    lag_ms: Option<u64>,
    recovered: bool,
    stale: bool,
    venue: String,
    sha256: String,
    params_hash: String,
    generation: Option<u64>,
}

impl AlertJson {
    pub(super) fn new(alert: &StoredAlert) -> Self {
        let text = |name| alert.field(name).to_owned();
        let number = |name| alert.number::<f64>(name).filter(|number| number.is_finite());
        Self {
            stream_id: alert.at.to_string(),
            id: text("id"),
            detector: text("detector"),
            plugin: text("plugin"),
            version: text("version"),
            symbol: text("symbol"),
            time: alert.number("time"),
            price: number("price"),
            confidence: number("confidence"),
            direction: text("direction"),
            evidence: serde_json::from_str(alert.field("evidence")).unwrap_or_default(),
            entry: text("entry"),
            lag_ms: alert.number("lag_ms"),
            recovered: alert.is("recovered"),
            stale: alert.is("stale"),
            venue: text("venue"),
            sha256: text("sha256"),
            params_hash: text("params_hash"),
            generation: alert.number("generation"),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Answer {
    alerts: Vec<AlertJson>,
    /// The `before` of the request that continues; `None` if there are no more alerts.
    next: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Params(query): Params<AlertsQuery>,
) -> Result<Json<Answer>, ApiError> {
    let AlertsQuery { detector, symbol, min_confidence, stale, limit, before } = query;
    let filter = filter(detector, symbol, min_confidence, stale)?;
    let limit = alerts_limit(limit)?;
    let mut first = before.map_or(Ok(Bound::Unbounded), |id| entry_id("before", &id).map(Bound::Excluded))?;
    let (mut alerts, mut read, mut bytes, mut size) = (Vec::new(), 0, 0, PageSize::new());
    loop {
        let count = size.count();
        let page = PageRequest { order: ReadOrder::NewestFirst, first, last: Bound::Unbounded, count };
        let AlertPage { alerts: page, asked } = app.queries.alerts(&page).await?;
        size.adapt(asked, page.len(), page.iter().map(bytes_of).sum());
        let oldest = page.last().map(|alert| alert.at).filter(|_| page.len() == asked);
        read += page.len();
        for alert in page.iter().filter(|alert| filter.matches(alert)) {
            alerts.push(AlertJson::new(alert));
            bytes += bytes_of(alert);
            if alerts.len() == limit || bytes >= BYTES_MAX {
                return Ok(Json(Answer { alerts, next: Some(alert.at.to_string()) }));
            }
        }
        let Some(oldest) = oldest else { return Ok(Json(Answer { alerts, next: None })) };
        if read >= ALERTS_READ_MAX {
            return Ok(Json(Answer { alerts, next: Some(oldest.to_string()) }));
        }
        first = Bound::Excluded(oldest);
    }
}

/// The bytes of an alert's names and values.
pub(super) fn bytes_of(alert: &StoredAlert) -> usize {
    alert.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}
