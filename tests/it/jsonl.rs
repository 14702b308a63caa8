//! The JSON lines file has each alert of the stream once, in its order, whatever happens to hosts, server and disk.

use std::{
    collections::BTreeSet,
    fs,
    process::{Child, Command, Stdio},
};

use crate::support::{
    ALERTS, Host, Project, Redis, binary, has_event, has_event_with, lines_of, misbehaving, wait_for,
};

const FILE: &str = "alerts.jsonl";

/// The detector `each` alerts on every tick.
const EACH: &str = "[detectors.each]\nplugin = \"misbehaving\"";

fn alerting(redis: &Redis, stream: &str) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    configure(&project, stream, FILE);
    project
}

fn configure(project: &Project, stream: &str, file: &str) {
    project.configure_with(stream, &format!("[alerts]\nlog = false\nmaxlen = 0\njsonl = \"{file}\"\n{EACH}"));
}

/// Ids of the lines; each must be a whole line.
fn in_file(project: &Project, file: &str) -> Vec<String> {
    let text = fs::read_to_string(project.path(file)).unwrap_or_default();
    let id = |line: &str| -> String {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        line["id"].as_str().unwrap().to_owned()
    };
    text.lines().map(id).collect()
}

fn in_stream(redis: &Redis) -> Vec<String> {
    redis.alerts().into_iter().map(|mut alert| alert.remove("id").unwrap()).collect()
}

fn assert_same(file: &[String], stream: &[String]) {
    let (unique, expected): (BTreeSet<_>, BTreeSet<_>) = (file.iter().collect(), stream.iter().collect());
    let (twice, lost) = (file.len() - unique.len(), expected.difference(&unique).count());
    assert_eq!(
        (twice, lost),
        (0, 0),
        "twice and missing, of {} in the file and {} in the stream",
        file.len(),
        stream.len()
    );
    assert!(file == stream, "not in the order of the stream");
}

/// Whole lines of a file that is being written.
fn count(project: &Project, file: &str) -> usize {
    fs::read(project.path(file)).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
}

fn feed(project: &Project, count: u32, rate: u32) -> Killed {
    let (count, rate) = (count.to_string(), rate.to_string());
    let args = ["feed", "--simulate", "--symbols", "12", "--count", &count, "--rate", &rate];
    Killed(project.command(&args).stdout(Stdio::null()).spawn().unwrap())
}

/// A process that is killed on drop.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two hosts of one folder wrote one file. The owner was paused past its lease between a commit and its lines; its
/// successor found them missing and added them; the paused host woke up and wrote them again, behind lines that came
/// later. From then on the end of the file said nothing about what it had, and a restart doubled thousands of lines.
#[test]
fn hosts_that_are_paused_past_their_lease_write_no_line_twice() {
    const COUNT: u32 = 30_000;
    let redis = Redis::start();
    let project = alerting(&redis, "lease_ms = 500\nbatch = 50");
    let mut hosts = [project.start(&["run"]), project.start(&["run"])];
    wait_for("one is the owner", || hosts.iter().any(|host| host.has_event("lease_acquired")).then_some(()));
    let feeding = feed(&project, COUNT, 2500);
    for round in 0..8 {
        redis.wait_progress(300);
        // Whichever it is that works: the other one takes over.
        hosts[round % 2].signal("STOP");
        redis.wait_progress(300);
        hosts[round % 2].signal("CONT");
    }
    let acquired: usize = hosts.iter().map(|host| host.count_event("lease_acquired")).sum();
    assert!(acquired > 2, "the lease has changed hands");
    redis.wait_processed(COUNT);
    drop(feeding);
    hosts.iter_mut().for_each(Host::stop);
    assert_same(&in_file(&project, FILE), &in_stream(&redis));
    // Nor does the next start.
    project.feed(12, 100, &[]);
    project.run(&["run", "--drain"]);
    assert_same(&in_file(&project, FILE), &in_stream(&redis));
}

