//! `tickhound doctor` on servers in bad states: each is reported, what can be repaired is repaired, and nothing else is touched.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use redis::{Commands, Connection};
use serde_json::Value;

use crate::support::{DEAD, GROUP, Project, Redis, STREAM, now_ms, pause, text, wait_for};

/// Level, what was found, and cure of each finding, by id; of several the worst.
struct Report {
    code: i32,
    findings: Vec<Value>,
}

impl Report {
    fn of(project: &Project, args: &[&str]) -> Self {
        let output = project.output(&[&["doctor", "--json"], args].concat());
        let out = text(&output.stdout);
        let findings: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{}", text(&output.stderr)));
        Self { code: output.status.code().unwrap(), findings: findings.as_array().unwrap().clone() }
    }

    fn find(&self, id: &str) -> Option<&Value> {
        let rank =
            |finding: &&Value| ["ok", "note", "warning", "problem"].iter().position(|level| finding["level"] == *level);
        self.findings.iter().filter(|finding| finding["id"] == id).max_by_key(rank)
    }

    #[track_caller]
    fn expect(&self, id: &str, level: &str, part: &str) {
        let finding = self.find(id).unwrap_or_else(|| panic!("no {id} in {:#?}", self.findings));
        assert!(finding["level"] == level && finding["found"].as_str().unwrap().contains(part), "{finding:#}");
        assert!(
            ["ok", "note"].contains(&level) || !finding["cure"].is_null() || !finding["fixed"].is_null(),
            "{finding:#}"
        );
    }
}

fn send(connection: &mut Connection, command: &str) {
    let mut words = command.split(' ');
    let mut built = redis::cmd(words.next().unwrap());
    for word in words {
        built.arg(word);
    }
    built.query::<redis::Value>(connection).unwrap_or_else(|error| panic!("{command}: {error}"));
}

/// All that the server holds, groups and pending entries included. Of a hash its fields: `DUMP` has them in an order
/// that looking at it may change.
fn contents(redis: &Redis) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut connection = redis.connect();
    let keys: Vec<String> = connection.keys("*").unwrap();
    let content = |key: String| {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).unwrap();
        let held: Vec<Vec<u8>> = match kind.as_str() {
            "hash" => {
                let fields: BTreeMap<Vec<u8>, Vec<u8>> = connection.hgetall(&key).unwrap();
                fields.into_iter().flat_map(|(name, value)| [name, value]).collect()
            }
            _ => vec![redis::cmd("DUMP").arg(&key).query(&mut connection).unwrap()],
        };
        (key, held)
    };
    keys.into_iter().map(content).collect()
}

/// A JSON tick of now.
fn tick(number: u64) -> String {
    format!(r#"{{"tradingsymbol":"S{}","last_price":{},"exchange_timestamp":{}}}"#, number % 3, 100 + number, now_ms())
}

fn add(connection: &mut Connection, id: &str, data: &str) {
    let _: String = redis::cmd("XADD").arg(STREAM).arg(id).arg("data").arg(data).query(connection).unwrap();
}

#[test]
fn a_sound_whole_has_no_warning_and_nothing_is_changed() {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    (0..120).for_each(|number| add(&mut connection, "*", &tick(number)));
    project.run(&["run", "--drain"]);
    let before = contents(&redis);
    let report = Report::of(&project, &["--fix"]);
    // Of the machine that the test runs on nothing is known.
    let bad: Vec<&Value> = report
        .findings
        .iter()
        .filter(|finding| ["warning", "problem"].iter().any(|level| finding["level"] == *level))
        .filter(|finding| {
            finding["area"] != "machine" && finding["id"] != "server.reach" && finding["id"] != "server.version"
        })
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    report.expect("stream.decode", "ok", "the newest 100 entries are 100 ticks of 3 symbols");
    report.expect("server.persistence", "ok", "loses nothing");
    report.expect("server.rights", "ok", "every command");
    report.expect("stream.kept", "ok", "nothing has been trimmed");
    report.expect("group.exists", "ok", GROUP);
    report.expect("clock.events", "ok", "event times");
    report.expect("plugins.breakout", "ok", "ns a tick");
    report.expect("host.owner", "note", "no host is running");
    assert_eq!(contents(&redis), before);
    for finding in &report.findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["area", "cure", "fixed", "found", "id", "level"]);
    }
}

