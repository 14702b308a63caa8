//! The recorder: whether it records, what is missing in its files, how far it is behind the stream, and whether it can write.
//!
//! What holds: where nothing was ever recorded, there is nothing to judge, since a host needs no recorder.

use std::path::PathBuf;

use rustix::fs::{Access, access, statvfs};

use super::{
    finding::Finding,
    text::{duration, size},
};
use crate::record::{HOLES, RecordStatus, RecordVerdict, folder_of};
use tickhound_core::{
    config::{Config, LoadedConfig},
    event::EntryId,
    text::printable,
    wall::now_ms,
};
use tickhound_redis::inspect::StreamInspection;

/// A recorder that is behind the newest entry by more than this can't keep up. Its files are at most a second old, and its
/// status two.
const LAG_WARNING_MS: u64 = 30_000;

/// The recorder of `history.dir`.
#[derive(Debug)]
pub(super) struct RecorderInspection {
    folder: PathBuf,
    /// Its status, or why it can't be read.
    status: Result<RecordStatus, String>,
    is_writable: bool,
    /// The free space of the folder, bytes.
    free: Option<u64>,
}

/// Inspects the recorder; `None` if nothing was ever recorded.
pub(super) fn inspect(loaded: &LoadedConfig) -> Option<RecorderInspection> {
    let folder = folder_of(loaded).ok()?;
    let status = RecordStatus::read(&folder).transpose()?.map_err(|error| error.to_string());
    let is_writable = access(&folder, Access::WRITE_OK).is_ok();
    let free = statvfs(&folder).ok().map(|disk| disk.f_bavail * disk.f_frsize);
    Some(RecorderInspection { folder, status, is_writable, free })
}

/// Judges the recorder. `stream` is as of before it was inspected.
pub(super) fn judge(recorder: &RecorderInspection, config: &Config, stream: Option<&StreamInspection>) -> Vec<Finding> {
    let key = &config.stream.key;
    let folder = recorder.folder.display();
    let status = match &recorder.status {
        Ok(status) => status,
        Err(error) => {
            let finding = Finding::warning(
                "record.status",
                format!("the status of the recorder of {folder} can't be read: {error}"),
            );
            return vec![
                finding.cure("give this user the right to read the folder; `tickhound record --status` shows the same"),
            ];
        }
    };
    let mut findings = Vec::new();
    if status.stream != *key {
        let finding = Finding::warning(
            "record.stream",
            format!("{folder} has the files of {}, and this configuration reads {key}", printable(&status.stream)),
        );
        findings
            .push(finding.cure("name another folder as history.dir: a recorder of this stream does not start in it"));
        return findings;
    }
    findings.push(judge_verdict(recorder, status));
    findings.extend(judge_folder(recorder, config.record.free_min_mib));
    findings.extend(judge_holes(recorder, status));
    findings.extend(stream.and_then(|stream| judge_lag(status, stream)));
    findings
}

fn judge_verdict(recorder: &RecorderInspection, status: &RecordStatus) -> Finding {
    let (id, folder) = ("record.running", recorder.folder.display());
    match status.verdict(now_ms()) {
        RecordVerdict::Recording => Finding::ok(id, format!("{} is recorded into {folder}", status.stream)),
        RecordVerdict::Stopped => {
            let ago = duration(now_ms().saturating_sub(status.at_ms));
            Finding::note(id, format!("nothing is recorded into {folder}: the recorder was stopped {ago} ago"))
                .cure("`tickhound record --background` starts it; what the stream removes until then is in no file")
        }
        RecordVerdict::Failing(reason) => Finding::problem(id, printable(&reason))
            .cure("make it record again: what the stream removes until then is in no file; its log says more"),
    }
}

fn judge_folder(recorder: &RecorderInspection, free_min_mib: u64) -> Option<Finding> {
    let (id, folder) = ("record.folder", recorder.folder.display());
    if !recorder.is_writable {
        let finding =
            Finding::problem(id, format!("this user may not write to {folder}, so a recorder does not start"));
        return Some(finding.cure(format!("chown or chmod {folder} for the user that runs the recorder")));
    }
    let free = recorder.free?;
    (free < free_min_mib.saturating_mul(1 << 20)).then(|| {
        let observed = format!("{} are free in {folder}, less than record.free_min_mib leaves", size(free));
        Finding::problem(id, format!("{observed}, so nothing is recorded"))
            .cure("free some space, lower record.keep_days, or lower record.free_min_mib")
    })
}

