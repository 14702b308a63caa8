//! What a plugin says about itself, whatever version of the contract it speaks.

pub(super) mod check;
mod convert;

use std::fmt;

use super::{value::Value, view::Scope};

/// A plugin's description of itself.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// A short name in lower case.
    pub name: String,
    /// The plugin's semantic version.
    pub version: String,
    /// One sentence for users.
    pub description: String,
    /// What its states belong to.
    pub scope: Scope,
    /// What its rows are. The lengths may depend on parameters.
    pub feeds: Vec<DeclaredFeed>,
    /// The columns that it reads in addition to symbol, time and price.
    pub columns: Vec<Column>,
    /// The columns that the host computes, which follow those.
    pub computed: Vec<DeclaredColumn>,
    /// The conditions under which ticks reach it; empty: always.
    pub wakes: Vec<Wake>,
    /// The texts of the reference data that it reads.
    pub texts: Vec<Column>,
    /// Its parameters.
    pub params: Vec<Param>,
    /// The version of its saved states.
    pub state_version: u32,
    /// Whether a saved state stays meaningful when only parameters change.
    pub state_outlives_params: bool,
    /// Whether it uses clock rows.
    pub wants_clock: bool,
}

/// A column, or a text, that a plugin reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether the plugin is rejected if there is no such column.
    pub required: bool,
}

/// A whole number that is fixed, or the value of an integer parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Length {
    /// This number.
    Fixed(u32),
    /// The value of the parameter of this name.
    Param(String),
}

/// A feed whose length is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub enum DeclaredFeed {
    /// Ticks.
    Ticks,
    /// Bars of so many seconds.
    Bars(Length),
    /// Snapshots at a distance of so many seconds.
    Snapshots(Length),
}

/// A computed column whose length is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredColumn {
    /// Its name.
    pub name: String,
    /// What is computed.
    pub function: ColumnFunction,
    /// From which value of a row: `price`, `high` or `low`.
    pub of: String,
    /// Of which rows.
    pub feed: DeclaredFeed,
    /// Of how many rows.
    pub length: Length,
}

/// What the host computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnFunction {
    /// The greatest value.
    Highest,
    /// The least value.
    Lowest,
    /// The mean.
    Mean,
    /// The exponentially weighted volatility.
    EwVolatility,
}

/// A condition under which a tick reaches a plugin.
#[derive(Clone, Debug, PartialEq)]
pub enum Wake {
    /// The price is above this column, or the column is NaN.
    Above(String),
    /// The price is below this column, or the column is NaN.
    Below(String),
}

/// A parameter. Its type is the type of its default.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// The value that it has if the configuration gives none.
    pub default: Value,
    /// The smallest valid number.
    pub minimum: Option<f64>,
    /// The largest valid number.
    pub maximum: Option<f64>,
    /// The valid texts; empty: any text.
    pub choices: Vec<String>,
    /// The unit; empty: a pure number.
    pub unit: String,
    /// One sentence for users.
    pub doc: String,
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => length.fmt(f),
            Self::Param(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for DeclaredFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticks => f.write_str("ticks"),
            Self::Bars(length) => write!(f, "bars:{length}"),
            Self::Snapshots(length) => write!(f, "snapshots:{length}"),
        }
    }
}

impl fmt::Display for DeclaredColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, function, of, feed, length } = self;
        write!(f, "{name} = {}({of}, {feed}, {length})", function.as_str())
    }
}

impl fmt::Display for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Above(column) => write!(f, "price > {column}"),
            Self::Below(column) => write!(f, "price < {column}"),
        }
    }
}

impl ColumnFunction {
    /// Returns the name, as in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Highest => "highest",
            Self::Lowest => "lowest",
            Self::Mean => "mean",
            Self::EwVolatility => "ew-volatility",
        }
    }
}
