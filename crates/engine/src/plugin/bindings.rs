//! The contracts that this host speaks, as wasmtime sees them. Only `exports` and the conversion of manifests know these types.

/// Contract 0.1: symbols and ticks, a list for each column.
#[expect(missing_docs, reason = "generated from the WIT, which documents it")]
#[allow(unreachable_pub, dead_code, reason = "generated")]
pub(super) mod v0_1 {
    wasmtime::component::bindgen!({
        path: "../../detectors-sdk/wit-0.1",
        world: "detector",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// Contract 0.2: scopes and feeds, one list for a call. `probe`, which is optional, is not part of this world.
#[expect(missing_docs, reason = "generated from the WIT, which documents it")]
#[allow(unreachable_pub, dead_code, reason = "generated")]
pub(super) mod v0_2 {
    wasmtime::component::bindgen!({
        path: "../../detectors-sdk/wit",
        world: "detector",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
