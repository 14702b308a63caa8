"""States as bytes, and back.

A state is saved as JSON, so that it can be read by eye. What is restored equals what was saved in every bit: floats are
written with all their digits, and the order of a dict's keys is part of the state, since code that walks through a dict
depends on it. What JSON does not have (tuples, deques, other keys than texts, members) is an object with one key that begins
with `~`. The same state always gives the same bytes.
"""

import dataclasses
import json
from collections import deque
from typing import Any

from .members import ByMember

_PLAIN = (float, int, str, bool, type(None))


def dump(state: Any) -> bytes:
    """Returns a state as bytes; raises a TypeError if it contains something that can't be saved."""
    try:
        if dataclasses.is_dataclass(state):
            packed = _pack_fields(state, "state")
        else:
            packed = _pack_members(state, "state") if type(state) is ByMember else _pack(state, "state")
        return json.dumps(packed, separators=(",", ":")).encode()
    except RecursionError:
        raise TypeError("the state contains itself, or is nested too deeply, which can't be saved") from None


def load(kind: Any, data: bytes) -> Any:
    """Returns the state that `dump` made these bytes of; raises a ValueError if they are of another type of state."""
    packed = json.loads(data)
    return _unpack(packed) if kind is dict else _unpack_into(kind(), packed)


def _pack_fields(value: Any, path: str) -> Any:
    packed = {}
    for name in _names(value):
        field, at = getattr(value, name), f"{path}.{name}"
        packed[name] = _pack_members(field, at) if type(field) is ByMember else _pack(field, at)
    return packed


def _pack_members(members: "ByMember[Any]", path: str) -> Any:
    expected = None if members.default is None else members.default()
    is_record = dataclasses.is_dataclass(expected)
    packed = {}
    for name, value in members.items():
        at = f"{path}[{name!r}]"
        if is_record and type(value) is not type(expected):
            raise TypeError(f"{at} is a {type(value).__name__}, and a new member is a {type(expected).__name__}")
        packed[name] = _pack_fields(value, at) if is_record else _pack(value, at)
    return {"~members": packed}


def _unpack_into(fresh: Any, packed: Any) -> Any:
    """Returns what was packed. `fresh` is what a new state has in this place."""
    if dataclasses.is_dataclass(fresh):
        names = _names(fresh)
        if not isinstance(packed, dict) or list(packed) != names:
            saved = list(packed) if isinstance(packed, dict) else type(packed).__name__
            raise ValueError(f"it was saved with {saved}, and the fields are {names}; increase state_version")
        for name, value in packed.items():
            setattr(fresh, name, _unpack_into(getattr(fresh, name), value))
        return fresh
    has_members = isinstance(packed, dict) and "~members" in packed
    if has_members != (type(fresh) is ByMember):
        raise ValueError("it has a ByMember in another place than a new state; increase state_version")
    if not has_members:
        return _unpack(packed)
    for name, value in packed["~members"].items():
        fresh[name] = _unpack_into(None if fresh.default is None else fresh.default(), value)
    return fresh


def _names(record: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def _pack(value: Any, path: str) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return _items(value, path)
    if kind is dict:
        if all(type(key) is str and not key.startswith("~") for key in value):
            return {key: _pack(item, f"{path}[{key!r}]") for key, item in value.items()}
        pairs = [[_pack(key, f"a key of {path}"), _pack(item, f"{path}[{key!r}]")] for key, item in value.items()]
        return {"~dict": pairs}
    if kind is tuple:
        return {"~tuple": _items(value, path)}
    if kind is deque:
        return {"~deque": [value.maxlen, _items(value, path)]}
    if kind in (set, frozenset):
        raise TypeError(f"{path} is a set, whose order differs after a restart: use a dict or a list")
    if kind is ByMember:
        raise TypeError(f"{path} is a ByMember, which is saved as a field of the state's dataclass: declare it with by_member")
    raise TypeError(
        f"{path} is a {kind.__name__}, which can't be saved: use numbers, texts, None, lists, tuples, dicts and deques"
    )


def _items(values: Any, path: str) -> list[Any]:
    # Most lists are windows of numbers.
    return [item if type(item) in _PLAIN else _pack(item, f"{path}[{index}]") for index, item in enumerate(values)]


def _unpack(value: Any) -> Any:
    if type(value) is list:
        return [_unpack(item) for item in value]
    if type(value) is not dict:
        return value
    if "~dict" in value:
        return {_unpack(key): _unpack(item) for key, item in value["~dict"]}
    if "~tuple" in value:
        return tuple(_unpack(item) for item in value["~tuple"])
    if "~deque" in value:
        maxlen, items = value["~deque"]
        return deque((_unpack(item) for item in items), maxlen)
    return {key: _unpack(item) for key, item in value.items()}
