//! `explain`, `why-not` and `near`: a detector says what it looked at, alone, and changes nothing.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use crate::{
    server::Serving,
    support::{Alert, Project, Redis, probe_gates, probe_group, shipped, text, wait_for},
};

const STREAM: &str = "ticks:intraday:processed";

/// 2025-11-24 10:42:00 in Kolkata, ms.
const START: u64 = 1_763_961_120_000;

/// A project whose only detector says what it looks at.
fn project(url: String) -> Project {
    let project = Project::at(url.clone());
    project.add_plugin(&probe_gates());
    project.write_config(&format!(
        "[stream]\nurl = \"{url}\"\nblock_ms = 200\n[alerts]\nlog = false\n[detectors.rise]\nplugin = \"probe_gates\"\n\
         min_confidence = 0.0\n"
    ));
    project
}

/// Publishes ticks: symbol, seconds from the start, price. The ids are the times.
fn publish(redis: &Redis, ticks: &[(&str, u64, f64)]) {
    for (number, (symbol, second, price)) in ticks.iter().enumerate() {
        let time = START + second * 1000;
        let fields = format!("symbol {symbol} ltp {price} timestamp {time} quantity 5");
        let _: String = redis.ask(&format!("XADD {STREAM} {time}-{number} {fields}"));
    }
}

/// A rises at 10:42:20 by 2 %, after three ticks; B by half a percent.
const TICKS: [(&str, u64, f64); 8] = [
    ("A", 0, 100.0),
    ("B", 0, 50.0),
    ("A", 5, 103.0),
    ("B", 5, 50.0),
    ("A", 10, 103.0),
    ("B", 10, 50.25),
    ("A", 20, 105.06),
    ("B", 21, 50.25),
];

fn json(project: &Project, args: &[&str]) -> Value {
    serde_json::from_str(&project.run(&[args, &["--json"]].concat())).unwrap()
}

/// Everything that the server holds.
fn contents(redis: &Redis) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<String> = redis.ask("KEYS *");
    let value = |key: String| {
        let kind: String = redis.ask(&format!("TYPE {key}"));
        let mut connection = redis.connect();
        // A hash is dumped in an order that reading it may change.
        let value: Vec<u8> = if kind == "hash" {
            let fields: BTreeMap<String, Vec<u8>> = redis::cmd("HGETALL").arg(&key).query(&mut connection).unwrap();
            format!("{fields:?}").into_bytes()
        } else {
            redis::cmd("DUMP").arg(&key).query(&mut connection).unwrap()
        };
        (key, value)
    };
    keys.into_iter().map(value).collect()
}

