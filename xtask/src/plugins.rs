//! Builds the detectors that ship: `plugins/NAME/` becomes `plugins/NAME.wasm`.
//!
//! Invariant: the same sources give the same bytes, wherever the repository, cargo's
//! home, the toolchain and the target folder lie. So paths are remapped, nothing of
//! the caller's own compiler settings is let in, and the toolchain is pinned by
//! `rust-toolchain.toml`. Cargo mixes the machine's host triple into the names of
//! symbols, so the committed bytes are those of [`BUILT_ON`].

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use wit_component_of_plugins::ComponentEncoder;

use crate::{
    cargo, output, root, run,
    strip::{CONTRACT, strip},
    target_dir,
};

const TARGET: &str = "wasm32-unknown-unknown";

/// Profile in the workspace's `Cargo.toml`.
const PROFILE: &str = "plugin";

/// The host whose compiler made the committed files.
const BUILT_ON: &str = "x86_64-unknown-linux-gnu";

/// A detector that ships should be a small file. The largest one has 135 kB.
const LARGEST_BYTES: usize = 160_000;

/// Between flags in `CARGO_ENCODED_RUSTFLAGS`, so that paths may hold spaces.
const FLAG_SEPARATOR: &str = "\x1f";

/// Builds each plugin and writes its file.
pub(crate) fn write() -> Result<()> {
    for (name, bytes) in build_all()? {
        let file = committed(&name);
        let changed = fs::read(&file).map_or(true, |before| before != bytes);
        fs::write(&file, &bytes).with_context(|| format!("can't write {}", file.display()))?;
        println!("plugins/{name}.wasm  {} bytes{}", bytes.len(), if changed { "  changed" } else { "" });
    }
    Ok(())
}

/// Builds each plugin and compares it with its committed file.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, bytes) in build_all()? {
        let file = committed(&name);
        match fs::read(&file) {
            Ok(before) if before == bytes => println!("plugins/{name}.wasm  {} bytes  as built", bytes.len()),
            Ok(_) => wrong.push(format!("plugins/{name}.wasm is not what plugins/{name}/ builds to")),
            Err(error) => wrong.push(format!("can't read plugins/{name}.wasm: {error}")),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let host = host()?;
    if host == BUILT_ON {
        bail!("{}; run `cargo xtask plugins` and commit the files", wrong.join("; "));
    }
    bail!(
        "{}; the committed files are built on {BUILT_ON}, this is {host}, where bytes may differ: \
         run `cargo xtask plugins` on {BUILT_ON} and commit the files",
        wrong.join("; ")
    );
}

fn committed(name: &str) -> PathBuf {
    root().join("plugins").join(format!("{name}.wasm"))
}

/// Name and bytes of each plugin, in the order of names.
fn build_all() -> Result<Vec<(String, Vec<u8>)>> {
    // Now, so that the registry's folders are there to be remapped.
    run(cargo().args(["fetch", "--quiet", "--locked", "--target", TARGET]))?;
    let flags = flags()?;
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("plugins"))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().into_string().ok().context("a plugin's name is not UTF-8")?);
        }
    }
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let bytes = build(&name, &flags).with_context(|| format!("plugin {name}"))?;
            Ok((name, bytes))
        })
        .collect()
}

fn build(name: &str, flags: &str) -> Result<Vec<u8>> {
    let target = target_dir();
    let mut command = cargo();
    without_own_settings(&mut command);
    // Each alone, so that no other plugin adds features to its dependencies; and only as
    // a cdylib, because the compiler optimises across crates only where no rlib is asked for.
    command
        .args(["rustc", "--quiet", "--locked", "--lib", "--crate-type", "cdylib"])
        .args(["--profile", PROFILE, "--target", TARGET, "--package", name])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    run(&mut command)?;
    let file = target.join(TARGET).join(PROFILE).join(format!("{}.wasm", name.replace('-', "_")));
    let module = fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
    let component = ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    let stripped = strip(&component)?;
    let speaks = stripped.windows(CONTRACT.len()).any(|bytes| bytes == CONTRACT.as_bytes());
    ensure!(speaks, "no detector: it has no section {CONTRACT}; does it call `detector!`?");
    ensure!(stripped.len() < LARGEST_BYTES, "{} bytes; at most {LARGEST_BYTES} may ship", stripped.len());
    Ok(stripped)
}

/// Compiler flags that take this machine's paths out of what is built.
fn flags() -> Result<String> {
    let home = cargo_home()?;
    let sysroot = output(&mut rustc(&["--print", "sysroot"]))?;
    let commit = version_line("commit-hash: ")?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust");
    // Of several that match the last one counts: the target folder may lie in the workspace.
    let mut remaps = vec![(root().to_path_buf(), "/tickhound".to_owned()), (sources, format!("/rustc/{commit}"))];
    for entry in fs::read_dir(home.join("registry/src")).into_iter().flatten() {
        // One folder for each registry: its name tells where the crates were fetched from.
        remaps.push((entry?.path(), "/crates".to_owned()));
    }
    remaps.push((target_dir(), "/target".to_owned()));
    let flags = remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    Ok(flags.collect::<Vec<_>>().join(FLAG_SEPARATOR))
}

/// Takes away the caller's variables that would change the bytes.
fn without_own_settings(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let is_setting = ["CARGO_PROFILE_", "CARGO_TARGET_WASM32_", "CARGO_BUILD_RUST", "CARGO_UNSTABLE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_setting || ["RUSTFLAGS", "CARGO_INCREMENTAL"].contains(&name.as_ref()) {
            command.env_remove(name.as_ref());
        }
    }
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(root().join(home));
    }
    Ok(env::home_dir().context("no CARGO_HOME and no home folder")?.join(".cargo"))
}

fn host() -> Result<String> {
    version_line("host: ")
}

fn version_line(start: &str) -> Result<String> {
    let version = output(&mut rustc(&["--version", "--verbose"]))?;
    let line = version.lines().find_map(|line| line.strip_prefix(start));
    Ok(line.with_context(|| format!("`rustc -vV` has no line {start:?}"))?.to_owned())
}

fn rustc(args: &[&str]) -> Command {
    let mut command = Command::new("rustc");
    command.args(args).current_dir(root());
    command
}
