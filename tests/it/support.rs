//! A real redis-server, a project folder, and the built binary at work in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    env,
    ffi::OsStr,
    fmt::Debug,
    fs::{self, File},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redis::{Cmd, Commands, Connection, FromRedisValue, Value};
use tempfile::TempDir;
use tickhound_core::event::EntryId;

use crate::tidy::documented_events;

/// Longer than anything takes on a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a host's log that a failed test shows.
const LOG_SHOWN: usize = 40;

pub const STREAM: &str = "ticks:intraday:processed";
pub const GROUP: &str = "scanner_group";
pub const ALERTS: &str = "alerts:intraday";
pub const SHADOW_ALERTS: &str = "alerts:intraday:shadow";
/// Says whose alerts these are.
pub const ALERTS_SOURCE: &str = "tickhound:{alerts:intraday}:source";
pub const CHECKPOINT: &str = "tickhound:{ticks:intraday:processed}:scanner_group:checkpoint";
pub const STATE: &str = "tickhound:{ticks:intraday:processed}:scanner_group:state";
pub const EPOCH: &str = "tickhound:{ticks:intraday:processed}:scanner_group:epoch";
pub const LEASE: &str = "tickhound:{ticks:intraday:processed}:scanner_group:lease";
/// What the owner publishes about itself.
pub const HOST: &str = "tickhound:{ticks:intraday:processed}:scanner_group:host";
/// The position of each sink.
pub const NOTIFY: &str = "tickhound:{ticks:intraday:processed}:scanner_group:notify";
/// Where [`Project::run_reference`] publishes.
pub const REFERENCE_ALERTS: &str = "alerts:reference";
pub const REFERENCE_DEAD: &str = "tickhound:{ticks:intraday:processed}:reference:dead";
pub const DEAD: &str = "tickhound:{ticks:intraday:processed}:scanner_group:dead";

/// Names and values of an entry, such as an alert.
pub type Alert = BTreeMap<String, String>;

/// Comes true, or the test fails with `what`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the step of a wait for a condition")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The time by the system clock, in ms since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A Redis command whose words are separated by one space.
pub fn request(words: &str) -> Cmd {
    let mut words = words.split(' ');
    let mut request = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        request.arg(word);
    });
    request
}

