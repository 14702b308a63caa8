//! Two partitions that want the same alerts stream, or the same keys: the second one does not start.

use std::process::Output;

use redis::Commands;
use serde_json::Value;

use crate::support::{ALERTS, ALERTS_SOURCE, Project, Redis, STREAM, has_event, misbehaving, text, wait_for};

fn project(redis: &Redis) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    project.configure("[detectors.each]\nplugin = \"misbehaving\"");
    project
}

/// A group that has published 20 alerts.
fn drained() -> (Redis, Project) {
    let redis = Redis::start();
    let project = project(&redis);
    project.feed(5, 20, &[]);
    project.run(&["run", "--drain"]);
    (redis, project)
}

fn drain(project: &Project, variables: &[(&str, &str)]) -> Output {
    project.command(&["run", "--drain"]).envs(variables.iter().copied()).output().unwrap()
}

/// What it says as it does not start.
#[track_caller]
fn refused(output: &Output) -> String {
    let said = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Ids of alerts are unique within a group only. Two groups, as a trial beside a live scanner is, or two streams wrote
/// into the same `alerts:intraday`: 40 alerts had 20 ids, and whoever drops repeats by id lost half of them.
#[test]
fn two_groups_do_not_publish_into_one_alerts_stream() {
    let (redis, project) = drained();
    assert_eq!(redis.length(ALERTS), 20);

    let trial = ("TICKHOUND_STREAM__GROUP", "trial");
    let said = refused(&drain(&project, &[trial]));
    assert!(
        said.contains(
            "alerts.stream: the stream alerts:intraday belongs to group scanner_group on stream ticks:intraday"
        ) && said.contains(&format!("or, if the other one is gone for good, DEL {ALERTS_SOURCE}")),
        "{said}"
    );
    assert_eq!(redis.length(ALERTS), 20);
    let said = refused(&drain(&project, &[("TICKHOUND_STREAM__KEY", "other:ticks")]));
    assert!(said.contains("choose another alerts.stream for group scanner_group on stream other:ticks"), "{said}");

    // The doctor and `check` say so before it is tried.
    let said = project.command(&["doctor", "--json"]).envs([trial]).output().unwrap();
    let findings: Value = serde_json::from_str(&text(&said.stdout)).unwrap();
    let finding = findings.as_array().unwrap().iter().find(|finding| finding["id"] == "stream.claims").unwrap();
    assert_eq!(finding["level"], "problem", "{finding:#}");
    assert!(!project.command(&["check"]).envs([trial]).output().unwrap().status.success());
    let said = project.output(&["doctor", "--json"]);
    assert!(!text(&said.stdout).contains("stream.claims"), "nothing is wrong with the first one");

    // It is cured as it says, either way; and who was first has not noticed.
    assert!(drain(&project, &[trial, ("TICKHOUND_ALERTS__STREAM", "alerts:trial")]).status.success());
    assert_eq!((redis.length("alerts:trial"), redis.length(ALERTS)), (20, 20));
    project.run(&["run", "--drain"]);
    let _: () = redis.connect().del(ALERTS_SOURCE).unwrap();
    assert!(drain(&project, &[trial]).status.success());
    let said = refused(&project.output(&["run", "--drain"]));
    assert!(said.contains("belongs to group trial"), "{said}");
}

/// The stream for alerts of shadows is claimed in the same way, but only where there is a shadow: two groups that
/// have none may name the same.
#[test]
fn two_groups_with_shadows_do_not_publish_into_one_stream_of_shadows() {
    let (_redis, project) = drained();
    let trial = [("TICKHOUND_STREAM__GROUP", "trial"), ("TICKHOUND_ALERTS__STREAM", "alerts:trial")];
    assert!(drain(&project, &trial).status.success(), "neither has a shadow");
    project.configure(
        "[detectors.each]\nplugin = \"misbehaving\"\n[detectors.next]\nplugin = \"misbehaving\"\nshadow_of = \"each\"",
    );
    project.run(&["run", "--drain"]);
    let said = refused(&drain(&project, &trial));
    assert!(
        said.contains("alerts.shadow_stream: the stream alerts:intraday:shadow belongs to group scanner_g"),
        "{said}"
    );
}

/// Group `c` on the stream `{p}a:b` and group `b:c` on `{p}a` have the same names of keys, and each took the other's
/// checkpoint and states for its own.
#[test]
fn two_partitions_with_the_same_keys_are_distinguished() {
    let redis = Redis::start();
    let project = project(&redis);
    let first = [("TICKHOUND_STREAM__KEY", "{p}a:b"), ("TICKHOUND_STREAM__GROUP", "c")];
    let second = [
        ("TICKHOUND_STREAM__KEY", "{p}a"),
        ("TICKHOUND_STREAM__GROUP", "b:c"),
        ("TICKHOUND_ALERTS__STREAM", "alerts:second"),
    ];
    assert!(drain(&project, &first).status.success());
    let said = refused(&drain(&project, &second));
    assert!(
        said.contains(
            "the keys of group b:c on stream {p}a have the names of those of group c on stream {p}a:b, which has \
             tickhound:{p}:{p}a:b:c:checkpoint"
        ),
        "{said}"
    );
    assert!(drain(&project, &first).status.success());
}

/// A server that has lost everything has lost the markers as well; the host that continues writes them again. And rights
/// that were enough for a release without markers still are.
#[test]
fn markers_come_back_and_are_no_new_right() {
    let mut redis = Redis::start();
    let project = project(&redis);
    project.feed(5, 20, &[]);
    let mut host = project.start(&["run"]);
    redis.wait_all_processed(20);
    redis.restart();
    project.feed(5, 10, &[]);
    wait_for("the ticks of after", || (redis.alerts().len() == 10).then_some(()));
    let marker: String = redis.connect().get(ALERTS_SOURCE).unwrap();
    let partition = format!(r#"{{"stream":"{STREAM}","group":"scanner_group"}}"#);
    assert_eq!(marker, partition);
    host.stop();

    let _: () = redis.connect().del(ALERTS_SOURCE).unwrap();
    let () = redis.ask("ACL SETUSER default resetkeys ~ticks:* ~alerts:* ~tickhound:{ticks:* -hsetnx");
    project.feed(5, 10, &[]);
    let log = project.run(&["run", "--drain"]);
    assert!(has_event(&log, "claim_not_permitted"), "{log}");
    assert_eq!(redis.alerts().len(), 20);
    let () = redis.ask("ACL SETUSER default allkeys");
    assert_eq!(redis.connect().exists(ALERTS_SOURCE), Ok(false));
}
