"""Carries out a plan: the only place where tensors' bytes move, and the only writer.

Bytes that stay as they are are copied inside the kernel. On the other core the source's checksums are compared and its
values looked at; transformers' own classes, slow to import, load meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2vc.errors import DamagedError, InconsistentError
from w2vc.families.family import Edit, Scale
from w2vc.planning.plan import Make, Move, Plan, different
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import Checkpoint, SourceTensor, identity_of
from w2vc.writing.acceptance import accept, load_classes
from w2vc.writing.background import Background
from w2vc.writing.kernel_copy import copy_range, reserve, write_at, written_back_meanwhile
from w2vc.writing.output_directory import output_directory, sync
from w2vc.writing.record_check import RecordCheck
from w2vc.writing.safetensors_file import DTYPE_CODES, Layout, layout
from w2vc.writing.strided import strided_values

if TYPE_CHECKING:
    import torch

# How many elements of a made tensor are held at a time.
_MADE_AT_ONCE = 2**15

Watch = Callable[[int, int], None]
"""Told how many of how many bytes are done."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        bytes_written: of all files together.
        not_finite: how many values are NaN or infinite, by fairseq's name of the tensor.
        checksums: how many records' CRC-32 were compared; 0 where the file has none.
    """

    bytes_written: int
    not_finite: Mapping[str, int]
    checksums: int


def write(
    checkpoint: Checkpoint,
    plan: Plan,
    output: Path,
    *,
    check: RecordCheck,
    metadata: Mapping[str, str],
    force: bool = False,
    protected: Sequence[Path] = (),
    watch: Watch | None = None,
) -> Written:
    """Write the directory that the plan describes.

    Args:
        checkpoint: where the bytes come from.
        plan: what to write.
        output: the directory; appears complete or not at all.
        check: of the checkpoint's records, begun or not.
        metadata: for the safetensors file.
        force: replace an earlier conversion.
        protected: files that are never replaced or removed.
        watch: progress callback (bytes done, total bytes).

    Raises:
        OutputError: the place is taken or can't be written.
        DamagedError: a checksum is wrong, or the file changed or ended early.
        InconsistentError: tensors that have to be equal aren't.
    """
    places = {name: _layout(tensors, metadata) for name, tensors in plan.weights.items()}
    placed = output_directory(output, force=force, protected=protected)
    with placed as building, Background() as threads:
        classes = threads.submit(load_classes, plan.config_class, with_tokenizer=plan.vocabulary is not None)
        with open_checkpoint(checkpoint.path) as file, _unchanged(file.fileno(), checkpoint):
            done = _Done(sum(place.size for place in places.values()), watch)
            synced = []
            for name, tensors in plan.weights.items():
                _write_weights(file.fileno(), tensors, places[name], building / name, done, check)
                # To the disk while the rest is written, the last checksums are compared and the classes load.
                synced.append(threads.submit(sync, building / name))
            not_finite, checksums = check.finish(file.fileno(), checkpoint, plan)
        for name, contents in plan.files.items():
            _write_file(building / name, contents)
        for name, tensors in plan.weights.items():
            _open_with_library(building / name, tensors)
        accept(classes.result(), plan, building)
        for each in synced:
            each.result()
    return Written(done.whole + sum(map(len, plan.files.values())), not_finite, checksums)


@contextmanager
def _unchanged(file: int, checkpoint: Checkpoint) -> Iterator[None]:
    """Raise if the checkpoint changed since it was examined."""
    before = identity_of(file)
    yield
    if not checkpoint.identity == before == identity_of(file):
        raise DamagedError(
            f"{checkpoint.path} was changed while it was read",
            advice="Wait until whatever writes it is done, then run again.",
        )


def _write_file(path: Path, contents: bytes) -> None:
    with path.open("xb") as file:
        file.write(contents)


# ---------------------------------------------------------------------------------------------------------------
# Weights


def _layout(tensors: Iterable[Move | Make], metadata: Mapping[str, str]) -> Layout:
    names_and_shapes = ((tensor.target, tensor.dtype, tensor.shape) for tensor in tensors)
    return layout(names_and_shapes, {**metadata, "format": "pt"})


class _Done:
    """How many of how many bytes are done, reported to a callback."""

    def __init__(self, whole: int, watch: Watch | None) -> None:
        self.whole = whole
        self._watch = watch
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._watch is not None:
            self._watch(self._done, self.whole)


def _write_weights(
    source: int, tensors: Iterable[Move | Make], places: Layout, path: Path, done: _Done, check: RecordCheck
) -> None:
    with path.open("xb", buffering=0) as file, written_back_meanwhile(file.fileno(), places.size):
        target = file.fileno()
        reserve(target, places.size)
        write_at(target, places.header, 0)
        done.add(len(places.header))
        for tensor in tensors:
            if check.is_hopeless:
                return  # the caller asks what is wrong
            for piece in _written_pieces(source, target, tensor, places.offsets[tensor.target]):
                done.add(piece)


def _written_pieces(source: int, target: int, tensor: Move | Make, place: int) -> Iterator[int]:
    """Write one tensor; yield the number of bytes after each piece."""
    if isinstance(tensor, Move):
        _hold_equal(source, tensor)
        if _as_it_is(tensor):
            start = tensor.source.storage.offset + tensor.source.offset
            yield from copy_range(source, start, target, place, tensor.source.nbytes)
            return
    for piece in (
        _made(tensor) if isinstance(tensor, Make) else _pieces(source, tensor.source, tensor.dtype, tensor.edit)
    ):
        write_at(target, piece, place)
        place += len(piece)
        yield len(piece)


def _as_it_is(tensor: Move) -> bool:
    return tensor.dtype == tensor.source.dtype and tensor.source.is_contiguous and tensor.edit is None


def _hold_equal(source: int, tensor: Move) -> None:
    """The tensors that become one have to be equal: there is one a layer, of a few hundred bytes."""
    if not tensor.equals:
        return
    first = _bytes_of(source, tensor.source)
    problems = [different(tensor.source, other) for other in tensor.equals if _bytes_of(source, other) != first]
    if problems:
        raise InconsistentError(problems, advice="A model with other frequencies in each layer can't be converted.")


def _bytes_of(source: int, tensor: SourceTensor) -> bytes:
    return b"".join(bytes(piece) for piece in _pieces(source, tensor, tensor.dtype, None))


def _pieces(source: int, tensor: SourceTensor, dtype: str, edit: Edit | None) -> Iterator[bytes]:
    """Give a tensor's elements in order, edited and cast to ``dtype``, a bounded number of them at a time."""
    import torch

    kind, start = getattr(torch, dtype), 0
    for values in _values(source, tensor):
        yield _as_bytes(_edited(values, tensor, edit, start, kind))
        start += len(values)


