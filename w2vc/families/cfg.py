"""A checkpoint's config, of which single values are taken, each held to its domain. The only place with omegaconf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from w2vc.reading.domains import Domain

_INTERPOLATION = re.compile(r"\$\{[A-Za-z_]\w*(\.\w+)*\}", re.ASCII)
_MISSING = "???"
# The longest list that a row shows (latent_temp) has three.
_MOST_ITEMS = 20
# Takes the place of what a resolver would make; a text that omegaconf leaves alone.
_NEVER_RUN = "(a resolver)"


class Cfg:
    """A checkpoint's config, read with omegaconf, from which single values are taken.

    Only interpolations that name another key (``${task.normalize}``) are followed. Everything else that omegaconf
    would evaluate (``${oc.env:HOME}``) is put out of its reach first.
    """

    def __init__(self, plain: Mapping[str, object]) -> None:
        from omegaconf import OmegaConf  # here, so that inspecting a broken file doesn't wait for it

        self._cfg = OmegaConf.create({key: _without_resolvers(value) for key, value in plain.items()})
        self.problems: list[str] = []

    def keys(self, section: str) -> list[str]:
        """Return the keys of a section, none if there is no such section."""
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            found = OmegaConf.select(self._cfg, section)
        except (OmegaConfBaseException, RecursionError):
            self.problems.append(f"cfg.{section} refers to a key that isn't there or to itself")
            return []
        return [str(key) for key in found] if isinstance(found, DictConfig) else []

    def value(self, path: str) -> object:
        """Return the value at a dotted path; None where it is missing, null or made by a resolver.

        Of a section, or of a list that is long or nested, only its size is given, in words.
        """
        found = self._selected(path)
        return None if isinstance(found, str) and found == _NEVER_RUN else _plain(found)

    def _selected(self, path: str) -> object:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        try:
            found = OmegaConf.select(self._cfg, path)
        except (OmegaConfBaseException, RecursionError):
            self.problems.append(f"cfg.{path} refers to a key that isn't there or to itself")
            return None
        return None if isinstance(found, str) and found == _MISSING else found

    def take(self, path: str, domain: Domain, default: Any) -> Any:
        """Return the value at a path, as its domain has it; the default where there is none.

        A value outside the domain is a problem, and so is one that a resolver would make: the default would be a guess.
        """
        found = self._selected(path)
        if isinstance(found, str) and found == _NEVER_RUN:
            self.problems.append(f"cfg.{path} would be made by a resolver of omegaconf, which w2vc never runs")
            return default
        if found is None:
            return default
        accepted = domain.accept(found)
        if accepted is None:
            self.problems.append(f"cfg.{path} is {short(_plain(found))}, which is not {domain.words}")
            return default
        return accepted


def _plain(found: object) -> object:
    """A scalar as it is, a short list of scalars as a list; omegaconf takes long for each further value."""
    from omegaconf import DictConfig, ListConfig

    if isinstance(found, DictConfig):
        return f"(a section of {len(found)} keys)"
    if not isinstance(found, ListConfig):
        return found
    items = list(found) if len(found) <= _MOST_ITEMS else []
    is_simple = bool(items) and not any(isinstance(item, (DictConfig, ListConfig)) for item in items)
    return items if is_simple or not len(found) else f"(a list of {len(found)} values)"


def _without_resolvers(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_resolvers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_resolvers(item) for item in value]
    if isinstance(value, str) and "${" in value and not _INTERPOLATION.fullmatch(value):
        return _NEVER_RUN
    return value


def short(value: object) -> str:
    """Return a value as an error message shows it."""
    shown = repr(value[:100] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
