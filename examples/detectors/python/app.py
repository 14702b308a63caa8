"""Tells when one tick moves the price by at least `move_pct` percent."""

import struct

from componentize_py_types import Err
from wit_world import WitWorld as Contract
from wit_world.imports.types import (
    Batch,
    Detection,
    Direction,
    Manifest,
    Param,
    Readiness,
    Symbol,
    SymbolState,
    Value,
    Value_Number,
)

# Stands in `symbols` for a clock row: event time has reached a whole second. We don't need it.
CLOCK = 0xFFFFFFFF

# A state is a byte 1 and the last price, little-endian.
STATE_VERSION = 1
STATE = struct.Struct("<Bd")


# Each call comes to a new WitWorld: what is remembered is the module's.
move_pct = 0.0
# Of each symbol that was introduced, its last price; None before the first tick.
prices: dict[int, float | None] = {}


class WitWorld(Contract):
    def describe(self) -> Manifest:
        param = Param(
            name="move_pct",
            default=Value_Number(0.5),
            minimum=0.01,
            maximum=50.0,
            choices=[],
            unit="%",
            doc="Smallest move that counts.",
        )
        return Manifest(
            name="jump",
            version="0.1.0",
            description="Tells when one tick moves the price by a lot.",
            columns=[],
            params=[param],
            state_version=STATE_VERSION,
            state_outlives_params=False,
            wants_clock=False,
        )

    def configure(self, params: list[tuple[str, Value]]) -> Readiness:
        global move_pct
        move_pct = dict(params)["move_pct"].value
        return Readiness(warm_up_seconds=0.0)

    def introduce(self, symbols: list[Symbol]) -> None:
        for symbol in symbols:
            prices[symbol.id] = None

    def detect(self, ticks: Batch) -> list[Detection]:
        found = []
        for row, (symbol, price) in enumerate(zip(ticks.symbols, ticks.prices)):
            if symbol == CLOCK:
                continue
            last, prices[symbol] = prices[symbol], price
            if last is None:
                continue
            moved = (price / last - 1.0) * 100.0
            if abs(moved) >= move_pct:
                direction = Direction.UP if moved > 0 else Direction.DOWN
                found.append(Detection(row, symbol, 1.0 - move_pct / abs(moved), direction, [("move_pct", moved)]))
        return found

    def save(self, symbols: list[int]) -> list[SymbolState]:
        seen = ((symbol, prices.get(symbol)) for symbol in symbols)
        return [SymbolState(symbol, STATE.pack(1, price)) for symbol, price in seen if price is not None]

    def restore(self, state_version: int, states: list[SymbolState]) -> None:
        if state_version != STATE_VERSION:
            raise Err(f"saved under state version {state_version}, this detector reads {STATE_VERSION}")
        # All or nothing: read first.
        read = {}
        for saved in states:
            if saved.symbol not in prices:
                raise Err(f"symbol {saved.symbol} was not introduced")
            if len(saved.state) != STATE.size or saved.state[0] != 1:
                raise Err(f"the state of symbol {saved.symbol} can't be read")
            _, read[saved.symbol] = STATE.unpack(saved.state)
        prices.update(read)
