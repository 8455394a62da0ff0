"""Every tensor of an output against the checkpoint: bit for bit, or by the transformation that the plan declares.

Both files are read once, in bounded pieces. A tensor that differs is read again, to say where and what it holds
instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from w2vc.errors import DamagedError
from w2vc.families.family import FirstRow, Scale
from w2vc.planning.plan import Make, Move, Plan
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import ITEM_BYTES, Checkpoint
from w2vc.verifying.tensor_reader import PIECE_ELEMENTS, is_damaged, read_exactly, same_bytes, source_pieces
from w2vc.verifying.verification import Finding
from w2vc.writing.safetensors_file import DTYPE_CODES, read_header
from w2vc.writing.writer import Watch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


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
    checkpoint: Checkpoint, plan: Plan, weights: Path, found: dict[str, Entry], watch: Watch | None = None
) -> list[Finding]:
    """Every difference between the plan's tensors and the file's.

    Args:
        checkpoint: where the plan's bytes come from.
        plan: what the file should hold.
        weights: the safetensors file.
        found: what it holds (``entries``).
        watch: told of the progress.

    Raises:
        DamagedError: a tensor differs, and the checkpoint's own checksum says that the checkpoint is at fault.
    """
    with open_checkpoint(checkpoint.path) as source, weights.open("rb", buffering=0) as output:
        comparison = _Comparison(checkpoint, plan, source.fileno(), output.fileno(), found)
        return [*comparison.findings(watch), *_extra(plan, found)]


def _extra(plan: Plan, found: dict[str, Entry]) -> Iterator[Finding]:
    wanted = {tensor.target for tensor in plan.tensors}
    for name, entry in found.items():
        if name not in wanted:
            yield Finding("tensors", name, "no such tensor", str(entry))


class _Comparison:
    """The plan's tensors beside the file's."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, source: int, output: int, found: dict[str, Entry]) -> None:
        self.checkpoint = checkpoint
        self.plan = plan
        self.source = source
        self.output = output
        self.found = found

    def findings(self, watch: Watch | None) -> Iterator[Finding]:
        whole = sum(entry.nbytes for entry in self.found.values())
        done = 0
        for tensor in self.plan.tensors:
            entry = self.found.get(tensor.target)
            expected = Entry(DTYPE_CODES[tensor.dtype], tensor.shape, 0, 0)
            if entry is None:
                yield Finding("tensors", tensor.target, f"{expected}, {_origin(tensor)}", "no such tensor")
                continue
            nbytes = _elements(tensor) * ITEM_BYTES[tensor.dtype]
            if (entry.dtype, entry.shape, entry.nbytes) != (expected.dtype, expected.shape, nbytes):
                yield Finding("tensors", tensor.target, f"{expected}, {_origin(tensor)}", str(entry))
            elif not self._equal(tensor, entry):
                yield self._described(tensor, entry)
            done += entry.nbytes
            if watch is not None:
                watch(done, whole)

    def _equal(self, tensor: Move | Make, entry: Entry) -> bool:
        if isinstance(tensor, Move) and _as_it_is(tensor):
            start = tensor.source.storage.offset + tensor.source.offset
            return same_bytes(self.source, start, self.output, entry.start, entry.nbytes)
        return all(expected == found for expected, found in self._pairs(tensor, entry))

    def _pairs(self, tensor: Move | Make, entry: Entry) -> Iterator[tuple[bytes, bytearray]]:
        place = entry.start
        for piece in expected_pieces(self.source, tensor):
            expected = _bytes(piece)
            yield expected, read_exactly(self.output, place, len(expected))
            place += len(expected)

    def _described(self, tensor: Move | Make, entry: Entry) -> Finding:
        if isinstance(tensor, Move) and is_damaged(self.source, tensor.source.storage):
            raise DamagedError(
                f"{self.checkpoint.path}: the checksum of {tensor.source.storage.name} ({tensor.source.name}) is wrong",
                advice="Download or copy the checkpoint again and compare its checksum.",
            )
        found = f"{self._how_many(tensor, entry)}{self._held_instead(tensor, entry)}"
        return Finding("tensors", tensor.target, _origin(tensor), found)

    def _how_many(self, tensor: Move | Make, entry: Entry) -> str:
        import torch

        dtype = getattr(torch, tensor.dtype)
        elements = differing = differing_bytes = 0
        first = ""
        for expected, found in self._pairs(tensor, entry):
            ours = torch.frombuffer(bytearray(expected), dtype=torch.uint8).reshape(-1, ITEM_BYTES[tensor.dtype])
            theirs = torch.frombuffer(found, dtype=torch.uint8).reshape(ours.shape)
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
            found.update(read_exactly(self.output, entry.start + start, min(2**20, entry.nbytes - start)))
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
            for piece in expected_pieces(self.source, tensor):
                checksum.update(_bytes(piece))
            checksums.setdefault((tensor.shape, tensor.dtype), {})[tensor.target] = checksum.digest()
        return checksums


