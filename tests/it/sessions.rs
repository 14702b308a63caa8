//! Sessions: what is traded before the open and after the close, and the calendars that say so.

use std::{fmt::Write as _, fs};

use serde_json::Value;

use crate::support::{Project, text};

/// 2025-11-24 09:00 in Kolkata, the beginning of a pre-open, ms.
const PRE_OPEN_MS: u64 = 1_763_955_000_000;

/// A project that no server stands behind, with this calendar, and an opening range of five minutes.
fn project(session: &str) -> Project {
    let project = Project::at("redis://127.0.0.1:1".into());
    project.write_config(&format!(
        "[stream]\nurl = \"redis://127.0.0.1:1\"\n{session}\n\
         [detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
         params = {{ mode = \"opening-range\", or_minutes = 5.0, volume_min_ratio = 0.0 }}\n"
    ));
    project
}

/// An hour of a symbol from the open on, a tick a second, with a few ticks of the pre-open far above.
fn morning(symbol: &str, pre_open: bool) -> String {
    let mut csv = String::from("timestamp,symbol,last_price\n");
    if pre_open {
        for minute in 0..6 {
            writeln!(csv, "{},{symbol},125", PRE_OPEN_MS + minute * 60_000).unwrap();
        }
    }
    // Steps of a generator of Park and Miller, so that the price leaves its range now and then.
    let (mut random, mut price) = (1u64, 10_000i64);
    for second in 0..3600 {
        random = random * 16_807 % 2_147_483_647;
        price += (random % 41) as i64 - 20;
        let time = PRE_OPEN_MS + 900_000 + second * 1000;
        writeln!(csv, "{time},{symbol},{}.{:02}", price / 100, price % 100).unwrap();
    }
    csv
}

/// The alerts of a replay, without what only entries of a file have.
fn alerts(session: &str, csv: &str) -> Vec<Value> {
    let project = project(session);
    fs::write(project.path("day.csv"), csv).unwrap();
    project.run(&["replay", "day.csv", "--out", "out.jsonl"]);
    let lines = fs::read_to_string(project.path("out.jsonl")).unwrap();
    let alert = |line: &str| {
        let mut alert: Value = serde_json::from_str(line).unwrap();
        ["id", "entry"].iter().for_each(|name| drop(alert.as_object_mut().unwrap().remove(*name)));
        alert
    };
    lines.lines().map(alert).collect()
}

/// Six ticks of a pre-open moved an opening range: the day was their session, and began with them.
#[test]
fn ticks_of_a_pre_open_do_not_move_an_opening_range() {
    let (with, without) = (morning("SBIN", true), morning("SBIN", false));
    let nse = "[session]\ncalendar = \"nse\"";
    let expected = alerts(nse, &without);
    assert!(!expected.is_empty(), "the price leaves its range");
    assert_eq!(alerts(nse, &with), expected);
    assert_ne!(alerts("", &with), expected, "without a calendar they are ticks like others");
    // The same market under a calendar of another symbol, and under one of its own.
    let other = "[session]\ncalendar = \"us\"\n[[session.by_symbol]]\nsymbols = [\"sb*\"]\ncalendar = \"nse\"";
    assert_eq!(alerts(other, &with), expected);
    assert_eq!(alerts("[session]\ncalendar = \"us\"", &with), Vec::<Value>::new(), "New York sleeps");
}

#[test]
fn what_is_open_is_shown_and_a_calendar_can_be_replaced() {
    let project = project("[session]\ncalendar = \"nse\"");
    let at = |time: &str| -> Value {
        let shown = project.run(&["sessions", "--json", "--at", time]);
        serde_json::from_str::<Value>(&shown).unwrap()["calendars"][0].clone()
    };
    let monday = at("2025-11-24T10:00:00+05:30");
    assert_eq!(monday["phase"], "open");
    assert_eq!(monday["until"], "2025-11-24T15:30:00.000+05:30");
    assert_eq!(monday["next"][0]["open"], "2025-11-25T09:15:00.000+05:30");
    assert_eq!(monday["next"][0]["pre_open"], "2025-11-25T09:00:00.000+05:30");
    assert_eq!(at("2025-12-24T20:00:00+05:30")["next"][0]["open"], "2025-12-26T09:15:00.000+05:30", "after Christmas");
    let shown = project.run(&["sessions", "--at", "2025-11-24T10:00:00+05:30"]);
    assert!(shown.contains("open until Mon 2025-11-24 15:30 IST\n"), "people read another form: {shown}");
    // They were answered for 1970.
    for wrong in ["9999-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2554-07-22T00:00:00Z", "yesterday", "2025-11-24"] {
        let output = project.output(&["sessions", "--at", wrong]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("a time") && said.contains("such as 2026-11-08T18:30:00+05:30"), "{said}");
    }
    assert_eq!(at("2553-12-31T00:00:00Z")["name"], "nse");
    assert_eq!(at("1970-01-01T00:00:00Z")["name"], "nse");
    assert!(at("2027-02-01T00:00:00Z")["warning"].as_str().unwrap().contains("has ended"));

    let built_in = project.run(&["sessions", "--print", "nse"]);
    fs::create_dir_all(project.path("config/sessions")).unwrap();
    let file = project.path("config/sessions/nse.toml");
    fs::write(&file, built_in.replace("close = \"15:30\"\n", "close = \"17:00\"\n")).unwrap();
    assert_eq!(at("2025-11-24T10:00:00+05:30")["until"], "2025-11-24T17:00:00.000+05:30");

    fs::write(&file, built_in.replace("open = \"09:15\"\nclose", "open = \"9.15\"\nclose")).unwrap();
    let output = project.output(&["check"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("config/sessions/nse.toml:") && said.contains("open is `9.15`, expected a time"), "{said}");
}

#[test]
fn a_calendar_that_does_not_exist_or_ends_is_named() {
    let said = text(&project("[session]\ncalendar = \"nsee\"").output(&["check"]).stderr);
    assert!(said.contains("config.toml:") && said.contains("did you mean nse?"), "{said}");
    let said = text(&project("[session]\ncalendar = \"../nse\"").output(&["check"]).stderr);
    assert!(said.contains("expected letters, digits, - and _"), "{said}");
    let project = project("[session]\ncalendar = \"short\"");
    fs::create_dir_all(project.path("config/sessions")).unwrap();
    let short = "timezone = \"UTC\"\ndays = [\"mon\"]\nends = \"2025-01-01\"\nhours = [{ open = \"09:00\", close = \"10:00\" }]";
    fs::write(project.path("config/sessions/short.toml"), short).unwrap();
    let shown = text(&project.output(&["check"]).stdout);
    assert!(shown.contains("warning: the calendar short has ended, on 2025-01-01"), "{shown}");
    let shown = text(&project.output(&["doctor"]).stdout);
    assert!(shown.contains("the calendar short has ended"), "{shown}");
}
