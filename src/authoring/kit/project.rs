//! Builds of detector projects, in any language.
//!
//! A project is a folder with a `Cargo.toml`, or with a `detector.toml` that names a build command and its output.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::sdk;
use crate::replace::replace;
use tickhound_engine::plugin::runtime;

/// The file that says how to build a project that is not written in Rust.
pub(super) const RECIPE: &str = "detector.toml";

const TARGET: &str = "wasm32-unknown-unknown";

/// The contents of `detector.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// The build command, which `sh` runs in the project's folder.
    build: String,
    /// The output of the build, relative to that folder.
    output: PathBuf,
    /// The command that installs the tools for the build.
    #[serde(default)]
    pub(super) tools: String,
}

impl Recipe {
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

/// The result of a build.
#[derive(Debug)]
pub(crate) struct BuiltPlugin {
    /// The output file of the compiler.
    pub(crate) file: PathBuf,
    /// The component, which is converted if the compiler has made a module.
    pub(crate) bytes: Vec<u8>,
}

/// Builds the project in `dir`, and says if its SDK is not that of this release.
///
/// # Errors
/// When the folder is not a project, its SDK is missing, the build fails, or its output is not a component.
pub(crate) fn build(dir: &Path) -> Result<BuiltPlugin> {
    if is_project(dir) {
        ensure_sdk(dir)?;
    }
    let file = if dir.join(RECIPE).exists() {
        build_by_recipe(dir)?
    } else if dir.join("Cargo.toml").exists() {
        build_by_cargo(dir)?
    } else {
        bail!(
            "{} is not a detector project: it contains neither Cargo.toml nor {RECIPE}; create one with `tickhound new NAME`",
            dir.display()
        );
    };
    let bytes =
        fs::read(&file).with_context(|| format!("can't read {}, the expected output of the build", file.display()))?;
    let bytes = match runtime::component_bytes(&bytes).with_context(|| file.display().to_string())? {
        Some(component) => component,
        None => bytes,
    };
    Ok(BuiltPlugin { file, bytes })
}

/// Whether the folder is a project that can be built.
pub(crate) fn is_project(dir: &Path) -> bool {
    dir.join(RECIPE).exists() || dir.join("Cargo.toml").exists()
}

/// Fails if a project needs the SDK beside it, and there is none: it was moved, or checked out alone.
fn ensure_sdk(dir: &Path) -> Result<()> {
    // `../../tickhound-sdk` is a folder that the user has chosen.
    let beside = format!("../{}", sdk::DIR);
    let is_beside = |text: &str| text.match_indices(&beside).any(|(at, _)| !text[..at].ends_with('/'));
    let needs = |file: &str| fs::read_to_string(dir.join(file)).is_ok_and(|text| is_beside(&text));
    let sdk = sdk::of_project(dir)?;
    ensure!(
        sdk.is_dir() || !(needs(RECIPE) || needs("Cargo.toml")),
        "{} needs the SDK in {}, which does not exist; `tickhound new --update-sdk {}` writes it",
        dir.display(),
        sdk.display(),
        dir.display()
    );
    sdk::note_difference(dir)
}

/// Returns what the author of a project has to do after its SDK has changed to a newer contract, in a sentence; `None` if there
/// is nothing to do.
pub(crate) fn advice(project: &Path) -> Option<&'static str> {
    if project.join("bindings/detector.h").exists() {
        return Some(
            "its bindings/ are of contract 0.1.0, which hosts still run; c/README.md of the SDK says how to replace them",
        );
    }
    let recipe = fs::read_to_string(project.join(RECIPE)).unwrap_or_default();
    let is_built_for_less = |option: &str| recipe.contains(&format!("{option} detector "));
    if is_built_for_less("-w") {
        Some(
            "its code needs no change; to have its gates shown, build it with `-w explaining-detector` (detector.toml)",
        )
    } else if is_built_for_less("-n") {
        Some(
            "its code needs no change; to have its gates shown, build it with `-n explaining-detector` (detector.toml), and \
             export `probe` too",
        )
    } else {
        None
    }
}

