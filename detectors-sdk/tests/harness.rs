//! The native harness finds what the host would refuse.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use tickhound_sdk::{
    Column, Detection, Detector, Manifest, Param, Tick,
    harness::{Harness, tick},
};

/// Does whatever its parameter says, to be caught at it.
struct Rogue {
    what: String,
    outside: Cell<u32>,
}

#[derive(Deserialize)]
struct Params {
    what: String,
    limit: u8,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    seen: u32,
    #[serde(skip)]
    forgotten: u32,
}

impl Detector for Rogue {
    type Params = Params;
    type State = State;

    fn manifest() -> Manifest {
        Manifest::new("rogue", "1.0.0", "Does what it must not.")
            .column(Column::required("bid"))
            .column(Column::optional("flags"))
            .param(Param::text("what", "nothing"))
            .param(Param::integer("limit", 5).range(1.0, 9.0))
    }

    fn new(params: Params) -> Result<Self, String> {
        if params.limit == 9 {
            return Err("9 is one too many".into());
        }
        Ok(Self { what: params.what, outside: Cell::new(0) })
    }

    fn on_tick(&self, state: &mut State, tick: &Tick<'_>) -> Option<Detection> {
        state.seen += 1;
        state.forgotten += 1;
        self.outside.set(self.outside.get() + 1);
        match self.what.as_str() {
            "outside" => Some(Detection::up(0.1).with("outside", f64::from(self.outside.get()))),
            "forgotten" => Some(Detection::up(0.1).with("forgotten", f64::from(state.forgotten))),
            "sure" => Some(Detection::up(1.01)),
            "column" => Some(Detection::up(tick.column(2))),
            _ => Some(
                Detection::down(0.5)
                    .with("seen", f64::from(state.seen))
                    .with("bid", tick.column(0))
                    .with("flags", f64::from(tick.flags(1))),
            ),
        }
    }
}

fn rogue(what: &str) -> Harness<Rogue> {
    Harness::new().param("what", what)
}

#[test]
fn a_sound_detector_passes_and_absent_values_are_no_evidence() {
    let found = rogue("nothing").check([
        tick("A", 1.0, 10.0).with("bid", 9.5).with("other", 1.0),
        tick("B", 0.5, 20.0),
        tick("A", 1.0, 10.0).with("flags", 16.0),
    ]);
    let evidence: Vec<_> =
        found.iter().map(|f| ["seen", "bid", "flags"].map(|name| f.detection.evidence(name))).collect();
    assert_eq!(
        evidence,
        [[Some(1.0), Some(9.5), Some(0.0)], [Some(1.0), None, Some(0.0)], [Some(2.0), None, Some(16.0)]]
    );
    assert_eq!(found[1].symbol, "B");
    assert_eq!(found[1].time, 500_000_000);
}

#[test]
#[should_panic(expected = "tick by tick with reloads gives")]
fn memory_outside_the_state_is_found() {
    let _ = rogue("outside").check([tick("A", 1.0, 10.0), tick("A", 2.0, 10.0)]);
}

#[test]
#[should_panic(expected = "tick by tick with reloads gives")]
fn a_field_that_is_not_saved_is_found() {
    let _ = rogue("forgotten").check([tick("A", 1.0, 10.0), tick("A", 2.0, 10.0)]);
}

#[test]
#[should_panic(expected = "a confidence is in 0..=1, not 1.01")]
fn too_much_confidence_is_found() {
    let _ = rogue("sure").build().feed([tick("A", 1.0, 10.0)]);
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_column_not_asked_for_is_found() {
    let _ = rogue("column").build().feed([tick("A", 1.0, 10.0)]);
}

#[test]
#[should_panic(expected = "time never falls within A")]
fn a_tick_before_its_predecessor_is_no_test() {
    let _ = rogue("nothing").build().feed([tick("A", 2.0, 10.0), tick("A", 1.0, 10.0)]);
}

#[test]
#[should_panic(expected = "parameter `limit` is in 1..=9, not 10")]
fn a_value_out_of_its_limits_is_found() {
    let _ = rogue("nothing").param("limit", 10);
}

#[test]
#[should_panic(expected = "parameter `limit` is of the type of Value::Integer(5), not Value::Number(1.5)")]
fn a_value_of_another_type_is_found() {
    let _ = rogue("nothing").param("limit", 1.5);
}

#[test]
#[should_panic(expected = "the manifest has no parameter `limits`")]
fn a_misspelt_parameter_is_found() {
    let _ = rogue("nothing").param("limits", 1);
}

#[test]
fn what_the_detector_refuses_can_be_tested() {
    let refused = rogue("nothing").param("limit", 9).try_build();
    assert_eq!(refused.err().as_deref(), Some("9 is one too many"));
}

/// A detector of that manifest only.
macro_rules! of_manifest {
    ($name:ident, $manifest:expr) => {
        struct $name;

        impl Detector for $name {
            type Params = ();
            type State = ();

            fn manifest() -> Manifest {
                $manifest
            }

            fn new((): ()) -> Result<Self, String> {
                Ok(Self)
            }

            fn on_tick(&self, (): &mut (), _: &Tick<'_>) -> Option<Detection> {
                None
            }
        }
    };
}

of_manifest!(Shouting, Manifest::new("SHOUT", "1.0.0", "Has a name that is no name."));
of_manifest!(
    Twins,
    Manifest::new("twins", "1.0.0", "x").column(Column::required("bid")).column(Column::optional("bid"))
);
of_manifest!(Beyond, Manifest::new("beyond", "1.0.0", "x").param(Param::number("n", 2.0).range(3.0, 4.0)));
of_manifest!(Unlisted, Manifest::new("unlisted", "1.0.0", "x").param(Param::text("t", "a").choices(&["b"])));
of_manifest!(Unread, Manifest::new("unread", "1.0.0", "x").param(Param::flag("f", true)));

#[test]
#[should_panic(expected = "a detector's name is of lower-case letters")]
fn a_name_in_capitals_is_found() {
    let _ = Harness::<Shouting>::new();
}

#[test]
#[should_panic(expected = "the column `bid` is in the manifest twice")]
fn a_column_asked_for_twice_is_found() {
    let _ = Harness::<Twins>::new();
}

#[test]
#[should_panic(expected = "parameter `n` is in 3..=4, not 2")]
fn a_default_out_of_its_own_limits_is_found() {
    let _ = Harness::<Beyond>::new();
}

#[test]
#[should_panic(expected = "parameter `t` can't be \"a\"")]
fn a_default_that_is_no_choice_is_found() {
    let _ = Harness::<Unlisted>::new();
}

#[test]
#[should_panic(expected = "parameter `f`: `Params` has no such field")]
fn a_parameter_that_no_field_takes_is_found() {
    let _ = Harness::<Unread>::new().build();
}
