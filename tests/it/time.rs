//! Event time, arrival, and the clocks of hosts: none of them makes a difference where it must not.
//!
//! Most of these work with the probe, which alerts on every tick with a hash of all that its symbol has seen. So a tick
//! that was lost, repeated or forgotten shows in all alerts that follow.

use std::{collections::BTreeMap, fs};

use redis::{Commands, Connection};
use serde_json::Value;

use crate::support::{
    Alert, Difference, HOST, Project, REFERENCE_ALERTS, Redis, STATE, STREAM, Sighting, contents, difference, now_ms,
    probe_clock, shipped, text, wait_for,
};

const DAY_MS: u64 = 86_400_000;

/// A day that is long past, and its symbols.
const OLD_DAY_MS: u64 = 1_736_121_600_000;
const OLD_DAY: [&str; 5] = ["A", "B", "C", "D", "E"];

fn add(connection: &mut Connection, id: &str, symbol: &str, price: u64, time_ms: u64) {
    let tick = [("symbol", symbol), ("last_price", &price.to_string()), ("timestamp", &time_ms.to_string())];
    let _: String = connection.xadd(STREAM, id, &tick).unwrap();
}

/// How many ticks of its symbol the probe had seen at an alert.
fn seen(alert: &Alert) -> u64 {
    Sighting::of(alert).seen
}

/// Adds some ticks of that day, from a minute of it on.
fn feed_old_day(connection: &mut Connection, from: u64, minutes: u64) {
    for minute in from..from + minutes {
        for symbol in OLD_DAY {
            add(connection, "*", symbol, 100 + minute, OLD_DAY_MS + minute * 60_000);
        }
    }
}

/// Whether a symbol was worth keeping was judged by event time, against the highest ever seen. So one tick of today
/// before an old day, or a thousand without a stamp, whose arrival then becomes the time, made every symbol of that day
/// forgotten at the next start: its detectors began anew, and all later alerts were wrong.
#[test]
fn a_tick_of_today_before_an_old_day_makes_no_symbol_forgotten() {
    type Before = fn(&mut Connection);
    let one_of_today: Before = |connection| add(connection, "*", "TODAY", 1, now_ms());
    let a_thousand_unstamped: Before = |connection| {
        (0..1001).for_each(|_| add(connection, "*", "UNSTAMPED", 1, 0));
    };
    for before in [one_of_today, a_thousand_unstamped] {
        let redis = Redis::start();
        let project = Project::with_probe(redis.url(), "", "[engine]\ncheckpoint_every_ms = 50");
        let mut connection = redis.connect();
        before(&mut connection);
        feed_old_day(&mut connection, 0, 20);
        let mut host = project.start(&["run"]);
        let is_saved = |symbol: &&str| redis.connect().hexists(STATE, format!("s:{symbol}")).unwrap();
        wait_for("all symbols are saved", || OLD_DAY.iter().all(is_saved).then_some(()));
        host.kill();
        feed_old_day(&mut connection, 20, 5);
        project.run(&["run", "--drain"]);
        project.run_reference(&redis);
        assert_eq!(difference(redis.alerts(), redis.paged(REFERENCE_ALERTS)), Difference::default());
        assert_eq!(seen(redis.alerts().last().unwrap()), 25, "it knows all its ticks");
    }
}

/// A month after its last tick arrived, a symbol is forgotten: by the ids of entries, whatever the event times say.
#[test]
fn a_symbol_is_forgotten_a_month_after_its_last_tick_arrived() {
    let redis = Redis::start();
    // The arrival that counts is that of the newest entry of a read.
    let project = Project::with_probe(redis.url(), "batch = 1", "");
    let mut connection = redis.connect();
    let long_ago = now_ms() - 40 * DAY_MS;
    add(&mut connection, &format!("{long_ago}-0"), "EXPIRED", 1, long_ago);
    add(&mut connection, &format!("{}-0", long_ago + 20 * DAY_MS), "KEPT", 1, long_ago);
    add(&mut connection, &format!("{}-0", long_ago + 31 * DAY_MS), "NEWEST", 1, long_ago);
    project.run(&["run", "--drain"]);
    ["EXPIRED", "KEPT"].iter().for_each(|symbol| add(&mut connection, "*", symbol, 2, now_ms()));
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    let of: Vec<(&str, u64)> = alerts[3..].iter().map(|alert| (alert["symbol"].as_str(), seen(alert))).collect();
    assert_eq!(of, [("EXPIRED", 1), ("KEPT", 2)]);
}

