"""Checks beside the copying: each record's CRC-32 against the zip's, and whether its values are finite.

The copying keeps one core busy, this another; when the copying is done, both go on here. The bytes are read a second
time, from the page cache that the copying fills.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from w2vc.archive import Record
from w2vc.checkpoint import ITEM_BYTES, Checkpoint, SourceTensor
from w2vc.errors import DamagedError
from w2vc.kernel_copy import read_into
from w2vc.plan import Plan

# Large enough that calls cost nothing, small enough that a core's cache keeps a piece from one use to the next.
_PIECE = 2**20
# The bits of the exponent, in an unsigned integer as wide as the type.
_EXPONENTS = {
    "float64": ("<u8", 0x7FF0000000000000),
    "float32": ("<u4", 0x7F800000),
    "float16": ("<u2", 0x7C00),
    "bfloat16": ("<u2", 0x7F80),
}


@dataclass
class RecordCheck:
    """The records that a plan uses, and what has been found out about them so far.

    Attributes:
        checkpoint: whose records they are.
        waiting: those that nobody has looked at yet, with the tensors in each.
        not_finite: how many values are NaN or infinite, by the tensors' names.
        problems: wrong checksums.
        compared: how many checksums were right.
    """

    checkpoint: Checkpoint
    waiting: deque[tuple[Record, tuple[SourceTensor, ...]]]
    not_finite: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    compared: int = 0

    @classmethod
    def of(cls, checkpoint: Checkpoint, plan: Plan) -> RecordCheck:
        """The check that a plan needs: each record once, in the order of the copying."""
        users: dict[Record, list[SourceTensor]] = {}
        for move in plan.moves:
            for tensor in (move.source, *move.equals):
                users.setdefault(tensor.storage, []).append(tensor)
        return cls(checkpoint, deque((record, tuple(tensors)) for record, tensors in users.items()))

    def work(self, source: int) -> None:
        """Looks at records until none is left, or one is wrong. Several threads may do so at once.

        Args:
            source: the checkpoint's file descriptor.
        """
        buffer = memoryview(bytearray(_PIECE))
        while not self.problems:
            try:
                record, tensors = self.waiting.popleft()
            except IndexError:
                return
            self._look_at(source, record, tensors, buffer)

    @contextmanager
    def stopped_by_errors(self) -> Iterator[None]:
        """Leaves the other threads nothing to do when an error or a signal ends the block."""
        try:
            yield
        except BaseException:
            self.waiting.clear()
            raise

    def result(self) -> Mapping[str, int]:
        """How many values are not finite, by tensor; empty as a rule.

        Raises:
            DamagedError: a checksum is wrong.
        """
        if self.problems:
            raise DamagedError(self.problems, advice="Download or copy the checkpoint again and compare its checksum.")
        return dict(sorted(self.not_finite.items()))

    def _look_at(self, source: int, record: Record, tensors: tuple[SourceTensor, ...], buffer: memoryview) -> None:
        dtype = tensors[0].dtype
        checksum = count = done = 0
        while done < record.size:
            piece = buffer[: min(_PIECE, record.size - done)]
            read_into(source, piece, record.offset + done)
            checksum = zlib.crc32(piece, checksum)
            if dtype in _EXPONENTS and len(piece) % ITEM_BYTES[dtype] == 0:
                count += _not_finite(piece, dtype)
            done += len(piece)
        names = " and ".join(tensor.name for tensor in tensors[:3])
        if record.crc32 is not None and checksum != record.crc32:
            self.problems.append(f"{self.checkpoint.path}: the checksum of {record.name} ({names}) is wrong")
        self.compared += record.crc32 is not None
        if count:
            self.not_finite[names] = count


def _not_finite(piece: memoryview, dtype: str) -> int:
    """How many values are NaN or infinite: those whose exponent's bits are all set.

    With numpy, which stays on the calling thread and gives the interpreter up while it works; torch would wake its
    other threads for every piece.
    """
    import numpy as np

    unsigned, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(piece, np.dtype(unsigned))
    mask = bits.dtype.type(exponent)
    return int(np.count_nonzero((bits & mask) == mask))
