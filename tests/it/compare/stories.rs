//! A market whose ticks are known, and what may happen to the hosts that process them. No story may change an alert.
//!
//! Entries have the ids that a replay gives to the ticks of a file: so alerts have the same ids live and in a replay of the
//! file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::PathBuf,
    slice,
};

use serde_json::{Map, Value};
use tickhound_core::event::Entries;

use crate::support::{
    Alert, Difference, Project, Redis, STREAM, alert_lines, contents, difference, release, shipped, wait_for,
};

/// How many workers and which batches: the most and the fewest.
const SIZES: [(usize, usize); 9] =
    [(1, 1000), (1, 1), (1, 100), (1, 5000), (2, 1), (2, 100), (4, 1), (4, 100), (4, 5000)];

/// The hosts that are killed one after the other. A host with batches of one processes little before it dies.
const KILLED: [(usize, usize); 10] =
    [(2, 100), (4, 5000), (1, 100), (3, 1), (2, 5000), (4, 100), (1, 1), (4, 1), (2, 500), (1, 5000)];

/// Ticks, and the detectors that see them.
pub struct Market {
    /// The detectors that must raise alerts, each with the plugin of its name.
    pub names: Vec<&'static str>,
    /// Their tables, and all that belongs to them.
    pub settings: String,
    pub entries: Entries,
    /// The files that hold these ticks; none: those that a recorder writes.
    pub files: Vec<PathBuf>,
}

impl Market {
    /// A project with these detectors on a server. `tables` are further keys of `[stream]` and `[engine]`, and further tables.
    pub fn project(&self, redis: &Redis, tables: [&str; 3]) -> Project {
        let project = Project::new(redis);
        for name in &self.names {
            project.add_plugin(&shipped(&format!("plugins/{name}.wasm")));
        }
        self.configure(&project, redis, tables);
        project
    }

    pub fn configure(&self, project: &Project, redis: &Redis, [stream, engine, more]: [&str; 3]) {
        let (url, settings) = (redis.url(), &self.settings);
        project.replace_config(&format!(
            "[stream]\nurl = \"{url}\"\nblock_ms = 100\nlease_ms = 500\n{stream}\n[engine]\n{engine}\n[alerts]\nlog = false\n\
             maxlen = 0\njsonl = \"alerts.jsonl\"\n[record]\nfree_min_mib = 0\n{settings}\n{more}\n"
        ));
    }

    /// Adds some of the entries to the stream.
    pub fn add(&self, redis: &Redis, numbers: Range<usize>) {
        const PAGE: usize = 2000;
        let mut connection = redis.connect();
        for start in numbers.clone().step_by(PAGE) {
            let mut pipe = redis::pipe();
            for entry in (start..(start + PAGE).min(numbers.end)).map(|number| self.entries.get(number).unwrap()) {
                pipe.cmd("XADD").arg(STREAM).arg(entry.id.to_string());
                entry.fields().for_each(|(name, value)| _ = pipe.arg(name).arg(value));
                pipe.ignore();
            }
            pipe.exec(&mut connection).unwrap();
        }
    }

    pub fn add_all(&self, redis: &Redis) {
        self.add(redis, 0..self.entries.len());
    }

    /// The number of the first entry that arrived at this time or later.
    pub fn number_at(&self, millis: u64) -> usize {
        let ids: Vec<u64> = self.entries.iter().map(|entry| entry.id.millis).collect();
        ids.partition_point(|id| *id < millis)
    }

    /// Replays files with these arguments, and returns the alerts as bytes.
    fn replay(&self, project: &Project, files: &[PathBuf], (workers, batch): (usize, usize)) -> Vec<u8> {
        let [workers, batch] = [workers, batch].map(|number| number.to_string());
        let mut args = vec!["replay"];
        args.extend(files.iter().map(|file| file.to_str().unwrap()));
        args.extend(["--workers", &workers, "--batch", &batch, "--out", "replayed.jsonl"]);
        project.run(&args);
        fs::read(project.path("replayed.jsonl")).unwrap()
    }

    /// Live is a replay of the stream, of the recorded files, and of the files that the ticks come from; for all numbers of
    /// workers and all batches, to a byte.
    pub fn assert_live_is_replay(&self) {
        let redis = Redis::start();
        let project = self.project(&redis, ["", "workers = 3", ""]);
        self.add_all(&redis);
        let recorded = self.record(&redis, &project);
        project.run(&["run", "--drain"]);
        let live = alert_lines(&project.path("alerts.jsonl"));
        println!("live: {} entries, {} alerts: {:?}", self.entries.len(), live.len(), by_detector(&live));
        self.assert_all_alert(&live);
        let compare = |what: &str| {
            let replayed = alert_lines(&project.path("replayed.jsonl"));
            let differs = live.iter().zip(&replayed).find(|(live, replayed)| live != replayed);
            assert_eq!((replayed.len(), differs), (live.len(), None), "{what}");
        };
        project.run(&["replay", "--stream", "--workers", "2", "--out", "replayed.jsonl"]);
        compare("a replay of the stream");
        let bytes = fs::read(project.path("replayed.jsonl")).unwrap();
        assert!(
            self.replay(&project, slice::from_ref(&recorded), (2, 1000)) == bytes,
            "a replay of the recorded files"
        );
        let files = if self.files.is_empty() { &vec![recorded] } else { &self.files };
        for size in SIZES {
            assert!(self.replay(&project, files, size) == bytes, "a replay of the files by (workers, batch) {size:?}");
        }
        println!("replays: of the stream, of the recorded files, of the files by {} sizes: equal", SIZES.len());
    }

