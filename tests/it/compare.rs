//! Detectors that compare symbols: a group's ticks, bars and snapshots, and the price of an index, over the whole of the host.

mod real;
mod stories;

use std::{collections::BTreeSet, fs};

use tickhound_core::{
    event::{Entries, EntryId},
    simulate::{Layout, Renderer, SimConfig, Simulator},
};

use self::stories::{Market, assert_equal};
use crate::support::{Alert, Project, Redis, alert_lines, contents, shipped};

/// Three quarters of an hour of eight underlyings, four of them with call and put.
const SYMBOLS: u32 = 24;
const TICKS: u32 = 90_000;

/// One for each kind of rows.
const NAMES: [&str; 5] = ["breadth", "lead-lag", "pair", "residual-move", "straddle"];

/// Parameters with which so short a market has events of all kinds.
const DETECTORS: &str = r#"
[session]
calendar = "nse"
[groups.banks]
symbols = ["HDFCBANK", "ICICIBANK"]
[groups.NIFTY]
symbols = ["NIFTY", "ICICIBANK", "RELIANCE", "HDFCBANK", "SBIN", "INFY", "TCS"]
[context.index]
symbol = "NIFTY"
[detectors.straddle]
plugin = "straddle"
min_confidence = 0.0
params = { opening_ticks = 50, half_life = 300.0 }
[detectors.pair]
plugin = "pair"
groups = ["banks"]
min_confidence = 0.0
params = { bar_s = 5, length = 60, entry_z = 2.0 }
[detectors.breadth]
plugin = "breadth"
groups = ["NIFTY"]
min_confidence = 0.0
params = { step_s = 5, members_min = 4, opening_steps = 5, low = 0.45, high = 0.55, steps = 20 }
[detectors.lead-lag]
plugin = "lead-lag"
groups = ["NIFTY"]
min_confidence = 0.0
params = { step_s = 1, move_s = 10, k = 2.5, beta_min = 0.1, correlation_min = 0.0 }
[detectors.residual-move]
plugin = "residual-move"
symbols = ["ICICIBANK", "RELIANCE", "HDFCBANK", "SBIN", "INFY", "TCS"]
min_confidence = 0.0
params = { bar_s = 5, k = 2.5, least_pct = 0.01, cooldown_s = 60.0 }
"#;

/// A project whose detectors are these, with further keys of `[stream]` and further tables.
fn project(url: String, stream: &str, more: &str) -> Project {
    let project = Project::at(url.clone());
    for name in NAMES {
        project.add_plugin(&shipped(&format!("plugins/{name}.wasm")));
    }
    project.write_config(&format!("[stream]\nurl = \"{url}\"\nblock_ms = 200\n{stream}\n{DETECTORS}\n{more}\n"));
    project
}

fn feed(project: &Project) {
    project.feed(SYMBOLS, TICKS, &["--coupling", "1", "--dirt", "0.01"]);
}

fn of<'a>(alerts: &'a [Alert], detector: &str) -> Vec<&'a Alert> {
    alerts.iter().filter(|alert| alert["detector"] == detector).collect()
}

#[test]
fn each_says_which_group_and_which_members() {
    let redis = Redis::start();
    let project = project(redis.url(), "", "");
    feed(&project);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    for name in NAMES {
        assert!(!of(&alerts, name).is_empty(), "{name}");
    }
    let members = |alert: &Alert| serde_json::from_str::<Vec<String>>(&alert["members"]).unwrap();
    for alert in of(&alerts, "straddle") {
        assert_eq!(alert["symbol"], alert["group"]);
        assert_eq!(alert["price"], "", "a group has no price");
        let legs = members(alert);
        assert!(legs[0].starts_with(&alert["group"]) && legs[0].ends_with("CE") && legs[1].ends_with("PE"), "{legs:?}");
    }
    for alert in of(&alerts, "pair") {
        assert_eq!((&*alert["symbol"], members(alert)), ("banks", vec!["HDFCBANK".into(), "ICICIBANK".into()]));
    }
    for alert in of(&alerts, "lead-lag") {
        assert_eq!((&*alert["symbol"], &*alert["group"]), ("NIFTY", "NIFTY"));
        assert!(!members(alert).is_empty() && !members(alert).contains(&"NIFTY".to_owned()));
    }
    for alert in of(&alerts, "residual-move") {
        assert_eq!(alert.get("group"), None, "{alert:?}");
    }
}

