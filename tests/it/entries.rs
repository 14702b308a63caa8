//! What anyone who can add an entry may do: huge and hidden symbols, times that are ahead, more symbols than there is memory
//! for. The honest ticks beside them raise the alerts of an undisturbed run.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Commands, Connection};

use crate::support::{
    Alert, DEAD, LEASE, Project, Redis, STATE, STREAM, Sighting, contents, count_event, has_event, has_event_with,
    lines_of, misbehaving, mixed, probe_clock, text, wait_for,
};

/// 2025-11-24 10:15:30 in Kolkata, ms.
const THEN: u64 = 1_763_959_530_000;

fn add(connection: &mut Connection, id: &str, fields: &[(&str, &[u8])]) {
    let _: String = connection.xadd(STREAM, id, fields).unwrap();
}

/// The id and the fields of an entry, byte for byte.
type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// A tick with this arrival and stamp.
struct Tick {
    arrived_ms: u64,
    symbol: String,
    stamp_ms: u64,
}

/// Adds ticks under ids that do not depend on when the test is run. The first of them is the tick of this number.
fn publish(connection: &mut Connection, ticks: &[Tick], first: usize) {
    let mut pipe = redis::pipe();
    for (number, Tick { arrived_ms, symbol, stamp_ms }) in (first..).zip(ticks) {
        let (price, stamp) = ((100 + number % 7).to_string(), stamp_ms.to_string());
        let fields = [("symbol", symbol), ("ltp", &price), ("timestamp", &stamp)];
        pipe.xadd(STREAM, format!("{arrived_ms}-{}", number + 1), &fields).ignore();
    }
    let _: () = pipe.query(connection).unwrap();
}

/// Four entries with symbols of 70 MB filled the memory of a detector, which was then in quarantine for all symbols.
#[test]
fn symbols_of_70_mb_are_dead_letters_and_change_no_alert() {
    let (redis, undisturbed) = (Redis::start(), Redis::start());
    let (project, reference) = (Project::new(&redis), Project::new(&undisturbed));
    project.feed(5, 3000, &[]);
    let honest: usize = redis.ask(&format!("XLEN {STREAM}"));
    let mut connection = redis.connect();
    let huge = vec![b'X'; 70 << 20];
    (0..2).for_each(|_| add(&mut connection, "*", &[("symbol", &huge), ("ltp", b"1")]));
    let json = [b"{\"ltp\":1,\"symbol\":\"".as_slice(), &huge, b"\"}"].concat();
    add(&mut connection, "*", &[("data", &json)]);
    let length = (huge.len() as u32).to_be_bytes();
    let msgpack = [b"\x82\xa3ltp\x01\xa6symbol\xdb".as_slice(), &length, &huge].concat();
    add(&mut connection, "*", &[("data", &msgpack)]);
    assert_eq!(redis.ask::<usize>(&format!("XLEN {STREAM}")), honest + 4);
    project.feed(5, 3000, &["--seed", "2"]);
    let mut copy = undisturbed.connect();
    let entries: Vec<Entry> = redis.ask(&format!("XRANGE {STREAM} - +"));
    for (id, fields) in entries.iter().filter(|(_, fields)| fields.iter().all(|(_, value)| value.len() < 1 << 20)) {
        let _: String = copy.xadd(STREAM, id, fields).unwrap();
    }
    let log = project.run(&["run", "--drain"]);
    reference.run(&["run", "--drain"]);
    assert!(contents(&redis.alerts()) == contents(&undisturbed.alerts()) && !redis.alerts().is_empty());
    let letters = redis.dead_letters();
    assert_eq!(letters.len(), 4, "{letters:?}");
    for letter in letters {
        assert_eq!(letter["reason"], "unusable symbol: it is longer than 128 bytes");
        assert!(letter["raw"].len() < 10_000 && letter["raw"].contains("\"bytes\":734003"), "{}", letter["raw"].len());
    }
    assert!(!has_event(&log, "detector_failed_on_tick"), "{log}");
    let requeue = project.output(&["dead", "requeue", "--all"]);
    let said = [requeue.stdout, requeue.stderr].concat();
    assert!(String::from_utf8_lossy(&said).contains("only the beginning"), "{}", String::from_utf8_lossy(&said));
    assert_eq!(redis.ask::<usize>(&format!("XLEN {DEAD}")), 4);
}

