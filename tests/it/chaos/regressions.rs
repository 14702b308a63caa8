//! Faults that chaos has found, each in its smallest form.

use crate::{
    proxy::{At, Proxy},
    support::{
        Difference, GROUP, Project, Redis, STATE, STREAM, difference, misbehaving, probe, signal, wait_for,
        witness_bars,
    },
};

const TICKS: u32 = 3000;

/// Somebody destroyed the group and made it anew, so that what the host had in flight was pending no more. The host
/// moved the group forward past all that it had read, and died: nobody was ever given the entries in flight again.
///
/// The entries that it was handed out again and had not acknowledged yet are processed twice: whoever comes after it
/// can't tell them from entries that were pending and never processed.
#[test]
fn what_is_in_flight_when_the_group_is_made_anew_is_not_lost_with_the_host() {
    let redis = Redis::start();
    let proxy = Proxy::to(&redis);
    let project = Project::at(proxy.url());
    project.add_plugin(misbehaving());
    // No lease is renewed while the test looks for the script that moves the group.
    project.configure_with(
        "batch = 20\nlease_ms = 60000",
        "[engine]\nbacklog = 400\n[alerts]\nlog = false\n[detectors.each]\nplugin = \"misbehaving\"",
    );
    project.feed(12, TICKS, &["--dirt", "0"]);
    let mut host = project.start(&["run"]);
    let pid = host.pid();
    redis.wait_processed(301);
    // The server does not know the script yet: it is asked twice.
    let sprung = proxy.trap("EVALSHA", 2, At::Reply, move || signal(pid, "KILL"));
    let mut group = redis::pipe();
    group.atomic().cmd("XGROUP").arg("DESTROY").arg(STREAM).arg(GROUP);
    group.cmd("XGROUP").arg("CREATE").arg(STREAM).arg(GROUP).arg("0");
    let _: redis::Value = group.query(&mut redis.connect()).unwrap();
    sprung.wait();
    host.wait();
    let left: u64 = redis.ask::<u64>(&format!("XLEN {STREAM}")) - redis.totals()["entries"];
    assert!(left > 0, "it died too late to show anything");

    project.run(&["run", "--drain"]);
    let Difference { lost, extra, .. } = difference(redis.alerts(), project.reference(&redis));
    assert_eq!((lost, extra, redis.totals()["lost"], redis.pending()), (0, 0, 0, 0));
}

/// A detector of bars had no bar yet, so its group had no state. Its chunk had been saved, and what the group depends on with
/// it, but a recovery took that only where some other state was as of the same entry. Otherwise the members that were saved
/// later began anew there: their bars in progress lacked what was before, and so did their computed columns.
#[test]
fn a_group_without_a_row_so_far_leaves_its_members_as_they_were_after_a_kill() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    [probe(), witness_bars()].iter().for_each(|plugin| project.add_plugin(plugin));
    project.configure_with(
        "batch = 2\nlease_ms = 500",
        "[engine]\nbacklog = 4\ncheckpoint_every_ms = 500\nworkers = 2\n[alerts]\nlog = false\nmaxlen = 0\n\
         [detectors.each]\nplugin = \"probe\"\n[detectors.bars]\nplugin = \"witness_bars\"",
    );
    // One each millisecond: the first bars end after 5000.
    let add = |numbers: std::ops::Range<u64>| {
        let mut ticks = redis::pipe();
        for n in numbers {
            let (symbol, price) = (format!("S{}", n * 7 % 12), (1000 + n * 7919 % 97).to_string());
            let (volume, time) = ((n * 10).to_string(), (1_763_959_530_000 + n).to_string());
            let fields = [("symbol", &symbol), ("ltp", &price), ("volume_traded", &volume), ("timestamp", &time)];
            ticks.xadd(STREAM, "*", &fields).ignore();
        }
        let () = ticks.query(&mut redis.connect()).unwrap();
    };
    add(0..4900);
    let bases = || -> Vec<String> {
        let fields: Vec<String> = redis.ask(&format!("HKEYS {STATE}"));
        fields.into_iter().filter(|field| field.starts_with("b:")).collect()
    };
    let mut host = project.start(&["run"]);
    redis.wait_processed(200);
    host.stop();
    let stopped = bases();
    assert!(!stopped.is_empty(), "the end of a run saves everything");
    let mut host = project.start(&["run"]);
    wait_for("the chunk of the market is saved apart", || {
        bases().iter().any(|one| !stopped.contains(one)).then_some(())
    });
    // Some of the members are saved later.
    redis.wait_processed((redis.processed() + 400).min(4900));
    host.kill();
    add(4900..5500);
    project.run(&["run", "--drain"]);
    let reference = project.reference(&redis);
    assert!(reference.iter().any(|alert| alert["detector"] == "bars"), "a bar must end");
    assert_eq!(difference(redis.alerts(), reference), Difference::default());
}
