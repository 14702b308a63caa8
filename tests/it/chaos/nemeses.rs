//! What is done to hosts, server and configuration while ticks flow, by a schedule that a seed decides.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use redis::{
    Commands,
    streams::{StreamInfoGroupsReply, StreamPendingReply},
};
use serde::Serialize;
use tickhound_core::event::EntryId;

use super::{
    LEASE_TIME,
    changes::{Change, Changes, Made},
    clock::{FakeClock, OFFSETS},
    config,
    outputs::{Order, TOLD_OF},
    sink,
};
use crate::support::{
    ALERTS, CHECKPOINT, EPOCH, GROUP, Host, Project, Redis, STREAM, Sighting, has_event, mixed, pause, probe,
    probe_changed, read_as, release, request, wait_for, witness, witness_bars, witness_symbol,
};

/// Consumer name of every host.
const OURS: &str = "tickhound";

/// And that of a client that is none.
const STRANGER: &str = "stranger";

/// The owner dies at least this often, if hosts are killed.
const OWNER_LIVES: Duration = Duration::from_secs(4);

/// Groups and a context that no detector looks at, and a detector of views that no other has. Its alerts are not compared:
/// what it finds depends on when it was there.
const SPARE_TABLES: &str = "[groups.spare]\nsymbols = [\"RELIANCE*\"]\n[context.spare]\nsymbol = \"ICICIBANK\"\n\
                            [detectors.spare]\nplugin = \"witness_symbol\"\n";

/// A kind of fault. Each can be left out of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nemesis {
    /// `kill -9` of the owner, or of any host.
    Kills,
    /// SIGSTOP for longer than the lease lives.
    Pauses,
    /// SIGTERM.
    Stops,
    /// The server is killed, and started with its data.
    Server,
    /// Every connection is cut, or every script forgotten.
    Cuts,
    /// A plugin is exchanged by one that behaves the same, or a detector of further views comes or goes.
    Swaps,
    /// The behaviour changes: by a parameter, or by a plugin of the same name and state version that behaves otherwise.
    Settings,
    /// The clock of a host or of the server jumps.
    Clock,
    /// Another client reads entries: under a name of its own, under ours, or both by turns, as the seed has it.
    Foreign,
    /// The group is set back, or destroyed and made anew.
    Group,
}

impl Nemesis {
    /// Each with the name that chooses it, and how often it comes.
    pub const ALL: [(Self, &'static str, usize); 10] = [
        (Self::Kills, "kills", 5),
        (Self::Pauses, "pauses", 2),
        (Self::Stops, "stops", 2),
        (Self::Server, "server", 1),
        (Self::Cuts, "cuts", 2),
        (Self::Swaps, "swaps", 1),
        (Self::Settings, "settings", 2),
        (Self::Clock, "clock", 1),
        (Self::Foreign, "foreign", 1),
        (Self::Group, "group", 1),
    ];

    /// Those that a list such as `kills,cuts` names; `all` are all of them.
    pub fn named(list: &str) -> BTreeSet<Self> {
        if list == "all" {
            return Self::ALL.iter().map(|(nemesis, ..)| *nemesis).collect();
        }
        let one = |name: &str| {
            let known = Self::ALL.iter().find(|(_, known, _)| *known == name.trim());
            known.unwrap_or_else(|| panic!("{name:?} is no nemesis, expected some of {:?}", Self::ALL)).0
        };
        list.split(',').map(one).collect()
    }
}

/// What has been done so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Done {
    pub owner_kills: u32,
    /// Those of the owner included.
    pub kills: u32,
    pub pauses: u32,
    pub stops: u32,
    pub server_restarts: u32,
    pub cuts: u64,
    pub script_flushes: u32,
    pub swaps: u32,
    pub changes: u32,
    pub clock_jumps: u32,
    pub foreign_reads: u32,
    pub groups_set_back: u32,
    pub groups_destroyed: u32,
}

