//! What a host knows outlives it; where it can't, that is said and counted.

use std::{collections::BTreeMap, time::Instant};

use redis::Commands;
use tickhound_core::event::EntryId;

use crate::support::{
    ALERTS, CHECKPOINT, GROUP, Host, Project, Redis, STATE, STREAM, contents, has_event, has_event_with, lines_of,
    misbehaving, request, text, wait_for,
};

const SYMBOLS: u32 = 12;
const TICKS: u32 = 24_000;

/// A host that was stopped in order, in the middle of its work.
fn stopped_in_the_middle() -> (Redis, Project) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run"]);
    redis.wait_processed(TICKS / 2 + 1);
    host.stop();
    (redis, project)
}

/// A detector that does `how` on a tick of the price 666; an entry is given up after `max_deliveries`.
fn with_a_trap(redis: &Redis, how: &str, max_deliveries: u32) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    project.write_config(&format!(
        "[stream]\nurl = \"{}\"\nmax_deliveries = {max_deliveries}\n[plugins]\ncall_deadline_ms = 600000\n\
         [detectors.each]\nplugin = \"misbehaving\"\nparams = {{ how = \"{how}\", price = 666.0, at = 1000000 }}",
        redis.url()
    ));
    project
}

/// Adds so many ticks, of which the one of this number is the trap; the id of each follows from its number.
fn feed_with_a_trap(redis: &Redis, count: u64, trap: u64) {
    let mut connection = redis.connect();
    for number in 1..=count {
        let (price, time) = (if number == trap { "666" } else { "100" }, millis(number).to_string());
        let fields = [("symbol", "A"), ("ltp", price), ("timestamp", &time)];
        let _: String = connection.xadd(STREAM, id(number), &fields).unwrap();
    }
}

fn millis(number: u64) -> u64 {
    1_763_959_530_000 + number
}

fn id(number: u64) -> String {
    format!("{}-1", millis(number))
}

/// Ids of the entries that alerts are about.
fn alerted(redis: &Redis) -> Vec<String> {
    redis.alerts().into_iter().map(|mut alert| alert.remove("entry").unwrap()).collect()
}

fn state(redis: &Redis) -> BTreeMap<String, Vec<u8>> {
    redis.connect().hgetall(STATE).unwrap()
}

/// A standby that takes over has the state of the owner: nobody sees from the alerts where the one
/// ended and the other began.
#[test]
fn a_standby_continues_with_the_state_of_the_owner() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("batch = 50\nlease_ms = 500", "[engine]\nbacklog = 200\ncheckpoint_every_ms = 100");
    let mut hosts = vec![project.start_owner()];
    hosts.push(project.start(&["run"]));
    hosts[1].wait_for_event("standby_started");
    const MORE: u32 = 500;
    project.feed(SYMBOLS, TICKS - 4 * MORE, &[]);
    for part in 1..=4 {
        redis.wait_processed((TICKS - 4 * MORE) * part / 6);
        let owner = usize::from(part % 2 == 0);
        hosts[owner].signal("STOP");
        // However much the owner has processed by now, there is something left for the other one.
        project.feed(SYMBOLS, MORE, &["--seed", &(1 + part).to_string()]);
        // Paused owners wake up as standbys, after the other one has taken over.
        let other = hosts[1 - owner].pid();
        wait_for("the other host owns the stream", || (redis.lease_pid() == Some(other)).then_some(()));
        hosts[owner].signal("CONT");
    }
    redis.wait_all_processed(TICKS);
    hosts.iter_mut().for_each(Host::stop);
    assert_eq!(redis.pending(), 0);
    assert!(contents(&redis.alerts()) == contents(&project.reference(&redis)), "not as if undisturbed");
}

/// A host that stops in order has saved everything: the next one has nothing to read again.
#[test]
fn after_a_stop_in_order_nothing_is_read_again() {
    let (redis, project) = stopped_in_the_middle();
    let log = project.run(&["run", "--drain"]);
    assert!(has_event_with(&log, "checkpoint_restored", "symbols=12 entries=0"), "{log}");
    assert!(contents(&redis.alerts()) == contents(&project.reference(&redis)), "not as if undisturbed");
    let status: serde_json::Value = serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap();
    let state = &status["survey"]["state"];
    assert_eq!((state["symbols"].as_u64(), state["behind"].as_u64()), (Some(12), Some(0)), "{status}");
    assert!(state["bytes"].as_u64().unwrap() > 1000, "{status}");
}

