"""A configured detector and its states, each of a symbol or a group.

Nothing here differs between two runs: states are visited in the order of their ids. What the contract calls records are plain
values here, so that this can be tested without a host; `guest` makes the records.
"""

from typing import Any

from . import packed, state as states
from .detector import Detection, Detector, Param, Reject
from .rows import Bar, Clock, Gates, Snapshot, Source, Tick

Feed = tuple[str, int | str | None]
"""What the rows of a feed are, and its length: a number, or the name of a parameter."""

Judgment = tuple[int, int, list[tuple[str, float, float, bool]]]
"""The row, the owner of the state that was looked at, and its gates."""


class Rejection(Exception):
    """The error of a result: the host gets its text, and the call has not failed."""


class _Slot:
    """A symbol or group: its name, and its state after the first row. A symbol has what its rows have in common, by the owner of
    their state."""

    __slots__ = ("name", "texts", "sources", "state", "has_state")

    def __init__(self, name: str, texts: dict[str, str | None]) -> None:
        self.name = name
        self.texts = texts
        self.sources: dict[int, Source] = {}
        self.state: Any = None
        self.has_state = False


class Instance:
    """The implementation of the contract's functions."""

    def __init__(self, kind: type[Detector[Any]]) -> None:
        self.kind = kind
        self.params = _params(kind)
        self.columns = [*kind.required_columns, *kind.optional_columns]
        self.texts = [*kind.required_texts, *kind.optional_texts]
        self.names = {name: position for position, name in enumerate([*self.columns, *kind.computed])}
        self.feeds = [parse_feed(feed) for feed in kind.feeds]
        self.has_groups = kind.scope != "symbol"
        self.has_feeds = self.feeds != [("ticks", None)]
        self.wants_clock = kind.on_clock is not Detector.on_clock
        self.detector: Detector[Any] | None = None
        self.gates = Gates()
        # What each feed calls, and its length.
        self.callees: list[tuple[str, int]] = []
        self.slots: dict[int, _Slot] = {}
        # The ids of those that may own a state, sorted when the clock strikes.
        self.owners: list[int] = []
        # The newest id of each symbol, for detections of groups, which name symbols.
        self.symbols: dict[str, int] = {}

    def configure(self, values: list[tuple[str, Any]]) -> float:
        """Returns the warm-up in seconds."""
        detector = self.kind()
        for name, value in values:
            setattr(detector, name, value)
        self.callees = [(kind, _resolve(length, dict(values))) for kind, length in self.feeds]
        try:
            detector.configure()
        except Reject as rejection:
            raise Rejection(str(rejection)) from None
        self.detector = detector
        return float(detector.warm_up_s())

    def introduce(self, symbols: list[tuple[int, str, list[str | None]]], groups: list[tuple[int, str]]) -> None:
        for id, name, texts in symbols:
            self.slots[id] = _Slot(name, dict(zip(self.texts, texts)))
            if self.has_groups:
                self.symbols[name] = id
        for id, name in groups:
            self.slots[id] = _Slot(name, {})
        self.owners = sorted({*self.owners, *(id for id, *_ in (groups if self.has_groups else symbols))})

    def detect(self, rows: int, values: bytes) -> bytes:
        """Processes rows, and returns the detections, packed."""
        return self._process(rows, values, None)

    def probe(self, rows: int, values: bytes) -> list[Judgment]:
        """Processes rows like `detect`, and returns what was looked at."""
        judgments: list[Judgment] = []
        self._process(rows, values, judgments)
        return judgments

    def _process(self, rows: int, values: bytes, judgments: list[Judgment] | None) -> bytes:
        detector, slots, names, callees = self.detector, self.slots, self.names, self.callees
        if detector is None:
            raise RuntimeError("the host called `detect` before `configure`")
        found = _Found(self, judgments)
        on_tick = detector.on_tick
        unpacked = packed.rows_of(rows, values, len(names), self.has_groups, self.has_feeds)
        for row, (symbol, owner, feed, time, price, columns) in enumerate(unpacked):
            if symbol == packed.CLOCK:
                if self.wants_clock:
                    self._strike(detector, time, row, found)
                continue
            slot = slots.get(symbol)
            holder = slot if owner == symbol else slots.get(owner)
            if slot is None or holder is None:
                raise RuntimeError(f"the host sent a row of symbol {symbol} of {owner} before introducing them")
            if not holder.has_state:
                holder.state, holder.has_state = self.kind.State(), True
            source = slot.sources.get(owner)
            if source is None:
                source = slot.sources[owner] = Source(holder.name if self.has_groups else "", slot.texts, self.gates)
            kind, length = callees[feed & ~packed.LAST_OF_SNAPSHOT] if feed else callees[0]
            if kind == "ticks":
                detection = on_tick(holder.state, Tick(slot.name, time, price, names, columns, source))
            elif kind == "bars":
                bar = Bar(slot.name, time, price, names, columns, source)
                bar.length_s = length
                detection = detector.on_bar(holder.state, bar)
            else:
                snapshot = Snapshot(slot.name, time, price, names, columns, source)
                snapshot.length_s, snapshot.is_last = length, feed & packed.LAST_OF_SNAPSHOT != 0
                detection = detector.on_snapshot(holder.state, snapshot)
            if detection is not None or judgments is not None:
                found.add(row, owner, detection, f"on_{kind.rstrip('s')}")
        return bytes(found.detections)

    def _strike(self, detector: Detector[Any], time: int, row: int, found: "_Found") -> None:
        for owner in self.owners:
            slot = self.slots[owner]
            if slot.has_state:
                symbol, group = ("", slot.name) if self.has_groups else (slot.name, "")
                detection = detector.on_clock(slot.state, Clock(symbol, time, group, self.gates))
                found.add(row, owner, detection, "on_clock")

    def save(self, owners: list[int]) -> list[tuple[int, bytes]]:
        saved = []
        for owner in owners:
            slot = self.slots.get(owner)
            if slot is not None and slot.has_state:
                saved.append((owner, states.dump(slot.state)))
        return saved

    def restore(self, state_version: int, saved: list[tuple[int, bytes]]) -> None:
        if state_version != self.kind.state_version:
            raise Rejection(f"saved under state version {state_version}, this detector reads {self.kind.state_version}")
        # All or nothing: everything is read before anything changes.
        read = []
        for owner, data in saved:
            slot = self.slots.get(owner)
            if slot is None:
                raise Rejection(f"symbol or group {owner} was not introduced")
            try:
                read.append((slot, states.load(self.kind.State, data)))
            except Exception as error:
                raise Rejection(f"the state of {slot.name} can't be read: {error}") from None
        for slot, restored in read:
            slot.state, slot.has_state = restored, True