impl Done {
    /// How often faults of a kind have happened. Of kills, those of the owner count.
    pub fn times(&self, nemesis: Nemesis) -> u64 {
        match nemesis {
            Nemesis::Kills => self.owner_kills.into(),
            Nemesis::Pauses => self.pauses.into(),
            Nemesis::Stops => self.stops.into(),
            Nemesis::Server => self.server_restarts.into(),
            Nemesis::Cuts => self.cuts + u64::from(self.script_flushes),
            Nemesis::Swaps => self.swaps.into(),
            Nemesis::Settings => self.changes.into(),
            Nemesis::Clock => self.clock_jumps.into(),
            Nemesis::Foreign => self.foreign_reads.into(),
            Nemesis::Group => u64::from(self.groups_set_back + self.groups_destroyed),
        }
    }
}

pub struct Chaos {
    /// First, so that they end before what they run in.
    hosts: Vec<Slot>,
    pub redis: Redis,
    pub project: Project,
    pub changes: Changes,
    pub done: Done,
    nemeses: Vec<Nemesis>,
    seed: u64,
    random: Random,
    owner_dies_at: Instant,
    receiver: String,
    server_clock: Option<FakeClock>,
    /// The build of the probe in force, and the salt.
    build: u64,
    salt: u64,
    /// Whether [`SPARE_TABLES`] are configured.
    spare: bool,
    /// The build has not changed since the salt did: a change of it makes no behaviour that was there before.
    may_change_build: bool,
    /// The newest entry that another client was given.
    taken: EntryId,
    noted: Vec<String>,
}

struct Slot {
    host: Host,
    paused_until: Option<Instant>,
    clock: Option<FakeClock>,
}

impl Chaos {
    /// `receiver`: the URL that gets notifications; `clocks`: a folder for theirs.
    pub fn begin(seed: u64, hosts: usize, nemeses: &BTreeSet<Nemesis>, receiver: String, clocks: &Path) -> Self {
        let fake = nemeses.contains(&Nemesis::Clock);
        let server_clock = fake.then(|| FakeClock::new(clocks.join("server")));
        let variables = server_clock.as_ref().map(FakeClock::variables).unwrap_or_default();
        let redis = Redis::start_in(&["--appendonly", "yes", "--appendfsync", "always"], &variables);
        let project = Project::new(&redis);
        [probe(), witness(), witness_bars(), witness_symbol()].iter().for_each(|plugin| project.add_plugin(plugin));
        let weighed = Nemesis::ALL.iter().filter(|(nemesis, ..)| nemeses.contains(nemesis));
        let mut chaos = Self {
            redis,
            project,
            changes: Changes::new(),
            done: Done::default(),
            hosts: Vec::new(),
            nemeses: weighed.flat_map(|(nemesis, _, weight)| vec![*nemesis; *weight]).collect(),
            seed,
            random: Random(seed),
            owner_dies_at: Instant::now() + OWNER_LIVES,
            receiver,
            server_clock,
            build: 1,
            salt: 0,
            spare: false,
            may_change_build: true,
            taken: EntryId::ZERO,
            noted: Vec::new(),
        };
        chaos.configure();
        for number in 0..hosts.max(1) {
            let clock = fake.then(|| FakeClock::new(clocks.join(number.to_string())));
            let host = start(&chaos.project, clock.as_ref(), &mut chaos.random);
            chaos.hosts.push(Slot { host, paused_until: None, clock });
        }
        chaos
    }

    /// Whether the order of entries was kept.
    pub fn order(&self) -> Order {
        if self.done.foreign_reads == 0 { Order::Kept } else { Order::Disturbed }
    }

    /// Writes the configuration as it is to be now.
    fn configure(&self) {
        self.configure_with(&sink(&self.receiver, &TOLD_OF, 500));
    }

    /// Writes a configuration without the receiver of notifications.
    pub fn configure_quietly(&self) {
        self.configure_with("");
    }

    fn configure_with(&self, sink: &str) {
        let stream = "timeout_ms = 500\nclaim_idle_ms = 3000";
        let spare = if self.spare { SPARE_TABLES } else { "" };
        self.project.replace_config(&config(&self.redis.url(), stream, self.salt, &format!("{spare}{sink}")));
    }