    /// Live from Redis, for all numbers of workers and all batches, over the first entries: with batches of one there is a
    /// commit for nearly each.
    pub fn assert_sizes_change_nothing_live(&self) {
        const ENTRIES: usize = 150_000;
        let mut reference = None;
        for (workers, batch) in SIZES {
            let redis = Redis::start();
            let engine = format!("workers = {workers}\nbacklog = {}", (4 * batch).max(8));
            let project = self.project(&redis, [&format!("batch = {batch}"), &engine, ""]);
            self.add(&redis, 0..ENTRIES.min(self.entries.len()));
            project.run(&["run", "--drain"]);
            let alerts = redis.alerts();
            assert!(alerts.len() > 20, "{}", alerts.len());
            assert_equal(alerts.clone(), reference.get_or_insert(alerts).clone());
        }
        println!("live: {} alerts by {} sizes: equal", reference.unwrap_or_default().len(), SIZES.len());
    }

    /// Records the stream; the folder of the files.
    pub fn record(&self, redis: &Redis, project: &Project) -> PathBuf {
        let mut recorder = project.start(&["record"]);
        let length = redis.length(STREAM);
        wait_for("the stream is recorded", || {
            let status: Value = serde_json::from_slice(&project.output(&["record", "--json"]).stdout).unwrap();
            (status["recorder"]["entries"] == length).then_some(())
        });
        recorder.stop();
        project.path("history")
    }

    /// The hosts have other numbers of workers and other batches in each life; ten are killed, each in the middle of its work.
    pub fn assert_kills_change_nothing(&self) {
        let redis = Redis::start();
        let engine = |(workers, batch): (usize, usize)| {
            format!("workers = {workers}\nbacklog = {}\ncheckpoint_every_ms = 50", (4 * batch).max(8))
        };
        let project = self.project(&redis, ["", &engine((1, 100)), ""]);
        self.add_all(&redis);
        let reference = project.reference(&redis);
        self.assert_all_alert(&reference);
        let (total, mut pending) = (self.entries.len() as u64, 0);
        for (kill, size) in (1..).zip(KILLED) {
            self.configure(&project, &redis, [&format!("batch = {}", size.1), &engine(size), ""]);
            let mut host = project.start(&["run"]);
            if size.1 == 1 {
                host.wait_for_event("lease_acquired");
                redis.wait_progress(500);
            } else {
                redis.wait_processed(kill * total / 12);
            }
            host.kill();
            pending += redis.pending();
        }
        self.configure(&project, &redis, ["batch = 1000", &engine((3, 1000)), ""]);
        project.run(&["run", "--drain"]);
        assert!(pending > 0, "no kill caught a host in the middle of its work");
        let alerts = reference.len();
        assert_equal(redis.alerts(), reference);
        println!("kills: {}, {pending} entries pending in all, {alerts} alerts: equal", KILLED.len());
    }

    /// Hosts are killed in the last minutes of a session, in the night, and in the first minutes of the next session, which
    /// begins with this entry.
    pub fn assert_kills_around_a_night_change_nothing(&self, open: usize) {
        /// How many entries there are from one kill to the next.
        const STEP: usize = 1500;
        let redis = Redis::start();
        let project = self.project(&redis, ["", "", ""]);
        let (mut fed, mut pending, kills) = (0, 0, 2 * KILLED.len());
        for (kill, size) in (0..kills).zip(KILLED.into_iter().cycle()) {
            let end = open + STEP * kill - STEP * KILLED.len();
            self.add(&redis, fed..end);
            fed = end;
            let engine = format!("workers = {}\nbacklog = {}\ncheckpoint_every_ms = 50", size.0, (4 * size.1).max(8));
            self.configure(&project, &redis, [&format!("batch = {}", size.1), &engine, ""]);
            let mut host = project.start(&["run"]);
            // Some end at the last entry of the session, others within what they have read.
            redis.wait_processed(if kill % 2 == 0 { end } else { end - STEP / 2 });
            host.kill();
            pending += redis.pending();
        }
        self.add(&redis, fed..self.entries.len());
        project.run(&["run", "--drain"]);
        let reference = project.reference(&redis);
        let alerts = reference.len();
        assert_equal(redis.alerts(), reference);
        println!("kills around a night: {kills}, {pending} entries pending in all, {alerts} alerts: equal");
    }

