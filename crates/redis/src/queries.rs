//! Reads ticks and alerts for requests of other clients, on connections of its own.
//!
//! What holds: nothing here has an effect on the server, and nothing uses a connection of the engine. What one read takes in
//! memory is bounded, however large entries are.

use std::{
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use redis::{Cmd, cmd};

use crate::{
    alert::{StoredAlert, alerts_of},
    connection::address,
    reply,
    resp::{Commands, Replies},
    wire::{Address, Wire},
};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    event::{Entries, EntryId},
    stream::StreamError,
};

/// Alerts that a listener reads in one request.
const LIVE_PAGE: usize = 100;

/// After a read that was given up, further reads grow by this factor.
const LIVE_GROWTH: usize = 4;

/// How long a listener's read waits for the next alert.
const LIVE_BLOCK: Duration = Duration::from_secs(5);

/// Limits a listener's wait for a reply; it must be longer than [`LIVE_BLOCK`].
const LIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// The most bytes of a page with several entries. The server can't be asked how large entries are; a page that is given up is
/// read again with one entry. A thousand entries of ordinary size have less than one MiB.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// The most bytes of a single entry. One with as many ticks as an entry may have, 262,144, has some 40 MiB.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// Connections that are kept open between requests. A page of the dashboard sends few at once.
const IDLE_MAX: usize = 2;

/// The direction in which a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Reads from older entries to newer ones.
    OldestFirst,
    /// Reads from newer entries to older ones.
    NewestFirst,
}

/// One of the two streams of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertStream {
    /// The alerts of detectors.
    Live,
    /// The alerts of shadows.
    Shadow,
}

/// One page of a stream. Without a bound the page begins or ends where the stream does.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// The direction in which to read.
    pub order: ReadOrder,
    /// The entry with which to begin.
    pub first: Bound<EntryId>,
    /// The entry with which to end.
    pub last: Bound<EntryId>,
    /// The largest number of entries to return.
    pub count: usize,
}

/// A page of entries as it was received. To parse it takes a while, so the caller decides on which thread that happens.
pub struct EntryPage {
    reply: Vec<u8>,
    /// The number of entries that were asked for in the end: one if several had too many bytes.
    pub asked: usize,
}

/// A page of alerts.
pub struct AlertPage {
    /// The alerts, in the order of the request.
    pub alerts: Vec<StoredAlert>,
    /// The number of alerts that were asked for in the end: one if several had too many bytes.
    pub asked: usize,
}

/// Reads the streams of one partition, on connections that are opened when they are needed.
pub struct StreamQueries {
    server: Server,
    ticks: String,
    alerts: String,
    shadow_alerts: String,
    idle: Mutex<Vec<Wire>>,
}

/// Reads alerts as they are published, on a connection of its own.
pub struct LiveAlerts {
    server: Server,
    stream: String,
    connection: Option<Wire>,
    /// The most alerts of the next read: fewer after some that were large.
    count: usize,
}

/// A server, and its address as errors show it.
#[derive(Clone)]
struct Server {
    address: Address,
    shown: String,
}

impl Server {
    /// Asks on this connection, or on a new one; it is put back after a reply, so that half a reply is never taken for the
    /// next. Returns `None` for a reply of more bytes than that.
    async fn ask(&self, idle: &mut Option<Wire>, commands: &Commands, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let asked = async {
            let mut wire = match idle.take() {
                Some(wire) => wire,
                None => self.address.connect().await?,
            };
            let reply = wire.ask_within(commands, bytes_max).await?;
            *idle = reply.is_some().then_some(wire);
            Ok(reply)
        };
        asked.await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &StreamError) -> anyhow::Error {
        anyhow!("redis at {}: {error}", self.shown)
    }
}

/// The most bytes of a reply with this number of entries.
fn bytes_max(entries: usize) -> usize {
    if entries > 1 { PAGE_BYTES_MAX } else { ENTRY_BYTES_MAX }
}

fn too_large(stream: &str, after: impl std::fmt::Display) -> anyhow::Error {
    anyhow!(
        "the entry of {stream} that follows {after} has more than {} MiB, so it is not read; delete it with XDEL, or ask for \
         other entries",
        ENTRY_BYTES_MAX >> 20
    )
}