/// Reads are sized by the entries before. So when many huge entries followed small ones, all of them were received at once,
/// and the host was larger than they were.
#[test]
fn huge_entries_behind_small_ones_are_read_a_few_at_a_time() {
    const HUGE: usize = 8 << 20;
    let redis = Redis::start();
    // The server may be busy for long, which is another failure than the one that this is about.
    let project = Project::with_probe(redis.url(), "timeout_ms = 60000\nlease_ms = 60000", "");
    let mut host = project.start_owner();
    let mut connection = redis.connect();
    for number in 0..1000 {
        let stamp = (THEN + number).to_string();
        add(&mut connection, "*", &[("symbol", b"A"), ("ltp", b"100"), ("timestamp", stamp.as_bytes())]);
    }
    redis.wait_processed(1000);
    // All at once, so that one read can have them all.
    let huge = redis::Script::new(
        r"for number = 1000, 1099 do
            redis.call('XADD', KEYS[1], '*', 'symbol', 'A', 'ltp', 100, 'note', number < 1060 and ARGV[1] or '')
        end",
    );
    let _: () = huge.key(STREAM).arg(vec![b'x'; HUGE]).invoke(&mut connection).unwrap();
    redis.wait_all_processed(1100);
    host.wait_for_event_with("redis_unavailable", "entries of more than 64 MiB in one read; reading fewer at once");
    let peak = host.peak_memory_mib();
    println!("60 entries of {} MiB took {peak} MiB", HUGE >> 20);
    assert!(peak < 400, "{peak} MiB at its peak");
    host.stop();
    let seen: Vec<u64> = redis.alerts().iter().map(|alert| Sighting::of(alert).seen).collect();
    assert!(seen == (1..=1100).collect::<Vec<_>>(), "each tick once, in order");
}

/// A recovery reads its pages again after each failure. It failed at the same one each time, so that no host could start any
/// more.
#[test]
fn a_recovery_and_a_replay_get_past_huge_entries_behind_small_ones() {
    const HUGE: usize = 600_000;
    let redis = Redis::start();
    let project = Project::with_probe(
        redis.url(),
        "timeout_ms = 60000\nlease_ms = 60000\nmax_deliveries = 50",
        // Nothing is saved before the kill.
        "[engine]\ncheckpoint_every_ms = 3600000",
    );
    let mut host = project.start_owner();
    let mut connection = redis.connect();
    let add_all = redis::Script::new(
        r"for number = 1, 460 do
            redis.call('XADD', KEYS[1], '*', 'symbol', 'A', 'ltp', 100, 'timestamp', ARGV[1],
                'note', number > 300 and ARGV[2] or '')
        end",
    );
    let _: () = add_all.key(STREAM).arg(THEN).arg(vec![b'x'; HUGE]).invoke(&mut connection).unwrap();
    redis.wait_all_processed(460);
    host.kill();
    let _: () = redis.ask(&format!("DEL {LEASE}"));
    add(&mut connection, "*", &[("symbol", b"A"), ("ltp", b"100"), ("timestamp", THEN.to_string().as_bytes())]);
    let log = project.run(&["run", "--drain"]);
    let too_large = "entries of more than 64 MiB in one read; reading fewer at once";
    assert!(has_event_with(&log, "redis_unavailable", too_large), "{log}");
    assert!(has_event_with(&log, "checkpoint_restored", "entries=460"), "{log}");
    let seen: Vec<u64> = redis.alerts().iter().map(|alert| Sighting::of(alert).seen).collect();
    assert!(seen == (1..=461).collect::<Vec<_>>(), "each tick once, in order");

    project.run(&["replay", "--stream", "--out", "replayed.jsonl"]);
    let replayed = std::fs::read_to_string(project.path("replayed.jsonl")).unwrap();
    assert_eq!(replayed.lines().count(), 461);
}