fn judge_holes(recorder: &RecorderInspection, status: &RecordStatus) -> Option<Finding> {
    (status.holes > 0).then(|| {
        let missing = status.missing;
        let holes = if status.holes == 1 { "1 hole".to_owned() } else { format!("{} holes", status.holes) };
        let file = recorder.folder.join(HOLES);
        let observed = format!("{holes} since the recorder was started: at least {missing} entries are in no file");
        Finding::warning("record.holes", observed).cure(format!(
            "let the producer keep more entries than come while the recorder is down; {} lists the holes",
            file.display()
        ))
    })
}

/// Judges how far the files end behind the stream; `None` if nothing is known of it, or the recorder is close behind.
fn judge_lag(status: &RecordStatus, stream: &StreamInspection) -> Option<Finding> {
    let last: EntryId = status.last.as_deref()?.parse().ok()?;
    let cure = "see `tickhound record --status`: the disk, or this machine, is too slow for this stream, or nothing is recorded";
    if let Some(oldest) = stream.oldest.filter(|oldest| *oldest > last) {
        let lost =
            status.last_index.zip(stream.added).map(|(index, added)| added.saturating_sub(stream.length + index));
        if lost != Some(0) {
            let lost = lost.map_or_else(|| "entries".to_owned(), |lost| format!("{lost} entries"));
            let observed =
                format!("the files end at {last}, and the stream begins at {oldest}: {lost} are lost to them");
            return Some(Finding::problem("record.lag", observed).cure(cure));
        }
    }
    let behind_ms = stream.newest.millis.saturating_sub(last.millis);
    let is_late = last.millis >= EntryId::TIMES_FROM_MS && behind_ms > LAG_WARNING_MS;
    is_late.then(|| {
        let observed = format!("the files end at {last}, {} behind the newest entry", duration(behind_ms));
        Finding::warning("record.lag", observed).cure(cure)
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_folder_that_can_not_be_written_or_is_nearly_full_is_a_problem() {
        let judged = |is_writable, free| {
            let recorder =
                RecorderInspection { folder: "days".into(), status: Ok(RecordStatus::default()), is_writable, free };
            judge_folder(&recorder, 500).map(|finding| (finding.level, finding.found))
        };
        assert_eq!(judged(true, Some(500 << 20)), None);
        assert_eq!(judged(true, None), None);
        let (level, found) = judged(false, Some(u64::MAX)).unwrap();
        assert!(level == Level::Problem && found.contains("may not write to days"), "{found}");
        let (level, found) = judged(true, Some((500 << 20) - 1)).unwrap();
        assert!(level == Level::Problem && found.contains("record.free_min_mib"), "{found}");
    }

    #[test]
    fn lag_is_judged_by_ids_that_are_times_and_by_what_the_stream_still_has() {
        const NOW: u64 = 1_763_961_120_000;
        let stream = |oldest: u64, newest: u64, added| StreamInspection {
            oldest: Some(EntryId { millis: oldest, seq: 0 }),
            newest: EntryId { millis: newest, seq: 0 },
            length: 100,
            added,
            ..StreamInspection::default()
        };
        let judged = |last: &str, index, stream: StreamInspection| {
            let status = RecordStatus { last: Some(last.into()), last_index: index, ..RecordStatus::default() };
            judge_lag(&status, &stream).map(|finding| (finding.level, finding.found))
        };
        let last = format!("{NOW}-0");
        let behind = |ms| judged(&last, Some(450), stream(NOW - 1, NOW + ms, Some(500)));
        assert_eq!(behind(LAG_WARNING_MS), None);
        let (level, found) = behind(LAG_WARNING_MS + 1).unwrap();
        assert!(level == Level::Warning && found.contains("30 s behind"), "{found}");
        let (level, found) = judged(&last, Some(350), stream(NOW + 5, NOW + 9, Some(500))).unwrap();
        assert!(level == Level::Problem && found.contains("50 entries are lost"), "{found}");
        // All that was removed is in the files.
        assert_eq!(judged(&last, Some(400), stream(NOW + 5, NOW + 9, Some(500))), None);
        let (_, found) = judged(&last, None, stream(NOW + 5, NOW + 9, None)).unwrap();
        assert!(found.contains("entries are lost"), "{found}");
        // Ids that are no times say nothing of how long ago they came.
        assert_eq!(judged("7-0", Some(7), stream(1, NOW, Some(107))), None);
        assert_eq!(judged("never", None, stream(1, NOW, None)), None);
    }
}
