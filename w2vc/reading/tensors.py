"""A checkpoint's tensors: where their bytes lie, and which of them a state dict may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from w2vc.errors import DamagedError, shown
from w2vc.reading.budget import LIMITS, Budget
from w2vc.reading.nodes import Node
from w2vc.reading.record import Record
from w2vc.reading.source import GET_AGAIN
from w2vc.reading.storages import TensorUse
from w2vc.reading.values import Globals, described, fields

ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1}
ITEM_BYTES |= {"uint8": 1, "bool": 1}
"""Bytes per element of the dtypes that a checkpoint's tensors may have."""


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of the checkpoint, and where its bytes lie.

    Attributes:
        name: fairseq's full name.
        shape: its sizes, outermost first.
        stride: its strides, in elements.
        dtype: torch's name without ``torch.``.
        storage: the record that holds its storage.
        offset: of its first element, in bytes from the beginning of the record.
        adapter: the language whose adapter it is in, where the file has adapters of their own (MMS).
        index: the place of the first axis that it is, where it is a part of the file's tensor.
        prefix: what the file has before its name.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    storage: Record
    offset: int
    adapter: str = ""
    index: int | None = None
    prefix: str = ""

    @property
    def name_in_file(self) -> str:
        """What its state dict calls it."""
        return f"{self.prefix}{self.name}"

    @property
    def key(self) -> str:
        """The name under which ``load_with_bytes`` gives the file's tensor."""
        return f"adapter.{self.adapter}.{self.name}" if self.adapter else self.name_in_file

    def of(self, loaded: Any) -> Any:
        """Return this tensor's values out of the file's tensor; both are torch's, which the gate never imports."""
        return loaded if self.index is None else loaded[self.index].reshape(self.shape)

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def span(self) -> int:
        """Bytes from its first element to the end of its last one, strides included."""
        if self.elements == 0:
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))
        return (reach + 1) * ITEM_BYTES[self.dtype]

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie one after the other, in the order of its axes."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return self.elements == 0
            expected *= size
        return True

    def narrowed(self, index: int) -> SourceTensor:
        """Return the part at one place of the first axis, which stays as an axis of one."""
        place = self.offset + index * self.stride[0] * ITEM_BYTES[self.dtype]
        return replace(self, shape=(1, *self.shape[1:]), offset=place, index=(self.index or 0) + index)

    def selected(self, index: int) -> SourceTensor:
        """Return the part at one place of the first axis, without that axis."""
        part = self.narrowed(index)
        return replace(part, shape=part.shape[1:], stride=part.stride[1:])


@dataclass(frozen=True)
class StateDict:
    """The tensors of a state dict.

    Attributes:
        tensors: all of them, by full name in the file's order; those of a group are named ``GROUP.NAME``.
        groups: those that lie in a dict of their own within the state dict (data2vec's ``_ema``), by the dict's name
            and their names in it.
    """

    tensors: Mapping[str, SourceTensor]
    groups: Mapping[str, Mapping[str, SourceTensor]]


def read_state_dict(
    model: Mapping[str, Any], keys: int, globals_: Globals, records: Mapping[str, Record], what: str, budget: Budget
) -> StateDict:
    """Return a state dict's tensors.

    Args:
        model: its values by name.
        keys: how many keys it has, whether texts or not.
        globals_: how the pickle uses the globals that made them.
        records: the file's, by name.
        what: the state dict, for messages: ``model``.
        budget: of the file.

    Raises:
        DamagedError: something in it is no tensor, or not one that w2vc reads.
        UnsafeError: it has more tensors than any model.
    """
    reading = _Reading(records, f"{budget.what}: {what}", budget)
    for name, value in model.items():
        inner = fields(value, globals_)
        if inner is None:
            reading.add(name, value)
        else:
            reading.add_group(name, inner)
    if keys != len(model):
        reading.problems.append(f"{budget.what}: {what} has a key that is no text: it has a name that no tensor has")
    if reading.problems:
        raise DamagedError(reading.problems, advice=GET_AGAIN)
    return StateDict(reading.tensors, reading.groups)


class _Reading:
    def __init__(self, records: Mapping[str, Record], what: str, budget: Budget) -> None:
        self.tensors: dict[str, SourceTensor] = {}
        self.groups: dict[str, dict[str, SourceTensor]] = {}
        self.problems: list[str] = []
        self._records = records
        self._what = what
        self._budget = budget

    def add_group(self, group: str, inner: Mapping[str, Any]) -> None:
        self.groups[group] = {}
        for name, value in inner.items():
            found = self.add(f"{group[: LIMITS['tensor name'].most]}.{name}", value)
            if found is not None:
                self.groups[group][name] = found

    def add(self, name: str, value: object) -> SourceTensor | None:
        self._budget.charge("tensors")
        problem = _wrong_name(name) or ("is there twice" if name in self.tensors else "")
        found = problem or _tensor(name, value, self._records)
        if isinstance(found, str):
            self.problems.append(f"{self._what}[{shown(name, 80)}] {found}")
            return None
        self.tensors[name] = found
        return found


def _wrong_name(name: str) -> str:
    if not 0 < len(name) <= LIMITS["tensor name"].most or not name.isprintable():
        return "has a name that no tensor has"
    return "has the name that safetensors keeps for itself" if name == "__metadata__" else ""


def _tensor(name: str, value: object, records: Mapping[str, Record]) -> SourceTensor | str:
    """The tensor, or what is wrong with it."""
    use = value.fact if type(value) is Node else None
    if type(use) is not TensorUse:
        return f"is {described(value)}, not a tensor"
    if use.dtype not in ITEM_BYTES:
        return f"is of a kind that w2vc doesn't read ({use.dtype})"
    record = records[f"data/{use.storage.key}"]
    tensor = SourceTensor(name, use.size, use.stride, use.dtype, record, use.offset * ITEM_BYTES[use.dtype])
    if tensor.offset + tensor.span > record.size:
        return f"reaches beyond its storage of {record.size} bytes"
    if tensor.nbytes > record.size:
        return f"repeats {record.size} bytes to {tensor.nbytes}"
    return tensor
