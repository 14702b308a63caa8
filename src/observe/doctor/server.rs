//! The server: which one, how far, whose, and whether it would take what we send and keep it.

use std::time::Duration;

use super::{Finding, lasting};
use tickhound_core::config::StreamConfig;
use tickhound_redis::look::{Asked, Place, Refused, ServerLook};

/// Above this the round trip is what limits a host.
const FAR: Duration = Duration::from_millis(20);

/// Clocks further apart than this make alerts look later, or earlier, than they are.
const SKEW_MS: f64 = 500.0;

/// And further than this they can't be trusted at all.
const SKEW_MAX_MS: f64 = 5_000.0;

pub(super) fn judge(look: &ServerLook, config: &StreamConfig) -> Vec<Finding> {
    let mut findings = vec![reach(&look.round_trips, config), access(look)];
    match &look.info {
        Ok(_) => {
            findings.push(version(look));
            findings.push(role(look));
            findings.extend(clients(look));
            findings.push(persistence(look));
            findings.extend(written(look));
        }
        Err(refusal) => findings.push(
            Finding::note("server.info", format!("what the server says of itself can't be looked at: {refusal}"))
                .cure("ACL SETUSER <user> +info, if you want version, persistence and memory looked at; it only reads"),
        ),
    }
    findings.extend(rights(&look.refused));
    findings
}

fn reach(round_trips: &[Duration], config: &StreamConfig) -> Finding {
    let median = round_trips.get(round_trips.len() / 2).copied().unwrap_or_default();
    let slowest = round_trips.last().copied().unwrap_or_default();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let found = format!(
        "redis at {} answers in {:.2} ms (median of {}; slowest {:.2} ms)",
        config.address(),
        ms(median),
        round_trips.len(),
        ms(slowest)
    );
    if slowest.as_millis() as u64 * 3 > config.lease_ms {
        return Finding::problem("server.reach", found).cure(format!(
            "stream.lease_ms is {}; it is renewed every third of that, so a host would lose it: raise it (a stand-by then takes over that much later), or find out what slows the server: redis-cli SLOWLOG GET, redis-cli --latency",
            config.lease_ms
        ));
    }
    if median > FAR {
        return Finding::warning("server.reach", found).cure(format!(
            "a step is one round trip, so at most {:.0} entries a second get through: run Tickhound near the server, or raise stream.batch (more is worked again after a crash)",
            config.batch as f64 / median.as_secs_f64()
        ));
    }
    Finding::ok("server.reach", found)
}

fn access(look: &ServerLook) -> Finding {
    match (look.place, look.authenticated) {
        (Place::Here, _) => Finding::ok("server.access", "on this machine"),
        (Place::Elsewhere { tls: false }, true) => Finding::warning(
            "server.access",
            "over the network without TLS: the password, ticks and alerts can be read and changed on their way",
        )
        .cure("rediss://… in stream.url, and tls-port in redis.conf; or a tunnel. TLS costs some processor time on both sides"),
        (Place::Elsewhere { .. }, false) => Finding::warning(
            "server.access",
            "over the network without a password: whoever reaches the port can delete the ticks or write alerts",
        )
        .cure("requirepass or ACL SETUSER in redis.conf, then redis://user:password@… by TICKHOUND_STREAM__URL; every client needs it then"),
        (Place::Elsewhere { tls: true }, true) => Finding::ok("server.access", "TLS, and we are known to it"),
    }
}

/// Numbers of a version.
type Version = (u64, u64, u64);

fn version(look: &ServerLook) -> Finding {
    let redis = look.info("redis_version").unwrap_or("unknown");
    let (name, text) = match look.info("valkey_version") {
        Some(valkey) => ("Valkey", valkey),
        None => ("Redis", redis),
    };
    judge_version(name, text)
}

fn judge_version(name: &str, text: &str) -> Finding {
    let found = format!("{name} {text}");
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version: Version = (next(), next(), next());
    let upgrade = "upgrade; hosts wait while it restarts, and go on by themselves";
    if name == "Redis" && version < (6, 2, 0) {
        return Finding::problem(
            "server.version",
            format!("{found}: XPENDING knows no IDLE, so nothing is taken over from dead consumers"),
        )
        .cure("6.2 or newer is needed, 7.0 or newer is better");
    }
    if name == "Redis" && version < (7, 0, 0) {
        return Finding::warning(
            "server.version",
            format!("{found}: it does not count what was ever added, so trimmed ticks can't be counted as lost"),
        )
        .cure(upgrade);
    }
    // Only branches of which the release that mended it is known.
    let mended = [(7, 4, 9), (8, 2, 6), (8, 4, 3), (8, 6, 3)];
    let behind = mended.into_iter().find(|(major, minor, _)| (*major, *minor) == (version.0, version.1));
    if let Some(least) = behind.filter(|least| name == "Redis" && version < *least) {
        let more = if ((8, 2, 0)..(8, 2, 3)).contains(&version) { " and CVE-2025-62507 (XACKDEL)" } else { "" };
        return Finding::warning(
            "server.version",
            format!("{found} has CVE-2026-23479 (use after free when blocked clients are woken){more}"),
        )
        .cure(format!("{}.{}.{} or newer: {upgrade}", least.0, least.1, least.2));
    }
    if name == "Redis" && version < (7, 2, 0) {
        return Finding::note(
            "server.version",
            format!(
                "{found}: after trimming, its own `lag` is wrong (redis #13337, #13957); Tickhound does not go by it, other tools may"
            ),
        );
    }
    Finding::ok("server.version", found)
}

