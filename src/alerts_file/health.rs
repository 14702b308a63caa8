//! The condition of the alerts file: whether it can be written.
//!
//! What holds: the condition ends with the file, whose place another one may take.

use std::path::Path;

use tickhound_core::condition::ConditionCode;
use tickhound_engine::conditions::Conditions;

/// Reports whether one file can be written.
pub(super) struct FileHealth {
    conditions: Conditions,
    file: String,
    failures: u64,
}

impl FileHealth {
    pub(super) fn new(conditions: &Conditions, file: &Path) -> Self {
        Self { conditions: conditions.clone(), file: file.display().to_string(), failures: 0 }
    }

    /// A write failed, or takes long; `reason` says why.
    pub(super) fn failed(&mut self, reason: &str) {
        self.failures += 1;
        let file = &self.file;
        let text = format!(
            "the alerts file {file} can't be written: {reason}. Free space, or correct its permissions or alerts.jsonl; \
             nothing is lost, the host adds the missing alerts from the alerts stream"
        );
        self.conditions.report(ConditionCode::AlertsFileFailing, file, &text, self.failures);
    }

    /// The file can be written.
    pub(super) fn works(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            self.conditions.end(ConditionCode::AlertsFileFailing, &self.file);
        }
    }
}

impl Drop for FileHealth {
    fn drop(&mut self) {
        self.works();
    }
}
