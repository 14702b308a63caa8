//! What goes wrong around a host: links, servers, other programs, other hosts, the feed.
//!
//! Each fault is brought about on purpose, at a known point, and then the same is asked: is every
//! entry processed, once, and are the alerts those of a run that nothing has disturbed?

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock},
};

use redis::{Commands, Value, cmd};

use crate::{
    proxy::{At, Link, Proxy},
    replicas::{Replicas, on_a_port, replicate},
    support::{
        ALERTS, Alert, Difference, EPOCH, GROUP, Host, LEASE, Project, Redis, STREAM, difference, has_event_with,
        last_event, misbehaving, pause, read_as, request, signal, text, wait_for,
    },
};

/// 20 minutes of market time: enough for both detectors that ship to find something.
const SYMBOLS: u32 = 4;
const TICKS: u32 = 8_000;

/// With the detectors that ship, and one that alerts on every tick: it tells of each entry whether
/// it was processed, and how often.
fn project(url: String, stream: &str, more: &str) -> Project {
    let project = Project::at(url);
    project.add_plugin(misbehaving());
    let each = "[alerts]\nlog = false\nmaxlen = 0\n[detectors.each]\nplugin = \"misbehaving\"\n";
    project.configure_with(stream, &format!("{each}{more}"));
    project
}

fn of_each(alerts: &[Alert]) -> Vec<Alert> {
    alerts.iter().filter(|alert| alert["detector"] == "each").cloned().collect()
}

/// Everything that the stream holds was processed, and the alerts are those of an undisturbed run.
fn assert_undisturbed(redis: &Redis, project: &Project) {
    assert_eq!(redis.pending(), 0);
    let (alerts, reference) = (redis.alerts(), project.reference(redis));
    assert!(!reference.is_empty());
    // First the detector that needs no memory: what is wrong there is no matter of lost state.
    let none = Difference::default();
    assert_eq!(difference(of_each(&alerts), of_each(&reference)), none, "alerts of the detector `each`");
    assert_eq!(difference(alerts, reference), none, "alerts of all detectors");
}

/// Each entry that the stream holds was processed once. Whether others were, which the server has
/// forgotten, is `other_alerts`' matter.
fn assert_each_once(redis: &Redis, other_alerts: bool) {
    assert_eq!(redis.pending(), 0);
    let held = entries(redis);
    let mut alerted: Vec<String> =
        of_each(&redis.alerts()).into_iter().map(|mut alert| alert.remove("entry").unwrap()).collect();
    if other_alerts {
        let known: HashSet<&String> = held.iter().collect();
        alerted.retain(|entry| known.contains(entry));
    }
    assert!(alerted == held, "{} alerts on {} entries", alerted.len(), held.len());
}

/// Ids of what the stream holds.
fn entries(redis: &Redis) -> Vec<String> {
    redis.stream_entries(STREAM).into_iter().map(|(id, _)| id).collect()
}

/// Waits until what was added last is processed.
fn wait_alerted(redis: &Redis) {
    let last = entries(redis).pop().unwrap();
    wait_for("the last entry is processed", || {
        redis.newest(ALERTS, 3).iter().any(|(_, alert)| alert["entry"] == last).then_some(())
    });
}

/// Waits until the host has logged that it can't use Redis, for this reason, and not yet that it can again.
fn wait_noticed(host: &Host, reason: &str) {
    wait_for(&format!("the host notices: {reason}"), || {
        let log = host.log();
        let since = last_event(&log, "redis_reconnected").unwrap_or(0);
        has_event_with(&log[since..], "redis_unavailable", reason).then_some(())
    });
}

fn healthy(project: &Project) {
    let status = project.output(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stdout));
}

/// As [`healthy`], when the host has ended.
fn wait_until_all_is_processed(project: &Project) {
    let status = project.output(&["status"]);
    let said = text(&status.stdout);
    assert!(said.contains("no host is running; every entry is processed"), "{said}");
    assert_eq!(status.status.code(), Some(1), "somebody may wait for alerts that nobody raises");
}

