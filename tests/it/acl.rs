//! The users of docs/redis-acl.md: each can do what it is for, and nothing else.

use std::fs;

use redis::{Connection, RedisError, Value};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::{
    ALERTS, CHECKPOINT, DEAD, GROUP, LEASE, Project, Redis, SHADOW_ALERTS, STREAM, misbehaving, probe_gates, request,
    shipped, text, wait_for,
};

/// A server with the users of the document.
struct Guarded {
    redis: Redis,
    _file: TempDir,
}

impl Guarded {
    /// The test itself looks as the default user, whom the document switches off.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = documented_rules();
        let opened = rules.replace("user default off\n", "user default on nopass ~* &* +@all\n");
        assert_ne!(rules, opened, "the document switches the default user off");
        let file = folder.path().join("users.acl");
        fs::write(&file, opened).unwrap();
        let redis = Redis::start_with(&["--aclfile", file.to_str().unwrap()]);
        Self { redis, _file: folder }
    }

    fn url(&self, user: &str) -> String {
        format!("{}?user={user}&pass=PASSWORD-OF-{}", self.redis.url(), user.to_uppercase())
    }

    fn project(&self, user: &str) -> Project {
        Project::at(self.url(user))
    }

    fn connect(&self, user: &str) -> Connection {
        redis::Client::open(self.url(user)).unwrap().get_connection().unwrap()
    }

    /// Whether the server denies the user this command.
    fn denies(&self, user: &str, command: &str) -> bool {
        let answer: Result<Value, RedisError> = request(command).query(&mut self.connect(user));
        answer.is_err_and(|error| error.code() == Some("NOPERM"))
    }

    /// The rights that users were denied since the start, by user and command or key.
    fn denied(&self) -> Vec<(String, String)> {
        let log: Vec<Vec<Value>> = self.redis.ask("ACL LOG 1000");
        let word = |entry: &[Value], name: &str| -> String {
            let at = entry.iter().position(|word| *word == Value::BulkString(name.into())).unwrap();
            redis::from_redis_value(entry[at + 1].clone()).unwrap()
        };
        log.iter().map(|entry| (word(entry, "username"), word(entry, "object"))).collect()
    }
}

