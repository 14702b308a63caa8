//! Plugins and configuration that change under a running host: what it takes up, and what it refuses.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use redis::Commands;
use tickhound_core::event::EntryId;

use crate::{
    proxy::{At, Proxy},
    support::{
        HOST, Host, Project, Redis, assert_chains, contents, count_event, has_event, has_event_with, lines_of,
        misbehaving, pause, probe, release, shipped, signal, text, wait_for,
    },
};

/// A host that waits for ticks, and for changes.
struct Running {
    // In the order in which they end.
    host: Host,
    project: Project,
    redis: Redis,
}

impl Running {
    fn start() -> Self {
        Self::with(&[], |_| ())
    }

    fn with(variables: &[(&str, &str)], prepare: impl FnOnce(&Project)) -> Self {
        let redis = Redis::start();
        let project = Project::new(&redis);
        prepare(&project);
        let host = project.start_with(&["run", "--debug"], variables);
        host.wait_for_event("lease_acquired");
        // A change that comes before the host has begun is in force from the beginning, and no line says so.
        wait_for("the host has begun", || redis.connect().exists::<_, bool>(HOST).unwrap().then_some(()));
        Self { project, host, redis }
    }

    /// Waits until the generation of that number is active, whose list of detectors ends with `detectors`.
    fn wait_active(&self, number: u32, detectors: &str) {
        let end = format!("{detectors} event=\"generation_activated\" generation={number} ");
        self.host.wait_for_event_with("generation_activated", &end);
    }

    /// Waits until the generation of that number is in force; returns which detectors were loaded for it.
    fn wait_in_force(&self, number: u32) -> String {
        self.host.wait_for_event_with("generation_activated", &format!(" generation={number} "));
        let log = self.host.log();
        let before = format!(" generation={} pause_us=", number - 1);
        let since = log.split(before.as_str()).last().unwrap_or_default();
        let since = since.split(&format!(" generation={number} pause_us=")).next().unwrap();
        let since = since.rsplit("event=\"lease_acquired\"").next().unwrap();
        let loaded = lines_of(since, "detector_loaded").into_iter();
        let loaded = loaded.filter_map(|line| line.split_once(" detector=")?.1.split(' ').next());
        loaded.collect::<Vec<_>>().join(" ")
    }

    /// Waits until so many changes were refused; returns the last one's line.
    fn wait_refused(&self, times: usize) -> String {
        wait_for(&format!("{times} refusals in:\n{}", self.host.log()), || {
            (self.host.count_event("change_rejected") >= times).then_some(())
        });
        assert_eq!(self.host.count_event("change_rejected"), times, "{}", self.host.log());
        let log = self.host.log();
        (*lines_of(&log, "change_rejected").last().unwrap()).to_owned()
    }

    /// Puts a plugin where it belongs by renaming it, as a careful user does.
    fn drop_in(&self, name: &str, bytes: &[u8]) {
        let part = self.project.path(&format!("plugins/{name}.wasm.part"));
        fs::write(&part, bytes).unwrap();
        fs::rename(part, self.project.path(&format!("plugins/{name}.wasm"))).unwrap();
    }
}

fn breakout(tag: &str) -> Vec<u8> {
    release(&shipped("plugins/breakout.wasm"), tag)
}

#[test]
fn a_plugin_that_is_renamed_or_copied_into_place_is_loaded() {
    let running = Running::start();
    running.drop_in("breakout", &breakout("two"));
    assert_eq!(running.wait_in_force(2), "breakout", "only what has changed");
    let new = running.project.path("new.wasm");
    fs::write(&new, breakout("three")).unwrap();
    let copied = Command::new("cp").args([&new, &running.project.path("plugins/breakout.wasm")]).status().unwrap();
    assert!(copied.success());
    running.wait_in_force(3);
    assert_eq!(running.host.count_event("change_rejected"), 0);
}

#[test]
fn the_same_content_again_is_not_a_change() {
    let running = Running::start();
    let file = running.project.path("plugins/breakout.wasm");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes).unwrap();
    running.drop_in("breakout", &bytes);
    let config = fs::read(running.project.path("config/config.toml")).unwrap();
    fs::write(running.project.path("config/config.toml"), config).unwrap();
    running.drop_in("momentum", &release(&shipped("plugins/momentum.wasm"), "two"));
    assert_eq!(running.wait_in_force(2), "momentum");
}

