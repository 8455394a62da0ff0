"""Every tensor, every value of every small file, every stage of every family: a change of it is found, and where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import CONVERTIBLE, checkpoint, options
from w2vc.verifying.comparison import verify

pytestmark = pytest.mark.slow

Converted = Callable[[str], Path]


def copied(converted: Converted, name: str, folder: Path) -> Path:
    return Path(shutil.copytree(converted(name), folder / name))


def change_every_tensor(output: Path) -> Iterator[str]:
    """Change the last element of each tensor; yield where verification has to find it."""
    for path in output.glob("*.safetensors"):
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        for name, tensor in tensors.items():
            tensor.view(-1)[-1] += 1
            yield name if path.name == "model.safetensors" else f"{path.name}: {name}"
        save_file(tensors, path, {"format": "pt"})


def change_every_value(output: Path) -> Iterator[str]:
    """Change each value of each small file; yield where verification has to find it."""
    for path in output.glob("*.json"):
        values: dict[str, Any] = json.loads(path.read_text())
        path.write_text(json.dumps({key: other(value) for key, value in values.items()}))
        yield from (f"{path.name}: {json.dumps(key, ensure_ascii=False)}" for key in values)


def other(value: object) -> object:
    """Return another value, of the same type where that is possible."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [other(part) for part in value] or [0]
    if isinstance(value, str):
        return f"{value}_"
    return {**value, "another": 0} if isinstance(value, dict) else 0


@pytest.mark.parametrize(("part", "change"), [("tensors", change_every_tensor), ("files", change_every_value)])
@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_change_of_any_tensor_and_of_any_value_is_found_in_it(
    name: str, part: str, change: Callable[[Path], Iterator[str]], converted: Converted, tmp_path: Path
) -> None:
    output = copied(converted, name, tmp_path)
    changed = set(change(output))
    findings = verify(checkpoint(name), output, **options(name)).findings
    assert {finding.where for finding in findings if finding.part == part} == changed


def _stages() -> Iterator[tuple[str, str, str]]:
    """A fixture of each kind, a tensor, and the first stage that shows a change of it."""
    for name, encoder in (
        ("wav2vec2_base_ctc", "wav2vec2."),
        ("wav2vec2_large_ctc", "wav2vec2."),
        ("mms_one_language_ctc", "wav2vec2."),
        ("wav2vec2_deep_pos_conv_ctc", "data2vec_audio."),
        ("hubert_ctc", "hubert."),
        ("hubert_conv_pos_batch_norm", ""),
        ("data2vec_audio", ""),
        ("data2vec_ctc", "data2vec_audio."),
    ):
        layer = f"{encoder}encoder.layers."
        yield name, f"{encoder}feature_extractor.conv_layers.1.conv.weight", "features"
        yield name, f"{encoder}feature_projection.projection.weight", "first_layer_input"
        yield name, f"{layer}0.attention.q_proj.weight", "encoder.layers.0"
        yield name, f"{layer}1.attention.out_proj.bias", "encoder.layers.1"
        yield name, f"{layer}1.feed_forward.output_dense.weight", "encoder.layers.1"
        if name.endswith("ctc"):
            yield name, "lm_head.weight", "logits"
    yield "mms_one_language_ctc", "wav2vec2.encoder.layers.1.adapter_layer.linear_2.weight", "encoder.layers.1"
    yield "wav2vec2_large_ctc", "wav2vec2.encoder.layer_norm.weight", "encoder.layer_norm"
    yield "hubert_large", "encoder.layer_norm.weight", "encoder.layer_norm"
    yield "hubert_conv_pos_batch_norm", "encoder.pos_conv_embed.batch_norm.running_mean", "first_layer_input"
    yield "data2vec_audio", "encoder.pos_conv_embed.layers.4.conv.weight", "first_layer_input"
    yield "wav2vec2_base_pretraining", "project_hid.weight", "projected_states"
    yield "wav2vec2_base_pretraining", "project_q.weight", "projected_quantized_states"


@pytest.mark.parametrize(("name", "tensor", "stage"), [*_stages()])
def test_a_changed_tensor_shows_first_in_the_stage_that_it_belongs_to(
    name: str, tensor: str, stage: str, converted: Converted, tmp_path: Path
) -> None:
    output = copied(converted, name, tmp_path)
    tensors = load_file(output / "model.safetensors")
    tensors[tensor].normal_(generator=torch.Generator().manual_seed(0))
    save_file(tensors, output / "model.safetensors", {"format": "pt"})
    assert verify(checkpoint(name), output, **options(name)).differs_from == stage
