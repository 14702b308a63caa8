//! The host that works the partition, as it shows in the server: who, how far, what it lost and set aside.

use super::{Finding, lasting, stream::Flow};
use crate::observe::health::{Report, Verdict};
use tickhound_redis::{
    SavedState, Survey,
    look::{OwnerLook, PartitionLook},
};

/// Dead letters of the last day are news.
const NEWS_MS: u64 = 86_400_000;

pub(super) fn judge(partition: &PartitionLook, report: &Report) -> Vec<Finding> {
    let mut findings = vec![owner(partition.owner.as_ref(), partition.epochs)];
    if partition.stream.as_ref().is_some_and(|stream| stream.group.is_some()) {
        findings.push(work(report));
    }
    let Some(survey) = &report.survey else { return findings };
    findings.extend(lost(survey.totals.lost, partition.lost));
    let now_ms = partition.stream.as_ref().map_or(0, |stream| stream.now_ms);
    findings.extend(dead_letters(survey, partition.dead.as_ref(), now_ms));
    let kept_ms = partition.stream.as_ref().and_then(|stream| Flow::of(stream).kept_ms);
    findings.extend(
        survey.state.as_ref().map(|state| saved(state, survey.totals.state_gap, kept_ms, survey.owner.is_some())),
    );
    let receipt = survey.receipt.as_ref().filter(|_| survey.owner.is_some());
    if let Some(keys) = receipt.map(|receipt| &receipt.needs_restart).filter(|keys| !keys.is_empty()) {
        findings.push(
            Finding::warning("host.restart", format!("it runs with older values of {}", keys.join(", ")))
                .cure("restart it (SIGTERM, then `tickhound run`): what is in hand is finished and nothing is lost"),
        );
    }
    findings
}

fn owner(owner: Option<&OwnerLook>, epochs: (u64, u64)) -> Finding {
    let (before, after) = epochs;
    match owner {
        // Giving it up counts as well as taking it.
        _ if after > before + 2 => Finding::problem("host.owner", "the lease changed hands more than once within a second")
            .cure("two hosts take it from each other, or one dies at each start: look into their logs; stream.lease_ms may be too short for this machine"),
        _ if after > before => Finding::note("host.owner", "the lease is changing hands at this moment")
            .cure("`tickhound doctor` again: if a host was not just started or stopped, look into the logs"),
        None => Finding::note("host.owner", format!("no host is running (epoch {after})")).cure("`tickhound run`"),
        Some(OwnerLook { name, gone: true }) => Finding::note(
            "host.owner",
            format!("{name} held the lease and was killed; the next host takes over at once"),
        )
        .cure("`tickhound run`"),
        Some(OwnerLook { name, .. }) => Finding::ok("host.owner", format!("{name}, epoch {after}")),
    }
}

/// What `status` says.
fn work(report: &Report) -> Finding {
    let reason = &report.reason;
    // That no host is running is told above; the doctor is also asked before the first start.
    let nothing_to_do = |survey: &Survey| {
        survey.group_exists && survey.owner.is_none() && survey.pending == 0 && survey.waiting_ms.is_none()
    };
    match report.verdict {
        _ if report.survey.as_ref().is_some_and(nothing_to_do) => Finding::ok("host.work", reason),
        Verdict::Healthy => Finding::ok("host.work", reason),
        Verdict::Degraded => {
            Finding::warning("host.work", reason).cure("`tickhound status` shows more, and so does the host's log")
        }
        Verdict::Stuck | Verdict::Unreachable => Finding::problem("host.work", reason)
            .cure("no host: `tickhound run`; if there is one, its log says what it waits for"),
    }
}

fn lost(total: u64, looks: (u64, u64)) -> Option<Finding> {
    let (before, after) = looks;
    if after > before {
        let found = format!("{} entries were trimmed before they were worked, within this second", after - before);
        return Some(
            Finding::problem("host.lost", found)
                .cure("keep more entries (see stream.kept), or give the host more cores"),
        );
    }
    match total {
        0 => None,
        lost => Some(Finding::note(
            "host.lost",
            format!("{lost} entries were trimmed before they were worked, since the group began"),
        )),
    }
}