#[test]
fn a_plugin_that_grows_slowly_is_taken_when_it_is_whole() {
    let running = Running::start();
    let bytes = breakout("two");
    let started = Instant::now();
    let mut file = File::create(running.project.path("plugins/breakout.wasm")).unwrap();
    for part in bytes.chunks(bytes.len() / 3 + 1) {
        file.write_all(part).unwrap();
        // Longer than a copy may rest.
        (0..40).for_each(|_| pause());
    }
    let in_time = started.elapsed() < Duration::from_secs(2);
    drop(file);
    running.wait_in_force(2);
    assert!(running.host.count_event("change_rejected") == 0 || !in_time, "{}", running.host.log());
}

#[test]
fn a_damaged_plugin_is_refused_and_a_good_one_taken_after_it() {
    let running = Running::start();
    let bytes = breakout("two");
    fs::write(running.project.path("plugins/breakout.wasm"), &bytes[..bytes.len() / 2]).unwrap();
    let line = running.wait_refused(1);
    assert!(
        line.contains("damaged or cut off, copy it again") && line.contains("plugin of detector breakout"),
        "{line}"
    );
    assert!(line.contains("config/config.toml:") && line.contains("generation=1"), "{line}");
    running.drop_in("breakout", &bytes);
    running.wait_in_force(2);
    assert!(running.project.run(&["status"]).contains("fixed since: config/config.toml:"));
    assert_eq!(running.host.count_event("change_rejected"), 1);
}

#[test]
fn what_is_not_a_file_is_rejected_with_a_sentence() {
    let running = Running::start();
    let file = running.project.path("plugins/breakout.wasm");
    fs::remove_file(&file).unwrap();
    let line = running.wait_refused(1);
    assert!(line.contains("keeping the loaded plugin. `enabled = false` stops its detector"), "{line}");
    fs::create_dir(&file).unwrap();
    assert!(running.wait_refused(2).contains("is not a file"));
    fs::remove_dir(&file).unwrap();
    let outside = running.project.path("outside.wasm");
    fs::write(&outside, breakout("two")).unwrap();
    symlink(&outside, &file).unwrap();
    let line = wait_for("the link is refused", || {
        let log = running.host.log();
        let refused = lines_of(&log, "change_rejected").into_iter();
        refused.rev().find(|line| line.contains("is a link out of the folder")).map(str::to_owned)
    });
    assert!(line.contains("plugins.follow_links = true"), "{line}");
    fs::remove_file(&file).unwrap();
    fs::write(running.project.path("plugins/inside.wasm"), breakout("three")).unwrap();
    symlink("inside.wasm", &file).unwrap();
    running.wait_in_force(2);
}

#[test]
fn a_link_out_of_the_folder_is_followed_where_that_is_allowed() {
    let running = Running::with(&[("TICKHOUND_PLUGINS__FOLLOW_LINKS", "true")], |_| ());
    let outside = running.project.path("outside.wasm");
    fs::write(&outside, breakout("two")).unwrap();
    let link = running.project.path("plugins/link");
    symlink(&outside, &link).unwrap();
    fs::rename(link, running.project.path("plugins/breakout.wasm")).unwrap();
    running.wait_in_force(2);
    fs::write(&outside, breakout("three")).unwrap();
    running.wait_in_force(3);
}

#[test]
fn live_keys_are_applied_and_the_others_wait_for_a_restart() {
    let running = Running::start();
    running.project.configure_with("lease_ms = 7000", "[alerts]\nlog = false\nmaxlen = 5");
    let sentence = "config/config.toml:4:1: stream.lease_ms needs a restart; until then it stays 5000";
    running.host.wait_for_event_with("restart_required", sentence);
    assert_eq!(running.wait_in_force(2), "", "no detector has changed");
    running.host.wait_for_event_with("restart_required", "alerts.maxlen needs a restart; until then it stays 100000");
    running.project.configure_with("lease_ms = 7000", "[plugins]\ncall_deadline_ms = 77");
    assert_eq!(running.wait_in_force(3), "breakout momentum", "limits are every detector's");
    running.project.configure_with("lease_ms = 7000", "[detectors.third]\nplugin = \"breakout\"");
    assert_eq!(running.wait_in_force(4), "breakout momentum third");
    running.project.configure_with("lease_ms = 7000", "[detectors.third]\nplugin = \"breakout\"\nenabled = false");
    assert_eq!(running.wait_in_force(5), "");
    let log = running.host.log();
    let lease = lines_of(&log, "restart_required").into_iter().filter(|line| line.contains("stream.lease_ms"));
    assert_eq!(lease.count(), 1, "it is said once");
    assert_eq!(running.host.count_event("plugin_compiled"), 2, "nothing had to be compiled again");
}

