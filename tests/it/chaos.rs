//! Everything that can go wrong at once, for a while, by a schedule that a seed decides; then the account.
//!
//! Ticks come in all the time. Hosts are killed, paused past their lease, stopped, started with
//! other numbers of workers and sizes of batches; the server is killed; connections are cut, scripts
//! forgotten. At the end one host works off what is left, and another group works the same entries
//! undisturbed. Both must have published the same.
//!
//! `cargo xtask chaos` runs this for longer; see there.

use std::{
    env,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redis::{Commands, Connection, cmd};
use tickhound::simulate::{Layout, Renderer, SimConfig, Simulator};

use crate::support::{
    ALERTS, DEAD, Difference, Host, Project, REFERENCE_ALERTS, REFERENCE_DEAD, Redis, STREAM, difference, misbehaving,
    pause, release, wait_for,
};

const LEASE: &str = "tickhound:{ticks:intraday:processed}:scanner_group:lease";
const LEASE_TIME: Duration = Duration::from_millis(1000);

/// The owner dies at least this often.
const OWNER_LIVES: Duration = Duration::from_secs(4);

/// Entries added at once, about every 10 ms.
const FED_AT_ONCE: usize = 30;

#[test]
fn chaos() {
    let seed = setting("TICKHOUND_CHAOS_SEED", 1);
    let seconds: u64 = setting("TICKHOUND_CHAOS_SECONDS", 15);
    let hosts = setting("TICKHOUND_CHAOS_HOSTS", 2);
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut chaos = Chaos::begin(redis, seed, hosts);
    let feeder = Feeder::start(&chaos.redis, seed);
    let (started, duration) = (Instant::now(), Duration::from_secs(seconds));
    let mut told = started;
    while started.elapsed() < duration {
        chaos.act();
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let (passed, fed, worked) = (started.elapsed().as_secs(), feeder.fed.load(Relaxed), chaos.worked());
            eprintln!("{passed} s of {seconds}: {fed} entries fed, {worked} worked; {:?}", chaos.done);
        }
    }
    let fed = feeder.stop();
    eprintln!("{seconds} s are over; working off what is left of {fed} entries");
    let (redis, project, done) = chaos.end();
    project.run(&["run", "--drain"]);
    let pending = redis.pending();
    eprintln!("working the same entries undisturbed");
    project.run_reference(&redis);

    let found = difference(redis.paged(ALERTS), redis.paged(REFERENCE_ALERTS));
    let Difference { lost, twice, extra, different, displaced, .. } = found;
    let dead_are_the_same = redis.paged(DEAD).eq(redis.paged(REFERENCE_DEAD));
    let entries: u64 = redis.connect().xlen(STREAM).unwrap();
    let totals = redis.totals();
    let total = |name: &str| totals.get(name).copied().unwrap_or(0);
    let alerted = entries - total("quiet").min(entries);
    let Done { owner_kills, kills, pauses, stops, server_restarts, cuts, flushes, swaps } = done;
    println!("chaos, seed {seed}, {seconds} s, {hosts} hosts");
    println!("  done:    {kills} kills, {owner_kills} of them of the owner; {pauses} pauses, {stops} stops,");
    println!("           {server_restarts} server restarts, {cuts} connections cut, scripts flushed {flushes} times,");
    println!("           plugin exchanged {swaps} times");
    println!("  entries: {entries}, {fed} were fed; {} worked, {pending} pending", total("entries"));
    println!("           {alerted} with alerts or set aside, {} quiet", total("quiet"));
    println!(
        "  alerts:  {}, {lost} lost, {twice} twice, {extra} extra, {different} different, {displaced} displaced",
        total("alerts")
    );
    println!(
        "  dead:    {}, {}",
        total("dead"),
        if dead_are_the_same { "as undisturbed" } else { "not as undisturbed" }
    );
    let account = serde_json::json!({
        "seed": seed, "seconds": seconds, "hosts": hosts, "fed": fed, "entries": entries, "worked": total("entries"),
        "alerted": alerted, "quiet": total("quiet"), "alerts": total("alerts"), "dead": total("dead"),
        "dead_are_the_same": dead_are_the_same, "pending": pending, "lost": lost, "twice": twice, "extra": extra,
        "different": different, "displaced": displaced, "kills": kills, "owner_kills": owner_kills, "pauses": pauses,
        "stops": stops, "server_restarts": server_restarts, "cuts": cuts, "script_flushes": flushes, "swaps": swaps,
    });
    println!("{account}");
    assert!(owner_kills > 0 && server_restarts > 0 && pauses > 0, "that was no chaos");
    assert_eq!((entries, total("entries"), pending), (fed, fed, 0), "entries, worked, pending");
    assert!(dead_are_the_same, "other dead letters than undisturbed");
    assert_eq!(found, Difference::default(), "alerts, against an undisturbed run; seed {seed}");
}

pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number"))
}

/// What has been done so far.
#[derive(Clone, Debug, Default)]
struct Done {
    owner_kills: u32,
    /// Those of the owner included.
    kills: u32,
    pauses: u32,
    stops: u32,
    server_restarts: u32,
    cuts: u64,
    flushes: u32,
    /// Of the plugin.
    swaps: u32,
}

struct Chaos {
    redis: Redis,
    project: Project,
    hosts: Vec<Slot>,
    random: Random,
    owner_dies_at: Instant,
    done: Done,
}

struct Slot {
    host: Host,
    paused_until: Option<Instant>,
}

impl Chaos {
    fn begin(redis: Redis, seed: u64, hosts: usize) -> Self {
        let project = Project::new(&redis);
        std::fs::copy(misbehaving(), project.path("plugins/misbehaving.wasm")).unwrap();
        project.configure_with(
            &format!("lease_ms = {}\ntimeout_ms = 500", LEASE_TIME.as_millis()),
            "[alerts]\nlog = false\nmaxlen = 0\n[dead_letters]\nmaxlen = 0\n[detectors.each]\nplugin = \"misbehaving\"",
        );
        let mut random = Random(seed);
        let hosts = (0..hosts.max(1)).map(|_| Slot::start(&project, &mut random)).collect();
        Self { redis, project, hosts, random, owner_dies_at: Instant::now() + OWNER_LIVES, done: Done::default() }
    }

    /// Waits a moment, then does one thing.
    fn act(&mut self) {
        let moment = Instant::now() + Duration::from_millis(self.random.below(300));
        while Instant::now() < moment {
            pause();
        }
        for slot in &mut self.hosts {
            if slot.paused_until.is_some_and(|until| until < Instant::now()) {
                slot.wake();
            }
        }
        let any = self.random.below(self.hosts.len() as u64) as usize;
        if self.owner_dies_at < Instant::now() {
            return self.kill_owner();
        }
        match self.random.below(13) {
            0..=2 => self.kill_owner(),
            3..=4 => self.kill(any),
            5..=6 => {
                let slot = &mut self.hosts[any];
                if slot.paused_until.is_none() {
                    slot.host.signal("STOP");
                    let time = LEASE_TIME + LEASE_TIME.mul_f64(self.random.below(100) as f64 / 100.0);
                    slot.paused_until = Some(Instant::now() + time);
                    self.done.pauses += 1;
                }
            }
            7..=8 => {
                let slot = &mut self.hosts[any];
                slot.wake();
                slot.host.signal("TERM");
                let ended = slot.host.wait();
                let log = slot.host.log();
                // One that still loads its plugins has no handler yet, and nothing to finish.
                let at_work = ["reading is ours", "standing by", "no connection"].iter().any(|part| log.contains(part));
                assert!(ended == Some(0) || (ended.is_none() && !at_work), "{ended:?}\n{log}");
                *slot = Slot::start(&self.project, &mut self.random);
                self.done.stops += 1;
            }
            9 => {
                self.redis.restart();
                self.done.server_restarts += 1;
            }
            10 => {
                self.done.swaps += 1;
                let (new, plugin) = (self.project.path("plugins/new"), self.project.path("plugins/misbehaving.wasm"));
                std::fs::write(&new, release(misbehaving(), &self.done.swaps.to_string())).unwrap();
                std::fs::rename(new, plugin).unwrap();
            }
            11 => {
                let mut connection = self.redis.connect();
                let cut: u64 = cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query(&mut connection).unwrap();
                self.done.cuts += cut;
            }
            _ => {
                let _: () = cmd("SCRIPT").arg("FLUSH").query(&mut self.redis.connect()).unwrap();
                self.done.flushes += 1;
            }
        }
    }

