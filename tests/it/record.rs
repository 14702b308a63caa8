//! `tickhound record`: what is in the files is what the stream had, whatever happens to recorder, server and disk.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value as Json;

use crate::support::{Alert, Host, Project, Redis, STREAM, binary, has_event_with, now_ms, request, text, wait_for};

/// 2025-11-03, 09:15 in India.
const OPEN_MS: u64 = 1_762_141_500_000;
const DAY_MS: u64 = 86_400_000;

/// A project whose recorder leaves no room on the disk: the machine of a test may have little.
fn project(redis: &Redis) -> Project {
    let project = Project::new(redis);
    project.configure("[history]\ndir = \"history\"\n[record]\nfree_min_mib = 0");
    project
}

fn start(project: &Project) -> Host {
    let recorder = project.start(&["record"]);
    recorder.wait_for_event("record_started");
    recorder
}

/// Adds entries at a time of arrival, with `from` and the following numbers.
fn add(redis: &Redis, at_ms: u64, from: u64, count: u64) {
    let mut connection = redis.connect();
    for number in from..from + count {
        let tick = format!("{{\"tradingsymbol\":\"SBIN\",\"last_price\":{}}}", 900 + number % 100);
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg(format!("{}-{number}", at_ms + number)).arg("data").arg(tick).arg("n").arg(number);
        let _: String = add.query(&mut connection).unwrap();
    }
}

/// The day files, in the order of their days.
fn files(project: &Project) -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(project.path("history")) else { return Vec::new() };
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".jsonl.zst"));
    files.sort();
    files
}

/// The entries in the files, as the usual tools read them.
fn recorded(project: &Project) -> Vec<(String, Alert)> {
    let mut entries = Vec::new();
    for file in files(project) {
        let unpacked = Command::new("zstd").arg("-dc").arg(&file).stderr(Stdio::null()).output().unwrap();
        for line in text(&unpacked.stdout).lines() {
            let Ok(line) = serde_json::from_str::<Json>(line) else { continue };
            let fields: Alert = serde_json::from_value(line["fields"].clone()).unwrap();
            entries.push((line["entry"].as_str().unwrap().to_owned(), fields));
        }
    }
    entries
}

fn wait_recorded(project: &Project, count: usize) {
    wait_for(&format!("{count} entries are recorded"), || (recorded(project).len() >= count).then_some(()));
}

fn status(project: &Project) -> Json {
    serde_json::from_slice(&project.output(&["record", "--json"]).stdout).unwrap()
}

fn holes(project: &Project) -> Vec<Json> {
    let holes = fs::read_to_string(project.path("history/holes.log")).unwrap_or_default();
    holes.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Killed again and again while entries arrive, over three days: the files have each entry once, in order, byte for byte; a
/// replay of them raises the alerts of a replay of the stream.
#[test]
fn killed_again_and_again_a_recorder_writes_what_the_stream_had() {
    let (redis, mut number) = (Redis::start(), 0);
    let project = project(&redis);
    for life in 0..12 {
        let mut recorder = start(&project);
        let day = OPEN_MS + life / 4 * DAY_MS;
        for _ in 0..5 {
            add(&redis, day, number, 400);
            number += 400;
            // Sometimes in the middle of a write, sometimes before one.
            if life % 3 == 0 {
                wait_recorded(&project, number as usize - 400);
            }
        }
        recorder.kill();
    }
    let mut recorder = start(&project);
    wait_recorded(&project, number as usize);
    recorder.stop();
    assert!(recorded(&project) == redis.stream_entries(STREAM), "the files have what the stream has");
    let names: Vec<String> =
        files(&project).iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["2025-11-03.jsonl.zst", "2025-11-04.jsonl.zst", "2025-11-05.jsonl.zst"]);
    assert_eq!(holes(&project), Vec::<Json>::new());
    let of_files = project.run(&["replay", "history", "--out", "-"]);
    let of_stream = project.run(&["replay", "--stream", "--out", "-"]);
    assert_eq!(of_files, of_stream);
}

