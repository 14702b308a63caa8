//! What a detector names when it is probed, against what it finds.

use tickhound_sdk::{
    Detector,
    harness::{Harness, Row},
};

/// Checks that all gates of a row held where something was found, and nowhere else. Returns how often that was.
pub fn agree_with_detections<D: Detector>(harness: impl Fn() -> Harness<D>, rows: &[Row]) -> usize {
    let found = harness().build().feed(rows.iter().cloned());
    let found: Vec<(u64, String)> = found.into_iter().map(|found| (found.time, found.symbol)).collect();
    let judged = harness().build().probe(rows.iter().cloned());
    assert!(judged.iter().all(|judged| !judged.gates.is_empty()), "a row without a gate is not listed");
    let passed = judged.into_iter().filter(|judged| judged.gates.iter().all(|gate| gate.holds));
    let passed: Vec<(u64, String)> = passed.map(|judged| (judged.time, judged.owner)).collect();
    assert_eq!(found, passed);
    found.len()
}
