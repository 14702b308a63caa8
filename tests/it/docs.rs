//! What documents name is there.

use std::fs;

use crate::support::shipped;

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
