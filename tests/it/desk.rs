//! A desk's first day: what its crawler writes, and what its programs read, by its own client.

mod python;

use std::{collections::BTreeMap, fs};

use redis::Commands;
use serde_json::{Value, json};

use self::python::python;
use crate::{
    notify::receiver::Receiver,
    server::Serving,
    support::{
        ALERTS, Alert, Project, Redis, SHADOW_ALERTS, STREAM, Sighting, assert_chains, contents, shipped, text,
        wait_for,
    },
};

const PRODUCER: &str = include_str!("desk/producer.py");
const READER: &str = include_str!("desk/reader.py");
const SCHEMA: &str = include_str!("desk/schema.py");

/// The venue of each symbol.
const VENUES: &str = "tickhound:{ticks:intraday:processed}:scanner_group:venues";

/// 2025-11-24 10:15:30 in Kolkata, ms.
const THEN: u64 = 1_763_959_530_000;

/// The volume of the crawler was not read, and every instrument that it could not resolve was the one symbol `UNKNOWN`.
#[test]
fn the_three_shapes_of_the_producer_are_one_feed_and_what_it_could_not_resolve_is_no_symbol() {
    let all: Vec<(Vec<Alert>, Vec<Alert>)> = ["0", "1", "2", "012"]
        .into_iter()
        .map(|shapes| {
            let redis = Redis::start();
            let project = Project::with_probe(redis.url(), "", "");
            python(PRODUCER, &[&redis.socket().display().to_string(), shapes, "300"]);
            project.run(&["run", "--drain"]);
            (redis.alerts(), redis.dead_letters())
        })
        .collect();
    let (alerts, letters) = &all[0];
    assert_chains(alerts);
    assert_eq!(alerts.len(), 300);
    let mut symbols: BTreeMap<&str, usize> = BTreeMap::new();
    alerts.iter().for_each(|alert| *symbols.entry(&alert["symbol"]).or_default() += 1);
    let expected = ["ICICIBANK25NOVFUT", "NIFTY25NOV25750PE", "RELIANCE"].map(|symbol| (symbol, 100));
    assert_eq!(symbols.into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(letters.len(), 3);
    for (letter, name) in letters.iter().zip(["UNKNOWN", "UNKNOWN_738561", "TOKEN_738561"]) {
        assert!(letter["reason"].starts_with(&format!("unresolved symbol: `{name}`")), "{letter:?}");
    }
    for (shape, (other, letters)) in all.iter().enumerate() {
        assert_eq!(contents(other), contents(alerts), "shape {shape}");
        assert_eq!(letters.len(), 3);
    }
}

/// Its parser found the pattern `UNKNOWN` in each alert, and failed on a text for confidence.
#[test]
fn the_desks_own_reader_understands_alerts_in_the_shipped_layout() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let layout = fs::read_to_string(shipped("examples/alerts-stream.toml")).unwrap();
    let fields =
        project_text(&redis, "[alerts]\nstream = \"alerts:stream\"\nmaxlen = 1000\njsonl = \"alerts.jsonl\"\n");
    let document = project_text(&redis, &layout.replacen("\n[alerts]\n", "\n[alerts]\njsonl = \"alerts.jsonl\"\n", 1));
    project.write_config(&document);
    let host = project.start_owner();
    project.feed(20, 20_000, &[]);
    redis.wait_all_processed(20_000);
    let read = python(READER, &[&redis.socket().display().to_string(), "alerts:stream"]);
    let read: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(read.len() > 10, "{} alerts", read.len());
    assert!(read.iter().any(|alert| alert[2] == "breakout") && read.iter().any(|alert| alert[2] == "momentum"));

    // In the middle of the stream, back to fields. All of our own readers read both.
    project.replace_config(&fields);
    host.wait_for_event("generation_activated");
    project.feed(20, 20_000, &["--seed", "2"]);
    redis.wait_all_processed(40_000);
    let entries = redis.stream_entries("alerts:stream");
    let (documents, plain): (Vec<&Alert>, Vec<&Alert>) =
        entries.iter().map(|(_, fields)| fields).partition(|fields| fields.contains_key("data"));
    assert!(documents.len() >= read.len() && plain.len() > 10, "{} and {}", documents.len(), plain.len());
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let shown: Vec<Value> = project.run(&["alerts", "--json", "--last", "100000"]).lines().map(json).collect();
    assert_eq!(shown.len(), entries.len());
    wait_for("the file has all of them", || {
        let file = fs::read_to_string(project.path("alerts.jsonl")).unwrap();
        (file.lines().map(json).collect::<Vec<_>>() == shown).then_some(())
    });
    for (document, line) in documents.iter().zip(&shown) {
        let document = json(&document["data"]);
        let own = line.as_object().unwrap().iter().all(|(name, value)| document[name] == *value);
        assert!(own && document["alert_id"] == line["id"], "{document} against {line}");
    }
    let reference = project.reference(&redis);
    let ids = |alerts: &[Alert]| alerts.iter().map(|alert| alert["id"].clone()).collect::<Vec<_>>();
    let shown_ids: Vec<String> = shown.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(shown_ids, ids(&reference));
}

