//! How the rows of a detector look, once its parameters are known.

use crate::contract::{Feed, Length, Manifest, Scope, Value};

/// The positions of the columns that only bars have; `None` for one that the manifest lacks.
#[derive(Debug, Default)]
pub(crate) struct BarColumns {
    pub(crate) open: Option<usize>,
    pub(crate) high: Option<usize>,
    pub(crate) low: Option<usize>,
    pub(crate) quantity: Option<usize>,
    pub(crate) count: Option<usize>,
    pub(crate) vwap: Option<usize>,
}

/// A feed whose length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowKind {
    Tick,
    /// A bar of so many seconds.
    Bar(u32),
    /// A row of a snapshot, of which there is one each so many seconds.
    Snapshot(u32),
}

/// The scope, the feeds and the columns of a detector's rows.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) scope: Scope,
    /// In the order of the manifest.
    pub(crate) feeds: Vec<RowKind>,
    /// The number of columns, computed ones included.
    pub(crate) columns: usize,
    pub(crate) bar: BarColumns,
}

impl Shape {
    /// Returns the shape of a detector with these parameters.
    ///
    /// # Errors
    /// Names the parameter that is not a length.
    pub(crate) fn new(manifest: &Manifest, params: &[(String, Value)]) -> Result<Self, String> {
        let position = |name: &str| manifest.columns.iter().position(|column| column.name == name);
        let feeds = manifest.feeds.iter().map(|feed| row_kind(feed, params)).collect::<Result<Vec<_>, _>>()?;
        let columns = manifest.columns.len() + manifest.computed.len();
        let bar = BarColumns {
            open: position("open"),
            high: position("high"),
            low: position("low"),
            quantity: position("quantity"),
            count: position("count"),
            vwap: position("vwap"),
        };
        Ok(Self { scope: manifest.scope, feeds, columns, bar })
    }

    /// Returns whether a state belongs to a group, or to all symbols.
    pub(crate) fn has_groups(&self) -> bool {
        self.scope != Scope::Symbol
    }

    /// Returns whether rows say which feed they are from.
    pub(crate) fn has_feeds(&self) -> bool {
        self.feeds != [RowKind::Tick]
    }
}

fn row_kind(feed: &Feed, params: &[(String, Value)]) -> Result<RowKind, String> {
    Ok(match feed {
        Feed::Ticks => RowKind::Tick,
        Feed::Bars(length) => RowKind::Bar(resolve(length, params)?),
        Feed::Snapshots(length) => RowKind::Snapshot(resolve(length, params)?),
    })
}

fn resolve(length: &Length, params: &[(String, Value)]) -> Result<u32, String> {
    let name = match length {
        Length::Fixed(length) => return Ok(*length),
        Length::Param(name) => name,
    };
    match params.iter().find(|(param, _)| param == name) {
        Some((_, Value::Integer(value))) => {
            u32::try_from(*value).map_err(|_| format!("parameter `{name}` can't be a length: {value}"))
        }
        _ => Err(format!("a length is of parameter `{name}`, but no integer parameter has that name")),
    }
}
