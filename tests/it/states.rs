//! What is saved of symbols, when detectors change, hosts are killed, and somebody damages it: a probe alerts on every
//! tick with a hash of all that its symbol has seen, so whatever was lost, repeated or seen by the wrong one shows.

use std::{collections::BTreeMap, fs, path::Path};

use redis::Commands;
use tickhound_core::checkpoint::chunk_of;

use crate::{
    support::{
        Alert, CHECKPOINT, EPOCH, Host, Project, Redis, STATE, STREAM, Sighting, assert_chains, has_event,
        has_event_with, lines_of, probe, probe_changed, text, wait_for,
    },
    time::state_of,
};

/// 2025-11-24 10:15:30 in Kolkata, ms.
const THEN: u64 = 1_763_959_530_000;
const DAY_MS: u64 = 86_400_000;

const PROBE: &str = "[detectors.probe]\nplugin = \"probe\"\n";

/// A market of a few ticks, and a client that observes it.
struct Market {
    redis: Redis,
    project: Project,
    fed: u64,
}

impl Market {
    /// Nothing is saved but what must be, when it must be.
    fn new(detectors: &str) -> Self {
        let redis = Redis::start();
        let project = Project::new(&redis);
        project.add_plugin(&probe());
        let market = Self { redis, project, fed: 0 };
        market.configure(detectors);
        market
    }

    fn configure(&self, detectors: &str) {
        self.project.write_config(&format!(
            "[stream]\nurl = \"{}\"\nblock_ms = 100\n[engine]\ncheckpoint_every_ms = 3600000\n{detectors}",
            self.redis.url()
        ));
    }

    /// One tick of each symbol, so often.
    fn feed(&mut self, symbols: &str, times: usize) {
        for symbol in symbols.split(' ').cycle().take(times * symbols.split(' ').count()) {
            self.fed += 1;
            self.tick("*", symbol, THEN + self.fed);
        }
    }

    fn tick(&self, id: &str, symbol: &str, time: u64) {
        let fields = [("symbol", symbol), ("ltp", "100"), ("timestamp", &time.to_string())];
        let _: String = self.redis.connect().xadd(STREAM, id, &fields).unwrap();
    }

    fn drain(&self) -> String {
        self.project.run(&["run", "--drain"])
    }

    /// As [`Market::feed`], and waits until the host that runs has processed all.
    fn feed_live(&mut self, symbols: &str, times: usize) {
        self.feed(symbols, times);
        self.redis.wait_all_processed(self.fed);
    }

    /// As [`Market::feed`], while no host runs, and has one process all; its log.
    fn feed_and_drain(&mut self, symbols: &str, times: usize) -> String {
        self.feed(symbols, times);
        self.drain()
    }

    /// Makes a change and waits until it is in force, and has been committed.
    fn change(&mut self, host: &Host, generation: u32, change: impl FnOnce(&Self)) {
        change(self);
        host.wait_for_event_with("generation_activated", &format!(" generation={generation} "));
    }

    fn replace_plugin(&self, plugin: &Path) {
        let part = self.project.path("plugins/part");
        fs::copy(plugin, &part).unwrap();
        fs::rename(part, self.project.path("plugins/probe.wasm")).unwrap();
    }

    /// What the detector has found, by symbol.
    fn found(&self, detector: &str) -> BTreeMap<String, Vec<Sighting>> {
        let mut found: BTreeMap<String, Vec<Sighting>> = BTreeMap::new();
        for alert in self.redis.alerts().iter().filter(|alert| alert["detector"] == detector) {
            found.entry(alert["symbol"].clone()).or_default().push(Sighting::of(alert));
        }
        found
    }

    fn seen(&self, detector: &str, symbol: &str) -> Vec<u64> {
        self.found(detector).remove(symbol).unwrap_or_default().iter().map(|sighting| sighting.seen).collect()
    }

    /// There is an alert of each tick, about all before it, each as it was seen then.
    fn assert_unbroken(&self) {
        let alerts = self.redis.alerts();
        let of_probe: Vec<&Alert> = alerts.iter().filter(|alert| alert["detector"] == "probe").collect();
        assert_eq!(of_probe.len() as u64, self.fed);
        assert_chains(of_probe);
    }

    fn state(&self) -> BTreeMap<String, Vec<u8>> {
        self.redis.connect().hgetall(STATE).unwrap()
    }

