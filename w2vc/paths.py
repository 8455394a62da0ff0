"""Paths that somebody gave us: made absolute, and opened without trusting what they lead to.

The checkpoint's errors are its own (``reading/opening.py``); ``open_regular`` is for the small files next to it:
dictionaries, configs, manifests, recordings.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import UsageError

AnyPath = str | os.PathLike[str]
"""What a path may be given as."""

_OTHER_THAN_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_PIECE = 2**20
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


def other_than_a_file(mode: int) -> str | None:
    """Return what something with this mode is, None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((word for is_kind, word in _OTHER_THAN_FILES if is_kind(mode)), "not a regular file")


def open_at_once(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered and without waiting for anybody.

    Raises:
        OSError: there is no such file, it may not be read, or it isn't a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        kind = other_than_a_file(os.fstat(descriptor).st_mode)
        if kind is not None:
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def open_regular(path: Path, what: str, advice: str) -> BinaryIO:
    """Open a regular file that somebody named, as ``open_at_once`` does.

    Args:
        path: of the file.
        what: to call it in errors: ``dictionary``, ``manifest``.
        advice: what to give instead.

    Raises:
        UsageError: it can't be opened, or is a pipe, a device or a directory.
    """
    try:
        return open_at_once(path)
    except OSError as error:
        raise _unreadable(path, what, error, advice) from error


def read_small_file(path: Path, what: str, most: int, advice: str) -> bytes:
    """Return the whole contents of a regular file that may have so many bytes at most.

    Args:
        path: of the file.
        what: to call it in errors.
        most: bytes; where there are more, nothing is kept of them.
        advice: what to give instead.

    Raises:
        UsageError: it can't be read, is no file, or is larger.
    """
    with open_regular(path, what, advice) as file:
        pieces: list[bytes] = []
        left = most + 1
        try:
            # Files in /proc say that they have no bytes, so that the size is known when they are read.
            while left and os.fstat(file.fileno()).st_size <= most:
                piece = os.read(file.fileno(), min(left, _PIECE))
                if not piece:
                    return b"".join(pieces)
                pieces.append(piece)
                left -= len(piece)
        except OSError as error:
            raise _unreadable(path, what, error, advice) from error
    raise UsageError(f"The {what} {path} is larger than {most:,} bytes.", advice=advice)


def _unreadable(path: Path, what: str, error: OSError, advice: str) -> UsageError:
    return UsageError(f"The {what} {path} can't be read: {error.strerror}.", advice=advice)
