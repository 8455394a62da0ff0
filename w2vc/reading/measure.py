"""Depth and unfolded size of what a pickle would build, and whether anything in it holds itself."""

from __future__ import annotations

from typing import Any

from w2vc.errors import DamagedError
from w2vc.reading.budget import LIMITS, Budget
from w2vc.reading.globals_used import Globals
from w2vc.reading.nodes import Node
from w2vc.reading.source import GET_AGAIN


def measure(root: object, budget: Budget, globals_: Globals) -> None:
    """Refuse what is too deep, too large when unfolded, or contains itself, in one iterative depth-first search.

    A reference back to a stand-in that is still open is a leaf: omegaconf's nodes hold their parents (``_parent``).
    """
    sizes: dict[int, tuple[int, int]] = {}  # id of a finished node: unfolded size, height
    opened: set[int] = set()
    path: list[tuple[Node, Any, list[int]]] = []

    def enter(node: Node) -> None:
        if len(path) >= LIMITS["depth"].most:
            _too_deep(budget)
        opened.add(id(node))
        path.append((node, node.children(), [1 + len(node.arguments) + len(node.items) + len(node.states), 1]))

    enter(Node("list", [root]))
    while path:
        node, children, totals = path[-1]
        for item in children:
            if type(item) is not Node:
                continue
            if id(item) in opened:
                if not _may_hold_itself(item, globals_):
                    budget.refuse(f"puts a {item.name or item.kind} into itself")
                continue
            if id(item) not in sizes:
                enter(item)
                break
            _add(budget, totals, sizes[id(item)], len(path))
        else:
            path.pop()
            opened.remove(id(node))
            sizes[id(node)] = (totals[0], totals[1])
            if path:
                _add(budget, path[-1][2], sizes[id(node)], len(path))


def _add(budget: Budget, totals: list[int], item: tuple[int, int], depth: int) -> None:
    totals[0] += item[0]
    totals[1] = max(totals[1], item[1] + 1)
    most = budget.most("unfolded objects")
    if totals[0] > most:
        budget.refuse(f"would be more than {most} {LIMITS['unfolded objects'].what}")
    if depth + item[1] > LIMITS["depth"].most:
        _too_deep(budget)


def _too_deep(budget: Budget) -> None:
    budget.refuse(f"nests objects more than {LIMITS['depth'].most} deep")


def _may_hold_itself(node: Node, globals_: Globals) -> bool:
    if node.kind != "instance":
        return False
    use = globals_.uses[node.name]
    return use.kind != "torch" and not use.gets_items and not use.gets_elements


def check_uses(budget: Budget, globals_: Globals) -> None:
    """Refuse what torch's unpickler can't do: it gives items to plain dicts, and elements to plain lists, only."""
    for path, use in globals_.uses.items():
        if use.hashed and (use.gets_items or use.gets_elements):
            raise DamagedError(
                f"{budget.what} has a {path} as a key, and gives it items",
                advice=GET_AGAIN,
            )
        if use.gets_elements and (use.gets_state or use.gets_items):
            raise DamagedError(
                f"{budget.what} has a {path}, a list with attributes, which torch can't load safely",
                advice="Load it where it was made, replace these objects by plain lists, and save it again.",
            )
