//! What a recovery needs of symbols beside their own states: the members of a group, and the sources of a context, as of the
//! boundary of the states that depend on them.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::normalize::NormalizerState;

/// The symbols that the owners of a visit depend on, as of the visit.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SharedBases {
    /// The symbols.
    pub symbols: Vec<SharedBase>,
    /// The values of contexts.
    pub contexts: Vec<SharedContext>,
}

/// A symbol that others depend on. Its fields are stored by position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedBase {
    /// The name of the symbol.
    pub name: String,
    /// The state of its normalizer; `None` if it had no tick.
    pub normalizer: Option<NormalizerState>,
    /// Its bars, last values and computed columns.
    #[serde(with = "serde_bytes")]
    pub series: Vec<u8>,
}

/// The value of a context. Its fields are stored by position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharedContext {
    /// The name of the context.
    pub context: String,
    /// The name of the column that it is the last value of.
    pub column: String,
    /// The source.
    pub source: String,
    /// The last value; NaN if there was none.
    pub value: f64,
}

impl SharedBases {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty() && self.contexts.is_empty()
    }

    /// Adds other bases, which replace those of the same symbols and sources.
    pub fn extend(&mut self, other: Self) {
        let mut symbols: FxHashMap<String, SharedBase> =
            self.symbols.drain(..).map(|base| (base.name.clone(), base)).collect();
        symbols.extend(other.symbols.into_iter().map(|base| (base.name.clone(), base)));
        self.symbols = symbols.into_values().collect();
        let key = |value: &SharedContext| (value.context.clone(), value.column.clone(), value.source.clone());
        let mut contexts: FxHashMap<(String, String, String), SharedContext> =
            self.contexts.drain(..).map(|value| (key(&value), value)).collect();
        contexts.extend(other.contexts.into_iter().map(|value| (key(&value), value)));
        self.contexts = contexts.into_values().collect();
    }
}
