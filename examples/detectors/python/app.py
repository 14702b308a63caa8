"""Tells when one tick moves the price by at least `move_pct` percent."""

from dataclasses import dataclass

from tickhound_sdk import Detection, Detector, Tick, export, number


@dataclass
class State:
    """All that is known about one symbol. It is saved and restored by the SDK."""

    price: float | None = None


class Jump(Detector[State]):
    """Tells when one tick moves the price by a lot."""

    name = "jump"
    State = State
    move_pct: float = number(0.5, minimum=0.01, maximum=50.0, unit="%", doc="Smallest move that counts.")

    def on_tick(self, state: State, tick: Tick) -> Detection | None:
        last, state.price = state.price, tick.price
        if last is None:
            return None
        moved = (tick.price / last - 1.0) * 100.0
        if not tick.gates.at_least("move", abs(moved), self.move_pct):
            return None
        direction = "up" if moved > 0 else "down"
        return Detection(direction, 1.0 - self.move_pct / abs(moved), move_pct=moved)


WitWorld = export(Jump)
