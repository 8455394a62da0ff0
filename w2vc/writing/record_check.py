"""Checks while copying: each record's CRC-32 against the zip's, and whether its values are finite.

The copying keeps one core busy, this another; when the copying is done, both go on here. The bytes are read twice, the
second time from the page cache.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import BinaryIO

from w2vc.errors import DamagedError
from w2vc.planning.plan import Move, Plan
from w2vc.reading.archive import Archive, Record
from w2vc.reading.checkpoint import ITEM_BYTES, Checkpoint, SourceTensor
from w2vc.reading.source import GET_AGAIN
from w2vc.writing.crc32 import Crc32
from w2vc.writing.kernel_copy import read_into

# The bits of the exponent, in an unsigned integer as wide as the type.
_EXPONENTS = {
    "float64": ("<u8", 0x7FF0000000000000),
    "float32": ("<u4", 0x7F800000),
    "float16": ("<u2", 0x7C00),
    "bfloat16": ("<u2", 0x7F80),
}


class RecordCheck:
    """The check of a checkpoint's records, which begins as soon as the gate has let the file pass.

    There is no plan yet, but records under ``model`` will almost certainly be needed. So a thread begins with
    them while torch is imported and the plan is made; the rest is added when the plan is there.
    """

    def __init__(self) -> None:
        self._source = -1
        self._thread: threading.Thread | None = None
        self._waiting: deque[tuple[Record, str]] = deque()
        self._known: set[tuple[Record, str]] = set()
        self._wrong: dict[Record, None] = {}
        self._not_finite: dict[Record, int] = {}
        self._failure: BaseException | None = None
        self._is_over = False

    def __enter__(self) -> RecordCheck:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._waiting.clear()
        # Nobody waits for a record of gigabytes whose file has been refused.
        self._is_over = True
        if self._thread is not None:
            self._thread.join()
        if self._source >= 0:
            os.close(self._source)

    @property
    def is_hopeless(self) -> bool:
        """Whether something is wrong already, so that nobody needs to go on."""
        return bool(self._wrong) or self._failure is not None

    def begin(self, file: BinaryIO, archive: Archive) -> None:
        """Begin with the records under ``model``, in a thread."""
        self._source = os.dup(file.fileno())
        for tensor in archive.program.model_tensors:
            self._add(archive.records[f"data/{tensor.storage.key}"], tensor.dtype)
        thread = threading.Thread(target=self.work, name="checksums", daemon=True)
        with suppress(RuntimeError):  # no thread is to be had: finish() does all of it
            thread.start()
            self._thread = thread

    def finish(self, source: int, checkpoint: Checkpoint, plan: Plan) -> tuple[Mapping[str, int], int]:
        """Check what is left of the plan's records, on this thread too.

        Args:
            source: the checkpoint's file descriptor.
            checkpoint: what the file holds.
            plan: which of it is used.

        Returns:
            How many values are not finite, by tensor; and how many checksums were right.

        Raises:
            DamagedError: a checksum is wrong, or the file ended early.
        """
        if self._source < 0:
            self._source = os.dup(source)
        users = _users(plan)
        for record, tensors in users.items():
            for dtype in sorted({tensor.dtype for tensor in tensors}):
                self._add(record, dtype)
        self._work_together()
        # A record may hold one tensor for several languages.
        names = {
            record: " and ".join(list(dict.fromkeys(tensor.name for tensor in tensors))[:3])
            for record, tensors in users.items()
        }
        if self._wrong:
            raise DamagedError(
                [
                    f"{checkpoint.path}: the checksum of {record.name} ({names.get(record, 'not used')}) is wrong"
                    for record in self._wrong
                ],
                advice=GET_AGAIN,
            )
        found: dict[str, int] = {}
        for record, count in self._not_finite.items():
            if record in names:
                found[names[record]] = found.get(names[record], 0) + count
        return dict(sorted(found.items())), sum(record.crc32 is not None for record in users)

    def _work_together(self) -> None:
        self.work()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _add(self, record: Record, dtype: str) -> None:
        # What a value is says the tensor, not the storage: an untyped one holds any.
        if (record, dtype) not in self._known:
            self._known.add((record, dtype))
            self._waiting.append((record, dtype))

    def work(self) -> None:
        """Check records until none is left or something is wrong. Several threads may do so at once."""
        crc32 = None
        try:
            while not self.is_hopeless:
                try:
                    record, dtype = self._waiting.popleft()
                except IndexError:
                    return
                # Until torch is there, its import has the interpreter, and few calls matter more than few cycles.
                crc32 = crc32 or Crc32(folding="torch" in sys.modules)
                self._look_at(record, dtype, crc32)
        except BaseException as error:  # of either thread; finish() raises it
            self._failure = error

    def _look_at(self, record: Record, dtype: str, crc32: Crc32) -> None:
        crc32.begin(record.size)
        count = done = 0
        while done < record.size:
            piece = crc32.room(record.size - done)
            read_into(self._source, piece, record.offset + done)
            if dtype in _EXPONENTS:
                count += _not_finite(piece[: len(piece) - len(piece) % ITEM_BYTES[dtype]], dtype)
            crc32.add(piece)
            done += len(piece)
            if self._is_over or self.is_hopeless:
                return
        if record.crc32 is not None and crc32.value != record.crc32:
            self._wrong[record] = None
        if count:
            self._not_finite[record] = self._not_finite.get(record, 0) + count


def _not_finite(piece: memoryview, dtype: str) -> int:
    """How many values are NaN or infinite: those whose exponent's bits are all set.

    With numpy, which stays on the calling thread and gives the interpreter up while it works; torch would wake its
    other threads for every piece.
    """
    import numpy as np

    if dtype == "float32":
        with np.errstate(all="ignore"):
            # One pass, and one turn with the interpreter: a sum is finite only if every term is.
            if np.isfinite(np.frombuffer(piece, np.float32).sum()):
                return 0
    unsigned, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(piece, np.dtype(unsigned))
    mask = bits.dtype.type(exponent)
    return int(np.count_nonzero((bits & mask) == mask))


def _users(plan: Plan) -> dict[Record, list[SourceTensor]]:
    """Return the tensors that a plan takes from each record, or holds against another."""
    users: dict[Record, list[SourceTensor]] = {}
    written = (tensor for tensors in plan.weights.values() for tensor in tensors)
    for move in (tensor for tensor in written if isinstance(tensor, Move)):
        for tensor in (move.source, *move.equals):
            users.setdefault(tensor.storage, []).append(tensor)
    return users
