//! The host that processes the partition, as the server shows it: the owner, its progress, lost entries, dead letters.

use super::{
    finding::{Finding, Level},
    stream::Flow,
    text::duration,
};
use crate::observe::health::{Report, Verdict};
use tickhound_redis::{
    SavedState, Survey,
    look::{OwnerLook, PartitionLook},
};

/// A dead letter that is younger than this is a warning.
const RECENT_MS: u64 = 86_400_000;

pub(super) fn judge(partition: &PartitionLook, report: &Report) -> Vec<Finding> {
    let mut findings = vec![owner(partition.owner.as_ref(), partition.epochs)];
    if partition.stream.as_ref().is_some_and(|stream| stream.group.is_some()) {
        findings.push(progress(report));
    }
    let Some(survey) = &report.survey else { return findings };
    findings.extend(lost(survey.totals.lost, partition.lost));
    let now_ms = partition.stream.as_ref().map_or(0, |stream| stream.now_ms);
    findings.extend(dead_letters(survey, partition.dead.as_ref(), now_ms));
    let retention_ms = partition.stream.as_ref().and_then(|stream| Flow::of(stream).retention_ms);
    let state_gap = survey.totals.state_gap;
    findings.extend(survey.state.as_ref().map(|state| saved(state, state_gap, retention_ms, survey.owner.is_some())));
    let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
    if let Some(keys) = receipt.map(|receipt| &receipt.needs_restart).filter(|keys| !keys.is_empty()) {
        findings.push(
            Finding::warning("host.restart", format!("the host still runs with the old values of {}", keys.join(", ")))
                .cure("restart the host with `tickhound restart`, or SIGTERM and `tickhound run`; it commits what is in flight, and nothing is lost"),
        );
    }
    findings
}

fn owner(owner: Option<&OwnerLook>, epochs: (u64, u64)) -> Finding {
    let (before, after) = epochs;
    match owner {
        // A release raises the epoch as well as an acquisition, so one change of owner raises it by two.
        _ if after > before + 2 => Finding::problem("host.owner", "the lease changed hands more than once within a second")
            .cure("two hosts compete for the lease, or one crashes at each start: read their logs. stream.lease_ms may be too short for this machine"),
        _ if after > before => Finding::note("host.owner", "the lease is changing hands at this moment")
            .cure("run `tickhound doctor` again; if no host was started or stopped just now, read the hosts' logs"),
        None => Finding::note("host.owner", format!("no host is running (epoch {after})"))
            .cure("start one with `tickhound run`"),
        Some(OwnerLook { name, gone: true }) => Finding::note(
            "host.owner",
            format!("{name} held the lease and was killed; the next host takes over at once"),
        )
        .cure("start a host with `tickhound run`"),
        Some(OwnerLook { name, .. }) => Finding::ok("host.owner", format!("{name} holds the lease (epoch {after})")),
    }
}

/// Turns the verdict of `tickhound status` into a finding.
fn progress(report: &Report) -> Finding {
    let reason = &report.reason;
    // `host.owner` says already that no host is running, and the doctor is also run before the first start.
    let nothing_to_do = |survey: &Survey| {
        survey.group_exists && survey.owner.is_none() && survey.pending == 0 && survey.waiting_ms.is_none()
    };
    match report.verdict {
        _ if report.survey.as_ref().is_some_and(nothing_to_do) => Finding::ok("host.work", reason),
        Verdict::Healthy => Finding::ok("host.work", reason),
        Verdict::Degraded => {
            Finding::warning("host.work", reason).cure("see `tickhound status` and the host's log for details")
        }
        Verdict::Stuck | Verdict::Unreachable => Finding::problem("host.work", reason)
            .cure("start a host with `tickhound run`; if one is running, its log says what it waits for"),
    }
}

/// `counts` are the lost entries at the beginning and at the end of the inspection.
fn lost(total: u64, counts: (u64, u64)) -> Option<Finding> {
    let (before, after) = counts;
    if after > before {
        let lost = after - before;
        return Some(
            Finding::problem("host.lost", format!("{lost} entries were trimmed before they were processed, just now"))
                .cure("keep more entries in the stream (see stream.kept), or give the host more cores"),
        );
    }
    match total {
        0 => None,
        lost => Some(Finding::note(
            "host.lost",
            format!("{lost} entries have been trimmed before they were processed, since the group was created"),
        )),
    }
}

