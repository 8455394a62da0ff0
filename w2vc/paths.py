"""Paths that somebody gave us, checked and made absolute."""

from __future__ import annotations

import os
from pathlib import Path

from w2vc.errors import UsageError

AnyPath = str | os.PathLike[str]
"""What a path may be given as."""

# Linux's PATH_MAX, without the NUL at the end.
_LONGEST_PATH = 4095


def given_path(value: AnyPath, name: str) -> Path:
    """Return the path that was given for an option or argument.

    Raises:
        UsageError: it is empty, which ``Path`` would take for the current folder, or no system has such a path.
    """
    text = os.fspath(value)
    if not text:
        raise UsageError(f"{name} is empty.", advice="Give a path; the current folder is called a single dot.")
    if "\0" in text:
        raise UsageError(f"{name} holds a NUL character: {text!r:.200}.", advice="Give a path without it.")
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise UsageError(
            f"{name} can't be the name of a file: {text!r:.200}.", advice="Give a path that is Unicode."
        ) from None
    if length > _LONGEST_PATH:
        raise UsageError(
            f"{name} has {length:,} bytes, and a path {_LONGEST_PATH:,} at most: {text[:40]!r}...",
            advice="Give a shorter path.",
        )
    return Path(text)


def absolute(path: AnyPath) -> Path:
    """Return the path that means the same from every folder, with links followed everywhere but at the end.

    The name at the end is the one that people know. ``..`` after a link is resolved as the system does it.
    """
    path = Path(path)
    if path.name in ("", ".."):
        return Path(_real(path))
    return Path(_real(path.parent)) / path.name


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except FileNotFoundError:  # of os.getcwd
        raise UsageError(
            "The current folder doesn't exist any more.", advice="Change to another one, or give absolute paths."
        ) from None
