//! Templates of detector projects: the examples of this repository under another name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use toml_edit::{DocumentMut, Item, Value};

use super::project;

/// The path of a file in the project, and its contents.
type TemplateFile = (&'static str, &'static str);

/// The name of the templates' detector; each occurrence is replaced with the new name.
const NAME: &str = "jump";

/// The languages, and the template files of each.
pub(crate) const LANGUAGES: [(&str, &[TemplateFile]); 4] = [("rust", RUST), ("c", C), ("js", JS), ("python", PYTHON)];

macro_rules! files {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../examples/detectors/", $folder, "/", $path)))),+]
    };
}

const RUST: &[TemplateFile] = files!["rust":
    ".gitignore", "Cargo.toml", "README.md", "src/lib.rs",
    "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

const C: &[TemplateFile] = files!["c":
    ".gitignore", "README.md", "detector.toml", "plugin.c", "bindings/detector.c", "bindings/detector.h",
    "wit/detector.wit", "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

const JS: &[TemplateFile] = files!["js":
    ".gitignore", "README.md", "detector.toml", "package.json", "plugin.js",
    "wit/detector.wit", "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

const PYTHON: &[TemplateFile] = files!["python":
    ".gitignore", "README.md", "detector.toml", "app.py",
    "wit/detector.wit", "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

macro_rules! sdk {
    ($($path:literal),+ $(,)?) => { &[$(($path, include_str!(concat!("../../../detectors-sdk/", $path)))),+] };
}

/// The files of the SDK, which a Rust project contains, so that it does not need a copy of Tickhound.
const SDK: &[TemplateFile] = sdk![
    "README.md",
    "src/bars.rs",
    "src/detector.rs",
    "src/guest.rs",
    "src/harness.rs",
    "src/indicators.rs",
    "src/instance.rs",
    "src/lib.rs",
    "src/manifest.rs",
    "src/manifest/check.rs",
    "src/panic.rs",
    "src/params.rs",
    "src/rank.rs",
    "src/window.rs",
    "wit/detector.wit",
];

const SDK_MANIFEST: &str = include_str!("../../../detectors-sdk/Cargo.toml");
const WORKSPACE_MANIFEST: &str = include_str!("../../../Cargo.toml");

/// The folder of the SDK in a project.
const SDK_DIR: &str = "tickhound-sdk";

/// Creates a project in the folder `parent/name`.
///
/// # Errors
/// When the name is invalid, or the folder exists already.
pub(crate) fn create(name: &str, language: &str, parent: &Path) -> Result<PathBuf> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
        && !name.contains("--");
    ensure!(is_name, "the name is \"{name}\", expected lower-case letters, digits and -, such as `opening-drive`");
    let dir = parent.join(name);
    ensure!(!dir.exists(), "{} exists already", dir.display());
    let (_, files) = LANGUAGES.iter().find(|(known, _)| *known == language).context("unknown language")?;
    for (path, text) in *files {
        let text = renamed(text, name);
        // In the repository, the SDK is in another folder.
        let text = text.replace("../../../detectors-sdk", SDK_DIR);
        write(&dir.join(path), &text)?;
    }
    if language == "rust" {
        write(&dir.join(SDK_DIR).join("Cargo.toml"), &standalone()?)?;
        SDK.iter().try_for_each(|(path, text)| write(&dir.join(SDK_DIR).join(path), text))?;
    }
    Ok(dir)
}

/// Returns the command that installs the tools for this language, if it needs any.
pub(crate) fn tools(language: &str) -> Option<String> {
    let (_, files) = LANGUAGES.iter().find(|(known, _)| *known == language)?;
    let (_, recipe) = files.iter().find(|(path, _)| *path == project::RECIPE)?;
    project::Recipe::parse(recipe).ok().map(|recipe| recipe.tools).filter(|tools| !tools.is_empty())
}

fn write(file: &Path, text: &str) -> Result<()> {
    let explain = || format!("can't write {}", file.display());
    fs::create_dir_all(file.parent().with_context(explain)?).with_context(explain)?;
    fs::write(file, text).with_context(explain)
}

/// Replaces the template's name in a text, both as a name and as a type.
fn renamed(text: &str, name: &str) -> String {
    let camel = |name: &str| -> String {
        let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect()
    };
    text.replace(NAME, name).replace(&camel(NAME), &camel(name))
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
        for folder in ["src", "src/manifest", "wit"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let path = format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy());
                let is_there = root.join(&path).is_dir() || SDK.iter().any(|(known, _)| *known == path);
                assert!(is_there, "{path} is missing in SDK");
            }
        }
        let manifest: toml::Table = toml::from_str(&standalone().unwrap()).unwrap();
        assert!(!toml::to_string(&manifest).unwrap().contains("workspace"), "{manifest:?}");
        assert_eq!(manifest["package"]["edition"].as_str(), Some("2024"));
        assert!(manifest["dependencies"]["wit-bindgen"]["features"].is_array());
    }

    #[test]
    fn templates_contain_only_the_new_name() {
        assert_eq!(
            renamed("jump Jump `jump.wasm`", "opening-drive"),
            "opening-drive OpeningDrive `opening-drive.wasm`"
        );
        let dir = tempfile::tempdir().unwrap();
        for (language, _) in LANGUAGES {
            let project = create(&format!("my-{language}"), language, dir.path()).unwrap();
            assert!(project.join("cases").is_dir() && project.join("README.md").exists(), "{language}");
        }
        for wrong in ["", "Jump", "1st", "a b", "../x", "x-"] {
            assert!(create(wrong, "rust", dir.path()).is_err(), "{wrong}");
        }
        assert!(create("my-rust", "rust", dir.path()).unwrap_err().to_string().ends_with("exists already"));
    }
}
