//! Alerts that are held back: the same ones, whichever host processes the ticks, and however often it dies.

use std::collections::BTreeMap;

use crate::support::{Alert, Project, Redis, contents, misbehaving, text, wait_for};

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

/// Nobody saw how much `min_confidence` leaves out: a detector whose minimum is too high looked like one that finds
/// nothing.
#[test]
fn what_min_confidence_leaves_out_is_counted_over_kills_and_in_a_replay() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(SYMBOLS, TICKS, &[]);
    let all = project.reference(&redis);
    let sure = |alert: &&Alert| alert["confidence"].parse::<f64>().unwrap() >= 0.9;
    let of = |alerts: &[Alert], name: &str| alerts.iter().filter(|alert| alert["detector"] == name).count() as u64;
    let expected: Vec<Alert> = all.iter().filter(sure).cloned().collect();
    let (raised, below) = (of(&expected, "breakout"), of(&all, "breakout") - of(&expected, "breakout"));
    assert!(raised > 0 && below > 0, "{raised} of {}", all.len());

    let only = |engine: &str| {
        let url = redis.url();
        project.write_config(&format!(
            "[stream]\nurl = \"{url}\"\nbatch = 100\n{engine}\n[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.9\n"
        ));
    };
    only("[engine]\ncheckpoint_every_ms = 50");
    for part in 1..3 {
        let mut host = project.start_with(&["run", "--drain"], &[]);
        redis.wait_processed(u64::from(TICKS) * part / 4);
        host.kill();
    }
    project.run(&["run", "--drain"]);
    assert_eq!(of(&redis.alerts(), "breakout"), raised);
    assert_eq!((redis.totals()["below_min_confidence"], redis.totals()["held_back"]), (below, 0));
    let status = project.output(&["status"]);
    let shown = format!("{raised} alerts, 0 held back, {below} below min_confidence");
    assert!(text(&status.stdout).contains(&shown), "{}", text(&status.stdout));

    let replayed = project.run(&["replay", "--stream", "--json"]);
    let replayed: serde_json::Value = serde_json::from_str(&replayed).unwrap();
    let breakout = &replayed["detectors"]["breakout"];
    assert_eq!((&breakout["alerts"], &breakout["left_out"]["min_confidence"]), (&raised.into(), &below.into()));
    assert!(project.run(&["replay", "--stream"]).contains(&format!("{below} detections below min_confidence")));
}

/// The limit that ships was nobody's choice: whoever wonders where alerts are finds a line, and the count.
#[test]
fn a_detectors_own_limit_is_said_and_counted_by_detector() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[server]\nlisten = \"\"\n[detectors.few]\nplugin = \"breakout\"\nmin_confidence = 0.0\nmax_alerts_per_minute = 1\n");
    project.feed(SYMBOLS, TICKS, &[]);
    let host = project.start_owner();
    redis.wait_all_processed(TICKS);
    host.wait_for_event_with("alerts_held_back", "max_alerts_per_minute");
    let alerts = redis.alerts();
    let of = |name: &str| alerts.iter().filter(|alert| alert["detector"] == name).count() as u64;
    let held_back = of("breakout") - of("few");
    assert!(held_back > 0 && of("few") > 0);
    assert_eq!(redis.totals()["held_back"], held_back);
    wait_for("the receipt has the counts", || {
        let status: serde_json::Value = serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap();
        let detectors = status["survey"]["receipt"]["detectors"].as_array()?.clone();
        let few = detectors.iter().find(|detector| detector["name"] == "few")?;
        (few["left_out"]["per_minute"] == held_back && few["alerts"] == of("few")).then_some(())
    });
    let text = project.run(&["status"]);
    assert!(text.contains(&format!("{} alerts, {held_back} held back, 0 below min_confidence", of("few"))), "{text}");
}
