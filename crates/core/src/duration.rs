//! Durations as people read them.

use std::time::Duration;

/// Formats a duration with the precision that a person needs: `4.2s`, `12m 05s`, `3h 40m`, `2d 5h`.
pub fn human_duration(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..100 => format!("{:.1}s", duration.as_millis() as f64 / 1000.0),
        100..6000 => format!("{}m {:02}s", s / 60, s % 60),
        6000..172_800 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {}h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_grows_with_the_duration() {
        let cases = [
            (Duration::ZERO, "0.0s"),
            (Duration::from_millis(4_249), "4.2s"),
            (Duration::from_secs(725), "12m 05s"),
            (Duration::from_secs(13_200), "3h 40m"),
            (Duration::from_secs(2 * 86_400 + 5 * 3600 + 59), "2d 5h"),
        ];
        for (duration, expected) in cases {
            assert_eq!(human_duration(duration), expected);
        }
    }
}
