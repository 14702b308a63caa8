//! What documents name is there.

use std::fs;

use crate::support::shipped;

/// A test that is renamed or dropped must not stand in the table of faults any more.
#[test]
fn each_test_in_the_table_of_faults_exists() {
    let table = fs::read_to_string(shipped("docs/faults.md")).unwrap();
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    let missing: Vec<&&str> = named.iter().filter(|name| !is_a_test(name)).collect();
    assert!(named.len() > 50 && missing.is_empty(), "of {} tests these are not there: {missing:?}", named.len());
}

/// `name` is `module::test`, a module of these tests or of one of the crates.
fn is_a_test(name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").unwrap();
    let file = module.replace("::", "/") + ".rs";
    let declared = format!("fn {test}(");
    ["tests/it", "crates/core/src", "crates/engine/src", "crates/redis/src", "src"].iter().any(|folder| {
        let text = fs::read_to_string(shipped(folder).join(&file)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
        // Other attributes may stand between this one and the name.
        let is_test = |at: usize| {
            lines[..at].iter().rev().take_while(|line| line.starts_with('#')).any(|line| *line == "#[test]")
        };
        (0..lines.len()).any(|at| lines[at].starts_with(&declared) && is_test(at))
    })
}
