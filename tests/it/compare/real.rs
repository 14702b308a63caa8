//! The stories on recorded days of a real market, with an index and its members. The days are not part of this repository:
//! `cargo xtask real --days FOLDER` runs these tests.
//!
//! The folder has a file for each day, with its date as its name, as `replay` reads them: with columns `symbol`, `timestamp`,
//! `ltp` and `volume` (cumulative). Symbols are those of the NSE, the index is `NIFTY` or `NIFTY_BANK`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tickhound_core::event::{Entries, EntryId};
use tickhound_recorded::{Files, Options, record::Record};

use super::stories::{Market, assert_equal, by_detector};
use crate::support::{ALERTS, Alert, Host, Project, REFERENCE_ALERTS, Redis, has_event, has_event_with, wait_for};

/// Names the folder.
const FOLDER: &str = "TICKHOUND_REAL_DAYS";

/// How many days to use where the number does not matter. Two have a night between them.
const COUNT: (&str, usize) = ("TICKHOUND_REAL_COUNT", 2);

/// Parameters with which two days have events of all kinds, and those that ship.
const DETECTORS: &str = r#"
[session]
calendar = "nse"
[input.map]
cum_volume = ["volume"]
[groups.banks]
symbols = ["HDFCBANK", "ICICIBANK"]
[groups.lenders]
symbols = ["AXISBANK", "SBIN"]
[groups.NIFTY]
symbols = ["*"]
[context.index]
symbol = "NIFTY"
[detectors.pair]
plugin = "pair"
groups = ["banks", "lenders"]
min_confidence = 0.0
params = { bar_s = 15, length = 120, entry_z = 2.0 }
[detectors.breadth]
plugin = "breadth"
groups = ["NIFTY"]
min_confidence = 0.0
params = { step_s = 15, members_min = 4, opening_steps = 20, low = 0.45, high = 0.55, steps = 20 }
[detectors.lead-lag]
plugin = "lead-lag"
groups = ["NIFTY"]
min_confidence = 0.0
params = { step_s = 2, move_s = 20, k = 2.5, beta_min = 0.1, correlation_min = 0.0 }
[detectors.residual-move]
plugin = "residual-move"
min_confidence = 0.0
params = { bar_s = 15, k = 2.5, least_pct = 0.01, cooldown_s = 60.0 }
[detectors.pair-shipped]
plugin = "pair"
groups = ["banks", "lenders"]
[detectors.breadth-shipped]
plugin = "breadth"
groups = ["NIFTY"]
[detectors.lead-lag-shipped]
plugin = "lead-lag"
groups = ["NIFTY"]
[detectors.residual-move-shipped]
plugin = "residual-move"
"#;