/// A server of this test's own, on a socket in its own folder.
pub struct Redis {
    dir: TempDir,
    settings: Vec<String>,
    variables: Vec<(String, String)>,
    server: Option<Child>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// `settings` as on the command line, e.g. `--appendonly yes`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_in(settings, &[])
    }

    /// As [`Redis::start_with`], with variables in its environment.
    pub fn start_in(settings: &[&str], variables: &[(&str, String)]) -> Self {
        let settings = settings.iter().map(ToString::to_string).collect();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut redis = Self { dir: tempfile::tempdir().unwrap(), settings, variables, server: None };
        redis.restart();
        redis
    }

    /// Ends the server, if it runs, without letting it save anything.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub fn restart(&mut self) {
        self.restart_unready(&[]);
        wait_for("redis-server answers", || {
            let mut connection = redis::Client::open(self.url()).unwrap().get_connection().ok()?;
            redis::cmd("PING").query::<String>(&mut connection).ok()
        });
    }

    /// As [`Redis::restart`] with `more` settings for this one life, and without waiting until it answers.
    pub fn restart_unready(&mut self, more: &[&str]) {
        self.kill();
        let socket = self.socket();
        let _ = fs::remove_file(&socket);
        // So that the same tests show what holds on Valkey, and on other versions.
        let program = env::var_os("TICKHOUND_TEST_SERVER").unwrap_or_else(|| "redis-server".into());
        self.mend_appended(&program);
        let server = Command::new(program)
            .args(["--port", "0", "--save", "", "--loglevel", "warning", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(self.dir.path())
            .args(&self.settings)
            .args(more)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(File::create(self.dir.path().join("log")).unwrap())
            .spawn()
            .expect("redis-server is installed: apt-get install redis-server");
        self.server = Some(server);
    }

    /// As one should before a server that was killed is started again: a transaction that it was in the
    /// middle of writing would else come to life one start later (README, "What is promised").
    fn mend_appended(&self, program: &OsStr) {
        let manifest = self.dir.path().join("appendonlydir/appendonly.aof.manifest");
        if !manifest.exists() {
            return;
        }
        let valkey = Path::new(program).file_name().is_some_and(|name| name.to_string_lossy().contains("valkey"));
        let check = Command::new(program)
            .arg0(if valkey { "valkey-check-aof" } else { "redis-check-aof" })
            .arg("--fix")
            .arg(manifest)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut check = check.unwrap();
        // It asks whether it may; unless nothing is wrong, when it has gone by now.
        let _ = check.stdin.take().unwrap().write_all(b"y\n");
        assert!(check.wait().unwrap().success(), "the append-only file is mended");
    }

    /// Sends a signal by name, e.g. `STOP`.
    pub fn signal(&self, name: &str) {
        signal(self.server.as_ref().unwrap().id(), name);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn connect(&self) -> Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Every alert in the stream, its fields by name.
    pub fn alerts(&self) -> Vec<Alert> {
        self.entries(ALERTS)
    }

    /// Every dead letter, its fields by name.
    pub fn dead_letters(&self) -> Vec<Alert> {
        self.entries(DEAD)
    }

    fn entries(&self, key: &str) -> Vec<Alert> {
        self.stream_entries(key).into_iter().map(|(_, fields)| fields).collect()
    }

    /// The id and the fields of every entry in a stream.
    pub fn stream_entries(&self, key: &str) -> Vec<(String, Alert)> {
        self.ask(&format!("XRANGE {key} - +"))
    }

    /// The number of entries in a stream.
    pub fn length(&self, key: &str) -> u64 {
        self.connect().xlen(key).unwrap()
    }

    /// The id and the fields of the last entries of a stream, the newest one first.
    pub fn newest(&self, key: &str, count: usize) -> Vec<(String, Alert)> {
        self.ask(&format!("XREVRANGE {key} + - COUNT {count}"))
    }

    /// Sends a command whose words are separated by one space; the server must not answer with an error.
    pub fn ask<T: FromRedisValue>(&self, words: &str) -> T {
        request(words).query(&mut self.connect()).unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// The id of the process that holds the lease.
    pub fn lease_pid(&self) -> Option<u32> {
        let lease: Option<String> = self.connect().get(LEASE).unwrap();
        lease?.split('/').nth(1)?.parse().ok()
    }

    /// All that a stream holds, a part at a time: it may be more than there is room for.
    pub fn paged(&self, key: &str) -> impl Iterator<Item = Alert> {
        let (mut connection, key, mut from) = (self.connect(), key.to_owned(), "-".to_owned());
        let page = move || -> Option<Vec<(String, Alert)>> {
            let mut range = redis::cmd("XRANGE");
            range.arg(&key).arg(&from).arg("+").arg("COUNT").arg(10_000);
            let page: Vec<(String, Alert)> = range.query(&mut connection).unwrap();
            from = format!("({}", page.last()?.0);
            Some(page)
        };
        std::iter::from_fn(page).flatten().map(|(_, fields)| fields)
    }

    /// Entries that were given to a consumer of the group and not acknowledged.
    pub fn pending(&self) -> u64 {
        let summary: Value = redis::cmd("XPENDING").arg(STREAM).arg(GROUP).query(&mut self.connect()).unwrap();
        match summary {
            Value::Array(items) => redis::from_redis_value(items[0].clone()).unwrap(),
            other => panic!("unexpected answer to XPENDING: {other:?}"),
        }
    }

    /// What the host counted over all its lives.
    pub fn totals(&self) -> BTreeMap<String, u64> {
        let fields: BTreeMap<String, String> = self.connect().hgetall(CHECKPOINT).unwrap();
        fields.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
    }

    /// Entries that hosts have processed over all their lives.
    pub fn processed(&self) -> u64 {
        self.totals().get("entries").copied().unwrap_or(0)
    }

    /// Waits until hosts have processed at least so many entries.
    pub fn wait_processed(&self, at_least: impl TryInto<u64, Error: Debug>) {
        let at_least = at_least.try_into().unwrap();
        wait_for(&format!("{at_least} entries are processed"), || (self.processed() >= at_least).then_some(()));
    }

    /// Waits until hosts have processed exactly so many entries; more of them fail the test.
    pub fn wait_all_processed(&self, count: impl TryInto<u64, Error: Debug>) {
        let count: u64 = count.try_into().unwrap();
        self.wait_processed(count);
        assert_eq!(self.processed(), count, "processed entries");
    }

    /// Waits until hosts have processed so many entries more than now.
    pub fn wait_progress(&self, entries: u64) {
        self.wait_processed(self.processed() + entries);
    }
}

/// Gives entries to a consumer that does nothing with them.
pub fn read_as(redis: &Redis, consumer: &str, count: u32) {
    let create = request(&format!("XGROUP CREATE {STREAM} {GROUP} 0 MKSTREAM"));
    let _: () = create.query(&mut redis.connect()).unwrap_or(());
    let _: Value = redis.ask(&format!("XREADGROUP GROUP {GROUP} {consumer} COUNT {count} STREAMS {STREAM} >"));
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A folder as a user has it: `config/config.toml`, `plugins/`.
pub struct Project {
    dir: TempDir,
    url: String,
}

impl Project {
    /// With the detectors that ship, on `redis`.
    pub fn new(redis: &Redis) -> Self {
        Self::at(redis.url())
    }

    /// With the detectors that ship, on the server at `url`.
    pub fn at(url: String) -> Self {
        let project = Self { dir: tempfile::tempdir().unwrap(), url };
        fs::create_dir_all(project.path("config")).unwrap();
        fs::create_dir_all(project.path("plugins")).unwrap();
        for name in ["breakout", "momentum"] {
            project.add_plugin(&shipped(&format!("plugins/{name}.wasm")));
        }
        project.configure("");
        project
    }

    /// A project on the server at `url` whose only detector is the probe. `stream` holds further keys of `[stream]`; `more`
    /// follows the table of the probe.
    pub fn with_probe(url: String, stream: &str, more: &str) -> Self {
        let project = Self::at(url.clone());
        project.add_plugin(&probe());
        project.write_config(&format!(
            "[stream]\nurl = \"{url}\"\nblock_ms = 200\n{stream}\n[alerts]\nlog = false\nmaxlen = 0\n\
             [detectors.probe]\nplugin = \"probe\"\n{more}\n"
        ));
        project
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Copies a plugin into the plugins folder and keeps its file name.
    pub fn add_plugin(&self, file: &Path) {
        fs::copy(file, self.path("plugins").join(file.file_name().unwrap())).unwrap();
    }

    /// Writes a configuration with both detectors; `more` is added at the end.
    pub fn configure(&self, more: &str) {
        self.configure_with("", more);
    }

    /// As [`Project::configure`]; `stream` are further keys of `[stream]`.
    pub fn configure_with(&self, stream: &str, more: &str) {
        let url = &self.url;
        let text = format!(
            "[stream]\nurl = \"{url}\"\nblock_ms = 200\n{stream}\n\
             [detectors.breakout]\nplugin = \"breakout\"\nmin_confidence = 0.0\n\
             [detectors.momentum]\nplugin = \"momentum\"\nmin_confidence = 0.0\n{more}\n"
        );
        self.write_config(&text);
    }

    pub fn write_config(&self, text: &str) {
        fs::write(self.path("config/config.toml"), text).unwrap();
    }

    /// As [`Project::write_config`], in one move: a host that looks meanwhile sees the old one or the new one.
    pub fn replace_config(&self, text: &str) {
        fs::write(self.path("config/new"), text).unwrap();
        fs::rename(self.path("config/new"), self.path("config/config.toml")).unwrap();
    }

    /// The binary, to be run in this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        // Tests run at the same time, and have one port 9464 between them.
        command.env("TICKHOUND_SERVER__LISTEN", "");
        // An older host may be under test, which does not know these variables.
        command.env_remove("TICKHOUND_REAL_DAYS").env_remove("TICKHOUND_REAL_COUNT");
        // Compiled plugins are shared by all tests, and not with the user's own hosts.
        command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache")).env_remove("CACHE_DIRECTORY");
        command
    }

    /// As [`Project::command`], for a host whose clock on the wall is off, e.g. `+2d`.
    pub fn command_at_offset(&self, args: &[&str], offset: &str) -> Command {
        let mut command = self.command(args);
        // The clock that waits go by stays right: it is about what a host believes, not about how fast it is.
        command.env("LD_PRELOAD", faketime()).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    /// Runs to the end, whatever the exit code.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs to the end and must succeed; returns stdout.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "tickhound {args:?} failed\n{out}\n{err}");
        out
    }

    /// The alerts of an undisturbed run over what the stream holds now.
    pub fn reference(&self, redis: &Redis) -> Vec<Alert> {
        self.run_reference(redis);
        redis.entries(REFERENCE_ALERTS)
    }

    /// Works what the stream holds now for another group, so that entries, and thus alerts, have the
    /// ids they have in ours; undisturbed, straight from `redis`.
    pub fn run_reference(&self, redis: &Redis) {
        let output = self
            .command(&["run", "--drain"])
            .env("TICKHOUND_STREAM__URL", redis.url())
            .env("TICKHOUND_STREAM__GROUP", "reference")
            .env("TICKHOUND_STREAM__START", "earliest")
            .env("TICKHOUND_ALERTS__STREAM", REFERENCE_ALERTS)
            .env("TICKHOUND_ALERTS__SHADOW_STREAM", "alerts:reference:shadow")
            .env("TICKHOUND_ALERTS__JSONL", "")
            .env("TICKHOUND_ALERTS__LOG", "false")
            .output()
            .unwrap();
        assert!(output.status.success(), "the reference run failed\n{}", text(&output.stderr));
    }

    /// Publishes simulated ticks.
    pub fn feed(&self, symbols: u32, count: u32, more: &[&str]) {
        let (symbols, count) = (symbols.to_string(), count.to_string());
        let mut args = vec!["feed", "--simulate", "--symbols", &symbols, "--count", &count];
        args.extend(more);
        self.run(&args);
    }

    /// Starts it in the background, its output in a file.
    pub fn start(&self, args: &[&str]) -> Host {
        self.start_with(args, &[])
    }

    /// Starts a host and waits until it is the owner.
    pub fn start_owner(&self) -> Host {
        let host = self.start(&["run"]);
        host.wait_for_event("lease_acquired");
        host
    }

    /// As [`Project::start`], with variables that override the configuration.
    pub fn start_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Host {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = self.path(&format!("host-{number}.log"));
        let file = File::create(&log).unwrap();
        let child = self
            .command(args)
            .envs(variables.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Host { child, log }
    }
}

/// The library that shows a process another time, where Debian and its kin have it.
pub fn faketime() -> PathBuf {
    let folder = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", env::consts::ARCH);
    let library = env::var_os("TICKHOUND_TEST_FAKETIME").map_or_else(|| folder.into(), PathBuf::from);
    assert!(library.exists(), "no {}: apt-get install libfaketime", library.display());
    library
}

/// A running `tickhound`; killed on drop.
pub struct Host {
    child: Child,
    log: PathBuf,
}

impl Host {
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Whether the log has an event of this name.
    pub fn has_event(&self, event: &str) -> bool {
        has_event(&self.log(), event)
    }

    /// How often the log has an event of this name.
    pub fn count_event(&self, event: &str) -> usize {
        count_event(&self.log(), event)
    }

    pub fn wait_for_event(&self, event: &str) {
        self.wait_for_event_with(event, "");
    }

    /// Waits for an event whose line has this part as well: a field, or the sentence that a person reads.
    pub fn wait_for_event_with(&self, event: &str, part: &str) {
        wait_for(&format!("{event} with {part:?} in the log:\n{}", self.log()), || {
            has_event_with(&self.log(), event, part).then_some(())
        });
    }

    /// As [`Host::wait_for_event`], for what a command prints that is not a log.
    pub fn wait_for_log(&self, part: &str) {
        wait_for(&format!("{part:?} in the log:\n{}", self.log()), || self.log().contains(part).then_some(()));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Sends a signal by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// The most memory that it has had at once so far.
    pub fn peak_memory_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM; the host must end with exit code 0.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.wait(), Some(0), "{}", self.log());
    }

    /// Waits until it ends by itself; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        wait_for("the host ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let last = log.lines().rev().take(LOG_SHOWN).collect::<Vec<_>>();
            eprintln!("a host's last lines:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// How the text form of a log shows an event. It must be an event that the documents list: a test that waits for another one
/// would notice, but not a test that asserts its absence.
fn mark(event: &str) -> String {
    static KNOWN: OnceLock<BTreeSet<String>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| documented_events().into_iter().map(|(event, _)| event).collect());
    assert!(known.contains(event), "docs/logs.md does not list the event {event}");
    format!(" event=\"{event}\"")
}

/// Whether a log in its text form has an event of this name.
pub fn has_event(log: &str, event: &str) -> bool {
    log.contains(&mark(event))
}

/// Whether a log has an event of this name whose line has this part as well.
pub fn has_event_with(log: &str, event: &str, part: &str) -> bool {
    lines_of(log, event).iter().any(|line| line.contains(part))
}

/// How often a log has an event of this name.
pub fn count_event(log: &str, event: &str) -> usize {
    log.matches(&mark(event)).count()
}

/// Where a log has an event of this name for the last time.
pub fn last_event(log: &str, event: &str) -> Option<usize> {
    log.rfind(&mark(event))
}

/// The lines of all events of this name, in their order.
pub fn lines_of<'a>(log: &'a str, event: &str) -> Vec<&'a str> {
    let mark = mark(event);
    log.lines().filter(|line| line.contains(&mark)).collect()
}

/// A port on which nothing listens now.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The host under test: the one that was just built, or another one, so that a test can be seen to fail on an old build.
pub fn binary() -> PathBuf {
    env::var_os("TICKHOUND_TEST_HOST").map_or_else(|| env!("CARGO_BIN_EXE_tickhound").into(), PathBuf::from)
}

/// A file of this repository.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The plugin in `tests/fixtures/misbehaving`, built as a user would build one: plain cargo, a core module.
pub fn misbehaving() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| fixtures("misbehaving").join("misbehaving.wasm"))
}

/// The plugin in `tests/fixtures/probe`: it alerts on every tick with a hash of all that its symbol has seen.
pub fn probe() -> PathBuf {
    probes().join("probe.wasm")
}

/// The probe with other behaviour, under the same name and state version: its hashes are others.
pub fn probe_changed() -> PathBuf {
    probes().join("examples/probe_changed.wasm")
}

/// The probe that alerts on clock rows as well.
pub fn probe_clock() -> PathBuf {
    probes().join("examples/probe_clock.wasm")
}

/// The detector that says what it looks at: `rise`, with three gates.
pub fn probe_gates() -> PathBuf {
    probes().join("examples/probe_gates.wasm")
}

/// The plugin in `tests/fixtures/witness`: it alerts on every row of a group, with a hash of all that the group has seen.
pub fn witness() -> PathBuf {
    witnesses().join("witness.wasm")
}

/// The witness whose state belongs to the market.
pub fn witness_market() -> PathBuf {
    witnesses().join("examples/witness_market.wasm")
}

/// The witness whose state belongs to the market, on bars alone.
pub fn witness_bars() -> PathBuf {
    witnesses().join("examples/witness_bars.wasm")
}

/// The witness whose states belong to symbols.
pub fn witness_symbol() -> PathBuf {
    witnesses().join("examples/witness_symbol.wasm")
}

fn witnesses() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| fixtures("witness"))
}

