//! What broke the promise once: each test tells how, and looks by a probe whose every alert carries a hash of all that
//! its symbol has seen.

use std::{collections::BTreeMap, fs};

use redis::{Commands, cmd};

use crate::{
    proxy::{At, Proxy},
    support::{
        Alert, CHECKPOINT, Difference, GROUP, Host, Project, Redis, STREAM, Sighting, difference, probe, read_as,
        signal, text, wait_for,
    },
};

const SYMBOLS: u32 = 4;
const TICKS: u32 = 2_000;

const EPOCH: &str = "tickhound:{ticks:intraday:processed}:scanner_group:epoch";
const LEASE: &str = "tickhound:{ticks:intraday:processed}:scanner_group:lease";

/// With the probe alone.
fn project(url: String, stream: &str) -> Project {
    let project = Project::at(url.clone());
    fs::copy(probe(), project.path("plugins/probe.wasm")).unwrap();
    project.write_config(&format!(
        "[stream]\nurl = \"{url}\"\nblock_ms = 200\n{stream}\n[engine]\nbacklog = 200\n\
         [alerts]\nlog = false\nmaxlen = 0\n[detectors.probe]\nplugin = \"probe\"\n"
    ));
    project
}

fn processed(redis: &Redis) -> u64 {
    redis.totals().get("entries").copied().unwrap_or(0)
}

fn wait_processed(redis: &Redis, count: u32) {
    wait_for(&format!("{count} entries are processed"), || (processed(redis) >= u64::from(count)).then_some(()));
}

fn stop(mut host: Host) {
    host.signal("TERM");
    assert_eq!(host.wait(), Some(0), "{}", host.log());
}

fn ask<T: redis::FromRedisValue>(redis: &Redis, command: &str) -> T {
    let mut words = command.split(' ');
    let mut request = cmd(words.next().unwrap());
    words.for_each(|word| {
        request.arg(word);
    });
    request.query(&mut redis.connect()).unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Everything that the stream holds was processed once, in order, by a detector that knew all that came before.
fn assert_undisturbed(redis: &Redis, project: &Project) {
    let (alerts, reference) = (redis.alerts(), project.reference(redis));
    assert!(!reference.is_empty());
    assert_eq!(difference(alerts, reference), Difference::default());
    assert_eq!(redis.pending(), 0);
    let (totals, length) = (redis.totals(), ask::<u64>(redis, &format!("XLEN {STREAM}")));
    assert_eq!((totals["entries"], totals["lost"]), (length, 0), "entries, lost");
}

/// So many entries were processed, each once; in whatever order, where another client had a part of them for a while.
fn assert_each_once(redis: &Redis, count: u32) {
    assert_eq!(redis.pending(), 0);
    let totals = redis.totals();
    assert_eq!((totals["entries"], totals["lost"]), (u64::from(count), 0), "entries, lost");
    let mut ids: Vec<String> = redis.alerts().into_iter().map(|mut alert| alert.remove("id").unwrap()).collect();
    assert_eq!(ids.len() as u32, count);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u32, count, "each id once");
}

/// Ends a partition's ownership as a replica that is promoted too early does: it has not heard of the acquisition, and
/// the lease has run out.
fn forget_acquisition(redis: &Redis) {
    let _: () = ask(redis, &format!("SET {EPOCH} 0"));
    let _: u64 = ask(redis, &format!("DEL {LEASE}"));
}

