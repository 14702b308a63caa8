//! What a look at the plugins folder and the configuration came to, for whoever takes it up.

use std::sync::Arc;

use tokio::sync::watch;

use super::Generation;
use tickhound_core::receipt::RejectedChange;

/// The newest generation, and what was not taken up.
#[derive(Clone, Debug)]
pub struct Reload {
    /// To be in force from the next batch on.
    pub generation: Arc<Generation>,
    /// The last change that was refused.
    pub refusal: Option<RejectedChange>,
    /// Keys of the configuration that were changed and are read at the start only, e.g. `stream.key`.
    pub needs_restart: Vec<String>,
}

impl Reload {
    /// A generation that nothing will follow.
    pub fn fixed(generation: Generation) -> watch::Receiver<Self> {
        let reload = Self { generation: Arc::new(generation), refusal: None, needs_restart: Vec::new() };
        watch::channel(reload).1
    }
}
