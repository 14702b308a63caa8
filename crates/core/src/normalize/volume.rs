//! Normalizes the traded volume of feeds that publish it per tick, per session, or without saying which.
//!
//! What holds: a quantity is the growth of the cumulative volume since the symbol's previous tick with one, and never that
//! volume itself; a fall gives no quantity. If a feed publishes cumulative volume, a published quantity is only used for
//! the first tick of a session: between two snapshots there may be more trades than the last one.

use serde::{Deserialize, Serialize};

use crate::config::input::VolumeKind;

/// The pause after which a low cumulative volume counts as a restart, ns.
const RESET_PAUSE_NS: u64 = 30 * 60 * 1_000_000_000;

/// The share of the previous cumulative volume below which it is low.
const RESET_SHARE: f64 = 0.1;

/// The number of successive ticks below the highest volume after which the highest is considered wrong: yesterday's, or a
/// damaged number. In recorded feeds, a meaningless fall lasts a single tick.
const FALL_TICKS: u8 = 100;

/// The number of changes of a symbol's `volume` after which its kind is decided. A value that does not change says nothing
/// about it.
const SAMPLE_CHANGES: u8 = 50;

/// The maximum number of falls among them for a cumulative volume: in real feeds about one change in a hundred is a fall,
/// while a per-tick volume falls at about every other change.
const SAMPLE_FALLS: u8 = 10;

/// The volumes of a row; NaN where absent.
pub(super) struct VolumeRow {
    pub(super) quantity: f64,
    pub(super) cum_volume: f64,
    /// A volume whose name does not say which of the two it is.
    pub(super) unclear: f64,
}

/// The state of a symbol's volume. Its fields are stored by position, in checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Volume {
    /// The highest cumulative volume of the session.
    highest: Option<f64>,
    /// The number of successive ticks below the highest volume.
    below: u8,
    sample: Sample,
}

/// How the values of an unclear volume have changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sample {
    changes: u8,
    falls: u8,
    last: f64,
}

impl Volume {
    /// Fills in the quantity and the cumulative volume, from whichever the feed publishes. Returns whether a fall was
    /// ignored.
    pub(super) fn normalize(
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
        // Publishers write zero for "unknown" and for an index. The volume after it would count as one trade of that size.
        if published.is_nan() || published == 0.0 {
            row.cum_volume = f64::NAN;
            if self.highest.is_some() {
                // The next cumulative volume includes the trades of this tick.
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
    /// The kind of an unclear volume; `None` while it is not decided.
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