#[test]
fn a_server_that_may_lose_everything_is_a_problem_and_is_left_as_it_is() {
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let project = Project::new(&redis);
    let report = Report::of(&project, &["--fix"]);
    assert_eq!(report.code, 2);
    report.expect("memory.policy", "problem", "allkeys-lru");
    report.expect("server.persistence", "problem", "loses every tick");
    report.expect("stream.exists", "warning", "the server has no stream at all");
    let policy: Vec<String> =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query(&mut redis.connect()).unwrap();
    assert_eq!(policy[1], "allkeys-lru");
    assert!(contents(&redis).is_empty(), "a stream that is not there is not made");

    let said = text(&project.output(&["doctor"]).stdout);
    assert!(
        said.contains("❌ memory.policy: allkeys-lru") && said.contains("→ CONFIG SET maxmemory-policy noeviction"),
        "{said}"
    );
    assert!(said.lines().last().unwrap().starts_with("problems: 2, warnings: "), "{said}");
}

#[test]
fn a_full_server_and_a_replica_are_reported_by_what_they_would_reject() {
    let redis = Redis::start_with(&["--maxmemory", "500kb"]);
    let project = Project::new(&redis);
    let report = Report::of(&project, &[]);
    report.expect("server.writes", "problem", "OOM");
    report.expect("memory.used", "problem", "maxmemory");

    let replica = Redis::start_with(&["--replicaof", "127.0.0.1 1"]);
    let report = Report::of(&Project::new(&replica), &["--fix"]);
    report.expect("server.role", "problem", "a replica of 127.0.0.1:1");
    report.expect("server.writes", "problem", "READONLY");
    assert_eq!(report.code, 2);
}

#[test]
fn a_user_with_few_permissions_learns_which_are_missing_and_loses_nothing_by_the_check() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    add(&mut connection, "*", &tick(1));
    send(&mut connection, &format!("XGROUP CREATE {STREAM} {GROUP} 0"));
    send(
        &mut connection,
        "ACL SETUSER few on >secret ~* resetchannels -@all +@read +@connection +multi +discard +time +info",
    );
    let before = contents(&redis);
    let project = Project::at(format!("{}?user=few&pass=secret", redis.url()));
    let report = Report::of(&project, &["--fix"]);
    report.expect("server.rights", "problem", "XADD (for run)");
    let rights = report.find("server.rights").unwrap();
    assert!(rights["found"].as_str().unwrap().contains("XGROUP CREATE (for run)"), "{rights:#}");
    assert!(rights["cure"].as_str().unwrap().contains("+xgroup|create"), "{rights:#}");
    report.expect("stream.exists", "ok", "holds 1 entries");
    report.expect("server.persistence", "note", "can't be inspected");
    assert_eq!(contents(&redis), before);

    // Without MULTI there is no asking; then none of the commands is sent.
    send(&mut connection, "ACL SETUSER few +@all -multi -info -config");
    let report = Report::of(&project, &[]);
    report.expect("server.rights", "problem", "MULTI (for run)");
    report.expect("server.info", "note", "NOPERM");
    assert_eq!(contents(&redis), before);

    // Rights on some keys only.
    send(&mut connection, &format!("ACL SETUSER few +@all resetkeys ~{STREAM}"));
    let report = Report::of(&project, &[]);
    report.expect("server.rights", "problem", "INCR (for run)");
    assert_eq!(contents(&redis), before);
}

