//! Groups, bars, snapshots and contexts when symbols come and go, the clock is set back, settings change right before a kill,
//! detectors trap, and somebody damages what is saved: the witness alerts on every row with a hash of all rows that its state
//! has seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use redis::Commands;
use serde_json::{Value, json};

use crate::support::{
    Alert, Difference, Host, Project, Redis, STATE, STREAM, alert_lines, count_event, difference, has_event, pause,
    probe, text, wait_for, witness, witness_bars, witness_market, witness_symbol,
};

/// 2025-11-24 10:15:30 in Kolkata, ms.
const THEN: u64 = 1_763_959_530_000;

const HOUR_MS: u64 = 3_600_000;

const SETTINGS: &str = "[groups.banks]\nsymbols = [\"SBIN*\", \"*BANK\"]\n[context.leader]\nsymbol = \"NIFTY\"\n";

const WITNESSES: &str = "[detectors.groups]\nplugin = \"witness\"\ngroups = [\"underlying\", \"banks\"]\n\
    [detectors.market]\nplugin = \"witness_market\"\n[detectors.symbols]\nplugin = \"witness_symbol\"\n";

/// An entry of the stream. Ids are fixed, so that the alerts of two markets have the same ones.
#[derive(Clone)]
struct Added {
    id: String,
    fields: Vec<(&'static str, String)>,
}

struct Market {
    redis: Redis,
    project: Project,
    fed: u64,
}

impl Market {
    fn new() -> Self {
        let redis = Redis::start();
        let project = Project::new(&redis);
        [witness(), witness_market(), witness_symbol()].iter().for_each(|plugin| project.add_plugin(plugin));
        Self { redis, project, fed: 0 }
    }

    fn text(&self, (workers, batch): (usize, usize), engine: &str, more: &str) -> String {
        format!(
            "[stream]\nurl = \"{}\"\nblock_ms = 100\nbatch = {batch}\nlease_ms = 500\n[engine]\nbacklog = {}\n\
             workers = {workers}\ncheckpoint_every_ms = 30\n{engine}\n[alerts]\nlog = false\nmaxlen = 0\n{more}\n",
            self.redis.url(),
            (4 * batch).max(8),
        )
    }

    fn configure(&self, size: (usize, usize), engine: &str, more: &str) {
        self.project.replace_config(&self.text(size, engine, more));
    }

    fn add(&mut self, entries: &[Added]) {
        let mut pipe = redis::pipe();
        for Added { id, fields } in entries {
            pipe.xadd(STREAM, id, fields).ignore();
        }
        self.fed += entries.len() as u64;
        let () = pipe.query(&mut self.redis.connect()).unwrap();
    }

    /// Adds entries while a host runs, and waits until it has processed them.
    fn add_live(&mut self, entries: &[Added]) {
        self.add(entries);
        self.redis.wait_all_processed(self.fed);
    }

    fn drain(&self) -> String {
        let output = self.project.command(&["run", "--drain"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    }

    /// Hosts with these numbers of workers and batches are killed, one after the other, within what the stream holds.
    fn kill_hosts(&self, sizes: &[(usize, usize)], engine: &str, more: &str) -> String {
        let mut log = String::new();
        for (kill, size) in (1..).zip(sizes) {
            self.configure(*size, engine, more);
            let mut host: Host = self.project.start(&["run"]);
            self.redis.wait_processed(kill * self.fed / (sizes.len() as u64 + 1));
            host.kill();
            log += &host.log();
        }
        log
    }

    fn assert_as(&self, reference: &[Alert], what: &str) {
        let found = difference(self.redis.alerts(), reference.iter().cloned());
        assert_eq!(found, Difference::default(), "{what}");
    }
}

fn tick(number: u64, symbol: &str, time: u64) -> Added {
    let fields = vec![
        ("symbol", symbol.to_owned()),
        ("ltp", format!("{}", 100 + number * 7919 % 97)),
        ("volume_traded", format!("{}", number * 10)),
        ("timestamp", time.to_string()),
    ];
    Added { id: format!("{}-0", THEN + 24 * HOUR_MS + number), fields }
}

/// Pseudo-random numbers that are the same each time.
fn scattered(number: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) % 1_000_003
}

/// Ticks of these symbols in turn, from a number on.
fn ticks(symbols: &[&str], numbers: std::ops::Range<u64>) -> Vec<Added> {
    let one = |number: u64| tick(number, symbols[scattered(number) as usize % symbols.len()], THEN + number * 137);
    numbers.map(one).collect()
}

const SYMBOLS: [&str; 9] = [
    "NIFTY",
    "NIFTY25NOV25750CE",
    "SBIN",
    "NIFTY25NOV25750PE",
    "TCS",
    "SBIN25NOVFUT",
    "ICICIBANK",
    "NIFTY25NOV26000CE",
    "RELIANCE",
];

const SIZES: [(usize, usize); 8] = [(2, 50), (4, 7), (1, 200), (3, 1), (2, 5000), (4, 100), (1, 11), (2, 64)];

fn of<'a>(alerts: &'a [Alert], detector: &str) -> Vec<&'a Alert> {
    alerts.iter().filter(|alert| alert["detector"] == detector).collect()
}

