//! What the program is made of: an SBOM of every crate, and the rules of deny.toml that need no network.
//!
//! Both come from `cargo metadata` and Cargo.lock, so they are the same for everybody who has this commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{cargo, checks::starts, output, root, run};

/// The only registry that crates may come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The package that is the program.
const PROGRAM: &str = "tickhound";

/// The platform that the SBOM's `required` crates are for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What is in the program and is no crate: the charts of the page.
const ECHARTS: (&str, &str, &str) = ("echarts", "6.1.0", "Apache-2.0");

/// The workspaces that have a Cargo.lock of their own.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "fuzz/Cargo.toml", "benches/peers/Cargo.toml"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    id: String,
    license: Option<String>,
    description: Option<String>,
    /// `None` is a path of this repository.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` is what the program itself links; others are `build` and `dev`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: AllowedLicenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct AllowedLicenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Prints the SBOM.
///
/// # Errors
/// When cargo can't list the dependencies.
pub(crate) fn print_sbom() -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&sbom()?)?);
    Ok(())
}

/// Checks licenses, bans and sources against deny.toml.
///
/// # Errors
/// Names each crate that breaks a rule.
pub(crate) fn check() -> Result<()> {
    let deny: Deny = toml::from_str(&read("deny.toml")?).context("deny.toml")?;
    let packages = metadata(&[])?.packages;
    let broken: Vec<String> = packages.iter().flat_map(|package| broken_rules(package, &deny)).collect();
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    println!("{} packages", packages.len());
    Ok(())
}

/// Has cargo-deny check everything, advisories included.
///
/// # Errors
/// When a rule is broken, an advisory applies, or cargo-deny or its database can't be had.
pub(crate) fn audit() -> Result<()> {
    ensure!(
        starts("cargo-deny", &["--version"]),
        "cargo-deny is missing: cargo install --locked cargo-deny, or one of its packages"
    );
    for manifest in MANIFESTS {
        // What only developers run is not given away, so its licenses do not matter.
        let checks: &[&str] = if manifest == MANIFESTS[0] {
            &["advisories", "licenses", "bans", "sources"]
        } else {
            &["advisories", "bans"]
        };
        println!("{manifest}");
        let mut command = Command::new("cargo-deny");
        command.current_dir(root()).args(["--locked", "--manifest-path", manifest, "--config", "deny.toml", "check"]);
        run(command.args(checks)).context(
            "if the database of advisories can't be fetched: it is the git repository github.com/RustSec/advisory-db, and \
             no package registry has it. Run this where GitHub can be reached",
        )?;
    }
    Ok(())
}

fn broken_rules(package: &Package, deny: &Deny) -> Vec<String> {
    let Package { name, version, license, source, .. } = package;
    let mut broken = Vec::new();
    if let Some(source) = source.as_ref().filter(|source| *source != CRATES_IO) {
        broken.push(format!("{name} {version} comes from {source}: only crates.io is allowed"));
    }
    let license = license.as_deref().unwrap_or_default();
    if !is_allowed(license, &deny.licenses.allow) {
        broken.push(format!("{name} {version} has the license `{license}`, which deny.toml does not allow"));
    }
    let bans = deny.bans.deny.iter().filter(|ban| ban.name == *name);
    broken.extend(bans.map(|ban| format!("{name} is banned: {}", ban.reason)));
    broken
}

/// Whether an SPDX expression can be satisfied by licenses that are allowed. Older crates write `/` for `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `None` if the expression is malformed.
fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is_allowed = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        is_allowed |= all_of(words, allowed)?;
    }
    Some(is_allowed)
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut is_allowed = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        is_allowed &= one(words, allowed)?;
    }
    Some(is_allowed)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let inner = any_of(words, allowed)?;
        return (words.next()? == ")").then_some(inner);
    }
    let mut license = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        license = format!("{license} WITH {}", words.next()?);
    }
    Some(allowed.contains(&license))
}

