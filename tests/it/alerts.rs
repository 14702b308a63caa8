//! `tickhound alerts`: each alert once, whatever becomes of Redis, the stream, and who reads the output.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
    time::Instant,
};

use redis::Commands;

use crate::support::{ALERTS, Alert, Project, Redis, SHADOW_ALERTS, signal, text, wait_for};

/// A project with alerts in the stream and in a JSON lines file.
fn with_alerts() -> (Redis, Project) {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = Project::new(&redis);
    project.configure("[alerts]\njsonl = \"alerts.jsonl\"");
    project.feed(10, 20_000, &[]);
    project.run(&["run", "--drain"]);
    assert!(redis.alerts().len() > 30);
    (redis, project)
}

/// `tickhound alerts --follow`, its output in files.
struct Follower {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Follower {
    fn start(project: &Project, args: &[&str]) -> Self {
        let (out, err) = (project.path("follow.out"), project.path("follow.err"));
        let all: Vec<&str> = ["alerts", "--follow"].into_iter().chain(args.iter().copied()).collect();
        let mut command = project.command(&all);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        Self { child: command.spawn().unwrap(), out, err }
    }

    /// Ids of the alerts that it has shown.
    fn ids(&self) -> Vec<String> {
        let out = fs::read_to_string(&self.out).unwrap();
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        let id =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
        whole.lines().map(id).collect()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    fn says(&self, part: &str) {
        wait_for(&format!("{part:?} is said, not {:?}", self.said()), || self.said().contains(part).then_some(()));
    }

    fn end(mut self) {
        signal(self.child.id(), "INT");
        assert_eq!(wait_for("it ends", || self.child.try_wait().unwrap()).code(), Some(0), "{}", self.said());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ids(alerts: &[Alert]) -> Vec<String> {
    alerts.iter().map(|alert| alert["id"].clone()).collect()
}

/// Adds an alert as a host would.
fn publish(redis: &Redis, stream: &str, id: &str) {
    let mut add = redis::cmd("XADD");
    add.arg(stream).arg("*").arg("id").arg(id).arg("detector").arg("jump").arg("symbol").arg("INFY");
    add.arg("time").arg(1_762_142_250_245_000_000_u64).arg("price").arg("").arg("confidence").arg(0.5);
    add.arg("direction").arg("none").arg("evidence").arg("{}").arg("entry").arg("1-0").arg("lag_ms").arg(725_000);
    add.arg("recovered").arg(0).arg("stale").arg(1);
    let _: String = add.query(&mut redis.connect()).unwrap();
}

/// Whether an alert is to be shown.
type Fits<'a> = Box<dyn Fn(&Alert) -> bool + 'a>;

#[test]
fn what_is_shown_is_what_the_filters_ask_for() {
    let (redis, project) = with_alerts();
    let json = |args: &[&str]| {
        let all: Vec<&str> = ["alerts", "--json", "--last", "100000"].into_iter().chain(args.iter().copied()).collect();
        project.run(&all)
    };
    assert_eq!(json(&[]), fs::read_to_string(project.path("alerts.jsonl")).unwrap(), "the lines of the file");
    publish(&redis, ALERTS, "1-0/jump/0");
    let all = redis.alerts();
    let confidence = |alert: &Alert| alert["confidence"].parse::<f64>().unwrap();
    let middle = &all[all.len() / 2];
    let symbol = format!("{}*", &middle["symbol"][..3]);
    let since: (&str, &str) = (&middle["id"], &middle["entry"]);
    let entry = |alert: &Alert| alert["entry"].parse::<tickhound_core::event::EntryId>().unwrap();
    let cases: [(&[&str], Fits<'_>); 9] = [
        (&["--detector", "breakout"], Box::new(|alert| alert["detector"] == "breakout")),
        (&["--detector", "jump", "--detector", "momentum"], Box::new(|alert| alert["detector"] != "breakout")),
        (&["--symbol", &symbol], Box::new(|alert| alert["symbol"].starts_with(&middle["symbol"][..3]))),
        (&["--min-confidence", "0.8"], Box::new(move |alert| confidence(alert) >= 0.8)),
        (&["--direction", "down"], Box::new(|alert| alert["direction"] == "down")),
        (&["--no-stale"], Box::new(|alert| alert["stale"] == "0")),
        (&["--since", since.0], Box::new(move |alert| entry(alert) >= entry(middle))),
        (&["--since", since.1], Box::new(move |alert| entry(alert) >= entry(middle))),
        (&["--since", "1h"], Box::new(|_| true)),
    ];
    for (args, wanted) in cases {
        let expected: Vec<Alert> = all.iter().filter(|alert| wanted(alert)).cloned().collect();
        let lines = json(args);
        let shown = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let shown: Vec<String> = shown.map(|line| line["id"].as_str().unwrap().to_owned()).collect();
        assert!(!expected.is_empty() && shown == ids(&expected), "{args:?}: {} of {}", shown.len(), expected.len());
    }
    let newest = project.run(&["alerts", "--last", "3"]);
    assert_eq!(newest.lines().count(), 3);
    assert!(newest.ends_with("✅ [JUMP] INFY - DETECTED: 0.50 confidence, 12m 05s late\n"), "{newest}");
    assert_eq!(project.run(&["alerts"]).lines().count(), 20);
    // With --follow, these are only the alerts to come.
    assert_eq!(project.run(&["alerts", "--json", "--last", "0"]), "");
    assert!(project.run(&["alerts", "--symbol", "nothing"]).contains("no matching alerts in alerts:intraday"));
    assert!(project.run(&["alerts", "--shadow"]).contains("no alerts in alerts:intraday:shadow"));
    publish(&redis, SHADOW_ALERTS, "2-0/next/0");
    assert!(project.run(&["alerts", "--shadow", "--json"]).contains("\"id\":\"2-0/next/0\""));
    let wrong = project.output(&["alerts", "--since", "yesterday"]);
    assert!(wrong.status.code() == Some(1) && text(&wrong.stderr).contains("--since yesterday: expected a span"));
}

#[test]
fn who_follows_has_each_alert_once_over_restarts_of_redis() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = Project::new(&redis);
    project.feed(10, 30_000, &[]);
    let follower = Follower::start(&project, &["--json"]);
    let _host = project.start_with(&["run"], &[("TICKHOUND_STREAM__BATCH", "50")]);
    for part in 1..=2 {
        wait_for("some alerts are shown", || (follower.ids().len() >= 20 * part).then_some(()));
        redis.kill();
        wait_for("it is lost", || (follower.said().matches("; retrying").count() >= part).then_some(()));
        redis.restart();
        wait_for("it is reached", || (follower.said().matches("reconnected to Redis").count() >= part).then_some(()));
    }
    redis.wait_all_processed(30_000);
    let expected = ids(&redis.alerts());
    wait_for("all alerts", || (follower.ids().len() >= expected.len()).then_some(()));
    assert!(follower.ids() == expected, "{} shown, {} published", follower.ids().len(), expected.len());
    assert!(!follower.said().contains("trimmed") && !follower.said().contains("come back"), "{}", follower.said());
    follower.end();
}

#[test]
fn alerts_trimmed_before_they_were_shown_are_reported_and_other_entries_left_out() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    (1..=5).for_each(|at| publish(&redis, ALERTS, &format!("{at}-0/jump/0")));
    let follower = Follower::start(&project, &["--json"]);
    wait_for("the first five", || (follower.ids().len() == 5).then_some(()));
    signal(follower.child.id(), "STOP");
    (6..=30).for_each(|at| publish(&redis, ALERTS, &format!("{at}-0/jump/0")));
    let mut connection = redis.connect();
    let _: u64 = redis::cmd("XTRIM").arg(ALERTS).arg("MAXLEN").arg(10).query(&mut connection).unwrap();
    let _: String = connection.xadd(ALERTS, "*", &[("confidence", "high"), ("symbol", "\u{1b}[2J")]).unwrap();
    signal(follower.child.id(), "CONT");
    follower.says("at least 15 alerts were trimmed from alerts:intraday");
    follower.says("has entries that are not alerts");
    publish(&redis, ALERTS, "31-0/jump/0");
    let expected: Vec<String> = (1..=5).chain(21..=31).map(|at| format!("{at}-0/jump/0")).collect();
    wait_for("all that are left", || (follower.ids() == expected).then_some(()));
    follower.end();
}

#[test]
fn what_a_server_without_its_newest_data_publishes_again_is_not_shown_again() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    (1..=5).for_each(|at| publish(&redis, ALERTS, &format!("{at}-0/jump/0")));
    let follower = Follower::start(&project, &["--json"]);
    wait_for("the first five", || (follower.ids().len() == 5).then_some(()));
    let mut connection = redis.connect();
    // One step, so that the follower does not see how there is nothing: it finds other data, in older places.
    let mut again = redis::pipe();
    again.atomic().cmd("DEL").arg(ALERTS);
    for at in 3..=4 {
        again.cmd("XADD").arg(ALERTS).arg(format!("{at}-0")).arg("id").arg(format!("{at}-0/jump/0"));
        again.arg("detector").arg("jump").arg("symbol").arg("INFY").arg("confidence").arg(1).arg("evidence").arg("{}");
    }
    again.query::<()>(&mut connection).unwrap();
    follower.says("has come back without its newest alerts");
    (4..=7).for_each(|at| publish(&redis, ALERTS, &format!("{at}-0/jump/0")));
    let expected: Vec<String> = (1..=7).map(|at| format!("{at}-0/jump/0")).collect();
    wait_for("the new ones", || (follower.ids() == expected).then_some(()));
    follower.end();
}

#[test]
fn it_ends_quietly_with_who_reads_it() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    (1..=3).for_each(|at| publish(&redis, ALERTS, &format!("{at}-0/jump/0")));
    let mut command = project.command(&["alerts", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("DETECTED"));
    let begun = Instant::now();
    drop(lines);
    // No further alert comes; it sees by itself that nobody reads.
    let status = wait_for("it ends", || child.try_wait().unwrap());
    assert!(status.success(), "{status} after {:?}", begun.elapsed());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn an_unreachable_server_is_reported_at_once() {
    let mut redis = Redis::start();
    let project = Project::new(&redis);
    redis.kill();
    for args in [&["alerts"][..], &["alerts", "--follow"], &["alerts", "--since", "10m"]] {
        let output = project.output(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).starts_with("error: redis at "), "{}", text(&output.stderr));
    }
}
