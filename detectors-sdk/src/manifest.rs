//! A detector's description of itself: what a state belongs to, what its rows are, its columns and its parameters.
//!
//! These types wrap the records of the contract, so that nothing is converted when the host asks for them.

#[cfg(not(target_family = "wasm"))]
mod check;

use crate::contract;

/// A detector's name, version, description, scope, feeds, columns and parameters.
///
/// ```
/// use tickhound_sdk::{Column, Feed, Manifest, Param, Scope};
///
/// Manifest::new("jump", "1.0.0", "Reports a tick that moves the price by a lot.")
///     .column(Column::optional("quantity"))
///     .param(Param::number("move_pct", 0.5).range(0.01, 50.0).unit("%").doc("Smallest move that counts."));
///
/// Manifest::new("breadth", "1.0.0", "Reports when most members of a group are above their VWAP.")
///     .scope(Scope::Group)
///     .feed(Feed::bars_param("bar_s"))
///     .bars_columns()
///     .param(Param::integer("bar_s", 60).range(1.0, 3600.0).unit("s").doc("Length of a bar."));
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
            scope: contract::Scope::Symbol,
            feeds: Vec::new(),
            columns: Vec::new(),
            computed: Vec::new(),
            wakes: Vec::new(),
            texts: Vec::new(),
            params: Vec::new(),
            state_version: 1,
            state_outlives_params: false,
            wants_clock: false,
        })
    }

    /// Sets what a state belongs to. Without this it belongs to a symbol.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.0.scope = match scope {
            Scope::Symbol => contract::Scope::Symbol,
            Scope::Group => contract::Scope::Group,
            Scope::Market => contract::Scope::Market,
        };
        self
    }

    /// Adds a feed. A manifest without any has [`Feed::Ticks`].
    pub fn feed(mut self, feed: Feed) -> Self {
        self.0.feeds.push(feed.into());
        self
    }

    /// Adds a column. [`Tick::column`](crate::Tick::column) takes its position, counted from 0.
    pub fn column(mut self, column: Column) -> Self {
        self.0.columns.push(column.0);
        self
    }

    /// Adds the columns that [`Bar::open`](crate::Bar::open) and its like read, if they are not there yet: `open`, `high`,
    /// `low`, `quantity`, `count` and `vwap`. They take the next positions.
    pub fn bars_columns(mut self) -> Self {
        // What is traded may be unknown, the rest of a bar never is.
        for (name, required) in
            [("open", true), ("high", true), ("low", true), ("quantity", false), ("count", true), ("vwap", false)]
        {
            if self.0.columns.iter().all(|column| column.name != name) {
                self.0.columns.push(contract::Column { name: name.into(), required });
            }
        }
        self
    }

    /// Adds a column that the host computes. Its position follows those of all columns that are not computed.
    pub fn computed(mut self, computed: Computed) -> Self {
        self.0.computed.push(computed.0);
        self
    }

    /// Adds a condition. With any of these, only ticks for which one of them holds reach the detector.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.0.wakes.push(wake.0);
        self
    }

    /// Adds a text of the reference data, such as `underlying`. [`Tick::text`](crate::Tick::text) takes its position among the
    /// texts. A name stands for [`Column::optional`].
    ///
    /// ```
    /// use tickhound_sdk::{Column, Manifest};
    ///
    /// Manifest::new("straddle", "1.0.0", "Reports a rich premium of the straddle at the money.")
    ///     .text(Column::required("option_type"))
    ///     .text("underlying");
    /// ```
    pub fn text(mut self, text: impl Into<Column>) -> Self {
        self.0.texts.push(text.into().0);
        self
    }

    /// Adds a parameter. It must be a field of [`Detector::Params`](crate::Detector::Params).
    pub fn param(mut self, param: Param) -> Self {
        self.0.params.push(param.0);
        self
    }

    /// Returns the manifest as the host gets it.
    pub(crate) fn described(mut self) -> contract::Manifest {
        if self.0.feeds.is_empty() {
            self.0.feeds.push(contract::Feed::Ticks);
        }
        self.0
    }
}

/// What a state belongs to, and which rows one state sees.
///
/// ```
/// use tickhound_sdk::{Manifest, Scope};
///
/// Manifest::new("pair", "1.0.0", "Reports an unusual ratio of two prices.").scope(Scope::Group);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A state belongs to a symbol, and sees its rows.
    Symbol,
    /// A state belongs to a group of symbols, such as those of one underlying, and sees the rows of all members in stream
    /// order. The user's configuration says which groups there are.
    Group,
    /// There is one state, which sees the rows of all symbols in stream order.
    Market,
}

/// What the rows of a detector are.
///
/// ```
/// use tickhound_sdk::{Feed, Manifest};
///
/// Manifest::new("thrust", "1.0.0", "Reports a bar that closes at its high.").feed(Feed::bars(60)).bars_columns();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// A row for each tick: [`Detector::on_tick`](crate::Detector::on_tick).
    Ticks,
    /// A row for each bar of so many seconds, from the open of the session on: [`Detector::on_bar`](crate::Detector::on_bar).
    /// A span without a tick has no bar.
    Bars(Length),
    /// A row for each symbol that had a tick in the session, each time that event time passes a multiple of so many seconds
    /// since the open: [`Detector::on_snapshot`](crate::Detector::on_snapshot).
    Snapshots(Length),
}

