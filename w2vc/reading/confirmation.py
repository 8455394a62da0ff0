"""Whether two readers found the same: the walk over the pickle, and torch's unpickler.

The objects that torch made are the file's: nothing of theirs is called or asked for. Each is looked at with functions
of its exact type (``dict.items(made)``), once that type is known.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from w2vc.errors import DamagedError, shown
from w2vc.reading.budget import DISTRUST
from w2vc.reading.nodes import Node, entries, identity
from w2vc.reading.policy import DTYPES
from w2vc.reading.program import PickleProgram
from w2vc.reading.stand_ins import MappingStandIn, SequenceStandIn, kind_of_stand_in
from w2vc.reading.storages import TensorUse

_Pair = tuple[Any, Any, tuple[Any, ...]]
"""What the walk found, what torch made, and where: the keys that lead there, innermost first, as nested pairs."""


def confirm(program: PickleProgram, saved: object, classes: Mapping[str, type], path: Path) -> None:
    """Compare all that a pickle builds with what torch made of it.

    Args:
        program: what the walk found.
        saved: what torch made.
        classes: the stand-ins that torch was given.
        path: of the file, for messages.

    Raises:
        DamagedError: they differ.
    """
    comparison = _Comparison(program, classes)
    left: list[_Pair] = [(program.root, saved, ())]
    while left:
        found, made, where = left.pop()
        problem = comparison.compare(found, made, where, left)
        if problem:
            raise DamagedError(
                f"{path} says two things: {_place(where)} is read in two ways ({problem})", advice=DISTRUST
            )


def _place(where: tuple[Any, ...]) -> str:
    keys: list[str] = []
    while where:
        key, where = where
        keys.append(f"[{shown(key, 80)}]")
    return "the checkpoint" + "".join(reversed(keys[:8]))


class _Comparison:
    def __init__(self, program: PickleProgram, classes: Mapping[str, type]) -> None:
        self._uses = program.globals
        self._classes = classes
        self._made: dict[int, Any] = {}  # by id of the node; keeps what torch made
        self._addresses: dict[str, int] = {}
        self._keys: dict[int, str] = {}

    def compare(self, found: Any, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        """Return what differs; put what is inside on the list of what is left to compare."""
        if type(found) is not Node:
            return _differ(found, made)
        if id(found) in self._made:
            return "" if self._made[id(found)] is made else "one object, or two"
        self._made[id(found)] = made
        return _BY_KIND[found.kind](self, found, made, where, left)

    # By kind of node

    def compare_dict(self, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        return self.compare_mapping(dict, found, made, where, left)

    def compare_mapping(self, kind: Any, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        if type(made) is not kind:
            return _types(kind, made)
        ours: Any = zip(found.items[::2], found.items[1::2], strict=True)
        if 2 * len(made) != len(found.items):  # then some keys were equal
            ours = entries(found).values()
            if len(ours) != len(made):
                return f"{len(ours)} entries or {len(made)}"
        for (key, value), (made_key, made_value) in zip(ours, dict.items(made), strict=True):
            problem = _now_or_later(key, made_key, where, left) or _now_or_later(value, made_value, (key, where), left)
            if problem:
                return f"{shown(key)}: {problem}"
        return ""

    def compare_list(self, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        return self.compare_sequence(list, found.items, made, where, left)

    def compare_tuple(self, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        return self.compare_sequence(tuple, found.items, made, where, left)

    def compare_sequence(self, kind: Any, ours: Any, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        if type(made) is not kind:
            return _types(kind, made)
        if len(ours) != len(made):
            return f"{len(ours)} elements or {len(made)}"
        problems = (
            _now_or_later(our, their, (index, where), left)
            for index, (our, their) in enumerate(zip(ours, made, strict=True))
        )
        return "" if _are_same_texts(ours, made) else next(filter(None, problems), "")

    def compare_set(self, found: Node, made: Any, _where: tuple[Any, ...], _left: list[_Pair]) -> str:
        if type(made) is not set:
            return _types(set, made)
        ours = set(map(identity, found.items))
        scalars = {item for item in found.items if type(item) is not Node}
        return "" if len(ours) == len(made) and scalars <= made else "other elements"

    def compare_global(self, found: Node, made: Any, _where: tuple[Any, ...], _left: list[_Pair]) -> str:
        if found.name in self._classes:
            return "" if made is self._classes[found.name] else f"the class {found.name} or another"
        if found.name in DTYPES:
            import torch

            return "" if made is getattr(torch, found.name.removeprefix("torch."), None) else "another dtype"
        return ""  # a class or function of torch's, which is no value of a checkpoint

    def compare_storage(self, _found: Node, made: Any, _where: tuple[Any, ...], _left: list[_Pair]) -> str:
        import torch

        # No value of a checkpoint, but for the tensors that lie in it.
        return "" if type(made) is torch.storage.TypedStorage else _types(torch.storage.TypedStorage, made)

    def compare_address(self, key: str, made: Any, nbytes: int) -> str:
        """Compare which storages are one: each key has an address, and each address a key."""
        import torch

        if torch.UntypedStorage.nbytes(made) != nbytes:
            return f"a storage of {nbytes} bytes or {torch.UntypedStorage.nbytes(made)}"
        if nbytes == 0 or made.device.type == "meta":
            return ""
        address = torch.UntypedStorage.data_ptr(made)
        same = self._addresses.setdefault(key, address) == address and self._keys.setdefault(address, key) == key
        return "" if same else f"the storage {shown(key)} or another"

    def compare_instance(self, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        if type(found.fact) is TensorUse:
            return self.compare_tensor(found.fact, made)
        if found.name in self._classes:
            return self.compare_stand_in(found, made, where, left)
        if found.name in _MAPPINGS:
            return self.compare_mapping(_MAPPINGS[found.name], found, made, where, left)
        if found.name == "builtins.set":
            return self.compare_set(found, made, where, left)
        kind, same = _values()[found.name]
        return _types(kind, made) if type(made) is not kind else "" if same(found, made) else f"another {found.name}"

    def compare_stand_in(self, found: Node, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
        kind = kind_of_stand_in(self._uses[found.name])
        if kind is MappingStandIn:
            return self.compare_mapping(OrderedDict, found, made, where, left)
        if kind is SequenceStandIn:
            return self.compare_sequence(list, found.items, made, where, left)
        ours: Any = self._classes[found.name]
        if type(made) is not ours:
            return _types(ours, made)
        # Its class is ours, and has slots: these are no attributes that the file could have set.
        return self.compare_sequence(tuple, found.arguments, made.arguments, where, left) or self.compare_sequence(
            list, list(found.states), made.states, where, left
        )

    # Tensors

    def compare_tensor(self, found: TensorUse, made: Any) -> str:
        import torch

        kind = torch.nn.Parameter if found.is_parameter else torch.Tensor
        if type(made) is not kind:
            return _types(kind, made)
        of = torch.Tensor
        stated = {
            "sizes": (found.size, tuple(of.size(made))),
            "strides": (found.stride, tuple(of.stride(made))),
            "offsets": (found.offset, of.storage_offset(made)),
            "dtypes": (f"torch.{found.dtype}", str(made.dtype)),
            "layouts": (torch.strided, made.layout),
            "attributes": ({}, made.__dict__),
            "negations": (False, of.is_neg(made)),
            "conjugations": (False, of.is_conj(made)),
            "quantizations": (False, made.is_quantized),
        }
        for what, (ours, theirs) in stated.items():
            if ours != theirs:
                return f"two {what} of a tensor: {_short(ours)} or {_short(theirs)}"
        return self.compare_address(found.storage.key, of.untyped_storage(made), found.storage.nbytes)


_BY_KIND: Mapping[str, Callable[[_Comparison, Node, Any, tuple[Any, ...], list[_Pair]], str]] = {
    "dict": _Comparison.compare_dict,
    "list": _Comparison.compare_list,
    "tuple": _Comparison.compare_tuple,
    "set": _Comparison.compare_set,
    "global": _Comparison.compare_global,
    "storage": _Comparison.compare_storage,
    "instance": _Comparison.compare_instance,
}
_MAPPINGS: Mapping[str, type] = {"collections.OrderedDict": OrderedDict, "collections.Counter": Counter}


def _values() -> Mapping[str, tuple[type, Callable[[Node, Any], bool]]]:
    """Values that torch makes: their type, and whether one is what the walk found."""
    import torch

    return {
        "_codecs.encode": (bytes, lambda node, made: made == node.arguments[0].encode("latin-1")),
        "builtins.bytearray": (bytearray, lambda node, made: made == _bytes(node)),
        "builtins.complex": (complex, lambda node, made: _bits(complex(*node.arguments)) == _bits(made)),
        "torch.Size": (torch.Size, lambda node, made: tuple(made) == tuple(node.arguments[0].items)),
        "torch.device": (torch.device, lambda node, made: made == torch.device(*node.arguments)),
        "torch.serialization._get_layout": (torch.layout, lambda node, made: str(made) == node.arguments[0]),
    }


def _bytes(node: Node) -> bytes:
    encoded: bytes = node.arguments[0].arguments[0].encode("latin-1") if node.arguments else b""
    return encoded


def _bits(value: complex) -> bytes:
    return struct.pack("<2d", value.real, value.imag)


def _now_or_later(found: Any, made: Any, where: tuple[Any, ...], left: list[_Pair]) -> str:
    """What differs between two scalars; anything else is put on the list."""
    if type(found) is not Node:
        return _differ(found, made)
    left.append((found, made, where))
    return ""


def _differ(found: Any, made: Any) -> str:
    return "" if _same_scalar(found, made) else f"{shown(found)} or {shown(made)}"


def _same_scalar(found: Any, made: Any) -> bool:
    """Whether two scalars are the same, in type and value; NaN is itself."""
    if type(found) is not type(made):
        return False
    if type(found) is float:
        return struct.pack("<d", found) == struct.pack("<d", made)
    return bool(found == made)


def _are_same_texts(ours: Iterable[Any], theirs: Iterable[Any]) -> bool:
    """Whether two sequences hold nothing but the same texts; the fast way for a dictionary's symbols."""
    return {*map(type, ours), *map(type, theirs)} <= {str} and all(map(str.__eq__, ours, theirs))


def _types(expected: type, made: object) -> str:
    return f"a {expected.__name__} or a {type(made).__name__}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