/// How often the server was asked to do this.
fn calls(redis: &Redis, command: &str) -> u64 {
    let stats: String = redis.ask("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// The host dies at each request of its protocol: before the server has it, and when the server has
/// done it and the host does not know. Whatever it was about, its successor continues as if nothing
/// had been.
#[test]
fn a_host_killed_at_any_request_costs_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let points = [
        ("ROLE", 1),
        ("TYPE", 2),
        ("EVALSHA", 1),
        ("HGETALL", 1),
        ("XGROUP", 1),
        ("XINFO", 1),
        ("XINFO", 2),
        ("WATCH", 1),
        ("GET", 1),
        ("MULTI", 1),
        ("XREADGROUP", 1),
        ("EXEC", 1),
        ("WATCH", 2),
        ("GET", 2),
        ("MULTI", 2),
        ("EXEC", 2),
        ("XADD", 1),
        ("XADD", 49),
        ("XACK", 1),
        ("HSET", 1),
        ("EXEC", 3),
        ("EXEC", 4),
        ("EXEC", 5),
    ];
    for (command, nth) in points {
        for at in [At::Request, At::Reply] {
            let pid = Arc::new(OnceLock::new());
            let known = pid.clone();
            let sprung = proxy.trap(command, nth, at, move || {
                signal(wait_for("the host has started", || known.get().copied()), "KILL");
            });
            let mut host = project.start(&["run"]);
            pid.set(host.pid()).unwrap();
            sprung.wait();
            host.wait();
        }
    }
    assert!(redis.processed() > 0 && redis.processed() < u64::from(TICKS), "{} entries processed", redis.processed());
    project.run(&["run", "--drain"]);
    assert_undisturbed(&redis, &project);
}

/// Also with a lease that would outlive this test by far: that its holder is dead can be seen.
#[test]
fn a_restarted_host_waits_for_nothing_and_begins_with_what_was_pending() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "lease_ms = 600000\nbatch = 50", "");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    let pid = host.pid();
    proxy.trap("EXEC", 5, At::Reply, move || signal(pid, "KILL")).wait();
    host.wait();
    let (committed, pending) = (redis.alerts().len(), redis.pending());
    assert!(pending > 0);
    assert_eq!(project.start(&["run", "--drain"]).wait(), Some(0));
    let alerts = of_each(&redis.alerts()[committed..]);
    let recovered = alerts.iter().position(|alert| alert["recovered"] == "0").unwrap();
    assert_eq!(recovered as u64, pending, "what was pending comes first, and nothing else is marked");
    assert_undisturbed(&redis, &project);
}

/// One works and the others watch; each that is killed is followed by one that watched.
#[test]
fn of_three_hosts_one_works() {
    let redis = Redis::start();
    let project = project(redis.url(), "lease_ms = 1000", "");
    let mut hosts: Vec<Host> = (0..3).map(|_| project.start(&["run"])).collect();
    for round in 1..=3 {
        let owner = wait_for("one of them reads", || {
            let owns = |host: &Host| host.has_event("lease_acquired");
            hosts.iter().position(owns)
        });
        project.feed(SYMBOLS, TICKS / 4, &["--seed", &round.to_string()]);
        redis.wait_processed(TICKS / 4 * round);
        wait_for("the others stand by", || {
            let standing_by = |host: &&Host| host.has_event("standby_started");
            (hosts.iter().filter(standing_by).count() >= hosts.len() - 1).then_some(())
        });
        assert_eq!(hosts.iter().filter(|host| host.has_event("lease_acquired")).count(), 1);
        healthy(&project);
        hosts.remove(owner).kill();
    }
    assert_eq!(redis.ask::<u64>(&format!("GET {EPOCH}")), 3, "nobody took over in between");
    assert_undisturbed(&redis, &project);
}

/// The request has reached the server or not, the reply comes by half or not at all: the host finds
/// out what happened and continues, with the state of its detectors.
#[test]
fn a_reply_that_is_lost_costs_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "batch = 20", "[engine]\nbacklog = 100");
    project.feed(SYMBOLS, TICKS, &[]);
    read_as(&redis, "tickhound", TICKS / 8);
    // Else it would be through before all traps have been set.
    proxy.set(Link::Slow);
    let mut host = project.start(&["run"]);
    // A cut makes the host acquire again, and that is cut as well.
    for command in ["EVALSHA", "HGETALL", "XGROUP", "XINFO", "WATCH", "GET", "XREADGROUP", "EXEC"] {
        for at in [At::Request, At::Reply, At::MidReply] {
            redis.wait_progress(1);
            let sprung = proxy.trap(command, 1, at, || {});
            proxy.cut();
            sprung.wait();
        }
    }
    for nth in 1..=3 {
        for at in [At::Request, At::Reply, At::MidReply] {
            redis.wait_progress(1);
            proxy.trap("EXEC", nth, at, || {}).wait();
        }
    }
    proxy.set(Link::Whole);
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A link that is up and carries nothing: only a time-out tells. When it works again, what was sent
/// meanwhile may arrive late, or never, or may have been done long ago.
#[test]
fn a_silent_link_is_noticed_and_costs_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "batch = 50\ntimeout_ms = 200", "[engine]\nbacklog = 200");
    let direct = Project::new(&redis);
    direct.feed(SYMBOLS, TICKS / 2, &[]);
    let mut host = project.start(&["run"]);
    let noticed = || wait_noticed(&host, "no answer in time (stream.timeout_ms)");
    let faults = [(Link::Silent, false), (Link::Silent, true), (Link::Deaf, false), (Link::Deaf, true)];
    for (round, (link, cut)) in (1..).zip(faults) {
        redis.wait_processed(TICKS / 16 * round);
        proxy.set(link);
        noticed();
        if cut {
            proxy.cut();
        }
        proxy.set(Link::Whole);
    }
    // The same while it waits for ticks.
    redis.wait_processed(TICKS / 2);
    proxy.set(Link::Silent);
    noticed();
    direct.feed(SYMBOLS, TICKS / 2, &["--seed", "2"]);
    proxy.set(Link::Whole);
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A server that hangs for longer than anybody waits, then answers everything at once.
#[test]
fn a_server_that_hangs_costs_nothing() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 50\ntimeout_ms = 200", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    for round in 1..=3 {
        redis.wait_processed(TICKS / 8 * round);
        redis.signal("STOP");
        wait_noticed(&host, "no answer in time (stream.timeout_ms)");
        redis.signal("CONT");
    }
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A server that syncs its file once a second may forget the last second: alerts, acknowledgements
/// and entries alike. What it still holds is processed, once; the host continues without a restart.
#[test]
fn a_server_that_forgets_its_last_second_is_processed() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let project = project(redis.url(), "batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    for part in 1..=3 {
        redis.wait_processed(TICKS / 8 * part);
        redis.restart();
    }
    project.feed(SYMBOLS, 1000, &["--seed", "2"]);
    wait_alerted(&redis);
    host.stop();
    assert_each_once(&redis, false);
}

