//! Saved states on their way back into the shards.

use std::sync::Arc;

use anyhow::Result;

use crate::plugin::GROUP_MARK;
use tickhound_core::{
    checkpoint::{DetectorState, Packer, SymbolState},
    normalize::NormalizerState,
};

/// A symbol with its packed state.
#[derive(Debug)]
pub struct SavedSymbol {
    /// The number of the symbol in this run.
    pub id: u32,
    /// The name of the symbol.
    pub name: Arc<str>,
    /// The state as [`Packer`] packs it.
    pub packed: Vec<u8>,
    /// The arrival of the newest entry that was processed, in milliseconds of its id. It stands in for the arrival of the
    /// symbol's last tick where a state does not have that.
    pub newest_ms: u64,
}

/// A symbol with its unpacked state.
#[derive(Debug)]
pub struct UnpackedSymbol {
    /// What it was unpacked from.
    pub saved: SavedSymbol,
    /// The state, or why it can't be read.
    pub state: Result<RestoredState>,
}

/// The state of a symbol, as it was saved.
#[derive(Debug)]
pub struct RestoredState {
    /// The state of its normalizer; `None` for a group.
    pub normalizer: Option<NormalizerState>,
    /// Its bars, last values and computed columns; empty if there are none.
    pub series: Vec<u8>,
    /// The states of its detectors.
    pub detectors: Vec<DetectorState>,
}

impl SavedSymbol {
    /// Unpacks the state.
    pub fn unpack(self, packer: &mut Packer) -> UnpackedSymbol {
        let state = packer.unpack(&self.packed).and_then(|state| {
            let SymbolState { normalizer, detectors, series } = state;
            let is_group = self.name.starts_with(GROUP_MARK);
            let normalizer = if is_group { None } else { Some(NormalizerState::from_bytes(&normalizer)?) };
            Ok(RestoredState { normalizer, series, detectors })
        });
        UnpackedSymbol { saved: self, state }
    }
}