/// Numbers of symbols are given to other symbols after an eviction, and a set-back clock makes all groups begin anew.
#[test]
fn groups_are_the_same_after_kills_when_symbols_are_evicted_and_the_clock_is_set_back() {
    let mut market = Market::new();
    let symbols: Vec<String> = (0..40)
        .map(|n| match n % 4 {
            0 => format!("NIFTY25NOV{}CE", 25_000 + 50 * n),
            1 => format!("SBIN25NOV{}PE", 800 + n),
            2 => format!("X{n}BANK"),
            _ => format!("S{n}"),
        })
        .collect();
    let entries: Vec<Added> = (0..3000u64)
        .map(|n| {
            let symbol =
                if n % 5 == 0 { "NIFTY" } else { &symbols[(n / 150 * 3 + scattered(n) % 9) as usize % symbols.len()] };
            let back = if n > 1700 { HOUR_MS } else { 0 };
            tick(n, symbol, THEN + n * 137 - back)
        })
        .collect();
    market.add(&entries);
    let (engine, more) = ("symbols_max = 12", format!("{SETTINGS}{WITNESSES}"));
    market.configure((1, 5000), engine, &more);
    let reference = market.project.reference(&market.redis);
    assert!(of(&reference, "groups").len() > 3000 && of(&reference, "market").len() > 3000);
    let mut log = market.kill_hosts(&SIZES, engine, &more);
    market.configure((3, 500), engine, &more);
    log += &market.drain();
    assert!(count_event(&log, "symbols_evicted") > 10 && has_event(&log, "clock_set_back"), "{log}");
    // Of a group whose members were all evicted nothing is saved, which was taken for damage.
    assert!(!has_event(&log, "bases_damaged"), "{log}");
    market.assert_as(&reference, "after kills");
}

/// `tickhound replay` has one ingest and no Redis behind it.
#[test]
fn a_replay_of_the_stream_raises_what_was_raised_live_for_every_scope_and_feed() {
    let mut market = Market::new();
    market.add(&ticks(&SYMBOLS, 0..1500));
    market.configure(
        (3, 40),
        "",
        &format!("{SETTINGS}{WITNESSES}\n[detectors.short]\nplugin = \"witness\"\ncooldown_s = 2\n"),
    );
    let config = fs::read_to_string(market.project.path("config/config.toml")).unwrap();
    market.project.write_config(&config.replace("[alerts]\n", "[alerts]\njsonl = \"live.jsonl\"\n"));
    market.drain();
    let lines = |file: &str| alert_lines(&market.project.path(file));
    let live = lines("live.jsonl");
    assert!(live.len() > 5000, "{}", live.len());
    for (workers, batch) in [("1", "5000"), ("2", "1"), ("3", "7"), ("4", "333")] {
        market.project.run(&["replay", "--stream", "--workers", workers, "--batch", batch, "--out", "replayed.jsonl"]);
        let replayed = lines("replayed.jsonl");
        let differs = live.iter().zip(&replayed).find(|(live, replayed)| live != replayed);
        assert_eq!((replayed.len(), differs), (live.len(), None), "{workers} workers, batches of {batch}");
    }
}