/// The detector of groups that says what it looks at: `count`, with one gate.
pub fn probe_group() -> PathBuf {
    probes().join("examples/probe_group.wasm")
}

fn probes() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| fixtures("probe"))
}

/// Builds a fixture with all its variants; the folder that holds the files.
fn fixtures(name: &str) -> PathBuf {
    let target = shipped("target/fixtures");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--target", "wasm32-unknown-unknown", "--quiet", "--lib", "--examples"])
        .arg("--manifest-path")
        .arg(shipped(&format!("tests/fixtures/{name}/Cargo.toml")))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "the fixture {name} builds");
    target.join("wasm32-unknown-unknown/release")
}

/// The evidence in an alert of the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// How many ticks its symbol has had.
    pub seen: u64,
    /// The hash of all of them.
    pub hash: u64,
    /// The hash of the last one alone.
    pub tick: u64,
    /// The behaviour that took it: 10 times the parameter `salt`, plus 1 for the probe, 2 for the changed one.
    pub by: u64,
}

impl Sighting {
    pub fn of(alert: &Alert) -> Self {
        let evidence: BTreeMap<String, f64> = serde_json::from_str(&alert["evidence"]).unwrap();
        let [seen, hash, tick, by] = ["seen", "hash", "tick", "by"].map(|name| evidence[name] as u64);
        Self { seen, hash, tick, by }
    }

