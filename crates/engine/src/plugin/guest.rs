//! The store that a guest runs in, and what it may use there.

use std::time::Duration;

use wasmtime::{Engine, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};

use super::deadline::{Deadline, OutOfTime, processor_time};
use tickhound_core::config::PluginsConfig;

/// Rows, or symbols, that one call deadline is for.
const ITEMS_PER_DEADLINE: usize = 1000;

/// What one instance may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Largest linear memory, bytes.
    pub memory_max_bytes: usize,
    /// Most processor time of a call for up to a thousand rows or symbols; twice that for two thousand, and so on.
    pub call_deadline: Duration,
    /// Most processor time of a start: until it has told what it is, and taken its parameters.
    pub start_deadline: Duration,
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
            start_deadline: Duration::from_millis(config.start_deadline_ms),
            faults_max: config.faults,
            fault_window: Duration::from_secs(config.fault_window_s),
        }
    }

    /// Most processor time of a call for so many rows or symbols.
    pub fn deadline(&self, items: usize) -> Duration {
        self.call_deadline * items.div_ceil(ITEMS_PER_DEADLINE).max(1) as u32
    }
}

/// Tables hold a guest's function pointers; a detector has some hundred.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Parts of one component: its core module and the adapters around it. Python's interpreter comes in some forty.
const CORE_INSTANCES_MAX: usize = 256;

/// What a store holds beside the guest.
pub(super) struct Guest {
    limits: StoreLimits,
    /// What its linear memories take, bytes.
    memory_bytes: usize,
    /// Of the call that runs, or ran last.
    deadline: Deadline,
    /// The limit that ended a call; the instance is not called again then.
    out_of_time: Option<OutOfTime>,
}

impl Guest {
    /// A store whose instance is about to start.
    pub(super) fn store(engine: &Engine, limits: Limits) -> Store<Self> {
        let store_limits = StoreLimitsBuilder::new()
            .memory_size(limits.memory_max_bytes)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(CORE_INSTANCES_MAX)
            .trap_on_grow_failure(true)
            .build();
        let deadline = Deadline::new(limits.start_deadline);
        let guest = Self { limits: store_limits, memory_bytes: 0, deadline, out_of_time: None };
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| guest);
        store.epoch_deadline_callback(|mut context| {
            let guest = context.data_mut();
            Ok(match guest.deadline.look(processor_time()) {
                Ok(epochs) => UpdateDeadline::Continue(epochs),
                Err(limit) => {
                    guest.out_of_time = Some(limit);
                    UpdateDeadline::Interrupt
                }
            })
        });
        Self::begin(&mut store, limits.start_deadline);
        store
    }

    /// Right before a call that may use so much processor time. The clock is not read here: most calls end before the
    /// next epoch, and a look at the thread's clock is a call of the system.
    pub(super) fn begin(store: &mut Store<Self>, deadline: Duration) {
        store.data_mut().deadline = Deadline::new(deadline);
        store.set_epoch_deadline(1);
    }

    /// The limit that ended the last call, if one did.
    pub(super) fn out_of_time(&self) -> Option<OutOfTime> {
        self.out_of_time
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

/// The limits decide; what they allow is counted.
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