impl StreamQueries {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig, alerts: &AlertsConfig) -> Result<Self> {
        Ok(Self {
            server: Server { address: address(config)?, shown: config.address().to_owned() },
            ticks: config.key.clone(),
            alerts: alerts.stream.clone(),
            shadow_alerts: alerts.shadow_stream.clone(),
            idle: Mutex::default(),
        })
    }

    /// Reads a page of the alerts stream.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request; or when an entry is too large.
    pub async fn alerts(&self, page: &PageRequest) -> Result<AlertPage> {
        self.alerts_in(AlertStream::Live, page).await
    }

    /// Reads a page of one of the streams of alerts.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request; or when an entry is too large.
    pub async fn alerts_in(&self, stream: AlertStream, page: &PageRequest) -> Result<AlertPage> {
        let stream = match stream {
            AlertStream::Live => &self.alerts,
            AlertStream::Shadow => &self.shadow_alerts,
        };
        let page = self.page(stream, page).await?;
        let asked = page.asked;
        Ok(AlertPage { alerts: alerts_of(&self.parse(page)?), asked })
    }

    /// Reads a page of the stream of ticks.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request; or when an entry is too large.
    pub async fn ticks(&self, page: &PageRequest) -> Result<EntryPage> {
        self.page(&self.ticks, page).await
    }

    /// Returns the id of the newest alert in its stream; zero if there is none.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request; or when the alert is too large.
    pub async fn newest_alert(&self) -> Result<EntryId> {
        let newest = self.page(&self.alerts, &PageRequest::newest(1)).await?;
        Ok(self.parse(newest)?.last().unwrap_or(EntryId::ZERO))
    }

    /// Prepares to read alerts as they are published, without connecting.
    pub fn live_alerts(&self) -> LiveAlerts {
        let Server { address, shown } = self.server.clone();
        let server = Server { address: address.with_timeout(LIVE_TIMEOUT), shown };
        LiveAlerts { server, stream: self.alerts.clone(), connection: None, count: LIVE_PAGE }
    }

    async fn page(&self, stream: &str, page: &PageRequest) -> Result<EntryPage> {
        let mut page = *page;
        let mut connection = self.idle().pop();
        let mut is_reused = connection.is_some();
        let reply = loop {
            let mut command = Commands::default();
            command.words(&page.words(stream).each_ref().map(String::as_str));
            match self.server.ask(&mut connection, &command, bytes_max(page.count)).await {
                Ok(Some(reply)) => break reply,
                Ok(None) if page.count > 1 => page.count = 1,
                Ok(None) => bail!(too_large(stream, page.words(stream)[2].trim_start_matches('('))),
                // The server may have closed it in the meantime.
                Err(_) if is_reused => is_reused = false,
                Err(error) => return Err(error),
            }
        };
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.extend(connection);
        }
        Ok(EntryPage { reply, asked: page.count })
    }

    fn parse(&self, page: EntryPage) -> Result<Entries> {
        page.parse().map_err(|error| self.server.failed(&error))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveAlerts {
    /// Waits a few seconds for alerts after `last`; returns an empty list if none is published. After an error the next
    /// call connects again.
    ///
    /// # Errors
    /// When Redis cannot be reached, or rejects the request; or when an alert is too large.
    pub async fn after(&mut self, last: EntryId) -> Result<Vec<StoredAlert>> {
        let reply = loop {
            let count = self.count;
            let mut read = Commands::default();
            read.arg("XREAD").arg("COUNT").show(count).arg("BLOCK").show(LIVE_BLOCK.as_millis());
            read.arg("STREAMS").arg(&self.stream).id(last).end();
            // A call that is dropped takes its connection along: behind a read that still blocks the next one would wait.
            match self.server.ask(&mut self.connection, &read, bytes_max(count)).await? {
                Some(reply) => break reply,
                None if count > 1 => self.count = 1,
                None => bail!(too_large(&self.stream, last)),
            }
        };
        self.count = (self.count * LIVE_GROWTH).min(LIVE_PAGE);
        let entries = reply::parse_read(&mut Replies::new(&reply));
        entries.map(|entries| alerts_of(&entries)).map_err(|error| self.server.failed(&error))
    }
}

impl PageRequest {
    /// The newest `count` entries, newest first.
    pub(crate) fn newest(count: usize) -> Self {
        Self { order: ReadOrder::NewestFirst, first: Bound::Unbounded, last: Bound::Unbounded, count }
    }

    /// The command that reads the page from `stream`.
    pub(crate) fn command(&self, stream: &str) -> Cmd {
        let [name, arguments @ ..] = self.words(stream);
        let mut command = cmd(&name);
        command.arg(&arguments);
        command
    }

    fn words(&self, stream: &str) -> [String; 6] {
        let (name, start, end) = match self.order {
            ReadOrder::OldestFirst => ("XRANGE", "-", "+"),
            ReadOrder::NewestFirst => ("XREVRANGE", "+", "-"),
        };
        let bound = |bound: Bound<EntryId>, unbounded: &str| match bound {
            // No entry has the id 0-0, and the server rejects a range that ends before it.
            Bound::Included(id) | Bound::Excluded(id @ EntryId::ZERO) => id.to_string(),
            Bound::Excluded(id) => format!("({id}"),
            Bound::Unbounded => unbounded.to_owned(),
        };
        let (first, last) = (bound(self.first, start), bound(self.last, end));
        [name.to_owned(), stream.to_owned(), first, last, "COUNT".to_owned(), self.count.to_string()]
    }
}

impl EntryPage {
    /// Parses the entries.
    ///
    /// # Errors
    /// When the reply is an error, or not a list of entries.
    pub fn parse(self) -> Result<Entries, StreamError> {
        reply::parse_entries(&mut Replies::new(&self.reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_at_its_first_bound_in_either_order() {
        let words = |page: &PageRequest| {
            let text = |word: redis::Arg<&[u8]>| match word {
                redis::Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
                _ => panic!("a word of another kind"),
            };
            page.command("ticks").args_iter().map(text).collect::<Vec<_>>().join(" ")
        };
        let id = EntryId { millis: 7, seq: 1 };
        let page = PageRequest {
            order: ReadOrder::NewestFirst,
            first: Bound::Unbounded,
            last: Bound::Included(id),
            count: 10,
        };
        assert_eq!(words(&page), "XREVRANGE ticks + 7-1 COUNT 10");
        let page =
            PageRequest { order: ReadOrder::OldestFirst, first: Bound::Excluded(id), last: Bound::Unbounded, ..page };
        assert_eq!(words(&page), "XRANGE ticks (7-1 + COUNT 10");
        // The server rejected a page before the first id, and the API said that it could not be used.
        let first = Bound::Excluded(EntryId::ZERO);
        let page = PageRequest { order: ReadOrder::NewestFirst, first, ..page };
        assert_eq!(words(&page), "XREVRANGE ticks 0-0 - COUNT 10");
    }
}
