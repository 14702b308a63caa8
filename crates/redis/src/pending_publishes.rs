//! Alerts and dead letters that the server rejected in a transaction that acknowledged their entries.
//!
//! A transaction does not roll back: if another program put a key of another type where a stream was, `XADD` fails and
//! the acknowledgement beside it succeeds. What holds: no more is pending than was in flight when the server began to
//! reject. A step with a rejected command fails, and what it has read is not processed, so entries wait in the stream
//! until the server accepts what is pending.

use std::collections::HashSet;

use redis::{aio::MultiplexedConnection, cmd};

use crate::{connection::query, partition_config::PartitionConfig, resp::Replies};
use tickhound_core::stream::StreamError;

/// Entries that are compared in one request.
const PAGE: usize = 1000;

/// Packed `XADD` commands that are repeated with every step until the server accepts them.
#[derive(Default)]
pub(crate) struct PendingPublishes(Vec<Vec<u8>>);

impl PendingPublishes {
    /// The commands, in the order in which they were rejected.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// The number of commands.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a command that the server rejected.
    pub(crate) fn push(&mut self, command: &[u8]) {
        self.0.push(command.to_vec());
    }

    /// Removes all commands.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes the commands whose entries are in their streams: a step whose reply was lost may have published them.
    pub(crate) async fn remove_published(
        &mut self,
        connection: &mut MultiplexedConnection,
        config: &PartitionConfig,
    ) -> Result<(), StreamError> {
        for key in [&config.alerts.stream, &config.alerts.shadow_stream, &config.keys.dead] {
            let mut end = "+".to_owned();
            while self.commands().any(|publish| args(publish).any(|arg| arg == key.as_bytes())) {
                let mut page = cmd("XREVRANGE");
                page.arg(key).arg(&end).arg("-").arg("COUNT").arg(PAGE);
                let page: Vec<(String, Vec<Vec<u8>>)> = query(connection, &page).await?;
                let Some((oldest, _)) = page.last() else { break };
                end = format!("({oldest}");
                let published: HashSet<Vec<u8>> = page.iter().map(|(_, fields)| fields.join(&0)).collect();
                self.0.retain(|publish| !published.contains(&joined_fields(publish)));
            }
        }
        Ok(())
    }
}

/// The names and values of an `XADD` whose id the server chooses, joined by zeros.
fn joined_fields(publish: &[u8]) -> Vec<u8> {
    args(publish).skip_while(|arg| *arg != b"*").skip(1).collect::<Vec<_>>().join(&0)
}

/// The arguments of a packed command, which has the form of a reply: a list of texts.
fn args(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut replies = Replies::new(command);
    let count = replies.array().unwrap_or(0);
    (0..count).map_while(move |_| replies.bulk().ok())
}