#[test]
fn left_over_consumers_are_removed_only_when_they_hold_nothing_and_are_idle() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("claim_idle_ms = 300", "");
    let mut connection = redis.connect();
    (0..10).for_each(|number| add(&mut connection, "*", &tick(number)));
    send(&mut connection, &format!("XGROUP CREATE {STREAM} {GROUP} 0"));
    send(&mut connection, &format!("XREADGROUP GROUP {GROUP} scanner_holds COUNT 5 STREAMS {STREAM} >"));
    send(&mut connection, &format!("XGROUP CREATECONSUMER {STREAM} {GROUP} scanner_empty"));
    wait_for("both are idle", || {
        let consumers: Vec<BTreeMap<String, redis::Value>> =
            redis::cmd("XINFO").arg("CONSUMERS").arg(STREAM).arg(GROUP).query(&mut connection).unwrap();
        let idle = |one: &BTreeMap<String, redis::Value>| redis::from_redis_value::<u64>(one["idle"].clone()).unwrap();
        consumers.iter().all(|one| idle(one) > 400).then_some(())
    });
    let names = |connection: &mut Connection| -> Vec<String> {
        let consumers: Vec<BTreeMap<String, redis::Value>> =
            redis::cmd("XINFO").arg("CONSUMERS").arg(STREAM).arg(GROUP).query(connection).unwrap();
        consumers.iter().map(|one| redis::from_redis_value(one["name"].clone()).unwrap()).collect()
    };

    let before = contents(&redis);
    let report = Report::of(&project, &["--fix", "--dry-run"]);
    report.expect("group.consumers", "problem", "scanner_holds: 5 pending");
    let empty =
        report.findings.iter().find(|finding| finding["found"].as_str().unwrap().contains("scanner_empty")).unwrap();
    assert!(
        empty["cure"].as_str().unwrap().contains("`tickhound doctor --fix` removes the consumer scanner_empty"),
        "{empty:#}"
    );
    assert!(empty["fixed"].is_null());
    assert_eq!((contents(&redis), names(&mut connection).len()), (before, 2));

    let report = Report::of(&project, &["--fix"]);
    let empty =
        report.findings.iter().find(|finding| finding["found"].as_str().unwrap().contains("scanner_empty")).unwrap();
    assert_eq!(empty["fixed"], "removed the consumer scanner_empty from the group", "{empty:#}");
    assert_eq!(names(&mut connection), ["scanner_holds"]);
    assert_eq!(redis.pending(), 5);
    let kept: Vec<String> = contents(&redis).into_keys().collect();
    assert_eq!(kept, [STREAM]);

    // At work of late: left alone.
    project.configure_with("claim_idle_ms = 600000", "");
    let report = Report::of(&project, &["--fix"]);
    report.expect("group.consumers", "warning", "another program reads in this group");
    assert_eq!(names(&mut connection), ["scanner_holds"]);
}

#[test]
fn a_missing_group_is_made_where_the_configuration_says_and_only_then() {
    for (start, first_read) in [("earliest", 1), ("latest", 0)] {
        let redis = Redis::start();
        let project = Project::new(&redis);
        project.configure_with(&format!("start = \"{start}\""), "");
        let mut connection = redis.connect();
        add(&mut connection, "*", &tick(1));
        let report = Report::of(&project, &[]);
        report.expect("group.exists", "warning", "has no group");
        let groups: Vec<redis::Value> = redis::cmd("XINFO").arg("GROUPS").arg(STREAM).query(&mut connection).unwrap();
        assert!(groups.is_empty());
        let report = Report::of(&project, &["--fix"]);
        let fixed = report.find("group.exists").unwrap();
        assert!(fixed["fixed"].as_str().unwrap().contains("created the group"), "{fixed:#}");
        let read: redis::Value = redis::cmd("XREADGROUP")
            .arg(&["GROUP", GROUP, "c", "STREAMS", STREAM, ">"])
            .query(&mut connection)
            .unwrap();
        assert_eq!(matches!(read, redis::Value::Array(_)), first_read == 1, "{start}: {read:?}");
    }
}

