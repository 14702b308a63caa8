//! The Redis server: its distance, version, role and clients, what a crash would lose, and which commands it allows.

use std::{collections::BTreeSet, time::Duration};

use super::{
    finding::{Finding, Level},
    text::duration,
};
use tickhound_core::config::StreamConfig;
use tickhound_redis::inspect::{Answer, RejectedCommand, ServerInspection, ServerLocation};

/// Above this, the round trip limits the throughput of a host.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(20);

/// Clocks that differ by more than this make alerts look later, or earlier, than they are.
const SKEW_WARNING_MS: f64 = 500.0;

/// Clocks that differ by more than this can't be compared at all.
const SKEW_PROBLEM_MS: f64 = 5_000.0;

pub(super) fn judge(server: &ServerInspection, config: &StreamConfig) -> Vec<Finding> {
    let mut findings = vec![reach(&server.round_trips, config), access(server)];
    match &server.info {
        Ok(_) => {
            findings.push(version(server));
            findings.push(role(server));
            findings.extend(clients(server));
            findings.push(persistence(server));
            findings.extend(written(server));
        }
        Err(rejection) => findings.push(
            Finding::note("server.info", format!("version, persistence and memory can't be inspected: {rejection}"))
                .cure("grant INFO, which only reads, with ACL SETUSER <user> +info"),
        ),
    }
    findings.extend(rights(&server.rejected));
    findings
}

fn reach(round_trips: &[Duration], config: &StreamConfig) -> Finding {
    let median = round_trips.get(round_trips.len() / 2).copied().unwrap_or_default();
    let slowest = round_trips.last().copied().unwrap_or_default();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let observed = format!(
        "redis at {} answers in {:.2} ms (median of {}; slowest {:.2} ms)",
        config.address(),
        ms(median),
        round_trips.len(),
        ms(slowest)
    );
    if slowest.as_millis() as u64 * 3 > config.lease_ms {
        return Finding::problem("server.reach", observed).cure(format!(
            "a host renews its lease every third of stream.lease_ms, which is {} ms, and would lose it. Find what slows the server (redis-cli SLOWLOG GET, redis-cli --latency), or raise stream.lease_ms; a standby then takes over that much later",
            config.lease_ms
        ));
    }
    if median > ROUND_TRIP_MAX {
        return Finding::warning("server.reach", observed).cure(format!(
            "each read takes one round trip, which limits throughput to {:.0} entries a second. Run Tickhound nearer to the server, or raise stream.batch; more entries are then processed again after a crash",
            config.batch as f64 / median.as_secs_f64()
        ));
    }
    Finding::ok("server.reach", observed)
}

fn access(server: &ServerInspection) -> Finding {
    match (server.location, server.authenticated) {
        (ServerLocation::Here, _) => Finding::ok("server.access", "the server is on this machine"),
        (ServerLocation::Elsewhere { tls: false }, true) => Finding::warning(
            "server.access",
            "the connection crosses the network without TLS: the password, ticks and alerts can be read and changed on the way",
        )
        .cure("use rediss://… in stream.url and tls-port in redis.conf, or a tunnel. TLS costs some processor time on both sides"),
        (ServerLocation::Elsewhere { .. }, false) => Finding::warning(
            "server.access",
            "the server is reached over the network without a password: anyone who reaches its port can delete ticks or write alerts",
        )
        .cure("set requirepass or an ACL user in redis.conf, and redis://user:password@… in TICKHOUND_STREAM__URL; every client then needs a password"),
        (ServerLocation::Elsewhere { tls: true }, true) => {
            Finding::ok("server.access", "the connection uses TLS, and the server authenticates its clients")
        }
    }
}

/// The major, minor and patch number of a version.
type Version = (u64, u64, u64);

fn version(server: &ServerInspection) -> Finding {
    let redis = server.info("redis_version").unwrap_or("unknown");
    let (name, text) = match server.info("valkey_version") {
        Some(valkey) => ("Valkey", valkey),
        None => ("Redis", redis),
    };
    judge_version(name, text)
}

