//! The probe, by which other tests see that a tick was lost, repeated, reordered or forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Alert, Project, Redis, Sighting, assert_chains, probe, probe_changed, probe_clock};

const TICKS: usize = 2000;
const SYMBOLS: usize = 5;

const PROBES: &str = "[detectors.plain]\nplugin = \"probe\"\n[detectors.changed]\nplugin = \"probe_changed\"\n\
                      [detectors.salted]\nplugin = \"probe\"\n[detectors.salted.params]\nsalt = 7\n\
                      [detectors.clock]\nplugin = \"probe_clock\"\n";

/// What each probe found, in its order, as the symbol and the evidence.
fn found(alerts: &[Alert]) -> BTreeMap<&str, Vec<(&str, Sighting)>> {
    let mut found: BTreeMap<&str, Vec<(&str, Sighting)>> = BTreeMap::new();
    for alert in alerts.iter().filter(|alert| alert["plugin"] == "probe") {
        found.entry(&alert["detector"]).or_default().push((&alert["symbol"], Sighting::of(alert)));
    }
    found
}

#[test]
fn a_probe_tells_in_each_alert_all_that_its_symbol_has_seen() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    [probe(), probe_changed(), probe_clock()].iter().for_each(|file| project.add_plugin(file));
    project.configure_with("batch = 50", PROBES);
    project.feed(SYMBOLS as u32, TICKS as u32, &["--dirt", "0"]);
    project.run(&["run", "--drain"]);

    let alerts = redis.alerts();
    let found = found(&alerts);
    for (detector, by) in [("plain", 1), ("changed", 2), ("salted", 71), ("clock", 3)] {
        let found = &found[detector];
        assert!(found.iter().all(|(_, sighting)| sighting.by == by), "{detector}");
        assert_eq!(found.iter().map(|(symbol, _)| symbol).collect::<BTreeSet<_>>().len(), SYMBOLS, "{detector}");
    }
    assert_chains(alerts.iter().filter(|alert| alert["plugin"] == "probe"));
    let ticks = |detector: &str| found[detector].iter().map(|(_, sighting)| sighting.tick).collect::<Vec<_>>();
    assert_eq!(ticks("plain").len(), TICKS);
    assert!(ticks("plain") == ticks("changed") && ticks("plain") == ticks("salted"), "the ticks are the same");
    assert!(ticks("clock").len() > TICKS, "clock rows as well");
}
