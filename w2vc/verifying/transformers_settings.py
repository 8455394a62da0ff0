"""transformers, imported, offline and quiet for a while. Nothing of the process stays changed."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from w2vc.writing.acceptance import import_transformers

_OFFLINE = "HF_HUB_OFFLINE"
_TRUE = frozenset(("1", "ON", "YES", "TRUE"))  # huggingface_hub/constants.py, ENV_VARS_TRUE_VALUES

# Where the variable is kept once it has been read: by the hub's library, and by transformers before version 5.
_KEPT = (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("transformers.utils.hub", "_is_offline_mode"))

_LOCK = threading.Lock()
_users = 0
_settings = ExitStack()


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Import transformers, and keep it offline and without messages and progress bars as long as the block lasts.

    The settings belong to the process. The first of several threads changes them, the last one puts them back.
    """
    _enter()
    try:
        yield import_transformers()
    finally:
        _leave()


def _enter() -> None:
    global _users  # noqa: PLW0603 - there is one transformers, and all calls together change its settings once
    with _LOCK:
        if _users == 0:
            with ExitStack() as settings:
                settings.enter_context(_offline())
                settings.enter_context(_quiet(import_transformers()))
                _settings.push(settings.pop_all())
        _users += 1


def _leave() -> None:
    global _users  # noqa: PLW0603 - there is one transformers, and all calls together change its settings once
    with _LOCK:
        _users -= 1
        if _users == 0:
            _settings.close()


@contextmanager
def _offline() -> Iterator[None]:
    """Set the variable before anything reads it, and what was made of it before that."""
    variable = os.environ.get(_OFFLINE)
    before = {module: getattr(sys.modules[module], name) for module, name in _KEPT if _is_kept(module, name)}
    os.environ[_OFFLINE] = "1"
    _keep(dict.fromkeys(before, True))
    try:
        yield
    finally:
        if variable is None:
            del os.environ[_OFFLINE]
        else:
            os.environ[_OFFLINE] = variable
        # A module that was imported meanwhile gets what it would have read without us.
        wanted = variable or os.environ.get("TRANSFORMERS_OFFLINE") or ""
        _keep({**dict.fromkeys((module for module, _ in _KEPT), wanted.upper() in _TRUE), **before})


def _is_kept(module: str, name: str) -> bool:
    return hasattr(sys.modules.get(module), name)


def _keep(values: dict[str, bool]) -> None:
    for module, name in _KEPT:
        if module in values and _is_kept(module, name):
            setattr(sys.modules[module], name, values[module])


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
