"""Makes a class of a detector what the contract asks for: the records of the contract around an `Instance`.

What holds: each function of the contract leaves the text of an exception for the host before it fails.
"""

import functools
import os
from typing import Any, Callable, TypeVar

from componentize_py_types import Err
from wit_world import WitWorld as Contract
from wit_world.imports import types

from . import report
from .detector import Detector, Param
from .instance import Instance, Rejection, parse_feed

_SDK = os.path.dirname(__file__) + "/"

_Call = TypeVar("_Call", bound=Callable[..., Any])


def export(kind: type[Detector[Any]]) -> type[Contract]:
    """Returns what componentize-py exports: `WitWorld = export(Jump)`, once, in the module that is built."""
    instance = Instance(kind)

    class WitWorld(Contract):
        """Each call comes to a new object, so the instance is outside of it."""

        describe = _reported(lambda _: _manifest(instance))
        configure = _reported(lambda _, params: _configure(instance, params))
        introduce = _reported(lambda _, symbols, groups: _introduce(instance, symbols, groups))
        detect = _reported(lambda _, rows, values: instance.detect(rows, values))
        save = _reported(lambda _, owners: [types.SavedState(*saved) for saved in instance.save(owners)])
        restore = _reported(lambda _, state_version, states: _restore(instance, state_version, states))
        # The world `detector`, for which older projects are built, has no `probe`; there this is ignored.
        probe = _reported(lambda _, rows, values: [_judgment(*one) for one in instance.probe(rows, values)])

    return WitWorld


def _reported(call: _Call) -> _Call:
    """Leaves the text of an exception for the host. A `Rejection` is an answer, and not an exception."""

    @functools.wraps(call)
    def reported(*args: Any) -> Any:
        try:
            return call(*args)
        except Rejection as rejection:
            raise Err(str(rejection)) from None
        except BaseException as error:
            report.leave(error, _SDK)
            if isinstance(error, Exception):
                raise
            # `exit()` would end the interpreter before the host can read the text.
            raise RuntimeError(type(error).__name__) from None

    return reported  # type: ignore[return-value]


def _manifest(instance: Instance) -> types.Manifest:
    kind = instance.kind
    if not getattr(kind, "name", ""):
        raise TypeError(f'{kind.__name__} needs a name, such as name = "jump"')
    docs = [line.strip() for line in (kind.__doc__ or "").splitlines() if line.strip()]
    wakes: list[Any] = [types.Wake_Above(column) for column in kind.wake_above]
    return types.Manifest(
        name=kind.name,
        version=kind.version,
        description=kind.description or (docs[0] if docs else kind.__name__),
        scope=types.Scope[kind.scope.upper()],
        feeds=[_feed(*feed) for feed in instance.feeds],
        columns=[types.Column(name, name in kind.required_columns) for name in instance.columns],
        computed=[_computed(name, computed) for name, computed in kind.computed.items()],
        wakes=wakes + [types.Wake_Below(column) for column in kind.wake_below],
        texts=[types.Column(name, name in kind.required_texts) for name in instance.texts],
        params=[_declared(name, param) for name, param in instance.params.items()],
        state_version=kind.state_version,
        state_outlives_params=kind.state_outlives_params,
        wants_clock=instance.wants_clock,
    )


def _feed(kind: str, length: Any) -> Any:
    if kind == "ticks":
        return types.Feed_Ticks()
    return (types.Feed_Bars if kind == "bars" else types.Feed_Snapshots)(_length(length))


def _length(length: Any) -> Any:
    return types.Length_Param(length) if isinstance(length, str) else types.Length_Fixed(length)


def _computed(name: str, computed: Any) -> types.Computed:
    function = types.Function[computed.function.upper()]
    return types.Computed(name, function, computed.of, _feed(*parse_feed(computed.feed)), _length(computed.length))


def _declared(name: str, param: Param) -> types.Param:
    kinds = {bool: types.Value_Flag, int: types.Value_Integer, float: types.Value_Number, str: types.Value_Text}
    default: Any = kinds[type(param.default)](param.default)  # type: ignore[index]
    return types.Param(name, default, param.minimum, param.maximum, param.choices, param.unit, param.doc)


def _configure(instance: Instance, params: list[tuple[str, types.Value]]) -> types.Readiness:
    return types.Readiness(warm_up_seconds=instance.configure([(name, value.value) for name, value in params]))


def _introduce(instance: Instance, symbols: list[types.Symbol], groups: list[types.Group]) -> None:
    instance.introduce(
        [(symbol.id, symbol.name, symbol.texts) for symbol in symbols], [(group.id, group.name) for group in groups]
    )


def _restore(instance: Instance, state_version: int, states: list[types.SavedState]) -> None:
    instance.restore(state_version, [(saved.owner, saved.state) for saved in states])


def _judgment(row: int, owner: int, gates: list[tuple[str, float, float, bool]]) -> types.Judgment:
    return types.Judgment(row, owner, [types.Gate(*gate) for gate in gates])