/// Entries in one read, and those in flight, are changed while it runs.
#[test]
fn batch_and_backlog_are_live() {
    let running = Running::start();
    let commits_for = |entries: u32| {
        let before = running.redis.totals();
        let count = |totals: &std::collections::BTreeMap<String, u64>, name| totals.get(name).copied().unwrap_or(0);
        running.project.feed(5, entries, &[]);
        let goal = count(&before, "entries") + u64::from(entries);
        wait_for("all is processed", || (count(&running.redis.totals(), "entries") == goal).then_some(()));
        count(&running.redis.totals(), "commits") - count(&before, "commits")
    };
    running.project.configure_with("batch = 1", "[engine]\nbacklog = 1");
    running.wait_in_force(2);
    let commits = commits_for(500);
    assert!(commits >= 500, "{commits} commits of one entry each");
    running.project.configure_with("batch = 400", "[engine]\nbacklog = 100000");
    running.wait_in_force(3);
    let commits = commits_for(20_000);
    assert!(commits < 10_000, "{commits} commits");
    assert_eq!(running.host.count_event("restart_required"), 0);
}

#[test]
fn a_mistake_in_the_configuration_is_refused_with_its_line() {
    let running = Running::start();
    running.project.configure("[detectors.third");
    let line = running.wait_refused(1);
    assert!(line.contains("config/config.toml:11:17"), "{line}");
    running.project.configure("[detectors.third]\nplugin = \"breakout\"\n[detectors.third.params]\nwindw_s = 3");
    assert!(running.wait_refused(2).contains("did you mean `window_s`?"));
    running.project.write_config("");
    assert!(running.wait_refused(3).contains("no detector is enabled"));
    running.project.configure("[detectors.third]\nplugin = \"breakout\"");
    assert_eq!(running.wait_in_force(2), "third");
}

#[test]
fn of_a_change_with_anything_wrong_in_it_nothing_is_taken() {
    let running = Running::start();
    running.project.add_plugin(misbehaving());
    let change = |params: &str| {
        running.project.configure(&format!(
            "[detectors.first]\nplugin = \"breakout\"\n[detectors.odd]\nplugin = \"misbehaving\"\nparams = {{ {params} }}"
        ));
    };
    change("how = \"panic\"");
    let line = running.wait_refused(1);
    assert!(line.contains("detector odd failed in its trial"), "{line}");
    assert_eq!(running.host.count_event("generation_activated"), 0);
    change("how = \"not\"");
    assert_eq!(running.wait_in_force(2), "first odd");
}

#[test]
fn variables_go_on_overriding_a_changed_file() {
    let running = Running::with(&[("TICKHOUND_STREAM__LEASE_MS", "9000")], |_| ());
    running.project.configure_with("lease_ms = 7000", "[alerts]\nlog_stale = true");
    running.wait_in_force(2);
    assert_eq!(running.host.count_event("restart_required"), 0);
}

#[test]
fn a_plugin_that_no_detector_uses_is_reported_with_what_to_add() {
    let running = Running::start();
    running.drop_in("lonely", &breakout("lonely"));
    let cure = "add [detectors.lonely] with plugin = \"lonely\"";
    running.host.wait_for_event_with("plugin_unused", cure);
    running.project.configure("[detectors.lonely]\nplugin = \"lonely\"");
    assert_eq!(running.wait_in_force(2), "lonely");
}

#[test]
fn an_editor_that_replaces_the_file_is_followed() {
    let running = Running::start();
    let (file, backup) = (running.project.path("config/config.toml"), running.project.path("config/config.toml~"));
    for number in 2..4 {
        fs::rename(&file, &backup).unwrap();
        running.project.configure(&format!("[alerts]\nstale_after_ms = {number}"));
        running.wait_in_force(number);
    }
    assert_eq!(running.host.count_event("change_rejected"), 0);
}

