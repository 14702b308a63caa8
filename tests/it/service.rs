//! A host in the background, as its users start, stop and supervise it: what the command says is so.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::PathBuf,
    process::{Child, Command, Output},
    time::{Duration, Instant},
};

use tickhound_core::stream::owner::Owner;

use crate::support::{
    Difference, Project, Redis, count_event, difference, has_event, misbehaving, read_as, signal, text, wait_for,
};

const PID_FILE: &str = "run/tickhound.pid";
const LOG: &str = "logs/tickhound.log";

/// Longer than plugins take to be compiled on a loaded machine.
const WAIT: &str = "60";

/// A folder in which hosts run in the background; the last one is killed on drop.
struct Background {
    project: Project,
    redis: Redis,
}

impl Background {
    fn new() -> Self {
        let redis = Redis::start();
        Self { project: Project::new(&redis), redis }
    }

    fn start(&self) -> Output {
        self.project.output(&["run", "--background", "--wait", WAIT])
    }

    /// Starts it, and it must work.
    fn started() -> Self {
        let background = Self::new();
        let said = background.project.run(&["run", "--background", "--wait", WAIT]);
        assert!(said.contains("✅ healthy: every entry is processed"), "{said}");
        background
    }

    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.project.path(PID_FILE)).ok()?;
        text.lines().next()?.parse().ok()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.project.path(LOG)).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().filter(|pid| runs(*pid)) {
            if std::thread::panicking() {
                eprintln!("the log of the host in the background:\n{}", self.log());
            }
            signal(pid, "KILL");
        }
    }
}