#[test]
fn a_server_that_comes_back_empty_is_processed() {
    let mut redis = Redis::start();
    let project = project(redis.url(), "batch = 50", "[engine]\nbacklog = 200");
    let mut host = project.start(&["run"]);
    for round in 1..=2 {
        project.feed(SYMBOLS, TICKS, &["--seed", &round.to_string()]);
        redis.wait_processed(500);
        redis.restart();
    }
    project.feed(SYMBOLS, 1000, &[]);
    wait_alerted(&redis);
    assert!(host.has_event("redis_data_lost"));
    host.stop();
    assert_each_once(&redis, true);
}

/// What a host says when it creates its group once more.
const AT_LAST_COMMIT: &str = "created it again at the last commit";

/// What it says if there was no stream then.
const AT_ITS_START: &str = "created the consumer group again at its start";

/// Creates the stream, empty, with a newer id than before. In one transaction with what removes the stream, so that the host
/// never finds none: what it then does is another case.
const BEGIN_AGAIN: &str = "XADD ticks:intraday:processed MAXLEN = 0 * a b";

/// While the host waits for ticks somebody does `commands`; those that are separated by `; ` in one transaction. It continues with what comes after, and logs `event` and `said`.
fn continues_after(commands: &[&str], event: &str, said: &str) {
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    let mut host = project.start(&["run"]);
    project.feed(SYMBOLS, 500, &[]);
    redis.wait_processed(500);
    let first = redis.alerts();
    for command in commands {
        let mut at_once = redis::pipe();
        for command in command.split("; ") {
            at_once.add_command(request(command));
        }
        let _: Value = at_once.atomic().query(&mut redis.connect()).unwrap();
        if command.starts_with("SET") {
            host.wait_for_event_with("redis_unavailable", "holds a string, expected a stream");
        }
    }
    if said == AT_ITS_START {
        host.wait_for_event_with(event, said);
    }
    project.feed(SYMBOLS, 500, &["--seed", "2"]);
    let entries = redis.newest(STREAM, 500);
    let newest: Vec<&String> = entries.iter().rev().map(|(id, _)| id).collect();
    let alerts = wait_for("the new ones are processed", || {
        let alerts = of_each(&redis.alerts());
        alerts.last().is_some_and(|alert| alert["entry"] == *newest[newest.len() - 1]).then_some(alerts)
    });
    let forgotten = first.iter().filter(|alert| !redis.alerts().contains(alert)).count();
    assert!(forgotten == 0 || forgotten == first.len());
    let told: Vec<&String> = alerts.iter().map(|alert| &alert["entry"]).collect();
    let new = told.len() - 500;
    assert!(told[new..] == newest, "each new one once, in order");
    assert_eq!(new, if forgotten > 0 { 0 } else { 500 }, "no old one again");
    let log = host.log();
    assert!(has_event_with(&log, event, said), "expected {event:?} with {said:?} in {log}");
    host.stop();
    assert_eq!(redis.pending(), 0);
}

#[test]
fn a_host_continues_after_flushall() {
    continues_after(&["FLUSHALL"], "group_created", "created the consumer group");
}

#[test]
fn a_host_continues_after_its_stream_was_deleted() {
    continues_after(&[&format!("DEL {STREAM}; {BEGIN_AGAIN}")], "group_recreated", AT_LAST_COMMIT);
}

#[test]
fn a_host_that_finds_no_stream_continues_with_the_next_one() {
    continues_after(&[&format!("DEL {STREAM}")], "group_recreated", AT_ITS_START);
}

#[test]
fn a_host_continues_after_its_group_was_destroyed() {
    continues_after(&[&format!("XGROUP DESTROY {STREAM} {GROUP}")], "group_recreated", AT_LAST_COMMIT);
}

#[test]
fn a_host_continues_after_its_stream_was_overwritten() {
    let commands = [&format!("SET {STREAM} x"), &format!("DEL {STREAM}; {BEGIN_AGAIN}")];
    continues_after(&commands.map(String::as_str), "group_recreated", AT_LAST_COMMIT);
}

#[test]
fn a_host_continues_after_its_stream_was_renamed() {
    continues_after(&[&format!("RENAME {STREAM} other; {BEGIN_AGAIN}")], "group_recreated", AT_LAST_COMMIT);
}

