"""Reads a checkpoint's tensors for verification, apart from the writer, so that neither hides the other's mistakes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from w2vc.errors import DamagedError
from w2vc.reading.archive import Record
from w2vc.reading.checkpoint import SourceTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PIECE_ELEMENTS = 2**19
"""Elements of a piece: small enough for a core's cache, large enough that system calls cost nothing."""


def read_into(file: int, start: int, view: memoryview) -> None:
    """Fills ``view`` with an open file's bytes from ``start`` on.

    Raises:
        DamagedError: the file ends before.
    """
    while view:
        got = os.preadv(file, [view], start)
        if got == 0:
            raise DamagedError("a file ended while it was read", advice="Wait until it has been written, run again.")
        view, start = view[got:], start + got


def read_exactly(file: int, start: int, count: int) -> bytearray:
    """``count`` bytes of an open file from ``start`` on.

    Raises:
        DamagedError: the file ends before.
    """
    taken = bytearray(count)
    read_into(file, start, memoryview(taken))
    return taken


def same_bytes(one: int, one_start: int, other: int, other_start: int, count: int) -> bool:
    """Whether ``count`` bytes of two open files are the same."""
    size = min(2**20, count)
    buffers = bytearray(size), bytearray(size)
    for start in range(0, count - size + 1, size or 1):
        read_into(one, one_start + start, memoryview(buffers[0]))
        read_into(other, other_start + start, memoryview(buffers[1]))
        if buffers[0] != buffers[1]:
            return False
    rest = count % size if size else 0
    place = count - rest
    return read_exactly(one, one_start + place, rest) == read_exactly(other, other_start + place, rest)


def source_pieces(file: int, tensor: SourceTensor) -> Iterator[Tensor]:
    """A tensor's elements in the order of its axes, flat, a bounded number of them at a time.

    A tensor whose elements don't lie one after the other comes in one piece.
    """
    import torch

    dtype, item = getattr(torch, tensor.dtype), tensor.nbytes // max(tensor.elements, 1)
    place = tensor.storage.offset + tensor.offset
    if tensor.elements == 0:
        return
    if not tensor.is_contiguous:
        span = torch.frombuffer(read_exactly(file, place, tensor.span), dtype=dtype)
        yield span.as_strided(tensor.shape, tensor.stride).reshape(-1)
        return
    for start in range(0, tensor.elements, PIECE_ELEMENTS):
        count = min(PIECE_ELEMENTS, tensor.elements - start)
        yield torch.frombuffer(read_exactly(file, place + start * item, count * item), dtype=dtype)


def source_tensor(file: int, tensor: SourceTensor) -> Tensor:
    """A whole tensor, in its own shape and dtype."""
    import torch

    if not tensor.is_contiguous:
        return next(source_pieces(file, tensor)).reshape(tensor.shape)
    whole = torch.empty(tensor.elements, dtype=getattr(torch, tensor.dtype))
    if tensor.elements:
        values: NDArray[np.uint8] = whole.view(torch.uint8).numpy()
        read_into(file, tensor.storage.offset + tensor.offset, values.data)
    return whole.reshape(tensor.shape)


def is_damaged(file: int, record: Record) -> bool:
    """Whether a record's checksum is wrong; False where the file has none."""
    if record.crc32 is None:
        return False
    checksum = 0
    for start in range(0, record.size, 2**20):
        piece = read_exactly(file, record.offset + start, min(2**20, record.size - start))
        checksum = zlib.crc32(piece, checksum)
    return checksum != record.crc32