#[test]
fn what_was_trimmed_while_no_recorder_ran_is_a_hole_with_its_size() {
    let redis = Redis::start();
    let project = project(&redis);
    add(&redis, OPEN_MS, 0, 100);
    let mut recorder = start(&project);
    wait_recorded(&project, 100);
    recorder.stop();
    add(&redis, OPEN_MS, 100, 50);
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 20"));
    let mut recorder = start(&project);
    wait_recorded(&project, 120);
    recorder.wait_for_event_with("record_hole", "entries=30");
    let hole = &holes(&project)[0];
    let (after, before) = (format!("{}-99", OPEN_MS + 99), format!("{}-130", OPEN_MS + 130));
    assert_eq!(
        (&hole["after"], &hole["before"], &hole["entries"], &hole["cause"]),
        (&after.into(), &before.into(), &30.into(), &"trimmed".into())
    );
    assert!(hole["at_ms"].as_u64().unwrap().abs_diff(now_ms()) < 600_000);
    wait_for("the status says so", || (status(&project)["recorder"]["missing"] == 30).then_some(()));
    // A stream that keeps too little has holes all the time: the log has one, and then their number.
    for from in [150, 250] {
        let before = recorded(&project).len();
        add(&redis, OPEN_MS, from, 100);
        let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 1"));
        // At least the last one.
        wait_recorded(&project, before + 1);
    }
    recorder.stop();
    assert_eq!(recorder.count_event("record_hole"), 1, "{}", recorder.log());
    assert_eq!(recorder.has_event("record_holes_continue"), holes(&project).len() > 1);
    // Whoever reads the file alone sees it as well.
    let unpacked = Command::new("zstd").arg("-dc").arg(&files(&project)[0]).output().unwrap();
    let lines = text(&unpacked.stdout);
    let indexes: Vec<u64> =
        lines.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["index"].as_u64().unwrap()).collect();
    assert!(indexes.starts_with(&(1..=100).chain(131..=150).collect::<Vec<_>>()), "{indexes:?}");
    let missing: u64 = holes(&project).iter().map(|hole| hole["entries"].as_u64().unwrap()).sum();
    assert_eq!(indexes.len() as u64 + missing, 350, "what is not in the file is in a hole");
}

/// A server that was killed comes back with what its append-only file has, or with nothing.
#[test]
fn a_recorder_survives_its_server_and_records_no_entry_twice() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = project(&redis);
    let mut recorder = start(&project);
    add(&redis, OPEN_MS, 0, 300);
    wait_recorded(&project, 300);
    redis.kill();
    recorder.wait_for_event("record_disconnected");
    redis.restart();
    recorder.wait_for_event("record_reconnected");
    add(&redis, OPEN_MS, 300, 100);
    wait_recorded(&project, 400);
    // As after a failover: the server lacks the last 50, and others have come since.
    let lost: Vec<String> = (350..400).map(|number| format!("{}-{number}", OPEN_MS + number)).collect();
    recorder.stop();
    let _: u64 = redis.ask(&format!("XDEL {STREAM} {}", lost.join(" ")));
    let _: String = redis.ask(&format!("XSETID {STREAM} {}-349 ENTRIESADDED 350", OPEN_MS + 349));
    let mut recorder = start(&project);
    recorder.wait_for_event("record_stream_went_back");
    add(&redis, OPEN_MS + 20, 350, 70);
    wait_recorded(&project, 470);
    let entries = recorded(&project);
    let ids: BTreeMap<&String, usize> = entries.iter().enumerate().map(|(at, (id, _))| (id, at)).collect();
    assert_eq!((entries.len(), ids.len()), (470, 470), "each entry once");
    assert_eq!(holes(&project), Vec::<Json>::new());
    // All data is gone, and the producer goes on.
    let _: String = redis.ask("FLUSHALL");
    add(&redis, OPEN_MS, 1000, 30);
    wait_recorded(&project, 500);
    let [hole] = &holes(&project)[..] else { panic!("{:?}", holes(&project)) };
    assert_eq!((&hole["cause"], &hole["entries"]), (&"stream_replaced".into(), &Json::Null));
    recorder.stop();
}