fn judge_version(name: &str, text: &str) -> Finding {
    let running = format!("the server is {name} {text}");
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version: Version = (next(), next(), next());
    let upgrade = "upgrade the server; hosts wait while it restarts, and then continue";
    if name == "Redis" && version < (6, 2, 0) {
        return Finding::problem(
            "server.version",
            format!("{running}, whose XPENDING lacks IDLE, so entries of dead consumers can't be claimed"),
        )
        .cure("upgrade to 6.2 or newer, preferably to 7.0 or newer");
    }
    if name == "Redis" && version < (7, 0, 0) {
        return Finding::warning(
            "server.version",
            format!(
                "{running}, which does not count the entries ever added, so trimmed ticks can't be counted as lost"
            ),
        )
        .cure(upgrade);
    }
    // Only the branches whose first release with the fix is known.
    let fixed = [(7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3)];
    let fixed = fixed.into_iter().find(|(major, minor, _)| (*major, *minor) == (version.0, version.1));
    if let Some(least) = fixed.filter(|least| name == "Redis" && version < *least) {
        let more = if ((8, 2, 0)..(8, 2, 3)).contains(&version) { " and CVE-2025-62507 (XACKDEL)" } else { "" };
        return Finding::warning(
            "server.version",
            format!("{running}, which has CVE-2026-23479 (use after free when blocked clients are woken){more}"),
        )
        .cure(format!("{upgrade}. The fix is in {}.{}.{} and newer", least.0, least.1, least.2));
    }
    if name == "Redis" && version < (7, 2, 0) {
        return Finding::note(
            "server.version",
            format!(
                "{running}, whose `lag` is wrong after trimming (redis #13337, #13957); Tickhound does not use it, but other tools may"
            ),
        );
    }
    Finding::ok("server.version", running)
}

fn role(server: &ServerInspection) -> Finding {
    let role = server.info("role").unwrap_or("unknown");
    let replicas = server.count("connected_slaves").unwrap_or(0);
    if server.info("cluster_enabled") == Some("1") || server.info("redis_mode") == Some("cluster") {
        return Finding::problem("server.role", "the server is a node of a Redis Cluster, which is not supported")
            .cure("use a separate server for ticks and alerts");
    }
    match (role, replicas) {
        ("slave", _) => {
            let host = server.info("master_host").unwrap_or("?");
            let port = server.info("master_port").unwrap_or("?");
            Finding::problem(
                "server.role",
                format!(
                    "the server is a replica of {host}:{port}; it accepts no writes, so no entries can be processed"
                ),
            )
            .cure("set stream.url to the master, or promote this server (REPLICAOF NO ONE); hosts wait until then")
        }
        (_, 0) => Finding::ok("server.role", format!("the server is a {role} without replicas")),
        (_, many) => Finding::note(
            "server.role",
            format!(
                "the server is a {role} with {many} replicas; a promoted replica may lack the last commits, and their alerts are then published again under the same ids"
            ),
        ),
    }
}

fn clients(server: &ServerInspection) -> Option<Finding> {
    let (connected, most) = (server.count("connected_clients")?, server.count("maxclients")?);
    let refused = server.count("rejected_connections").unwrap_or(0);
    let observed = format!(
        "{connected} of at most {most} clients are connected; {refused} were rejected since the server started"
    );
    if connected * 10 <= most * 9 {
        return Some(Finding::ok("server.clients", observed));
    }
    let cure = "raise the limit with CONFIG SET maxclients, or find the program that leaks connections with CLIENT LIST; a host needs 5";
    Some(Finding::warning("server.clients", observed).cure(cure))
}

fn persistence(server: &ServerInspection) -> Finding {
    let appends = server.info("aof_enabled") == Some("1");
    let fsync = server.setting("appendfsync");
    let saves = server.setting("save").map(|save| !save.is_empty());
    let since = server.count("rdb_last_save_time").unwrap_or(0);
    let now = server.count("server_time_usec").map_or(0, |micros| micros / 1_000_000);
    let turn_on = "CONFIG SET appendonly yes, and the same in redis.conf. The server then writes each change to disk as well, about as fast as before with appendfsync everysec; it forks once, now, to write out all its data";
    match (appends, fsync, saves) {
        (true, Some("always"), _) => Finding::ok("server.persistence", "the server has an append-only file and confirms a write only when it is on disk; a power cut loses nothing"),
        (true, Some("no"), _) => Finding::warning(
            "server.persistence",
            "the server has an append-only file and leaves it to the system when to write it to disk; a power cut loses up to half a minute of ticks, commits and alerts",
        )
        .cure("CONFIG SET appendfsync everysec; a power cut then loses about a second, and the disk is used more"),
        (true, ..) => Finding::ok(
            "server.persistence",
            "the server has an append-only file; a power cut loses about the last second of ticks, commits and alerts, and a crash of the server alone loses nothing",
        ),
        (false, _, Some(false)) => Finding::problem(
            "server.persistence",
            "persistence is off: a restart of the server loses every tick, the group, all alerts and the state of all detectors",
        )
        .cure(turn_on),
        (false, _, None) => Finding::note("server.persistence", "the server has no append-only file; whether it takes snapshots can't be inspected").cure(turn_on),
        (false, ..) => Finding::warning(
            "server.persistence",
            format!(
                "the server takes snapshots only; a crash now would lose {} changes, all since the last one {} ago",
                server.count("rdb_changes_since_last_save").unwrap_or(0),
                duration(now.saturating_sub(since) * 1000)
            ),
        )
        .cure(turn_on),
    }
}