/// Two markets get the same entries and the same change at the same place; the host of one is killed right behind it.
fn assert_a_kill_after_a_change_is_harmless(
    before: &str,
    after: &str,
    prepare: &dyn Fn(&Project),
    change: &dyn Fn(&Project),
) {
    let entries = ticks(&SYMBOLS, 0..1200);
    let [undisturbed, killed] = [false, true].map(|is_killed| {
        let mut market = Market::new();
        prepare(&market.project);
        // Nothing is saved but what must be, when it must be.
        let text = |more: &str| market.text((3, 40), "", more).replace("every_ms = 30", "every_ms = 3600000");
        let (before, after) = (text(before), text(after));
        market.project.write_config(&before);
        let mut host = market.project.start_owner();
        market.add_live(&entries[..600]);
        change(&market.project);
        if before != after {
            market.project.replace_config(&after);
        }
        host.wait_for_event_with("generation_activated", " generation=2 ");
        if is_killed {
            host.kill();
            host = market.project.start(&["run"]);
            market.add_live(&entries[600..900]);
            host.kill();
            host = market.project.start(&["run"]);
        } else {
            market.add_live(&entries[600..900]);
        }
        market.add_live(&entries[900..]);
        host.stop();
        market.redis.alerts()
    });
    assert!(of(&undisturbed, "groups").len() > 1200);
    assert_eq!(difference(killed, undisturbed), Difference::default());
}

#[test]
fn groups_that_change_right_before_a_kill_are_the_changed_ones() {
    let before = format!("{SETTINGS}{WITNESSES}");
    let after = before.replace("\"*BANK\"", "\"TCS\", \"RELIANCE\"");
    assert_a_kill_after_a_change_is_harmless(&before, &after, &|_| (), &|_| ());
}

#[test]
fn a_context_that_changes_right_before_a_kill_is_the_changed_one() {
    let before = format!("{SETTINGS}{WITNESSES}");
    let after = before.replace("symbol = \"NIFTY\"", "symbol = \"TCS\"");
    assert_a_kill_after_a_change_is_harmless(&before, &after, &|_| (), &|_| ());
}

/// A context was added between two owners. Its source was not among what had been saved for others, so it was taken for a symbol
/// that had had no tick: the groups that it is a member of saw other rows of it in the replay than before.
#[test]
fn a_context_that_comes_and_goes_between_two_owners_changes_nothing_for_groups() {
    let mut market = Market::new();
    let plain = format!("{SETTINGS}{WITNESSES}");
    let more = plain.replacen('[', "[groups.more]\nsymbols = [\"TCS\"]\n[context.more]\nsymbol = \"SBIN\"\n[", 1);
    // Visits take so long that chunks have different boundaries when a host is killed.
    let config = |market: &Market, settings: &str| {
        market.text((2, 20), "", settings).replace("checkpoint_every_ms = 30", "checkpoint_every_ms = 1000")
    };
    market.project.write_config(&config(&market, &plain));
    let entries = ticks(&SYMBOLS, 0..6000);
    market.add(&entries[..600]);
    market.drain();
    for (number, settings) in (0..).zip([&more, &plain].into_iter().cycle().take(12)) {
        market.project.replace_config(&config(&market, settings));
        let mut host = market.project.start(&["run"]);
        let added = 600 + 450 * number..600 + 450 * (number + 1);
        for piece in entries[added.clone()].chunks(30) {
            market.add(piece);
            pause();
        }
        market.redis.wait_processed(added.end as u64 - 100);
        host.kill();
    }
    market.project.replace_config(&config(&market, &plain));
    market.drain();
    let reference = market.project.reference(&market.redis);
    assert!(of(&reference, "groups").len() > 6000);
    market.assert_as(&reference, "with a context that comes and goes");
}

