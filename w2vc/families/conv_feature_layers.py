"""The feature extractor's layers, from the Python source that fairseq's config spells them in."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast


@dataclass(frozen=True)
class ConvLayer:
    """One layer of the feature extractor: output channels, kernel and stride in samples of its input."""

    dim: int
    kernel: int
    stride: int


_MOST_CONV_LAYERS = 64
# Wider or longer convolutions than any real model has.
_LARGEST = 2**20


_Value: TypeAlias = "int | list[Any] | tuple[Any, ...]"


def parse_conv_feature_layers(source: str) -> tuple[ConvLayer, ...] | None:
    """Return the layers that ``conv_feature_layers`` means: Python source that fairseq evaluates (``Wav2Vec2Model``).

    Read as an expression tree of lists, tuples, whole numbers, ``+`` and ``*``, and nothing else.

    Returns:
        The layers, or None if the text is anything else.
    """
    if len(source) > 10_000:
        return None
    try:
        layers = _evaluate(ast.parse(source.strip(), mode="eval").body)
        return tuple(ConvLayer(*_three_sizes(layer)) for layer in _as_list(layers))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> _Value:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return _bounded(node.value)
    if isinstance(node, ast.List):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item) for item in node.elts)
    if isinstance(node, ast.BinOp):
        return _combine(_evaluate(node.left), node.op, _evaluate(node.right))
    raise ValueError(type(node).__name__)


def _combine(left: Any, operator: ast.operator, right: Any) -> _Value:
    if isinstance(operator, ast.Add) and type(left) is type(right):
        return _bounded(left + right)
    if isinstance(operator, ast.Mult) and int in (type(left), type(right)):
        longest = max(len(side) for side in (left, right, "") if not isinstance(side, int))
        times = min(side for side in (left, right) if isinstance(side, int))
        if longest * times <= _MOST_CONV_LAYERS:
            return _bounded(left * right)
    raise ValueError("only lists, tuples and numbers are added, and multiplied by whole numbers")


def _bounded(value: Any) -> _Value:
    too_much = value > _LARGEST if isinstance(value, int) else len(value) > _MOST_CONV_LAYERS
    if too_much:
        raise ValueError("larger than any extractor")
    return cast("_Value", value)


def _as_list(layers: object) -> Sequence[object]:
    if not isinstance(layers, (list, tuple)) or not 0 < len(layers) <= _MOST_CONV_LAYERS:
        raise ValueError("not a list of layers")
    return layers


def _three_sizes(layer: object) -> tuple[int, int, int]:
    if not isinstance(layer, (tuple, list)) or len(layer) != 3:
        raise ValueError("not (dim, kernel, stride)")
    dim, kernel, stride = layer
    if not all(type(size) is int and 0 < size <= _LARGEST for size in layer):
        raise ValueError("not (dim, kernel, stride)")
    return dim, kernel, stride
