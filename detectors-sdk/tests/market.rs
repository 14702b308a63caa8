//! Detectors of groups and of the market, on ticks, bars and snapshots, in the native harness.

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Bar, ByMember, Clock, Column, Computed, Detection, Detector, Feed, Length, Manifest, Param, Scope, Snapshot, Tick,
    Wake,
    harness::{Harness, Row, bar, group_tick, snapshot, tick},
};

/// Reports when the prices of call and put of a group together pass a limit.
struct Premium {
    limit: f64,
}

#[derive(Deserialize)]
struct PremiumParams {
    limit: f64,
}

#[derive(Default, Serialize, Deserialize)]
struct PremiumState {
    options: ByMember<f64>,
    spot: Option<f64>,
    seconds: u32,
}

const OPTION_TYPE: usize = 0;
const VIX: usize = 0;

impl Detector for Premium {
    type Params = PremiumParams;
    type State = PremiumState;
    const WANTS_CLOCK: bool = true;

    fn manifest() -> Manifest {
        Manifest::new("premium", "1.0.0", "Reports a rich premium.")
            .scope(Scope::Group)
            .column(Column::optional("vix"))
            .text("option_type")
            .param(Param::number("limit", 200.0))
    }

    fn new(params: PremiumParams) -> Result<Self, String> {
        Ok(Self { limit: params.limit })
    }

    fn on_tick(&self, state: &mut PremiumState, tick: &Tick<'_>) -> Option<Detection> {
        match tick.text(OPTION_TYPE) {
            Some("CE" | "PE") => *state.options.entry(tick.symbol_id()) = tick.price,
            _ => state.spot = Some(tick.price),
        }
        let gates = tick.gates();
        let premium: f64 = state.options.values().sum();
        let is_calm = gates.below("calm", tick.column(VIX), 25.0);
        if !gates.above("premium", premium, self.limit) || !is_calm {
            return None;
        }
        let members = state.options.iter().map(|(name, _)| name);
        Some(Detection::up(0.9).with("premium", premium).members(members))
    }

    fn on_clock(&self, state: &mut PremiumState, clock: &Clock<'_>) -> Option<Detection> {
        state.seconds += 1;
        let last = state.options.iter().last().map(|(name, _)| name.to_owned());
        assert_eq!(clock.symbol(), "");
        (state.seconds == 2).then(|| Detection::neutral(0.1).about(last.unwrap_or_default()))
    }
}

fn option(group: &str, symbol: &str, seconds: f64, price: f64) -> Row {
    group_tick(group, symbol, seconds, price).with("vix", 15.0).with_text("option_type", &symbol[symbol.len() - 2..])
}

#[test]
fn a_state_of_a_group_sees_all_members_and_no_other_group() {
    let found = Harness::<Premium>::new().check([
        option("NIFTY", "NIFTY750PE", 0.0, 90.0),
        option("NIFTY", "NIFTY750CE", 0.1, 105.0),
        option("BANKNIFTY", "BANKNIFTY55000CE", 0.2, 190.0),
        group_tick("NIFTY", "NIFTY", 0.3, 25_750.0).with("vix", 15.0),
        option("NIFTY", "NIFTY750PE", 0.4, 96.0),
        option("BANKNIFTY", "BANKNIFTY55000PE", 0.5, 9.0),
        option("NIFTY", "NIFTY750CE", 0.6, 120.0).with("vix", 26.0),
        option("NIFTY", "NIFTY750CE", 1.1, 50.0),
        option("NIFTY", "NIFTY750CE", 2.1, 50.0),
    ]);
    assert_eq!(found.len(), 3);
    assert_eq!((found[0].symbol.as_str(), found[0].group.as_str()), ("NIFTY", "NIFTY"));
    assert_eq!(found[0].detection.members, ["NIFTY750CE", "NIFTY750PE"]);
    assert_eq!(found[0].detection.evidence("premium"), Some(201.0));
    // At the second clock row, each group is about its last option.
    let about: Vec<_> = found[1..].iter().map(|found| (found.group.as_str(), found.symbol.as_str())).collect();
    assert_eq!(about, [("NIFTY", "NIFTY750PE"), ("BANKNIFTY", "BANKNIFTY55000PE")]);
}

