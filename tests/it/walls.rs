//! The structure that Cargo can't keep: what each file says of itself, names, users of heavy crates, and import circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{support::shipped, tidy::sources};

/// Dependencies that only these packages may have, the program's tests aside.
const OWNERS: [(&str, &[&str]); 7] = [
    ("clap", &[".", "benches"]),
    ("notify", &["crates/engine"]),
    ("parquet", &["benches", "crates/recorded", "."]),
    ("redis", &["benches", "crates/redis"]),
    ("tokio-rustls", &["crates/redis"]),
    ("wasmtime", &["crates/engine"]),
    ("wit-component", &["crates/engine", "xtask"]),
];

/// Within a crate, only these files and folders may name a dependency.
const PLACES: [(&str, &str, &[&str]); 3] = [
    ("src", "clap::", &["src/cli", "src/cli.rs", "src/main.rs"]),
    ("crates/engine/src", "notify::", &["crates/engine/src/plugin"]),
    ("crates/engine/src", "wasmtime::", &["crates/engine/src/plugin", "crates/engine/src/plugin.rs"]),
];

#[test]
fn every_file_opens_with_what_it_is() {
    let folders = ["src", "crates", "tests/it", "xtask", "benches", "detectors-sdk", "plugins", "fuzz"];
    let silent: Vec<PathBuf> =
        sources(&folders).into_iter().filter(|(_, text)| !is_described(text)).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "begin each file with a `//!` sentence on what it is and what must hold: {silent:#?}");
}

/// The documentation of the SDK is its README.
fn is_described(text: &str) -> bool {
    text.starts_with("//!") || text.starts_with("#![doc = include_str!(\"../README.md\")]")
}

#[test]
fn a_type_has_a_name_of_its_own_within_its_crate() {
    let mut twice = Vec::new();
    for folder in crates() {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (file, text) in code(&folder) {
            for (number, line) in text.lines().enumerate() {
                if let Some(name) = declared_type(line) {
                    names.entry(name.to_owned()).or_default().push(format!("{}:{}", file.display(), number + 1));
                }
            }
        }
        twice.extend(names.into_iter().filter(|(_, places)| places.len() > 1));
    }
    assert!(twice.is_empty(), "two types of one crate share a name; rename one of each: {twice:#?}");
}

#[test]
fn heavy_dependencies_have_the_users_that_they_should() {
    let mut wrong = Vec::new();
    let mut users: BTreeSet<(String, PathBuf)> = BTreeSet::new();
    for package in packages() {
        users.extend(dependencies(&package).into_iter().map(|name| (name, package.clone())));
    }
    for (name, owners) in OWNERS {
        let named: BTreeSet<PathBuf> = owners.iter().map(PathBuf::from).collect();
        let found: BTreeSet<PathBuf> =
            users.iter().filter(|(used, _)| used == name).map(|(_, by)| by.clone()).collect();
        if found != named {
            wrong.push(format!("{name} is a dependency of {found:?}, expected {named:?}"));
        }
    }
    for (folder, name, places) in PLACES {
        for (file, text) in code(folder) {
            let used = text
                .match_indices(name)
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c)));
            if used && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("{} uses {name}: only {places:?} may", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "move the code to the crate or folder that owns the dependency: {wrong:#?}");
}

/// Modules of one rank: those of a crate, and those within a folder. A parent and its children are one thing. A path by way of
/// what a parent re-exports is not followed.
#[test]
fn modules_of_one_rank_import_each_other_in_one_direction() {
    let mut circles = Vec::new();
    for folder in crates() {
        let files = code(&folder);
        let folders: BTreeSet<PathBuf> = files.iter().map(|(file, _)| file.parent().unwrap().to_owned()).collect();
        for rank in folders {
            circles.extend(circle(&imports_among(&files, Path::new(&folder), &rank)));
        }
    }
    assert!(circles.is_empty(), "import circles; move what is shared into a module below both: {circles:#?}");
}

