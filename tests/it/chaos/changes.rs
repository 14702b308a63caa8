//! Changes of behaviour, and what the probe must find after them.
//!
//! Each alert of the probe tells the tick it saw, by which behaviour, and the hash of all that its symbol has
//! seen. So its hash follows from the alerts before it, whatever took effect where, and a reference run need
//! only show what the ticks were.
//!
//! The witnesses say the same of the rows that a group or the market has seen. Their behaviour never changes.

use std::collections::BTreeMap;

use crate::support::{Alert, Sighting};

/// A change as it was made.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// What alerts are made by from then on.
    pub by: u64,
    pub made: Made,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// While one host owned the stream from before the change until an alert showed that it was in force.
    UnderOneOwner,
    /// The owner changed meanwhile. The next one re-reads the past by the new code, as the old is gone.
    BetweenOwners,
}

/// Every change so far, in order. No two are by the same.
pub struct Changes(Vec<Change>);

/// What the alerts of probes and witnesses show; nothing is wrong when `broken` and `turned_back` are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains {
    /// Alerts of probes.
    pub alerts: usize,
    /// Alerts of witnesses, by detector and group.
    pub witnessed: BTreeMap<String, usize>,
    /// Changes that took effect.
    pub in_force: usize,
    /// Changes between owners after which some ticks were read once more by the new code.
    pub reread: usize,
    /// Alerts that do not follow from those before them.
    pub broken: usize,
    /// Alerts by a behaviour from before that of an earlier alert.
    pub turned_back: usize,
    /// The first that is wrong, and what was before it.
    pub first: Option<String>,
}

impl Changes {
    /// The probe without salt.
    pub fn new() -> Self {
        Self(vec![Change { by: 1, made: Made::UnderOneOwner }])
    }

    pub fn add(&mut self, change: Change) {
        assert!(self.place(change.by).is_none(), "{change:?} was there before");
        self.0.push(change);
    }

    /// How the last one was made, which is known when it is in force.
    pub fn was_made(&mut self, made: Made) {
        self.0.last_mut().unwrap().made = made;
    }

    fn place(&self, by: u64) -> Option<usize> {
        self.0.iter().position(|change| change.by == by)
    }

    /// Looks at the alerts of one stream, in its order.
    pub fn check(&self, alerts: impl IntoIterator<Item = Alert>) -> Chains {
        let mut chains = Chains::default();
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        let mut histories: BTreeMap<(String, String), Vec<Sighting>> = BTreeMap::new();
        for alert in alerts.into_iter().filter(is_of_a_chain) {
            let owner = alert.get("group").unwrap_or(&alert["symbol"]).clone();
            let is_probe = alert["plugin"] == "probe";
            if is_probe {
                chains.alerts += 1;
            } else {
                *chains.witnessed.entry(format!("{}/{owner}", alert["detector"])).or_default() += 1;
            }
            let found = Sighting::of(&alert);
            let newest = newest.entry(alert["detector"].clone()).or_insert_with(|| {
                chains.in_force += usize::from(is_probe);
                0
            });
            let place = self.place(found.by);
            if place.is_some_and(|place| place > *newest) {
                *newest = place.unwrap();
                chains.in_force += 1;
            }
            let history = histories.entry((alert["detector"].clone(), owner)).or_default();
            let before = history.last().copied();
            let wrong = if place.is_none_or(|place| place < *newest) {
                Some(&mut chains.turned_back)
            } else if found == Sighting::after(before, found.tick, found.by) {
                None
            } else if self.0[*newest].made == Made::BetweenOwners && is_reread(history, found) {
                chains.reread += 1;
                None
            } else {
                Some(&mut chains.broken)
            };
            if let Some(count) = wrong {
                *count += 1;
                chains.first.get_or_insert_with(|| format!("{alert:?} after {before:?}"));
            }
            history.push(found);
        }
        chains
    }
}

/// Whether this follows if the new behaviour is shown some of the ticks before as well.
fn is_reread(history: &[Sighting], found: Sighting) -> bool {
    (0..history.len()).rev().any(|start| {
        let begin = start.checked_sub(1).map(|before| history[before]);
        let again = history[start..].iter().map(|sighting| sighting.tick);
        again.chain([found.tick]).fold(begin, |last, tick| Some(Sighting::after(last, tick, found.by))) == Some(found)
    })
}

fn is_of_a_chain(alert: &Alert) -> bool {
    ["probe", "witness", "witness_bars"].contains(&alert["plugin"].as_str())
}

/// The alert without what depends on where changes took effect, to compare it with that of another run.
pub fn without_changes(mut alert: Alert) -> Alert {
    if alert["plugin"].starts_with("witness") {
        // It is exchanged by one that behaves the same.
        alert.remove("sha256");
    }
    if alert["plugin"] == "probe" {
        let Sighting { seen, tick, .. } = Sighting::of(&alert);
        alert.insert("evidence".into(), format!("{seen} {tick}"));
        // Which code it was, and with which parameters.
        ["sha256", "params_hash"].iter().for_each(|name| _ = alert.remove(*name));
    }
    alert
}

#[test]
fn a_change_is_seen_to_apply_at_one_place() {
    let alerts = |bys: &[u64], hashed_by: &[u64]| {
        let mut last = None;
        let mut alerts = Vec::new();
        for (number, (by, hashed_by)) in bys.iter().zip(hashed_by).enumerate() {
            let sighting = Sighting::after(last, number as u64, *hashed_by);
            last = Some(sighting);
            let Sighting { seen, hash, tick, .. } = sighting;
            let evidence = format!("{{\"seen\":{seen},\"hash\":{hash},\"tick\":{tick},\"by\":{by}}}");
            let fields = [("plugin", "probe"), ("detector", "probe"), ("symbol", "A"), ("evidence", &evidence)];
            alerts.push(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        }
        alerts
    };
    let check = |made: Made, bys: &[u64], hashed_by: &[u64]| {
        let mut changes = Changes::new();
        changes.add(Change { by: 2, made });
        let Chains { in_force, reread, broken, turned_back, .. } = changes.check(alerts(bys, hashed_by));
        (in_force, reread, broken, turned_back)
    };
    let at_one_place = [1, 1, 1, 2, 2];
    assert_eq!(check(Made::UnderOneOwner, &at_one_place, &at_one_place), (2, 0, 0, 0));
    assert_eq!(check(Made::UnderOneOwner, &[1, 1, 2, 1, 2], &[1, 1, 2, 1, 2]), (2, 0, 0, 1));
    // The third was published by the old code, and shown to the new one once more.
    let shown_again = [1, 1, 2, 2, 2];
    let visible = |made: Made| {
        let mut all: Vec<Alert> = alerts(&at_one_place, &at_one_place);
        let again = alerts(&at_one_place, &shown_again);
        all.splice(3.., again[3..].iter().cloned());
        let mut changes = Changes::new();
        changes.add(Change { by: 2, made });
        let Chains { reread, broken, .. } = changes.check(all);
        (reread, broken)
    };
    assert_eq!(visible(Made::UnderOneOwner), (0, 1));
    assert_eq!(visible(Made::BetweenOwners), (1, 0));
}
