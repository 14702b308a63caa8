//! What the server refused in the middle of a transaction, and was acknowledged all the same.
//!
//! What holds: no more is owed than what was in flight when the server began to refuse. A step that is refused anything
//! fails, and what it has read is not taken up; so entries wait in the stream until the server takes what is owed.

use std::collections::HashSet;

use redis::{aio::MultiplexedConnection, cmd};

use super::{ALERTS_PAGE, RedisStream, query, resp::Replies};
use tickhound_core::stream::StreamError;

impl RedisStream {
    /// What is owed may have been published by a step whose answer was lost: then it is owed no more.
    pub(super) async fn settle_owed(&mut self, connection: &mut MultiplexedConnection) -> Result<(), StreamError> {
        for key in [&self.alerts.stream, &self.alerts.shadow_stream, &self.keys.dead] {
            let mut end = "+".to_owned();
            while self.owed.iter().any(|publish| args(publish).any(|arg| arg == key.as_bytes())) {
                let mut page = cmd("XREVRANGE");
                page.arg(key).arg(&end).arg("-").arg("COUNT").arg(ALERTS_PAGE);
                let page: Vec<(String, Vec<Vec<u8>>)> = query(connection, &page).await?;
                let Some((oldest, _)) = page.last() else { break };
                end = format!("({oldest}");
                let published: HashSet<Vec<u8>> = page.iter().map(|(_, fields)| fields.join(&0)).collect();
                self.owed.retain(|publish| !published.contains(&published_fields(publish)));
            }
        }
        Ok(())
    }
}

/// Names and values in an `XADD` with an id of the server's choice, each behind the other.
fn published_fields(publish: &[u8]) -> Vec<u8> {
    args(publish).skip_while(|arg| *arg != b"*").skip(1).collect::<Vec<_>>().join(&0)
}

/// The arguments of a packed command, which is a list of texts like a reply.
fn args(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut replies = Replies::new(command);
    let count = replies.array().unwrap_or(0);
    (0..count).map_while(move |_| replies.bulk().ok())
}
