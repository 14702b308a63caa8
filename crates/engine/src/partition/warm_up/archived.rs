//! The part of an archive that a warm-up is shown, read ahead on a thread of its own.

use std::{collections::BTreeSet, sync::Arc, thread};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use super::{AHEAD, PAGE};
use crate::{
    archive::{Archive, ArchiveSpan},
    plugin::runtime::BACKGROUND_NICE,
};
use tickhound_core::{
    config::{Config, time_zone},
    event::{Entries, EntryId},
    session::{NO_SESSION, SessionClock},
};

/// The pages of an archive, each entry once and in the order of ids.
pub(super) struct ArchivedPages {
    pages: mpsc::Receiver<Entries>,
    /// The last entry that was returned.
    cursor: EntryId,
    clock: SessionClock,
    /// The numbers of the sessions that were shown.
    sessions: BTreeSet<i32>,
}

impl ArchivedPages {
    /// Begins to read what a warm-up up to the entry `newest` needs: the sessions before the present one that
    /// `plugins.rewarm_sessions` asks for. `stream_from` is the oldest entry of the stream.
    pub(super) fn start(
        archive: Arc<dyn Archive>,
        newest: EntryId,
        stream_from: EntryId,
        config: &Config,
    ) -> Result<Self> {
        let (sessions, zone) = (&config.session.sessions, time_zone(&config.input.timezone)?);
        let newest_ns = newest.millis.saturating_mul(1_000_000);
        let from_ns = sessions.begin_before(newest_ns, config.plugins.rewarm_sessions, zone.clone());
        let span = ArchiveSpan { from_ms: from_ns / 1_000_000, stream_from };
        let (sender, pages) = mpsc::channel(AHEAD);
        let read = move || {
            // On Linux each thread has its own niceness. If it can't be raised, the warm-up only disturbs more.
            let _ = rustix::process::nice(BACKGROUND_NICE);
            let mut reader = archive.open(span);
            loop {
                let page = reader.read(PAGE);
                // The warm-up has ended if nobody receives the page.
                if page.is_empty() || sender.blocking_send(page).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("archive".into()).spawn(read).context("failed to start the archive's thread")?;
        Ok(Self { pages, cursor: EntryId::ZERO, clock: sessions.clock(zone), sessions: BTreeSet::new() })
    }

    /// Returns the next page; `None` at the end. Entries are left out whose ids are not above those before.
    pub(super) async fn next(&mut self) -> Option<Entries> {
        loop {
            let mut page = self.pages.recv().await?;
            // A recording goes back where its stream did.
            let mut newest = self.cursor;
            let rising: BTreeSet<EntryId> = page
                .iter()
                .filter_map(|entry| (entry.id > newest).then(|| newest = entry.id).map(|()| entry.id))
                .collect();
            if rising.len() < page.len() {
                page.retain(|id| rising.contains(&id));
            }
            if let Some(last) = page.last() {
                self.cursor = last;
                return Some(page);
            }
        }
    }

    /// Notes the sessions of entries that are shown.
    pub(super) fn note_shown(&mut self, page: &Entries) {
        for entry in page.iter() {
            let number = self.clock.span(0, entry.id.millis.saturating_mul(1_000_000)).number;
            if number != NO_SESSION {
                self.sessions.insert(number);
            }
        }
    }

    /// The number of sessions that were shown, at least in part.
    pub(super) fn sessions(&self) -> u32 {
        u32::try_from(self.sessions.len()).unwrap_or(u32::MAX)
    }
}