/// Saved states of a release before tell the event time of the last tick, in form 1. They are read, none of them is
/// forgotten, and the next save writes them in the form that tells the arrival, even without a tick of their symbol.
#[test]
fn states_of_an_older_release_are_read_and_written_anew() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let mut connection = redis.connect();
    add(&mut connection, "*", "TODAY", 1, now_ms());
    feed_old_day(&mut connection, 0, 10);
    project.run(&["run", "--drain"]);
    let states = |connection: &mut Connection| -> Vec<(String, Vec<u8>)> {
        let fields: Vec<(String, Vec<u8>)> = connection.hgetall(STATE).unwrap();
        fields.into_iter().filter(|(field, _)| field.starts_with("s:")).collect()
    };
    for (field, packed) in states(&mut connection) {
        assert_eq!(packed[0], 2, "{field}");
        // Form, event time, length, and no checksum of these; far in the past.
        let older = [&[1], &1_000_000_000u64.to_le_bytes()[..], &packed[9..13], &packed[17..]].concat();
        let _: () = connection.hset(STATE, field, older).unwrap();
    }
    ["TODAY", "A", "B"].iter().for_each(|symbol| add(&mut connection, "*", symbol, 7, OLD_DAY_MS + 3_600_000));
    project.run(&["run", "--drain"]);
    project.run_reference(&redis);
    assert_eq!(difference(redis.alerts(), redis.paged(REFERENCE_ALERTS)), Difference::default());
    let forms: Vec<u8> = states(&mut connection).iter().map(|(_, packed)| packed[0]).collect();
    assert_eq!(forms, [2; 6]);
}

/// Alerts were counted for the newest minute ever seen. After one tick of today, all of an old day counted for that one
/// minute, so that a limit of one a minute left nothing of it.
#[test]
fn a_tick_of_today_uses_up_no_minute_of_an_old_day() {
    let mut reference = None;
    for batch in [1, 7, 500] {
        let redis = Redis::start();
        let project = Project::with_probe(redis.url(), &format!("batch = {batch}"), "max_alerts_per_minute = 1");
        let mut connection = redis.connect();
        // Ids that do not depend on when this is run: the alerts must be the same each time.
        let arrived = 1_763_959_530_000;
        let mut number = 0;
        let mut add_next = |symbol: &str, time_ms: u64| {
            add(&mut connection, &format!("{arrived}-{number}"), symbol, 100, time_ms);
            number += 1;
        };
        let old_day = arrived - 90 * DAY_MS;
        add_next("TODAY", arrived);
        for minute in 0..30 {
            ["A", "B", "C"].iter().for_each(|symbol| add_next(symbol, old_day + minute * 60_000));
            // A feed of two days in turn: each has its own limit.
            if minute % 10 == 9 {
                ["TODAY", "TOO"].iter().for_each(|symbol| add_next(symbol, arrived));
            }
        }
        // What was counted outlives the host.
        project.run(&["run", "--drain"]);
        add_next("C", old_day + 29 * 60_000);
        add_next("C", old_day + 30 * 60_000);
        project.run(&["run", "--drain"]);
        let alerts = redis.alerts();
        let of_old_day = alerts.iter().filter(|alert| ["A", "B", "C"].contains(&alert["symbol"].as_str())).count();
        assert_eq!((of_old_day, alerts.len()), (31, 32), "one in each of its minutes, one of today");
        let alerts = contents(&alerts);
        assert!(alerts == *reference.get_or_insert_with(|| alerts.clone()), "batches of {batch}");
    }
}

