//! Strips the program of its symbols, which are a third of its file. A panic names its file and line without them.
//!
//! The tests keep theirs, so that their backtraces name functions. The benches are a separate package, which this does not
//! affect; `cargo xtask instructions` looks for a function there by name.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
