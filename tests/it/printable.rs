//! What strangers write drives no terminal and forges no line: the output of every command, as text and as JSON, and the
//! log of a host. And what happens when the reader of an output closes it.
//!
//! Strangers are all who may add entries, alerts and dead letters, name consumers, write plugins, cases and files.

use std::{
    borrow::Cow,
    fs,
    io::pipe,
    process::{Output, Stdio},
};

use redis::{Commands, Connection};
use serde_json::{Value, json};
use tickhound_core::text::printable;

use crate::{
    support::{ALERTS, DEAD, GROUP, Project, Redis, STREAM, misbehaving, shipped, text},
    terminal::Terminal,
};

/// A symbol that was a line of its own in the log, which `grep DETECTED` found.
const FORGED: &str = "X\n2026-01-01T00:00:00.000000+05:30  INFO ✅ [BREAKOUT] FAKE - DETECTED: 0.99 confidence";

/// Texts that clear the screen, set the title, hide, reverse, or end a line in each way.
const HOSTILE: [&str; 10] = [
    FORGED,
    "\u{1b}]0;owned\u{7}\u{1b}[2J",
    "\u{9b}2J\u{85}",
    "\u{202e}YTFIN\u{2066}",
    "A\0B\u{7f}",
    "NI\u{200b}FTY\u{feff}",
    "over\rwritten",
    "\u{2028}line\u{2029}",
    "\u{e0041}\u{ad}",
    "tab\tbed",
];

/// A description of the same length as that of breakout, whose place it takes in the file.
const DESCRIPTION: &str = "price leaves its recent range by more than noise, with volume behind it";

/// A stream, alerts, dead letters, consumers and plugins with all of these texts in all places.
fn hostile_project(redis: &Redis) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    project.configure(
        "[alerts]\njsonl = \"alerts.jsonl\"\n[detectors.each]\nplugin = \"misbehaving\"\n\
         [detectors.odd]\nplugin = \"misbehaving\"\nparams = { how = \"panic\", at = 1000000, price = 2.0 }\n\
         [detectors.bold]\nplugin = \"misbehaving\"\nshadow_of = \"each\"\n",
    );
    let mut connection = redis.connect();
    let _: () = redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(STREAM)
        .arg(GROUP)
        .arg("0")
        .arg("MKSTREAM")
        .query(&mut connection)
        .unwrap();
    for (number, hostile) in HOSTILE.iter().enumerate() {
        for price in 1..4 {
            let tick =
                json!({ "symbol": hostile, "last_price": price, "exchange_timestamp": 1_763_958_315_000_u64 + price });
            add(&mut connection, STREAM, &[("data", &tick.to_string())]);
        }
        // Entries that can't be decoded, and one with a field of this name.
        add(&mut connection, STREAM, &[("data", hostile)]);
        add(&mut connection, STREAM, &[(hostile, hostile)]);
        let consumer = format!("consumer {number} {hostile}");
        let _: () = redis::cmd("XGROUP")
            .arg("CREATECONSUMER")
            .arg(STREAM)
            .arg(GROUP)
            .arg(consumer)
            .query(&mut connection)
            .unwrap();
    }
    let mut plugin = fs::read(shipped("plugins/breakout.wasm")).unwrap();
    let at = plugin.windows(DESCRIPTION.len()).position(|bytes| bytes == DESCRIPTION.as_bytes()).unwrap();
    let description =
        format!("{:width$}", "\u{1b}[2J\n✅ [BREAKOUT] FAKE - DETECTED\u{202e}", width = DESCRIPTION.len());
    plugin[at..at + DESCRIPTION.len()].copy_from_slice(&description.as_bytes()[..DESCRIPTION.len()]);
    fs::write(project.path("described.wasm"), plugin).unwrap();
    fs::write(project.path("case.toml"), case()).unwrap();
    fs::write(project.path("ticks.jsonl"), ticks()).unwrap();
    project
}

/// Alerts and dead letters that no host has written.
fn add_foreign(redis: &Redis) {
    let mut connection = redis.connect();
    for hostile in HOSTILE {
        let evidence = format!("{{}}\n{hostile}");
        let numbers = [("time", hostile), ("price", hostile), ("confidence", hostile), ("evidence", &evidence)];
        let texts = ["id", "detector", "plugin", "version", "symbol", "direction", "entry", "shadow_of"];
        let texts = texts.map(|name| (name, hostile));
        add(&mut connection, ALERTS, &[&texts[..], &numbers].concat());
        // One that passes for an alert, with a line break where JSON allows it.
        let evidence = format!("{{\n{}:\n1}}", json!(hostile));
        let numbers = [("price", "1"), ("confidence", "0.5"), ("evidence", &evidence), ("lag_ms", "1"), ("stale", "1")];
        add(&mut connection, ALERTS, &[&texts[..], &numbers].concat());
        let raw = format!("{{\"data\":\n\"{}\"}}", hostile.escape_unicode());
        let letter = ["reason", "entry", "detector", "plugin", "params", hostile].map(|name| (name, hostile));
        add(&mut connection, DEAD, &[&letter[..], &[("raw", &raw)]].concat());
        add(&mut connection, DEAD, &[("reason", hostile), ("raw", hostile)]);
    }
}