/// The saved value of the old column was taken for one of the new column, until the next tick of the source.
#[test]
fn a_context_of_another_column_begins_without_a_value() {
    let entries = ticks(&SYMBOLS, 0..300);
    let after_price_and_after_nothing = ["price", "oi"].map(|before| {
        let mut market = Market::new();
        let config = |column: &str, detector: &str| {
            format!(
                "[plugins]\nrewarm_s = 0\n[context.leader]\nsymbol = \"NIFTY\"\ncolumn = \"{column}\"\n\
                 [detectors.{detector}]\nplugin = \"witness_symbol\"\n"
            )
        };
        market.configure((2, 40), "", &config(before, "earlier"));
        market.add(&entries[..200]);
        market.drain();
        market.configure((2, 40), "", &config("quantity", "symbols"));
        let others: Vec<Added> = entries[200..].iter().filter(|one| one.fields[0].1 != "NIFTY").cloned().collect();
        market.add(&others);
        market.drain();
        market.redis.alerts().into_iter().filter(|alert| alert["detector"] == "symbols").collect::<Vec<Alert>>()
    });
    let [after_price, after_nothing] = after_price_and_after_nothing;
    assert!(!after_nothing.is_empty());
    assert_eq!(difference(after_price, after_nothing), Difference::default());
}

#[test]
fn reference_data_that_change_right_before_a_kill_are_the_changed_ones() {
    let settings = "[reference]\nfiles = [\"config/instruments.csv\"]\n[groups.sector]\nby = \"sector\"\n";
    let detectors = WITNESSES.replace("\"underlying\", \"banks\"", "\"underlying\", \"sector\"");
    let config = format!("{settings}[context.leader]\nof = \"underlying\"\n{detectors}");
    let write = |project: &Project, bank: &str, under: &str| {
        let csv = format!(
            "symbol,sector,underlying\nSBIN,{bank},SBIN\nSBIN25NOVFUT,{bank},{under}\nICICIBANK,bank,ICICIBANK\nTCS,it,TCS\n\
             RELIANCE,{bank},RELIANCE\n"
        );
        fs::write(project.path("config/part"), csv).unwrap();
        fs::rename(project.path("config/part"), project.path("config/instruments.csv")).unwrap();
    };
    let prepare = |project: &Project| write(project, "bank", "SBIN");
    let change = |project: &Project| write(project, "state-bank", "TCS");
    assert_a_kill_after_a_change_is_harmless(&config, &config, &prepare, &change);
}

/// A detector whose bars nobody had wanted before was added while chunks were being saved.
#[test]
fn bars_that_are_wanted_right_before_a_kill_are_continued() {
    let entries = ticks(&SYMBOLS, 0..900);
    let [undisturbed, killed] = [false, true].map(|is_killed| {
        let mut market = Market::new();
        let config = |more: &str| market.text((3, 40), "", &format!("{SETTINGS}{more}"));
        let (before, after) = (config("[detectors.momentum]\nplugin = \"momentum\"\n"), config(WITNESSES));
        market.project.write_config(&before);
        let mut host = market.project.start_owner();
        market.add_live(&entries[..600]);
        // Chunks are visited again and again meanwhile, all at the same entry.
        market.project.replace_config(&after);
        host.wait_for_event_with("generation_activated", "groups 0.1.0 (rewarmed)");
        if is_killed {
            host.kill();
            host = market.project.start(&["run"]);
        }
        market.add_live(&entries[600..]);
        host.stop();
        market.redis.alerts()
    });
    assert!(of(&undisturbed, "groups").len() > 300);
    assert_eq!(difference(killed, undisturbed), Difference::default());
}

/// All groups were saved after any change, also those that had no row yet. Their shard does not know them: it panicked.
#[test]
fn a_change_before_the_first_bar_of_a_group_ends_is_harmless() {
    let mut market = Market::new();
    market.project.add_plugin(&witness_bars());
    let entries = ticks(&SYMBOLS[..1], 0..200);
    let config = "[detectors.bars]\nplugin = \"witness_bars\"\nmin_confidence = 0.5\n";
    market.configure((1, 40), "", config);
    let mut host = market.project.start_owner();
    market.add_live(&entries[..1]);
    market.configure((1, 40), "", &config.replace("0.5", "0.4"));
    host.wait_for_event_with("generation_activated", " generation=2 ");
    market.add_live(&entries[1..]);
    host.stop();
    let reference = market.project.reference(&market.redis);
    assert!(reference.len() > 3);
    market.assert_as(&reference, "after the change");
}