fn role(look: &ServerLook) -> Finding {
    let role = look.info("role").unwrap_or("unknown");
    let replicas = look.count("connected_slaves").unwrap_or(0);
    if look.info("cluster_enabled") == Some("1") || look.info("redis_mode") == Some("cluster") {
        return Finding::problem("server.role", "a node of a Redis Cluster, which is not supported")
            .cure("use a server of its own for ticks and alerts");
    }
    match (role, replicas) {
        ("slave", _) => {
            let host = look.info("master_host").unwrap_or("?");
            let port = look.info("master_port").unwrap_or("?");
            Finding::problem(
                "server.role",
                format!("a replica of {host}:{port}: nothing can be written, so nothing is worked"),
            )
            .cure("stream.url must name the master; hosts wait until this one is promoted (REPLICAOF NO ONE)")
        }
        (_, 0) => Finding::ok("server.role", format!("{role}, no replicas")),
        (_, many) => Finding::note(
            "server.role",
            format!(
                "{role} with {many} replicas: one that is promoted may not know the last commits; then their alerts come again under the same ids"
            ),
        ),
    }
}

fn clients(look: &ServerLook) -> Option<Finding> {
    let (connected, most) = (look.count("connected_clients")?, look.count("maxclients")?);
    let refused = look.count("rejected_connections").unwrap_or(0);
    let found = format!("{connected} of at most {most} clients, {refused} turned away since its start");
    Some(match connected * 10 > most * 9 {
        true => Finding::warning("server.clients", found)
            .cure("CONFIG SET maxclients <more>, or find who leaks connections: CLIENT LIST; a host needs 5"),
        false => Finding::ok("server.clients", found),
    })
}

fn persistence(look: &ServerLook) -> Finding {
    let appends = look.info("aof_enabled") == Some("1");
    let fsync = look.setting("appendfsync");
    let saves = look.setting("save").map(|save| !save.is_empty());
    let since = look.count("rdb_last_save_time").unwrap_or(0);
    let now = look.count("server_time_usec").map_or(0, |micros| micros / 1_000_000);
    let turn_on = "CONFIG SET appendonly yes, and the same in redis.conf: writes go to disk as well (with appendfsync everysec about as fast), and once, now, the server forks and writes out all it has";
    match (appends, fsync, saves) {
        (true, Some("always"), _) => Finding::ok("server.persistence", "append-only file, each write on disk before it is confirmed: a power cut loses nothing"),
        (true, Some("no"), _) => Finding::warning(
            "server.persistence",
            "append-only file, written out when the system likes: a power cut loses up to half a minute of ticks, commits and alerts",
        )
        .cure("CONFIG SET appendfsync everysec: a power cut then loses about a second; the disk has more to do"),
        (true, ..) => Finding::ok(
            "server.persistence",
            "append-only file: a power cut loses about the last second of ticks, commits and alerts; a crash of the server alone loses nothing",
        ),
        (false, _, Some(false)) => Finding::problem(
            "server.persistence",
            "none: a restart of the server loses every tick, the group, alerts and all that detectors know",
        )
        .cure(turn_on),
        (false, _, None) => Finding::note("server.persistence", "no append-only file; whether it takes snapshots can't be looked at").cure(turn_on),
        (false, ..) => Finding::warning(
            "server.persistence",
            format!(
                "snapshots only: a crash now would lose {} changes, all since the last one {} ago",
                look.count("rdb_changes_since_last_save").unwrap_or(0),
                lasting(now.saturating_sub(since) * 1000)
            ),
        )
        .cure(turn_on),
    }
}