/// All keys go while entries are being processed. What comes after that is processed, once.
#[test]
fn a_host_continues_after_flushall_in_the_middle_of_processing() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 20", "[engine]\nbacklog = 100");
    let mut host = project.start(&["run"]);
    for round in 1..=3 {
        project.feed(SYMBOLS, TICKS, &["--seed", &round.to_string()]);
        redis.wait_processed(500);
        let _: () = redis.ask("FLUSHALL");
    }
    project.feed(SYMBOLS, 1000, &[]);
    wait_alerted(&redis);
    host.stop();
    assert_each_once(&redis, true);
}

/// The server that the host uses becomes a replica where it stands, and is promoted again.
#[test]
fn a_demoted_server_is_left_alone_until_it_is_promoted() {
    let ((first, _), (second, port)) = (on_a_port(), on_a_port());
    let project = project(first.url(), "batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    first.wait_processed(TICKS / 8);
    // The other one has nothing that this one has not: it takes over the data, then gives it back.
    let own_port: Vec<String> = first.ask("CONFIG GET port");
    let _: () = first.ask("CLIENT PAUSE 100000 WRITE");
    replicate(&second, &own_port[1]);
    let _: () = second.ask("REPLICAOF NO ONE");
    replicate(&first, &port);
    let _: () = first.ask("CLIENT UNPAUSE");
    host.wait_for_event_with("redis_unavailable", "replica");
    let before = first.processed();
    assert!(before < u64::from(TICKS));
    for _ in 0..20 {
        pause();
    }
    assert_eq!(first.processed(), before, "nothing is written to a replica");
    let _: () = first.ask("REPLICAOF NO ONE");
    first.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&first, &project);
}

