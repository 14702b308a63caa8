//! The symbols of a release are a third of its file, and say nothing to those who run it: a panic names file and line without
//! them. Only the program is stripped, since `cargo xtask instructions` looks for a function of its bench by name.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
}
