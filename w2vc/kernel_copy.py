"""Bytes from one file to another without passing through this process, where system and file system can."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from w2vc.errors import DamagedError

# One system call's share: what lies between two looks at the clock, or at a signal.
_KERNEL_PIECE = 2**25
_PIECE = 2**20
_GET_AGAIN = "Download or copy the checkpoint again and compare its checksum."
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


def copy_range(source: int, start: int, target: int, place: int, count: int) -> Iterator[int]:
    """Copies a range of bytes; gives how many after each piece.

    Args:
        source: file descriptor to copy from.
        start: offset there.
        target: file descriptor to copy to.
        place: offset there.
        count: bytes.

    Raises:
        DamagedError: the source ends before.
    """
    while count:
        done = _copy_piece(source, start, target, place, min(count, _KERNEL_PIECE))
        if done == 0:
            raise ended_early()
        start_writing_back(target, place, done)
        start, place, count = start + done, place + done, count - done
        yield done


def _copy_piece(source: int, start: int, target: int, place: int, count: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, count, start, place)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    piece = memoryview(bytearray(min(count, _PIECE)))
    read_into(source, piece, start)
    write_at(target, piece, place)
    return len(piece)


def reserve(target: int, size: int) -> None:
    """Makes a file as large as it will be, so that a disk that is too full says so before any work is done."""
    try:
        os.posix_fallocate(target, 0, size)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        os.ftruncate(target, size)


def write_at(target: int, piece: bytes | memoryview, place: int) -> None:
    """Writes all bytes at an offset, however few the system takes at once."""
    view = memoryview(piece)
    while view:
        count = os.pwrite(target, view, place)
        view, place = view[count:], place + count


def read_into(source: int, view: memoryview, start: int) -> None:
    """Fills a buffer from an offset, however few bytes the system gives at once.

    Raises:
        DamagedError: the source ends before, or can't be read.
    """
    while view:
        try:
            count = os.preadv(source, [view], start)
        except OSError as error:
            raise DamagedError(f"the checkpoint can't be read: {error.strerror}", advice=_GET_AGAIN) from error
        if count == 0:
            raise ended_early()
        view, start = view[count:], start + count


def ended_early() -> DamagedError:
    """The error of a file that became shorter while it was read."""
    return DamagedError("the checkpoint ends before its last tensor", advice=_GET_AGAIN)


_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def start_writing_back(target: int, place: int, count: int) -> None:
    """Tells the system to begin writing a range to the disk, without waiting for it.

    Otherwise all of it waits for the fsync at the end. A wish: where there is no such call, or it fails, nothing is
    lost but time.
    """
    if _sync_file_range is not None:
        _sync_file_range(target, ctypes.c_int64(place), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)