    fn set(&self, key: &str, field: &str, value: &[u8]) {
        let _: () = self.redis.connect().hset(key, field, value).unwrap();
    }
}

/// A release of the same state version that behaves otherwise was dropped in, and the host was killed before the next
/// save: the ticks from before the change were then re-read by the new code, and every later alert was another one.
#[test]
fn what_was_processed_before_a_change_is_not_re_read_by_the_new_code() {
    let mut market = Market::new(PROBE);
    let mut host = market.project.start_owner();
    market.feed_live("A B", 5);
    market.change(&host, 2, |market| market.replace_plugin(&probe_changed()));
    market.feed_live("A B", 1);
    host.kill();
    let log = market.feed_and_drain("A B", 5);
    market.assert_unbroken();
    assert!(!has_event(&log, "replayed_by_changed_detector"), "{log}");
    let by: Vec<u64> = market.found("probe")["A"].iter().map(|sighting| sighting.by).collect();
    assert_eq!(by, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
}

/// A widened filter, then a kill before the next save: a restart showed the detector ticks that it had not been given
/// when they came. And a symbol that was filtered out and in again: memory went on with its old state, a restart with
/// a new one. Now both begin anew.
#[test]
fn a_symbol_that_is_wanted_again_begins_anew_live_as_after_a_kill() {
    let narrow = "[detectors.probe]\nplugin = \"probe\"\nsymbols = [\"A\"]\n";
    let mut market = Market::new(narrow);
    let mut host = market.project.start_owner();
    market.feed_live("A B", 3);
    market.change(&host, 2, |market| market.configure(PROBE));
    market.feed_live("A B", 1);
    host.kill();
    let mut host = market.project.start_owner();
    market.feed_live("A B", 2);
    assert_eq!(market.seen("probe", "B"), [1, 2, 3], "it was not wanted at first");
    market.change(&host, 2, |market| market.configure(narrow));
    market.feed_live("A B", 2);
    market.change(&host, 3, |market| market.configure(PROBE));
    market.feed_live("A B", 2);
    assert_eq!(market.seen("probe", "B"), [1, 2, 3, 1, 2], "it was not wanted for a while");
    host.kill();
    market.feed_and_drain("A B", 1);
    assert_eq!(market.seen("probe", "B"), [1, 2, 3, 1, 2, 3], "after a kill as before it");
    assert_eq!(market.seen("probe", "A"), (1..=11).collect::<Vec<_>>(), "the other one goes on all the time");
}

/// The same while no host runs: what is saved of a symbol that is not wanted goes with the next start.
#[test]
fn a_symbol_that_was_not_wanted_by_a_host_in_between_begins_anew() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A B", 3);
    market.configure("[detectors.probe]\nplugin = \"probe\"\nsymbols = [\"A\"]\n");
    market.feed_and_drain("A", 1);
    market.configure(PROBE);
    market.feed_and_drain("A B", 1);
    assert_eq!((market.seen("probe", "A"), market.seen("probe", "B")), (vec![1, 2, 3, 4, 5], vec![1, 2, 3, 1]));
}

/// A detector that came in the middle of the stream, without a warm-up: after a kill it knew what was before it came.
#[test]
fn a_detector_that_came_cold_does_not_know_more_after_a_kill() {
    let cold = "[plugins]\nrewarm_s = 0\n[detectors.probe]\nplugin = \"probe\"\n";
    let mut market = Market::new(cold);
    let mut host = market.project.start_owner();
    market.feed_live("A", 3);
    market.change(&host, 2, |market| market.configure(&format!("{cold}[detectors.second]\nplugin = \"probe\"\n")));
    market.feed_live("A", 1);
    host.kill();
    market.feed_and_drain("A", 2);
    assert_eq!(market.seen("second", "A"), [1, 2, 3]);
    market.assert_unbroken();
}

/// One that was warmed up first knows all that the stream held, and after a kill just that.
#[test]
fn a_detector_that_was_warmed_up_knows_the_same_after_a_kill() {
    let mut market = Market::new(PROBE);
    let mut host = market.project.start_owner();
    market.feed_live("A", 3);
    market.change(&host, 2, |market| market.configure(&format!("{PROBE}[detectors.second]\nplugin = \"probe\"\n")));
    market.feed_live("A", 1);
    host.kill();
    market.feed_and_drain("A", 2);
    assert_eq!(market.seen("second", "A"), [4, 5, 6]);
    assert_eq!(state_of(&market.redis, "second"), "restored");
}