#[test]
fn an_alert_is_explained_by_the_gates_that_it_passed_and_nothing_is_changed() {
    let redis = Redis::start();
    let project = project(redis.url());
    publish(&redis, &TICKS);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    let [alert] = &alerts[..] else { panic!("{alerts:?}") };
    let id = alert["id"].as_str();
    let before = contents(&redis);

    let shown = json(&project, &["explain", id]);
    assert_eq!(shown["reproduction"], "same", "{shown:#}");
    assert_eq!((&shown["alert"]["symbol"], &shown["code_note"]), (&"A".into(), &Value::Null));
    let gates = shown["judgment"]["gates"].as_array().unwrap();
    let names: Vec<&str> = gates.iter().map(|gate| gate["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["warm", "risen", "traded"]);
    assert!(gates.iter().all(|gate| gate["holds"] == true), "{gates:?}");
    assert_eq!((&gates[1]["value"], &gates[1]["limit"]), (&105.06.into(), &(103.0 * 1.01).into()));
    assert_eq!((&shown["before"]["gates"][1]["holds"], &shown["before"]["price"]), (&false.into(), &103.0.into()));
    let prices: Vec<f64> = shown["rows"].as_array().unwrap().iter().map(|row| row["price"].as_f64().unwrap()).collect();
    assert_eq!(prices, [100.0, 103.0, 103.0, 105.06]);
    assert_eq!(shown["rows"][0]["columns"]["quantity"], 5.0);

    let said = project.run(&["explain", id]);
    for part in
        ["✅ [RISE] A", "the replay raises the same alert", "gates of A", "105.06", "> ", "2025-11-24 10:42:20.000 IST"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Neither a group, nor a lease, nor a saved state is touched, whoever asks.
    project.run(&["near", "rise"]);
    project.run(&["why-not", "B", "--detector", "rise", "--at", "2025-11-24 10:42"]);
    let after = contents(&redis);
    let changed: Vec<&String> =
        before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).collect();
    assert!(changed.is_empty(), "{changed:?} changed on the server");
}

#[test]
fn why_not_shows_the_row_that_was_closest_and_what_was_missing() {
    let redis = Redis::start();
    let project = project(redis.url());
    publish(&redis, &TICKS);
    let ask = ["why-not", "b", "--detector", "rise", "--at", "2025-11-24 10:42"];
    let shown = json(&project, &ask);
    assert_eq!(shown["replayed"]["state"], "entries", "no host has saved anything: {shown:#}");
    assert_eq!(
        (&shown["looked_at"], &shown["all_held"], &shown["alerts"]),
        (&3.into(), &Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert_eq!((&shown["closest"]["price"], &shown["closest"]["failing"]), (&50.25.into(), &1.into()));
    let held: Vec<&Value> = shown["gates"].as_array().unwrap().iter().map(|gate| &gate["held"]).collect();
    assert_eq!(held, [2, 0, 3]);
    let said = project.run(&ask);
    for part in ["rise on B, 2025-11-24 10:42:00.000 IST", "not all gates held at any of them", "50.25", "50.5"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The alert of the other symbol, with the same command.
    let said = project.run(&["why-not", "A", "--detector", "rise", "--at", "2025-11-24 10:42:20"]);
    assert!(said.contains("all gates held at 1 of them") && said.contains("an alert at "), "{said}");
    for (args, reason) in [
        (&["A", "--at", "2025-11-24 11:42"][..], "rise saw no row of A from 2025-11-24 11:42:00.000 IST"),
        (&["NOBODY", "--at", "2025-11-24 10:42"], "there is none at all"),
        (&["A", "--at", "yesterday"], "--at yesterday: expected a time such as 10:42"),
        (&["A", "--at", "10:42", "--for", "0s"], "--for must be above 0"),
    ] {
        let output = project.output(&[&["why-not", "--detector", "rise"], args].concat());
        assert!(!output.status.success() && text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
}

#[test]
fn near_continues_from_the_states_that_a_host_has_saved() {
    let redis = Redis::start();
    let project = project(redis.url());
    publish(&redis, &TICKS);
    project.run(&["run", "--drain"]);
    // The entries that made the states are gone, as in a stream that is trimmed.
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 0"));
    publish(&redis, &[("A", 30, 105.5), ("B", 31, 50.6), ("C", 32, 7.0), ("C", 33, 7.0)]);
    let shown = json(&project, &["near", "rise"]);
    assert_eq!(shown["replayed"]["state"], "saved", "{shown:#}");
    let near = shown["near"].as_array().unwrap();
    let owners: Vec<&str> = near.iter().map(|state| state["owner"].as_str().unwrap()).collect();
    assert_eq!(owners, ["B", "A"], "C has had two ticks, so that two gates don't hold: {shown:#}");
    assert_eq!((&near[0]["gate"], &near[0]["gates"][0]["value"]), (&"risen".into(), &5.0.into()));
    assert_eq!((&shown["looked_at"], &shown["count"]), (&3.into(), &2.into()));
    let said = project.run(&["near", "rise", "--last", "1"]);
    assert!(said.contains("rise: 2 of 3 are one gate away or closer, as of 2025-11-24 10:42:33.000 IST"), "{said}");
    assert!(said.contains("  B ") && !said.contains("  A "), "{said}");
    // A window that the saved states are from before is answered from them.
    let shown = json(&project, &["why-not", "B", "--detector", "rise", "--at", "2025-11-24 10:42:31"]);
    assert_eq!((&shown["replayed"]["state"], &shown["closest"]["gates"][0]["value"]), (&"saved".into(), &5.0.into()));
}

/// The stream keeps a minute; the day files keep days.
#[test]
fn what_the_stream_does_not_hold_any_more_is_in_the_files_of_history() {
    let redis = Redis::start();
    let project = project(redis.url());
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.write_config(&format!("{config}\n[history]\ndir = \"history\"\n"));
    fs::create_dir_all(project.path("history")).unwrap();
    let line = |(symbol, second, price): &(&str, u64, f64)| {
        let time = START + second * 1000;
        format!("{{\"symbol\":\"{symbol}\",\"ltp\":{price},\"timestamp\":{time},\"quantity\":5}}\n")
    };
    fs::write(project.path("history/2025-11-24.jsonl"), TICKS.iter().map(line).collect::<String>()).unwrap();
    publish(&redis, &TICKS);
    project.run(&["run", "--drain"]);
    let id = redis.alerts()[0]["id"].clone();
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 0"));
    let shown = json(&project, &["explain", &id]);
    assert_eq!((&shown["reproduction"], &shown["replayed"]["state"]), (&"same".into(), &"entries".into()), "{shown:#}");
    let shown = json(&project, &["why-not", "B", "--detector", "rise", "--at", "2025-11-24 10:42"]);
    assert_eq!(shown["closest"]["price"], 50.25);
}

/// The state is that of the group, whichever member is asked about, and continues from what the host has saved.
#[test]
fn a_detector_of_groups_is_asked_about_a_group_or_a_member() {
    let redis = Redis::start();
    let project = project(redis.url());
    project.add_plugin(&probe_group());
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    let more =
        "[groups.pair]\nsymbols = [\"A\", \"B\"]\n[detectors.count]\nplugin = \"probe_group\"\ngroups = [\"pair\"]\n";
    project.write_config(&format!("{config}\n{more}"));
    publish(&redis, &TICKS);
    let ask = ["why-not", "pair", "--detector", "count", "--at", "2025-11-24 10:42"];
    let shown = json(&project, &ask);
    assert_eq!((&shown["looked_at"], &shown["closest"]["owner"]), (&8.into(), &"pair".into()), "{shown:#}");
    assert_eq!((&shown["closest"]["symbol"], &shown["closest"]["gates"][0]["value"]), (&"B".into(), &8.0.into()));
    let of_member = json(&project, &["why-not", "A", "--detector", "count", "--at", "2025-11-24 10:42"]);
    assert_eq!((&of_member["rows"], &of_member["closest"]["gates"][0]["value"]), (&4.into(), &7.0.into()));
    assert_eq!(of_member["closest"]["group"], "pair");

    project.run(&["run", "--drain"]);
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 0"));
    publish(&redis, &[("A", 30, 105.5), ("C", 31, 50.6), ("B", 32, 7.0)]);
    let near = json(&project, &["near", "count"]);
    assert_eq!((&near["replayed"]["state"], &near["looked_at"]), (&"saved".into(), &1.into()), "{near:#}");
    assert_eq!((&near["near"][0]["owner"], &near["near"][0]["gates"][0]["value"]), (&"pair".into(), &10.0.into()));
}

/// A member is looked at in each of its groups: the gates of another group were shown, and its alert was compared.
#[test]
fn an_alert_of_a_group_is_explained_by_the_gates_of_that_group() {
    let redis = Redis::start();
    let project = project(redis.url());
    project.add_plugin(&probe_group());
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    let more = "[groups.pair]\nsymbols = [\"A\", \"B\"]\n[detectors.count]\nplugin = \"probe_group\"\n\
        groups = [\"pair\", \"underlying\"]\nparams = { ticks = 3 }\n";
    project.write_config(&format!("{config}\n{more}"));
    publish(&redis, &TICKS);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    let is_of = |alert: &Alert, group: &str| alert.get("group").is_some_and(|of| of == group);
    let of_symbol = alerts.iter().find(|alert| is_of(alert, "A")).unwrap();
    let at_once = |alert: &&Alert| is_of(alert, "pair") && alert["entry"] == of_symbol["entry"];
    let of_pair = alerts.iter().find(at_once).unwrap();
    for (alert, group, ticks) in [(of_symbol, "A", 3), (of_pair, "pair", 5)] {
        let shown = json(&project, &["explain", &alert["id"]]);
        assert_eq!((&shown["judgment"]["owner"], &shown["reproduction"]), (&group.into(), &"same".into()), "{shown:#}");
        assert_eq!(shown["judgment"]["gates"][0]["value"], f64::from(ticks), "{shown:#}");
    }
}

/// The page asks for this, too.
#[test]
fn the_api_shows_what_is_near_beside_a_running_host() {
    let redis = Redis::start();
    let project = project(redis.url());
    publish(&redis, &TICKS);
    let serving = Serving::start(&project);
    redis.wait_all_processed(TICKS.len());
    let near = |path: &str| {
        let (status, body) = serving.get(path);
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (count, _) = wait_for("the states are saved", || {
        let (status, answer) = near("/api/near?detector=rise");
        assert!(status == 200 || status == 503, "{answer}");
        (status == 200).then(|| (answer["count"].as_u64().unwrap(), answer))
    });
    assert!(count <= 2);
    for (query, status, reason) in [
        ("detector=fall", 404, "there is no detector fall, or it is not enabled"),
        ("detector=rise&limit=0", 400, "limit is 0, expected 1 to 1000"),
        ("limit=5", 400, "missing parameter `detector`"),
    ] {
        let (got, answer) = near(&format!("/api/near?{query}"));
        assert!(got == status && answer["error"].as_str().unwrap().contains(reason), "{query}: {got} {answer}");
    }
    // The replay neither disturbs the host nor writes into its log.
    let (processed, alerts) = (redis.processed(), redis.alerts().len());
    assert_eq!((processed, alerts), (TICKS.len() as u64, 1));
    assert_eq!(serving.host.count_event("checkpoint_restored"), 0);
    assert_eq!(serving.host.count_event("lease_acquired"), 1);
}

#[test]
fn recorded_files_answer_without_a_server() {
    let project = project("redis://127.0.0.1:1".into());
    let lines = TICKS.iter().map(|(symbol, second, price)| {
        let time = START + second * 1000;
        format!("{{\"symbol\":\"{symbol}\",\"ltp\":{price},\"timestamp\":{time},\"quantity\":5}}\n")
    });
    fs::write(project.path("day.jsonl"), lines.collect::<String>()).unwrap();
    // The time is one of the day of the file.
    let shown = json(&project, &["why-not", "B", "--detector", "rise", "--at", "10:42", "day.jsonl"]);
    assert_eq!((&shown["looked_at"], &shown["closest"]["price"]), (&3.into(), &50.25.into()));
    let id = "1763961140000-0/rise/0";
    let shown = json(&project, &["explain", id, "day.jsonl"]);
    assert_eq!((&shown["reproduction"], &shown["alert"]["symbol"]), (&"same".into(), &"A".into()));
    let near = json(&project, &["near", "rise", "day.jsonl"]);
    let owners: Vec<&Value> = near["near"].as_array().unwrap().iter().map(|state| &state["owner"]).collect();
    assert_eq!(owners, ["A", "B"], "A is there already: {near:#}");
    for (args, reason) in [
        (&["explain", "1763961140000-0/rise/7", "day.jsonl"][..], "there is no alert 1763961140000-0/rise/7"),
        (&["explain", "7", "day.jsonl"], "7: expected <entry>/<detector>/<number>"),
        (&["near", "fall", "day.jsonl"], "there is no detector fall in the configuration; it has rise"),
        (&["near", "rise"], "connection refused: is redis-server running"),
    ] {
        let output = project.output(args);
        assert!(!output.status.success() && text(&output.stderr).contains(reason), "{}", text(&output.stderr));
    }
}

/// Whoever asks about a detector that ships gets an answer, on days as any.
#[test]
fn all_shipped_detectors_of_symbols_name_their_gates() {
    let redis = Redis::start();
    let project = Project::at(redis.url());
    project.feed(12, 30_000, &[]);
    let day = |day: u64| (0..60).map(move |second| START + day * 86_400_000 + second * 1000);
    let line = |(n, time): (usize, u64)| format!("{{\"symbol\":\"A\",\"ltp\":{},\"timestamp\":{time}}}\n", 100 + n / 7);
    let days: String = day(0).chain(day(1)).enumerate().map(line).collect();
    fs::write(project.path("days.jsonl"), days).unwrap();
    let mut asked = 0;
    for file in fs::read_dir(shipped("plugins")).unwrap() {
        let file = file.unwrap().path();
        let Some(name) = file.to_str().unwrap().strip_suffix(".wasm") else { continue };
        let name = name.rsplit('/').next().unwrap();
        project.add_plugin(&file);
        project.write_config(&format!(
            "[stream]\nurl = \"{}\"\n[context.index]\nsymbol = \"NIFTY\"\n[detectors.{name}]\nplugin = \"{name}\"\n{}\n",
            redis.url(),
            // Half an hour is too short for the regression on bars of a minute.
            if name == "residual-move" { "params = { bar_s = 5 }" } else { "" }
        ));
        if json(&project, &["inspect", name])["manifest"]["scope"] != "symbol" {
            continue;
        }
        // A gap is a matter of two sessions.
        let of_files: &[&str] = if name == "gap" { &["days.jsonl"] } else { &[] };
        let near = json(&project, &[&["near", name][..], of_files].concat());
        assert!(near["looked_at"].as_u64() >= Some(1), "{name}: {near:#}");
        asked += 1;
    }
    assert!(asked >= 9, "{asked}");
}

/// A plugin that was built for an earlier contract runs, and can't tell.
#[test]
fn a_detector_without_probe_gets_a_sentence() {
    let project = project("redis://127.0.0.1:1".into());
    project.add_plugin(&shipped("tests/fixtures/contract-0.1/breakout.wasm"));
    project.write_config("[detectors.breakout]\nplugin = \"breakout\"\n");
    fs::write(project.path("day.jsonl"), "{\"symbol\":\"A\",\"ltp\":1,\"timestamp\":1763961120000}\n").unwrap();
    let output = project.output(&["near", "breakout", "day.jsonl"]);
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("breakout can't tell what it looks at: its plugin, breakout "),
        "{said}"
    );
}
