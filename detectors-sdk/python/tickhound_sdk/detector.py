"""What authors use: the class to derive from, its parameters, its ticks and its detections.

Nothing here knows how the host calls a detector; `guest` does.
"""

import math
from typing import Any, ClassVar, Generic, Literal, Sequence, TypeVar

Direction = Literal["up", "down", "none"]

State = TypeVar("State")


class Reject(Exception):
    """Rejects parameters in `Detector.configure`; its text is a sentence for the author of the configuration."""


class Detector(Generic[State]):
    """A detector: a function of parameters and ticks that returns detections.

    The same ticks must give the same detections, live or replayed. So a detector keeps all that it knows about a symbol
    in that symbol's state, and nothing in the module or in `self` that changes after `configure`.
    """

    name: ClassVar[str]
    """A short name: lower-case letters, digits, `_` and `-`."""

    version: ClassVar[str] = "0.1.0"
    """The semantic version, which is copied into every alert."""

    description: ClassVar[str] = ""
    """One sentence for users; by default the first line of the class's docstring."""

    required_columns: ClassVar[Sequence[str]] = ()
    """Columns beside symbol, time and price without which the host rejects the detector."""

    optional_columns: ClassVar[Sequence[str]] = ()
    """Columns whose values are all NaN if the input lacks them."""

    state_version: ClassVar[int] = 1
    """The version of the state. Increase it when older states can't be read any more."""

    state_outlives_params: ClassVar[bool] = False
    """Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped."""

    State: ClassVar[Any] = dict
    """The type of the state of a symbol, which is called without arguments at the symbol's first tick: a dataclass whose
    fields all have defaults, or `dict`."""

    def configure(self) -> None:
        """Checks conditions between several parameters, which are attributes by now. Raise `Reject` to reject them."""

    def warm_up_s(self) -> float:
        """Returns the event time that must pass for a symbol before its first detection, in seconds."""
        return 0.0

    def on_tick(self, state: State, tick: "Tick") -> "Detection | None":
        """Processes the next tick of a symbol, and may change the symbol's state."""
        raise NotImplementedError(f"{type(self).__name__} has no on_tick")

    def on_clock(self, state: State, clock: "Clock") -> "Detection | None":
        """Called for each symbol that has a state when event time reaches a whole second, if the class defines it."""
        return None


class Tick:
    """One market update of one symbol. A column that the detector asks for is an attribute, or `tick["its name"]`."""

    __slots__ = ("symbol", "time", "price", "_names", "_values")

    symbol: str
    """The name of the symbol, such as `NIFTY25NOV25750PE`."""

    time: int
    """The event time, ns since the Unix epoch, UTC. It never decreases within one symbol."""

    price: float
    """The last traded price in quote currency, finite and greater than 0."""

    def __init__(
        self, symbol: str, time: int, price: float, names: dict[str, int] = {}, values: Sequence[float] = ()
    ) -> None:
        self.symbol = symbol
        self.time = time
        self.price = price
        self._names = names
        self._values = values

    @property
    def seconds(self) -> float:
        """The event time in seconds since the Unix epoch, exact to a microsecond."""
        return self.time / 1e9

    def __getitem__(self, column: str) -> float:
        """The value of a column; NaN if it is absent."""
        try:
            return self._values[self._names[column]]
        except KeyError:
            raise KeyError(
                f"the detector does not ask for the column `{column}`: add it to required_columns or optional_columns"
            ) from None

    def __getattr__(self, column: str) -> float:
        if column in self._names:
            return self._values[self._names[column]]
        raise AttributeError(
            f"a tick has no `{column}`; if it is a column, add it to required_columns or optional_columns"
        )


class Clock:
    """A whole second that event time has reached."""

    __slots__ = ("symbol", "time")

    def __init__(self, symbol: str, time: int) -> None:
        self.symbol = symbol
        """The name of the symbol whose state is passed along."""
        self.time = time
        """The second, in ns since the Unix epoch, UTC."""

    @property
    def seconds(self) -> float:
        """The second, in seconds since the Unix epoch."""
        return self.time / 1e9


class Detection:
    """A detected event: how rare it is, in 0 to 1; its direction; and numbers with which a person can check it.

    A number of the evidence that isn't finite, such as the value of an absent column, is left out.
    """

    __slots__ = ("confidence", "direction", "evidence")

    def __init__(self, direction: Direction, confidence: float, **evidence: float) -> None:
        if direction not in ("up", "down", "none"):
            raise ValueError(f'the direction is {direction!r}, expected "up", "down" or "none"')
        confidence = float(confidence)
        if not 0.0 <= confidence <= 1.0:
            raise ValueError(f"the confidence is {confidence}, expected 0 to 1")
        self.confidence = confidence
        self.direction: Direction = direction
        self.evidence: list[tuple[str, float]] = []
        for name, value in evidence.items():
            self.add(name, value)

    @classmethod
    def up(cls, confidence: float, **evidence: float) -> "Detection":
        """Returns an upward detection."""
        return cls("up", confidence, **evidence)

    @classmethod
    def down(cls, confidence: float, **evidence: float) -> "Detection":
        """Returns a downward detection."""
        return cls("down", confidence, **evidence)

    @classmethod
    def neutral(cls, confidence: float, **evidence: float) -> "Detection":
        """Returns a detection without a direction."""
        return cls("none", confidence, **evidence)

    def add(self, name: str, value: float) -> "Detection":
        """Adds a number to the evidence, for names that Python has no keyword for."""
        value = float(value)
        if math.isfinite(value):
            self.evidence.append((name, value))
        return self


class Param:
    """The declaration of a parameter, which `export` replaces with the user's value."""

    def __init__(
        self,
        default: bool | int | float | str,
        minimum: float | None = None,
        maximum: float | None = None,
        choices: Sequence[str] = (),
        unit: str = "",
        doc: str = "",
    ) -> None:
        self.default = default
        self.minimum = None if minimum is None else float(minimum)
        self.maximum = None if maximum is None else float(maximum)
        self.choices = list(choices)
        self.unit = unit
        self.doc = doc


# The functions below return `Any`, so that an attribute may be declared with the type of its value:
# `move_pct: float = number(0.5)`.


def number(
    default: float, *, minimum: float | None = None, maximum: float | None = None, unit: str = "", doc: str = ""
) -> Any:
    """Declares a parameter that is a number. `minimum` and `maximum` are both valid values."""
    return Param(float(default), minimum, maximum, unit=unit, doc=doc)


def integer(
    default: int, *, minimum: float | None = None, maximum: float | None = None, unit: str = "", doc: str = ""
) -> Any:
    """Declares a parameter that is a whole number. `minimum` and `maximum` are both valid values."""
    return Param(int(default), minimum, maximum, unit=unit, doc=doc)


def flag(default: bool, *, doc: str = "") -> Any:
    """Declares a parameter that is true or false."""
    return Param(bool(default), doc=doc)


def text(default: str, *, choices: Sequence[str] = (), doc: str = "") -> Any:
    """Declares a parameter that is a text: one of `choices`, or any text if there are none."""
    return Param(str(default), choices=choices, doc=doc)
