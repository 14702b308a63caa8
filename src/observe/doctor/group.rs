//! The consumer group: whether it is there, who is in it, and what they hold.

use super::{Finding, fix::Remedy, lasting};
use tickhound_core::{
    config::{Config, Start},
    event::EntryId,
};
use tickhound_redis::look::{ConsumerLook, GroupLook, PartitionLook};

/// An entry that was given out so often was in hand when somebody died, more than once.
const OFTEN: u64 = 3;

pub(super) fn judge(partition: &PartitionLook, config: &Config) -> Vec<Finding> {
    let Some(stream) = &partition.stream else { return Vec::new() };
    let (key, group) = (&config.stream.key, &config.stream.group);
    if let Some(refusal) = &stream.group_untold {
        return vec![Finding::note("group.exists", format!("can't be looked at: {refusal}"))];
    }
    let Some(look) = &stream.group else {
        return vec![missing(partition, key, group, config.stream.start)];
    };
    let (length, _, newest) = stream.later;
    let mut findings = vec![Finding::ok(
        "group.exists",
        format!("{group}: given out up to {}, the stream ends at {newest}", look.last_delivered),
    )];
    findings.extend(consumers(&look.consumers, &config.stream.consumer, config.stream.claim_idle_ms));
    let oldest = stream.oldest.filter(|_| length > 0);
    findings.push(pending(look, oldest, stream.now_ms, config.stream.max_deliveries));
    findings
}

fn missing(partition: &PartitionLook, key: &str, group: &str, start: Start) -> Finding {
    let begins = match (partition.committed, start) {
        (true, _) => "at the last commit that is known".to_owned(),
        (_, Start::Earliest) => "with the oldest entry that is there".to_owned(),
        (_, Start::Latest) => "with what comes from then on".to_owned(),
        (_, Start::After(id)) => format!("after {id}"),
    };
    let live = partition.owner.as_ref().filter(|owner| !owner.gone);
    if let Some(owner) = live {
        return Finding::note("group.exists", format!("{key} has no group {group}; {} makes it again", owner.name));
    }
    let finding = Finding::warning("group.exists", format!("{key} has no group {group}"));
    let cure = format!("`tickhound run` makes it, {begins} (stream.start)");
    finding.cure(cure).remedy(Remedy::Group)
}

fn consumers(all: &[ConsumerLook], ours: &str, dead_after_ms: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for other in all.iter().filter(|consumer| consumer.name != ours) {
        let ConsumerLook { name, pending, idle_ms } = other;
        let held = format!("{name}: {pending} pending, idle for {}", lasting(*idle_ms));
        let id = "group.consumers";
        findings.push(match (*idle_ms < dead_after_ms, *pending) {
            (true, _) => Finding::warning(id, format!("{held}: another program is at work in this group, or was until just now; detectors don't see the ticks that it takes"))
                .cure("stop it, or give Tickhound a stream.group of its own (it then works all that the stream holds)"),
            (false, 0) => Finding::warning(id, format!("{held}: a left-over"))
                .cure("a running host removes it within half a minute")
                .remedy(Remedy::Consumer(name.clone())),
            (false, _) => Finding::problem(id, format!("{held}: nobody else gets at these entries"))
                .cure("`tickhound run` takes them over in id order and works them. Don't XACK them and don't XGROUP DELCONSUMER: either throws the ticks away"),
        });
    }
    if findings.is_empty() {
        let names: Vec<&str> = all.iter().map(|consumer| consumer.name.as_str()).collect();
        let who = if names.is_empty() { "nobody so far".to_owned() } else { names.join(", ") };
        findings.push(Finding::ok("group.consumers", format!("{who}; no strangers")));
    }
    findings
}

fn pending(look: &GroupLook, oldest: Option<EntryId>, now_ms: u64, max_deliveries: u64) -> Finding {
    let total: u64 = look.consumers.iter().map(|consumer| consumer.pending).sum();
    let Some(first) = look.pending.first() else {
        return Finding::ok("group.pending", "nothing is pending");
    };
    let found =
        format!("{total} pending, the oldest {} since {}", lasting(now_ms.saturating_sub(first.id.millis)), first.id);
    let gone = look.pending.iter().filter(|entry| oldest.is_none_or(|oldest| entry.id < oldest)).count();
    if gone > 0 {
        let at_least = if gone == look.pending.len() { "at least " } else { "" };
        return Finding::problem(
            "group.pending",
            format!("{found}; {at_least}{gone} of them were trimmed away before they were worked: these ticks are lost"),
        )
        .cure("keep more entries (see stream.kept); a host acknowledges what is gone, counts it as lost, and logs the ids");
    }
    let most = look.pending.iter().max_by_key(|entry| entry.deliveries).filter(|entry| entry.deliveries >= OFTEN);
    if let Some(most) = most {
        let aside = match max_deliveries {
            0 => "stream.max_deliveries = 0: it is never set aside".to_owned(),
            times => format!("a host that dies on it {times} times sets it aside (stream.max_deliveries)"),
        };
        return Finding::warning(
            "group.pending",
            format!("{found}; {} was given out {} times", most.id, most.deliveries),
        )
        .cure(format!("look at the entry (XRANGE <stream> {0} {0}) and the host's log; {aside}", most.id));
    }
    Finding::ok("group.pending", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;
    use tickhound_redis::look::PendingLook;

    fn consumer(name: &str, pending: u64, idle_ms: u64) -> ConsumerLook {
        ConsumerLook { name: name.into(), pending, idle_ms }
    }

    #[test]
    fn only_an_empty_and_long_idle_stranger_may_be_removed() {
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
    fn pending_entries_are_judged_by_whether_they_are_there_and_how_often_they_were_given_out() {
        let id = |millis| EntryId { millis, seq: 0 };
        let look = |entries: &[(u64, u64)]| GroupLook {
            pending: entries
                .iter()
                .map(|(at, deliveries)| PendingLook { id: id(*at), deliveries: *deliveries })
                .collect(),
            ..GroupLook::default()
        };
        let level = |entries: &[(u64, u64)], oldest| pending(&look(entries), oldest, 100, 5).level;
        assert_eq!(level(&[], Some(id(5))), Level::Ok);
        assert_eq!(level(&[(5, 1)], Some(id(5))), Level::Ok);
        assert_eq!(level(&[(5, 4)], Some(id(5))), Level::Warning);
        assert_eq!(level(&[(4, 1), (5, 1)], Some(id(5))), Level::Problem);
        assert_eq!(level(&[(4, 1)], None), Level::Problem);
    }

    #[test]
    fn a_group_is_made_unless_a_host_lives_that_will_make_it() {
        use tickhound_redis::look::OwnerLook;
        let with = |owner: Option<bool>| {
            let owner = owner.map(|gone| OwnerLook { name: "process 1 on here".into(), gone });
            missing(&PartitionLook { owner, ..PartitionLook::default() }, "ticks", "g", Start::Latest)
        };
        assert!(with(None).remedy.is_some() && with(Some(true)).remedy.is_some());
        assert!(with(Some(false)).remedy.is_none());
    }
}