/// The desk's programs learned the types of each output for themselves: `stale` was a number here, and true or false there.
#[test]
fn an_alert_has_the_same_types_in_stream_file_api_and_webhook_and_they_are_those_of_the_schema() {
    let (redis, receiver) = (Redis::start(), Receiver::start());
    let project = Project::new(&redis);
    project.write_config(&project_text(
        &redis,
        &format!(
            "[alerts]\nlayout = \"json\"\njsonl = \"alerts.jsonl\"\n[[notify]]\nname = \"desk\"\nurl = \"{}\"\ngroup_ms = 20\n\
             per_minute = 120\nmax_per_message = 500\n",
            receiver.url()
        ),
    ));
    let serving = Serving::start(&project);
    project.feed(20, 20_000, &[]);
    redis.wait_all_processed(20_000);
    let by_id = |alerts: Vec<Value>| -> BTreeMap<String, Value> {
        alerts.into_iter().map(|alert| (alert["id"].as_str().unwrap().to_owned(), alert)).collect()
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let stream = by_id(redis.alerts().iter().map(|entry| json(&entry["data"])).collect());
    assert!(stream.len() > 10);
    let file = wait_for("the file has all of them", || {
        let file = fs::read_to_string(project.path("alerts.jsonl")).ok()?;
        let file = by_id(file.lines().map(json).collect());
        (file.len() == stream.len()).then_some(file)
    });
    let webhook = wait_for("the webhook has all of them", || {
        let alerts = receiver.got().iter().flat_map(|got| got.body["alerts"].as_array().unwrap().clone()).collect();
        let alerts = by_id(alerts);
        (alerts.len() == stream.len()).then_some(alerts)
    });
    let (status, page) = serving.get("/api/alerts?limit=1000");
    assert_eq!(status, 200, "{page}");
    let api = by_id(json(&page)["alerts"].as_array().unwrap().clone());
    assert_eq!(api.len(), stream.len());
    assert_eq!((&file, &webhook), (&stream, &stream));
    let schema = shipped("docs/alert.schema.json").display().to_string();
    for (name, alerts) in [("stream", &stream), ("file", &file), ("api", &api), ("webhook", &webhook)] {
        let lines: String = alerts.values().map(|alert| format!("{alert}\n")).collect();
        let path = project.path(name);
        fs::write(&path, lines).unwrap();
        let count = python(SCHEMA, &[&schema, &path.display().to_string()]);
        assert_eq!(count.trim(), alerts.len().to_string(), "{name}");
    }
    // The numbers of the API are equal, however they are written.
    for (id, alert) in &stream {
        for (name, value) in alert.as_object().unwrap() {
            let same =
                value == &api[id][name] || value.as_f64().is_some_and(|number| api[id][name].as_f64() == Some(number));
            assert!(same, "{id}: {name} is {value} and {}", api[id][name]);
        }
    }
    // An alert says which code fired.
    let inspected = json(&project.run(&["inspect", "breakout", "--json"]));
    let sha256 = inspected["anatomy"]["sha256"].as_str().unwrap();
    let of_breakout = stream.values().find(|alert| alert["detector"] == "breakout").unwrap();
    assert_eq!((&of_breakout["sha256"], &of_breakout["generation"]), (&json!(sha256[..12]), &json!(1)));
    let hashes: Vec<&Value> = stream.values().map(|alert| &alert["params_hash"]).collect();
    assert!(hashes.iter().any(|hash| **hash != hashes[0].clone()), "two detectors have two sets of parameters");
}

/// A stream still holds alerts that an earlier release has written, without the later fields.
#[test]
fn alerts_of_an_earlier_release_fit_the_schema_and_those_of_shadows_say_so() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let fields = |id: &'static str| {
        let price = [("id", id), ("detector", "probe"), ("plugin", "probe"), ("version", "0.1.0"), ("symbol", "TCS")];
        let more = [("time", "1763959530000000000"), ("price", "101.5"), ("confidence", "0.9"), ("direction", "up")];
        let end = [("evidence", "{}"), ("entry", "5-0"), ("lag_ms", "3"), ("recovered", "0"), ("stale", "0")];
        [price.as_slice(), &more, &end].concat()
    };
    let add = |stream: &str, fields: &[(&str, &str)]| {
        let _: String = redis::cmd("XADD").arg(stream).arg("*").arg(fields).query(&mut redis.connect()).unwrap();
    };
    add(ALERTS, &fields("5-0/probe/0"));
    add(SHADOW_ALERTS, &[fields("5-0/bold/0").as_slice(), &[("shadow_of", "probe")]].concat());
    let serving = Serving::start(&project);
    let get = |path: &str| serde_json::from_str::<Value>(&serving.get(path).1).unwrap();
    let one = |id: &str| get(&format!("/api/alert?id={id}"));
    let (live, shadow) = (one("5-0/probe/0"), one("5-0/bold/0"));
    let all = get("/api/alerts")["alerts"][0].clone();
    assert_eq!(all, live);
    assert_eq!((&shadow["shadow_of"], live.get("shadow_of")), (&json!("probe"), None));
    assert_eq!([&live["venue"], &live["sha256"], &live["generation"]], [&json!(""), &json!(""), &Value::Null]);
    let shown = project.run(&["alerts", "--json"]);
    assert_eq!(shown.lines().count(), 1);
    let path = project.path("old.jsonl");
    fs::write(&path, format!("{live}\n{shadow}\n{shown}")).unwrap();
    let schema = shipped("docs/alert.schema.json").display().to_string();
    assert_eq!(python(SCHEMA, &[&schema, &path.display().to_string()]).trim(), "3");
}

