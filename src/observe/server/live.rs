//! `/api/alerts/live`: alerts as they are committed, as server-sent events.
//!
//! Each listener has a connection to Redis and a position in the alerts stream, and reads more only after its client has
//! received the previous alerts. So a slow client waits and needs no memory. `Last-Event-ID` is the position, so no alert
//! is missed between two connections.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream::{self, Stream};
use redis::{aio::MultiplexedConnection, cmd};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    alerts::{Alert, Filter, Stored, entry_id},
    api::App,
    error::{ApiError, Params},
};
use tickhound_core::event::EntryId;

/// The most concurrent listeners; each holds a connection to Redis.
pub(super) const LISTENERS_MAX: usize = 16;

/// Alerts read in one go.
const PAGE: usize = 100;

/// How long a read waits for the next alert.
const BLOCK: Duration = Duration::from_secs(5);

/// Longer than a read waits.
const TIMEOUT: Duration = Duration::from_secs(8);

/// Without Redis, between two attempts.
const RETRY: Duration = Duration::from_secs(1);

/// A comment is sent this often, so that the client knows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    detector: Option<String>,
    symbol: Option<String>,
    min_confidence: Option<f64>,
    stale: Option<bool>,
}

pub(super) async fn live(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let Query { detector, symbol, min_confidence, stale } = query;
    let filter = Filter::new(detector, symbol, min_confidence, stale)?;
    let resumed = headers.get("last-event-id").map(|id| entry_id("Last-Event-ID", id.to_str().unwrap_or("no text")));
    let resumed = resumed.transpose()?;
    let Ok(permit) = app.listeners.clone().try_acquire_owned() else {
        return Err(ApiError::unavailable(format!(
            "there are more than {LISTENERS_MAX} concurrent listeners; try again later"
        )));
    };
    let place = match resumed {
        Some(id) => id,
        None => newest(&app).await?,
    };
    let stopped = app.stopped.clone();
    let listener =
        Listener { app, filter, place, connection: None, page: Vec::new().into_iter(), stopped, _permit: permit };
    // Tells at once that the stream is open, how soon to come back when it breaks, and from where, should it break
    // before the first alert.
    let opening =
        Event::default().comment("alerts follow").retry(Duration::from_secs(2)).id(listener.place.to_string());
    let opening = stream::once(async { Ok(opening) });
    let alerts = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    let stream = stream::StreamExt::chain(opening, alerts);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The end of the stream as it is now.
async fn newest(app: &App) -> Result<EntryId, ApiError> {
    let mut last = cmd("XREVRANGE");
    last.arg(&app.config.alerts.stream).arg("+").arg("-").arg("COUNT").arg(1);
    let last: Vec<Stored> = app.redis.ask(&last).await?;
    Ok(last.first().and_then(|(id, _)| id.parse().ok()).unwrap_or(EntryId::ZERO))
}

struct Listener {
    app: Arc<App>,
    filter: Filter,
    /// The last alert that was looked at.
    place: EntryId,
    connection: Option<MultiplexedConnection>,
    page: std::vec::IntoIter<Stored>,
    stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Returns the next alert that matches the filter, or `None` when the run has ended.
    async fn next(&mut self) -> Option<Event> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            // Cancelling this drops the listener with its page; the client resumes from `Last-Event-ID`.
            event = self.find() => Some(event),
            _ = stopped.wait_for(|stop| *stop) => None,
        }
    }

    async fn find(&mut self) -> Event {
        loop {
            for stored in self.page.by_ref() {
                if let Ok(id) = stored.0.parse() {
                    self.place = id;
                }
                let alert = Alert::new(stored);
                if self.filter.fits(&alert) {
                    let event = Event::default().event("alert").id(&alert.stream_id);
                    if let Ok(event) = event.json_data(&alert) {
                        return event;
                    }
                }
            }
            match self.read().await {
                Ok(page) => self.page = page.into_iter(),
                Err(_) => {
                    self.connection = None;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<Stored>, ApiError> {
        let connection = match &mut self.connection {
            Some(open) => open,
            none => none.insert(self.app.redis.connect(TIMEOUT).await?),
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        read.arg("STREAMS").arg(&self.app.config.alerts.stream).arg(self.place.to_string());
        let streams: Option<Vec<(String, Vec<Stored>)>> =
            read.query_async(connection).await.map_err(|error| self.app.redis.failed(&error))?;
        Ok(streams.into_iter().flatten().flat_map(|(_, page)| page).collect())
    }
}
