//! A host can read what earlier releases saved: keys that a real host of such a release left behind when it was killed.
//!
//! A folder `tests/fixtures/saved-VERSION` holds, as the commands that write them, all keys of one partition at the
//! moment of a `kill -9`: boundaries older than the last commit, entries that are pending, dead letters, cool-downs, a
//! limit per minute; beside them the configuration, the plugins, and the alerts of an undisturbed run of that release.
//! `cargo test --test it record_what_this_build_saves -- --ignored` makes the folder of this release, with the
//! configuration of the release before it. It never replaces a folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use redis::{Commands, Connection, Value, cmd};
use tickhound_redis::resp::Replies;

use crate::support::{
    ALERTS, ALERTS_SOURCE, Alert, CHECKPOINT, DEAD, EPOCH, GROUP, HOST, Project, Redis, STATE, STREAM, contents,
    misbehaving, shipped, witness, witness_market, witness_symbol,
};

const CONSUMER: &str = "tickhound";

const PLUGINS: [&str; 3] = ["breakout", "momentum", "misbehaving"];

/// A host that can't read what an earlier release saved would start from nothing or, worse, from something else.
#[test]
fn what_release_0_1_saved_is_gone_on_with() {
    continues_with("0.1");
}

/// Detectors of groups are added to what was saved when there were none: no bases, and members with normalizers of other places.
#[test]
fn what_release_0_1_saved_is_gone_on_with_beside_detectors_of_groups() {
    let more = "\n[context.leader]\nsymbol = \"NIFTY\"\n[detectors.groups]\nplugin = \"witness\"\n\
        [detectors.market]\nplugin = \"witness_market\"\n[detectors.symbols]\nplugin = \"witness_symbol\"\n";
    let new = ["groups", "market", "symbols"];
    let found = continues_with_more("0.1", more, |alert| !new.contains(&&*alert["detector"]));
    assert!(new.iter().all(|detector| found.iter().filter(|alert| alert["detector"] == *detector).count() > 100));
}

fn continues_with(version: &str) {
    continues_with_more(version, "", |_| true);
}

/// Alerts that are `known` must be those of the release; returns all of them.
fn continues_with_more(version: &str, more: &str, known: impl Fn(&Alert) -> bool) -> Vec<Alert> {
    let redis = Redis::start();
    let plugins = PLUGINS.map(|name| folder(version).join(format!("{name}.wasm")));
    let project = project(&redis, &plugins, &(config(&folder(version)) + more));
    [witness(), witness_market(), witness_symbol()].iter().for_each(|plugin| project.add_plugin(plugin));
    load(&redis, &unpacked(&folder(version).join("keys.resp.zst")));
    let before = redis.alerts().len();
    assert!(before > 100 && redis.pending() > 0, "{before} alerts, {} entries are pending", redis.pending());
    let log = project.run(&["run", "--drain"]);
    assert_eq!(redis.pending(), 0, "{log}");
    let expected: Vec<Alert> = serde_json::from_slice(&unpacked(&folder(version).join("alerts.json.zst"))).unwrap();
    let alerts = redis.alerts();
    let of_release: Vec<Alert> = alerts.iter().filter(|alert| known(alert)).cloned().collect();
    let (found, expected) = (known_fields(of_release, &expected[0]), contents(&expected));
    let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert_eq!((found.len(), differs), (expected.len(), None), "{log}");
    alerts
}

/// A later release may tell more of an alert.
fn known_fields(mut alerts: Vec<Alert>, known: &Alert) -> Vec<Vec<(String, String)>> {
    alerts.iter_mut().for_each(|alert| alert.retain(|name, _| known.contains_key(name)));
    contents(&alerts)
}

fn folder(version: &str) -> PathBuf {
    shipped(&format!("tests/fixtures/saved-{version}"))
}

/// A project with the plugins and the configuration of a release.
fn project(redis: &Redis, plugins: &[PathBuf], config: &str) -> Project {
    let project = Project::new(redis);
    plugins.iter().for_each(|plugin| project.add_plugin(plugin));
    project.write_config(&config.replacen("[stream]", &format!("[stream]\nurl = \"{}\"", redis.url()), 1));
    project
}

/// The configuration that a folder holds.
fn config(folder: &Path) -> String {
    fs::read_to_string(folder.join("config.toml")).unwrap()
}

fn unpacked(file: &PathBuf) -> Vec<u8> {
    zstd::decode_all(fs::File::open(file).unwrap()).unwrap()
}

/// Sends the commands of a file.
fn load(redis: &Redis, commands: &[u8]) {
    let (mut connection, mut all) = (redis.connect(), Replies::new(commands));
    while let Ok(words) = all.array() {
        let name = all.bulk().unwrap();
        let mut command = cmd(&String::from_utf8_lossy(name));
        for _ in 1..words {
            command.arg(all.bulk().unwrap());
        }
        let _: Value = command.query(&mut connection).unwrap();
    }
}