/// Whether what should be on disk got there.
fn written(look: &ServerLook) -> Vec<Finding> {
    let mut findings = Vec::new();
    if look.info("loading") == Some("1") {
        findings.push(Finding::problem("server.loading", "it is still loading its data; hosts wait for it"));
    }
    let failed = |name: &str| look.info(name).is_some_and(|status| status != "ok");
    let room = "free the disk under its `dir` (CONFIG GET dir), and look into its log";
    if failed("aof_last_write_status") {
        findings.push(
            Finding::problem("server.written", "the last write to the append-only file failed: it refuses writes")
                .cure(room),
        );
    } else if failed("rdb_last_bgsave_status") {
        findings.push(
            Finding::problem("server.written", "the last snapshot failed; by default it then refuses writes")
                .cure(room),
        );
    } else if failed("aof_last_bgrewrite_status") {
        findings.push(
            Finding::warning("server.written", "the append-only file could not be rewritten, so it grows").cure(room),
        );
    } else {
        findings.push(Finding::ok("server.written", "the last writes to disk went well"));
    }
    findings
}

/// Whether commands would be taken, and if not, whether it is the user or the server.
fn rights(refused: &Asked<Vec<Refused>>) -> Vec<Finding> {
    let refused = match refused {
        Ok(refused) => refused,
        Err(reason) => return vec![Finding::note("server.rights", format!("can't be looked at: {reason}"))],
    };
    let (rights, others): (Vec<&Refused>, Vec<&Refused>) =
        refused.iter().partition(|one| one.reason.starts_with("NOPERM"));
    let mut findings = Vec::new();
    if rights.is_empty() {
        findings.push(Finding::ok("server.rights", "this user may give every command that Tickhound uses"));
    } else {
        let run = rights.iter().any(|one| one.needed_by == "run");
        let names: Vec<String> = rights.iter().map(|one| format!("{} (for {})", one.command, one.needed_by)).collect();
        let found =
            format!("this user may not: {}; the server says of the first: {}", names.join(", "), rights[0].reason);
        let commands: Vec<String> =
            rights.iter().map(|one| format!("+{}", one.command.to_lowercase().replace(' ', "|"))).collect();
        let mut commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        commands.dedup();
        let cure = format!(
            "ACL SETUSER <user> {}, and the keys of the stream, of alerts and tickhound:* (~…) with reading and writing; then ACL SAVE or users.acl",
            commands.join(" ")
        );
        findings.push(match run {
            true => Finding::problem("server.rights", found).cure(cure),
            false => Finding::warning("server.rights", found).cure(cure),
        });
    }
    if let Some(first) = others.first() {
        let names: Vec<&str> = others.iter().map(|one| one.command.as_str()).collect();
        let found = format!("it would refuse now: {}; it says: {}", names.join(", "), first.reason);
        let word = first.reason.split(' ').next().unwrap_or_default();
        let cure = match word {
            "OOM" => {
                "its memory is full: CONFIG SET maxmemory <more>, or let the producer trim; hosts wait, and go on by themselves"
            }
            "MISCONF" => "it can't write to its disk: free it; hosts wait, and go on by themselves",
            "READONLY" => "it is a replica: name the master in stream.url",
            "NOREPLICAS" => {
                "min-replicas-to-write is not met: bring replicas back, or CONFIG SET min-replicas-to-write 0 (then one machine alone keeps the data)"
            }
            "LOADING" | "BUSY" => "wait; for a script that does not end, SCRIPT KILL",
            _ => "the server's own words tell more; a renamed or missing command must be there under its name",
        };
        findings.push(Finding::problem("server.writes", found).cure(cure));
    }
    findings
}

