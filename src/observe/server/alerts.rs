//! `/api/alerts`: the alerts in the alerts stream, newest first, filtered; and `/api/alert`: one alert, by its id.

use std::{ops::Bound, sync::Arc};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    app::App,
    error::{ApiError, Params},
    paging::PageSize,
    query::{AlertQuery, AlertsQuery, alerts_limit, confidence, entry_id},
};
use tickhound_core::{event::EntryId, pattern::SymbolPattern, text::printable};
use tickhound_redis::{AlertFilter, AlertPage, AlertStream, NamePattern, PageRequest, ReadOrder, StoredAlert};

/// The most alerts that are read for one response. If too few match, the response says where to continue.
const ALERTS_READ_MAX: usize = 20_000;

/// The most alerts of a stream among which one is looked for by its id, in each direction from its entry: as many as a
/// stream keeps by default.
const ALERTS_SEARCHED_MAX: usize = 100_000;

/// What the alerts of one response may have at most, bytes, before it says where to continue: a thousand alerts of
/// ordinary size have less than one MiB. It is in memory until the client has read it.
const BYTES_MAX: usize = 4 << 20;

/// Makes the filter of a request, which has at most one pattern of detectors and one of symbols.
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
    let detectors = detector.iter().map(|pattern| NamePattern::wildcard(pattern)).collect();
    let symbols = symbol.iter().map(|pattern| SymbolPattern::new(pattern)).collect();
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
    /// The first digits of the SHA-256 of the reference data; `None` if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// The detector that a shadow runs beside; `None` in alerts of live detectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow_of: Option<String>,
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
            reference: Some(text("reference")).filter(|hash| !hash.is_empty()),
            shadow_of: Some(text("shadow_of")).filter(|live| !live.is_empty()),
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

/// Returns the alert with an id, as long as one of the streams of alerts holds it: a link in a message may be opened long
/// after the alert has left the list.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    Params(query): Params<AlertQuery>,
) -> Result<Json<AlertJson>, ApiError> {
    let entry = query.entry()?;
    let start = EntryId { millis: entry.millis, seq: 0 };
    // An alert is published after its entry has arrived, unless the producer's clock is ahead of the server's.
    let directions =
        [(ReadOrder::OldestFirst, Bound::Included(start)), (ReadOrder::NewestFirst, Bound::Excluded(start))];
    for stream in [AlertStream::Live, AlertStream::Shadow] {
        for (order, first) in directions {
            let page = PageRequest { order, first, last: Bound::Unbounded, count: 0 };
            if let Some(alert) = find(&app, stream, page, &query.id).await? {
                return Ok(Json(AlertJson::new(&alert)));
            }
        }
    }
    let (id, streams) = (printable(&query.id), &app.config.alerts);
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "neither {} nor {} holds the alert {id}: it has been trimmed (alerts.maxlen), or was never published",
            streams.stream, streams.shadow_stream
        ),
    ))
}

/// Looks for an alert, a page after the other.
async fn find(
    app: &App,
    stream: AlertStream,
    mut page: PageRequest,
    id: &str,
) -> Result<Option<StoredAlert>, ApiError> {
    let (mut read, mut size) = (0, PageSize::new());
    while read < ALERTS_SEARCHED_MAX {
        page.count = size.count();
        let AlertPage { alerts, asked } = app.queries.alerts_in(stream, &page).await?;
        size.adapt(asked, alerts.len(), alerts.iter().map(bytes_of).sum());
        read += alerts.len();
        let Some(last) = alerts.last().map(|alert| alert.at).filter(|_| alerts.len() == asked) else {
            return Ok(alerts.into_iter().find(|alert| alert.field("id") == id));
        };
        if let Some(found) = alerts.into_iter().find(|alert| alert.field("id") == id) {
            return Ok(Some(found));
        }
        page.first = Bound::Excluded(last);
    }
    Ok(None)
}

/// The bytes of an alert's names and values.
pub(super) fn bytes_of(alert: &StoredAlert) -> usize {
    alert.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
}