    /// Each plugin is replaced while ticks flow, and the host is killed right behind each second one.
    pub fn assert_swaps_change_nothing(&self) {
        let redis = Redis::start();
        let project = self.project(&redis, ["batch = 100", "workers = 2\nbacklog = 500", "[plugins]\nrewarm_s = 0"]);
        let part = self.entries.len() / (self.names.len() + 1);
        let mut host = project.start_owner();
        let mut kills = 0;
        for (swap, name) in self.names.iter().enumerate() {
            // The ticks that follow come while the plugin is compiled.
            self.add(&redis, swap * part..(swap + 1) * part);
            let before = host.count_event("generation_activated");
            replace_plugin(&project, name);
            wait_for("the plugin is replaced", || (host.count_event("generation_activated") > before).then_some(()));
            if swap % 2 == 0 {
                host.kill();
                kills += 1;
                host = project.start_owner();
            }
        }
        self.add(&redis, self.names.len() * part..self.entries.len());
        redis.wait_all_processed(self.entries.len());
        host.stop();
        let alerts = redis.alerts();
        let codes: BTreeSet<(&str, &str)> =
            alerts.iter().map(|alert| (&*alert["detector"], &*alert["sha256"])).collect();
        println!("swaps: {}, {kills} kills, {} codes in {} alerts", self.names.len(), codes.len(), alerts.len());
        assert!(codes.len() > self.names.len(), "no detector alerted with both codes: {codes:?}");
        assert_equal(without_code(alerts), without_code(project.reference(&redis)));
    }

    /// Settings change at the same entry in two markets; the host of one is killed right behind the change, and once more on
    /// its way. `change` may replace files beside the configuration, which `prepare` has written.
    pub fn assert_a_kill_after_a_change_is_harmless(
        &self,
        after: &Self,
        prepare: &dyn Fn(&Project),
        change: &dyn Fn(&Project),
    ) {
        // Nothing is saved but what must be, when it must be.
        let (stream, engine) = ("batch = 100", "workers = 3\nbacklog = 500\ncheckpoint_every_ms = 3600000");
        let total = self.entries.len();
        let [undisturbed, killed] = [false, true].map(|is_killed| {
            let redis = Redis::start();
            let project = self.project(&redis, [stream, engine, ""]);
            prepare(&project);
            let mut host = project.start_owner();
            self.add(&redis, 0..total / 2);
            redis.wait_all_processed(total / 2);
            change(&project);
            if after.settings != self.settings {
                after.configure(&project, &redis, [stream, engine, ""]);
            }
            host.wait_for_event("generation_activated");
            if is_killed {
                host.kill();
                host = project.start(&["run"]);
                self.add(&redis, total / 2..total * 3 / 4);
                redis.wait_processed(total * 5 / 8);
                host.kill();
                host = project.start(&["run"]);
            } else {
                self.add(&redis, total / 2..total * 3 / 4);
            }
            self.add(&redis, total * 3 / 4..total);
            redis.wait_all_processed(total);
            host.stop();
            redis.alerts()
        });
        self.assert_all_alert(&undisturbed);
        let alerts = undisturbed.len();
        assert_equal(killed, undisturbed);
        println!("change right before a kill: {alerts} alerts: equal");
    }

    /// Each of the detectors has raised an alert.
    fn assert_all_alert<Alert: Named>(&self, alerts: &[Alert]) {
        let by = by_detector(alerts);
        for name in &self.names {
            assert!(by.contains_key(*name), "{name}: {by:?}");
        }
    }
}

/// An alert in one of its forms.
pub trait Named {
    fn detector(&self) -> &str;
}

impl Named for Alert {
    fn detector(&self) -> &str {
        &self["detector"]
    }
}

impl Named for Map<String, Value> {
    fn detector(&self) -> &str {
        self["detector"].as_str().unwrap()
    }
}

/// The number of alerts of each detector.
pub fn by_detector<Alert: Named>(alerts: &[Alert]) -> BTreeMap<&str, usize> {
    let mut by = BTreeMap::new();
    alerts.iter().for_each(|alert| *by.entry(alert.detector()).or_default() += 1);
    by
}

/// Fails with the first alert in which they differ.
pub fn assert_equal(alerts: Vec<Alert>, reference: Vec<Alert>) {
    let (is, should) = (contents(&alerts), contents(&reference));
    let at = is.iter().zip(&should).position(|(is, should)| is != should);
    let shown = at.map(|at| format!("{:?}\nexpected\n{:?}", alerts[at], reference[at])).unwrap_or_default();
    assert_eq!(difference(alerts, reference), Difference::default(), "{shown}");
    assert!(is == should, "{shown}");
}

/// The same code under another hash, in one move.
fn replace_plugin(project: &Project, name: &str) {
    let file = project.path(&format!("plugins/{name}.wasm"));
    let part = project.path("plugins/part");
    fs::write(&part, release(&file, "another")).unwrap();
    fs::rename(part, file).unwrap();
}

/// Alerts without the hash of the code that raised them.
fn without_code(mut alerts: Vec<Alert>) -> Vec<Alert> {
    alerts.iter_mut().for_each(|alert| _ = alert.remove("sha256"));
    alerts
}