fn dead_letters(survey: &Survey, newest: Option<&(u64, String)>, now_ms: u64) -> Option<Finding> {
    let (at_ms, reason) = newest?;
    let age = now_ms.saturating_sub(*at_ms);
    let observed = format!("{} dead letters, the newest {} ago: {reason}", survey.dead_length, duration(age));
    let level = if now_ms > 0 && age < RECENT_MS { Level::Warning } else { Level::Note };
    let cure = "see the reasons with `tickhound dead list` and fix the cause; `tickhound dead requeue --all` then adds them to the stream as new entries";
    Some(Finding::new(level, "host.dead_letters", observed).cure(cure))
}

/// Judges whether the stream still holds every entry that a new host would replay on top of the saved state.
fn saved(state: &SavedState, gap: u64, retention_ms: Option<u64>, has_owner: bool) -> Finding {
    let SavedState { symbols, age_ms, behind, .. } = state;
    let gap = match gap {
        0 => String::new(),
        gap => format!(
            "; {gap} entries were trimmed before their effect on detectors was saved, since the group was created"
        ),
    };
    let age = duration(*age_ms);
    let observed =
        format!("the state of {symbols} symbols was saved {age} ago; a new host replays {behind} entries{gap}");
    // With nothing to replay, or with no host running, an old state is as good as it was.
    match retention_ms {
        Some(retention_ms) if *behind > 0 && has_owner && *age_ms > retention_ms => Finding::problem(
            "host.state",
            format!("{observed}, but the stream keeps entries only for {}", duration(retention_ms)),
        )
        .cure("keep more entries in the stream (see stream.kept), or lower engine.checkpoint_every_ms so that the state is saved more often"),
        _ => Finding::ok("host.state", observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_judged_by_whether_it_runs_and_keeps_the_lease() {
        let one = |gone| OwnerLook { name: "process 1 on here".into(), gone };
        assert_eq!(owner(Some(&one(false)), (3, 3)).level, Level::Ok);
        assert_eq!(owner(Some(&one(true)), (3, 3)).level, Level::Note);
        assert_eq!(owner(None, (0, 0)).level, Level::Note);
        assert_eq!(owner(Some(&one(false)), (3, 5)).level, Level::Note, "one was stopped, the next one started");
        assert_eq!(owner(Some(&one(false)), (3, 6)).level, Level::Problem);
    }

    #[test]
    fn entries_lost_long_ago_are_a_note_and_entries_lost_now_a_problem() {
        assert!(lost(0, (0, 0)).is_none());
        assert_eq!(lost(7, (7, 7)).unwrap().level, Level::Note);
        assert_eq!(lost(7, (7, 9)).unwrap().level, Level::Problem);
    }

    #[test]
    fn a_saved_state_is_judged_by_what_must_be_replayed() {
        let level = |age_ms, behind, retention_ms, has_owner| {
            saved(&SavedState { symbols: 1, bytes: None, age_ms, behind }, 0, retention_ms, has_owner).level
        };
        assert_eq!(level(5_000, 10, None, true), Level::Ok);
        assert_eq!(level(5_000, 10, Some(60_000), true), Level::Ok);
        assert_eq!(level(50_000, 10, Some(6_000), true), Level::Problem);
        assert_eq!(level(50_000, 0, Some(6_000), true), Level::Ok);
        assert_eq!(level(50_000, 10, Some(6_000), false), Level::Ok);
    }

    #[test]
    fn dead_letters_of_today_are_a_warning() {
        let survey = Survey { dead_length: 2, ..Survey::default() };
        let level =
            |at_ms| dead_letters(&survey, Some(&(at_ms, "no symbol".into())), 200_000_000).map(|finding| finding.level);
        assert_eq!([level(199_000_000), level(1_000)], [Some(Level::Warning), Some(Level::Note)]);
        assert!(dead_letters(&survey, None, 5).is_none());
    }
}
