"""A tensor's elements are read in the order of its axes, wherever they lie, with little memory."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from w2vc.errors import DamagedError
from w2vc.planning.plan import Make
from w2vc.reading.record import Record
from w2vc.reading.tensors import ITEM_BYTES, SourceTensor
from w2vc.writing import strided, writer
from w2vc.writing.kernel_copy import read_into

COUNT = 50_000


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, torch.Tensor]]:
    path = tmp_path_factory.mktemp("storage") / "data"
    values = torch.arange(COUNT, dtype=torch.float32)
    path.write_bytes(b"1234" + bytes(values.view(torch.uint8).numpy()))
    file = os.open(path, os.O_RDONLY)
    yield file, values
    os.close(file)


def views(count: int) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Offset, sizes and strides within the storage: transposed, with gaps, overlapping and repeated."""
    random_ = random.Random(1)  # noqa: S311 - to be repeated, not to be secret
    while count:
        dimensions = random_.randrange(0, 5)
        shape = tuple(random_.choice((1, 2, 3, 7, 40)) for _ in range(dimensions))
        stride = tuple(random_.choice((0, 1, 2, 5, 40, 99, 1000)) for _ in range(dimensions))
        offset = random_.randrange(100)
        if offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) < COUNT:
            count -= 1
            yield offset, shape, stride


@pytest.mark.parametrize("sizes", [(2**17, 2**23, 2**14, 2**14), (64, 256, 32, 3)], ids=["as it is", "in small pieces"])
def test_any_view_is_read_as_torch_reads_it(
    sizes: tuple[int, ...], storage: tuple[int, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in zip(("_PIECE", "_BLOCK", "_GAP", "_MOST_PARTS"), sizes, strict=True):
        monkeypatch.setattr(strided, name, size)
    file, values = storage
    for offset, shape, stride in views(300):
        pieces = list(strided.strided_values(file, 4 + 4 * offset, shape, stride, "float32"))
        expected = values.as_strided(shape, stride, offset).reshape(-1)
        assert torch.equal(torch.cat(pieces), expected), (offset, shape, stride)


def test_a_transposed_tensor_is_never_read_whole(
    storage: tuple[int, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strided, "_BLOCK", 4000)
    monkeypatch.setattr(strided, "_GAP", 100)
    taken = []

    def counted(source: int, into: memoryview, start: int) -> None:
        taken.append(len(into))
        read_into(source, into, start)

    monkeypatch.setattr(strided, "read_into", counted)
    file, values = storage
    pieces = list(strided.strided_values(file, 4, (100, 500), (1, 100), "float32"))
    assert torch.equal(torch.cat(pieces).reshape(100, 500), values.reshape(500, 100).t())
    assert max(taken) <= 4000
    assert {len(piece) * 4 for piece in pieces} == {4000}
    assert sum(taken) == COUNT * 4


# ---------------------------------------------------------------------------------------------------------------
# Where a piece and a file end


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_pieces_end_exactly_and_so_may_the_file(
    dtype: str, more: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strided, "_PIECE", 64)
    values = torch.arange(2 * 64 // ITEM_BYTES[dtype] + more, dtype=getattr(torch, dtype))
    path = tmp_path / "data"
    path.write_bytes(b"1234" + bytes(values.view(torch.uint8).numpy()))
    with path.open("rb") as file:
        pieces = list(strided.strided_values(file.fileno(), 4, (len(values),), (1,), dtype))
    assert torch.equal(torch.cat(pieces), values)
    full = 64 // ITEM_BYTES[dtype]
    assert [len(piece) for piece in pieces] == [full, full - 1 if more < 0 else full, *([1] if more > 0 else [])]


@pytest.mark.parametrize(
    ("shape", "stride"), [((6, 4), (1, 6)), ((3, 2), (8, 3)), ((5,), (4,)), ((2, 3, 2), (2, 4, 1))]
)
@pytest.mark.parametrize("sizes", [(2**17, 2**23, 2**14, 2**14), (16, 32, 4, 2)], ids=["as it is", "in small pieces"])
def test_a_view_whose_last_element_is_the_files_last_is_read(
    sizes: tuple[int, ...],
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, size in zip(("_PIECE", "_BLOCK", "_GAP", "_MOST_PARTS"), sizes, strict=True):
        monkeypatch.setattr(strided, name, size)
    count = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    values = torch.arange(count, dtype=torch.float32)
    contents = bytes(values.view(torch.uint8).numpy())
    path = tmp_path / "data"
    path.write_bytes(contents)
    with path.open("rb") as file:
        pieces = list(strided.strided_values(file.fileno(), 0, shape, stride, "float32"))
        assert torch.equal(torch.cat(pieces), values.as_strided(shape, stride).reshape(-1))
        path.write_bytes(contents[:-1])
        with pytest.raises(DamagedError, match="ends before its last tensor"):
            list(strided.strided_values(file.fileno(), 0, shape, stride, "float32"))


def held_while_casting(count: int, tmp_path: Path) -> int:
    """The most bytes that one tensor's cast holds at a time, in Python's own buffers."""
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(4 * count)
    tensor = SourceTensor("a", (count,), (1,), "float32", Record("data/0", 0, 4 * count, None), 0)
    with path.open("rb") as file:
        next(writer._pieces(file.fileno(), tensor, "float16", None))  # imports what it needs
        tracemalloc.start()
        try:
            total = sum(len(piece) for piece in writer._pieces(file.fileno(), tensor, "float16", None))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert total == 2 * count
    return most


def test_a_cast_holds_a_piece_however_large_the_tensor_is(tmp_path: Path) -> None:
    # The last piece that was read, the next one, and its cast, which is half as large.
    for count in (2**16, 2**23):
        assert held_while_casting(count, tmp_path) < 3 * strided._PIECE


def test_no_piece_is_larger_than_torch_casts_on_one_thread() -> None:
    # at::internal::GRAIN_SIZE elements are one thread's share (ATen/Parallel.h).
    assert strided._PIECE // ITEM_BYTES["float32"] <= 32_768


@pytest.mark.parametrize("size", [1, 2])
def test_what_is_made_is_made_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_MADE_AT_ONCE", 8)
    for content, value in (("ones", 1.0), ("zeros", 0.0), ("constant", 0.5)):
        made = Make("x", (size, 8), "float32", content, "", 0.5)  # type: ignore[arg-type]  # one of them
        pieces = list(writer._made(made))
        assert [len(piece) for piece in pieces] == [32] * size
        assert torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.float32).eq(value).all()
    identity = b"".join(writer._made(Make("x", (3, 3), "float32", "identity", "")))
    assert torch.equal(torch.frombuffer(bytearray(identity), dtype=torch.float32).reshape(3, 3), torch.eye(3))
