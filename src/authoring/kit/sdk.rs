//! The SDK of projects: one folder beside them, so that they share its sources, its tools and what cargo builds.
//!
//! What holds: its files are those of one release, which the file `VERSION` names, and only `update` replaces them. Projects
//! of earlier releases have an SDK of their own inside of them, which is treated in the same way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use toml_edit::{DocumentMut, Item, Value};

/// The path of a file in a folder that is created, and its contents.
pub(super) type TemplateFile = (&'static str, &'static str);

/// The folder of the SDK, beside the projects.
pub(crate) const DIR: &str = "tickhound-sdk";

/// The file that names the release.
const VERSION_FILE: &str = "VERSION";

/// The file with the contract, and how the line begins that names its version.
const CONTRACT_FILE: &str = "wit/detector.wit";
const CONTRACT_PACKAGE: &str = "package tickhound:detector@";

/// The release of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

macro_rules! sdk {
    ($($path:literal),+ $(,)?) => { &[$(($path, include_str!(concat!("../../../detectors-sdk/", $path)))),+] };
}

/// The files of the SDK, so that a project does not need a copy of Tickhound.
const SDK: &[TemplateFile] = sdk![
    ".gitignore",
    "README.md",
    "c/README.md",
    "c/tickhound.h",
    "js/README.md",
    "js/detector.js",
    "js/instance.js",
    "js/members.js",
    "js/package.json",
    "js/packed.js",
    "js/report.js",
    "js/rows.js",
    "js/state.js",
    "js/tickhound.d.ts",
    "js/tickhound.js",
    "python/README.md",
    "python/tickhound_sdk/__init__.py",
    "python/tickhound_sdk/detector.py",
    "python/tickhound_sdk/flags.py",
    "python/tickhound_sdk/guest.py",
    "python/tickhound_sdk/instance.py",
    "python/tickhound_sdk/members.py",
    "python/tickhound_sdk/packed.py",
    "python/tickhound_sdk/py.typed",
    "python/tickhound_sdk/report.py",
    "python/tickhound_sdk/rows.py",
    "python/tickhound_sdk/state.py",
    "src/bars.rs",
    "src/detector.rs",
    "src/gates.rs",
    "src/guest.rs",
    "src/harness.rs",
    "src/harness/detections.rs",
    "src/harness/row.rs",
    "src/indicators.rs",
    "src/instance.rs",
    "src/lib.rs",
    "src/manifest.rs",
    "src/manifest/check.rs",
    "src/members.rs",
    "src/packed.rs",
    "src/panic.rs",
    "src/params.rs",
    "src/rank.rs",
    "src/row.rs",
    "src/shape.rs",
    "src/window.rs",
    "wit/detector.wit",
];

const SDK_MANIFEST: &str = include_str!("../../../detectors-sdk/Cargo.toml");
const WORKSPACE_MANIFEST: &str = include_str!("../../../Cargo.toml");

/// Writes the SDK beside a project, unless there is one.
///
/// # Errors
/// When a file can't be written.
pub(super) fn create(project: &Path) -> Result<()> {
    let dir = beside(project)?;
    if dir.exists() { Ok(()) } else { update(&dir).map(|_| ()) }
}

/// Returns the folder of the SDK that a project uses, which may not exist yet.
///
/// # Errors
/// When the project's folder can't be read.
pub(crate) fn of_project(project: &Path) -> Result<PathBuf> {
    let inside = project.join(DIR);
    if inside.is_dir() { Ok(inside) } else { beside(project) }
}

