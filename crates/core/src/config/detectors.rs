//! `[detectors.NAME]`: the plugins to run, and with which settings.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    PluginsConfig, Source,
    section::{Section, is_name},
};

/// `[detectors.NAME]`: one configured use of a plugin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorConfig {
    /// The name of a file in the plugins folder, without `.wasm`.
    pub plugin: String,
    /// The SHA-256 that the file must have, in hexadecimal. Empty: any.
    pub sha256: String,
    /// Whether the detector runs.
    pub enabled: bool,
    /// The symbols that the detector sees: `*` matches any text, `?` one character.
    pub symbols: Vec<String>,
    /// The live detector that this one shadows: its alerts go to a stream of their own. Empty: this detector is live.
    pub shadow_of: String,
    /// The confidence, from 0 to 1, below which detections are dropped.
    pub min_confidence: f64,
    /// The event time after an alert during which further alerts of the same symbol and direction are held back,
    /// seconds. 0: none.
    pub cooldown_s: f64,
    /// The maximum number of alerts in a minute of event time, over all symbols; further ones are held back.
    /// 0: the limit that follows from `[alerts]`, see [`AlertsConfig::max_per_minute`](super::AlertsConfig::max_per_minute).
    pub max_alerts_per_minute: u64,
    /// The plugin's own parameters. Those that are left out have the plugin's defaults.
    pub params: toml::Table,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            plugin: String::new(),
            sha256: String::new(),
            enabled: true,
            symbols: vec!["*".into()],
            shadow_of: String::new(),
            min_confidence: 0.6,
            cooldown_s: 0.0,
            max_alerts_per_minute: 0,
            params: toml::Table::new(),
        }
    }
}

pub(super) fn validate(
    detectors: &BTreeMap<String, DetectorConfig>,
    plugins: &PluginsConfig,
    source: &Source,
) -> Result<()> {
    for (name, detector) in detectors {
        let section = Section::new(source, &["detectors", name]);
        // The name is part of every alert's id, where `/` separates.
        ensure!(is_name(name), "{}: detector name `{name}`: expected letters, digits, - and _", section.position());
        ensure!(
            !detector.plugin.is_empty() && !detector.plugin.contains(['/', '\\']),
            "{}: detectors.{name}.plugin is `{}`, expected the name of a file in {} without .wasm",
            section.at("plugin"),
            detector.plugin,
            plugins.dir.display()
        );
        let pin = &detector.sha256;
        ensure!(
            pin.is_empty() || (pin.len() == 64 && pin.bytes().all(|byte| byte.is_ascii_hexdigit())),
            "{}: detectors.{name}.sha256 is `{pin}`, expected the 64 hexadecimal digits that `tickhound inspect` shows",
            section.at("sha256")
        );
        let live = &detector.shadow_of;
        let is_live = detectors.get(live).is_some_and(|live| live.shadow_of.is_empty());
        ensure!(
            live.is_empty() || (is_live && live != name),
            "{}: detectors.{name}.shadow_of is `{live}`, expected the name of a detector that is not itself a shadow",
            section.at("shadow_of")
        );
        section.check_range("min_confidence", detector.min_confidence, 0.0..=1.0)?;
        section.check_range("cooldown_s", detector.cooldown_s, 0.0..=86_400.0)?;
        ensure!(
            !detector.symbols.is_empty(),
            "{}: detectors.{name}.symbols is empty; to switch the detector off, set enabled = false",
            section.at("symbols")
        );
    }
    Ok(())
}
