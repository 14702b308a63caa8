//! From ticks in a stream to alerts: complete, once, in order, however the work is cut.

use std::collections::BTreeSet;

use redis::Commands;

use crate::support::{
    ALERTS, DEAD, GROUP, LEASE, Project, Redis, STREAM, contents, has_event, has_event_with, misbehaving, pause,
    read_as, wait_for,
};

/// Enough market time (20 minutes) for both detectors to warm up and find something.
const SYMBOLS: u32 = 12;
const TICKS: u32 = 24_000;

/// Of all that there is, only the ticks stay.
fn forget(redis: &Redis) {
    let mut connection = redis.connect();
    let () = redis.ask(&format!("XGROUP DESTROY {STREAM} {GROUP}"));
    let keys: Vec<String> = connection.keys("tickhound:*").unwrap();
    let _: () = connection.del([keys, vec![ALERTS.into()]].concat()).unwrap();
}

#[test]
fn ticks_become_alerts_in_the_stream_the_log_and_the_file() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[alerts]\njsonl = \"logs/alerts.jsonl\"");
    project.feed(SYMBOLS, TICKS, &["--dirt", "0.02"]);
    let log = project.run(&["run", "--drain"]);

    let alerts = redis.alerts();
    let by = |name: &str| alerts.iter().filter(|alert| alert["detector"] == name).count();
    assert!(by("breakout") > 0 && by("momentum") > 0, "{} breakouts, {} momenta", by("breakout"), by("momentum"));
    let lines = std::fs::read_to_string(project.path("logs/alerts.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), alerts.len());
    for (line, alert) in lines.lines().zip(&alerts) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"].as_str(), Some(alert["id"].as_str()));
        assert_eq!(alert["id"], format!("{}/{}/0", alert["entry"], alert["detector"]));
        let confidence: f64 = alert["confidence"].parse().unwrap();
        assert!((0.0..=1.0).contains(&confidence));
        let told = format!(
            "✅ [{}] {} - DETECTED: {confidence:.2} confidence",
            alert["detector"].to_uppercase(),
            alert["symbol"]
        );
        assert!(log.contains(&told), "{told}");
    }

    // Every entry is accounted for.
    let totals = redis.totals();
    assert_eq!(totals["entries"], u64::from(TICKS));
    assert_eq!(redis.pending(), 0);
    let alerting: BTreeSet<&String> = alerts.iter().map(|alert| &alert["entry"]).collect();
    assert_eq!(redis.dead_letters().len() as u64, totals["dead"]);
    assert!(totals["dead"] > 0, "dirt holds entries that can't be decoded");
    assert_eq!(totals["quiet"] + alerting.len() as u64 + totals["dead"], u64::from(TICKS));
    assert_eq!(totals["alerts"], alerts.len() as u64);
}

#[test]
fn workers_and_batch_sizes_do_not_change_the_alerts() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(SYMBOLS, TICKS, &["--dirt", "0.02"]);
    let mut reference = None;
    for (workers, batch, backlog) in [(1, 500, 2000), (3, 500, 2000), (2, 7, 20), (4, 1000, 1000)] {
        forget(&redis);
        project.configure_with(
            &format!("batch = {batch}"),
            &format!("[engine]\nworkers = {workers}\nbacklog = {backlog}"),
        );
        project.run(&["run", "--drain"]);
        let alerts = contents(&redis.alerts());
        assert!(!alerts.is_empty());
        let expected = reference.get_or_insert_with(|| alerts.clone());
        assert!(&alerts == expected, "{workers} workers, batches of {batch}");
    }
}

#[test]
fn the_same_ticks_in_three_layouts_give_the_same_alerts() {
    let mut reference = None;
    for layout in ["json", "flat", "msgpack"] {
        let redis = Redis::start();
        let project = Project::new(&redis);
        project.feed(SYMBOLS, TICKS, &["--layout", layout]);
        project.run(&["run", "--drain"]);
        // Ids hold the time of publishing, which differs.
        let mut alerts = redis.alerts();
        for alert in &mut alerts {
            alert.retain(|name, _| name != "id" && name != "entry");
        }
        let alerts = contents(&alerts);
        assert!(!alerts.is_empty());
        let expected = reference.get_or_insert_with(|| alerts.clone());
        assert!(&alerts == expected, "{layout}");
    }
}