pub fn limit_files(pid: u32, bytes: &str) {
    // The soft limit, which may be raised again.
    let limit = format!("--fsize={bytes}:");
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

/// The disk was full for a while: what should have been written then was dropped, and half a line stayed. When there was
/// space again the next line was glued to it, and after a kill nobody looked behind the last line: 601 of 2,100 alerts
/// were missing for good.
#[test]
fn a_disk_that_is_full_for_a_while_costs_no_line() {
    let redis = Redis::start();
    let project = alerting(&redis, "");
    // Writes beyond a limit then fail as on a full disk, and end nothing.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" run"]).arg(binary()).current_dir(project.path("."));
    let log = fs::File::create(project.path("host.log")).unwrap();
    let mut host = Killed(shell.env("TICKHOUND_SERVER__LISTEN", "").stdout(log).spawn().unwrap());
    let log = || fs::read_to_string(project.path("host.log")).unwrap();
    wait_for("it is the owner", || has_event(&log(), "lease_acquired").then_some(()));
    project.feed(12, 700, &[]);
    wait_for("they are in the file", || (count(&project, FILE) >= 700).then_some(()));
    let size = fs::metadata(project.path(FILE)).unwrap().len();
    limit_files(host.0.id(), &(size + 1000).to_string());
    project.feed(12, 700, &[]);
    redis.wait_processed(1400);
    wait_for("it says that the file can't be written", || {
        has_event_with(&log(), "jsonl_not_written", "File too large").then_some(())
    });
    limit_files(host.0.id(), "unlimited");
    project.feed(12, 700, &[]);
    redis.wait_processed(2100);
    host.0.kill().unwrap();
    host.0.wait().unwrap();
    project.run(&["run", "--drain"]);
    assert_same(&in_file(&project, FILE), &in_stream(&redis));
}

/// The alert of the file's last line was deleted from the stream, or trimmed: the catch-up found nothing to go by, and
/// everything that had come since was left out without a word.
#[test]
fn a_file_whose_last_alert_is_gone_from_the_stream_is_completed() {
    let redis = Redis::start();
    let project = alerting(&redis, "");
    let elsewhere = || {
        let mut command = project.command(&["run", "--drain"]);
        assert!(command.env("TICKHOUND_ALERTS__JSONL", "").output().unwrap().status.success());
    };
    project.feed(12, 500, &[]);
    project.run(&["run", "--drain"]);
    let mut expected = in_stream(&redis);
    assert_eq!(in_file(&project, FILE), expected);
    for (id, _) in redis.newest(ALERTS, 3) {
        let _: u64 = redis.ask(&format!("XDEL {ALERTS} {id}"));
    }
    // Another host, which has no such file, works meanwhile.
    project.feed(12, 500, &[]);
    elsewhere();
    let came = in_stream(&redis)[expected.len() - 3..].to_vec();
    assert!(came.len() >= 500);
    expected.extend(came);
    project.run(&["run", "--drain"]);
    assert_same(&in_file(&project, FILE), &expected);
    // If none is left, what the stream holds is added, and what may be missing is said.
    project.feed(12, 500, &[]);
    elsewhere();
    let _: u64 = redis.ask(&format!("XTRIM {ALERTS} MAXLEN 200"));
    let log = project.run(&["run", "--drain"]);
    expected.extend(in_stream(&redis));
    assert_same(&in_file(&project, FILE), &expected);
    assert!(has_event_with(&log, "jsonl_alerts_lost", "at_most="), "{log}");
}

/// A file was behind, and its disk was full while it caught up: what was trimmed from the stream meanwhile was missing in
/// it, and nothing said so. Where the file ended was known, but not which number that alert had in the stream.
#[test]
fn alerts_that_are_trimmed_while_a_file_catches_up_are_counted() {
    // The follower reads this many at once.
    const PAGE: usize = 2000;
    let redis = Redis::start();
    let project = alerting(&redis, "");
    project.feed(12, 700, &[]);
    project.run(&["run", "--drain"]);
    let before = in_file(&project, FILE).len();
    project.feed(12, 4000, &[]);
    let mut elsewhere = project.command(&["run", "--drain"]);
    assert!(elsewhere.env("TICKHOUND_ALERTS__JSONL", "").output().unwrap().status.success());
    let all = in_stream(&redis);
    assert!(all.len() > before + PAGE + 1000);
    // The file can't grow, so the follower stays where it is with what it has read.
    let limit = fs::metadata(project.path(FILE)).unwrap().len() + 100;
    let mut shell = Command::new("sh");
    let script = format!("trap '' XFSZ; exec prlimit --fsize={limit}: \"$0\" run");
    let log = fs::File::create(project.path("host.log")).unwrap();
    shell.args(["-c", &script]).arg(binary()).current_dir(project.path("."));
    let mut host = Killed(shell.env("TICKHOUND_SERVER__LISTEN", "").stdout(log).spawn().unwrap());
    let log = || fs::read_to_string(project.path("host.log")).unwrap();
    wait_for("the file can't be written", || has_event(&log(), "jsonl_not_written").then_some(()));
    let kept = 200;
    let _: u64 = redis.ask(&format!("XTRIM {ALERTS} MAXLEN {kept}"));
    limit_files(host.0.id(), "unlimited");
    wait_for("the file has the rest", || (count(&project, FILE) >= before + PAGE + kept).then_some(()));
    host.0.kill().unwrap();
    host.0.wait().unwrap();
    let left = [&all[..before + PAGE], &all[all.len() - kept..]].concat();
    assert_same(&in_file(&project, FILE), &left);
    let lost = format!("alerts={} ", all.len() - left.len());
    let said = log();
    let lines = lines_of(&said, "jsonl_alerts_lost");
    assert!(lines.first().is_some_and(|line| format!("{line} ").contains(&lost)), "{lost}: {said}");
}

/// What a server holds, to be put back later: so does a failover to a replica that was behind.
fn dump(redis: &Redis) -> redis::Pipeline {
    let mut connection = redis.connect();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let mut back = redis::pipe();
    back.atomic().cmd("FLUSHALL").ignore();
    for key in keys {
        let value: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut connection).unwrap();
        back.cmd("RESTORE").arg(key).arg(0).arg(value).ignore();
    }
    back
}

