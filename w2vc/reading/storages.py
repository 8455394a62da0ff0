"""Storages and tensors: which bytes a pickle names, and what it says that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from w2vc.errors import DamagedError, shown
from w2vc.reading.arguments import INT64_LIMIT, is_text
from w2vc.reading.nodes import Node, is_node
from w2vc.reading.policy import ITEM_BYTES_OF_DTYPES, REBUILD, STORAGE_CLASSES, STORAGE_DTYPES
from w2vc.reading.source import GET_AGAIN


@dataclass(frozen=True)
class StorageUse:
    """A storage that the program names by a persistent id (``torch/serialization.py``, ``persistent_id``).

    Attributes:
        key: the name of its bytes; the record is ``data/KEY``.
        storage_type: torch's class, as ``FloatStorage``.
        location: ``cpu``, ``cuda:0``, …
        numel: length in elements of that type.
    """

    key: str
    storage_type: str
    location: str
    numel: int

    @property
    def dtype(self) -> str:
        """torch's name of the elements' type, without ``torch.``."""
        return STORAGE_DTYPES[self.storage_type]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.numel * ITEM_BYTES_OF_DTYPES[self.dtype]


@dataclass(frozen=True)
class TensorUse:
    """A tensor that the program makes.

    Attributes:
        storage: where its elements are.
        dtype: torch's name of their type, without ``torch.``.
        offset: of the first element, in elements.
        size: sizes, outermost first.
        stride: strides, in elements.
        is_parameter: it is a ``torch.nn.Parameter``, not a plain tensor.
    """

    storage: StorageUse
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    is_parameter: bool

    @property
    def end(self) -> int:
        """Where it ends in its storage, in bytes."""
        if 0 in self.size:
            return 0
        steps = sum((length - 1) * step for length, step in zip(self.size, self.stride, strict=True))
        return (self.offset + steps + 1) * ITEM_BYTES_OF_DTYPES[self.dtype]


class Storages:
    """The storages of one pickle, by key, in the order of first appearance."""

    def __init__(self, what: str, *, legacy: bool) -> None:
        self.uses: dict[str, StorageUse] = {}
        self._what = what
        self._legacy = legacy

    def named(self, identity: object) -> Node:
        """Return the node of the storage with a persistent id."""
        fields = identity.items if type(identity) is Node and identity.kind == "tuple" else ()
        storage = self._read(fields)
        if storage is None:
            self._damaged("has a persistent id that isn't a storage's")
        if self.uses.setdefault(storage.key, storage) != storage:
            self._damaged(f"names the storage {shown(storage.key)} with two types, lengths or places")
        node = Node("storage", (), storage.key)
        node.fact = storage
        return node

    def _read(self, fields: Sequence[Any]) -> StorageUse | None:
        if len(fields) != (6 if self._legacy else 5) or fields[0] != "storage":
            return None
        kind, key, location, numel = fields[1:5]
        if not is_node(kind, "global") or not is_text(key) or not is_text(location) or type(numel) is not int:
            return None
        if kind.name not in STORAGE_CLASSES:
            self._damaged(f"has a storage of the type {kind.name}, which isn't one of torch's dense storages")
        if fields[5:] not in ((), (None,)):
            # torch wrote views until 0.4; fairseq needs a newer one.
            self._damaged(f"names a view of the storage {shown(key)}, which torch hasn't written since 2018")
        storage = StorageUse(key, STORAGE_CLASSES[kind.name], location, numel)
        if numel < 0 or storage.nbytes >= INT64_LIMIT:
            self._damaged(f"has the storage {shown(key)} with the impossible length {shown(numel)}")
        return storage

    def tensor(self, path: str, arguments: Sequence[Any]) -> TensorUse:
        """Return the tensor that a maker of torch's makes; its arguments have been checked."""
        tensor = _tensor(path, arguments)
        if len(tensor.size) != len(tensor.stride):
            self._damaged("has a tensor with more sizes than strides, or fewer")
        if tensor.end > tensor.storage.nbytes:
            self._damaged("has a tensor that reaches beyond its storage")
        return tensor

    def _damaged(self, problem: str) -> NoReturn:
        raise DamagedError(f"{self._what} {problem}", advice=GET_AGAIN)


def _tensor(path: str, arguments: Sequence[Any]) -> TensorUse:
    if path == REBUILD:
        function, kind, inner, _state = arguments
        return _as_parameter(_tensor(function.name, inner.items), kind.name != "torch.Tensor")
    if path.startswith("torch._utils._rebuild_parameter"):
        return _as_parameter(arguments[0].fact, True)
    storage, offset, size, stride = arguments[:4]
    dtype = arguments[6].name.removeprefix("torch.") if path.endswith("_v3") else storage.fact.dtype
    return TensorUse(storage.fact, dtype, offset, tuple(size.items), tuple(stride.items), is_parameter=False)


def _as_parameter(tensor: TensorUse, is_parameter: bool) -> TensorUse:
    return TensorUse(tensor.storage, tensor.dtype, tensor.offset, tensor.size, tensor.stride, is_parameter)
