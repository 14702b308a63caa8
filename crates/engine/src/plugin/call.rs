//! The calls of a guest, and how many bytes each may return.
//!
//! What holds: the limit is checked before the host allocates. Wasmtime counts the bytes of a result while it copies them,
//! and stops at the limit of the call. The size of the guest's memory is no such limit, since a list may name the same
//! memory a thousand times.

use super::detection::DETECTION_BYTES_PER_OWNER;

/// The maximum size of a manifest, bytes: more than all of its texts have together if each is as long as it may be.
const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// The maximum length of the text with which a guest rejects its parameters or its states, bytes. Messages show the
/// beginning. An author may quote a whole state in it, so what is longer than a message is not yet a fault.
const REJECTION_BYTES_MAX: usize = 64 << 10;

/// The maximum size of the detections of one call, bytes. Only detections about thousands of symbols at clock rows reach it.
/// It is the size of all entries that may be between read and commit.
const DETECTION_BYTES_MAX: usize = 64 << 20;

/// The size of an empty state in a list of states, bytes.
const STATE_BYTES_MIN: usize = 32;

/// A call, with what decides how much it may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The guest describes itself.
    Describe,
    /// The guest accepts its parameters, or rejects them with a text.
    Configure,
    /// The guest is introduced to symbols, and returns nothing.
    Introduce,
    /// The guest processes a batch.
    Detect {
        /// The number of rows.
        rows: usize,
        /// The number of clock rows among them.
        clock_rows: usize,
        /// The number of symbols and groups that the guest knows.
        owners: usize,
    },
    /// The guest processes a batch, and says what it has looked at.
    Probe {
        /// The number of rows.
        rows: usize,
        /// The number of clock rows among them.
        clock_rows: usize,
        /// The number of symbols and groups that the guest knows.
        owners: usize,
    },
    /// The guest saves the states of this many symbols.
    Save(usize),
    /// The guest restores states, or rejects them with a text.
    Restore,
}

impl Call {
    /// Returns the maximum size of the result, bytes, as wasmtime counts: the items of lists with their fields, and the
    /// bytes of texts. `state_max_bytes` is the maximum size of the state of one symbol.
    pub(super) fn bytes_max(self, state_max_bytes: usize) -> usize {
        match self {
            Self::Describe => MANIFEST_BYTES_MAX,
            Self::Configure | Self::Restore => REJECTION_BYTES_MAX,
            Self::Introduce => 0,
            // The gates of a judgment are as many as the numbers of a detection.
            Self::Detect { rows, clock_rows, owners } | Self::Probe { rows, clock_rows, owners } => {
                let owners_at_rows = rows.saturating_add(clock_rows.saturating_mul(owners));
                owners_at_rows.saturating_mul(DETECTION_BYTES_PER_OWNER).min(DETECTION_BYTES_MAX)
            }
            Self::Save(symbols) => symbols.saturating_mul(state_max_bytes + STATE_BYTES_MIN),
        }
    }

    /// Returns what a guest did that wanted to return more.
    pub(super) fn excess(self, state_max_bytes: usize) -> String {
        let kib = self.bytes_max(state_max_bytes).div_ceil(1 << 10);
        match self {
            Self::Describe => format!("its manifest is larger than {kib} KiB"),
            Self::Configure | Self::Introduce => format!("it rejects its parameters with more than {kib} KiB of text"),
            Self::Restore => format!("it rejects a state with more than {kib} KiB of text"),
            Self::Detect { rows, .. } => format!(
                "its detections in {rows} rows are larger than {kib} KiB, {} KiB for each row and symbol",
                DETECTION_BYTES_PER_OWNER >> 10
            ),
            Self::Probe { rows, .. } => format!(
                "what it looked at in {rows} rows is larger than {kib} KiB, {} KiB for each row and state",
                DETECTION_BYTES_PER_OWNER >> 10
            ),
            Self::Save(_) => format!(
                "its states are larger than {} KiB for each symbol (plugins.state_max_kib)",
                state_max_bytes >> 10
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_row_may_return_a_batch_may_return() {
        let call = Call::Detect { rows: 3, clock_rows: 1, owners: 4 };
        assert_eq!(call.bytes_max(256 << 10), (3 + 4) * DETECTION_BYTES_PER_OWNER);
        let huge = Call::Detect { rows: 1_000_000, clock_rows: usize::MAX, owners: usize::MAX >> 12 };
        assert_eq!(huge.bytes_max(256 << 10), DETECTION_BYTES_MAX);
    }
}