fn runs(pid: u32) -> bool {
    // A zombie is none that runs.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

fn failed(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    format!("{out}{err}")
}

#[test]
fn a_host_in_the_background_works_until_it_is_stopped() {
    let background = Background::started();
    let pid = background.pid().unwrap();
    let survey = background.project.run(&["status", "--json"]);
    let survey: serde_json::Value = serde_json::from_str(&survey).unwrap();
    let owner = survey["survey"]["owner"].as_str().unwrap();
    assert!(owner.starts_with(&format!("process {pid} on ")), "{owner} is the process that was started");
    background.project.feed(5, 1000, &[]);
    background.redis.wait_processed(1000);
    assert!(has_event(&background.log(), "lease_acquired"));

    let said = background.project.run(&["stop"]);
    assert!(said.contains(&format!("stopped process {pid} on ")), "{said}");
    assert!(said.contains("1000 entries processed"), "{said}");
    assert!(!runs(pid) && background.pid().is_none());
    assert!(has_event(&background.log(), "host_stopped"));
    assert_eq!(background.redis.pending(), 0);
    let again = background.project.run(&["stop"]);
    assert!(again.contains("nothing to stop"), "{again}");
}

/// What waited before the start is not forgotten in the verdict: at first nothing of it is committed.
#[test]
fn a_host_with_work_to_do_is_healthy_when_it_has_committed_some() {
    let background = Background::new();
    background.project.feed(5, 20_000, &[]);
    let said = background.project.run(&["run", "--background", "--wait", WAIT]);
    let worked = said.lines().last().unwrap().rsplit("; ").next().unwrap();
    let worked: u64 = worked.split(' ').next().unwrap().parse().unwrap();
    assert!(worked > 0, "{said}");
    background.redis.wait_processed(20_000);
}

/// The old scanner has ended a moment ago: what it holds may not be claimed yet, and nobody fails for that.
#[test]
fn entries_that_may_not_be_claimed_yet_are_reported_and_are_not_a_failure() {
    let background = Background::new();
    background.project.feed(5, 50, &[]);
    read_as(&background.redis, "scanner", 50);
    let said = background.project.run(&["run", "--background", "--wait", "20"]);
    assert!(said.contains("degraded: 50 entries are pending under other consumers: scanner"), "{said}");
}

/// The options of before and those given now may be the same.
#[test]
fn options_may_be_given_again_at_a_restart() {
    let background = Background::started();
    let first = background.pid();
    background.project.run(&["--debug", "--log", "json", "restart", "--wait", WAIT]);
    background.project.run(&["--log", "text", "--debug", "restart", "--wait", WAIT]);
    assert!(background.pid().is_some_and(runs) && background.pid() != first);
}

#[test]
fn a_second_one_in_the_same_folder_is_refused() {
    let background = Background::started();
    let pid = background.pid().unwrap();
    let said = failed(&background.start());
    assert!(said.contains(&format!("already running: process {pid} on ")), "{said}");
    assert!(runs(pid) && background.pid() == Some(pid));
    assert_eq!(count_event(&background.log(), "host_starting"), 1, "no other was started");
}

#[test]
fn one_beside_a_host_that_works_stands_by_and_says_so() {
    let background = Background::new();
    let mut owner = background.project.start_owner();
    background.project.configure_with("lease_ms = 1000", "");
    let said = background.project.run(&["run", "--background", "--wait", WAIT]);
    assert!(said.contains(&format!("✅ standby: process {} on ", owner.pid())), "{said}");
    owner.stop();
    wait_for("it takes over", || has_event(&background.log(), "lease_acquired").then_some(()));
}

#[test]
fn what_can_not_start_says_why_and_leaves_nothing_running() {
    let background = Background::new();
    let project = &background.project;
    let started = |said: &str| -> u32 {
        let pid = said.split_once("started process ").unwrap().1;
        pid.split(',').next().unwrap().parse().unwrap()
    };

    project.write_config("[stream]\nbach = 3\n");
    let said = failed(&background.start());
    assert!(said.contains("config/config.toml:2:1: unknown field `bach`"), "{said}");
    assert!(!project.path(LOG).exists(), "nothing was started");

    project.configure("[detectors.third]\nplugin = \"third\"");
    fs::write(project.path("plugins/third.wasm"), "no plugin").unwrap();
    let said = failed(&background.start());
    assert!(said.contains("error: not started: config/config.toml:"), "{said}");
    assert!(said.contains("third.wasm: not a WebAssembly file"), "{said}");
    assert!(!runs(started(&said)) && background.pid().is_none());

    let nowhere = project.path("nowhere.sock");
    project.write_config(&format!(
        "[stream]\nurl = \"redis+unix://{}\"\n[detectors.breakout]\nplugin = \"breakout\"\n",
        nowhere.display()
    ));
    let said = failed(&project.output(&["run", "--background", "--wait", "1"]));
    assert!(said.contains("after 1 s (--wait) it is still waiting for redis at"), "{said}");
    assert!(has_event(&said, "redis_unavailable"), "the last lines of the log: {said}");
    assert!(!runs(started(&said)) && background.pid().is_none());
}

/// With a server that could not be reached the start was silent for as long as its first look took, and after one line
/// for all the rest of `--wait`: nobody could tell it from one that hangs.
#[test]
fn a_start_says_what_it_waits_for_while_it_waits() {
    let background = Background::new();
    let project = &background.project;
    background.redis.signal("STOP");
    let output = project.output(&["run", "--background", "--wait", "15"]);
    background.redis.signal("CONT");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let redis = format!("redis at {}", background.redis.socket().display());
    assert!(said.starts_with(&format!("waiting for an answer from {redis}\n")), "{said}");
    assert!(said.contains(&format!("\nstill waiting for {redis}: no answer in time (stream.timeout_ms) (")), "{said}");
    assert!(said.contains(&format!("after 15 s (--wait) it is still waiting for {redis}")), "{said}");
}

#[test]
fn whoever_interrupts_a_start_leaves_nothing_running() {
    let mut background = Background::new();
    background.redis.kill();
    let mut start = background.project.start(&["run", "--background", "--wait", WAIT]);
    start.wait_for_log("waiting for redis");
    let pid = wait_for("the process holds its file", || background.pid());
    start.signal("INT");
    assert_eq!(start.wait(), Some(1));
    assert!(start.log().contains("not started: interrupted"), "{}", start.log());
    assert!(!runs(pid) && background.pid().is_none());
}

/// Whatever number it names, and be it of a process that lives: nobody holds it, so nobody is stopped.
#[test]
fn a_pid_file_that_was_left_behind_stops_nobody() {
    let background = Background::new();
    let project = &background.project;
    fs::create_dir(project.path("run")).unwrap();
    let mut bystander = Command::new("sleep").arg("600").spawn().unwrap();
    let owner = Owner::of(bystander.id()).to_text();
    for text in [format!("{}\n{owner}\n\n", bystander.id()), bystander.id().to_string()] {
        fs::write(project.path(PID_FILE), &text).unwrap();
        let said = project.run(&["stop", "--kill", "--timeout", "0"]);
        assert!(said.contains("removed ./run/tickhound.pid") && said.contains("nothing to stop"), "{said}");
        assert!(!project.path(PID_FILE).exists());
        assert!(bystander.try_wait().unwrap().is_none(), "it was not signalled");
        fs::write(project.path(PID_FILE), &text).unwrap();
        let said = project.run(&["run", "--background", "--wait", WAIT]);
        assert!(said.contains("removed ./run/tickhound.pid") && said.contains("✅ healthy"), "{said}");
        project.run(&["stop"]);
    }
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_killed_host_leaves_nothing_in_the_way_of_the_next() {
    let background = Background::started();
    let pid = background.pid().unwrap();
    signal(pid, "KILL");
    wait_for("it ends", || (!runs(pid)).then_some(()));
    let said = background.project.run(&["run", "--background", "--wait", WAIT]);
    assert!(said.contains("✅ healthy"), "{said}");
    assert_ne!(background.pid(), Some(pid));
}

#[test]
fn a_host_whose_redis_is_away_can_be_stopped() {
    let mut background = Background::started();
    let pid = background.pid().unwrap();
    background.redis.kill();
    wait_for("it notices", || has_event(&background.log(), "redis_unavailable").then_some(()));
    let said = background.project.run(&["stop"]);
    assert!(said.contains("stopped process") && said.contains("the last commit is unknown: redis at"), "{said}");
    assert!(!runs(pid));
}

#[test]
fn a_host_that_does_not_end_is_named_and_killed_if_that_is_wanted() {
    let background = Background::started();
    let pid = background.pid().unwrap();
    signal(pid, "STOP");
    let said = failed(&background.project.output(&["stop", "--timeout", "0"]));
    assert!(said.contains("is still running after 0 s"), "{said}");
    assert!(runs(pid));
    let said = background.project.run(&["stop", "--timeout", "0", "--kill"]);
    assert!(said.contains("its uncommitted entries are processed again at the next start"), "{said}");
    assert!(!runs(pid) && background.pid().is_none());
}

#[test]
fn restarts_under_load_lose_nothing_and_alert_nothing_twice() {
    const TICKS: u32 = 30_000;
    let background = Background::new();
    let project = &background.project;
    project.add_plugin(misbehaving());
    project.configure("[detectors.each]\nplugin = \"misbehaving\"");
    project.run(&["--debug", "run", "--background", "--wait", WAIT]);
    let count = TICKS.to_string();
    let mut feed = project.command(&["feed", "--simulate", "--symbols", "12", "--count", &count, "--rate", "5000"]);
    let mut feed = feed.spawn().unwrap();
    for workers in ["1", "3", "2"] {
        background.redis.wait_progress(1000);
        let restart = project.command(&["restart", "--wait", WAIT]).env("TICKHOUND_ENGINE__WORKERS", workers).output();
        let restart = restart.unwrap();
        assert!(restart.status.success(), "{}\n{}", text(&restart.stdout), text(&restart.stderr));
    }
    assert!(background.log().contains("workers=3"));
    let debugs = background.log().split("event=\"host_starting\"").filter(|life| life.contains("DEBUG")).count();
    assert!(debugs >= 4, "--debug is kept over restarts");
    // Once more, with a variable that is set no more: it is kept.
    let said = project.run(&["restart", "--wait", WAIT]);
    assert!(said.contains("taken from the running host: TICKHOUND_ENGINE__WORKERS"), "{said}");
    assert!(feed.wait().unwrap().success());
    background.redis.wait_processed(TICKS);
    project.run(&["stop"]);
    assert_eq!(background.redis.pending(), 0);
    let found = difference(background.redis.alerts(), project.reference(&background.redis));
    assert_eq!(found, Difference::default());
    assert!(background.redis.alerts().len() >= TICKS as usize);
}

#[test]
fn a_configuration_that_could_not_start_is_rejected_while_the_running_host_continues() {
    let background = Background::started();
    let pid = background.pid();
    fs::write(background.project.path("plugins/breakout.wasm"), "no plugin").unwrap();
    let said = failed(&background.project.output(&["restart"]));
    assert!(said.contains("not restarted; process") && said.contains("not a WebAssembly file"), "{said}");
    assert_eq!(background.pid(), pid);
    background.project.feed(5, 100, &[]);
    background.redis.wait_processed(100);
}

/// Every alert's line, once, whole, over all the files that a log has become.
#[test]
fn a_log_that_is_begun_anew_loses_no_line() {
    const TICKS: u32 = 30_000;
    let background = Background::new();
    let project = &background.project;
    project.add_plugin(misbehaving());
    project.configure(
        "[alerts]\nlog_stale = true\n[service]\nlog_max_mib = 1\n[detectors.each]\nplugin = \"misbehaving\"",
    );
    project.run(&["run", "--background", "--wait", WAIT]);
    project.feed(12, TICKS, &[]);
    background.redis.wait_processed(TICKS);
    project.run(&["stop"]);
    let mut files: Vec<PathBuf> = (1..=10).map(|number| project.path(&format!("{LOG}.{number}"))).collect();
    files.retain(|file| file.exists());
    assert!(files.len() >= 2, "{} files of before", files.len());
    files.reverse();
    files.push(project.path(LOG));
    let mut lines = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.len() <= 1 << 20 && text.ends_with('\n'), "{}: {} bytes", file.display(), text.len());
        lines.extend(text.lines().filter(|line| line.contains("DETECTED")).map(str::to_owned));
    }
    let alerts = background.redis.alerts();
    assert_eq!(lines.len(), alerts.len());
    for (line, alert) in lines.iter().zip(&alerts) {
        let told = format!("✅ [{}] {} - DETECTED: ", alert["detector"].to_uppercase(), alert["symbol"]);
        assert!(line.contains(&told), "{line}: expected {told}");
    }
}