fn add(connection: &mut Connection, key: &str, fields: &[(&str, &str)]) {
    let _: String = connection.xadd(key, "*", fields).unwrap();
}

fn case() -> String {
    let about = json!(HOSTILE.join(" "));
    format!(
        "about = {about}\nticks = \"\"\"\nsymbol,time,price\nNIFTY,0.0,100.0\n\"\"\"\n[[alerts]]\nsymbol = {}\ntime = 0.0\n",
        json!(FORGED)
    )
}

fn ticks() -> String {
    let tick =
        |hostile: &str| json!({ "symbol": hostile, "last_price": 1, "exchange_timestamp": 1_763_958_315_000_u64 });
    HOSTILE.iter().map(|hostile| format!("{}\n{}\n", tick(hostile), json!(hostile))).collect()
}

/// Asserts that an output consists of printable lines.
fn assert_printable(what: &str, bytes: &[u8]) {
    let text = str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    for line in text.split('\n') {
        assert!(matches!(printable(line), Cow::Borrowed(_)), "{what}: {line:?}");
        assert!(!line.starts_with("2026-01-01"), "{what} has the forged line: {line:?}");
    }
}

fn dead_ids(redis: &Redis) -> Vec<String> {
    redis.newest(DEAD, 60).into_iter().map(|(id, _)| id).collect()
}

/// Every command that prints something about what strangers wrote, as text and as JSON.
fn commands(redis: &Redis) -> Vec<Vec<String>> {
    let lines = [
        "status",
        "alerts --last 10000",
        "alerts --since 1-0",
        "alerts --shadow",
        "dead list --limit 1000",
        "check",
        "doctor",
        "shadow",
        "notify",
        "inspect described.wasm",
        "inspect misbehaving",
        "test plugins/misbehaving.wasm case.toml",
        "replay --stream --detector each",
        "replay ticks.jsonl --detector each --detector odd",
        "replay ticks.jsonl --detector each --sweep price=1,2",
        "feed ticks.jsonl --layout flat",
    ];
    let mut commands: Vec<Vec<String>> = Vec::new();
    for line in lines {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        commands.push(words.clone());
        commands.push(words.into_iter().chain(["--json".to_owned()]).collect());
    }
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let show: Vec<String> = words("dead show").into_iter().chain(dead_ids(redis)).collect();
    commands.push(show.clone());
    commands.push(show.into_iter().chain(["--json".to_owned()]).collect());
    commands.push(words("replay ticks.jsonl --detector each --out -"));
    commands.push(words("dead requeue --all --detector odd --json"));
    commands.push(words("stop"));
    // Errors that quote what they were given.
    commands.push(vec!["inspect".into(), HOSTILE[1].into()]);
    commands.push(vec!["alerts".into(), "--since".into(), FORGED.into()]);
    commands.push(vec!["check".into(), "--config".into(), FORGED.into()]);
    commands.push(vec!["notify".into(), "test".into(), FORGED.into()]);
    commands
}

#[test]
fn no_command_and_no_log_prints_what_strangers_wrote_as_it_is() {
    let redis = Redis::start();
    let project = hostile_project(&redis);
    let mut host = project.start(&["run"]);
    redis.wait_all_processed(5 * HOSTILE.len());
    assert!(!redis.alerts().is_empty() && !redis.dead_letters().is_empty());
    add_foreign(&redis);
    for command in commands(&redis) {
        let args: Vec<&str> = command.iter().map(String::as_str).collect();
        let Output { stdout, stderr, .. } = project.output(&args);
        let what = format!("tickhound {}", command.join(" ").escape_debug());
        assert_printable(&what, &stdout);
        assert_printable(&what, &stderr);
        assert!(!stdout.is_empty() || !stderr.is_empty(), "{what} prints something");
        if args.contains(&"--json") && args[0] != "doctor" {
            for line in text(&stdout).lines() {
                assert!(serde_json::from_str::<Value>(line).is_ok(), "{what}: {line}");
            }
        }
    }
    host.stop();
    let file = fs::read(project.path("alerts.jsonl")).unwrap();
    assert_printable("the JSON lines file", &file);
    let file = text(&file);
    assert_eq!(file.lines().count(), redis.alerts().len() - HOSTILE.len(), "all but those that can't be alerts");
    assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{file}");
    let log = host.log();
    assert_printable("the log", log.as_bytes());
    // An event is a line, and begins with its time and its level.
    let is_time = |text: &str| text.parse::<jiff::Timestamp>().is_ok();
    assert!(log.lines().all(|line| line.split_once(' ').is_some_and(|(time, _)| is_time(time))), "{log}");
    let detected = log.lines().filter(|line| line.split_once("  INFO ✅ [").is_some_and(|(time, _)| is_time(time)));
    assert_eq!(detected.count(), redis.totals()["alerts"] as usize, "{log}");
}

