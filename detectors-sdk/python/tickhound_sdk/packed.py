"""The rows of a call as the host packs them, and the detections as the host reads them.

Both forms are those of `detect` in the contract's WIT. Nothing is copied: a column is a view of the bytes of the call.
"""

import struct
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Iterator

from .detector import Detection

# In `symbols`, a clock row: event time has reached a whole second.
CLOCK = 0xFFFFFFFF

# The bit of a row's feed that marks the last row of a snapshot.
LAST_OF_SNAPSHOT = 0x80

# The row, the owner, what the detection is about, the confidence, the direction, and the number of members.
_HEAD = struct.Struct("<IIIdBH")
_NUMBER = struct.Struct("<d")

_DIRECTIONS = {"up": 0, "down": 1, "none": 2}

_MEMBERS_MAX = 0xFFFF
_NUMBERS_MAX = 0xFF
_NAME_BYTES_MAX = 0xFF


def rows_of(
    rows: int, values: bytes, columns: int, has_groups: bool, has_feeds: bool
) -> Iterator[tuple[int, int, int, int, float, Any]]:
    """Returns the rows of a call, each as its symbol, the owner of its state, its feed, its time, its price and its columns."""
    view = memoryview(values)
    at = 0

    def take(format: str, size: int, count: int) -> Any:
        nonlocal at
        begin, at = at, at + size * count
        return view[begin:at].cast(format)

    expected = rows * (8 * (2 + columns) + 4 + 4 * has_groups + has_feeds)
    if len(view) != expected:
        raise RuntimeError(f"the host sent {len(view)} bytes for {rows} rows, expected {expected}")
    times, prices = take("Q", 8, rows), take("d", 8, rows)
    by_column = [take("d", 8, rows) for _ in range(columns)]
    symbols = take("I", 4, rows)
    owners = take("I", 4, rows) if has_groups else symbols
    feeds = take("B", 1, rows) if has_feeds else repeat(0)
    return zip(symbols, owners, feeds, times, prices, zip(*by_column) if by_column else repeat(()))


def pack(detection: Detection, row: int, owner: int, id_of: Callable[[str], int], packed: bytearray) -> None:
    """Appends a detection of the state of `owner`. `id_of` returns the id of a symbol, given its name."""
    about = owner if detection.about_symbol is None else id_of(detection.about_symbol)
    members = [id_of(symbol) for symbol in detection.member_symbols]
    _check("members", len(members), _MEMBERS_MAX)
    packed += _HEAD.pack(row, owner, about, detection.confidence, _DIRECTIONS[detection.direction], len(members))
    packed += struct.pack(f"<{len(members)}I", *members)
    _pack_evidence(detection.evidence, packed)


def _pack_evidence(evidence: Sequence[tuple[str, float]], packed: bytearray) -> None:
    _check("numbers of evidence", len(evidence), _NUMBERS_MAX)
    packed.append(len(evidence))
    for name, value in evidence:
        encoded = name.encode()
        _check("bytes in a name of evidence", len(encoded), _NAME_BYTES_MAX)
        packed.append(len(encoded))
        packed += encoded
        packed += _NUMBER.pack(value)


def _check(what: str, count: int, maximum: int) -> None:
    if count > maximum:
        raise ValueError(f"a detection has at most {maximum} {what}, not {count}")
