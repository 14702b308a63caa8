//! The form of saved states: the state of each symbol, as of an entry of the stream.
//!
//! Symbols are divided into [`CHUNKS`] by their names. Between two batches, a *visit* saves the changed symbols of some
//! chunks. Successive visits cover all chunks, so that no visit takes long, however much state there is. Each chunk has
//! a [`Boundary`]: the entry that its states are as of. A host that recovers replays the stream from the oldest
//! boundary on, and restores each chunk when the replay reaches the boundary of that chunk.
//!
//! What holds: the state of a symbol changes only with its ticks, so chunks may be of different ages. No saved state
//! depends on shards, so a host with another number of workers can restore it.

mod bases;

use std::io;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::{
    bulk::{Compressor, Decompressor},
    zstd_safe::CParameter,
};

pub use self::bases::{SharedBase, SharedBases, SharedContext};
use crate::event::{Clock, EntryId};

/// The number of chunks: enough that saving one chunk of 10,000 symbols takes about a millisecond, and few enough to
/// list all boundaries.
pub const CHUNKS: u16 = 256;

/// The fastest level of compression: states are mostly floats, which slower levels hardly compress better.
const COMPRESSION: i32 = 1;

/// The older form of a packed state, which is read and never written.
const EVENT_TIME_FORM: u8 = 1;
/// The length of its header: form, event time of the last tick, length of the unpacked state.
const EVENT_TIME_HEADER: usize = 1 + 8 + 4;

/// The form of everything that this release saves.
pub const FORM: u8 = 2;
/// The length of the header of a packed state: form, arrival of the last tick, length of the unpacked state, and a
/// checksum of these.
const HEADER: usize = 1 + 8 + 4 + 4;

/// The position of the header's checksum.
const CHECKED: usize = HEADER - 4;

/// The maximum length of an unpacked state, bytes. It is far above that of any real state, and protects against a
/// damaged length.
const UNPACKED_MAX: usize = 256 << 20;

/// The time without a tick after which a symbol is not restored, ms: options expire, and the saved states must not grow
/// forever.
const FORGET_AFTER_MS: u64 = 30 * 86_400 * 1000;

/// The chunk of a symbol, which is the same in every release and on every machine.
pub fn chunk_of(symbol: &str) -> u16 {
    u16::from(Sha256::digest(symbol)[0])
}

/// The position in the stream that the states of a chunk are as of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boundary {
    /// The newest entry that the states include.
    pub newest: EntryId,
    /// The number of entries processed up to there, without those that were trimmed.
    pub processed: u64,
    /// The event time there.
    pub clock: Clock,
    /// When the states were saved, ms since the Unix epoch, by the owner's clock.
    pub at_ms: u64,
}

/// The last visit to a chunk, as read from the saved states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastVisit {
    /// There was no visit.
    Never,
    /// The states of the chunk are as of this boundary.
    At(Boundary),
    /// The boundary is damaged, so the chunk's states have no known position in the stream.
    Damaged,
}

/// All saved states of a partition.
#[derive(Debug, Default)]
pub struct SavedStates {
    /// The last visit to each chunk.
    pub visits: Vec<LastVisit>,
    /// The name and the packed state of each symbol.
    pub symbols: Vec<(String, Vec<u8>)>,
    /// Entries that a replay must skip.
    pub poison: Vec<EntryId>,
    /// Symbols with the venue that they come from, as of the boundary of their chunk.
    pub venues: Vec<(String, String)>,
    /// When the owner before committed the last tick, ms since the Unix epoch; `None` if that is not known.
    pub last_tick_ms: Option<u64>,
    /// What the owners of a visit depend on, by the names of the fields; packed by [`Packer::pack_bases`].
    pub bases: Vec<(BasesField, Vec<u8>)>,
}

/// The name of a field with [`SharedBases`]: the visit that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasesField {
    /// The newest entry of the visit's boundary.
    pub newest: EntryId,
    /// The chunks of the visit.
    pub chunks: std::ops::Range<u16>,
}