/// The SBOM in CycloneDX's JSON: every package of Cargo.lock. Those of which the program has nothing, such as what only
/// tests or other platforms need, have the scope `excluded`.
fn sbom() -> Result<Value> {
    let Metadata { packages, resolve } = metadata(&[])?;
    let lock: Lock = toml::from_str(&read("Cargo.lock")?).context("Cargo.lock")?;
    let checksums: BTreeMap<(&str, &str), &str> = lock
        .package
        .iter()
        .filter_map(|locked| Some(((locked.name.as_str(), locked.version.as_str()), locked.checksum.as_deref()?)))
        .collect();
    let refs: BTreeMap<&str, String> =
        packages.iter().map(|package| (package.id.as_str(), purl(&package.name, &package.version))).collect();
    let program = packages.iter().find(|package| package.name == PROGRAM).context("there is no program")?;
    let linked = linked(&program.id)?;
    let mut components: Vec<Value> = packages
        .iter()
        .filter(|package| package.name != PROGRAM)
        .map(|package| component(package, &checksums, &linked))
        .collect();
    let (name, version, license) = ECHARTS;
    components.push(json!({
        "type": "library", "bom-ref": format!("pkg:npm/{name}@{version}"), "name": name, "version": version,
        "purl": format!("pkg:npm/{name}@{version}"), "scope": "required", "licenses": [{ "expression": license }],
    }));
    let reference = |id: &str| refs.get(id).cloned().with_context(|| format!("{id} is not among the packages"));
    let mut dependencies = Vec::new();
    for node in &resolve.nodes {
        let on = node.deps.iter().map(|dependency| reference(&dependency.pkg)).collect::<Result<BTreeSet<_>>>()?;
        dependencies.push(json!({ "ref": reference(&node.id)?, "dependsOn": on }));
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": purl(PROGRAM, &program.version), "name": PROGRAM,
            "version": program.version, "purl": purl(PROGRAM, &program.version),
            "licenses": [{ "expression": program.license }],
        } },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn component(package: &Package, checksums: &BTreeMap<(&str, &str), &str>, linked: &BTreeSet<String>) -> Value {
    let Package { name, version, id, license, description, .. } = package;
    let scope = if linked.contains(id) { "required" } else { "excluded" };
    let mut component = json!({
        "type": "library", "bom-ref": purl(name, version), "name": name, "version": version,
        "purl": purl(name, version), "scope": scope,
    });
    if let Some(license) = license {
        // SPDX has no `/`.
        let expression = license.replace(" / ", "/").replace('/', " OR ");
        component["licenses"] = json!([{ "expression": expression }]);
    }
    if let Some(description) = description {
        component["description"] = description.split_whitespace().collect::<Vec<_>>().join(" ").into();
    }
    if let Some(checksum) = checksums.get(&(name.as_str(), version.as_str())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// A package's name for other tools.
fn purl(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}

/// The ids of the packages that the program links on [`PLATFORM`].
fn linked(program: &str) -> Result<BTreeSet<String>> {
    let nodes = metadata(&["--filter-platform", PLATFORM])?.resolve.nodes;
    let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let (mut linked, mut next) = (BTreeSet::new(), vec![program]);
    while let Some(id) = next.pop() {
        if !linked.insert(id.to_owned()) {
            continue;
        }
        let Some(node) = nodes.get(id) else { bail!("{id} is not resolved") };
        let used = node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        next.extend(used.map(|dependency| dependency.pkg.as_str()));
    }
    Ok(linked)
}

fn metadata(more: &[&str]) -> Result<Metadata> {
    let text = output(cargo().args(["metadata", "--format-version", "1", "--locked"]).args(more))?;
    serde_json::from_str(&text).context("the answer of cargo metadata")
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(root().join(file)).with_context(|| format!("can't read {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sbom_has_every_package_of_the_lock_file_with_its_hash_and_its_license() {
        let sbom = sbom().expect("cargo lists the packages");
        let lock: Lock = toml::from_str(&read("Cargo.lock").expect("it is there")).expect("it is valid");
        let text = |component: &Value, name: &str| component[name].as_str().unwrap_or_default().to_owned();
        let components = sbom["components"].as_array().expect("a list");
        let listed: BTreeMap<String, &Value> =
            components.iter().map(|component| (text(component, "bom-ref"), component)).collect();
        assert_eq!(listed.len(), components.len(), "each reference is unique");
        for Locked { name, version, checksum } in lock.package.iter().filter(|locked| locked.name != PROGRAM) {
            let component = listed.get(&purl(name, version)).unwrap_or_else(|| panic!("{name} {version} is missing"));
            assert_eq!(component["hashes"][0]["content"].as_str(), checksum.as_deref(), "{name}");
            assert!(component["licenses"][0]["expression"].is_string(), "{name}");
        }
        // The program itself is in the head, and the charts are in no lock file.
        assert_eq!(listed.len(), lock.package.len());
        let program = text(&sbom["metadata"]["component"], "bom-ref");
        for dependency in sbom["dependencies"].as_array().expect("a list") {
            let on = dependency["dependsOn"].as_array().expect("a list").iter().filter_map(Value::as_str);
            for name in on.chain(dependency["ref"].as_str()) {
                assert!(listed.contains_key(name) || name == program, "{name} is not a component");
            }
        }
        let scope = |name: &str| {
            let found = components.iter().find(|component| component["name"] == name);
            text(found.unwrap_or_else(|| panic!("{name} is missing")), "scope")
        };
        assert_eq!([scope("wasmtime"), scope("echarts")], ["required", "required"]);
        assert_eq!([scope("proptest"), scope("criterion")], ["excluded", "excluded"]);
    }

    #[test]
    fn the_version_of_the_charts_is_that_of_the_file() {
        let readme = read("src/assets/README.md").expect("it is there");
        assert!(readme.contains(&format!(") {}, as in", ECHARTS.1)), "update ECHARTS: {readme}");
    }

    #[test]
    fn a_license_is_allowed_if_its_expression_can_be_satisfied() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned).into();
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR GPL-3.0) AND GPL-3.0", false),
            ("MIT OR GPL-3.0 AND GPL-3.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0 WITH other", false),
            ("", false),
            ("MIT OR", false),
            ("(MIT", false),
            ("MIT ISC", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn a_foreign_source_a_banned_crate_and_a_missing_license_are_named() {
        let deny: Deny = toml::from_str(&read("deny.toml").expect("it is there")).expect("it is valid");
        let package = |name: &str, license: Option<&str>, source: &str| Package {
            name: name.into(),
            version: "1.0.0".into(),
            id: name.into(),
            license: license.map(str::to_owned),
            description: None,
            source: Some(source.into()),
        };
        assert_eq!(broken_rules(&package("a", Some("MIT"), CRATES_IO), &deny), [""; 0]);
        let git = broken_rules(&package("a", Some("MIT"), "git+https://example.org/a"), &deny);
        assert_eq!(git, ["a 1.0.0 comes from git+https://example.org/a: only crates.io is allowed"]);
        assert!(broken_rules(&package("a", None, CRATES_IO), &deny)[0].contains("has the license ``"));
        assert!(broken_rules(&package("openssl-sys", Some("MIT"), CRATES_IO), &deny)[0].contains("rustls needs none"));
    }
}
