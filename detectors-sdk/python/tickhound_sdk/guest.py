"""Makes a class of a detector what the contract asks for.

What holds: each function of the contract leaves the text of an exception for the host before it fails. Nothing here differs
between two runs: symbols are visited in the order of their ids.
"""

import functools
import os
from typing import Any, Callable, TypeVar

from componentize_py_types import Err
from wit_world import WitWorld as Contract
from wit_world.imports import types

from . import report, state as states
from .detector import Clock, Detection, Detector, Param, Reject, Tick

# In `symbols`, a clock row: event time has reached a whole second.
_CLOCK = 0xFFFFFFFF

_DIRECTIONS = {"up": types.Direction.UP, "down": types.Direction.DOWN, "none": types.Direction.NONE}

_SDK = os.path.dirname(__file__) + "/"

_Call = TypeVar("_Call", bound=Callable[..., Any])


class _Slot:
    """A symbol: its name, and its state after the first tick."""

    __slots__ = ("name", "state", "has_state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Any = None
        self.has_state = False


class _Instance:
    """A configured detector, and the state of each of its symbols."""

    def __init__(self, kind: type[Detector[Any]]) -> None:
        self.kind = kind
        self.params = _params(kind)
        self.columns = [*kind.required_columns, *kind.optional_columns]
        self.names = {name: position for position, name in enumerate(self.columns)}
        self.wants_clock = kind.on_clock is not Detector.on_clock
        self.detector: Detector[Any] | None = None
        self.slots: dict[int, _Slot] = {}
        # The ids of `slots`, sorted when the clock strikes.
        self.ids: list[int] = []

    def describe(self) -> types.Manifest:
        kind = self.kind
        if not getattr(kind, "name", ""):
            raise TypeError(f'{kind.__name__} needs a name, such as name = "jump"')
        docs = [line.strip() for line in (kind.__doc__ or "").splitlines() if line.strip()]
        required = set(kind.required_columns)
        return types.Manifest(
            name=kind.name,
            version=kind.version,
            description=kind.description or (docs[0] if docs else kind.__name__),
            columns=[types.Column(name, name in required) for name in self.columns],
            params=[_declared(name, param) for name, param in self.params.items()],
            state_version=kind.state_version,
            state_outlives_params=kind.state_outlives_params,
            wants_clock=self.wants_clock,
        )

    def configure(self, values: list[tuple[str, types.Value]]) -> types.Readiness:
        detector = self.kind()
        for name, value in values:
            setattr(detector, name, value.value)
        try:
            detector.configure()
        except Reject as rejection:
            raise Err(str(rejection)) from None
        self.detector = detector
        return types.Readiness(warm_up_seconds=float(detector.warm_up_s()))

    def introduce(self, symbols: list[types.Symbol]) -> None:
        for symbol in symbols:
            self.slots[symbol.id] = _Slot(symbol.name)
        self.ids = sorted(self.slots)

    def detect(self, ticks: types.Batch) -> list[types.Detection]:
        detector, slots, names = self.detector, self.slots, self.names
        if detector is None:
            raise RuntimeError("the host called `detect` before `configure`")
        on_tick, new_state = detector.on_tick, self.kind.State
        values = zip(*ticks.columns) if ticks.columns else iter(lambda: (), None)
        found = []
        for row, (symbol, time, price, columns) in enumerate(zip(ticks.symbols, ticks.times, ticks.prices, values)):
            if symbol == _CLOCK:
                if self.wants_clock:
                    self._strike(detector, time, row, found)
                continue
            slot = slots.get(symbol)
            if slot is None:
                raise RuntimeError(f"the host sent a tick of symbol {symbol} before introducing it")
            if not slot.has_state:
                slot.state, slot.has_state = new_state(), True
            detection = on_tick(slot.state, Tick(slot.name, time, price, names, columns))
            if detection is not None:
                found.append(_detected(row, symbol, detection, "on_tick"))
        return found

    def _strike(self, detector: Detector[Any], time: int, row: int, found: list[types.Detection]) -> None:
        for symbol in self.ids:
            slot = self.slots[symbol]
            if slot.has_state:
                detection = detector.on_clock(slot.state, Clock(slot.name, time))
                if detection is not None:
                    found.append(_detected(row, symbol, detection, "on_clock"))

    def save(self, symbols: list[int]) -> list[types.SymbolState]:
        saved = []
        for symbol in symbols:
            slot = self.slots.get(symbol)
            if slot is not None and slot.has_state:
                saved.append(types.SymbolState(symbol, states.dump(slot.state)))
        return saved

    def restore(self, state_version: int, saved: list[types.SymbolState]) -> None:
        if state_version != self.kind.state_version:
            raise Err(f"saved under state version {state_version}, this detector reads {self.kind.state_version}")
        # All or nothing: everything is read before anything changes.
        read = []
        for one in saved:
            slot = self.slots.get(one.symbol)
            if slot is None:
                raise Err(f"symbol {one.symbol} was not introduced")
            try:
                read.append((slot, states.load(self.kind.State, one.state)))
            except Exception as error:
                raise Err(f"the state of {slot.name} can't be read: {error}") from None
        for slot, restored in read:
            slot.state, slot.has_state = restored, True


def export(kind: type[Detector[Any]]) -> type[Contract]:
    """Returns what componentize-py exports: `WitWorld = export(Jump)`, once, in the module that is built."""
    instance = _Instance(kind)

    class WitWorld(Contract):
        """Each call comes to a new object, so the instance is outside of it."""

        describe = _reported(lambda _: instance.describe())
        configure = _reported(lambda _, params: instance.configure(params))
        introduce = _reported(lambda _, symbols: instance.introduce(symbols))
        detect = _reported(lambda _, ticks: instance.detect(ticks))
        save = _reported(lambda _, symbols: instance.save(symbols))
        restore = _reported(lambda _, state_version, states: instance.restore(state_version, states))

    return WitWorld


def _reported(call: _Call) -> _Call:
    """Leaves the text of an exception for the host. An `Err` is an answer, and not an exception."""

    @functools.wraps(call)
    def reported(*args: Any) -> Any:
        try:
            return call(*args)
        except Err:
            raise
        except BaseException as error:
            report.leave(error, _SDK)
            if isinstance(error, Exception):
                raise
            # `exit()` would end the interpreter before the host can read the text.
            raise RuntimeError(type(error).__name__) from None

    return reported  # type: ignore[return-value]


def _params(kind: type[Detector[Any]]) -> dict[str, Param]:
    """The parameters in the order of their declarations, those of base classes first."""
    params: dict[str, Param] = {}
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Param):
                params[name] = value
            else:
                params.pop(name, None)
    return params


def _declared(name: str, param: Param) -> types.Param:
    kinds = {bool: types.Value_Flag, int: types.Value_Integer, float: types.Value_Number, str: types.Value_Text}
    default: Any = kinds[type(param.default)](param.default)  # type: ignore[index]
    return types.Param(name, default, param.minimum, param.maximum, param.choices, param.unit, param.doc)


def _detected(row: int, symbol: int, detection: Any, method: str) -> types.Detection:
    if type(detection) is not Detection:
        raise TypeError(f"{method} returned {detection!r}, expected a Detection or None")
    return types.Detection(row, symbol, detection.confidence, _DIRECTIONS[detection.direction], detection.evidence)