/// The server dies; its replica, promoted, has the address from now on.
#[test]
fn a_failover_to_a_replica_continues_where_the_replica_is() {
    let Replicas { mut first, second, proxy } = Replicas::start();
    let project = project(proxy.url(), "batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    second.wait_processed(TICKS / 4);
    first.kill();
    // For a while the address leads to a server that is a replica still.
    proxy.switch(&second);
    host.wait_for_event_with("redis_unavailable", "replica");
    let _: () = second.ask("REPLICAOF NO ONE");
    wait_alerted(&second);
    host.stop();
    assert_each_once(&second, false);
}

#[test]
fn a_server_that_is_loading_is_waited_for() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = project(redis.url(), "", "");
    let mut host = project.start(&["run"]);
    project.feed(SYMBOLS, TICKS, &[]);
    redis.wait_processed(TICKS);
    redis.restart_unready(&["--key-load-delay", "100"]);
    host.wait_for_event_with("redis_unavailable", "the server is still loading its data");
    wait_for("it has loaded", || {
        let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().ok()?;
        request("PING").query::<String>(&mut connection).ok()
    });
    project.feed(SYMBOLS, 500, &["--seed", "2"]);
    redis.wait_processed(TICKS + 500);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// Somebody's script blocks the server for longer than it lets others wait.
#[test]
fn a_server_that_is_busy_is_waited_for() {
    let redis = Redis::start_with(&["--lua-time-limit", "50"]);
    let project = project(redis.url(), "batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    for round in 1..=3 {
        redis.wait_processed(TICKS / 8 * round);
        let mut connection = redis.connect();
        let script = std::thread::spawn(move || {
            cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection).unwrap_err()
        });
        wait_noticed(&host, "BUSY");
        let _: () = redis.ask("SCRIPT KILL");
        script.join().unwrap();
        // Else what was said of this round would be taken for the next one's.
        wait_for("the host goes on", || {
            let log = host.log();
            (last_event(&log, "redis_reconnected") > log.rfind("BUSY")).then_some(())
        });
    }
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// While `setting` has the value `bad` the server takes no writes: nothing is acknowledged, and
/// when it has `good` again, it continues.
fn waits_while(setting: &str, bad: &str, good: &str, said: &str) {
    let redis = Redis::start();
    // So small that work is still going on when the server is changed.
    let project = project(redis.url(), "batch = 4", "[engine]\nbacklog = 16");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    redis.wait_processed(TICKS / 8);
    let _: () = redis.ask(&format!("CONFIG SET {setting} {bad}"));
    let (before, alerts) = (redis.processed(), redis.alerts().len());
    host.wait_for_event_with("redis_unavailable", said);
    for _ in 0..20 {
        pause();
    }
    assert_eq!((redis.processed(), redis.alerts().len()), (before, alerts), "nothing is done by half");
    assert!(redis.pending() > 0 && before < u64::from(TICKS));
    let _: () = redis.ask(&format!("CONFIG SET {setting} {good}"));
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

#[test]
fn a_server_without_memory_is_waited_for() {
    waits_while("maxmemory", "1", "0", "the server's memory is full (maxmemory): free some, or raise the limit");
}

#[test]
fn a_server_without_its_replicas_is_waited_for() {
    waits_while("min-replicas-to-write", "1", "0", "NOREPLICAS");
}

/// The server can't count what is left to read any more, and says so. That is not our fault.
#[test]
fn deleted_entries_are_no_sign_of_illness() {
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    project.feed(SYMBOLS, 1000, &[]);
    let first = entries(&redis);
    let mut host = project.start(&["run"]);
    redis.wait_processed(1000);
    host.stop();
    project.feed(SYMBOLS, 1000, &["--seed", "2"]);
    let more = entries(&redis);
    assert_eq!((first.len(), more.len()), (1000, 2000));
    // Some of the next ones, and the very last.
    for id in more[1000..].iter().step_by(7).chain(more.last()) {
        let _: u64 = redis.ask(&format!("XDEL {STREAM} {id}"));
    }
    let left: u64 = redis.ask(&format!("XLEN {STREAM}"));
    let mut host = project.start(&["run"]);
    redis.wait_processed(left);
    healthy(&project);
    host.stop();
    assert_each_once(&redis, false);
}

/// Most that a host may have at once, whatever waits for it. Measured: about 60 MiB with 2 workers.
const PEAK_MEMORY_MIB: u64 = 160;

/// The stream weighs more than the host may: it is read in parts.
#[test]
fn a_large_backlog_does_not_make_a_large_host() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[alerts]\nlog = false");
    project.feed(100, 200_000, &[]);
    let mut host = project.start(&["run"]);
    let most = wait_all_watching_pending(&redis, 200_000);
    assert!(most <= 2000, "{most} entries between read and commit, engine.backlog allows 2000");
    assert!(host.peak_memory_mib() < PEAK_MEMORY_MIB, "{} MiB", host.peak_memory_mib());
    assert!(calls(&redis, "xreadgroup") >= 200_000 / 500, "reads of 500 at most");
    host.stop();
    assert_eq!((redis.pending(), redis.processed()), (0, 200_000));
}

/// The most entries that were pending at a time, seen while waiting for `count` to be processed.
fn wait_all_watching_pending(redis: &Redis, count: u32) -> u64 {
    let mut most = 0;
    wait_for(&format!("{count} entries are processed"), || {
        let processed = redis.processed();
        if processed > 0 {
            most = most.max(redis.pending());
        }
        (processed >= u64::from(count)).then_some(())
    });
    most
}

#[test]
fn a_large_number_of_pending_entries_is_recovered_in_parts() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[alerts]\nlog = false\nmaxlen = 0");
    project.feed(100, 100_000, &[]);
    read_as(&redis, "tickhound", 100_000);
    assert_eq!(redis.pending(), 100_000);
    let mut host = project.start(&["run"]);
    redis.wait_processed(100_000);
    assert!(host.peak_memory_mib() < PEAK_MEMORY_MIB, "{} MiB", host.peak_memory_mib());
    assert!(calls(&redis, "xreadgroup") >= 100_000 / 500, "reads of 500 at most");
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A consumer that gets nothing for long looks dead by the server's figures. It is not.
#[test]
fn a_quiet_market_is_healthy() {
    let redis = Redis::start();
    let project = project(redis.url(), "claim_idle_ms = 1", "");
    project.feed(SYMBOLS, 100, &[]);
    let mut host = project.start_with(&["run"], &[("TICKHOUND_STREAM__BLOCK_MS", "10")]);
    redis.wait_processed(100);
    let before = calls(&redis, "xread");
    wait_for("many waits without a tick", || (calls(&redis, "xread") > before + 100).then_some(()));
    healthy(&project);
    let consumers: Vec<Value> = redis.ask(&format!("XINFO CONSUMERS {STREAM} {GROUP}"));
    assert_eq!(consumers.len(), 1);
    assert_eq!(redis.ask::<u64>(&format!("GET {EPOCH}")), 1, "it was owner all the time");
    project.feed(SYMBOLS, 100, &["--seed", "2"]);
    redis.wait_processed(200);
    host.stop();
    wait_until_all_is_processed(&project);
    assert_undisturbed(&redis, &project);
}

/// The old scanner still runs in the group, and was given the day's last tick.
#[test]
fn what_another_consumer_was_given_keeps_nobody_awake_and_is_not_lost() {
    let redis = Redis::start();
    let project = project(redis.url(), "lease_ms = 900", "");
    project.feed(SYMBOLS, 100, &[]);
    let mut host = project.start_with(&["run"], &[("TICKHOUND_STREAM__BLOCK_MS", "500")]);
    redis.wait_processed(100);
    // Given to it at once, in one transaction, so that the host has no chance.
    let mut taken = redis::pipe();
    taken.atomic().cmd("XADD").arg(STREAM).arg("*").arg("symbol").arg("A");
    taken.cmd("XREADGROUP").arg("GROUP").arg(GROUP).arg("scanner").arg("STREAMS").arg(STREAM).arg(">");
    let _: Value = taken.query(&mut redis.connect()).unwrap();
    let (waits, renewals) = (calls(&redis, "xread"), calls(&redis, "evalsha"));
    wait_for("the lease is renewed some times", || (calls(&redis, "evalsha") >= renewals + 6).then_some(()));
    let waits = calls(&redis, "xread") - waits;
    assert!(waits < 100, "{waits} waits: one that is woken up at once each time makes thousands");
    project.feed(SYMBOLS, 100, &["--seed", "2"]);
    redis.wait_processed(200);
    assert_eq!(redis.totals()["lost"], 0, "{}", host.log());
    host.stop();
}

/// The server's clock was an hour ahead for a while: ids stay there until real time has caught up.
#[test]
fn entries_from_the_future_are_processed_like_others() {
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut connection = redis.connect();
    let entries = redis.stream_entries(STREAM);
    let _: () = connection.del(STREAM).unwrap();
    let mut shifted = redis::pipe();
    for (id, fields) in &entries {
        let (millis, seq) = id.split_once('-').unwrap();
        let later = millis.parse::<u64>().unwrap() + 3_600_000;
        shifted.cmd("XADD").arg(STREAM).arg(format!("{later}-{seq}")).arg(fields).ignore();
    }
    let _: () = shifted.query(&mut connection).unwrap();
    let mut host = project.start(&["run"]);
    redis.wait_processed(TICKS);
    healthy(&project);
    project.feed(SYMBOLS, 500, &["--seed", "2"]);
    redis.wait_processed(TICKS + 500);
    healthy(&project);
    host.stop();
    assert!(redis.alerts().iter().all(|alert| alert["lag_ms"] == "0"), "a lag is no less than 0");
    assert_undisturbed(&redis, &project);
}

/// While ticks come in, each host gives way to the next one: no gap, no repeat.
#[test]
fn ten_rolling_restarts_under_load_cost_nothing() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 50\nlease_ms = 1000", "[engine]\nbacklog = 200");
    let (symbols, rate) = (SYMBOLS.to_string(), "2000");
    let mut feed = project.start(&["feed", "--simulate", "--symbols", &symbols, "--rate", rate]);
    let mut host = project.start_owner();
    for _ in 0..10 {
        redis.wait_progress(100);
        let next = project.start(&["run"]);
        next.wait_for_event("standby_started");
        host.stop();
        next.wait_for_event("lease_acquired");
        host = next;
    }
    feed.signal("INT");
    assert_eq!(feed.wait(), Some(0), "{}", feed.log());
    let fed: u64 = redis.ask(&format!("XLEN {STREAM}"));
    redis.wait_processed(fed);
    host.stop();
    assert_eq!(redis.processed(), fed);
    assert_undisturbed(&redis, &project);
}

