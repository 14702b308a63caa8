//! Reads entries that the stream holds, without an effect on the group.

use crate::{
    reply,
    resp::Commands,
    wire::{Address, Wire},
};
use tickhound_core::{
    event::{Entries, EntryId},
    stream::{History, StreamError},
};

/// Reads a stream beside its owner, on a connection of its own that it opens with the first read.
pub struct RedisHistory {
    address: Address,
    key: String,
    connection: Option<Wire>,
}

impl RedisHistory {
    pub(super) fn new(address: &Address, key: &str) -> Self {
        Self { address: address.clone(), key: key.to_owned(), connection: None }
    }
}

impl History for RedisHistory {
    async fn read(&mut self, after: EntryId, through: EntryId, count: usize) -> Result<Entries, StreamError> {
        let connection = match &mut self.connection {
            Some(open) => open,
            none => none.insert(self.address.connect().await?),
        };
        let entries = range(connection, &self.key, after, through, count).await;
        if entries.is_err() {
            self.connection = None;
        }
        entries
    }
}

/// Reads entries after one id and up to another.
pub(super) async fn range(
    connection: &mut Wire,
    key: &str,
    after: EntryId,
    through: EntryId,
    count: usize,
) -> Result<Entries, StreamError> {
    if after >= through {
        // The server rejects a range that begins after the highest possible id.
        return Ok(Entries::default());
    }
    let mut range = Commands::default();
    range.arg("XRANGE").arg(key).show(format_args!("({after}")).show(through).arg("COUNT").show(count);
    range.end();
    reply::parse_entries(&mut connection.ask(&range, count).await?)
}