#[test]
fn a_log_in_json_and_one_in_colour_are_printable_as_well() {
    let redis = Redis::start();
    let project = hostile_project(&redis);
    let output = project.output(&["--log", "json", "run", "--drain"]);
    assert_printable("the log in JSON", &output.stdout);
    let lines = text(&output.stdout);
    assert!(lines.lines().count() > 10);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");

    let mut terminal = Terminal::open(&project, "run --drain", (250, 50), &[("TICKHOUND_STREAM__GROUP", "second")]);
    terminal.wait();
    let raw = terminal.raw();
    assert!(raw.contains("\u{1b}[32m INFO"), "it has colours: {raw:?}");
    // What is left without the colours, and without the terminal's own line ends.
    let mut rest = String::new();
    for (number, piece) in raw.replace("\r\n", "\n").split("\u{1b}[").enumerate() {
        let colour = piece
            .split_once('m')
            .filter(|(colour, _)| colour.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'));
        match (number, colour) {
            (0, _) => rest.push_str(piece),
            (_, Some((_, after))) => rest.push_str(after),
            (_, None) => panic!("a sequence that is not a colour: {piece:?}"),
        }
    }
    assert_printable("the log in colour", rest.as_bytes());
}

/// `tickhound … | head` ended with a panic: `failed printing to stdout: Broken pipe`.
#[test]
fn a_command_whose_output_is_closed_ends_quietly_and_as_it_would_have_ended() {
    let redis = Redis::start();
    let project = hostile_project(&redis);
    project.run(&["run", "--drain"]);
    let mut all = commands(&redis);
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    all.extend([
        words("bench misbehaving --symbols 2 --ticks 2000"),
        words("promote bold --dry-run"),
        words("demo --seconds 1 --json"),
        words("feed --simulate --count 10"),
        words("replay --simulate --count 1000"),
    ]);
    for command in all {
        let args: Vec<&str> = command.iter().map(String::as_str).collect();
        let what = format!("tickhound {}", command.join(" ").escape_debug());
        let expected = project.output(&args);
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let closed = project.command(&args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let errors = text(&closed.stderr);
        // Requeued letters are gone.
        if !args.contains(&"requeue") {
            assert_eq!(closed.status.code(), expected.status.code(), "{what}: {errors}");
        }
        assert!(!errors.contains("panicked") && !errors.contains("roken pipe"), "{what}: {errors}");
    }
    // These would not end by themselves.
    for line in [
        "alerts --follow",
        "alerts --follow --json",
        "status --watch 0.1",
        "status --watch 0.1 --json",
        "demo --seconds 3600",
    ] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let closed = project
            .command(&line.split(' ').collect::<Vec<_>>())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let errors = text(&closed.stderr);
        assert!(closed.status.code().is_some_and(|code| code < 3), "{line}: {errors}");
        assert!(!errors.contains("panicked") && !errors.contains("roken pipe"), "{line}: {errors}");
    }
}

/// The parquet crate panics at some damaged files. The panic was printed, and the command ended without an error of its own.
#[test]
fn a_panic_of_the_parquet_crate_is_one_line_of_an_error() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let sound = "replay --simulate --count 200000 --out sound.parquet".split(' ').collect::<Vec<_>>();
    project.run(&sound);
    let sound = fs::read(project.path("sound.parquet")).unwrap();
    let damaged = |position: usize| {
        let mut bytes = sound.clone();
        bytes[position] ^= 1;
        fs::write(project.path("damaged.parquet"), bytes).unwrap();
        text(&project.output(&["feed", "damaged.parquet", "--count", "1"]).stderr)
    };
    // The metadata is at the end.
    let contained = (0..sound.len() - 8)
        .rev()
        .map(damaged)
        .find(|errors| errors.contains("the file is damaged: ") || errors.contains("a page is damaged: "));
    let errors = contained.expect("some damage makes the crate panic");
    assert!(errors.starts_with("error: ") && errors.lines().count() == 1, "{errors}");
    assert!(!errors.contains("panicked at"), "{errors}");
}

#[test]
fn an_output_that_can_not_be_written_is_an_error() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    for args in [&["check"][..], &["check", "--json"], &["doctor"], &["dead", "list"], &["alerts"], &["status"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = project.command(args).stdout(full).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        assert!(errors.starts_with("error: can't write the output: No space left"), "{args:?}: {errors}");
    }
}
