//! Templates of detector projects: the examples of this repository under another name, for another scope or feed.

mod shape;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

pub(crate) use self::shape::{FeedChoice, ProjectShape, SCOPES};

use super::{
    project,
    sdk::{self, TemplateFile},
};

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
    ".gitignore", "README.md", "detector.toml", "plugin.c",
    "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

const JS: &[TemplateFile] = files!["js":
    ".gitignore", "README.md", "detector.toml", "package.json", "plugin.js",
    "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

const PYTHON: &[TemplateFile] = files!["python":
    ".gitignore", "README.md", "detector.toml", "app.py",
    "cases/apart.toml", "cases/fall.toml", "cases/quiet.toml", "cases/rise.toml",
];

/// The file with which cargo builds all projects beside each other into one folder.
const CARGO_CONFIG: &str = ".cargo/config.toml";

const SHARED_TARGET: &str = "\
# The projects beside this one share one folder for what cargo builds. CARGO_TARGET_DIR overrides this.
[build]
target-dir = \"../tickhound-sdk/target\"
";

/// Creates a project in the folder `parent/name`, and the SDK beside it if there is none.
///
/// # Errors
/// When the name is invalid, or the folder exists already.
pub(crate) fn create(name: &str, language: &str, shape: &ProjectShape, parent: &Path) -> Result<PathBuf> {
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
        && !name.contains("--");
    ensure!(is_name, "the name is \"{name}\", expected lower-case letters, digits and -, such as `opening-drive`");
    let dir = parent.join(name);
    ensure!(!dir.exists(), "{} exists already", dir.display());
    let (_, files) = LANGUAGES.iter().find(|(known, _)| *known == language).context("unknown language")?;
    for (path, text) in *files {
        let text = renamed(&shape.of_template(path, text)?, name);
        sdk::write(&dir.join(path), &beside_sdk(&text))?;
    }
    if language == "rust" && !has_target_dir(&dir) {
        sdk::write(&dir.join(CARGO_CONFIG), SHARED_TARGET)?;
    }
    sdk::create(&dir)?;
    Ok(dir)
}

/// Replaces the paths of the repository, where the SDK is in another folder.
fn beside_sdk(text: &str) -> String {
    text.replace("../../../detectors-sdk", &format!("../{}", sdk::DIR))
        .replace("--module-root ../../..", "--module-root ..")
}

/// Whether the user has set a folder for what cargo builds, in a file that cargo reads for this project.
fn has_target_dir(project: &Path) -> bool {
    let project = std::path::absolute(project).unwrap_or_else(|_| project.to_path_buf());
    let mut folders: Vec<PathBuf> = project.ancestors().map(|folder| folder.join(".cargo")).collect();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    folders.extend(std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home));
    let is_set = |file: PathBuf| {
        let settings = fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
        settings.is_some_and(|settings| settings.get("build").is_some_and(|build| build.get("target-dir").is_some()))
    };
    folders.iter().any(|folder| is_set(folder.join("config.toml")) || is_set(folder.join("config")))
}

/// Returns the command that installs the tools for this language, if it needs any. It is run in the project's folder.
pub(crate) fn tools(language: &str) -> Option<String> {
    let (_, files) = LANGUAGES.iter().find(|(known, _)| *known == language)?;
    let (_, recipe) = files.iter().find(|(path, _)| *path == project::RECIPE)?;
    project::Recipe::parse(recipe).ok().map(|recipe| beside_sdk(&recipe.tools)).filter(|tools| !tools.is_empty())
}

/// Replaces the template's name in a text, both as a name and as a type.
fn renamed(text: &str, name: &str) -> String {
    let camel = |name: &str| -> String {
        let words = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect()
    };
    text.replace(NAME, name).replace(&camel(NAME), &camel(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user who has one folder for all that cargo builds keeps it.
    #[test]
    fn a_target_folder_that_the_user_has_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".cargo")).unwrap();
        fs::write(dir.path().join(CARGO_CONFIG), "[build]\ntarget-dir = \"mine\"\n").unwrap();
        let project = create("mine", "rust", &ProjectShape::default(), dir.path()).unwrap();
        assert!(!project.join(CARGO_CONFIG).exists());
    }

    #[test]
    fn templates_contain_only_the_new_name() {
        assert_eq!(
            renamed("jump Jump `jump.wasm`", "opening-drive"),
            "opening-drive OpeningDrive `opening-drive.wasm`"
        );
        let dir = tempfile::tempdir().unwrap();
        let create = |name: &str, language: &str| create(name, language, &ProjectShape::default(), dir.path());
        for (language, _) in LANGUAGES {
            let project = create(&format!("my-{language}"), language).unwrap();
            assert!(project.join("cases").is_dir() && project.join("README.md").exists(), "{language}");
            for (path, _) in LANGUAGES.iter().find(|(known, _)| *known == language).unwrap().1 {
                let text = fs::read_to_string(project.join(path)).unwrap();
                assert!(!text.contains("../../.."), "{language}: {path} has a path of the repository");
            }
        }
        assert!(dir.path().join("my-rust").join(CARGO_CONFIG).exists());
        for wrong in ["", "Jump", "1st", "a b", "../x", "x-"] {
            assert!(create(wrong, "rust").is_err(), "{wrong}");
        }
        assert!(create("my-rust", "rust").unwrap_err().to_string().ends_with("exists already"));
    }
}
