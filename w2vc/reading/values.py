"""Plain values from the walk's nodes: dicts with text keys, lists, texts, numbers, bytes, truth values and None.

Behind this module there are exact built-in types only. Stand-ins (omegaconf's nodes, an argparse namespace, enums,
numpy scalars) become what they hold, without importing any of their packages; values of torch become their names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from w2vc.errors import UnsafeError
from w2vc.reading.budget import DISTRUST, LIMITS, Budget
from w2vc.reading.globals_used import GlobalUse
from w2vc.reading.nodes import Node, entries, is_node
from w2vc.reading.stand_ins import MappingStandIn, SequenceStandIn, StandIn, kind_of_stand_in
from w2vc.reading.storages import TensorUse

Globals = Mapping[str, GlobalUse]


def fields(value: object, globals_: Globals) -> dict[str, Any] | None:
    """Return a mapping's entries under text keys, their values as they are; None for anything else.

    A key that isn't a text is left out: no checkpoint needs one at a place that is read this way.
    """
    if type(value) is not Node or not is_mapping(value, globals_):
        return None
    return {key: item for key, item in entries(value).values() if type(key) is str}


def elements(value: object, globals_: Globals) -> list[Any] | None:
    """Return the elements of a list, as they are; None for anything else."""
    return list(value.items) if type(value) is Node and _is_sequence(value, globals_) else None


def attributes(value: object, globals_: Globals) -> dict[str, Any] | None:
    """Return what a stand-in's ``__dict__`` would hold, its values as they are; None for anything else."""
    if type(value) is not Node or value.kind != "instance" or not _is_stand_in(globals_[value.name]):
        return None
    found: dict[str, Any] = {}
    for state in value.states:
        for part in _parts(state) or [state]:
            found |= fields(part, globals_) or {}
    return found


def _parts(state: object) -> list[Node]:
    """The attributes and the slots of a state that has both."""
    is_pair = type(state) is Node and state.kind == "tuple"
    return [part for part in state.items if type(part) is Node] if is_pair else []  # type: ignore[attr-defined]


def _is_stand_in(use: GlobalUse) -> bool:
    return use.kind != "torch" and kind_of_stand_in(use) is StandIn


def is_mapping(node: Node, globals_: Globals) -> bool:
    """Return whether torch makes a dict of this."""
    if node.kind != "instance" or node.name in ("collections.OrderedDict", "collections.Counter"):
        return node.kind in ("dict", "instance")
    return kind_of_stand_in(globals_[node.name]) is MappingStandIn


def _is_sequence(node: Node, globals_: Globals) -> bool:
    if node.kind != "instance" or node.name == "builtins.set":
        return node.kind in ("list", "tuple", "set", "instance")
    return kind_of_stand_in(globals_[node.name]) is SequenceStandIn


def plain(value: object, globals_: Globals, what: str) -> Any:
    """Return nested dicts (with text keys), lists and scalars for a value from the pickle.

    Args:
        value: a scalar or node.
        globals_: how the pickle uses the globals that made it.
        what: file and key, for the error.

    Raises:
        UnsafeError: it holds itself, or is deeper or larger than any config.
    """
    return _Plainer(globals_, what).of(value, 0)


class _Plainer:
    def __init__(self, globals_: Globals, what: str) -> None:
        self._globals = globals_
        self._what = what
        self._budget = Budget(what)

    def of(self, value: object, depth: int) -> object:
        if depth > LIMITS["config depth"].most:
            self._too_large()
        self._charge("config values")
        if type(value) is str:
            return self._text(value)
        return self._of_node(value, depth + 1) if type(value) is Node else value

    def _text(self, text: str) -> str:
        self._charge("config text", len(text))
        if "${" in text:
            self._budget.require("interpolation", len(text), "an interpolation")
        return text

    def _charge(self, name: str, count: int = 1) -> None:
        try:
            self._budget.charge(name, count)
        except UnsafeError:
            self._too_large()

    def _too_large(self) -> None:
        raise UnsafeError(f"{self._what} holds itself, or is deeper or larger than any config", advice=DISTRUST)

    def _of_node(self, node: Node, depth: int) -> object:
        if is_mapping(node, self._globals):
            return self._dict(node, depth)
        if _is_sequence(node, self._globals):
            return [self.of(item, depth) for item in node.items]
        if node.kind != "instance":
            return node.name
        if self._globals[node.name].kind == "torch":
            return _OF_TORCH.get(node.name, _name)(node)
        for state in node.states:
            held = len(state.items) if type(state) is Node else 0
            self._charge("config attributes", held + sum(len(part.items) for part in _parts(state)))
        return self.of(_contents(node, self._globals), depth)

    def _dict(self, node: Node, depth: int) -> dict[str, object]:
        """Convert a dict. A key that isn't a text gets one, but never that of a real text key."""
        found = list(entries(node).values())
        texts = {key for key, _value in found if type(key) is str}
        converted: dict[str, object] = {}
        for key, value in found:
            name = key if type(key) is str else _key(self.of(key, depth))
            if type(key) is str or name not in texts:
                converted[self._text(name)] = self.of(value, depth)
        return converted