def _edited(
    values: torch.Tensor, tensor: SourceTensor, edit: Edit | None, start: int, kind: torch.dtype
) -> torch.Tensor:
    """Edit and cast some elements, the first of which is at ``start``; computed in double precision, rounded once."""
    import torch

    if isinstance(edit, Scale):
        return (values.to(torch.float64) * edit.factor).to(kind)
    if edit is None:
        return values.to(kind)
    in_first_row = max(tensor.elements // (tensor.shape or (1,))[0] - start, 0)
    first = values[:in_first_row].to(torch.float64)
    first = first + edit.value if edit.mode == "add" else torch.full_like(first, edit.value)
    return torch.cat([first.to(kind), values[in_first_row:].to(kind)])


def _as_bytes(values: torch.Tensor) -> bytes:
    import torch

    flat = values.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _values(source: int, tensor: SourceTensor) -> Iterator[torch.Tensor]:
    """A tensor's elements in the order of its axes, flat, a bounded number of them at a time."""
    start = tensor.storage.offset + tensor.offset
    if tensor.elements:
        yield from strided_values(source, start, tensor.shape, tensor.stride, tensor.dtype)


def _made(tensor: Make) -> Iterator[bytes]:
    import torch

    dtype = getattr(torch, tensor.dtype)
    if tensor.content == "identity":
        rows, columns = tensor.shape
        for row in range(rows):
            values = torch.zeros(columns, dtype=dtype)
            values[row] = 1
            yield _as_bytes(values)
    else:
        fill = {"zeros": 0.0, "ones": 1.0, "constant": tensor.value}[tensor.content]
        left = math.prod(tensor.shape)
        while left:
            count = min(left, _MADE_AT_ONCE)
            yield _as_bytes(torch.full((count,), fill, dtype=dtype))
            left -= count


def _open_with_library(path: Path, tensors: Iterable[Move | Make]) -> None:
    """Open the file with the safetensors library itself and compare what it lists."""
    from safetensors import safe_open

    expected = {tensor.target: (DTYPE_CODES[tensor.dtype], list(tensor.shape)) for tensor in tensors}
    with safe_open(path, framework="pt") as opened:
        found = {}
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            part = opened.get_slice(name)
            found[name] = (part.get_dtype(), list(part.get_shape()))
    if found != expected:
        raise AssertionError(f"{path} holds other tensors than were written")
