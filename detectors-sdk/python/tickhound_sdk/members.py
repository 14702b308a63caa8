"""A map of what a state knows of each member of its group."""

import dataclasses
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

Value = TypeVar("Value")

_NO_DEFAULT = object()


class ByMember(MutableMapping[str, Value]):
    """A map from the symbols of a group's members to values, in the order of the symbols. It is saved and restored as a part
    of the state.

    `members[row.symbol]` makes the value of a new member with `default`, such as `float` or a dataclass. A dict has the order
    in which members were first seen, and can't hold dataclasses.
    """

    __slots__ = ("default", "_values", "_names")

    def __init__(self, default: Callable[[], Value] | None = None) -> None:
        self.default = default
        self._values: dict[str, Value] = {}
        self._names: list[str] = []

    def __getitem__(self, symbol: str) -> Value:
        try:
            return self._values[symbol]
        except KeyError:
            if self.default is None:
                raise
        value = self[symbol] = self.default()
        return value

    def __setitem__(self, symbol: str, value: Value) -> None:
        if symbol not in self._values:
            if type(symbol) is not str:
                raise TypeError(f"a member is named by its symbol, not by {symbol!r}")
            insort(self._names, symbol)
        self._values[symbol] = value

    def __delitem__(self, symbol: str) -> None:
        del self._values[symbol]
        del self._names[bisect_left(self._names, symbol)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    # The methods that `MutableMapping` makes of `[]` would add a member.

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._values

    def get(self, symbol: str, default: Any = None) -> Any:
        """Returns the value of a member, or `default`; adds none."""
        return self._values.get(symbol, default)

    def pop(self, symbol: str, default: Any = _NO_DEFAULT) -> Any:
        """Removes a member, and returns its value, or `default` if there is none."""
        if symbol not in self._values:
            if default is _NO_DEFAULT:
                raise KeyError(symbol)
            return default
        value = self._values[symbol]
        del self[symbol]
        return value

    def setdefault(self, symbol: str, default: Any = None) -> Any:
        """Returns the value of a member, which is `default` if the member is new."""
        if symbol not in self._values:
            self[symbol] = default
        return self._values[symbol]

    def __repr__(self) -> str:
        return f"ByMember({dict(self.items())!r})"


def by_member(default: Callable[[], Value] | None = None) -> Any:
    """Declares a field of a dataclass: `legs: ByMember[Leg] = by_member(Leg)`."""
    return dataclasses.field(default_factory=lambda: ByMember(default))