/// A symbol could write a line to the log that looked like an alert, and drive the terminal that showed it.
#[test]
fn symbols_with_hidden_characters_are_dead_letters_that_name_the_character() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let mut connection = redis.connect();
    let hidden = [
        ("A\u{1b}]0;owned\u{7}", "U+001B, a control character"),
        ("A\n✅ [BREAKOUT] A - DETECTED: 0.99 confidence", "U+000A, a control character"),
        ("A\u{2028}B", "U+2028, a line break"),
        ("A\u{202e}B", "U+202E, a character that changes the direction of text"),
        ("A\u{200d}B", "U+200D, an invisible character"),
    ];
    for (symbol, _) in hidden {
        add(&mut connection, "*", &[("symbol", symbol.as_bytes()), ("ltp", b"1")]);
        let json = serde_json::json!({ "symbol": symbol, "ltp": 1 }).to_string();
        add(&mut connection, "*", &[("data", json.as_bytes())]);
        // A list with such a symbol gives its other ticks.
        let json =
            serde_json::json!([{ "symbol": "NIFTY 50", "ltp": 1, "timestamp": THEN }, { "symbol": symbol, "ltp": 1 }]);
        add(&mut connection, "*", &[("data", json.to_string().as_bytes())]);
    }
    let log = project.run(&["run", "--drain"]);
    let reasons: Vec<String> =
        redis.dead_letters().into_iter().map(|mut letter| letter.remove("reason").unwrap()).collect();
    let expected =
        hidden.map(|(_, reason)| [(); 3].map(|()| format!("unusable symbol: it contains {reason}"))).concat();
    assert_eq!(reasons, expected);
    let seen: Vec<u64> = redis.alerts().iter().map(|alert| Sighting::of(alert).seen).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5], "of the honest symbol");
    assert!(!log.contains(['\u{1b}', '\u{202e}', '\u{2028}']) && !log.contains("DETECTED"), "{log}");
    let states: Vec<String> = redis.connect().hkeys(STATE).unwrap();
    assert_eq!(states.iter().filter(|field| field.starts_with("s:")).collect::<Vec<_>>(), ["s:NIFTY 50"]);
}

/// An earlier release accepted any symbol and saved its state, which was dropped without a word.
#[test]
fn saved_states_of_symbols_that_are_unusable_now_are_dropped_with_one_warning() {
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "");
    let mut connection = redis.connect();
    let tick: [(&str, &[u8]); 3] = [("symbol", b"A"), ("ltp", b"1"), ("timestamp", b"1763959530000")];
    add(&mut connection, "*", &tick);
    project.run(&["run", "--drain"]);
    let state: Vec<u8> = connection.hget(STATE, "s:A").unwrap();
    for hidden in ["s:A\u{202e}B", "s:A\u{7}"] {
        let _: () = connection.hset(STATE, hidden, &state).unwrap();
    }
    add(&mut connection, "*", &tick);
    let log = project.run(&["run", "--drain"]);
    let lines = lines_of(&log, "unusable_symbols_forgotten");
    assert!(lines.len() == 1 && lines[0].contains("symbols=2"), "{log}");
    assert!(!log.contains(['\u{7}', '\u{202e}']), "{log}");
    let saved: Vec<String> = connection.hkeys(STATE).unwrap();
    assert_eq!(saved.iter().filter(|field| field.starts_with("s:")).collect::<Vec<_>>(), ["s:A"]);
    let seen: Vec<u64> = redis.alerts().iter().map(|alert| Sighting::of(alert).seen).collect();
    assert_eq!(seen, [1, 2], "what else was saved stays");
    assert!(!has_event(&project.run(&["run", "--drain"]), "unusable_symbols_forgotten"));
}

