//! Environment variables `TICKHOUND_SECTION__KEY`, which override keys of the file.
//!
//! What holds: a variable that begins with `TICKHOUND_` sets a key, or is named below as one that does not, or is an
//! error. So a mistyped name can't be ignored without a word. The result does not depend on the order of the variables.

use std::{collections::BTreeMap, env};

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use toml::{Table, Value};

use super::{
    Config, DetectorConfig, nearest,
    source::{NAMED_TABLES, with_suggestion},
};

/// The prefix of the variables that override keys of the file. Those that do also contain `__`.
const PREFIX: &str = "TICKHOUND_";

/// The separator of the parts of a key's path in a variable's name.
const SEPARATOR: &str = "__";

/// Variables that the tests and tools of this repository and the files in `deploy/` read, and that a host inherits from
/// them; CONTRIBUTING.md and deploy/compose.yml explain them. They change nothing in the program.
const FOREIGN: [&str; 22] = [
    "TICKHOUND_BENCH_CONFIG",
    "TICKHOUND_CHAOS_HOSTS",
    "TICKHOUND_CHAOS_NEMESES",
    "TICKHOUND_CHAOS_SECONDS",
    "TICKHOUND_CHAOS_SEED",
    "TICKHOUND_COMMIT",
    "TICKHOUND_FAILOVER_SEED",
    "TICKHOUND_FAILOVER_SEEDS",
    "TICKHOUND_MEMORY",
    "TICKHOUND_MODEL_CASES",
    "TICKHOUND_NO_BROWSER",
    "TICKHOUND_OUTAGES",
    "TICKHOUND_PICTURE",
    "TICKHOUND_PICTURES",
    "TICKHOUND_REAL_COUNT",
    "TICKHOUND_REAL_DAYS",
    "TICKHOUND_SWAPS_COUNT",
    "TICKHOUND_SWAPS_RATE",
    "TICKHOUND_TEST_FAKETIME",
    "TICKHOUND_TEST_HOST",
    "TICKHOUND_TEST_SERVER",
    "TICKHOUND_TOKEN",
];

/// Returns the variables of this process that [`load`](super::load) may use. A value that is not UTF-8 has replacement
/// characters, which its key's check then shows.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    })
}

/// Keys of the file with the overrides of the environment.
pub(super) struct Overridden {
    pub(super) table: Table,
    /// The name of the variable that has set a key, by the key's path.
    pub(super) variables: BTreeMap<Vec<String>, String>,
}

/// Applies variables to the keys of the file, which are a valid configuration.
pub(super) fn apply(table: Table, environment: impl Iterator<Item = (String, String)>) -> Result<Overridden> {
    let given: BTreeMap<String, String> = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    let known = Table::try_from(Config::default())?;
    let secrets = names_of_secrets(&table);
    let mut overridden = Overridden { table, variables: BTreeMap::new() };
    for (name, text) in given {
        if FOREIGN.contains(&name.as_str()) || secrets.contains(&name) || is_service_link(&name, &text) {
            continue;
        }
        let path = path(&name, &overridden.table, &known)?;
        overridden.set(&name, path, text)?;
    }
    overridden.check_tables()?;
    Ok(overridden)
}

impl Overridden {
    fn set(&mut self, name: &str, path: Vec<String>, text: String) -> Result<()> {
        if let Some(other) = self.variables.get(&path) {
            bail!("environment variables {other} and {name} set the same key; unset one of them");
        }
        // `7` may be a number or a text, so both are tried: the key's type decides.
        let typed = toml::from_str::<Table>(&format!("value = {text}")).ok().and_then(|mut t| t.remove("value"));
        let mut rejected = None;
        for candidate in typed.into_iter().chain([Value::String(text)]) {
            let mut attempt = self.table.clone();
            if !insert(&mut attempt, &path, candidate) {
                bail!(
                    "environment variable {name}: {} is not a section of config.toml",
                    path[..path.len() - 1].join(".")
                );
            }
            match Config::deserialize(Value::Table(attempt.clone())) {
                Ok(_) => {
                    self.table = attempt;
                    self.variables.insert(path, name.to_owned());
                    return Ok(());
                }
                Err(error) => rejected = Some(rejected.unwrap_or(error)),
            }
        }
        let message = rejected.map_or_else(String::new, |error| with_suggestion(error.message()));
        bail!("environment variable {name}: {message}")
    }