/// The states that a visit saves.
#[derive(Debug, Default)]
pub struct Visit {
    /// The chunks that are visited.
    pub chunks: std::ops::Range<u16>,
    /// The name and the packed state of each symbol that has changed.
    pub symbols: Vec<(std::sync::Arc<str>, std::sync::Arc<[u8]>)>,
    /// Symbols that have got a venue since the last visit, with the venue.
    pub venues: Vec<(std::sync::Arc<str>, std::sync::Arc<str>)>,
    /// Symbols whose saved states are deleted.
    pub forgotten: Vec<String>,
    /// Poisonous entries that no replay will reach any more.
    pub passed: Vec<EntryId>,
    /// The detectors whose states are all saved, with the hash that must be equal to read them.
    pub complete: Vec<(String, u64)>,
    /// The fingerprint of each detector that its states were made by: `DetectorSpec::fingerprint` of the engine.
    pub made_by: Vec<(String, u64)>,
    /// What the visited owners depend on, packed; `None` if they depend on nothing.
    pub bases: Option<(BasesField, Vec<u8>)>,
    /// Fields with bases that no state depends on any more.
    pub obsolete: Vec<BasesField>,
}

/// The state of one symbol or group. Its fields are stored by position, and new ones only if they are not empty, so that an older
/// release reads a state that has none.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SymbolState {
    /// The state of the normalizer; empty for a group.
    #[serde(with = "serde_bytes")]
    pub normalizer: Vec<u8>,
    /// The state of each detector.
    pub detectors: Vec<DetectorState>,
    /// The symbol's bars, last values and computed columns.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<u8>,
}

/// The state of one detector for a symbol.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectorState {
    /// The name of the detector.
    pub detector: String,
    /// The hash that must be equal to read the state: of plugin, state version and parameters.
    pub schema: u64,
    /// The state in the plugin's own encoding.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// The event time of the last alert in each direction, ns; 0 if there was none. The host maintains it.
    #[serde(default)]
    pub alerted: [u64; 3],
    /// The event time of another alert in each direction, if event time went back.
    #[serde(default)]
    pub alerted_apart: [u64; 3],
    /// The alerts about members of a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<AboutMember>,
}

/// The last alerts of a group's detector about one of the members. Its fields are stored by position.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutMember {
    /// The name of the member.
    pub member: String,
    /// The event time of the last alert in each direction, ns; 0 if there was none.
    pub alerted: [u64; 3],
    /// The event time of another alert in each direction, if event time went back.
    pub alerted_apart: [u64; 3],
}

/// Packs and unpacks states. It reuses the tables of the compressor.
pub struct Packer {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

impl Packer {
    /// A packer with the fastest compression.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(COMPRESSION)?;
        // Damaged bytes must not unpack to another state.
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { compressor, decompressor: Decompressor::new()? })
    }

    /// Packs the state of a symbol whose last tick arrived at `arrived_ms`, in ms of an entry's id.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn pack(&mut self, arrived_ms: u64, state: &SymbolState) -> Result<Vec<u8>> {
        self.pack_plain(arrived_ms, &rmp_serde::to_vec(state)?)
    }

    /// Packs what the owners of a visit depend on.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn pack_bases(&mut self, bases: &SharedBases) -> Result<Vec<u8>> {
        self.pack_plain(0, &rmp_serde::to_vec(bases)?)
    }

    /// Unpacks what the owners of a visit depend on.
    ///
    /// # Errors
    /// When the bytes are not what [`Packer::pack_bases`] of this or an older release returned.
    pub fn unpack_bases(&mut self, packed: &[u8]) -> Result<SharedBases> {
        rmp_serde::from_slice(&self.unpack_plain(packed)?).context("they are not bases")
    }

    fn pack_plain(&mut self, arrived_ms: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let mut packed = vec![FORM];
        packed.extend(arrived_ms.to_le_bytes());
        packed.extend(u32::try_from(plain.len())?.to_le_bytes());
        packed.extend(checksum(&packed));
        packed.extend(self.compressor.compress(plain)?);
        Ok(packed)
    }

    /// Unpacks a state.
    ///
    /// # Errors
    /// When the bytes are not what [`Packer::pack`] of this or an older release returned.
    pub fn unpack(&mut self, packed: &[u8]) -> Result<SymbolState> {
        rmp_serde::from_slice(&self.unpack_plain(packed)?).context("it is not the state of a symbol")
    }

    fn unpack_plain(&mut self, packed: &[u8]) -> Result<Vec<u8>> {
        let form = *packed.first().context("it is empty")?;
        let header = match form {
            EVENT_TIME_FORM => EVENT_TIME_HEADER,
            FORM => HEADER,
            newer => bail!("it is of form {newer}, this release reads up to {FORM}"),
        };
        let (header, compressed) = packed.split_at_checked(header).context("it is cut off")?;
        ensure!(form == EVENT_TIME_FORM || is_intact(header), "its header is damaged");
        let length = u32::from_le_bytes([header[9], header[10], header[11], header[12]]) as usize;
        ensure!(length <= UNPACKED_MAX, "it claims a length of {length} bytes");
        let plain = self.decompressor.decompress(compressed, length).context("it is damaged")?;
        ensure!(plain.len() == length, "it is damaged: {} bytes instead of {length}", plain.len());
        Ok(plain)
    }
}