/// A cool-down was over when so much time had passed since the last alert. But a clock row has the time of whichever
/// symbol brought it: an alert on one of today muted each symbol for all of an old day.
#[test]
fn a_clock_row_of_today_mutes_no_symbol_of_an_old_day() {
    let redis = Redis::start();
    let project =
        Project::with_probe(redis.url(), "", "[detectors.clock]\nplugin = \"probe_clock\"\ncooldown_s = 30.0");
    project.add_plugin(&probe_clock());
    let mut connection = redis.connect();
    feed_old_day(&mut connection, 0, 1);
    add(&mut connection, "*", "TODAY", 1, now_ms());
    feed_old_day(&mut connection, 1, 10);
    project.run(&["run", "--drain"]);
    feed_old_day(&mut connection, 11, 10);
    project.run(&["run", "--drain"]);
    let mut of: BTreeMap<String, usize> = BTreeMap::new();
    for alert in redis.alerts().into_iter().filter(|alert| alert["detector"] == "clock") {
        *of.entry(alert["symbol"].clone()).or_default() += 1;
    }
    // Of each minute of the old day, and of the clock row of today, which comes before the first tick of its symbol.
    assert_eq!(OLD_DAY.map(|symbol| of[symbol]), [22; 5]);
    assert_eq!(of["TODAY"], 1);
}

/// An entry may have any id. Where a tick has no stamp of its own, its time is taken from the id, and the product with the
/// ns of a ms overflowed: the tick came with a time of long ago, as if nothing were wrong, and a host built to notice such
/// things ended there, again at each start.
#[test]
fn a_tick_whose_id_is_not_a_time_is_left_out_and_counted() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let mut connection = redis.connect();
    add(&mut connection, "*", "A", 100, now_ms());
    add(&mut connection, "9223372036854775809-0", "A", 101, 0);
    add(&mut connection, "18446744073709551615-18446744073709551615", "A", 102, now_ms());
    let log = project.run(&["run", "--drain"]);
    assert!(log.contains("unseen: 1,"), "{log}");
    assert_eq!(redis.alerts().iter().map(seen).collect::<Vec<_>>(), [1, 2]);
    // It can go on from there, too.
    project.run(&["run", "--drain"]);
    assert_eq!((redis.totals()["entries"], redis.pending()), (3, 0));
}

/// Two symbols that have a tick each second, with trades and with quotes only; now and then one falls silent and comes
/// back at another price.
fn feed_silences(connection: &mut Connection) {
    let start = 1_763_959_500_000;
    let mut pipe = redis::pipe();
    for second in 0..900u64 {
        for (place, symbol) in ["SILENT", "STEADY"].iter().enumerate() {
            if *symbol == "SILENT" && second > 300 && second % 60 >= 20 && second % 60 < 50 {
                continue;
            }
            let time = start + second * 1000 + 100 + place as u64;
            let (id, price) = (format!("{time}-0"), 100 + second);
            let add = pipe.cmd("XADD").arg(STREAM).arg(id).arg("symbol").arg(symbol).arg("timestamp").arg(time);
            match second % 2 {
                0 => add.arg("last_price").arg(price).ignore(),
                _ => add.arg("bid").arg(price - 1).arg("ask").arg(price + 2).ignore(),
            };
        }
    }
    let _: () = pipe.query(connection).unwrap();
}

/// An alert on a clock row had the price that its symbol had at the end of the batch, not at that row. So the same ticks
/// gave other bytes with other batches: the price of after the silence that the alert told of.
#[test]
fn the_price_of_an_alert_on_the_clock_does_not_depend_on_batches() {
    let mut reference: Option<Vec<Alert>> = None;
    for (workers, batch) in [(1, 1), (2, 7), (3, 500), (1, 5000)] {
        let redis = Redis::start();
        let project = Project::new(&redis);
        project.add_plugin(&shipped("plugins/stale-feed.wasm"));
        project.add_plugin(&probe_clock());
        project.write_config(&format!(
            "[stream]\nurl = \"{}\"\nbatch = {batch}\n[engine]\nworkers = {workers}\nbacklog = 5000\n\
             [input]\nquotes = \"mid\"\n[detectors.stale-feed]\nplugin = \"stale-feed\"\nmin_confidence = 0.0\n\
             [detectors.stale-feed.params]\nsilent_s = 5.0\nrank_min = 0.5\n\
             [detectors.clock]\nplugin = \"probe_clock\"\n",
            redis.url()
        ));
        feed_silences(&mut redis.connect());
        project.run(&["run", "--drain"]);
        let alerts = redis.alerts();
        let expected = reference.get_or_insert_with(|| alerts.clone());
        assert!(contents(&alerts) == contents(expected), "{workers} workers, batches of {batch}");
    }
    // The last tick before each silence was of a second that ends with 19: quotes of that price, less 1 and more 2.
    let alerts: Vec<Alert> = reference.unwrap().into_iter().filter(|alert| alert["detector"] == "stale-feed").collect();
    assert!(alerts.len() > 5 && alerts.iter().all(|alert| alert["symbol"] == "SILENT"), "{alerts:#?}");
    for alert in alerts {
        let price: f64 = alert["price"].parse().unwrap();
        assert_eq!((price - 100.5) % 60.0, 19.0, "{alert:#?}");
    }
}

