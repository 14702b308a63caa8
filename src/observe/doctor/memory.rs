//! The server's memory: what it may evict, which keys use it, and when it will be full.

use super::{
    finding::Finding,
    stream::Flow,
    text::{duration, size},
};
use tickhound_redis::{
    inspect::{PartitionInspection, ServerInspection},
    may_evict_any_key,
};

/// Somewhat longer than a trading session: memory that lasts for longer needs no attention today.
const SESSION_MS: u64 = 8 * 3_600_000;

/// Memory that is full in less than this leaves an operator too little time.
const SOON_MS: u64 = 3_600_000;

/// Above this share of `maxmemory`, memory is nearly full.
const NEARLY_FULL: f64 = 0.85;

/// Above this share of `maxmemory`, memory counts as full.
const FULL: f64 = 0.97;

pub(super) fn judge(server: &ServerInspection, partition: &PartitionInspection, key: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let flow = partition.stream.as_ref().map(Flow::of);
    let bytes = partition.sizes.iter().find(|(known, _)| known == key).map(|(_, bytes)| *bytes);
    if let (Some(limit), Some(policy)) = (value(server, "maxmemory"), value(server, "maxmemory_policy")) {
        findings.push(judge_policy(&policy, &limit, server.count("evicted_keys").unwrap_or(0)));
        let limit = limit.parse().unwrap_or(0);
        // A stream that is trimmed does not grow.
        let growth = flow.as_ref().zip(partition.stream.as_ref()).zip(bytes).map_or(0.0, |((flow, stream), bytes)| {
            let growing = if flow.trimmed { 0.0 } else { flow.rate() };
            growing * bytes as f64 / stream.length.max(1) as f64
        });
        if let Some(used) = server.count("used_memory") {
            findings.push(judge_used(used, limit, server.count("total_system_memory").unwrap_or(0), growth));
        }
    }
    if !partition.sizes.is_empty() {
        let mut sizes = partition.sizes.clone();
        sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let each: Vec<String> = sizes.iter().map(|(key, bytes)| format!("{key} {}", size(*bytes))).collect();
        findings.push(Finding::ok("memory.keys", format!("the keys use about: {}", each.join(", "))));
    }
    for (key, in_ms) in &partition.expiring {
        findings.push(
            Finding::problem("memory.expiry", format!("the server will delete the key {key} in {}", duration(*in_ms)))
                .cure(format!("run PERSIST {key}, and find the program that sets EXPIRE on it")),
        );
    }
    findings
}

/// Returns a value of `INFO`, or of `CONFIG GET`, which spells it with dashes: the user may be allowed only one of them.
fn value(server: &ServerInspection, name: &str) -> Option<String> {
    server.info(name).or_else(|| server.setting(&name.replace('_', "-"))).map(str::to_owned)
}

fn judge_policy(policy: &str, limit: &str, evicted: u64) -> Finding {
    let server_wide = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf. The setting is for the whole server: programs that use it as a cache must then delete what they no longer need, and writes are rejected when memory is full. So `--fix` leaves it to you";
    let so_far = format!("{evicted} keys were evicted since the server started");
    if may_evict_any_key(policy, limit) {
        let observed = format!(
            "{policy}: when memory is short, the server may evict the stream with its group, the alerts and the saved states ({so_far}); `tickhound run` does not start"
        );
        return Finding::problem("memory.policy", observed).cure(server_wide);
    }
    match policy {
        _ if policy.starts_with("allkeys") => {
            Finding::note("memory.policy", format!("{policy} has no effect while maxmemory is not set"))
                .cure(server_wide)
        }
        _ if evicted > 0 => Finding::warning(
            "memory.policy",
            format!("the policy is {policy}, and {so_far}; of Tickhound's keys only the lease can be evicted"),
        )
        .cure("give the server more memory, or move the evicted keys to a separate server"),
        _ => Finding::ok("memory.policy", format!("the policy {policy} never evicts the stream")),
    }
}

/// Judges the memory in use; `growth` is in bytes a second.
fn judge_used(used: u64, limit: u64, machine: u64, growth: f64) -> Finding {
    let (room, of) = match limit {
        0 => (machine, "the machine's memory, since maxmemory is not set"),
        limit => (limit, "maxmemory"),
    };
    let full_in = (growth > 0.0 && room > used).then(|| ((room - used) as f64 / growth * 1e3) as u64);
    let when = match full_in {
        Some(ms) => format!("; at this rate and without trimming, memory is full in {}", duration(ms)),
        None => String::new(),
    };
    let observed = format!("{} of {} is used ({of}){when}", size(used), size(room));
    let cure = format!(
        "let the producer trim old entries (XADD … MINID ~ <now in ms - hours>), well behind the host, or {}. When memory is full, the producer's XADD is rejected and no alert can be published",
        if limit == 0 { "use a machine with more memory" } else { "raise the limit with CONFIG SET maxmemory" }
    );
    let share = used as f64 / room.max(1) as f64;
    // Without maxmemory, other programs share the machine's memory with the server; then only growth is judged.
    let (nearly_full, full) = (limit > 0 && share > NEARLY_FULL, limit > 0 && share > FULL);
    match full_in {
        Some(ms) if ms < SOON_MS => Finding::problem("memory.used", observed).cure(cure),
        _ if full => Finding::problem("memory.used", observed).cure(cure),
        Some(ms) if ms < SESSION_MS => Finding::warning("memory.used", observed).cure(cure),
        _ if nearly_full => Finding::warning("memory.used", observed).cure(cure),
        _ => Finding::ok("memory.used", observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;

    #[test]
    fn policies_are_judged_by_which_of_our_keys_they_can_evict() {
        let cases = [
            ("noeviction", "0", 0, Level::Ok),
            ("noeviction", "100", 0, Level::Ok),
            ("allkeys-lru", "100", 0, Level::Problem),
            ("allkeys-random", "100", 5, Level::Problem),
            ("allkeys-lfu", "0", 0, Level::Note),
            ("volatile-lru", "100", 0, Level::Ok),
            ("volatile-ttl", "100", 3, Level::Warning),
        ];
        for (policy, limit, evicted, level) in cases {
            assert_eq!(judge_policy(policy, limit, evicted).level, level, "{policy} {limit} {evicted}");
        }
    }

    #[test]
    fn memory_is_judged_by_when_it_is_full() {
        const MB: u64 = 1_000_000;
        let cases = [
            (10 * MB, 100 * MB, 0.0, Level::Ok),
            (90 * MB, 100 * MB, 0.0, Level::Warning),
            (99 * MB, 100 * MB, 0.0, Level::Problem),
            // 90 MB left: at 10 kB/s 2.5 h, at 100 kB/s 15 min, at 1 kB/s a day.
            (10 * MB, 100 * MB, 1e4, Level::Warning),
            (10 * MB, 100 * MB, 1e5, Level::Problem),
            (10 * MB, 100 * MB, 1e3, Level::Ok),
            (990 * MB, 0, 0.0, Level::Ok),
            (10 * MB, 0, 1e6, Level::Problem),
        ];
        for (used, limit, growth, level) in cases {
            let finding = judge_used(used, limit, 1000 * MB, growth);
            assert_eq!(finding.level, level, "{}", finding.found);
        }
    }
}
