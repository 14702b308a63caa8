//! `/api/chart`: the prices of a symbol around an alert, as far as the stream still holds them.
//!
//! What holds: the entries that are read and the points that are returned are bounded. Entries nearest to the alert are
//! read first, so that only distant ones are left out.

use std::sync::Arc;

use axum::{Json, extract::State};
use redis::{Value, cmd};
use serde::{Deserialize, Serialize};

use super::{
    alerts::{Alert, Stored, entry_id},
    api::App,
    error::{ApiError, Params},
};
use tickhound_core::{
    decode::Decoder,
    event::{Entries, EntryId},
};
use tickhound_redis::entries_of;

/// The entries that are read from Redis at once.
const PAGE: usize = 1000;

/// The most entries that are read on each side of the alert.
const ENTRIES_MAX: usize = 100_000;

/// The most points on each side.
const POINTS_MAX: usize = 5000;

/// The most alerts that are read.
const ALERTS_MAX: usize = 20_000;

/// The longest span on one side, seconds: a day.
const SPAN_MAX_S: u64 = 86_400;

const SPAN_DEFAULT_S: u64 = 300;

const NANOS_PER_MILLI: u64 = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    entry: String,
    symbol: String,
    before_s: Option<u64>,
    after_s: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Chart {
    symbol: String,
    /// Event time, ms since the Unix epoch, and price; in the order of the stream.
    points: Vec<(u64, f64)>,
    alerts: Vec<Alert>,
    /// There is more in the span than was read.
    truncated: bool,
}

pub(super) async fn chart(State(app): State<Arc<App>>, Params(query): Params<Query>) -> Result<Json<Chart>, ApiError> {
    let Query { entry, symbol, before_s, after_s } = query;
    let entry = entry_id("entry", &entry)?;
    let span = |name, seconds: Option<u64>| match seconds.unwrap_or(SPAN_DEFAULT_S) {
        wrong if wrong > SPAN_MAX_S => {
            Err(ApiError::bad_request(format!("{name} is {wrong}, expected 0 to {SPAN_MAX_S} seconds")))
        }
        seconds => Ok(seconds * 1000),
    };
    let first = EntryId { millis: entry.millis.saturating_sub(span("before_s", before_s)?), seq: 0 };
    let last = EntryId { millis: entry.millis.saturating_add(span("after_s", after_s)?), seq: u64::MAX };
    let Ok(_permit) = app.charts.try_acquire() else {
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
    /// The entry itself and those before it.
    Before,
    After,
}

struct Found {
    /// The points, nearest to the alert first.
    points: Vec<(u64, f64)>,
    /// The furthest entry that was read.
    reached: EntryId,
    truncated: bool,
}

async fn side(app: &App, symbol: &str, side: Side, first: EntryId, last: EntryId) -> Result<Found, ApiError> {
    let (mut from, mut to) = match side {
        Side::Before => (first.to_string(), last.to_string()),
        Side::After => (format!("({first}"), last.to_string()),
    };
    let end = if side == Side::Before { first } else { last };
    let mut found = Found { points: Vec::new(), reached: end, truncated: false };
    let mut read = 0;
    loop {
        let mut page = cmd(if side == Side::Before { "XREVRANGE" } else { "XRANGE" });
        match side {
            Side::Before => page.arg(app.config.stream.key.as_str()).arg(&to).arg(&from),
            Side::After => page.arg(app.config.stream.key.as_str()).arg(&from).arg(&to),
        };
        let page: Value = app.redis.ask(page.arg("COUNT").arg(PAGE)).await?;
        let (decoder, symbol) = (app.decoder.clone(), symbol.to_owned());
        let decoded = tokio::task::spawn_blocking(move || decode(decoder, page, &symbol, side)).await;
        let (points, entries, furthest) = decoded
            .map_err(|_| ApiError::unavailable("the entries could not be decoded"))?
            .map_err(ApiError::unavailable)?;
        found.points.extend(points);
        read += entries;
        let Some(furthest) = furthest.filter(|_| entries == PAGE) else { return Ok(found) };
        if read >= ENTRIES_MAX || found.points.len() >= POINTS_MAX {
            found.points.truncate(POINTS_MAX);
            (found.reached, found.truncated) = (furthest, true);
            return Ok(found);
        }
        match side {
            Side::Before => to = format!("({furthest}"),
            Side::After => from = format!("({furthest}"),
        }
    }
}

type DecodedTicks = (Vec<(u64, f64)>, usize, Option<EntryId>);

/// The symbol's points, the nearest to the alert first; the number of entries, and the last one.
fn decode(mut decoder: Decoder, page: Value, symbol: &str, side: Side) -> Result<DecodedTicks, String> {
    let entries: Entries = entries_of(page)?;
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
    Ok((points, entries.len(), entries.last()))
}

/// Alerts of the symbol about entries in the span, and whether those are all.
async fn alerts(app: &App, symbol: &str, first: EntryId, last: EntryId) -> Result<(Vec<Alert>, bool), ApiError> {
    // An alert is published after its entry has arrived; much later, if the host was away.
    let (mut from, mut alerts, mut looked_at) = (format!("{}-0", first.millis), Vec::new(), 0);
    while looked_at < ALERTS_MAX {
        let mut page = cmd("XRANGE");
        page.arg(&app.config.alerts.stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let page: Vec<Stored> = app.redis.ask(&page).await?;
        let (entries, furthest) = (page.len(), page.last().map(|(id, _)| id.clone()));
        looked_at += entries;
        let about = |alert: &Alert| {
            alert.symbol == symbol && alert.entry.parse::<EntryId>().is_ok_and(|entry| first <= entry && entry <= last)
        };
        alerts.extend(page.into_iter().map(Alert::new).filter(about));
        let Some(furthest) = furthest.filter(|_| entries == PAGE) else { return Ok((alerts, true)) };
        from = format!("({furthest}");
    }
    Ok((alerts, false))
}
