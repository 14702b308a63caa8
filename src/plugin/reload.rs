//! What a look at the plugins folder and the configuration came to, for whoever takes it up.

use std::sync::Arc;

use tokio::sync::watch;

use super::Generation;

/// The newest generation, and what was not taken up.
#[derive(Clone, Debug)]
pub struct Reload {
    /// To be in force from the next batch on.
    pub generation: Arc<Generation>,
    /// The last change that was refused.
    pub refusal: Option<Refusal>,
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

/// A change that was not taken up: the generation before stays in force, whole.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// When, ms since the Unix epoch.
    pub at_ms: u64,
    /// What was wrong, with its place, and what to do.
    pub reason: String,
    /// Whether it still is: no later change was taken up.
    pub standing: bool,
}