impl Feed {
    /// Returns the feed of bars of so many seconds.
    #[must_use]
    pub fn bars(seconds: u32) -> Self {
        Self::Bars(Length::Fixed(seconds))
    }

    /// Returns the feed of bars whose length is the value of an integer parameter, in seconds.
    #[must_use]
    pub fn bars_param(name: &str) -> Self {
        Self::Bars(Length::param(name))
    }

    /// Returns the feed of snapshots, of which there is one each so many seconds.
    #[must_use]
    pub fn snapshots(seconds: u32) -> Self {
        Self::Snapshots(Length::Fixed(seconds))
    }

    /// Returns the feed of snapshots whose distance is the value of an integer parameter, in seconds.
    #[must_use]
    pub fn snapshots_param(name: &str) -> Self {
        Self::Snapshots(Length::param(name))
    }
}

impl From<Feed> for contract::Feed {
    fn from(feed: Feed) -> Self {
        match feed {
            Feed::Ticks => Self::Ticks,
            Feed::Bars(length) => Self::Bars(length.into()),
            Feed::Snapshots(length) => Self::Snapshots(length.into()),
        }
    }
}

/// A whole number that is fixed, or the value of a parameter: of seconds, or of rows.
///
/// ```
/// use tickhound_sdk::{Feed, Length};
///
/// assert_eq!(Feed::bars_param("bar_s"), Feed::Bars(Length::param("bar_s")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Length {
    /// This number.
    Fixed(u32),
    /// The value of the integer parameter of this name.
    Param(String),
}

impl Length {
    /// Returns the value of the integer parameter of this name.
    #[must_use]
    pub fn param(name: &str) -> Self {
        Self::Param(name.into())
    }
}

impl From<u32> for Length {
    fn from(length: u32) -> Self {
        Self::Fixed(length)
    }
}

impl From<Length> for contract::Length {
    fn from(length: Length) -> Self {
        match length {
            Length::Fixed(length) => Self::Fixed(length),
            Length::Param(name) => Self::Param(name),
        }
    }
}

/// A column in addition to symbol, time and price: a standard column, or one that the user's configuration defines, in
/// `[input.extra]`, in `[context]` or with the reference data.
///
/// The standard columns are `quantity`, `cum_volume`, `bid`, `ask`, `bid_quantity`, `ask_quantity`, `oi`, `flags`,
/// `since_open`, `to_close` and `days_to_expiry`, and those of [`bars_columns`](Manifest::bars_columns).
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

/// Returns the optional column of this name.
impl From<&str> for Column {
    fn from(name: &str) -> Self {
        Self::optional(name)
    }
}

/// A column that the host computes once for all detectors that ask for it, from the rows of one symbol before the present row.
/// It is NaN until there are enough.
///
/// ```
/// use tickhound_sdk::{Computed, Feed, Length, Manifest, Param, Wake};
///
/// Manifest::new("channel", "1.0.0", "Reports a price above those of the last ticks.")
///     .computed(Computed::highest("channel_high", "price", Feed::Ticks, Length::param("lookback")))
///     .wake(Wake::above("channel_high"))
///     .param(Param::integer("lookback", 500).range(2.0, 5000.0).unit("ticks").doc("Length of the channel."));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Computed(contract::Computed);

impl Computed {
    /// Returns the greatest of the last `length` values. `of` is `price`, or `high` or `low` of bars.
    pub fn highest(name: &str, of: &str, feed: Feed, length: impl Into<Length>) -> Self {
        Self::new(name, contract::Function::Highest, of, feed, length.into())
    }

    /// Returns the least of the last `length` values.
    pub fn lowest(name: &str, of: &str, feed: Feed, length: impl Into<Length>) -> Self {
        Self::new(name, contract::Function::Lowest, of, feed, length.into())
    }

    /// Returns the mean of the last `length` values.
    pub fn mean(name: &str, of: &str, feed: Feed, length: impl Into<Length>) -> Self {
        Self::new(name, contract::Function::Mean, of, feed, length.into())
    }

    /// Returns the exponentially weighted standard deviation of the logarithm of the ratio of successive values, per row. Half
    /// of the weight is on the last `length` rows.
    pub fn ew_volatility(name: &str, of: &str, feed: Feed, length: impl Into<Length>) -> Self {
        Self::new(name, contract::Function::EwVolatility, of, feed, length.into())
    }

    fn new(name: &str, function: contract::Function, of: &str, feed: Feed, length: Length) -> Self {
        Self(contract::Computed {
            name: name.into(),
            function,
            of: of.into(),
            feed: feed.into(),
            length: length.into(),
        })
    }
}

/// When a tick reaches the detector. Bars, snapshots and clock rows always do.
///
/// ```
/// use tickhound_sdk::{Column, Manifest, Wake};
///
/// Manifest::new("circuit", "1.0.0", "Reports a price at its upper circuit limit.")
///     .column(Column::required("near_circuit"))
///     .wake(Wake::above("near_circuit"));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Wake(contract::Wake);

impl Wake {
    /// Returns the condition that the price is above this column, or the column is NaN.
    pub fn above(column: &str) -> Self {
        Self(contract::Wake::Above(column.into()))
    }

    /// Returns the condition that the price is below this column, or the column is NaN.
    pub fn below(column: &str) -> Self {
        Self(contract::Wake::Below(column.into()))
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