#[test]
fn new_ticks_are_processed_as_they_come() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut host = project.start_owner();
    project.feed(5, 1000, &[]);
    redis.wait_all_processed(1000);
    project.feed(5, 500, &[]);
    redis.wait_all_processed(1500);
    assert_eq!(redis.pending(), 0);
    let status = project.output(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{}", crate::support::text(&status.stdout));
    host.stop();
}

/// Every life has another number of workers, and continues with the state of the one before: no entry is
/// lost, no alert comes twice, and each is the alert of a run that nobody disturbed.
#[test]
fn a_host_killed_ten_times_alerts_as_if_undisturbed() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    // Small batches: more places to be killed at.
    project.configure_with(
        "batch = 20",
        "[engine]\nbacklog = 100\ncheckpoint_every_ms = 50\n\
         [alerts]\nlog = false\nmaxlen = 0\njsonl = \"alerts.jsonl\"\n\
         [detectors.each]\nplugin = \"misbehaving\"",
    );
    project.feed(SYMBOLS, TICKS, &[]);
    let mut recovered = 0;
    for round in 1..=10 {
        let workers = (1 + round % 3).to_string();
        let mut host = project.start_with(&["run", "--drain"], &[("TICKHOUND_ENGINE__WORKERS", &workers)]);
        // Each life gets some work done, and dies in the middle of it.
        let goal = u64::from(TICKS) * round / 12;
        redis.wait_processed(goal);
        host.kill();
        recovered += redis.pending();
    }
    project.run(&["run", "--drain"]);
    assert!(recovered > 0, "no kill caught it in the middle of its work");
    assert_eq!(redis.pending(), 0);
    assert_eq!(redis.totals()["entries"], u64::from(TICKS));
    let alerts = redis.alerts();
    let ids: BTreeSet<&String> = alerts.iter().map(|alert| &alert["id"]).collect();
    assert_eq!(ids.len(), alerts.len(), "an alert came twice");
    let each: BTreeSet<&String> =
        alerts.iter().filter(|alert| alert["detector"] == "each").map(|alert| &alert["entry"]).collect();
    assert_eq!(each.len() as u32, TICKS, "an entry was not processed");

    // The file has them all too, though every kill may have come between a commit and its line.
    let lines = std::fs::read_to_string(project.path("alerts.jsonl")).unwrap();
    let in_file: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    let in_stream: Vec<&String> = alerts.iter().map(|alert| &alert["id"]).collect();
    assert_eq!(in_file.iter().collect::<Vec<_>>(), in_stream);
    assert!(contents(&alerts) == contents(&project.reference(&redis)), "not as if undisturbed");
}

/// Three lives of a scanner that named itself after its process, each killed with entries in
/// hand: all of them are processed, in order, and the names are gone.
#[test]
fn what_an_old_scanner_left_pending_is_taken_over() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure_with("claim_idle_ms = 1", "[detectors.each]\nplugin = \"misbehaving\"");
    project.feed(5, 1000, &[]);
    for (scanner, count) in [("scanner_48992", 250), ("scanner_50219", 50), ("scanner_50766", 1), ("scanner_48992", 20)]
    {
        read_as(&redis, scanner, count);
    }
    // Some of it was trimmed away meanwhile.
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN = 990"));
    let log = project.run(&["run", "--drain"]);
    assert!(has_event_with(&log, "consumer_adopted", "consumer=scanner_48992 entries=260"), "{log}");
    let totals = redis.totals();
    assert_eq!((totals["entries"], totals["lost"], redis.pending()), (1000, 10, 0));
    let each: Vec<String> = redis.alerts().into_iter().map(|mut alert| alert.remove("entry").unwrap()).collect();
    assert_eq!(each.len(), 990);
    let key = |id: &String| id.parse::<tickhound_core::event::EntryId>().unwrap();
    assert!(each.is_sorted_by_key(key), "in the order of the stream");
    let consumers: Vec<redis::Value> = redis.ask(&format!("XINFO CONSUMERS {STREAM} {GROUP}"));
    assert_eq!(consumers.len(), 1, "only our own name is left");
}

