//! Everything that can go wrong at once, for a while, by a schedule that a seed decides; then the account.
//!
//! Ticks come in all the time. Hosts are killed, paused past their lease, stopped, started with
//! other numbers of workers and sizes of batches; the server is killed; connections are cut, scripts
//! forgotten, plugins and settings changed, clocks set, entries read by others. Then all faults end, and
//! the hosts that are left must process everything. Another group processes the same entries
//! undisturbed; every output must be that of the undisturbed run.
//!
//! `cargo xtask chaos` runs this for longer, `cargo xtask failover` the failovers; see there.

mod changes;
mod clock;
mod failover;
mod feeder;
mod nemeses;
mod outputs;
mod regressions;

use std::{
    collections::BTreeSet,
    env,
    str::FromStr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use redis::{
    Commands,
    streams::{StreamInfoGroupsReply, StreamInfoStreamReply},
};
use serde_json::{Value, json};

use self::{
    changes::Chains,
    feeder::Feeder,
    nemeses::{Chaos, Done, Nemesis},
    outputs::{LINES, Lines, Notified, Order, Outputs, TOLD_OF},
};
use crate::{
    notify::{receiver::Receiver, wait_until_notified},
    support::{Difference, GROUP, Project, Redis, STREAM, wait_for},
};

const LEASE_TIME: Duration = Duration::from_millis(1000);

/// A run of this length has faults of every kind, whatever chance decides: the rarest came 20 times in 480 s.
const LONG_S: u64 = 300;

/// The faults of the run among the other tests: those that need no long wait at its end.
const SHORT: &str = "kills,pauses,stops,server,cuts,swaps,settings,clock";

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn chaos() {
    let seed = setting("TICKHOUND_CHAOS_SEED", 1);
    let seconds: u64 = setting("TICKHOUND_CHAOS_SECONDS", 15);
    let hosts = setting("TICKHOUND_CHAOS_HOSTS", 2);
    let nemeses = Nemesis::named(&setting("TICKHOUND_CHAOS_NEMESES", SHORT.to_owned()));
    let receiver = Receiver::start();
    let clocks = tempfile::tempdir().unwrap();
    let mut chaos = Chaos::begin(seed, hosts, &nemeses, receiver.url(), clocks.path());
    let feeder = Feeder::start(chaos.redis.url(), seed);
    let (started, duration) = (Instant::now(), Duration::from_secs(seconds));
    let mut told = started;
    while started.elapsed() < duration {
        chaos.act();
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            let (passed, fed) = (started.elapsed().as_secs(), feeder.fed.load(Relaxed));
            eprintln!(
                "{passed} s of {seconds}: {fed} entries fed, {} processed; {:?}",
                chaos.redis.processed(),
                chaos.done
            );
        }
    }
    eprintln!("{seconds} s are over: no more faults, the hosts that live process what is left");
    chaos.relent();
    feeder.hold(true);
    let begun = Instant::now();
    wait_until_processed(&chaos.redis, &chaos.project);
    let recovered_s = begun.elapsed().as_secs_f64();
    // They still take what comes.
    feeder.hold(false);
    let before = feeder.fed.load(Relaxed);
    wait_for("some more entries are fed", || (feeder.fed.load(Relaxed) > before + 100).then_some(()));
    let fed = feeder.stop();
    wait_until_processed(&chaos.redis, &chaos.project);
    wait_until_notified(&chaos.redis, "told");
    chaos.stop();

    eprintln!("processing the same {fed} entries undisturbed");
    chaos.configure_quietly();
    chaos.project.run_reference(&chaos.redis);
    let (order, redis) = (chaos.order(), &chaos.redis);
    let outputs = Outputs::read(redis, &chaos.project, order, &chaos.changes, &receiver.got());
    let entries: u64 = redis.connect().xlen(STREAM).unwrap();
    let totals = redis.totals();
    let total = |name: &str| totals.get(name).copied().unwrap_or(0);
    println!("chaos, seed {seed}, {seconds} s, {hosts} hosts, {nemeses:?}");
    println!("  done:    {:?}", chaos.done);
    println!("  outputs: {outputs:?}");
    let mut account = json!({
        "seed": seed, "seconds": seconds, "hosts": hosts, "fed": fed, "entries": entries, "worked": total("entries"),
        "alerted": entries - total("quiet").min(entries), "quiet": total("quiet"), "alerts": total("alerts"),
        "dead": total("dead"), "pending": redis.pending(), "recovered_s": recovered_s,
        "order_kept": order == Order::Kept,
    });
    for part in [json!(chaos.done), outputs.account(order)] {
        account.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
    }
    println!("{account}");
    if order == Order::Disturbed {
        println!("another client has read entries: contents and order of alerts were not compared");
    }
    if outputs.alerts != Difference::default() || outputs.chains.broken + outputs.chains.turned_back > 0 {
        println!("alerts of these entries are missing: {:?}", Outputs::missing(redis));
        println!("what the hosts said, but for lost connections:\n{}", chaos.warnings());
    }
    assert_done(&nemeses, &chaos.done, seconds);
    assert_eq!((entries, total("entries"), redis.pending()), (fed, fed, 0), "entries, processed, pending");
    assert_undisturbed(&outputs, &format!("seed {seed}"));
}