/// As a mounted ConfigMap: the file is a link into `..data`, which is a link that is replaced.
#[test]
fn a_configuration_that_kubernetes_replaces_is_followed() {
    let running = Running::with(&[], |project| {
        let text = fs::read_to_string(project.path("config/config.toml")).unwrap();
        fs::create_dir(project.path("config/..first")).unwrap();
        fs::write(project.path("config/..first/config.toml"), text).unwrap();
        symlink("..first", project.path("config/..data")).unwrap();
        fs::remove_file(project.path("config/config.toml")).unwrap();
        symlink("..data/config.toml", project.path("config/config.toml")).unwrap();
    });
    let config = |path: &str| running.project.path(&format!("config/{path}"));
    let text = fs::read_to_string(config("config.toml")).unwrap();
    fs::create_dir(config("..second")).unwrap();
    fs::write(config("..second/config.toml"), format!("{text}[alerts]\nlog = false\n")).unwrap();
    symlink("..second", config("..data_tmp")).unwrap();
    fs::rename(config("..data_tmp"), config("..data")).unwrap();
    fs::remove_dir_all(config("..first")).unwrap();
    running.wait_in_force(2);
    assert_eq!(running.host.count_event("change_rejected"), 0);
}

#[test]
fn a_folder_that_is_replaced_is_still_watched() {
    let running = Running::start();
    let (old, folder) = (running.project.path("old"), running.project.path("plugins"));
    for number in 2..4 {
        fs::rename(&folder, &old).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::copy(old.join("momentum.wasm"), folder.join("momentum.wasm")).unwrap();
        running.drop_in("breakout", &breakout(&number.to_string()));
        running.wait_in_force(number);
        fs::remove_dir_all(&old).unwrap();
    }
}

/// What polling must not miss: an older file of the same size.
#[test]
fn polling_sees_a_plugin_that_is_rolled_back() {
    let running = Running::with(&[("TICKHOUND_PLUGINS__WATCH", "poll")], |project| {
        fs::write(project.path("plugins/older"), breakout("older")).unwrap();
        fs::write(project.path("plugins/breakout.wasm"), breakout("newer")).unwrap();
    });
    running.host.wait_for_event_with("file_watch_started", "how=\"poll\"");
    fs::rename(running.project.path("plugins/older"), running.project.path("plugins/breakout.wasm")).unwrap();
    running.wait_in_force(2);
}

#[test]
fn a_second_start_compiles_nothing() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[plugins]\ncache = \".cache\"");
    let cached = |variables: &[(&str, &str)]| {
        let mut host = project.start_with(&["run", "--drain", "--debug"], variables);
        assert_eq!(host.wait(), Some(0));
        (host.log().matches("cached=false").count(), host.log().matches("cached=true").count())
    };
    assert_eq!(cached(&[]), (2, 0));
    assert!(project.path("plugins/.cache/modules").is_dir());
    assert_eq!(cached(&[]), (0, 2));
    assert_eq!(cached(&[("TICKHOUND_PLUGINS__CACHE", "")]), (2, 0));
}

/// The folder of compiled plugins as it was, with one bit flipped in each file.
fn flip(cache: &Path, pristine: &[(PathBuf, Vec<u8>)], share: f64) {
    let _ = fs::remove_dir_all(cache);
    for (file, bytes) in pristine {
        let mut bytes = bytes.clone();
        let position = (bytes.len().saturating_sub(1) as f64 * share) as usize;
        bytes.iter_mut().skip(position).take(1).for_each(|byte| *byte ^= 1 << (position % 8));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

/// The compiled plugins in a folder.
fn compiled(cache: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = files(cache);
    files.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "code"));
    files
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found
}

