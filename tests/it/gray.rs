//! Gray failure: a host that is neither dead nor well. What it writes to is blocked, or something in it is stuck; its
//! timers, its lease and its signals must not go on as if nothing were wrong.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use redis::Commands;

use crate::{
    server::Serving,
    support::{EPOCH, LEASE, Project, Redis, STREAM, count_event, has_event, misbehaving, signal, wait_for},
    terminal::Terminal,
};

/// More alerts than a pipe, and the queue in front of it, have room for.
const TICKS: u32 = 24_000;

/// A folder whose detector `each` alerts on every tick.
fn alerting(redis: &Redis, more: &str) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    project.configure(&format!("{more}\n[detectors.each]\nplugin = \"misbehaving\""));
    project
}

/// A folder whose detector `stuck` does not come back from a tick of the price 666.
fn with_a_trap(redis: &Redis, stream: &str) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    project.configure_with(
        stream,
        "[plugins]\ncall_deadline_ms = 600000\n[detectors.stuck]\nplugin = \"misbehaving\"\n\
         params = { how = \"loop\", price = 666.0, at = 1000000 }",
    );
    project
}

fn spring(redis: &Redis) {
    let tick = [("symbol", "TRAP"), ("ltp", "666"), ("timestamp", "1763959530000")];
    let _: String = redis.connect().xadd(STREAM, "*", &tick).unwrap();
}

fn is_leased(redis: &Redis) -> bool {
    redis.connect().exists(LEASE).unwrap()
}

/// A host whose log is a pipe; killed on drop.
struct Piped {
    host: Child,
    /// Kept open, and read by nobody.
    log: Option<ChildStdout>,
}

impl Piped {
    /// One that has become the owner.
    fn start(redis: &Redis, project: &Project) -> Self {
        let mut host = project.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let log = host.stdout.take();
        let piped = Self { host, log };
        wait_for("it is the owner", || (redis.lease_pid() == Some(piped.host.id())).then_some(()));
        piped
    }