/// What a full disk does to a write, a limit on the size of files does as well.
#[test]
fn a_full_disk_stops_the_recording_and_nothing_else() {
    const FULL_AT: u64 = 9000;
    let redis = Redis::start();
    let project = project(&redis);
    let mut host = project.start_owner();
    let log = fs::File::create(project.path("recorder.log")).unwrap();
    let script = format!("trap '' XFSZ; exec prlimit --fsize={FULL_AT}: \"$0\" record");
    let mut recorder = Command::new("sh")
        .args(["-c", &script])
        .arg(binary())
        .current_dir(project.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its log must not meet the limit.
    let mut lines = recorder.stdout.take().unwrap();
    let copied = std::thread::spawn(move || std::io::copy(&mut lines, &mut { log }));
    add(&redis, OPEN_MS, 0, 1000);
    let logged = || fs::read_to_string(project.path("recorder.log")).unwrap_or_default();
    let random = |redis: &Redis, from: u64| {
        let mut connection = redis.connect();
        for number in from..from + 60 {
            let noise: String = (0..200).map(|_| char::from(b'a' + rand::random::<u8>() % 26)).collect();
            let mut add = redis::cmd("XADD");
            add.arg(STREAM).arg(format!("{}-0", OPEN_MS + number)).arg("noise").arg(noise);
            let _: String = add.query(&mut connection).unwrap();
        }
    };
    wait_for("the disk is full", || {
        random(&redis, 10_000 + redis.length(STREAM) * 10);
        has_event_with(&logged(), "record_stalled", "").then_some(())
    });
    wait_for("the host says so", || {
        let status: Json = serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap();
        let reasons = status["reasons"].as_array().unwrap().clone();
        reasons.iter().any(|reason| reason["code"] == "recording_failing").then_some(())
    });
    let stalled = project.output(&["record", "--status"]);
    assert_eq!(stalled.status.code(), Some(1));
    assert!(text(&stalled.stdout).contains("nothing is recorded"), "{}", text(&stalled.stdout));
    redis.wait_all_processed(redis.length(STREAM));
    let pid = recorder.id();
    let raised = Command::new("prlimit").arg(format!("--pid={pid}")).arg("--fsize=unlimited:").status().unwrap();
    assert!(raised.success());
    wait_for("the recording goes on", || has_event_with(&logged(), "record_resumed", "").then_some(()));
    wait_recorded(&project, redis.length(STREAM) as usize);
    assert!(recorded(&project) == redis.stream_entries(STREAM));
    host.wait_for_event_with("condition_ended", "recording_failing");
    crate::support::signal(pid, "TERM");
    assert!(recorder.wait().unwrap().success());
    copied.join().unwrap().unwrap();
    host.stop();
}

#[test]
fn too_little_room_is_left_to_others() {
    let redis = Redis::start();
    let project = project(&redis);
    project.configure("[history]\ndir = \"history\"\n[record]\nfree_min_mib = 1000000000");
    add(&redis, OPEN_MS, 0, 10);
    let mut recorder = start(&project);
    recorder.wait_for_event_with("record_stalled", "record.free_min_mib");
    assert_eq!(files(&project), Vec::<PathBuf>::new());
    recorder.stop();
    assert_eq!(status(&project)["verdict"], "stopped");
}

#[test]
fn one_recorder_writes_a_folder_and_it_belongs_to_one_stream() {
    let redis = Redis::start();
    let project = project(&redis);
    let never = project.output(&["record", "--status"]);
    assert_eq!((never.status.code(), status(&project)["verdict"].as_str()), (Some(1), Some("never")));
    add(&redis, OPEN_MS, 0, 10);
    assert!(project.run(&["record", "--background"]).contains("recording into"));
    let second = project.output(&["record"]);
    assert!(
        !second.status.success() && text(&second.stderr).contains("is held by process"),
        "{}",
        text(&second.stderr)
    );
    let second = project.output(&["record", "--background"]);
    assert!(text(&second.stderr).contains("already recording"), "{}", text(&second.stderr));
    wait_recorded(&project, 10);
    wait_for("it says so", || (status(&project)["recorder"]["entries"] == 10).then_some(()));
    let said = project.run(&["record", "--status"]);
    assert!(said.contains("✅ recording ticks:intraday:processed") && said.contains("10 entries"), "{said}");
    // As logrotate does.
    let pid: u32 =
        fs::read_to_string(project.path("history/record.pid")).unwrap().lines().next().unwrap().parse().unwrap();
    crate::support::signal(pid, "HUP");
    wait_for("it has opened its log again", || {
        let log = fs::read_to_string(project.path("logs/record.log")).unwrap_or_default();
        has_event_with(&log, "log_reopened", "").then_some(())
    });
    assert!(project.run(&["record", "--stop"]).contains("stopped process"));
    assert!(project.run(&["record", "--stop"]).contains("nothing to stop"));
    let other = project.command(&["record", "--background"]).env("TICKHOUND_STREAM__KEY", "other").output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("from the stream `ticks:intraday:processed`"), "{}", text(&other.stderr));
    // A recorder that was killed is missed by the host.
    let mut recorder = start(&project);
    let mut host = project.start_owner();
    recorder.kill();
    host.wait_for_event_with("condition_began", "exited unexpectedly");
    let recorder = start(&project);
    host.wait_for_event_with("condition_ended", "recording_failing");
    drop(recorder);
    host.stop();
}