/// Compiled plugins are machine code, and had no checksum: of sixty hosts that were started with one bit of it flipped
/// six ended in SIGSEGV, and some raised other alerts without a word.
#[test]
fn a_compiled_plugin_that_is_damaged_on_disk_is_compiled_again() {
    const FLIPS: u32 = 30;
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[plugins]\ncache = \".cache\"");
    project.feed(5, 3000, &[]);
    let expected = contents(&project.reference(&redis));
    assert!(!expected.is_empty());
    let cache = project.path("plugins/.cache");
    let pristine = compiled(&cache);
    let mut damaged = 0;
    for number in 0..FLIPS {
        flip(&cache, &pristine, f64::from(number) / f64::from(FLIPS - 1));
        let (group, stream) = (format!("flip-{number}"), format!("alerts:{number}"));
        let variables = [
            ("TICKHOUND_STREAM__GROUP", group.as_str()),
            ("TICKHOUND_STREAM__START", "earliest"),
            ("TICKHOUND_ALERTS__STREAM", &stream),
        ];
        let mut host = project.start_with(&["run", "--drain"], &variables);
        assert_eq!(host.wait(), Some(0), "flip {number}: {}", host.log());
        let alerts: Vec<_> = redis.paged(&stream).collect();
        assert!(contents(&alerts) == expected, "flip {number}: other alerts");
        damaged += host.count_event("compiled_plugin_damaged");
    }
    assert_eq!(damaged, 2 * FLIPS as usize, "each is noticed");
    let kept = compiled(&cache);
    assert!(kept.len() == 2 && pristine.iter().all(|file| kept.contains(file)), "as it was before");
}

/// A host of before kept wasmtime's own files, which have no checksum: they are not used any more.
#[test]
fn compiled_plugins_without_a_checksum_are_compiled_again() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[plugins]\ncache = \".cache\"");
    let cache = project.path("plugins/.cache");
    project.run(&["check"]);
    for (file, bytes) in compiled(&cache) {
        // Behind the format, the authentication code and the path comes what wasmtime has in its file.
        let format = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let body = &bytes[format + 32..];
        let path = body.iter().position(|byte| *byte == b'\n').unwrap();
        let place = cache.join(String::from_utf8_lossy(&body[..path]).into_owned());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, &body[path + 1..]).unwrap();
        fs::remove_file(file).unwrap();
    }
    let mut host = project.start(&["run", "--drain", "--debug"]);
    assert_eq!(host.wait(), Some(0));
    assert_eq!(host.log().matches("cached=false").count(), 2, "{}", host.log());
}

#[test]
fn a_cache_that_cannot_be_used_is_reported_once_and_done_without() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[plugins]\ncache = \".cache\"");
    fs::write(project.path("plugins/.cache"), "in the way").unwrap();
    let log = project.run(&["run", "--drain"]);
    assert_eq!(count_event(&log, "plugin_cache_unavailable"), 1, "{log}");
    assert!(has_event(&log, "host_drained"));
}

#[test]
fn a_host_that_must_not_watch_does_not() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut host = project.start_with(&["run", "--drain"], &[("TICKHOUND_PLUGINS__WATCH", "off")]);
    assert_eq!(host.wait(), Some(0));
    assert!(!host.has_event("file_watch_started"));
}

#[test]
fn a_detector_that_is_switched_on_is_first_shown_what_the_stream_holds() {
    let running = Running::start();
    running.project.feed(12, 20_000, &[]);
    running.redis.wait_all_processed(20_000);
    running.project.configure("[detectors.third]\nplugin = \"breakout\"");
    running.wait_active(2, "momentum 0.1.0 (cold), third 0.1.0 (rewarmed)");
    let log = running.host.log();
    assert!(has_event_with(&log, "warm_up_finished", "entries=20000"), "{log}");
    running.project.configure("");
    running.wait_active(3, "momentum 0.1.0 (cold)");
    assert_eq!(running.redis.totals()["entries"], 20_000);
}

/// What other consumers hold is processed later, so a warm-up must not show it. If the server does not tell, it waits.
#[test]
fn a_warm_up_begins_when_the_server_tells_what_is_pending() {
    let running = Running::start();
    running.project.feed(12, 1000, &[]);
    running.redis.wait_all_processed(1000);
    let mut connection = running.redis.connect();
    let mut allow = |rule: &str| {
        let _: () = redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule).query(&mut connection).unwrap();
    };
    allow("-xpending");
    running.project.configure("[detectors.third]\nplugin = \"breakout\"");
    running.host.wait_for_event_with("redis_unavailable", "xpending");
    running.project.feed(12, 1000, &["--seed", "2"]);
    running.redis.wait_all_processed(2000);
    let log = running.host.log();
    assert!(!has_event_with(&log, "generation_activated", "rewarmed"), "{log}");
    allow("+xpending");
    running.wait_active(2, "third 0.1.0 (rewarmed)");
}