def expected_pieces(source: int, tensor: Move | Make) -> Iterator[Tensor]:
    """What a tensor of the output should hold: flat, in its dtype, a bounded number of elements at a time."""
    import torch

    dtype = getattr(torch, tensor.dtype)
    if isinstance(tensor, Make):
        yield from (piece.to(dtype) for piece in _made(tensor))
        return
    start = 0
    for piece in source_pieces(source, tensor.source):
        yield _edited(piece, tensor, start).to(dtype)
        start += len(piece)


def _edited(piece: Tensor, tensor: Move, start: int) -> Tensor:
    """Return a piece that begins at element ``start`` of the tensor as the plan's edit changes it."""
    if isinstance(tensor.edit, Scale):
        return piece.double() * tensor.edit.factor
    if tensor.edit is None:
        return piece
    rows = tensor.shape[0] if tensor.shape else 1
    return _with_first_row(piece, tensor.edit, _elements(tensor) // rows - start)


def _with_first_row(piece: Tensor, change: FirstRow, count: int) -> Tensor:
    """A piece whose first ``count`` elements belong to row 0; in double precision, so that a sum is rounded once."""
    if count <= 0:
        return piece
    changed = piece.double()
    changed[:count] = changed[:count] + change.value if change.mode == "add" else change.value
    return changed


def _as_it_is(tensor: Move) -> bool:
    return tensor.dtype == tensor.source.dtype and tensor.source.is_contiguous and tensor.edit is None


def _made(tensor: Make) -> Iterator[Tensor]:
    import torch

    if tensor.content == "identity":
        size = tensor.shape[1]
        for row in range(tensor.shape[0]):
            yield (torch.arange(size) == row).float()
        return
    elements = _elements(tensor)
    for start in range(0, elements, PIECE_ELEMENTS):
        fill = {"zeros": 0.0, "ones": 1.0, "constant": tensor.value}[tensor.content]
        yield torch.full((min(PIECE_ELEMENTS, elements - start),), fill)


def _origin(tensor: Move | Make) -> str:
    if isinstance(tensor, Make):
        return f"{tensor.content} ({tensor.reason})"
    changed = {type(None): "", FirstRow: ", the blank weight in row 0", Scale: ", scaled"}[type(tensor.edit)]
    cast = "" if tensor.dtype == tensor.source.dtype else f" as {tensor.dtype}"
    return f"{tensor.source.name}{cast}{changed}"


def _bytes(piece: Tensor) -> bytes:
    import torch

    values: NDArray[np.uint8] = piece.contiguous().view(torch.uint8).numpy()
    return values.tobytes()


def _elements(tensor: Move | Make) -> int:
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    index = []
    for size in reversed(shape):
        flat, at = divmod(flat, size)
        index.append(at)
    return index[::-1]
