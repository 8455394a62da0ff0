"""What the globals that do something may be called with: the signatures that torch.save and fairseq write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from w2vc.reading.budget import LIMITS
from w2vc.reading.nodes import Node, is_mapping, is_node
from w2vc.reading.policy import DTYPES, REBUILD, TENSOR_CLASSES, TENSOR_MAKERS

Check = Callable[[object], bool]

INT64_LIMIT = 2**63
"""Sizes, strides and lengths are signed 64-bit integers in torch."""


def is_length(value: object) -> bool:
    """Return whether a value is a size, stride or offset."""
    return type(value) is int and 0 <= value < INT64_LIMIT


def _is_lengths(value: object) -> bool:
    return (
        type(value) is Node
        and value.kind == "tuple"
        and len(value.items) <= LIMITS["dimensions"].most
        and all(map(is_length, value.items))
    )


def _is_index(value: object) -> bool:
    return type(value) is int and abs(value) < INT64_LIMIT


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_bool(value: object) -> bool:
    return type(value) is bool


def is_text(value: object) -> bool:
    """Return whether a value is a text."""
    return type(value) is str


def _is_none(value: object) -> bool:
    return value is None


def _is_any(_value: object) -> bool:
    return True


def _is_latin1(value: object) -> bool:
    return value == "latin1"


def _is_latin1_text(value: object) -> bool:
    return type(value) is str and (value.isascii() or max(value) <= "\xff")


def _is_layout(value: object) -> bool:
    return type(value) is str and value.startswith("torch.") and len(value) < 100


def _is_attribute(value: object) -> bool:
    return type(value) is str and value.isidentifier() and not value.startswith("__")


def _is_list(value: object) -> bool:
    return is_node(value, "list")


def _is_dict(value: object) -> bool:
    return is_node(value, "dict")


def _is_tuple(value: object) -> bool:
    return is_node(value, "tuple")


def _is_storage(value: object) -> bool:
    return is_node(value, "storage")


def is_tensor(value: object) -> bool:
    """Return whether a value is a tensor."""
    return type(value) is Node and value.kind == "instance" and (value.name in TENSOR_MAKERS or value.name == REBUILD)


def _is_encoded(value: object) -> bool:
    return is_node(value, "instance", "_codecs.encode")


def _is_mapping_or_none(value: object) -> bool:
    return value is None or is_mapping(value)


def _is_state(value: object) -> bool:
    if type(value) is Node and value.kind == "tuple":
        return len(value.items) == 2 and all(map(_is_mapping_or_none, value.items))
    return _is_mapping_or_none(value)


def _is_class(value: object) -> bool:
    return is_node(value, "global")


def _is_factory(value: object) -> bool:
    return value is None or (type(value) is Node and value.kind in ("global", "instance"))


def _is_one_of(names: frozenset[str]) -> Check:
    return lambda value: type(value) is Node and value.kind == "global" and value.name in names


def _is_generic(value: object) -> bool:
    return type(value) is Node and value.kind == "global" and value.name.startswith(("typing.", "collections.abc."))


_TENSOR: tuple[Check, ...] = (_is_storage, is_length, _is_lengths, _is_lengths)
_is_dtype = _is_one_of(DTYPES)
_is_union_operator = _is_one_of(frozenset({"_operator.or_", "operator.or_"}))

# By function; torch/_utils.py, torch/_tensor.py, torch/nn/parameter.py. The mappings and states must be empty when the
# pickle ends (``tensors_extras``): what a tensor carries beyond its numbers changes what torch computes with it.
_OF_TORCH: Mapping[str, tuple[tuple[Check, ...], ...]] = {
    "torch._utils._rebuild_tensor": (_TENSOR,),
    "torch._utils._rebuild_tensor_v2": (
        (*_TENSOR, _is_bool, _is_mapping_or_none),
        (*_TENSOR, _is_bool, _is_mapping_or_none, _is_mapping_or_none),
    ),
    "torch._utils._rebuild_tensor_v3": (
        (*_TENSOR, _is_bool, _is_mapping_or_none, _is_dtype),
        (*_TENSOR, _is_bool, _is_mapping_or_none, _is_dtype, _is_mapping_or_none),
    ),
    "torch._utils._rebuild_parameter": ((is_tensor, _is_bool, _is_mapping_or_none),),
    "torch._utils._rebuild_parameter_with_state": ((is_tensor, _is_bool, _is_mapping_or_none, _is_state),),
    REBUILD: ((_is_one_of(TENSOR_MAKERS), _is_one_of(TENSOR_CLASSES), _is_tuple, _is_state),),
    "collections.OrderedDict": ((),),
    "collections.Counter": ((), (_is_dict,)),
    "builtins.set": ((), (_is_list,)),
    "builtins.complex": ((_is_number, _is_number),),
    "builtins.bytearray": ((), (_is_encoded,)),
    "_codecs.encode": ((_is_latin1_text, _is_latin1),),
    "torch.Size": ((_is_lengths,),),
    "torch.device": ((is_text,), (is_text, is_length)),
    "torch.serialization._get_layout": ((_is_layout,),),
}

# Of the standard library: those whose arguments decide what they do. Classes that are values only are never called.
_OF_OTHERS: Mapping[str, tuple[tuple[Check, ...], ...]] = {
    "builtins.bytes": ((),),
    "builtins.frozenset": ((), (_is_list,)),
    "builtins.getattr": ((_is_class, _is_attribute),),
    "builtins.object": ((),),
    "builtins.range": ((_is_index, _is_index, _is_index),),
    "builtins.slice": ((_is_any, _is_any, _is_any),),
    "builtins.type": ((_is_none,), (_is_class,)),
    **{f"builtins.{name}": () for name in ("bool", "dict", "float", "int", "list", "str", "tuple")},
    "builtins.Ellipsis": (),
    "builtins.NotImplemented": (),
    "collections.defaultdict": ((), (_is_factory,)),
    "copyreg._reconstructor": ((_is_class, _is_class, _is_any),),
    **{f"{module}.getitem": ((_is_generic, _is_any),) for module in ("_operator", "operator")},
    **{f"{module}.or_": () for module in ("_operator", "operator")},
    **{f"{module}.reduce": ((_is_union_operator, _is_tuple),) for module in ("_functools", "functools")},
}


def fits(path: str, arguments: Sequence[Any], *, of_torch: bool) -> bool:
    """Return whether a global may be called with these arguments."""
    signatures = _OF_TORCH.get(path, ()) if of_torch else _OF_OTHERS.get(path)
    if signatures is None:
        return True
    if not any(map(_has, [arguments] * len(signatures), signatures)):
        return False
    if path != REBUILD:
        return True
    function, _kind, inner, _state = arguments
    return fits(function.name, inner.items, of_torch=True)


def _has(arguments: Sequence[object], signature: Sequence[Check]) -> bool:
    return len(arguments) == len(signature) and all(
        check(value) for check, value in zip(signature, arguments, strict=True)
    )


def tensors_extras(path: str, arguments: Sequence[Any]) -> list[object]:
    """Return what a tensor is made with apart from its numbers: hooks, metadata, attributes. Each must be empty."""
    if path == REBUILD:
        function, _kind, inner, state = arguments
        return [*tensors_extras(function.name, inner.items), state]
    return [value for value, name in zip(arguments, _NAMES[path], strict=False) if name == "extra"]


_TENSOR_NAMES = ("storage", "offset", "size", "stride", "requires_grad", "extra")
_NAMES: Mapping[str, tuple[str, ...]] = {
    "torch._utils._rebuild_tensor": _TENSOR_NAMES,
    "torch._utils._rebuild_tensor_v2": (*_TENSOR_NAMES, "extra"),
    "torch._utils._rebuild_tensor_v3": (*_TENSOR_NAMES, "dtype", "extra"),
    "torch._utils._rebuild_parameter": ("data", "requires_grad", "extra"),
    "torch._utils._rebuild_parameter_with_state": ("data", "requires_grad", "extra", "extra"),
}


def is_empty(value: object) -> bool:
    """Return whether a tensor's extra says nothing: None, an empty mapping without attributes, or a pair of such."""
    if type(value) is not Node:
        return value is None
    if value.kind == "tuple":
        return all(map(is_empty, value.items))
    return not value.items and not value.states
