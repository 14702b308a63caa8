//! What must hold of the states that a guest saves: whose they are, and how large.
//!
//! What holds: what is checked here needs no check in a later stage.

use rustc_hash::FxHashSet;

use super::{fault::Fault, guest::Limits};

/// Checks saved states against the contract: each is of another one of the symbols and groups `asked` for, and within its size.
///
/// # Errors
/// Returns the fault of the guest.
pub(super) fn check_states(
    states: Vec<(u32, Vec<u8>)>,
    asked: &[u32],
    limits: Limits,
) -> Result<Vec<(u32, Vec<u8>)>, Fault> {
    let mut unanswered: FxHashSet<u32> = asked.iter().copied().collect();
    for (symbol, state) in &states {
        if !unanswered.remove(symbol) {
            return Err(Fault::Contract(format!("saved symbol {symbol} twice, or without being asked")));
        }
        if state.len() > limits.state_max_bytes {
            return Err(Fault::Contract(format!(
                "its state of symbol {symbol} has {} bytes, more than {} KiB (plugins.state_max_kib)",
                state.len(),
                limits.state_max_bytes >> 10
            )));
        }
    }
    Ok(states)
}

/// The sizes of the states that a guest has saved last, or was given.
#[derive(Debug, Default)]
pub(super) struct StateSizes {
    by_symbol: Vec<usize>,
    total: usize,
}

impl StateSizes {
    /// Notes the size of a symbol's state.
    pub(super) fn note(&mut self, symbol: u32, bytes: usize) {
        let id = symbol as usize;
        self.by_symbol.resize(self.by_symbol.len().max(id + 1), 0);
        self.total = self.total - self.by_symbol[id] + bytes;
        self.by_symbol[id] = bytes;
    }

    /// Checks the size of all states together. Their limit is that of the guest's memory: a detector has its states in
    /// memory, so whoever saves more than fits there has made it up.
    ///
    /// # Errors
    /// Returns the fault of the guest.
    pub(super) fn check(&self, limits: Limits) -> Result<(), Fault> {
        if self.total <= limits.memory_max_bytes {
            return Ok(());
        }
        let mib = limits.memory_max_bytes >> 20;
        Err(Fault::Contract(format!("its states together are larger than its {mib} MiB (plugins.memory_max_mib)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickhound_core::config::PluginsConfig;

    fn limits() -> Limits {
        Limits::of(&PluginsConfig { memory_max_mib: 1, state_max_kib: 512, ..PluginsConfig::default() })
    }

    #[test]
    fn a_state_is_of_a_symbol_that_was_asked_for_and_within_its_size() {
        let state = |symbol, bytes| (symbol, vec![0; bytes]);
        let fault = |states| check_states(states, &[1, 2], limits()).map_err(|fault| fault.to_string());
        assert_eq!(fault(vec![state(2, 1), state(1, 512 << 10)]).map(|states| states.len()), Ok(2));
        for (states, expected) in [
            (vec![state(3, 1)], "saved symbol 3 twice, or without being asked"),
            (vec![state(1, 1), state(1, 1)], "saved symbol 1 twice, or without being asked"),
            (vec![state(1, (512 << 10) + 1)], "more than 512 KiB (plugins.state_max_kib)"),
        ] {
            assert!(fault(states).unwrap_err().contains(expected));
        }
    }

    #[test]
    fn all_states_together_are_no_larger_than_the_guests_memory() {
        let mut sizes = StateSizes::default();
        (0..2).for_each(|symbol| sizes.note(symbol, 512 << 10));
        assert_eq!(sizes.check(limits()), Ok(()));
        sizes.note(7, 1);
        assert!(sizes.check(limits()).unwrap_err().to_string().contains("its 1 MiB (plugins.memory_max_mib)"));
        sizes.note(0, 0);
        assert_eq!(sizes.check(limits()), Ok(()));
    }
}
