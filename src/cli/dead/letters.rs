//! How dead letters are read and selected.

use tickhound_redis::Letter;

/// Letters in one round trip. A letter may be large, and a page of them is in memory.
pub(super) const PAGE: usize = 100;

/// Whether `letter` matches the detector and the reason, where they are given.
pub(super) fn matches(letter: &Letter, detector: Option<&str>, reason: Option<&str>) -> bool {
    let contains = |text: &str| letter.field("reason").unwrap_or("").to_lowercase().contains(&text.to_lowercase());
    detector.is_none_or(|name| letter.field("detector") == Some(name)) && reason.is_none_or(contains)
}
