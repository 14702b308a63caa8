//! What is remembered, in and out: the state of each symbol, as of an entry of the stream.
//!
//! Symbols fall into [`CHUNKS`] by their names. A *visit* saves the symbols of some chunks, those
//! that changed, between two batches; visit by visit all chunks have their turn, so that no visit is
//! long, however much there is to remember. Each chunk has a [`Boundary`]: its states are as of that
//! entry. To go on, a host restores each chunk when it has come to its boundary, and re-reads what
//! lies after the oldest one.
//!
//! What holds: the states of a symbol change only with ticks, so chunks may be of different ages;
//! nothing in a saved state depends on shards, so another worker count can restore it.

mod pace;

use std::io;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::CParameter,
};

pub use self::pace::Pace;
use crate::{event::EntryId, stream::Clock};

/// Enough that a chunk of 10,000 symbols is a matter of a millisecond, few enough to be listed.
pub const CHUNKS: u16 = 256;

/// The fastest level: states are mostly floats, which slower ones hardly make smaller.
const COMPRESSION: i32 = 1;

/// Form of a packed state.
const FORM: u8 = 1;

/// Form, time of the last tick, length when unpacked.
const HEADER: usize = 1 + 8 + 4;

/// More than any sane state of a symbol; guards against a length that is garbage.
const UNPACKED_MAX: usize = 256 << 20;

/// Symbols without a tick for this long are not restored: options expire, and nothing may grow for ever.
const FORGET_AFTER_NS: u64 = 30 * 86_400 * 1_000_000_000;

/// The chunk of a symbol: the same in every release, on every machine.
pub fn chunk_of(symbol: &str) -> u16 {
    u16::from(Sha256::digest(symbol)[0])
}

/// As of when a chunk's states are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    /// The newest entry that they know of.
    pub newest: EntryId,
    /// Entries worked up to there, those without a body left out.
    pub worked: u64,
    /// Event time there.
    pub clock: Clock,
    /// When they were saved, ms since the Unix epoch, by the owner's clock.
    pub at_ms: u64,
}

/// How the last visit to a chunk shows in what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastVisit {
    /// There was none.
    Never,
    /// The states of the chunk are as of this boundary.
    At(Boundary),
    /// There was one, and nobody knows any more where: the states of the chunk have no place in the stream.
    Damaged,
}

/// Everything that is kept of a partition's symbols.
#[derive(Debug, Default)]
pub struct Saved {
    /// The last visit to each chunk.
    pub visits: Vec<LastVisit>,
    /// Name and packed state.
    pub symbols: Vec<(String, Vec<u8>)>,
    /// Entries that must not be worked again.
    pub poison: Vec<EntryId>,
}

/// What a visit saves.
#[derive(Debug, Default)]
pub struct Visit {
    /// Its chunks.
    pub chunks: std::ops::Range<u16>,
    /// Name and packed state of each symbol that has changed.
    pub symbols: Vec<(std::sync::Arc<str>, std::sync::Arc<[u8]>)>,
    /// Symbols that are kept no more.
    pub forgotten: Vec<String>,
    /// Poisonous entries that nobody can read again.
    pub passed: Vec<EntryId>,
    /// Detectors whose states are all saved, with what must be the same to read them.
    pub complete: Vec<(String, u64)>,
    /// What each detector is, that its states were made by: [`crate::plugin::DetectorSpec::fingerprint`].
    pub made_by: Vec<(String, u64)>,
}

/// All that is remembered of one symbol.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SymbolState {
    /// The normalizer's part.
    #[serde(with = "serde_bytes")]
    pub normalizer: Vec<u8>,
    /// What each detector remembers.
    pub detectors: Vec<DetectorState>,
}

/// What one detector remembers of a symbol.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorState {
    /// Name of the detector.
    pub detector: String,
    /// Hash of what must be the same to read it: plugin, state version, parameters.
    pub schema: u64,
    /// In the plugin's own encoding.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Event time of the last alert in each direction, ns; 0 when there was none. The host's own.
    #[serde(default)]
    pub alerted: [u64; 3],
}