/// One tick stamped 299 s ahead moved the clock there: no detector saw time pass until the feed had caught up, and the later
/// ticks of the symbol all got that time.
#[test]
fn a_tick_stamped_299_s_ahead_blinds_no_clock_and_mutes_no_symbol() {
    let ticks = |poisoned: Option<u64>| -> Vec<Tick> {
        let mut ticks = Vec::new();
        for at in (THEN..THEN + 60_000).step_by(100) {
            let symbol = ["A", "B", "C"][(at / 100 % 3) as usize];
            ticks.push(Tick { arrived_ms: at + 20, symbol: symbol.into(), stamp_ms: at });
            if poisoned == Some(at) {
                ticks.push(Tick { arrived_ms: at + 21, symbol: "A".into(), stamp_ms: at + 299_000 });
            }
        }
        ticks
    };
    // Each alert of the probe is one row: of a tick, or of the clock.
    let rows = |poisoned: Option<u64>, workers: usize, batch: usize| -> Vec<Alert> {
        let redis = Redis::start();
        let more = format!("[detectors.clock]\nplugin = \"probe_clock\"\n[engine]\nworkers = {workers}");
        let project = Project::with_probe(redis.url(), &format!("batch = {batch}"), &more);
        project.add_plugin(&probe_clock());
        publish(&mut redis.connect(), &ticks(poisoned), 0);
        project.run(&["run", "--drain"]);
        redis.alerts().into_iter().filter(|alert| alert["detector"] == "clock").collect()
    };
    let poisoned_at = THEN + 20_000;
    let (honest, poisoned) = (rows(None, 1, 500), rows(Some(poisoned_at), 1, 500));
    assert!(contents(&poisoned) == contents(&rows(Some(poisoned_at), 3, 7)), "whatever the workers and batches");
    let times = |alerts: &[Alert], beyond: bool| -> BTreeSet<(String, u64)> {
        let rows =
            alerts.iter().map(|alert| (alert["symbol"].clone(), alert["time"].parse::<u64>().unwrap() / 1_000_000));
        // The arrival allows two seconds.
        rows.filter(|(_, ms)| (*ms > poisoned_at + 2021) == beyond && (*ms <= poisoned_at || beyond)).collect()
    };
    assert_eq!(times(&poisoned, false), times(&honest, false));
    assert_eq!(times(&poisoned, true), times(&honest, true));
    assert!(times(&honest, true).len() > 400);
}

/// A feed of symbols that come and go, with some that are always traded.
fn passing_symbols(count: u64) -> Vec<Tick> {
    // Names in another order than that of the ticks.
    let passing = |number: u64| format!("S{:x}", mixed(number) >> 44);
    (0..count)
        .map(|number| {
            let symbol = match number % 4 {
                0 => format!("BUSY{}", number % 3),
                // Each is traded three times within a hundred ticks, and once more long after that.
                1 | 2 => passing(number / 100 * 20 + number % 20),
                _ => passing((number / 100).saturating_sub(6) * 20 + number % 7),
            };
            let at = THEN + number * 10;
            Tick { arrived_ms: at, symbol, stamp_ms: at }
        })
        .collect()
}

