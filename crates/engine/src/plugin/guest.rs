//! The store that a guest runs in, and its limits there.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};

use super::deadline::{Deadline, Overrun, processor_time};
use tickhound_core::config::PluginsConfig;

/// The number of rows or symbols that one call deadline allows for. Larger calls get proportionally more time.
const ITEMS_PER_DEADLINE: usize = 1000;

/// The limits of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The maximum size of a linear memory, bytes.
    pub memory_max_bytes: usize,
    /// The maximum processor time of a call with up to a thousand rows or symbols. Two thousand get twice that, and so on.
    pub call_deadline: Duration,
    /// The maximum processor time of a start, which ends when the plugin has described itself and accepted its
    /// parameters.
    pub start_deadline: Duration,
    /// The fault budget: the number of faults that are tolerated within the window. The next one quarantines the
    /// detector.
    pub faults_max: usize,
    /// The time after which a fault no longer counts towards the budget.
    pub fault_window: Duration,
}

impl Limits {
    /// Returns the limits in `[plugins]`.
    pub fn of(config: &PluginsConfig) -> Self {
        Self {
            memory_max_bytes: config.memory_max_mib << 20,
            call_deadline: Duration::from_millis(config.call_deadline_ms),
            start_deadline: Duration::from_millis(config.start_deadline_ms),
            faults_max: config.faults,
            fault_window: Duration::from_secs(config.fault_window_s),
        }
    }

    /// Returns the maximum processor time of a call with `items` rows or symbols.
    pub fn deadline(&self, items: usize) -> Duration {
        self.call_deadline * items.div_ceil(ITEMS_PER_DEADLINE).max(1) as u32
    }
}

/// The maximum size of a table. Tables hold a guest's function pointers, of which a detector has a few hundred.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The maximum number of core instances in one component: its modules and the adapters around them. A Python interpreter
/// has about forty.
const CORE_INSTANCES_MAX: usize = 256;

/// The data in a guest's store: its limits, and how much of them is used.
pub(super) struct Guest {
    limits: StoreLimits,
    /// The size of all linear memories, bytes.
    memory_bytes: usize,
    /// The deadline of the current or last call.
    deadline: Deadline,
    /// The time limit that ended a call. The instance is never called again after that.
    overrun: Option<Overrun>,
}

impl Guest {
    /// Returns a store for an instance that is about to start.
    pub(super) fn store(engine: &Engine, limits: Limits) -> Store<Self> {
        let store_limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_max_bytes)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(CORE_INSTANCES_MAX)
            .trap_on_grow_failure(true)
            .build();
        let deadline = Deadline::new(limits.start_deadline);
        let guest = Self { limits: store_limits, memory_bytes: 0, deadline, overrun: None };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| guest);
        store.epoch_deadline_callback(|mut context| {
            let guest = context.data_mut();
            Ok(match guest.deadline.check(processor_time()) {
                Ok(epochs) => UpdateDeadline::Continue(epochs),
                Err(overrun) => {
                    guest.overrun = Some(overrun);
                    UpdateDeadline::Interrupt
                }
            })
        });
        Self::begin(&mut store, limits.start_deadline);
        store
    }

    /// Sets the deadline of the call that follows. The thread's clock is not read here, since that is a system call, and
    /// most calls end before the next epoch.
    pub(super) fn begin(store: &mut Store<Self>, deadline: Duration) {
        store.data_mut().deadline = Deadline::new(deadline);
        store.set_epoch_deadline(1);
    }

    /// Returns the time limit that ended the last call, if one did.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        self.overrun
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

/// Wasmtime's own limits decide. This counts the memory that they allow.
impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = self.limits.memory_growing(current, desired, most)?;
        if allowed {
            self.memory_bytes += desired - current;
        }
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, most)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_batch_has_more_time() {
        let limits = Limits::of(&PluginsConfig { call_deadline_ms: 100, ..PluginsConfig::default() });
        let ms = |items| limits.deadline(items).as_millis();
        assert_eq!([ms(0), ms(1), ms(1000), ms(1001), ms(10_000)], [100, 100, 100, 200, 1000]);
    }
}
