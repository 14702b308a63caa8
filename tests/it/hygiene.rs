//! Alerts that are held back: the same ones, whichever host processes the ticks, and however often it dies.

use std::collections::BTreeMap;

use crate::support::{Alert, Project, Redis, contents, misbehaving};

const SYMBOLS: u32 = 12;
const TICKS: u32 = 24_000;

const LIMITS: &str = "[detectors.each]\nplugin = \"misbehaving\"\ncooldown_s = 7.5\n\
                      [detectors.many]\nplugin = \"misbehaving\"\nmax_alerts_per_minute = 25\n\
                      [detectors.both]\nplugin = \"misbehaving\"\ncooldown_s = 2\nmax_alerts_per_minute = 100\n";
const NO_LIMITS: &str = "[detectors.each]\nplugin = \"misbehaving\"\n[detectors.many]\nplugin = \"misbehaving\"\n\
                         [detectors.both]\nplugin = \"misbehaving\"\n";

fn time(alert: &Alert) -> u64 {
    alert["time"].parse().unwrap()
}

/// Those of `alerts`, all of one detector and in their order, that a cool-down leaves.
fn after_cooldown(alerts: Vec<Alert>, cooldown_s: f64) -> Vec<Alert> {
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    let leaves = |alert: &Alert| {
        let about = (alert["symbol"].clone(), alert["direction"].clone());
        let free = last.get(&about).is_none_or(|last| time(alert).saturating_sub(*last) as f64 >= cooldown_s * 1e9);
        if free {
            last.insert(about, time(alert));
        }
        free
    };
    alerts.into_iter().filter(leaves).collect()
}

/// Those of `alerts`, all of one detector and in their order, that are within a limit per minute.
fn within_rate(alerts: Vec<Alert>, most: u32) -> Vec<Alert> {
    let (mut minute, mut count) = (0, 0);
    let within = |alert: &Alert| {
        let now = time(alert) / 60_000_000_000;
        if now > minute {
            (minute, count) = (now, 0);
        }
        count += 1;
        count <= most
    };
    alerts.into_iter().filter(within).collect()
}

#[test]
fn what_is_held_back_depends_on_the_ticks_alone() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(NO_LIMITS);
    project.feed(SYMBOLS, TICKS, &[]);
    let all = project.reference(&redis);
    project.configure_with("batch = 100", &format!("[engine]\ncheckpoint_every_ms = 50\n{LIMITS}"));
    for (part, workers) in ["1", "3", "2", "4"].into_iter().enumerate() {
        let mut host = project.start_with(&["run", "--drain"], &[("TICKHOUND_ENGINE__WORKERS", workers)]);
        let goal = u64::from(TICKS) * (part as u64 + 1) / 6;
        redis.wait_processed(goal);
        host.kill();
    }
    project.run(&["run", "--drain"]);

    let of =
        |detector: &str| -> Vec<Alert> { all.iter().filter(|alert| alert["detector"] == detector).cloned().collect() };
    let expected = [
        ("breakout", of("breakout")),
        ("both", within_rate(after_cooldown(of("both"), 2.0), 100)),
        ("each", after_cooldown(of("each"), 7.5)),
        ("many", within_rate(of("many"), 25)),
    ];
    let found = redis.alerts();
    for (detector, expected) in expected {
        let found: Vec<Alert> = found.iter().filter(|alert| alert["detector"] == detector).cloned().collect();
        assert!(
            !expected.is_empty() && contents(&found) == contents(&expected),
            "{detector}: {} alerts, expected {}",
            found.len(),
            expected.len()
        );
    }
    assert_eq!(redis.totals()["held_back"], (all.len() - found.len()) as u64);
    assert_eq!(redis.totals()["alerts"], found.len() as u64);
}
