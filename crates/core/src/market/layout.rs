//! Which values the columns of a batch have, by position.
//!
//! What holds: all batches of a generation have this layout, whatever their view. Positions of columns of the input never
//! depend on what detectors ask for. Columns that nobody asks for are absent or empty.

use super::bars;
use crate::session;

/// The layout of a batch: the columns of the input, those of the session, those of bars, the days to expiry, the contexts by
/// number, and the computed columns by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowLayout {
    /// The number of columns of the input.
    pub input: usize,
    /// The number of contexts.
    pub contexts: usize,
    /// The number of computed columns.
    pub computed: usize,
}

impl RowLayout {
    /// The position of a column of [`session::COLUMNS`].
    pub fn session(&self, column: usize) -> usize {
        self.input + column
    }

    /// The position of a column of [`bars::COLUMNS`]: NaN in rows that are not bars.
    pub fn of_bars(&self, column: usize) -> usize {
        self.session(session::COLUMNS.len()) + column
    }

    /// The position of the calendar days to expiry.
    pub fn days_to_expiry(&self) -> usize {
        self.of_bars(bars::COLUMNS.len())
    }

    /// The position of the context of this number.
    pub fn context(&self, context: usize) -> usize {
        self.days_to_expiry() + 1 + context
    }

    /// The position of the computed column of this number, among those of all detectors of the generation.
    pub fn computed(&self, computed: usize) -> usize {
        self.context(self.contexts) + computed
    }

    /// The number of columns.
    pub fn width(&self) -> usize {
        self.computed(self.computed)
    }
}