/// The groups overlap: a symbol of NIFTY is in both families, and `leaders` has members of two underlyings.
const MARKET: &str = "[groups.leaders]\nsymbols = [\"NIFTY*\", \"ICICIBANK\"]\n[context.leader]\nsymbol = \"NIFTY\"\n\
                      [detectors.witness]\nplugin = \"witness\"\ngroups = [\"underlying\", \"leaders\"]\n\
                      [detectors.bars]\nplugin = \"witness_bars\"\n";

/// The configuration of the hosts. `stream` holds further keys of `[stream]`, `salt` goes to the probes, and `more` holds
/// further tables.
fn config(url: &str, stream: &str, salt: u64, more: &str) -> String {
    let detectors = TOLD_OF.map(|name| format!("[detectors.{name}]\nplugin = \"{name}\"\nmin_confidence = 0.0\n"));
    let probes = [("probe", ""), ("probe-shadow", "shadow_of = \"probe\"\n")].map(|(name, more)| {
        format!("[detectors.{name}]\nplugin = \"probe\"\n{more}[detectors.{name}.params]\nsalt = {salt}\n")
    });
    format!(
        "[stream]\nurl = \"{url}\"\nblock_ms = 200\nlease_ms = {}\n{stream}\n[plugins]\ncall_deadline_ms = 5000\n\
         [alerts]\nlog = false\nmaxlen = 0\njsonl = \"{LINES}\"\n[dead_letters]\nmaxlen = 0\n{}{}{MARKET}{more}",
        LEASE_TIME.as_millis(),
        detectors.concat(),
        probes.concat(),
    )
}

/// The table of the sink `told`, which is notified of alerts of these detectors.
fn sink(receiver: &str, detectors: &[&str], group_ms: u32) -> String {
    format!(
        "[[notify]]\nname = \"told\"\nurl = \"{receiver}\"\ndetectors = {detectors:?}\ngroup_ms = {group_ms}\n\
         per_minute = 120\nmax_per_message = 500\nmax_age_s = 86400\ntimeout_ms = 5000\n"
    )
}

/// Each kind of fault that was asked for has happened: those that come often in any run, all of them in a long one.
fn assert_done(nemeses: &BTreeSet<Nemesis>, done: &Done, seconds: u64) {
    for nemesis in nemeses {
        let is_certain = matches!(nemesis, Nemesis::Kills | Nemesis::Pauses | Nemesis::Stops) || seconds >= LONG_S;
        assert!(!is_certain || done.times(*nemesis) > 0, "that was no chaos: no {nemesis:?}");
    }
}

fn assert_undisturbed(outputs: &Outputs, what: &str) {
    let Outputs { alerts, shadows, chains, dead_are_the_same, lines, notified, totals } = outputs;
    let expected = Chains {
        alerts: chains.alerts,
        in_force: chains.in_force,
        reread: chains.reread,
        witnessed: chains.witnessed.clone(),
        ..Chains::default()
    };
    assert_eq!(*chains, expected, "the probe and the witnesses, by what they have seen; {what}");
    for owner in ["witness/NIFTY", "witness/leaders", "bars/market"] {
        assert!(chains.witnessed.contains_key(owner), "{owner} has witnessed nothing; {what}");
    }
    assert_eq!(*alerts, Difference::default(), "alerts, against an undisturbed run; {what}");
    assert_eq!(*shadows, Difference::default(), "alerts of shadows, against an undisturbed run; {what}");
    assert!(dead_are_the_same, "other dead letters than undisturbed; {what}");
    assert_eq!(*totals, [], "counters, what they are, what they should be; {what}");
    assert_eq!(*notified, Notified::default(), "notifications; {what}");
    assert_eq!(*lines, Lines::default(), "the JSON lines; {what}");
}

/// Without any more faults, and without another start: everything is processed, nothing stays pending, and `status`
/// says that all is well then, and not before.
fn wait_until_processed(redis: &Redis, project: &Project) {
    let is_processed = || {
        let (stream, groups) = (redis.connect().xinfo_stream(STREAM), redis.connect().xinfo_groups(STREAM));
        let (stream, groups): (StreamInfoStreamReply, StreamInfoGroupsReply) = (stream.unwrap(), groups.unwrap());
        let ours = groups.groups.iter().find(|group| group.name == GROUP);
        ours.is_some_and(|ours| ours.pending == 0 && ours.last_delivered_id == stream.last_generated_id)
    };
    wait_for("everything is processed by the hosts that live", || {
        let status = status(project);
        // Nothing is added: what is done now stays done, so what it says can be held against what is seen after it.
        let says_so = status["verdict"] == "healthy" && status["reason"] == "every entry is processed";
        assert!(!says_so || is_processed(), "there is something left, and status says: {status}");
        is_processed().then_some(())
    });
    wait_for("status says that all is well", || (status(project)["verdict"] == "healthy").then_some(()));
}

fn status(project: &Project) -> Value {
    serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap()
}

/// The value of a variable that a longer run sets.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    let Ok(text) = env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number"))
}
