"""Keys of dicts and elements of sets: what may be one, and what it costs to hash it."""

from __future__ import annotations

import sys
from typing import NoReturn

from w2vc.errors import DamagedError
from w2vc.reading.budget import SMALL_INTEGER, Budget
from w2vc.reading.globals_used import Globals
from w2vc.reading.nodes import Node
from w2vc.reading.source import GET_AGAIN

_UNHASHABLE = frozenset({"builtins.slice"})
# Of torch's values, those whose hash a file can choose, and bytes, which are copied; the others are refused as keys.
_CHOSEN = frozenset({"builtins.complex", "torch.Size"})
_COPIED = frozenset({"_codecs.encode"})


class Keys:
    """The account of what is hashed: a file can choose the hash of a number and of a tuple, so that all collide.

    Nothing is looked at twice: a tuple knows its weight, how many objects Python's hash of it visits.
    """

    def __init__(self, budget: Budget, globals_: Globals) -> None:
        self._budget = budget
        self._globals = globals_
        self._checked: dict[int, Node] = {}  # by id; the node is kept, so that no other gets its id

    def hash(self, key: object) -> None:
        """Account for one use of a key. Raise DamagedError where it can't be one."""
        if type(key) is Node:
            self._hash_node(key)
        elif type(key) is float or (type(key) is int and abs(key) >= SMALL_INTEGER):
            self._budget.charge("chosen hashes")

    def _hash_node(self, key: Node) -> None:
        if key.kind == "tuple":
            self._budget.charge("chosen hashes", key.weight)
            self._check_parts(key)
        elif key.kind == "instance" and self._may_be_key(key):
            if key.name in _COPIED:
                self._budget.build(sys.getsizeof(key.arguments[0]))
            if key.name in _CHOSEN:
                self._budget.charge("chosen hashes", key.weight)
            self._globals.note(key.name, "hashed")
        elif key.kind != "global":
            self._damaged(key)

    def _may_be_key(self, key: Node) -> bool:
        if self._globals.is_torchs(key.name):
            return key.name in _CHOSEN or key.name in _COPIED
        return key.name not in _UNHASHABLE

    def _check_parts(self, key: Node) -> None:
        """Look for what can't be hashed within a tuple, in a walk that visits no tuple twice."""
        pending = [key]
        while pending:
            part = pending.pop()
            if id(part) in self._checked:
                continue
            self._checked[id(part)] = part
            for item in part.items:
                if type(item) is not Node:
                    continue
                if item.kind == "tuple":
                    pending.append(item)
                else:
                    self._hash_node(item)

    def _damaged(self, key: Node) -> NoReturn:
        raise DamagedError(f"{self._budget.what} has a {key.name or key.kind} as a key", advice=GET_AGAIN)


def weight(items: tuple[object, ...]) -> int:
    """Return how many objects the hash of a tuple of these visits, or some number beyond every limit."""
    return min(1 + sum(item.weight if type(item) is Node else 1 for item in items), _BEYOND)


_BEYOND = 2**62