/// Judges whether the last writes to disk succeeded.
fn written(server: &ServerInspection) -> Vec<Finding> {
    let mut findings = Vec::new();
    if server.info("loading") == Some("1") {
        findings.push(Finding::problem(
            "server.loading",
            "the server is still loading its data; hosts wait until it is done",
        ));
    }
    let failed = |name: &str| server.info(name).is_some_and(|status| status != "ok");
    let room = "free space on the disk that holds the server's `dir` (CONFIG GET dir), and read the server's log";
    if failed("aof_last_write_status") {
        findings.push(
            Finding::problem(
                "server.written",
                "the last write to the append-only file failed, and the server rejects writes",
            )
            .cure(room),
        );
    } else if failed("rdb_last_bgsave_status") {
        findings.push(
            Finding::problem("server.written", "the last snapshot failed; by default the server then rejects writes")
                .cure(room),
        );
    } else if failed("aof_last_bgrewrite_status") {
        findings.push(
            Finding::warning("server.written", "the append-only file could not be rewritten, and it grows").cure(room),
        );
    } else {
        findings.push(Finding::ok("server.written", "the last writes to disk succeeded"));
    }
    findings
}

/// Judges whether the server accepts all commands, and whether the user's rights or the server's state is in the way.
fn rights(rejected: &Answer<Vec<RejectedCommand>>) -> Vec<Finding> {
    let rejected = match rejected {
        Ok(rejected) => rejected,
        Err(reason) => {
            let observed = format!("the rights of this user can't be inspected: {reason}");
            return vec![Finding::note("server.rights", observed)];
        }
    };
    let (forbidden, failing): (Vec<&RejectedCommand>, Vec<&RejectedCommand>) =
        rejected.iter().partition(|one| one.reason.starts_with("NOPERM"));
    let mut findings = vec![judge_forbidden(&forbidden)];
    findings.extend(judge_failing(&failing));
    findings
}

/// Judges the commands that the server's ACL does not allow this user.
fn judge_forbidden(forbidden: &[&RejectedCommand]) -> Finding {
    let Some(first) = forbidden.first() else {
        return Finding::ok("server.rights", "this user may run every command that Tickhound uses");
    };
    let names: Vec<String> = forbidden.iter().map(|one| format!("{} (for {})", one.command, one.needed_by)).collect();
    // The server names neither the key nor, before 7.0, the command.
    let on = first.key.as_ref().map_or_else(String::new, |key| format!(", on the key {key}"));
    let observed =
        format!("this user may not run {}; the server's error for the first{on}: {}", names.join(", "), first.reason);
    let commands = forbidden.iter().map(|one| format!("+{}", one.command.to_lowercase().replace(' ', "|")));
    let keys = forbidden.iter().filter_map(|one| Some(format!("~{}", one.key.as_ref()?)));
    let (commands, keys): (BTreeSet<String>, BTreeSet<String>) = (commands.collect(), keys.collect());
    let rights: Vec<String> = commands.into_iter().chain(keys).collect();
    let cure = format!(
        "docs/redis-acl.md has the rights of each kind of user; those that are missing are {}. Run ACL SETUSER <user> with them, and then ACL SAVE, or edit users.acl",
        rights.join(" ")
    );
    let level = if forbidden.iter().any(|one| one.needed_by == "run") { Level::Problem } else { Level::Warning };
    Finding::new(level, "server.rights", observed).cure(cure)
}

