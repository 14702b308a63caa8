//! The part of the configuration that names a partition's streams and keys.

use tickhound_core::config::{AlertsConfig, DeadLettersConfig, StreamConfig};

use crate::keys::Keys;

/// Names a partition's streams and keys, and limits their lengths.
pub(crate) struct PartitionConfig {
    pub(crate) stream: StreamConfig,
    pub(crate) alerts: AlertsConfig,
    pub(crate) dead_letters: DeadLettersConfig,
    pub(crate) keys: Keys,
    /// Whether some detector was a shadow at the start. Then the host also claims the stream for alerts of shadows. A
    /// shadow that is added later is claimed at the next start, so that a conflict does not stop live detectors.
    pub(crate) has_shadows: bool,
}

impl PartitionConfig {
    pub(crate) fn new(stream: &StreamConfig, alerts: &AlertsConfig, dead_letters: &DeadLettersConfig) -> Self {
        Self {
            stream: stream.clone(),
            alerts: alerts.clone(),
            dead_letters: dead_letters.clone(),
            keys: Keys::new(&stream.key, &stream.group),
            has_shadows: false,
        }
    }
}
