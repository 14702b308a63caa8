//! The contracts that this host speaks, as wasmtime sees them. Only `exports` and the conversion of manifests know these types.

/// Contract 0.1: symbols and ticks, a list for each column.
#[allow(unreachable_pub, dead_code, reason = "generated")]
pub(super) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../../detectors-sdk/wit-0.1",
        world: "detector",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Contract 0.2: scopes and feeds, one list for a call. `probe`, which is optional, is not part of this world.
///
/// Records own their texts: without `probe` the generator makes no valid code for borrowed ones. Rows, of which there are many,
/// are no record.
#[allow(unreachable_pub, dead_code, reason = "generated")]
pub(super) mod v0_2 {
    wasmtime::component::bindgen!({
        path: "../../detectors-sdk/wit",
        world: "detector",
    });
}