/// For each module of a folder, which other modules of the same folder it and its children import.
fn imports_among(files: &[(PathBuf, String)], root: &Path, rank: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let module_of = |file: &Path| {
        let below = file.strip_prefix(rank).ok()?.components().next()?.as_os_str().to_str()?.to_owned();
        let name = below.trim_end_matches(".rs").to_owned();
        (!["lib", "main"].contains(&name.as_str())).then_some(name)
    };
    let modules: BTreeSet<String> = files.iter().filter_map(|(file, _)| module_of(file)).collect();
    // How paths from elsewhere in the crate name this folder: `crate::a::b::`.
    let names: Vec<&str> = rank.strip_prefix(root).unwrap().iter().map(|name| name.to_str().unwrap()).collect();
    let absolute = names.iter().fold("crate::".to_owned(), |path, name| format!("{path}{name}::"));
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in files {
        let Some(module) = module_of(file) else { continue };
        let depth = file.strip_prefix(rank).unwrap().components().count();
        let relative = "super::".repeat(depth);
        let mut imported = named_behind(text, &absolute);
        imported.extend(named_behind(text, &relative));
        imported.retain(|name| *name != module && modules.contains(name));
        graph.entry(module).or_default().extend(imported);
    }
    graph
}

/// The names that stand right behind a path in imports and expressions, in braces or not.
fn named_behind(text: &str, path: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices(path) {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c)) {
            continue;
        }
        let behind = &text[at + path.len()..];
        let identifier =
            |text: &str| text.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
        let Some(group) = behind.strip_prefix('{') else {
            names.extend(identifier(behind));
            continue;
        };
        let (mut depth, mut begin) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    names.extend(identifier(&group[begin..at]));
                    begin = at + 1;
                }
                '}' if depth == 0 => {
                    names.extend(identifier(&group[begin..at]));
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names
}

/// A circle among modules, as `a → b → a`, if there is one.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn walk<'a>(
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        let last = *path.last()?;
        for next in graph.get(last)? {
            if let Some(at) = path.iter().position(|name| name == next) {
                return Some([&path[at..], &[next.as_str()]].concat().join(" → "));
            }
            if done.insert(next) {
                path.push(next);
                if let Some(circle) = walk(graph, path, done) {
                    return Some(circle);
                }
                path.pop();
            }
        }
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(graph, &mut vec![start], &mut done))
}

/// The files of a folder, without comments and without their unit tests.
fn code(folder: &str) -> Vec<(PathBuf, String)> {
    let files = sources(&[folder]).into_iter().filter(|(file, _)| !file.ends_with("tests.rs"));
    let without_tests = |text: String| {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let line = |line: &str| if line.trim_start().starts_with("//") { String::new() } else { line.to_owned() };
        code.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    files.map(|(file, text)| (file, without_tests(text))).collect()
}

/// The type that a line at the outermost level declares.
fn declared_type(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let mut word = words.next().filter(|_| !line.starts_with(' '))?;
    if word.starts_with("pub") {
        word = words.next()?;
    }
    ["struct", "enum", "trait", "type", "union"].contains(&word).then_some(())?;
    words.next()?.split(|c: char| !c.is_alphanumeric()).next()
}

/// The sources of our crates. The program's own modules are a crate like the others.
fn crates() -> Vec<String> {
    let below = folders_in("crates").into_iter().map(|dir| format!("{}/src", dir.display()));
    let crates: Vec<String> = below.chain(["src".to_owned()]).collect();
    assert!(crates.len() >= 5, "{crates:?}");
    crates
}

/// The folders of our packages, those of detectors aside.
fn packages() -> Vec<PathBuf> {
    folders_in("crates").into_iter().chain([".", "benches", "xtask"].map(PathBuf::from)).collect()
}

fn folders_in(folder: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(shipped(folder)).unwrap().map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
    entries.filter(|path| shipped(path.to_str().unwrap()).is_dir()).collect()
}

/// The real names of the dependencies of a package, those of its tests and benches aside.
fn dependencies(package: &Path) -> BTreeSet<String> {
    let manifest = |dir: &Path| -> toml::Table {
        let file = shipped(dir.join("Cargo.toml").to_str().unwrap());
        toml::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    };
    let root = manifest(Path::new("."));
    let renamed = |name: &str, table: &toml::Table| {
        let package = table.get(name).and_then(|dependency| dependency.get("package"));
        package.and_then(|package| package.as_str()).map(str::to_owned)
    };
    let workspace = root["workspace"]["dependencies"].as_table().unwrap().clone();
    let manifest = manifest(package);
    let targets =
        manifest.get("target").and_then(|target| target.as_table()).into_iter().flat_map(|targets| targets.values());
    let tables = targets.filter_map(|target| target.as_table()).chain([&manifest]);
    let tables = tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|kind| table.get(kind)));
    let mut names = BTreeSet::new();
    for table in tables.flatten().filter_map(|table| table.as_table()) {
        names.extend(
            table
                .keys()
                .map(|name| renamed(name, table).or_else(|| renamed(name, &workspace)).unwrap_or_else(|| name.clone())),
        );
    }
    names
}