    /// Waits a moment, then does one thing.
    pub fn act(&mut self) {
        let moment = Instant::now() + Duration::from_millis(self.random.below(300));
        while Instant::now() < moment {
            pause();
        }
        for slot in &mut self.hosts {
            if slot.paused_until.is_some_and(|until| until < Instant::now()) {
                slot.wake();
            }
        }
        let Some(last) = self.nemeses.len().checked_sub(1) else { return };
        if self.owner_dies_at < Instant::now() && self.nemeses.contains(&Nemesis::Kills) {
            return self.kill_owner();
        }
        match self.nemeses[self.random.below(last as u64 + 1) as usize] {
            Nemesis::Kills => match self.random.below(5) {
                0..=2 => self.kill_owner(),
                _ => {
                    let any = self.any();
                    self.kill(any);
                }
            },
            Nemesis::Pauses => self.pause_any(),
            Nemesis::Stops => self.stop_any(),
            Nemesis::Server => {
                self.redis.restart();
                self.done.server_restarts += 1;
            }
            Nemesis::Cuts => self.cut(),
            Nemesis::Swaps => {
                self.done.swaps += 1;
                self.swap();
            }
            Nemesis::Settings if self.may_change_build && self.random.below(2) == 0 => self.change_build(),
            Nemesis::Settings => self.change_salt(),
            Nemesis::Clock => self.set_a_clock(),
            Nemesis::Foreign => self.read_as_another(),
            Nemesis::Group => self.disturb_group(),
        }
    }

    fn any(&mut self) -> usize {
        self.random.below(self.hosts.len() as u64) as usize
    }

    /// Nobody may own the stream just now; then nobody dies, and it is tried again.
    fn kill_owner(&mut self) {
        if let Some(owner) = self.owner() {
            self.kill(owner);
            self.done.owner_kills += 1;
            self.owner_dies_at = Instant::now() + OWNER_LIVES;
        }
    }

    /// The number of the host that owns the stream.
    fn owner(&self) -> Option<usize> {
        let pid = self.redis.lease_pid()?;
        self.hosts.iter().position(|slot| slot.host.pid() == pid)
    }

    fn kill(&mut self, number: usize) {
        self.hosts[number].host.kill();
        self.start_again(number);
        self.done.kills += 1;
    }

    fn start_again(&mut self, number: usize) {
        let slot = &mut self.hosts[number];
        slot.host = start(&self.project, slot.clock.as_ref(), &mut self.random);
        slot.paused_until = None;
    }

    fn pause_any(&mut self) {
        let any = self.any();
        let slot = &mut self.hosts[any];
        if slot.paused_until.is_none() {
            slot.host.signal("STOP");
            let time = LEASE_TIME + LEASE_TIME.mul_f64(self.random.below(100) as f64 / 100.0);
            slot.paused_until = Some(Instant::now() + time);
            self.done.pauses += 1;
        }
    }

    fn stop_any(&mut self) {
        let any = self.any();
        self.hosts[any].stop();
        self.start_again(any);
        self.done.stops += 1;
    }

    fn cut(&mut self) {
        if self.random.below(2) == 0 {
            self.done.cuts += self.redis.ask::<u64>("CLIENT KILL TYPE normal");
        } else {
            let () = self.redis.ask("SCRIPT FLUSH");
            self.done.script_flushes += 1;
        }
    }

    fn swap(&mut self) {
        match self.random.below(4) {
            0 => self.replace_with("witness", &witness()),
            1 => self.replace_with("witness_bars", &witness_bars()),
            2 => {
                self.spare = !self.spare;
                self.configure();
            }
            _ => self.replace_probe(),
        }
    }

    /// The build of the probe that is to be in force, under a hash that it never had.
    fn replace_probe(&self) {
        let built = if self.build == 1 { probe() } else { probe_changed() };
        self.replace_with("probe", &built);
    }

    fn replace_with(&self, name: &str, built: &Path) {
        let (new, plugin) = (self.project.path("plugins/new"), self.project.path(&format!("plugins/{name}.wasm")));
        let tag = format!("{}-{}", self.done.swaps, self.done.changes);
        fs::write(&new, release(built, &tag)).unwrap();
        fs::rename(new, plugin).unwrap();
    }

