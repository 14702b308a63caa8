//! Clocks on the wall that jump, of one process each, by libfaketime.
//!
//! The clock that waits go by stays right: it is about what a process believes the time to be.

use std::{fs, path::PathBuf};

use crate::support::faketime;

/// By how much a clock may be off.
pub const OFFSETS: [&str; 6] = ["+0", "+2d", "-1h", "+45s", "-20s", "+0"];

/// A clock that can be set while its process runs.
pub struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right until it is set.
    pub fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set("+0");
        clock
    }

    /// What the environment of its process must have.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            // With the C library's allocator: jemalloc, which Redis has, asks for the time before libfaketime can tell it.
            ("LD_PRELOAD", format!("{} libc.so.6", faketime().display())),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // The file is looked at once a second.
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DISABLE_SHM", "1".into()),
        ]
    }

    pub fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}