    /// What the probe must find next: what `tests/fixtures/probe/src/detector.rs` does, written once more.
    pub fn after(before: Option<Self>, tick: u64, by: u64) -> Self {
        let (seen, hash) = before.map_or((0, 0), |before| (before.seen, before.hash));
        Self { seen: seen + 1, hash: mixed(mixed(hash ^ mixed(by)) ^ tick) >> 11, tick, by }
    }
}

/// Asserts that each alert of the probe follows from the alert before it of the same detector and symbol: no tick was
/// lost, repeated, reordered or forgotten.
pub fn assert_chains<'a>(alerts: impl IntoIterator<Item = &'a Alert>) {
    let mut last: HashMap<(&str, &str), Sighting> = HashMap::new();
    for alert in alerts {
        let sighting = Sighting::of(alert);
        let before = last.insert((&alert["detector"], &alert["symbol"]), sighting);
        assert_eq!(sighting, Sighting::after(before, sighting.tick, sighting.by), "{alert:?}");
    }
}

/// Splitmix64 of one value.
pub fn mixed(value: u64) -> u64 {
    let mut bits = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The same plugin under another hash: with a custom section at the end, which says `tag`.
pub fn release(plugin: &Path, tag: &str) -> Vec<u8> {
    let mut bytes = fs::read(plugin).unwrap();
    let name = b"release";
    let length = 1 + name.len() + tag.len();
    assert!(length < 128, "one byte of LEB128");
    bytes.extend([0, length as u8, name.len() as u8]);
    bytes.extend(name);
    bytes.extend(tag.as_bytes());
    bytes
}

/// What makes an alert the same alert: everything but when it was committed, and by which generation of which host.
pub fn contents(alerts: &[Alert]) -> Vec<Vec<(String, String)>> {
    alerts.iter().map(content).collect()
}

/// As [`contents`], of one.
pub fn content(alert: &Alert) -> Vec<(String, String)> {
    let timing = ["lag_ms", "recovered", "stale", "generation"];
    let fields = alert.iter().filter(|(name, _)| !timing.contains(&name.as_str()));
    fields.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The alerts of a file of JSON lines, without what tells when they were published, and by which build.
pub fn alert_lines(file: &Path) -> Vec<serde_json::Map<String, serde_json::Value>> {
    let alert = |line: &str| {
        let mut alert: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        for name in ["lag_ms", "recovered", "stale", "sha256", "params_hash", "generation", "host"] {
            alert.remove(name);
        }
        alert
    };
    fs::read_to_string(file).unwrap().lines().map(alert).collect()
}

/// In what alerts differ from those of an undisturbed run; all 0 when in nothing.
#[derive(Debug, Default, PartialEq)]
pub struct Difference {
    /// Not there.
    pub lost: usize,
    /// There again, under an id that is there already.
    pub twice: usize,
    /// Of an id that the undisturbed run has not.
    pub extra: usize,
    /// With other contents.
    pub different: usize,
    /// Of an entry before that of the alert in front.
    pub displaced: usize,
    /// All of these, by detector.
    pub by_detector: BTreeMap<String, usize>,
}

pub fn difference(alerts: impl IntoIterator<Item = Alert>, reference: impl IntoIterator<Item = Alert>) -> Difference {
    let digest = |alert: &Alert| BuildHasherDefault::<DefaultHasher>::default().hash_one(content(alert));
    let mut expected: HashMap<String, u64> = HashMap::new();
    for alert in reference {
        let repeated = expected.insert(alert["id"].clone(), digest(&alert));
        assert_eq!(repeated, None, "the reference repeats an id");
    }
    let mut found = Difference::default();
    let mut wrong = |id: &str, kind: fn(&mut Difference) -> &mut usize| {
        let detector = id.split('/').nth(1).unwrap_or_default();
        *found.by_detector.entry(detector.to_owned()).or_default() += 1;
        *kind(&mut found) += 1;
    };
    let (mut seen, mut last) = (HashSet::new(), EntryId::ZERO);
    for alert in alerts {
        let (id, entry) = (&alert["id"], alert["entry"].parse().unwrap());
        if entry < last {
            wrong(id, |found| &mut found.displaced);
        }
        last = entry;
        match expected.get(id) {
            None => wrong(id, |found| &mut found.extra),
            Some(other) if *other != digest(&alert) => wrong(id, |found| &mut found.different),
            Some(_) => {}
        }
        if !seen.insert(id.clone()) {
            wrong(id, |found| &mut found.twice);
        }
    }
    expected.keys().filter(|id| !seen.contains(*id)).for_each(|id| wrong(id, |found| &mut found.lost));
    found
}
