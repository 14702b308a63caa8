//! Strips the program of its symbols, and tells it what it was built from, for `tickhound --version --verbose`.
//!
//! Symbols are a third of the program's file, and a panic names its file and line without them. The tests keep theirs, so
//! that their backtraces name functions. The benches are a separate package, which this does not affect;
//! `cargo xtask instructions` looks for a function there by name.
//!
//! What holds: the same sources give the same program, since no time of the build is in it. The commit is that from which
//! the program was built: a commit that changes none of its sources does not build it again.

use std::{env, fs, path::Path, process::Command};

/// What the program is made of, beside the plugins that ship. A change of other files, or another commit of the same files, is no
/// reason to build it again.
const SOURCES: [&str; 8] =
    ["build.rs", "Cargo.lock", "Cargo.toml", "config", "crates", "detectors-sdk", "examples", "src"];

/// The variable in which packagers name the commit where there is no git, such as in an archive of the sources.
const COMMIT: &str = "TICKHOUND_COMMIT";

fn main() {
    let sources: Vec<String> = SOURCES.map(str::to_owned).into_iter().chain(plugins()).collect();
    for source in &sources {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-env-changed={COMMIT}");
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
    let given = env::var(COMMIT).ok().filter(|commit| !commit.is_empty());
    println!("cargo:rustc-env=BUILD_COMMIT={}", given.or_else(|| commit(&sources)).unwrap_or_default());
    println!("cargo:rustc-env=BUILD_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=BUILD_WASMTIME={}", locked("wasmtime").unwrap_or_default());
}

/// The files of the plugins that ship, without their sources, which the program is not built from.
fn plugins() -> Vec<String> {
    let files = fs::read_dir("plugins").into_iter().flatten();
    let files = files.filter_map(|entry| entry.ok()?.path().to_str().map(str::to_owned));
    files.filter(|file| file.ends_with(".wasm")).collect()
}

/// The commit of this repository, with `-dirty` if the sources differ from it; none if they are not the root of a repository,
/// as in the archive that a package is built from.
fn commit(sources: &[String]) -> Option<String> {
    let root = fs::canonicalize(env::var_os("CARGO_MANIFEST_DIR")?).ok()?;
    let git = |args: &[&str], paths: &[String]| {
        let output = Command::new("git").args(args).args(paths).current_dir(&root).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"], &[])?;
    if fs::canonicalize(Path::new(&top)).ok()? != root {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"], &[])?;
    // Without a lock, which another git of the user may need at this time.
    let changes = git(&["--no-optional-locks", "status", "--porcelain", "--"], sources)?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// The version of a dependency that is built in.
fn locked(package: &str) -> Option<String> {
    let lock = fs::read_to_string("Cargo.lock").ok()?;
    let (_, after) = lock.split_once(&format!("[[package]]\nname = \"{package}\"\nversion = \""))?;
    after.split('"').next().map(str::to_owned)
}
