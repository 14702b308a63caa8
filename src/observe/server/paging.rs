//! How many entries of a stream are read at once.
//!
//! What holds: pages grow while entries are small, and shrink when they are large. So a stream into which somebody has
//! written megabytes takes few requests that must be given up and made again with one entry (`tickhound_redis`).

/// The entries of the first page, when nothing is known of their size.
const FIRST: usize = 64;

/// The most entries of a page.
const MOST: usize = 1000;

/// A page grows at most by this factor.
const GROWTH: usize = 4;

/// What a page should have at most, bytes: a thousand entries of ordinary size have less than one MiB.
const BYTES: usize = 8 << 20;

/// The size of the next page.
pub(super) struct PageSize(usize);

impl PageSize {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// The number of entries to ask for.
    pub(super) fn count(&self) -> usize {
        self.0
    }

    /// Notes what the last page had, and how many entries were asked for in the end.
    pub(super) fn adapt(&mut self, asked: usize, entries: usize, bytes: usize) {
        let of_one = bytes / entries.max(1);
        let most = MOST.min(asked.saturating_mul(GROWTH));
        self.0 = (BYTES / of_one.max(1)).clamp(1, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_the_size_of_entries() {
        let mut size = PageSize::new();
        let mut counts = Vec::new();
        for of_one in [200, 200, 200, 4 << 20, 70 << 20, 200, 0] {
            counts.push(size.count());
            size.adapt(size.count(), size.count(), size.count() * of_one);
        }
        assert_eq!(counts, [64, 256, 1000, 1000, 2, 1, 4]);
        size.adapt(16, 0, 0);
        assert_eq!(size.count(), 64, "an empty page says nothing against a larger one");
        size.adapt(1, 1, 200);
        assert_eq!(size.count(), 4, "a page that was given up is followed by small ones");
    }
}
