//! Dead letters: looked at, given back to the stream byte for byte and once, or dropped.

use redis::{Commands, Connection};
use serde_json::Value;

use crate::support::{DEAD, Project, Redis, STREAM, misbehaving, text};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A project whose detector `each` alerts on every tick, and the connection of an onlooker.
fn with_each() -> (Redis, Project, Connection) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure("[detectors.each]\nplugin = \"misbehaving\"");
    let connection = redis.connect();
    (redis, project, connection)
}

fn add(connection: &mut Connection, fields: &[(&[u8], &[u8])]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*");
    fields.iter().for_each(|(name, value)| {
        add.arg(*name).arg(*value);
    });
    add.query(connection).unwrap()
}

/// Id and fields of each entry, byte for byte.
fn entries(connection: &mut Connection, key: &str) -> Vec<(String, Fields)> {
    redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(connection).unwrap()
}

fn ids(connection: &mut Connection) -> Vec<String> {
    entries(connection, DEAD).into_iter().map(|(id, _)| id).collect()
}

/// Exit code, stdout, stderr.
fn dead(project: &Project, args: &[&str]) -> (Option<i32>, String, String) {
    let output = project.output(&[&["dead"], args].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn without_letters_it_says_so() {
    let (_redis, project, _connection) = with_each();
    for args in [&["list"][..], &["requeue", "--all"], &["drop", "--all", "--yes"]] {
        let (code, out, err) = dead(&project, args);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
        assert!(out.contains("no dead letters in") && out.contains(DEAD), "{args:?}: {out}");
    }
    assert_eq!(dead(&project, &["list", "--json"]), (Some(0), String::new(), String::new()));
}

#[test]
fn list_and_show_tell_what_was_set_aside_and_why() {
    let (redis, project, mut connection) = with_each();
    project.configure("[detectors.odd]\nplugin = \"misbehaving\"\n[detectors.odd.params]\nhow = \"panic\"\nat = 100");
    add(&mut connection, &[(b"data", b"{\"symbol\":\"A\",")]);
    let nameless = add(&mut connection, &[(b"greeting", b"\x1b[2Jhello"), (b"greeting", b"again")]);
    let nested = br#"{"last_price":1.50,"depth":{"buy":[]},"depth":1}"#;
    add(&mut connection, &[(b"data", nested)]);
    project.feed(1, 100, &[]);
    project.run(&["run", "--drain"]);
    assert_eq!(redis.dead_letters().len(), 4);

    let (code, out, _) = dead(&project, &["list"]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("letter ") && lines[0].ends_with("reason"), "{out}");
    // The newest first: the detector's failure, of which only the first line is shown.
    assert!(lines[1].contains(" odd ") && lines[1].contains(" src/lib.rs:"), "{out}");
    assert!(lines[4].contains("field `data` is not JSON"), "{out}");
    assert!(lines[3].contains(&nameless), "{out}");
    assert_eq!(lines[5], format!("4 of 4 dead letters in {DEAD}, newest first (--limit)"));
    assert!(lines[6].starts_with("by reason: 2 × no symbol, "), "{out}");
    assert!(lines[6].contains("1 × odd failed") && lines[6].contains("1 × field `data` is not JSON"), "{out}");

    let count = |args: &[&str]| json_lines(&dead(&project, &[&["list", "--json"], args].concat()).1).len();
    assert_eq!((count(&[]), count(&["--limit", "3"])), (4, 3));
    assert_eq!((count(&["--detector", "odd"]), count(&["--detector", "breakout"])), (1, 0));
    assert_eq!((count(&["--reason", "NO symbol"]), count(&["--reason", "no symbol", "--detector", "odd"])), (2, 0));
    let (_, out, _) = dead(&project, &["list", "--reason", "nowhere"]);
    assert_eq!(out, format!("none of the 4 dead letters in {DEAD} matches\n"));

    // About a detector a letter tells which code failed, and with which parameters.
    let report: Value = serde_json::from_str(&project.run(&["check", "--json"])).unwrap();
    let odd = report["detectors"].as_array().unwrap().iter().find(|spec| spec["name"] == "odd").unwrap();
    let letters = json_lines(&dead(&project, &["list", "--json"]).1);
    for name in ["plugin", "version", "sha256", "params"] {
        assert!(!odd[name].is_null());
        assert_eq!(letters[0][name], odd[name]);
    }
    assert_eq!(letters[0]["detector"], "odd");
    assert_eq!((&letters[1]["detector"], &letters[1]["params"]), (&Value::Null, &Value::Null));
    assert_eq!(letters[2]["entry"], nameless.as_str());
    assert!(letters[2]["time"].as_str().unwrap().ends_with("+05:30"), "as the market has it: {}", letters[2]["time"]);

    let letters: Vec<&str> = letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    let (code, out, _) = dead(&project, &["show", letters[2], letters[1], letters[0]]);
    assert_eq!(code, Some(0));
    let escaped = "raw\n  greeting: \\u{1b}[2Jhello\n  greeting: again\n";
    assert!(out.contains(escaped) && !out.contains('\u{1b}'), "{out}");
    let indented = "raw\n  data: {\n    \"last_price\": 1.50,\n    \"depth\": {\n      \"buy\": []\n    },\n    \"depth\": 1\n  }\n";
    assert!(out.contains(indented), "{out}");
    assert!(
        out.contains("params    {\"at\":100,\"how\":\"panic\",\"price\":0.0}\n") && out.contains("is too much for me"),
        "{out}"
    );
    let shown = json_lines(&dead(&project, &["show", letters[1], "--json"]).1);
    assert_eq!(shown[0]["id"], letters[1]);
}

#[test]
fn an_entry_that_can_be_read_now_is_requeued_and_alerts() {
    let (redis, project, mut connection) = with_each();
    let tick: [(&[u8], &[u8]); 1] =
        [(b"data", br#"{"what": "NIFTY", "last_price": 101.50, "timestamp": 1762140000000}"#)];
    add(&mut connection, &tick);
    project.run(&["run", "--drain"]);
    assert_eq!((redis.dead_letters().len(), redis.alerts().len()), (1, 0));
    let letter = ids(&mut connection).remove(0);

    project.configure("[input.map]\nsymbol = [\"what\"]\n[detectors.each]\nplugin = \"misbehaving\"");
    let (code, out, err) = dead(&project, &["requeue", &letter]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let stream = entries(&mut connection, STREAM);
    assert_eq!(stream.len(), 2);
    assert_eq!(stream[0].1, stream[1].1, "byte for byte");
    let new = &stream[1].0;
    let expected = format!("{letter} is now {new}\nrequeued 1 dead letters to {STREAM}; 0 are left in {DEAD}\n");
    assert_eq!(out, expected);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    assert_eq!(alerts.len(), 1);
    assert_eq!((&alerts[0]["entry"], alerts[0]["symbol"].as_str()), (new, "NIFTY"));
    assert_eq!((redis.dead_letters().len(), redis.pending(), redis.totals()["entries"]), (0, 0, 2));

    // A second time there is nothing to do.
    let (code, out, err) = dead(&project, &["requeue", &letter]);
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("{letter}: there is no such letter")), "{err}");
    assert!(out.starts_with("requeued 0 dead letters"), "{out}");
    assert_eq!(connection.xlen::<_, u64>(STREAM).unwrap(), 2);
}

#[test]
fn odd_entries_come_back_byte_for_byte() {
    let (redis, project, mut connection) = with_each();
    let large = vec![b'x'; 1 << 20];
    let names: Vec<Vec<u8>> = (0..1200).map(|n| format!("field {n}").into_bytes()).collect();
    let many: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_slice(), b"\0\xffv".as_slice())).collect();
    let odd: [&[(&[u8], &[u8])]; 7] = [
        &[(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"a", b"1")],
        &[(b"", b""), (b"empty", b"")],
        &[(b"large", &large)],
        &[(b"bin", &[0xff, 0x00, 0x80]), (&[0xfe, 0xfe], b"x"), (&[0xfe, 0xff], b"y")],
        &[(b"base64:", b"x"), (b"base64:/w==", b"{\"base64\":\"eA==\"}")],
        &[(b"line\nend", b"\r\n\t\"\\ \xe2\x9c\x85")],
        &many,
    ];
    odd.iter().for_each(|fields| {
        add(&mut connection, fields);
    });
    project.run(&["run", "--drain"]);
    assert_eq!(redis.dead_letters().len(), odd.len());
    let (code, out, err) = dead(&project, &["requeue", "--all"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("requeued 7 dead letters to {STREAM}; 0 are left in {DEAD}\n"));
    let stream = entries(&mut connection, STREAM);
    assert_eq!(stream.len(), 2 * odd.len());
    for (number, (first, again)) in stream[..odd.len()].iter().zip(&stream[odd.len()..]).enumerate() {
        assert!(first.1 == again.1, "entry {number}");
        assert_eq!(first.1.len(), odd[number].len());
    }
}

/// More letters than fit in one round trip, moved by two at once: each comes back once, in order, and
/// what does not match stays.
#[test]
fn all_that_match_are_requeued_once_and_in_order() {
    let (redis, project, mut connection) = with_each();
    const LETTERS: usize = 2500;
    for number in 0..LETTERS {
        let value = number.to_string();
        add(&mut connection, &[(if number % 5 == 0 { b"other" } else { b"data" }, value.as_bytes())]);
    }
    project.run(&["run", "--drain"]);
    assert_eq!(redis.dead_letters().len(), LETTERS);
    let requeue = || {
        let mut command = project.command(&["dead", "requeue", "--all", "--reason", "field `data`", "--json"]);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let both = [requeue(), requeue()];
    let outputs = both.map(|child| child.wait_with_output().unwrap());
    let moved: usize = outputs
        .iter()
        .map(|output| {
            assert_eq!(output.status.code(), Some(0));
            json_lines(&text(&output.stdout)).iter().filter(|line| line["requeued_as"].is_string()).count()
        })
        .sum();
    assert_eq!(moved, LETTERS / 5 * 4);
    let again: Vec<usize> = entries(&mut connection, STREAM)[LETTERS..]
        .iter()
        .map(|(_, fields)| text(&fields[0].1).parse().unwrap())
        .collect();
    let mut sorted = again.clone();
    sorted.sort_unstable();
    let expected: Vec<usize> = (0..LETTERS).filter(|number| number % 5 != 0).collect();
    assert_eq!(sorted, expected);
    let left = redis.dead_letters();
    assert!(left.len() == LETTERS / 5 && left.iter().all(|letter| letter["raw"].contains("other")));

    // One alone keeps their order.
    let (code, out, _) = dead(&project, &["requeue", "--all"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with(&format!("requeued {} dead letters", LETTERS / 5)), "{out}");
    let again: Vec<usize> = entries(&mut connection, STREAM)[LETTERS + expected.len()..]
        .iter()
        .map(|(_, fields)| text(&fields[0].1).parse().unwrap())
        .collect();
    assert_eq!(again, (0..LETTERS).step_by(5).collect::<Vec<_>>());
}

#[test]
fn what_can_not_be_requeued_stays() {
    let (redis, project, mut connection) = with_each();
    let letters: [&[(&str, &str)]; 4] = [
        &[("reason", "by hand")],
        &[("reason", "by hand"), ("raw", "{\"a\":1}")],
        &[("reason", "by hand"), ("raw", "{}")],
        &[("reason", "by hand"), ("raw", &format!("{{{}}}", vec!["\"a\":\"\""; 5000].join(",")))],
    ];
    let put: Vec<String> = letters.iter().map(|fields| connection.xadd(DEAD, "*", fields).unwrap()).collect();
    let good: String = connection.xadd(DEAD, "*", &[("raw", "{\"data\":\"x\"}")]).unwrap();
    let (code, out, err) = dead(&project, &["requeue", "--all"]);
    assert_eq!(code, Some(1));
    assert_eq!(out, format!("requeued 1 dead letters to {STREAM}; 4 are left in {DEAD}\n"));
    for (id, why) in put.iter().zip(["no field `raw`", "can't be read", "had no fields", "has 5000 fields"]) {
        let told = err.lines().find(|line| line.contains(id.as_str())).unwrap();
        assert!(told.contains(why), "{told}");
    }
    assert_eq!(ids(&mut connection), put);
    assert!(!put.contains(&good));

    // Where the stream of ticks should be is something else: nothing is lost.
    let _: () = connection.del(STREAM).unwrap();
    let _: () = connection.set(STREAM, "in the way").unwrap();
    let good: String = connection.xadd(DEAD, "*", &[("raw", "{\"data\":\"x\"}")]).unwrap();
    let (code, _, err) = dead(&project, &["requeue", &good]);
    assert_eq!(code, Some(1));
    assert!(err.contains(&format!("{good} was not changed: the key {STREAM} holds no stream")), "{err}");
    assert_eq!(redis.dead_letters().len(), 5);
}

#[test]
fn drop_removes_what_was_meant_and_asks_before_all() {
    let (_redis, project, mut connection) = with_each();
    for reason in ["one", "two", "two", "three"] {
        let _: String = connection.xadd(DEAD, "*", &[("reason", reason), ("raw", "{\"data\":\"x\"}")]).unwrap();
    }
    let before = ids(&mut connection);
    let (code, _, err) = dead(&project, &["drop", "--all"]);
    assert_eq!((code, ids(&mut connection)), (Some(2), before.clone()));
    assert!(err.contains("add --yes"), "{err}");
    let (code, out, err) = dead(&project, &["drop", &before[0], "5-5"]);
    assert_eq!(code, Some(1), "one of them is not there");
    assert!(out.starts_with("dropped 1 dead letters; 3 are left") && err.contains("5-5: there is no such letter"));
    let (code, out, _) = dead(&project, &["drop", "--all", "--reason", "two", "--yes", "--json"]);
    let lines = json_lines(&out);
    assert_eq!((code, lines.len(), &lines[0]["dropped"]), (Some(0), 2, &Value::Bool(true)));
    assert_eq!(ids(&mut connection), before[3..]);
    assert_eq!(dead(&project, &["drop", "--all", "--yes"]).0, Some(0));
    assert!(ids(&mut connection).is_empty());
    assert_eq!(connection.xlen::<_, u64>(STREAM).unwrap(), 0, "nothing went back");
}

#[test]
fn wrong_usage_is_reported() {
    let (mut redis, project, _connection) = with_each();
    let cases: [(&[&str], &str); 8] = [
        (&["show", "yesterday"], "not an entry id: expected <milliseconds>-<sequence>"),
        (&["show"], "<ID>"),
        (&["requeue"], "<ID"),
        (&["requeue", "1-1", "--all"], "cannot be used with"),
        (&["requeue", "1-1", "--detector", "each"], "cannot be used with"),
        (&["drop", "--reason", "x"], "--all"),
        (&["list", "--limit", "0"], "--limit"),
        (&["bury"], "unrecognized subcommand"),
    ];
    for (args, expected) in cases {
        let (code, _, err) = dead(&project, args);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
    let (code, _, err) = dead(&project, &["show", "1-1"]);
    assert!(code == Some(1) && err.contains("1-1: there is no such letter"), "{err}");
    for what in ["list", "show", "requeue", "drop"] {
        let (code, help, _) = dead(&project, &[what, "--help"]);
        assert!(code == Some(0) && help.contains("Example") && help.contains(&format!("tickhound dead {what}")));
    }
    let mut connection = redis.connect();
    let _: () = connection.set(DEAD, "text").unwrap();
    let (code, _, err) = dead(&project, &["list"]);
    assert!(code == Some(1) && err.contains(&format!("the key {DEAD} holds no stream")), "{err}");
    redis.kill();
    let (code, _, err) = dead(&project, &["list"]);
    assert!(code == Some(1) && err.contains("redis at "), "{err}");
}
