//! Names of the keys that Tickhound keeps beside a stream, in the stream's cluster slot.

/// Keys of one group on one stream.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Who may read, for how long.
    pub lease: String,
    /// Raised whenever the lease changes hands.
    pub epoch: String,
    /// What was committed last, and the totals.
    pub checkpoint: String,
    /// What detectors know, as of entries of the recent past.
    pub state: String,
    /// Dead letters.
    pub dead: String,
    /// How the host is doing, as it says itself.
    pub host: String,
    /// How far each `[[notify]]` sink has been told.
    pub notify: String,
}

impl Keys {
    /// Names the keys of `group` on `stream`. Two partitions may have the same names, such as group `c` on stream
    /// `{p}a:b` and group `b:c` on `{p}a`; names must not change, so `claims` tells them apart.
    pub fn new(stream: &str, group: &str) -> Self {
        let prefix = prefix(stream);
        let key = |name: &str| format!("{prefix}:{group}:{name}");
        Self {
            lease: key("lease"),
            epoch: key("epoch"),
            checkpoint: key("checkpoint"),
            state: key("state"),
            dead: key("dead"),
            host: key("host"),
            notify: key("notify"),
        }
    }
}

/// Names the key beside an alerts stream that tells which partition's alerts it has.
pub(super) fn source_key(alerts: &str) -> String {
    format!("{}:source", prefix(alerts))
}

/// What keys beside a stream begin with, so that they are in its slot: a cluster hashes what stands in the first pair of
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
