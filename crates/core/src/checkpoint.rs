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

use std::io;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::CParameter,
};

use crate::event::{Clock, EntryId};

/// Enough that a chunk of 10,000 symbols is a matter of a millisecond, few enough to be listed.
pub const CHUNKS: u16 = 256;

/// The fastest level: states are mostly floats, which slower ones hardly make smaller.
const COMPRESSION: i32 = 1;

/// The form of a packed state before its header told the arrival: form, event time of the last tick, length when
/// unpacked. It is read, and never written.
const EVENT_TIME_FORM: u8 = 1;
const EVENT_TIME_HEADER: usize = 1 + 8 + 4;

/// The form of all that this release saves. Of a packed state: form, arrival of the last tick, length when unpacked, and a
/// checksum of all these.
pub const FORM: u8 = 2;
const HEADER: usize = 1 + 8 + 4 + 4;

/// Where the header's checksum begins.
const CHECKED: usize = HEADER - 4;

/// More than any sane state of a symbol; guards against a length that is garbage.
const UNPACKED_MAX: usize = 256 << 20;

/// Symbols without a tick for this long are not restored: options expire, and nothing may grow for ever.
const FORGET_AFTER_MS: u64 = 30 * 86_400 * 1000;

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
pub struct SavedStates {
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
    /// What each detector is, that its states were made by: [`tickhound_engine::plugin::DetectorSpec::fingerprint`].
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
    /// The same of another alert, where event time has gone back.
    #[serde(default)]
    pub alerted_apart: [u64; 3],
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

    /// Packs the state of a symbol whose last tick arrived at `arrived_ms`, ms of an entry's id.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn pack(&mut self, arrived_ms: u64, state: &SymbolState) -> Result<Vec<u8>> {
        let plain = rmp_serde::to_vec(state)?;
        let mut packed = vec![FORM];
        packed.extend(arrived_ms.to_le_bytes());
        packed.extend(u32::try_from(plain.len())?.to_le_bytes());
        packed.extend(checksum(&packed));
        packed.extend(self.compressor.compress(&plain)?);
        Ok(packed)
    }

    /// What [`Packer::pack`] was given.
    ///
    /// # Errors
    /// When these bytes are not what it, or an older release, returned.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<SymbolState> {
        let form = *packed.first().context("it is empty")?;
        let header = match form {
            EVENT_TIME_FORM => EVENT_TIME_HEADER,
            FORM => HEADER,
            newer => bail!("it is of form {newer}, this release reads up to {FORM}"),
        };
        let (header, compressed) = packed.split_at_checked(header).context("it is cut off")?;
        ensure!(form == EVENT_TIME_FORM || is_sound(header), "its header is damaged");
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

/// When the last tick of a packed state arrived, ms of an entry's id; `None` if an older release packed it, which
/// did not say so, or if its header can't be believed.
pub fn arrived_ms(packed: &[u8]) -> Option<u64> {
    let header = packed.get(..HEADER).filter(|header| header[0] == FORM && is_sound(header))?;
    Some(u64::from_le_bytes(header[1..9].try_into().ok()?))
}

/// Whether the last tick of a packed state arrived so long before `newest_ms`, when the newest entry did, that it is
/// not worth keeping. Arrival and not event time decides: a feed may bring an old day after a tick of today, and
/// each symbol of that day would be forgotten at once.
pub fn is_forgotten(packed: &[u8], newest_ms: u64) -> bool {
    // A sum could overflow if bytes are hostile; a difference can't.
    arrived_ms(packed).is_some_and(|arrived| newest_ms.saturating_sub(arrived) > FORGET_AFTER_MS)
}

fn is_sound(header: &[u8]) -> bool {
    header[CHECKED..] == checksum(&header[..CHECKED])
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(bytes);
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> SymbolState {
        let (alerted, alerted_apart) = ([1, 2, 3], [0, 4, 0]);
        let bytes = vec![7; 5000];
        let detector = DetectorState { detector: "breakout".into(), schema: u64::MAX, bytes, alerted, alerted_apart };
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
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x41;
            assert!(packer.unpack(&damaged).is_err(), "damaged at {at}");
        }
    }

    #[test]
    fn a_symbol_is_forgotten_a_month_after_its_last_tick_arrived() {
        let mut packer = Packer::new().unwrap();
        let day = 86_400_000;
        let packed = packer.pack(100 * day, &state()).unwrap();
        assert_eq!(arrived_ms(&packed), Some(100 * day));
        assert!(!is_forgotten(&packed, 130 * day));
        assert!(is_forgotten(&packed, 130 * day + 1));
        assert!(!is_forgotten(&packed, 5), "a server that has gone back");
        assert!(is_forgotten(&packed, u64::MAX) && !is_forgotten(&packer.pack(u64::MAX, &state()).unwrap(), u64::MAX));
        // A damaged time is no reason to forget: that the state can't be read is said when it is restored.
        let mut damaged = packed;
        damaged[3] ^= 1;
        assert!(!is_forgotten(&damaged, u64::MAX) && !is_forgotten(&[0xff; 17], u64::MAX));
    }

    #[test]
    fn what_an_older_release_packed_is_read_and_not_forgotten() {
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(5, &state()).unwrap();
        // Form 1: event time where the arrival is now, and no checksum of the header.
        let mut older = [&[EVENT_TIME_FORM], &7u64.to_le_bytes()[..], &packed[9..13], &packed[HEADER..]].concat();
        assert_eq!(packer.unpack(&older).unwrap(), state());
        assert_eq!(arrived_ms(&older), None);
        assert!(!is_forgotten(&older, u64::MAX));
        older[0] = FORM + 1;
        let error = packer.unpack(&older).unwrap_err().to_string();
        assert_eq!(error, "it is of form 3, this release reads up to 2");
    }

    #[test]
    fn chunks_are_the_same_for_ever() {
        assert_eq!(["NIFTY25NOV25750PE", "ICICIBANK25NOVFUT", ""].map(chunk_of), [139, 81, 227]);
    }
}
