//! A finding of the doctor: how bad it is, what was observed, and what to do about it.

use serde::Serialize;

use super::fix::Remedy;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing needs attention.
    Ok,
    /// Nothing needs to be done, but an operator should know it.
    Note,
    /// It may cause harm on a bad day.
    Warning,
    /// It causes harm now, or will soon.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// Names the check, such as `memory.policy`; it stays the same over releases.
    pub(crate) id: String,
    /// The part of the id before the dot.
    pub(crate) area: String,
    pub(crate) level: Level,
    /// What was observed, in a sentence.
    pub(crate) found: String,
    /// What to do, and what it costs.
    pub(crate) cure: Option<String>,
    /// What `--fix` has done.
    pub(crate) fixed: Option<String>,
    /// What `--fix` can do without asking.
    #[serde(skip)]
    pub(crate) remedy: Option<Remedy>,
}

impl Finding {
    pub(super) fn new(level: Level, id: impl Into<String>, observed: impl Into<String>) -> Self {
        let id = id.into();
        let area = id.split('.').next().unwrap_or_default().to_owned();
        Self { id, area, level, found: observed.into(), cure: None, fixed: None, remedy: None }
    }

    pub(super) fn ok(id: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::new(Level::Ok, id, observed)
    }

    pub(super) fn note(id: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::new(Level::Note, id, observed)
    }

    pub(super) fn warning(id: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::new(Level::Warning, id, observed)
    }

    pub(super) fn problem(id: impl Into<String>, observed: impl Into<String>) -> Self {
        Self::new(Level::Problem, id, observed)
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    pub(super) fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }
}
