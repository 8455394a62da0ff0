"""Globals that a pickle names, and what it does with the objects made from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from w2vc.errors import UnsafeError, shown
from w2vc.reading.budget import DISTRUST, NODE_BYTES, Budget
from w2vc.reading.nodes import Node
from w2vc.reading.policy import MAY_CHANGE, GlobalKind, as_torch_names_it, classify


@dataclass(frozen=True)
class GlobalUse:
    """How the program uses the global ``module.name``, named as torch names it: ``builtins``, not ``__builtin__``.

    Attributes:
        kind: who builds it, see ``policy.py``.
        gets_items: SETITEM or SETITEMS on an object made by it. torch does that to plain dicts, ``OrderedDict`` and
            ``Counter`` only, so the stand-in has to *return* one of these.
        gets_elements: APPEND or APPENDS on an object made by it. torch does that to plain lists only.
        gets_state: BUILD on an object made by it.
        hashed: an object made by it is the key of a dict or in a set.
    """

    module: str
    name: str
    kind: GlobalKind
    gets_items: bool = False
    gets_elements: bool = False
    gets_state: bool = False
    hashed: bool = False


class Globals:
    """The globals of one pickle, by ``module.name``."""

    def __init__(self, budget: Budget) -> None:
        self.uses: dict[str, GlobalUse] = {}
        self.refused: dict[str, None] = {}
        self._nodes: dict[str, Node] = {}
        self._budget = budget
        self._stand_ins = 0
        self._look_ups = 0

    def named(self, stated_module: str, stated_name: str) -> Node:
        """Return the node of a global, the same one each time."""
        names = as_torch_names_it(stated_module, stated_name)
        if names is None:
            self._budget.refuse(
                f"names the global {shown(stated_module)} {shown(stated_name)}, which is no name of a class"
            )
        path = ".".join(names)
        if path not in self.uses:
            self._first_use(path, *names)
        self.look_up(path)
        return self._nodes[path]

    def _first_use(self, path: str, module: str, name: str) -> None:
        kind = classify(module, name)
        if kind is None:
            self.refused[path] = None
        self._budget.charge("globals")
        self._stand_ins += kind != "torch"
        self.uses[path] = GlobalUse(module, name, kind or "stand-in")
        self._nodes[path] = Node("global", (), path)
        self._budget.build(10 * NODE_BYTES)

    def look_up(self, path: str) -> None:
        """Note that torch will look for a global in its allow-list, which it builds anew each time."""
        self._look_ups += self.uses[path].kind != "torch"

    def is_torchs(self, path: str) -> bool:
        """Return whether torch's unpickler has a global."""
        return self.uses[path].kind == "torch"

    def change(self, path: str, how: str, mark: str) -> None:
        """Note that an object made by a global is changed; of torch's own, only dicts may be."""
        if self.is_torchs(path) and mark not in MAY_CHANGE.get(path, ()):
            self._budget.refuse(f"{how} an object that {path} made")
        self.note(path, mark)

    def note(self, path: str, mark: str) -> None:
        """Note one thing that is done with a global's objects."""
        if not getattr(self.uses[path], mark):
            changes: dict[str, Any] = {mark: True}
            self.uses[path] = replace(self.uses[path], **changes)

    def check_look_ups(self) -> None:
        """Raise UnsafeError where torch would be busy with its allow-list."""
        self._budget.charge("allow-list entries", self._look_ups * self._stand_ins)

    def check_code(self) -> None:
        """Raise UnsafeError where code is named, listing all of it."""
        if self.refused:
            raise UnsafeError(
                f"{self._budget.what} names code that no checkpoint needs: {_listed(self.refused)}", advice=DISTRUST
            )


def _listed(paths: Iterable[str], most: int = 10) -> str:
    ordered = sorted(paths)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
