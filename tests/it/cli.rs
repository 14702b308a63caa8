//! What people type, and the errors when it is wrong.

use std::fs;

use redis::Commands;

use crate::support::{GROUP, Project, Redis, STREAM, shipped, text};

#[test]
fn the_shipped_configuration_shows_every_key_at_its_default() {
    let file = fs::read_to_string(shipped("config/config.toml")).unwrap();
    let mut shown = tickhound_core::config::shipped(&file).unwrap().config;
    let detectors = std::mem::take(&mut shown.detectors);
    // A configuration of before has no calendar, and keeps its meaning.
    assert_eq!(std::mem::take(&mut shown.session).calendar, "nse");
    assert_eq!(shown, tickhound_core::config::Config::default());
    let (on, off): (Vec<_>, Vec<_>) = detectors.iter().partition(|(_, detector)| detector.enabled);
    let names = |of: Vec<(&String, _)>| of.into_iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(on), ["breakout", "momentum"]);
    let alone = ["gap", "order-flow", "reversal", "stale-feed", "volume-spike", "vwap"];
    let of_several = ["breadth", "lead-lag", "pair", "residual-move", "straddle"];
    let mut expected = [&alone[..], &of_several].concat();
    expected.sort_unstable();
    assert_eq!(names(off), expected);
    let file: toml::Table = file.parse().unwrap();
    let defaults = toml::Table::try_from(tickhound_core::config::Config::default()).unwrap();
    for (section, keys) in defaults.iter().filter(|(section, _)| *section != "detectors") {
        for key in keys.as_table().unwrap().keys() {
            assert!(file[section].get(key).is_some(), "{section}.{key} is not shown");
        }
    }
}

#[test]
fn a_wrong_configuration_is_refused_where_it_is_wrong() {
    let cases = [
        ("[engine]\nworkrs = 2", "config/config.toml:2:1: unknown field `workrs`", "did you mean `workers`?"),
        ("[engine]\nworkers = \"two\"", "config/config.toml:2:11", "expected a whole number"),
        ("[engine\nworkers = 2", "config/config.toml:1:8", ""),
        ("[stream]\n\nbatch = 0", "config/config.toml:3:1", "stream.batch is 0, expected 1 to 10000"),
        ("[stream]\nstart = \"erliest\"", "config/config.toml:2:9", "expected \"earliest\", \"latest\" or an entry id"),
        ("[detectors.x]\nplugin = \"breakout\"\nmin_confidence = 60", "config/config.toml:3:1", "expected 0 to 1"),
        ("[detectors.x]\nenabled = true", "config/config.toml:1", "expected the name of a file"),
        ("[stream]\nurl = \"localhost\"\n[detectors.b]\nplugin = \"breakout\"", "stream.url", "expected redis://"),
        ("", "", "no detector is enabled"),
    ];
    let redis = Redis::start();
    let project = Project::new(&redis);
    for (config, at, expected) in cases {
        project.write_config(config);
        let output = project.output(&["check"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{config}");
        assert!(said.contains(at) && said.contains(expected), "{config}\nsaid: {said}");
    }
}

/// The lines were printed as one, with `\n` between them.
#[test]
fn the_configuration_that_sign_prints_can_be_pasted() {
    let project = Project::at("redis://127.0.0.1:1".into());
    let printed = project.run(&["sign", "--new-key", "desk.key", "--no-password"]);
    let (_, config) = printed.split_once("In the configuration:\n").unwrap();
    let config: toml::Table = config.parse().unwrap();
    assert_eq!(config["plugins"]["require_signed"].as_bool(), Some(true));
    let public = std::fs::read_to_string(project.path("desk.key.pub")).unwrap();
    assert_eq!(config["plugins"]["trusted_keys"][0].as_str(), public.lines().nth(1));
}

#[test]
fn the_environment_overrides_the_file() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.write_config("[stream]\nurl = \"redis://127.0.0.1:1\"\n[detectors.breakout]\nplugin = \"breakout\"");
    assert_eq!(project.output(&["check"]).status.code(), Some(1));
    let output = project.command(&["check"]).env("TICKHOUND_STREAM__URL", redis.url()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let output = project.command(&["check"]).env("TICKHOUND_STREAM__BACTH", "5").output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("TICKHOUND_STREAM__BACTH") && said.contains("did you mean `batch`?"), "{said}");
}

#[test]
fn a_missing_configuration_says_what_to_do() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let said = text(&project.output(&["run", "--config", "nowhere.toml"]).stderr);
    assert!(said.contains("nowhere.toml") && said.contains("--config"), "{said}");
}

#[test]
fn check_lists_detectors_and_parameters_and_touches_nothing() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let report: serde_json::Value = serde_json::from_str(&project.run(&["check", "--json"])).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["detectors"][0]["name"], "breakout");
    assert_eq!(report["detectors"][0]["params"]["window_s"], 300.0);
    let keys: Vec<String> = redis.connect().keys("*").unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn a_server_that_can_not_keep_the_promise_is_refused() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    let _: () = connection.set(STREAM, "text").unwrap();
    let output = project.output(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("holds a string, expected a stream"), "{}", text(&output.stderr));
    let _: () = connection.del(STREAM).unwrap();
    let set = |name: &str, value: &str, connection: &mut redis::Connection| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query::<()>(connection).unwrap();
    };
    set("maxmemory-policy", "allkeys-lru", &mut connection);
    set("maxmemory", "100mb", &mut connection);
    let said = text(&project.output(&["run"]).stderr);
    assert!(said.contains("maxmemory-policy allkeys-lru") && said.contains("noeviction"), "{said}");
}

#[test]
fn status_tells_what_the_old_scanner_left_and_what_is_stuck() {
    let mut redis = Redis::start();
    let project = Project::new(&redis);
    let status = |expected: i32| {
        let output = project.output(&["status"]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        said
    };
    assert!(status(1).contains("the group does not exist yet"));

    // Three lives of a scanner that named itself after its process, each killed with entries in hand.
    project.feed(5, 200, &[]);
    let mut connection = redis.connect();
    let _: () = redis::cmd("XGROUP").arg("CREATE").arg(STREAM).arg(GROUP).arg("0").query(&mut connection).unwrap();
    for scanner in ["scanner_48992", "scanner_50219", "scanner_50766"] {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(scanner).arg("COUNT").arg(50).arg("STREAMS").arg(STREAM).arg(">");
        let _: redis::Value = read.query(&mut connection).unwrap();
    }
    let said = status(1);
    assert!(said.contains("150 entries are pending under other consumers"), "{said}");
    assert!(said.contains("→ scanner_48992: 50 pending"), "{said}");

    let report: serde_json::Value = serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap();
    assert_eq!(report["verdict"], "degraded");
    assert_eq!(report["survey"]["pending"], 150);
    assert_eq!(report["consumers"][0]["name"], "scanner_48992");

    redis.kill();
    assert!(status(2).contains("unreachable"));
}

#[test]
fn every_command_shows_an_example() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    for command in ["run", "feed", "status", "check", "demo"] {
        let help = project.run(&[command, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("tickhound {command}")), "{help}");
    }
}

#[test]
fn the_demo_needs_nothing_and_ends_with_a_summary() {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tickhound"))
        .args(["demo", "--seconds", "6", "--speed", "400", "--json"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let out = text(&output.stdout);
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert!(summary["totals"]["entries"].as_u64().unwrap() > 1000, "{summary}");
    assert!(summary["alerts_by_detector"]["breakout"].as_u64().unwrap() > 0, "{summary}");
}