#[test]
fn a_stream_that_is_trimmed_soon_is_reported_with_the_seconds() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    send(&mut redis.connect(), &format!("XGROUP CREATE {STREAM} {GROUP} 0 MKSTREAM"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = redis.connect();
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let mut add = redis::cmd("XADD");
                add.arg(STREAM).arg("MAXLEN").arg("=").arg(50).arg("*").arg("data").arg(tick(number));
                let _: String = add.query(&mut connection).unwrap();
                pause();
            }
        });
        let mut connection = redis.connect();
        wait_for("the producer trims", || {
            let info: redis::streams::StreamInfoStreamReply = connection.xinfo_stream(STREAM).unwrap();
            (info.length == 50).then_some(())
        });
        // At some hundred a second fifty are kept for a second; a host needs more than that to start anew.
        let report = Report::of(&project, &[]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        report.expect("stream.kept", "problem", "at this rate entries are trimmed");
        report.expect("stream.kept", "problem", "a short pause of the host loses ticks");
    });
}

#[test]
fn wrong_types_unreadable_ticks_and_ids_from_the_future_are_reported() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    let _: () = connection.set(STREAM, "text").unwrap();
    let report = Report::of(&project, &["--fix"]);
    report.expect("stream.types", "problem", "holds a string, expected a stream");
    let _: () = connection.del(STREAM).unwrap();

    let ahead = now_ms() + 3_600_000;
    (0..8).for_each(|number| {
        add(&mut connection, &format!("{ahead}-{number}"), r#"{"tradingsymbol":"S","last_price":"rubbish"}"#);
    });
    add(&mut connection, &format!("{ahead}-9"), &tick(1));
    send(&mut connection, &format!("EXPIRE {STREAM} 100000"));
    let report = Report::of(&project, &[]);
    report.expect(
        "stream.decode",
        "problem",
        "8 of the newest 9 entries can't be decoded (preset kite), the newest because: neither price nor quote",
    );
    report.expect("clock.ids", "problem", "ahead of the server's clock");
    report.expect("clock.events", "warning", "input.timezone");
    report.expect("memory.expiry", "problem", STREAM);

    // A name that is nearly right: what there is is named.
    project.configure_with("key = \"ticks:intraday\"", "");
    Report::of(&project, &[]).expect("stream.exists", "warning", STREAM);
}

#[test]
fn entries_lost_while_pending_and_dead_letters_are_reported() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    (0..10).for_each(|number| add(&mut connection, "*", &tick(number)));
    add(&mut connection, "*", "rubbish");
    project.run(&["run", "--drain"]);
    (0..10).for_each(|number| add(&mut connection, "*", &tick(number)));
    send(&mut connection, &format!("XREADGROUP GROUP {GROUP} tickhound COUNT 10 STREAMS {STREAM} >"));
    send(&mut connection, &format!("XTRIM {STREAM} MAXLEN = 4"));
    let before = contents(&redis);
    let report = Report::of(&project, &["--fix"]);
    report.expect("group.pending", "problem", "10 pending");
    report.expect("group.pending", "problem", "6 of them were trimmed");
    report.expect("host.dead_letters", "warning", "1 dead letters");
    assert_eq!(contents(&redis), before);
    assert_eq!(redis.dead_letters().len(), 1, "{DEAD}");
}

