//! What a recorder says of itself: a file beside the day files, which `record --status` and hosts read.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::replace::replace;
use tickhound_core::{stream::owner::Owner, wall::now_ms};

/// The name of the file. It does not end like a file of ticks, so that `replay` of the folder leaves it out.
const NAME: &str = "record.status";

/// A recorder that has not reported for this long is stuck, or its status can't be written. It reports every two seconds, and a
/// disk that is busy may hold up a write.
const SILENT_MS: u64 = 30_000;

/// What a recorder does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordState {
    /// It records what the stream has.
    Recording,
    /// The server can't be reached.
    WaitingForRedis,
    /// The files can't be written, so nothing is read.
    Stalled,
    /// It was asked to end, and has.
    #[default]
    Stopped,
}

/// The status of a recorder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RecordStatus {
    /// The process, in the form of [`Owner::to_text`].
    pub(crate) owner: String,
    /// The key of the stream.
    pub(crate) stream: String,
    /// What it does.
    pub(crate) state: RecordState,
    /// Why it does not record; empty if it does.
    pub(crate) reason: String,
    /// When it was started, ms since the Unix epoch.
    pub(crate) started_ms: u64,
    /// When this was written, ms since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The file that it writes.
    pub(crate) file: Option<PathBuf>,
    /// The length of that file.
    pub(crate) file_bytes: u64,
    /// The last entry that is in a file.
    pub(crate) last: Option<String>,
    /// Its number among all entries that were ever added to the stream.
    pub(crate) last_index: Option<u64>,
    /// Entries recorded since the start.
    pub(crate) entries: u64,
    /// Holes since the start.
    pub(crate) holes: u64,
    /// Entries missing in these holes, without those whose number nobody knows.
    pub(crate) missing: u64,
    /// How often the server was unreachable since the start.
    pub(crate) disconnects: u64,
}

/// How a recorder is, as an observer sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordVerdict {
    /// It records.
    Recording,
    /// It was stopped.
    Stopped,
    /// It does not record, and should: a sentence that says why.
    Failing(String),
}

impl RecordStatus {
    /// Reads the status of the last recorder of a folder; `None` if there was none.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(NAME)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the status.
    ///
    /// # Errors
    /// The folder can't be written to.
    pub(super) fn write(&mut self, folder: &Path) -> io::Result<()> {
        self.at_ms = now_ms();
        replace(&folder.join(NAME), &serde_json::to_vec(self)?, None)
    }

    /// The process, if it is known.
    pub(crate) fn owner(&self) -> Option<Owner> {
        Owner::parse(&self.owner)
    }

    /// Judges the status at a time, ms since the Unix epoch.
    pub(crate) fn verdict(&self, now_ms: u64) -> RecordVerdict {
        let owner = self.owner();
        let process = owner.as_ref().map_or_else(|| "its process".to_owned(), ToString::to_string);
        let silent_s = now_ms.saturating_sub(self.at_ms) / 1000;
        match self.state {
            RecordState::Stopped => RecordVerdict::Stopped,
            _ if owner.is_some_and(|owner| owner.is_gone()) => RecordVerdict::Failing(format!(
                "the recorder exited unexpectedly (killed?): {process}; start it again with `tickhound record`"
            )),
            RecordState::Stalled | RecordState::WaitingForRedis => {
                RecordVerdict::Failing(format!("nothing is recorded: {}", self.reason))
            }
            RecordState::Recording if silent_s * 1000 >= SILENT_MS => RecordVerdict::Failing(format!(
                "the recorder has not reported for {silent_s} s: {process}; check the disk of history.dir, and its log"
            )),
            RecordState::Recording => RecordVerdict::Recording,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_that_was_stopped_is_no_failure_and_one_that_was_killed_is() {
        let now = 1_000_000;
        let status = |state, pid: u32| RecordStatus {
            owner: Owner::of(pid).to_text(),
            state,
            reason: "the disk is full".into(),
            at_ms: now - 1000,
            ..RecordStatus::default()
        };
        let (alive, gone) = (std::process::id(), u32::MAX);
        assert_eq!(status(RecordState::Recording, alive).verdict(now), RecordVerdict::Recording);
        assert_eq!(status(RecordState::Stopped, gone).verdict(now), RecordVerdict::Stopped);
        let reason = |status: RecordStatus, now| match status.verdict(now) {
            RecordVerdict::Failing(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(status(RecordState::Stalled, alive), now).contains("the disk is full"));
        assert!(reason(status(RecordState::Recording, alive), now + SILENT_MS).contains("has not reported for 31 s"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let killed = status(RecordState::Recording, child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(reason(killed, now).contains("exited unexpectedly"));
    }
}