#[test]
#[ignore = "makes a fixture"]
fn record_what_this_build_saves() {
    let target = folder(env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap().0);
    assert!(!target.exists(), "{} exists: the files of a release are never replaced", target.display());
    let plugins = PLUGINS.map(|name| match name {
        "misbehaving" => misbehaving().to_path_buf(),
        shipping => shipped(&format!("plugins/{shipping}.wasm")),
    });
    let (redis, config) = (Redis::start(), config(&newest_folder()));
    let project = project(&redis, &plugins, &config);
    project.feed(6, 3000, &["--layout", "flat", "--seed", "5"]);
    let alerts = project.reference(&redis);
    let by = |detector: &str| alerts.iter().filter(|alert| alert["detector"] == detector).count();
    let detectors = ["breakout", "momentum", "each", "calm", "few", "panics"].map(|name| (name, by(name)));
    println!("{} alerts: {detectors:?}", alerts.len());
    assert!(detectors.iter().all(|(_, count)| *count > 10), "a detector found too little");

    let mut host = project.start(&["run"]);
    redis.wait_processed(1601);
    host.kill();
    println!("{} entries are pending, {:?}", redis.pending(), redis.totals());
    assert!(redis.pending() > 0 && !redis.dead_letters().is_empty() && redis.totals()["entries"] < 2900);
    let state: BTreeMap<String, Vec<u8>> = redis.connect().hgetall(STATE).unwrap();
    let boundaries: BTreeSet<&Vec<u8>> =
        state.keys().filter(|field| field.starts_with("s:")).map(|field| &state[&chunk(&field[2..])]).collect();
    assert!(boundaries.len() > 1, "record it again: all states are of one age");
    let commands = dump(&mut redis.connect());
    fs::create_dir(&target).unwrap();
    fs::write(target.join("config.toml"), config).unwrap();
    for plugin in &plugins {
        fs::copy(plugin, target.join(plugin.file_name().unwrap())).unwrap();
    }
    let write = |name: &str, bytes: &[u8]| {
        fs::write(target.join(name), zstd::encode_all(bytes, 19).unwrap()).unwrap();
    };
    write("keys.resp.zst", &commands);
    write("alerts.json.zst", &serde_json::to_vec(&alerts).unwrap());
}

/// The folder of the latest release that was recorded.
fn newest_folder() -> PathBuf {
    let version = |folder: &PathBuf| -> Option<Vec<u32>> {
        let version = folder.file_name()?.to_str()?.strip_prefix("saved-")?;
        version.split('.').map(|number| number.parse().ok()).collect()
    };
    let folders = fs::read_dir(shipped("tests/fixtures")).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|folder| version(folder).is_some()).max_by_key(version).unwrap()
}

fn chunk(symbol: &str) -> String {
    format!("c:{}", tickhound_core::checkpoint::chunk_of(symbol))
}

/// The commands that write all keys of the partition and the marker of its alerts stream. Left out is the lease, which
/// expires by itself.
fn dump(connection: &mut Connection) -> Vec<u8> {
    let mut commands = Vec::new();
    let mut push = |words: &[&[u8]]| {
        commands.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            commands.extend(format!("${}\r\n", word.len()).bytes());
            commands.extend_from_slice(word);
            commands.extend(b"\r\n");
        }
    };
    for stream in [STREAM, ALERTS, DEAD] {
        let entries: Vec<(String, Vec<Vec<u8>>)> =
            cmd("XRANGE").arg(stream).arg("-").arg("+").query(connection).unwrap();
        for (id, fields) in &entries {
            let mut words: Vec<&[u8]> = vec![b"XADD", stream.as_bytes(), id.as_bytes()];
            words.extend(fields.iter().map(Vec::as_slice));
            push(&words);
        }
        if stream == STREAM {
            push_group(&mut push, entries.into_iter().map(|(id, _)| id), connection);
        }
    }
    for hash in [CHECKPOINT, STATE] {
        let fields: Vec<Vec<u8>> = cmd("HGETALL").arg(hash).query(connection).unwrap();
        for field in fields.chunks_exact(2) {
            push(&[b"HSET", hash.as_bytes(), &field[0], &field[1]]);
        }
    }
    for text in [EPOCH, HOST, ALERTS_SOURCE] {
        let value: Vec<u8> = cmd("GET").arg(text).query(connection).unwrap();
        push(&[b"SET", text.as_bytes(), &value]);
    }
    commands
}

/// What was delivered is delivered again, and acknowledged but for what is pending.
fn push_group(push: &mut impl FnMut(&[&[u8]]), entries: impl Iterator<Item = String>, connection: &mut Connection) {
    let pending: Vec<(String, String, u64, u64)> =
        cmd("XPENDING").arg(STREAM).arg(GROUP).arg("-").arg("+").arg(10_000).query(connection).unwrap();
    assert!(pending.iter().all(|(_, consumer, ..)| consumer == CONSUMER), "another consumer has been at work");
    let pending: BTreeSet<String> = pending.into_iter().map(|(id, ..)| id).collect();
    let last = pending.iter().max_by_key(|id| id.parse::<tickhound_core::event::EntryId>().unwrap()).unwrap().clone();
    let mut delivered: Vec<String> = Vec::new();
    for id in entries {
        delivered.push(id);
        if delivered.last() == Some(&last) {
            break;
        }
    }
    let count = delivered.len().to_string();
    push(&[b"XGROUP", b"CREATE", STREAM.as_bytes(), GROUP.as_bytes(), b"0"]);
    let (group, consumer) = (GROUP.as_bytes(), CONSUMER.as_bytes());
    push(&[b"XREADGROUP", b"GROUP", group, consumer, b"COUNT", count.as_bytes(), b"STREAMS", STREAM.as_bytes(), b">"]);
    for id in delivered.iter().filter(|id| !pending.contains(*id)) {
        push(&[b"XACK", STREAM.as_bytes(), group, id.as_bytes()]);
    }
}
