//! What a detector says about itself: its columns and its parameters.
//!
//! These types wrap the contract's own records, so nothing is converted when
//! the host asks for them.

#[cfg(not(target_family = "wasm"))]
mod check;

use crate::contract;

/// A detector's name, version, description, columns and parameters.
///
/// ```
/// use tickhound_sdk::{Column, Manifest, Param};
///
/// Manifest::new("jump", "1.0.0", "Tells when one tick moves the price by a lot.")
///     .column(Column::optional("quantity"))
///     .param(Param::number("move_pct", 0.5).range(0.01, 50.0).unit("%").doc("Smallest move that counts."));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Manifest(pub(crate) contract::Manifest);

impl Manifest {
    /// A manifest without columns or parameters.
    ///
    /// `name` is short and in lower case (letters, digits, `_`, `-`), `version` is semver
    /// (`env!("CARGO_PKG_VERSION")` does well), `description` is one sentence for people.
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

    /// Asks for one more column. Its position, counted from 0, is what [`Tick::column`](crate::Tick::column) takes.
    pub fn column(mut self, column: Column) -> Self {
        self.0.columns.push(column.0);
        self
    }

    /// Takes one more parameter. It must be a field of [`Detector::Params`](crate::Detector::Params).
    pub fn param(mut self, param: Param) -> Self {
        self.0.params.push(param.0);
        self
    }
}

/// A column beside symbol, time and price: a standard one or one that the user's `[input.extra]` defines.
///
/// Standard names: `quantity`, `cum_volume`, `bid`, `ask`, `bid_quantity`, `ask_quantity`, `oi`, `flags`.
#[derive(Clone, Debug)]
#[must_use]
pub struct Column(contract::Column);

impl Column {
    /// The detector can't do without it: the host refuses to load it when the input has no such column.
    pub fn required(name: &str) -> Self {
        Self(contract::Column { name: name.into(), required: true })
    }

    /// The detector does its best without it: every value is NaN when the input has no such column.
    pub fn optional(name: &str) -> Self {
        Self(contract::Column { name: name.into(), required: false })
    }
}

/// A parameter: its name, type, default, limits and meaning. `config.toml` is checked against it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Param(contract::Param);

impl Param {
    /// A number; a whole one in `config.toml` does as well. A field of type `f64`.
    pub fn number(name: &str, default: f64) -> Self {
        Self::new(name, default.into())
    }

    /// A whole number. A field of any integer type; give a [`range`](Self::range) that fits it.
    pub fn integer(name: &str, default: i64) -> Self {
        Self::new(name, default.into())
    }

    /// `true` or `false`. A field of type `bool`.
    pub fn flag(name: &str, default: bool) -> Self {
        Self::new(name, default.into())
    }

    /// A text. A field of type `String`, or with [`choices`](Self::choices) an enum of unit variants.
    pub fn text(name: &str, default: &str) -> Self {
        Self::new(name, default.into())
    }

    /// Smallest and largest accepted value, both inclusive. For numbers and integers.
    pub fn range(mut self, minimum: f64, maximum: f64) -> Self {
        self.0.minimum = Some(minimum);
        self.0.maximum = Some(maximum);
        self
    }

    /// The texts that are accepted. For texts.
    pub fn choices(mut self, choices: &[&str]) -> Self {
        self.0.choices = choices.iter().map(|&choice| choice.into()).collect();
        self
    }

    /// The unit, such as `s`, `bars`, `ATR`. Without one it is a pure number.
    pub fn unit(mut self, unit: &str) -> Self {
        self.0.unit = unit.into();
        self
    }

    /// One sentence for people.
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

/// The value of a parameter: made from a `bool`, an integer, an `f64` or a text.
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
