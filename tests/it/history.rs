//! Warm-ups from files: a detector that was shown the recorded days raises the alerts of one that was there all the time.
//!
//! The probe alerts on every tick with a hash of all that its symbol has seen, so one entry too many or too few shows.

use std::{collections::BTreeMap, fs, path::Path};

use redis::Commands;
use serde_json::Value as Json;
use tickhound_core::{
    event::EntryId,
    session::Sessions,
    simulate::{Layout, Renderer, SimConfig, Simulator},
};

use crate::support::{
    Alert, HOST, Project, REFERENCE_ALERTS, Redis, STREAM, contents, probe, probe_clock, shipped, text, wait_for,
};

/// The detectors of a desk, and the probes; `symbols` of each are all.
const DETECTORS: &str = "[detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
    [detectors.momentum]\nplugin = \"momentum\"\nmin_confidence = 0.0\n\
    [detectors.gap]\nplugin = \"gap\"\nmin_confidence = 0.0\n\
    [detectors.vwap]\nplugin = \"vwap\"\nmin_confidence = 0.0\n\
    [detectors.probe]\nplugin = \"probe\"\n\
    [detectors.probe-clock]\nplugin = \"probe_clock\"\n";

/// The fields of an entry: names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A simulated market of six sessions, over a weekend and a holiday: the entries of each.
struct Week {
    days: Vec<Vec<(EntryId, Fields)>>,
}

impl Week {
    fn new() -> Self {
        const SESSIONS: usize = 6;
        let config = SimConfig { symbols: 6, rate: 0.03, dirt: 0.02, ..SimConfig::default() };
        let (mut market, mut renderer) = (Simulator::new(&config), Renderer::new(Layout::Json));
        let days = Sessions::default();
        let mut clock = days.clock(jiff::tz::TimeZone::get("Asia/Kolkata").unwrap());
        let (mut week, mut last, mut number): (Vec<Vec<_>>, _, _) = (Vec::new(), EntryId::ZERO, None);
        loop {
            let tick = market.next().unwrap();
            if number.replace(clock.span(0, tick.time).number) != number {
                if week.len() == SESSIONS {
                    return Self { days: week };
                }
                week.push(Vec::new());
            }
            // It arrives some milliseconds later.
            let millis = tick.time / 1_000_000 + 20 + tick.time / 1_000_000 % 7;
            let seq = if millis <= last.millis { last.seq + 1 } else { 0 };
            last = EntryId { millis: millis.max(last.millis), seq };
            let mut fields = Vec::new();
            let instrument = &market.instruments()[tick.instrument as usize];
            renderer.render(instrument, &tick, |name, value| fields.push((name.to_vec(), value.to_vec())));
            week.last_mut().unwrap().push((last, fields));
        }
    }

    /// Adds the entries of some days to the stream.
    fn add(&self, redis: &Redis, days: std::ops::Range<usize>) {
        let mut connection = redis.connect();
        let entries: Vec<_> = self.days[days].iter().flatten().collect();
        for page in entries.chunks(1000) {
            let mut pipe = redis::pipe();
            for (id, fields) in page {
                pipe.cmd("XADD").arg(STREAM).arg(id.to_string());
                fields.iter().for_each(|(name, value)| _ = pipe.arg(name).arg(value));
                pipe.ignore();
            }
            pipe.exec(&mut connection).unwrap();
        }
    }

    fn count(&self, days: std::ops::Range<usize>) -> usize {
        self.days[days].iter().map(Vec::len).sum()
    }

    fn first(&self, day: usize) -> EntryId {
        self.days[day][0].0
    }
}

/// A project with all detectors, and these files of history.
fn project(redis: &Redis, history: &Path, more: &str) -> Project {
    let project = Project::new(redis);
    for plugin in [probe(), probe_clock(), shipped("plugins/gap.wasm"), shipped("plugins/vwap.wasm")] {
        project.add_plugin(&plugin);
    }
    configure(&project, redis, history, &format!("{more}\n{DETECTORS}"));
    project
}