/// Entries of all kinds: none is changed, and the one that no line can hold is said.
#[test]
fn whatever_an_entry_has_is_recorded_byte_for_byte() {
    let redis = Redis::start();
    let project = project(&redis);
    let mut connection = redis.connect();
    let id = |seq: u64| format!("{OPEN_MS}-{seq}");
    let mut add = |id: String, fields: &[(&[u8], &[u8])]| {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg(id);
        fields.iter().for_each(|(name, value)| _ = add.arg(*name).arg(*value));
        let _: String = add.query(&mut connection).unwrap();
    };
    let hostile = "line\nfeed \u{1b}[2J \u{202e} \"quote\" {\"entry\":\"1-1\",\"fields\":{}}";
    add(id(0), &[(b"symbol", hostile.as_bytes()), (b"a", b"1"), (b"a", b"2"), (b"\xff", b"\x00\xfe")]);
    add(id(1), &[(b"data", &vec![b'x'; 3 << 20])]);
    add(id(2), &[(b"data", b"last")]);
    let mut recorder = start(&project);
    recorder.wait_for_event_with("record_hole", "too large");
    wait_for("all is recorded", || (status(&project)["recorder"]["entries"] == 2).then_some(()));
    recorder.stop();
    assert_eq!((&holes(&project)[0]["cause"], &holes(&project)[0]["before"]), (&"too_large".into(), &id(1).into()));
    // Published again, it is the same entry.
    let fed = project.command(&["feed", "history"]).env("TICKHOUND_STREAM__KEY", "again").output().unwrap();
    assert!(fed.status.success(), "{}", text(&fed.stderr));
    let raw = |key: &str, at: usize| -> Vec<Vec<u8>> {
        let entries: Vec<(String, Vec<Vec<u8>>)> =
            request(&format!("XRANGE {key} - +")).query(&mut redis.connect()).unwrap();
        entries[at].1.clone()
    };
    assert_eq!((raw("again", 0), raw("again", 1)), (raw(STREAM, 0), raw(STREAM, 2)));
}