/// Whatever a producer puts into an entry: if it is not a tick, it is kept as it was.
#[test]
fn odd_entries_are_set_aside_as_they_were() {
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    let large = vec![b'x'; 1 << 20];
    let numbered: Vec<String> = (0..1500).map(|number| format!("field{number}")).collect();
    let odd: Vec<Vec<(&[u8], &[u8])>> = vec![
        vec![(b"a", b"1"), (b"b", b"2"), (b"a", b"3")],
        vec![(b"data", b"")],
        vec![(b"", b"")],
        vec![(b"note", &large)],
        vec![(b"packet", &[0, 1, 0xff, b'"', b'\r', b'\n'])],
        vec![(b"line", "\"\\\r\n\u{1}\u{2028}é".as_bytes())],
        numbered.iter().map(|name| (name.as_bytes(), &b"7"[..])).collect(),
    ];
    let mut connection = redis.connect();
    for fields in &odd {
        let _: String = connection.xadd(STREAM, "*", fields).unwrap();
        project.feed(SYMBOLS, 100, &[]);
    }
    project.run(&["run", "--drain"]);
    let json = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::to_string(text).unwrap(),
        Err(_) => r#"{"base64":"AAH/Ig0K"}"#.to_owned(),
    };
    let letters = redis.dead_letters();
    let kept: Vec<&String> = letters.iter().map(|letter| &letter["raw"]).collect();
    assert_eq!(kept.len(), odd.len());
    for (fields, raw) in odd.iter().zip(kept) {
        let members: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}:{}", json(name), json(value))).collect();
        assert!(*raw == format!("{{{}}}", members.join(",")), "{raw:.200}");
    }
    assert_eq!((of_each(&redis.alerts()).len(), redis.pending()), (odd.len() * 100, 0));
}

#[test]
fn replies_in_crumbs_are_put_together() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "", "");
    project.feed(SYMBOLS, TICKS, &[]);
    proxy.set(Link::Crumbs);
    project.run(&["run", "--drain"]);
    assert_undisturbed(&redis, &project);
}

/// A read that takes ten times as long as the server may be silent, because there is much in it.
#[test]
fn large_entries_on_a_slow_line_are_waited_for() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "timeout_ms = 400", "");
    let ballast = "x".repeat(200 << 10);
    let mut large = redis::pipe();
    // The first and the last are told of the stream as well, and that answer has to come in time.
    for price in 100..132_u64 {
        large.cmd("XADD").arg(STREAM).arg("*").arg("symbol").arg("A").arg("ltp").arg(price);
        large.arg("timestamp").arg(1_763_959_530_000 + price);
        large.arg("ballast").arg(if (101..131).contains(&price) { &ballast } else { "" }).ignore();
    }
    let _: () = large.query(&mut redis.connect()).unwrap();
    proxy.set(Link::Narrow);
    let log = project.run(&["run", "--drain"]);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert_eq!((of_each(&redis.alerts()).len(), redis.pending()), (32, 0));
}