#[test]
fn without_a_server_the_rest_is_looked_at_and_folders_are_mended() {
    let mut redis = Redis::start();
    let project = Project::new(&redis);
    redis.kill();
    project.configure("[alerts]\njsonl = \"out/alerts.jsonl\"\n[detectors.odd]\nplugin = \"odd\"\n[detectors.narrow]\nplugin = \"breakout\"\nenabled = false\n[plugins]\ncache = \".cache\"");
    fs::write(project.path("plugins/odd.wasm"), "no wasm").unwrap();
    fs::write(project.path("plugins/stray.wasm"), "").unwrap();
    let cache = project.path("plugins/.cache");
    fs::create_dir_all(cache.join("modules/compiler")).unwrap();
    fs::write(cache.join("modules/compiler/evil"), "").unwrap();
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();

    let report = Report::of(&project, &[]);
    assert_eq!(report.code, 2);
    report.expect("server.reach", "problem", "redis at");
    report.expect("plugins.breakout", "ok", "breakout");
    report.expect("plugins.odd", "problem", "not a WebAssembly file");
    report.expect("plugins.off", "ok", "narrow");
    report.expect("plugins.unused", "note", "stray");
    report.expect("machine.folders", "problem", "alerts.jsonl");
    report.expect("machine.writable_by", "note", "compiled plugins are authenticated");
    assert!(!project.path("out").exists() && cache.join("modules/compiler/evil").exists());

    // The first one has loaded plugins, and so closed the folder to others.
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();
    let report = Report::of(&project, &["--fix"]);
    assert!(project.path("out").is_dir());
    assert!(!cache.join("modules").exists());
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    report.expect("machine.folders", "note", "alerts.jsonl");
    report.expect("machine.writable_by", "note", "compiled plugins are authenticated");
    assert!(project.path("plugins/stray.wasm").exists() && project.path("plugins/odd.wasm").exists());

    // What is not only ours to clear is left alone.
    fs::write(cache.join("else"), "").unwrap();
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();
    let report = Report::of(&project, &["--fix"]);
    report.expect("machine.writable_by", "note", "compiled plugins are authenticated");
    assert!(cache.join("else").exists());
}

#[test]
fn secrets_that_others_can_read_are_a_warning() {
    const TOKEN: &str = "0123456789abcdef0123";
    let redis = Redis::start();
    let project = Project::new(&redis);
    let (config, token) = (project.path("config/config.toml"), project.path("bot.token"));
    let set = |file: &Path, mode: u32| fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    let checked = |environment: &[(&str, &str)]| {
        let output = project.command(&["check", "--json"]).envs(environment.iter().copied()).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!text(&output.stdout).contains(TOKEN) && output.status.success());
        report["warnings"].to_string()
    };
    let notify =
        "[[notify]]\nname = \"desk\"\nkind = \"telegram\"\nchat = \"1\"\ntoken_file = \"bot.token\"\nenabled = false\n";
    fs::write(&token, TOKEN).unwrap();
    project.configure(&format!("[server]\ntoken = \"{TOKEN}\"\n{notify}"));
    // In a folder that is closed to others, the modes of files do not matter.
    set(&project.path("."), 0o700);
    set(&config, 0o644);
    set(&token, 0o604);
    assert_eq!(checked(&[]), "[]");
    set(&project.path("."), 0o755);
    let warnings = checked(&[]);
    assert!(warnings.contains("the secret of server.token and has mode 644"), "{warnings}");
    assert!(warnings.contains("notify desk (token_file) and has mode 604"), "{warnings}");
    assert!(warnings.contains(&format!("chmod 600 {}", "config/config.toml")), "{warnings}");
    assert!(text(&project.output(&["check"]).stdout).contains("warning: config/config.toml holds the secret"));
    let report = Report::of(&project, &[]);
    report.expect("config.secrets", "warning", "any user of this machine can read it");
    set(&config, 0o640);
    set(&token, 0o600);
    assert_eq!(checked(&[]), "[]");
    // What the environment says is not in the file.
    project.configure("");
    set(&config, 0o644);
    assert_eq!(checked(&[("TICKHOUND_SERVER__TOKEN", TOKEN)]), "[]");
    assert!(Report::of(&project, &[]).find("config.secrets").is_none());
}

#[test]
fn a_hung_server_ends_in_a_sentence_and_not_in_waiting() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("timeout_ms = 300", "");
    redis.signal("STOP");
    let report = Report::of(&project, &[]);
    redis.signal("CONT");
    report.expect("server.reach", "problem", "redis at");
    report.expect("plugins.momentum", "ok", "momentum");
}

#[test]
fn a_running_host_is_compared_with_what_is_on_disk() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[plugins]\nwatch = \"off\"");
    let mut connection = redis.connect();
    (0..120).for_each(|number| add(&mut connection, "*", &tick(number)));
    let mut host = project.start(&["run"]);
    redis.wait_all_processed(120);
    wait_for("the host tells of itself", || {
        let report = Report::of(&project, &[]);
        report.expect("host.owner", "ok", "process");
        (report.find("plugins.breakout")?["level"] == "ok").then_some(())
    });
    let other = crate::support::release(&project.path("plugins/breakout.wasm"), "other");
    fs::write(project.path("plugins/breakout.wasm"), other).unwrap();
    let report = Report::of(&project, &[]);
    report.expect("plugins.breakout", "warning", "the running host has another file in force");
    report.expect("plugins.momentum", "ok", "momentum");

    host.kill();
    Report::of(&project, &[]).expect("host.owner", "note", "was killed");
}