/// A server came back with older data: the alerts that it had lost were published again under the same ids, and written
/// to the file a second time.
#[test]
fn alerts_that_are_published_again_have_one_line() {
    let redis = Redis::start();
    let project = alerting(&redis, "");
    project.feed(12, 500, &[]);
    project.run(&["run", "--drain"]);
    project.feed(12, 500, &[]);
    let back = dump(&redis);
    let mut host = project.start(&["run"]);
    redis.wait_processed(1000);
    wait_for("they are in the file", || (count(&project, FILE) >= 1000).then_some(()));
    let () = back.query(&mut redis.connect()).unwrap();
    redis.wait_processed(1000);
    project.feed(12, 500, &[]);
    redis.wait_processed(1500);
    host.stop();
    assert_same(&in_file(&project, FILE), &in_stream(&redis));
}

/// A host that is killed before its first line finds out at the next start where the file begins: with what came after
/// it was made.
#[test]
fn a_new_file_begins_with_what_is_new_and_misses_nothing_after_a_kill() {
    let redis = Redis::start();
    let project = alerting(&redis, "");
    project.feed(12, 300, &[]);
    project.run(&["run", "--drain"]);
    let before = in_stream(&redis).len();
    fs::remove_file(project.path(FILE)).unwrap();
    // As a host leaves it that is killed before its first line.
    let mut host = project.start_owner();
    host.kill();
    assert_eq!(in_file(&project, FILE), Vec::<String>::new());
    project.feed(12, 300, &[]);
    let mut drain = project.command(&["run", "--drain"]);
    assert!(drain.env("TICKHOUND_ALERTS__JSONL", "").output().unwrap().status.success());
    project.run(&["run", "--drain"]);
    assert_same(&in_file(&project, FILE), &in_stream(&redis)[before..]);
}

/// Somebody tidied up while the host ran. Each later line went into a file that no longer had a name.
#[test]
fn a_file_that_is_removed_or_renamed_is_continued_in_a_new_one() {
    let redis = Redis::start();
    let project = alerting(&redis, "");
    let mut host = project.start_owner();
    for round in 1..=3 {
        let before = in_stream(&redis).len();
        project.feed(12, 300, &[]);
        redis.wait_processed(round * 300);
        let alerts = in_stream(&redis);
        assert!(alerts.len() > before, "the round has alerts");
        wait_for("they are in the file", || (count(&project, FILE) >= alerts.len() - before).then_some(()));
        assert_same(&in_file(&project, FILE), &alerts[before..]);
        match round {
            1 => fs::remove_file(project.path(FILE)).unwrap(),
            _ => fs::rename(project.path(FILE), project.path("rotated.jsonl")).unwrap(),
        }
    }
    // A new file that can't be created is a condition.
    fs::create_dir(project.path(FILE)).unwrap();
    wait_for("the verdict says so", || {
        let shown = project.output(&["status"]).stdout;
        String::from_utf8_lossy(&shown).contains("jsonl can't be written").then_some(())
    });
    fs::remove_dir(project.path(FILE)).unwrap();
    let before = in_stream(&redis).len();
    project.feed(12, 300, &[]);
    redis.wait_processed(1200);
    host.stop();
    assert_same(&in_file(&project, FILE), &in_stream(&redis)[before..]);
    assert!(host.has_event("jsonl_reopened") && host.has_event("jsonl_written_again"), "{}", host.log());
}

/// The path was changed while ticks flowed: the new file starts where the old one ends.
#[test]
fn of_two_files_in_a_row_the_second_starts_where_the_first_ends() {
    const COUNT: u32 = 6000;
    let redis = Redis::start();
    let project = alerting(&redis, "");
    let mut host = project.start_owner();
    let feeding = feed(&project, COUNT, 2000);
    redis.wait_processed(1500);
    configure(&project, "", "out/second.jsonl");
    wait_for("the second file is written", || (count(&project, "out/second.jsonl") > 0).then_some(()));
    redis.wait_processed(COUNT);
    drop(feeding);
    host.stop();
    let (first, second) = (in_file(&project, FILE), in_file(&project, "out/second.jsonl"));
    assert!(!first.is_empty());
    assert_same(&[first, second].concat(), &in_stream(&redis));
}