    fn change_build(&mut self) {
        let epoch = self.wait_at_work();
        self.build = 3 - self.build;
        self.may_change_build = false;
        self.done.changes += 1;
        self.replace_probe();
        self.wait_in_force(epoch);
    }

    fn change_salt(&mut self) {
        let epoch = self.wait_at_work();
        self.salt += 1;
        self.may_change_build = true;
        self.done.changes += 1;
        self.configure();
        self.wait_in_force(epoch);
    }

    /// Until some host has done a few commits without a break; its epoch.
    fn wait_at_work(&mut self) -> u64 {
        self.hosts.iter_mut().for_each(Slot::wake);
        let mut begun: Option<(u64, u64)> = None;
        wait_for("a host is at work", || {
            let (epoch, commits) = (self.epoch(), self.redis.totals().get("commits").copied().unwrap_or(0));
            let (first, since) = *begun.get_or_insert((epoch, commits));
            if first != epoch || self.owner().is_none() {
                begun = None;
                return None;
            }
            (commits >= since + 5).then_some(epoch)
        })
    }

    /// Until an alert shows that the change is in force. Half of the time the owner dies right then: what it knew by
    /// the new code, and by the old, must be saved apart.
    fn wait_in_force(&mut self, epoch: u64) {
        let by = self.salt * 10 + self.build;
        self.changes.add(Change { by, made: Made::BetweenOwners });
        wait_for(&format!("alerts by {by}"), || {
            let newest = self.redis.newest(ALERTS, 20);
            let mut probes = newest.iter().filter(|(_, alert)| alert["plugin"] == "probe");
            probes.any(|(_, alert)| Sighting::of(alert).by == by).then_some(())
        });
        if self.epoch() == epoch {
            self.changes.was_made(Made::UnderOneOwner);
        }
        if self.nemeses.contains(&Nemesis::Kills) && self.random.below(2) == 0 {
            self.kill_owner();
        }
    }

    fn epoch(&self) -> u64 {
        self.redis.connect().get::<_, Option<u64>>(EPOCH).unwrap().unwrap_or(0)
    }

    fn set_a_clock(&mut self) {
        let offset = OFFSETS[self.random.below(OFFSETS.len() as u64) as usize];
        let which = self.random.below(self.hosts.len() as u64 + 1) as usize;
        let clock = self.hosts.get(which).map_or(&self.server_clock, |slot| &slot.clock);
        if let Some(clock) = clock {
            clock.set(offset);
            self.done.clock_jumps += 1;
        }
    }

    /// Some entries are given to another client: under another name, or under that of the hosts.
    fn read_as_another(&mut self) {
        // Before the first prices are known, order decides which ticks have one.
        if self.redis.processed() < 1000 {
            return;
        }
        let names = [[OURS, STRANGER], [OURS, OURS], [STRANGER, STRANGER]][self.seed as usize % 3];
        let name = names[self.random.below(2) as usize];
        read_as(&self.redis, name, 1 + self.random.below(50) as u32);
        self.taken = self.last_delivered();
        self.note(&format!("{name} was given entries up to {}", self.taken));
        self.done.foreign_reads += 1;
    }

    fn last_delivered(&self) -> EntryId {
        let groups: StreamInfoGroupsReply = self.redis.connect().xinfo_groups(STREAM).unwrap();
        groups.groups.iter().find(|group| group.name == GROUP).unwrap().last_delivered_id.parse().unwrap()
    }