fn configure(project: &Project, redis: &Redis, history: &Path, more: &str) {
    project.replace_config(&format!(
        "[stream]\nurl = \"{}\"\nblock_ms = 100\n[session]\ncalendar = \"nse\"\n[alerts]\nlog = false\nmaxlen = 0\n\
         [history]\ndir = \"{}\"\n[record]\nfree_min_mib = 0\n{more}",
        redis.url(),
        history.display()
    ));
}

/// Five recorded days, and what an undisturbed run over all six raises on the last one.
struct FiveDays {
    week: Week,
    folder: tempfile::TempDir,
    /// The alerts of day six.
    expected: Vec<Alert>,
}

impl FiveDays {
    fn record() -> Self {
        let (redis, week, folder) = (Redis::start(), Week::new(), tempfile::tempdir().unwrap());
        let project = project(&redis, folder.path(), "");
        week.add(&redis, 0..5);
        let mut recorder = project.start(&["record"]);
        wait_for("five days are recorded", || {
            let status: Json = serde_json::from_slice(&project.output(&["record", "--json"]).stdout).unwrap();
            (status["recorder"]["entries"] == week.count(0..5)).then_some(())
        });
        recorder.stop();
        week.add(&redis, 5..6);
        project.run_reference(&redis);
        let all: Vec<Alert> = redis.stream_entries(REFERENCE_ALERTS).into_iter().map(|(_, alert)| alert).collect();
        let expected: Vec<Alert> = all.into_iter().filter(|alert| entry(alert) >= week.first(5)).collect();
        let mut of: BTreeMap<&str, usize> = BTreeMap::new();
        expected.iter().for_each(|alert| *of.entry(&alert["detector"]).or_default() += 1);
        assert!(of.len() >= 5, "{of:?}");
        Self { week, folder, expected }
    }

    /// Asserts that these are the alerts of day six.
    fn check(&self, alerts: &[Alert]) {
        let (alerts, expected) = (contents(alerts), contents(&self.expected));
        let at = alerts.iter().zip(&expected).position(|(is, should)| is != should);
        let shown = at.map(|at| format!("\n{:?}\nexpected\n{:?}", alerts[at], expected[at]));
        assert!(alerts == expected, "{} of {}{}", alerts.len(), expected.len(), shown.unwrap_or_default());
    }
}

fn entry(alert: &Alert) -> EntryId {
    alert["entry"].parse().unwrap()
}

/// Waits until a detector has warmed up, and returns what the host says of it.
fn wait_rewarmed(redis: &Redis, detector: &str) -> Json {
    wait_for(&format!("{detector} is rewarmed"), || {
        let receipt: Option<String> = redis.connect().get(HOST).unwrap();
        let receipt: Json = serde_json::from_str(&receipt?).unwrap();
        let detectors = receipt["detectors"].as_array()?.clone();
        detectors.into_iter().find(|of| of["name"] == detector && of["state"] == "rewarmed")
    })
}

/// A fresh host on a server that has nothing of the first five days, however many workers it has, and killed within the
/// warm-up or not.
#[test]
fn five_days_of_history_are_as_good_as_five_days_of_running() {
    let five = FiveDays::record();
    for (workers, kills) in [(1, 0), (4, 0), (2, 3)] {
        let redis = Redis::start();
        let project = project(&redis, five.folder.path(), &format!("[engine]\nworkers = {workers}"));
        five.week.add(&redis, 5..6);
        for _ in 0..kills {
            let mut host = project.start(&["run", "--drain"]);
            host.wait_for_event("warm_up_started");
            host.kill();
        }
        project.run(&["run", "--drain"]);
        five.check(&redis.alerts());
    }
    // It waits for its first entry when it is warm, and says how it became so.
    let redis = Redis::start();
    let project = project(&redis, five.folder.path(), "");
    let mut host = project.start_owner();
    let detector = wait_rewarmed(&redis, "probe");
    assert_eq!(detector["rewarmed_sessions"], 5, "{detector}");
    assert!(project.run(&["status"]).contains("state rewarmed, 5 sessions"));
    five.week.add(&redis, 5..6);
    redis.wait_all_processed(five.week.count(5..6));
    five.check(&redis.alerts());
    host.stop();
    // A detector that has its state is not warmed up again.
    let again = project.run(&["run", "--drain"]);
    assert!(!again.contains("warm_up_started"), "{again}");
}