/// A commit was recognised by its number and its epoch. A replica that is promoted before it has heard of an acquisition
/// hands out the same epoch once more; so another host's commit passed for the old owner's own, which went on
/// "undisturbed" over another history.
#[test]
fn a_commit_of_another_host_under_the_same_epoch_does_not_pass_for_ones_own() {
    let redis = Redis::start();
    let (link, other_link) = (Proxy::to(&redis), Proxy::to(&redis));
    let (project_of_a, project_of_b) = (project(link.url(), "batch = 20"), project(other_link.url(), "batch = 20"));
    project_of_a.feed(SYMBOLS, 10 * TICKS, &[]);
    let a = project_of_a.start(&["run"]);
    wait_processed(&redis, TICKS / 10);
    let pid = a.pid();
    link.trap("EXEC", 1, At::Request, move || signal(pid, "STOP")).wait();
    let commits = redis.totals()["commits"];
    // The other one makes one commit under the epoch of the first, and dies.
    for nth in 1.. {
        forget_acquisition(&redis);
        let mut b = project_of_b.start(&["run"]);
        let pid = b.pid();
        other_link.trap("EXEC", nth, At::Reply, move || signal(pid, "KILL")).wait();
        b.wait();
        if redis.totals()["commits"] > commits {
            break;
        }
    }
    assert_eq!(redis.totals()["commits"], commits + 1);
    assert_eq!(ask::<u64>(&redis, &format!("GET {EPOCH}")), 1, "the epoch has come twice");
    a.signal("CONT");
    wait_processed(&redis, 10 * TICKS);
    stop(a);
    assert_undisturbed(&redis, &project_of_a);
}

/// A standby adopted entries and died before it committed anything; the owner, paused meanwhile, went on after its last
/// read, and left them pending for ever.
#[test]
fn what_a_standby_adopted_before_it_died_is_processed_by_the_owner() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 20");
    project.feed(SYMBOLS, TICKS, &[]);
    let host = project.start(&["run"]);
    wait_processed(&redis, TICKS);
    host.signal("STOP");
    project.feed(SYMBOLS, 100, &["--seed", "2"]);
    read_as(&redis, "scanner_7", 60);
    host.signal("CONT");
    wait_processed(&redis, TICKS + 40);
    host.signal("STOP");
    // As a standby does: it acquires, and claims what a dead scanner left.
    let _: u64 = ask(&redis, &format!("INCR {EPOCH}"));
    let left: Vec<(String, String, u64, u64)> = ask(&redis, &format!("XPENDING {STREAM} {GROUP} - + 1000"));
    let ids: Vec<&str> = left.iter().map(|(id, ..)| id.as_str()).collect();
    let claimed: Vec<String> = ask(&redis, &format!("XCLAIM {STREAM} {GROUP} tickhound 0 {} JUSTID", ids.join(" ")));
    assert_eq!(claimed.len(), 60);
    host.signal("CONT");
    wait_processed(&redis, TICKS + 100);
    stop(host);
    assert_each_once(&redis, TICKS + 100);
}

/// A standby marked a pending entry as tried and died. The owner went on and never took the mark back, so that its own
/// next recovery, much later, began one by one and counted a try that was none.
#[test]
fn the_mark_of_a_standby_that_died_goes_when_all_is_processed() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 20");
    project.feed(SYMBOLS, TICKS, &[]);
    let host = project.start(&["run"]);
    wait_processed(&redis, TICKS);
    host.signal("STOP");
    let last: Vec<(String, Alert)> = ask(&redis, &format!("XREVRANGE {STREAM} + - COUNT 1"));
    let _: u64 = redis.connect().hset(CHECKPOINT, "attempt", format!("{} 3", last[0].0)).unwrap();
    let _: u64 = ask(&redis, &format!("INCR {EPOCH}"));
    host.signal("CONT");
    wait_for("the mark is taken back", || {
        let attempt: String = redis.connect().hget(CHECKPOINT, "attempt").unwrap();
        attempt.ends_with(" 0-0 0 0").then_some(())
    });
    project.feed(SYMBOLS, 100, &["--seed", "2"]);
    wait_processed(&redis, TICKS + 100);
    stop(host);
    assert_undisturbed(&redis, &project);
}

/// Somebody looked with `XREADGROUP GROUP scanner_group tickhound`. What he was given was called trimmed, which it was
/// not, stayed pending until the next start, and was counted twice then.
#[test]
fn what_another_client_reads_under_our_name_is_processed_and_not_called_lost() {
    let redis = Redis::start();
    let project = project(redis.url(), "batch = 20");
    project.feed(SYMBOLS, TICKS, &[]);
    let host = project.start(&["run"]);
    wait_processed(&redis, TICKS);
    host.signal("STOP");
    project.feed(SYMBOLS, 100, &["--seed", "2"]);
    read_as(&redis, "tickhound", 60);
    host.signal("CONT");
    wait_processed(&redis, TICKS + 100);
    assert!(!host.log().contains("trimmed away"), "{}", host.log());
    stop(host);
    assert_each_once(&redis, TICKS + 100);
}