/// The files of the first days.
fn files(days: usize) -> Vec<PathBuf> {
    let folder = env::var_os(FOLDER).unwrap_or_else(|| panic!("{FOLDER} names no folder"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= days, "{} days, expected {days}", files.len());
    files.truncate(days);
    files
}

/// How many days to use, at least two.
fn count() -> usize {
    let (name, least) = COUNT;
    env::var(name).map_or(least, |count| count.parse::<usize>().unwrap().max(least))
}

/// What a producer would publish of these ticks, with the ids that a replay gives them.
fn entries(files: &[PathBuf]) -> Entries {
    let options = Options { zone: jiff::tz::TimeZone::get("Asia/Kolkata").unwrap(), ..Options::default() };
    let mut files = Files::open(files, &options).unwrap();
    let (mut entries, mut record, mut last) = (Entries::default(), Record::default(), EntryId::ZERO);
    while files.next(&mut record).unwrap() {
        let millis = record.time.and_then(|time| u64::try_from(time / 1_000_000).ok()).unwrap_or(0);
        if millis == 0 && last == EntryId::ZERO {
            continue;
        }
        let next = EntryId { millis: last.millis, seq: last.seq + 1 };
        last = if millis > last.millis { EntryId { millis, seq: 0 } } else { next };
        entries.push_entry(last);
        record.fields().for_each(|(name, value)| entries.push_field(name, value));
    }
    entries
}

/// The first days, and the detectors that compare symbols.
fn market(days: usize) -> Market {
    let files = files(days);
    let names = vec!["breadth", "lead-lag", "pair", "residual-move"];
    Market { names, settings: DETECTORS.to_owned(), entries: entries(&files), files }
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn live_is_replay_on_real_days() {
    market(count()).assert_live_is_replay();
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn workers_and_batches_change_nothing_live_on_real_days() {
    market(1).assert_sizes_change_nothing_live();
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn ten_kills_change_nothing_on_real_days() {
    market(count()).assert_kills_change_nothing();
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn kills_around_a_night_change_nothing_on_real_days() {
    let market = market(2);
    market.assert_kills_around_a_night_change_nothing(market.number_at(midnight_ms(&market.files[1])));
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn swaps_change_nothing_on_real_days() {
    market(count()).assert_swaps_change_nothing();
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn groups_and_contexts_that_change_right_before_a_kill_on_real_days() {
    let before = market(2);
    let changed = [
        ("symbols = [\"*\"]", "symbols = [\"*BANK\", \"NIFTY\", \"SBIN\", \"T*\", \"H*\", \"I*\"]"),
        ("\"AXISBANK\", \"SBIN\"", "\"KOTAKBANK\", \"SBIN\""),
        ("symbol = \"NIFTY\"", "symbol = \"NIFTY_BANK\""),
    ];
    for changes in [&changed[..2], &changed[2..], &changed[..]] {
        let settings = changes.iter().fold(before.settings.clone(), |settings, (from, to)| {
            assert!(settings.contains(from), "{from}");
            settings.replace(from, to)
        });
        let after = Market { settings, names: before.names.clone(), entries: Entries::default(), files: Vec::new() };
        before.assert_a_kill_after_a_change_is_harmless(&after, &|_| (), &|_| ());
    }
}

#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn reference_data_that_change_right_before_a_kill_on_real_days() {
    let mut market = market(2);
    let reference = "[reference]\nfiles = [\"config/instruments.csv\"]\n[groups.index]\nby = \"index\"\n[context.index]\nof = \"index\"";
    market.settings = market.settings.replace("[context.index]\nsymbol = \"NIFTY\"", reference);
    market.settings = market.settings.replace("groups = [\"NIFTY\"]", "groups = [\"NIFTY\", \"index\"]");
    let write = |project: &Project, index_of_banks: &str| {
        let mut csv = "symbol,index\n".to_owned();
        for bank in ["AXISBANK", "HDFCBANK", "ICICIBANK", "INDUSINDBK", "KOTAKBANK", "SBIN"] {
            csv.push_str(&format!("{bank},{index_of_banks}\n"));
        }
        for share in ["RELIANCE", "TCS", "INFY", "ITC", "LT", "NIFTY"] {
            csv.push_str(&format!("{share},NIFTY\n"));
        }
        fs::write(project.path("config/part"), csv).unwrap();
        fs::rename(project.path("config/part"), project.path("config/instruments.csv")).unwrap();
    };
    let same = Market {
        settings: market.settings.clone(),
        names: market.names.clone(),
        entries: Entries::default(),
        files: Vec::new(),
    };
    let (prepare, change) =
        (|project: &Project| write(project, "NIFTY"), |project: &Project| write(project, "NIFTY_BANK"));
    market.assert_a_kill_after_a_change_is_harmless(&same, &prepare, &change);
}

/// Five days of files are as good as five days of running, for every detector that ships.
#[test]
#[ignore = "needs recorded days: cargo xtask real"]
fn day_six_after_five_days_of_history_on_real_days() {
    const OTHERS: [&str; 8] =
        ["breakout", "gap", "momentum", "order-flow", "reversal", "stale-feed", "volume-spike", "vwap"];
    let mut market = market(6);
    for name in OTHERS {
        market.settings += &format!("[detectors.{name}]\nplugin = \"{name}\"\nmin_confidence = 0.0\n");
    }
    market.names.extend(OTHERS);
    let (redis, first) = (Redis::start(), market.number_at(midnight_ms(&market.files[5])));
    let project = market.project(&redis, ["", "", ""]);
    market.add_all(&redis);
    project.run_reference(&redis);
    let at = market.entries.id(first).unwrap();
    let is_of_day_six = |alert: &Alert| alert["entry"].parse::<EntryId>().unwrap() >= at;
    let expected: Vec<Alert> = redis.paged(REFERENCE_ALERTS).filter(is_of_day_six).collect();
    println!("day six: {} entries, {:?}", market.entries.len() - first, by_detector(&expected));
    let recorded = market.record(&redis, &project);
    let others = project.path("others");
    fs::create_dir(&others).unwrap();
    market.files[..5].iter().for_each(|file| {
        fs::copy(file, others.join(file.file_name().unwrap())).unwrap();
    });
    // The files go on where the host has not been yet, or end with day five.
    assert_a_new_detector_is_as_the_old_ones(&market, first, &recorded, &expected);
    remove_day(&recorded, &market.files[5]);
    assert_a_new_detector_is_as_the_old_ones(&market, first, &recorded, &expected);
    for (what, folder) in [("recorded files", recorded), ("files of others", others)] {
        let redis = Redis::start();
        // The days are not consecutive.
        let history = format!("[history]\ndir = \"{}\"\n[plugins]\nrewarm_sessions = 30", folder.display());
        let project = market.project(&redis, ["", "workers = 2", &history]);
        market.add(&redis, first..market.entries.len());
        let log = project.run(&["run", "--drain"]);
        let alerts: Vec<Alert> = redis.paged(ALERTS).collect();
        assert!(has_event(&log, "warm_up_started"), "{log}");
        assert_equal(alerts, expected.clone());
        println!("day six after five days of {what}: equal");
    }
}

/// A running host gets the detectors in the middle of day six, which begins with entry `first` and is in the stream. It is killed
/// as soon as they are active.
fn assert_a_new_detector_is_as_the_old_ones(market: &Market, first: usize, recorded: &Path, expected: &[Alert]) {
    let (redis, middle) = (Redis::start(), usize::midpoint(first, market.entries.len()));
    let history = format!("[history]\ndir = \"{}\"\n[plugins]\nrewarm_sessions = 30", recorded.display());
    let (settings, _) = market.settings.split_once("[detectors.").unwrap();
    let settings = format!("{settings}[detectors.other]\nplugin = \"gap\"\nsymbols = [\"NONE\"]\n");
    let before = Market { settings, names: market.names.clone(), entries: Entries::default(), files: Vec::new() };
    let project = before.project(&redis, ["", "workers = 2", &history]);
    let mut host = project.start_owner();
    market.add(&redis, first..middle);
    redis.wait_all_processed(middle - first);
    market.configure(&project, &redis, ["", "workers = 2", &history]);
    wait_warm(&host);
    host.kill();
    let mut host = project.start(&["run"]);
    market.add(&redis, middle..market.entries.len());
    redis.wait_all_processed(market.entries.len() - first);
    host.stop();
    let middle = market.entries.id(middle).unwrap();
    let later = |alert: &&Alert| alert["entry"].parse::<EntryId>().unwrap() >= middle;
    let expected: Vec<Alert> = expected.iter().filter(later).cloned().collect();
    let alerts = expected.len();
    assert_equal(redis.paged(ALERTS).collect(), expected);
    println!("new detectors in the middle of day six: {alerts} alerts after it: equal");
}

/// Waits until detectors have warmed up, for as long as that goes forward.
fn wait_warm(host: &Host) {
    let is_warm = || has_event_with(&host.log(), "generation_activated", "(rewarmed)");
    let mut progress = 0;
    while !is_warm() {
        let before = progress;
        progress = wait_for("the warm-up goes forward", || {
            let now = host.count_event("warm_up_progressed");
            (now > before || is_warm()).then_some(now)
        });
    }
}

/// The beginning of the day of a file in India, ms.
fn midnight_ms(file: &Path) -> u64 {
    let date: jiff::civil::Date = file.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let zone = jiff::tz::TimeZone::get("Asia/Kolkata").unwrap();
    zone.to_timestamp(date.to_datetime(jiff::civil::Time::midnight())).unwrap().as_millisecond().try_into().unwrap()
}

/// Removes what was recorded of a day.
fn remove_day(folder: &Path, day: &Path) {
    let name = format!("{}.jsonl.zst", day.file_stem().unwrap().display());
    fs::remove_file(folder.join(name)).unwrap();
}