#[test]
fn a_quarantined_detector_is_reported_and_a_new_file_is_tried_at_once() {
    let running = Running::start();
    running.project.add_plugin(misbehaving());
    let odd = "[detectors.odd]\nplugin = \"misbehaving\"\nparams = { how = \"panic\", at = 100 }";
    running.project.configure(odd);
    running.wait_in_force(2);
    running.project.feed(12, 10_000, &[]);
    running.host.wait_for_event("detector_quarantined");
    running.redis.wait_all_processed(10_000);
    let letters = running.redis.dead_letters();
    // Another worker may be in the middle of one when it is too many.
    assert!(
        (4..=5).contains(&letters.len()) && letters.iter().all(|letter| letter["detector"] == "odd"),
        "{} letters",
        letters.len()
    );
    assert!(letters[0]["reason"].contains("is too much for me") && letters[0]["reason"].contains("src/lib.rs:"));
    wait_for("status tells", || {
        let output = running.project.output(&["status"]);
        let said = text(&output.stdout);
        (output.status.code() == Some(1) && said.contains("detector odd is in quarantine: ")).then_some(())
    });
    // What it would be shown of the stream, it would fail on again.
    running.project.configure("[plugins]\nrewarm_s = 0");
    running.wait_in_force(3);
    running.drop_in("misbehaving", &release(misbehaving(), "two"));
    running.project.configure(&odd.replace("panic", "not"));
    running.wait_in_force(4);
    wait_for("status is well", || (running.project.output(&["status"]).status.code() == Some(0)).then_some(()));
    let worked: EntryId = running.redis.alerts().last().unwrap()["entry"].parse().unwrap();
    running.project.feed(12, 10_000, &["--seed", "2"]);
    wait_for("it works", || {
        let alerts = running.redis.alerts();
        alerts
            .iter()
            .rev()
            .take(5000)
            .any(|alert| alert["detector"] == "odd" && alert["entry"].parse::<EntryId>().unwrap() > worked)
            .then_some(())
    });
}

#[test]
fn a_detector_that_fails_on_what_the_stream_holds_is_refused() {
    let running = Running::start();
    running.project.add_plugin(misbehaving());
    running.project.feed(12, 10_000, &[]);
    running.redis.wait_all_processed(10_000);
    let odd = "[detectors.odd]\nplugin = \"misbehaving\"\nparams = { how = \"panic\", at = 100 }";
    running.project.configure(odd);
    running.host.wait_for_event("warm_up_failed");
    wait_for("status tells", || {
        let output = running.project.output(&["status"]);
        let said = text(&output.stdout);
        (output.status.code() == Some(1) && said.contains("odd could not be warmed up: it exceeded its fault budget"))
            .then_some(())
    });
    assert!(redis_is_quiet(&running) && running.redis.dead_letters().is_empty(), "what was processed before is muted");
    running.project.configure(&odd.replace("panic", "not"));
    running.wait_active(3, "odd 0.1.0 (rewarmed)");
    wait_for("status is well", || (running.project.output(&["status"]).status.code() == Some(0)).then_some(()));
}

fn redis_is_quiet(running: &Running) -> bool {
    running.redis.alerts().iter().all(|alert| alert["detector"] != "odd")
}

/// The log said so when every worker had the change, some milliseconds before the states that go with it were saved. A host
/// that was killed at that line began with the states of long before, and had them replayed by the changed configuration.
#[test]
fn a_change_is_said_to_be_in_force_once_its_states_are_saved() {
    // Nothing else is saved.
    const MORE: &str = "[engine]\ncheckpoint_every_ms = 3600000\n[plugins]\nrewarm_s = 0";
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = Project::with_probe(proxy.url(), "lease_ms = 500", MORE);
    let mut host = project.start_owner();
    project.feed(4, 400, &[]);
    redis.wait_all_processed(400);
    let pid = host.pid();
    let sprung = proxy.trap("HSET", 1, At::Request, move || signal(pid, "KILL"));
    let part = project.path("plugins/part");
    fs::write(&part, release(&probe(), "another")).unwrap();
    fs::rename(part, project.path("plugins/probe.wasm")).unwrap();
    sprung.wait();
    host.wait();
    assert_eq!(host.count_event("detector_loaded"), 2, "it was killed before the change: {}", host.log());
    assert!(!host.has_event("generation_activated"), "{}", host.log());
    let mut host = project.start_owner();
    project.feed(4, 100, &["--seed", "2"]);
    redis.wait_all_processed(500);
    host.stop();
    assert_chains(&redis.alerts());
}