    /// The group is set back by some entries, or it vanishes and is made anew from the start. Nothing else is done until
    /// the owner has put it right, and has committed all that was delivered before: if it died before it had acknowledged
    /// what it, or another client, was handed out again, whoever comes after it could not tell that from what was never
    /// processed.
    fn disturb_group(&mut self) {
        let mut connection = self.redis.connect();
        // There is a group once something was processed.
        if self.redis.processed() == 0 || self.is_owed_by_others() {
            return;
        }
        let delivered = self.last_delivered();
        if self.random.below(2) == 0 {
            let id = EntryId { millis: delivered.millis.saturating_sub(self.random.below(1000)), seq: 0 };
            let () = self.redis.ask(&format!("XGROUP SETID {STREAM} {GROUP} {id}"));
            self.note(&format!("the group was set back to {id}"));
            self.done.groups_set_back += 1;
        } else {
            // Not in one transaction: the host may make it first, as it does.
            let _: u64 = self.redis.ask(&format!("XGROUP DESTROY {STREAM} {GROUP}"));
            let create = request(&format!("XGROUP CREATE {STREAM} {GROUP} 0"));
            create.query(&mut connection).unwrap_or(());
            self.note("the group was destroyed and made anew");
            self.done.groups_destroyed += 1;
        }
        self.hosts.iter_mut().for_each(Slot::wake);
        wait_for("the group stands where it stood", || {
            let committed: EntryId = connection.hget::<_, _, String>(CHECKPOINT, "last").unwrap().parse().unwrap();
            let is_given_again = self.first_pending().is_some_and(|first| first <= delivered);
            (committed >= delivered && self.last_delivered() >= delivered && !is_given_again).then_some(())
        });
    }

    /// Whether entries that another client was given are still to be processed: who destroys the group then destroys
    /// the only trace of that.
    fn is_owed_by_others(&self) -> bool {
        self.first_pending().is_some_and(|first| first <= self.taken)
    }

    fn first_pending(&self) -> Option<EntryId> {
        match self.redis.connect().xpending(STREAM, GROUP).unwrap() {
            StreamPendingReply::Data(pending) => pending.start_id.parse().ok(),
            _ => None,
        }
    }

    /// Every fault ends; the hosts that live go on.
    pub fn relent(&mut self) {
        for slot in &mut self.hosts {
            slot.wake();
            slot.clock.iter().for_each(|clock| clock.set("+0"));
        }
        self.server_clock.iter().for_each(|clock| clock.set("+0"));
    }

    /// What hosts of all lives said beside what a run always says, with what was done to the group, by time.
    pub fn warnings(&self) -> String {
        let logs = fs::read_dir(self.project.path(".")).unwrap().map(|entry| entry.unwrap().path());
        let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let text: String = logs.map(|log| fs::read_to_string(log).unwrap()).collect();
        let worth = |line: &&str| {
            (line.contains(" WARN ") || line.contains("ERROR")) && !has_event(line, "notification_without_redis")
        };
        let mut lines: Vec<&str> = text.lines().filter(worth).chain(self.noted.iter().map(String::as_str)).collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    /// For [`Chaos::warnings`].
    fn note(&mut self, what: &str) {
        self.noted.push(format!("{} NOTE {what}", jiff::Timestamp::now()));
    }

    /// Every host is stopped in order.
    pub fn stop(&mut self) {
        self.hosts.iter_mut().for_each(Slot::stop);
    }
}

impl Slot {
    fn wake(&mut self) {
        if self.paused_until.take().is_some() {
            self.host.signal("CONT");
        }
    }

    fn stop(&mut self) {
        self.wake();
        self.host.signal("TERM");
        let ended = self.host.wait();
        let log = self.host.log();
        // One that still loads its plugins has no handler yet, and nothing to finish.
        let at_work =
            ["lease_acquired", "standby_started", "redis_unavailable"].iter().any(|event| has_event(&log, event));
        assert!(ended == Some(0) || (ended.is_none() && !at_work), "{ended:?}\n{log}");
    }
}

/// A host with other numbers of workers and sizes of batches than the one before.
fn start(project: &Project, clock: Option<&FakeClock>, random: &mut Random) -> Host {
    let workers = (1 + random.below(4)).to_string();
    let batch = [7, 50, 500][random.below(3) as usize];
    let backlog = (batch * (1 + random.below(4))).to_string();
    let checkpoint = [300, 1000, 5000][random.below(3) as usize].to_string();
    let mut settings = vec![
        ("TICKHOUND_ENGINE__WORKERS", workers),
        ("TICKHOUND_ENGINE__CHECKPOINT_EVERY_MS", checkpoint),
        ("TICKHOUND_ENGINE__BACKLOG", backlog),
        ("TICKHOUND_STREAM__BATCH", batch.to_string()),
    ];
    settings.extend(clock.map(FakeClock::variables).unwrap_or_default());
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    project.start_with(&["run"], &settings)
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        let bits = mixed(self.0);
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits % end
    }
}
