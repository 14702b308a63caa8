//! What a detector learns about a symbol when it is introduced: its texts and its constants.

use super::wiring::Wiring;

/// The value of each constant in a trial, and the text of each text.
const TRIAL_NUMBER: f64 = 100.0;
const TRIAL_TEXT: &str = "TRIAL";

/// Where facts about symbols come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Facts {
    /// There are none: texts are absent, and numbers NaN.
    #[default]
    None,
    /// They are made up, for a trial.
    MadeUp,
}

impl Facts {
    /// Returns the texts of a symbol that a detector asks for.
    pub(super) fn texts(&self, wiring: &Wiring, _symbol: &str) -> Vec<Option<String>> {
        let text = |column: &Option<usize>| match self {
            Self::None => None,
            Self::MadeUp => column.map(|_| TRIAL_TEXT.to_owned()),
        };
        wiring.texts.iter().map(text).collect()
    }

    /// Returns the constants of a symbol that a detector asks for.
    pub(super) fn constants(&self, wiring: &Wiring, _symbol: &str) -> Vec<f64> {
        let number = |_: &usize| match self {
            Self::None => f64::NAN,
            Self::MadeUp => TRIAL_NUMBER,
        };
        wiring.constants.iter().map(number).collect()
    }
}
