"""Opening the file, and reading bytes from a place in it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import DamagedError, MissingError, NotACheckpointError
from w2vc.reading.source import GET_AGAIN

TAKE_THE_CHECKPOINT = "pass the checkpoint file that fairseq's training wrote or that was published with the model"

_OTHER_THAN_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered, so that only what is asked for is read.

    Never waits: a pipe without a writer is refused like every other thing that isn't a file.

    Raises:
        MissingError: there is no such file, or it may not be read.
        NotACheckpointError: it isn't a regular file.
    """
    try:
        return open_regular(path)
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: OSError) -> MissingError | NotACheckpointError:
    try:
        kind = _other_than_a_file(path.stat().st_mode)
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return NotACheckpointError(f"{path}: is {kind}, not a file", advice=TAKE_THE_CHECKPOINT)
    return MissingError(
        f"{path}: can't be opened: {error.strerror}", advice="check the path and the permission to read it"
    )


def _other_than_a_file(mode: int) -> str | None:
    """Return what something is, None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((word for test, word in _OTHER_THAN_FILES if test(mode)), "not a regular file")


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
        raise DamagedError(message, advice="check the disk or the network that the file is on") from error
    return b"".join(pieces)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered and without waiting for anybody.

    Raises:
        OSError: there is no such file, it may not be read, or it isn't a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        kind = _other_than_a_file(os.fstat(descriptor).st_mode)
        if kind is not None:
            raise OSError(errno.EINVAL, f"it is {kind}, not a file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_up_to(file: BinaryIO, most: int) -> bytes:
    """Return a file's bytes from its position on, so many at most, however many reads that takes."""
    pieces: list[bytes] = []
    while most > 0 and (piece := file.read(min(most, _READ_BYTES))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


_READ_BYTES = 2**20


def identity_of(file: int) -> tuple[int, ...]:
    """Return what differs if an open file was replaced or modified: device, inode, size, time of the last change."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