/// Judges the commands that the server would reject in its present state, whoever sends them.
fn judge_failing(failing: &[&RejectedCommand]) -> Option<Finding> {
    let first = failing.first()?;
    let names: Vec<&str> = failing.iter().map(|one| one.command.as_str()).collect();
    let observed = format!("the server would now reject {}: {}", names.join(", "), first.reason);
    // An error of Redis begins with its code.
    let code = first.reason.split(' ').next().unwrap_or_default();
    let cure = match code {
        "OOM" => {
            "the server's memory is full: raise CONFIG SET maxmemory, or let the producer trim the stream; hosts wait until then"
        }
        "MISCONF" => "the server can't write to its disk: free some space; hosts wait until then",
        "READONLY" => "the server is a replica: set stream.url to the master",
        "NOREPLICAS" => {
            "min-replicas-to-write is not met: restart the replicas, or run CONFIG SET min-replicas-to-write 0, after which only one machine holds the data"
        }
        "LOADING" | "BUSY" => "wait until the server is ready; a script that does not end is stopped by SCRIPT KILL",
        _ => "the server's error says more; a command that was renamed or removed must be available under its own name",
    };
    Some(Finding::problem("server.writes", observed).cure(cure))
}

/// Judges how far the server's clock is from ours.
pub(super) fn judge_clock(ahead_ms: &Answer<(f64, f64)>, stale_after_ms: u64) -> Option<Finding> {
    let (ahead, wrong_by) = match ahead_ms {
        Ok(measured) => *measured,
        Err(rejection) => {
            let observed = format!("the server's clock can't be read: {rejection}");
            return Some(Finding::note("clock.server", observed));
        }
    };
    let way = if ahead < 0.0 { "behind" } else { "ahead of" };
    let observed =
        format!("the server's clock is {:.1} ms {way} this machine's (give or take {wrong_by:.1} ms)", ahead.abs());
    let apart = ahead.abs() - wrong_by;
    let cure =
        "run NTP on both machines (timedatectl set-ntp true, or chrony), and step the clock outside of market hours";
    let stale = stale_after_ms as f64 / 2.0;
    Some(match apart {
        apart if apart > SKEW_PROBLEM_MS || (stale > 0.0 && apart > stale) => {
            Finding::problem("clock.server", format!("{observed}; `lag_ms` and `stale` of alerts are wrong by as much"))
                .cure(cure)
        }
        apart if apart > SKEW_WARNING_MS => {
            Finding::warning("clock.server", format!("{observed}; `lag_ms` of alerts is wrong by as much")).cure(cure)
        }
        _ => Finding::ok("clock.server", observed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &[(&str, &str)], settings: &[(&str, &str)]) -> ServerInspection {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ServerInspection {
            location: ServerLocation::Here,
            authenticated: false,
            round_trips: vec![Duration::from_micros(100)],
            ahead_ms: Ok((0.0, 0.1)),
            info: Ok(owned(info)),
            settings: Ok(owned(settings)),
            rejected: Ok(Vec::new()),
        }
    }

    #[test]
    fn versions_are_judged_by_their_known_faults() {
        let cases = [
            ("Redis", "5.0.14", Level::Problem),
            ("Redis", "6.2.14", Level::Warning),
            ("Redis", "7.0.15", Level::Note),
            ("Redis", "7.2.4", Level::Ok),
            ("Redis", "7.4.8", Level::Warning),
            ("Redis", "7.4.9", Level::Ok),
            ("Redis", "8.2.2", Level::Warning),
            ("Redis", "8.2.6", Level::Ok),
            ("Redis", "8.6.3", Level::Ok),
            ("Redis", "8.10.0", Level::Ok),
            ("Valkey", "9.1.2", Level::Ok),
            ("Valkey", "7.4.0", Level::Ok),
        ];
        for (name, version, level) in cases {
            assert_eq!(judge_version(name, version).level, level, "{name} {version}");
        }
        assert!(judge_version("Redis", "8.2.2").found.contains("CVE-2025-62507"));
        assert!(!judge_version("Redis", "8.2.3").found.contains("CVE-2025-62507"));
    }

    #[test]
    fn persistence_is_judged_by_what_a_crash_would_lose() {
        type Persistence<'a> = (&'a str, &'a [(&'a str, &'a str)], Level, &'a str);
        let cases: [Persistence<'_>; 6] = [
            ("1", &[("appendfsync", "always")], Level::Ok, "loses nothing"),
            ("1", &[("appendfsync", "everysec")], Level::Ok, "last second"),
            ("1", &[("appendfsync", "no")], Level::Warning, "half a minute"),
            ("0", &[("save", "")], Level::Problem, "persistence is off"),
            ("0", &[("save", "3600 1")], Level::Warning, "7 changes, all since the last one 5.0 s ago"),
            ("0", &[], Level::Note, "can't be inspected"),
        ];
        for (appends, settings, level, part) in cases {
            let info = [
                ("aof_enabled", appends),
                ("rdb_last_save_time", "100"),
                ("server_time_usec", "105000000"),
                ("rdb_changes_since_last_save", "7"),
            ];
            let finding = persistence(&server(&info, settings));
            assert_eq!(finding.level, level, "{}", finding.found);
            assert!(finding.found.contains(part), "{}", finding.found);
            assert!(finding.level == Level::Ok || finding.cure.is_some());
        }
    }

    #[test]
    fn failed_writes_are_a_problem() {
        let level = |info: &[(&str, &str)]| written(&server(info, &[])).iter().map(|finding| finding.level).max();
        assert_eq!(level(&[("aof_last_write_status", "ok"), ("rdb_last_bgsave_status", "ok")]), Some(Level::Ok));
        assert_eq!(level(&[("aof_last_write_status", "err")]), Some(Level::Problem));
        assert_eq!(level(&[("rdb_last_bgsave_status", "err")]), Some(Level::Problem));
        assert_eq!(level(&[("aof_last_bgrewrite_status", "err")]), Some(Level::Warning));
        assert_eq!(level(&[("loading", "1")]), Some(Level::Problem));
    }

    #[test]
    fn clocks_are_judged_beyond_what_the_round_trip_can_explain() {
        let level = |ahead, wrong_by, stale| judge_clock(&Ok((ahead, wrong_by)), stale).unwrap().level;
        assert_eq!(level(3.0, 0.1, 60_000), Level::Ok);
        assert_eq!(level(-800.0, 400.0, 60_000), Level::Ok);
        assert_eq!(level(-800.0, 0.1, 60_000), Level::Warning);
        assert_eq!(level(800.0, 0.1, 1_000), Level::Problem);
        assert_eq!(level(800.0, 0.1, 0), Level::Warning);
        assert_eq!(level(5_500.0, 0.1, 0), Level::Problem);
    }

    #[test]
    fn a_rejected_command_is_due_to_the_user_or_the_server() {
        let refused = |needed_by, reason: &str| {
            let judged = rights(&Ok(vec![RejectedCommand {
                command: "XGROUP CREATE".into(),
                key: Some("ticks".into()),
                needed_by,
                reason: reason.into(),
            }]));
            judged
                .into_iter()
                .map(|finding| (finding.id, finding.level, finding.cure.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let run = &refused("run", "NOPERM this user …")[0];
        assert!(run.1 == Level::Problem && run.2.contains("+xgroup|create ~ticks"), "{run:?}");
        assert_eq!(refused("feed", "NOPERM this user …")[0].1, Level::Warning);
        let full = refused("run", "OOM command not allowed");
        assert_eq!((full[0].1, full[1].0.as_str(), full[1].1), (Level::Ok, "server.writes", Level::Problem));
    }

    #[test]
    fn a_far_or_slow_server_is_reported() {
        let config = StreamConfig::default();
        let level = |ms: u64| reach(&[Duration::from_millis(ms); 3], &config).level;
        assert_eq!([level(0), level(50), level(2_000)], [Level::Ok, Level::Warning, Level::Problem]);
    }

    #[test]
    fn connections_without_tls_or_password_are_reported() {
        let level =
            |location, authenticated| access(&ServerInspection { location, authenticated, ..server(&[], &[]) }).level;
        assert_eq!(level(ServerLocation::Here, false), Level::Ok);
        assert_eq!(level(ServerLocation::Elsewhere { tls: true }, true), Level::Ok);
        assert_eq!(level(ServerLocation::Elsewhere { tls: true }, false), Level::Warning);
        assert_eq!(level(ServerLocation::Elsewhere { tls: false }, true), Level::Warning);
    }
}