#[test]
fn a_hangup_opens_the_log_anew_and_ends_nothing() {
    let background = Background::started();
    let pid = background.pid().unwrap();
    let moved = background.project.path("logs/moved");
    fs::rename(background.project.path(LOG), &moved).unwrap();
    signal(pid, "HUP");
    wait_for("a new log", || has_event(&background.log(), "log_reopened").then_some(()));
    background.project.feed(5, 100, &[]);
    background.redis.wait_processed(100);
    assert!(runs(pid));
    // In the foreground too, if its log is a file.
    let mut host = background.project.start(&["run", "--log-file", "logs/other.log"]);
    let other = background.project.path("logs/other.log");
    let log = || fs::read_to_string(&other).unwrap_or_default();
    wait_for("it stands by", || has_event(&log(), "standby_started").then_some(()));
    fs::remove_file(&other).unwrap();
    host.signal("HUP");
    wait_for("a new log", || has_event(&log(), "log_reopened").then_some(()));
    host.stop();
}

/// What systemd hears.
struct Listener {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Listener {
    fn new(project: &Project) -> Self {
        let path = project.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, path }
    }

    /// With a limit of two seconds, as `WatchdogSec=2` sets it.
    fn variables(&self) -> [(&'static str, &str); 2] {
        [("NOTIFY_SOCKET", self.path.to_str().unwrap()), ("WATCHDOG_USEC", "2000000")]
    }

    fn hear(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).unwrap_or(0);
        text(&message[..length]).lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, part: &str) {
        wait_for(&format!("{part} is heard"), || self.hear().iter().any(|line| line.contains(part)).then_some(()));
    }