fn project_text(redis: &Redis, more: &str) -> String {
    format!(
        "[stream]\nurl = \"{}\"\nblock_ms = 200\n[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
         [detectors.momentum]\nplugin = \"momentum\"\nmin_confidence = 0.0\n{more}\n",
        redis.url()
    )
}

/// Adds a tick of each of these symbols, under ids that go on from `first`.
fn publish(redis: &Redis, first: u64, symbols: &[&str]) {
    let mut connection = redis.connect();
    for (at, symbol) in (THEN + first..).zip(symbols) {
        let (price, stamp) = ((100 + at % 7).to_string(), at.to_string());
        let tick = [("symbol", *symbol), ("ltp", &price), ("timestamp", &stamp)];
        let _: String = connection.xadd(STREAM, format!("{at}-0"), &tick).unwrap();
    }
}

/// `NSE:RELIANCE` and `BSE:RELIANCE` were one symbol, with the prices of both in turn.
#[test]
fn a_symbol_keeps_the_venue_that_it_came_from_first_over_kills_and_restarts() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "[engine]\ncheckpoint_every_ms = 100\n");
    // The producer does not always name it.
    publish(&redis, 0, &["RELIANCE", "NSE:RELIANCE", "RELIANCE", "BSE:TCS"]);
    let mut host = project.start_owner();
    redis.wait_all_processed(4);
    let saved = || redis.connect().hlen::<_, usize>(VENUES).unwrap();
    wait_for("both venues are saved", || (saved() == 2).then_some(()));
    host.kill();
    publish(&redis, 10, &["BSE:RELIANCE", "NSE:RELIANCE", "NSE:TCS", "TCS"]);
    let mut host = project.start_owner();
    redis.wait_all_processed(8);
    host.kill();
    // Before its state and its venue are saved, too.
    publish(&redis, 20, &["NSE:INFY", "NSE:RELIANCE"]);
    let project_slow = Project::with_probe(redis.url(), "", "[engine]\ncheckpoint_every_ms = 600000\n");
    let mut host = project_slow.start_owner();
    redis.wait_all_processed(10);
    host.kill();
    publish(&redis, 30, &["BSE:INFY", "INFY", "BSE:RELIANCE"]);
    project.run(&["run", "--drain"]);
    let reasons: Vec<String> = redis.dead_letters().iter().map(|letter| letter["reason"].clone()).collect();
    let expected =
        [("RELIANCE", "NSE", "BSE"), ("TCS", "BSE", "NSE"), ("INFY", "NSE", "BSE"), ("RELIANCE", "NSE", "BSE")];
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for (reason, (symbol, first, second)) in reasons.iter().zip(expected) {
        let begins = format!("second venue: {symbol} comes from {first}, and this tick from {second}. Set input.venue");
        assert!(reason.starts_with(&begins), "{reason}");
    }
    let alerts = redis.alerts();
    assert_chains(&alerts);
    let venues = |symbol: &str| {
        let of = alerts.iter().filter(|alert| alert["symbol"] == symbol);
        of.map(|alert| alert["venue"].as_str()).collect::<Vec<_>>()
    };
    // Known from the tick on that names it, and as exactly after a kill.
    assert_eq!(venues("RELIANCE"), ["", "NSE", "NSE", "NSE", "NSE"]);
    assert_eq!((venues("TCS"), venues("INFY")), (vec!["BSE", "BSE"], vec!["NSE", "NSE"]));
    assert!(contents(&alerts) == contents(&project.reference(&redis)));
}