/// The producer keeps too few entries: those between the saved state and the last commit are gone.
/// Detectors go on without them, and everybody can see how many that were.
#[test]
fn entries_trimmed_before_their_traces_were_saved_are_counted() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("batch = 50", "[engine]\nbacklog = 200\ncheckpoint_every_ms = 3600000");
    project.feed(SYMBOLS, TICKS, &[]);
    let mut host = project.start(&["run", "--drain"]);
    redis.wait_processed(10_000);
    host.kill();
    let processed = redis.processed();
    trim(&redis, u64::from(TICKS) - processed + 1000);
    let log = project.run(&["run", "--drain"]);
    assert!(has_event(&log, "state_gap"), "{log}");
    let totals = redis.totals();
    assert_eq!(totals["state_gap"], processed - 1000);
    assert_eq!((totals["entries"], totals["lost"], redis.pending()), (u64::from(TICKS), 0, 0));
    assert!(
        text(&project.output(&["status"]).stdout)
            .contains(&format!("{} entries were trimmed before", processed - 1000))
    );
}

fn trim(redis: &Redis, left: u64) {
    let _: u64 = redis.ask(&format!("XTRIM {STREAM} MAXLEN = {left}"));
}

/// Redis hands out the first entry that is left and says nothing of those before it.
#[test]
fn entries_trimmed_before_they_were_read_are_counted() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(5, 1000, &[]);
    project.run(&["run", "--drain"]);
    project.feed(5, 1000, &[]);
    trim(&redis, 300);
    let log = project.run(&["run", "--drain"]);
    assert!(has_event_with(&log, "entries_trimmed", " entries=700 "), "{log}");
    let totals = redis.totals();
    assert_eq!((totals["entries"], totals["lost"], redis.pending()), (2000, 700, 0));
    assert_eq!(totals["state_gap"], 0);
    // Trimmed after it was processed: nobody's loss.
    project.feed(5, 100, &[]);
    trim(&redis, 150);
    project.run(&["run", "--drain"]);
    assert_eq!(redis.totals()["lost"], 700);
}

/// An entry that ends the process whenever it is processed would end every process after it. It is found
/// out, dead-lettered, never processed again, and costs none of its neighbours.
#[test]
fn an_entry_that_ends_the_process_each_time_is_set_aside() {
    let redis = Redis::start();
    let project = with_a_trap(&redis, "loop", 4);
    feed_with_a_trap(&redis, 40, 17);
    // Those of the first read are processed before the one that ends the process is read.
    let (mut deaths, mut before) = (0, 0);
    loop {
        let mut host = project.start(&["run", "--drain"]);
        // It hangs, and somebody loses patience with it; or it gets through.
        let done = wait_for("it is through, or hangs", || {
            let attempt: Option<String> = redis.connect().hget(CHECKPOINT, "attempt").unwrap();
            let hangs = match deaths {
                0 => {
                    before = redis.processed();
                    before + pending(&redis) == 40
                }
                // It is not on the account of the one that was tried first: that one is done.
                1 => {
                    redis.processed() == before + 1
                        && attempt.is_some_and(|attempt| attempt.ends_with(&format!(" {} 0 0", id(before + 1))))
                }
                _ => attempt.is_some_and(|attempt| attempt.ends_with(&format!(" {} 0 {}", id(17), deaths - 1))),
            };
            if hangs { Some(false) } else { (redis.processed() == 40).then_some(true) }
        });
        if done {
            assert_eq!(host.wait(), Some(0), "{}", host.log());
            break;
        }
        host.kill();
        deaths += 1;
        assert!(deaths < 10, "it is never set aside");
    }
    assert_eq!(deaths, 5, "one as a new entry, one among its neighbours, three alone");
    let letters = redis.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["entry"], id(17));
    assert!(letters[0]["reason"].contains("a host died each of the 4 times"), "{}", letters[0]["reason"]);
    assert_eq!(alerted(&redis), (1..=40).filter(|number| *number != 17).map(id).collect::<Vec<_>>());

    // A recovery that re-reads the stream leaves it out as well.
    let _: () = redis.connect().hdel(STATE, (0..256).map(|chunk| format!("c:{chunk}")).collect::<Vec<_>>()).unwrap();
    project.run(&["run", "--drain"]);
}

/// A watchdog, a probe or the kernel kills hosts early in their recovery, again and again. Each of these kills was
/// counted against the entry that was being tried, so five of them made a good entry a dead letter and cost its alert.
#[test]
fn kills_early_in_recovery_cost_no_good_entry() {
    let redis = Redis::start();
    // A good entry that takes long enough to be killed in the middle of.
    let project = with_a_trap(&redis, "long", 5);
    feed_with_a_trap(&redis, 5, 1);
    let mut host = project.start(&["run", "--drain"]);
    wait_for("the entries are given to it", || (pending(&redis) == 5).then_some(()));
    host.kill();
    let mark = || -> String {
        redis.connect().hget::<_, _, Option<String>>(CHECKPOINT, "attempt").unwrap().unwrap_or_default()
    };
    for _ in 0..6 {
        let before = mark();
        let mut host = project.start(&["run", "--drain"]);
        wait_for("the entry is marked", || (mark() != before).then_some(()));
        host.kill();
        assert_eq!(pending(&redis), 5, "it was killed before the entry was done\n{}", host.log());
    }
    for early in ["detector_loaded", "lease_acquired", "checkpoint_restored"] {
        let mut host = project.start(&["run", "--drain"]);
        host.wait_for_event(early);
        host.kill();
    }
    project.run(&["run", "--drain"]);
    assert_eq!(redis.dead_letters(), Vec::new());
    assert_eq!(alerted(&redis), (1..=5).map(id).collect::<Vec<_>>());
    assert!(mark().ends_with(" 0-0 0 0"), "the recovery has come to its end: {}", mark());
}