/// `XGROUP SETID 0`, or a group that is destroyed and created at 0: what had been processed was handed out again and
/// published again, and as many entries were called trimmed.
#[test]
fn a_group_that_is_set_back_repeats_nothing() {
    let set_back = [format!("XGROUP SETID {STREAM} {GROUP} 0")];
    let made_anew = [format!("XGROUP DESTROY {STREAM} {GROUP}"), format!("XGROUP CREATE {STREAM} {GROUP} 0")];
    for commands in [set_back.as_slice(), &made_anew] {
        for lives in [true, false] {
            let redis = Redis::start();
            let project = project(redis.url(), "batch = 20");
            project.feed(SYMBOLS, TICKS, &[]);
            let mut host = project.start(&["run"]);
            wait_processed(&redis, TICKS);
            if !lives {
                host.kill();
            }
            let mut both = redis::pipe();
            for command in commands {
                let mut words = command.split(' ');
                let added = both.cmd(words.next().unwrap());
                for word in words {
                    added.arg(word);
                }
            }
            let () = both.query(&mut redis.connect()).unwrap();
            project.feed(SYMBOLS, 500, &["--seed", "2"]);
            if !lives {
                host = project.start(&["run"]);
            }
            wait_processed(&redis, TICKS + 500);
            let log = host.log();
            stop(host);
            assert_undisturbed(&redis, &project);
            assert!(log.contains("group_set_back"), "{commands:?}, lives: {lives}: {log}");
        }
    }
}

/// Days on which a stream begins, ms: the later one first.
const BEGINS: [u64; 2] = [1_764_000_000_000, 1_763_000_000_000];

/// Adds `count` entries with the ids `first`, `first + 1` …
fn add_from(redis: &Redis, first: u64, count: u64) {
    let mut add = redis::pipe();
    for time in first..first + count {
        add.cmd("XADD").arg(STREAM).arg(format!("{time}-0"));
        add.arg("symbol").arg(format!("S{}", time % 3)).arg("ltp").arg(100 + time % 50).arg("timestamp").arg(time);
    }
    let () = add.query(&mut redis.connect()).unwrap();
}

/// A stream was deleted and filled again by a producer that gives ids of its own, as a replay of an older day does. None of its entries was read, since all lie
/// before the last commit, and `status` said healthy.
#[test]
fn a_stream_that_begins_anew_below_the_last_commit_is_taken_up() {
    for lives in [true, false] {
        let redis = Redis::start();
        let project = project(redis.url(), "batch = 20");
        add_from(&redis, BEGINS[0], 300);
        let mut host = project.start(&["run"]);
        wait_processed(&redis, 300);
        if !lives {
            host.signal("TERM");
            host.wait();
        }
        let _: u64 = ask(&redis, &format!("DEL {STREAM}"));
        add_from(&redis, BEGINS[1], 50);
        if !lives {
            let status = text(&project.output(&["status"]).stdout);
            assert!(!status.contains("everything that was added is"), "{status}");
            host = project.start(&["run"]);
        }
        wait_processed(&redis, 350);
        add_from(&redis, BEGINS[1] + 50, 50);
        wait_processed(&redis, 400);
        let status = project.output(&["status", "--json"]);
        assert_eq!(status.status.code(), Some(0), "{}", text(&status.stdout));
        // What is saved is of the new stream: a kill costs nothing either.
        host.kill();
        add_from(&redis, BEGINS[1] + 100, 50);
        host = project.start(&["run"]);
        wait_processed(&redis, 450);
        stop(host);
        let alerts = redis.alerts();
        assert_eq!(alerts.len(), 450, "lives: {lives}");
        let mut last: BTreeMap<&str, Sighting> = BTreeMap::new();
        for alert in &alerts {
            let sighting = Sighting::of(alert);
            let before = last.insert(&alert["symbol"], sighting);
            assert_eq!(sighting, Sighting::after(before, sighting.tick, sighting.by), "lives: {lives}: {alert:?}");
        }
        assert_eq!((redis.totals()["lost"], redis.pending()), (0, 0));
    }
}
