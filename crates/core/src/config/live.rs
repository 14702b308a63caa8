//! Which keys take effect while the host runs, and which need a restart.

use anyhow::Result;
use toml::Table;

use super::Config;

/// The sections of which every key may change while the host runs, beside `[[notify]]`.
const LIVE_SECTIONS: [&str; 4] = ["context", "detectors", "groups", "reference"];

/// The keys of other sections that may change while the host runs. All others need a restart, so that a new key is safe until
/// it is listed here.
const LIVE: [(&str, &[&str]); 4] = [
    ("stream", &["batch"]),
    ("engine", &["backlog"]),
    (
        "alerts",
        &["log", "log_details", "log_stale", "stale_after_ms", "jsonl", "keep_minutes", "layout", "field", "map"],
    ),
    (
        "plugins",
        &[
            "follow_links",
            "trusted_keys",
            "require_signed",
            "allow_next",
            "file_max_mib",
            "memory_max_mib",
            "state_max_kib",
            "call_deadline_ms",
            "start_deadline_ms",
            "faults",
            "fault_window_s",
        ],
    ),
];

/// A key that needs a restart, and whose value in the file differs from the one in force.
pub struct ChangedKey {
    /// The section of the key.
    pub section: String,
    /// The key's name in its section.
    pub key: String,
    /// The value in force.
    pub in_force: String,
}

/// Merges a configuration that was read into the one in force: the keys that need a restart stay as they are. Returns
/// the merged configuration, and those keys whose values differ.
///
/// # Errors
/// A configuration that was loaded causes none.
pub fn merge(in_force: &Config, read: &Config) -> Result<(Config, Vec<ChangedKey>)> {
    let (old, new) = (Table::try_from(in_force)?, Table::try_from(read)?);
    let mut merged = new.clone();
    let mut differ = Vec::new();
    for (section, old) in old.iter().filter(|(section, _)| !LIVE_SECTIONS.contains(&section.as_str())) {
        let (Some(old), Some(new)) = (old.as_table(), new.get(section).and_then(toml::Value::as_table)) else {
            // `[[notify]]` is a list, and takes effect as it was read.
            continue;
        };
        let live = LIVE.iter().find(|(name, _)| name == section).map_or(&[][..], |(_, keys)| keys);
        for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
            let (before, now) = (old.get(key), new.get(key));
            if before == now || live.contains(&key.as_str()) {
                continue;
            }
            let in_force = before.map_or_else(|| "not set".to_owned(), ToString::to_string);
            differ.push(ChangedKey { section: section.clone(), key: key.clone(), in_force });
            if let Some(merged) = merged.get_mut(section).and_then(toml::Value::as_table_mut) {
                match before {
                    Some(before) => drop(merged.insert(key.clone(), before.clone())),
                    None => drop(merged.remove(key)),
                }
            }
        }
    }
    let mut merged: Config = merged.try_into()?;
    // What was loaded belongs to the names in force.
    merged.session.sessions = in_force.session.sessions.clone();
    Ok((merged, differ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_keys_are_taken_up_and_the_others_stay_and_are_named() {
        let in_force = Config::default();
        let mut read = Config::default();
        read.stream.batch = 7;
        read.stream.block_ms = 70;
        read.engine.backlog = 70;
        read.engine.workers = 7;
        read.input.map.insert("price".into(), vec!["p".into()]);
        read.plugins.dir = "elsewhere".into();
        read.plugins.faults = 9;
        read.alerts.log = false;
        read.alerts.maxlen = 5;
        read.detectors.insert("a".into(), crate::config::DetectorConfig::default());
        read.notify.push(crate::config::NotifyConfig::default());
        let (merged, differ) = merge(&in_force, &read).unwrap();
        let named: Vec<String> =
            differ.iter().map(|ChangedKey { section, key, .. }| format!("{section}.{key}")).collect();
        assert_eq!(named, ["alerts.maxlen", "engine.workers", "input.map", "plugins.dir", "stream.block_ms"]);
        let mut expected = in_force;
        (expected.stream.batch, expected.engine.backlog) = (7, 70);
        (expected.plugins.faults, expected.alerts.log) = (9, false);
        (expected.detectors, expected.notify) = (read.detectors, read.notify);
        assert_eq!(merged, expected);
    }

    #[test]
    fn what_has_not_changed_needs_no_restart() {
        let (merged, differ) = merge(&Config::default(), &Config::default()).unwrap();
        assert_eq!((merged, differ.len()), (Config::default(), 0));
    }
}