#[test]
fn what_was_looked_at_is_what_decides() {
    let mut premium = Harness::<Premium>::new().param("limit", 100.0).build();
    let judged = premium.probe([
        option("NIFTY", "NIFTY750CE", 0.0, 105.0).with("vix", 26.0),
        option("NIFTY", "NIFTY750CE", 0.1, 95.0).with("vix", 24.0),
    ]);
    let gates: Vec<Vec<(&str, f64, f64, bool)>> = judged
        .iter()
        .map(|row| row.gates.iter().map(|gate| (gate.name.as_str(), gate.value, gate.limit, gate.holds)).collect())
        .collect();
    assert_eq!(
        gates,
        [
            [("calm", 26.0, 25.0, false), ("premium", 105.0, 100.0, true)],
            [("calm", 24.0, 25.0, true), ("premium", 95.0, 100.0, false)]
        ]
    );
    assert_eq!((judged[0].owner.as_str(), judged[1].time), ("NIFTY", 100_000_000));
    // A probe changes the states as `feed` does.
    assert_eq!(premium.state_size("NIFTY"), premium.state_size("NIFTY"));
    assert_eq!(premium.feed([option("NIFTY", "NIFTY750PE", 0.2, 10.0)]).len(), 1);
}

#[test]
#[should_panic(expected = "a row has no group")]
fn a_row_of_a_group_names_its_group() {
    let _ = Harness::<Premium>::new().build().feed([tick("A", 0.0, 1.0)]);
}

/// Reports bars of two lengths, and the share of members that rise at each step.
struct Bars;

#[derive(Default, Serialize, Deserialize)]
struct BarsState {
    last: ByMember<(f64, bool)>,
}

#[derive(Deserialize)]
struct BarsParams {
    long_s: u32,
}

impl Detector for Bars {
    type Params = BarsParams;
    type State = BarsState;

    fn manifest() -> Manifest {
        Manifest::new("bars", "1.0.0", "Reports bars.")
            .scope(Scope::Market)
            .feed(Feed::bars(60))
            .feed(Feed::bars_param("long_s"))
            .feed(Feed::snapshots(5))
            .column(Column::optional("quantity"))
            .bars_columns()
            .param(Param::integer("long_s", 300).range(61.0, 3600.0))
    }

    fn new(params: BarsParams) -> Result<Self, String> {
        assert!(params.long_s > 60);
        Ok(Self)
    }

    fn on_bar(&self, _: &mut BarsState, bar: &Bar<'_>) -> Option<Detection> {
        let seconds = f64::from(bar.seconds());
        let found = Detection::neutral(0.5).with("seconds", seconds).with("range", bar.high() - bar.low());
        let found = found.with("quantity", bar.quantity()).with("vwap", bar.vwap()).with("count", bar.count());
        Some(found.with("move", bar.close() - bar.open()).about(bar.symbol_id()))
    }

    fn on_snapshot(&self, state: &mut BarsState, row: &Snapshot<'_>) -> Option<Detection> {
        let (last, rises) = state.last.entry(row.symbol_id());
        *rises = row.price > std::mem::replace(last, row.price);
        let rising = state.last.values().filter(|(_, rises)| *rises).count();
        row.is_last().then(|| Detection::up(rising as f64 / state.last.len() as f64))
    }
}

#[test]
fn rows_of_each_feed_reach_their_method() {
    let minute = bar("A", 60.0, [10.0, 12.0, 9.0, 11.0]).with("quantity", 5.0).with("vwap", 10.5);
    let found = Harness::<Bars>::new().check([
        minute,
        bar("A", 300.0, [10.0, 15.0, 9.0, 14.0]).of_length(300),
        snapshot("A", 305.0, 14.0),
        snapshot("B", 305.0, 20.0).last(),
        snapshot("A", 310.0, 13.0),
        snapshot("B", 310.0, 21.0).last(),
    ]);
    let bars: Vec<_> = found[..2]
        .iter()
        .map(|found| {
            ["seconds", "range", "quantity", "vwap", "count", "move"].map(|name| found.detection.evidence(name))
        })
        .collect();
    assert_eq!(bars[0], [Some(60.0), Some(3.0), Some(5.0), Some(10.5), Some(1.0), Some(1.0)]);
    assert_eq!(bars[1], [Some(300.0), Some(6.0), None, None, Some(1.0), Some(4.0)]);
    assert_eq!((found[0].symbol.as_str(), found[0].group.as_str()), ("A", "market"));
    let shares: Vec<f64> = found[2..].iter().map(|found| found.detection.confidence).collect();
    assert_eq!(shares, [1.0, 0.5]);
    assert_eq!(found[2].symbol, "market");
}