/// Packs and unpacks states; keeps the compressor's tables.
pub struct Packer {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

impl Packer {
    /// With the fastest compression.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(COMPRESSION)?;
        // Garbage must not pass for a state.
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { compressor, decompressor: Decompressor::new()? })
    }

    /// Packs the state of a symbol whose last tick was at `time`, ns.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn pack(&mut self, time: u64, state: &SymbolState) -> Result<Vec<u8>> {
        let plain = rmp_serde::to_vec(state)?;
        let mut packed = vec![FORM];
        packed.extend(time.to_le_bytes());
        packed.extend(u32::try_from(plain.len())?.to_le_bytes());
        packed.extend(self.compressor.compress(&plain)?);
        Ok(packed)
    }

    /// What [`Packer::pack`] was given.
    ///
    /// # Errors
    /// When these bytes are not what it returned.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<SymbolState> {
        let (header, compressed) = packed.split_at_checked(HEADER).context("it is cut off")?;
        ensure!(header[0] == FORM, "it is of form {}, this release reads {FORM}", header[0]);
        let length = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        ensure!(length <= UNPACKED_MAX, "it claims a length of {length} bytes");
        let plain = self.decompressor.decompress(compressed, length).context("it is damaged")?;
        ensure!(plain.len() == length, "it is damaged: {} bytes instead of {length}", plain.len());
        rmp_serde::from_slice(&plain).context("it is no state of a symbol")
    }
}

/// The form of a packed state, if a later release packed it. Forms are counted by ones, so that a large number is no
/// form but damage.
pub fn is_of_a_newer_form(packed: &[u8]) -> Option<u32> {
    packed.first().filter(|form| (FORM + 1..FORM + 16).contains(form)).map(|form| u32::from(*form))
}

/// Whether the last tick of a packed state is so old at `now` (both event time, ns) that it is not worth keeping.
pub fn is_forgotten(packed: &[u8], now: u64) -> bool {
    let time = packed.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    time.saturating_add(FORGET_AFTER_NS) < now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SymbolState {
        let detector =
            DetectorState { detector: "breakout".into(), schema: u64::MAX, bytes: vec![7; 5000], alerted: [1, 2, 3] };
        SymbolState { normalizer: vec![1, 2, 3], detectors: vec![detector] }
    }

    #[test]
    fn a_state_comes_out_as_it_went_in_and_smaller() {
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(5, &state()).unwrap();
        assert!(packed.len() < 200, "{} bytes", packed.len());
        assert_eq!(packer.unpack(&packed).unwrap(), state());
    }

    #[test]
    fn whatever_is_damaged_is_refused() {
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(5, &state()).unwrap();
        for length in 0..packed.len() {
            assert!(packer.unpack(&packed[..length]).is_err(), "cut off at {length}");
        }
        // All but the time, which is not needed to read the rest.
        for at in (0..packed.len()).filter(|at| !(1..9).contains(at)) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x41;
            assert!(packer.unpack(&damaged).is_err(), "damaged at {at}");
        }
    }

    #[test]
    fn a_symbol_without_ticks_for_a_month_is_forgotten() {
        let mut packer = Packer::new().unwrap();
        let day = 86_400_000_000_000;
        let packed = packer.pack(100 * day, &state()).unwrap();
        assert!(!is_forgotten(&packed, 130 * day));
        assert!(is_forgotten(&packed, 131 * day));
        // Whatever time damaged bytes claim: found by fuzzing, which made a sum of it that went round.
        assert!(!is_forgotten(&[0xff; 13], 131 * day));
    }

    #[test]
    fn chunks_are_the_same_for_ever() {
        assert_eq!(["NIFTY25NOV25750PE", "ICICIBANK25NOVFUT", ""].map(chunk_of), [139, 81, 227]);
    }
}