    fn ended(&mut self) -> Option<i32> {
        wait_for("the host ends", || self.host.try_wait().unwrap()).code()
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

/// The log went to a pipe whose reader slept, as `tickhound run | less` does. When the pipe was full the engine waited
/// for it for ever, with the lease renewed all the while: no alert came any more, from this host or another.
#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let redis = Redis::start();
    let project = alerting(&redis, "[alerts]\nlog_stale = true");
    let mut host = Piped::start(&redis, &project);
    project.feed(12, TICKS, &[]);
    redis.wait_all_processed(TICKS);
    // What finds no room is left out, which the log says where it is so: once with the beginning, once with the count.
    let mut lines = BufReader::new(host.log.take().unwrap()).lines().map(Result::unwrap);
    let alerts = redis.alerts().len();
    let (mut shown, mut noted) = (0, false);
    let left_out: usize = lines
        .find_map(|line| {
            shown += usize::from(line.contains("DETECTED"));
            noted |= has_event(&line, "log_lines_left_out");
            let count = line.split_once(" lines were left out of this log")?.0;
            count.rsplit_once(' ')?.1.parse().ok()
        })
        .expect("the log goes on");
    assert!(noted && left_out > 0);
    signal(host.host.id(), "TERM");
    shown += lines.filter(|line| line.contains("DETECTED")).count();
    assert!(shown < alerts && shown + left_out >= alerts, "{shown} shown, {left_out} left out of {alerts}");
    assert_eq!(host.ended(), Some(0));
}

/// SIGTERM was not obeyed either: the engine never came to look whether it was to stop.
#[test]
fn a_host_whose_log_is_blocked_ends_on_sigterm() {
    let redis = Redis::start();
    let project = alerting(&redis, "[alerts]\nlog_stale = true");
    let mut host = Piped::start(&redis, &project);
    project.feed(12, TICKS, &[]);
    signal(host.host.id(), "TERM");
    assert_eq!(host.ended(), Some(0));
    assert_eq!(redis.pending(), 0, "what was read is committed");
    assert!(!is_leased(&redis), "the lease is released");
}

/// Ctrl-S on the terminal in which a host runs stopped it as dead, until somebody thought of Ctrl-Q.
#[test]
fn a_terminal_that_is_stopped_stops_nothing() {
    let redis = Redis::start();
    let project = alerting(&redis, "[alerts]\nlog_stale = true");
    let variables = [("TICKHOUND_SERVER__LISTEN", "")];
    let mut terminal = Terminal::open(&project, "run", (120, 40), &variables);
    terminal.shows("event=\"lease_acquired\"");
    terminal.press("\x13");
    project.feed(12, TICKS, &[]);
    redis.wait_all_processed(TICKS);
    terminal.signal("TERM");
    wait_for("it gives the lease back", || (!is_leased(&redis)).then_some(()));
    terminal.press("\x11");
    assert_eq!(terminal.wait().0, Some(0));
}

/// The alerts file was a pipe that nobody read: the engine wrote it itself, after the commit, and so stood still.
#[test]
fn an_alerts_file_that_blocks_holds_up_nothing() {
    let redis = Redis::start();
    let project = alerting(&redis, "[alerts]\njsonl = \"full\"\nlog = false");
    let made = Command::new("mkfifo").arg(project.path("full")).status().unwrap();
    assert!(made.success());
    let mut host = project.start_owner();
    project.feed(5, 5000, &[]);
    redis.wait_all_processed(5000);
    host.wait_for_event("jsonl_blocked");
    host.stop();
    assert!(host.has_event("jsonl_incomplete"), "what the file lacks is said");
    assert_eq!(redis.pending(), 0);
}

/// A disk that is full for good: processing continues, it is said once, and whoever drains into the file is told that it
/// lacks alerts.
#[test]
fn a_disk_that_stays_full_holds_up_nothing() {
    let redis = Redis::start();
    let project = alerting(&redis, "[alerts]\njsonl = \"/dev/full\"\nlog = false");
    let mut host = project.start_owner();
    project.feed(5, 3000, &[]);
    redis.wait_all_processed(3000);
    host.wait_for_event("jsonl_not_written");
    host.stop();
    let log = host.log();
    assert_eq!(count_event(&log, "jsonl_not_written"), 1, "{log}");
    assert_eq!(count_event(&log, "jsonl_incomplete"), 1, "{log}");
    project.feed(5, 100, &[]);
    let drained = project.output(&["run", "--drain"]);
    let said = String::from_utf8_lossy(&drained.stderr);
    assert_eq!(drained.status.code(), Some(1), "{said}");
    assert!(said.contains("alerts may be missing from /dev/full (No space left on device"), "{said}");
}

/// A host was stuck in a detector. Its lease was renewed by a task beside the engine for as long as the process lived,
/// so the standby stood by for ever.
#[test]
fn a_host_that_stands_still_gives_its_lease_away() {
    let redis = Redis::start();
    let project = with_a_trap(&redis, "lease_ms = 1000\ntimeout_ms = 1000");
    let host = project.start_owner();
    let standby = project.start(&["run"]);
    standby.wait_for_event("standby_started");
    project.feed(5, 1000, &[]);
    redis.wait_all_processed(1000);
    assert!(!standby.has_event("lease_acquired"), "as long as the owner moves it keeps its lease");
    spring(&redis);
    standby.wait_for_event("lease_acquired");
    assert!(host.has_event("lease_renewal_paused"), "{}", host.log());
}

/// The way back: who moves again before anybody else has come renews its lease, and has lost nothing.
#[test]
fn a_host_that_moves_again_continues_where_it_was() {
    let redis = Redis::start();
    let project = with_a_trap(&redis, "lease_ms = 500");
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.write_config(&config.replace("call_deadline_ms = 600000", "call_deadline_ms = 3000"));
    let mut host = project.start_owner();
    spring(&redis);
    host.wait_for_event("lease_renewal_paused");
    host.wait_for_event("lease_renewal_resumed");
    project.feed(5, 1000, &[]);
    redis.wait_all_processed(1001);
    host.stop();
    assert_eq!(host.count_event("lease_acquired"), 1, "nobody has taken over, so it is as undisturbed");
    assert_eq!((redis.pending(), redis.dead_letters().len()), (0, 1));
}

/// `/healthz` said 200 of a host that had stood still for minutes, and SIGTERM waited for what never came.
#[test]
fn a_host_that_is_stuck_says_so_and_ends_on_sigterm() {
    let redis = Redis::start();
    let project = with_a_trap(&redis, "lease_ms = 1000\ntimeout_ms = 1000");
    let mut serving = Serving::start(&project);
    serving.host.wait_for_event("lease_acquired");
    assert_eq!(serving.get("/healthz").0, 200);
    spring(&redis);
    wait_for("it is not ready", || {
        let (status, body) = serving.get("/readyz");
        (status == 503 && body.contains("the engine has made no progress for")).then_some(())
    });
    let body = wait_for("it is not well", || {
        let (status, body) = serving.get("/healthz");
        (status == 503).then_some(body)
    });
    assert!(body.contains("the engine has made no progress for"), "{body}");
    serving.host.signal("TERM");
    assert_eq!(serving.host.wait(), Some(1));
    let log = serving.host.log();
    assert!(has_event(&log, "stop_timed_out") && log.contains("processed again at the next start"), "{log}");
    assert_eq!(redis.pending(), 1, "nothing is lost by it");
}

/// The server accepted no commit any more, but gave the lease. A host that got SIGTERM then tried without any
/// pause: 898 acquisitions in five seconds, for ever.
#[test]
fn a_host_that_can_not_commit_stops_without_haste() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut host = project.start_owner();
    let () = redis.ask("ACL SETUSER default -xack");
    project.feed(5, 500, &[]);
    host.wait_for_event("redis_unavailable");
    let epoch = || redis.ask::<u64>(&format!("GET {EPOCH}"));
    let before = epoch();
    host.signal("TERM");
    assert_eq!(host.wait(), Some(1));
    let acquisitions = epoch() - before;
    assert!(acquisitions < 50, "{acquisitions} acquisitions");
    let log = host.log();
    assert!(log.contains("could not be committed") && log.contains("processed again at the next start"), "{log}");
    assert!(!is_leased(&redis), "the lease is released");
    let () = redis.ask("ACL SETUSER default +xack");
    project.run(&["run", "--drain"]);
    assert_eq!((redis.pending(), redis.totals()["entries"]), (0, 500));
}