/// A running host gets new detectors. Its recorder was started late, and has died some entries ago, so that the stream has
/// what was before the files, and what is behind them; or the stream keeps its last entries only.
#[test]
fn a_new_detector_of_a_running_host_is_shown_files_and_stream_and_no_entry_twice() {
    let five = FiveDays::record();
    cut_last_frames(five.folder.path());
    for (trim, window_s, sessions) in [("MAXLEN 500", 86_400, 5), ("MAXLEN 1000000", 2_592_000, 2)] {
        let redis = Redis::start();
        let project = project(&redis, five.folder.path(), "");
        let plugins = format!("[plugins]\nrewarm_s = {window_s}\n");
        let other = format!("{plugins}[detectors.other]\nplugin = \"probe\"\nsymbols = [\"NONE\"]\n");
        configure(&project, &redis, five.folder.path(), &other);
        let mut host = project.start_owner();
        five.week.add(&redis, 0..5);
        redis.wait_all_processed(five.week.count(0..5));
        let _: u64 = redis.ask(&format!("XTRIM {STREAM} {trim}"));
        configure(&project, &redis, five.folder.path(), &format!("{plugins}{DETECTORS}"));
        let detector = wait_rewarmed(&redis, "probe");
        assert_eq!(detector["rewarmed_sessions"], sessions, "{detector}");
        five.week.add(&redis, 5..6);
        redis.wait_all_processed(five.week.count(0..6));
        five.check(&redis.alerts());
        host.stop();
        for day in ["03", "04", "06"] {
            fs::remove_file(five.folder.path().join(format!("2025-11-{day}.jsonl.zst"))).unwrap_or(());
        }
    }
}

/// Cuts the newest day file within its last frame.
fn cut_last_frames(folder: &Path) {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".jsonl.zst"));
    files.sort();
    let last = files.last().unwrap();
    let bytes = fs::read(last).unwrap();
    fs::write(last, &bytes[..bytes.len() - bytes.len() / 50 - 100]).unwrap();
}

/// Files that no recorder wrote, one of them damaged, and settings that leave history out.
#[test]
fn other_files_and_other_settings() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let row = |day: u32, hour: u32| format!("2025-11-{day:02} {hour}:00:00,SBIN,{}\n", 900 + hour);
    let day = |day: u32| format!("timestamp,symbol,last_price\n{}{}", row(day, 10), row(day, 11));
    for number in [3, 4, 6] {
        fs::write(folder.path().join(format!("2025-11-{number:02}.csv")), day(number)).unwrap();
    }
    fs::write(folder.path().join("2025-11-07.csv.gz"), "\x1f\u{8b}no gzip").unwrap();
    let seen = |more: &str| {
        let _: String = redis.ask("FLUSHALL");
        let tick = "{\"symbol\":\"SBIN\",\"last_price\":900,\"timestamp\":\"2025-11-07 10:00:00\"}";
        // 2025-11-07, 10:00 in India.
        let _: String = redis::cmd("XADD")
            .arg(STREAM)
            .arg("1762489800000-0")
            .arg("data")
            .arg(tick)
            .query(&mut redis.connect())
            .unwrap();
        let project = project(&redis, folder.path(), "");
        configure(
            &project,
            &redis,
            folder.path(),
            &format!("[plugins]\n{more}\n[detectors.probe]\nplugin = \"probe\"\n"),
        );
        let output = project.output(&["run", "--drain"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let alerts = redis.alerts();
        let evidence: Json = serde_json::from_str(&alerts[0]["evidence"]).unwrap();
        (evidence["seen"].as_f64().unwrap() as u64, text(&output.stdout))
    };
    let (all, log) = seen("");
    assert_eq!(all, 7, "three days of two ticks, and the stream's own: {log}");
    assert!(log.contains("history_file_skipped") && log.contains("2025-11-07.csv.gz"), "{log}");
    // Of Friday, two sessions before are Thursday and Tuesday; Wednesday was a holiday.
    assert_eq!(seen("rewarm_sessions = 2").0, 5);
    assert_eq!(seen("rewarm_sessions = 0").0, 1);
    assert_eq!(seen("rewarm_s = 0").0, 1);
}
