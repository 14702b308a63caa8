//! Markers that name the partition to which alerts streams and keys belong.
//!
//! What holds: a marker is written once, by the first host that needs it. A host of another partition does not start.
//! Alert ids are unique within a partition only, so alerts of two partitions in one stream would mislead consumers that
//! drop duplicates by id. And two partitions may need keys of the same names ([`Keys::new`]).

use redis::{Cmd, aio::MultiplexedConnection, cmd};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{
    errors::unavailable,
    keys::{Keys, source_key},
    partition_config::PartitionConfig,
};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    stream::StreamError,
};

/// The field of the checkpoint that names its partition.
const PARTITION: &str = "partition";

/// Names a partition. This is the content of a marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionName {
    /// The key of the stream of ticks.
    pub stream: String,
    /// The name of the consumer group.
    pub group: String,
}

impl PartitionName {
    /// The partition of a configuration.
    pub(crate) fn of(config: &StreamConfig) -> Self {
        Self { stream: config.key.clone(), group: config.group.clone() }
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a struct of two texts can be serialized")
    }
}

/// Something that belongs to one partition only.
#[derive(Clone, Debug)]
pub(crate) enum Claim {
    /// A stream of alerts.
    Alerts {
        /// The setting that names the stream.
        setting: &'static str,
        /// The key of the stream.
        stream: String,
        /// The key of the marker.
        marker: String,
    },
    /// The keys beside the stream of ticks.
    Keys {
        /// The key of the checkpoint. The marker is one of its fields.
        checkpoint: String,
    },
}

impl Claim {
    /// Claims that every partition makes: its keys, and its alerts stream.
    pub(crate) fn all(alerts: &AlertsConfig, keys: &Keys) -> Vec<Self> {
        vec![Self::Keys { checkpoint: keys.checkpoint.clone() }, Self::alerts("alerts.stream", &alerts.stream)]
    }

    /// The claim on the stream for alerts of shadows.
    pub(crate) fn shadows(alerts: &AlertsConfig) -> Self {
        Self::alerts("alerts.shadow_stream", &alerts.shadow_stream)
    }

    fn alerts(setting: &'static str, stream: &str) -> Self {
        Self::Alerts { setting, stream: stream.to_owned(), marker: source_key(stream) }
    }

    /// The command that reads the marker.
    pub(crate) fn read(&self) -> Cmd {
        match self {
            Self::Alerts { marker, .. } => cmd("GET").arg(marker).to_owned(),
            Self::Keys { checkpoint } => cmd("HGET").arg(checkpoint).arg(PARTITION).to_owned(),
        }
    }

    /// The command that writes the marker, unless it exists.
    fn write(&self, ours: &PartitionName) -> Cmd {
        match self {
            Self::Alerts { marker, .. } => cmd("SET").arg(marker).arg(ours.to_text()).arg("NX").to_owned(),
            Self::Keys { checkpoint } => cmd("HSETNX").arg(checkpoint).arg(PARTITION).arg(ours.to_text()).to_owned(),
        }
    }

    /// Describes the conflict if this marker names another partition than ours.
    pub(crate) fn conflict(&self, marker: &str, ours: &PartitionName) -> Option<Conflict> {
        let theirs = serde_json::from_str::<PartitionName>(marker);
        if theirs.as_ref().is_ok_and(|theirs| theirs == ours) {
            return None;
        }
        let whose = theirs.map_or_else(
            |_| format!("somebody else (`{}`)", marker.chars().take(100).collect::<String>()),
            |PartitionName { stream, group }| format!("group {group} on stream {stream}"),
        );
        let PartitionName { stream, group } = ours;
        Some(match self {
            Self::Alerts { setting, stream: alerts, marker } => Conflict {
                problem: format!(
                    "{setting}: the stream {alerts} belongs to {whose}, and ids of alerts are unique within a group only"
                ),
                cure: format!(
                    "choose another {setting} for group {group} on stream {stream}; or, if the other one is gone for \
                     good, DEL {marker}"
                ),
            },
            Self::Keys { checkpoint } => Conflict {
                problem: format!(
                    "stream.group: the keys of group {group} on stream {stream} have the names of those of {whose}, \
                     which has {checkpoint}"
                ),
                cure: format!(
                    "choose another stream.group; or, if the other one is gone for good, delete its keys, {}*",
                    checkpoint.trim_end_matches("checkpoint")
                ),
            },
        })
    }
}