#[test]
fn a_second_host_stands_by_and_takes_over() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("lease_ms = 1000", "");
    let mut first = project.start_owner();
    let mut second = project.start(&["run"]);
    second.wait_for_event("standby_started");
    project.feed(5, 500, &[]);
    redis.wait_all_processed(500);
    assert!(!second.has_event("lease_acquired"));

    // Released at once when the first one ends in order.
    first.signal("INT");
    assert_eq!(first.wait(), Some(0));
    second.wait_for_event("lease_acquired");
    project.feed(5, 500, &[]);
    redis.wait_all_processed(1000);
    second.stop();
    assert_eq!(redis.pending(), 0);
}

/// What was adopted is older than what was committed before it; a group that vanishes after that is
/// created behind the newest commit all the same, and nothing is processed twice.
#[test]
fn a_group_that_vanishes_after_an_adoption_repeats_nothing() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(5, 50, &[]);
    read_as(&redis, "scanner_1", 50);
    project.feed(5, 50, &[]);
    project.run(&["run", "--drain"]);
    assert_eq!((redis.totals()["entries"], redis.pending()), (50, 50), "what is held by a live scanner is left to it");
    project.configure_with("claim_idle_ms = 1", "");
    project.run(&["run", "--drain"]);
    assert_eq!((redis.totals()["entries"], redis.pending()), (100, 0));
    let () = redis.ask(&format!("XGROUP DESTROY {STREAM} {GROUP}"));
    let log = project.run(&["run", "--drain"]);
    assert!(has_event_with(&log, "group_recreated", "created it again at the last commit"), "{log}");
    assert_eq!(redis.totals()["entries"], 100);
}

/// A host that was paused longer than its lease must not publish, acknowledge or take an entry
/// when it wakes: it finds that another one has taken over, and stands by.
#[test]
fn a_host_paused_past_its_lease_does_nothing_more() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("lease_ms = 500", "");
    let first = project.start_owner();
    let mut second = project.start(&["run"]);
    second.wait_for_event("standby_started");
    first.signal("STOP");
    second.wait_for_event("lease_acquired");
    project.feed(5, 2000, &[]);
    redis.wait_all_processed(2000);
    first.signal("CONT");
    first.wait_for_event("host_fenced");
    first.wait_for_event("standby_started");
    project.feed(5, 2000, &[]);
    redis.wait_all_processed(4000);
    second.stop();
    assert_eq!(redis.pending(), 0);
}

#[test]
fn a_stopped_host_has_committed_all_that_it_read() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(SYMBOLS, 60_000, &[]);
    let mut host = project.start(&["run"]);
    redis.wait_processed(1001);
    host.stop();
    assert_eq!(redis.pending(), 0);
    let lease: Option<String> = redis.connect().get(LEASE).unwrap();
    assert_eq!(lease, None, "the lease is released");
    project.run(&["run", "--drain"]);
    assert_eq!(redis.totals()["entries"], 60_000);
}

#[test]
fn an_entry_that_is_not_a_tick_becomes_a_dead_letter_with_its_fields() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    let _: String = connection.xadd(STREAM, "5-1", &[("data", "{\"symbol\":\"A\",")]).unwrap();
    let _: String = connection.xadd(STREAM, "5-2", &[("greeting", "hello")]).unwrap();
    let _: String = connection.xadd(STREAM, "5-3", &[("data", &[0xc1u8, 0xff][..])]).unwrap();
    project.feed(5, 100, &[]);
    project.run(&["run", "--drain"]);
    let letters = redis.dead_letters();
    let entries: Vec<&str> = letters.iter().map(|letter| letter["entry"].as_str()).collect();
    assert_eq!(entries, ["5-1", "5-2", "5-3"]);
    assert!(letters.iter().all(|letter| !letter["reason"].is_empty()));
    assert_eq!(letters[1]["raw"], r#"{"greeting":"hello"}"#);
    assert_eq!(letters[2]["raw"], r#"{"data":{"base64":"wf8="}}"#);
    assert_eq!(redis.pending(), 0);
    let kept: u64 = connection.xlen(DEAD).unwrap();
    assert_eq!((kept, redis.totals()["entries"]), (3, 103));
}

/// What a crash left pending comes first, in order, and is marked; what was trimmed away
/// meanwhile is acknowledged and counted.
#[test]
fn pending_entries_come_first_and_trimmed_ones_are_counted() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(SYMBOLS, TICKS, &[]);
    read_as(&redis, "tickhound", 20_000);
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN = {}", TICKS - 50));
    let log = project.run(&["run", "--drain"]);
    assert!(has_event(&log, "pending_entries_trimmed"), "{log}");
    let totals = redis.totals();
    assert_eq!((totals["entries"], totals["lost"]), (u64::from(TICKS), 50));
    assert_eq!(redis.pending(), 0);
    let alerts = redis.alerts();
    let recovered = alerts.iter().filter(|alert| alert["recovered"] == "1").count();
    assert!(recovered > 0 && recovered < alerts.len(), "{recovered} of {}", alerts.len());
    let first_fresh = alerts.iter().position(|alert| alert["recovered"] == "0").unwrap();
    assert_eq!(first_fresh, recovered, "pending ones come first");
}

