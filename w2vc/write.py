"""Carries out a plan: the only place where tensors' bytes move, and the only writer.

Bytes that stay as they are are copied inside the kernel. On the other core the source's checksums are compared and its
values looked at; transformers' own classes, slow to import, load meanwhile.
"""

from __future__ import annotations

import errno
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2vc.acceptance import accept, load_classes
from w2vc.archive import Record, open_checkpoint
from w2vc.checkpoint import ITEM_BYTES, Checkpoint, SourceTensor
from w2vc.errors import DamagedError, InconsistentError
from w2vc.output_directory import output_directory
from w2vc.plan import FirstRow, Make, Move, Plan, different
from w2vc.safetensors_file import DTYPE_CODES, Layout, layout

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"

# Large enough that system calls cost nothing, small enough that the next core's cache keeps a piece for its second use.
_PIECE = 2**20
# One system call's share of an in-kernel copy: what is between two looks at the clock, or at a signal.
_KERNEL_PIECE = 2**25
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)

_GET_AGAIN = "Download or copy the checkpoint again and compare its checksum."

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
    metadata: Mapping[str, str],
    force: bool = False,
    watch: Watch | None = None,
) -> Written:
    """Writes the directory that the plan describes.

    Args:
        checkpoint: where the bytes come from.
        plan: what to write.
        output: the directory; appears complete or not at all.
        metadata: for the safetensors file.
        force: replace an earlier conversion.
        watch: told of the progress.

    Raises:
        OutputError: the place is taken or can't be written.
        DamagedError: a checksum is wrong, or the file changed or ended early.
        InconsistentError: tensors that have to be equal aren't.
    """
    names_and_shapes = ((tensor.target, tensor.dtype, tensor.shape) for tensor in plan.tensors)
    places = layout(names_and_shapes, {**metadata, "format": "pt"})
    with output_directory(output, force=force) as building, ThreadPoolExecutor(2) as threads:
        classes = threads.submit(load_classes, with_tokenizer=plan.vocabulary is not None)
        with open_checkpoint(checkpoint.path) as file, _unchanged(file.fileno(), checkpoint):
            checked = threads.submit(_check_records, file.fileno(), plan, checkpoint)
            _write_weights(file.fileno(), plan, places, building / WEIGHTS, watch, checked)
            not_finite, checksums = checked.result()
        for name, contents in plan.files.items():
            _write_file(building / name, contents)
        _open_with_library(building / WEIGHTS, plan)
        accept(classes.result(), plan, building)
    size = places.size + sum(map(len, plan.files.values()))
    return Written(size, not_finite, checksums)


@contextmanager
def _unchanged(file: int, checkpoint: Checkpoint) -> Iterator[None]:
    """Holds that the file stays what the gate looked at."""
    before = os.fstat(file)
    if before.st_size != checkpoint.archive.size:
        raise _changed(checkpoint)
    yield
    after = os.fstat(file)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _changed(checkpoint)


def _changed(checkpoint: Checkpoint) -> DamagedError:
    return DamagedError(
        f"{checkpoint.path} was changed while it was read", advice="Wait until training has written it, then run again."
    )


def _write_file(path: Path, contents: bytes) -> None:
    with path.open("xb") as file:
        file.write(contents)


# ---------------------------------------------------------------------------------------------------------------
# Weights


def _write_weights(
    source: int, plan: Plan, places: Layout, path: Path, watch: Watch | None, checked: Future[Any]
) -> None:
    with path.open("xb", buffering=0) as file:
        target = file.fileno()
        os.posix_fallocate(target, 0, places.size)
        _write_at(target, places.header, 0)
        done = len(places.header)
        for tensor in plan.tensors:
            if checked.done() and checked.exception() is not None:
                return  # the caller asks for its result, and raises it
            for piece in _written_pieces(source, target, tensor, places.offsets[tensor.target]):
                done += piece
                if watch is not None:
                    watch(done, places.size)