/// The form of a packed state, if a later release packed it. Forms are numbered one by one, so that a large number is
/// not a form but damage.
pub fn newer_form(packed: &[u8]) -> Option<u32> {
    packed.first().filter(|form| (FORM + 1..FORM + 16).contains(form)).map(|form| u32::from(*form))
}

/// When the last tick of a packed state arrived, in ms of an entry's id; `None` if the header is damaged, or of an
/// older release that did not store it.
pub fn arrived_ms(packed: &[u8]) -> Option<u64> {
    let header = packed.get(..HEADER).filter(|header| header[0] == FORM && is_intact(header))?;
    Some(u64::from_le_bytes(header[1..9].try_into().ok()?))
}

/// Whether the last tick of a packed state arrived so long before `newest_ms`, the arrival of the newest entry, that
/// the state is deleted. The arrival decides and not the event time: if a feed replays an old day after a tick of
/// today, each symbol of that day would otherwise be deleted at once.
pub fn is_forgotten(packed: &[u8], newest_ms: u64) -> bool {
    // A sum could overflow if the bytes are hostile; this difference can't.
    arrived_ms(packed).is_some_and(|arrived| newest_ms.saturating_sub(arrived) > FORGET_AFTER_MS)
}

/// Whether the header's checksum is right.
fn is_intact(header: &[u8]) -> bool {
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
        let detector = DetectorState {
            detector: "breakout".into(),
            schema: u64::MAX,
            bytes,
            alerted,
            alerted_apart,
            about: Vec::new(),
        };
        SymbolState { normalizer: vec![1, 2, 3], detectors: vec![detector], series: Vec::new() }
    }

    #[test]
    fn a_state_comes_out_as_it_went_in_and_smaller() {
        let mut packer = Packer::new().unwrap();
        let packed = packer.pack(5, &state()).unwrap();
        assert!(packed.len() < 200, "{} bytes", packed.len());
        assert_eq!(packer.unpack(&packed).unwrap(), state());
    }

    #[test]
    fn damaged_bytes_are_rejected() {
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
        assert!(!is_forgotten(&packed, 5), "a server that fell back to an earlier state");
        assert!(is_forgotten(&packed, u64::MAX) && !is_forgotten(&packer.pack(u64::MAX, &state()).unwrap(), u64::MAX));
        // A state with a damaged time is not forgotten: restoring it reports the damage.
        let mut damaged = packed;
        damaged[3] ^= 1;
        assert!(!is_forgotten(&damaged, u64::MAX) && !is_forgotten(&[0xff; 17], u64::MAX));
    }

    #[test]
    fn a_state_of_an_older_release_is_read_and_not_forgotten() {
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
