//! Traded volume that makes sense, of feeds that publish it per tick, per session, or without saying which.
//!
//! What holds: a quantity is what the count grew by since the symbol's previous
//! tick with a count, never the count itself; a fall of the count makes no
//! quantity. Of a feed that counts, a published quantity is used for a session's
//! first tick only: between two snapshots there may be more trades than the last one.

use serde::{Deserialize, Serialize};

use crate::config::input::VolumeKind;

/// After a pause this long, a count that begins again low is a new one.
const RESET_PAUSE_NS: u64 = 30 * 60 * 1_000_000_000;

/// ... low being this share of the count before.
const RESET_SHARE: f64 = 0.1;

/// So many ticks on end below the highest count, and the highest was the wrong one: yesterday's, or a
/// garbled number. In recorded feeds, falls that mean nothing last a single tick.
const FALL_TICKS: u8 = 100;

/// Changes of a symbol's `volume` after which it is known to be a count or not. Not ticks: a value that
/// stays the same tells nothing.
const SAMPLE_CHANGES: u8 = 50;

/// Falls among them that a count may show: real feeds have about one in a hundred, while per-tick
/// volumes fall about every other time.
const SAMPLE_FALLS: u8 = 10;

/// A row's volumes; NaN where absent.
pub(super) struct VolumeRow {
    pub(super) quantity: f64,
    pub(super) cum_volume: f64,
    /// Either of the two, by its name alone.
    pub(super) unclear: f64,
}

/// What is remembered of a symbol's volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Volume {
    /// Highest count of the session.
    highest: Option<f64>,
    /// Ticks on end that were below it.
    below: u8,
    sample: Sample,
}

/// How the unclear volume has behaved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sample {
    changes: u8,
    falls: u8,
    last: f64,
}

impl Volume {
    /// Fills in quantity and count from whichever of them the feed has; whether a fall was not believed.
    pub(super) fn settle(
        &mut self,
        kind: VolumeKind,
        row: &mut VolumeRow,
        new_session: bool,
        since_last_ns: u64,
    ) -> bool {
        if row.cum_volume.is_nan() && !row.unclear.is_nan() {
            match self.sample.judge(kind, row.unclear) {
                Some(VolumeKind::Cumulative) => row.cum_volume = row.unclear,
                Some(_) if row.quantity.is_nan() => row.quantity = row.unclear,
                _ => {}
            }
        }
        if new_session {
            (self.highest, self.below) = (None, 0);
        }
        let published = row.cum_volume;
        // Zero is what publishers write for "unknown" and for an index: the count after it would be
        // taken for one trade of that size.
        if published.is_nan() || published == 0.0 {
            row.cum_volume = f64::NAN;
            if self.highest.is_some() {
                // Its trades are in the next count.
                row.quantity = f64::NAN;
            }
            return false;
        }
        let Some(highest) = self.highest else {
            self.highest = Some(published);
            return false;
        };
        if published >= highest {
            row.quantity = published - highest;
            (self.highest, self.below) = (Some(published), 0);
            return false;
        }
        self.below += 1;
        let restarted = since_last_ns >= RESET_PAUSE_NS && published < highest * RESET_SHARE;
        if restarted || self.below >= FALL_TICKS {
            row.quantity = f64::NAN;
            (self.highest, self.below) = (Some(published), 0);
            return false;
        }
        row.quantity = 0.0;
        row.cum_volume = highest;
        true
    }
}

impl Sample {
    /// What the unclear volume is; `None` while that is not known.
    fn judge(&mut self, kind: VolumeKind, volume: f64) -> Option<VolumeKind> {
        if kind != VolumeKind::Auto {
            return Some(kind);
        }
        if self.changes >= SAMPLE_CHANGES {
            return Some(if self.falls <= SAMPLE_FALLS { VolumeKind::Cumulative } else { VolumeKind::PerTick });
        }
        self.changes += u8::from(volume != self.last);
        self.falls += u8::from(volume < self.last);
        self.last = volume;
        None
    }
}