/// Entries that are pending anywhere; none while there is no group.
fn pending(redis: &Redis) -> u64 {
    let exists = request(&format!("XPENDING {STREAM} {GROUP}")).query::<redis::Value>(&mut redis.connect());
    if exists.is_ok() { redis.pending() } else { 0 }
}

/// Somebody writes over a part of the saved state: the detectors warm up again, which is said; what they know of the
/// others is the same afterwards.
#[test]
fn a_damaged_state_costs_its_own_symbol_alone() {
    let (redis, project) = stopped_in_the_middle();
    let state = state(&redis);
    let (field, packed) = state.iter().find(|(field, _)| field.starts_with("s:")).unwrap();
    let _: () = redis.connect().hset(STATE, field, &packed[..packed.len() / 2]).unwrap();
    let log = project.run(&["run", "--drain"]);
    let symbol = field.trim_start_matches("s:");
    assert!(has_event_with(&log, "state_damaged", symbol), "{log}");
    let others = |alerts: Vec<BTreeMap<String, String>>| -> Vec<_> {
        contents(&alerts.into_iter().filter(|alert| alert["symbol"] != symbol).collect::<Vec<_>>())
    };
    assert!(others(redis.alerts()) == others(project.reference(&redis)), "the others are disturbed");
}

/// Saved under other parameters, a state means something else. The stream itself has what they need.
#[test]
fn a_detector_with_other_parameters_is_warmed_up_from_the_stream() {
    let (redis, project) = stopped_in_the_middle();
    let before = redis.alerts().len();
    project.configure("[detectors.breakout.params]\nwindow_s = 200\n");
    let log = project.run(&["run", "--drain"]);
    let active = "breakout 0.1.0 (rewarmed), momentum 0.1.0 (restored)";
    assert!(has_event_with(&log, "generation_activated", active), "{log}");
    let alerts = contents(&redis.alerts()[before..]);
    let since = |alert: &&Vec<(String, String)>| alerts.iter().any(|known| entry(known) <= entry(alert));
    let reference = contents(&project.reference(&redis));
    let expected: Vec<_> = reference.iter().filter(since).cloned().collect();
    assert!(alerts.len() > 20 && alerts == expected, "{} alerts, expected {}", alerts.len(), expected.len());
}

fn entry(alert: &[(String, String)]) -> EntryId {
    alert.iter().find(|(name, _)| name == "entry").unwrap().1.parse().unwrap()
}

/// Many symbols, few ticks each: saved in many small parts, restored by another number of workers.
/// `cargo test --release --test it ten_thousand -- --nocapture` tells how long the way back is.
#[test]
fn ten_thousand_symbols_are_known_again_after_a_kill() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(
        "[alerts]\nlog = false\nmaxlen = 0\n[detectors.each]\nplugin = \"misbehaving\"\n[engine]\nworkers = 2",
    );
    project.feed(10_000, 200_000, &[]);
    let mut host: Host = project.start(&["run"]);
    redis.wait_processed(150_001);
    host.kill();
    let killed = Instant::now();
    let alerts_before: u64 = redis.connect().xlen(ALERTS).unwrap();
    let next = project.start_with(&["run"], &[("TICKHOUND_ENGINE__WORKERS", "3")]);
    let fresh = wait_for("a fresh alert", || {
        let (_, newest) = redis.newest(ALERTS, 1).remove(0);
        let alerts: u64 = redis.connect().xlen(ALERTS).unwrap();
        (alerts > alerts_before && newest["recovered"] == "0").then(|| killed.elapsed())
    });
    next.wait_for_event("checkpoint_restored");
    let log = next.log();
    let told = lines_of(&log, "checkpoint_restored")[0];
    println!("kill to first fresh alert: {} ms; {told}", fresh.as_millis());
    redis.wait_all_processed(200_000);
    drop(next);
    let alerts = redis.alerts();
    let reference = project.reference(&redis);
    assert_eq!(alerts.len(), reference.len());
    assert!(contents(&alerts) == contents(&reference), "not as if undisturbed");
}
