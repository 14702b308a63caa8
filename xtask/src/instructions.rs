//! `cargo xtask instructions`: counts the instructions and allocations of a tick, and compares them with the accepted counts.

use anyhow::Result;

use crate::{
    cargo,
    checks::{apt_install, starts},
    run,
};

/// Counts, and compares with `benches/instructions.toml`; with `--accept` writes that file.
pub(crate) fn run_all(args: &[&str]) -> Result<()> {
    if !starts("valgrind", &["--version"])
        && let Err(error) = apt_install("valgrind")
    {
        println!("left out: instructions are counted by valgrind, which can't be installed here ({error:#})");
        return Ok(());
    }
    // Built in the same way as the tests: otherwise features differ, and wasmtime is compiled once more.
    run(cargo().args(["test", "--release", "--workspace", "--locked", "--bench", "instructions", "--"]).args(args))
}