/// Whatever an answer was about when its connection was cut, a commit, a read of new or of pending
/// entries: it is found out what happened, and each entry is processed once, with what was known before.
#[test]
fn connections_that_are_cut_all_the_time_cost_nothing() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure_with(
        "batch = 20",
        "[engine]\nbacklog = 100\n[alerts]\nlog = false\nmaxlen = 0\n[detectors.each]\nplugin = \"misbehaving\"",
    );
    project.feed(SYMBOLS, TICKS, &[]);
    read_as(&redis, "tickhound", TICKS / 2);
    let mut host = project.start(&["run", "--drain"]);
    let mut cuts = 0;
    wait_for("all is processed", || {
        // The connections of this test are cut too; a new one is made for each look.
        let processed = redis.processed();
        if cuts < 200 {
            cuts += redis.ask::<u64>("CLIENT KILL TYPE normal");
        }
        (processed == u64::from(TICKS)).then_some(())
    });
    assert_eq!(host.wait(), Some(0), "{}", host.log());
    assert!(cuts > 20, "{cuts} cuts");
    assert_eq!(redis.pending(), 0);
    let disturbed = redis.alerts();
    let each = |alerts: &[std::collections::BTreeMap<String, String>]| {
        alerts.iter().filter(|alert| alert["detector"] == "each").count() as u32
    };
    assert_eq!(each(&disturbed), TICKS);

    forget(&redis);
    project.run(&["run", "--drain"]);
    assert!(contents(&disturbed) == contents(&redis.alerts()), "not as if undisturbed");
}

/// A transaction does not roll back: where the alerts can't be added, their entries are acknowledged
/// all the same. They are kept, and published when the stream is one again.
#[test]
fn alerts_that_the_server_refuses_are_published_later() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure("[detectors.each]\nplugin = \"misbehaving\"");
    let mut host = project.start_owner();
    let mut connection = redis.connect();
    let _: () = connection.set(ALERTS, "in the way").unwrap();
    project.feed(5, 100, &[]);
    host.wait_for_event("publish_rejected");
    host.wait_for_event_with("redis_unavailable", "the key alerts:intraday holds a string, expected a stream");
    let _: () = connection.del(ALERTS).unwrap();
    wait_for("all are published", || (redis.alerts().len() == 100).then_some(()));
    host.stop();
    let ids: BTreeSet<String> = redis.alerts().into_iter().map(|mut alert| alert.remove("id").unwrap()).collect();
    assert_eq!((ids.len(), redis.pending(), redis.totals()["entries"]), (100, 0, 100));
}

#[test]
fn a_host_waits_for_redis_and_says_so_once() {
    let mut redis = Redis::start();
    let project = Project::new(&redis);
    redis.kill();
    let mut host = project.start(&["run"]);
    host.wait_for_event("redis_unavailable");
    for _ in 0..100 {
        pause();
    }
    assert_eq!(host.count_event("redis_unavailable"), 1, "{}", host.log());
    redis.restart();
    host.wait_for_event("lease_acquired");
    host.stop();
}

#[test]
fn a_killed_server_that_comes_back_with_its_data_costs_nothing() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = Project::new(&redis);
    project.configure_with("batch = 50", "[engine]\nbacklog = 200");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    for part in 1..=3 {
        let goal = u64::from(TICKS) * part / 5;
        redis.wait_processed(goal);
        redis.restart();
    }
    redis.wait_all_processed(u64::from(TICKS));
    host.stop();
    assert_eq!(redis.pending(), 0);
    let interrupted = contents(&redis.alerts());

    // The same entries, undisturbed.
    forget(&redis);
    project.run(&["run", "--drain"]);
    assert!(interrupted == contents(&redis.alerts()), "the host lost what it knew");
}