/// Installs a plugin into a folder atomically, so that a host that watches the folder never reads half a file.
///
/// # Errors
/// When the folder is not writable.
pub(crate) fn install(bytes: &[u8], name: &str, folder: &Path) -> Result<PathBuf> {
    let is_file_name = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !name.starts_with('.');
    ensure!(is_file_name, "the plugin's name is \"{name}\", expected letters, digits, - and _, since it names a file");
    let file = folder.join(format!("{name}.wasm"));
    fs::create_dir_all(folder)
        .and_then(|()| replace(&file, bytes, None))
        .with_context(|| format!("can't write {}", file.display()))?;
    Ok(file)
}

fn build_by_recipe(dir: &Path) -> Result<PathBuf> {
    let file = dir.join(RECIPE);
    let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let recipe = Recipe::parse(&text).with_context(|| file.display().to_string())?;
    let output = dir.join(&recipe.output);
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    errln!("{}: {}", dir.display(), recipe.build);
    let mut command = Command::new("sh");
    // The output of tools is for people, so it goes to standard error.
    let status =
        command.args(["-c", &recipe.build]).current_dir(dir).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.context("can't run sh")?;
    if !status.success() {
        let hint = if recipe.tools.is_empty() {
            String::new()
        } else {
            format!("; to install the tools, run this in {}: {}", dir.display(), recipe.tools)
        };
        bail!("the build of {} failed: {status}{hint}", dir.display());
    }
    Ok(output)
}

fn build_by_cargo(dir: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct CargoMessage {
        #[serde(default)]
        filenames: Vec<PathBuf>,
        target: Option<CargoTarget>,
        #[serde(default)]
        manifest_path: PathBuf,
    }
    #[derive(Deserialize)]
    struct CargoTarget {
        kind: Vec<String>,
    }
    let manifest = dir.join("Cargo.toml").canonicalize().context("can't find Cargo.toml")?;
    errln!("{}: cargo build --release --target {TARGET}", dir.display());
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--lib", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let output = command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("can't run cargo: install Rust from https://rustup.rs")?;
    if !output.status.success() {
        bail!(
            "the build of {} failed: {}; if the target is missing, run `rustup target add {TARGET}`",
            dir.display(),
            output.status
        );
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let built = messages.lines().filter_map(|line| serde_json::from_str::<CargoMessage>(line).ok()).filter(|message| {
        message.manifest_path == manifest
            && message.target.as_ref().is_some_and(|target| target.kind.iter().any(|kind| kind == "cdylib"))
    });
    let file = built.flat_map(|message| message.filenames).find(|file| file.extension().is_some_and(|it| it == "wasm"));
    file.with_context(|| {
        format!(
            "the build of {} makes no .wasm file: add `[lib] crate-type = [\"cdylib\", \"rlib\"]` to its Cargo.toml",
            dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A project that an earlier release has made builds for the contract as it did, and its author learns what is new.
    #[test]
    fn what_a_project_of_an_earlier_contract_has_to_do_is_said() {
        let project = tempfile::tempdir().unwrap();
        let recipe = |text: &str| fs::write(project.path().join(RECIPE), format!("build = \"{text}\"\n")).unwrap();
        assert_eq!(advice(project.path()), None);
        recipe("componentize-py -d ../tickhound-sdk/wit -w detector componentize app");
        assert!(advice(project.path()).unwrap().contains("-w explaining-detector"));
        recipe("componentize-qjs --wit ../tickhound-sdk/wit -n detector --sync");
        assert!(advice(project.path()).unwrap().contains("export `probe`"));
        recipe("componentize-qjs --wit ../tickhound-sdk/wit -n explaining-detector --sync");
        assert_eq!(advice(project.path()), None);
        fs::create_dir(project.path().join("bindings")).unwrap();
        fs::write(project.path().join("bindings/detector.h"), "").unwrap();
        assert!(advice(project.path()).unwrap().contains("c/README.md"));
    }
}