    /// Whether no `WATCHDOG=1` comes for three times as long as systemd would wait. Returns at the first.
    fn is_silent(&self) -> bool {
        while !self.hear().is_empty() {}
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(6) {
            if self.hear().iter().any(|line| line == "WATCHDOG=1") {
                return false;
            }
        }
        true
    }
}

#[test]
fn systemd_is_notified_of_what_happens_and_that_the_engine_moves() {
    let mut redis = Redis::start();
    let project = Project::new(&redis);
    // Longer than the watchdog waits: to wait for ticks is not to be stuck.
    project.configure_with("lease_ms = 2000", "");
    let text = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.write_config(&text.replace("block_ms = 200", "block_ms = 60000"));
    let listener = Listener::new(&project);
    let mut host = project.start_with(&["run"], &listener.variables());
    listener.wait_for("READY=1");
    listener.wait_for("STATUS=submitted: 0, completed: 0, backlog: 0");
    for _ in 0..5 {
        listener.wait_for("WATCHDOG=1");
    }
    host.signal("STOP");
    assert!(listener.is_silent(), "a paused process can't say that it is well");
    host.signal("CONT");
    listener.wait_for("WATCHDOG=1");
    // A server that is away is waited for, which systemd can't mend by a restart.
    redis.kill();
    listener.wait_for("STATUS=waiting for redis");
    for _ in 0..5 {
        listener.wait_for("WATCHDOG=1");
    }
    redis.restart();
    listener.wait_for("STATUS=submitted:");
    let other = project.start(&["run"]);
    other.wait_for_event("standby_started");
    host.signal("TERM");
    listener.wait_for("STOPPING=1");
    assert_eq!(host.wait(), Some(0));
    // A standby is ready as well.
    other.wait_for_event("lease_acquired");
    let mut host = project.start_with(&["run"], &listener.variables());
    listener.wait_for("READY=1");
    listener.wait_for("STATUS=standby");
    for _ in 0..5 {
        listener.wait_for("WATCHDOG=1");
    }
    host.stop();
}

