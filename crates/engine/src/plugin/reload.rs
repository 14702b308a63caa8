//! The outcome of the last reload, as the watcher publishes it to the engine, the alerts file and the notifications.

use std::sync::Arc;

use tokio::sync::watch;

use super::generation::Generation;
use tickhound_core::receipt::RejectedChange;

/// The newest generation, and the changes that are not in it.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The generation to be in force from the next batch on.
    pub generation: Arc<Generation>,
    /// The last rejected change.
    pub rejection: Option<RejectedChange>,
    /// The changed keys of the configuration that are only read at the start, such as `stream.key`.
    pub needs_restart: Vec<String>,
}

impl Reload {
    /// Returns a channel with a generation that never changes.
    pub fn fixed(generation: Generation) -> watch::Receiver<Self> {
        let reload = Self { generation: Arc::new(generation), rejection: None, needs_restart: Vec::new() };
        watch::channel(reload).1
    }
}
