//! Detectors that see groups, the market, bars, snapshots, contexts and computed columns: a witness alerts on every row with a
//! hash of all rows that its state has seen, so whatever was lost, repeated, late or seen by the wrong one shows.

use tickhound_core::event::EntryId;

use crate::support::{
    Alert, Difference, Host, Project, Redis, STATE, STREAM, difference, text, wait_for, witness, witness_market,
    witness_symbol,
};

/// 2025-11-24 10:15:30 in Kolkata, ms.
const THEN: u64 = 1_763_959_530_000;

const SYMBOLS: [&str; 9] = [
    "NIFTY",
    "NIFTY25NOV25750CE",
    "SBIN",
    "NIFTY25NOV25750PE",
    "TCS",
    "SBIN25NOVFUT",
    "ICICIBANK",
    "NIFTY25NOV26000CE",
    "RELIANCE",
];

const TICKS: u64 = 3_000;

struct Market {
    redis: Redis,
    project: Project,
    fed: u64,
}

impl Market {
    fn new() -> Self {
        let redis = Redis::start();
        let project = Project::new(&redis);
        [witness(), witness_market(), witness_symbol()].iter().for_each(|plugin| project.add_plugin(plugin));
        Self { redis, project, fed: 0 }
    }

    fn configure(&self, workers: usize, batch: usize, more: &str) {
        self.project.write_config(&format!(
            "[stream]\nurl = \"{}\"\nblock_ms = 100\nbatch = {batch}\nlease_ms = 500\n[engine]\nbacklog = {backlog}\n\
             workers = {workers}\ncheckpoint_every_ms = 50\n[alerts]\nlog = false\nmaxlen = 0\n\
             [groups.banks]\nsymbols = [\"SBIN*\", \"ICICIBANK\"]\n[context.leader]\nsymbol = \"NIFTY\"\n\
             [detectors.groups]\nplugin = \"witness\"\ngroups = [\"underlying\", \"banks\"]\n\
             [detectors.market]\nplugin = \"witness_market\"\n[detectors.symbols]\nplugin = \"witness_symbol\"\n\
             {more}\n",
            self.redis.url(),
            backlog = (4 * batch).max(8),
        ));
    }

    /// Ticks of all symbols in turn; some are late, some come after a pause of half a minute.
    fn feed(&mut self, count: u64) {
        let mut pipe = redis::pipe();
        for n in self.fed..self.fed + count {
            let pause = n / 700 * 31_000;
            let late = if n % 50 == 49 { 8_000 } else { 0 };
            let time = THEN + n * 137 + pause - late;
            let symbol = SYMBOLS[(n * 2_654_435_761 >> 9) as usize % SYMBOLS.len()];
            let price = format!("{}", 100 + n * 7919 % 97);
            let volume = format!("{}", n * 10);
            let fields =
                [("symbol", symbol), ("ltp", &price), ("volume_traded", &volume), ("timestamp", &time.to_string())];
            pipe.xadd(STREAM, "*", &fields).ignore();
        }
        self.fed += count;
        let () = pipe.query(&mut self.redis.connect()).unwrap();
    }

    fn drain(&self) {
        let output = self.project.command(&["run", "--drain"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn assert_as(&self, reference: &[Alert], what: &str) {
        let found = difference(self.redis.alerts(), reference.iter().cloned());
        assert_eq!(found, Difference::default(), "{what}");
    }
}

fn entry(alert: &Alert) -> EntryId {
    alert["entry"].parse().unwrap()
}

fn is_about(alert: &Alert, detector: &str) -> bool {
    alert["detector"] == detector
}

/// A straddle was found with one worker and not with two: the ticks of its legs went to different ones.
#[test]
fn groups_see_the_same_rows_with_any_number_of_workers_and_after_kills() {
    let mut market = Market::new();
    market.feed(TICKS);
    let cooldown = "cooldown_s = 2";
    market.configure(1, 5000, cooldown);
    let reference = market.project.reference(&market.redis);
    let of = |detector: &str| reference.iter().filter(|alert| is_about(alert, detector)).count();
    assert!(of("groups") > 2 * TICKS as usize / 2 && of("market") > TICKS as usize && of("symbols") > 500);
    let groups: std::collections::BTreeSet<&str> =
        reference.iter().filter(|alert| is_about(alert, "groups")).map(|alert| &*alert["group"]).collect();
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), ["ICICIBANK", "NIFTY", "RELIANCE", "SBIN", "TCS", "banks"]);
    assert!(reference.iter().any(|alert| alert.get("members").is_some_and(|members| members == "[\"SBIN\"]")));
    for (kill, (workers, batch)) in (1..).zip([(2, 50), (4, 7), (1, 200), (3, 1), (2, 33), (4, 100), (1, 11), (2, 64)])
    {
        market.configure(workers, batch, cooldown);
        let mut host: Host = market.project.start(&["run"]);
        market.redis.wait_processed(kill * 300);
        host.signal("KILL");
        host.wait();
    }
    market.configure(3, 500, cooldown);
    market.drain();
    market.assert_as(&reference, "after kills");
    // The fields with what others depend on don't pile up.
    let fields: Vec<String> = market.redis.ask(&format!("HKEYS {STATE}"));
    assert!(fields.iter().filter(|field| field.starts_with("b:")).count() <= 256, "{fields:?}");
    wait_for("nothing is pending", || (market.redis.pending() == 0).then_some(()));
}

/// A detector that is added while the host runs warms up on groups, bars and contexts that the live side has not built so far.
#[test]
fn a_detector_of_groups_that_is_added_continues_as_if_it_had_always_been_there() {
    let mut market = Market::new();
    let without = "enabled = false\n";
    market.configure(3, 40, "");
    let with = std::fs::read_to_string(market.project.path("config/config.toml")).unwrap();
    let cut = with.replace("[detectors.groups]\n", &format!("[detectors.groups]\n{without}"));
    let cut = cut.replace("[detectors.market]\n", &format!("[detectors.market]\n{without}"));
    let cut = cut.replace("[detectors.symbols]\n", &format!("[detectors.symbols]\n{without}"));
    let one = "[detectors.momentum]\nplugin = \"momentum\"\n";
    market.project.write_config(&format!("{cut}{one}"));
    market.feed(TICKS / 2);
    let mut host = market.project.start(&["run"]);
    market.redis.wait_processed(TICKS / 2);
    market.project.replace_config(&format!("{with}{one}"));
    host.wait_for_event("warm_up_finished");
    host.wait_for_event_with("generation_activated", "groups 0.1.0 (rewarmed)");
    market.feed(TICKS / 2);
    market.redis.wait_processed(TICKS);
    host.signal("KILL");
    host.wait();
    market.drain();
    let reference = market.project.reference(&market.redis);
    let alerts: Vec<Alert> = market.redis.alerts();
    for detector in ["groups", "market", "symbols"] {
        let first = alerts.iter().find(|alert| is_about(alert, detector)).expect("it is active");
        let expected = reference.iter().filter(|alert| is_about(alert, detector));
        let expected: Vec<Alert> = expected.skip_while(|alert| entry(alert) < entry(first)).cloned().collect();
        let found = alerts.iter().filter(|alert| is_about(alert, detector)).cloned();
        assert_eq!(difference(found, expected), Difference::default(), "{detector}");
    }
}