/// The last row of a snapshot was that of the last member by name, whether the detector saw it or not: without it, detectors
/// that wait for the last row did nothing.
#[test]
fn a_detector_that_sees_some_members_gets_the_last_row_of_each_snapshot() {
    let mut market = Market::new();
    let mut entries = ticks(&SYMBOLS, 0..1000);
    for at in [300, 500] {
        entries[at] = tick(at as u64, "SBIN", THEN + at as u64 * 137);
        entries[at].fields[1].1 = "666".to_owned();
    }
    market.add(&entries);
    let more = format!(
        "[plugins]\nfaults = 1000\n{SETTINGS}[detectors.few]\nplugin = \"witness_market\"\nsymbols = [\"SBIN*\", \"NIFTY\"]\n\
         [detectors.few.params]\ntraps_at = 666.0\n"
    );
    market.configure((1, 5000), "", &more);
    let reference = market.project.reference(&market.redis);
    let mut steps: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for alert in &reference {
        let evidence: Value = serde_json::from_str(&alert["evidence"]).unwrap();
        let kind = evidence["kind"].as_f64().unwrap();
        if kind >= 3.0 {
            steps.entry((&alert["entry"], &alert["time"])).or_default().push(kind);
        }
    }
    assert!(steps.len() > 30 && steps.values().any(|kinds| kinds.len() == 3), "{steps:?}");
    for kinds in steps.values() {
        let last = kinds.iter().rposition(|_| true);
        assert_eq!(kinds.iter().position(|kind| *kind == 4.0), last, "{steps:?}");
    }
    market.kill_hosts(&SIZES[..4], "", &more);
    market.configure((2, 30), "", &more);
    market.drain();
    market.assert_as(&reference, "after kills");
}

/// A member was only known by its next row: a detector that named one before, such as the other leg of a straddle, failed on
/// its tick, silently if that was a replayed one.
#[test]
fn a_detection_names_members_that_have_been_silent_since_a_kill_or_a_warm_up() {
    let mut market = Market::new();
    let entries: Vec<Added> = (0..900u64)
        .map(|n| tick(n, SYMBOLS[if n < 300 { n as usize % 9 } else { n as usize % 3 }], THEN + n * 137))
        .collect();
    let names = "names_members = true\n";
    let witnesses = format!(
        "{SETTINGS}[detectors.groups]\nplugin = \"witness\"\ngroups = [\"underlying\", \"banks\"]\n[detectors.groups.params]\n\
         {names}[detectors.market]\nplugin = \"witness_market\"\n[detectors.market.params]\n{names}"
    );
    let without = "[detectors.momentum]\nplugin = \"momentum\"\n";
    let with = format!("{without}{witnesses}");
    market.configure((2, 40), "", without);
    let mut host = market.project.start_owner();
    market.add_live(&entries[..400]);
    market.configure((2, 40), "", &with);
    host.wait_for_event_with("generation_activated", "groups 0.1.0 (rewarmed)");
    market.add_live(&entries[400..600]);
    host.kill();
    market.add(&entries[600..]);
    let log = market.drain();
    assert!(!has_event(&log, "detector_failed_on_tick") && market.redis.dead_letters().is_empty(), "{log}");
    let reference = market.project.reference(&market.redis);
    for detector in ["groups", "market"] {
        let found: Vec<Alert> = of(&market.redis.alerts(), detector).into_iter().cloned().collect();
        let first = found[0]["entry"].clone();
        let expected = of(&reference, detector).into_iter().skip_while(|alert| alert["entry"] != first).cloned();
        assert!(found.iter().any(|alert| alert.get("members").is_some_and(|members| members.contains("NIFTY"))));
        assert_eq!(difference(found.iter().cloned(), expected), Difference::default(), "{detector}");
    }
}

