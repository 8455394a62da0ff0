"""Reads a tensor's elements in the order of its axes, wherever they lie, with little memory.

A transposed matrix has the elements of each of its rows all over its storage. Reading the storage whole would take as
much memory as it has bytes, several times. Here a block of rows is put together from the runs that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from w2vc.reading.checkpoint import ITEM_BYTES
from w2vc.writing.kernel_copy import read_into

if TYPE_CHECKING:
    import torch

# How many bytes are cast at a time: no more than torch casts without waking its other threads.
_PIECE = 2**17
# Of elements that lie apart, more at a time: the more rows a block has, the longer are the runs that it needs.
_BLOCK = 2**23
# Up to here it is cheaper to read what lies between than to read in two.
_GAP = 2**14
# A part is a tensor of torch's, which takes some hundred bytes itself.
_MOST_PARTS = 2**14


def strided_values(
    source: int, start: int, shape: Sequence[int], stride: Sequence[int], dtype: str
) -> Iterator[torch.Tensor]:
    """Return a tensor's elements in the order of its axes, in flat pieces of some megabytes at most.

    Args:
        source: the open file.
        start: where its first element is in it.
        shape: its sizes; none is 0.
        stride: its strides, in elements.
        dtype: torch's name.
    """
    item = ITEM_BYTES[dtype]
    if _is_contiguous(shape, stride):
        for first in range(0, prod(shape), _PIECE // item):
            yield _read(source, start + first * item, min(_PIECE // item, prod(shape) - first), dtype)
        return
    row = prod(shape[1:])
    if row * item > _BLOCK:
        for index in range(shape[0]):
            yield from strided_values(source, start + index * stride[0] * item, shape[1:], stride[1:], dtype)
        return
    at_once = _BLOCK // (row * item)
    for index in range(0, shape[0], at_once):
        block = (min(at_once, shape[0] - index), *shape[1:])
        yield _block(source, start + index * stride[0] * item, block, stride, dtype).reshape(-1)


def _block(source: int, start: int, shape: Sequence[int], stride: Sequence[int], dtype: str) -> torch.Tensor:
    """The elements of a block, which are few; they may lie far apart."""
    import torch

    item = ITEM_BYTES[dtype]
    extents = [(size - 1) * step * item for size, step in zip(shape, stride, strict=True)]
    # Repeated elements (a stride of 0) make the span short; gaps make it long.
    if sum(extents) <= 2 * prod(shape) * item or max(extents) <= _GAP:
        span = _read(source, start, sum(extents) // item + 1, dtype)
        return span.as_strided(tuple(shape), tuple(stride)).contiguous()
    axis = extents.index(max(extents))
    at_once = max(1, _GAP // (stride[axis] * item), shape[axis] // _MOST_PARTS)
    parts = []
    for index in range(0, shape[axis], at_once):
        part = [*shape[:axis], min(at_once, shape[axis] - index), *shape[axis + 1 :]]
        parts.append(_block(source, start + index * stride[axis] * item, part, stride, dtype))
    return torch.cat(parts, dim=axis)


def _read(source: int, start: int, count: int, dtype: str) -> torch.Tensor:
    import torch

    taken = bytearray(count * ITEM_BYTES[dtype])
    read_into(source, memoryview(taken), start)
    return torch.frombuffer(taken, dtype=getattr(torch, dtype))


def _is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