    /// Checks that a variable's detector, group or context exists: a mistyped name would otherwise begin another one.
    fn check_tables(&self) -> Result<()> {
        for (path, variable) in &self.variables {
            let [section, name, _, ..] = path.as_slice() else { continue };
            let Some((_, keys)) = NAMED_TABLES.iter().find(|(known, _)| known == section) else { continue };
            let Some(tables) = self.table.get(section).and_then(Value::as_table) else { continue };
            let Some(table) = tables.get(name) else { continue };
            let is_set = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty()) || value.is_array();
            let others = tables.keys().map(String::as_str).filter(|other| other != name);
            let near = nearest(name, others).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            ensure!(
                keys.iter().any(|key| table.get(key).is_some_and(is_set)),
                "environment variable {variable}: there is no [{section}.{name}]{near}"
            );
        }
        Ok(())
    }
}

/// Returns the path of the key that a variable names.
fn path(variable: &str, table: &Table, known: &Table) -> Result<Vec<String>> {
    let segments: Vec<&str> = variable[PREFIX.len()..].split(SEPARATOR).collect();
    ensure!(
        segments.len() > 1 && !segments[0].is_empty(),
        "unknown environment variable {variable}{}",
        suggestion(variable, table, known)
    );
    ensure!(
        segments[0] != "NOTIFY",
        "environment variable {variable}: [[notify]] is a list, which only the file sets; a secret of a channel may be \
         in a variable that its url_env or token_env names"
    );
    // The names of detectors are not known, and each has these keys.
    let of_detector = Table::try_from(DetectorConfig::default())?;
    let mut known = Some(known);
    let mut inner = Some(table);
    let mut path: Vec<String> = Vec::new();
    let mut is_key = false;
    for segment in segments {
        ensure!(!is_key, "environment variable {variable}: {} is a key of config.toml, not a section", path.join("."));
        let names = inner.into_iter().chain(known).flat_map(Table::keys);
        let name = match find(segment, names).as_slice() {
            [] => segment.to_lowercase(),
            [name] => (*name).clone(),
            [first, second, ..] => bail!(
                "environment variable {variable} may mean `{first}` or `{second}`: set the key in the file, or rename \
                 one of them"
            ),
        };
        let (value, default) = (inner.and_then(|inner| inner.get(&name)), known.and_then(|known| known.get(&name)));
        is_key = value.or(default).is_some_and(|value| !value.is_table());
        (inner, known) = (value.and_then(Value::as_table), default.and_then(Value::as_table));
        path.push(name);
        if matches!(path.as_slice(), [section, _] if section == "detectors") {
            known = Some(&of_detector);
        }
    }
    Ok(path)
}

/// Returns the names that a part of a variable's name may mean. Variables have capital letters, and in most shells no
/// dashes: `ORDER_FLOW` means `order-flow` as well.
fn find<'a>(segment: &str, names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let spelled = |text: &str| if segment.contains('-') { text.to_lowercase() } else { as_variable(text) };
    let mut found: Vec<&String> = names.filter(|name| spelled(name) == spelled(segment)).collect();
    found.sort();
    found.dedup();
    found
}

fn as_variable(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// Returns the rest of the message about an unknown variable: the name that was probably meant, or the form of names.
fn suggestion(variable: &str, table: &Table, known: &Table) -> String {
    let mut names = Vec::new();
    for (section, keys) in table.iter().chain(known) {
        let Some(keys) = keys.as_table() else { continue };
        for (key, value) in keys {
            let name = |path: &[&str]| format!("{PREFIX}{}", as_variable(&path.join(SEPARATOR)).to_uppercase());
            match value.as_table().filter(|_| section == "detectors") {
                Some(detector) => names.extend(detector.keys().map(|inner| name(&[section, key, inner]))),
                None => names.push(name(&[section, key])),
            }
        }
    }
    // A single `_` in place of `__` is the most frequent mistake.
    let single = |name: &str| name.replace(SEPARATOR, "_");
    let exact = names.iter().find(|name| single(name) == single(variable)).map(String::as_str);
    match exact.or_else(|| nearest(variable, names.iter().map(String::as_str))) {
        Some(name) => format!("; did you mean {name}?"),
        None => ": expected TICKHOUND_SECTION__KEY, such as TICKHOUND_STREAM__URL".into(),
    }
}

/// Returns the variables that the configuration names as holding a secret.
fn names_of_secrets(table: &Table) -> Vec<String> {
    let channels = table.get("notify").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table);
    let keys = channels.flatten().filter(|(key, _)| key.ends_with("_env"));
    keys.filter_map(|(_, name)| name.as_str().map(str::to_owned)).collect()
}

