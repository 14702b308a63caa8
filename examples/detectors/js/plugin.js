// Tells when one tick moves the price by at least `move_pct` percent.

import { Detection, Detector, detector, number } from "../../../detectors-sdk/js/tickhound.js";

class Jump extends Detector {
  static detectorName = "jump";
  static description = "Tells when one tick moves the price by a lot.";
  static params = {
    move_pct: number(0.5, { minimum: 0.01, maximum: 50.0, unit: "%", doc: "Smallest move that counts." }),
  };

  /** All that is known about one symbol. It is saved and restored by the SDK. */
  newState() {
    return { price: null };
  }

  onTick(state, tick) {
    const last = state.price;
    state.price = tick.price;
    if (last === null) return;
    const moved = (tick.price / last - 1.0) * 100.0;
    if (!tick.gates.atLeast("move", Math.abs(moved), this.move_pct)) return;
    return new Detection(moved > 0 ? "up" : "down", 1.0 - this.move_pct / Math.abs(moved), { move_pct: moved });
  }
}

export const { describe, configure, introduce, detect, save, restore, probe } = detector(Jump);