/// How far the server's clock is from ours.
pub(super) fn judge_clock(ahead_ms: &Asked<(f64, f64)>, stale_after_ms: u64) -> Option<Finding> {
    let (ahead, wrong_by) = match ahead_ms {
        Ok(seen) => *seen,
        Err(refusal) => return Some(Finding::note("clock.server", format!("can't be looked at: {refusal}"))),
    };
    let way = if ahead < 0.0 { "behind" } else { "ahead of" };
    let found = format!("the server's clock is {:.1} ms {way} ours (give or take {wrong_by:.1} ms)", ahead.abs());
    let apart = ahead.abs() - wrong_by;
    let cure = "run NTP on both machines (timedatectl set-ntp true, or chrony); step the clock outside of market hours";
    let stale = stale_after_ms as f64 / 2.0;
    Some(match apart {
        apart if apart > SKEW_MAX_MS || (stale > 0.0 && apart > stale) => {
            Finding::problem("clock.server", format!("{found}: `lag_ms` and `stale` of alerts are wrong by that"))
                .cure(cure)
        }
        apart if apart > SKEW_MS => {
            Finding::warning("clock.server", format!("{found}: `lag_ms` of alerts is wrong by that")).cure(cure)
        }
        _ => Finding::ok("clock.server", found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::doctor::Level;

    pub(crate) fn look(info: &[(&str, &str)], settings: &[(&str, &str)]) -> ServerLook {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ServerLook {
            place: Place::Here,
            authenticated: false,
            round_trips: vec![Duration::from_micros(100)],
            ahead_ms: Ok((0.0, 0.1)),
            info: Ok(owned(info)),
            settings: Ok(owned(settings)),
            refused: Ok(Vec::new()),
        }
    }

    #[test]
    fn versions_are_told_apart() {
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
    fn what_a_crash_would_lose_is_judged_by_how_it_is_kept() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Level, &'a str);
        let cases: [Case<'_>; 6] = [
            ("1", &[("appendfsync", "always")], Level::Ok, "loses nothing"),
            ("1", &[("appendfsync", "everysec")], Level::Ok, "last second"),
            ("1", &[("appendfsync", "no")], Level::Warning, "half a minute"),
            ("0", &[("save", "")], Level::Problem, "none"),
            ("0", &[("save", "3600 1")], Level::Warning, "7 changes, all since the last one 5.0 s ago"),
            ("0", &[], Level::Note, "can't be looked at"),
        ];
        for (appends, settings, level, part) in cases {
            let info = [
                ("aof_enabled", appends),
                ("rdb_last_save_time", "100"),
                ("server_time_usec", "105000000"),
                ("rdb_changes_since_last_save", "7"),
            ];
            let finding = persistence(&look(&info, settings));
            assert_eq!(finding.level, level, "{}", finding.found);
            assert!(finding.found.contains(part), "{}", finding.found);
            assert!(finding.level == Level::Ok || finding.cure.is_some());
        }
    }

    #[test]
    fn failed_writes_are_a_problem() {
        let level = |info: &[(&str, &str)]| written(&look(info, &[])).iter().map(|finding| finding.level).max();
        assert_eq!(level(&[("aof_last_write_status", "ok"), ("rdb_last_bgsave_status", "ok")]), Some(Level::Ok));
        assert_eq!(level(&[("aof_last_write_status", "err")]), Some(Level::Problem));
        assert_eq!(level(&[("rdb_last_bgsave_status", "err")]), Some(Level::Problem));
        assert_eq!(level(&[("aof_last_bgrewrite_status", "err")]), Some(Level::Warning));
        assert_eq!(level(&[("loading", "1")]), Some(Level::Problem));
    }

    #[test]
    fn clocks_are_judged_beyond_what_the_way_there_can_explain() {
        let level = |ahead, wrong_by, stale| judge_clock(&Ok((ahead, wrong_by)), stale).unwrap().level;
        assert_eq!(level(3.0, 0.1, 60_000), Level::Ok);
        assert_eq!(level(-800.0, 400.0, 60_000), Level::Ok);
        assert_eq!(level(-800.0, 0.1, 60_000), Level::Warning);
        assert_eq!(level(800.0, 0.1, 1_000), Level::Problem);
        assert_eq!(level(800.0, 0.1, 0), Level::Warning);
        assert_eq!(level(5_500.0, 0.1, 0), Level::Problem);
    }

    #[test]
    fn refusals_are_the_users_or_the_servers() {
        let refused = |needed_by, reason: &str| {
            let judged =
                rights(&Ok(vec![Refused { command: "XGROUP CREATE".into(), needed_by, reason: reason.into() }]));
            judged
                .into_iter()
                .map(|finding| (finding.id, finding.level, finding.cure.unwrap_or_default()))
                .collect::<Vec<_>>()
        };
        let run = &refused("run", "NOPERM this user …")[0];
        assert!(run.1 == Level::Problem && run.2.contains("+xgroup|create"), "{run:?}");
        assert_eq!(refused("feed", "NOPERM this user …")[0].1, Level::Warning);
        let full = refused("run", "OOM command not allowed");
        assert_eq!((full[0].1, full[1].0.as_str(), full[1].1), (Level::Ok, "server.writes", Level::Problem));
    }

    #[test]
    fn a_far_or_slow_server_is_told() {
        let config = StreamConfig::default();
        let level = |ms: u64| reach(&[Duration::from_millis(ms); 3], &config).level;
        assert_eq!([level(0), level(50), level(2_000)], [Level::Ok, Level::Warning, Level::Problem]);
    }

    #[test]
    fn open_and_clear_ways_are_told() {
        let level = |place, authenticated| access(&ServerLook { place, authenticated, ..look(&[], &[]) }).level;
        assert_eq!(level(Place::Here, false), Level::Ok);
        assert_eq!(level(Place::Elsewhere { tls: true }, true), Level::Ok);
        assert_eq!(level(Place::Elsewhere { tls: true }, false), Level::Warning);
        assert_eq!(level(Place::Elsewhere { tls: false }, true), Level::Warning);
    }
}
