"""A tensor's elements are read in the order of its axes, wherever they lie, with little memory."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import torch

from w2vc.writing import strided
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
    assert max(len(piece) * 4 for piece in pieces) <= 4000
    assert sum(taken) == COUNT * 4
