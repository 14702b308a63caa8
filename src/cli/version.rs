//! `tickhound --version`: what this program is, and with `--verbose` what it was built from and what it needs.

use serde_json::{Value, json};

use crate::output;
use tickhound_engine::plugin::runtime::CONTRACT_VERSIONS;
use tickhound_redis::SERVER_VERSION_MIN;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, with `-dirty` if the sources differed from it; empty if it is not known. See build.rs.
const COMMIT: &str = env!("BUILD_COMMIT");

const TARGET: &str = env!("BUILD_TARGET");

const WASMTIME: &str = env!("BUILD_WASMTIME");

/// What every build has: nothing is optional.
const FEATURES: [&str; 7] = ["http", "parquet", "gzip", "zstd", "tls", "signatures", "confined-check"];

/// How much to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    Version,
    Everything,
}

pub(super) fn print(detail: Detail) {
    outln!("tickhound {VERSION}");
    if detail == Detail::Version {
        return;
    }
    let or_unknown = |text: &'static str| if text.is_empty() { "unknown" } else { text };
    outln!("commit     {}", or_unknown(COMMIT));
    outln!("target     {}", or_unknown(TARGET));
    outln!("contract   tickhound:detector@{}", CONTRACT_VERSIONS.join(", "));
    outln!("wasmtime   {}", or_unknown(WASMTIME));
    outln!("redis      {SERVER_VERSION_MIN} or later, or Valkey");
    outln!("features   {}", FEATURES.join(", "));
}

/// Prints everything as one JSON object. What is not known is `null`.
pub(super) fn print_json() {
    let known = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    output::print_json(&json!({
        "version": VERSION, "commit": known(COMMIT), "target": known(TARGET), "contracts": CONTRACT_VERSIONS,
        "wasmtime": known(WASMTIME), "redis_min": SERVER_VERSION_MIN, "features": FEATURES,
    }));
}
