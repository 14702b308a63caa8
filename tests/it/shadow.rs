//! Detectors that run beside others, and are only compared: until one is made live.

use std::fs;

use redis::Commands;
use serde_json::Value;

use crate::support::{Alert, Project, Redis, SHADOW_ALERTS, contents, release, shipped, text};

fn with_ticks() -> (Redis, Project) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(12, 24_000, &[]);
    (redis, project)
}

fn of(alerts: Vec<Alert>, detector: &str) -> Vec<Alert> {
    alerts.into_iter().filter(|alert| alert["detector"] == detector).collect()
}

fn report(project: &Project) -> Value {
    serde_json::from_str(&project.run(&["shadow", "--json"])).unwrap()
}

#[test]
fn a_next_version_runs_beside_the_live_one_until_it_is_promoted() {
    let (redis, project) = with_ticks();
    let undisturbed = project.reference(&redis);
    let next = release(&shipped("plugins/breakout.wasm"), "next");
    fs::write(project.path("plugins/breakout.next.wasm"), &next).unwrap();
    project.configure("[plugins]\nallow_next = true");
    project.run(&["run", "--drain"]);
    assert!(contents(&redis.alerts()) == contents(&undisturbed), "the live ones don't notice");
    let mut shadows: Vec<Alert> = redis.paged(SHADOW_ALERTS).collect();
    let live = of(undisturbed, "breakout");
    assert!(!live.is_empty());
    for alert in &mut shadows {
        assert_eq!(alert.remove("shadow_of").unwrap(), "breakout");
        assert_eq!(alert.insert("detector".into(), "breakout".into()).unwrap(), "breakout-next");
        let sha256 = live[0]["sha256"].clone();
        assert_ne!(alert.insert("sha256".into(), sha256.clone()).unwrap(), sha256, "another file raised it");
        let id = alert["id"].replace("/breakout-next/", "/breakout/");
        alert.insert("id".into(), id);
    }
    assert!(contents(&shadows) == contents(&live), "{} shadows, {} live", shadows.len(), live.len());
    assert_eq!((redis.totals()["shadow_alerts"], redis.totals()["dead"]), (live.len() as u64, 0));
    let report = report(&project);
    let counts = ["both", "only_live", "only_shadow"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(counts, [live.len() as u64, 0, 0]);

    project.run(&["promote", "breakout-next", "--dry-run"]);
    assert!(project.path("plugins/breakout.next.wasm").exists());
    let before = fs::read(project.path("plugins/breakout.wasm")).unwrap();
    project.run(&["promote", "breakout-next"]);
    assert_eq!(fs::read(project.path("plugins/breakout.wasm")).unwrap(), next);
    assert_eq!(fs::read(project.path("plugins/breakout.wasm.previous")).unwrap(), before);
    assert!(!project.path("plugins/breakout.next.wasm").exists());
    project.run(&["run", "--drain"]);
    assert!(project.run(&["shadow"]).contains("no detector has a shadow"));
}

#[test]
fn a_table_is_compared_and_takes_the_place_of_the_one_it_follows() {
    let (redis, project) = with_ticks();
    project.configure(
        "# bolder for a while\n[detectors.bolder]\nplugin = \"breakout\"\nshadow_of = \"breakout\"\nmin_confidence = 0.3\n\
         [detectors.bolder.params]\nwindow_s = 200 # shorter\n",
    );
    project.run(&["run", "--drain"]);
    let live = of(redis.alerts(), "breakout").len() as u64;
    let shadows: u64 = redis.connect().xlen(SHADOW_ALERTS).unwrap();
    let report = report(&project);
    let [both, only_live, only_shadow] =
        ["both", "only_live", "only_shadow"].map(|name| report[name].as_u64().unwrap());
    assert!(live > 0 && shadows > 0 && only_shadow > 0);
    // Before the shadow's first alert nothing is compared.
    assert!(both + only_live <= live && both + only_shadow == shadows, "{report}");
    assert_eq!(report["newest_only_shadow"].as_array().unwrap().len() as u64, only_shadow.min(5));

    let config = || fs::read_to_string(project.path("config/config.toml")).unwrap();
    let before = config();
    let shown = project.run(&["promote", "bolder", "--dry-run"]);
    assert!(shown.contains("window_s = 200 # shorter") && config() == before);
    project.run(&["promote", "bolder"]);
    let after = config();
    assert!(after.contains("window_s = 200 # shorter") && after.contains("[detectors.breakout.params]"), "{after}");
    assert!(after.contains("min_confidence = 0.3") && !after.contains("bolder]"), "{after}");
    assert!(project.run(&["check"]).contains("window_s = 200"));
}

#[test]
fn a_detector_that_is_not_a_shadow_is_reported() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let fails = |args: &[&str]| {
        let output = project.output(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        text(&output.stderr)
    };
    assert!(fails(&["promote", "momentum"]).contains("momentum is not a shadow"));
    assert!(fails(&["promote", "nobody"]).contains("nobody is not a shadow"));
    assert!(fails(&["shadow", "momentum"]).contains("momentum is not a shadow"));
    project.configure("[detectors.third]\nplugin = \"breakout\"\nshadow_of = \"brekout\"");
    let said = fails(&["check"]);
    assert!(said.contains("shadow_of is `brekout`, expected the name of a detector") && said.contains("config.toml:"));
}
