"""The same model in another form makes the same output, and a model with anything more is refused: in every family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import w2vc
from tests.conftest import EXAMPLES, checkpoint
from tests.support.forgery import Made, altered, base, model
from w2vc.errors import InconsistentError

pytestmark = pytest.mark.whole

NAMES = (*EXAMPLES, "rotary_ctc")

KINDS = {"FloatStorage": np.float32, "LongStorage": np.int64}

Form = Callable[[Any], tuple[Any, tuple[int, ...], int]]
"""From values to a storage's, the strides in it, and the offset."""


def transposed(values: Any) -> tuple[Any, tuple[int, ...], int]:
    """As ``tensor.T.contiguous().T``: the first axis moves fastest."""
    strides = tuple(int(np.prod(values.shape[:axis])) for axis in range(values.ndim))
    return values.transpose().reshape(-1), strides, 0


def with_gaps(values: Any) -> tuple[Any, tuple[int, ...], int]:
    """Every third element of a storage, from its second one on."""
    flat = np.zeros(3 * values.size, values.dtype)
    flat[1::3] = values.reshape(-1)
    return flat, tuple(3 * step // values.itemsize for step in values.strides), 1


def in_form(name: str, form: Form) -> tuple[bytes, int]:
    """A fixture whose tensors lie otherwise in their storages; and how many of them do."""
    start = base(checkpoint(name))
    saved = start.saved()
    tensors = {key: tensor for key, tensor in model(saved).items() if isinstance(tensor, Made)}
    users = Counter(tensor.arguments[0].key for tensor in tensors.values())
    records: dict[str, bytes | None] = {}
    for key, tensor in tensors.items():
        storage, _offset, size, *_rest = tensor.arguments
        word, kind, record, place, numel = storage.identity
        if users[record] > 1 or len(size) < 2 or int(np.prod(size)) != numel:
            continue
        values = np.frombuffer(start.records[f"data/{record}"], KINDS[kind.name]).reshape(size)
        changed, stride, offset = form(values)
        records[f"data/{record}"] = changed.tobytes()
        other = type(storage)((word, kind, record, place, changed.size))
        model(saved)[key] = altered(tensor, storage=other, stride=stride, offset=offset)
    return start.with_saved(saved, records), len(records)


@pytest.mark.parametrize("form", [transposed, with_gaps])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_lie_otherwise_in_their_storages_make_the_same_weights(
    name: str, form: Form, converted: Callable[[str], Path], tmp_path: Path
) -> None:
    contents, count = in_form(name, form)
    assert count > 20
    (tmp_path / "a.pt").write_bytes(contents)
    w2vc.convert(tmp_path / "a.pt", tmp_path / "out")
    ours, theirs = (weights(directory) for directory in (tmp_path / "out", converted(name)))
    assert ours == theirs


@pytest.mark.parametrize("name", ["relative_pretraining", "rotary_ctc"])
def test_tensors_that_lie_otherwise_are_cast_to_the_same_values(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(in_form(name, transposed)[0])
    w2vc.convert(tmp_path / "a.pt", tmp_path / "out", dtype="float16")
    w2vc.convert(checkpoint(name), tmp_path / "plain", dtype="float16")
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


def weights(directory: Path) -> dict[str, tuple[str, bytes]]:
    from safetensors.torch import load_file

    tensors = load_file(directory / "model.safetensors")
    return {name: (str(tensor.dtype), tensor.view(-1).numpy().tobytes()) for name, tensor in tensors.items()}


PLACES = ("", "encoder.", "encoder.layers.0.", "encoder.layers.1.", "feature_extractor.conv_layers.0.")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_more_is_refused_by_its_name_wherever_it_is(name: str, place: str, tmp_path: Path) -> None:
    start = base(checkpoint(name))
    saved = start.saved()
    tensors = model(saved)
    before = "w2v_encoder.w2v_model." if any(key.startswith("w2v_encoder.w2v_model.") for key in tensors) else ""
    more = f"{before}{place}zebra.weight"
    tensors[more] = next(iter(tensors.values()))
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    with pytest.raises(InconsistentError) as caught:
        w2vc.convert(tmp_path / "a.pt", tmp_path / "out", dry_run=True)
    (problem,) = caught.value.problems
    assert problem.startswith(f"the tensor {more} [")
    assert "is not one of a " in problem


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_less_is_refused_by_the_name_of_what_it_would_become(name: str, tmp_path: Path) -> None:
    plan = w2vc.convert(checkpoint(name), tmp_path / "out", dry_run=True).plan
    move = next(move for move in plan.moves if move.target.endswith(".final_layer_norm.weight"))
    start = base(checkpoint(name))
    saved = start.saved()
    del model(saved)[move.source.name]
    (tmp_path / "a.pt").write_bytes(start.with_saved(saved))
    with pytest.raises(InconsistentError) as caught:
        w2vc.convert(tmp_path / "a.pt", tmp_path / "out", dry_run=True)
    assert caught.value.problems == (f"nothing in the checkpoint becomes {move.target} {list(move.shape)}",)