/// Returns whether Kubernetes has set the variable, which it does in each container for each service of the namespace: for
/// a service `tickhound`, `TICKHOUND_SERVICE_HOST`, `TICKHOUND_SERVICE_PORT` and `TICKHOUND_PORT…` with an address.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |tail: &str| tail.is_empty() || tail.starts_with('_');
    let has = |mark: &str| name.rfind(mark).is_some_and(|at| is_port(&name[at + mark.len()..]));
    let has_service = name.ends_with("_SERVICE_HOST") || has("_SERVICE_PORT");
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_part = ["_PROTO", "_PORT", "_ADDR"].iter().any(|part| {
        let port = name.strip_suffix(part).unwrap_or_default();
        ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| port.ends_with(protocol))
    });
    !name.contains(SEPARATOR) && (has_service || is_part || (has("_PORT") && is_address))
}

/// Sets the key at `path`; false if a part of the path is not a section.
fn insert(table: &mut Table, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [key] => {
            table.insert(key.clone(), value);
            true
        }
        [section, rest @ ..] => {
            let inner = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().is_some_and(|inner| insert(inner, rest, value))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{LoadedConfig, parse};

    const FILE: &str = "[detectors.order-flow]\nplugin = \"order-flow\"\n[detectors.order-flow.params]\nmin-z = 2\n\
                        [detectors.Big]\nplugin = \"big\"\n\
                        [[notify]]\nname = \"desk\"\nkind = \"slack\"\nurl_env = \"TICKHOUND_DESK_URL\"\n";

    fn with(file: &str, variables: &[(&str, &str)]) -> Result<LoadedConfig> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(Path::new("config/config.toml"), file.to_owned(), variables)
    }

    fn error(file: &str, variable: &str) -> String {
        with(file, &[(variable, "1")]).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn names_with_dashes_and_capital_letters_are_addressed() {
        let variables = [
            ("TICKHOUND_DETECTORS__ORDER_FLOW__ENABLED", "false"),
            ("TICKHOUND_DETECTORS__ORDER_FLOW__PARAMS__MIN_Z", "3"),
            ("TICKHOUND_DETECTORS__ORDER-FLOW__COOLDOWN_S", "9"),
            ("TICKHOUND_DETECTORS__BIG__MIN_CONFIDENCE", "0.9"),
        ];
        let config = with(FILE, &variables).unwrap().config;
        assert_eq!(config.detectors.len(), 2);
        let flow = &config.detectors["order-flow"];
        assert_eq!((flow.enabled, flow.cooldown_s, flow.params["min-z"].as_integer()), (false, 9.0, Some(3)));
        assert_eq!(config.detectors["Big"].min_confidence, 0.9);
    }

    #[test]
    fn a_name_that_means_two_detectors_is_an_error_that_names_both() {
        let file = format!("{FILE}[detectors.order_flow]\nplugin = \"x\"\n");
        let said = error(&file, "TICKHOUND_DETECTORS__ORDER_FLOW__COOLDOWN_S");
        assert!(said.contains("may mean `order-flow` or `order_flow`"), "{said}");
        // With the dash, which `env` and systemd allow, only one is meant.
        let config = with(&file, &[("TICKHOUND_DETECTORS__ORDER-FLOW__COOLDOWN_S", "1")]).unwrap().config;
        let cooldowns = ["order-flow", "order_flow"].map(|name| config.detectors[name].cooldown_s);
        assert_eq!(cooldowns, [1.0, 0.0]);
    }

    #[test]
    fn two_variables_for_one_key_are_an_error() {
        let names = ["TICKHOUND_DETECTORS__ORDER_FLOW__COOLDOWN_S", "TICKHOUND_DETECTORS__ORDER-FLOW__COOLDOWN_S"];
        let said = with(FILE, &names.map(|name| (name, "1"))).map(|_| ()).unwrap_err().to_string();
        assert!(names.iter().all(|name| said.contains(name)) && said.contains("set the same key"), "{said}");
    }

    /// They were ignored without a word.
    #[test]
    fn an_unknown_variable_is_an_error_with_the_name_that_was_meant() {
        let cases = [
            ("TICKHOUND_STREAM_URL", "did you mean TICKHOUND_STREAM__URL?"),
            ("TICKHOUND_STRAEM__URL", "did you mean `stream`?"),
            ("TICKHOUND_ENGINE__WORKRES", "did you mean `workers`?"),
            ("TICKHOUND_DETECTORS_ORDER_FLOW_PLUGIN", "did you mean TICKHOUND_DETECTORS__ORDER_FLOW__PLUGIN?"),
            ("TICKHOUND_DETECTORS__ORDER_FLWO__COOLDOWN_S", "no [detectors.order_flwo]; did you mean `order-flow`?"),
            ("TICKHOUND_REDIS", "expected TICKHOUND_SECTION__KEY"),
            ("TICKHOUND_PORT", "expected TICKHOUND_SECTION__KEY"),
            ("TICKHOUND___URL", "unknown environment variable"),
            ("TICKHOUND_NOTIFY__DESK__URL", "url_env"),
            ("TICKHOUND_ENGINE__WORKERS__X", "engine.workers is a key of config.toml, not a section"),
            ("TICKHOUND_DETECTORS__BIG__COOLDOWN_S__X", "detectors.Big.cooldown_s is a key of config.toml, not"),
            ("TICKHOUND_DETECTORS__ORDER_FLOW__PARAMS__MIN_Z__X", "detectors.order-flow.params.min-z is a key"),
            ("TICKHOUND_DETECTORS__ORDER_FLOW", "expected a table"),
            ("TICKHOUND_DETECTORS__BIG__SYMBOLS", "expected a list"),
        ];
        for (variable, expected) in cases {
            let said = error(FILE, variable);
            assert!(said.contains(variable) && said.contains(expected), "{said}");
        }
    }

    /// The names of Rust's types were in these sentences.
    #[test]
    fn a_value_of_another_type_is_an_error_in_words() {
        let cases = [
            ("TICKHOUND_ENGINE__WORKERS", "two", "invalid type: string \"two\", expected a whole number from 0 on"),
            ("TICKHOUND_ENGINE__WORKERS", "[]", "expected a whole number"),
            ("TICKHOUND_ENGINE__WORKERS", "-1", "expected a whole number from 0 on"),
            ("TICKHOUND_ENGINE", "1", "expected TICKHOUND_SECTION__KEY"),
            ("TICKHOUND_DETECTORS__BIG__SYMBOLS", "NIFTY*", "expected a list, such as [\"a\", \"b\"]"),
            ("TICKHOUND_DETECTORS__BIG__ENABLED", "yes", "expected true or false"),
            ("TICKHOUND_DETECTORS__BIG__MIN_CONFIDENCE", "much", "expected a number"),
            ("TICKHOUND_DETECTORS__BIG__PARAMS", "usize", "expected a table, such as { a = 1 }"),
            ("TICKHOUND_STREAM__URL", "", "TICKHOUND_STREAM__URL: stream.url is empty"),
        ];
        for (variable, value, expected) in cases {
            let said = with(FILE, &[(variable, value)]).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains(variable) && said.contains(expected), "{said}");
            for name in ["struct ", "expected usize", "a sequence", "a map", "f64", "bool"] {
                assert!(!said.contains(name), "{said}");
            }
        }
        let said = with("[reference]\n[groups.a]\n[reference]\n", &[]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(said, "config/config.toml:3:2: this table or key is in the file twice: merge the two");
        let said = with("[[notify]]\nname = \"a\"\ngroup_by = \"symbol\"\n", &[]).map(|_| ()).unwrap_err().to_string();
        assert!(said.ends_with("unknown value `symbol`, expected `\"\"` or `underlying`"), "{said}");
    }

    #[test]
    fn reference_groups_contexts_and_history_can_be_set() {
        let file =
            "[groups.NIFTY_50]\nsymbols = [\"A\"]\n[context.vix]\nsymbol = \"X\"\n[reference]\nfiles = [\"a.csv\"]\n";
        let variables = [
            ("TICKHOUND_GROUPS__NIFTY_50__SYMBOLS", "[\"A\", \"B*\"]"),
            ("TICKHOUND_GROUPS__SECTOR__BY", "sector"),
            ("TICKHOUND_CONTEXT__VIX__SYMBOL", "INDIA VIX"),
            ("TICKHOUND_CONTEXT__VIX__COLUMN", "price"),
            ("TICKHOUND_CONTEXT__SPOT__OF", "underlying"),
            ("TICKHOUND_REFERENCE__FILES", "[\"config/b.csv\"]"),
            ("TICKHOUND_REFERENCE__SYMBOL", "name"),
            ("TICKHOUND_HISTORY__DIR", "days"),
        ];
        let config = with(file, &variables).unwrap().config;
        assert_eq!(config.groups.keys().collect::<Vec<_>>(), ["NIFTY_50", "sector"]);
        assert_eq!(config.groups["NIFTY_50"].symbols, ["A", "B*"]);
        assert_eq!(config.groups["sector"].by, "sector");
        assert_eq!((&*config.context["vix"].symbol, &*config.context["vix"].column), ("INDIA VIX", "price"));
        assert_eq!(config.context["spot"].of, "underlying");
        assert_eq!((&config.reference.files[0], &*config.reference.symbol), (&"config/b.csv".into(), "name"));
        assert_eq!(config.history.dir, Path::new("days"));
    }

    /// A name that is mistyped would begin another group or context.
    #[test]
    fn what_is_wrong_with_a_variable_of_groups_and_contexts_names_the_variable() {
        let file = "[groups.banks]\nsymbols = [\"A\"]\n[context.vix]\nsymbol = \"X\"\n";
        let cases = [
            ("TICKHOUND_GROUPS__BANKS__SYMBOLS", "A", "expected a list"),
            ("TICKHOUND_GROUPS__BANKS__SYMBLOS", "[]", "did you mean `symbols`?"),
            ("TICKHOUND_GROUPS__BANKS__BY", "sector", "[reference] has no files"),
            ("TICKHOUND_GROUPS__BANKS", "x", "expected a table"),
            ("TICKHOUND_GROUPS__UNDERLYING__BY", "sector", "the name `underlying` is taken"),
            ("TICKHOUND_GROUPS__A.B__SYMBOLS", "[\"A\"]", "expected letters, digits, - and _"),
            ("TICKHOUND_CONTEXT__VXI__COLUMN", "price", "there is no [context.vxi]; did you mean `vix`?"),
            ("TICKHOUND_CONTEXT__BID__SYMBOL", "X", "bid"),
            ("TICKHOUND_CONTEXT__VIX__COLUMN", "no_such", "the input has no column `no_such`"),
            ("TICKHOUND_REFERENCE__FILE", "a.csv", "did you mean `files`?"),
            ("TICKHOUND_REFERENCE__FILES", "a.csv", "expected a list"),
            ("TICKHOUND_HISTORY__DIRS", "x", "did you mean `dir`?"),
            ("TICKHOUND_CONTEXTS__VIX__SYMBOL", "x", "did you mean `context`?"),
        ];
        for (variable, value, expected) in cases {
            let said = with(file, &[(variable, value)]).map(|_| ()).unwrap_err().to_string();
            assert!(said.contains(variable) && said.contains(expected), "{said}");
        }
        let said = with(file, &[("TICKHOUND_CONTEXT__VIX__OF", "underlying")]).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("context.vix has both `symbol` and `of`"), "{said}");
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        let variables = [
            ("TICKHOUND_DESK_URL", "https://hooks.example/T"),
            ("TICKHOUND_TOKEN", "t"),
            // Kubernetes, for the services `tickhound` and `tickhound-redis`.
            ("TICKHOUND_SERVICE_HOST", "10.0.0.1"),
            ("TICKHOUND_SERVICE_PORT", "9464"),
            ("TICKHOUND_SERVICE_PORT_HTTP", "9464"),
            ("TICKHOUND_PORT", "tcp://10.0.0.1:9464"),
            ("TICKHOUND_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
            ("TICKHOUND_PORT_9464_TCP_PROTO", "tcp"),
            ("TICKHOUND_PORT_9464_TCP_PORT", "9464"),
            ("TICKHOUND_PORT_9464_TCP_ADDR", "10.0.0.1"),
            ("TICKHOUND_REDIS_SERVICE_HOST", "10.0.0.2"),
        ];
        assert!(with(FILE, &variables).is_ok());
    }

    #[test]
    fn a_detector_can_be_defined_by_variables_alone() {
        let variables =
            [("TICKHOUND_DETECTORS__GAP2__MIN_CONFIDENCE", "0.7"), ("TICKHOUND_DETECTORS__GAP2__PLUGIN", "gap")];
        let config = with(FILE, &variables).unwrap().config;
        assert_eq!((config.detectors["gap2"].plugin.as_str(), config.detectors["gap2"].min_confidence), ("gap", 0.7));
    }
}