/// Something else answers in the server's place. The host believes what it can, trusts nothing that
/// it can't, and asks again.
#[test]
fn garbage_in_place_of_a_reply_costs_nothing() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "batch = 50\ntimeout_ms = 500", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    // Else it would be through before all traps have been set.
    proxy.set(Link::Slow);
    let mut host = project.start(&["run"]);
    let garbage: [&[u8]; 9] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\0\0\0",
        b"-ERR what?\r\n",
        b"+OK\r\n",
        b":42\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*3\r\n:1\r\n*1\r\n*2\r\n$5\r\nhello\r\n:1\r\n:0\r\n",
    ];
    for bytes in garbage {
        for command in ["EXEC", "GET"] {
            proxy.trap(command, 2, At::Instead(bytes), || {}).wait();
            redis.wait_progress(1);
        }
    }
    proxy.set(Link::Whole);
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A stream that has been given the last id there is takes no alert, yet looks as it should, so hosts go on acquiring the
/// lease. What is refused is kept in memory, as its entries are acknowledged: that must have an end.
#[test]
fn while_alerts_are_refused_no_more_is_processed_than_was_in_flight() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 50", "[engine]\nbacklog = 200");
    let mut host = project.start_owner();
    let _: String =
        redis.connect().xadd(ALERTS, "18446744073709551615-18446744073709551615", &[("the", "last")]).unwrap();
    project.feed(SYMBOLS, TICKS, &[]);
    let refused = |times| {
        wait_for("the server refuses", || (host.count_event("publish_rejected") >= times).then(|| redis.processed()))
    };
    let first = refused(1);
    let later = refused(5);
    assert!(first > 0 && later <= first + 200, "went on from {first} to {later} entries");
    let _: () = redis.connect().rename(ALERTS, "elsewhere").unwrap();
    redis.wait_processed(TICKS);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// Reads were bounded by how many entries they have, and not by how large these are: sixty entries of ten megabytes
/// were read at once, and took a host 1.2 GB.
#[test]
fn large_entries_are_processed_a_few_at_a_time() {
    const LARGE: usize = 4 << 20;
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    let (mut connection, note) = (redis.connect(), vec![b'x'; LARGE]);
    for number in 0..60 {
        let time = (1_763_959_530_000u64 + number).to_string();
        let fields: [(&str, &[u8]); 4] =
            [("symbol", b"A"), ("ltp", b"100"), ("timestamp", time.as_bytes()), ("note", &note)];
        let _: String = connection.xadd(STREAM, "*", &fields).unwrap();
    }
    let mut host = project.start_with(&["run"], &[("TICKHOUND_STREAM__START", "earliest")]);
    redis.wait_processed(60);
    let peak = host.peak_memory_mib();
    println!("60 entries of {} MiB took {peak} MiB", LARGE >> 20);
    assert!(peak < 240, "{peak} MiB at its peak");
    host.stop();
    assert_eq!(of_each(&redis.alerts()).len(), 60);
}

/// The answer of a step has a place for each of its commands. One that is too short tells nothing,
/// and what the server has read out must be asked for again.
#[test]
fn an_answer_that_is_too_short_is_none() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "", "");
    let mut host = project.start(&["run"]);
    host.wait_for_event("group_created");
    wait_for("it has nothing to do", || (calls(&redis, "xread") > 0).then_some(()));
    // The next step of all is the one that reads these.
    let sprung = proxy.trap("EXEC", 1, At::Instead(b"*0\r\n"), || {});
    let direct = Project::new(&redis);
    direct.feed(SYMBOLS, 100, &[]);
    sprung.wait();
    direct.feed(SYMBOLS, 100, &["--seed", "2"]);
    redis.wait_processed(200);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// Alerts that the server refused are kept. If it takes them in the end, and that answer is lost, they
/// are there and must not come again.
#[test]
fn alerts_that_were_kept_come_once_though_the_answer_is_lost() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "", "");
    let mut host = project.start_owner();
    let mut connection = redis.connect();
    let _: () = connection.set(ALERTS, "in the way").unwrap();
    Project::new(&redis).feed(SYMBOLS, 100, &[]);
    host.wait_for_event_with("redis_unavailable", "the key alerts:intraday holds a string, expected a stream");
    let sprung = proxy.trap("EXEC", 1, At::Reply, || {});
    let _: () = connection.del(ALERTS).unwrap();
    sprung.wait();
    Project::new(&redis).feed(SYMBOLS, 100, &["--seed", "2"]);
    wait_alerted(&redis);
    host.stop();
    assert_undisturbed(&redis, &project);
}

