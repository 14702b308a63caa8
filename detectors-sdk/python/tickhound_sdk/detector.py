"""What authors use: the class to derive from, its parameters, its computed columns and its detections.

Nothing here knows how the host calls a detector; `guest` does.
"""

import math
from typing import Any, ClassVar, Generic, Iterable, Literal, Mapping, Sequence, TypeVar

from .rows import Bar, Clock, Snapshot, Tick

Direction = Literal["up", "down", "none"]

Scope = Literal["symbol", "group", "market"]

State = TypeVar("State")


class Reject(Exception):
    """Rejects parameters in `Detector.configure`; its text is a sentence for the author of the configuration."""


class Detector(Generic[State]):
    """A detector: a function of parameters and rows that returns detections.

    The same rows must give the same detections, live or replayed. So a detector keeps all that it knows about a symbol
    or a group in the state of that symbol or group, and nothing in the module or in `self` that changes after `configure`.
    """

    name: ClassVar[str]
    """A short name: lower-case letters, digits, `_` and `-`."""

    version: ClassVar[str] = "0.1.0"
    """The semantic version, which is copied into every alert."""

    description: ClassVar[str] = ""
    """One sentence for users; by default the first line of the class's docstring."""

    scope: ClassVar[Scope] = "symbol"
    """What a state belongs to: a symbol; a group of symbols, which the user's configuration defines; or the market, which is
    one group of all symbols. A state sees the rows of its symbol, or those of all members in stream order."""

    feeds: ClassVar[Sequence[str]] = ("ticks",)
    """What the rows are: `"ticks"` for `on_tick`, `"bars:60"` for `on_bar` each 60 seconds, `"snapshots:60"` for
    `on_snapshot`. Instead of a number, the name of an integer parameter may follow, as in `"bars:bar_s"`."""

    required_columns: ClassVar[Sequence[str]] = ()
    """Columns beside symbol, time and price without which the host rejects the detector."""

    optional_columns: ClassVar[Sequence[str]] = ()
    """Columns whose values are all NaN if the input lacks them."""

    computed: ClassVar[Mapping[str, "Computed"]] = {}
    """Columns that the host computes, by their names, such as `{"channel_high": highest("price", "ticks", 500)}`."""

    wake_above: ClassVar[Sequence[str]] = ()
    """With any of these or of `wake_below`, only ticks for which one condition holds reach the detector: that the price is
    above this column, or the column is NaN. Bars, snapshots and the clock always do."""

    wake_below: ClassVar[Sequence[str]] = ()
    """As `wake_above`, for a price below this column."""

    required_texts: ClassVar[Sequence[str]] = ()
    """Texts of the reference data without which the host rejects the detector, such as `"option_type"`."""

    optional_texts: ClassVar[Sequence[str]] = ()
    """Texts that are None for all symbols if the reference data lacks them."""

    state_version: ClassVar[int] = 1
    """The version of the state. Increase it when older states can't be read any more."""

    state_outlives_params: ClassVar[bool] = False
    """Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped."""

    State: ClassVar[Any] = dict
    """The type of the state of a symbol or group, which is called without arguments at its first row: a dataclass whose
    fields all have defaults, or `dict`. `ByMember` is a map of a group's members."""

    def configure(self) -> None:
        """Checks conditions between several parameters, which are attributes by now. Raise `Reject` to reject them."""

    def warm_up_s(self) -> float:
        """Returns the event time that must pass for a symbol before its first detection, in seconds."""
        return 0.0

    def on_tick(self, state: State, tick: Tick) -> "Detection | None":
        """Processes the next tick, and may change the state of its symbol or group."""
        raise NotImplementedError(f"{type(self).__name__} has no on_tick")

    def on_bar(self, state: State, bar: Bar) -> "Detection | None":
        """Processes the next bar, and may change the state of its symbol or group."""
        raise NotImplementedError(f"{type(self).__name__} has no on_bar")

    def on_snapshot(self, state: State, row: Snapshot) -> "Detection | None":
        """Processes the next row of a snapshot, and may change the state of its symbol or group."""
        raise NotImplementedError(f"{type(self).__name__} has no on_snapshot")

    def on_clock(self, state: State, clock: Clock) -> "Detection | None":
        """Called for each symbol or group that has a state when event time reaches a whole second, if the class defines it."""
        return None


class Detection:
    """A detected event: how rare it is, in 0 to 1; its direction; and numbers with which a person can check it.

    A number of the evidence that isn't finite, such as the value of an absent column, is left out.
    """

    __slots__ = ("confidence", "direction", "evidence", "about_symbol", "member_symbols")

    def __init__(self, direction: Direction, confidence: float, **evidence: float) -> None:
        if direction not in ("up", "down", "none"):
            raise ValueError(f'the direction is {direction!r}, expected "up", "down" or "none"')
        confidence = float(confidence)
        if not 0.0 <= confidence <= 1.0:
            raise ValueError(f"the confidence is {confidence}, expected 0 to 1")
        self.confidence = confidence
        self.direction: Direction = direction
        self.evidence: list[tuple[str, float]] = []
        self.about_symbol: str | None = None
        self.member_symbols: list[str] = []
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

    def about(self, symbol: str) -> "Detection":
        """Makes the detection one about a member of the group, and not about the group."""
        self.about_symbol = symbol
        return self

    def members(self, symbols: Iterable[str]) -> "Detection":
        """Adds symbols that make up the event of a group, such as the two legs of a pair."""
        self.member_symbols.extend(symbols)
        return self


class Computed:
    """The declaration of a column that the host computes once for all detectors that ask for it, from the rows of one symbol
    before the present row. It is NaN until there are enough."""

    def __init__(self, function: str, of: str, feed: str, length: int | str) -> None:
        self.function = function
        self.of = of
        self.feed = feed
        self.length = length


def highest(of: str, feed: str, length: int | str) -> Computed:
    """Returns the greatest of the last `length` values, or as many as the integer parameter of this name says. `of` is
    `"price"`, or `"high"` or `"low"` of bars; `feed` is `"ticks"` or `"bars:60"`."""
    return Computed("highest", of, feed, length)


def lowest(of: str, feed: str, length: int | str) -> Computed:
    """Returns the least of the last `length` values."""
    return Computed("lowest", of, feed, length)


def mean(of: str, feed: str, length: int | str) -> Computed:
    """Returns the mean of the last `length` values."""
    return Computed("mean", of, feed, length)


def ew_volatility(of: str, feed: str, length: int | str) -> Computed:
    """Returns the exponentially weighted standard deviation of the logarithm of the ratio of successive values, per row.
    Half of the weight is on the last `length` rows."""
    return Computed("ew_volatility", of, feed, length)


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