fn dead_letters(survey: &Survey, newest: Option<&(u64, String)>, now_ms: u64) -> Option<Finding> {
    let (at_ms, reason) = newest?;
    let age = now_ms.saturating_sub(*at_ms);
    let found = format!("{} dead letters, the newest {} ago: {reason}", survey.dead_length, lasting(age));
    let cure = "`tickhound dead list` tells why; mend that, then `tickhound dead requeue --all` (they come back as new entries)";
    Some(match now_ms > 0 && age < NEWS_MS {
        true => Finding::warning("host.dead_letters", found).cure(cure),
        false => Finding::note("host.dead_letters", found).cure(cure),
    })
}

/// Whether a new host would find in the stream all that came after what is saved.
fn saved(state: &SavedState, gap: u64, kept_ms: Option<u64>, runs: bool) -> Finding {
    let SavedState { symbols, age_ms, behind, .. } = state;
    let gap = match gap {
        0 => String::new(),
        gap => format!("; {gap} entries were trimmed before their traces were saved, since the group began"),
    };
    let found = format!("{symbols} symbols, saved {} ago; a new host re-reads {behind} entries{gap}", lasting(*age_ms));
    // With nothing to re-read, or nobody at work, an old state is as good as it was.
    match kept_ms {
        Some(kept) if *behind > 0 && runs && *age_ms > kept => Finding::problem(
            "host.state",
            format!("{found}, but entries are only kept for {}", lasting(kept)),
        )
        .cure(
            "keep more entries (see stream.kept), or lower engine.checkpoint_every_ms (states are written more often)",
        ),
        _ => Finding::ok("host.state", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;

    #[test]
    fn owners_are_judged_by_whether_they_live_and_stay() {
        let one = |gone| OwnerLook { name: "process 1 on here".into(), gone };
        assert_eq!(owner(Some(&one(false)), (3, 3)).level, Level::Ok);
        assert_eq!(owner(Some(&one(true)), (3, 3)).level, Level::Note);
        assert_eq!(owner(None, (0, 0)).level, Level::Note);
        assert_eq!(owner(Some(&one(false)), (3, 5)).level, Level::Note, "one was stopped, the next one started");
        assert_eq!(owner(Some(&one(false)), (3, 6)).level, Level::Problem);
    }

    #[test]
    fn what_was_lost_long_ago_is_a_note_and_what_is_lost_now_a_problem() {
        assert!(lost(0, (0, 0)).is_none());
        assert_eq!(lost(7, (7, 7)).unwrap().level, Level::Note);
        assert_eq!(lost(7, (7, 9)).unwrap().level, Level::Problem);
    }

    #[test]
    fn a_state_is_judged_by_what_must_be_read_again() {
        let level = |age_ms, behind, kept, runs| {
            saved(&SavedState { symbols: 1, bytes: None, age_ms, behind }, 0, kept, runs).level
        };
        assert_eq!(level(5_000, 10, None, true), Level::Ok);
        assert_eq!(level(5_000, 10, Some(60_000), true), Level::Ok);
        assert_eq!(level(50_000, 10, Some(6_000), true), Level::Problem);
        assert_eq!(level(50_000, 0, Some(6_000), true), Level::Ok);
        assert_eq!(level(50_000, 10, Some(6_000), false), Level::Ok);
    }

    #[test]
    fn letters_of_today_are_a_warning() {
        let survey = Survey { dead_length: 2, ..Survey::default() };
        let level =
            |at_ms| dead_letters(&survey, Some(&(at_ms, "no symbol".into())), 200_000_000).map(|found| found.level);
        assert_eq!([level(199_000_000), level(1_000)], [Some(Level::Warning), Some(Level::Note)]);
        assert!(dead_letters(&survey, None, 5).is_none());
    }
}