/// The number of symbols was not limited. Which symbol makes room must be the same for any number of workers, any batches,
/// and after any kill, since it decides what detectors know.
#[test]
fn the_longest_silent_symbols_make_room_whatever_the_workers_batches_and_kills() {
    let ticks = passing_symbols(3000);
    let symbols_max = 48;
    let mut expected: Option<Vec<Alert>> = None;
    for (workers, batch, kills) in [(1, 500, 0), (1, 1, 0), (3, 7, 0), (2, 40, 6), (3, 11, 6)] {
        let redis = Redis::start();
        let more = format!(
            "[engine]\nworkers = {workers}\nsymbols_max = {symbols_max}\ncheckpoint_every_ms = 10\nbacklog = {}\n\
             [detectors.more]\nplugin = \"probe\"\nsymbols = [\"S*\"]\ncooldown_s = 2.0",
            batch * 4
        );
        let project = Project::with_probe(redis.url(), &format!("batch = {batch}"), &more);
        let per_kill = ticks.len() / (kills + 1);
        let mut connection = redis.connect();
        let mut log = String::new();
        for (number, part) in ticks.chunks(per_kill).enumerate() {
            if number < kills {
                let mut host = project.start(&["run"]);
                host.wait_for_event("lease_acquired");
                let before = redis.processed();
                publish(&mut connection, part, number * per_kill);
                // Somewhere within the part.
                redis.wait_processed(before + (part.len() as u64 * (number as u64 + 1)) / 8);
                host.kill();
                log += &host.log();
            } else {
                publish(&mut connection, part, number * per_kill);
            }
        }
        log += &project.run(&["run", "--drain"]);
        assert!(count_event(&log, "symbols_evicted") > 20, "{log}");
        let alerts = redis.alerts();
        let saved: Vec<String> = redis.connect().hkeys(STATE).unwrap();
        let saved = saved.iter().filter(|field| field.starts_with("s:")).count();
        assert!(saved <= symbols_max, "{saved} saved states");
        assert_eq!((redis.pending(), redis.dead_letters()), (0, Vec::new()));
        let expected = expected.get_or_insert_with(|| alerts.clone());
        assert!(contents(&alerts) == contents(expected), "{workers} workers, batches of {batch}, {kills} kills");
    }
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for alert in expected.unwrap().iter().filter(|alert| alert["detector"] == "probe") {
        seen.entry(alert["symbol"].clone()).or_default().push(Sighting::of(alert).seen);
    }
    let begins = |seen: &[u64]| seen.iter().filter(|seen| **seen == 1).count();
    assert!(seen.iter().all(|(symbol, seen)| !symbol.starts_with("BUSY") || begins(seen) == 1), "what is traded stays");
    assert!(seen.values().filter(|seen| begins(seen) > 1).count() > 50, "what comes back begins anew");
}

/// A host that ended right after the entry with too many symbols had committed that entry, and not the eviction behind it.
#[test]
fn an_eviction_that_a_host_did_not_live_to_make_is_made_by_the_next_one() {
    let ticks = passing_symbols(1500);
    let symbols_max = 48;
    let mut known = BTreeSet::new();
    let is_one_too_many = |tick: &Tick| known.insert(tick.symbol.clone()) && known.len() > symbols_max;
    let through = ticks.iter().map(is_one_too_many).position(|is_too_many| is_too_many).unwrap() + 1;
    let alerts = |limit_before: usize| {
        let redis = Redis::start();
        let project = Project::with_probe(redis.url(), "", "[engine]\nworkers = 2");
        for (part, first, limit) in [(&ticks[..through], 0, limit_before), (&ticks[through..], through, symbols_max)] {
            publish(&mut redis.connect(), part, first);
            let limit = limit.to_string();
            let output =
                project.command(&["run", "--drain"]).env("TICKHOUND_ENGINE__SYMBOLS_MAX", limit).output().unwrap();
            let (log, expected) = (text(&output.stdout), first > 0 || limit_before == symbols_max);
            assert!(output.status.success() && has_event(&log, "symbols_evicted") == expected, "{log}");
        }
        redis.alerts()
    };
    assert!(contents(&alerts(symbols_max + 1)) == contents(&alerts(symbols_max)));
}

