"""Inert objects that torch's unpickler is given in the place of every class that it doesn't build itself.

A stand-in remembers what it was made with and does nothing else. Nothing is read from it but by ``confirmation.py``,
which compares it with what the walk over the pickle found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from w2vc.reading.globals_used import GlobalUse


class StandIn:
    """An object of a class that isn't here.

    Attributes:
        arguments: of the call that made it.
        states: what it was given by BUILD, in order.
    """

    __slots__ = ("arguments", "states")

    arguments: tuple[object, ...]
    states: list[object]

    def __new__(cls, *arguments: object) -> StandIn:  # noqa: D102 - NEWOBJ calls this alone
        made = super().__new__(cls)
        made.arguments = arguments
        made.states = []
        return made

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.states.append(state)


class MappingStandIn:
    """For classes whose objects are given items: torch does that to plain dicts only, so it makes one."""

    def __new__(cls, *_arguments: object) -> OrderedDict[object, object]:  # type: ignore[misc]  # noqa: D102 - that is the point
        return OrderedDict()


class SequenceStandIn:
    """For classes whose objects are given elements: torch does that to plain lists only, so it makes one."""

    def __new__(cls, *_arguments: object) -> list[object]:  # type: ignore[misc]  # noqa: D102 - that is the point
        return []


# These are written with items or elements where they have any: without, they are still what they are.
_ALWAYS: Mapping[str, type] = {"collections.defaultdict": MappingStandIn, "collections.deque": SequenceStandIn}


def kind_of_stand_in(use: GlobalUse) -> type:
    """Return the kind of stand-in that fits what the pickle does with a global's objects."""
    if use.gets_items:
        return MappingStandIn
    if use.gets_elements:
        return SequenceStandIn
    return _ALWAYS.get(f"{use.module}.{use.name}", StandIn)


def stand_ins(uses: Iterable[GlobalUse]) -> dict[str, type]:
    """Return a class for each global that isn't torch's, by ``module.name``."""
    return {
        f"{use.module}.{use.name}": type(use.name, (kind_of_stand_in(use),), {"__slots__": ()})
        for use in uses
        if use.kind != "torch"
    }
