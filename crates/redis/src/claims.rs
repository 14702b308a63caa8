//! Whose alerts streams and keys these are: a marker beside each names the stream and the group that write there.
//!
//! What holds: a marker is written once, by the first host that needs it; a host whose partition it does not name does
//! not start. The id of an alert is unique within a partition only, so two of them in one alerts stream would mislead
//! whoever drops repeats by id. And two partitions may have the same names of keys, where one name ends with what the
//! other begins with ([`Keys`]).

use redis::{Cmd, aio::MultiplexedConnection, cmd};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Keys, RedisStream, keys::source_key, unavailable};
use tickhound_core::{
    config::{AlertsConfig, StreamConfig},
    stream::StreamError,
};

/// Field of the checkpoint with the partition that it belongs to.
const PARTITION: &str = "partition";

/// What a marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    pub stream: String,
    pub group: String,
}

impl Partition {
    pub fn of(config: &StreamConfig) -> Self {
        Self { stream: config.key.clone(), group: config.group.clone() }
    }

    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("two texts are always written")
    }
}

/// What a partition has for itself.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The stream that a setting names, and the key of its marker.
    Alerts { setting: &'static str, stream: String, marker: String },
    /// All keys beside the ticks; the marker is a field of this one.
    Keys { checkpoint: String },
}

impl Claim {
    /// The keys of a partition, and its alerts stream.
    pub fn all(alerts: &AlertsConfig, keys: &Keys) -> Vec<Self> {
        vec![Self::Keys { checkpoint: keys.checkpoint.clone() }, Self::alerts("alerts.stream", &alerts.stream)]
    }

    /// The stream for alerts of shadows.
    pub fn shadows(alerts: &AlertsConfig) -> Self {
        Self::alerts("alerts.shadow_stream", &alerts.shadow_stream)
    }

    fn alerts(setting: &'static str, stream: &str) -> Self {
        Self::Alerts { setting, stream: stream.to_owned(), marker: source_key(stream) }
    }

    /// Asks what the marker says.
    pub fn read(&self) -> Cmd {
        match self {
            Self::Alerts { marker, .. } => cmd("GET").arg(marker).to_owned(),
            Self::Keys { checkpoint } => cmd("HGET").arg(checkpoint).arg(PARTITION).to_owned(),
        }
    }

    /// Writes the marker unless there is one.
    fn write(&self, ours: &Partition) -> Cmd {
        match self {
            Self::Alerts { marker, .. } => cmd("SET").arg(marker).arg(ours.to_text()).arg("NX").to_owned(),
            Self::Keys { checkpoint } => cmd("HSETNX").arg(checkpoint).arg(PARTITION).arg(ours.to_text()).to_owned(),
        }
    }

    /// What is wrong, and what to do, if this marker names another partition than ours.
    pub fn conflict(&self, marker: &str, ours: &Partition) -> Option<Conflict> {
        let theirs = serde_json::from_str::<Partition>(marker);
        if theirs.as_ref().is_ok_and(|theirs| theirs == ours) {
            return None;
        }
        let whose = theirs.map_or_else(
            |_| format!("somebody else (`{}`)", marker.chars().take(100).collect::<String>()),
            |Partition { stream, group }| format!("group {group} on stream {stream}"),
        );
        let Partition { stream, group } = ours;
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

/// Two partitions want the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub problem: String,
    pub cure: String,
}

impl From<Conflict> for StreamError {
    fn from(Conflict { problem, cure }: Conflict) -> Self {
        Self::Misconfigured(format!("{problem}: {cure}"))
    }
}

impl RedisStream {
    /// What has no marker yet of all that the partition needs. Changes nothing.
    ///
    /// # Errors
    /// When another partition has some of it.
    pub(super) async fn unclaimed(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Claim>, StreamError> {
        let mut claims = Claim::all(&self.alerts, &self.keys);
        claims.extend(self.has_shadows.then(|| Claim::shadows(&self.alerts)));
        let (ours, mut unclaimed) = (Partition::of(&self.config), Vec::new());
        for claim in claims {
            let marker = ask::<Option<String>>(connection, &claim.read()).await?.flatten();
            match marker.map(|marker| claim.conflict(&marker, &ours)) {
                Some(Some(conflict)) => return Err(conflict.into()),
                Some(None) => {}
                None => unclaimed.push(claim),
            }
        }
        Ok(unclaimed)
    }

    /// Writes the markers that are missing.
    ///
    /// # Errors
    /// When another partition was quicker.
    pub(super) async fn claim(
        &self,
        connection: &mut MultiplexedConnection,
        unclaimed: &[Claim],
    ) -> Result<(), StreamError> {
        for claim in unclaimed {
            if ask::<redis::Value>(connection, &claim.write(&Partition::of(&self.config))).await?.is_none() {
                warn!(
                    event = "claim_not_permitted",
                    "the Redis user may not mark which group owns the alerts streams and keys, so nothing keeps \
                     another group from using them by mistake; `tickhound doctor` names the missing rights"
                );
            }
        }
        if !unclaimed.is_empty() {
            self.unclaimed(connection).await?;
        }
        Ok(())
    }
}

/// The answer; `None` if this user may not ask or write that. Rights that were enough for an older release must not keep
/// a host from its work: it goes on without a marker, as hosts did before there were any.
async fn ask<T: redis::FromRedisValue>(
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
    fn a_marker_of_another_partition_is_told_with_what_to_do() {
        let ours = Partition { stream: "ticks".into(), group: "trial".into() };
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
