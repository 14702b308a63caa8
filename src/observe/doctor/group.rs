//! The consumer group: whether it exists, its consumers, and their pending entries.

use super::{finding::Finding, fix::Remedy, text::duration};
use tickhound_core::{
    config::{Config, Start},
    event::EntryId,
};
use tickhound_redis::inspect::{ConsumerInspection, GroupInspection, PartitionInspection, StreamCounts};

/// An entry that was delivered this often was in flight at more than one crash.
const DELIVERIES_SUSPICIOUS: u64 = 3;

pub(super) fn judge(partition: &PartitionInspection, config: &Config) -> Vec<Finding> {
    let Some(stream) = &partition.stream else { return Vec::new() };
    let (key, group) = (&config.stream.key, &config.stream.group);
    if let Some(rejection) = &stream.group_error {
        return vec![Finding::note("group.exists", format!("the groups of {key} can't be inspected: {rejection}"))];
    }
    let Some(group_state) = &stream.group else {
        return vec![missing(partition, key, group, config.stream.start)];
    };
    let StreamCounts { length, newest, .. } = stream.later;
    let mut findings = vec![Finding::ok(
        "group.exists",
        format!(
            "the group {group} has been delivered entries up to {}; the stream ends at {newest}",
            group_state.last_delivered
        ),
    )];
    findings.extend(consumers(&group_state.consumers, &config.stream.consumer, config.stream.claim_idle_ms));
    let oldest = stream.oldest.filter(|_| length > 0);
    findings.push(pending(group_state, oldest, stream.now_ms, config.stream.max_deliveries));
    findings
}

fn missing(partition: &PartitionInspection, key: &str, group: &str, start: Start) -> Finding {
    let begins = match (partition.committed, start) {
        (true, _) => "at the last known commit".to_owned(),
        (_, Start::Earliest) => "with the oldest entry of the stream".to_owned(),
        (_, Start::Latest) => "with the next entry".to_owned(),
        (_, Start::After(id)) => format!("after entry {id}"),
    };
    let live = partition.owner.as_ref().filter(|owner| !owner.gone);
    if let Some(owner) = live {
        return Finding::note(
            "group.exists",
            format!("the stream {key} has no group {group}; {} creates it again", owner.name),
        );
    }
    let finding = Finding::warning("group.exists", format!("the stream {key} has no group {group}"));
    let cure = format!("`tickhound run` creates the group, which begins {begins} (stream.start)");
    finding.cure(cure).remedy(Remedy::Group)
}

fn consumers(all: &[ConsumerInspection], ours: &str, dead_after_ms: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for other in all.iter().filter(|consumer| consumer.name != ours) {
        let ConsumerInspection { name, pending, idle_ms } = other;
        let state = format!("{name}: {pending} pending, idle for {}", duration(*idle_ms));
        let id = "group.consumers";
        findings.push(if *idle_ms < dead_after_ms {
            Finding::warning(id, format!("{state}; another program reads in this group, or did until just now, and detectors don't see the ticks that it reads"))
                .cure("stop that program, or give Tickhound a stream.group of its own, which processes everything that the stream holds")
        } else if *pending == 0 {
            Finding::warning(id, format!("{state}; the consumer is a leftover"))
                .cure("a running host removes it within half a minute")
                .remedy(Remedy::Consumer(name.clone()))
        } else {
            Finding::problem(id, format!("{state}; Redis delivers these entries to no other consumer"))
                .cure("`tickhound run` claims them and processes them in id order. Do not use XACK or XGROUP DELCONSUMER: both would lose these ticks")
        });
    }
    if findings.is_empty() {
        let names: Vec<&str> = all.iter().map(|consumer| consumer.name.as_str()).collect();
        let observed = match names.as_slice() {
            [] => "the group has no consumers yet".to_owned(),
            names => format!("no other program reads in this group; its consumers: {}", names.join(", ")),
        };
        findings.push(Finding::ok("group.consumers", observed));
    }
    findings
}

