//! Durations and sizes as the doctor prints them.

/// Formats a duration in the largest unit that is still precise enough.
pub(super) fn duration(ms: u64) -> String {
    let s = ms as f64 / 1e3;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{s:.1} s"),
        10_000..600_000 => format!("{s:.0} s"),
        600_000..7_200_000 => format!("{:.0} min", s / 60.0),
        7_200_000..172_800_000 => format!("{:.1} h", s / 3600.0),
        _ => format!("{:.0} days", s / 86_400.0),
    }
}

/// Formats a size in the largest unit that is still precise enough.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
