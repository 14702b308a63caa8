//! The README's detector, built by plain cargo for WebAssembly, is what the host expects.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{env, fs, path::Path, process::Command};

use wasmparser::{Parser, Payload};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn build() -> Vec<u8> {
    // A folder of its own: the cargo that runs this test may hold the lock of the usual one.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wasm");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "wasm32-unknown-unknown", "--example", "jump"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(HERE)
        // As in the author's own crate, which doesn't have this workspace's profile.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .status()
        .unwrap();
    assert!(status.success(), "the example doesn't build");
    fs::read(target.join("wasm32-unknown-unknown/release/examples/jump.wasm")).unwrap()
}

#[test]
fn a_built_detector_imports_nothing_and_carries_the_contract() {
    let wasm = build();
    let (mut imports, mut exports, mut contract, mut component) = (0, Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.unwrap() {
            Payload::ImportSection(section) => imports += section.count(),
            Payload::ExportSection(section) => {
                exports.extend(section.into_iter().map(|export| export.unwrap().name.to_owned()));
            }
            Payload::CustomSection(section) if section.name() == "tickhound:contract" => {
                contract.push(section.data());
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type:") => component += 1,
            _ => {}
        }
    }
    assert_eq!(imports, 0);
    for name in ["describe", "configure", "introduce", "detect", "save", "restore", "cabi_realloc", "memory"] {
        assert!(exports.iter().any(|export| export == name), "no export `{name}`");
    }
    assert_eq!(contract, [tickhound_sdk::CONTRACT_VERSION.as_bytes()]);
    assert!(component > 0, "the host can't make a component of it");
    let marks = wasm.windows(16).filter(|window| window == b"TICKHOUND-PANIC\0").count();
    assert_eq!(marks, 1, "the host finds a panic's message by its mark");
    assert!(wasm.len() < 100_000, "{} bytes for the smallest detector", wasm.len());
}

#[test]
fn the_contract_version_is_that_of_the_wit_package() {
    let wit = fs::read_to_string(Path::new(HERE).join("wit/detector.wit")).unwrap();
    assert!(wit.contains(&format!("package tickhound:detector@{};", tickhound_sdk::CONTRACT_VERSION)));
}

#[test]
fn the_readme_shows_the_example() {
    let readme = fs::read_to_string(Path::new(HERE).join("README.md")).unwrap();
    let example = fs::read_to_string(Path::new(HERE).join("examples/jump.rs")).unwrap();
    assert!(readme.contains(&format!("```rust,test_harness\n{example}```")));
}