/// A detector for `MCX:*` raised alerts about each symbol of another venue, as no symbol contains one by default.
#[test]
fn a_pattern_of_a_venue_alone_matches_no_symbol_without_one() {
    let redis = Redis::start();
    let more = "[detectors.mcx]\nplugin = \"probe\"\nsymbols = [\"MCX:*\"]\n[detectors.one]\nplugin = \"probe\"\n\
                symbols = [\"nse:rel*\"]\n";
    let project = Project::with_probe(redis.url(), "", more);
    publish(&redis, 0, &["NSE:RELIANCE", "NSE:TCS", "MCX:GOLD", "RELIANCE"]);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    let of = |name: &str| {
        let of = alerts.iter().filter(|alert| alert["detector"] == name);
        of.map(|alert| (alert["symbol"].as_str(), alert["venue"].as_str())).collect::<Vec<_>>()
    };
    assert_eq!(of("mcx"), []);
    assert_eq!(of("one"), [("RELIANCE", "NSE"), ("RELIANCE", "NSE")]);
    assert_eq!(of("probe").len(), 4);
}

#[test]
fn kept_venues_are_two_symbols_and_patterns_match_with_and_without_them() {
    let redis = Redis::start();
    let more = "[detectors.nse]\nplugin = \"probe\"\nsymbols = [\"nse:rel*\"]\n[detectors.any]\nplugin = \"probe\"\n\
                symbols = [\"Reliance\"]\n[input]\nvenue = \"keep\"\n";
    let project = Project::with_probe(redis.url(), "", more);
    publish(&redis, 0, &["NSE:RELIANCE", "BSE:RELIANCE", "bse: reliance", "NSE:RELIANCE", "NSE:TCS"]);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    assert_chains(&alerts);
    let seen = |detector: &str, symbol: &str| {
        let of = alerts.iter().filter(|alert| alert["detector"] == detector && alert["symbol"] == symbol);
        of.map(|alert| (alert["venue"].clone(), Sighting::of(alert).seen)).collect::<Vec<_>>()
    };
    let twice = |venue: &str| vec![(venue.to_owned(), 1), (venue.to_owned(), 2)];
    assert_eq!(seen("probe", "NSE:RELIANCE"), twice("NSE"));
    assert_eq!(seen("probe", "BSE:RELIANCE"), twice("BSE"));
    assert_eq!((seen("nse", "NSE:RELIANCE"), seen("nse", "BSE:RELIANCE")), (twice("NSE"), vec![]));
    assert_eq!((seen("any", "NSE:RELIANCE"), seen("any", "BSE:RELIANCE")), (twice("NSE"), twice("BSE")));
    assert_eq!(seen("any", "NSE:TCS"), vec![]);
    let shown = |pattern: &str| {
        let lines = project.run(&["alerts", "--json", "--detector", "probe", "--symbol", pattern]);
        lines.lines().count()
    };
    assert_eq!([shown("reliance"), shown("BSE:*"), shown("?se:tcs"), shown("MCX:*")], [4, 2, 1, 0]);
    assert_eq!(redis.connect().xlen::<_, usize>(ALERTS).unwrap(), alerts.len());
}