/// A server forgets its scripts when somebody tells it to. They are sent again.
#[test]
fn scripts_that_the_server_forgot_are_sent_again() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = project(proxy.url(), "lease_ms = 500\nclaim_idle_ms = 1", "");
    project.feed(SYMBOLS, 100, &[]);
    let mut host = project.start(&["run"]);
    redis.wait_processed(100);
    let mut connection = redis.connect();
    for round in 1..=3 {
        for flush in ["SCRIPT FLUSH", "FUNCTION FLUSH"] {
            let _: () = redis.ask(flush);
        }
        let renewed = calls(&redis, "evalsha");
        wait_for("the lease is renewed often", || (calls(&redis, "evalsha") > renewed + 6).then_some(()));
        assert!(connection.exists::<_, bool>(LEASE).unwrap(), "or else it would have run out");
        assert_eq!(redis.ask::<u64>(&format!("GET {EPOCH}")), round);
        // Looked for at each new beginning.
        proxy.cut();
        wait_for("it begins anew", || (redis.ask::<u64>(&format!("GET {EPOCH}")) > round).then_some(()));
    }
    host.stop();
    project.feed(SYMBOLS, 100, &[]);
    read_as(&redis, "scanner_1", 50);
    let _: () = redis.ask("SCRIPT FLUSH");
    let log = project.run(&["run", "--drain"]);
    assert!(has_event_with(&log, "consumer_adopted", "consumer=scanner_1 entries=50"), "{log}");
    assert_each_once(&redis, false);
}

/// Another group on the stream that reads and never acknowledges is none of our business.
#[test]
fn a_dead_group_beside_ours_is_left_as_it_is() {
    let redis = Redis::start();
    let project = project(redis.url(), "claim_idle_ms = 1", "");
    project.feed(SYMBOLS, TICKS, &[]);
    let _: () = redis.ask(&format!("XGROUP CREATE {STREAM} dead 0"));
    let _: Value = redis.ask(&format!("XREADGROUP GROUP dead d COUNT 500 STREAMS {STREAM} >"));
    let mut host = project.start(&["run"]);
    redis.wait_processed(TICKS);
    healthy(&project);
    host.stop();
    let (pending, ..): (u64, String, String, Vec<(String, u64)>) = redis.ask(&format!("XPENDING {STREAM} dead"));
    assert_eq!(pending, 500);
    assert_undisturbed(&redis, &project);
}

/// With a password that is missing or wrong the host says which, and waits: the server may be the
/// one that is set up wrongly.
#[test]
fn a_password_is_asked_for_and_can_be_set_right_on_the_server() {
    let redis = Redis::start();
    // Stays logged in, whatever is asked of others from now on.
    let mut admin = redis.connect();
    let with = |more: &str| project(redis.url() + more, "", "");
    with("").feed(SYMBOLS, 500, &[]);
    let _: () = request("CONFIG SET requirepass secret").query(&mut admin).unwrap();
    let (without, with_wrong, with_right) = (with(""), with("?pass=sesame"), with("?pass=secret"));
    let mut missing = without.start(&["run"]);
    missing.wait_for_event_with(
        "redis_unavailable",
        "the server requires a password: put it in stream.url, or in TICKHOUND_STREAM__URL",
    );
    let mut wrong = with_wrong.start(&["run"]);
    wrong.wait_for_event_with("redis_unavailable", "the server rejects the user or password in stream.url");
    assert!(!wrong.log().contains("sesame"), "passwords stay out of logs");
    with_right.run(&["run", "--drain"]);
    let _: () = request("CONFIG SET requirepass sesame").query(&mut admin).unwrap();
    wrong.wait_for_event("lease_acquired");
    wrong.stop();
    missing.stop();
    let _: () = cmd("CONFIG").arg("SET").arg("requirepass").arg("").query(&mut admin).unwrap();
    assert_eq!(redis.processed(), 500);
    assert_each_once(&redis, false);
}

/// A detector that takes long for every tick: ticks wait in the stream, not in the host.
#[test]
fn a_slow_detector_slows_the_reader_down() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(
        "[plugins]\ncall_deadline_ms = 60000\n[engine]\nworkers = 1\nbacklog = 1000\n[alerts]\nlog = false\n\
         [detectors.slow]\nplugin = \"misbehaving\"\nparams = { how = \"slow\", at = 65 }",
    );
    project.feed(100, 100_000, &[]);
    let mut host = project.start(&["run"]);
    let most = wait_all_watching_pending(&redis, 10_000);
    assert!(most > 500 && most <= 1000, "{most} entries between read and commit");
    assert!(host.peak_memory_mib() < PEAK_MEMORY_MIB, "{} MiB", host.peak_memory_mib());
    host.stop();
    assert_eq!(redis.pending(), 0);
    assert!(redis.processed() < 100_000, "it was slow");
}

#[test]
fn a_slow_server_slows_the_reader_down() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = Project::at(proxy.url());
    project.configure("[engine]\nbacklog = 1000\n[alerts]\nlog = false");
    Project::new(&redis).feed(100, 100_000, &[]);
    proxy.set(Link::Slow);
    let mut host = project.start(&["run"]);
    let most = wait_all_watching_pending(&redis, 20_000);
    assert!(most <= 1000, "{most} entries between read and commit");
    assert!(host.peak_memory_mib() < PEAK_MEMORY_MIB, "{} MiB", host.peak_memory_mib());
    host.stop();
    assert_eq!(redis.pending(), 0);
    assert!(redis.processed() < 100_000, "it was slow");
    let alerts: u64 = redis.connect().xlen(ALERTS).unwrap();
    assert_eq!(redis.totals()["alerts"], alerts);
}
