//! A partition as its last commit left it, for commands that look on: saved states, and the entries since.
//!
//! What holds: nothing here changes anything on the server, whoever owns the partition. What is read belongs together: the
//! states of a chunk are read in one request with their boundary, and the last commit after all of them, so that no
//! boundary is behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use redis::{Client, Value, aio::MultiplexedConnection, cmd};
use tokio::sync::watch;

use crate::{
    connection::{address, client, connect, query},
    errors::unavailable,
    history::{RedisHistory, range},
    partition_config::PartitionConfig,
    reply, state,
    wire::{Address, Wire},
};
use tickhound_core::{
    checkpoint::SavedStates,
    config::{AlertsConfig, DeadLettersConfig, StreamConfig},
    event::{Entries, EntryId},
    stream::{AcquireOutcome, Acquisition, Commit, Delivery, ReadFrom, ReadRequest, Stream, StreamError},
};

/// Pending entries that are listed in one request.
const PENDING_PAGE: usize = 1000;

/// The entries that are read at once.
const PAGE: usize = 1000;

/// A partition that is only looked at. It ends by itself: `done` becomes true when the newest entry was read, as of when it
/// was opened.
pub struct ObservedStream {
    client: Client,
    address: Address,
    config: PartitionConfig,
    session: Option<ObservedSession>,
    done: watch::Sender<bool>,
    read: Entries,
}

/// What is read of a partition, and with which connections.
struct ObservedSession {
    requests: MultiplexedConnection,
    entries: Wire,
    saved: SavedStates,
    /// The last entry that was read.
    after: EntryId,
    /// The last entry that is to be read.
    through: EntryId,
}

impl ObservedStream {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(
        config: &StreamConfig,
        alerts: &AlertsConfig,
        dead_letters: &DeadLettersConfig,
        done: watch::Sender<bool>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: client(config)?,
            address: address(config)?,
            config: PartitionConfig::new(config, alerts, dead_letters),
            session: None,
            done,
            read: Entries::default(),
        })
    }

    /// Returns the detectors whose states are all saved, with the hash that must be equal to read them.
    ///
    /// # Errors
    /// When the server cannot be reached, or the checkpoint can't be read.
    pub async fn saved_detectors(&self) -> Result<BTreeMap<String, u64>, StreamError> {
        let mut requests = self.connect().await?;
        let checkpoint = state::read_checkpoint(&mut requests, &self.config.keys).await?;
        Ok(checkpoint.last.and(checkpoint.complete).unwrap_or_default())
    }

    async fn connect(&self) -> Result<MultiplexedConnection, StreamError> {
        let timeout = Duration::from_millis(self.config.stream.timeout_ms);
        connect(&self.client, timeout).await.map_err(unavailable)
    }

    async fn open(&mut self) -> Result<Acquisition, StreamError> {
        let mut requests = self.connect().await?;
        let entries = self.address.connect().await?;
        let keys = &self.config.keys;
        let saved = state::read_observed(&mut requests, keys).await?;
        // After the states: it is at or behind each boundary otherwise.
        let checkpoint = state::read_checkpoint(&mut requests, keys).await?;
        let stream: Value = query(&mut requests, cmd("XINFO").arg("STREAM").arg(&self.config.stream.key)).await?;
        let newest = reply::newest(&stream).unwrap_or_default();
        let began_anew = checkpoint.is_of_another_stream(newest);
        let after = checkpoint.last.filter(|_| !began_anew).unwrap_or_default();
        let acquisition = Acquisition {
            epoch: 1,
            totals: checkpoint.totals,
            last_commit: checkpoint.commit_id(),
            clock: checkpoint.clock,
            newest: checkpoint.last,
            oldest: reply::oldest(&stream),
            last_delivered: after,
            began_anew,
            complete: checkpoint.complete,
            made_by: checkpoint.made_by,
            ..Acquisition::default()
        };
        self.session = Some(ObservedSession { requests, entries, saved, after, through: newest });
        Ok(acquisition)
    }

    fn session(&mut self) -> Result<&mut ObservedSession, StreamError> {
        self.session.as_mut().ok_or_else(|| StreamError::Unavailable("not connected".into()))
    }
}

impl Stream for ObservedStream {
    type History = RedisHistory;

    fn reader(&self) -> RedisHistory {
        RedisHistory::new(&self.address, &self.config.stream.key)
    }

    /// # Errors
    /// All of them end the run: whoever asks waits for an answer, and a server that can't be reached gives none.
    async fn acquire(&mut self) -> Result<AcquireOutcome, StreamError> {
        if self.session.take().is_some() {
            return Err(StreamError::Misconfigured(
                "the connection to Redis was lost while the stream was read".into(),
            ));
        }
        let opened = self.open().await.map_err(|error| StreamError::Misconfigured(error.to_string()));
        opened.map(|acquisition| AcquireOutcome::Owned(Box::new(acquisition)))
    }

    async fn begin(&mut self, _: &Commit, read: ReadRequest) -> Result<(), StreamError> {
        let key = self.config.stream.key.clone();
        self.read = Entries::default();
        let session = self.session()?;
        if read.count == 0 || read.from != ReadFrom::New {
            return Ok(());
        }
        let (after, through) = (session.after, session.through);
        let entries = range(&mut session.entries, &key, after, through, read.count.min(PAGE)).await?;
        match entries.last() {
            Some(last) => session.after = last,
            None => session.after = through,
        }
        self.read = entries;
        Ok(())
    }

    async fn finish(&mut self) -> Result<Delivery, StreamError> {
        Ok(Delivery { entries: std::mem::take(&mut self.read), ..Delivery::default() })
    }

    async fn saved(&mut self) -> Result<SavedStates, StreamError> {
        Ok(std::mem::take(&mut self.session()?.saved))
    }

    async fn history(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        let key = self.config.stream.key.clone();
        range(&mut self.session()?.entries, &key, after, through, count).await
    }

    async fn pending(&mut self, first: EntryId, last: EntryId) -> Result<BTreeSet<EntryId>, StreamError> {
        let (key, group) = (self.config.stream.key.clone(), self.config.stream.group.clone());
        let requests = &mut self.session()?.requests;
        let (mut pending, mut from) = (BTreeSet::new(), first.to_string());
        loop {
            let mut list = cmd("XPENDING");
            list.arg(&key).arg(&group).arg(&from).arg(last.to_string()).arg(PENDING_PAGE);
            let page: Vec<(String, String, u64, u64)> = query(requests, &list).await?;
            let Some((end, ..)) = page.last() else { return Ok(pending) };
            from = format!("({end}");
            pending.extend(page.iter().filter_map(|(id, ..)| id.parse::<EntryId>().ok()));
        }
    }

    async fn wait(&mut self, _: EntryId) -> Result<(), StreamError> {
        let session = self.session()?;
        if session.after >= session.through {
            self.done.send_replace(true);
            // Nothing else comes. Whoever waits is stopped by this.
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}
