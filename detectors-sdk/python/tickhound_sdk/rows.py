"""What a detector is called with: ticks, bars, rows of snapshots, and seconds.

Nothing here knows how the host passes them; `packed` does.
"""

from typing import Mapping, Sequence


class Gates:
    """Compares values with limits, and records each comparison when somebody asks why there is a detection, or none.

    Each method returns the result of its comparison. So a detector has its conditions once, for the detection and for its
    explanation.
    """

    __slots__ = ("record",)

    def __init__(self) -> None:
        self.record: list[tuple[str, float, float, bool]] | None = None

    def above(self, name: str, value: float, limit: float) -> bool:
        """Returns whether `value > limit`."""
        return self.holds(name, value, limit, value > limit)

    def at_least(self, name: str, value: float, limit: float) -> bool:
        """Returns whether `value >= limit`."""
        return self.holds(name, value, limit, value >= limit)

    def below(self, name: str, value: float, limit: float) -> bool:
        """Returns whether `value < limit`."""
        return self.holds(name, value, limit, value < limit)

    def at_most(self, name: str, value: float, limit: float) -> bool:
        """Returns whether `value <= limit`."""
        return self.holds(name, value, limit, value <= limit)

    def holds(self, name: str, value: float, limit: float, holds: bool) -> bool:
        """Returns `holds`, the result of any other comparison of `value` with `limit`."""
        if self.record is not None:
            self.record.append((name, float(value), float(limit), bool(holds)))
        return holds


class Source:
    """What all rows of a symbol in a group have in common, so that it is not passed along with each of them."""

    __slots__ = ("group", "texts", "gates")

    def __init__(self, group: str = "", texts: Mapping[str, str | None] = {}, gates: Gates = Gates()) -> None:
        self.group = group
        self.texts = texts
        self.gates = gates


_NO_SOURCE = Source()


class _Row:
    """What all rows have. A column that the detector asks for is an attribute, or `row["its name"]`."""

    __slots__ = ("symbol", "time", "price", "_names", "_values", "_source")

    symbol: str
    """The name of the symbol, such as `NIFTY25NOV25750PE`."""

    time: int
    """The event time, ns since the Unix epoch, UTC. It never decreases within one symbol and feed."""

    price: float
    """The price in quote currency, finite and greater than 0."""

    def __init__(
        self,
        symbol: str,
        time: int,
        price: float,
        names: Mapping[str, int] = {},
        values: Sequence[float] = (),
        source: Source = _NO_SOURCE,
    ) -> None:
        self.symbol = symbol
        self.time = time
        self.price = price
        self._names = names
        self._values = values
        self._source = source

    @property
    def group(self) -> str:
        """The name of the group whose state is passed along, such as `NIFTY`; empty if the state belongs to the symbol."""
        return self._source.group

    @property
    def gates(self) -> Gates:
        """The means to compare values so that the comparisons can be shown: `tick.gates.above("name", value, limit)`."""
        return self._source.gates

    @property
    def seconds(self) -> float:
        """The event time in seconds since the Unix epoch, exact to a microsecond."""
        return self.time / 1e9

    def text(self, name: str) -> str | None:
        """The text of the reference data of this name; None if there is none for the symbol."""
        try:
            return self._source.texts[name]
        except KeyError:
            raise KeyError(
                f"the detector does not ask for the text `{name}`: add it to required_texts or optional_texts"
            ) from None

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
            f"a {type(self).__name__.lower()} has no `{column}`; "
            "if it is a column, add it to required_columns or optional_columns"
        )


class Tick(_Row):
    """One market update of one symbol. Its price is the last traded one."""

    __slots__ = ()


class Bar(_Row):
    """What happened to one symbol in a span of the session. Its time is the end of the span, and its columns are those then.

    `required_columns = ("open", "high", "low", "count")` and `optional_columns = ("quantity", "vwap")` ask for the columns
    that only bars have.
    """

    __slots__ = ("length_s",)

    length_s: int
    """The length in seconds, which tells the bars of several feeds apart. A bar that the close of the session has cut short
    has the length of its feed."""

    @property
    def close(self) -> float:
        """The last price, which is also `price`."""
        return self.price


class Snapshot(_Row):
    """What was known of one symbol at one step: its last price, and the last known value of each column."""

    __slots__ = ("length_s", "is_last")

    length_s: int
    """The number of seconds between two steps, which tells several feeds apart."""

    is_last: bool
    """Whether no row of this step follows, for this state."""


class Clock:
    """A whole second that event time has reached."""

    __slots__ = ("symbol", "time", "group", "gates")

    def __init__(self, symbol: str, time: int, group: str = "", gates: Gates = _NO_SOURCE.gates) -> None:
        self.symbol = symbol
        """The name of the symbol whose state is passed along; empty if the state belongs to a group."""
        self.time = time
        """The second, in ns since the Unix epoch, UTC."""
        self.group = group
        """The name of the group whose state is passed along; empty if the state belongs to a symbol."""
        self.gates = gates
        """The means to compare values so that the comparisons can be shown."""

    @property
    def seconds(self) -> float:
        """The second, in seconds since the Unix epoch."""
        return self.time / 1e9