/// A detector does not come back: the engine waits for it, while timers and signals go on as if nothing were wrong.
#[test]
fn a_stuck_engine_misses_the_watchdog() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure_with(
        "lease_ms = 1000",
        "[plugins]\ncall_deadline_ms = 600000\n[detectors.each]\nplugin = \"misbehaving\"\n\
         params = { how = \"loop\", at = 500 }",
    );
    let listener = Listener::new(&project);
    let host = project.start_with(&["run"], &listener.variables());
    host.wait_for_event("lease_acquired");
    listener.wait_for("WATCHDOG=1");
    project.feed(5, 5000, &[]);
    wait_for("it is stuck", || listener.is_silent().then_some(()));
    wait_for("nobody has the lease", || {
        let status = project.output(&["status", "--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        status["survey"]["owner"].is_null().then_some(())
    });
}

/// A link in `logs/` or `run/` made a host write into any file of its user; a folder that anyone may write to invites one.
#[test]
fn a_link_in_place_of_the_log_or_the_pid_file_is_not_followed() {
    let background = Background::new();
    let project = &background.project;
    let precious = project.path("precious");
    fs::write(&precious, "precious").unwrap();
    for name in [LOG, PID_FILE] {
        let file = project.path(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&precious, &file).unwrap();
        let output = background.start();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(name) && errors.contains("it is a link"), "{errors}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        fs::remove_file(&file).unwrap();
    }
    // Where all may write, as in a volume of Kubernetes, somebody may give another file of this user the log's name.
    let logs = project.path("logs");
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o777)).unwrap();
    fs::hard_link(&precious, project.path(LOG)).unwrap();
    let errors = text(&background.start().stderr);
    assert!(errors.contains("another user may have put it there"), "{errors}");
    assert!(background.pid().is_none());
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

/// `run --background` rejected folders in which hosts had run until then.
#[test]
fn a_host_runs_in_a_folder_that_others_may_write_to_and_doctor_warns() {
    let background = Background::new();
    let project = &background.project;
    let logs = project.path("logs");
    fs::create_dir_all(&logs).unwrap();
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o777)).unwrap();
    let started = background.start();
    assert!(started.status.success(), "{}", text(&started.stderr));
    let warns = || text(&project.output(&["doctor"]).stdout).contains("any user of this machine may replace files in");
    assert!(warns());
    for mode in [0o1777, 0o2775] {
        fs::set_permissions(&logs, fs::Permissions::from_mode(mode)).unwrap();
        assert!(!warns(), "{mode:o}");
    }
    project.run(&["stop"]);
}

/// `tail -F` follows over rotation, as the users' checklist has it.
#[test]
fn the_log_can_be_followed_for_detections() {
    struct Tail(Child);
    impl Drop for Tail {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    const TICKS: u32 = 15_000;
    let background = Background::new();
    let project = &background.project;
    project.add_plugin(misbehaving());
    project.configure(
        "[alerts]\nlog_stale = true\n[service]\nlog_max_mib = 1\n[detectors.each]\nplugin = \"misbehaving\"",
    );
    project.run(&["run", "--background", "--wait", WAIT]);
    let seen = project.path("seen");
    let followed = fs::File::create(&seen).unwrap();
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-F"]).arg(project.path(LOG)).stdout(followed).stderr(std::process::Stdio::null());
    let _tail = Tail(tail.spawn().unwrap());
    // Slow enough for one who reads along: tail looks once a second where the system does not tell it.
    project.feed(12, TICKS, &["--rate", "4000"]);
    background.redis.wait_processed(TICKS);
    assert!(project.path(&format!("{LOG}.1")).exists(), "a new log was begun meanwhile");
    let alerts = background.redis.alerts().len();
    wait_for("tail has shown every detection", || {
        (fs::read_to_string(&seen).unwrap().matches("DETECTED").count() >= alerts).then_some(())
    });
}
