//! Faults that chaos has found, each in its smallest form.

use crate::{
    proxy::{At, Proxy},
    support::{Difference, GROUP, Project, Redis, STREAM, difference, misbehaving, signal},
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
