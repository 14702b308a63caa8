//! What the stream holds, read beside the host's own work, on a connection of its own.

use super::{
    reply,
    resp::Commands,
    wire::{Address, Wire},
};
use tickhound_core::{
    event::{Entries, EntryId},
    stream::{History, StreamError},
};

/// Connects when it is first asked.
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

/// Entries after one id and up to another.
pub(super) async fn range(
    connection: &mut Wire,
    key: &str,
    after: EntryId,
    through: EntryId,
    count: usize,
) -> Result<Entries, StreamError> {
    if after >= through {
        // There may be no id after this one, and then the server takes it for no place to begin at.
        return Ok(Entries::default());
    }
    let mut range = Commands::default();
    range.arg("XRANGE").arg(key).show(format_args!("({after}")).show(through).arg("COUNT").show(count);
    range.end();
    reply::parse_entries(&mut connection.ask(&range).await?)
}
