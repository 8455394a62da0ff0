"""Opening files without trusting what their paths lead to, and reading bytes from a place in them.

The checkpoint's errors are its own; ``open_regular`` is for the small files next to it: dictionaries, configs,
manifests, recordings.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import UnsupportedOperation
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import DamagedError, MissingError, NotACheckpointError, UsageError
from w2vc.reading.source import GET_AGAIN

TAKE_THE_CHECKPOINT = "Pass the checkpoint file that fairseq's training wrote or that was published with the model."

_OTHER_THAN_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_PIECE = 2**20
# Of stat(2), whatever the file system's own blocks have.
_BLOCK_BYTES = 512


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


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered, so that only what is asked for is read.

    Never waits: a pipe without a writer is refused like every other thing that isn't a file.

    Raises:
        MissingError: there is no such file, or it may not be read.
        NotACheckpointError: it isn't a regular file.
    """
    try:
        return open_at_once(path)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: OSError) -> MissingError | NotACheckpointError:
    try:
        kind = other_than_a_file(path.stat().st_mode)
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return NotACheckpointError(f"{path}: is {kind}, not a file", advice=TAKE_THE_CHECKPOINT)
    return MissingError(
        f"{path}: can't be opened: {error.strerror}", advice="Check the path and the permission to read it."
    )


def read_exactly(file: BinaryIO, path: Path, offset: int, count: int) -> bytes:
    """Return exactly ``count`` bytes from ``offset``, however many reads that takes. Raise DamagedError otherwise."""
    pieces = []
    try:
        file.seek(offset)
        while count:
            piece = file.read(count)
            if not piece:
                raise DamagedError(f"{path}: ends where more was expected, at byte {offset}", advice=GET_AGAIN)
            pieces.append(piece)
            count -= len(piece)
    except OSError as error:
        message = f"{path}: can't be read at byte {offset}: {error.strerror}"
        raise DamagedError(message, advice="Check the disk or the network that the file is on.") from error
    return b"".join(pieces)


def bytes_on_disk(file: BinaryIO) -> int:
    """Return how many of an open file's bytes its disk holds: holes cost nobody anything, whatever size they have."""
    try:
        found = os.fstat(file.fileno())
    except UnsupportedOperation:  # in memory
        return 0
    return min(found.st_size, found.st_blocks * _BLOCK_BYTES)


def identity_of(file: int) -> tuple[int, ...]:
    """Return what differs if an open file was replaced or modified: device, inode, size, time of the last change."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


# ---------------------------------------------------------------------------------------------------------------
# Small files next to it


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
