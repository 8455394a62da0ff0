"""A part of a tensor along its first axis lies where torch has it, whatever the strides."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from w2vc.reading.record import Record
from w2vc.reading.tensors import SourceTensor


def described(tensor: torch.Tensor) -> SourceTensor:
    record = Record("data/0", 0, tensor.untyped_storage().nbytes(), None)
    offset = int(tensor.storage_offset()) * tensor.element_size()
    return SourceTensor("name", tuple(tensor.shape), tensor.stride(), "float32", record, offset)


def values(part: SourceTensor, storage: torch.Tensor) -> torch.Tensor:
    return storage.as_strided(part.shape, part.stride, part.offset // 4)


@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 3), transposed=st.booleans(), skipped=st.integers(0, 2), place=st.integers(0)
)
def test_a_part_is_torchs_own(sizes: tuple[int, int, int], transposed: bool, skipped: int, place: int) -> None:
    storage = torch.arange(200, dtype=torch.float32)
    whole = storage[skipped : skipped + sizes[0] * sizes[1] * sizes[2]].reshape(sizes)
    whole = whole.transpose(0, 2) if transposed else whole
    index = place % whole.shape[0]
    tensor = described(whole)
    assert torch.equal(values(tensor.narrowed(index), storage), whole[index : index + 1])
    for part in (tensor.selected(index), tensor.narrowed(index).selected(0)):
        assert torch.equal(values(part, storage), whole[index])
        assert torch.equal(part.of(whole), whole[index])