#[test]
#[should_panic(expected = "the detector has no feed for this row")]
fn a_row_that_no_feed_has_is_found() {
    let _ = Harness::<Bars>::new().build().feed([tick("A", 0.0, 1.0)]);
}

#[test]
#[should_panic(expected = "the feed Bar(300) is in the manifest twice")]
fn feeds_that_become_equal_are_found() {
    struct Equal;
    impl Detector for Equal {
        type Params = BarsParams;
        type State = ();
        fn manifest() -> Manifest {
            let manifest = Manifest::new("equal", "1.0.0", "x").feed(Feed::bars(300)).feed(Feed::bars_param("long_s"));
            manifest.param(Param::integer("long_s", 300))
        }
        fn new(_: BarsParams) -> Result<Self, String> {
            Ok(Self)
        }
    }
    let _ = Harness::<Equal>::new().build();
}

/// Reports every tick that it gets.
struct Woken;

impl Detector for Woken {
    type Params = ();
    type State = ();

    fn manifest() -> Manifest {
        Manifest::new("woken", "1.0.0", "Reports every tick that it gets.")
            .column(Column::optional("low"))
            .computed(Computed::highest("high", "price", Feed::Ticks, Length::Fixed(20)))
            .wake(Wake::above("high"))
            .wake(Wake::below("low"))
    }

    fn new((): ()) -> Result<Self, String> {
        Ok(Self)
    }

    fn on_tick(&self, (): &mut (), tick: &Tick<'_>) -> Option<Detection> {
        Some(Detection::up(0.5).with("high", tick.column(1)))
    }
}

#[test]
fn only_ticks_that_meet_a_condition_reach_the_detector() {
    let at = |price: f64| tick("A", price, price).with("low", 5.0).with("high", 10.0);
    let found = Harness::<Woken>::new().check([at(4.0), at(5.0), at(7.0), at(10.0), at(11.0), tick("A", 12.0, 7.0)]);
    let times: Vec<u64> = found.iter().map(|found| found.time / 1_000_000_000).collect();
    assert_eq!(times, [4, 11, 12]);
    assert_eq!(found[1].detection.evidence("high"), Some(10.0));
}

#[test]
#[should_panic(expected = "only a detection of a group is about a member")]
fn a_detection_of_a_symbol_names_no_other() {
    struct Other;
    impl Detector for Other {
        type Params = ();
        type State = ();
        fn manifest() -> Manifest {
            Manifest::new("other", "1.0.0", "x")
        }
        fn new((): ()) -> Result<Self, String> {
            Ok(Self)
        }
        fn on_tick(&self, (): &mut (), tick: &Tick<'_>) -> Option<Detection> {
            Some(Detection::up(0.5).members([tick.symbol_id()]))
        }
    }
    let _ = Harness::<Other>::new().build().feed([tick("A", 0.0, 1.0)]);
}

#[test]
fn members_are_saved_by_name_in_order() {
    let mut premium = Harness::<Premium>::new().param("limit", 1.0).build();
    let found =
        premium.feed([option("G", "ZCE", 0.0, 1.0), option("G", "ACE", 0.1, 1.0), option("G", "MPE", 0.2, 1.0)]);
    assert_eq!(found.last().unwrap().detection.members, ["ACE", "MPE", "ZCE"]);
    premium.reload();
    let found = premium.feed([option("G", "MPE", 0.3, 1.0), option("G", "BPE", 0.4, 1.0)]);
    assert_eq!(found.last().unwrap().detection.members, ["ACE", "BPE", "MPE", "ZCE"]);
}
