"""A checkpoint's config, of which single values are taken, their types checked. The only place that uses omegaconf."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_INTERPOLATION = re.compile(r"\$\{[A-Za-z_]\w*(\.\w+)*\}", re.ASCII)
_MISSING = "???"
# Takes the place of what a resolver would make; a text that omegaconf leaves alone.
_NEVER_RUN = "(a resolver)"


class Cfg:
    """A checkpoint's config, read with omegaconf, from which single values are taken with their type checked.

    Only interpolations that name another key (``${task.normalize}``) are followed. Everything else that omegaconf
    would evaluate (``${oc.env:HOME}``) is put out of its reach first.
    """

    def __init__(self, plain: Mapping[str, object]) -> None:
        from omegaconf import OmegaConf  # here, so that inspecting a broken file doesn't wait for it

        self._cfg = OmegaConf.create({key: _without_resolvers(value) for key, value in plain.items()})
        self.problems: list[str] = []

    def keys(self, section: str) -> list[str]:
        """The keys of a section, none if there is no such section."""
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            found = OmegaConf.select(self._cfg, section)
        except (OmegaConfBaseException, RecursionError):
            self.problems.append(f"cfg.{section} refers to a key that isn't there or to itself")
            return []
        return [str(key) for key in found] if isinstance(found, DictConfig) else []

    def value(self, path: str) -> object:
        """The value at a dotted path; None where it is missing, null or made by a resolver."""
        found = self._selected(path)
        return None if found == _NEVER_RUN else found

    def _selected(self, path: str) -> object:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            found = OmegaConf.select(self._cfg, path)
        except (OmegaConfBaseException, RecursionError):
            self.problems.append(f"cfg.{path} refers to a key that isn't there or to itself")
            return None
        return None if isinstance(found, str) and found == _MISSING else found

    def take(self, path: str, convert: Callable[[object], Value | None], default: Value) -> Value:
        """The value at a path, converted; the default where there is none.

        A value of a wrong type is a problem, and so is one that a resolver would make: the default would be a guess.
        """
        found = self._selected(path)
        if found == _NEVER_RUN:
            self.problems.append(f"cfg.{path} would be made by a resolver of omegaconf, which w2vc never runs")
            return default
        if found is None:
            return default
        converted = convert(found)
        if converted is None:
            self.problems.append(f"cfg.{path} is {short(found)}, which is not {_EXPECTED[convert]}")
            return default
        return converted


def _without_resolvers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_resolvers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_resolvers(item) for item in value]
    if isinstance(value, str) and "${" in value and not _INTERPOLATION.fullmatch(value):
        return _NEVER_RUN
    return value


def boolean(value: object) -> bool | None:
    """A truth value, also spelled 0 or 1; None for anything else."""
    return value if isinstance(value, bool) else {0: False, 1: True}.get(value) if isinstance(value, int) else None


def integer(value: object) -> int | None:
    """A whole number, also spelled 3.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        return None
    return int(value)


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        return None
    return float(value)


def text(value: object) -> str | None:
    """A text; None for anything else."""
    return value if isinstance(value, str) else None


def first_number(value: object) -> float | None:
    """The first of a list of numbers, 0 of an empty one; None for anything else."""
    return number(next(iter(value), 0.0)) if isinstance(value, Iterable) and not isinstance(value, str) else None


_EXPECTED: dict[Callable[[object], object], str] = {
    boolean: "true or false",
    integer: "a whole number",
    number: "a finite number",
    text: "a text",
    first_number: "a list of finite numbers",
}


def short(value: object) -> str:
    """A value as an error message shows it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