/// The states of groups that nobody has any more stayed, without what their members were: each start took that for damage.
#[test]
fn groups_that_are_removed_leave_nothing_behind() {
    let mut market = Market::new();
    let entries = ticks(&SYMBOLS, 0..900);
    market.configure((2, 40), "", &format!("{SETTINGS}{WITNESSES}"));
    let mut host = market.project.start_owner();
    market.add_live(&entries[..600]);
    let without = "[detectors.symbols]\nplugin = \"witness_symbol\"\n";
    market.configure((2, 40), "", without);
    host.wait_for_event_with("generation_activated", " generation=2 ");
    host.kill();
    market.add(&entries[600..]);
    let log = market.drain();
    assert!(!has_event(&log, "bases_damaged") && !has_event(&log, "state_missing"), "{log}");
    let fields: Vec<String> = market.redis.connect().hkeys(STATE).unwrap();
    let left: Vec<&String> = fields.iter().filter(|field| field.starts_with("s:\0")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A row of one member made the detector trap; the other members' rows go on with the state of the group.
#[test]
fn a_trap_on_a_members_row_costs_the_group_that_row_only() {
    let mut market = Market::new();
    let mut entries = ticks(&SYMBOLS, 0..1000);
    for at in [200, 201, 500, 777] {
        entries[at] = tick(at as u64, "SBIN", THEN + at as u64 * 137);
        entries[at].fields[1].1 = "666".to_owned();
    }
    market.add(&entries);
    let traps = "[detectors.groups.params]\ntraps_at = 666.0\n[detectors.market]";
    let more = format!("{SETTINGS}{}", WITNESSES.replace("[detectors.market]", traps));
    let (engine, more) = ("", format!("[plugins]\nfaults = 1000\n{more}"));
    market.configure((1, 5000), engine, &more);
    let reference = market.project.reference(&market.redis);
    let log = market.kill_hosts(&SIZES[..5], engine, &more);
    market.configure((2, 30), engine, &more);
    market.drain();
    market.assert_as(&reference, "after kills");
    let letters = market.redis.dead_letters();
    assert!(!letters.is_empty(), "{log}");
    assert!(letters.iter().all(|letter| letter.values().any(|value| value.contains("SBIN"))), "{letters:?}");
    // The rows before and after are seen by one state: nothing but the four rows is missing.
    let seen: Vec<u64> = of(&reference, "groups")
        .iter()
        .filter(|alert| alert["group"] == "SBIN")
        .map(|alert| serde_json::from_str::<Value>(&alert["evidence"]).unwrap()["seen"].as_f64().unwrap() as u64)
        .collect();
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
}

/// After too many faults the detector is quarantined, and begins anew when it is back.
#[test]
fn a_quarantined_detector_of_groups_comes_back() {
    let mut market = Market::new();
    let mut entries = ticks(&SYMBOLS, 0..1000);
    for entry in &mut entries[300..308] {
        entry.fields[1].1 = "666".to_owned();
    }
    let more = format!(
        "[plugins]\nfaults = 3\nrewarm_s = 0\n{SETTINGS}{}",
        WITNESSES.replace("[detectors.market]", "[detectors.groups.params]\ntraps_at = 666.0\n[detectors.market]")
    );
    market.configure((2, 40), "", &more);
    let mut host = market.project.start_owner();
    market.add_live(&entries[..600]);
    host.wait_for_event("detector_quarantined");
    let before = market.redis.alerts();
    host.kill();
    let mut host = market.project.start(&["run"]);
    market.add_live(&entries[600..800]);
    market.configure((2, 40), "", &more.replace("traps_at = 666.0", "traps_at = 667.0"));
    host.wait_for_event_with("generation_activated", " generation=2 ");
    market.add_live(&entries[800..]);
    host.stop();
    let alerts = market.redis.alerts();
    assert!(of(&alerts, "groups").len() > of(&before, "groups").len() + 200);
    assert_eq!(of(&alerts, "market").len(), of(&market.project.reference(&market.redis), "market").len());
}

/// Somebody damages or deletes what groups and contexts depend on. It was silent when the field was gone.
#[test]
fn damaged_and_missing_bases_are_said_and_cost_the_other_detectors_nothing() {
    for damage in ["damaged", "missing"] {
        let mut market = Market::new();
        market.project.add_plugin(&probe());
        // Most are so rare that they have no tick between the boundary of a group and their own.
        let rare: Vec<String> = (0..150).map(|n| format!("{}{n}", ["NIFTY25NOV", "S", "SBIN25NOV"][n % 3])).collect();
        let entries: Vec<Added> = (0..1200u64).map(|n| tick(n, &rare[n as usize % 150], THEN + n * 137)).collect();
        let more = format!("[plugins]\nrewarm_s = 0\n{SETTINGS}{WITNESSES}[detectors.probe]\nplugin = \"probe\"\n");
        market.configure((3, 40), "", &more);
        let mut host = market.project.start_owner();
        market.add_live(&entries[..900]);
        host.kill();
        let mut connection = market.redis.connect();
        let fields: Vec<String> = connection.hkeys(STATE).unwrap();
        let bases: Vec<&String> = fields.iter().filter(|field| field.starts_with("b:")).collect();
        assert!(!bases.is_empty());
        for field in bases {
            let () = match damage {
                "damaged" => connection.hset(STATE, field, b"no bases at all").unwrap(),
                _ => connection.hdel(STATE, field).unwrap(),
            };
        }
        market.add(&entries[900..]);
        let log = market.drain();
        let reference = market.project.reference(&market.redis);
        let alerts = market.redis.alerts();
        assert_eq!(alerts.len(), reference.len(), "{damage}: every row is still seen once");
        let is_of_ticks = |alert: &Alert| alert["detector"] == "probe";
        let found = difference(alerts.into_iter().filter(is_of_ticks), reference.into_iter().filter(is_of_ticks));
        assert_eq!(found, Difference::default(), "{damage}: {log}");
        assert!(has_event(&log, "bases_damaged"), "{damage}: {log}");
    }
}

/// A symbol's state is whole without them, but its next rows are not: they have no value of the context until its source has a
/// tick. Contexts that are new, or that nobody reads, are not missing.
#[test]
fn missing_contexts_are_said_though_there_is_no_group() {
    let symbols = "[detectors.symbols]\nplugin = \"witness_symbol\"\n";
    let of_groups = ["[groups.banks]\nsymbols = [\"SBIN*\", \"*BANK\"]\n", symbols].concat();
    let with_context = ["[context.leader]\nsymbol = \"NIFTY\"\n", symbols].concat();
    for (before, is_deleted, is_said) in
        [(&with_context, true, true), (&with_context, false, false), (&of_groups, false, false)]
    {
        let mut market = Market::new();
        let entries: Vec<Added> = ticks(&SYMBOLS, 0..1200);
        market.configure((2, 40), "", &["[plugins]\nrewarm_s = 0\n", before].concat());
        let mut host = market.project.start_owner();
        market.add_live(&entries[..900]);
        host.kill();
        let mut connection = market.redis.connect();
        let fields: Vec<String> = connection.hkeys(STATE).unwrap();
        let bases: Vec<&String> = fields.iter().filter(|field| field.starts_with("b:")).collect();
        assert_eq!(!bases.is_empty(), before.contains("context"));
        if is_deleted {
            let () = connection.hdel(STATE, bases).unwrap();
        }
        market.configure((2, 40), "", &["[plugins]\nrewarm_s = 0\n", &with_context].concat());
        market.add(&entries[900..]);
        let log = market.drain();
        assert_eq!(has_event(&log, "bases_damaged"), is_said, "{before} {is_deleted}: {log}");
        assert_eq!(market.redis.alerts().len(), market.project.reference(&market.redis).len());
    }
}

/// The ticks of such an entry came before the damage was noticed, and ended bars.
#[test]
fn an_entry_that_ends_bars_and_is_damaged_at_its_end_leaves_no_trace_in_groups() {
    let mut market = Market::new();
    let mut entries = ticks(&SYMBOLS, 0..1000);
    for (number, entry) in (0u64..).zip(&mut entries) {
        let time = |ahead: u64| THEN + number * 137 + ahead * 1000;
        let list: Vec<Value> = (0..12)
            .map(|n| json!({ "symbol": SYMBOLS[n as usize % 9], "ltp": 100 + n, "timestamp": time(n) }))
            .collect();
        let whole = Value::from(list).to_string();
        match number % 40 {
            // Cut within the last tick.
            17 => entry.fields = vec![("data", whole[..whole.len() - 8].to_owned())],
            // The last tick has no symbol that can be used.
            29 => entry.fields = vec![("data", whole.replacen("\"timestamp\":", "\"symbol\":\"A\\u0007\",\"x\":", 1))],
            33 => {
                let new =
                    json!([{ "symbol": format!("NIFTYNEW{number}"), "ltp": 5, "timestamp": time(3) }, { "symbol": 5 }]);
                entry.fields = vec![("data", new.to_string().replace("5}]", "5}"))];
            }
            3 => entry.fields = vec![("data", whole)],
            _ => {}
        }
    }
    market.add(&entries);
    let more = format!("{SETTINGS}{WITNESSES}");
    market.configure((1, 5000), "", &more);
    let reference = market.project.reference(&market.redis);
    market.kill_hosts(&SIZES[..6], "", &more);
    market.configure((2, 30), "", &more);
    market.drain();
    market.assert_as(&reference, "after kills");
    let dead: BTreeSet<String> = market.redis.dead_letters().iter().map(|letter| letter["entry"].clone()).collect();
    assert!(dead.len() >= 50, "{}", dead.len());
    let named = reference.iter().filter(|alert| alert["symbol"].contains("NIFTYNEW")).count();
    assert_eq!(named, 0, "a symbol of a damaged entry is never seen");
}

/// Symbols with a venue, symbols that join a group late, and groups whose first members come after restarts.
#[test]
fn members_that_come_late_and_from_venues_are_seen_the_same_after_kills() {
    let mut market = Market::new();
    let entries: Vec<Added> = (0..2400u64)
        .map(|n| {
            // One more symbol every 60 entries; some groups begin with it, others have been there.
            let known = 2 + n / 60;
            let which = scattered(n) % known;
            let venue = ["NSE", "BSE", "NFO"][(which % 3) as usize];
            let name = match which % 5 {
                0 => format!("SBIN25NOV{}CE", 700 + which),
                1 => "NIFTY".to_owned(),
                2 => format!("B{which}BANK"),
                3 => format!("NIFTY25NOV{}PE", 25_000 + 50 * which),
                _ => format!("LATE{which}"),
            };
            tick(n, &format!("{venue}:{name}"), THEN + n * 137)
        })
        .collect();
    market.add(&entries);
    let more = format!("[input]\nvenue = \"keep\"\n{SETTINGS}{WITNESSES}")
        .replace("symbol = \"NIFTY\"", "of = \"underlying\"");
    market.configure((1, 5000), "", &more);
    let reference = market.project.reference(&market.redis);
    let groups: BTreeSet<&str> = of(&reference, "groups").iter().map(|alert| &*alert["group"]).collect();
    assert!(groups.len() > 15, "{groups:?}");
    market.kill_hosts(&SIZES, "", &more);
    market.configure((3, 500), "", &more);
    market.drain();
    market.assert_as(&reference, "after kills");
}

/// Groups were configured while no host ran: members had states, and groups none. A detector of symbols saw other rows then.
#[test]
fn groups_that_are_added_while_no_host_runs_change_nothing_for_detectors_of_symbols() {
    let mut market = Market::new();
    let symbols = "[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
        [detectors.symbols]\nplugin = \"probe\"\n[detectors.momentum]\nplugin = \"momentum\"\nmin_confidence = 0.0\n";
    market.project.add_plugin(&probe());
    // Most are so rare that they have no tick between the boundary of a group and their own.
    let rare: Vec<String> = (0..150).map(|n| format!("{}{n}", ["NIFTY25NOV", "S", "SBIN25NOV"][n % 3])).collect();
    let entries: Vec<Added> = (0..2400u64).map(|n| tick(n, &rare[n as usize % 150], THEN + n * 137)).collect();
    market.configure((2, 20), "", symbols);
    market.add(&entries);
    let reference = market.project.reference(&market.redis);
    let mut host = market.project.start(&["run"]);
    market.redis.wait_processed(1200);
    host.kill();
    let with = format!("{SETTINGS}{symbols}{}", WITNESSES.replace("detectors.symbols]", "detectors.more]"));
    market.configure((3, 33), "", &with);
    let log = market.drain();
    let is_old = |alert: &Alert| ["breakout", "symbols", "momentum"].contains(&&*alert["detector"]);
    let found = difference(market.redis.alerts().into_iter().filter(is_old), reference.into_iter().filter(is_old));
    assert_eq!(found, Difference::default(), "{log}");
    assert!(of(&market.redis.alerts(), "groups").len() > 800, "{log}");
    wait_for("nothing is pending", || (market.redis.pending() == 0).then_some(()));
}