#[test]
fn workers_and_batches_make_no_difference_to_a_byte() {
    let project = project("redis://127.0.0.1:1".into(), "", "");
    let (symbols, count) = (SYMBOLS.to_string(), TICKS.to_string());
    let simulated = ["replay", "--simulate", "--symbols", &symbols, "--count", &count, "--coupling", "1"];
    let mut reference = None;
    for (workers, batch) in [("1", "1000"), ("2", "7"), ("4", "5000"), ("3", "1")] {
        let more = ["--workers", workers, "--batch", batch, "--out", "alerts.jsonl"];
        project.run(&[&simulated[..], &more].concat());
        let bytes = fs::read(project.path("alerts.jsonl")).unwrap();
        assert!(!bytes.is_empty());
        assert!(*reference.get_or_insert_with(|| bytes.clone()) == bytes, "{workers} workers, batches of {batch}");
    }
}

/// Groups have states as symbols have; they were counted as symbols.
#[test]
fn the_summary_of_a_replay_counts_symbols_and_groups_apart() {
    let project = project("redis://127.0.0.1:1".into(), "", "");
    let symbols = SYMBOLS.to_string();
    for workers in ["1", "3"] {
        let ask = ["replay", "--simulate", "--symbols", &symbols, "--count", "5000", "--workers", workers];
        // Those of eight underlyings, `banks` and `NIFTY`.
        let said = project.run(&ask);
        assert!(said.contains("5000 ticks of 24 symbols and 10 groups, "), "{said}");
        let shown: serde_json::Value = serde_json::from_str(&project.run(&[&ask[..], &["--json"]].concat())).unwrap();
        assert_eq!((&shown["symbols"], &shown["groups"]), (&24.into(), &10.into()), "{shown:#}");
    }
}

#[test]
fn live_and_replay_raise_the_same_alerts() {
    let redis = Redis::start();
    let project = project(redis.url(), "", "[engine]\nworkers = 3\n[alerts]\njsonl = \"live.jsonl\"");
    feed(&project);
    project.run(&["run", "--drain"]);
    project.run(&["replay", "--stream", "--workers", "2", "--out", "replay.jsonl"]);
    let lines = |file: &str| alert_lines(&project.path(file));
    let live = lines("live.jsonl");
    assert!(live.len() > 20, "{}", live.len());
    assert!(lines("replay.jsonl") == live);
}

/// Every life has another number of workers, and so another one for each group.
#[test]
fn a_host_killed_ten_times_alerts_as_if_undisturbed() {
    let redis = Redis::start();
    let more = "[engine]\nbacklog = 500\ncheckpoint_every_ms = 50\n[alerts]\nlog = false\nmaxlen = 0";
    let project = project(redis.url(), "batch = 100", more);
    feed(&project);
    let mut recovered = 0;
    for round in 1..=10 {
        let workers = (1 + round % 4).to_string();
        let mut host = project.start_with(&["run", "--drain"], &[("TICKHOUND_ENGINE__WORKERS", &workers)]);
        redis.wait_processed(u64::from(TICKS) * round / 12);
        host.kill();
        recovered += redis.pending();
    }
    project.run(&["run", "--drain"]);
    assert!(recovered > 0, "no kill caught it in the middle of its work");
    let alerts = redis.alerts();
    let ids: BTreeSet<&String> = alerts.iter().map(|alert| &alert["id"]).collect();
    assert_eq!(ids.len(), alerts.len(), "an alert came twice");
    let by: BTreeSet<&str> = alerts.iter().map(|alert| &*alert["detector"]).collect();
    assert_eq!(by, BTreeSet::from(NAMES));
    assert_equal(alerts, project.reference(&redis));
}

