//! Reads a stream from an entry on, without a group and without an effect on anybody: what `tickhound record` follows.

use std::time::Duration;

use redis::{Client, Value, aio::MultiplexedConnection, cmd};

use crate::{
    connection::{address, client, connect, query},
    errors::{error_reply, unavailable},
    reply::{self, StreamInfo, parse_stream_info},
    resp::{Commands, Item, Replies, UnexpectedReply},
    wire::{Address, Wire},
};
use tickhound_core::{
    config::StreamConfig,
    event::{Entries, EntryId},
    stream::{Extent, StreamError},
};

/// The commands of one read, between `MULTI` and `EXEC`.
const COMMANDS: usize = 3;

/// A stream that is followed. Connections are opened when they are needed, and again after an error.
pub struct StreamTail {
    client: Client,
    address: Address,
    config: StreamConfig,
    reads: Option<Wire>,
    /// Behind a read that still blocks the next request would wait, so waits have a connection of their own.
    waits: Option<MultiplexedConnection>,
}

/// Entries, and how the stream was at the same moment.
#[derive(Debug, Default)]
pub struct TailPage {
    /// The entries in stream order.
    pub entries: Entries,
    /// The newest id that the stream has given out; `None` if there is no stream.
    pub newest: Option<EntryId>,
    /// The oldest entry that the stream holds; `None` if it is empty.
    pub oldest: Option<EntryId>,
    /// How many entries the stream has had; `None` if there is no stream, or the server is older than 7.0.
    pub extent: Option<Extent>,
}

impl StreamTail {
    /// Prepares, without connecting.
    ///
    /// # Errors
    /// When the URL can't be used.
    pub fn new(config: &StreamConfig) -> anyhow::Result<Self> {
        let (client, address) = (client(config)?, address(config)?);
        Ok(Self { client, address, config: config.clone(), reads: None, waits: None })
    }

    /// Reads at most `count` entries after an id. All that is returned is of one moment.
    ///
    /// # Errors
    /// When the server can't be reached, or rejects the request.
    pub async fn read(&mut self, after: EntryId, count: usize) -> Result<TailPage, StreamError> {
        let connection = match &mut self.reads {
            Some(open) => open,
            none => none.insert(self.address.connect().await?),
        };
        let key = &self.config.key;
        let mut commands = Commands::default();
        for words in [&["MULTI"][..], &["XINFO", "STREAM", key], &["XRANGE", key, "-", "+", "COUNT", "1"]] {
            words.iter().for_each(|word| _ = commands.arg(word));
            commands.end();
        }
        commands.arg("XRANGE").arg(key).show(format_args!("({after}")).arg("+").arg("COUNT").show(count);
        commands.end();
        commands.arg("EXEC");
        commands.end();
        let page = async { parse(&mut connection.ask(&commands, count).await?) }.await;
        if page.is_err() {
            self.reads = None;
        }
        page
    }

    /// Returns once there may be entries after `last`, or after a while; cancel-safe.
    ///
    /// # Errors
    /// When the server can't be reached, or rejects the request.
    pub async fn wait(&mut self, last: EntryId) -> Result<(), StreamError> {
        let StreamConfig { key, timeout_ms, block_ms, .. } = &self.config;
        let mut waits = match self.waits.take() {
            Some(waits) => waits,
            None => {
                let longest = Duration::from_millis(timeout_ms + block_ms);
                connect(&self.client, longest).await.map_err(unavailable)?
            }
        };
        let mut wait = cmd("XREAD");
        wait.arg("COUNT").arg(1).arg("BLOCK").arg(block_ms).arg("STREAMS").arg(key).arg(last.to_string());
        let _: Value = query(&mut waits, &wait).await?;
        self.waits = Some(waits);
        Ok(())
    }
}

/// Parses the replies to a read.
fn parse(replies: &mut Replies<'_>) -> Result<TailPage, StreamError> {
    for _ in 0..=COMMANDS {
        if let Some(error) = replies.skip()? {
            return Err(error_reply(error));
        }
    }
    match replies.item()? {
        Item::Array(COMMANDS) => {}
        Item::Error(error) => return Err(error_reply(error)),
        _ => return Err(UnexpectedReply("EXEC returned another number of results").into()),
    }
    let mut page = TailPage::default();
    match replies.clone().item()? {
        // There is no stream yet. Every other error is one of the ranges as well.
        Item::Error(_) => drop(replies.skip()?),
        _ => {
            let StreamInfo { newest, extent } = parse_stream_info(replies, true)?;
            (page.newest, page.extent) = (newest, extent);
        }
    }
    page.oldest = reply::parse_entries(replies)?.first();
    page.entries = reply::parse_entries(replies)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_without_a_stream_is_empty_and_a_key_of_another_kind_is_an_error() {
        let begun = format!("+OK\r\n{}*3\r\n", "+QUEUED\r\n".repeat(COMMANDS));
        let none = format!("{begun}-ERR no such key\r\n*0\r\n*0\r\n");
        let page = parse(&mut Replies::new(none.as_bytes())).unwrap();
        assert!(page.entries.is_empty() && page.newest.is_none() && page.extent.is_none() && page.oldest.is_none());
        let wrong = format!("{begun}{}", "-WRONGTYPE Operation against a key\r\n".repeat(COMMANDS));
        let error = parse(&mut Replies::new(wrong.as_bytes())).unwrap_err().to_string();
        assert!(error.contains("WRONGTYPE"), "{error}");
        let denied = "+OK\r\n-NOPERM no\r\n+QUEUED\r\n+QUEUED\r\n-EXECABORT no\r\n";
        assert!(parse(&mut Replies::new(denied.as_bytes())).unwrap_err().to_string().contains("NOPERM"));
    }
}
