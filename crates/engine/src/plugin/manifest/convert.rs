//! Manifests of both versions of the contract as the host's own type.

use super::{Column, ColumnFunction, DeclaredColumn, DeclaredFeed, Length, Manifest, Param, Wake};
use crate::plugin::{
    bindings::{v0_1::tickhound::detector::types as v0_1, v0_2::tickhound::detector::types as v0_2},
    value::Value,
    view::Scope,
};

/// Converts the types that both versions have alike.
macro_rules! convert_common {
    ($version:ident, $value:ident) => {
        impl From<$version::Column> for Column {
            fn from($version::Column { name, required }: $version::Column) -> Self {
                Self { name, required }
            }
        }

        impl From<$version::$value> for Value {
            fn from(value: $version::$value) -> Self {
                match value {
                    $version::$value::Flag(value) => Self::Flag(value),
                    $version::$value::Integer(value) => Self::Integer(value),
                    $version::$value::Number(value) => Self::Number(value),
                    $version::$value::Text(value) => Self::Text(value),
                }
            }
        }

        impl From<$version::Param> for Param {
            fn from(param: $version::Param) -> Self {
                let $version::Param { name, default, minimum, maximum, choices, unit, doc } = param;
                Self { name, default: default.into(), minimum, maximum, choices, unit, doc }
            }
        }
    };
}

convert_common!(v0_1, ValueResult);
convert_common!(v0_2, Value);

impl From<v0_1::Manifest> for Manifest {
    fn from(manifest: v0_1::Manifest) -> Self {
        Self {
            name: manifest.name,
            version: manifest.version,
            description: manifest.description,
            scope: Scope::Symbol,
            feeds: vec![DeclaredFeed::Ticks],
            columns: converted(manifest.columns),
            computed: Vec::new(),
            wakes: Vec::new(),
            texts: Vec::new(),
            params: converted(manifest.params),
            state_version: manifest.state_version,
            state_outlives_params: manifest.state_outlives_params,
            wants_clock: manifest.wants_clock,
        }
    }
}

impl From<v0_2::Manifest> for Manifest {
    fn from(manifest: v0_2::Manifest) -> Self {
        Self {
            name: manifest.name,
            version: manifest.version,
            description: manifest.description,
            scope: match manifest.scope {
                v0_2::Scope::Symbol => Scope::Symbol,
                v0_2::Scope::Group => Scope::Group,
                v0_2::Scope::Market => Scope::Market,
            },
            feeds: converted(manifest.feeds),
            columns: converted(manifest.columns),
            computed: converted(manifest.computed),
            wakes: converted(manifest.wakes),
            texts: converted(manifest.texts),
            params: converted(manifest.params),
            state_version: manifest.state_version,
            state_outlives_params: manifest.state_outlives_params,
            wants_clock: manifest.wants_clock,
        }
    }
}

impl From<v0_2::Length> for Length {
    fn from(length: v0_2::Length) -> Self {
        match length {
            v0_2::Length::Fixed(length) => Self::Fixed(length),
            v0_2::Length::Param(name) => Self::Param(name),
        }
    }
}

impl From<v0_2::Feed> for DeclaredFeed {
    fn from(feed: v0_2::Feed) -> Self {
        match feed {
            v0_2::Feed::Ticks => Self::Ticks,
            v0_2::Feed::Bars(length) => Self::Bars(length.into()),
            v0_2::Feed::Snapshots(length) => Self::Snapshots(length.into()),
        }
    }
}

impl From<v0_2::Computed> for DeclaredColumn {
    fn from(v0_2::Computed { name, function, of, feed, length }: v0_2::Computed) -> Self {
        let function = match function {
            v0_2::Function::Highest => ColumnFunction::Highest,
            v0_2::Function::Lowest => ColumnFunction::Lowest,
            v0_2::Function::Mean => ColumnFunction::Mean,
            v0_2::Function::EwVolatility => ColumnFunction::EwVolatility,
        };
        Self { name, function, of, feed: feed.into(), length: length.into() }
    }
}

impl From<v0_2::Wake> for Wake {
    fn from(wake: v0_2::Wake) -> Self {
        match wake {
            v0_2::Wake::Above(column) => Self::Above(column),
            v0_2::Wake::Below(column) => Self::Below(column),
        }
    }
}

fn converted<T, U: From<T>>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(U::from).collect()
}
