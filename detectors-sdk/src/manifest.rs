//! A detector's description of itself: its columns and its parameters.
//!
//! These types wrap the records of the contract, so that nothing is converted when the host asks for them.

#[cfg(not(target_family = "wasm"))]
mod check;

use crate::contract;

/// A detector's name, version, description, columns and parameters.
///
/// ```
/// use tickhound_sdk::{Column, Manifest, Param};
///
/// Manifest::new("jump", "1.0.0", "Reports a tick that moves the price by a lot.")
///     .column(Column::optional("quantity"))
///     .param(Param::number("move_pct", 0.5).range(0.01, 50.0).unit("%").doc("Smallest move that counts."));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Manifest(pub(crate) contract::Manifest);

impl Manifest {
    /// Returns a manifest without columns and parameters.
    ///
    /// `name` is short and consists of lower-case letters, digits, `_` and `-`. `version` is a semantic version, such as
    /// `env!("CARGO_PKG_VERSION")`. `description` is one sentence for users.
    pub fn new(name: &str, version: &str, description: &str) -> Self {
        Self(contract::Manifest {
            name: name.into(),
            version: version.into(),
            description: description.into(),
            columns: Vec::new(),
            params: Vec::new(),
            state_version: 1,
            state_outlives_params: false,
            wants_clock: false,
        })
    }

    /// Adds a column. [`Tick::column`](crate::Tick::column) takes its position, counted from 0.
    pub fn column(mut self, column: Column) -> Self {
        self.0.columns.push(column.0);
        self
    }

    /// Adds a parameter. It must be a field of [`Detector::Params`](crate::Detector::Params).
    pub fn param(mut self, param: Param) -> Self {
        self.0.params.push(param.0);
        self
    }
}

/// A column in addition to symbol, time and price: a standard column, or one that the user's `[input.extra]` defines.
///
/// The standard columns are `quantity`, `cum_volume`, `bid`, `ask`, `bid_quantity`, `ask_quantity`, `oi` and `flags`.
///
/// ```
/// use tickhound_sdk::{Column, Manifest};
///
/// Manifest::new("iv-spike", "1.0.0", "Reports a jump of the implied volatility.")
///     .column(Column::required("iv"))
///     .column(Column::optional("flags"));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Column(contract::Column);

impl Column {
    /// Returns a column without which the host rejects the detector.
    pub fn required(name: &str) -> Self {
        Self(contract::Column { name: name.into(), required: true })
    }

    /// Returns a column whose values are all NaN if the input lacks it.
    pub fn optional(name: &str) -> Self {
        Self(contract::Column { name: name.into(), required: false })
    }
}

/// A parameter: its name, type, default, limits and meaning. The host checks `config.toml` against it.
///
/// ```
/// use tickhound_sdk::Param;
///
/// Param::number("move_pct", 0.5).range(0.01, 50.0).unit("%").doc("The smallest move that is reported.");
/// Param::integer("bars", 14).range(2.0, 500.0).unit("bars").doc("The length of the average.");
/// Param::flag("both_ways", true).doc("Whether falls are reported too.");
/// Param::text("mode", "rolling").choices(&["rolling", "opening-range"]).doc("The start of the average.");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Param(contract::Param);

impl Param {
    /// Returns a parameter that is a number. In `config.toml` it may be a whole number too. Its field is an `f64`.
    pub fn number(name: &str, default: f64) -> Self {
        Self::new(name, default.into())
    }

    /// Returns a parameter that is a whole number. Its field has any integer type, which must be able to represent all values
    /// in the [`range`](Self::range).
    pub fn integer(name: &str, default: i64) -> Self {
        Self::new(name, default.into())
    }

    /// Returns a parameter that is `true` or `false`. Its field is a `bool`.
    pub fn flag(name: &str, default: bool) -> Self {
        Self::new(name, default.into())
    }

    /// Returns a parameter that is a text. Its field is a `String`, or an enum of unit variants if there are
    /// [`choices`](Self::choices).
    pub fn text(name: &str, default: &str) -> Self {
        Self::new(name, default.into())
    }

    /// Sets the smallest and largest valid value of a number or integer, both inclusive.
    pub fn range(mut self, minimum: f64, maximum: f64) -> Self {
        self.0.minimum = Some(minimum);
        self.0.maximum = Some(maximum);
        self
    }

    /// Sets the valid values of a text.
    pub fn choices(mut self, choices: &[&str]) -> Self {
        self.0.choices = choices.iter().map(|&choice| choice.into()).collect();
        self
    }

    /// Sets the unit, such as `s`, `bars` or `ATR`. A parameter without a unit is a pure number.
    pub fn unit(mut self, unit: &str) -> Self {
        self.0.unit = unit.into();
        self
    }

    /// Sets the description: one sentence for users.
    pub fn doc(mut self, doc: &str) -> Self {
        self.0.doc = doc.into();
        self
    }

    fn new(name: &str, default: Value) -> Self {
        Self(contract::Param {
            name: name.into(),
            default: default.0,
            minimum: None,
            maximum: None,
            choices: Vec::new(),
            unit: String::new(),
            doc: String::new(),
        })
    }
}

/// The value of a parameter, made from a `bool`, an integer, an `f64` or a text.
///
/// ```
/// use tickhound_sdk::Value;
///
/// let (number, text): (Value, Value) = (0.5.into(), "rolling".into());
/// assert_ne!(number, text);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Value(pub(crate) contract::Value);

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self(contract::Value::Flag(value))
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        i64::from(value).into()
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self(contract::Value::Integer(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self(contract::Value::Number(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self(contract::Value::Text(value.into()))
    }
}
