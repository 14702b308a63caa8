//! The store that a guest runs in, and its limits there.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline, bail};

use super::{
    call::Call,
    deadline::{Deadline, Overrun, processor_time},
};
use tickhound_core::config::PluginsConfig;

/// The number of rows or symbols that one call deadline allows for. Larger calls get proportionally more time.
const ITEMS_PER_DEADLINE: usize = 1000;

/// The limits of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The maximum size of all linear memories and tables together, bytes.
    pub memory_max_bytes: usize,
    /// The maximum size of the saved state of one symbol, bytes.
    pub state_max_bytes: usize,
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
            state_max_bytes: config.state_max_kib << 10,
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
pub(super) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The size of an element of a table, bytes: a pointer.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// The maximum number of core instances in one component: its modules and the adapters around them. A Python interpreter
/// has about forty.
const CORE_INSTANCES_MAX: usize = 256;

/// The maximum number of linear memories in one component. A program has one, and so has each of a few that are linked
/// together. Even an empty one takes four GiB of addresses.
const MEMORIES_MAX: usize = 16;

/// The maximum number of tables in one component: one for each module, and one for each adapter.
const TABLES_MAX: usize = 64;

/// The data in a guest's store: its limits, and how much of them is used.
pub(super) struct Guest {
    limits: Limits,
    /// The size of all linear memories, bytes.
    memory_bytes: usize,
    /// The size of all tables, bytes.
    table_bytes: usize,
    /// The reason why a guest got no more memory. The instance is never called again after that.
    shortage: Option<Shortage>,
    /// The current or last call.
    call: Call,
    /// The deadline of the current or last call.
    deadline: Deadline,
    /// The time limit that ended a call. The instance is never called again after that.
    overrun: Option<Overrun>,
}

/// A limit on memory that a guest wanted to exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The limit of all memories and tables together, `plugins.memory_max_mib`.
    Total,
    /// The limit that the guest itself has declared for this memory or table.
    Declared,
    /// The limit of a table.
    Table,
}

impl Guest {
    /// Returns a store for an instance that is about to start.
    pub(super) fn store(engine: &Engine, limits: Limits) -> Store<Self> {
        let guest = Self {
            limits,
            memory_bytes: 0,
            table_bytes: 0,
            shortage: None,
            call: Call::Describe,
            deadline: Deadline::new(limits.start_deadline),
            overrun: None,
        };
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
        Self::begin(&mut store, Call::Describe, limits.start_deadline);
        store
    }

    /// Sets the limits of the call that follows. The thread's clock is not read here, since that is a system call, and
    /// most calls end before the next epoch.
    pub(super) fn begin(store: &mut Store<Self>, call: Call, deadline: Duration) {
        Self::expect(store, call);
        store.data_mut().deadline = Deadline::new(deadline);
        store.set_epoch_deadline(1);
    }

    /// Sets the limit on what the call that follows returns. It has the rest of the time of the call before.
    pub(super) fn expect(store: &mut Store<Self>, call: Call) {
        let guest = store.data_mut();
        guest.call = call;
        let bytes_max = call.bytes_max(guest.limits.state_max_bytes);
        store.set_hostcall_fuel(bytes_max);
    }

    /// Returns the current or last call.
    pub(super) fn call(&self) -> Call {
        self.call
    }

    /// Returns the limit on memory that the guest wanted to exceed, if it did.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.shortage
    }

    /// Returns the time limit that ended the last call, if one did.
    pub(super) fn overrun(&self) -> Option<Overrun> {
        self.overrun
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Returns why memories and tables may not grow to this size together, if they may not.
    fn total_shortage(&self, memory_bytes: usize, table_bytes: usize) -> Option<Shortage> {
        let total = memory_bytes.saturating_add(table_bytes);
        (total > self.limits.memory_max_bytes).then_some(Shortage::Total)
    }

    /// Ends the call if there is a shortage. The WebAssembly standard would tell the guest instead, but few guests ask.
    fn grow(&mut self, shortage: Option<Shortage>) -> wasmtime::Result<bool> {
        self.shortage = shortage;
        match shortage {
            Some(shortage) => bail!("a memory or table can't grow: {shortage:?}"),
            None => Ok(true),
        }
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        let memory_bytes = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        let declared = most.is_some_and(|most| desired > most).then_some(Shortage::Declared);
        self.grow(declared.or(self.total_shortage(memory_bytes, self.table_bytes)))?;
        self.memory_bytes = memory_bytes;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, most: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        let table_bytes = self.table_bytes.saturating_sub(bytes(current)).saturating_add(bytes(desired));
        let declared = most.is_some_and(|most| desired > most).then_some(Shortage::Declared);
        let too_large = (desired > TABLE_ELEMENTS_MAX).then_some(Shortage::Table);
        self.grow(declared.or(too_large).or(self.total_shortage(self.memory_bytes, table_bytes)))?;
        self.table_bytes = table_bytes;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
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