fn pending(group_state: &GroupInspection, oldest: Option<EntryId>, now_ms: u64, max_deliveries: u64) -> Finding {
    let total: u64 = group_state.consumers.iter().map(|consumer| consumer.pending).sum();
    let Some(first) = group_state.pending.first() else {
        return Finding::ok("group.pending", "no entries are pending");
    };
    let age = duration(now_ms.saturating_sub(first.id.millis));
    let observed = format!("{total} pending entries, the oldest is {} and {age} old", first.id);
    let gone = group_state.pending.iter().filter(|entry| oldest.is_none_or(|oldest| entry.id < oldest)).count();
    if gone > 0 {
        let at_least = if gone == group_state.pending.len() { "at least " } else { "" };
        return Finding::problem(
            "group.pending",
            format!("{observed}; {at_least}{gone} of them were trimmed before they were processed, and their ticks are lost"),
        )
        .cure("keep more entries in the stream (see stream.kept); a host acknowledges trimmed entries, counts them as lost, and logs their ids");
    }
    let most = group_state
        .pending
        .iter()
        .max_by_key(|entry| entry.deliveries)
        .filter(|entry| entry.deliveries >= DELIVERIES_SUSPICIOUS);
    if let Some(most) = most {
        let limit = match max_deliveries {
            0 => "it never becomes a dead letter, since stream.max_deliveries is 0".to_owned(),
            times => {
                format!("it becomes a dead letter when a host has crashed on it {times} times (stream.max_deliveries)")
            }
        };
        return Finding::warning(
            "group.pending",
            format!("{observed}; the entry {} was delivered {} times", most.id, most.deliveries),
        )
        .cure(format!("inspect the entry (XRANGE <stream> {0} {0}) and the host's log; {limit}", most.id));
    }
    Finding::ok("group.pending", observed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;
    use tickhound_redis::inspect::PendingEntry;

    fn consumer(name: &str, pending: u64, idle_ms: u64) -> ConsumerInspection {
        ConsumerInspection { name: name.into(), pending, idle_ms }
    }

    #[test]
    fn only_an_empty_and_long_idle_consumer_of_another_program_may_be_removed() {
        let cases = [
            (consumer("tickhound", 9, 900_000), Level::Ok, false),
            (consumer("scanner_1", 0, 10), Level::Warning, false),
            (consumer("scanner_1", 5, 10), Level::Warning, false),
            (consumer("scanner_1", 5, 60_000), Level::Problem, false),
            (consumer("scanner_1", 0, 60_000), Level::Warning, true),
        ];
        for (one, level, removable) in cases {
            let judged = consumers(std::slice::from_ref(&one), "tickhound", 60_000);
            assert_eq!((judged[0].level, judged[0].remedy.is_some()), (level, removable), "{one:?}");
        }
    }

    #[test]
    fn pending_entries_are_judged_by_whether_they_exist_and_how_often_they_were_delivered() {
        let id = |millis| EntryId { millis, seq: 0 };
        let group_state = |entries: &[(u64, u64)]| GroupInspection {
            pending: entries
                .iter()
                .map(|(at, deliveries)| PendingEntry { id: id(*at), deliveries: *deliveries })
                .collect(),
            ..GroupInspection::default()
        };
        let level = |entries: &[(u64, u64)], oldest| pending(&group_state(entries), oldest, 100, 5).level;
        assert_eq!(level(&[], Some(id(5))), Level::Ok);
        assert_eq!(level(&[(5, 1)], Some(id(5))), Level::Ok);
        assert_eq!(level(&[(5, 4)], Some(id(5))), Level::Warning);
        assert_eq!(level(&[(4, 1), (5, 1)], Some(id(5))), Level::Problem);
        assert_eq!(level(&[(4, 1)], None), Level::Problem);
    }

    #[test]
    fn a_group_is_created_unless_a_running_host_will_create_it() {
        use tickhound_redis::inspect::LeaseOwner;
        let with = |owner: Option<bool>| {
            let owner = owner.map(|gone| LeaseOwner { name: "process 1 on here".into(), gone });
            missing(&PartitionInspection { owner, ..PartitionInspection::default() }, "ticks", "g", Start::Latest)
        };
        assert!(with(None).remedy.is_some() && with(Some(true)).remedy.is_some());
        assert!(with(Some(false)).remedy.is_none());
    }
}
