//! Alerts that come long after their tick: marked everywhere, and not told as news in the log.

use std::time::Instant;

use redis::Commands;

use crate::support::{ALERTS, ALERTS_SOURCE, Project, Redis, STREAM, misbehaving, now_ms, text};

const LATE: usize = 300;
const FRESH: usize = 7;

/// Ticks that arrived three hours ago, then fresh ones; a detector that alerts on each.
fn overslept() -> (Redis, Project) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    configure(&project, "");
    let mut connection = redis.connect();
    let arrived = now_ms() - 3 * 3_600_000;
    for number in 0..LATE + FRESH {
        let id = if number < LATE { format!("{arrived}-{number}") } else { "*".to_owned() };
        let price = (100 + number).to_string();
        let tick = [("symbol", "NIFTY"), ("last_price", &price), ("timestamp", &arrived.to_string())];
        let _: String = connection.xadd(STREAM, id, &tick).unwrap();
    }
    (redis, project)
}

fn configure(project: &Project, alerts: &str) {
    // Small batches: many commits, each of which could tell.
    project.configure_with(
        "batch = 3",
        &format!("[alerts]\njsonl = \"alerts.jsonl\"\n{alerts}\n[detectors.each]\nplugin = \"misbehaving\""),
    );
}

/// The log, and whether each alert in the stream was stale.
fn run_in_group(redis: &Redis, project: &Project, group: &str) -> (String, Vec<bool>) {
    let _: () = redis.connect().del(&[ALERTS, ALERTS_SOURCE]).unwrap();
    let output = project.command(&["run", "--drain"]).env("TICKHOUND_STREAM__GROUP", group).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stale = redis.alerts().iter().map(|alert| alert["stale"] == "1").collect();
    (text(&output.stdout), stale)
}

/// Sums up the `N late alerts are in …` lines.
fn reported_late(log: &str) -> (usize, usize) {
    let lines = log.lines().filter_map(|line| line.split_once(" late alerts are in ").map(|(count, _)| count));
    let counts = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
    counts.fold((0, 0), |(lines, sum), count| (lines + 1, sum + count))
}

#[test]
fn stale_alerts_are_marked_and_only_counted_in_the_log() {
    let (redis, project) = overslept();
    let started = Instant::now();
    let (log, stale) = run_in_group(&redis, &project, "one");
    let seconds = started.elapsed().as_secs() as usize;
    let expected: Vec<bool> = (0..LATE + FRESH).map(|number| number < LATE).collect();
    assert_eq!(stale, expected);
    assert_eq!(log.matches("DETECTED").count(), FRESH, "{log}");
    let (lines, alerts) = reported_late(&log);
    assert_eq!(alerts, LATE, "none is silently gone: {log}");
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
    assert!(log.contains("alerts:intraday and ./alerts.jsonl only (alerts.log_stale)"), "{log}");
    assert!(log.contains(&format!("alerts: {}, late: {LATE}, dead: 0", LATE + FRESH)), "{log}");

    let lines = std::fs::read_to_string(project.path("alerts.jsonl")).unwrap();
    let in_file: Vec<bool> =
        lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["stale"] == true).collect();
    assert_eq!(in_file, expected);
}

#[test]
fn the_log_has_stale_alerts_if_asked_and_none_is_stale_without_a_limit() {
    let (redis, project) = overslept();
    configure(&project, "log_stale = true");
    let (log, stale) = run_in_group(&redis, &project, "one");
    assert_eq!(stale.iter().filter(|stale| **stale).count(), LATE);
    assert_eq!((log.matches("DETECTED").count(), reported_late(&log)), (LATE + FRESH, (0, 0)));

    configure(&project, "stale_after_ms = 0");
    let (log, stale) = run_in_group(&redis, &project, "two");
    assert!(!stale.contains(&true));
    assert_eq!((log.matches("DETECTED").count(), reported_late(&log)), (LATE + FRESH, (0, 0)));

    // Four hours are not over yet.
    configure(&project, "stale_after_ms = 14400000");
    let (_, stale) = run_in_group(&redis, &project, "three");
    assert!(!stale.contains(&true));

    // A log that is off tells of nothing.
    configure(&project, "log = false");
    let (log, stale) = run_in_group(&redis, &project, "four");
    assert!(stale.contains(&true));
    assert_eq!((log.matches("DETECTED").count(), reported_late(&log)), (0, (0, 0)));
}