/// What the state of a detector is said to come from.
pub fn state_of(redis: &Redis, detector: &str) -> String {
    let receipt: String = redis.connect().get(HOST).unwrap();
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let detectors = receipt["detectors"].as_array().unwrap();
    detectors.iter().find(|one| one["name"] == detector).unwrap()["state"].as_str().unwrap().to_owned()
}

const ONE_MORE: &str = "[detectors.more]\nplugin = \"probe\"";

/// The window of a warm-up was reckoned back from the host's clock. On a Monday it held nothing of Friday, and on a host
/// whose clock was wrong nothing at all; the detector then was said to be warmed up again, and knew nothing.
#[test]
fn a_warm_up_shows_the_day_before_the_newest_entry_whatever_the_clock_says() {
    let friday = now_ms() - 3 * DAY_MS;
    for (arrived, ahead) in [(friday, None), (now_ms(), Some("+2d"))] {
        let redis = Redis::start();
        let project = Project::with_probe(redis.url(), "", "");
        let mut connection = redis.connect();
        for n in 0..50 {
            add(&mut connection, &format!("{}-0", arrived + n), "A", 100, friday);
        }
        project.run(&["run", "--drain"]);
        add(&mut connection, &format!("{}-0", arrived + 50), "A", 100, friday);
        let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
        project.write_config(&format!("{config}\n{ONE_MORE}\n"));
        let mut command = match ahead {
            Some(offset) => project.command_at_offset(&["run", "--drain"], offset),
            None => project.command(&["run", "--drain"]),
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let more: Vec<Alert> = redis.alerts().into_iter().filter(|alert| alert["detector"] == "more").collect();
        assert_eq!(more.len(), 1, "what is shown raises no alert");
        assert_eq!((seen(&more[0]), state_of(&redis, "more").as_str()), (51, "rewarmed"));
    }
}

/// A warm-up that had nothing to show was called one all the same.
#[test]
fn a_warm_up_that_shows_nothing_is_called_cold() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let mut connection = redis.connect();
    (0..50).for_each(|_| add(&mut connection, "*", "A", 100, now_ms()));
    project.run(&["run", "--drain"]);
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN 0"));
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.write_config(&format!("{config}\n{ONE_MORE}\n"));
    project.run(&["run", "--drain"]);
    assert_eq!((state_of(&redis, "probe"), state_of(&redis, "more")), ("restored".into(), "cold".into()));
    add(&mut connection, "*", "A", 100, now_ms());
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    assert_eq!(alerts[50..].iter().map(seen).collect::<Vec<_>>(), [1, 51], "of `more`, and of `probe`");
}

/// A recorded day was published into the stream again. Every tick of it got the time of the symbol's latest one, which
/// muted every detector for hours, and nothing said so. The hosts are killed all the time, so the turn is also found by one
/// that has seen only a part of it.
#[test]
fn a_clock_that_goes_back_is_believed_once_and_every_symbol_begins_anew() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "batch = 7", "[engine]\ncheckpoint_every_ms = 20");
    let mut connection = redis.connect();
    let mut log = String::new();
    // An hour of five symbols, and then the same hour again: after 100 ticks that are late, the clock is followed.
    let parts = [(0, 60), (0, 11), (11, 5), (16, 4), (20, 30)];
    for (from, minutes) in parts {
        feed_old_day(&mut connection, from, minutes);
        let mut host = project.start(&["run"]);
        wait_for("it is working on them", || (!redis.alerts().is_empty()).then_some(()));
        host.kill();
        log += &host.log();
    }
    log += &project.run(&["run", "--drain"]);
    project.run_reference(&redis);
    assert_eq!(difference(redis.alerts(), redis.paged(REFERENCE_ALERTS)), Difference::default());
    let last = redis.alerts();
    // Every symbol began anew with these.
    let counts: Vec<u64> = last[last.len() - 5..].iter().map(seen).collect();
    assert_eq!(counts, [30; 5]);
    assert_eq!(log.matches("clock_set_back").count(), 1, "{log}");
}
