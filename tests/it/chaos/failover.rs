//! The server dies, and a replica that lags behind takes its place.
//!
//! What the replica lacks is lost, and nobody can help that. Beyond it nothing may be wrong: whatever the promoted
//! server holds, entries, commits, states, fits together, so the account of it must be that of an undisturbed run.
//! And what is published again under an id that was published before must be the same.
//!
//! `cargo xtask failover` tries more seeds.

use std::collections::HashMap;

use redis::Commands;
use serde_json::json;

use super::{
    assert_undisturbed,
    changes::Changes,
    config,
    nemeses::Random,
    outputs::{Order, Outputs, TOLD_OF},
    setting, sink, wait_until_processed,
};
use crate::{
    notify::{receiver::Receiver, wait_until_notified},
    proxy::{Link, Proxy},
    replicas::Replicas,
    support::{
        ALERTS, Alert, EPOCH, Host, Project, Redis, SHADOW_ALERTS, STREAM, content, probe, signal, wait_for, witness,
        witness_bars,
    },
};

/// Ticks at the start, beyond the cut, and after the failover.
const TICKS: [u32; 3] = [3000, 300, 300];

/// Small steps, so that a failover has many moments to hit.
const STREAM_KEYS: &str = "timeout_ms = 1000\nbatch = 20";
const ENGINE: &str = "[engine]\nbacklog = 60\ncheckpoint_every_ms = 300\n";

/// What becomes of the owner between the cut and the failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    /// Another host acquires the stream, which the replica does not hear of.
    Killed,
    /// Another host acquires it too, and the first one wakes up after the failover.
    Paused,
    /// It dies with the server.
    KilledWithTheServer,
    /// It has just acquired the stream once more, which the replica does not hear of, and falls asleep. The host after it
    /// acquires it of the promoted server, which counts the same, and dies when it has done as many commits. So the first
    /// finds the number of its own last commit, over another history.
    Relieved,
}

/// What is being tried.
struct Scene {
    /// First, so that they end before what they run in.
    hosts: Vec<Host>,
    replicas: Replicas,
    receiver: Receiver,
    project: Project,
    /// Who sleeps until after the failover, and how many commits there were then.
    asleep: Option<(u32, u64)>,
}

/// What a server held at one moment.
struct Held {
    entries: u64,
    commits: u64,
    /// By id, those of shadows too.
    alerts: HashMap<String, Vec<(String, String)>>,
}

/// `TICKHOUND_FAILOVER_SEEDS` of them, from `TICKHOUND_FAILOVER_SEED` on.
#[test]
fn a_failover_to_a_replica_that_lags_costs_what_the_replica_lacks_and_no_more() {
    let first: u64 = setting("TICKHOUND_FAILOVER_SEED", 1);
    for seed in first..first + setting("TICKHOUND_FAILOVER_SEEDS", 2) {
        fail_over(seed);
    }
}

fn fail_over(seed: u64) {
    let mut random = Random(seed);
    let fates = [Fate::KilledWithTheServer, Fate::Relieved, Fate::GoesOn, Fate::Killed, Fate::Paused];
    let fate = fates[(seed % fates.len() as u64) as usize];
    let count = 1 + random.below(2) as usize;
    let mut scene = Scene::begin(seed, count);
    let goal = 100 + random.below(700);
    scene.replicas.first.wait_processed(goal);
    scene.replicas.cut_off();
    scene.project.feed(12, TICKS[1], &["--seed", &(seed + 1000).to_string()]);
    scene.befall(fate);
    if fate != Fate::Relieved {
        scene.replicas.first.wait_processed(goal + 50 + random.below(1000));
    }
    let (before, kept) = scene.promote(fate);
    scene.project.feed(12, TICKS[2], &["--seed", &(seed + 2000).to_string()]);
    wait_until_processed(&scene.replicas.second, &scene.project);
    wait_until_notified(&scene.replicas.second, "told");
    scene.hosts.iter_mut().for_each(Host::stop);
    // Who begins begins where Redis says; who continues knows what it has sent.
    let stays = count == 1 && fate == Fate::GoesOn;
    scene.judge(&before, &kept, stays, &format!("seed {seed}, {count} hosts, {fate:?}"));
}

impl Scene {
    fn begin(seed: u64, count: usize) -> Self {
        let (replicas, receiver) = (Replicas::start(), Receiver::start());
        let project = project(&replicas.proxy, &receiver);
        project.feed(12, TICKS[0], &["--dirt", "0.01", "--seed", &seed.to_string()]);
        wait_for("the replica has the ticks", || (replicas.second.length(STREAM) == u64::from(TICKS[0])).then_some(()));
        // So that there is time for something to happen.
        replicas.proxy.set(Link::Slow);
        let hosts = (0..count).map(|_| project.start(&["run"])).collect();
        Self { hosts, replicas, receiver, project, asleep: None }
    }

