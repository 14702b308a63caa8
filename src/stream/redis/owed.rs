//! What the server refused in the middle of a transaction, and was acknowledged all the same.

use std::collections::HashSet;

use redis::{Arg, Cmd, aio::MultiplexedConnection, cmd};

use super::{ALERTS_PAGE, RedisStream, query};
use crate::stream::StreamError;

impl RedisStream {
    /// What is owed may have been published by a step whose answer was lost: then it is owed no more.
    pub(super) async fn settle_owed(&mut self, connection: &mut MultiplexedConnection) -> Result<(), StreamError> {
        for key in [&self.alerts.stream, &self.alerts.shadow_stream, &self.keys.dead] {
            let mut end = "+".to_owned();
            while self.owed.iter().any(|publish| publish.args_iter().any(|arg| arg == Arg::Simple(key.as_bytes()))) {
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
fn published_fields(publish: &Cmd) -> Vec<u8> {
    let args = publish.args_iter().filter_map(|arg| match arg {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    args.skip_while(|arg| *arg != b"*").skip(1).collect::<Vec<_>>().join(&0)
}
