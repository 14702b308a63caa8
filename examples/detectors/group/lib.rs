//! Tells when one tick moves the price of a member of a group by a lot.
#![forbid(unsafe_code)]

use serde::Deserialize;
use tickhound_sdk::{ByMember, Detection, Detector, Direction, Manifest, Param, Scope, Tick, detector};

#[derive(Deserialize)]
struct Jump {
    move_pct: f64,
}

impl Detector for Jump {
    type Params = Self;
    type State = ByMember<Option<f64>>; // the last price of each member of the group

    fn manifest() -> Manifest {
        let about = "Tells when one tick moves the price of a member by a lot.";
        Manifest::new("jump", env!("CARGO_PKG_VERSION"), about)
            .scope(Scope::Group)
            .param(Param::number("move_pct", 0.5).range(0.01, 50.0).unit("%").doc("Smallest move that counts."))
    }

    fn new(params: Self) -> Result<Self, String> {
        Ok(params)
    }

    fn on_tick(&self, prices: &mut ByMember<Option<f64>>, tick: &Tick<'_>) -> Option<Detection> {
        let last = prices.entry(tick.symbol_id()).replace(tick.price)?;
        let move_pct = (tick.price / last - 1.0) * 100.0;
        if !tick.gates().at_least("move", move_pct.abs(), self.move_pct) {
            return None;
        }
        let direction = if move_pct > 0.0 { Direction::Up } else { Direction::Down };
        let found = Detection::new(direction, 1.0 - self.move_pct / move_pct.abs()).about(tick.symbol_id());
        Some(found.with("move_pct", move_pct).with("members", prices.len() as f64))
    }
}

detector!(Jump);

#[cfg(test)]
mod tests {
    use tickhound_sdk::harness::{Harness, tick};

    use super::Jump;

    #[test]
    fn a_fall_of_two_percent_is_told() {
        let found = Harness::<Jump>::new().param("move_pct", 1.0).check([
            tick("NIFTY", 0.0, 100.0).in_group("NIFTY"),
            tick("NIFTY25NOVFUT", 0.5, 100.1).in_group("NIFTY"),
            tick("NIFTY", 1.0, 98.0).in_group("NIFTY"),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].symbol, "NIFTY");
        assert!(found[0].detection.evidence("move_pct").unwrap() <= -2.0);
        assert_eq!(found[0].detection.evidence("members"), Some(2.0));
    }
}