/// A change while no host runs cannot be told from the states alone: the old code is gone. That is said.
#[test]
fn entries_that_another_detector_replays_are_reported() {
    let mut market = Market::new(PROBE);
    let mut host = market.project.start_owner();
    market.feed_live("A B", 5);
    host.kill();
    market.replace_plugin(&probe_changed());
    let log = market.feed_and_drain("A B", 1);
    let told = lines_of(&log, "replayed_by_changed_detector");
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("detectors=\"probe\"") && told[0].contains("entries=10"), "{}", told[0]);
    // After a stop in order there is nothing to be re-read.
    market.replace_plugin(&probe());
    let log = market.feed_and_drain("A B", 1);
    assert!(!has_event(&log, "replayed_by_changed_detector"), "{log}");
}

/// A boundary that could not be read meant "from the beginning": states were fed everything once more, without a word,
/// and all later alerts were wrong.
#[test]
fn a_damaged_boundary_costs_a_warm_up_and_nothing_else() {
    type Damage = fn(&Market);
    let cases: [(&str, Damage); 3] = [
        ("cut off", |market| {
            let field = format!("c:{}", chunk_of("A"));
            market.set(STATE, &field, &market.state()[&field][..9]);
        }),
        ("tampered with", |market| {
            // As if it had been saved one entry before.
            let field = format!("c:{}", chunk_of("A"));
            let ids = market.redis.stream_entries(STREAM);
            let boundary = text(&market.state()[&field]);
            let newest = boundary.split(' ').find(|word| word.contains('-') && word.len() > 9).unwrap();
            let moved = boundary.replace(newest, &ids[1].0);
            assert_ne!(moved, boundary);
            market.set(STATE, &field, moved.as_bytes());
        }),
        ("all of them", |market| {
            (0..256).for_each(|chunk| market.set(STATE, &format!("c:{chunk}"), b"\xff\x00 nonsense"));
        }),
    ];
    for (what, damage) in cases {
        let mut market = Market::new(PROBE);
        market.feed_and_drain("A B", 5);
        damage(&market);
        let log = market.feed_and_drain("A B", 5);
        assert!(has_event(&log, "boundary_damaged"), "{what}: {log}");
        market.assert_unbroken();
        // It was mended with the first commit.
        let log = market.feed_and_drain("A B", 1);
        assert!(!has_event(&log, "boundary_damaged"), "{what}: {log}");
        assert!(has_event_with(&log, "checkpoint_restored", "symbols=2 entries=0"), "{what}: {log}");
        market.assert_unbroken();
    }
}

/// A state that could not be read was only logged: its detectors went on as if they had never seen the symbol, and the
/// checkpoint went on saying that they knew everything.
#[test]
fn whoever_lacks_a_state_is_warmed_up_however_often_the_host_is_killed() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A B", 5);
    let field = "s:A";
    market.set(STATE, field, &market.state()[field][..20]);
    // One that must not warm anything up, and is killed: what it lacks is not forgotten.
    let cold = format!("[plugins]\nrewarm_s = 0\n{PROBE}");
    market.configure(&cold);
    let mut host = market.project.start_owner();
    host.wait_for_event("state_damaged");
    market.feed_live("B", 1);
    host.kill();
    market.configure(PROBE);
    let log = market.feed_and_drain("A B", 2);
    assert!(has_event_with(&log, "generation_activated", "probe 0.1.0 (rewarmed)"), "{log}");
    assert_eq!(market.seen("probe", "A"), [1, 2, 3, 4, 5, 6, 7]);
    market.assert_unbroken();
}