    /// Nobody may own the stream just now; then nobody dies, and it is tried again.
    fn kill_owner(&mut self) {
        let lease: Option<String> = self.redis.connect().get(LEASE).unwrap();
        let pid = lease.and_then(|lease| lease.split('/').nth(1)?.parse::<u32>().ok());
        if let Some(owner) = self.hosts.iter().position(|slot| Some(slot.host.pid()) == pid) {
            self.kill(owner);
            self.done.owner_kills += 1;
            self.owner_dies_at = Instant::now() + OWNER_LIVES;
        }
    }

    fn kill(&mut self, number: usize) {
        self.hosts[number].host.kill();
        self.hosts[number] = Slot::start(&self.project, &mut self.random);
        self.done.kills += 1;
    }

    fn worked(&self) -> u64 {
        self.redis.totals().get("entries").copied().unwrap_or(0)
    }

    /// Every host dies; the server lives.
    fn end(mut self) -> (Redis, Project, Done) {
        self.hosts.iter_mut().for_each(|slot| slot.host.kill());
        (self.redis, self.project, self.done)
    }
}

impl Slot {
    fn start(project: &Project, random: &mut Random) -> Self {
        let workers = (1 + random.below(4)).to_string();
        let batch = [7, 50, 500][random.below(3) as usize];
        let backlog = (batch * (1 + random.below(4))).to_string();
        let checkpoint = [300, 1000, 5000][random.below(3) as usize].to_string();
        let settings = [
            ("TICKHOUND_ENGINE__WORKERS", workers.as_str()),
            ("TICKHOUND_ENGINE__CHECKPOINT_EVERY_MS", &checkpoint),
            ("TICKHOUND_ENGINE__BACKLOG", &backlog),
            ("TICKHOUND_STREAM__BATCH", &batch.to_string()),
        ];
        Self { host: project.start_with(&["run"], &settings), paused_until: None }
    }

    fn wake(&mut self) {
        if self.paused_until.take().is_some() {
            self.host.signal("CONT");
        }
    }
}

/// Adds simulated ticks, a few of them spoiled, each once: an id that was sent when the server died
/// is sent again, and refused if it had come through.
struct Feeder {
    stop: Arc<AtomicBool>,
    fed: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Feeder {
    fn start(redis: &Redis, seed: u64) -> Self {
        let (stop, fed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count, url) = (stop.clone(), fed.clone(), redis.url());
        let thread = thread::spawn(move || {
            let config = SimConfig { symbols: 12, seed, dirt: 0.01, ..SimConfig::default() };
            let mut simulator = Simulator::new(&config);
            let mut renderer = Renderer::new(Layout::Json);
            let mut connection = None;
            while !stopped.load(Relaxed) {
                let mut entries = redis::pipe();
                for _ in 0..FED_AT_ONCE {
                    let tick = simulator.next().unwrap();
                    let instrument = &simulator.instruments()[tick.instrument as usize];
                    let number = count.fetch_add(1, Relaxed);
                    // Time goes up, and the number tells entries of one millisecond apart.
                    entries.cmd("XADD").arg(STREAM).arg(format!("{}-{number}", now_ms()));
                    renderer.render(instrument, &tick, |name, value| {
                        entries.arg(name).arg(value);
                    });
                }
                if connection.as_mut().is_none_or(|open| entries.query::<()>(open).is_err()) {
                    connection = None;
                    for entry in entries.cmd_iter() {
                        wait_for("an entry is taken", || add(&url, &mut connection, entry));
                    }
                }
                pause();
            }
        });
        Self { stop, fed, thread }
    }

    /// How many entries were added in all.
    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.fed.load(Relaxed)
    }
}

fn add(url: &str, connection: &mut Option<Connection>, entry: &redis::Cmd) -> Option<()> {
    if connection.is_none() {
        *connection = redis::Client::open(url).unwrap().get_connection().ok();
    }
    match entry.query::<()>(connection.as_mut()?) {
        Ok(()) => Some(()),
        Err(error) if error.to_string().contains("equal or smaller") => Some(()),
        Err(_) => {
            *connection = None;
            None
        }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % end
    }
}