/// Scripts parse the line, so it has more only if asked.
#[test]
fn the_line_of_an_alert_has_direction_and_price_if_asked() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(20, 20_000, &[]);
    for (details, is_end) in [("false", true), ("true", false)] {
        project.write_config(&project_text(
            &redis,
            &format!("[alerts]\nstream = \"alerts:{details}\"\nlog_details = {details}\nlog_stale = true"),
        ));
        let output = project
            .command(&["run", "--drain"])
            .env("TICKHOUND_STREAM__GROUP", details)
            .env("TICKHOUND_ALERTS__SHADOW_STREAM", format!("alerts:{details}:shadow"))
            .output()
            .unwrap();
        let log = text(&output.stdout);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("DETECTED")).collect();
        assert!(lines.len() > 10, "{log}");
        for line in lines {
            let (_, end) = line.split_once(" - DETECTED: 0.").or_else(|| line.split_once(" - DETECTED: 1.")).unwrap();
            assert_eq!(end[2..].starts_with(" confidence event="), is_end, "{line}");
            assert!(is_end || end[2..].starts_with(" confidence, ") && end.contains(", at "), "{line}");
        }
    }
}

/// A typing error in a pattern left its detector without a tick, and nothing said so.
#[test]
fn a_pattern_that_matches_no_symbol_is_named_by_status_and_check() {
    let redis = Redis::start();
    let more = "symbols = [\"NFITY*\", \"nifty*\"]\n";
    let others = "[[notify]]\nname = \"desk\"\nurl = \"http://127.0.0.1:9/\"\nsymbols = [\"tcs\", \"INFY\"]\n\
                  detectors = [\"PROBE\", \"prob\"]\n[[session.by_symbol]]\nsymbols = [\"MCX:*\", \"TC*\", \"GOLD*\"]\n\
                  calendar = \"crypto\"\n";
    let project = Project::with_probe(redis.url(), "", &format!("{more}{others}"));
    let symbols = ["NSE:NIFTY 50", "NIFTY25NOVFUT", "TCS"];
    publish(&redis, 0, &symbols);
    let _host = project.start_owner();
    redis.wait_all_processed(3);
    let status = || text(&project.output(&["status"]).stdout);
    wait_for("the status of the host", || status().contains("generation 1").then_some(()));
    assert!(!status().contains("matches none"), "too early to say: {}", status());
    let many: Vec<&str> = symbols.iter().copied().cycle().take(1200).collect();
    publish(&redis, 1000, &many);
    let expected = "detectors.probe.symbols: `NFITY*` matches none of 3 symbols seen";
    let status = wait_for("status names it", || Some(status()).filter(|status| status.contains(expected)));
    assert!(!status.contains("`nifty*`"), "{status}");
    let check = wait_for("the symbols are saved", || {
        let check = project.run(&["check"]);
        check.contains(&format!("warning: {expected}")).then_some(check)
    });
    assert!(!check.contains("`nifty*`"), "{check}");
    let expected = [
        "notify `desk`: detectors has `prob`, which matches no configured detector",
        "notify `desk`: symbols has `INFY`, which matches none of 3 symbols seen",
        "session.by_symbol: `MCX:*` matches only symbols that contain their venue; set input.venue to \"keep\"",
        "session.by_symbol: `GOLD*` matches none of 3 symbols seen",
    ];
    assert!(expected.iter().all(|one| check.contains(one)), "{check}");
    let status = text(&project.output(&["status"]).stdout);
    assert!(expected.iter().all(|one| status.contains(one)), "{status}");
    assert_eq!(check.matches("warning: ").count(), 5, "{check}");
    let said = |detector: &str| text(&project.output(&["mute", "TCS", "--detector", detector, "--for", "1m"]).stderr);
    assert!(said("prob").contains("no configured detector matches `prob`"), "{}", said("prob"));
    assert!(!said("PROBE").contains("no configured detector"), "{}", said("PROBE"));
    project.run(&["unmute", "TCS", "--detector", "probe"]);
}