    /// Does to the owner what its fate is between cut and failover.
    fn befall(&mut self, fate: Fate) {
        match fate {
            Fate::GoesOn | Fate::KilledWithTheServer => {}
            Fate::Killed => self.replace_owner(),
            Fate::Paused => {
                let owner = self.owner();
                self.pause(owner);
                self.wait_for_other_owner(owner);
            }
            Fate::Relieved => {
                let before = epoch(&self.replicas.first);
                self.replicas.proxy.cut();
                wait_for("the stream is acquired once more", || (epoch(&self.replicas.first) > before).then_some(()));
                let (owner, begun) = (self.owner(), commits(&self.replicas.first));
                wait_for("some commits under it", || (commits(&self.replicas.first) > begun + 2).then_some(()));
                self.pause(owner);
            }
        }
    }

    fn pause(&mut self, pid: u32) {
        signal(pid, "STOP");
        self.asleep = Some((pid, commits(&self.replicas.first)));
        if self.hosts.len() == 1 {
            self.hosts.push(self.project.start(&["run"]));
        }
    }

    fn wait_for_other_owner(&self, than: u32) {
        wait_for("another host owns the stream", || {
            self.replicas.first.lease_pid().filter(|pid| *pid != than).map(|_| ())
        });
    }

    fn replace_owner(&mut self) {
        let owner = self.owner();
        let place = self.hosts.iter().position(|host| host.pid() == owner).unwrap();
        self.hosts.remove(place).kill();
        self.hosts.push(self.project.start(&["run"]));
    }

    fn owner(&self) -> u32 {
        wait_for("a host owns the stream", || {
            self.replicas.first.lease_pid().filter(|pid| self.hosts.iter().any(|host| host.pid() == *pid))
        })
    }

    /// The first server dies, the second has the address; what each held.
    fn promote(&mut self, fate: Fate) -> (Held, Held) {
        self.replicas.proxy.set(Link::Silent);
        if fate == Fate::KilledWithTheServer {
            self.replace_owner();
        }
        let held = (Held::by(&self.replicas.first), Held::by(&self.replicas.second));
        self.replicas.promote();
        if let (Fate::Relieved, Some((sleeper, done))) = (fate, self.asleep) {
            self.replicas.proxy.set(Link::Slow);
            wait_for("as many commits as the sleeper did", || (commits(&self.replicas.second) >= done).then_some(()));
            let relief = self.hosts.iter().position(|host| host.pid() != sleeper).unwrap();
            self.hosts.remove(relief).kill();
        }
        self.replicas.proxy.set(Link::Whole);
        self.asleep.iter().for_each(|(pid, _)| signal(*pid, "CONT"));
        held
    }

    fn judge(&self, before: &Held, kept: &Held, stays: bool, what: &str) {
        let (second, project) = (&self.replicas.second, &self.project);
        project.replace_config(&config(&second.url(), STREAM_KEYS, 0, ENGINE));
        project.run_reference(second);
        let mut outputs = Outputs::read(second, project, Order::Kept, &Changes::new(), &self.receiver.got());
        let after = Held::by(second);
        let lost = before.alerts.keys().filter(|id| !kept.alerts.contains_key(*id)).count();
        let again: Vec<&String> = before.alerts.keys().filter(|id| after.alerts.contains_key(*id)).collect();
        let differ = again.iter().filter(|id| before.alerts[**id] != after.alerts[**id]).count();
        let said = self.hosts.iter().any(|host| host.has_event("redis_rolled_back"));
        let account = json!({
            "run": what, "entries": after.entries, "entries_lost": before.entries - kept.entries,
            "commits_lost": before.commits - kept.commits, "alerts_lost": lost, "published_again_differently": differ,
            "said": said, "outputs": outputs.account(Order::Kept),
        });
        println!("failover {account}");
        assert_eq!(differ, 0, "alerts that were published again are others; {account}");
        assert!(
            said || !stays || before.commits == kept.commits,
            "nothing was said of commits that are gone; {account}"
        );
        if !stays {
            outputs.notified.twice = 0;
        }
        // The file has what went with the first server as well, and what was published again where it was first.
        outputs.lines.unknown.retain(|id| !before.alerts.contains_key(id) || after.alerts.contains_key(id));
        outputs.lines.displaced = 0;
        assert_undisturbed(&outputs, &account.to_string());
    }
}

fn project(proxy: &Proxy, receiver: &Receiver) -> Project {
    let project = Project::at(proxy.url());
    [probe(), witness(), witness_bars()].iter().for_each(|plugin| project.add_plugin(plugin));
    let sink = sink(&receiver.url(), &[&TOLD_OF[..], &["probe"]].concat(), 300);
    project.write_config(&config(&proxy.url(), STREAM_KEYS, 0, &format!("{ENGINE}{sink}")));
    project
}

impl Held {
    fn by(redis: &Redis) -> Self {
        let ided = |alert: Alert| (alert["id"].clone(), content(&alert));
        Self {
            entries: redis.length(STREAM),
            commits: commits(redis),
            alerts: redis.paged(ALERTS).chain(redis.paged(SHADOW_ALERTS)).map(ided).collect(),
        }
    }
}

fn epoch(redis: &Redis) -> u64 {
    redis.connect().get(EPOCH).unwrap()
}

fn commits(redis: &Redis) -> u64 {
    redis.totals().get("commits").copied().unwrap_or(0)
}
