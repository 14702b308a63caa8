//! `/api/alerts/live`: alerts as they are committed, as server-sent events.
//!
//! Each listener has a connection to Redis and a position in the alerts stream, and reads more only after its client has
//! received the previous alerts. So a slow client waits and needs no memory, and one that stops reading is disconnected
//! (`paced`). `Last-Event-ID` is the position, so no alert is missed between two connections. A client is told when Redis can't
//! be read, since the stream stays open and nothing comes: a comment `lost` with the reason, and `resumed` afterwards. Clients
//! that only want alerts skip comments.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    alerts::{AlertJson, filter},
    app::App,
    clients::Client,
    error::{ApiError, Params},
    query::entry_id,
    shares::Share,
};
use tickhound_core::{event::EntryId, text::printable};
use tickhound_redis::{AlertFilter, LiveAlerts, StoredAlert};

/// The pause between two attempts while Redis does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The comments that say that Redis can't be read, with the reason behind it, and that it can be again.
const LOST: &str = "lost";
const RESUMED: &str = "resumed";

/// A comment is sent this often, so that the client knows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LiveQuery {
    detector: Option<String>,
    symbol: Option<String>,
    min_confidence: Option<f64>,
    stale: Option<bool>,
}

pub(super) async fn live(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Params(query): Params<LiveQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let LiveQuery { detector, symbol, min_confidence, stale } = query;
    let filter = filter(detector, symbol, min_confidence, stale)?;
    let resumed = headers.get("last-event-id").map(|id| entry_id("Last-Event-ID", id.to_str().unwrap_or("no text")));
    let resumed = resumed.transpose()?;
    let permit = app.listeners.take(client.address).map_err(|limit| ApiError::exhausted("listeners", limit))?;
    let position = match resumed {
        Some(id) => id,
        None => app.queries.newest_alert().await?,
    };
    let stopped = app.stopped.clone();
    let alerts = app.queries.live_alerts();
    let (page, feed) = (Vec::new().into_iter(), Feed::Alive);
    let listener = Listener { app, alerts, filter, position, page, feed, stopped, _permit: permit };
    // The first event says that the stream is open, when to reconnect after a failure, and from where, in case the
    // connection fails before the first alert.
    let opening =
        Event::default().comment("alerts follow").retry(Duration::from_secs(2)).id(listener.position.to_string());
    let opening = stream::once(async { Ok(opening) });
    let alerts = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    let stream = stream::StreamExt::chain(opening, alerts);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Listener {
    app: Arc<App>,
    alerts: LiveAlerts,
    filter: AlertFilter,
    /// The id of the last alert that was compared with the filter.
    position: EntryId,
    page: std::vec::IntoIter<StoredAlert>,
    feed: Feed,
    stopped: watch::Receiver<bool>,
    _permit: Share,
}

/// Whether Redis answered the last read.
#[derive(Clone, Copy, PartialEq)]
enum Feed {
    Alive,
    Lost,
}

impl Listener {
    /// Returns the next event: an alert that matches the filter, or that Redis can't be read, or can be again. `None` when the
    /// run has ended.
    async fn next(&mut self) -> Option<Event> {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            // Neither needs to be cancel-safe: once the run ends the stream ends, the listener is dropped with its page,
            // and the client resumes from `Last-Event-ID`.
            event = self.find() => Some(event),
            _ = stopped.wait_for(|stop| *stop) => None,
        }
    }

    async fn find(&mut self) -> Event {
        loop {
            for alert in self.page.by_ref() {
                self.position = alert.at;
                if self.filter.matches(&alert) {
                    let event = Event::default().event("alert").id(alert.at.to_string());
                    if let Ok(event) = event.json_data(AlertJson::new(&alert)) {
                        return event;
                    }
                }
            }
            match (self.alerts.after(self.position).await, self.feed) {
                (Ok(page), Feed::Alive) => self.page = page.into_iter(),
                (Ok(page), Feed::Lost) => {
                    (self.page, self.feed) = (page.into_iter(), Feed::Alive);
                    self.app.doubt();
                    return Event::default().comment(RESUMED);
                }
                (Err(error), Feed::Alive) => {
                    self.feed = Feed::Lost;
                    self.app.doubt();
                    // A comment is one line.
                    return Event::default().comment(format!("{LOST} {}", printable(&format!("{error:#}"))));
                }
                (Err(_), Feed::Lost) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}
