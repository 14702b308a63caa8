"""Tells when one tick moves the price of a member of a group by at least `move_pct` percent."""

from dataclasses import dataclass

from tickhound_sdk import ByMember, Detection, Detector, Tick, by_member, export, number


@dataclass
class State:
    """All that is known about one group. It is saved and restored by the SDK."""

    prices: ByMember[float | None] = by_member(lambda: None)


class Jump(Detector[State]):
    """Tells when one tick moves the price of a member by a lot."""

    name = "jump"
    State = State
    scope = "group"
    move_pct: float = number(0.5, minimum=0.01, maximum=50.0, unit="%", doc="Smallest move that counts.")

    def on_tick(self, state: State, tick: Tick) -> Detection | None:
        last, state.prices[tick.symbol] = state.prices[tick.symbol], tick.price
        if last is None:
            return None
        moved = (tick.price / last - 1.0) * 100.0
        if not tick.gates.at_least("move", abs(moved), self.move_pct):
            return None
        found = Detection("up" if moved > 0 else "down", 1.0 - self.move_pct / abs(moved)).about(tick.symbol)
        return found.add("move_pct", moved).add("members", len(state.prices))


WitWorld = export(Jump)
