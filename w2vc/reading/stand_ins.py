"""Inert objects in the place of every class that a checkpoint's pickle names and torch doesn't build itself.

A stand-in remembers what it was made with and does nothing else. ``plain`` turns stand-ins (omegaconf's nodes, an
argparse namespace, enums, numpy scalars) into nested dicts, lists and scalars, without importing any of their packages.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from w2vc.errors import UnsafeError
from w2vc.reading.pickle_program import GlobalUse

# fairseq's configs nest five deep, omegaconf's nodes double that; they have some thousand values,
# and omegaconf takes 0.1 ms for each.
DEPTH_LIMIT = 60
VALUES_LIMIT = 50_000


class StandIn:
    """An object of a class that isn't here: the arguments it was made with, and the state it was given.

    Attributes:
        stands_for: ``module.name`` of the class, on each stand-in class.
        arguments: of the call that made it.
        attributes: what its ``__dict__`` would hold.
        state: its state, where that is no dict.
    """

    stands_for = ""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.attributes: dict[str, object] = {}
        self.state: object = None

    def __new__(cls, *arguments: object) -> StandIn:  # noqa: D102 - as __init__, which NEWOBJ doesn't call
        made = super().__new__(cls)
        StandIn.__init__(made, *arguments)
        return made

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        dicts = [part for part in parts if isinstance(part, dict)]
        if len(dicts) + parts.count(None) == len(parts):
            for part in dicts:
                self.attributes.update({str(key): value for key, value in part.items()})
        else:
            self.state = state


class _MappingStandIn:
    """For classes whose objects are given items: torch does that to plain dicts only, so it makes one."""

    def __new__(cls, *_arguments: object) -> OrderedDict[object, object]:  # type: ignore[misc]  # that is the point
        return OrderedDict()


class _SequenceStandIn:
    """For classes whose objects are given elements: torch does that to plain lists only, so it makes one."""

    def __new__(cls, *arguments: object) -> list[object]:  # type: ignore[misc]  # that is the point
        first = arguments[0] if arguments else None
        return list(first) if isinstance(first, (list, tuple)) else []


# These are written with items or elements where they have any: without, they are still what they are.
_ALWAYS: Mapping[str, type] = {"collections.defaultdict": _MappingStandIn, "collections.deque": _SequenceStandIn}


def stand_in(use: GlobalUse) -> type:
    """The class that stands for a global, fit for what the pickle does with its objects."""
    path = f"{use.module}.{use.name}"
    if path in _ALWAYS:
        base: type = _ALWAYS[path]
    elif use.gets_items:
        base = _MappingStandIn
    elif use.gets_elements:
        base = _SequenceStandIn
    else:
        base = StandIn
    return type(use.name, (base,), {"stands_for": path})


def plain(value: object, what: str) -> Any:
    """Nested dicts (with text keys), lists and scalars for a value with stand-ins in it.

    Args:
        value: from the pickle; may hold stand-ins.
        what: file and key, for the error.

    Raises:
        UnsafeError: it holds itself, or is deeper or larger than any config.
    """
    return _Plainer(what).of(value, ())


class _Plainer:
    def __init__(self, what: str) -> None:
        self.what = what
        self.left = VALUES_LIMIT

    def of(self, value: object, inside: tuple[int, ...]) -> object:
        self.left -= 1
        if id(value) in inside or len(inside) > DEPTH_LIMIT or self.left < 0:
            raise UnsafeError(
                f"{self.what} holds itself, or is deeper or larger than any config",
                advice="fairseq never writes this; get the checkpoint from a source that you trust",
            )
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        inside = (*inside, id(value))
        if isinstance(value, dict):
            return {_key(key): self.of(item, inside) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.of(item, inside) for item in value]
        if isinstance(value, StandIn):
            return self.of(_contents(value), inside)
        return _name(value)


def _key(key: object) -> str:
    return key if isinstance(key, str) else str(_contents(key)) if isinstance(key, StandIn) else repr(key)


def _name(value: object) -> str:
    return str(getattr(value, "stands_for", None) or type(value).__name__)


def _contents(value: StandIn) -> object:
    """What is of interest in a stand-in: a container's contents, a node's or an enum's value, or its attributes."""
    for attribute in ("_content", "_val"):  # omegaconf/basecontainer.py and nodes.py
        if attribute in value.attributes:
            return value.attributes[attribute]
    made_by = _MAKERS.get(value.stands_for)
    if made_by is not None:
        return made_by(value)
    if value.attributes:
        return value.attributes
    # An enum is pickled as its class, called with its value.
    return value.arguments[0] if len(value.arguments) == 1 else list(value.arguments) or value.stands_for


def _path(value: StandIn) -> object:
    return "/".join(str(part) for part in value.arguments).replace("//", "/")


def _getattr(value: StandIn) -> object:
    return value.arguments[-1] if value.arguments else None


_NUMPY_FORMATS = dict(
    zip(("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"), "dfeqihbQIHB?", strict=True)
)


def _numpy_scalar(value: StandIn) -> object:
    """The number in ``numpy.core.multiarray.scalar(dtype('f8'), bytes)``; the type's name if it is no number."""
    dtype, data = (*value.arguments, None, None)[:2]
    code = dtype.arguments[0] if isinstance(dtype, StandIn) and dtype.arguments else None
    form = _NUMPY_FORMATS.get(code) if isinstance(code, str) else None
    if form is None or not isinstance(data, bytes) or len(data) != struct.calcsize(form):
        return value.stands_for
    return struct.unpack("<" + form, data)[0]


_MAKERS: Mapping[str, Callable[[StandIn], object]] = {
    **{
        f"{module}.{name}": _path
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    },
    "builtins.getattr": _getattr,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


def stand_ins(uses: Iterable[GlobalUse]) -> list[tuple[type, str]]:
    """Pairs of stand-in and name, as ``torch.serialization.safe_globals`` takes them."""
    return [(stand_in(use), f"{use.module}.{use.name}") for use in uses if use.kind != "torch"]
