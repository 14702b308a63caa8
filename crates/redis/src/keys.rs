//! The names of the keys that Tickhound keeps beside a stream, in the stream's cluster slot.

/// The keys of one group on one stream.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The lease, which expires unless its owner renews it.
    pub lease: String,
    /// The epoch, which is raised whenever the lease is acquired or released.
    pub epoch: String,
    /// The checkpoint: the last commit, and the totals.
    pub checkpoint: String,
    /// The saved states of detectors.
    pub state: String,
    /// The venues that symbols come from.
    pub venues: String,
    /// The stream of dead letters.
    pub dead: String,
    /// The receipt that the owner writes about itself.
    pub host: String,
    /// The position of each notification channel.
    pub notify: String,
    /// The mutes of notification channels.
    pub mutes: String,
}

impl Keys {
    /// Names the keys of `group` on `stream`. Two partitions may have the same names, such as group `c` on stream
    /// `{p}a:b` and group `b:c` on `{p}a`. Released names must not change, so `claims` detects the conflict.
    pub(crate) fn new(stream: &str, group: &str) -> Self {
        let prefix = prefix(stream);
        let key = |name: &str| format!("{prefix}:{group}:{name}");
        Self {
            lease: key("lease"),
            epoch: key("epoch"),
            checkpoint: key("checkpoint"),
            state: key("state"),
            venues: key("venues"),
            dead: key("dead"),
            host: key("host"),
            notify: key("notify"),
            mutes: key("mutes"),
        }
    }
}

/// Names the marker beside an alerts stream, which holds the partition of its alerts.
pub(super) fn source_key(alerts: &str) -> String {
    format!("{}:source", prefix(alerts))
}

/// The prefix of keys beside a stream, which puts them into its slot: a cluster hashes the text in the first pair of
/// braces, or else the whole name.
fn prefix(stream: &str) -> String {
    match hash_tag(stream) {
        Some(tag) => format!("tickhound:{{{tag}}}:{stream}"),
        None => format!("tickhound:{{{stream}}}"),
    }
}

fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    rest.split_once('}').map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_to_the_slot_of_their_stream() {
        assert_eq!(Keys::new("ticks:raw", "g").dead, "tickhound:{ticks:raw}:g:dead");
        assert_eq!(Keys::new("{p1}ticks", "g").lease, "tickhound:{p1}:{p1}ticks:g:lease");
        assert_eq!(Keys::new("a{}b", "g").epoch, "tickhound:{a{}b}:g:epoch");
        assert_eq!(source_key("alerts:intraday"), "tickhound:{alerts:intraday}:source");
        assert_eq!(source_key("{p1}alerts"), "tickhound:{p1}:{p1}alerts:source");
    }
}