/// The checkpoint says where the last commit was. Unreadable, it meant that nothing had been processed: the host began
/// anew, and said nothing.
#[test]
fn a_damaged_checkpoint_or_one_of_a_later_release_is_left_alone() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A B", 5);
    market.feed("A B", 5);
    let (checkpoint, state): (BTreeMap<String, Vec<u8>>, _) =
        (market.redis.connect().hgetall(CHECKPOINT).unwrap(), market.state());
    let boundary = format!("c:{}", chunk_of("A"));
    let cases: [(&str, &str, &[u8], &str); 7] = [
        (CHECKPOINT, "last", b"garbage", "is damaged"),
        (CHECKPOINT, "last", b"\xff\xfe", "is damaged"),
        (CHECKPOINT, "clock_time", b"17", "is damaged"),
        (CHECKPOINT, "entries", b"9", "is damaged"),
        (CHECKPOINT, "seal", b"v3 0 0", "written by a later release"),
        (STATE, &boundary, b"v3 whatever", "written by a later release"),
        (STATE, "s:A", b"\x09 whatever", "written by a later release"),
    ];
    for (key, field, value, reason) in cases {
        market.set(key, field, value);
        let epoch: u64 = market.redis.connect().get(EPOCH).unwrap();
        let output = market.project.output(&["run", "--drain"]);
        let log = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{field}: {log}");
        assert!(log.contains(reason) && log.contains(key), "{field}: {log}");
        assert_eq!(market.redis.alerts().len(), 10, "{field}");
        if key == CHECKPOINT {
            assert_eq!(market.redis.connect().get::<_, u64>(EPOCH).unwrap(), epoch, "it was never owner: {field}");
        }
        let (before, now) = match key {
            CHECKPOINT => (checkpoint.get(field), market.redis.connect().hget(CHECKPOINT, field).unwrap()),
            _ => (state.get(field), market.redis.connect().hget(STATE, field).unwrap()),
        };
        assert_eq!(value, Vec::<u8>::as_slice(&now), "it was left as it is: {field}");
        market.set(key, field, before.unwrap());
    }
    market.drain();
    market.assert_unbroken();
}

/// A symbol without a tick for a month is forgotten at a start. It came back before the first visit, which then deleted
/// what it had just saved: after the next restart the symbol was new once more.
#[test]
fn a_forgotten_symbol_that_comes_back_is_remembered() {
    let market = Market::new(PROBE);
    let tick = |symbol: &str, day: u64, number: u64| {
        let time = THEN + day * DAY_MS + number;
        market.tick(&format!("{time}-0"), symbol, time);
    };
    tick("A", 0, 1);
    market.drain();
    tick("B", 40, 1);
    market.drain();
    tick("A", 40, 2);
    tick("A", 40, 3);
    market.drain();
    tick("A", 40, 4);
    market.drain();
    assert_eq!(market.seen("probe", "A"), [1, 1, 2, 3]);
}

/// An entry that must not be processed again was forgotten once every boundary lay behind it. A warm-up reads from before
/// every boundary: it met the entry, and the process ended as before.
#[test]
fn a_poisonous_entry_is_left_out_of_warm_ups_as_long_as_the_stream_holds_it() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A", 3);
    let entries = market.redis.stream_entries(STREAM);
    market.set(STATE, &format!("p:{}", entries[1].0), b"1");
    for _ in 0..2 {
        market.feed_and_drain("A", 1);
    }
    market.configure(&format!("{PROBE}[detectors.second]\nplugin = \"probe\"\n"));
    market.feed_and_drain("A", 1);
    assert_eq!(market.seen("second", "A"), [5], "six entries, one of them poisonous");
}

/// The server lost all its data, and the host went on with what it knew: it saved the states that had changed since it
/// last saved them, under boundaries that said that this was all. After the next start the others were unknown.
#[test]
fn all_is_saved_again_on_a_server_that_has_lost_everything() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A B", 3);
    let mut host = market.project.start_owner();
    market.feed_live("B", 1);
    let _: () = market.redis.ask("FLUSHALL");
    wait_for("the state is saved again", || market.state().contains_key("s:B").then_some(()));
    host.kill();
    market.feed_and_drain("A B", 1);
    assert_eq!((market.seen("probe", "A"), market.seen("probe", "B")), (vec![4], vec![5]));
}

/// Somebody deleted the checkpoint, and with it all that is known of what was processed. What was saved of symbols stayed,
/// and was taken for the present state of those that had no tick until the next start.
#[test]
fn without_a_checkpoint_nothing_that_was_saved_comes_back() {
    let mut market = Market::new(PROBE);
    market.feed_and_drain("A B", 3);
    let _: () = market.redis.connect().del(CHECKPOINT).unwrap();
    market.feed_and_drain("A", 1);
    market.feed_and_drain("A B", 1);
    assert_eq!((market.seen("probe", "A"), market.seen("probe", "B")), (vec![1, 2, 3, 1, 2], vec![1, 2, 3, 1]));
}
