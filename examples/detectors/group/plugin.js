// Tells when one tick moves the price of a member of a group by at least `move_pct` percent.

import { ByMember, Detection, Detector, detector, number } from "../../../detectors-sdk/js/tickhound.js";

class Jump extends Detector {
  static detectorName = "jump";
  static description = "Tells when one tick moves the price of a member by a lot.";
  static scope = "group";
  static params = {
    move_pct: number(0.5, { minimum: 0.01, maximum: 50.0, unit: "%", doc: "Smallest move that counts." }),
  };

  /** All that is known about one group. It is saved and restored by the SDK. */
  newState() {
    return { prices: new ByMember() };
  }

  onTick(state, tick) {
    const last = state.prices.get(tick.symbol);
    state.prices.set(tick.symbol, tick.price);
    if (last === undefined) return;
    const moved = (tick.price / last - 1.0) * 100.0;
    if (!tick.gates.atLeast("move", Math.abs(moved), this.move_pct)) return;
    const evidence = { move_pct: moved, members: state.prices.size };
    return new Detection(moved > 0 ? "up" : "down", 1.0 - this.move_pct / Math.abs(moved), evidence).about(tick.symbol);
  }
}

export const { describe, configure, introduce, detect, save, restore, probe } = detector(Jump);