/// The rules in the document, which the server takes as they are.
fn documented_rules() -> String {
    let document = fs::read_to_string(shipped("docs/redis-acl.md")).unwrap();
    let (_, rules) = document.split_once("```acl\n").unwrap();
    let (rules, _) = rules.split_once("```").unwrap();
    rules.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// A whole life of a host: it starts, processes, checkpoints, is killed, recovers, writes dead letters, adopts what other
/// consumers hold, notifies, and stops; and no right is missing.
#[test]
fn the_host_and_the_feeder_have_all_rights_that_they_need() {
    const TICKS: u32 = 4000;
    let guarded = Guarded::start();
    let (redis, host, feeder) = (&guarded.redis, guarded.project("tickhound"), guarded.project("feeder"));
    host.add_plugin(misbehaving());
    host.configure_with(
        "lease_ms = 1000\nclaim_idle_ms = 100",
        "[engine]\ncheckpoint_every_ms = 50\n[alerts]\njsonl = \"logs/alerts.jsonl\"\n\
         [detectors.each]\nplugin = \"misbehaving\"\n\
         [detectors.other]\nplugin = \"misbehaving\"\nshadow_of = \"each\"\n\
         [[notify]]\nname = \"desk\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"",
    );
    feeder.feed(8, TICKS / 2, &["--maxlen", "100000"]);
    let mut owner = host.start_owner();
    redis.wait_processed(TICKS / 2);
    owner.signal("KILL");
    owner.wait();
    feeder.feed(8, TICKS / 2, &[]);
    // Entries that the old scanner holds, and one that is no tick.
    let _: Value = redis.ask(&format!("XREADGROUP GROUP {GROUP} scanner COUNT 10 STREAMS {STREAM} >"));
    let _: String = request(&format!("XADD {STREAM} * f v")).query(&mut guarded.connect("feeder")).unwrap();
    let mut owner = host.start_owner();
    redis.wait_processed(TICKS + 1);
    wait_for("what the scanner held is processed", || (redis.pending() == 0).then_some(()));
    wait_for("the dead letter", || (redis.dead_letters().len() == 1).then_some(()));
    wait_for("the lines", || {
        let lines = fs::read_to_string(host.path("logs/alerts.jsonl")).unwrap_or_default();
        (lines.lines().count() == redis.alerts().len()).then_some(())
    });
    owner.stop();
    assert!(redis.alerts().len() >= TICKS as usize && !redis.newest(SHADOW_ALERTS, 1).is_empty());
    for args in [&["check"][..], &["status"], &["dead", "list"], &["alerts", "--last", "5"]] {
        let output = host.output(args);
        assert!(output.status.code().is_some_and(|code| code < 2), "{args:?}: {}", text(&output.stderr));
    }
    for args in [&["mute", "A", "--for", "1h"][..], &["mute", "B"], &["mutes"], &["unmute", "A"], &["unmute", "--all"]]
    {
        host.run(args);
    }
    // What is not granted, and is not needed.
    let optional = ["config|get", "client|setinfo"];
    let missing: Vec<_> = guarded.denied().into_iter().filter(|(_, what)| !optional.contains(&what.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_host_can_not_forge_or_delete_ticks_nor_read_what_is_not_its_own() {
    let guarded = Guarded::start();
    let forbidden = [
        format!("XADD {STREAM} * f v"),
        format!("XDEL {STREAM} 1-0"),
        format!("XTRIM {STREAM} MAXLEN 0"),
        format!("DEL {STREAM}"),
        format!("DEL {ALERTS}"),
        format!("XDEL {ALERTS} 1-0"),
        format!("RENAME {STREAM} other"),
        format!("EVAL return 0 1 {STREAM}"),
        "GET other".to_owned(),
        "SET other value".to_owned(),
        "KEYS *".to_owned(),
        "SCAN 0".to_owned(),
        "CONFIG GET requirepass".to_owned(),
        "CONFIG SET dir /tmp".to_owned(),
        "ACL LIST".to_owned(),
        "FLUSHALL".to_owned(),
        "REPLICAOF NO ONE".to_owned(),
        "MONITOR".to_owned(),
        "CLIENT LIST".to_owned(),
        "PUBLISH channel text".to_owned(),
    ];
    for command in forbidden {
        assert!(guarded.denies("tickhound", &command), "{command}");
    }
    // Nor by a script, which runs with the rights of its user.
    let mut connection = guarded.connect("tickhound");
    let script = "return redis.call('XADD', KEYS[1], '*', 'f', 'v')";
    let sha: String = redis::cmd("SCRIPT").arg("LOAD").arg(script).query(&mut connection).unwrap();
    let added: Result<Value, RedisError> = redis::cmd("EVALSHA").arg(sha).arg(1).arg(STREAM).query(&mut connection);
    assert!(added.is_err(), "{added:?}");
    assert_eq!(guarded.redis.ask::<u64>(&format!("XLEN {STREAM}")), 0);
}

#[test]
fn a_feeder_can_only_add_ticks() {
    let guarded = Guarded::start();
    guarded.project("feeder").feed(2, 10, &[]);
    let forbidden = [
        format!("XRANGE {STREAM} - +"),
        format!("XREAD STREAMS {STREAM} 0"),
        format!("XLEN {STREAM}"),
        format!("XDEL {STREAM} 1-0"),
        format!("XTRIM {STREAM} MAXLEN 0"),
        format!("XGROUP DESTROY {STREAM} {GROUP}"),
        format!("DEL {STREAM}"),
        format!("XADD {ALERTS} * f v"),
        format!("XADD {DEAD} * f v"),
        format!("GET {LEASE}"),
        format!("DEL {LEASE}"),
        format!("HGETALL {CHECKPOINT}"),
        "INFO".to_owned(),
        "SCRIPT LOAD return".to_owned(),
    ];
    for command in forbidden {
        assert!(guarded.denies("feeder", &command), "{command}");
    }
    assert_eq!(guarded.redis.ask::<u64>(&format!("XLEN {STREAM}")), 10);
}

#[test]
fn an_observer_sees_everything_and_changes_nothing() {
    let guarded = Guarded::start();
    let (redis, observer) = (&guarded.redis, guarded.project("observer"));
    guarded.project("feeder").feed(4, 500, &[]);
    let _: String = redis.ask(&format!("XADD {STREAM} * f v"));
    let host = guarded.project("tickhound");
    host.add_plugin(misbehaving());
    host.configure("[detectors.each]\nplugin = \"misbehaving\"");
    let mut owner = host.start_owner();
    redis.wait_processed(501);

    let status: Json = serde_json::from_str(&text(&observer.output(&["status", "--json"]).stdout)).unwrap();
    assert_eq!(status["survey"]["length"], 501);
    assert!(status["survey"]["owner"].as_str().unwrap().starts_with(&format!("process {}", owner.pid())), "{status:#}");
    assert_eq!(observer.run(&["alerts", "--last", "5", "--json"]).lines().count(), 5);
    assert_eq!(observer.run(&["mutes"]), "nothing is muted\n");
    assert_eq!(observer.output(&["mute", "A"]).status.code(), Some(1));
    assert!(observer.run(&["dead", "list"]).contains("1"), "the dead letter");
    let mut top = observer.start(&["alerts", "--follow"]);
    guarded.project("feeder").feed(4, 20, &[]);
    wait_for("alerts are followed", || (!top.log().is_empty()).then_some(()));
    top.signal("INT");
    top.wait();
    owner.stop();

    let before = changes(redis);
    let doctor: Json = serde_json::from_str(&text(&observer.output(&["doctor", "--json"]).stdout)).unwrap();
    let finding = |id: &str| doctor.as_array().unwrap().iter().find(|finding| finding["id"] == id).unwrap();
    assert_eq!(finding("stream.exists")["level"], "ok");
    let rights = finding("server.rights");
    assert_eq!(rights["level"], "problem", "it can't run a host");
    assert_eq!(changes(redis), before, "doctor changed something");

    let forbidden = [
        format!("XADD {STREAM} * f v"),
        format!("XADD {ALERTS} * f v"),
        format!("XDEL {ALERTS} 1-0"),
        format!("XACK {STREAM} {GROUP} 1-0"),
        format!("XREADGROUP GROUP {GROUP} me STREAMS {STREAM} >"),
        format!("XGROUP CREATE {STREAM} other 0"),
        format!("SET {LEASE} me"),
        format!("DEL {LEASE}"),
        format!("HSET {CHECKPOINT} last 1-0"),
        "SCRIPT LOAD return".to_owned(),
        format!("EVAL return 0 1 {LEASE}"),
        "GET other".to_owned(),
        "CONFIG GET requirepass".to_owned(),
    ];
    for command in forbidden {
        assert!(guarded.denies("observer", &command), "{command}");
    }
}

/// How often anything was written since the server started or saved.
fn changes(redis: &Redis) -> String {
    let info: String = redis.ask("INFO persistence");
    info.lines().find(|line| line.starts_with("rdb_changes_since_last_save")).unwrap().to_owned()
}

/// A missing right was named by its command alone: with rights to some keys only, nobody could tell which key was meant.
#[test]
fn doctor_names_the_command_and_the_key_of_a_missing_right() {
    let guarded = Guarded::start();
    let project = guarded.project("tickhound");
    let rights = || {
        let doctor: Json = serde_json::from_str(&text(&project.output(&["doctor", "--json"]).stdout)).unwrap();
        doctor.as_array().unwrap().iter().find(|finding| finding["id"] == "server.rights").unwrap().to_owned()
    };
    // With the documented rights a host can run. Requeueing and feeding are for other users.
    let found = rights();
    assert_eq!(found["level"], "warning", "{found:#}");
    assert!(!found["found"].as_str().unwrap().contains("(for run)"), "{found:#}");

    let mut admin = guarded.connect("admin");
    let _: Value = request("ACL SETUSER tickhound -xclaim").query(&mut admin).unwrap();
    let found = rights();
    assert_eq!(found["level"], "problem");
    assert!(found["found"].as_str().unwrap().contains("XCLAIM (for run)"), "{found:#}");
    assert!(found["cure"].as_str().unwrap().contains("+xclaim"), "{found:#}");

    let rule = "ACL SETUSER tickhound +xclaim clearselectors (+@all ~tickhound:*)";
    let _: Value = request(rule).query(&mut admin).unwrap();
    let found = rights();
    let sentence = found["found"].as_str().unwrap();
    assert!(sentence.contains(&format!("on the key {ALERTS}")), "{found:#}");
    assert!(found["cure"].as_str().unwrap().contains(&format!("~{ALERTS}")), "{found:#}");
}

/// The settings were read by CONFIG only, which a user should not have: it also returns passwords. Then a server that may
/// evict the stream was used.
#[test]
fn a_server_that_may_evict_the_stream_is_refused_without_the_right_to_its_settings() {
    let guarded = Guarded::start();
    let project = guarded.project("tickhound");
    let () = guarded.redis.ask("CONFIG SET maxmemory 100mb maxmemory-policy allkeys-lru");
    let output = project.output(&["run", "--drain"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the server may evict any key (maxmemory-policy allkeys-lru)"), "{said}");
}

/// A recorder needs no right to write anything.
#[test]
fn an_observer_may_ask_why_and_why_not() {
    let guarded = Guarded::start();
    let (redis, observer, host) = (&guarded.redis, guarded.project("observer"), guarded.project("tickhound"));
    for project in [&observer, &host] {
        project.add_plugin(&probe_gates());
        project.configure("[detectors.rise]\nplugin = \"probe_gates\"\nmin_confidence = 0.0");
    }
    // It rises by two percent at the fourth tick, at 10:42:20 in Kolkata.
    for (second, price) in [(0, 100.0), (5, 103.0), (10, 103.0), (20, 105.06)] {
        let time = 1_763_961_120_000u64 + second * 1000;
        let fields = format!("symbol A ltp {price} timestamp {time} quantity 5");
        let _: String = redis.ask(&format!("XADD {STREAM} {time}-0 {fields}"));
    }
    host.run(&["run", "--drain"]);
    let before = changes(redis);
    let id = redis.alerts()[0]["id"].clone();
    let ask = |args: &[&str]| -> Json { serde_json::from_str(&observer.run(&[args, &["--json"]].concat())).unwrap() };
    assert_eq!(ask(&["explain", &id])["reproduction"], "same");
    // From the entries, and from what the host has saved with the entries after it.
    let why_not = ["why-not", "A", "--detector", "rise", "--at", "2025-11-24 10:42:10"];
    assert_eq!(ask(&why_not)["closest"]["price"], 103.0);
    let tick = "symbol A ltp 104 timestamp 1763961145000 quantity 5";
    let _: String = redis.ask(&format!("XADD {STREAM} 1763961145000-0 {tick}"));
    let added = changes(redis);
    let near = ask(&["near", "rise"]);
    assert_eq!((&near["replayed"]["state"], &near["looked_at"]), (&"saved".into(), &1.into()), "{near:#}");
    assert_eq!(changes(redis), added, "near changed something");
    assert_ne!(before, added, "the test sees changes");
    let denied = guarded.denied();
    assert!(denied.iter().all(|(_, what)| what == "client|setinfo"), "{denied:?}");
}

#[test]
fn an_observer_may_record_the_stream() {
    let guarded = Guarded::start();
    let (feeder, observer) = (guarded.project("feeder"), guarded.project("observer"));
    observer.configure("[history]\ndir = \"history\"\n[record]\nfree_min_mib = 0");
    let mut recorder = observer.start(&["record"]);
    recorder.wait_for_event("record_started");
    feeder.feed(8, 500, &[]);
    wait_for("all is recorded", || {
        let status: Json = serde_json::from_slice(&observer.output(&["record", "--json"]).stdout).ok()?;
        (status["recorder"]["entries"] == 500).then_some(())
    });
    recorder.stop();
    let denied = guarded.denied();
    assert!(denied.iter().all(|(_, what)| what == "client|setinfo"), "{denied:?}");
}