#[test]
fn exit_codes_follow_the_worst_and_a_broken_configuration_is_a_finding() {
    let redis = Redis::start_with(&["--appendonly", "yes"]);
    let project = Project::new(&redis);
    project.write_config("[engine]\nworkrs = 2");
    let report = Report::of(&project, &[]);
    assert_eq!((report.code, report.findings.len()), (2, 1));
    report.expect("config.file", "problem", "did you mean `workers`?");

    project.configure("");
    let report = Report::of(&project, &[]);
    report.expect("stream.exists", "warning", "no stream");
    let worst = |report: &Report| {
        ["problem", "warning"].iter().position(|level| report.findings.iter().any(|one| one["level"] == *level))
    };
    assert_eq!(report.code, worst(&report).map_or(0, |at| 2 - at as i32));
    let quiet = Report::of(&project, &["--quiet"]);
    assert!(quiet.findings.iter().all(|one| one["level"] != "ok") && quiet.find("stream.exists").is_some());

    let help = project.run(&["doctor", "--help"]);
    assert!(help.contains("tickhound doctor --fix") && help.contains("Exit codes: 0"), "{help}");
}

#[test]
fn a_recorder_that_does_not_record_lags_or_has_holes_is_found() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let configure = |more: &str| project.configure(&format!("[history]\ndir = \"history\"\n[record]\n{more}"));
    configure("free_min_mib = 0");
    project.feed(4, 100, &[]);
    assert!(Report::of(&project, &[]).find("record.running").is_none(), "a host needs no recorder");
    let start = || {
        let recorder = project.start(&["record"]);
        recorder.wait_for_event("record_started");
        wait_for("the recorder has caught up", || {
            let status: Value = serde_json::from_slice(&project.output(&["record", "--json"]).stdout).unwrap();
            let newest: Vec<(String, Vec<String>)> = redis.ask(&format!("XREVRANGE {STREAM} + - COUNT 1"));
            (status["recorder"]["last"] == newest[0].0).then_some(())
        });
        recorder
    };
    let mut recorder = start();
    let report = Report::of(&project, &[]);
    report.expect("record.running", "ok", &format!("{STREAM} is recorded into "));
    for id in ["record.holes", "record.lag", "record.folder"] {
        assert!(report.find(id).is_none(), "{id}: {:#?}", report.findings);
    }
    recorder.stop();
    Report::of(&project, &[]).expect("record.running", "note", "was stopped");

    let mut recorder = start();
    recorder.kill();
    project.feed(4, 50, &[]);
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 10"));
    let report = Report::of(&project, &[]);
    report.expect("record.running", "problem", "exited unexpectedly");
    report.expect("record.lag", "problem", "40 entries are lost to them");
    assert_eq!(report.code, 2);
    let mut recorder = start();
    let report = Report::of(&project, &[]);
    report.expect("record.holes", "warning", "1 hole since the recorder was started: at least 40 entries");
    report.expect("record.running", "ok", "is recorded");
    assert!(report.find("record.lag").is_none());

    configure("free_min_mib = 1000000000");
    Report::of(&project, &[]).expect("record.folder", "problem", "less than record.free_min_mib leaves");
    project.configure_with("key = \"other:ticks\"", "[history]\ndir = \"history\"");
    Report::of(&project, &[]).expect("record.stream", "warning", &format!("has the files of {STREAM}"));
    recorder.stop();
    configure("free_min_mib = 0");
    fs::write(project.path("history/record.status"), "half").unwrap();
    Report::of(&project, &[]).expect("record.status", "warning", "can't be read");
}