/// Writes the files of this release, and returns the names of those that were added or replaced.
///
/// # Errors
/// When a file can't be written.
pub(crate) fn update(dir: &Path) -> Result<Vec<String>> {
    let mut written = Vec::new();
    for (path, text) in files()? {
        let file = dir.join(&path);
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            write(&file, &text)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// Returns the version of the contract that the SDK in this folder implements; `None` if it doesn't say so.
pub(crate) fn contract(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join(CONTRACT_FILE)).ok()?;
    let package = text.lines().find_map(|line| line.strip_prefix(CONTRACT_PACKAGE))?;
    Some(package.trim_end().trim_end_matches(';').to_owned())
}

/// Returns what is different from the SDK of this release, in a sentence; `None` if nothing is.
///
/// # Errors
/// When the manifest in this program is not as expected.
fn difference(dir: &Path) -> Result<Option<String>> {
    let differs =
        |(path, text): &(String, String)| fs::read_to_string(dir.join(path)).is_ok_and(|found| found != *text);
    if !files()?.iter().any(differs) {
        return Ok(None);
    }
    let release = fs::read_to_string(dir.join(VERSION_FILE)).unwrap_or_default();
    Ok(Some(match release.trim() {
        "" => format!("{} is the SDK of an earlier release, and this program is {VERSION}", dir.display()),
        VERSION => format!("{} differs from the SDK of this program ({VERSION})", dir.display()),
        other => format!("{} is the SDK of {other}, and this program is {VERSION}", dir.display()),
    }))
}

/// Says on standard error if the SDK of a project is not that of this release, and how to update it.
///
/// # Errors
/// When the project's folder can't be read.
pub(crate) fn note_difference(project: &Path) -> Result<()> {
    if let Some(difference) = difference(&of_project(project)?)? {
        errln!("note: {difference}; to replace it, run `tickhound new --update-sdk {}`", project.display());
    }
    Ok(())
}

/// Writes a file and the folders above it.
///
/// # Errors
/// When it can't be written.
pub(super) fn write(file: &Path, text: &str) -> Result<()> {
    let explain = || format!("can't write {}", file.display());
    fs::create_dir_all(file.parent().with_context(explain)?).with_context(explain)?;
    fs::write(file, text).with_context(explain)
}

fn beside(project: &Path) -> Result<PathBuf> {
    let explain = || format!("can't read {}", project.display());
    // Without links and `..`, since the compilers resolve `../tickhound-sdk` in the project's real folder.
    let real = project.canonicalize().with_context(explain)?;
    // A path that the user can read, where that is the same folder.
    let given = project.parent().filter(|parent| parent.canonicalize().ok().as_deref() == real.parent());
    Ok(given.or(real.parent()).with_context(explain)?.join(DIR))
}

/// The files of this release, by their paths in the folder.
fn files() -> Result<Vec<(String, String)>> {
    let mut files: Vec<(String, String)> =
        SDK.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    files.push(("Cargo.toml".to_owned(), standalone()?));
    files.push((VERSION_FILE.to_owned(), format!("{VERSION}\n")));
    Ok(files)
}

/// Returns the SDK's manifest, with the values that it inherits from our workspace filled in.
fn standalone() -> Result<String> {
    let mut sdk: DocumentMut = SDK_MANIFEST.parse()?;
    let workspace: DocumentMut = WORKSPACE_MANIFEST.parse()?;
    let of = |section: &str| workspace["workspace"][section].as_table_like();
    let (package, dependencies) = of("package").zip(of("dependencies")).context("the workspace names neither")?;
    for unused in ["lints", "target", "example"] {
        sdk.remove(unused);
    }
    for (section, values) in [("package", package), ("dependencies", dependencies)] {
        for (key, item) in sdk[section].as_table_like_mut().context("a section is a table")?.iter_mut() {
            if item.get("workspace").is_some() {
                let value = values.get(key.get()).and_then(Item::as_value);
                *item = Item::Value(value.cloned().context("the workspace names every key")?);
                if let Some(decor) = item.as_value_mut().map(Value::decor_mut) {
                    decor.clear();
                }
            }
        }
    }
    Ok(sdk.to_string().replace(".workspace =", " ="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_complete_and_independent_of_the_workspace() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("detectors-sdk");
        for folder in ["src", "src/harness", "src/manifest", "wit", "c", "js", "python", "python/tickhound_sdk"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy());
                let is_ignored = path.ends_with("package-lock.json");
                let is_there = root.join(&path).is_dir() || SDK.iter().any(|(known, _)| *known == path);
                assert!(is_there || is_ignored, "{path} is missing in SDK");
            }
        }
        let manifest: toml::Table = toml::from_str(&standalone().unwrap()).unwrap();
        assert!(!toml::to_string(&manifest).unwrap().contains("workspace"), "{manifest:?}");
        assert_eq!(manifest["package"]["edition"].as_str(), Some("2024"));
        assert!(manifest["dependencies"]["wit-bindgen"]["features"].is_array());
    }

    #[test]
    fn the_flags_are_the_same_in_all_languages() {
        let of = |path: &str| SDK.iter().find(|(known, _)| *known == path).unwrap().1;
        let flags: Vec<(&str, &str)> = of("src/detector.rs")
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub const ")?.strip_suffix(';')?.split_once(": u32 = "))
            .collect();
        assert!(flags.len() > 4, "{flags:?}");
        for (name, bit) in flags {
            assert!(of("python/tickhound_sdk/flags.py").contains(&format!("\n{name} = {bit}\n")), "{name}");
            assert!(of("js/detector.js").contains(&format!("  {name}: {bit},\n")), "{name}");
            assert!(of("c/tickhound.h").contains(&format!("    TICKHOUND_{name} = {bit},\n")), "{name}");
            assert!(of("js/tickhound.d.ts").contains(&format!("  readonly {name}: {bit};\n")), "{name}");
        }
    }

    #[test]
    fn an_sdk_of_another_release_is_noticed_and_replaced_only_by_an_update() {
        let parent = tempfile::tempdir().unwrap();
        let project = parent.path().join("mine");
        fs::create_dir(&project).unwrap();
        create(&project).unwrap();
        let dir = of_project(&project).unwrap();
        assert_eq!(dir, parent.path().join(DIR));
        assert_eq!(difference(&dir).unwrap(), None);

        fs::write(dir.join("js/state.js"), "// mine\n").unwrap();
        let said = difference(&dir).unwrap().unwrap();
        assert!(said.ends_with(&format!("differs from the SDK of this program ({VERSION})")), "{said}");
        fs::write(dir.join(VERSION_FILE), "0.0.1\n").unwrap();
        create(&project).unwrap();
        let said = difference(&dir).unwrap().unwrap();
        assert!(said.ends_with(&format!("is the SDK of 0.0.1, and this program is {VERSION}")), "{said}");

        fs::write(dir.join(CONTRACT_FILE), "/// Of then.\npackage tickhound:detector@0.1.0;\n").unwrap();
        assert_eq!(contract(&dir).as_deref(), Some("0.1.0"));
        assert_eq!(update(&dir).unwrap(), ["js/state.js", CONTRACT_FILE, VERSION_FILE]);
        assert_eq!(contract(&dir).as_deref(), Some("0.2.0"));
        assert_eq!(difference(&dir).unwrap(), None);

        // As an earlier release made it: in the project, and for Rust alone.
        fs::create_dir_all(project.join(DIR).join("src")).unwrap();
        fs::write(project.join(DIR).join("src/lib.rs"), "// of then\n").unwrap();
        let dir = of_project(&project).unwrap();
        assert_eq!(dir, project.join(DIR));
        assert!(difference(&dir).unwrap().unwrap().contains("is the SDK of an earlier release"));
    }
}
