//! The store that a guest runs in, and what it may use there.

use std::time::Duration;

use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};

use crate::config::PluginsConfig;

/// Resolution of call deadlines. Each tick costs the running guests one counter check.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(5);

/// What one instance may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Largest linear memory, bytes.
    pub memory_max_bytes: usize,
    /// Longest call.
    pub call_deadline: Duration,
    /// So many faults within the window are borne; one more brings quarantine.
    pub faults_max: usize,
    /// See there.
    pub fault_window: Duration,
}

impl Limits {
    /// As `[plugins]` sets them.
    pub fn of(config: &PluginsConfig) -> Self {
        Self {
            memory_max_bytes: config.memory_max_mib << 20,
            call_deadline: Duration::from_millis(config.call_deadline_ms),
            faults_max: 3,
            fault_window: Duration::from_secs(60),
        }
    }
}

/// Tables hold a guest's function pointers; a detector has some hundred.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Parts of one component: its core module, and the adapters around it.
const CORE_INSTANCES_MAX: usize = 32;

/// What a store holds beside the guest.
pub(super) struct Guest {
    limits: StoreLimits,
}

impl Guest {
    pub(super) fn store(engine: &Engine, limits: Limits) -> Store<Self> {
        let store_limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_max_bytes)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(CORE_INSTANCES_MAX)
            .trap_on_grow_failure(true)
            .build();
        let mut store = Store::new(engine, Self { limits: store_limits });
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(ticks(limits.call_deadline));
        store
    }
}

/// A deadline in epochs, as a store takes it.
pub(super) fn ticks(deadline: Duration) -> u64 {
    // One more: the running epoch may be nearly over.
    deadline.as_nanos().div_ceil(EPOCH_TICK.as_nanos()) as u64 + 1
}