class _Found:
    """What a call has found so far."""

    def __init__(self, instance: Instance, judgments: list[Judgment] | None) -> None:
        self.instance = instance
        self.detections = bytearray()
        self.judgments = judgments
        self.record: list[tuple[str, float, float, bool]] = []
        # After a call that has failed there is no other.
        instance.gates.record = None if judgments is None else self.record

    def add(self, row: int, owner: int, detection: Any, method: str) -> None:
        if detection is not None:
            if type(detection) is not Detection:
                raise TypeError(f"{method} returned {detection!r}, expected a Detection or None")
            packed.pack(detection, row, owner, self._id_of, self.detections)
        if self.judgments is not None and self.record:
            self.judgments.append((row, owner, self.record.copy()))
            self.record.clear()

    def _id_of(self, symbol: str) -> int:
        if not self.instance.has_groups:
            raise ValueError("only a detection of a group is about a member, or has members")
        id = self.instance.symbols.get(symbol)
        if id is None:
            raise ValueError(f"a detection names the symbol {symbol!r}, which the host has not introduced")
        return id


def parse_feed(feed: str) -> Feed:
    """Returns what `"ticks"`, `"bars:60"` or `"snapshots:step_s"` means."""
    kind, _, length = feed.partition(":")
    if feed == "ticks":
        return "ticks", None
    if kind not in ("bars", "snapshots") or not length:
        raise ValueError(f'a feed is "ticks", "bars:60", "snapshots:60" or the like, not {feed!r}')
    return kind, int(length) if length.isdecimal() else length


def _resolve(length: int | str | None, values: dict[str, Any]) -> int:
    if isinstance(length, str):
        value = values.get(length)
        if type(value) is not int:
            raise Rejection(f"a length is of parameter `{length}`, but no integer parameter has that name")
        return value
    return length or 0


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
