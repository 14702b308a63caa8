//! What broke the promise once: each test tells how, and looks by a probe whose every alert carries a hash of all that
//! its symbol has seen.

use redis::Commands;

use crate::{
    proxy::{At, Proxy},
    support::{
        CHECKPOINT, Difference, EPOCH, GROUP, Host, LEASE, Project, Redis, STREAM, assert_chains, difference,
        has_event, read_as, request, signal, text, wait_for,
    },
};

const SYMBOLS: u32 = 4;
const TICKS: u32 = 2_000;

/// Ticks that are added while the host is paused.
const MORE: u32 = 100;

/// Small reads, and few of them in flight.
fn project(url: String) -> Project {
    Project::with_probe(url, "batch = 20", "[engine]\nbacklog = 200")
}

/// A host that has processed [`TICKS`] and was paused then.
struct Paused {
    // In the order in which they end.
    host: Host,
    project: Project,
    redis: Redis,
}

impl Paused {
    fn begin() -> Self {
        let redis = Redis::start();
        let project = project(redis.url());
        project.feed(SYMBOLS, TICKS, &[]);
        let host = project.start(&["run"]);
        redis.wait_processed(TICKS);
        host.signal("STOP");
        Self { host, project, redis }
    }

    /// Adds [`MORE`] ticks, other ones.
    fn feed_more(&self) {
        self.project.feed(SYMBOLS, MORE, &["--seed", "2"]);
    }

    /// It is woken up, processes everything, and is stopped.
    fn process_all(&mut self) {
        self.host.signal("CONT");
        self.redis.wait_processed(TICKS + MORE);
        self.host.stop();
    }
}

/// Everything that the stream holds was processed once, in order, by a detector that knew all that came before.
fn assert_undisturbed(redis: &Redis, project: &Project) {
    let (alerts, reference) = (redis.alerts(), project.reference(redis));
    assert!(!reference.is_empty());
    assert_eq!(difference(alerts, reference), Difference::default());
    assert_eq!(redis.pending(), 0);
    let (totals, length) = (redis.totals(), redis.ask::<u64>(&format!("XLEN {STREAM}")));
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
    let _: () = redis.ask(&format!("SET {EPOCH} 0"));
    let _: u64 = redis.ask(&format!("DEL {LEASE}"));
}

/// A commit was recognised by its number and its epoch. A replica that is promoted before it has heard of an acquisition
/// hands out the same epoch once more; so another host's commit passed for the old owner's own, which went on
/// "undisturbed" over another history.
#[test]
fn a_commit_of_another_host_under_the_same_epoch_does_not_pass_for_ones_own() {
    let redis = Redis::start();
    let (link, other_link) = (Proxy::to(&redis), Proxy::to(&redis));
    let (project_of_a, project_of_b) = (project(link.url()), project(other_link.url()));
    project_of_a.feed(SYMBOLS, 10 * TICKS, &[]);
    let mut a = project_of_a.start(&["run"]);
    redis.wait_processed(TICKS / 10);
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
    assert_eq!(redis.ask::<u64>(&format!("GET {EPOCH}")), 1, "the epoch has come twice");
    a.signal("CONT");
    redis.wait_processed(10 * TICKS);
    a.stop();
    assert_undisturbed(&redis, &project_of_a);
}

/// A standby adopted entries and died before it committed anything; the owner, paused meanwhile, went on after its last
/// read, and left them pending for ever.
#[test]
fn what_a_standby_adopted_before_it_died_is_processed_by_the_owner() {
    let mut paused = Paused::begin();
    paused.feed_more();
    read_as(&paused.redis, "scanner_7", 60);
    paused.host.signal("CONT");
    paused.redis.wait_processed(TICKS + MORE - 60);
    paused.host.signal("STOP");
    // As a standby does: it acquires, and claims what a dead scanner left.
    let redis = &paused.redis;
    let _: u64 = redis.ask(&format!("INCR {EPOCH}"));
    let left: Vec<(String, String, u64, u64)> = redis.ask(&format!("XPENDING {STREAM} {GROUP} - + 1000"));
    let ids: Vec<&str> = left.iter().map(|(id, ..)| id.as_str()).collect();
    let claimed: Vec<String> = redis.ask(&format!("XCLAIM {STREAM} {GROUP} tickhound 0 {} JUSTID", ids.join(" ")));
    assert_eq!(claimed.len(), 60);
    paused.process_all();
    assert_each_once(&paused.redis, TICKS + MORE);
}