def _key(value: object) -> str:
    return value if isinstance(value, str) else repr(value)[:100] if not isinstance(value, (dict, list)) else "object"


def _name(node: Node) -> str:
    return f"a {node.name}"


def _device(node: Node) -> str:
    return ":".join(map(str, node.arguments))


# What becomes of torch's own values, which are no values of a config.
_OF_TORCH: Mapping[str, Callable[[Node], object]] = {
    "_codecs.encode": lambda _node: "bytes",
    "torch.Size": lambda node: list(node.arguments[0].items),
    "torch.device": _device,
    "torch.serialization._get_layout": lambda node: node.arguments[0],
}


def _contents(node: Node, globals_: Globals) -> object:
    """What is of interest in a stand-in: a container's contents, a node's or an enum's value, or its attributes."""
    held = attributes(node, globals_) or {}
    for name in ("_content", "_val"):  # omegaconf/basecontainer.py and nodes.py
        if name in held:
            return held[name]
    if node.name in _MAKERS:
        return _MAKERS[node.name](node)
    if held:
        return Node("dict", [part for entry in held.items() for part in entry])
    # An enum is pickled as its class, called with its value.
    if len(node.arguments) == 1:
        return node.arguments[0]
    return Node("list", list(node.arguments)) if node.arguments else node.name


def _path(node: Node) -> object:
    parts = [part for part in node.arguments if type(part) is str]
    return "/".join(parts).replace("//", "/") if len(parts) == len(node.arguments) and _are_short(parts) else node.name


def _are_short(texts: list[str]) -> bool:
    return sum(map(len, texts)) < LIMITS["config text"].most // 100


def _getattr(node: Node) -> object:
    return node.arguments[-1] if node.arguments else None


_NUMPY_FORMATS = dict(
    zip(("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"), "dfeqihbQIHB?", strict=True)
)


def _numpy_scalar(node: Node) -> object:
    """The number in ``numpy.core.multiarray.scalar(dtype('f8'), bytes)``; the type's name if it is no number."""
    dtype, data = (*node.arguments, None, None)[:2]
    form = _numpy_format(dtype)
    encoded = data.arguments[0] if is_node(data, "instance", "_codecs.encode") else ""
    if form is None or len(encoded) != struct.calcsize(f"<{form}"):
        return node.name
    return struct.unpack(f"<{form}", encoded.encode("latin-1"))[0]


def _numpy_format(dtype: object) -> str | None:
    """``struct``'s letter for a dtype that is made from a code, and that no state says to be big-endian."""
    if type(dtype) is not Node or dtype.name != "numpy.dtype" or not dtype.arguments:
        return None
    code = dtype.arguments[0]
    orders = [state.items[1] for state in dtype.states if type(state) is Node and len(state.items) > 1]
    is_little = all(order in ("<", "|") for order in orders)
    return _NUMPY_FORMATS.get(code) if is_little else None


_MAKERS: Mapping[str, Callable[[Node], object]] = {
    **{
        f"{module}.{name}": _path
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath")
    },
    "builtins.getattr": _getattr,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}


def whole_number(value: object) -> int | None:
    """Return an integer, also one of numpy's; None for anything else."""
    found = _scalar(value)
    return found if type(found) is int else None


def real_number(value: object) -> float | None:
    """Return a number, also one of numpy's; None for anything else."""
    found = _scalar(value)
    return float(found) if type(found) in (int, float) else None  # type: ignore[arg-type]  # one of the two


def _scalar(value: object) -> object:
    if type(value) is Node and value.kind == "instance" and value.name in _MAKERS:
        return _MAKERS[value.name](value)
    return None if type(value) is Node else value


def described(value: object) -> str:
    """Return what a value is, for a message."""
    if type(value) is not Node:
        return f"a {type(value).__name__}"
    if type(value.fact) is TensorUse:
        return "a tensor"
    return f"a {value.name or value.kind}"