/// A detector more, in the middle of the stream: the others go on with what they know of their groups.
#[test]
fn a_swap_of_another_detector_changes_nothing() {
    let redis = Redis::start();
    let more = "[engine]\nworkers = 2\n[alerts]\nlog = false\nmaxlen = 0\n[plugins]\nrewarm_s = 0";
    let project = project(redis.url(), "batch = 100", more);
    feed(&project);
    let mut host = project.start(&["run"]);
    redis.wait_processed(TICKS / 3);
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.replace_config(&format!("{config}\n[detectors.breakout]\nplugin = \"breakout\"\n"));
    host.wait_for_event_with("generation_activated", " generation=2 ");
    redis.wait_all_processed(TICKS);
    host.stop();
    let others = |alerts: Vec<Alert>| {
        let kept = alerts.into_iter().filter(|alert| alert["detector"] != "breakout");
        contents(&kept.collect::<Vec<_>>())
    };
    let alerts = others(redis.alerts());
    assert!(alerts.len() > 20, "{}", alerts.len());
    project.write_config(&config);
    assert!(alerts == others(project.reference(&redis)));
}

/// The simulated market as known entries.
fn market() -> Market {
    let config = SimConfig { symbols: SYMBOLS as usize, coupling: 1.0, dirt: 0.01, ..SimConfig::default() };
    let (mut simulator, mut renderer) = (Simulator::new(&config), Renderer::new(Layout::Flat));
    let (mut entries, mut last) = (Entries::default(), EntryId::ZERO);
    for _ in 0..TICKS {
        let tick = simulator.next().unwrap();
        let next = EntryId { millis: last.millis, seq: last.seq + 1 };
        last = next.max(EntryId { millis: tick.time / 1_000_000, seq: 0 });
        entries.push_entry(last);
        let instrument = &simulator.instruments()[tick.instrument as usize];
        renderer.render(instrument, &tick, |name, value| entries.push_field(name, value));
    }
    Market { names: NAMES.to_vec(), settings: DETECTORS.to_owned(), entries, files: Vec::new() }
}

/// Options of four underlyings are among them.
#[test]
fn live_is_a_replay_of_the_recorded_files() {
    market().assert_live_is_replay();
}

#[test]
fn plugins_that_are_replaced_right_before_kills_go_on_with_their_groups() {
    market().assert_swaps_change_nothing();
}

/// Strike, right and expiry of an option come from the reference data, and from its name where that has none.
#[test]
fn reference_data_says_the_same_of_options_as_their_names_and_wins() {
    let alerts = |expiry: Option<&str>| {
        let project = project("redis://127.0.0.1:1".into(), "", "[reference]\nfiles = [\"instruments.csv\"]");
        let mut file = "tradingsymbol,name,expiry,strike,instrument_type,exchange\n".to_owned();
        file.push_str("NIFTY,NIFTY 50,,0,EQ,NSE\n");
        let options = [("NIFTY", 25_750), ("ICICIBANK", 1350), ("RELIANCE", 1490), ("HDFCBANK", 985)];
        for (name, strike) in options {
            for right in ["CE", "PE"] {
                let Some(expiry) = expiry else { continue };
                file.push_str(&format!("{name}25NOV{strike}{right},{name},{expiry},{strike},{right},NFO\n"));
            }
        }
        fs::write(project.path("instruments.csv"), file).unwrap();
        let replay = ["replay", "--simulate", "--symbols", "24", "--count", "30000", "--coupling", "1"];
        project.run(&[&replay[..], &["--detector", "straddle", "--out", "alerts.jsonl"]].concat());
        fs::read_to_string(project.path("alerts.jsonl")).unwrap()
    };
    let by_name = alerts(None);
    assert!(by_name.lines().count() > 20);
    assert!(alerts(Some("2025-11-25")) == by_name);
    assert_eq!(alerts(Some("2025-10-28")), "", "they have expired");
}