/// A detector that is added later is shown the history with all its symbols, and must not bring back those that were evicted.
#[test]
fn a_warm_up_evicts_symbols_as_the_host_does() {
    let ticks = passing_symbols(2000);
    let symbols_max = 48;
    let alerts = |more: &str| {
        let redis = Redis::start();
        let engine = format!("[engine]\nworkers = 2\nsymbols_max = {symbols_max}\n");
        let project = Project::with_probe(redis.url(), "", &engine);
        publish(&mut redis.connect(), &ticks[..1500], 0);
        project.run(&["run", "--drain"]);
        let config = std::fs::read_to_string(project.path("config/config.toml")).unwrap();
        project.write_config(&format!("{config}\n{more}"));
        publish(&mut redis.connect(), &ticks[1500..], 1500);
        project.run(&["run", "--drain"]);
        let saved: Vec<String> = redis.connect().hkeys(STATE).unwrap();
        let saved = saved.iter().filter(|field| field.starts_with("s:")).count();
        assert!(saved <= symbols_max, "{saved} saved states");
        redis.alerts()
    };
    let busy = |detector: &str, alerts: &[Alert]| -> Vec<u64> {
        let of_busy = |alert: &&Alert| alert["detector"] == detector && alert["symbol"] == "BUSY0";
        alerts.iter().filter(of_busy).map(|alert| Sighting::of(alert).seen).collect()
    };
    let warmed = alerts("[detectors.more]\nplugin = \"probe\"\n");
    let (of_probe, of_more) = (busy("probe", &warmed), busy("more", &warmed));
    assert!(of_probe == (1..=of_probe.len() as u64).collect::<Vec<_>>());
    assert!(!of_more.is_empty() && of_probe.ends_with(&of_more), "it knows what was before it: {of_more:?}");
}

/// A warm-up brought back symbols that had been evicted, which took the room of others: a detector that was added changed
/// what the others saw. The window of the warm-up begins in the middle of the stream, so that it evicts others than the host.
#[test]
fn a_detector_that_warms_up_changes_nothing_that_others_see() {
    // Any symbol may come back at any time, evicted or not. A second has about as many symbols as are known at most, so that
    // a warm-up of a second remembers some that the host has just evicted.
    let ticks: Vec<Tick> = (0..1200)
        .map(|number| {
            let at = THEN + number * 14;
            Tick { arrived_ms: at, symbol: format!("S{}", mixed(number) % 80), stamp_ms: at }
        })
        .collect();
    // A detector is added after so many ticks.
    let alerts = |more: &str, rewarm_s: u64, after: usize| {
        let redis = Redis::start();
        let engine = format!("[engine]\nworkers = 2\nsymbols_max = 48\n[plugins]\nrewarm_s = {rewarm_s}\n");
        let project = Project::with_probe(redis.url(), "", &engine);
        publish(&mut redis.connect(), &ticks[..after], 0);
        project.run(&["run", "--drain"]);
        let config = std::fs::read_to_string(project.path("config/config.toml")).unwrap();
        project.write_config(&format!("{config}\n{more}"));
        publish(&mut redis.connect(), &ticks[after..], after);
        let log = project.run(&["run", "--drain"]);
        assert_eq!(has_event(&log, "warm_up_finished"), !more.is_empty(), "{log}");
        redis.alerts()
    };
    let of_probe = |alerts: Vec<Alert>| -> Vec<Vec<(String, String)>> {
        contents(&alerts.into_iter().filter(|alert| alert["detector"] == "probe").collect::<Vec<_>>())
    };
    let undisturbed = of_probe(alerts("", 3600, 600));
    for (rewarm_s, after) in (600..660).step_by(5).map(|after| (1, after)).chain([(2, 663), (3600, 667)]) {
        let beside = alerts("[detectors.more]\nplugin = \"probe\"\n", rewarm_s, after);
        assert!(beside.iter().any(|alert| alert["detector"] == "more"));
        assert!(of_probe(beside) == undisturbed, "with a window of {rewarm_s} s, after {after} ticks");
    }
}