/// Two partitions need the same stream or keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What belongs to another partition.
    pub problem: String,
    /// What the user can do about it.
    pub cure: String,
}

impl From<Conflict> for StreamError {
    fn from(Conflict { problem, cure }: Conflict) -> Self {
        Self::Misconfigured(format!("{problem}: {cure}"))
    }
}

/// Returns the claims of a partition that have no marker yet. Changes nothing.
///
/// # Errors
/// When something belongs to another partition.
pub(crate) async fn unmarked_claims(
    connection: &mut MultiplexedConnection,
    config: &PartitionConfig,
) -> Result<Vec<Claim>, StreamError> {
    let mut claims = Claim::all(&config.alerts, &config.keys);
    claims.extend(config.has_shadows.then(|| Claim::shadows(&config.alerts)));
    let (ours, mut unmarked) = (PartitionName::of(&config.stream), Vec::new());
    for claim in claims {
        let Some(marker) = query_if_permitted::<Option<String>>(connection, &claim.read()).await?.flatten() else {
            unmarked.push(claim);
            continue;
        };
        if let Some(conflict) = claim.conflict(&marker, &ours) {
            return Err(conflict.into());
        }
    }
    Ok(unmarked)
}

/// Writes the markers of these claims.
///
/// # Errors
/// When another partition has written one of them meanwhile.
pub(crate) async fn write_markers(
    connection: &mut MultiplexedConnection,
    config: &PartitionConfig,
    unmarked: &[Claim],
) -> Result<(), StreamError> {
    let ours = PartitionName::of(&config.stream);
    for claim in unmarked {
        if query_if_permitted::<redis::Value>(connection, &claim.write(&ours)).await?.is_none() {
            warn!(
                event = "claim_not_permitted",
                "the Redis user may not mark which group owns the alerts streams and keys, so nothing keeps another \
                 group from using them by mistake; `tickhound doctor` names the missing rights"
            );
        }
    }
    if !unmarked.is_empty() {
        unmarked_claims(connection, config).await?;
    }
    Ok(())
}

/// Sends a command; returns `None` if the Redis user lacks the right to it. A user with the rights that an older release
/// needed can still run a host, which then works without markers.
async fn query_if_permitted<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<Option<T>, StreamError> {
    match command.query_async(connection).await {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some("NOPERM") => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_of_another_partition_is_a_conflict_with_a_cure() {
        let ours = PartitionName { stream: "ticks".into(), group: "trial".into() };
        let alerts = AlertsConfig::default();
        let [keys, stream] = &Claim::all(&alerts, &Keys::new("ticks", "trial"))[..] else { panic!("two claims") };
        assert_eq!(stream.conflict(r#"{"stream":"ticks","group":"trial"}"#, &ours), None);
        let Conflict { problem, cure } = stream.conflict(r#"{"stream":"ticks","group":"live"}"#, &ours).unwrap();
        assert!(problem.starts_with("alerts.stream: the stream alerts:intraday belongs to group live on stream ticks"));
        assert!(cure.ends_with("DEL tickhound:{alerts:intraday}:source"), "{cure}");
        let Conflict { problem, cure } = keys.conflict("live", &ours).unwrap();
        assert!(problem.contains("have the names of those of somebody else (`live`)"), "{problem}");
        assert!(cure.ends_with("delete its keys, tickhound:{ticks}:trial:*"), "{cure}");
    }
}
