"""Values on the symbolic stack: scalars stand for themselves, everything else is a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeGuard

NodeKind = Literal["list", "dict", "set", "tuple", "global", "instance", "storage"]


class Node:
    """Anything that isn't a scalar.

    Attributes:
        kind: what it is.
        name: of a global, and of the global that made an instance: ``module.name``; of a storage, its key.
        arguments: of an instance, what its maker was called with.
        items: elements of a list, tuple or set; keys and values in turn of a dict; of an instance either.
        states: of an instance, what it was given by BUILD, in order.
        weight: of a tuple, how many objects a hash of it visits.
        fact: what the walk found out about it: the tensor or storage that it is.
    """

    __slots__ = ("arguments", "fact", "items", "kind", "name", "states", "weight")

    def __init__(self, kind: NodeKind, items: Any = (), name: str = "", arguments: tuple[Any, ...] = ()) -> None:
        self.kind = kind
        self.items = items
        self.name = name
        self.arguments = arguments
        self.states: Any = ()
        self.weight = 1
        self.fact: Any = None

    def children(self) -> Iterator[Any]:
        """Return everything that it holds."""
        yield from self.arguments
        yield from self.items
        yield from self.states


def is_node(value: object, kind: NodeKind, name: str | None = None) -> bool:
    """Return whether a value is a node of this kind, and of this name."""
    return type(value) is Node and value.kind == kind and (name is None or value.name == name)


def is_mapping(value: object) -> TypeGuard[Node]:
    """Return whether a value is a plain dict or an OrderedDict."""
    return is_node(value, "dict") or is_node(value, "instance", "collections.OrderedDict")


def entries(node: Node) -> dict[Any, tuple[Any, Any]]:
    """Return the entries of a dict as Python keeps them: the first of equal keys, the last of their values.

    The result is by what the keys are equal to; its values are pairs of key and value, as they lie on the stack.
    """
    found: dict[Any, tuple[Any, Any]] = {}
    for key, value in zip(node.items[::2], node.items[1::2], strict=True):
        equal_to = identity(key)
        first = found.get(equal_to)
        found[equal_to] = (key if first is None else first[0], value)
    return found


def identity(key: Any) -> Any:
    """Return a value that is equal to another key's exactly if the two would be one key of a dict."""
    if type(key) is not Node:
        return key
    if key.kind == "tuple":
        return tuple(map(identity, key.items))
    if key.kind == "instance" and key.name in _VALUES:
        return _VALUES[key.name](key)
    return _Itself(key)


class _Itself:
    """A key that equals nothing but itself."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def __eq__(self, other: object) -> bool:
        return type(other) is _Itself and other._node is self._node

    def __hash__(self) -> int:
        return id(self._node)


_VALUES: Mapping[str, Callable[[Node], object]] = {
    "_codecs.encode": lambda node: node.arguments[0].encode("latin-1"),
    "builtins.complex": lambda node: complex(*node.arguments),
    "torch.Size": lambda node: tuple(node.arguments[0].items),
}
