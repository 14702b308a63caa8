//! What a detector learns about a symbol when it is introduced: its texts and its constants.

use std::sync::Arc;

use super::wiring::Wiring;
use tickhound_core::market::Market;

/// The value of each constant in a trial, and the text of each text.
const TRIAL_NUMBER: f64 = 100.0;
const TRIAL_TEXT: &str = "TRIAL";

/// Where facts about symbols come from.
#[derive(Clone, Debug)]
pub(super) enum SymbolFacts {
    /// They are made up, for a trial.
    MadeUp,
    /// They are those of the market.
    Market(Arc<Market>),
}

impl SymbolFacts {
    /// Returns the texts of a symbol that a detector asks for.
    pub(super) fn texts(&self, wiring: &Wiring, symbol: &str) -> Vec<Option<String>> {
        let text = |column: usize| match self {
            Self::MadeUp => Some(TRIAL_TEXT.to_owned()),
            Self::Market(market) => market.text(column, symbol).map(|text| text.into_owned()),
        };
        wiring.texts.iter().map(|column| column.and_then(text)).collect()
    }

    /// Returns the constants of a symbol that a detector asks for.
    pub(super) fn constants(&self, wiring: &Wiring, symbol: &str) -> Vec<f64> {
        match self {
            Self::MadeUp => vec![TRIAL_NUMBER; wiring.constants.len()],
            Self::Market(market) => {
                let reference = market.reference();
                let row = reference.row(symbol);
                wiring.constants.iter().map(|column| reference.number(*column, row)).collect()
            }
        }
    }
}