def _written_pieces(source: int, target: int, tensor: Move | Make, place: int) -> Iterator[int]:
    """Writes one tensor; gives the number of bytes after each piece."""
    if isinstance(tensor, Move):
        _hold_equal(source, tensor)
        if _as_it_is(tensor):
            yield from _copied(source, tensor.source, target, place)
            return
    for piece in (
        _made(tensor) if isinstance(tensor, Make) else _pieces(source, tensor.source, tensor.dtype, tensor.first_row)
    ):
        _write_at(target, piece, place)
        place += len(piece)
        yield len(piece)


def _as_it_is(tensor: Move) -> bool:
    return tensor.dtype == tensor.source.dtype and tensor.source.is_contiguous and tensor.first_row is None


def _copied(source: int, tensor: SourceTensor, target: int, place: int) -> Iterator[int]:
    start, left = tensor.storage.offset + tensor.offset, tensor.nbytes
    while left:
        count = _copy_piece(source, start, target, place, min(left, _KERNEL_PIECE))
        if count == 0:
            raise _short()
        start, place, left = start + count, place + count, left - count
        yield count


def _copy_piece(source: int, start: int, target: int, place: int, count: int) -> int:
    """Copies up to ``count`` bytes, inside the kernel where system and file system can."""
    if _KERNEL_COPY:
        try:
            return os.copy_file_range(source, target, count, start, place)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    piece = os.pread(source, min(count, _PIECE), start)
    _write_at(target, piece, place)
    return len(piece)


_KERNEL_COPY = hasattr(os, "copy_file_range")


def _write_at(target: int, piece: bytes, place: int) -> None:
    view = memoryview(piece)
    while view:
        count = os.pwrite(target, view, place)
        view, place = view[count:], place + count


def _read_exactly(source: int, start: int, count: int) -> bytearray:
    taken = bytearray(count)
    view = memoryview(taken)
    while view:
        got = os.preadv(source, [view], start)
        if got == 0:
            raise _short()
        view, start = view[got:], start + got
    return taken


def _short() -> DamagedError:
    return DamagedError("the checkpoint ends before its last tensor", advice=_GET_AGAIN)


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
    """A tensor along its first axis, in pieces of about a mebibyte each (one row at least)."""
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


# ---------------------------------------------------------------------------------------------------------------
# Checks beside the copying


def _check_records(source: int, plan: Plan, checkpoint: Checkpoint) -> tuple[dict[str, int], int]:
    """Compares the checksum of each record that is used, and counts values that are not finite."""
    users: dict[Record, list[SourceTensor]] = {}
    for move in plan.moves:
        for tensor in (move.source, *move.equals):
            users.setdefault(tensor.storage, []).append(tensor)
    not_finite: dict[str, int] = {}
    problems = []
    for record, tensors in users.items():
        checksum, count = _looked_through(source, record, tensors[0].dtype)
        names = " and ".join(tensor.name for tensor in tensors[:3])
        if record.crc32 is not None and checksum != record.crc32:
            problems.append(f"{checkpoint.path}: the checksum of {record.name} ({names}) is wrong")
        if count:
            not_finite[names] = count
    if problems:
        raise DamagedError(problems[:20], advice=_GET_AGAIN)
    return not_finite, sum(record.crc32 is not None for record in users)


def _looked_through(source: int, record: Record, dtype: str) -> tuple[int, int]:
    """The CRC-32 of a record, and how many of its values are NaN or infinite."""
    import torch

    floating = dtype in ("float64", "float32", "float16", "bfloat16")
    buffer = bytearray(min(_PIECE, record.size))
    checksum = not_finite = done = 0
    while done < record.size:
        view = memoryview(buffer)[: min(_PIECE, record.size - done)]
        filled = 0
        while filled < len(view):
            got = os.preadv(source, [view[filled:]], record.offset + done + filled)
            if got == 0:
                raise _short()
            filled += got
        checksum = zlib.crc32(view, checksum)
        if floating and len(view) % ITEM_BYTES[dtype] == 0:
            values = torch.frombuffer(view, dtype=getattr(torch, dtype))
            # One pass without a temporary: a sum is finite only if every term is.
            if not math.isfinite(values.sum(dtype=torch.float64).item()):
                not_finite += int((~values.isfinite()).sum().item())
        done += len(view)
    return checksum, not_finite


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
