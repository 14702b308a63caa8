//! Builds a detector's project, in whatever language it is written.
//!
//! A project is a folder with a `Cargo.toml`, or with a `detector.toml` that tells what to run and what comes of it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use tickhound_engine::plugin::runtime;

/// Tells how a project that is not Rust's is built.
pub(super) const RECIPE: &str = "detector.toml";

const TARGET: &str = "wasm32-unknown-unknown";

/// `detector.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// What `sh` runs in the project's folder.
    build: String,
    /// The file that it makes, relative to that.
    output: PathBuf,
    /// What installs the tools for it.
    #[serde(default)]
    pub(super) tools: String,
}

impl Recipe {
    pub(super) fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }
}

/// A plugin as it was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where the compiler left it.
    pub(crate) file: PathBuf,
    /// A component.
    pub(crate) bytes: Vec<u8>,
}

/// Builds the project in `dir`.
///
/// # Errors
/// When there is none, its build fails, or what comes of it is no component.
pub(crate) fn build(dir: &Path) -> Result<Built> {
    let file = match dir.join(RECIPE).exists() {
        true => build_by_recipe(dir)?,
        false if dir.join("Cargo.toml").exists() => build_by_cargo(dir)?,
        false => bail!(
            "{} is no detector's project: it has neither Cargo.toml nor {RECIPE}; `tickhound new NAME` makes one",
            dir.display()
        ),
    };
    let bytes =
        fs::read(&file).with_context(|| format!("can't read {}, which the build should make", file.display()))?;
    let bytes = match runtime::component_bytes(&bytes).with_context(|| file.display().to_string())? {
        Some(component) => component,
        None => bytes,
    };
    Ok(Built { file, bytes })
}

/// Puts a plugin into a folder, whole or not at all: a host that watches it sees no half of it.
///
/// # Errors
/// When the folder can't be written to.
pub(crate) fn install(bytes: &[u8], name: &str, folder: &Path) -> Result<PathBuf> {
    let is_file_name = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !name.starts_with('.');
    ensure!(is_file_name, "the manifest's name is \"{name}\"; letters, digits, - and _ make a file's name");
    let file = folder.join(format!("{name}.wasm"));
    // Hidden files are no plugins.
    let new = folder.join(format!(".{name}.wasm.new"));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut open = fs::File::create(&new)?;
        open.write_all(bytes)?;
        open.sync_all()?;
        fs::rename(&new, &file)
    };
    write().with_context(|| format!("can't write {}", file.display()))?;
    Ok(file)
}

fn build_by_recipe(dir: &Path) -> Result<PathBuf> {
    let file = dir.join(RECIPE);
    let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let recipe = Recipe::parse(&text).with_context(|| file.display().to_string())?;
    let output = dir.join(&recipe.output);
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    eprintln!("{}: {}", dir.display(), recipe.build);
    let mut command = Command::new("sh");
    // What tools print is news for people; standard output is the command's own.
    let status =
        command.args(["-c", &recipe.build]).current_dir(dir).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.context("can't run sh")?;
    if !status.success() {
        let hint = match recipe.tools.is_empty() {
            true => String::new(),
            false => format!("\nits tools are installed by, in {}: {}", dir.display(), recipe.tools),
        };
        bail!("the build of {} failed: {status}{hint}", dir.display());
    }
    Ok(output)
}

fn build_by_cargo(dir: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        filenames: Vec<PathBuf>,
        target: Option<Target>,
        #[serde(default)]
        manifest_path: PathBuf,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
    }
    let manifest = dir.join("Cargo.toml").canonicalize().context("can't find Cargo.toml")?;
    eprintln!("{}: cargo build --release --target {TARGET}", dir.display());
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--lib", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    let output = command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("can't run cargo: install Rust from https://rustup.rs")?;
    if !output.status.success() {
        bail!(
            "the build of {} failed: {}; is the target there? `rustup target add {TARGET}`",
            dir.display(),
            output.status
        );
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let made = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok()).filter(|message| {
        message.manifest_path == manifest
            && message.target.as_ref().is_some_and(|target| target.kind.iter().any(|kind| kind == "cdylib"))
    });
    let file = made.flat_map(|message| message.filenames).find(|file| file.extension().is_some_and(|it| it == "wasm"));
    file.with_context(|| {
        format!(
            "{} makes no .wasm file: its Cargo.toml needs `[lib] crate-type = [\"cdylib\", \"rlib\"]`",
            dir.display()
        )
    })
}
