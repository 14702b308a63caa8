//! `/api/chart`: the prices of a symbol around an alert, as far as the stream still holds them.
//!
//! What holds: the entries that are read and the points that are returned are bounded. Entries nearest to the alert are
//! read first, so that only distant ones are left out.

use std::{ops::Bound, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::Serialize;

use super::{
    alerts::{AlertJson, bytes_of},
    app::App,
    error::{ApiError, Params},
    paging::PageSize,
    query::{ChartQuery, ChartSpan},
};
use tickhound_core::{decode::Decoder, event::EntryId, pattern::SymbolPattern};
use tickhound_redis::{AlertFilter, AlertPage, EntryPage, PageRequest, ReadOrder, StoredAlert};

/// How long a request waits for the chart of another one: somebody who goes through a list asks for one after the other.
const CHART_PATIENCE: Duration = Duration::from_secs(3);

/// The most entries that are read on each side of the alert.
const ENTRIES_MAX: usize = 100_000;

/// The most points on each side.
const POINTS_MAX: usize = 5000;

/// The most alerts that are read.
const ALERTS_MAX: usize = 20_000;

const NANOS_PER_MILLI: u64 = 1_000_000;

#[derive(Serialize)]
pub(super) struct Chart {
    symbol: String,
    /// Event time, ms since the Unix epoch, and price; in the order of the stream.
    points: Vec<(u64, f64)>,
    alerts: Vec<AlertJson>,
    /// Whether the span holds more than was read.
    truncated: bool,
}

pub(super) async fn chart(
    State(app): State<Arc<App>>,
    Params(query): Params<ChartQuery>,
) -> Result<Json<Chart>, ApiError> {
    let ChartSpan { first, entry, last } = query.span()?;
    let ChartQuery { symbol, .. } = query;
    let Ok(Ok(_permit)) = tokio::time::timeout(CHART_PATIENCE, app.charts.acquire()).await else {
        return Err(ApiError::unavailable("another chart is being made; try again"));
    };
    let mut before = side(&app, &symbol, Side::Before, first, entry).await?;
    before.points.reverse();
    let after = side(&app, &symbol, Side::After, entry, last).await?;
    let (alerts, all) = alerts(&app, &symbol, before.reached, after.reached).await?;
    let truncated = before.truncated || after.truncated || !all;
    let points = before.points.into_iter().chain(after.points).collect();
    Ok(Json(Chart { symbol, points, alerts, truncated }))
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// The entry of the alert and the entries before it.
    Before,
    /// The entries after that of the alert.
    After,
}

/// The points on one side of the alert.
struct SidePoints {
    /// The points, nearest to the alert first.
    points: Vec<(u64, f64)>,
    /// The entry furthest from the alert that was read.
    reached: EntryId,
    /// Whether the side holds more than was read.
    truncated: bool,
}

async fn side(app: &App, symbol: &str, side: Side, first: EntryId, last: EntryId) -> Result<SidePoints, ApiError> {
    let mut size = PageSize::new();
    // Both sides are read from the alert outwards.
    let mut page = match side {
        Side::Before => PageRequest {
            order: ReadOrder::NewestFirst,
            first: Bound::Included(last),
            last: Bound::Included(first),
            count: size.count(),
        },
        Side::After => PageRequest {
            order: ReadOrder::OldestFirst,
            first: Bound::Excluded(first),
            last: Bound::Included(last),
            count: size.count(),
        },
    };
    let end = if side == Side::Before { first } else { last };
    let mut side_points = SidePoints { points: Vec::new(), reached: end, truncated: false };
    let mut read = 0;
    loop {
        let entries = app.queries.ticks(&page).await?;
        let asked = entries.asked;
        let (decoder, symbol) = (app.decoder.clone(), symbol.to_owned());
        let decoded = tokio::task::spawn_blocking(move || decode(decoder, entries, &symbol, side)).await;
        let DecodedPage { points, entries, bytes, furthest } =
            decoded.map_err(|_| ApiError::unavailable("the entries could not be decoded"))??;
        side_points.points.extend(points);
        read += entries;
        let Some(furthest) = furthest.filter(|_| entries == asked) else { return Ok(side_points) };
        if read >= ENTRIES_MAX || side_points.points.len() >= POINTS_MAX {
            side_points.points.truncate(POINTS_MAX);
            (side_points.reached, side_points.truncated) = (furthest, true);
            return Ok(side_points);
        }
        size.adapt(asked, entries, bytes);
        (page.first, page.count) = (Bound::Excluded(furthest), size.count());
    }
}

struct DecodedPage {
    /// The symbol's points, the nearest to the alert first.
    points: Vec<(u64, f64)>,
    /// The number of entries, and the bytes in them.
    entries: usize,
    bytes: usize,
    /// The last entry.
    furthest: Option<EntryId>,
}

/// Decodes a page.
fn decode(mut decoder: Decoder, page: EntryPage, symbol: &str, side: Side) -> anyhow::Result<DecodedPage> {
    let entries = page.parse()?;
    let mut points = Vec::new();
    for entry in entries.iter() {
        let start = points.len();
        // An entry that is not a tick is a dead letter, and has no point in the chart.
        let _ = decoder.decode(entry, &mut |tick| {
            if tick.symbol == symbol && !tick.price.is_nan() {
                let time_ms = tick.time.map_or(entry.id.millis, |ns| ns / NANOS_PER_MILLI);
                points.push((time_ms, tick.price));
            }
        });
        if side == Side::Before {
            points[start..].reverse();
        }
    }
    Ok(DecodedPage { points, entries: entries.len(), bytes: entries.bytes(), furthest: entries.last() })
}

/// Reads the alerts of the symbol about entries in the span, and whether these are all.
async fn alerts(app: &App, symbol: &str, first: EntryId, last: EntryId) -> Result<(Vec<AlertJson>, bool), ApiError> {
    let filter = AlertFilter { symbols: vec![SymbolPattern::exact(symbol)], ..AlertFilter::default() };
    let is_caused_there = |alert: &&StoredAlert| {
        filter.matches(alert) && alert.number::<EntryId>("entry").is_some_and(|entry| first <= entry && entry <= last)
    };
    // An alert is published after its entry has arrived, and much later if no host was running.
    let mut from = Bound::Included(EntryId { millis: first.millis, seq: 0 });
    let (mut alerts, mut read, mut size) = (Vec::new(), 0, PageSize::new());
    while read < ALERTS_MAX {
        let count = size.count();
        let page = PageRequest { order: ReadOrder::OldestFirst, first: from, last: Bound::Unbounded, count };
        let AlertPage { alerts: page, asked } = app.queries.alerts(&page).await?;
        size.adapt(asked, page.len(), page.iter().map(bytes_of).sum());
        read += page.len();
        alerts.extend(page.iter().filter(is_caused_there).map(AlertJson::new));
        let Some(furthest) = page.last().filter(|_| page.len() == asked) else { return Ok((alerts, true)) };
        from = Bound::Excluded(furthest.at);
    }
    Ok((alerts, false))
}
