//! Letters whose entries came straight back: what made them dead letters has not changed.
//!
//! What holds: an entry and its dead letter are committed in one step, so once an entry is acknowledged, it is known whether
//! it came back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::json;

use super::{
    letters::PAGE,
    show::{kind, summary},
};
use crate::output;
use tickhound_core::{config::Config, event::EntryId};
use tickhound_redis::{DeadLetters, survey};

/// How often it is checked whether the host has processed the entries.
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// Entries that were requeued, and what they were.
#[derive(Default)]
pub(super) struct Requeued {
    /// The letter of each entry.
    letters: BTreeMap<EntryId, EntryId>,
    /// The newest letter before.
    newest_letter: EntryId,
}

/// What became of requeued entries.
pub(super) enum Aftermath {
    /// None came back, as far as is known.
    Quiet,
    /// Some came back.
    Returned,
}

impl Requeued {
    /// Notes the newest letter, before the first entry is requeued.
    pub(super) async fn begin(dead: &mut DeadLetters) -> Result<Self> {
        let newest_letter = dead.newest(None, 1).await?.pop().map_or(EntryId::ZERO, |letter| letter.id);
        Ok(Self { letters: BTreeMap::new(), newest_letter })
    }

    pub(super) fn add(&mut self, letter: EntryId, entry: EntryId) {
        self.letters.insert(entry, letter);
    }

    /// Waits until the host has processed the entries, but for no longer than `wait`, and prints which came back. Without a
    /// running host there is nothing to wait for.
    pub(super) async fn report(
        &self,
        dead: &mut DeadLetters,
        config: &Config,
        wait: Duration,
        json: bool,
    ) -> Result<Aftermath> {
        let (Some(first), Some(last)) = (self.letters.keys().next(), self.letters.keys().next_back()) else {
            return Ok(Aftermath::Quiet);
        };
        if wait.is_zero() || survey(&config.stream, &config.alerts).await?.owner.is_none() {
            return Ok(Aftermath::Quiet);
        }
        let since = Instant::now();
        let mut is_processed = dead.is_processed(*first, *last).await?;
        while !is_processed && since.elapsed() < wait {
            tokio::time::sleep(CHECK_EVERY).await;
            is_processed = dead.is_processed(*first, *last).await?;
        }
        let (returned, kinds) = self.returned(dead, json).await?;
        if !is_processed {
            errln!(
                "after {} s, the host has not yet processed all of them; check `tickhound dead list`",
                wait.as_secs()
            );
        }
        if returned == 0 {
            return Ok(Aftermath::Quiet);
        }
        let count = self.letters.len();
        errln!(
            "error: {returned} of {count} came straight back: {}; correct the cause before you requeue them",
            summary(kinds)
        );
        Ok(Aftermath::Returned)
    }

    /// Counts the entries that have a letter again, with their reasons.
    async fn returned(&self, dead: &mut DeadLetters, json: bool) -> Result<(u64, BTreeMap<String, u64>)> {
        let mut kinds = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut after = self.newest_letter;
        // Only up to the current end: other entries may become letters faster than they are read.
        let Some(newest) = dead.newest(None, 1).await?.pop() else { return Ok((0, kinds)) };
        loop {
            let page = dead.oldest(after, newest.id, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for letter in &page {
                let entry = letter.field("entry").and_then(|id| id.parse::<EntryId>().ok());
                let Some((entry, before)) = entry.and_then(|entry| Some((entry, self.letters.get(&entry)?))) else {
                    continue;
                };
                // Several detectors may have failed on one entry.
                if seen.insert(entry) {
                    *kinds.entry(kind(letter)).or_default() += 1;
                }
                if json {
                    output::print_json(&json!({
                        "id": before.to_string(), "requeued_as": entry.to_string(), "came_back_as": letter.id.to_string(),
                        "detector": letter.field("detector"), "reason": letter.field("reason"),
                    }));
                }
            }
        }
        Ok((seen.len() as u64, kinds))
    }
}
