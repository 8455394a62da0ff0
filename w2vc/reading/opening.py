"""Opening the file, and reading bytes from a place in it."""

from __future__ import annotations

import os
from io import UnsupportedOperation
from pathlib import Path
from typing import BinaryIO

from w2vc.errors import DamagedError, MissingError, NotACheckpointError
from w2vc.paths import open_at_once, other_than_a_file
from w2vc.reading.source import GET_AGAIN

TAKE_THE_CHECKPOINT = "Pass the checkpoint file that fairseq's training wrote or that was published with the model."


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


# Of stat(2), whatever the file system's own blocks have.
_BLOCK_BYTES = 512


def identity_of(file: int) -> tuple[int, ...]:
    """Return what differs if an open file was replaced or modified: device, inode, size, time of the last change."""
    found = os.fstat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
