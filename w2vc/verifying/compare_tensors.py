"""Every tensor of an output against the checkpoint: bit for bit, or by the transformation that the plan declares.

The checkpoint's tensors are those that ``torch.load`` gives, so that a mistake in where w2vc looks for them shows.
Both sides are looked at in bounded pieces. A tensor that differs is read again, to say where and what it holds instead.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from w2vc.errors import DamagedError
from w2vc.families.family import FirstRow, Scale
from w2vc.planning.plan import Make, Move, Plan
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import ITEM_BYTES, Checkpoint
from w2vc.reading.opening import read_exactly
from w2vc.reading.source import GET_AGAIN
from w2vc.verifying.verification import Finding
from w2vc.writing.safetensors_file import DTYPE_CODES, read_header
from w2vc.writing.writer import Watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PIECE_ELEMENTS = 2**19
"""Elements of a piece: small enough for a core's cache, large enough that system calls cost nothing."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file: its dtype as the format spells it, its sizes, and its place in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def entries(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, each found to lie within the file.

    Raises:
        ValueError: the file can't be read, or contradicts itself; says how.
    """
    try:
        header = read_header(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            base = 8 + int.from_bytes(file.read(8), "little")
        found = {name: _entry(values, base) for name, values in header.items() if name != "__metadata__"}
    except OSError as error:
        raise ValueError(f"a file that can't be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("a damaged header") from error
    end = max((entry.start + entry.nbytes for entry in found.values()), default=base)
    if end != size:
        raise ValueError(f"{size:,} bytes, where its header says {end:,}")
    return found


def _entry(values: dict[str, object], base: int) -> Entry:
    offsets, shape = values["data_offsets"], values["shape"]
    if not (isinstance(offsets, list) and isinstance(shape, list)):
        raise TypeError
    start, stop = offsets
    if not all(type(number) is int and number >= 0 for number in (start, stop - start, *shape)):
        raise ValueError
    return Entry(str(values["dtype"]), tuple(shape), base + start, stop - start)


def compare_tensors(
    checkpoint: Checkpoint,
    sources: Mapping[str, Tensor],
    plan: Plan,
    weights: Path,
    found: Mapping[str, Entry],
    watch: Watch | None = None,
) -> list[Finding]:
    """Return every difference between the plan's tensors and the file's.

    Args:
        checkpoint: whose checksums tell who is at fault.
        sources: its tensors as ``torch.load`` gives them.
        plan: what the file should hold.
        weights: the safetensors file.
        found: what it holds (``entries``).
        watch: progress callback: (bytes done, total bytes).

    Raises:
        DamagedError: a tensor differs, and the checkpoint's own checksum says that the checkpoint is at fault.
    """
    with open_checkpoint(weights) as output:
        comparison = _Comparison(checkpoint, sources, plan, output, weights, found)
        return [*comparison.findings(watch), *_extra(plan, found)]


def _extra(plan: Plan, found: Mapping[str, Entry]) -> Iterator[Finding]:
    wanted = {tensor.target for tensor in plan.tensors}
    for name, entry in found.items():
        if name not in wanted:
            yield Finding("tensors", name, "no such tensor", str(entry))


@dataclass(frozen=True)
class _Comparison:
    """The plan's tensors and the file's; attributes as in ``compare_tensors``."""

    checkpoint: Checkpoint
    sources: Mapping[str, Tensor]
    plan: Plan
    output: BinaryIO
    weights: Path
    found: Mapping[str, Entry]

    def findings(self, watch: Watch | None) -> Iterator[Finding]:
        whole = sum(entry.nbytes for entry in self.found.values())
        done = 0
        for tensor in self.plan.tensors:
            entry = self.found.get(tensor.target)
            finding = self._finding(tensor, entry)
            if finding is not None:
                yield finding
            done += 0 if entry is None else entry.nbytes
            if watch is not None:
                watch(done, whole)

    def _finding(self, tensor: Move | Make, entry: Entry | None) -> Finding | None:
        expected = f"{DTYPE_CODES[tensor.dtype]} {list(tensor.shape)}"
        if entry is None:
            return Finding("tensors", tensor.target, f"{expected}, {_origin(tensor)}", "no such tensor")
        nbytes = math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]
        if (str(entry), entry.nbytes) != (expected, nbytes):
            return Finding("tensors", tensor.target, f"{expected}, {_origin(tensor)}", str(entry))
        unlike = self._unlike_torchs(tensor)
        if unlike:
            return Finding("tensors", tensor.target, _origin(tensor), unlike)
        return None if self._equal(tensor, entry) else self._described(tensor, entry)

    def _unlike_torchs(self, tensor: Move | Make) -> str:
        """Return what torch gives in the place of the tensor that was planned with; empty where it is that one."""
        if isinstance(tensor, Make):
            return ""
        found = self.sources.get(tensor.source.name)
        if found is None:
            return "no such tensor in what torch.load gives"
        form = (tuple(found.shape), str(found.dtype).removeprefix("torch."))
        if form == (tensor.source.shape, tensor.source.dtype):
            return ""
        return f"a tensor that torch.load gives as {form[1]} {list(form[0])}"

    def _equal(self, tensor: Move | Make, entry: Entry) -> bool:
        return all(expected == found for expected, found in self._pairs(tensor, entry))

    def _pairs(self, tensor: Move | Make, entry: Entry) -> Iterator[tuple[bytes, bytes]]:
        start = entry.start
        for piece in expected_pieces(self.sources, tensor):
            expected = _bytes(piece)
            yield expected, self._read(start, len(expected))
            start += len(expected)

    def _read(self, start: int, count: int) -> bytes:
        return read_exactly(self.output, self.weights, start, count)

    def _described(self, tensor: Move | Make, entry: Entry) -> Finding:
        if isinstance(tensor, Move) and self._is_damaged(self.sources[tensor.source.name]):
            raise DamagedError(
                f"{self.checkpoint.path}: the checksum of {tensor.source.storage.name} ({tensor.source.name}) is wrong",
                advice=GET_AGAIN,
            )
        found = f"{self._how_many(tensor, entry)}{self._held_instead(tensor, entry)}"
        return Finding("tensors", tensor.target, _origin(tensor), found)

    def _is_damaged(self, source: Tensor) -> bool:
        """Whether no record of the file has the checksum of the storage that torch gives; False without checksums.

        Any record: which of them is the tensor's is what may be in doubt.
        """
        import torch

        storage = torch.empty(0, dtype=torch.uint8).set_(source.untyped_storage())
        records = {record.crc32 for record in self.checkpoint.archive.records.values() if record.size == len(storage)}
        if not records or None in records:
            return False
        checksum = 0
        for start in range(0, len(storage), 2**20):
            piece: NDArray[np.uint8] = storage[start : start + 2**20].numpy()
            checksum = zlib.crc32(piece.data, checksum)
        return checksum not in records

    def _how_many(self, tensor: Move | Make, entry: Entry) -> str:
        import torch

        dtype = getattr(torch, tensor.dtype)
        elements = differing = differing_bytes = 0
        first = ""
        for expected, found in self._pairs(tensor, entry):
            ours = torch.frombuffer(bytearray(expected), dtype=torch.uint8).reshape(-1, ITEM_BYTES[tensor.dtype])
            theirs = torch.frombuffer(bytearray(found), dtype=torch.uint8).reshape(ours.shape)
            unequal = ours != theirs
            places = unequal.any(1).nonzero().flatten()
            if len(places) and not first:
                at = int(places[0])
                values = (float(side.view(dtype)[at]) for side in (theirs, ours))
                first = (
                    f"{_index(elements + at, tensor.shape)} ({' instead of '.join(f'{value:.9g}' for value in values)})"
                )
            elements += len(ours)
            differing += len(places)
            differing_bytes += int(unequal.sum())
        return f"{differing:,} of {elements:,} elements different ({differing_bytes:,} bytes), the first at {first}"

    def _held_instead(self, tensor: Move | Make, entry: Entry) -> str:
        found = hashlib.blake2b()
        for start in range(0, entry.nbytes, 2**20):
            found.update(self._read(entry.start + start, min(2**20, entry.nbytes - start)))
        other = next(
            (
                name
                for name, checksum in self._checksums.get((tensor.shape, tensor.dtype), {}).items()
                if checksum == found.digest() and name != tensor.target
            ),
            None,
        )
        return "" if other is None else f"; it holds what {other} should hold"

    @cached_property
    def _checksums(self) -> dict[tuple[tuple[int, ...], str], dict[str, bytes]]:
        """What each tensor should hold, hashed, by shape and dtype; made only once something differs."""
        checksums: dict[tuple[tuple[int, ...], str], dict[str, bytes]] = {}
        for tensor in self.plan.tensors:
            checksum = hashlib.blake2b()
            for piece in expected_pieces(self.sources, tensor):
                checksum.update(_bytes(piece))
            checksums.setdefault((tensor.shape, tensor.dtype), {})[tensor.target] = checksum.digest()
        return checksums


def expected_pieces(sources: Mapping[str, Tensor], tensor: Move | Make) -> Iterator[Tensor]:
    """Yield what a tensor of the output should hold: flat, in its dtype, a bounded number of elements at a time."""
    import torch

    dtype = getattr(torch, tensor.dtype)
    if isinstance(tensor, Make):
        yield from (piece.to(dtype) for piece in _made(tensor))
        return
    # A tensor whose elements don't lie one after the other is copied whole.
    flat = sources[tensor.source.name].reshape(-1)
    for start in range(0, len(flat), PIECE_ELEMENTS):
        yield _edited(flat[start : start + PIECE_ELEMENTS], tensor, start).to(dtype)


def _edited(piece: Tensor, tensor: Move, start: int) -> Tensor:
    """Apply the plan's edit to a piece that begins at ``start``; in double precision, so that it is rounded once."""
    match tensor.edit:
        case Scale(factor):
            return piece.double() * factor
        case FirstRow():
            rows = tensor.shape[0] if tensor.shape else 1
            return _with_first_row(piece, tensor.edit, math.prod(tensor.shape) // rows - start)
    return piece


def _with_first_row(piece: Tensor, change: FirstRow, count: int) -> Tensor:
    """Change the first ``count`` elements of a piece, which belong to row 0."""
    if count <= 0:
        return piece
    changed = piece.double()
    changed[:count] = changed[:count] + change.value if change.mode == "add" else change.value
    return changed


def _made(tensor: Make) -> Iterator[Tensor]:
    import torch

    if tensor.content == "identity":
        size = tensor.shape[1]
        for row in range(tensor.shape[0]):
            yield (torch.arange(size) == row).float()
        return
    value = {"zeros": 0.0, "ones": 1.0, "constant": tensor.value}[tensor.content]
    elements = math.prod(tensor.shape)
    for start in range(0, elements, PIECE_ELEMENTS):
        yield torch.full((min(PIECE_ELEMENTS, elements - start),), value, dtype=torch.float64)


def _origin(tensor: Move | Make) -> str:
    if isinstance(tensor, Make):
        return f"{tensor.content} ({tensor.reason})"
    match tensor.edit:
        case FirstRow():
            changed = ", the blank weight in row 0"
        case Scale(factor):
            changed = f", times {factor:.9g}"
        case _:
            changed = ""
    cast = "" if tensor.dtype == tensor.source.dtype else f" as {tensor.dtype}"
    return f"{tensor.source.name}{cast}{changed}"


def _bytes(piece: Tensor) -> bytes:
    import torch

    values: NDArray[np.uint8] = piece.contiguous().view(torch.uint8).numpy()
    return values.tobytes()


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    index = []
    for size in reversed(shape):
        flat, at = divmod(flat, size)
        index.append(at)
    return index[::-1]
