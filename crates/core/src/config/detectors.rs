//! `[detectors.NAME]`: the plugins to run, and with which settings.
//!
//! What holds: a shadow has the value of its live detector for each key that it does not set itself, so that the two see the
//! same symbols and differ only in what the shadow is to show. [`inheritance`] has the rules, for loading and for `promote`.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    Config, Source,
    section::{Section, is_name},
};
use crate::{market::UNDERLYING, nearest::nearest};

/// The suffix of a plugin's name that makes it the next version of another plugin.
pub const NEXT_VERSION: &str = ".next";

/// The largest value of `max_alerts_per_minute`: far beyond what the server can store in that time.
const ALERTS_PER_MINUTE_MAX: u64 = 100_000_000;

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
    /// The families of groups whose members a detector of scope `group` sees together: `underlying`, or names of `[groups]`.
    pub groups: Vec<String>,
    /// The live detector that this one shadows: its alerts go to a stream of their own. Empty: this detector is live. A
    /// shadow has the live detector's values for the keys that it does not set.
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
    pub params: Table,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self {
            plugin: String::new(),
            sha256: String::new(),
            enabled: true,
            symbols: vec!["*".into()],
            groups: vec![UNDERLYING.into()],
            shadow_of: String::new(),
            min_confidence: 0.6,
            cooldown_s: 0.0,
            max_alerts_per_minute: 0,
            params: Table::new(),
        }
    }
}

pub(super) fn validate(Config { detectors, plugins, groups: families, .. }: &Config, source: &Source) -> Result<()> {
    // A wrong value that shadows inherit is reported where it is set.
    let (live, shadows): (Vec<_>, Vec<_>) = detectors.iter().partition(|(_, detector)| detector.shadow_of.is_empty());
    for (name, detector) in live.into_iter().chain(shadows) {
        let section = Section::new(source, &["detectors", name]);
        // The name is part of every alert's id, where `/` separates.
        ensure!(is_name(name), "{}: detector name `{name}`: expected letters, digits, - and _", section.position());
        // First, since a shadow may have its plugin from its live detector.
        let live = &detector.shadow_of;
        let is_live = detectors.get(live).is_some_and(|live| live.shadow_of.is_empty());
        ensure!(
            live.is_empty() || (is_live && live != name),
            "{}: detectors.{name}.shadow_of is `{live}`, expected the name of a detector that is not itself a shadow",
            section.at("shadow_of")
        );
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
        section.check_range("min_confidence", detector.min_confidence, 0.0..=1.0)?;
        section.check_range("cooldown_s", detector.cooldown_s, 0.0..=86_400.0)?;
        section.check_range("max_alerts_per_minute", detector.max_alerts_per_minute, 0..=ALERTS_PER_MINUTE_MAX)?;
        ensure!(
            !detector.symbols.is_empty(),
            "{}: detectors.{name}.symbols is empty; to switch the detector off, set enabled = false",
            section.at("symbols")
        );
        ensure!(
            detector.symbols.iter().all(|pattern| !pattern.trim().is_empty()),
            "{}: detectors.{name}.symbols has an empty pattern, which matches no symbol; `*` matches all of them",
            section.at("symbols")
        );
        ensure!(
            !detector.groups.is_empty(),
            "{}: detectors.{name}.groups is empty, expected `{UNDERLYING}` or names of [groups]",
            section.at("groups")
        );
        for (number, family) in detector.groups.iter().enumerate() {
            let at = || section.at("groups");
            let known = || families.keys().map(String::as_str).chain([UNDERLYING]);
            let near = nearest(family, known()).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            ensure!(
                known().any(|known| known == family),
                "{}: detectors.{name}.groups has `{family}`, but there is no [groups.{family}]{near}",
                at()
            );
            let is_first = !detector.groups[..number].contains(family);
            ensure!(is_first, "{}: detectors.{name}.groups has `{family}` twice", at());
        }
    }
    Ok(())
}

