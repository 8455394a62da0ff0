"""Carries out a plan: the only place where tensors' bytes move, and the only writer.

Bytes that stay as they are are copied inside the kernel. On the other core the source's checksums are compared and its
values looked at; transformers' own classes, slow to import, load meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2vc.errors import DamagedError, InconsistentError
from w2vc.planning.plan import FirstRow, Make, Move, Plan, different
from w2vc.planning.provenance import WEIGHTS as WEIGHTS
from w2vc.reading.archive import open_checkpoint
from w2vc.reading.checkpoint import ITEM_BYTES, Checkpoint, SourceTensor, identity_of
from w2vc.writing.acceptance import accept, load_classes
from w2vc.writing.background import Background
from w2vc.writing.kernel_copy import copy_range, read_into, reserve, write_at, written_back_meanwhile
from w2vc.writing.output_directory import output_directory, sync
from w2vc.writing.record_check import RecordCheck
from w2vc.writing.safetensors_file import DTYPE_CODES, Layout, layout

if TYPE_CHECKING:
    import torch

# How many bytes of a tensor are cast at a time: no more than torch casts without waking its other threads.
_PIECE = 2**17

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
    """Writes the directory that the plan describes.

    Args:
        checkpoint: where the bytes come from.
        plan: what to write.
        output: the directory; appears complete or not at all.
        check: of the checkpoint's records, begun or not.
        metadata: for the safetensors file.
        force: replace an earlier conversion.
        protected: files that are never replaced or removed.
        watch: told of the progress.

    Raises:
        OutputError: the place is taken or can't be written.
        DamagedError: a checksum is wrong, or the file changed or ended early.
        InconsistentError: tensors that have to be equal aren't.
    """
    names_and_shapes = ((tensor.target, tensor.dtype, tensor.shape) for tensor in plan.tensors)
    places = layout(names_and_shapes, {**metadata, "format": "pt"})
    placed = output_directory(output, force=force, protected=protected)
    with placed as building, Background() as threads:
        classes = threads.submit(load_classes, with_tokenizer=plan.vocabulary is not None)
        with open_checkpoint(checkpoint.path) as file, _unchanged(file.fileno(), checkpoint):
            _write_weights(file.fileno(), plan, places, building / WEIGHTS, watch, check)
            # To the disk while the last checksums are compared and the classes load.
            synced = threads.submit(sync, building / WEIGHTS)
            not_finite, checksums = check.finish(file.fileno(), checkpoint, plan)
        for name, contents in plan.files.items():
            _write_file(building / name, contents)
        _open_with_library(building / WEIGHTS, plan)
        accept(classes.result(), plan, building)
        synced.result()
    size = places.size + sum(map(len, plan.files.values()))
    return Written(size, not_finite, checksums)


@contextmanager
def _unchanged(file: int, checkpoint: Checkpoint) -> Iterator[None]:
    """Holds that the file stays what the gate looked at."""
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


def _write_weights(
    source: int, plan: Plan, places: Layout, path: Path, watch: Watch | None, check: RecordCheck
) -> None:
    with path.open("xb", buffering=0) as file, written_back_meanwhile(file.fileno(), places.size):
        target = file.fileno()
        reserve(target, places.size)
        write_at(target, places.header, 0)
        done = len(places.header)
        for tensor in plan.tensors:
            if check.is_hopeless:
                return  # the caller asks what is wrong
            for piece in _written_pieces(source, target, tensor, places.offsets[tensor.target]):
                done += piece
                if watch is not None:
                    watch(done, places.size)


def _written_pieces(source: int, target: int, tensor: Move | Make, place: int) -> Iterator[int]:
    """Writes one tensor; gives the number of bytes after each piece."""
    if isinstance(tensor, Move):
        _hold_equal(source, tensor)
        if _as_it_is(tensor):
            start = tensor.source.storage.offset + tensor.source.offset
            yield from copy_range(source, start, target, place, tensor.source.nbytes)
            return
    for piece in (
        _made(tensor) if isinstance(tensor, Make) else _pieces(source, tensor.source, tensor.dtype, tensor.first_row)
    ):
        write_at(target, piece, place)
        place += len(piece)
        yield len(piece)


def _as_it_is(tensor: Move) -> bool:
    return tensor.dtype == tensor.source.dtype and tensor.source.is_contiguous and tensor.first_row is None


def _read_exactly(source: int, start: int, count: int) -> bytearray:
    taken = bytearray(count)
    read_into(source, memoryview(taken), start)
    return taken


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


def _pieces(source: int, tensor: SourceTensor, dtype: str, first_row: FirstRow | None) -> Iterator[bytes]:
    """A tensor's elements in order, cast to ``dtype``, a bounded number of rows at a time."""
    import torch

    first = True
    for values in _rows(source, tensor):
        if first and first_row is not None and values.numel():
            # In double precision, so that the sum is rounded once.
            row = values.to(torch.float64) if values.dim() else values.to(torch.float64).reshape(1)
            row[0] = row[0] + first_row.value if first_row.mode == "add" else first_row.value
            values = torch.cat([row[:1].to(getattr(torch, dtype)), values[1:].to(getattr(torch, dtype))])
        first = False
        yield _as_bytes(values.to(getattr(torch, dtype)))


def _as_bytes(values: torch.Tensor) -> bytes:
    import torch

    flat = values.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _rows(source: int, tensor: SourceTensor) -> Iterator[torch.Tensor]:
    """A tensor along its first axis, in pieces of up to ``_PIECE`` bytes (one row at least)."""
    import torch

    dtype = getattr(torch, tensor.dtype)
    if not tensor.shape or tensor.elements == 0:
        taken = _read_exactly(source, tensor.storage.offset + tensor.offset, tensor.nbytes)
        yield torch.frombuffer(taken, dtype=dtype).reshape(tensor.shape)
        return
    rows, row_stride = tensor.shape[0], tensor.stride[0]
    item = ITEM_BYTES[tensor.dtype]
    row_span = tensor.span - (rows - 1) * row_stride * item
    at_once = max(1, _PIECE // max(row_stride * item, 1)) if row_span <= row_stride * item else rows
    for start in range(0, rows, at_once):
        count = min(at_once, rows - start)
        span = (count - 1) * row_stride * item + row_span
        place = tensor.storage.offset + tensor.offset + start * row_stride * item
        values = torch.frombuffer(_read_exactly(source, place, span), dtype=dtype)
        yield values.as_strided((count, *tensor.shape[1:]), tensor.stride)


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
        fill = 1 if tensor.content == "ones" else 0
        yield _as_bytes(torch.full(tensor.shape, fill, dtype=dtype).reshape(-1))


def _open_with_library(path: Path, plan: Plan) -> None:
    """Has the safetensors library itself open the file and say what is in it."""
    from safetensors import safe_open

    expected = {tensor.target: (DTYPE_CODES[tensor.dtype], list(tensor.shape)) for tensor in plan.tensors}
    with safe_open(path, framework="pt") as opened:
        found = {}
        for name in opened.keys():  # noqa: SIM118 - it is no dict
            part = opened.get_slice(name)
            found[name] = (part.get_dtype(), list(part.get_shape()))
    if found != expected:
        raise AssertionError(f"{path} holds other tensors than were written")
