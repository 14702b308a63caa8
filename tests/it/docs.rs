//! What documents name is there, and they name all that there is.

use std::{fs, path::Path, process::Command};

use crate::support::{binary, shipped, text};
use tickhound_core::config::{Config, ContextConfig, DetectorConfig, FamilyConfig, NotifyConfig};

/// A test that is renamed or dropped must not stand in the table of faults any more, nor in that of SECURITY.md.
#[test]
fn each_test_in_the_tables_of_faults_and_of_surfaces_exists() {
    for (file, at_least) in [("docs/faults.md", 50), ("SECURITY.md", 40)] {
        let table = fs::read_to_string(shipped(file)).unwrap();
        let named: Vec<&str> = code(&table).filter(|name| name.contains("::") && *name != "module::function").collect();
        let missing: Vec<&&str> = named.iter().filter(|name| !is_a_test(name)).collect();
        assert!(missing.is_empty(), "{file}: of {} tests these are not there: {missing:?}", named.len());
        assert!(named.len() > at_least, "{file} names {} tests", named.len());
    }
}

/// Each row says what is promised, and has a test or the name of a fuzz target that exists.
#[test]
fn each_promise_of_security_is_tested() {
    let text = fs::read_to_string(shipped("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("| surface | what is promised | limits | test |\n|---|---|---|---|\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    for row in table.lines().filter(|row| !row.starts_with("| **")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [surface, promise, _, test] = cells[..] else { panic!("{row}: expected four cells") };
        assert!(!surface.is_empty() && !promise.is_empty(), "{row}");
        let fuzzed = test.split_once("fuzzed: ").map(|(_, targets)| targets);
        for target in fuzzed.into_iter().flat_map(code) {
            assert!(shipped(&format!("fuzz/fuzz_targets/{target}.rs")).exists(), "{row}: no target {target}");
        }
        assert!(code(test).next().is_some(), "{row}: no test");
    }
}

/// Keys were missing from the README, and others from the shipped configuration, which says that it has all.
#[test]
fn each_key_is_in_the_readme_and_in_the_shipped_configuration() {
    let readme = fs::read_to_string(shipped("README.md")).unwrap();
    let (_, table) = readme.split_once("| key | default | meaning |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let shown = fs::read_to_string(shipped("config/config.toml")).unwrap();
    let keys = |table: toml::Table| table.keys().cloned().collect::<Vec<_>>();
    let mut sections = Vec::new();
    for (name, section) in toml::Table::try_from(Config::default()).unwrap() {
        if let toml::Value::Table(section) = section {
            sections.push((name.clone(), format!("[{name}]"), keys(section)));
        }
    }
    // These have names that users choose.
    sections.retain(|(name, ..)| !["detectors", "groups", "context"].contains(&name.as_str()));
    assert!(sections.len() > 7, "{sections:?}");
    let detector = keys(toml::Table::try_from(DetectorConfig::default()).unwrap());
    sections.push(("detectors.NAME".into(), "[detectors.breakout]".into(), detector));
    let mut missing = Vec::new();
    for (name, head, keys) in sections {
        let (_, section) = shown.split_once(&format!("\n{head}\n")).unwrap();
        for key in keys {
            let is_table = |head: &str| shown.contains(&format!("\n{}.{key}]", head.trim_end_matches(']')));
            let own = section.split("\n[").next().unwrap_or_default();
            if !own.lines().any(|line| line.starts_with(&format!("{key} = "))) && !is_table(&head) {
                missing.push(format!("config/config.toml: {name}.{key}"));
            }
            if !code(table).any(|code| code == format!("{name}.{key}") || code.starts_with(&format!("{name}.{key}."))) {
                missing.push(format!("README.md: {name}.{key}"));
            }
        }
    }
    let (_, notify) = table.split_once("| `[[notify]]`").unwrap();
    let (notify, _) = notify.split_once("| `dead_letters").unwrap();
    for key in keys(toml::Table::try_from(NotifyConfig::default()).unwrap()) {
        if !shown.lines().any(|line| line.starts_with(&format!("# {key} = "))) {
            missing.push(format!("config/config.toml: notify {key}"));
        }
        if !code(notify).any(|code| code == key) {
            missing.push(format!("README.md: notify {key}"));
        }
    }
    let of_market = [
        ("groups", keys(toml::Table::try_from(FamilyConfig::default()).unwrap()), "banks", "`[context"),
        ("context", keys(toml::Table::try_from(ContextConfig::default()).unwrap()), "vix", "`engine.workers`"),
    ];
    for (section, keys, example, end) in of_market {
        let (_, shown) = shown.split_once(&format!("\n# [{section}.{example}]\n")).unwrap();
        let (shown, _) = shown.split_once("\n\n").unwrap();
        let (_, rows) = table.split_once(&format!("| `[{section}.NAME]`")).unwrap();
        let (rows, _) = rows.split_once(&format!("| {end}")).unwrap();
        for key in keys {
            if !shown.lines().any(|line| line.starts_with(&format!("# {key} = "))) {
                missing.push(format!("config/config.toml: {section} {key}"));
            }
            if !code(rows).any(|code| code == key) {
                missing.push(format!("README.md: {section} {key}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn each_command_is_in_the_readme() {
    let help = Command::new(binary()).arg("--help").output().unwrap();
    let help = text(&help.stdout);
    let (_, commands) = help.split_once("\nCommands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let readme = fs::read_to_string(shipped("README.md")).unwrap();
    let (_, table) = readme.split_once("| command | does | exit code |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let documented: Vec<&str> = table
        .lines()
        .filter_map(|row| row.split(" | ").next())
        .flat_map(code)
        .filter_map(|code| code.split(' ').next())
        .collect();
    let missing: Vec<&&str> =
        commands.iter().filter(|command| **command != "help" && !documented.contains(command)).collect();
    let gone: Vec<&&str> =
        documented.iter().filter(|name| !name.starts_with('[') && !commands.contains(name)).collect();
    assert!(commands.len() > 20 && missing.is_empty() && gone.is_empty(), "missing {missing:?}, gone {gone:?}");
}

/// Whoever reads a document in a terminal sees its lines whole. Tables, pictures and examples are as wide as they are.
#[test]
fn lines_of_documents_are_not_too_long() {
    const CHARACTERS_MAX: usize = 130;
    let mut files =
        ["README.md", "SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/config.toml"]
            .map(shipped)
            .to_vec();
    files.extend(fs::read_dir(shipped("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.is_file());
    let mut long = Vec::new();
    for file in files {
        let (document, mut is_example) = (fs::read_to_string(&file).unwrap(), false);
        for (line, number) in document.lines().zip(1..) {
            is_example ^= line.trim_start().starts_with("```");
            let is_wide = line.starts_with(['|', '!']) || is_example;
            if !is_wide && line.chars().count() > CHARACTERS_MAX {
                long.push(format!("{}:{number}", file.file_name().map(Path::new).unwrap().display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

/// What stands in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `name` is `module::test`, a module of these tests or of one of the crates.
fn is_a_test(name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").unwrap();
    let file = module.replace("::", "/") + ".rs";
    let declared = format!("fn {test}(");
    ["tests/it", "crates/core/src", "crates/engine/src", "crates/recorded/src", "crates/redis/src", "src", "xtask/src"]
        .iter()
        .any(|folder| {
            let text = fs::read_to_string(shipped(folder).join(&file)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
            // Other attributes may stand between this one and the name.
            let is_test = |at: usize| {
                lines[..at]
                    .iter()
                    .rev()
                    .take_while(|line| line.starts_with('#'))
                    .any(|line| matches!(*line, "#[test]" | "#[tokio::test]"))
            };
            (0..lines.len()).any(|at| lines[at].trim_start_matches("async ").starts_with(&declared) && is_test(at))
        })
}
