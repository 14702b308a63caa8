//! The columns of batches, the same in every view: where ingest puts a value, and where a detector reads it.
//!
//! What holds: a position means the same as long as input and contexts do. A column that no detector reads may be empty.

use tickhound_core::{
    market::{Market, bars, computed::Computation, reference::Reference},
    session,
};

/// The name of the column with the calendar days to the expiry of a symbol.
pub const DAYS_TO_EXPIRY: &str = "days_to_expiry";

/// Where the values of a column come from that a detector asks for by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnOrigin {
    /// What a bar consists of.
    Bar,
    /// The input, which `[input]` describes.
    Input,
    /// The session of the symbol.
    Session,
    /// The `expiry` of the reference data.
    Expiry,
    /// A table of `[context]`.
    Context,
    /// A numeric column of the reference data, by its number.
    Reference(usize),
}

impl ColumnOrigin {
    /// Returns the word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bar => "bar",
            Self::Input => "input",
            Self::Session => "session",
            Self::Context => "context",
            Self::Expiry | Self::Reference(_) => "reference",
        }
    }
}

/// The columns of batches: those of the input, times of the session, days to expiry, contexts, those of bars, and computed
/// ones, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchColumns {
    input: Vec<String>,
    contexts: Vec<String>,
    /// Those that detectors ask for. One that no detector asks for any more stays, so that the others keep their positions.
    computed: Vec<Computation>,
}

impl BatchColumns {
    /// Returns the columns without computed ones, except for those that `before` has.
    pub fn new(input: &[String], market: &Market, before: Option<&Self>) -> Self {
        let contexts = market.contexts().iter().map(|context| context.name.clone()).collect();
        Self {
            input: input.to_vec(),
            contexts,
            computed: before.map_or_else(Vec::new, |before| before.computed.clone()),
        }
    }

    /// Returns where the values of a column come from, if there is one of this name. What a bar consists of comes before a column
    /// of the input that happens to have the same name.
    pub fn origin(&self, name: &str, has_bars: bool, reference: &Reference) -> Option<ColumnOrigin> {
        let number = || reference.numeric_columns().position(|known| known == name);
        Some(match () {
            () if has_bars && self.of_bars(name).is_some() => ColumnOrigin::Bar,
            () if self.of_input(name).is_some() => ColumnOrigin::Input,
            () if self.of_session(name).is_some() => ColumnOrigin::Session,
            () if name == DAYS_TO_EXPIRY && reference.has_expiry() => ColumnOrigin::Expiry,
            () if self.of_context(name).is_some() => ColumnOrigin::Context,
            () => ColumnOrigin::Reference(number()?),
        })
    }

    /// Returns the number of columns of the input, which are the first ones.
    pub fn input(&self) -> usize {
        self.input.len()
    }

    /// Returns the position of the first column with a time of the session, of which there are as many as
    /// [`session::COLUMNS`].
    pub fn session(&self) -> usize {
        self.input.len()
    }

    /// Returns the position of the days to expiry.
    pub fn days_to_expiry(&self) -> usize {
        self.session() + session::COLUMNS.len()
    }

    /// Returns the position of the first context.
    pub fn contexts(&self) -> usize {
        self.days_to_expiry() + 1
    }

    /// Returns the position of the first column of bars, of which there are as many as [`bars::COLUMNS`].
    pub fn bars(&self) -> usize {
        self.contexts() + self.contexts.len()
    }

    /// Returns the position of the first computed column.
    pub fn computed(&self) -> usize {
        self.bars() + bars::COLUMNS.len()
    }

    /// Returns what is computed, in the order of the positions.
    pub fn computations(&self) -> &[Computation] {
        &self.computed
    }

    /// Returns the number of columns.
    pub fn width(&self) -> usize {
        self.computed() + self.computed.len()
    }

    /// Returns the names of all columns that detectors may ask for by name, for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.input.iter().chain(&self.contexts).map(String::as_str)
    }

    /// Returns the position of a column of the input.
    pub(super) fn of_input(&self, name: &str) -> Option<usize> {
        position(&self.input, name)
    }

    /// Returns the position of a column with a time of the session.
    pub(super) fn of_session(&self, name: &str) -> Option<usize> {
        Some(self.session() + position(&session::COLUMNS, name)?)
    }

    /// Returns the position of a context.
    pub(super) fn of_context(&self, name: &str) -> Option<usize> {
        Some(self.contexts() + position(&self.contexts, name)?)
    }

    /// Returns the position of a column of bars.
    pub(super) fn of_bars(&self, name: &str) -> Option<usize> {
        Some(self.bars() + position(&bars::COLUMNS, name)?)
    }

    /// Returns the position of a computed column, which is added if no detector has asked for it so far.
    pub(super) fn add(&mut self, computation: Computation) -> usize {
        let number = self.computed.iter().position(|known| *known == computation).unwrap_or_else(|| {
            self.computed.push(computation);
            self.computed.len() - 1
        });
        self.computed() + number
    }
}

fn position(names: &[impl AsRef<str>], name: &str) -> Option<usize> {
    names.iter().position(|known| known.as_ref() == name)
}
