"""Write a Tickhound detector in Python: one class, and one call of `export`.

README.md beside this package explains each part with an example.
"""

from typing import Any

from . import flags
from .detector import (
    Computed,
    Detection,
    Detector,
    Direction,
    Reject,
    Scope,
    ew_volatility,
    flag,
    highest,
    integer,
    lowest,
    mean,
    number,
    text,
)
from .members import ByMember, by_member
from .rows import Bar, Clock, Gates, Snapshot, Tick

__all__ = [
    "Bar",
    "ByMember",
    "Clock",
    "Computed",
    "Detection",
    "Detector",
    "Direction",
    "Gates",
    "Reject",
    "Scope",
    "Snapshot",
    "Tick",
    "by_member",
    "ew_volatility",
    "export",
    "flag",
    "flags",
    "highest",
    "integer",
    "lowest",
    "mean",
    "number",
    "text",
]


def export(kind: type[Detector[Any]]) -> Any:
    """Returns what componentize-py exports: `WitWorld = export(Jump)`, once, in the module that is built.

    Outside of a build, as in a unit test, it returns the class itself.
    """
    try:
        from .guest import export as export_guest
    except ModuleNotFoundError as error:
        if error.name in ("componentize_py_types", "wit_world"):
            return kind
        raise
    return export_guest(kind)
