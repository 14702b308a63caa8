//! A partition of ticks in Redis Streams: lease, epoch, fenced steps, alerts, dead letters.
//!
//! What holds: this crate is the only user of the `redis` crate and of the protocol. [`RedisStream`] is the partition as
//! its owner sees it, and the only part that changes it; everything else reads, moves dead letters, or stores how far
//! notifications were sent.

mod adopt;
mod alert;
mod alerts_reader;
mod checkpoint;
mod claims;
mod connection;
mod dead;
mod errors;
mod group;
mod history;
pub mod inspect;
mod keys;
mod lease;
mod mute;
pub mod mutes;
pub mod notification_position;
mod observed;
mod partition_config;
mod pending_publishes;
mod producer;
mod queries;
mod recent_ids;
mod reply;
pub mod resp;
mod seal;
mod server_check;
mod state;
mod step;
mod stream;
mod survey;
mod tail;
mod tls;
mod wire;

/// The oldest release of Redis that has every command that is used: `XRANGE` and `XREVRANGE` accept an excluded end since
/// 6.2. Valkey has them, too.
pub const SERVER_VERSION_MIN: &str = "6.2";

pub use self::{
    adopt::remove_if_empty,
    alert::{AlertFilter, NamePattern, StoredAlert},
    alerts_reader::{AlertsReader, News, ReadPosition, all_alerts},
    claims::Conflict,
    dead::{DeadLetters, Letter, LetterOutcome},
    history::RedisHistory,
    observed::ObservedStream,
    producer::{Producer, Published},
    queries::{AlertPage, AlertStream, EntryPage, LiveAlerts, PageRequest, ReadOrder, StreamQueries},
    recent_ids::RecentIds,
    server_check::may_evict_any_key,
    stream::RedisStream,
    survey::{ConsumerStatus, SavedState, Survey, Surveyor, survey},
    tail::{StreamTail, TailPage},
};