/// A detector that failed once when its states were saved right after an eviction was taken for one that had lost states. It
/// can be rebuilt: the saved states are its own.
#[test]
fn a_detector_that_fails_right_after_an_eviction_has_all_its_states() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.write_config(&format!(
        "[stream]\nurl = \"{}\"\nblock_ms = 200\n[engine]\nworkers = 1\nsymbols_max = 16\n[plugins]\nrewarm_s = 0\n\
         [detectors.idle]\nplugin = \"misbehaving\"\nparams = {{ how = \"idle\", price = 77.0 }}\n",
        redis.url()
    ));
    let mut connection = redis.connect();
    // With the last one there is one too many.
    let symbols = || (0..17).map(|number| format!("S{number:02}"));
    for symbol in symbols().chain(symbols().skip(3)) {
        let stamp = THEN.to_string();
        let fields = [("symbol", symbol.as_bytes()), ("ltp", b"77"), ("timestamp", stamp.as_bytes())];
        add(&mut connection, "*", &fields);
    }
    let log = project.run(&["run", "--drain"]);
    assert!(
        has_event(&log, "symbols_evicted") && has_event_with(&log, "detector_recovered", "I have had no tick"),
        "{log}"
    );
    assert!(!has_event(&log, "state_missing"), "{log}");
    let seen: Vec<String> = redis.alerts().iter().map(|alert| alert["evidence"].clone()).collect();
    assert_eq!(seen, [vec![r#"{"seen":1.0}"#; 17], vec![r#"{"seen":2.0}"#; 14]].concat());
}

/// An options universe has 120,000 symbols. They filled the memory of a detector, which was then in quarantine for all of
/// them; the log did not say why.
#[test]
fn a_hundred_and_twenty_thousand_symbols_fit_or_the_fault_says_what_to_do() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut pipe = redis::pipe();
    for entry in 0..240_u64 {
        let tick = |symbol: u64| serde_json::json!({ "symbol": format!("OPT{symbol}"), "ltp": 100, "timestamp": THEN + entry });
        let list: Vec<serde_json::Value> = (entry * 500..entry * 500 + 500).map(tick).collect();
        pipe.xadd(STREAM, format!("{}-0", THEN + entry), &[("data", serde_json::to_string(&list).unwrap())]).ignore();
    }
    let _: () = pipe.query(&mut redis.connect()).unwrap();
    let configure = |group: &str, symbols_max: usize| {
        project.write_config(&format!(
            "[stream]\nurl = \"{}\"\nblock_ms = 200\ngroup = \"{group}\"\n[engine]\nworkers = 1\nsymbols_max = {symbols_max}\n\
             [plugins]\nmemory_max_mib = 6\nrewarm_s = 0\ncall_deadline_ms = 1000\n[alerts]\nstream = \"alerts:{group}\"\n\
             shadow_stream = \"shadow:{group}\"\n[detectors.breakout]\nplugin = \"breakout\"\n",
            redis.url()
        ));
    };
    configure("many", 200_000);
    let log = project.run(&["run", "--drain"]);
    assert!(has_event(&log, "detector_quarantined"), "{log}");
    let faults = ["detector_failed_on_tick", "detector_recovered"].map(|event| lines_of(&log, event)).concat();
    assert!((1..=4).contains(&faults.len()), "{faults:#?}");
    let said = |line: &&str| {
        line.contains("wanted more memory than its 6 MiB (plugins.memory_max_mib), with ")
            && line.contains(
                " symbols in one worker; if it needs that for so many, raise the limit, or lower engine.symbols_max",
            )
    };
    assert!(faults.iter().all(said), "{faults:#?}");
    configure("few", 4000);
    let log = project.run(&["run", "--drain"]);
    assert!(!has_event(&log, "detector_failed_on_tick") && has_event(&log, "symbols_evicted"), "{log}");
    wait_for("all is acknowledged", || {
        let pending: redis::Value = redis.ask(&format!("XPENDING {STREAM} few - + 1"));
        (pending == redis::Value::Array(Vec::new())).then_some(())
    });
}