/// A standby marked a pending entry as tried and died. The owner went on and never took the mark back, so that its own
/// next recovery, much later, began one by one and counted a try that was none.
#[test]
fn the_mark_of_a_standby_that_died_goes_when_all_is_processed() {
    let mut paused = Paused::begin();
    let redis = &paused.redis;
    let (last, _) = redis.newest(STREAM, 1).remove(0);
    let _: u64 = redis.connect().hset(CHECKPOINT, "attempt", format!("{last} 3")).unwrap();
    let _: u64 = redis.ask(&format!("INCR {EPOCH}"));
    paused.host.signal("CONT");
    wait_for("the mark is taken back", || {
        let attempt: String = redis.connect().hget(CHECKPOINT, "attempt").unwrap();
        attempt.ends_with(" 0-0 0 0").then_some(())
    });
    paused.feed_more();
    paused.process_all();
    assert_undisturbed(&paused.redis, &paused.project);
}

/// Somebody looked with `XREADGROUP GROUP scanner_group tickhound`. What he was given was called trimmed, which it was
/// not, stayed pending until the next start, and was counted twice then.
#[test]
fn what_another_client_reads_under_our_name_is_processed_and_not_called_lost() {
    let mut paused = Paused::begin();
    paused.feed_more();
    read_as(&paused.redis, "tickhound", 60);
    paused.process_all();
    let log = paused.host.log();
    assert!(!has_event(&log, "entries_trimmed") && !has_event(&log, "pending_entries_trimmed"), "{log}");
    assert_each_once(&paused.redis, TICKS + MORE);
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
            let project = project(redis.url());
            project.feed(SYMBOLS, TICKS, &[]);
            let mut host = project.start(&["run"]);
            redis.wait_processed(TICKS);
            if !lives {
                host.kill();
            }
            let mut both = redis::pipe();
            for command in commands {
                both.add_command(request(command));
            }
            let () = both.query(&mut redis.connect()).unwrap();
            project.feed(SYMBOLS, 500, &["--seed", "2"]);
            if !lives {
                host = project.start(&["run"]);
            }
            redis.wait_processed(TICKS + 500);
            host.stop();
            let log = host.log();
            assert_undisturbed(&redis, &project);
            assert!(has_event(&log, "group_set_back"), "{commands:?}, lives: {lives}: {log}");
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
fn a_stream_that_begins_anew_below_the_last_commit_is_processed() {
    for lives in [true, false] {
        let redis = Redis::start();
        let project = project(redis.url());
        add_from(&redis, BEGINS[0], 300);
        let mut host = project.start(&["run"]);
        redis.wait_processed(300);
        if !lives {
            host.signal("TERM");
            host.wait();
        }
        let _: u64 = redis.ask(&format!("DEL {STREAM}"));
        add_from(&redis, BEGINS[1], 50);
        if !lives {
            let status = text(&project.output(&["status"]).stdout);
            assert!(!status.contains("every entry is processed"), "{status}");
            host = project.start(&["run"]);
        }
        redis.wait_processed(350);
        add_from(&redis, BEGINS[1] + 50, 50);
        redis.wait_processed(400);
        let status = project.output(&["status", "--json"]);
        assert_eq!(status.status.code(), Some(0), "{}", text(&status.stdout));
        // What is saved is of the new stream: a kill costs nothing either.
        host.kill();
        add_from(&redis, BEGINS[1] + 100, 50);
        host = project.start(&["run"]);
        redis.wait_processed(450);
        host.stop();
        let alerts = redis.alerts();
        assert_eq!(alerts.len(), 450, "lives: {lives}");
        assert_chains(&alerts);
        assert_eq!((redis.totals()["lost"], redis.pending()), (0, 0));
    }
}