/// How a shadow gets a key that it does not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// Each value in the live detector's table that the shadow's table does not have.
    Entries,
    /// The live detector's value.
    Value,
    /// Not at all: the key has its default.
    None,
}

/// Returns how a shadow gets `key` from its live detector, if it does not set it. `plugin` is the live detector's, and
/// `shadow_plugin` what the shadow sets.
///
/// Whether a detector runs is its own affair. A digest belongs to a file, and parameters to a plugin, of which `X.next` is
/// the next version of `X`.
pub fn inheritance(key: &str, plugin: &str, shadow_plugin: Option<&str>) -> Inheritance {
    let is_same = shadow_plugin.is_none_or(|own| own == plugin);
    let is_next = shadow_plugin.and_then(|own| own.strip_suffix(NEXT_VERSION)) == Some(plugin);
    match key {
        "enabled" | "shadow_of" => Inheritance::None,
        "sha256" if !is_same => Inheritance::None,
        "params" if is_same || is_next => Inheritance::Entries,
        "params" => Inheritance::None,
        _ => Inheritance::Value,
    }
}

/// Gives each shadow in the keys of a configuration what it inherits. Returns the live detector of each value that a shadow
/// has inherited, by the key's path.
pub(super) fn inherit(config: &mut Table) -> BTreeMap<Vec<String>, String> {
    let mut inherited = BTreeMap::new();
    let Some(detectors) = config.get_mut("detectors").and_then(Value::as_table_mut) else { return inherited };
    let text = |table: &Table, key: &str| table.get(key).and_then(Value::as_str).map(str::to_owned);
    for name in detectors.keys().cloned().collect::<Vec<_>>() {
        let Some(live_name) = detectors[&name].as_table().and_then(|table| text(table, "shadow_of")) else { continue };
        let live = detectors.get(&live_name).and_then(Value::as_table).filter(|_| live_name != name);
        // What a shadow of a shadow is gets rejected by the check.
        let Some(live) = live.filter(|live| text(live, "shadow_of").is_none_or(|of| of.is_empty())).cloned() else {
            continue;
        };
        let Some(shadow) = detectors.get_mut(&name).and_then(Value::as_table_mut) else { continue };
        let (plugin, own_plugin) = (text(&live, "plugin").unwrap_or_default(), text(shadow, "plugin"));
        for (key, value) in live {
            let mut give = |table: &mut Table, path: &[&str], value: Value| {
                let key = path[path.len() - 1];
                if !table.contains_key(key) {
                    table.insert(key.to_owned(), value);
                    let path = ["detectors", &name].iter().chain(path).map(|&part| part.to_owned()).collect();
                    inherited.insert(path, live_name.clone());
                }
            };
            match inheritance(&key, &plugin, own_plugin.as_deref()) {
                Inheritance::None => {}
                Inheritance::Value => give(shadow, &[&key], value),
                Inheritance::Entries => {
                    let own = shadow.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
                    let (Some(own), Value::Table(entries)) = (own.as_table_mut(), value) else { continue };
                    entries.into_iter().for_each(|(entry, value)| give(own, &[&key, &entry], value));
                }
            }
        }
    }
    inherited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Origin, parse_text};

    const LIVE: &str = "[detectors.live]\nplugin = \"a\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n\
                        enabled = false\nsymbols = [\"NIFTY*\"]\nmin_confidence = 0.8\ncooldown_s = 60\n\
                        max_alerts_per_minute = 9\n[detectors.live.params]\nn = 1\nwindow_s = 200\n";

    fn parsed(shadow: &str) -> crate::config::LoadedConfig {
        parse_text("config.toml".as_ref(), &format!("{LIVE}[detectors.shadow]\nshadow_of = \"live\"\n{shadow}"))
            .unwrap()
    }

    /// A shadow saw all symbols at the default threshold, so that it could not be compared with its live detector.
    #[test]
    fn a_shadow_inherits_what_it_does_not_set() {
        let config = parsed("min_confidence = 0.3\n[detectors.shadow.params]\nn = 2\n").config;
        let (live, shadow) = (&config.detectors["live"], &config.detectors["shadow"]);
        assert_eq!(
            *shadow,
            DetectorConfig {
                enabled: true,
                shadow_of: "live".into(),
                min_confidence: 0.3,
                params: "n = 2\nwindow_s = 200".parse().unwrap(),
                ..live.clone()
            }
        );
    }

    #[test]
    fn another_plugin_has_neither_the_digest_nor_the_parameters() {
        let of = |plugin: &str| parsed(&format!("plugin = \"{plugin}\"\n")).config.detectors.remove("shadow").unwrap();
        for (plugin, params) in [("a", 2), ("a.next", 2), ("b", 0), ("b.next", 0)] {
            let shadow = of(plugin);
            assert_eq!((shadow.sha256.is_empty(), shadow.params.len()), (plugin != "a", params), "{plugin}");
            assert_eq!((shadow.cooldown_s, shadow.symbols), (60.0, vec!["NIFTY*".to_owned()]), "{plugin}");
        }
    }

    #[test]
    fn the_origin_of_each_value_is_known() {
        let loaded = parsed("min_confidence = 0.3\n[detectors.shadow.params]\nn = 2\n");
        let file = |line: usize| Origin::File(format!("config.toml:{line}:1"));
        let inherited = |line| Origin::Inherited { live: "live".into(), origin: Box::new(file(line)) };
        let shadow = |key: &[&str]| loaded.origin(&[&["detectors", "shadow"], key].concat());
        assert_eq!(shadow(&["min_confidence"]), file(14));
        assert_eq!(shadow(&["symbols"]), inherited(5));
        assert_eq!(shadow(&["params", "window_s"]), inherited(11));
        assert_eq!(shadow(&["params", "other"]), Origin::Default);
        assert_eq!(shadow(&["enabled"]), Origin::Default);
    }

    #[test]
    fn a_wrong_value_is_reported_where_it_is_set() {
        let config = "[detectors.a]\nshadow_of = \"b\"\n[detectors.b]\nplugin = \"x\"\nmin_confidence = 7\n";
        let said = parse_text("config.toml".as_ref(), config).map(|_| ()).unwrap_err().to_string();
        assert!(said.starts_with("config.toml:5:1: detectors.b.min_confidence is 7"), "{said}");
    }

    #[test]
    fn an_empty_pattern_is_refused_wherever_patterns_are() {
        for (table, key) in [
            ("[detectors.a]\nplugin = \"p\"\nsymbols = [\"\"]", "detectors.a.symbols"),
            ("[detectors.a]\nplugin = \"p\"\nsymbols = [\"X\", \" \"]", "detectors.a.symbols"),
            ("[[notify]]\nname = \"n\"\nurl = \"http://127.0.0.1/\"\nsymbols = [\"\"]", "notify.symbols"),
            ("[[notify]]\nname = \"n\"\nurl = \"http://127.0.0.1/\"\ndetectors = [\"\"]", "notify.detectors"),
            ("[[session.by_symbol]]\nsymbols = [\"\"]\ncalendar = \"nse\"", "session.by_symbol"),
        ] {
            let error = parse_text("config.toml".as_ref(), table).map(|_| ()).unwrap_err();
            assert!(format!("{error:#}").contains(&format!("{key} has an empty pattern")), "{table}: {error:#}");
        }
    }

    #[test]
    fn a_shadow_of_a_shadow_or_of_itself_is_rejected() {
        for (of, plugin) in
            ["shadow", "second", "nobody"].into_iter().flat_map(|of| [(of, "plugin = \"a\"\n"), (of, "")])
        {
            let config = format!(
                "{LIVE}[detectors.shadow]\nshadow_of = \"live\"\n[detectors.second]\n{plugin}shadow_of = \"{of}\"\n"
            );
            let said = parse_text("config.toml".as_ref(), &config).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains("expected the name of a detector that is not itself a shadow"), "{said}");
        }
    }
}
