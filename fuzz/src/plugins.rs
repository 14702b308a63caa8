//! What a plugin of contract 0.2 returns: packed detections.

#[path = "../../crates/engine/src/plugin/detection.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
pub mod detection;
#[path = "../../crates/engine/src/plugin/introduced.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod introduced;
#[path = "../../crates/engine/src/plugin/packed.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod packed;
#[path = "../../crates/engine/src/plugin/texts.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod texts;

use self::{detection::DetectionCheck, introduced::Introduced, packed::unpack};
use tickhound_core::event::{Batch, CLOCK, TickRow};

/// The ids of the symbols, and those of the groups.
const SYMBOLS: u32 = 4;
const GROUPS: u32 = 6;

/// Checks that any bytes unpack to detections that meet the contract, or to an error.
pub fn detections(bytes: &[u8]) {
    for has_groups in [false, true] {
        let (mut batch, mut introduced) = (Batch::new(0), Introduced::default());
        (0..SYMBOLS).for_each(|symbol| introduced.add_symbol(symbol));
        (SYMBOLS..GROUPS).for_each(|group| introduced.add_group(group));
        for symbol in 0..3 {
            batch.push(TickRow { entry: 0, symbol, time: 1, price: 1.0, columns: &[] });
            batch.group.push(SYMBOLS + symbol % 2);
        }
        batch.push_clock(1, 1_000_000_000);
        batch.group.push(CLOCK);
        let mut check = DetectionCheck::new(&batch, &introduced, has_groups);
        let Ok(detections) = unpack(bytes, |detection| check.accept(detection)) else { continue };
        assert!(detections.is_sorted_by_key(|detection| detection.row), "rows never decrease");
        for detection in detections {
            let row = detection.row as usize;
            let owner = if has_groups { batch.group[row] } else { batch.symbol[row] };
            let owners = if has_groups { SYMBOLS..GROUPS } else { 0..SYMBOLS };
            assert!(owners.contains(&detection.owner) && (owner == CLOCK || owner == detection.owner));
            assert!(detection.about == detection.owner || has_groups && detection.about < SYMBOLS);
            assert!(detection.members.iter().all(|member| has_groups && *member < SYMBOLS));
            assert!((0.0..=1.0).contains(&detection.confidence));
            assert!(detection.evidence.iter().all(|(name, value)| !name.is_empty() && value.is_finite()));
        }
    }
}
