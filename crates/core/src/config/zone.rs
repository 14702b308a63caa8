//! Time zones by their names.

use anyhow::Result;
use jiff::tz::TimeZone;

use crate::nearest::nearest;

/// The time zone with this IANA name.
///
/// # Errors
/// When no zone has this name.
pub fn time_zone(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| {
        let usual = ["Asia/Kolkata", "UTC", "America/New_York", "America/Chicago", "Europe/London", "Asia/Tokyo"];
        let hint = nearest(name, usual.into_iter()).unwrap_or("Asia/Kolkata");
        anyhow::anyhow!("input.timezone: `{name}` is not a time zone, expected an IANA name such as {hint}")
    })
}
